"""The pipeline as a whole: tasks, seeds, batches, guidance, prompts, progress."""

from dataclasses import replace

import pytest
import torch
from lively import assert_scenes_close, lively_pipeline

from gen3r_core.conditioning import LatentShape, Task
from gen3r_core.errors import CancelledError
from gen3r_core.geometry.unprojection import unproject_depth
from gen3r_core.jobs import Job, Noise, Sampling
from gen3r_core.progress import JobMonitor
from gen3r_core.prompts import PromptCache

QUICK = Sampling(steps=2, size=(112, 112), point_map=True)
STILL = replace(QUICK, num_frames=1)
STAGES = ["text", "image", "cameras", "video_encode", "denoise", "geometry", "video_decode"]


@pytest.fixture(scope="module")
def pipeline():
    """Shared by tests: put back what you change."""
    return lively_pipeline()


@pytest.fixture(scope="module")
def usual(pipeline):
    """What ``job()`` gives."""
    return pipeline.generate(job(), QUICK)


@pytest.fixture(scope="module")
def still(pipeline):
    """The same of one frame, where time is not the matter."""
    return pipeline.generate(job(), STILL)


@pytest.fixture(scope="module")
def unguided(pipeline):
    """One frame without guidance."""
    return pipeline.generate(job(), replace(STILL, guidance=1.0))


def images(count=5, height=112, width=112, seed=0):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def job(task=Task.TWO_VIEW, **values):
    return Job(**{"images": images(), "task": task, "prompt": "a room"} | values)


def same(a, b):
    names = ("colors", "depth", "depth_confidence", "points", "point_map", "valid", "intrinsics", "T_cam_world")
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)


def check_scene(scene, frames, size, observed):
    """What the docstring of Scene promises."""
    assert len(scene) == frames
    assert scene.image_size == size
    maps = dict.fromkeys(("depth", "depth_confidence", "point_map_confidence", "valid"), size)
    vectors = dict.fromkeys(("colors", "points", "point_map"), (*size, 3))
    cameras = {"intrinsics": (3, 3), "T_cam_world": (4, 4), "observed": ()}
    for name, shape in (maps | vectors | cameras).items():
        value = getattr(scene, name)
        assert value.shape == (frames, *shape), name
        assert value.dtype == (torch.bool if name in {"valid", "observed"} else torch.float32), name
        assert torch.isfinite(value.float()).all(), name
    assert scene.colors.min() >= 0
    assert scene.colors.max() <= 1
    assert scene.depth_confidence.min() >= 1
    assert scene.point_map_confidence.min() >= 1
    assert scene.valid.float().mean() > 0.5
    assert scene.observed.nonzero().flatten().tolist() == observed
    torch.testing.assert_close(scene.points, unproject_depth(scene.depth, scene.T_cam_world[:, :3], scene.intrinsics))
    unit = scene.T_world_cam @ scene.T_cam_world
    torch.testing.assert_close(unit, torch.eye(4).expand_as(unit), atol=1e-5, rtol=0)


# --- tasks, sizes, frame counts --------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "observed"), [(Task.ONE_VIEW, [0]), (Task.ALL_VIEW, [0, 1, 2, 3, 4])])
def test_tasks(pipeline, usual, task, observed):
    scene = pipeline.generate(job(task), QUICK)
    check_scene(scene, 5, (112, 112), observed)
    assert not same(scene, usual)


def test_first_and_last_frame(usual):
    check_scene(usual, 5, (112, 112), [0, 4])


def test_a_task_by_its_name(pipeline, usual):
    assert same(pipeline.generate(job("2view"), QUICK), usual)


@pytest.mark.parametrize("size", [(112, 224), (224, 112)])
def test_sizes_that_are_not_square(pipeline, size):
    scene = pipeline.generate(job(images=images(2, 150, 170), cameras="arc_left"), replace(QUICK, size=size))
    check_scene(scene, 5, size, [0, 4])
    # Nothing looks at one side for the other: the centre of the image is the principal point.
    torch.testing.assert_close(scene.intrinsics[:, 0, 2], torch.full((5,), size[1] / 2))
    torch.testing.assert_close(scene.intrinsics[:, 1, 2], torch.full((5,), size[0] / 2))


@pytest.mark.parametrize(("task", "frames"), [("1view", 1), ("2view", 1), ("allview", 1), ("2view", 9), ("allview", 9)])
def test_frame_counts(pipeline, task, frames):
    scene = pipeline.generate(job(task, images=images(9)), replace(QUICK, num_frames=frames))
    check_scene(scene, frames, (112, 112), Task(task).known_frames(frames))


def test_images_are_resized_to_cover_and_cropped(pipeline):
    """The middle of a wide image decides; what is cut off does not."""
    wide = images(2, 112, 224)
    expected = pipeline.generate(job(images=wide[..., 56:168]), STILL)
    assert same(pipeline.generate(job(images=wide), STILL), expected)


def test_only_the_images_of_the_task_are_used(pipeline, usual):
    others = images()
    others[1:-1] = 0
    assert same(pipeline.generate(job(images=others), QUICK), usual)
    others[-1] = 0
    assert not same(pipeline.generate(job(images=others), QUICK), usual)


@pytest.mark.parametrize(("count", "frames"), [(4, 1), (8, 5)])
def test_allview_with_other_counts_of_images(pipeline, count, frames):
    """By default the largest 4k+1 that the images fill, at most the model's own."""
    scene = pipeline.generate(job(Task.ALL_VIEW, images=images(count)), QUICK)
    check_scene(scene, frames, (112, 112), list(range(frames)))


def test_depth_limits(pipeline, usual):
    wide = pipeline.generate(job(), replace(QUICK, limit_depth=False))
    assert torch.equal(wide.depth, usual.depth)
    assert wide.valid.all()
    assert 0.97 < usual.valid.float().mean() < 0.99


def test_feed_forward_reconstruction(pipeline):
    given = images(3, 70, 98)
    scene = pipeline.reconstruct(given, point_map=True)
    check_scene(scene, 3, (70, 98), [0, 1, 2])
    torch.testing.assert_close(scene.colors, given.permute(0, 2, 3, 1))
    prediction = pipeline.vggt(given[None])
    torch.testing.assert_close(scene.depth, prediction.depth[0])
    torch.testing.assert_close(scene.point_map, prediction.points[0])
    torch.testing.assert_close(scene.point_map_confidence, prediction.points_confidence[0])
    seen = []
    monitor = JobMonitor(seen.append)
    pipeline.reconstruct(given[:1], limit_depth=False, attention="math", monitor=monitor)
    assert [(report.stage, report.step) for report in seen] == [("vggt", 0), ("vggt", 1)]
    assert monitor.seconds["vggt"] > 0


# --- the point map, where asked for ----------------------------------------------------------------------


def head_runs(pipeline, make):
    """What is made, and how often the point head ran."""
    calls = []
    hook = pipeline.vggt.point_head.register_forward_hook(lambda *_: calls.append(1))
    try:
        return make(), len(calls)
    finally:
        hook.remove()


def check_but_for_the_point_map(plain, whole):
    """Everything else is the same bit for bit."""
    assert plain.point_map is None
    assert plain.point_map_confidence is None
    assert whole.point_map is not None
    assert whole.point_map_confidence is not None
    for name in sorted(set(vars(whole)) - {"point_map", "point_map_confidence", "metres_per_unit"}):
        assert torch.equal(getattr(plain, name), getattr(whole, name)), name
    assert plain.metres_per_unit == whole.metres_per_unit


@pytest.mark.parametrize(("geometry", "cameras"), [("latents", "arc_left"), ("frames", "arc_left"), ("frames", "free")])
def test_the_point_head_is_run_only_where_asked_for(pipeline, geometry, cameras):
    asked, sampling = job(cameras=cameras), replace(STILL, steps=1, geometry=geometry)
    whole, runs = head_runs(pipeline, lambda: pipeline.generate(asked, sampling))
    assert runs == 1
    plain, runs = head_runs(pipeline, lambda: pipeline.generate(asked, replace(sampling, point_map=False)))
    assert runs == 0
    check_but_for_the_point_map(plain, whole)


def test_a_reconstruction_runs_the_point_head_only_where_asked_for(pipeline):
    given = images(3, 70, 98)
    whole, runs = head_runs(pipeline, lambda: pipeline.reconstruct(given, point_map=True))
    assert runs == 1
    plain, runs = head_runs(pipeline, lambda: pipeline.reconstruct(given))
    assert runs == 0
    check_but_for_the_point_map(plain, whole)


def test_no_point_map_is_asked_for_by_default(pipeline):
    assert not Sampling().point_map
    assert not pipeline.sampling.point_map


# --- seeds and batches -----------------------------------------------------------------------------------


def test_seeds(pipeline, usual):
    again, other = (pipeline.generate(job(seed=seed), QUICK) for seed in (42, 43))
    assert same(again, usual)
    assert (other.depth - usual.depth).abs().max() > 0.01
    assert (other.colors - usual.colors).abs().max() > 0.01


def test_the_global_generator_is_neither_used_nor_moved(pipeline, usual):
    torch.manual_seed(1)
    assert same(pipeline.generate(job(), QUICK), usual)
    after = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), after)


def test_the_posterior_is_drawn_from_the_seed_too(pipeline, usual):
    shape = LatentShape(5, 112, 112)
    noise = Noise.draw(42, 16, shape)
    assert noise.latents.shape == (16, 2, 14, 28)
    assert noise.posterior.shape == (16, 2, 14, 14)
    assert same(pipeline.generate(job(seed=0), QUICK, noise=noise), usual)
    still = replace(noise, posterior=torch.zeros_like(noise.posterior))
    assert not same(pipeline.generate(job(), QUICK, noise=still), usual)


@pytest.mark.parametrize(("guidance", "frames"), [(1.0, 1), (5.0, 5)])
def test_a_batch_equals_its_jobs(pipeline, guidance, frames):
    sampling = replace(QUICK, steps=1, guidance=guidance, num_frames=frames)
    jobs = [
        job(prompt="a room", seed=1),
        job(prompt="the sea at night", seed=2, images=images(3, 90, 130, seed=5), cameras="zoom_in"),
        job(prompt=torch.randn(4, 32, generator=torch.Generator().manual_seed(0)), seed=3, cameras="arc_right"),
    ]
    together = pipeline.generate_batch(jobs, sampling)
    assert len(together) == 3
    for scene, one in zip(together, jobs, strict=True):
        assert_scenes_close(scene, pipeline.generate(one, sampling))
    assert not same(together[0], together[1])


# --- guidance, prompts, schedulers -----------------------------------------------------------------------


def batch_sizes(pipeline, sampling):
    sizes = []
    hook = pipeline.transformer.register_forward_hook(lambda _m, _a, out: sizes.append(len(out)))
    try:
        scene = pipeline.generate(job(), sampling)
    finally:
        hook.remove()
    return sizes, scene


def test_guidance(pipeline, still, unguided):
    guided, strong = batch_sizes(pipeline, STILL)
    alone, plain = batch_sizes(pipeline, replace(STILL, guidance=0.5))
    assert guided == [2, 2]
    assert alone == [1, 1]
    assert same(strong, still)
    assert same(plain, unguided)
    assert not same(strong, plain)
    # A weight just above one gives the conditional prediction but for the last bits.
    hardly, almost = batch_sizes(pipeline, replace(STILL, guidance=1.0 + 1e-7))
    assert hardly == [2, 2]
    assert_scenes_close(almost, unguided, 1e-3)


def test_guidance_leads_away_from_the_negative_prompt(pipeline, unguided):
    """With the prompt as the negative prompt, both predictions agree and the weight does not matter."""
    same_prompt, other = (
        pipeline.generate(job(), replace(STILL, guidance=3.0, negative_prompt=text)) for text in ("a room", "a sea")
    )
    assert_scenes_close(same_prompt, unguided, 1e-3)
    assert (other.depth - unguided.depth).abs().max() > 0.01


def test_cached_prompts_equal_the_encoders(pipeline, still):
    prompt, negative = pipeline.embed(["a room", "bad detailed"])
    as_tensors = replace(STILL, negative_prompt=negative)
    assert same(pipeline.generate(job(prompt=prompt), as_tensors), still)
    encoder, pipeline.text_encoder = pipeline.text_encoder, None
    known, pipeline.prompts = pipeline.prompts, PromptCache({"a room": prompt, "bad detailed": negative})
    try:
        assert same(pipeline.generate(job(), STILL), still)
    finally:
        pipeline.text_encoder, pipeline.prompts = encoder, known


def test_each_prompt_is_encoded_once(pipeline):
    calls = []
    hook = pipeline.text_encoder.register_forward_hook(lambda *seen: calls.append(tuple(seen[1][0].shape)))
    try:
        for _ in range(2):
            pipeline.embed(["something new", "something else", "something new"])
    finally:
        hook.remove()
    assert calls == [(2, 16)]


@pytest.mark.parametrize("scheduler", ["unipc", "dpm++"])
def test_other_schedulers(pipeline, still, scheduler):
    scene = pipeline.generate(job(), replace(STILL, scheduler=scheduler))
    check_scene(scene, 1, (112, 112), [0])
    shifted = pipeline.generate(job(), replace(STILL, scheduler=scheduler, shift=1.5))
    assert not same(scene, still)
    assert not same(shifted, scene)


def test_the_attention_kernel_can_be_chosen(pipeline, still):
    assert_scenes_close(pipeline.generate(job(), replace(STILL, attention="math")), still, 1e-3)


# --- progress --------------------------------------------------------------------------------------------


def test_reports_come_in_order_with_the_right_totals(pipeline):
    seen = []
    monitor = JobMonitor(seen.append)
    pipeline.generate(job(), replace(QUICK, steps=3), monitor=monitor)
    expected = []
    for stage in STAGES:
        total = 3 if stage == "denoise" else 1
        expected += [(stage, step, total) for step in range(total + 1)]
    assert [(report.stage, report.step, report.total) for report in seen] == expected
    assert list(monitor.seconds) == STAGES
    assert all(seconds > 0 for seconds in monitor.seconds.values())


@pytest.mark.parametrize("stage", STAGES)
def test_cancelling_stops_within_the_step(pipeline, stage):
    seen = []

    def cancel(report):
        seen.append(report)
        return None if report.stage != stage else False

    with pytest.raises(CancelledError, match=f"cancelled during {stage} after step 0 of "):
        pipeline.generate(job(), QUICK, callback=cancel)
    assert seen[-1].stage == stage


def test_cancelling_within_denoising(pipeline):
    calls = []
    hook = pipeline.transformer.register_forward_hook(lambda *_: calls.append(1))
    try:
        with pytest.raises(CancelledError, match="cancelled during denoise after step 2 of 9"):
            pipeline.generate(job(), replace(QUICK, steps=9), callback=lambda r: (r.stage, r.step) != ("denoise", 2))
    finally:
        hook.remove()
    assert len(calls) == 2
