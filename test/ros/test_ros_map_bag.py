"""A map's bag, whose messages ROS itself deserialises; and what SaveMap writes of a node's map."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from made_maps import START, box_map
from mcap.reader import make_reader
from nav_msgs.msg import Path as PathMessage
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, PointCloud2
from tf2_msgs.msg import TFMessage

from gen3r_core.geometry.poses import poses_from
from gen3r_core.maps.folder import read_map, write_map
from gen3r_core.reconstruction.keyframes import Keyframe, Verdict
from gen3r_core.reconstruction.voxel_map import MapPoints
from gen3r_ros.camera_image import CameraImage
from gen3r_ros.conversions.cameras import CameraModel, camera_model
from gen3r_ros.conversions.clouds import cloud_points, cloud_records
from gen3r_ros.conversions.compressed import compressed_rgb
from gen3r_ros.conversions.images import image_message
from gen3r_ros.map_service import scene_map
from gen3r_ros.scene import SavedMap

TYPES = {one.__module__.split(".")[0] + "/msg/" + one.__name__: one
         for one in (PathMessage, CameraInfo, CompressedImage, PointCloud2, TFMessage)}  # fmt: skip


def test_ros_reads_the_messages(tmp_path):
    made = box_map(3, generated=(2,))
    write_map(made, tmp_path / "map", report=False)
    found = {}
    with (tmp_path / "map" / "map_bag" / "map_bag_0.mcap").open("rb") as file:
        for schema, channel, message in make_reader(file).iter_messages():
            found.setdefault(channel.topic, []).append(deserialize_message(message.data, TYPES[schema.name]))
    cloud = made.cloud.select(~made.cloud.generated)
    points = cloud_points(found["/map/observed"][0])
    np.testing.assert_array_equal(points.xyz, cloud.points)
    np.testing.assert_array_equal(points.rgb, cloud.colors)
    np.testing.assert_array_equal(points.confidence, cloud.confidence)
    np.testing.assert_array_equal(cloud_records(found["/map/observed"][0])["frame"], cloud.frame)
    model = camera_model(found["/camera/camera_info"][1])
    np.testing.assert_array_equal(model.intrinsics, made.frames[1].intrinsics)
    assert (model.size, model.distortion) == ((48, 64), ())
    pixels = compressed_rgb(found["/camera/image_rect/compressed"][1])
    assert np.abs(pixels.astype(int) - made.frames[1].image).mean() < 2
    at = found["/tf"][1].transforms[0].transform.translation
    np.testing.assert_allclose([at.x, at.y, at.z], made.frames[1].T_world_cam[:3, 3])
    assert len(found["/path"][0].poses) == 2


# --- SaveMap ---------------------------------------------------------------------------------------------


def saved(damaged=()):
    """A node's map with 3 keyframes of a camera whose lens bends the picture a little."""
    made = box_map(3)
    K = made.frames[0].intrinsics
    camera = CameraModel(K, (48, 64), "plumb_bob", (-0.05, 0.0, 0.0, 0.0))
    keyframes = []
    for index, frame in enumerate(made.frames):
        message = image_message(frame.image, "rgb8", header_of(frame.stamp_ns))
        if index in damaged:
            message.height = 1000
        payload = CameraImage(message, camera, "cam", source="front")
        keyframes.append((Keyframe(frame.stamp_ns, payload, None, None, Verdict.MOVED), frame.T_world_cam))
    cloud = made.cloud
    points = MapPoints(cloud.points.astype(np.float64), cloud.colors, cloud.confidence, cloud.generated)
    return made, SavedMap(points, True, "scene-3", tuple(keyframes), "tiny", "scale and place from TF")


def header_of(stamp_ns):
    from builtin_interfaces.msg import Time
    from std_msgs.msg import Header

    return Header(stamp=Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9), frame_id="cam")


def test_a_nodes_map_is_a_folder_like_that_of_a_reconstruction(tmp_path):
    made, own = saved()
    write_map(scene_map(own), tmp_path / "map")
    found = read_map(tmp_path / "map")
    np.testing.assert_array_equal(found.cloud.points, made.cloud.points)
    assert (found.metric, found.run["model"], found.run["exit_code"]) == (True, "tiny", 0)
    assert [frame.stamp_ns for frame in found.frames] == [START + index * 200_000_000 for index in range(3)]
    assert {frame.camera for frame in found.frames} == {"front"}
    payload = own.keyframes[1][0].payload
    assert np.abs(found.frames[1].image.astype(int) - payload.rgb()).mean() < 2
    np.testing.assert_array_equal(found.frames[1].intrinsics, payload.pinhole.intrinsics)
    np.testing.assert_array_equal(found.frames[1].T_world_cam, made.frames[1].T_world_cam)
    text = (tmp_path / "map" / "report.html").read_text()
    assert "scene scene-3" in text
    assert "Scale and place from TF." in text


def test_damaged_keyframes_are_left_out_and_counted():
    _, own = saved(damaged=(1,))
    found = scene_map(own)
    assert [frame.stamp_ns for frame in found.frames] == [START, START + 400_000_000]
    assert (found.run["lost"], found.run["exit_code"]) == ({"damaged images": 1}, 3)
    assert found.frames[0].T_world_cam.shape == poses_from(np.eye(3), np.zeros(3)).shape
