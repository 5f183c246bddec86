"""What the tasks run, against the networks and the pipeline themselves."""

from dataclasses import replace

import pytest
import torch
from lively import lively_pipeline
from room_clips import VGGT_TINY, write_parts
from true_scenes import true_scene

from gen3r_core.conditioning import LatentShape, Task, fold_time, pack_cameras
from gen3r_core.errors import CheckpointError, InputError
from gen3r_core.evaluation.parts import open_for_evaluation, shape_of
from gen3r_core.evaluation.predictions import Geometry, Stopwatch
from gen3r_core.evaluation.refined import RefinedTask
from gen3r_core.evaluation.tasks import (
    PARTS,
    AdapterTask,
    FeedForwardTask,
    GenerationTask,
    VideoVAETask,
    check_shape,
    load_task,
)
from gen3r_core.execution.profiles import PROFILES
from gen3r_core.jobs import Job, Sampling
from gen3r_core.models.vggt.tokens import pack_tokens, unpack_tokens
from gen3r_core.scene import CameraPath
from gen3r_core.training import vggt
from gen3r_core.training.flow_clips import ClipEncoder, clip_rays
from gen3r_core.training.teachers import Teachers

SIZE = (112, 112)
SAMPLING = Sampling(steps=2, guidance=2.0)


@pytest.fixture(scope="module")
def pipeline():
    return lively_pipeline()


@pytest.fixture(scope="module")
def scenes():
    return [true_scene(row, 5, SIZE) for row in (0, 1)]


def assert_same(geometry, other, limit=1e-5):
    for name in ("depth", "points", "T_cam_world"):
        a, b = getattr(geometry, name), getattr(other, name)
        assert a.dtype == torch.float32
        assert float((a - b).abs().max()) <= limit * float(b.abs().max()), name


def test_the_video_vae_reconstructs_at_the_posteriors_mean(pipeline, scenes):
    made = VideoVAETask(pipeline.video_vae).predict(scenes)
    video = torch.stack([scene.colors for scene in scenes]).transpose(1, 2) * 2 - 1
    with torch.no_grad():
        decoded = pipeline.video_vae.decode(pipeline.video_vae.encode(video).latent_dist.mean).sample
    for prediction, clip in zip(made, decoded, strict=True):
        torch.testing.assert_close(prediction.colors, (clip / 2 + 0.5).clamp(0, 1).transpose(0, 1), atol=1e-4, rtol=0)
        assert prediction.geometry is prediction.vggt is None
        assert prediction.seconds > 0


def test_feed_forward_is_the_pipelines_reconstruction(pipeline, scenes):
    for prediction, scene in zip(FeedForwardTask(pipeline.vggt).predict(scenes), scenes, strict=True):
        assert_same(prediction.geometry, Geometry.of_scene(pipeline.reconstruct(scene.colors)))
        assert prediction.colors is None


@pytest.mark.parametrize("key_squares", [1, 2])
def test_what_is_refined_is_what_feed_forward_says(pipeline, scenes, key_squares):
    scene = replace(scenes[0], colors=scenes[0].colors.mul(255).round().div(255))  # of 8 bits, as clips are
    (found,) = RefinedTask(pipeline.vggt, key_squares=key_squares).predict([scene])
    (plain,) = FeedForwardTask(pipeline.vggt, key_squares=key_squares).predict([scene])
    assert_same(found.vggt, plain.geometry, 1e-4)
    if key_squares > 1:
        (exact,) = FeedForwardTask(pipeline.vggt).predict([scene])
        assert not torch.allclose(exact.geometry.depth, plain.geometry.depth, rtol=1e-4)


def test_a_profile_is_on_while_a_clip_is_generated_only(pipeline, scenes):
    """Its thinned keys change what VGGT sees; the cameras asked for are those of the exact one."""
    scene = true_scene(0, 5, SIZE)
    thin = FeedForwardTask(pipeline.vggt, key_squares=2).predict([scene])[0].geometry
    exact = FeedForwardTask(pipeline.vggt).predict([scene])[0].geometry
    assert not torch.equal(thin.depth, exact.depth)
    made = [
        GenerationTask(pipeline, Task.TWO_VIEW, SAMPLING, lambda _scene: "", profile=PROFILES[name]).predict([scene])[0]
        for name in ("exact", "fast")
    ]
    assert_same(made[1].vggt, exact)
    assert_same(made[1].geometry, made[0].geometry)  # no step is spared without a calibration, and depth is not VGGT's
    assert pipeline.vggt.aggregator.global_blocks[0].attn.merging is None


def test_the_adapters_round_trip(pipeline, scenes):
    """Against the networks' own methods, clip by clip; before it is plain VGGT."""
    task = AdapterTask(pipeline.vggt, pipeline.geometry_adapter)
    plain = FeedForwardTask(pipeline.vggt).predict(scenes)
    for prediction, before, scene in zip(task.predict(scenes), plain, scenes, strict=True):
        assert_same(prediction.vggt, before.geometry)
        with torch.no_grad():
            tokens = pipeline.vggt.aggregate(scene.colors[None])
            mean, _ = pipeline.geometry_adapter.encode(pack_tokens(tokens, (8, 8)))
            returned = pipeline.geometry_adapter.decode(mean)
            layers = unpack_tokens(returned, pipeline.vggt.special_tokens, num_layers=len(tokens))
            depth = pipeline.vggt.decode(layers, SIZE).depth[0]
        torch.testing.assert_close(prediction.geometry.depth, depth, atol=1e-5, rtol=1e-4)
        assert (prediction.geometry.depth - prediction.vggt.depth).abs().max() > 1e-3
        assert prediction.seconds > 0
        assert prediction.vggt_seconds > 0


def test_cameras_are_asked_for_as_in_training(pipeline, scenes):
    """The rays that a generation is given are those that training makes of the same clip."""
    encoder = ClipEncoder(
        Teachers(pipeline.vggt, pipeline.video_vae), pipeline.geometry_adapter, pipeline.image_encoder,
        pipeline.text_encoder, pipeline.tokenizer, text_len=pipeline.transformer.config.text_len, frozen_encoders=True,
    )  # fmt: skip
    task = GenerationTask(pipeline, Task.TWO_VIEW, SAMPLING, lambda scene: scene.caption)
    for scene, plain in zip(scenes, FeedForwardTask(pipeline.vggt).predict(scenes), strict=True):
        path = task._cameras(scene, plain.geometry)
        encoded = encoder.encode(scene.batch())
        assert path.metres_per_unit == pytest.approx(float(encoded.metres_per_unit), rel=1e-5)
        assert abs(path.metres_per_unit - 1) > 1e-2
        trained = clip_rays(encoded, torch.ones(1, dtype=torch.bool))
        own = pipeline.rays(path, scene.colors, LatentShape(5, *SIZE))
        torch.testing.assert_close(fold_time(own[None]), trained, atol=1e-5, rtol=1e-4)
        assert pack_cameras(own[None]).shape[-1] == 2 * trained.shape[-1]


@pytest.mark.parametrize(("task", "frames"), [(Task.ONE_VIEW, 1), (Task.TWO_VIEW, 5), (Task.ALL_VIEW, 1)])
def test_generation_is_the_pipelines(pipeline, task, frames):
    asked = []
    scene = true_scene(0, frames, SIZE)
    model = GenerationTask(pipeline, task, SAMPLING, lambda scene: f"prompt {scene.row}", seed=3)
    (made,) = model.predict([scene], callback=lambda progress: asked.append(progress.stage))
    scale = model._cameras(scene, made.vggt).metres_per_unit if task is not Task.ALL_VIEW else 1.0
    cameras = CameraPath(scene.T_world_cam, scene.intrinsics, SIZE, scale)
    job = Job(scene.colors, task, "prompt 0", cameras, seed=3 + scene.place)
    expected = pipeline.generate(job, Sampling(num_frames=frames, size=SIZE, steps=2, guidance=2.0))
    torch.testing.assert_close(made.colors, expected.colors.movedim(-1, 1))
    assert_same(made.geometry, Geometry.of_scene(expected))
    assert made.prompt == "prompt 0"
    assert asked.count("denoise") == 3
    assert made.seconds > made.vggt_seconds > 0


def test_a_batch_gives_what_single_clips_give_and_warming_up_is_short(pipeline):
    scenes = [true_scene(row, 1, SIZE) for row in (0, 1)]
    model = GenerationTask(pipeline, Task.ONE_VIEW, Sampling(steps=3, guidance=1.0), lambda scene: scene.caption)
    both = model.predict(scenes)
    for scene, prediction in zip(scenes, both, strict=True):
        alone = model.predict([scene])[0]
        torch.testing.assert_close(prediction.colors, alone.colors, atol=1e-4, rtol=0)
        assert_same(prediction.geometry, alone.geometry, 1e-4)
    steps = []
    model.predict(scenes[:1], warm_up=True, callback=lambda progress: steps.append((progress.stage, progress.total)))
    assert ("denoise", 2) in steps


def test_clips_without_cameras_are_generated_without(pipeline):
    scene = true_scene(0, 1, SIZE, cameras=False, depth=False)
    model = GenerationTask(pipeline, Task.ONE_VIEW, SAMPLING, lambda _scene: "")
    assert model._cameras(scene, None) == "free"
    assert model.predict([scene])[0].colors.shape == (1, 3, *SIZE)


def test_a_stopwatch_adds_up():
    watch = Stopwatch(torch.device("cpu"))
    with watch.running():
        pass
    first = watch.seconds
    with watch.running():
        sum(range(10000))
    assert watch.seconds > first >= 0


# --- what is loaded ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A folder with VGGT, video VAE and adapter as trainings leave them."""
    return write_parts(tmp_path_factory.mktemp("run"))


def load(name, checkpoint):
    return load_task(name, checkpoint, SAMPLING, lambda _scene: "", device=torch.device("cpu"), dtype=None)


def test_only_what_a_task_needs_is_opened(parts, scenes, tmp_path):
    kinds = {"vae": VideoVAETask, "adapter": AdapterTask, "feedforward": FeedForwardTask, "refined": RefinedTask}
    for name, kind in kinds.items():
        task = load(name, open_for_evaluation(parts))
        assert isinstance(task, kind)
        assert len(task.predict(scenes[:1])) == 1
    only = open_for_evaluation(None, [("video_vae", parts / "video_vae")])
    assert list(only.components) == ["video_vae"]
    assert isinstance(load("vae", only), VideoVAETask)
    assert list(open_for_evaluation(parts / "vggt").components) == ["vggt"]
    with pytest.raises(CheckpointError, match="has no transformer"):
        load("1view", open_for_evaluation(parts))
    assert set(PARTS) == {"vae", "adapter", "feedforward", "refined", *Task}


def test_a_part_takes_the_place_of_the_checkpoints_own(parts, tmp_path):
    vggt.from_config({"config": VGGT_TINY, "seed": 5}, "cpu").export(tmp_path / "vggt")
    checkpoint = open_for_evaluation(parts, [("vggt", tmp_path / "vggt")])
    assert checkpoint.component("vggt").path == tmp_path / "vggt"
    assert checkpoint.component("video_vae").path == parts / "video_vae"


def test_folders_that_hold_nothing(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        open_for_evaluation(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        open_for_evaluation(tmp_path)
    with pytest.raises(InputError, match="part 'vgg' is unknown; choose among"):
        open_for_evaluation(None, [("vgg", tmp_path)])


def test_frames_and_size(parts):
    loose = open_for_evaluation(parts)
    assert shape_of(loose, 9, (112, 224)) == (9, (112, 224))
    with pytest.raises(InputError, match="nothing says for how many frames and which size these parts are; give"):
        shape_of(loose, 9, None)
    check_shape("feedforward", 6, (28, 42))
    check_shape("refined", 6, (28, 42))
    check_shape("vae", 5, (64, 64))
    for name, frames, size in (("vae", 6, (64, 64)), ("adapter", 4, (112, 112)), ("1view", 6, (112, 112)),
                               ("2view", 5, (100, 112))):  # fmt: skip
        with pytest.raises(InputError, match=r"4k\+1|multiples of 112"):
            check_shape(name, frames, size)
