"""Encodings of images: those of the core, which reads recorded messages too."""

from gen3r_core.messages.encodings import ENCODINGS, Encoding, Pixels, demosaic, eight_bits, rgb_of, thumbnail_of

__all__ = ["ENCODINGS", "Encoding", "Pixels", "demosaic", "eight_bits", "rgb_of", "thumbnail_of"]
