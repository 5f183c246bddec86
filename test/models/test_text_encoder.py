"""The text encoder and its tokenizer."""

import pytest
import torch
from lively import redraw

from gen3r_core.errors import CheckpointError
from gen3r_core.models.text_encoder import TextEncoder, TextEncoderConfig, Tokenizer
from gen3r_core.sizes import character_tokenizer

CONFIG = TextEncoderConfig(
    vocab_size=40, hidden_size=12, attention_size=8, intermediate_size=20, num_heads=2, num_layers=2
)


@pytest.fixture(scope="module")
def encoder():
    """Shared by tests: never changed in place."""
    network = TextEncoder(CONFIG).eval()
    redraw(network)
    return network.requires_grad_(False)


def test_prompts_keep_their_own_tokens_only(encoder):
    long, short = encoder.embed([[5, 6, 7, 8, 1], [9, 1]], text_len=8)
    assert long.shape == (5, 12)
    assert short.shape == (2, 12)


def test_padding_changes_nothing(encoder):
    prompt = [5, 6, 7, 1]
    alone = encoder(torch.tensor([prompt]))[0]
    for text_len, pad_id in ((4, 0), (9, 0), (9, 3)):
        padded = encoder.embed([prompt], text_len=text_len, pad_id=pad_id)[0]
        torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-5)
    together = encoder.embed([prompt, [9, 9, 1]], text_len=9)[0]
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_prompts_run_by_twos_at_the_length_they_need(encoder):
    seen = []
    hook = encoder.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    draw = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, 40, (length,), generator=draw).tolist() for length in (3, 20, 16, 1, 17, 2, 40)]
    try:
        together = encoder.embed(prompts, text_len=40)
        assert seen == [(2, 16), (2, 16), (2, 32), (2, 40)]
        alone = [encoder.embed([prompt], text_len=40)[0] for prompt in prompts]
        assert seen[4:] == [(2, 16), (2, 32), (2, 16), (2, 16), (2, 32), (2, 16), (2, 40)]
    finally:
        hook.remove()
    for mine, theirs, prompt in zip(together, alone, prompts, strict=True):
        assert torch.equal(mine, theirs)  # no prompt shows in another's embedding
        torch.testing.assert_close(mine, encoder(torch.tensor([prompt]))[0], rtol=1e-5, atol=1e-5)


def test_order_and_every_token_matter(encoder):
    first = encoder(torch.tensor([[5, 6, 7, 1]]))
    for other in ([6, 5, 7, 1], [5, 6, 8, 1]):
        assert (encoder(torch.tensor([other])) - first).abs().max() > 1e-2


def test_configurations_come_from_files():
    assert TextEncoderConfig.from_dict(CONFIG.to_dict()) == CONFIG
    published = {"vocab": 40, "dim": 12, "dim_attn": 8, "dim_ffn": 20, "num_heads": 2, "num_layers": 2}
    assert TextEncoderConfig.from_published(published) == CONFIG
    assert TextEncoderConfig.from_published({}) == TextEncoderConfig()
    with pytest.raises(CheckpointError, match=r"text encoder: config\.json has unknown keys width"):
        TextEncoderConfig.from_dict({"width": 3})


def test_the_tokenizer_ends_a_prompt_and_cuts_long_ones():
    tokenizer = character_tokenizer()
    ids, cut = tokenizer("ab", 8)
    assert not cut
    assert len(ids) == 3
    assert ids[-1] == 1
    assert tokenizer.pad_id == 0
    exact, cut = tokenizer("abcdefg", 8)
    assert not cut
    shorter, cut = tokenizer("abcdefgh", 8)
    assert cut
    assert shorter == exact  # seven characters and the end


def test_the_tokenizer_survives_the_disk(tmp_path):
    character_tokenizer().save(tmp_path / "tokenizer")
    again = Tokenizer.from_folder(tmp_path / "tokenizer")
    assert again("A room, 3 m wide.", 48) == character_tokenizer()("A room, 3 m wide.", 48)
    assert again.pad_id == 0


def test_a_missing_or_damaged_tokenizer(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere is missing; prompts need it \(or cached embeddings\)"):
        Tokenizer.from_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"tokenizer in .*empty cannot be read"):
        Tokenizer.from_folder(tmp_path / "empty")
    character_tokenizer().save(tmp_path / "damaged")
    (tmp_path / "damaged" / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(CheckpointError, match=r"tokenizer in .*damaged cannot be read"):
        Tokenizer.from_folder(tmp_path / "damaged")


def test_a_tokenizer_without_padding_fills_with_zeros():
    class Unpadded:
        pad_token_id = None

    assert Tokenizer(Unpadded()).pad_id == 0
