"""Training clips of procedural worlds: a pool that follows from the step."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from gen3r_core.errors import InputError
from gen3r_core.training.worlds_source import WorldsSource, from_config
from gen3r_core.worlds.clips import make_clip

CPU = torch.device("cpu")
SIZE = (16, 24)
SMALL = {"clip_frames": 3, "pool": 4, "chunk": 2, "fresh": 1.0, "samples": 1, "reverse": 0.0}


def draw(source, step, clips=2, num_frames=2, size=SIZE):
    return source.batch(step, clips, num_frames=num_frames, size=size, device=CPU)


def same(a, b):
    return torch.equal(a.colors, b.colors) and torch.equal(a.T_world_cam, b.T_world_cam) and a.captions == b.captions


@pytest.mark.slow
def test_a_resumed_source_gives_the_same_batches():
    source, resumed = from_config(SMALL), from_config(SMALL)
    unbroken = [draw(source, step) for step in range(5)]
    assert same(draw(resumed, 3), unbroken[3])
    assert same(draw(resumed, 4), unbroken[4])
    assert not same(draw(from_config({**SMALL, "seed": 1}), 4), unbroken[4])


def test_the_pool_is_renewed_at_the_rate_asked_for(monkeypatch):
    stored = []
    original = WorldsSource._store
    monkeypatch.setattr(WorldsSource, "_store", lambda self, chunk, *rest: (stored.append(chunk),
                                                                             original(self, chunk, *rest)))  # fmt: skip
    source = from_config(SMALL)
    for step in range(4):
        draw(source, step)
    assert stored == [0, 1, 2]


def test_clips_are_those_of_the_renderer():
    source = from_config({**SMALL, "fresh": 0.0, "split": "val"})
    for step in (0, 1, 2):  # in order, and around
        batch = draw(source, step, num_frames=3)
        for row in range(2):
            clip = make_clip("val", (2 * step + row) % 4, 3, SIZE, samples=1)
            torch.testing.assert_close(batch.colors[row].permute(0, 2, 3, 1), clip.colors, rtol=0, atol=0.51 / 255)
            torch.testing.assert_close(batch.depth[row], clip.depth)
            torch.testing.assert_close(batch.intrinsics[row], clip.intrinsics)
            torch.testing.assert_close(batch.T_world_cam[row], clip.T_world_cam)
            assert batch.captions[row] == clip.caption


def test_another_size_fills_the_pool_anew():
    source = from_config(SMALL)
    draw(source, 0)
    assert draw(source, 1, size=(8, 8)).size == (8, 8)


def test_clips_are_planned_ahead_and_once():
    source, inline = from_config({**SMALL, "workers": 2}), from_config(SMALL)
    source._planners = ThreadPoolExecutor(2)  # what processes do, without their start
    assert same(draw(source, 0), draw(inline, 0))
    assert sorted(source._planned) == [(2, SIZE), (3, SIZE)]
    foreseen = source._planned[2, SIZE]
    assert same(draw(source, 2), draw(inline, 2))
    assert (2, SIZE) not in source._planned
    assert all(future.done() for future in foreseen)
    draw(source, 12, size=(8, 8))
    assert all(size == (8, 8) for _, size in source._planned)
    source.close()
    assert source._planners is None


@pytest.mark.slow
def test_processes_plan_the_same_clips():
    source = from_config({**SMALL, "workers": 1})
    try:
        planned = [draw(source, step) for step in (0, 3)]
    finally:
        source.close()
    inline = from_config(SMALL)
    assert all(same(draw(inline, step), batch) for step, batch in zip((0, 3), planned, strict=True))


@pytest.mark.parametrize(
    ("values", "message"),
    [({"pool": 5, "chunk": 2}, "'pool' must be a multiple of 'chunk', got 5 and 2"),
     ({"split": "all"}, "'split' is 'all'; choose one of: train, val, test"), ({"chunks": 2}, "did you mean 'chunk'")],
)  # fmt: skip
def test_unsuitable_options_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        from_config(values)


def test_more_frames_than_are_rendered_are_refused():
    with pytest.raises(InputError, match="clips of 5 frames are wanted but data option 'clip_frames' renders 3"):
        draw(from_config(SMALL), 0, num_frames=5)
