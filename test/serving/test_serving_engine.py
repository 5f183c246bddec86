"""The worker's jobs in this process: stopping, choosing points, known intrinsics, and what is said of errors."""

import errno

import numpy as np
import pytest
import torch
import torch._dynamo
from lively import lively_pipeline
from serving_jobs import pictures, prediction, reconstruction

from gen3r_core.conditioning import Task
from gen3r_core.errors import CancelledError, CheckpointError, DeviceError, InputError, OutOfMemoryError
from gen3r_core.execution.levels import LEVELS
from gen3r_core.jobs import Job, Sampling
from gen3r_core.prompts import PromptCache
from gen3r_core.serving.codes import ErrorCode
from gen3r_core.serving.engine import Engine, choose_pixels
from gen3r_core.serving.loading import compile_pipeline, load_pipeline
from gen3r_core.serving.options import WorkerOptions
from gen3r_core.serving.requests import Cameras, CloudOptions, ReconstructRequest
from gen3r_core.serving.stops import StopPoints
from gen3r_core.serving.worker import Worker


@pytest.fixture(scope="module")
def engine():
    return Engine(lively_pipeline())


def run(engine, request, wanted=lambda: True):
    """What was made, and the reports."""
    seen = []
    made = engine.run(request, wanted, lambda *report: seen.append(report))
    return made, seen


# --- progress and stopping -------------------------------------------------------------------------------


def test_compiling_leaves_vggt_and_nothing_to_compile_later():
    pipeline = lively_pipeline()
    graphs = []

    def backend(module, _inputs):
        graphs.append(module)
        return module.forward

    torch._dynamo.reset()
    compile_pipeline(pipeline, 1.0, backend=backend)
    count = len(graphs)
    assert count > 3
    images = torch.zeros(2, 3, *pipeline.image_size)
    pipeline.generate(Job(images, Task.TWO_VIEW, prompt="a", cameras="zoom_in"), Sampling(steps=3, guidance=1.0))
    pipeline.reconstruct(torch.zeros(3, 3, *pipeline.image_size))
    assert len(graphs) == count
    assert "forward" not in vars(pipeline.vggt.aggregator.frame_blocks[0])
    assert "forward" in vars(pipeline.transformer.blocks[0])
    torch._dynamo.reset()


@pytest.mark.parametrize("frames", [1, 9])
def test_a_reconstruction_reports_each_block(engine, frames):
    _, seen = run(engine, reconstruction(frames, longest=56))
    total = seen[0][2]
    assert seen == [("vggt", step, total) for step in range(total + 1)]
    assert total == 1 + 2 * 4 + -(-frames // 8)  # image encoder, aggregator, chunks of the depth head


def test_a_level_with_smaller_chunks_reports_more_of_them(engine):
    placement = engine.pipeline.placement
    placement.change(LEVELS[3])
    try:
        _, seen = run(engine, reconstruction(9, longest=56))
    finally:
        placement.change(LEVELS[0])
    assert [step for _, step, _ in seen] == list(range(seen[0][2] + 1))
    assert seen[0][2] == 1 + 2 * 4 + -(-9 // LEVELS[3].frames_per_chunk)


def test_a_prediction_along_a_path_reports_the_stages_of_the_pipeline(engine):
    K = np.array([[100.0, 0, 60], [0, 100.0, 45], [0, 0, 1]])
    path = Cameras(np.tile(np.eye(4), (5, 1, 1)), np.tile(K, (5, 1, 1)), (90, 120), 0.5)
    made, seen = run(engine, prediction(3, cameras=path))
    assert made.metres_per_unit == 0.5
    assert [report for report in seen if report[0] == "denoise"] == [("denoise", step, 3) for step in range(4)]
    assert list(dict.fromkeys(stage for stage, _, _ in seen)) == [
        "text", "image", "cameras", "video_encode", "denoise", "geometry", "video_decode"
    ]  # fmt: skip


@pytest.mark.parametrize("stage", ["video_encode", "denoise", "geometry", "video_decode"])
def test_a_prediction_stops_within_a_step(engine, stage):
    """Within: told after a step has begun, it ends before that step does."""
    seen, asked = [], []

    def wanted():
        if seen and seen[-1][0] == stage and seen[-1][1] == (2 if stage == "denoise" else 0):
            asked.append(len(seen))
        return len(asked) < 2  # not at the report itself: at the first block after it

    with pytest.raises(CancelledError, match=f"cancelled during {stage} after step"):
        engine.run(prediction(5), wanted, lambda *report: seen.append(report))
    assert seen[-1][:2] == (stage, 2 if stage == "denoise" else 0)


def test_a_reconstruction_stops_between_blocks(engine):
    seen = []
    with pytest.raises(CancelledError, match=r"cancelled during vggt after step 5 of 10"):
        engine.run(reconstruction(), lambda: len(seen) < 6, lambda *report: seen.append(report))
    made, _ = run(engine, reconstruction())  # and the next one is whole
    assert len(made.arrays["depth"]) == 2


def test_hooks_can_be_taken_away():
    pipeline = lively_pipeline()
    pipeline.text_encoder = None
    points = StopPoints(pipeline)
    assert len(points) > 20
    assert pipeline.transformer.blocks[0]._forward_pre_hooks
    points.remove()
    assert len(points) == 0
    assert not any(module._forward_pre_hooks for module in pipeline.transformer.modules())


# --- points ----------------------------------------------------------------------------------------------


def test_points_are_valid_and_sure():
    generator = torch.Generator().manual_seed(0)
    confidence = 1 + torch.rand(2, 30, 40, generator=generator)
    valid = torch.rand(2, 30, 40, generator=generator) > 0.3
    everything = choose_pixels(valid, confidence, CloudOptions(drop_percent=0))
    assert torch.equal(everything, valid)
    assert torch.equal(valid, everything)  # and is not changed
    half = choose_pixels(valid, confidence, CloudOptions(drop_percent=50))
    assert abs(int(half.sum()) - int(valid.sum()) / 2) <= 1
    assert confidence[half].min() >= confidence[valid & ~half].max()
    sure = choose_pixels(valid, confidence, CloudOptions(drop_percent=0, min_confidence=1.9))
    assert torch.equal(sure, valid & (confidence >= 1.9))
    assert not choose_pixels(valid, confidence, CloudOptions(min_confidence=5)).any()
    few = choose_pixels(valid, confidence, CloudOptions(drop_percent=0, max_points=100))
    assert int(few.sum()) == 100
    assert not (few & ~valid).any()
    assert few[0].any()
    assert few[1].any()
    assert torch.equal(few, choose_pixels(valid, confidence, CloudOptions(drop_percent=0, max_points=100)))


def test_known_intrinsics_decide_where_points_lie(engine):
    """A point's pixel, seen from the centre of its camera, is on the ray of the given camera."""
    given = np.tile(np.array([[90.0, 0, 66], [0, 80.0, 40], [0, 0, 1]]), (2, 1, 1))
    images = pictures(2)
    request = ReconstructRequest(images, given, longest=112, cloud=CloudOptions(drop_percent=0))
    arrays = run(engine, request)[0].arrays
    scale = np.array([112 / 120, 84 / 90, 1])[:, None]
    np.testing.assert_allclose(arrays["intrinsics"], np.broadcast_to(scale * given[0], (2, 3, 3)), rtol=1e-6)
    assert np.abs(arrays["predicted_intrinsics"] - arrays["intrinsics"]).max() > 1
    first = arrays["point_view"] == 0
    v, u = np.nonzero(arrays["valid"][0])
    seen = arrays["points"][first] @ (scale * given[0]).T
    np.testing.assert_allclose(seen[:, :2] / seen[:, 2:], np.stack([u, v], 1) + 0.5, atol=1e-3)
    # Without them the depth is the same, and the rays are the predicted ones.
    free = run(engine, reconstruction(2, cloud=CloudOptions(drop_percent=0)))[0].arrays
    np.testing.assert_array_equal(free["depth"], arrays["depth"])
    np.testing.assert_array_equal(free["intrinsics"], arrays["predicted_intrinsics"])


def test_longest_side(engine):
    assert run(engine, reconstruction(1, longest=None))[0].arrays["depth"].shape == (1, 84, 112)
    assert run(engine, reconstruction(1, longest=42))[0].arrays["depth"].shape == (1, 28, 42)


# --- loading and errors ----------------------------------------------------------------------------------


def test_loading_counts_all_components(checkpoint, tmp_path):
    seen = []
    _, facts = load_pipeline(WorkerOptions(checkpoint, dtype="bf16"), lambda share, words: seen.append((share, words)))
    assert (facts.name, facts.dtype) == ("checkpoint", "bfloat16")
    shares = [share for share, _ in seen]
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1, abs=0.1)  # files hold a little more than weights
    assert any("text_encoder (6 of 6)" in words for _, words in seen)
    PromptCache({"a room": torch.zeros(3, 32)}).save(tmp_path / "prompts.safetensors")
    options = WorkerOptions(checkpoint, prompts=tmp_path / "prompts.safetensors")
    pipeline, _ = load_pipeline(options, lambda share, words: seen.append((share, words)))
    assert pipeline.text_encoder is None
    assert seen[-1][1] == "loading image_encoder (5 of 5)"
    assert seen[-1][0] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (CancelledError("cancelled"), ErrorCode.CANCELED, "cancelled"),
        (InputError("too few"), ErrorCode.INVALID_REQUEST, "too few"),
        (OutOfMemoryError("the device ran out"), ErrorCode.OUT_OF_MEMORY, "the device ran out"),
        (MemoryError(), ErrorCode.OUT_OF_MEMORY, "MemoryError"),
        (OSError(errno.ENOSPC, "no space"), ErrorCode.OUT_OF_MEMORY, "OSError: [Errno 28] no space"),
        (OSError(errno.EACCES, "no"), ErrorCode.INFERENCE_FAILED, "PermissionError: [Errno 13] no"),
        (DeviceError("no such kernel"), ErrorCode.INFERENCE_FAILED, "no such kernel"),
        (CheckpointError("a file was lost"), ErrorCode.INFERENCE_FAILED, "a file was lost"),
        (RuntimeError("first line\nsecond"), ErrorCode.INFERENCE_FAILED, "RuntimeError: first line"),
    ],
)
def test_what_is_said_of_errors(error, code, message):
    assert Worker(None, WorkerOptions())._judge(error) == (code, message)
