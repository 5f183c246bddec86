"""What it takes to turn a large cloud and a large image into messages and back, here, the naive way, and elsewhere."""

from __future__ import annotations

import importlib
import statistics
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import Header

from gen3r_ros.conversions.clouds import Points, cloud_message, cloud_points
from gen3r_ros.conversions.images import image_message, rgb_array

OURS, NAIVE = "gen3r", "naive"
HD = (1080, 1920)
POINTS = 1_000_000
_TIMES = 5
_NAMES = ("x", "y", "z", "rgb", "confidence")


@dataclass(frozen=True)
class Timing:
    """What a conversion takes.

    Attributes:
        what: is converted.
        how: ours, the naive way, or the name of a package.
        milliseconds: median of a few times; None where the package is not there.
    """

    what: str
    how: str
    milliseconds: float | None


def timings(points: int = POINTS, size: tuple[int, int] = HD) -> list[Timing]:
    """Take the time of all conversions.

    Args:
        points: of the cloud.
        size: ``(height, width)`` of the image.
    """
    rng = np.random.default_rng(0)
    cloud = Points(
        rng.normal(size=(points, 3)).astype(np.float32),
        rng.integers(0, 256, (points, 3), dtype=np.uint8),
        rng.random(points, dtype=np.float32),
    )
    message = cloud_message(cloud, Header())
    picture = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    raw = image_message(picture, "bgr8", Header())
    other, bridge = _module("sensor_msgs_py.point_cloud2"), _bridge()
    named = f"cloud of {points:,} points"
    shown = f"{size[1]}x{size[0]} bgr8 image"
    ways: list[tuple[str, str, Callable[[], object] | None]] = [
        (f"{named} to a message", OURS, lambda: cloud_message(cloud, Header())),
        (f"{named} to a message", NAIVE, lambda: naive_cloud(cloud)),
        (f"{named} to a message", "sensor_msgs_py", other and (lambda: _create(other, cloud))),
        (f"{named} from a message", OURS, lambda: cloud_points(message)),
        (f"{named} from a message", NAIVE, lambda: naive_points(message)),
        (f"{named} from a message", "sensor_msgs_py", other and (lambda: _read(other, message))),
        (f"{shown} to a message", OURS, lambda: image_message(picture, "bgr8", Header())),
        (f"{shown} to a message", NAIVE, lambda: naive_image(picture)),
        (f"{shown} to a message", "cv_bridge", bridge and (lambda: bridge.cv2_to_imgmsg(picture, "bgr8"))),
        (f"{shown} from a message, to RGB", OURS, lambda: rgb_array(raw)),
        (f"{shown} from a message, to RGB", NAIVE, lambda: naive_rgb(raw)),
        (f"{shown} from a message, to RGB", "cv_bridge", bridge and (lambda: bridge.imgmsg_to_cv2(raw, "rgb8"))),
    ]
    return [Timing(what, how, None if work is None else _median(work, how)) for what, how, work in ways]


def naive_cloud(points: Points) -> PointCloud2:
    """Point by point, as many an example does it; ``data`` as bytes."""
    rgb = points.rgb if points.rgb is not None else np.zeros((len(points.xyz), 3), np.uint8)
    confidence = points.confidence if points.confidence is not None else np.zeros(len(points.xyz), np.float32)
    rows = []
    for (x, y, z), (red, green, blue), sure in zip(points.xyz, rgb, confidence, strict=True):
        rows.append(struct.pack("<fffBBBBf", x, y, z, blue, green, red, 0, sure))
    message = PointCloud2(height=1, width=len(rows), point_step=20, row_step=20 * len(rows), fields=_fields())
    message.data = b"".join(rows)
    return message


def naive_points(message: PointCloud2) -> list[tuple[float, ...]]:
    """Point by point."""
    data, step = bytes(message.data), message.point_step
    return [struct.unpack_from("<fffBBBBf", data, step * index) for index in range(message.width)]


def naive_image(picture: NDArray[np.uint8]) -> Image:
    """With ``data`` as a list of numbers."""
    message = Image(height=picture.shape[0], width=picture.shape[1], encoding="bgr8", step=3 * picture.shape[1])
    message.data = picture.reshape(-1).tolist()
    return message


def naive_rgb(message: Image) -> NDArray[np.uint8]:
    """From a list of numbers, channel by channel."""
    pixels = np.array(list(message.data), dtype=np.uint8).reshape(message.height, message.width, 3)
    return np.stack([pixels[..., channel] for channel in (2, 1, 0)], axis=-1)


def _create(module: Any, points: Points) -> Any:
    rgb = np.zeros((len(points.xyz), 3), np.uint8) if points.rgb is None else points.rgb
    records = np.empty(len(points.xyz), [(name, "<f4") for name in _NAMES])
    for axis, name in enumerate("xyz"):
        records[name] = points.xyz[:, axis]
    packed = rgb[:, 0].astype(np.uint32) << 16 | rgb[:, 1].astype(np.uint32) << 8 | rgb[:, 2]
    records["rgb"] = packed.view(np.float32)
    records["confidence"] = 0 if points.confidence is None else points.confidence
    return module.create_cloud(Header(), _fields(), records)


def _read(module: Any, message: PointCloud2) -> Points:
    """As much as ours reads."""
    records = module.read_points(message, field_names=_NAMES, skip_nans=True)
    numbers = np.ascontiguousarray(records["rgb"]).view(np.uint32)
    rgb = np.stack([(numbers >> shift).astype(np.uint8) for shift in (16, 8, 0)], axis=-1)
    xyz = np.stack([records[name] for name in "xyz"], axis=-1)
    return Points(xyz, rgb, np.ascontiguousarray(records["confidence"]))


def _fields() -> list[PointField]:
    return [
        PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
        for index, name in enumerate(_NAMES)
    ]


def _median(work: Callable[[], object], how: str) -> float:
    """Milliseconds; of the naive ways, which take seconds, of one time only."""
    taken = []
    for _ in range(1 if how == NAIVE else _TIMES):
        start = time.perf_counter()
        work()
        taken.append(1e3 * (time.perf_counter() - start))
    return statistics.median(taken)


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _bridge() -> Any:
    module = _module("cv_bridge")
    return None if module is None else module.CvBridge()
