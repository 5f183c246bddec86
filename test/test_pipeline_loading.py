"""The pipeline from a checkpoint on disk."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from published_checkpoint import write_published

from gen3r_core.checkpoint.convert import convert_checkpoint
from gen3r_core.checkpoint.folder import open_checkpoint
from gen3r_core.errors import CheckpointError, DeviceError, InputError
from gen3r_core.jobs import Job, Sampling
from gen3r_core.models.transformer import CameraTransformer
from gen3r_core.pipeline import Gen3RPipeline
from gen3r_core.prompts import PromptCache

NETWORKS = ["transformer", "video_vae", "geometry_adapter", "vggt", "image_encoder", "text_encoder"]
QUICK = Sampling(steps=1, size=(112, 112), num_frames=1)
JOB = Job(torch.zeros(1, 3, 112, 112), "1view", "a room")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_published(tmp_path_factory.mktemp("published") / "checkpoint")


@pytest.fixture(scope="module")
def pipeline(checkpoint):
    return Gen3RPipeline.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def usual(pipeline):
    return pipeline.generate(JOB, QUICK)


def test_what_the_published_layout_does_not_say(pipeline):
    assert (pipeline.num_frames, pipeline.image_size) == (49, (560, 560))
    assert pipeline.scheduler["shift"] == 2.0
    assert pipeline.device == torch.device("cpu")
    for name in NETWORKS:
        network = getattr(pipeline, name)
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())


def test_an_open_checkpoint_and_its_path_are_the_same(checkpoint, usual):
    for source in (open_checkpoint(checkpoint), str(checkpoint)):
        scene = Gen3RPipeline.from_pretrained(source).generate(JOB, QUICK)
        assert torch.equal(scene.depth, usual.depth)


def test_loading_is_reported(checkpoint):
    seen = {}

    def report(name, done, total):
        seen.setdefault(name, []).append((done, total))

    Gen3RPipeline.from_pretrained(checkpoint, progress=report)
    assert list(seen) == NETWORKS
    for steps in seen.values():
        done = [step[0] for step in steps]
        assert done == sorted(done)
        assert {step[1] for step in steps} == {done[-1]}


def test_with_cached_prompts_the_text_encoder_is_not_loaded(checkpoint, pipeline, usual, tmp_path):
    robot = tmp_path / "robot"
    shutil.copytree(checkpoint, robot, ignore=shutil.ignore_patterns("text_encoder", "tokenizer"))
    prompt, negative = pipeline.embed(["a room", "bad detailed"])
    PromptCache({"a room": prompt, "bad detailed": negative}).save(tmp_path / "prompts.safetensors")
    seen = set()
    lean = Gen3RPipeline.from_pretrained(
        robot, prompts=PromptCache.load(tmp_path / "prompts.safetensors"), progress=lambda name, *_: seen.add(name)
    )
    assert seen == set(NETWORKS) - {"text_encoder"}
    assert lean.text_encoder is None
    assert torch.equal(lean.generate(JOB, QUICK).depth, usual.depth)
    with pytest.raises(InputError, match="prompt 'a sea' is not among the cached embeddings"):
        lean.embed(["a sea"])
    with pytest.raises(CheckpointError, match=r"robot has no text_encoder \(folder 'text_encoder'\); 'gen3r info"):
        Gen3RPipeline.from_pretrained(robot)


def test_without_tokenizer_embeddings_still_work(checkpoint, pipeline, usual, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer"))
    bare = Gen3RPipeline.from_pretrained(tmp_path / "bare")
    prompt, negative = pipeline.embed(["a room", "bad detailed"])
    job, sampling = (
        Job(JOB.images, "1view", prompt),
        Sampling(steps=1, size=(112, 112), num_frames=1, negative_prompt=negative),
    )
    assert torch.equal(bare.generate(job, sampling).depth, usual.depth)
    with pytest.raises(InputError, match="the checkpoint has no tokenizer folder"):
        bare.generate(JOB, QUICK)


def test_the_type_of_the_weights(checkpoint, usual):
    narrow = Gen3RPipeline.from_pretrained(checkpoint, dtype=torch.bfloat16)
    for name in NETWORKS:
        for key, parameter in getattr(narrow, name).named_parameters():
            kept = name == "transformer" and any(part in key for part in CameraTransformer.keep_in_float32)
            assert parameter.dtype == (torch.float32 if kept else torch.bfloat16), key
    scene = narrow.generate(JOB, QUICK)
    assert scene.depth.dtype == torch.float32
    assert 0 < float((scene.colors - usual.colors).abs().mean()) < 0.1


def test_memory_that_runs_out_while_loading(checkpoint):
    def report(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(DeviceError, match="the device ran out of memory: CUDA out of memory"):
        Gen3RPipeline.from_pretrained(checkpoint, progress=report)


def test_a_checkpoint_brings_its_own_way_to_generate(checkpoint, pipeline, tmp_path):
    """What a call does not say is taken from the checkpoint."""
    convert_checkpoint(open_checkpoint(checkpoint), tmp_path / "own")
    manifest = json.loads((tmp_path / "own" / "gen3r.json").read_text())
    manifest["defaults"] |= {"steps": 3, "guidance": 1.0, "geometry": "frames"}
    (tmp_path / "own" / "gen3r.json").write_text(json.dumps(manifest))
    own = Gen3RPipeline.from_pretrained(tmp_path / "own")
    assert own.sampling == Sampling(steps=3, guidance=1.0, geometry="frames")
    assert pipeline.sampling == Sampling()
    steps = []
    own.generate(
        replace(JOB, images=torch.zeros(1, 3, 112, 112)),
        replace(own.sampling, size=(112, 112), num_frames=1),
        callback=lambda progress: steps.append(progress.total) if progress.stage == "denoise" else None,
    )
    assert set(steps) == {3}
