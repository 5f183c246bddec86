"""The scene: what goes into its map, and which placement goal paths are given."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from camera_tracks import arc, as_modelled

from gen3r_core.geometry.sim3 import Sim3
from gen3r_core.reconstruction.keyframes import Keyframe, Verdict
from gen3r_core.serving.results import SceneResult
from gen3r_core.serving.shared import SharedArrays, write_block
from gen3r_ros.camera_image import CameraImage
from gen3r_ros.conversions.cameras import CameraModel
from gen3r_ros.scene import Scene

CAMERA = CameraModel(np.array([[100.0, 0, 60], [0, 100.0, 45], [0, 0, 1]]), (90, 120))
WORLD = arc(4)
MODEL = as_modelled(WORLD, Sim3(2.0, np.eye(3), np.zeros(3)))


def result(poses, points=10, observed=True, seed=0):
    """A scene of the worker whose points all belong to the last view."""
    count = len(poses)
    rng = np.random.default_rng(seed)
    flags = np.full(count, True)
    flags[-1] = observed
    descriptor, layout = write_block(
        {
            "T_world_cam": poses.astype(np.float32),
            "observed": flags,
            "points": rng.uniform(-1, 1, (points, 3)).astype(np.float32),
            "point_colors": rng.integers(0, 256, (points, 3), dtype=np.uint8),
            "point_confidence": np.ones(points, np.float32),
            "point_view": np.full(points, count - 1, dtype=np.int32),
        }
    )
    return SceneResult(SharedArrays(descriptor, layout), "model")


def window(poses, why=""):
    return tuple(
        Keyframe(index + 1, CameraImage(None, CAMERA, "cam", why), T, None, Verdict.MOVED)
        for index, T in enumerate(poses)
    )


class MapTopic:
    """Counts what would be published."""

    def __init__(self):
        self.listeners, self.stamps = 0, []

    def wants_map(self):
        return self.listeners > 0

    def map(self, points, stamp_ns):
        self.stamps.append((len(points.observed), stamp_ns))


@pytest.fixture
def scene():
    return Scene(0.01, 1000)


def test_metric_revisions_add_up_in_the_map(scene):
    first = scene.reconstructed(window(WORLD), result(MODEL), 0.0, 1.5)
    assert (first.number, first.model, first.seconds, first.generated) == (1, "model", 1.5, None)
    assert first.placement.metres_per_unit == pytest.approx(2.0, rel=1e-4)
    np.testing.assert_allclose(first.poses, WORLD, atol=1e-4)
    assert (len(first.observed.xyz), len(scene.map), scene.map_metric) == (10, 10, True)
    second = scene.reconstructed(window(WORLD), result(MODEL, seed=1), 0.0, 1.0)
    assert (second.number, second.scene_id) == (2, first.scene_id)
    assert len(scene.map) == 20
    scene.begin()
    assert (len(scene.map), scene.revision, scene.metric_placement) == (0, 0, None)
    assert scene.name != first.scene_id


def test_revisions_without_metres_replace_each_other_and_never_a_metric_map(scene):
    unknown = window([None] * 4, "TF is silent")
    revision = scene.reconstructed(unknown, result(MODEL), 0.0, 1.0)
    assert revision.placement.reason.endswith(": TF is silent")
    assert (len(scene.map), scene.map_metric, scene.metric_placement) == (10, False, None)
    scene.reconstructed(unknown, result(MODEL, points=7, seed=1), 0.0, 1.0)
    assert len(scene.map) == 7
    metric = scene.reconstructed(window(WORLD), result(MODEL), 0.0, 1.0)
    assert (len(scene.map), scene.map_metric) == (10, True)
    scene.reconstructed(unknown, result(MODEL, seed=3), 0.0, 1.0)
    assert (len(scene.map), scene.map_metric) == (10, True)
    assert scene.metric_placement is metric.placement
    assert scene.placement is not metric.placement


def test_generated_points_never_enter_the_observed_map(scene):
    scene.predicted(window(WORLD[:1]), result(MODEL, observed=False), WORLD, 2.0, 1.0)
    assert len(scene.map) == 0  # nothing observed that they could stand beside
    scene.reconstructed(window(WORLD), result(MODEL), 0.0, 1.0)
    made = scene.predicted(window(WORLD[:1]), result(MODEL, observed=False, seed=1), WORLD, 2.0, 1.0)
    assert (made.observed, len(made.generated.xyz), len(made.poses)) == (None, 10, 1)
    assert (len(scene.map.observed), len(scene.map.generated)) == (10, 10)
    assert len(scene.saved_map(include_generated=False).points.points) == 10
    saved = scene.saved_map(include_generated=True)
    assert (len(saved.points.points), saved.metric, saved.name) == (20, True, f"{scene.name}-3")
    assert saved.points.generated.sum() == 10


def test_a_saved_map_has_the_keyframes_that_are_still_there(scene):
    first, second = window(WORLD), window([None] * 4, "TF is silent")
    scene.reconstructed(second, result(MODEL), 0.0, 1.0)
    assert [one.stamp_ns for one, _ in scene.saved_map(include_generated=False).keyframes] == [1, 2, 3, 4]
    assert "TF is silent" in scene.saved_map(include_generated=False).reason
    scene.reconstructed(first, result(MODEL), 0.0, 1.0)  # metric: the others' unit was another one
    saved = scene.saved_map(include_generated=False)
    assert all(one is other for (one, _), other in zip(saved.keyframes, first, strict=True))
    np.testing.assert_allclose(np.stack([T for _, T in saved.keyframes]), WORLD, atol=1e-4)
    assert (saved.model, saved.reason) == ("model", "scale and place from TF")
    scene.reconstructed(second, result(MODEL), 0.0, 1.0)  # which does not enter the map
    assert scene.saved_map(include_generated=False).keyframes[0][0] is first[0]
    del saved, first
    assert scene.saved_map(include_generated=False).keyframes == ()
    scene.begin()
    assert scene.saved_map(include_generated=False).model == ""


def test_a_prediction_whose_cameras_tell_no_scale_has_that_of_the_request(scene):
    still = np.repeat(WORLD[:1], 4, axis=0)
    made = scene.predicted(window(WORLD[:1]), result(np.tile(np.eye(4), (4, 1, 1))), still, 3.0, 1.0)
    assert made.placement.metres_per_unit == 3.0
    astray = scene.predicted(window(WORLD[:1]), result(np.tile(np.eye(4), (4, 1, 1))), WORLD * 1.0, 3.0, 1.0)
    assert not astray.placement.metric
    assert "does not fit" in astray.placement.reason


def test_why_the_images_did_not_tell_the_scale_is_said_too(scene):
    made = result(np.tile(np.eye(4), (4, 1, 1)))
    made = replace(made, not_fitted="there is too little to see")
    placement = scene.reconstructed(window(WORLD), made, 0.0, 1.0).placement
    assert not placement.metric
    assert placement.reason.endswith("; and there is too little to see")


def test_the_map_goes_out_when_it_changed_and_somebody_listens(scene):
    topic = MapTopic()
    scene.reconstructed(window(WORLD), result(MODEL), 0.0, 1.0)
    scene.publish_map(topic, 0.0)
    assert topic.stamps == []
    topic.listeners = 1
    scene.publish_map(topic, 0.0)
    scene.publish_map(topic, 0.0)
    assert topic.stamps == [(10, 4)]
    scene.reconstructed(window(WORLD), result(MODEL, seed=1), 0.0, 1.0)
    scene.publish_map(topic, 100.0)
    assert len(topic.stamps) == 1
    scene.publish_map(topic, 0.0)
    assert topic.stamps[-1] == (20, 4)


def test_a_new_scene_empties_a_map_that_was_published(scene):
    topic = MapTopic()
    scene.begin()
    scene.publish_map(topic, 0.0)
    assert topic.stamps == []  # there is none to take back
    topic.listeners = 1
    scene.reconstructed(window(WORLD), result(MODEL), 0.0, 1.0)
    scene.publish_map(topic, 0.0)
    topic.listeners = 0
    scene.begin()
    scene.publish_map(topic, 100.0)
    scene.publish_map(topic, 0.0)
    assert topic.stamps == [(10, 4), (0, 4)]  # for who comes later, too
    earlier = window(WORLD)[:2]  # time was set back
    scene.reconstructed(earlier, result(MODEL[:2]), 2.0, 1.0)
    topic.listeners = 1
    scene.publish_map(topic, 0.0)
    assert topic.stamps[-1][1] == 2
