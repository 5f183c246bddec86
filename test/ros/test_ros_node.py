"""The whole graph in processes of their own: a scripted camera, the node with a tiny random model, a real client.

Images are compressed here; test_ros_node_load.py has raw ones.
"""

import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticStatus
from gen3r.action import Reconstruct
from gen3r.msg import ErrorCode, NovelView, Reconstruction
from gen3r.srv import SaveMap
from nav_msgs.msg import Path as PathMessage
from node_client import ENDLESS, Processes, Robot
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import Marker, MarkerArray

from gen3r_core.io.ply import read_ply
from gen3r_core.maps.folder import read_map
from gen3r_ros.conversions.clouds import cloud_points
from gen3r_ros.conversions.images import depth_array
from gen3r_ros.conversions.poses import pose_matrix, stamp_ns, transform_matrix
from gen3r_ros.qos import LATCHED, RESULT
from gen3r_ros.transforms import TransformError, listen_to_transforms

REACH = 0.05
"""Metres that the scripted camera swings."""

T_BASE_OPTICAL = np.array([[0, 0, 1.0, 0.0], [-1, 0, 0, 0], [0, -1, 0, 0.3], [0, 0, 0, 1]])
"""As the scripted camera sends it."""


@pytest.fixture(scope="module")
def processes(graph, tmp_path_factory):
    parameters = {"checkpoint": "/nowhere/weights", "image_transport": "compressed"}
    made = Processes(graph, tmp_path_factory.mktemp("node"), camera=("10", "compressed"), **parameters)
    yield made
    assert made.stop() == [0, 0]


@pytest.fixture
def robot(shared_client, processes):
    made = Robot(shared_client, processes)
    yield made
    made.close()


@pytest.fixture
def active(robot):
    """Active, and with something reconstructed: goals find images."""
    robot.activate()
    robot.see()
    return robot


def known(frames, target, source):
    """Whether TF knows where a frame is."""
    try:
        frames.lookup(target, source)
    except TransformError:
        return False
    return True


# --- life cycle ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_bad_checkpoint_fails_with_the_reason_and_a_good_one_works(robot, tmp_path):
    manager = robot.manager
    if manager.state != "unconfigured":
        assert manager.state == "inactive" or manager.do("deactivate")
        assert manager.do("cleanup")
        assert manager.set("checkpoint", "/nowhere/weights")[0]
    status, result = robot.result(robot.goal())
    assert (status, result.code) == (GoalStatus.STATUS_ABORTED, ErrorCode.NOT_ACTIVE)
    assert "unconfigured" in result.message
    assert not manager.do("configure")
    assert manager.state == "unconfigured"
    found, _ = robot.diagnosis("worker", lambda status: status.level == DiagnosticStatus.ERROR)
    assert "/nowhere/weights does not exist" in found.message
    broken = tmp_path / "broken"
    (broken / "vggt").mkdir(parents=True)
    (broken / "model_index.json").write_text("{}")
    (broken / "vggt" / "model.safetensors").write_bytes(b"12345678")
    assert manager.set("checkpoint", str(broken))[0]
    assert not manager.do("configure")
    robot.diagnosis("worker", lambda status: "is no safetensors file" in status.message)
    # Found by the worker only: then activation fails.
    assert manager.set("checkpoint", "random:enormous")[0]
    assert manager.do("configure")
    assert not manager.do("activate")
    assert manager.state == "inactive"
    found, _ = robot.diagnosis("worker", lambda status: status.level == DiagnosticStatus.ERROR)
    assert "activation failed: the model cannot be used: model size 'enormous' is unknown" in found.message
    refused, reason = manager.set("checkpoint", "random:tiny")
    assert not refused
    assert "clean it up" in reason
    assert manager.do("cleanup")
    assert manager.set("checkpoint", "random:tiny")[0]
    # Too little time: the error is told until the model is ready.
    assert manager.set("activation_timeout_s", 0.1)[0]
    assert manager.do("configure")
    assert not manager.do("activate")
    robot.diagnosis("worker", lambda status: "was not ready within 0.1 s" in status.message)
    robot.diagnosis("worker", lambda status: status.message == "ready")
    assert manager.set("activation_timeout_s", 120.0)[0]
    assert manager.do("cleanup")
    begin = time.monotonic()
    assert manager.do("configure")
    assert time.monotonic() - begin < 2
    activation = manager.ask("activate")
    _, values = robot.diagnosis("worker", lambda status: "loading" in status.message)
    assert values["load progress"].endswith(" %")
    assert manager.state in {"inactive", "activating"}  # it answers while it waits
    assert robot.client.result(activation, 60).success
    assert manager.state == "active"
    status, _ = robot.diagnosis("worker", lambda status: status.message in {"ready", "busy: reconstruct"})
    assert status.level == DiagnosticStatus.OK


@pytest.mark.slow
def test_a_killed_node_is_followed_by_one_that_works(active):
    scenes = active.listen(Reconstruction, "reconstruction", LATCHED)
    active.client.until(lambda: scenes)
    name = scenes[-1].scene_id
    handle = active.send(active.goal(steps=ENDLESS))
    active.denoising()
    _, values = active.diagnosis("worker", lambda status: "busy" in status.message)
    active.processes.node._process.kill()
    active.processes.node._process.wait()
    del handle
    active.client.until(lambda: not Path(f"/proc/{values['pid']}/cmdline").exists(), 5)  # the worker goes with it
    active.processes.node = active.processes.start_node()
    active.manager.wait()
    active.activate()
    active.client.until(lambda: scenes[-1].scene_id != name)


def test_deactivated_it_is_silent_and_can_be_activated_again(active):
    scenes = active.listen(Reconstruction, "reconstruction", LATCHED)
    active.client.until(lambda: scenes)
    handle = active.send(active.goal(steps=ENDLESS))
    active.denoising()
    assert active.manager.do("deactivate")
    status, result = active.end(handle)
    assert (status, result.code) == (GoalStatus.STATUS_ABORTED, ErrorCode.NOT_ACTIVE)
    count, first = len(scenes), scenes[-1].scene_id
    end = time.monotonic() + 1
    active.client.until(lambda: time.monotonic() > end)
    assert len(scenes) == count
    found, _ = active.diagnosis("results", lambda status: "inactive" in status.message)
    assert found.level == DiagnosticStatus.OK
    assert active.manager.do("activate")
    active.client.until(lambda: scenes[-1].scene_id != first)


# --- reconstruction --------------------------------------------------------------------------------------


def test_reconstruction_goes_on_by_itself(active):
    clouds = {name: active.listen(PointCloud2, name) for name in ("points", "points/observed")}
    scenes = active.listen(Reconstruction, "reconstruction", LATCHED)
    paths, frames = active.listen(PathMessage, "keyframe_path"), active.listen(TFMessage, "/tf")

    def known():
        return [t for m in frames for t in m.transforms if t.child_frame_id.startswith("gen3r/keyframe_")]

    active.client.until(lambda: len(scenes) > 2 and all(clouds.values()) and paths and known())
    scene = scenes[-1]
    assert scene.metric
    assert scene.not_metric_reason == ""
    assert (scene.metres_per_unit, scene.model, scene.header.frame_id) == (2.0, "random-tiny", "odom")
    assert 0 < scene.residual_m < 0.1
    assert scene.revision > scenes[0].revision
    assert 2 <= len(scene.keyframes) <= 8
    stamps = [stamp_ns(keyframe.stamp) for keyframe in scene.keyframes]
    assert stamps == sorted(stamps)
    assert stamp_ns(scene.header.stamp) == stamps[-1]
    assert scene.keyframes[0].camera_frame == "camera_optical_frame"
    assert 0 < scene.age.sec + scene.age.nanosec / 1e9 < 20
    centre = pose_matrix(scene.keyframes[-1].pose)[:3, 3]
    assert np.linalg.norm(centre - [1, 2, 0.3]) < 2 * REACH
    cloud = clouds["points/observed"][-1]
    assert cloud.header.frame_id == "odom"
    assert [field.name for field in cloud.fields] == ["x", "y", "z", "rgb", "confidence"]
    same = [one for one in scenes if one.header.stamp == cloud.header.stamp]
    assert len(cloud_points(cloud).xyz) in [one.points_observed for one in same]
    assert paths[-1].header.frame_id == "odom"
    frame = known()[-1]
    assert frame.header.frame_id == "odom"
    assert stamp_ns(frame.header.stamp) in [stamp_ns(one.header.stamp) for one in scenes]
    assert np.linalg.norm(transform_matrix(frame.transform)[:3, 3] - [1, 2, 0.3]) < 2 * REACH


def test_keyframes_hang_in_the_tree_of_frames(active):
    """Every frame has one parent, and a listener gets from the world to the robot and to what was reconstructed."""
    frames = listen_to_transforms(active.node)
    seen = {}

    def known(source):
        try:
            seen[source] = frames.lookup("odom", source).T_target_source
        except TransformError:
            return False
        return True

    names = ["base_link", "camera_optical_frame", "gen3r/keyframe_0", "gen3r/keyframe_1"]
    active.client.until(lambda: all(map(known, names)))
    frames.close()
    np.testing.assert_allclose(seen["base_link"] @ T_BASE_OPTICAL, seen["camera_optical_frame"], atol=0.05)
    for name in names[2:]:
        assert np.linalg.norm(seen[name][:3, 3] - [1, 2, 0.3]) < 2 * REACH
        assert np.linalg.det(seen[name][:3, :3]) == pytest.approx(1)


def test_topics_have_the_qos_that_is_documented(active):
    results = ["points", "points/observed", "points/generated", "keyframe_path", "novel_view", "novel_view/image",
               "novel_view/camera_info", "novel_view/depth", "frusta"]  # fmt: skip
    for topic in [*results, "map", "reconstruction"]:
        infos = active.node.get_publishers_info_by_topic(f"/{topic}")  # of a killed node too, for a while
        latched = topic in {"map", "reconstruction"}
        kept = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        assert {info.qos_profile.reliability for info in infos} == {ReliabilityPolicy.RELIABLE}
        assert {info.qos_profile.durability for info in infos} == {kept}
    for topic in ("image_raw/compressed", "camera_info"):
        infos = active.node.get_subscriptions_info_by_topic(f"/{topic}")
        assert {info.qos_profile.reliability for info in infos} == {ReliabilityPolicy.BEST_EFFORT}
    found, values = active.diagnosis("input", lambda status: any(v.key == "topic" for v in status.values))
    assert (found.level, values["topic"]) == (DiagnosticStatus.OK, "/image_raw/compressed")


def test_a_reconstruction_on_demand(active):
    active.client.until(lambda: active.result(Reconstruct.Goal(max_keyframes=1))[1].code == ErrorCode.OK)
    status, result = active.result(Reconstruct.Goal(max_keyframes=2))
    assert (status, result.message) == (GoalStatus.STATUS_SUCCEEDED, "")
    assert 1 <= len(result.reconstruction.keyframes) <= 2
    assert result.seconds > 0
    assert {"queued", "vggt", "publish"} <= {one.stage for one in active.feedback}
    status, again = active.result(Reconstruct.Goal(new_scene=True))
    assert again.reconstruction.scene_id == result.reconstruction.scene_id
    scenes = active.listen(Reconstruction, "reconstruction", LATCHED)
    active.client.until(lambda: any(one.scene_id != result.reconstruction.scene_id for one in scenes))
    status, result = active.result(Reconstruct.Goal(deadline_s=-1.0))
    assert (status, result.code) == (GoalStatus.STATUS_ABORTED, ErrorCode.INVALID_REQUEST)


def test_the_map_is_latched_and_can_be_saved(active, tmp_path):
    maps = active.listen(PointCloud2, "map", LATCHED)
    active.client.until(lambda: maps)
    late = []
    active.node.create_subscription(PointCloud2, "map", late.append, LATCHED)
    active.client.until(lambda: late, 5)
    assert maps[0].header.frame_id == "odom"
    service = active.node.create_client(SaveMap, "save_map")
    saved = active.manager.call(service, SaveMap.Request())
    assert (saved.code, saved.message, saved.metric) == (ErrorCode.OK, "", True)
    assert len(read_ply(Path(saved.path)).points) == saved.points > 100
    saved = active.manager.call(service, SaveMap.Request(path=str(tmp_path / "own.ply")))
    assert (tmp_path / "own.ply").is_file()
    saved = active.manager.call(service, SaveMap.Request(path=str(tmp_path / "whole")))
    assert (saved.code, saved.message, saved.path) == (ErrorCode.OK, "", str(tmp_path / "whole"))
    whole = read_map(tmp_path / "whole")
    assert (len(whole.cloud), whole.metric, whole.run["exit_code"]) == (saved.points, True, 0)
    assert len(whole.frames) >= 2
    assert whole.frames[0].image.std() > 5
    assert (tmp_path / "whole" / "map_bag" / "metadata.yaml").is_file()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    refused = active.manager.call(service, SaveMap.Request(path=str(tmp_path / "other")))
    assert refused.code == ErrorCode.WRITE_FAILED
    assert "thesis.tex" in refused.message
    for path in ("map.pcd", "../map.ply", "/nowhere/map.ply"):
        refused = active.manager.call(service, SaveMap.Request(path=path))
        assert refused.code == ErrorCode.INVALID_REQUEST
        assert path.strip("./") in refused.message or "/nowhere" in refused.message
    failed = active.manager.call(service, SaveMap.Request(path="/proc/map.ply"))
    assert failed.code == ErrorCode.WRITE_FAILED
    assert "/proc" in failed.message


def test_a_map_outlives_deactivation_and_the_next_scene_begins_with_an_empty_one(active, tmp_path):
    maps = active.listen(PointCloud2, "map", LATCHED)
    active.client.until(lambda: maps)
    service = active.node.create_client(SaveMap, "save_map")
    assert active.manager.do("deactivate")
    kept = active.manager.call(service, SaveMap.Request(path=str(tmp_path / "kept.ply")))
    assert (kept.code, kept.message) == (ErrorCode.OK, "")
    assert len(read_ply(tmp_path / "kept.ply").points) == kept.points > 100
    assert active.manager.set("continuous", False) == (True, "")
    try:
        assert active.manager.do("activate")
        active.client.until(lambda: maps[-1].width * maps[-1].height == 0)
        late = active.listen(PointCloud2, "map", LATCHED)
        active.client.until(lambda: late, 5)
        assert late[0].width * late[0].height == 0
        empty = active.manager.call(service, SaveMap.Request())
        assert (empty.code, empty.message) == (ErrorCode.NO_MAP, "the map is empty; nothing was reconstructed yet")
    finally:
        assert active.manager.set("continuous", True) == (True, "")


def test_diagnostics_name_who_has_a_grid_on_the_topic_of_the_map(active, start):
    start("map_server.py")
    status, _ = active.diagnosis("results", lambda status: "map_server" in status.message)
    assert status.level == DiagnosticStatus.WARN
    assert status.message.startswith("/map is nav_msgs/msg/OccupancyGrid of /map_server, and sensor_msgs/msg/PointC")


# --- prediction ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deadline_s", [0.0, 30.0])
def test_paths_in_a_stream_leave_reconstructions_their_turn(active, deadline_s):
    """They come faster than they can be predicted; between two predictions the scene is reconstructed."""
    scenes = active.listen(Reconstruction, "reconstruction")
    handles, begin = [], 0

    def count(which):
        return sum(kind(one) == which for one in scenes[begin:])

    def kind(message):
        return "predicted" if len(message.keyframes) == 1 else "reconstructed"

    handles.append(active.send(active.goal(steps=60, deadline_s=deadline_s)))
    active.denoising()
    begin, until = len(scenes), time.monotonic() + 60
    while count("predicted") < 4:
        assert time.monotonic() < until
        handles.append(active.send(active.goal(steps=60, deadline_s=deadline_s)))
        pause = time.monotonic() + 0.2
        active.client.until(lambda end=pause: time.monotonic() > end)
    for handle in handles[-3:]:
        handle.cancel_goal_async()
    assert count("reconstructed") >= 2
    ends = [active.end(handle) for handle in handles]
    codes = [result.code for _, result in ends]
    assert set(codes) <= {ErrorCode.OK, ErrorCode.SUPERSEDED, ErrorCode.CANCELED}
    assert codes.count(ErrorCode.SUPERSEDED) >= 3
    assert codes.count(ErrorCode.OK) >= 4


def test_views_are_predicted_along_a_path(active):
    views, images = active.listen(NovelView, "novel_view"), active.listen(Image, "novel_view/image")
    infos, depths = active.listen(CameraInfo, "novel_view/camera_info"), active.listen(Image, "novel_view/depth")
    clouds, frusta = active.listen(PointCloud2, "points/generated"), active.listen(MarkerArray, "frusta")
    count = active.client.node.count_publishers
    active.client.until(lambda: all(count(f"/{topic}") for topic in active.got))
    status, result = active.result(active.goal(steps=3))
    assert (status, result.code, result.message) == (GoalStatus.STATUS_SUCCEEDED, ErrorCode.OK, "")
    assert (result.views, result.views_generated) == (5, 4)
    active.client.until(lambda: min(len(views), len(images), len(infos), len(depths)) >= 5 and clouds)
    assert [view.index for view in views] == [0, 1, 2, 3, 4]
    assert [view.observed for view in views] == [True, False, False, False, False]
    for view in views:
        assert (view.scene_id, view.revision, view.count) == (result.scene_id, result.revision, 5)
        assert (view.header.frame_id, view.model, view.metric) == ("odom", "random-tiny", True)
        assert (view.image.height, view.image.width, view.image.encoding) == (112, 112, "rgb8")
        assert view.camera_info.width == 112
        assert depth_array(view.depth).shape == (112, 112)
        assert np.linalg.norm(pose_matrix(view.pose)[:3, 3] - [1, 2, 0.3]) < 0.3
    assert images[0].header.stamp == views[0].header.stamp
    assert images[3].header.frame_id == "gen3r/view_3"
    frames = listen_to_transforms(active.node)
    late = [f"gen3r/view_{index}" for index in range(5)]  # who listens only now knows them too
    active.client.until(lambda: all(known(frames, "odom", name) for name in late))
    at = frames.lookup("odom", "gen3r/view_3", stamp_ns(images[3].header.stamp)).T_target_source
    np.testing.assert_allclose(at, pose_matrix(views[3].pose), atol=1e-6)
    frames.close()
    assert depths[0].encoding == "32FC1"
    active.client.until(lambda: {"keyframes", "views"} <= {m.ns for array in frusta for m in array.markers})
    drawn = next(m for array in frusta for m in array.markers if m.ns == "views")
    assert (drawn.header.frame_id, drawn.type, len(drawn.points)) == ("odom", Marker.LINE_LIST, 5 * 20)
    eye = np.array([drawn.points[0].x, drawn.points[0].y, drawn.points[0].z])
    np.testing.assert_allclose(eye, pose_matrix(views[0].pose)[:3, 3], atol=1e-6)
    assert clouds[-1].width == result.points_generated > 0
    stages = [one.stage for one in active.feedback]
    assert stages[0] == "queued"
    assert stages[-1] == "publish"
    denoised = [one for one in active.feedback if one.stage == "denoise"]
    assert {one.total for one in denoised} == {3}  # of steps that follow each other quickly only the newest is told
    assert denoised[-1].step > 0
    _, values = active.diagnosis("results", lambda status: any("predict: denoise" in v.key for v in status.values))
    assert float(values["seconds of predict: denoise"]) > 0


def test_a_goal_is_canceled_within_a_step(active):
    """Of many views, so that a step takes far longer than the request does."""
    handle = active.send(active.goal(steps=ENDLESS, num_frames=33))
    active.denoising()
    asked = active.feedback[-1].step
    active.client.result(handle.cancel_goal_async())
    status, result = active.end(handle)
    assert (status, result.code) == (GoalStatus.STATUS_CANCELED, ErrorCode.CANCELED)
    done = int(re.search(rf"denoise after step (\d+) of {ENDLESS}", result.message)[1])
    print(f"canceled at step {asked}, ended after {done}")
    assert asked <= done <= asked + 1


def test_a_newer_goal_supersedes_the_waiting_one(active):
    running = active.send(active.goal(steps=ENDLESS))
    active.denoising()
    waiting = active.send(active.goal(steps=2))
    newest = active.send(active.goal(steps=2))
    status, result = active.end(waiting)
    assert (status, result.code) == (GoalStatus.STATUS_ABORTED, ErrorCode.SUPERSEDED)
    active.client.result(running.cancel_goal_async())
    assert active.end(running)[1].code == ErrorCode.CANCELED
    status, result = active.end(newest)
    assert (status, result.code) == (GoalStatus.STATUS_SUCCEEDED, ErrorCode.OK)


def test_a_goal_in_a_hurry_gets_a_faster_profile_or_is_refused_at_once(active):
    assert active.manager.set("steps", 1000)[0]
    try:
        status, usual = active.result(active.goal(), 60)
        assert (status, usual.profile) == (GoalStatus.STATUS_SUCCEEDED, "exact")
        assert usual.age.sec + usual.age.nanosec / 1e9 >= 0.99 * usual.seconds
        for _ in range(3):  # this machine has other things to do as well
            status, quick = active.result(active.goal(deadline_s=0.7 * usual.seconds))
            if quick.code == ErrorCode.OK:
                break
        assert (status, quick.code) == (GoalStatus.STATUS_SUCCEEDED, ErrorCode.OK), quick.message
        assert quick.profile in {"balanced", "fast", "preview"}
        assert quick.seconds < 0.7 * usual.seconds
        assert (quick.scene_id, quick.views) == (usual.scene_id, 5)
        assert quick.revision > usual.revision
        begin = time.monotonic()
        status, late = active.result(active.goal(deadline_s=0.7 * usual.seconds, steps=1000))  # it wants all of them
        assert (status, late.code, late.profile) == (GoalStatus.STATUS_ABORTED, ErrorCode.DEADLINE_MISSED, "")
        assert "such a job takes at least" in late.message
        assert time.monotonic() - begin < 0.7 * usual.seconds
    finally:
        assert active.manager.set("steps", 0)[0]


def test_goals_that_cannot_be_served(active):
    empty = active.goal()
    empty.path.poses = []
    lost = active.goal()
    lost.path.header.frame_id = "moon"
    bad = active.goal()
    bad.path.poses[1].pose.position.x = float("nan")
    turned = active.goal()
    turned.path.poses[2].pose.orientation.z = float("nan")
    none = active.goal()
    none.path.header.frame_id = ""
    cases = {
        ErrorCode.INVALID_REQUEST: [empty, bad, turned, none, active.goal(num_frames=6), active.goal(deadline_s=-2.0),
                                    active.goal(length=0.0, guidance=float("inf"))],
        ErrorCode.NO_TRANSFORM: [lost],
        ErrorCode.DEADLINE_MISSED: [active.goal(deadline_s=0.5, steps=ENDLESS)],
    }  # fmt: skip
    for code, goals in cases.items():
        for goal in goals:
            status, result = active.result(goal)
            assert (status, result.code) == (GoalStatus.STATUS_ABORTED, code), result.message
            assert result.message
    one = active.goal(steps=1, length=0.5)
    one.path.poses = one.path.poses[-1:]
    assert active.result(one)[1].code == ErrorCode.OK, "of one pose: the way there from where the robot is"
    assert active.manager.set("metres_per_unit", 0.0)[0]
    try:
        assert active.result(Reconstruct.Goal(new_scene=True))[1].code == ErrorCode.OK
        results = []  # NO_IMAGES before the next image
        active.client.until(
            lambda: results.append(active.result(active.goal())[1]) or results[-1].code != ErrorCode.NO_IMAGES
        )
        assert results[-1].code == ErrorCode.SCALE_UNKNOWN
        assert "the model's unit is not known" in results[-1].message
    finally:
        assert active.manager.set("metres_per_unit", 2.0)[0]


def test_a_path_on_the_topic_is_a_goal_too(active):
    views = active.listen(NovelView, "novel_view")
    active.client.until(lambda: active.result(active.goal(steps=1))[1].code == ErrorCode.OK)
    views.clear()
    publisher = active.node.create_publisher(PathMessage, "goal_path", RESULT)
    active.client.until(lambda: publisher.get_subscription_count() and active.node.count_publishers("/novel_view"))
    publisher.publish(active.goal().path)
    active.client.until(lambda: len(views) == 5)


# --- accidents -------------------------------------------------------------------------------------------


def test_a_killed_worker_is_replaced_while_the_node_answers(active):
    _, values = active.diagnosis("worker", lambda status: "pid" in [v.key for v in status.values if v.value])
    scenes = active.listen(Reconstruction, "reconstruction", LATCHED)
    handle = active.send(active.goal(steps=ENDLESS))
    active.denoising()
    os.kill(int(values["pid"]), signal.SIGKILL)
    status, result = active.end(handle)
    assert (status, result.code) == (GoalStatus.STATUS_ABORTED, ErrorCode.WORKER_FAILED)
    active.client.until(lambda: scenes)
    before, slowest = scenes[-1].revision, 0.0
    end = time.monotonic() + 40
    while scenes[-1].revision == before:
        begin = time.monotonic()
        assert active.manager.state == "active"
        slowest = max(slowest, time.monotonic() - begin)
        assert time.monotonic() < end
    assert slowest < 1
    _, values = active.diagnosis("worker", lambda status: status.message.startswith(("ready", "busy")))
    assert int(values["restarts"]) >= 1


def test_an_interrupted_node_ends_in_order_whatever_it_does(active):
    waiting = [active.send(active.goal(steps=ENDLESS)) for _ in range(10)]
    active.denoising()
    _, values = active.diagnosis("worker", lambda status: "busy" in status.message)
    begin = time.monotonic()
    assert active.processes.node.stop() == 0
    assert time.monotonic() - begin < 8
    active.client.until(lambda: not Path(f"/proc/{values['pid']}/cmdline").exists(), 5)
    assert len(waiting) == 10
    active.processes.node = active.processes.start_node()
    active.manager.wait()
