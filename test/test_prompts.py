"""Prompt embeddings: kept, written, read, and missed."""

import logging

import pytest
import torch
from lively import redraw
from safetensors.torch import save_file

from gen3r_core.errors import InputError, OutputError
from gen3r_core.models.text_encoder import TextEncoder, TextEncoderConfig
from gen3r_core.prompts import PromptCache, embed_prompts, read_prompt, read_prompts
from gen3r_core.sizes import character_tokenizer, random_pipeline


@pytest.fixture
def cache():
    return PromptCache({"a room": torch.ones(3, 4), "": torch.zeros(1, 4)})


@pytest.fixture(scope="module")
def encoder():
    config = TextEncoderConfig(128, 12, 12, 20, 2, 1)
    network = TextEncoder(config).eval()
    redraw(network)
    return network.requires_grad_(False)


def test_a_cache_knows_its_prompts(cache):
    assert "a room" in cache
    assert "" in cache
    assert "a sea" not in cache
    assert 3 not in cache
    assert len(cache) == 2
    assert cache.texts == ["a room", ""]
    assert torch.equal(cache.get("a room"), torch.ones(3, 4))


def test_a_missing_prompt_is_named_with_those_that_are_there(cache):
    message = (
        r"prompt 'sea' is not among the cached embeddings \('a room'; ''\) and no .* 'gen3r embed-prompts', or run wi"
    )
    with pytest.raises(InputError, match=message):
        cache.get("sea")
    with pytest.raises(InputError, match=r"cached embeddings \(nothing\)"):
        PromptCache().get("sea")


def test_merging(cache):
    merged = cache.merged(PromptCache({"": torch.ones(2, 4), "sea": torch.ones(1, 4)}))
    assert merged.texts == ["a room", "", "sea"]
    assert merged.get("").shape == (2, 4)
    assert cache.get("").shape == (1, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_writing_and_reading(tmp_path, dtype):
    texts = ["a room", "", "ein Zimmer mit Fenstern, 部屋", 'quotes " and\nlines']
    cache = PromptCache({text: torch.randn(index + 1, 4).to(dtype) for index, text in enumerate(texts)})
    cache.save(tmp_path / "prompts.safetensors", model="tiny")
    again = PromptCache.load(tmp_path / "prompts.safetensors")
    assert again.texts == texts
    for text in texts:
        assert again.get(text).dtype == dtype
        assert torch.equal(again.get(text), cache.get(text))
    assert [file.name for file in tmp_path.iterdir()] == ["prompts.safetensors"]


def test_views_can_be_written(tmp_path):
    whole = torch.arange(24.0).view(6, 4)
    PromptCache({"a": whole[:3], "b": whole[3:, :].t().t(), "c": whole.t()}).save(tmp_path / "p.safetensors")
    assert torch.equal(PromptCache.load(tmp_path / "p.safetensors").get("c"), whole.t())


def test_where_nothing_can_be_written(tmp_path, cache):
    with pytest.raises(OutputError, match=r"cannot write .*missing/p\.safetensors: No such file"):
        cache.save(tmp_path / "missing" / "p.safetensors")


@pytest.mark.parametrize("content", [b"", b"text", b"\x08\0\0\0\0\0\0\0{broken}"], ids=["empty", "text", "damaged"])
def test_files_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "prompts.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"prompt embeddings .*prompts\.safetensors cannot be read: .*Make them again"):
        PromptCache.load(path)


def test_files_that_are_missing_cut_or_of_another_kind(tmp_path, cache):
    path = tmp_path / "prompts.safetensors"
    with pytest.raises(InputError, match=r"cannot be read: .*No such file"):
        PromptCache.load(path)
    cache.save(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match="cannot be read: "):
        PromptCache.load(path)
    save_file({"0": torch.ones(3, 4)}, path)
    with pytest.raises(InputError, match="does not hold prompt embeddings made by 'gen3r embed-prompts'"):
        PromptCache.load(path)
    save_file({"0": torch.ones(3, 4)}, path, metadata={"format": "gen3r-prompts-1"})
    with pytest.raises(InputError, match="cannot be read: 'texts'"):
        PromptCache.load(path)
    save_file({"0": torch.ones(3, 4)}, path, metadata={"format": "gen3r-prompts-1", "texts": '["a", "b"]'})
    with pytest.raises(InputError, match="cannot be read: "):
        PromptCache.load(path)


def test_embedding_is_the_encoders_each_prompt_once(encoder, caplog):
    calls = []
    hook = encoder.register_forward_hook(lambda *seen: calls.append(tuple(seen[1][0].shape)))
    cache = embed_prompts(["a room", "sea", "a room", "a room with a sea"], character_tokenizer(), encoder, 20)
    hook.remove()
    assert cache.texts == ["a room", "sea", "a room with a sea"]
    assert calls == [(2, 16), (2, 20)]  # both short ones at once, a long one with itself
    ids, _ = character_tokenizer()("sea", 20)
    torch.testing.assert_close(cache.get("sea"), encoder(torch.tensor([ids]))[0], rtol=1e-5, atol=1e-5)
    assert not caplog.records


def test_prompts_that_are_too_long_are_cut_with_a_warning(encoder, caplog):
    with caplog.at_level(logging.WARNING):
        cache = embed_prompts(["a long room"], character_tokenizer(), encoder, 5)
    assert cache.get("a long room").shape == (5, 12)
    assert "the prompt was cut to 5 tokens: 'a long room'" in caplog.text


def test_prompt_files(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeff\n  a room \r\n\nthe sea\n", encoding="utf-8")
    assert read_prompts(file) == ["a room", "the sea"]
    assert read_prompt(str(file)) == "a room"
    assert read_prompt("a room with a view") == "a room with a view"
    assert read_prompt("") == ""
    assert read_prompt("x" * 5000) == "x" * 5000  # longer than a file name may be
    assert read_prompt(str(tmp_path)) == str(tmp_path)  # a folder is not a prompt file


def test_prompt_files_without_prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text(" \n\n")
    with pytest.raises(InputError, match=r"prompts\.txt is empty; write one prompt a line"):
        read_prompt(str(file))
    file.write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(InputError, match=r"prompt file .*prompts\.txt cannot be read: .*decode"):
        read_prompts(file)
    with pytest.raises(InputError, match=r"cannot be read: .*No such file"):
        read_prompts(tmp_path / "missing.txt")


def test_a_long_running_pipeline_keeps_the_newest_prompts(monkeypatch):
    monkeypatch.setattr("gen3r_core.pipeline.MOST_PROMPTS", 3)
    pipeline = random_pipeline("tiny")
    for index in range(5):
        pipeline.embed([f"room {index}"])
    assert pipeline.prompts.texts == ["room 2", "room 3", "room 4"]
    many = [f"hall {index}" for index in range(6)]
    assert len(pipeline.embed(["room 2", *many])) == 7
    assert pipeline.prompts.texts == many[-3:]
