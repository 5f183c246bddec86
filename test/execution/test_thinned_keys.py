"""Fewer keys in VGGT's attention across frames."""

import pytest
import torch

from gen3r_core.errors import InputError
from gen3r_core.execution.thinned_keys import ThinnedKeys, kept_tokens


def test_which_tokens_stay():
    # Two special tokens and 3 x 4 patches a frame; of the second frame row 1, columns 1 and 3.
    assert kept_tokens(2, 2, (3, 4), 2) == [*range(14), 14, 15, 14 + 2 + 5, 14 + 2 + 7]
    assert kept_tokens(1, 2, (3, 4), 2) == list(range(14))
    assert len(kept_tokens(49, 5, (40, 40), 2)) == 1605 + 48 * 405


def test_one_view_is_exact_and_many_are_not(pipeline):
    draw = torch.Generator().manual_seed(2)
    images = torch.rand(1, 3, 3, 112, 112, generator=draw)
    body = pipeline.vggt.aggregator
    with torch.no_grad():
        plain = body(images), body(images[:, :1])
        seen = []
        handle = body.global_blocks[0].attn.proj.register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape))
        with ThinnedKeys(pipeline.vggt, 2):
            thinned = body(images), body(images[:, :1])
        handle.remove()
        after = body(images)
    assert seen[0][1] == 3 * (body.config.special_tokens + 64)  # all tokens still ask
    assert torch.equal(thinned[1][-1], plain[1][-1])
    assert not torch.equal(thinned[0][-1], plain[0][-1])
    assert torch.equal(after[-1], plain[0][-1])


def test_only_keys_are_left_out(pipeline):
    attention = pipeline.vggt.aggregator.global_blocks[0].attn
    assert attention.merging is None
    with ThinnedKeys(pipeline.vggt, 2) as thinned:
        thinned._index = torch.tensor([0, 2])
        key, value = attention.merging(torch.arange(12.0).view(1, 1, 4, 3), torch.ones(1, 1, 4, 3))
        assert key[0, 0, :, 0].tolist() == [0, 6]
        assert value.shape == (1, 1, 2, 3)
    assert attention.merging is None
    with pytest.raises(InputError, match="2 x 2 patches or fewer, got squares of 1"):
        ThinnedKeys(pipeline.vggt, 1)
