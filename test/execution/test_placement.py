"""Weights that come and go between stages: same numbers, and nothing stays behind."""

import pytest
import torch
from lively import assert_scenes_close
from scene_equality import identical

from gen3r_core.execution.levels import LEVELS, NETWORKS, Level
from gen3r_core.execution.placement import Placement, blocks_of
from gen3r_core.execution.streaming import BlockStream

BY_NAME = {level.name: level for level in LEVELS}
PARTS_OF_LEVELS = {"branches_together": True, "feed_forward_parts": 1, "frames_per_chunk": 8}
CPU = torch.device("cpu")


def addresses(network):
    return [tensor.data_ptr() for tensor in (*network.parameters(), *network.buffers())]


@pytest.fixture
def at_level(pipeline):
    def change(level):
        pipeline.placement.change(level)
        return pipeline

    yield change
    pipeline.placement.change(LEVELS[0])


@pytest.mark.parametrize("name", ["prompts", "components"])
def test_moving_weights_changes_no_bit(at_level, job, sampling, plain, name):
    pipeline = at_level(BY_NAME[name])
    before = {part: addresses(getattr(pipeline, part)) for part in NETWORKS}  # none is copied in host memory
    assert identical(pipeline.generate(job, sampling), plain)
    assert {part: addresses(getattr(pipeline, part)) for part in before} == before


def test_streaming_blocks_changes_no_bit(at_level, job, sampling, plain):
    every = Level("test", "", frozenset(NETWORKS), frozenset({"text_encoder", "transformer", "vggt"}))
    pipeline = at_level(every)
    for _ in range(2):  # the second job finds its blocks in host memory
        assert identical(pipeline.generate(job, sampling), plain)


@pytest.mark.parametrize("name", ["sparing", "streamed"])
def test_computing_in_parts_changes_the_last_bits_at_most(at_level, job, sampling, plain, name):
    assert_scenes_close(at_level(BY_NAME[name]).generate(job, sampling), plain, 1e-3)


def test_branches_in_turn_are_single(at_level, job, sampling):
    pipeline = at_level(BY_NAME["sparing"])
    sizes, parts = [], []
    hooks = [
        pipeline.transformer.register_forward_hook(lambda _m, _a, out: sizes.append(len(out))),
        pipeline.transformer.blocks[0].ffn.register_forward_hook(lambda _m, args, _o: parts.append(args[0].shape[1])),
    ]
    try:
        pipeline.generate(job, sampling)
    finally:
        for hook in hooks:
            hook.remove()
    assert sizes == [1] * 6
    tokens = 1 * 7 * 14
    assert len(parts) == 6 * 4
    assert sum(parts[:4]) == tokens


def test_weights_are_elsewhere_while_they_are_used(pipeline):
    placement = Placement(CPU, BY_NAME["components"])
    network = pipeline.image_encoder
    home = addresses(network)
    with placement.using(image_encoder=network):
        there = addresses(network)
        assert not set(there) & set(home)
        with placement.using(image_encoder=network, text_encoder=None):  # already there
            assert addresses(network) == there
    assert addresses(network) == home


def test_the_table_of_the_vocabulary_is_used_where_it_lies(pipeline):
    """It is a fifth of the text encoder at full size, and a prompt needs a few of its rows."""
    network = pipeline.text_encoder
    table, norm = network.model.shared.weight, network.model.encoder.final_layer_norm.weight
    homes = table.data_ptr(), norm.data_ptr()
    with Placement(CPU, BY_NAME["prompts"]).using(text_encoder=network):
        assert table.data_ptr() == homes[0]
        assert norm.data_ptr() != homes[1]
    with Placement(CPU, Level("whole", "", frozenset({"text_encoder"}))).using(text_encoder=network):
        assert table.data_ptr() != homes[0]
    assert (table.data_ptr(), norm.data_ptr()) == homes


def test_an_error_brings_weights_home(pipeline):
    placement = Placement(CPU, BY_NAME["streamed"])
    with pytest.raises(ValueError, match="on the way"), placement.using(transformer=pipeline.transformer):
        raise ValueError("on the way")
    home = addresses(pipeline.transformer)
    with placement.using(transformer=pipeline.transformer):
        pass
    assert addresses(pipeline.transformer) == home
    placement.forget(pipeline.transformer)
    placement.forget(pipeline.transformer)  # unknown by now


def test_the_ladder_ends():
    placement = Placement(CPU)
    names = [placement.level.name]
    while (lower := placement.lower()) is not None:
        placement.change(lower)
        names.append(lower.name)
    assert names == [level.name for level in LEVELS]
    placement.change(Level("own", ""))
    assert placement.lower() is None


def test_under_a_roomier_level_is_the_one_it_was_made_of():
    roomier = BY_NAME["components"].keeping({"transformer", "text_encoder"})
    assert roomier.away == BY_NAME["components"].away - {"transformer", "text_encoder"}
    assert roomier.streamed == frozenset()
    assert roomier.words.endswith("; on the device all the time: transformer, text encoder")
    placement = Placement(CPU, roomier)
    assert placement.lower() is BY_NAME["components"]


class Elsewhere(torch.nn.Linear):
    """A network on another device, which remembers where it was sent."""

    def __init__(self):
        super().__init__(2, 2, device="meta")
        self.sent = []

    def to(self, device):
        self.sent.append(device)


def test_what_a_level_wants_away_leaves_at_once():
    """A network that is not used before memory runs out again would keep its share of it."""
    text, vggt, transformer = Elsewhere(), Elsewhere(), Elsewhere()
    networks = {"text_encoder": text, "vggt": vggt, "transformer": transformer, "image_encoder": None}
    placement = Placement(CPU, BY_NAME["resident"], networks)
    placement.change(BY_NAME["prompts"])
    assert (text.sent, vggt.sent, transformer.sent) == (["cpu"], [], [])
    placement.change(BY_NAME["components"].keeping({"vggt"}))
    assert (text.sent, vggt.sent, transformer.sent) == (["cpu", "cpu"], [], ["cpu"])
    placement.change(BY_NAME["resident"])
    assert (text.sent, vggt.sent, transformer.sent) == (["cpu", "cpu"], [], ["cpu"])
    Placement(CPU, BY_NAME["prompts"], networks)
    assert (text.sent, vggt.sent) == (["cpu", "cpu", "cpu"], [])


def test_borrowed_networks_are_brought_back():
    network = Elsewhere()
    placement = Placement(CPU, BY_NAME["resident"], {"vggt": network})
    placement.change(BY_NAME["components"])
    placement.bring_back()
    assert placement.level is LEVELS[0]
    assert network.sent == ["cpu", CPU]


def test_what_is_in_use_stays():
    network = Elsewhere()
    placement = Placement(CPU, BY_NAME["resident"], {"vggt": network})
    with placement.using(vggt=network):
        assert network.sent == [CPU]
        placement.change(BY_NAME["components"])
        assert network.sent == [CPU]
    placement.change(BY_NAME["components"])
    assert network.sent == [CPU, "cpu"]


# --- streams of blocks -----------------------------------------------------------------------------------


class Scaled(torch.nn.Module):
    """Multiplies by a vector; remembers where it lay."""

    def __init__(self, values):
        super().__init__()
        self.weight = torch.nn.Parameter(values, requires_grad=False)
        self.register_buffer("offset", torch.tensor([1], dtype=torch.int8))
        self.seen = []

    def forward(self, x):
        self.seen.append(self.weight.data_ptr())
        return x * self.weight + self.offset


def blocks(count, size=5):
    return [Scaled(torch.arange(size) + float(index)) for index in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("order", ["forward", "backward", "some"])
def test_blocks_in_any_order(count, order):
    modules, plain = blocks(count), blocks(count)
    numbers = list(range(count))
    calls = {"forward": numbers * 2, "backward": numbers[::-1] * 2, "some": [0, *numbers[::2], *numbers[1::2]]}[order]
    with BlockStream(modules, CPU):
        for index in calls:
            assert torch.equal(modules[index](torch.ones(5)), plain[index](torch.ones(5)))
    assert len({address for module in modules for address in module.seen}) <= 2  # two buffers
    assert all(torch.equal(module.weight, own.weight) for module, own in zip(modules, plain, strict=True))


def test_two_buffers_of_the_largest_block():
    stream = BlockStream([*blocks(2), *blocks(1, 1000)], CPU)
    assert stream.device_bytes == 2 * (4096 + 256)
    stream.close()


def test_a_block_that_fails_leaves_the_others_at_home():
    modules = blocks(3)
    stream = BlockStream(modules, CPU)
    home = [module.weight.data_ptr() for module in modules]
    with pytest.raises(RuntimeError), stream:
        modules[0](torch.ones(4))
    assert [module.weight.data_ptr() for module in modules] == home
    with stream:
        modules[1](torch.ones(5))
    assert [module.weight.data_ptr() for module in modules] == home


def test_channels_last_weights_keep_their_order():
    conv = torch.nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)
    image = torch.rand(1, 8, 5, 5)
    expected = conv(image)
    with BlockStream([conv], CPU):
        assert torch.equal(conv(image), expected)
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_blocks_of_networks(pipeline):
    assert len(blocks_of(pipeline.transformer)) == 2
    assert len(blocks_of(pipeline.text_encoder)) == 2
    body = pipeline.vggt.aggregator
    assert blocks_of(pipeline.vggt)[:3] == [body.frame_blocks[0], body.global_blocks[0], body.frame_blocks[1]]
    assert blocks_of(pipeline.video_vae) == []
