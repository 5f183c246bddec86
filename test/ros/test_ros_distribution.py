"""What a ROS distribution's packages do, ours does too: one contract for every implementation that is there.

Over the wheels most of them are missing; docs/ros.md tells how they are put beside them.
"""

import importlib
import math
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from hypothesis import given
from hypothesis import strategies as st
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from sensor_msgs.msg import PointField
from std_msgs.msg import Header

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import invert_poses, matrix_to_quaternion, quaternion_to_matrix, slerp
from gen3r_ros import bonds, diagnostic_sender
from gen3r_ros.bonds import ManagerBond, bondpy_module
from gen3r_ros.camera_settings import CameraSettings
from gen3r_ros.conversions.clouds import Points, cloud_message, cloud_points, cloud_records
from gen3r_ros.conversions.images import depth_array, image_message, pixel_array, rgb_array
from gen3r_ros.conversions.poses import stamp_message, stamp_ns
from gen3r_ros.depth_input import DepthInput
from gen3r_ros.diagnostic_sender import TopicDiagnostics, UpdaterDiagnostics, updater_module
from gen3r_ros.endpoints import Endpoints

S = 1_000_000_000
OURS = "gen3r"


def implementation(name):
    """A package of the distribution; skipped where it is not there. Ours is None."""
    return None if name == OURS else pytest.importorskip(name, reason=f"{name} is not installed")


def kinds(*packages):
    return pytest.mark.parametrize("kind", [OURS, *packages])


# --- sensor_msgs_py --------------------------------------------------------------------------------------


@st.composite
def clouds(draw):
    count = draw(st.integers(0, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    xyz = rng.normal(size=(count, 3)).astype(np.float32)
    xyz[rng.random((count, 3)) < 0.05] = np.nan
    return Points(xyz, rng.integers(0, 256, (count, 3), dtype=np.uint8), rng.random(count).astype(np.float32))


@kinds("sensor_msgs_py.point_cloud2")
@given(points=clouds())
def test_clouds_are_written_and_read_alike(kind, points):
    """Written by one and read by the other, both ways."""
    other, header = implementation(kind), Header(frame_id="map")
    ours = cloud_message(points, header)
    if other is None:
        written, read = ours, cloud_records(ours)
    else:
        names = ["x", "y", "z", "rgb", "confidence"]
        fields = [PointField(name=name, offset=4 * n, datatype=PointField.FLOAT32, count=1)
                  for n, name in enumerate(names)]  # fmt: skip
        packed = (points.rgb.astype(np.uint32) * np.array([1 << 16, 1 << 8, 1], np.uint32)).sum(axis=1, dtype=np.uint32)
        table = np.column_stack([points.xyz, packed.view(np.float32), points.confidence]).astype(np.float32)
        # Bytes of a colour may be those of a signalling NaN, which arithmetic would change.
        table[:, 3] = packed.view(np.float32)
        records = np.ascontiguousarray(table).view([(name, "<f4") for name in names]).reshape(-1)
        written = other.create_cloud(header, fields, records)
        read = other.read_points(ours, skip_nans=False)
    assert (written.width, written.height, written.point_step) == (len(points.xyz), 1, 20)
    assert [(f.name, f.offset, f.datatype, f.count) for f in written.fields] == [
        (f.name, f.offset, f.datatype, f.count) for f in ours.fields
    ]
    assert bytes(written.data) == bytes(ours.data)
    for axis, name in enumerate("xyz"):
        np.testing.assert_array_equal(read[name], points.xyz[:, axis])
    np.testing.assert_array_equal(read["confidence"], points.confidence)
    back = cloud_points(written)
    finite = np.isfinite(points.xyz).all(axis=1)
    np.testing.assert_array_equal(back.xyz, points.xyz[finite])
    np.testing.assert_array_equal(back.rgb, points.rgb[finite])


# --- cv_bridge -------------------------------------------------------------------------------------------

ENCODINGS = {"rgb8": (3, "u1"), "bgr8": (3, "u1"), "rgba8": (4, "u1"), "bgra8": (4, "u1"), "mono8": (1, "u1"),
             "mono16": (1, "u2"), "16UC1": (1, "u2"), "32FC1": (1, "f4")}  # fmt: skip


@kinds("cv_bridge")
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_images_are_written_and_read_alike(kind, encoding):
    package = implementation(kind)
    channels, dtype = ENCODINGS[encoding]
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 200, (6, 10, channels)[: 2 + (channels > 1)]).astype(dtype)
    ours = image_message(pixels, encoding, Header(frame_id="cam"))
    if package is None:
        written, read = ours, pixel_array(ours)
        colours = rgb_array(ours) if "FC1" not in encoding and "UC1" not in encoding else None
    else:
        bridge = package.CvBridge()
        written = bridge.cv2_to_imgmsg(pixels, encoding)
        read = bridge.imgmsg_to_cv2(ours, "passthrough")
        wanted = "rgb8" if encoding not in {"16UC1", "32FC1", "mono16"} else None
        colours = bridge.imgmsg_to_cv2(ours, wanted) if wanted else None
    assert (written.height, written.width, written.encoding, written.step) == (6, 10, encoding, ours.step)
    assert bytes(written.data) == bytes(ours.data)
    np.testing.assert_array_equal(np.squeeze(read), pixels)
    if colours is not None and encoding != "mono16":
        np.testing.assert_array_equal(rgb_array(ours), colours)
    if encoding in {"16UC1", "32FC1"}:
        scale = 0.001 if encoding == "16UC1" else 1.0
        np.testing.assert_allclose(np.nan_to_num(depth_array(written)), pixels * scale, rtol=1e-6)


# --- tf_transformations ----------------------------------------------------------------------------------

quaternions = (
    st.tuples(*[st.floats(-1, 1)] * 4)
    .filter(lambda q: math.hypot(*q) > 0.1)
    .map(lambda q: np.array(q) / math.hypot(*q))
)


class OwnTransformations:
    """Ours under the names of tf_transformations."""

    @staticmethod
    def quaternion_matrix(q):
        T = np.eye(4)
        T[:3, :3] = quaternion_to_matrix(q)
        return T

    @staticmethod
    def quaternion_from_matrix(T):
        return matrix_to_quaternion(T[:3, :3])

    @staticmethod
    def inverse_matrix(T):
        return invert_poses(T)

    quaternion_slerp = staticmethod(slerp)


@kinds("tf_transformations")
@given(first=quaternions, second=quaternions, amount=st.floats(0, 1))
def test_rotations_are_the_same(kind, first, second, amount):
    of = implementation(kind) or OwnTransformations
    x, y, z, w = first
    T = of.quaternion_matrix(first)
    ahead = [1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w)]
    np.testing.assert_allclose(T[:3, :3] @ [1, 0, 0], ahead, atol=1e-9)
    np.testing.assert_allclose(quaternion_to_matrix(first), T[:3, :3], atol=1e-9)
    back = np.asarray(of.quaternion_from_matrix(T))
    assert abs(back @ first) == pytest.approx(1)
    assert abs(back @ matrix_to_quaternion(T[:3, :3])) == pytest.approx(1)
    T[:3, 3] = 1, 2, 3
    np.testing.assert_allclose(of.inverse_matrix(T) @ T, np.eye(4), atol=1e-9)
    np.testing.assert_allclose(invert_poses(T), of.inverse_matrix(T), atol=1e-9)
    if 1e-3 < abs(first @ second) < 0.999:  # elsewhere there are several ways, or none
        between = np.asarray(of.quaternion_slerp(first, second, amount))
        assert abs(between @ slerp(first, second, np.array(amount))) == pytest.approx(1, abs=1e-6)


# --- message_filters -------------------------------------------------------------------------------------


class OwnMatching:
    """Images and their depth by stamp, as :class:`DepthInput` finds it."""

    def __init__(self, node, slop):
        settings = SimpleNamespace(depth_transport="raw", depth_topic=lambda _node: "depth", frame="cam")
        assert set(vars(settings)) <= {*CameraSettings.__dataclass_fields__, "depth_topic"}
        self._slop = round(slop * S)
        self.depth = DepthInput(node, Endpoints(node), settings, MutuallyExclusiveCallbackGroup(), self.drop, int)
        self.images, self.pairs = [], []

    def drop(self, reason, words):
        raise AssertionError(words)

    def add(self, image=None, depth=None):
        if depth is not None:
            self.depth.take(depth)
        if image is not None:
            self.images.append(image)
        for one in list(self.images):
            done, found = self.depth.match(stamp_ns(one.header.stamp), "cam", self._slop, waited=False)
            if done:
                self.images.remove(one)
            if found is not None:
                self.pairs.append((stamp_ns(one.header.stamp), stamp_ns(found.header.stamp)))


class FilteredMatching:
    """The same by message_filters."""

    def __init__(self, package, slop):
        self._filters = [package.SimpleFilter(), package.SimpleFilter()]
        self._both = package.ApproximateTimeSynchronizer(self._filters, 10, slop)
        self._both.registerCallback(self._take)
        self.pairs = []

    def _take(self, image, depth):
        self.pairs.append((stamp_ns(image.header.stamp), stamp_ns(depth.header.stamp)))

    def add(self, image=None, depth=None):
        for one, message in zip(self._filters, (image, depth), strict=True):
            if message is not None:
                one.signalMessage(message)


@kinds("message_filters")
def test_images_and_depth_are_matched_by_their_stamps(client, kind):
    package = implementation(kind)
    matching = OwnMatching(client.node, 0.02) if package is None else FilteredMatching(package, 0.02)

    def at(seconds):
        header = Header(stamp=stamp_message(round(seconds * S)), frame_id="cam")
        return image_message(np.ones((2, 2), np.uint16), "16UC1", header)

    start = client.node.get_clock().now().nanoseconds // S - 100
    wanted = []
    for frame in range(20):
        taken = start + frame / 10
        late = (0.0, 0.005, -0.01)[frame % 3]
        image, depth = at(taken), at(taken + late)
        if frame % 5 == 4:  # its depth was lost
            matching.add(image=image)
            continue
        wanted.append((stamp_ns(image.header.stamp), stamp_ns(depth.header.stamp)))
        for message in ({"image": image}, {"depth": depth})[:: 1 if frame % 2 else -1]:  # either may be first
            matching.add(**message)
    matching.add(depth=at(start + 3))
    assert sorted(matching.pairs) == wanted


# --- diagnostic_updater ----------------------------------------------------------------------------------


@kinds("diagnostic_updater")
def test_diagnostics_have_the_nodes_full_name(client, kind):
    package = implementation(kind)
    node = rclpy.create_node("seer", namespace="/robot1", context=client.context)
    sender = TopicDiagnostics(node) if package is None else UpdaterDiagnostics(node, package)
    heard = []
    client.node.create_subscription(DiagnosticArray, "/diagnostics", heard.append, 10)
    status = DiagnosticStatus(level=DiagnosticStatus.WARN, name="worker", message="loading", hardware_id="gen3r",
                              values=[KeyValue(key="progress", value="50 %")])  # fmt: skip

    def said():
        status.name = "worker"
        sender.send([status])
        return heard

    client.until(said)
    found = heard[0].status
    assert [(one.name, one.level, one.message, one.hardware_id) for one in found] == [
        ("robot1/seer: worker", DiagnosticStatus.WARN, "loading", "gen3r")
    ]
    assert [(one.key, one.value) for one in found[0].values] == [("progress", "50 %")]
    now = client.node.get_clock().now().nanoseconds
    assert abs(now - stamp_ns(heard[0].header.stamp)) < 20 * S
    node.destroy_node()


def test_the_means_that_are_there_are_chosen(client, monkeypatch):
    wanted = TopicDiagnostics if updater_module() is None else UpdaterDiagnostics
    assert type(diagnostic_sender.diagnostic_sender(client.node)) is wanted
    monkeypatch.setattr(diagnostic_sender, "updater_module", lambda: None)
    assert type(diagnostic_sender.diagnostic_sender(client.node)) is TopicDiagnostics


def test_an_updater_that_does_not_load_is_none(monkeypatch, tmp_path):
    (tmp_path / "diagnostic_updater.py").write_text("raise ImportError('its library is missing')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(importlib.sys.modules, "diagnostic_updater", raising=False)
    assert updater_module() is None
    monkeypatch.delitem(importlib.sys.modules, "diagnostic_updater", raising=False)


# --- bondpy ----------------------------------------------------------------------------------------------


def test_without_bondpy_a_bond_that_is_wanted_is_refused(client, monkeypatch):
    monkeypatch.setattr(bonds, "bondpy_module", lambda: None)
    with pytest.raises(InputError, match="there is no bondpy here"):
        ManagerBond(client.node, wanted=True)
    none = ManagerBond(client.node, wanted=False)
    none.close()


def test_a_bond_forms_with_the_managers_end_and_breaks_in_order(client):
    pytest.importorskip("bondpy.bondpy", reason="bondpy is not installed")
    manager = rclpy.create_node("manager", context=client.context)
    client._executor.add_node(manager)
    formed, broken = [], []
    other = bondpy_module().Bond(manager, bonds.TOPIC, client.node.get_name(), on_broken=lambda: broken.append(1),
                                 on_formed=lambda: formed.append(1))  # fmt: skip
    other.start()
    own = ManagerBond(client.node, wanted=True)
    client.until(lambda: formed)
    time.sleep(0.3)
    assert not broken
    own.close()
    client.until(lambda: broken)
    other.shutdown()
    client._executor.remove_node(manager)
    manager.destroy_node()
