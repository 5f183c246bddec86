"""Three cameras in another process, of different sizes, transports and lenses: one reconstruction in this graph."""

import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from diagnostic_msgs.msg import DiagnosticStatus
from gen3r.action import Reconstruct
from gen3r.msg import ErrorCode, NovelView, Reconstruction
from managed_node import parameter_arguments
from node_client import Robot

from gen3r_ros.qos import LATCHED

FRAMES = {"front_optical_frame", "left_optical_frame", "oak_rgb_optical_frame"}


@pytest.fixture
def robot(shared_client, start, tmp_path):
    start("cameras_source.py")
    parameters = {
        "autostart": True,
        "cameras": "front,left,/oak/rgb",
        "left.image_transport": "compressed",
        "front.depth_transport": "raw",
        "window": 7,
    }
    start("gen3r_process.py", *parameter_arguments(map_folder=tmp_path, **parameters))
    made = Robot(shared_client, None)
    yield made
    made.close()


def test_three_cameras_give_one_reconstruction(robot):
    scenes = robot.listen(Reconstruction, "reconstruction", LATCHED)
    robot.client.until(lambda: any(len(one.keyframes) == 7 for one in scenes), 60)
    scene = next(one for one in reversed(scenes) if len(one.keyframes) == 7)
    taken = [keyframe.camera_frame for keyframe in scene.keyframes]
    assert set(taken) == FRAMES
    assert sorted(taken.count(frame) for frame in FRAMES) == [2, 2, 3]
    assert len({one.scene_id for one in scenes}) == 1
    for name in ("front", "left", "/oak/rgb"):
        status, values = robot.diagnosis(f"input {name}", lambda status: bool(status.values))
        assert (status.level, status.message) == (DiagnosticStatus.OK, ""), name
        assert values["topic"].startswith(f"/{name.strip('/')}/image_raw")
        assert float(values["images per second"]) > 3
        assert ("depth images" in values) == (name == "front")
    assert not any(key.startswith("dropped") for key in values)
    _, values = robot.diagnosis("results", lambda status: status.message == "publishing")
    assert "depth: metres per unit" in values  # told, though the parameter metres_per_unit counts
    _, values = robot.diagnosis("worker", lambda status: True)
    assert float(values["memory of the worker (MB)"]) > 100
    assert float(values["memory of the node (MB)"]) > 50
    assert float(values["memory available on this machine (MB)"]) > 0
    # Predicted views begin at the first camera.
    views = robot.listen(NovelView, "novel_view")
    goal = robot.goal(steps=1)
    for pose in goal.path.poses:
        pose.pose.position.x, pose.pose.position.y = pose.pose.position.x - 1, 0.0
    robot.client.until(lambda: robot.client.node.count_publishers("/novel_view"))
    assert robot.result(goal)[1].code == ErrorCode.OK
    robot.client.until(lambda: len(views) == 5)
    status, made = robot.result(Reconstruct.Goal(max_keyframes=3))
    assert {one.camera_frame for one in made.reconstruction.keyframes} == FRAMES
