"""Geometry that VGGT reads from the generated frames, with the cameras and in the unit of the latents."""

from dataclasses import replace

import pytest
import torch
from lively import assert_scenes_close, lively_pipeline
from scene_equality import identical

from gen3r_core.conditioning import Task
from gen3r_core.decoding import assemble_scene, fit_to_latents
from gen3r_core.errors import InputError
from gen3r_core.execution.levels import LEVELS
from gen3r_core.geometry.cameras import decode_pose_encoding
from gen3r_core.geometry.images import resize_and_crop
from gen3r_core.geometry.unprojection import unproject_depth
from gen3r_core.jobs import Job, Sampling
from gen3r_core.models.vggt import VGGTPrediction
from gen3r_core.progress import JobMonitor
from gen3r_core.scene import CameraPath

LATENTS = Sampling(steps=1, size=(112, 112), guidance=1.0, point_map=True)
FRAMES = replace(LATENTS, geometry="frames")
OF_LATENTS = ("colors", "T_cam_world", "intrinsics", "observed")
LEVEL = {level.name: level for level in LEVELS}


@pytest.fixture(scope="module")
def pipeline():
    """Shared by tests: put back what you change."""
    return lively_pipeline()


def images(count=5, height=90, width=130, seed=0):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def job(task=Task.TWO_VIEW, **values):
    return Job(**{"images": images(), "task": task, "prompt": "a room", "cameras": "arc_left"} | values)


def as_read(pipeline, scene, asked):
    """What VGGT says of a job's frames, the given ones as they were given."""
    frames = scene.colors.permute(0, 3, 1, 2).clone()
    given = resize_and_crop(asked.images, (112, 112))[0]
    known = asked.task.known_frames(5)
    frames[known] = given[[0, -1]] if asked.task is Task.TWO_VIEW else given[: len(known)]
    with torch.no_grad():
        return pipeline.vggt(frames[None])


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def encodings(seed):
    """``[1, 3, 9]``: cameras that look about, fields of view of one radian."""
    quaternion = torch.tensor([0.0, 0, 0, 1]) + 0.2 * random(1, 3, 4, seed=seed)
    return torch.cat([random(1, 3, 3, seed=seed + 1), quaternion, torch.ones(1, 3, 2)], dim=-1)


# --- one scene in two worlds -----------------------------------------------------------------------------


def test_depth_gets_the_unit_of_the_latents_and_points_keep_their_place_before_the_camera():
    size = (28, 42)
    depth, own, wanted = 1 + random(1, 3, *size), encodings(1), encodings(5)
    cameras, intrinsics = decode_pose_encoding(own[0], size)
    points = unproject_depth(depth[0], cameras, intrinsics)[None]
    sure, surer = 1 + random(1, 3, *size, seed=7), 1 + random(1, 3, *size, seed=8)
    prediction = VGGTPrediction(own, depth, sure, points, surer, (own,))
    of_latents = 2.5 * depth
    of_latents[:, 0] = 100 * depth[:, 0]  # a frame that is wrong altogether does not move the median
    of_latents[:, 1, 0, 0] = torch.nan
    found = fit_to_latents(prediction, wanted, of_latents)
    torch.testing.assert_close(found.depth, 2.5 * depth)
    assert torch.equal(found.pose_encoding, wanted)
    assert torch.equal(found.depth_confidence, sure)
    assert torch.equal(found.points_confidence, surer)
    expected = unproject_depth(2.5 * depth[0], decode_pose_encoding(wanted[0], size)[0], intrinsics)
    torch.testing.assert_close(found.points[0], expected, atol=1e-4, rtol=1e-4)
    without = fit_to_latents(replace(prediction, points=None, points_confidence=None), wanted, of_latents)
    assert without.points is without.points_confidence is None
    assert torch.equal(without.depth, found.depth)


# --- jobs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [Task.ONE_VIEW, Task.TWO_VIEW])
def test_vggt_reads_all_frames_those_that_were_given_as_they_were_given(pipeline, task):
    asked = job(task)
    plain = pipeline.generate(asked, LATENTS)
    scene = pipeline.generate(asked, FRAMES)
    for name in OF_LATENTS:
        assert torch.equal(getattr(scene, name), getattr(plain, name)), name
    seen = as_read(pipeline, scene, asked)
    scale = (plain.depth / seen.depth[0]).median()
    torch.testing.assert_close(scene.depth, seen.depth[0] * scale)
    assert torch.equal(scene.depth_confidence, seen.depth_confidence[0])
    assert (plain.depth / scene.depth).median() == pytest.approx(1, rel=1e-4)
    torch.testing.assert_close(scene.points, unproject_depth(scene.depth, scene.T_cam_world, scene.intrinsics))
    assert not torch.allclose(scene.depth, plain.depth, rtol=1e-3)


@pytest.mark.parametrize(("task", "cameras"), [(Task.TWO_VIEW, "free"), (Task.ALL_VIEW, "arc_left")])
def test_without_a_path_all_of_it_is_vggts(pipeline, task, cameras):
    """A path is ignored where all frames are given."""
    asked, monitor = job(task, cameras=cameras), JobMonitor()
    scene = pipeline.generate(asked, FRAMES, monitor=monitor)
    assert torch.equal(scene.colors, pipeline.generate(asked, LATENTS).colors)
    expected = assemble_scene(as_read(pipeline, scene, asked), scene.colors, scene.observed, limit_depth=True)
    assert_scenes_close(scene, expected, 1e-6)
    assert list(monitor.seconds)[-2:] == ["video_decode", "vggt"]
    assert "geometry" not in monitor.seconds


def test_one_frame(pipeline):
    scene = pipeline.generate(job(Task.ONE_VIEW), replace(FRAMES, num_frames=1))
    assert scene.depth.shape == (1, 112, 112)
    assert scene.depth.isfinite().all()


def test_a_batch_equals_its_jobs(pipeline):
    path = CameraPath(torch.eye(4).expand(5, 4, 4), torch.eye(3).expand(5, 3, 3), (90, 130), 2.0)
    jobs = [job(seed=1, cameras=path), job(seed=2, images=images(seed=3))]
    together = pipeline.generate_batch(jobs, FRAMES)
    assert [scene.metres_per_unit for scene in together] == [2.0, None]
    for scene, one in zip(together, jobs, strict=True):
        assert_scenes_close(scene, pipeline.generate(one, FRAMES))


def test_it_is_a_stage_of_its_own(pipeline):
    seen = []
    monitor = JobMonitor(seen.append)
    pipeline.generate(job(), replace(FRAMES, num_frames=1), monitor=monitor)
    assert list(monitor.seconds)[-3:] == ["geometry", "video_decode", "vggt"]
    assert [(report.step, report.total) for report in seen if report.stage == "vggt"] == [(0, 1), (1, 1)]


@pytest.mark.parametrize(("name", "limit"), [("components", 0.0), ("streamed", 1e-3)])
def test_at_other_levels(pipeline, name, limit):
    sampling = replace(FRAMES, num_frames=1)
    expected = pipeline.generate(job(), sampling)
    pipeline.placement.change(LEVEL[name])
    try:
        scene = pipeline.generate(job(), sampling)
    finally:
        pipeline.placement.change(LEVELS[0])
    assert_scenes_close(scene, expected, limit)


def test_memory_that_runs_out(pipeline):
    sampling, asked, calls = replace(FRAMES, num_frames=1), job(cameras="free"), []

    def full(*_):
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    expected = pipeline.generate(asked, sampling)
    hook, monitor = pipeline.vggt.aggregator.register_forward_pre_hook(full), JobMonitor()
    try:
        scene = pipeline.generate(asked, sampling, monitor=monitor)
    finally:
        hook.remove()
        pipeline.placement.change(LEVELS[0])
    assert identical(scene, expected)
    assert monitor.lowered == ["vggt: prompts"]


def test_another_word_is_refused_before_anything_is_done(pipeline):
    seen = []
    with pytest.raises(InputError, match="geometry is taken from latents or frames, got 'pictures'"):
        pipeline.generate(job(), replace(LATENTS, geometry="pictures"), callback=seen.append)
    assert seen == []
