"""Gen3R without ROS: models, checkpoints, pipeline, geometry and files."""

__version__ = "0.1.0"
