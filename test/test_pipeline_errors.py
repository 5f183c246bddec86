"""What the pipeline refuses, and what it says."""

from dataclasses import replace

import pytest
import torch
from lively import lively_pipeline

from gen3r_core.checkpoint.folder import SCHEDULER_DEFAULTS
from gen3r_core.conditioning import Task
from gen3r_core.devices import memory_errors
from gen3r_core.errors import CheckpointError, DeviceError, InputError
from gen3r_core.jobs import Job, Noise, Sampling
from gen3r_core.models.transformer import CameraTransformer
from gen3r_core.pipeline import Gen3RPipeline
from gen3r_core.prompts import PromptCache
from gen3r_core.sizes import SIZES, random_pipeline

QUICK = Sampling(steps=1, size=(112, 112))
IMAGES = torch.zeros(5, 3, 112, 112)
PARTS = ("transformer", "video_vae", "geometry_adapter", "vggt", "image_encoder", "text_encoder")


@pytest.fixture(scope="module")
def pipeline():
    """Shared by tests: put back what you change."""
    return lively_pipeline()


def job(task=Task.TWO_VIEW, **values):
    return Job(**{"images": IMAGES, "task": task} | values)


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ([], "no job was given"),
        ([job(), job("1view")], "jobs of a batch must have one task, got 1view, 2view"),
        ([job("3view")], "'3view' is not a valid Task; choose one of: 1view, 2view, allview"),
        ([job(), job(images=IMAGES[0])], r"images of job 1 must have shape \[N, 3, H, W\], .* got \(3, 112, 112\)"),
        ([job(images=IMAGES[:, :2])], r"images of job 0 must have shape .*got \(5, 2, 112, 112\)"),
        ([job(images=IMAGES[:0])], r"images of job 0 must have shape .*N at least 1, got \(0, 3, 112, 112\)"),
        ([job(images=IMAGES.byte())], r"floating point in \[0, 1\], got torch.uint8; divide 8-bit images by 255"),
        ([job(images=IMAGES[:1])], "task 2view needs 2 images, got 1"),
        ([job(seed=-1)], "seeds are whole numbers from 0 to 9223372036854775807, got -1"),
        ([job(seed=2**63)], "seeds are whole numbers from 0 to"),
        ([job(prompt=torch.zeros(4, 31))], r"prompt embedding 0 has shape \(4, 31\).*made for another checkpoint"),
        ([job(prompt=torch.zeros(49, 32))], r"prompt embedding 0 has shape \(49, 32\); .*at most 48, 32"),
    ],
)
def test_jobs(pipeline, jobs, message):
    with pytest.raises(InputError, match=message):
        pipeline.generate_batch(jobs, QUICK)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_frames": 6}, r"must be 4k\+1 \(1, 5, 9, ...\), got 6; the nearest are 5 and 9"),
        ({"size": (112, 100)}, "image width 100 is not supported: generation needs multiples of 112"),
        ({"steps": 0}, "the number of steps must be at least 1, got 0"),
        ({"scheduler": "heun"}, "scheduler 'heun' is unknown"),
        ({"shift": -1.0}, "shift of the noise levels must be positive"),
    ],
)
def test_options(pipeline, values, message):
    with pytest.raises(InputError, match=message):
        pipeline.generate(job(), replace(QUICK, **values))


def test_allview_with_too_few_images_for_the_frames_asked_for(pipeline):
    with pytest.raises(InputError, match="task allview needs 9 images, got 5; lower the number of frames to 5"):
        pipeline.generate(job(Task.ALL_VIEW), replace(QUICK, num_frames=9))


def test_random_draws_that_do_not_fit(pipeline):
    noise = Noise(torch.zeros(16, 2, 14, 28), torch.zeros(16, 2, 14, 14))
    with pytest.raises(InputError, match="one random draw a job: 2 jobs, 1 draws"):
        pipeline.generate_batch([job(), job()], QUICK, noise=[noise])
    message = (
        r"random draw of job 1 has latents \(16, 2, 14, 28\) and posterior \(16, 2, 14, 28\); "
        r"this job needs \(16, 2, 14, 28\) and \(16, 2, 14, 14\)"
    )
    with pytest.raises(InputError, match=message):
        pipeline.generate_batch([job(), job()], QUICK, noise=[noise, replace(noise, posterior=noise.latents)])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[0], r"images must have shape \[N, 3, H, W\]"),
        (IMAGES[:0], "N at least 1"),
        (IMAGES.byte(), "images must be floating point"),
        (IMAGES[..., :100], r"multiple.* of 14|14"),
    ],
)
def test_reconstruction(pipeline, images, message):
    with pytest.raises(InputError, match=message):
        pipeline.reconstruct(images)


# --- prompts ---------------------------------------------------------------------------------------------


def test_a_prompt_that_is_neither_cached_nor_can_be_encoded():
    pipeline = random_pipeline("tiny", text_encoder=False)
    assert pipeline.text_encoder is None
    with pytest.raises(InputError, match=r"prompt 'a room' is not among the cached .*\(nothing\) and no text encoder"):
        pipeline.generate(job(prompt="a room"), QUICK)
    pipeline.prompts = PromptCache({"a room": torch.zeros(2, 32)})
    with pytest.raises(InputError, match=r"prompt 'bad detailed' is not among the cached embeddings \('a room'\)"):
        pipeline.generate(job(prompt="a room"), QUICK)
    pipeline.generate(job(prompt="a room"), replace(QUICK, guidance=1.0))  # needs no negative prompt


def test_a_checkpoint_without_tokenizer(pipeline):
    tokenizer, pipeline.tokenizer = pipeline.tokenizer, None
    try:
        with pytest.raises(InputError, match="prompt 'new' cannot be embedded: the checkpoint has no tokenizer folder"):
            pipeline.generate(job(prompt="new"), QUICK)
    finally:
        pipeline.tokenizer = tokenizer


# --- devices ---------------------------------------------------------------------------------------------


def test_an_attention_kernel_that_cannot_run(pipeline):
    with pytest.raises(DeviceError, match=r"attention kernel 'cudnn' cannot run .*--attention"):
        pipeline.generate(job(), replace(QUICK, attention="cudnn"))
    with pytest.raises(DeviceError, match=r"attention kernel 'efficient' cannot run .*--attention"):
        pipeline.reconstruct(IMAGES, attention="efficient")
    with pytest.raises(DeviceError, match="attention kernel 'fast' is unknown"):
        pipeline.generate(job(), replace(QUICK, attention="fast"))


def test_memory_that_runs_out(pipeline):
    """Torch's real error on a CPU, in the middle of a job."""
    hook = pipeline.vggt.camera_head.register_forward_pre_hook(lambda *_: torch.empty(2**52))
    try:
        with pytest.raises(DeviceError, match=r"device ran out of memory: .*can't allocate memory.*; use fewer frames"):
            pipeline.generate(job(), QUICK)
        with pytest.raises(DeviceError, match="device ran out of memory: "):
            pipeline.reconstruct(IMAGES)
    finally:
        hook.remove()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried to\nmore"), MemoryError()])
def test_every_kind_of_memory_error_is_translated(error):
    with (
        pytest.raises(DeviceError, match=r"out of memory: (CUDA out of memory. Tried to|no more memory); use fewer"),
        memory_errors(),
    ):
        raise error


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), memory_errors():
        raise RuntimeError("shapes differ")


# --- components ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "config", "what"),
    [
        ("transformer", {"out_channels": 12}, "latent channels of transformer and video VAE: 12 and 16"),
        ("transformer", {"in_channels": 32}, r"input channels of the transformer .*: 32 and 36"),
        ("transformer", {"image_dim": 20}, "image tokens of transformer and image encoder: 20 and 32"),
        ("transformer", {"text_dim": 20}, "text of transformer and text encoder: 20 and 32"),
    ],
)
def test_transformers_that_do_not_belong(pipeline, name, config, what):
    parts = {part: getattr(pipeline, part) for part in PARTS}
    parts[name] = CameraTransformer(**SIZES["tiny"].components[name] | config)
    with pytest.raises(
        CheckpointError, match=rf"components do not belong together \({what}\)\. Take all of them from one"
    ):
        Gen3RPipeline(**parts)


def test_all_that_does_not_fit_is_named(pipeline):
    parts = {part: getattr(pipeline, part) for part in PARTS}

    class Wider:
        config = replace(pipeline.geometry_adapter.config, token_channels=200, latent_channels=1,
                         latents_mean=(0.0,), latents_std=(1.0,))  # fmt: skip

    with pytest.raises(
        CheckpointError, match=r"adapter and video VAE: 1 and 16; tokens of geometry adapter and VGGT: 200 and 160"
    ):
        Gen3RPipeline(**parts | {"geometry_adapter": Wider()})


# --- random models ---------------------------------------------------------------------------------------


def test_random_models_are_drawn_from_their_seed():
    first, again, other = (random_pipeline("tiny", seed=seed) for seed in (3, 3, 4))
    for name in PARTS:
        own = getattr(first, name).state_dict()
        assert all(torch.equal(value, getattr(again, name).state_dict()[key]) for key, value in own.items())
        assert any(not torch.equal(value, getattr(other, name).state_dict()[key]) for key, value in own.items())
    assert (first.num_frames, first.image_size) == (5, (112, 112))
    assert first.scheduler == SCHEDULER_DEFAULTS


def test_random_models_in_16_bits_keep_what_must_be_float32():
    pipeline = random_pipeline("tiny", dtype=torch.bfloat16)
    for name, parameter in pipeline.transformer.named_parameters():
        kept = any(part in name for part in CameraTransformer.keep_in_float32)
        assert parameter.dtype == (torch.float32 if kept else torch.bfloat16), name
    scene = pipeline.generate(job(prompt="a room"), QUICK)
    assert scene.depth.dtype == scene.colors.dtype == scene.T_cam_world.dtype == torch.float32
    assert torch.isfinite(scene.points).all()


def test_unknown_sizes():
    with pytest.raises(InputError, match="model size 'huge' is unknown; choose one of: tiny, small, full"):
        random_pipeline("huge")
