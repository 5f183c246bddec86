"""sensor_msgs/PointCloud2 to and from arrays, without sensor_msgs_py."""

from __future__ import annotations

import array
import sys
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from gen3r_core.errors import InputError
from gen3r_ros.conversions.problems import MessageError

_TYPES = MappingProxyType(
    {
        PointField.INT8: "i1",
        PointField.UINT8: "u1",
        PointField.INT16: "i2",
        PointField.UINT16: "u2",
        PointField.INT32: "i4",
        PointField.UINT32: "u4",
        PointField.FLOAT32: "f4",
        PointField.FLOAT64: "f8",
    }
)
_LITTLE = sys.byteorder == "little"


@dataclass(frozen=True, eq=False)
class Points:
    """What a cloud holds.

    Attributes:
        xyz: ``[N, 3]`` float32 metres (model units where a cloud is not metric), in the header's frame.
        rgb: ``[N, 3]`` uint8; None where there are no colours.
        confidence: ``[N]`` float32; None where there is none.
    """

    xyz: NDArray[np.float32]
    rgb: NDArray[np.uint8] | None = None
    confidence: NDArray[np.float32] | None = None


def cloud_message(points: Points, header: Header) -> PointCloud2:
    """A cloud with the fields ``x, y, z, rgb, confidence``, float32 each.

    ``rgb`` holds the bytes 0, red, green, blue of a 32-bit number, as PCL and RViz have it.

    Args:
        points: N of them; points that are not finite make the cloud one that is not dense.
        header: stamp and frame.

    Raises:
        InputError: shapes do not fit.
    """
    count = len(points.xyz)
    rgb, confidence = points.rgb, points.confidence
    if (
        points.xyz.shape != (count, 3)
        or (rgb is not None and (rgb.shape != (count, 3) or rgb.dtype != np.uint8))
        or (confidence is not None and confidence.shape != (count,))
    ):
        shapes = [None if part is None else (part.shape, str(part.dtype)) for part in (points.xyz, rgb, confidence)]
        raise InputError(f"a cloud has xyz [N, 3], rgb [N, 3] uint8 and confidence [N], got {shapes}")
    names = ["x", "y", "z", *(["rgb"] if rgb is not None else []), *(["confidence"] if confidence is not None else [])]
    # Filled where it lies: one copy of everything, and no temporary.
    data = array.array("B", b"\0") * (4 * len(names) * count)
    table = np.frombuffer(data, dtype=np.float32).reshape(count, len(names))
    table[:, :3] = points.xyz
    if rgb is not None:
        pixels = np.frombuffer(data, dtype=np.uint8).reshape(count, 4 * len(names))[:, 12:16]
        for channel, place in enumerate((2, 1, 0) if _LITTLE else (1, 2, 3)):
            pixels[:, place] = rgb[:, channel]
    if confidence is not None:
        table[:, -1] = confidence
    fields = [
        PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
        for index, name in enumerate(names)
    ]
    dense = bool(np.isfinite(points.xyz).all())
    return _message(header, fields, data, 4 * len(names), count, dense=dense)


def cloud_records(message: PointCloud2) -> NDArray[np.void]:
    """The points with all their fields.

    Returns:
        ``[N]`` records in this machine's byte order, with the message's fields under their names; a view of the
        message where its rows have no padding and its byte order is this machine's.

    Raises:
        MessageError: "cloud": sizes, offsets or types do not fit together.
    """
    order = ">" if message.is_bigendian else "<"
    names, formats, offsets = [], [], []
    for field in message.fields:
        kind = _TYPES.get(field.datatype)
        size = 0 if kind is None else int(kind[1]) * max(1, field.count)
        if kind is None or not field.name or field.name in names or field.offset + size > message.point_step:
            raise MessageError(
                "cloud",
                f"the cloud's field {field.name!r} (type {field.datatype}, {field.count} at byte {field.offset}) does "
                f"not fit into points of {message.point_step} bytes, or is there twice",
            )
        names.append(field.name)
        formats.append(order + kind if field.count <= 1 else f"({field.count},){order}{kind}")
        offsets.append(field.offset)
    row = message.width * message.point_step
    needed = (message.height - 1) * message.row_step + row if message.height else 0
    if not names or message.row_step < row or len(message.data) < needed:
        raise MessageError(
            "cloud",
            f"the cloud of {message.width}x{message.height} points with {len(names)} fields, of {message.point_step} "
            f"bytes each and rows of {message.row_step}, has {len(message.data)} bytes of data",
        )
    dtype = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": message.point_step})
    shape, strides = (message.height, message.width), (message.row_step, message.point_step)
    records = np.ndarray(shape, dtype, buffer=memoryview(message.data), strides=strides).reshape(-1)
    return records if dtype.isnative else records.astype(dtype.newbyteorder("="))


def cloud_points(message: PointCloud2) -> Points:
    """The points that are finite, with colours and confidence where the cloud has them.

    Args:
        message: with x, y and z; ``rgb`` (or ``rgba``) packed into 32 bits, as float or whole number.

    Raises:
        MessageError: "cloud": as :func:`cloud_records`, or there are no coordinates.
    """
    records = cloud_records(message)
    names = records.dtype.names or ()
    if not {"x", "y", "z"} <= set(names):
        raise MessageError("cloud", f"the cloud has the fields {', '.join(names)}; x, y and z are needed")
    xyz = np.empty((len(records), 3), np.float32)
    for axis, name in enumerate("xyz"):
        xyz[:, axis] = records[name]
    numbers_only = np.isfinite(xyz)
    rgb = None
    packed = next((name for name in ("rgb", "rgba") if name in names and records.dtype[name].itemsize == 4), None)
    if packed is not None:
        numbers = np.ascontiguousarray(records[packed]).view(np.uint32)
        rgb = np.stack([(numbers >> shift).astype(np.uint8) for shift in (16, 8, 0)], axis=-1)
    confidence = records["confidence"].astype(np.float32) if "confidence" in names else None
    if not numbers_only.all():
        finite = numbers_only.all(axis=-1)  # row by row takes 50 times as long
        xyz = xyz[finite]
        rgb = None if rgb is None else rgb[finite]
        confidence = None if confidence is None else confidence[finite]
    return Points(xyz, rgb, confidence)


def _message(
    header: Header, fields: list[PointField], data: array.array[Any], step: int, count: int, *, dense: bool
) -> PointCloud2:
    return PointCloud2(
        header=header,
        height=1,
        width=count,
        fields=fields,
        is_bigendian=not _LITTLE,
        point_step=step,
        row_step=step * count,
        data=data,
        is_dense=dense,
    )
