"""A robot's drive through a world as a rosbag2, with odometry that drifts, and the truth beside it.

::

    metadata.yaml, <name>.mcap    /camera/image_raw/compressed, /camera/camera_info, /odom, /tf_static
    truth.json                    the world, and the camera's true poses at the stamps of the images

What reads bags takes the folder for one; ``truth.json`` is for :mod:`gen3r_core.evaluation.map_truth` alone.
"""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from gen3r_core.errors import InputError, OutputError
from gen3r_core.geometry.poses import invert_poses, matrix_to_quaternion
from gen3r_core.io.atomic import PARTIAL, output_error, write_json_atomic
from gen3r_core.worlds.camera import WorldCamera
from gen3r_core.worlds.floorplan import WorldKind
from gen3r_core.worlds.paths import drive
from gen3r_core.worlds.splits import Split, world_seed
from gen3r_core.worlds.world import make_world

__all__ = ["TRUTH", "DriveOptions", "OdometryErrors", "Truth", "drifting", "read_truth", "record_drive"]

Array = NDArray[np.float64]
TRUTH = "truth.json"
START_NS = 1_700_000_000_000_000_000
_SECOND = 1_000_000_000
_QUALITY = 92
_FORWARD = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
"""A camera's axes in those of a body that looks along x, with z up."""


@dataclass(frozen=True)
class OdometryErrors:
    """How wheels are wrong.

    Attributes:
        scale: distances come out so many times too long.
        turn: share of every turn that is turned too far.
        yaw_deg_per_m: degrees that it turns to the left with every metre.
        step_m: random, metres at every frame.
        step_deg: random, degrees at every frame.

    Raises:
        InputError: a number makes no sense.
    """

    scale: float = 1.02
    turn: float = 0.02
    yaw_deg_per_m: float = 0.2
    step_m: float = 0.002
    step_deg: float = 0.03

    def __post_init__(self) -> None:
        numbers = asdict(self)
        if not all(map(math.isfinite, numbers.values())) or not (
            0.1 < self.scale < 10 and self.step_m >= 0 and self.step_deg >= 0
        ):
            raise InputError(f"odometry errors must be finite, the scale near 1 and noise 0 or more, got {numbers}")


@dataclass(frozen=True)
class DriveOptions:
    """What is recorded.

    Attributes:
        split: whose world.
        index: of the world in its split.
        kind: of the world; None draws it.
        length_m: of the way, metres; where it is longer than one round through all rooms it closes loops.
        spacing_m: metres between images.
        hz: images a second.
        size: ``(height, width)`` of the images, pixels.
        hfov: horizontal field of view, radians.
        height_m: of the camera over the floor.
        samples: n x n samples a pixel.
        errors: of the odometry.
        seconds: of the recording: the robot drives its way forth and back, with the same pictures, until then. None
            for once.

    Raises:
        InputError: images, their rate or the time make no sense.
    """

    split: Split = "test"
    index: int = 0
    kind: WorldKind | None = "rooms"
    length_m: float = 34.0
    spacing_m: float = 0.08
    hz: float = 10.0
    size: tuple[int, int] = (224, 224)
    hfov: float = 1.3
    height_m: float = 0.6
    samples: int = 1
    errors: OdometryErrors = OdometryErrors()
    seconds: float | None = None

    def __post_init__(self) -> None:
        if not 0.1 <= self.hz <= 1000:
            raise InputError(f"a recording has 0.1 to 1000 images a second, got {self.hz}")
        if self.seconds is not None and not 1 / self.hz <= self.seconds <= 86400:
            raise InputError(f"a recording takes a day at most, and as long as an image at least, got {self.seconds} s")


@dataclass(frozen=True, eq=False)
class Truth:
    """What is true of a recorded drive.

    Attributes:
        seed: of the world.
        kind: of the world; None: drawn.
        stamps_ns: ``[N]`` int64 of the images.
        T_world_cam: ``[N, 4, 4]`` camera to world, metres, OpenCV axes.
        T_odom_cam: ``[N, 4, 4]`` the same by the odometry that was recorded.
    """

    seed: int
    kind: WorldKind | None
    stamps_ns: NDArray[np.int64]
    T_world_cam: Array
    T_odom_cam: Array


def drifting(T_world_base: Array, errors: OdometryErrors, seed: int = 0) -> Array:
    """What wheels say of a way on a floor.

    Args:
        T_world_base: ``[N, 4, 4]`` robot to world, metres, z up.
        errors: of the wheels.
        seed: of the noise.

    Returns:
        ``[N, 4, 4]`` robot to the frame of its first pose.
    """
    rng = np.random.default_rng(seed)
    steps = invert_poses(T_world_base[:-1]) @ T_world_base[1:]
    yaw, x, y = 0.0, 0.0, 0.0
    found = [np.eye(4)]
    for step in steps:
        turned = math.atan2(step[1, 0], step[0, 0])
        far = float(np.hypot(step[0, 3], step[1, 3]))
        noise = rng.normal(size=3)
        middle = turned / 2  # what is turned too far is half done when half of the step is
        more = errors.turn * turned + math.radians(errors.yaw_deg_per_m * far + errors.step_deg * noise[2])
        cos, sin = math.cos(yaw + errors.turn * middle), math.sin(yaw + errors.turn * middle)
        ahead, aside = errors.scale * step[:2, 3] + errors.step_m * noise[:2]
        x, y = x + cos * ahead - sin * aside, y + sin * ahead + cos * aside
        yaw += turned + more
        pose = np.eye(4)
        pose[:2, :2] = [[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]]
        pose[:2, 3] = x, y
        found.append(pose)
    return np.stack(found)


def record_drive(
    folder: Path,
    options: DriveOptions,
    *,
    cache: Path | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Truth:
    """Drive, render, and write the bag.

    Args:
        folder: of the bag; must not exist.
        options: what.
        cache: folder of pictures that were rendered before, for a run that was interrupted; None keeps none.
        report: told images done and all; may raise to stop, and then no bag is there.

    Raises:
        InputError: numbers make no sense.
        OutputError: the folder is there, or cannot be written.
        Gen3RError: the world has no such way.
    """
    if folder.exists():
        raise OutputError(f"{folder} is already there; name a folder that is not")
    seed = world_seed(options.split, options.index)
    world = make_world(seed, options.kind)
    camera = WorldCamera(world, options.size, options.hfov, samples=options.samples, cache_folder=cache)
    way = drive(world, options.length_m, options.spacing_m, size=options.size, height=options.height_m,
                hfov=options.hfov)  # fmt: skip
    T_base_cam = np.eye(4)
    T_base_cam[:3, :3], T_base_cam[2, 3] = _FORWARD, options.height_m
    count = len(way) if options.seconds is None else max(1, round(options.seconds * options.hz))
    T_world_cam = way.T_world_cam[_forth_and_back(len(way), count)]
    odometry = drifting(T_world_cam @ invert_poses(T_base_cam), options.errors)
    step = round(_SECOND / options.hz)
    stamps = START_NS + step * np.arange(count, dtype=np.int64)
    truth = Truth(seed, options.kind, stamps, T_world_cam, odometry @ T_base_cam)
    tell = report or (lambda _done, _all: None)
    partial = folder.with_name(PARTIAL + folder.name)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        pictures = _forth_and_back(len(way), count)
        _write_bag(partial, folder.name, _messages(camera, truth, odometry, T_base_cam, pictures, tell))
        write_json_atomic(partial / TRUTH, _facts(truth, options))
        partial.rename(folder)
    except OSError as error:
        raise output_error(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return truth


def _forth_and_back(length: int, count: int) -> NDArray[np.int64]:
    """``[count]`` places on a way of so many, there and back again."""
    place = np.arange(count, dtype=np.int64) % max(2 * length - 2, 1)
    return np.where(place < length, place, 2 * length - 2 - place)


def read_truth(folder: Path) -> Truth:
    """The truth of a recorded drive.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = Path(folder) / TRUTH
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        kind: WorldKind | None = facts["kind"]
        poses = [np.array(facts[name], dtype=np.float64) for name in ("T_world_cam", "T_odom_cam")]
        truth = Truth(int(facts["seed"]), kind, np.array(facts["stamps_ns"], dtype=np.int64), *poses)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: the truth of a recorded world cannot be read: {error}; give the folder that `gen3r "
                         f"worlds record` wrote") from error  # fmt: skip
    count = len(truth.stamps_ns)
    if not truth.T_world_cam.shape == truth.T_odom_cam.shape == (count, 4, 4):
        raise InputError(f"{path}: {count} stamps do not go with poses {truth.T_world_cam.shape}")
    return truth


def _facts(truth: Truth, options: DriveOptions) -> dict[str, Any]:
    return {
        "seed": truth.seed,
        "kind": truth.kind,
        "options": {**asdict(options), "size": list(options.size)},
        "stamps_ns": truth.stamps_ns.tolist(),
        "T_world_cam": truth.T_world_cam.tolist(),
        "T_odom_cam": truth.T_odom_cam.tolist(),
    }


def _messages(
    camera: WorldCamera,
    truth: Truth,
    odometry: Array,
    T_base_cam: Array,
    pictures: NDArray[np.int64],
    tell: Callable[[int, int], None],
) -> Iterator[tuple[str, int, Any]]:
    """``(topic, stamp, message)`` in the order of time; pictures that come again are kept as JPEG."""
    make = _Messages()
    first = int(truth.stamps_ns[0])
    yield "/tf_static", first, make.tf(first, "base_link", "camera_optical_frame", T_base_cam)
    count = len(odometry)
    again, kept = np.bincount(pictures), dict[int, NDArray[np.uint8]]()
    for number, (stamp, T_world_cam, T_odom_base) in enumerate(
        zip(truth.stamps_ns.tolist(), truth.T_world_cam, odometry, strict=True)
    ):
        tell(number, count)
        yield "/odom", stamp, make.odometry(stamp, "odom", "base_link", T_odom_base)
        yield "/camera/camera_info", stamp, make.info(stamp, "camera_optical_frame", camera.size, camera.intrinsics)
        picture = int(pictures[number])
        if picture not in kept:
            kept[picture] = _jpeg(camera.picture(T_world_cam).colors)
        data = kept[picture] if again[picture] > 1 else kept.pop(picture)
        yield "/camera/image_raw/compressed", stamp, make.jpeg(stamp, "camera_optical_frame", data)
    tell(count, count)


def _write_bag(folder: Path, name: str, messages: Iterator[tuple[str, int, Any]]) -> None:
    from rosbags.rosbag2 import StoragePlugin, Writer

    make = _Messages()
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections: dict[str, Any] = {}
        for topic, stamp, message in messages:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=make.store)
            writer.write(connections[topic], stamp, make.store.serialize_cdr(message, kind))
    # The writer names the file after the folder, which has another name until all is there.
    file = folder / f"{name}.mcap"
    (folder / f"{folder.name}.mcap").rename(file)
    metadata = folder / "metadata.yaml"
    metadata.write_text(metadata.read_text(encoding="utf-8").replace(f"{folder.name}.mcap", file.name), "utf-8")


def _jpeg(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "JPEG", quality=_QUALITY)
    return np.frombuffer(file.getvalue(), np.uint8)


class _Messages:
    """Makes messages of ROS 2."""

    def __init__(self) -> None:
        from rosbags.typesys import Stores, get_typestore

        self.store: Any = get_typestore(Stores.ROS2_JAZZY)

    def _new(self, name: str, **fields: Any) -> Any:
        package, _, kind = name.partition("/")
        return self.store.types[f"{package}/msg/{kind}"](**fields)

    def _header(self, stamp: int, frame: str) -> Any:
        time = self._new("builtin_interfaces/Time", sec=stamp // _SECOND, nanosec=stamp % _SECOND)
        return self._new("std_msgs/Header", stamp=time, frame_id=frame)

    def _rotation(self, T: Array) -> Any:
        x, y, z, w = matrix_to_quaternion(T[:3, :3]).tolist()
        return self._new("geometry_msgs/Quaternion", x=x, y=y, z=z, w=w)

    def tf(self, stamp: int, parent: str, child: str, T: Array) -> Any:
        at = self._new("geometry_msgs/Vector3", **dict(zip("xyz", T[:3, 3].tolist(), strict=True)))
        moved = self._new("geometry_msgs/Transform", translation=at, rotation=self._rotation(T))
        one = self._new("geometry_msgs/TransformStamped", header=self._header(stamp, parent), child_frame_id=child,
                        transform=moved)  # fmt: skip
        return self._new("tf2_msgs/TFMessage", transforms=[one])

    def odometry(self, stamp: int, parent: str, child: str, T: Array) -> Any:
        zero = self._new("geometry_msgs/Vector3", x=0.0, y=0.0, z=0.0)
        twist = self._new("geometry_msgs/Twist", linear=zero, angular=zero)
        at = self._new("geometry_msgs/Point", **dict(zip("xyz", T[:3, 3].tolist(), strict=True)))
        pose = self._new("geometry_msgs/Pose", position=at, orientation=self._rotation(T))
        nothing = np.zeros(36)
        return self._new(
            "nav_msgs/Odometry", header=self._header(stamp, parent), child_frame_id=child,
            pose=self._new("geometry_msgs/PoseWithCovariance", pose=pose, covariance=nothing),
            twist=self._new("geometry_msgs/TwistWithCovariance", twist=twist, covariance=nothing),
        )  # fmt: skip

    def info(self, stamp: int, frame: str, size: tuple[int, int], intrinsics: Array) -> Any:
        K = intrinsics.copy()
        K[:2, 2] -= 0.5  # ROS has the first pixel's centre at (0, 0)
        region = self._new("sensor_msgs/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
        return self._new(
            "sensor_msgs/CameraInfo", header=self._header(stamp, frame), height=size[0], width=size[1],
            distortion_model="plumb_bob", d=np.zeros(5), k=K.ravel(), r=np.eye(3).ravel(),
            p=np.pad(K, ((0, 0), (0, 1))).ravel(), binning_x=0, binning_y=0, roi=region,
        )  # fmt: skip

    def jpeg(self, stamp: int, frame: str, data: NDArray[np.uint8]) -> Any:
        return self._new("sensor_msgs/CompressedImage", header=self._header(stamp, frame), format="jpeg", data=data)
