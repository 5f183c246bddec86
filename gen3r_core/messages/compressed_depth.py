"""Depth images as image_transport sends them: the transports ``compressedDepth`` and ``compressed``, both with PNG.

compressedDepth puts twelve bytes before the PNG: the kind of compression (a 32-bit number that nobody reads), and two
32-bit floats A and B. Depth of 32FC1 is sent as 16-bit inverse depth d, with ``depth = A / (d - B)`` in metres; that of
16UC1 as it is, in millimetres. 0 stands for no depth in both.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from gen3r_core.messages.compressed import CompressedImage, opened
from gen3r_core.messages.problems import MessageError

PNG = b"\x89PNG"
HEAD = struct.Struct("<iff")  # of the machine that sent it; those with the other byte order are gone


def compressed_depth(message: CompressedImage) -> NDArray[np.float32]:
    """Depth in metres of a compressed image.

    Returns:
        ``[H, W]`` float32 z-depth; NaN where there is none.

    Raises:
        MessageError: "encoding" (no depth, or of a compression that is not PNG), "compression" or "size".
    """
    data = bytes(message.data[: HEAD.size + len(PNG)])
    quantised = message.format.startswith("32FC1")
    at = next((place for place in (0, HEAD.size) if data[place:].startswith(PNG)), None)
    if at is None:
        raise MessageError(
            "encoding",
            f"the compressed depth image (format {message.format!r}, {len(message.data)} bytes) holds no PNG; set the "
            f"publisher's compressedDepth.format to png, or use the raw depth images",
        )
    if quantised and not at:
        raise MessageError("encoding", f"the depth image of format {message.format!r} lacks the header of "
                           f"compressedDepth; is it on a topic of this transport?")  # fmt: skip
    with opened(message, at) as file:
        if not file.mode.startswith("I"):
            raise MessageError("encoding", f"the compressed image (format {message.format!r}) has pixels of 8 bits, "
                               f"depth has 16: is this the right topic?")  # fmt: skip
        numbers = np.asarray(file).astype(np.uint16)
    if not quantised:
        depth = numbers.astype(np.float32) * np.float32(0.001)
    else:
        _, a, b = HEAD.unpack(data[: HEAD.size])
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = np.float32(a) / (numbers.astype(np.float32) - np.float32(b))
    depth[(numbers == 0) | ~(np.isfinite(depth) & (depth > 0))] = np.nan
    return np.asarray(depth, dtype=np.float32)
