"""Parts of the node one by one, in this process: parameters, images with their troubles, goals, where maps go."""

import time
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from camera_tracks import base_camera, yawed
from gen3r.action import PredictViews, Reconstruct
from gen3r.msg import ErrorCode as Codes
from geometry_msgs.msg import PoseStamped
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from gen3r_core.checkpoint.precheck import CheckpointFacts
from gen3r_core.errors import InputError
from gen3r_core.geometry.transform_history import StampedTransform, TransformError
from gen3r_core.serving.codes import ErrorCode
from gen3r_core.serving.status import ModelFacts
from gen3r_ros.camera_input import LARGEST_PENDING, CameraInput
from gen3r_ros.conversions.cameras import CameraModel, camera_info
from gen3r_ros.conversions.compressed import compressed_message
from gen3r_ros.conversions.images import image_message
from gen3r_ros.conversions.poses import stamp_message
from gen3r_ros.diagnostics import Rate
from gen3r_ros.goals import Goal, GoalEnd, result_message
from gen3r_ros.map_service import map_path
from gen3r_ros.node import Gen3RNode
from gen3r_ros.parameters import PARAMETERS, check_change, declare, read
from gen3r_ros.placement import place
from gen3r_ros.planning import RefusedError, Times, nothing_from, prepare
from gen3r_ros.silence import input_trouble, why_silent

K = np.array([[100.0, 0, 60], [0, 100.0, 45], [0, 0, 1]])
SIZE = (90, 120)
MODEL = ModelFacts("model", 5, (112, 112), "cpu", "float32", 1)
FACTS = CheckpointFacts("model", packaged=False, steps=7, guidance=3.0, geometry="frames")
SECOND = 10**9


class Frames:
    """Transforms that a test sets, by (target, source); None: it may still come."""

    def __init__(self):
        self.known = {
            ("odom", "cam"): yawed(1, 2, 0) @ base_camera(),
            ("base_link", "cam"): base_camera(),
            ("odom", "odom"): np.eye(4),
        }

    def lookup(self, target, source, stamp_ns=None):
        T = self.known.get((target, source), "never")
        if isinstance(T, str) or T is None:
            raise TransformError(f"no transform from {source} to {target}", may_come=T is None)
        return StampedTransform(T, stamp_ns)


@pytest.fixture
def camera(client):
    """An input whose callbacks the test calls itself."""
    taken = []
    parameters = declare(client.node)
    made = CameraInput(client.node, Frames(), parameters, taken.append)
    made.taken = taken
    yield made
    made.close()


def picture(seconds=1.0, frame="cam", size=SIZE, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return image_message(pixels, "rgb8", Header(stamp=stamp_message(round(seconds * SECOND)), frame_id=frame))


def info(seconds=1.0, size=SIZE):
    header = Header(stamp=stamp_message(round(seconds * SECOND)), frame_id="cam")
    return camera_info(CameraModel(K, size), header)


def later(camera):
    """As if the wait were over."""
    for pending in camera._pending:
        pending.since -= 100
    camera._match()


# --- parameters ------------------------------------------------------------------------------------------


def test_every_parameter_is_declared_with_a_text_and_its_default(client):
    declare(client.node)
    for name, one in PARAMETERS.items():
        descriptor = client.node.describe_parameter(name)
        assert descriptor.description.startswith(one.text)
        assert client.node.get_parameter(name).value == one.default
        if one.high and isinstance(one.default, float):
            assert descriptor.floating_point_range[0].to_value == one.high
    assert read(client.node).size is None
    assert read(client.node).random_size is None


def test_what_the_inference_process_is_told(client):
    own = declare(client.node)
    assert own.worker.memory_budget is None
    assert own.worker.compiled is False
    assert replace(own, compile=True).worker.compiled is True
    told = replace(own, memory_budget_gib=1.5, threads=3, prompts="a.safetensors", checkpoint="random:tiny").worker
    assert (told.memory_budget, told.threads, told.prompts) == (1.5, 3, "a.safetensors")
    assert (told.checkpoint, told.random_size) == (None, "tiny")


def test_the_period_of_diagnostics_is_read_when_the_node_is_configured(client):
    node = Gen3RNode("beating", context=client.context)
    try:
        values = {"diagnostics_period_s": 0.25, "checkpoint": "/nowhere/weights"}
        assert all(one.successful for one in node.set_parameters([Parameter(k, value=v) for k, v in values.items()]))
        node.trigger_configure()
        assert node._beat.timer_period_ns == SECOND // 4
    finally:
        node.close()
        node.destroy_node()


def test_changes_are_refused_with_a_reason(client):
    declare(client.node)

    def change(configured=True, **values):
        changed = [Parameter(name, value=value) for name, value in values.items()]
        return check_change(client.node, changed, configured=configured)

    assert change(window=4) == ""
    assert change(checkpoint="elsewhere", configured=False) == ""
    assert change(checkpoint="") == ""  # as it is
    assert "clean it up, set checkpoint" in change(checkpoint="elsewhere")
    assert "min_window 3 is over window 2" in change(window=2, min_window=3)
    assert "are set together" in change(image_width=224)
    assert "one of euler, unipc, dpm++" in change(scheduler="magic")
    assert change(use_sim_time=False) == ""  # not ours


def test_a_value_out_of_range_names_the_parameter(client):
    client.node._parameter_overrides["window"] = Parameter("window", value=0)
    with pytest.raises(InputError, match=r"the parameter window .* from 1 to 200"):
        declare(client.node)


# --- images ----------------------------------------------------------------------------------------------


def test_an_image_becomes_a_keyframe_with_info_and_pose(camera):
    camera._take_image(picture())
    assert not camera.window(5)  # waits for its info
    camera._take_info(info())
    camera._match()
    (keyframe,) = camera.window(5)
    assert keyframe.stamp_ns == SECOND
    np.testing.assert_allclose(keyframe.T_world_cam, yawed(1, 2, 0) @ base_camera())
    assert keyframe.payload.rgb().shape == (*SIZE, 3)
    assert keyframe.payload.frame == "cam"
    assert len(camera.taken) == 1
    assert camera.counts["first"] == 1
    camera.clear()
    assert camera.window(5) == ()


def test_waiting_ends(camera):
    """Without its own camera_info an image takes the newest, without TF it has no pose, without both it is dropped."""
    camera._take_image(picture())
    later(camera)
    assert camera.dropped == {"no camera_info": 1}
    camera._transforms.known["odom", "cam"] = None
    camera._take_info(info(0.5))
    camera._take_image(picture(2.0, seed=1))
    assert not camera.window(1)
    later(camera)
    (keyframe,) = camera.window(1)
    assert keyframe.T_world_cam is None
    assert keyframe.payload.why_no_pose == "no transform from cam to odom"
    assert camera.without_pose == 1
    for number in range(LARGEST_PENDING + 2):
        camera._take_image(picture(3.0 + number))
    assert camera.dropped["waited too long"] == 2


def test_bad_images_are_counted_and_nothing_is_raised(camera):
    camera._take_info(info())
    short = picture()
    short.step = 1
    strange = picture()
    strange.encoding = "odd"
    for message in (picture(0.0), picture(frame=""), short, strange, Image()):
        camera._take_image(message)
    camera._take_image(picture(size=(48, 64)))  # another size than camera_info's
    later(camera)
    nonsense = CameraInfo(header=info(5.0).header, height=SIZE[0], width=SIZE[1])
    camera._take_info(nonsense)
    camera._take_image(picture(5.0))
    assert camera.dropped == {"no stamp": 2, "no frame": 1, "step": 1, "encoding": 1, "size": 1, "intrinsics": 1}
    assert camera.images == 7
    assert "focal length of 0" in camera.last_problem
    assert not camera.window(1)


def test_compressed_images(client):

    client.node._parameter_overrides["image_transport"] = Parameter("image_transport", value="compressed")
    camera = CameraInput(client.node, Frames(), declare(client.node), lambda _taken: None)
    assert camera.topic == "/image_raw/compressed"
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    camera._take_info(info())
    message = compressed_message(pixels, Header(stamp=stamp_message(SECOND), frame_id="cam"), "png")
    camera._take_image(message)
    client.until(lambda: camera.window(1))  # decoded in a thread
    np.testing.assert_array_equal(camera.window(1)[0].payload.rgb(), pixels)
    short = compressed_message(pixels, Header(stamp=stamp_message(2 * SECOND), frame_id="cam"), "png")
    camera._take_info(info(2.0))
    camera._transforms.known["odom", "cam"] = yawed(2, 2, 0) @ base_camera()
    short.data = short.data[:2000]  # its header is whole
    camera._take_image(short)
    client.until(lambda: camera.dropped["compression"] == 1)
    message.data = message.data[:10]
    camera._take_image(message)
    assert camera.dropped["compression"] == 2
    camera._offered.put((None, None, None, 0))  # a fault of ours is no end
    client.until(lambda: camera.dropped["internal error"] == 1)
    decoder = camera._decoder
    camera.close()
    assert not decoder.is_alive()


def test_images_that_cannot_be_decoded_in_time_are_dropped(client):
    client.node._parameter_overrides["image_transport"] = Parameter("image_transport", value="compressed")
    camera = CameraInput(client.node, Frames(), declare(client.node), lambda _taken: None)
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    camera._take_info(info())
    with camera._lock:  # as if one took long
        for number in range(LARGEST_PENDING + 5):
            stamp = stamp_message(SECOND + number)
            camera._take_image(compressed_message(pixels, Header(stamp=stamp, frame_id="cam")))
            camera._match()
            later(camera)
    assert camera.dropped["waited too long"] >= 4
    client.until(camera._offered.empty)
    camera.close()


def test_what_comes_after_the_end_is_nothing(camera):
    camera._take_image(picture())  # waits for its info, and a timer with it
    camera.close()
    camera._take_image(picture(2.0))
    camera._match()
    assert camera.window(5) == ()


def test_a_window_has_images_of_one_size(camera):
    for seconds, size in ((1.0, SIZE), (2.0, SIZE), (3.0, (48, 64))):
        camera._transforms.known["odom", "cam"] = yawed(seconds, 0, 0) @ base_camera()
        camera._take_info(info(seconds, size))
        camera._take_image(picture(seconds, size=size))
    assert [keyframe.stamp_ns for keyframe in camera.window(8)] == [3 * SECOND]
    assert len(camera.taken) == 3


def test_why_there_are_no_images(camera):
    assert "nobody publishes it" in input_trouble(camera)
    assert nothing_from(camera)[0] is ErrorCode.NO_IMAGES
    camera._take_image(picture())
    assert "no camera_info on /camera_info" in input_trouble(camera)
    assert nothing_from(camera)[0] is ErrorCode.NO_CAMERA_INFO
    camera._take_image(picture(0.0))
    camera._take_info(info(7.0))
    assert input_trouble(camera).startswith("no image could be used: images on /image_raw have the stamp 0")
    camera.last_image -= 10
    assert "no image for 10 s on /image_raw" in input_trouble(camera)
    publisher = camera.node.create_publisher(Image, "image_raw", 1)
    assert "though somebody publishes it" in input_trouble(camera)
    camera.node.destroy_publisher(publisher)
    assert why_silent("inactive", None, None, "") == "the node is inactive; results come when it is active"
    assert why_silent("inactive", None, None, "no model") == "no model"


# --- goals -----------------------------------------------------------------------------------------------


def goal(poses=((1, 2), (2, 2)), frame="odom", **options):
    request = PredictViews.Goal()
    request.path.header.frame_id = frame
    for x, y in poses:
        pose = PoseStamped()
        pose.pose.position.x, pose.pose.position.y = float(x), float(y)
        request.path.poses.append(pose)
    for name, value in options.items():
        setattr(request.options, name, value)
    return Goal(request)


PLACEMENT = place(np.eye(4)[None], (yawed(1, 2, 0) @ base_camera())[None], known_scale=2.0)


def prepared(camera, asked, placement=PLACEMENT):
    return prepare(asked, camera, camera._transforms, camera.parameters, MODEL, FACTS, placement, "none yet")


@pytest.fixture
def ready(camera):
    camera._take_info(info())
    camera._take_image(picture())
    return camera


def test_a_path_becomes_cameras_of_the_model(ready):
    made = prepared(ready, goal(seed=5))
    request = made.request
    assert (request.seed, request.task, made.scale, made.deadline_s) == (5, "1view", 2.0, None)
    assert (request.options.steps, request.options.guidance, request.options.num_frames) == (7, 3.0, 5)
    first = yawed(1, 2, 0) @ base_camera()
    np.testing.assert_allclose(made.T_world_views[0], first, atol=1e-9)
    np.testing.assert_allclose(made.T_world_views[-1], yawed(2, 2, 0) @ base_camera(), atol=1e-6)
    assert request.options.geometry == "frames"
    # The model's world begins at that camera, which looks along z; lengths stay in metres.
    np.testing.assert_allclose(request.cameras.T_world_cam[-1, :3, 3], [0, 0, 1], atol=1e-6)
    assert request.cameras.metres_per_unit == 2.0
    np.testing.assert_array_equal(request.cameras.intrinsics[2], K)


def test_a_goal_in_a_hurry_is_made_faster_but_for_what_it_asks_for(ready):
    known = {"denoise": 1.0}
    times = Times(2.0, lambda options: known if options.steps == 50 else None)

    def made(deadline_s, fastest="preview", **options):
        asked, own = goal(**options), replace(ready.parameters, steps=50, guidance=5.0, fastest_profile=fastest)
        asked.request.deadline_s = deadline_s
        made = prepare(asked, ready, ready._transforms, own, MODEL, FACTS, PLACEMENT, "", times=times)
        return made.profile, made.request.options.steps, made.request.options.num_frames, len(made.T_world_views)

    assert made(0.0) == ("exact", 50, 5, 5)
    assert made(60.0) == ("exact", 50, 5, 5)
    assert made(56.0)[:2] == ("balanced", 24)  # two seconds of it are another job's
    assert made(15.0)[:2] == ("fast", 14)
    assert made(5.0) == ("preview", 8, 5, 5)
    assert made(5.0, num_frames=17) == ("preview", 8, 17, 17)
    assert made(5.0, steps=50, guidance=5.0)[:2] == ("exact", 50)
    assert made(5.0, "balanced")[:2] == ("balanced", 24)
    assert made(5.0, "exact")[:2] == ("exact", 50)


def test_a_path_in_another_frame(ready):
    ready._transforms.known["odom", "map"] = yawed(1, 2, 0)
    ready.parameters = replace(ready.parameters, geometry="latents")
    made = prepared(ready, goal(((0, 0), (1, 0)), frame="map", steps=3, guidance=0.0, num_frames=9))
    assert made.request.options.geometry == "latents"
    np.testing.assert_allclose(made.T_world_views[-1], yawed(2, 2, 0) @ base_camera(), atol=1e-6)
    assert (made.request.options.steps, made.request.options.guidance, len(made.T_world_views)) == (3, 0.0, 9)


def test_goals_that_are_refused(ready):
    mixed = goal()
    mixed.request.path.poses[0].header.frame_id = "map"
    late = goal()
    late.request.deadline_s = float("nan")
    cases = [
        (ErrorCode.INVALID_REQUEST, goal(())),
        (ErrorCode.INVALID_REQUEST, mixed),
        (ErrorCode.INVALID_REQUEST, late),
        (ErrorCode.INVALID_REQUEST, goal(num_frames=4)),
        (ErrorCode.INVALID_REQUEST, goal(num_frames=1005)),
        (ErrorCode.INVALID_REQUEST, goal(guidance=float("nan"))),
        (ErrorCode.NO_TRANSFORM, goal(frame="moon")),
    ]
    for code, asked in cases:
        with pytest.raises(RefusedError) as caught:
            prepared(ready, asked)
        assert caught.value.code is code
        assert str(caught.value)
    with pytest.raises(RefusedError, match="the model's unit is not known: none yet"):
        prepared(ready, goal(), placement=None)
    ready.clear()
    with pytest.raises(RefusedError) as caught:
        prepared(ready, goal())
    assert caught.value.code is ErrorCode.NO_IMAGES


def test_a_keyframe_without_a_pose_begins_no_path(camera):
    camera._transforms.known["odom", "cam"] = None
    camera._take_info(info())
    camera._take_image(picture())
    later(camera)
    with pytest.raises(RefusedError, match="no transform from cam to odom") as caught:
        prepared(camera, goal())
    assert caught.value.code is ErrorCode.NO_TRANSFORM


def test_only_the_first_end_of_a_goal_counts():
    asked = goal()
    asked.request.deadline_s = 2.0
    assert 1.5 < asked.left() <= 2.0
    asked.finish(GoalEnd(ErrorCode.CANCELED, "first"))
    asked.finish(GoalEnd(ErrorCode.OK))
    assert asked.end.message == "first"
    assert result_message(PredictViews, asked.end, 1.5).code == Codes.CANCELED
    assert result_message(Reconstruct, asked.end, 1.5).seconds == 1.5


# --- the rest --------------------------------------------------------------------------------------------


def test_where_maps_go(tmp_path):
    assert map_path("a.ply", str(tmp_path / "new")) == tmp_path / "new" / "a.ply"
    assert map_path(str(tmp_path / "b.ply"), "/nowhere") == tmp_path / "b.ply"
    assert map_path("kitchen", str(tmp_path)) == tmp_path / "kitchen"
    assert map_path(f"{tmp_path}/kitchen/", "/nowhere") == tmp_path / "kitchen"
    for asked in ("a.pcd", "", "/", "../a.ply", "..", "no/a.ply", "no/a", "a\0.ply"):
        with pytest.raises(InputError):
            map_path(asked, str(tmp_path))


def test_a_rate_is_of_the_last_seconds():
    rate = Rate()
    assert rate.per_second(10) == 0
    time.sleep(0.1)
    assert 20 < rate.per_second(14) <= 41
    assert rate.per_second(0) == 0  # the counter began anew
