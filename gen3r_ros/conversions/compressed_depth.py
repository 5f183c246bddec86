"""sensor_msgs depth images of any transport to and from arrays; what lies in compressed ones is the core's part."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from gen3r_core.messages.compressed_depth import HEAD, compressed_depth
from gen3r_ros.conversions.images import byte_array, depth_array

__all__ = ["compressed_depth", "compressed_depth_message", "metric_depth"]


def metric_depth(message: Image | CompressedImage) -> NDArray[np.float32]:
    """Depth in metres of any message that has some; see :func:`~gen3r_ros.conversions.images.depth_array`.

    Raises:
        MessageError: "encoding" (no depth, or of a compression that is not PNG), "compression", "size", "step".
    """
    return compressed_depth(message) if isinstance(message, CompressedImage) else depth_array(message)


def compressed_depth_message(
    depth: NDArray[np.uint16 | np.float32], header: Header, *, a: float = 10000.0, b: float = 100.0
) -> CompressedImage:
    """A depth image of the transport compressedDepth.

    Args:
        depth: ``[H, W]`` uint16 millimetres, or float32 metres, of which those from ``a / (65535 - b)`` to ``a / 1``
            can be sent.
        header: stamp and frame (the camera's optical frame).
        a: of the quantisation of metres.
        b: the same.
    """
    kind, numbers = "16UC1", depth
    if depth.dtype != np.uint16:
        kind = "32FC1"
        with np.errstate(divide="ignore", invalid="ignore"):
            quantised = np.rint(a / depth + b)
        numbers = np.where(np.isfinite(quantised) & (quantised < 1 << 16) & (depth > 0), quantised, 0)
    file = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(numbers, dtype=np.uint16)).save(file, "PNG", compress_level=1)
    data = HEAD.pack(0, a, b) + file.getvalue()
    return CompressedImage(
        header=header, format=f"{kind}; compressedDepth png", data=byte_array(np.frombuffer(data, np.uint8))
    )
