"""Checkpoints of random weights: whole, the same each time, and good for a job."""

import json

import pytest
import torch
from command_line import gen3r

from gen3r_core.checkpoint.folder import open_checkpoint
from gen3r_core.execution.levels import NETWORKS
from gen3r_core.pipeline import Gen3RPipeline
from gen3r_core.sizes import WEIGHT_STD, random_pipeline


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("random") / "tiny"
    done = gen3r("convert", "--random", "tiny", folder)
    assert done.code == 0, done.err
    assert "random numbers" in done.out
    return folder


def test_all_is_there_and_as_large_as_a_random_pipeline(written):
    loaded, drawn = Gen3RPipeline.from_pretrained(written), random_pipeline("tiny")
    for name in NETWORKS:
        found, expected = (dict(getattr(one, name).state_dict()) for one in (loaded, drawn))
        assert {key: value.shape for key, value in found.items()} == {k: v.shape for k, v in expected.items()}
        for key, value in expected.items():
            if value.std() == 0 or value.numel() == 1 or key in dict(getattr(drawn, name).named_buffers()):
                assert torch.equal(found[key], value), key  # norms, biases, tables
            elif value.numel() > 1000:
                assert float(found[key].std()) == pytest.approx(WEIGHT_STD, rel=0.1), key
    assert loaded.num_frames == drawn.num_frames
    assert loaded.image_size == drawn.image_size
    embeddings = loaded.text_encoder.model
    assert embeddings.shared.weight is embeddings.encoder.embed_tokens.weight


def test_a_job_runs(written):
    done = gen3r("bench", "--checkpoint", written, "--steps", "1", "--num_frames", "1", "--warmup", "0",
                 "--repeats", "1", "--device", "cpu")  # fmt: skip
    assert done.code == 0, done.err
    assert "Model size tiny; " in done.out


def test_it_is_the_same_each_time_and_smaller_in_16_bits(written, tmp_path):
    assert gen3r("convert", "--random", "tiny", "--output", tmp_path / "again").code == 0
    sums = [json.loads((folder / "gen3r.json").read_text())["files"] for folder in (written, tmp_path / "again")]
    assert sums[0] == sums[1]
    assert gen3r("convert", "--random", "tiny", tmp_path / "half", "--dtype", "bf16").code == 0
    large, small = (open_checkpoint(folder).component("transformer") for folder in (written, tmp_path / "half"))
    assert small.source.infos["blocks.0.ffn.net.0.proj.weight"].dtype == torch.bfloat16
    key = next(iter(small.source.infos))
    assert torch.equal(small.source.read(key), large.source.read(key).to(small.source.infos[key].dtype))


@pytest.mark.parametrize(
    "arguments",
    [("source", "there"), ("--output", "there", "--size", "224"), ("there", "--steps", "3"),
     ("there", "--parts", "vggt=runs")],
)  # fmt: skip
def test_what_does_not_go_with_it(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    done = gen3r("convert", "--random", "tiny", *arguments)
    assert done.code == 1
    assert "gen3r: error: --random takes the place of a source" in done.err
    assert not list(tmp_path.iterdir())


def test_no_destination():
    done = gen3r("convert", "--random", "tiny")
    assert done.code == 1
    assert "name the destination once" in done.err
