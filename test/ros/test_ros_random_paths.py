"""Ten thousand random transforms and goal paths: nothing is raised, and each path is served or refused with a code."""

import contextlib
import math
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from camera_messages import CAMERA, SECOND, header, parameters_of, picture
from camera_tracks import base_camera, yawed
from gen3r.action import PredictViews
from nav_msgs.msg import Path
from ros_messages import random_message
from tf2_msgs.msg import TFMessage

from gen3r_core.checkpoint.precheck import CheckpointFacts
from gen3r_core.geometry.transform_history import StampedTransform
from gen3r_core.serving.codes import ErrorCode
from gen3r_core.serving.status import ModelFacts
from gen3r_ros.camera_input import CameraInput
from gen3r_ros.conversions.cameras import camera_info
from gen3r_ros.conversions.poses import stamp_message
from gen3r_ros.goals import Goal
from gen3r_ros.placement import place
from gen3r_ros.planning import RefusedError, prepare
from gen3r_ros.transforms import TopicTransforms, TransformError

COUNT, POOL = 10_000, 300
MODEL = ModelFacts("model", 5, (112, 112), "cpu", "float32", 1)
FACTS = CheckpointFacts("model", packaged=False, steps=7, guidance=3.0)
NUMBERS = (0.0, 1.0, -1.0, 0.5, 1e-9, 1e6, 1e30, 1e300, math.nan, math.inf, -math.inf)
FRAMES = ("odom", "map", "base_link", "cam", "/odom", "moon", "", "odom")


class Frames:
    """A tree of frames in which a robot stands."""

    def lookup(self, target, source, stamp_ns=None):
        base = yawed(1, 2, 0)
        poses = {"odom": np.eye(4), "map": yawed(3, 0, 1), "base_link": base, "cam": base @ base_camera()}
        for name in (target, source):
            if name not in poses:
                raise TransformError(f"no transform from {source} to {target}", may_come=False)
        return StampedTransform(np.linalg.inv(poses[target]) @ poses[source], stamp_ns)

    def clear(self):
        pass


def spoilt(part, names, rng):
    """A vector or quaternion with a strange number now and then; often one that makes sense."""
    for name in names:
        chance = rng.random()
        value = rng.choice(NUMBERS) if chance < 0.1 else float(rng.normal())
        setattr(part, name, value)
    if "w" in names and rng.random() < 0.6:
        yaw = rng.uniform(-3, 3)
        part.x, part.y, part.z, part.w = 0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2)


@pytest.mark.slow
def test_random_transforms_raise_nothing(client):
    rng = np.random.default_rng(0)
    tf = TopicTransforms(client.node)
    pool, looked_up = [random_message(TFMessage, rng) for _ in range(POOL)], 0
    for number in range(COUNT):
        message = pool[number % POOL]
        for one in message.transforms:
            spoilt(one.transform.translation, "xyz", rng)
            spoilt(one.transform.rotation, "xyzw", rng)
            one.header.frame_id, one.child_frame_id = (str(rng.choice(FRAMES)) for _ in range(2))
            if rng.random() < 0.8:
                one.header.stamp = stamp_message(int(SECOND + rng.integers(0, 100) * SECOND // 10))
        (tf._take_static if rng.random() < 0.1 else tf._take)(message)
        if number % 10 == 0:
            with contextlib.suppress(TransformError):
                found = tf.lookup("odom", str(rng.choice(FRAMES)), int(rng.integers(1, 12 * SECOND)))
                assert np.isfinite(found.T_target_source).all()
                R = found.T_target_source[:3, :3]
                np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-3)
                looked_up += 1
    assert 0 < tf.refused < 3 * COUNT
    print(f"{tf.refused} transforms were refused, {looked_up} looked up")
    assert looked_up > 10
    tf.close()


@pytest.mark.slow
def test_random_paths_are_served_or_refused(client, robot_that_stands):
    camera, transforms, placement = robot_that_stands
    rng = np.random.default_rng(1)
    pool = [random_message(Path, rng) for _ in range(POOL)]
    ends = Counter()
    for number in range(COUNT):
        path = pool[number % POOL]
        path.header.frame_id = str(rng.choice(FRAMES))
        same = rng.random() < 0.7
        for pose in path.poses:
            pose.header.frame_id = "" if same else str(rng.choice(FRAMES))
            spoilt(pose.pose.position, "xyz", rng)
            spoilt(pose.pose.orientation, "xyzw", rng)
        request = PredictViews.Goal(path=Path(header=path.header, poses=path.poses[: rng.integers(0, 5)]))
        request.deadline_s = float(rng.choice([0.0, 0.0, 0.0, 5.0, -1.0, math.nan, math.inf]))
        request.options.num_frames = int(rng.choice([0, 0, 0, 5, 9, 6, 65535]))
        request.options.guidance = float(rng.choice([-1.0, 0.0, 5.0, math.nan, math.inf]))
        request.options.seed = int(rng.integers(-(2**63), 2**63 - 1))
        try:
            made = prepare(Goal(request), camera, transforms, camera.parameters, MODEL, FACTS, placement, "none")
        except RefusedError as error:
            ends[error.code] += 1
        else:
            ends[ErrorCode.OK] += 1
            assert np.isfinite(made.T_world_views).all()
            assert len(made.T_world_views) == made.request.options.num_frames
    print(dict(ends))
    assert sum(ends.values()) == COUNT
    assert {ErrorCode.OK, ErrorCode.INVALID_REQUEST, ErrorCode.NO_TRANSFORM} == set(ends)


@pytest.fixture
def robot_that_stands(client):
    """A camera with a keyframe, in a tree of frames, and a metric placement."""
    transforms = Frames()
    camera = CameraInput(client.node, transforms, parameters_of(client.node, input_wait_s=0.0), lambda _taken: None)
    camera._take_info(camera_info(CAMERA, header()))
    camera._take_image(picture())
    client.until(lambda: camera.newest() is not None)
    yield camera, transforms, place(np.eye(4)[None], (yawed(1, 2, 0) @ base_camera())[None], known_scale=2.0)
    camera.close()
