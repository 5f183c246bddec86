"""VGGT recorded and replayed. The recorder here does the work again, into the same tensors, as a CUDA graph does."""

import logging

import pytest
import torch
from torch.utils._pytree import tree_leaves

from gen3r_core.execution import captured
from gen3r_core.execution.captured import CapturedVGGT
from gen3r_core.execution.levels import LEVELS
from gen3r_core.execution.placement import Placement
from gen3r_core.execution.thinned_keys import ThinnedKeys
from gen3r_core.models.attention import kernel_scope

CPU = torch.device("cpu")


class Recorder:
    """Counts what is recorded and replayed."""

    def __init__(self):
        self.recorded = self.replayed = 0
        self.error = None

    def __call__(self, function):
        if self.error is not None:
            raise self.error
        self.recorded += 1
        found = function()

        def replay():
            self.replayed += 1
            for old, new in zip(tree_leaves(vars(found)), tree_leaves(vars(function())), strict=True):
                if old is not None:
                    old.copy_(new)

        return replay, found


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def placement():
    return Placement(CPU)


@pytest.fixture
def network(pipeline, placement, recorder):
    vggt = pipeline.vggt
    hook = CapturedVGGT(vggt, placement, record=recorder)
    with torch.no_grad():
        yield vggt
    hook.remove()
    assert "forward" not in vars(vggt)


def views(count, seed=0):
    return torch.rand(1, count, 3, 28, 42, generator=torch.Generator().manual_seed(seed))


def plainly(vggt, images):
    return type(vggt).forward(vggt, images)


def same(one, other):
    leaves = [tree_leaves(vars(each)) for each in (one, other)]
    return all(torch.equal(*pair) for pair in zip(*leaves, strict=True) if pair[0] is not None)


def test_the_second_call_is_recorded_and_later_ones_replay(network, recorder):
    counts, found = [], []
    for seed in range(4):
        found.append(network(views(2, seed)))
        counts.append((recorder.recorded, recorder.replayed))
    assert counts == [(0, 0), (1, 1), (1, 2), (1, 3)]
    # A replay overwrites nothing that was handed out.
    assert all(same(one, plainly(network, views(2, seed))) for seed, one in enumerate(found))
    assert not same(found[2], found[3])


@pytest.mark.parametrize("other", ["views", "chunks", "heads", "kernel", "keys", "weights"])
def test_other_calls_are_recorded_by_themselves(network, recorder, other):
    images = views(3)
    for _ in range(2):
        network(images)
    weight = network.camera_head.embed_pose.weight
    if other == "weights":
        weight.data = weight.data.clone()
    for _ in range(2):
        if other == "views":
            found = network(views(2))
            assert same(found, plainly(network, views(2)))
        elif other == "chunks":
            network(images, frames_per_chunk=1)
        elif other == "heads":
            assert network(images, points=False).points is None
        elif other == "kernel":
            with kernel_scope("math"):
                network(images)
        elif other == "keys":
            thin = ThinnedKeys(network, 2)
            try:
                for _ in range(2):
                    found = network(images)
                assert same(found, plainly(network, images))
            finally:
                thin.remove()
            break
        else:
            network(images)
    assert recorder.recorded == 2


def test_thinned_keys_stay_those_of_each_shape(network, recorder):
    """What a graph reads must not be let go when another shape comes."""
    with ThinnedKeys(network, 2):
        for _ in range(3):
            for count in (2, 3):
                for _ in range(2):
                    assert same(network(views(count)), plainly(network, views(count)))
    assert recorder.recorded == 2


def test_weights_that_are_away_are_not_read(network, placement, recorder):
    for _ in range(3):
        network(views(2))
    placement.change(LEVELS[2])
    assert same(network(views(2)), plainly(network, views(2)))
    placement.change(LEVELS[0])
    network(views(2))
    assert (recorder.recorded, recorder.replayed) == (2, 3)


def test_many_pixels_and_gradients_are_left_alone(network, recorder, monkeypatch):
    with torch.enable_grad():
        for _ in range(3):
            network(views(2))
    monkeypatch.setattr(captured, "MOST_PIXELS", 2 * 28 * 42)
    for _ in range(3):
        network(views(3))
    assert recorder.recorded == 0
    for _ in range(2):
        network(views(2))
    assert recorder.recorded == 1


def test_the_oldest_graph_makes_room(network, recorder, monkeypatch):
    monkeypatch.setattr(captured, "MOST_GRAPHS", 2)
    for count in (1, 2, 3, 2, 1):
        for _ in range(2):
            network(views(count))
    assert recorder.recorded == 4  # of one view twice


def test_where_recording_fails_nothing_is_recorded_any_more(network, recorder, caplog):
    recorder.error = RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            assert same(network(views(2)), plainly(network, views(2)))
    assert [record.getMessage() for record in caplog.records] == [
        "VGGT runs without CUDA graphs from now on: CUDA error: operation not permitted when stream is capturing"
    ]
