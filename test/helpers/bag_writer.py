"""Bags made for tests: a camera on a robot that drives an arc, with TF, odometry and camera_info."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from gen3r_core.geometry.poses import matrix_to_quaternion, poses_from
from gen3r_core.worlds.camera import intrinsics_of

S = 1_000_000_000
START = 1_700_000_000 * S
SIZE = (48, 64)
HFOV = 1.2
OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # camera's axes in those of its body
MOUNT = (0.2, 0.0, 0.5)
STORES = {1: get_typestore(Stores.ROS1_NOETIC), 2: get_typestore(Stores.ROS2_JAZZY)}
STORES[1].register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", "tf2_msgs/msg/TFMessage"))


@dataclass
class Drive:
    """What is recorded."""

    seconds: float = 2.0
    hz: float = 10.0
    tf_hz: float = 20.0
    topic: str = "/camera/image_raw/compressed"
    encoding: str = "jpeg"
    cameras: tuple[str, ...] = ("/camera",)
    info: bool = True
    tf: bool = True
    odometry: bool = False
    depth: bool = False
    size: tuple[int, int] = SIZE
    stamps: object = None  # of images: number -> nanoseconds
    broken: tuple[int, ...] = ()
    speed: float = 0.5
    pictures: list = field(default_factory=list)


def base_pose(seconds, speed=0.5):
    """Where the robot is: an arc of 4 m radius."""
    angle = speed * seconds / 4
    T = np.eye(4)
    T[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    T[:2, 3] = 4 * np.sin(angle), 4 * (1 - np.cos(angle))
    return T


def camera_pose(seconds, speed=0.5):
    """``T_odom_camera``, OpenCV axes."""
    return base_pose(seconds, speed) @ poses_from(OPTICAL, np.array(MOUNT))


def picture(number, size=SIZE):
    """Smooth blobs that move with the number."""
    v, u = np.mgrid[0 : size[0], 0 : size[1]] * (64 / size[1])
    waves = [127 + 60 * np.sin(u / 7 + number / 3 + c) + 50 * np.cos(v / 5 - number / 4 + c) for c in (0, 1, 2)]
    return np.clip(np.stack(waves, axis=-1), 0, 255).astype(np.uint8)


def encoded(pixels, kind="jpeg", quality=90):
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, kind.upper(), **({"quality": quality} if kind == "jpeg" else {}))
    return file.getvalue()


class Messages:
    """Makes messages of one version of ROS."""

    def __init__(self, version=2):
        self.version, self.store = version, STORES[version]
        self.types = self.store.types
        self._seq = 0

    def __getitem__(self, name):
        package, _, kind = name.partition("/")
        return self.types[f"{package}/msg/{kind}"]

    def header(self, stamp, frame):
        time = self.types["builtin_interfaces/msg/Time"](sec=stamp // S, nanosec=stamp % S)
        more = {"seq": self._seq} if self.version == 1 else {}
        self._seq += 1
        return self["std_msgs/Header"](stamp=time, frame_id=frame, **more)

    def image(self, pixels, encoding, stamp, frame):
        data = np.ascontiguousarray(pixels).reshape(-1).view(np.uint8)
        return self["sensor_msgs/Image"](
            header=self.header(stamp, frame), height=pixels.shape[0], width=pixels.shape[1], encoding=encoding,
            is_bigendian=0, step=data.size // pixels.shape[0], data=data,
        )  # fmt: skip

    def compressed(self, data, kind, stamp, frame):
        return self["sensor_msgs/CompressedImage"](
            header=self.header(stamp, frame), format=kind, data=np.frombuffer(data, np.uint8)
        )

    def info(self, stamp, frame, size=SIZE):
        K = intrinsics_of(size, HFOV)
        K[:2, 2] -= 0.5
        numbers = (np.zeros(5), K.ravel(), np.eye(3).ravel(), np.pad(K, ((0, 0), (0, 1))).ravel())
        names = dict(zip("DKRP" if self.version == 1 else "dkrp", numbers, strict=True))
        roi = self["sensor_msgs/RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
        return self["sensor_msgs/CameraInfo"](
            header=self.header(stamp, frame), height=size[0], width=size[1], distortion_model="plumb_bob",
            binning_x=0, binning_y=0, roi=roi, **names,
        )  # fmt: skip

    def _numbers(self, T):
        x, y, z, w = matrix_to_quaternion(T[:3, :3]).tolist()
        q = self["geometry_msgs/Quaternion"](x=x, y=y, z=z, w=w)
        return dict(zip("xyz", T[:3, 3].tolist(), strict=True)), q

    def tf(self, stamp, *placed):
        parts = []
        for parent, child, T in placed:
            xyz, q = self._numbers(T)
            parts.append(
                self["geometry_msgs/TransformStamped"](
                    header=self.header(stamp, parent),
                    child_frame_id=child,
                    transform=self["geometry_msgs/Transform"](
                        translation=self["geometry_msgs/Vector3"](**xyz), rotation=q
                    ),
                )
            )
        return self["tf2_msgs/TFMessage"](transforms=parts)

    def pose(self, T):
        xyz, q = self._numbers(T)
        return self["geometry_msgs/Pose"](position=self["geometry_msgs/Point"](**xyz), orientation=q)

    def pose_stamped(self, stamp, frame, T):
        return self["geometry_msgs/PoseStamped"](header=self.header(stamp, frame), pose=self.pose(T))

    def odometry(self, stamp, parent, child, T):
        zero = self["geometry_msgs/Vector3"](x=0.0, y=0.0, z=0.0)
        return self["nav_msgs/Odometry"](
            header=self.header(stamp, parent), child_frame_id=child,
            pose=self["geometry_msgs/PoseWithCovariance"](pose=self.pose(T), covariance=np.zeros(36)),
            twist=self["geometry_msgs/TwistWithCovariance"](
                twist=self["geometry_msgs/Twist"](linear=zero, angular=zero), covariance=np.zeros(36)
            ),
        )  # fmt: skip


def drive_messages(drive, messages):
    """(topic, received, message) in the order of time."""
    found = []
    mount = poses_from(OPTICAL, np.array(MOUNT))
    frames = {base: f"{base.strip('/')}_optical_frame" for base in drive.cameras}
    if drive.tf:
        placed = [("base_link", frame, mount) for frame in frames.values()]
        found.append(("/tf_static", START, messages.tf(START, *placed)))
    for number in range(round(drive.seconds * drive.tf_hz) + 1 if drive.tf_hz else 0):
        at = number / drive.tf_hz
        stamp = START + round(at * S)
        T = base_pose(at, drive.speed)
        if drive.tf and not drive.odometry:
            found.append(("/tf", stamp + 1000, messages.tf(stamp, ("odom", "base_link", T))))
        if drive.odometry:
            found.append(("/odom", stamp + 1000, messages.odometry(stamp, "odom", "base_link", T)))
    for number in range(round(drive.seconds * drive.hz)):
        taken = START + round((number + 0.5) / drive.hz * S)
        stamp = taken if drive.stamps is None else drive.stamps(number)
        pixels = drive.pictures[number % len(drive.pictures)] if drive.pictures else picture(number, drive.size)
        for base, frame in frames.items():
            name = drive.topic.replace("/camera", base, 1)
            if drive.encoding in ("jpeg", "png"):
                data = pixels if isinstance(pixels, bytes) else encoded(pixels, drive.encoding)
                data = data[: len(data) // 3] if number in drive.broken else data
                message = messages.compressed(data, drive.encoding, stamp, frame)
            else:
                message = messages.image(pixels, drive.encoding, stamp, frame)
            found.append((name, taken + 2_000_000, message))
            if drive.info:
                found.append((f"{base}/camera_info", taken + 2_000_000, messages.info(stamp, frame, drive.size)))
            if drive.depth:
                depth = np.full(drive.size, 1000 + number, np.uint16)
                found.append((f"{base}/depth/image_raw", taken + 3_000_000,
                              messages.image(depth, "16UC1", stamp + 1_000_000, frame)))  # fmt: skip
    return sorted(found, key=lambda one: one[1])


def write_messages(path, found, storage="mcap", compression=None):
    """Write a bag and return its path.

    Args:
        path: of the folder, or of the file of a rosbag1.
        found: (topic, received, message) in any order.
        storage: "mcap", "sqlite3" or "rosbag1".
        compression: "file", "message" or "storage" (mcap's chunks); for rosbag1 "bz2" or "lz4".
    """
    path = Path(path)
    version = 1 if storage == "rosbag1" else 2
    store = STORES[version]
    if version == 1:
        writer = Writer1(path)
        if compression:
            writer.set_compression(writer.CompressionFormat[compression.upper()])
    else:
        plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
        writer = Writer2(path, version=9, storage_plugin=plugin)
        if compression:
            writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic, received, message in found:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            data = store.serialize_ros1(message, kind) if version == 1 else store.serialize_cdr(message, kind)
            writer.write(connections[topic], received, data)
    return path


def write_drive(path, drive=None, storage="mcap", compression=None):
    """Write a bag of a drive."""
    messages = Messages(1 if storage == "rosbag1" else 2)
    return write_messages(path, drive_messages(drive or Drive(), messages), storage, compression)


def write_chunked(path, found, chunk_size=20_000, compression="zstd", **options):
    """An mcap file written by the `mcap` library, in chunks as rosbag2 writes them."""
    from mcap.writer import CompressionType
    from mcap.writer import Writer as McapWriter

    store = STORES[2]
    with Path(path).open("wb") as file:
        writer = McapWriter(file, chunk_size=chunk_size, compression=CompressionType[compression.upper()], **options)
        writer.start("ros2", "test")
        channels, schemas = {}, {}
        for number, (topic, received, message) in enumerate(found):
            kind = message.__msgtype__
            if kind not in schemas:
                schemas[kind] = writer.register_schema(kind, "ros2msg", store.generate_msgdef(kind)[0].encode())
            if topic not in channels:
                channels[topic] = writer.register_channel(topic, "cdr", schemas[kind])
            writer.add_message(channels[topic], received, bytes(store.serialize_cdr(message, kind)), received, number)
        writer.finish()
    return Path(path)
