"""``gen3r embed-prompts``, and runs that take its file in place of the text encoder."""

import shutil

import pytest
import torch
from command_line import gen3r

from gen3r_core.prompts import PromptCache

TEXTS = ["a room with a window", "the sea at night"]


@pytest.fixture(scope="module")
def embeddings(own_checkpoint, tmp_path_factory):
    file = tmp_path_factory.mktemp("embeddings") / "prompts.safetensors"
    done = gen3r("embed-prompts", own_checkpoint, file, "--prompts", *TEXTS, "--negative_prompt", "blurred")
    assert done.code == 0, done.err
    assert done.out == f"5 prompts in {file}\n"
    return file


def test_the_file_holds_all_prompts(embeddings):
    cache = PromptCache.load(embeddings)
    assert cache.texts == [*TEXTS, "blurred", "bad detailed", ""]
    assert cache.get("").shape == (1, 32)
    assert cache.get(TEXTS[0]).shape == (len(TEXTS[0]) + 1, 32)
    assert cache.get(TEXTS[0]).dtype == torch.float32


def test_runs_with_embeddings_equal_runs_with_the_encoder(checkpoint, inputs, embeddings, tmp_path):
    robot = tmp_path / "robot"
    shutil.copytree(checkpoint, robot, ignore=shutil.ignore_patterns("text_encoder", "tokenizer"))
    common = ("--frame_path", inputs.first, "--prompts", TEXTS[0], "--negative_prompt", "blurred", "--device", "cpu",
              "--num_frames", "1", "--size", "112", "--steps", "2", "--output_dir")  # fmt: skip
    model = "--pretrained_model_name_or_path"
    with_encoder = gen3r("infer", model, checkpoint, *common, tmp_path / "a")
    with_file = gen3r("infer", model, robot, *common, tmp_path / "b", "--prompt_embeds", embeddings)
    assert with_encoder.code == with_file.code == 0, with_file.err
    assert "text_encoder" in with_encoder.err
    assert "text_encoder" not in with_file.err
    for name in ("images/frame_00000.png", "cloud.ply", "cameras.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    neither = gen3r("infer", model, robot, *common, tmp_path / "c")
    assert neither.code == 1
    assert "robot has no text_encoder (folder 'text_encoder')" in neither.err


def test_prompts_from_a_file(own_checkpoint, inputs, tmp_path):
    file = tmp_path / "prompts.safetensors"
    done = gen3r("embed-prompts", own_checkpoint, file, "--prompts_file", inputs.prompts, "--dtype", "bf16")
    assert done.code == 0, done.err
    cache = PromptCache.load(file)
    assert cache.texts == ["a room with a window", "a second prompt that is not used", "bad detailed", ""]
    assert cache.get("").dtype == torch.bfloat16


def test_what_cannot_be_embedded(checkpoint, inputs, tmp_path):
    file = tmp_path / "out" / "prompts.safetensors"

    def refused(folder, *options):
        done = gen3r("embed-prompts", folder, file, *options)
        assert done.code == 1
        assert "Traceback" not in done.err
        assert not file.parent.exists()
        return done.err

    assert "no prompts were given: use --prompts TEXT ... or --prompts_file FILE" in refused(checkpoint)
    assert "missing.txt cannot be read" in refused(checkpoint, "--prompts_file", tmp_path / "missing.txt")
    assert "nowhere does not exist" in refused(tmp_path / "nowhere", "--prompts", "a")
    assert "No such file or directory" in refused(checkpoint, "--prompts", "a")
    bare = tmp_path / "bare"
    shutil.copytree(checkpoint, bare, ignore=shutil.ignore_patterns("tokenizer"))
    assert "bare has no tokenizer folder, which prompts need" in refused(bare, "--prompts", "a")
    (bare / "tokenizer").mkdir()
    assert "tokenizer in" in refused(bare, "--prompts", "a")
