"""Figures of merit: how close pictures, depth, cameras and clouds are to the truth."""
