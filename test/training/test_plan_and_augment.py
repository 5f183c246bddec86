"""The plan of a training and its rate; clips made from clips."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from room_clips import room_batch
from training_clips import moving_clips

from gen3r_core.errors import InputError
from gen3r_core.geometry.cameras import pluecker_rays
from gen3r_core.training.augment import (
    jitter_colors,
    join_clips,
    mirror,
    random_crop,
    reverse_time,
    stretches,
    swap_channels,
)
from gen3r_core.training.options import read_options
from gen3r_core.training.plan import Phase, Plan, learning_rate, mixed_seed
from gen3r_core.training.scene_units import normalised_truth


def rng(seed=0):
    return np.random.default_rng(seed)


def test_phases_inherit_what_they_do_not_say():
    plan = Plan(phases=({"until": 0.3, "batch_size": 64, "stage": {"kl": 1}}, {"num_frames": 9}))
    assert [phase.batch_size for phase in plan.stretches] == [64, 64]
    assert plan.stretches[1] == Phase(batch_size=64, num_frames=9)
    assert [plan.phase_at(share) for share in (0.0, 0.29, 0.3, 0.99, 1.0)] == [0, 0, 1, 1, 1]
    assert plan.phase_share(1, 0.65) == pytest.approx(0.5)
    assert plan.phase_share(0, 0.5) == 1.0


def test_steps_or_minutes_end_a_training():
    plan = Plan(steps=100, max_minutes=2.0)
    assert plan.share(25, 0.0) == 0.25
    assert plan.share(25, 60.0) == 0.5
    assert plan.share(25, 500.0) == 1.0
    assert Plan(steps=100).share(25, 1e9) == 0.25


def test_the_rate_by_hand():
    phase = Phase(learning_rate=2.0, warmup_steps=4, warmup_from=0.2, final=0.1)
    assert [learning_rate(phase, step, 0.0) for step in (0, 1, 3, 4)] == pytest.approx([0.8, 1.2, 2.0, 2.0])
    assert learning_rate(phase, 9, 0.5) == pytest.approx(2 * (0.1 + 0.9 * 0.5))
    assert learning_rate(phase, 9, 1.0) == pytest.approx(0.2)


@given(st.lists(st.integers(0, 2**40), min_size=2, max_size=3, unique=True))
def test_seeds_depend_on_each_number_and_their_order(numbers):
    assert 0 <= mixed_seed(*numbers) < 2**63
    assert mixed_seed(*numbers) != mixed_seed(*reversed(numbers))
    assert mixed_seed(*numbers) == mixed_seed(*numbers)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"phases": []}, r"but 'until' is \[\]"),
        ({"phases": [{"until": 0.5}, {"until": 0.4}, {}]}, r"one after the other, .* \[0.5, 0.4, 1.0\]"),
        ({"phases": [{"until": 0.5}]}, r"the last at 1, but 'until' is \[0.5\]"),
        ({"phases": [{"until": 0.0}]}, "share of the training above 0"),
        ({"phases": [{"crop": [300, 8]}]}, r"'crop' \(300, 8\) is larger than 'size' \(224, 224\)"),
        ({"phases": [{"size": [0, 8]}]}, "'size' is .height, width. in pixels, got"),
        ({"phases": [{"learning_rate": 0.0}]}, "'learning_rate' must be above 0"),
        ({"phases": [{"batchsize": 3}]}, "phase 0: unknown option 'batchsize'; did you mean 'batch_size'"),
        ({"steps": 0}, "'steps' must be at least 1"),
        ({"betas": [0.9, 1.0]}, "'betas' must both be"),
        ({"ema_decay": 1.0}, "'ema_decay' must be at least 0 and below 1"),
        ({"max_minutes": -1.0}, "'max_minutes' must be at least"),
    ],
)
def test_plans_that_make_no_sense_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        read_options(Plan, values, "plan")


def test_single_frames_between_clips():
    phase = Phase(num_frames=9, picture_every=3)
    assert [phase.frames_at(step) for step in range(5)] == [1, 9, 9, 1, 9]


# --- clips ---------------------------------------------------------------------------------------------


def test_a_crop_sees_along_the_same_rays():
    batch = moving_clips(3, 2, (12, 16))
    cut = random_crop(batch, (6, 8), rng(1))
    assert cut.size == (6, 8)
    found = set()
    for index in range(3):
        left, top = (batch.intrinsics[index, 0, :2, 2] - cut.intrinsics[index, 0, :2, 2]).int().tolist()
        found.add((top, left))
        window = (slice(top, top + 6), slice(left, left + 8))
        assert torch.equal(cut.colors[index], batch.colors[index][..., window[0], window[1]])
        assert torch.equal(cut.depth[index], batch.depth[index][..., window[0], window[1]])
        whole = pluecker_rays(batch.T_world_cam[index], batch.intrinsics[index], (12, 16))
        part = pluecker_rays(cut.T_world_cam[index], cut.intrinsics[index], (6, 8))
        torch.testing.assert_close(part, whole[..., window[0], window[1]])
    assert len(found) > 1
    assert random_crop(batch, (12, 16), rng()) is batch
    with pytest.raises(InputError, match=r"cannot cut \(20, 8\) out of frames of \(12, 16\)"):
        random_crop(batch, (20, 8), rng())


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 5), st.integers(0, 100))
def test_stretches_stay_within_their_clips(frames, num_frames, interval, seed):
    num_frames = min(num_frames, frames)
    picked = stretches(4, frames, num_frames, interval, rng(seed))
    assert picked.shape == (4, num_frames)
    assert picked.min() >= 0
    assert picked.max() < frames
    if num_frames > 1:
        steps = picked.diff(dim=1)
        assert (steps == steps[:, :1]).all()
        assert steps.min() >= 1
        assert steps.max() <= interval


def test_time_runs_backwards_in_all_tensors():
    batch = moving_clips(6, 3)
    back = reverse_time(batch, 0.5, rng(0))
    kinds = [torch.equal(back.colors[i], batch.colors[i].flip(0)) for i in range(6)]
    assert 0 < sum(kinds) < 6
    for index, reversed_ in enumerate(kinds):
        expected = batch.T_world_cam[index].flip(0) if reversed_ else batch.T_world_cam[index]
        assert torch.equal(back.T_world_cam[index], expected)
    assert reverse_time(batch, 0.0, rng()) is batch


def test_colours_change_by_clip_and_stay_in_range():
    batch = moving_clips(4, 3)
    changed = jitter_colors(batch, 0.2, rng())
    difference = changed.colors - batch.colors
    assert difference.abs().amax(dim=(1, 2, 3, 4)).min() > 0.01
    assert changed.colors.min() >= 0
    assert changed.colors.max() <= 1
    assert torch.equal(changed.depth, batch.depth)
    assert jitter_colors(batch, 0.0, rng()) is batch


def test_a_mirrored_clip_is_another_valid_clip():
    """Points of the mirrored clip are the mirrored points: images, depth, cameras and intrinsics agree."""
    batch = room_batch(1, 4, 3, (12, 16))
    batch.intrinsics[..., 0, 2] += 1.5
    other = mirror(batch, 0.5, rng(3))
    swapped = [not torch.equal(other.colors[i], batch.colors[i]) for i in range(4)]
    assert 0 < sum(swapped) < 4
    own, mirrored = normalised_truth(batch), normalised_truth(other)
    for index, flag in enumerate(swapped):
        before, after = own.points[index], mirrored.points[index]
        expected = before.flip(2) * torch.tensor([-1.0, 1.0, 1.0]) if flag else before
        torch.testing.assert_close(after, expected, atol=1e-4, rtol=1e-4)
        assert torch.equal(other.colors[index], batch.colors[index].flip(-1) if flag else batch.colors[index])
    torch.testing.assert_close(torch.linalg.det(other.T_world_cam[..., :3, :3]), torch.ones(4, 3))
    assert mirror(batch, 0.0, rng()) is batch


def test_mirroring_needs_no_cameras():
    batch = room_batch(0, 2, 2, (4, 6), depth=False, cameras=False)
    other = mirror(batch, 1.0, rng())
    assert torch.equal(other.colors, batch.colors.flip(-1))
    assert other.depth is None
    assert other.T_world_cam is None


def test_channels_change_places_by_clip():
    batch = room_batch(0, 8, 2, (4, 6))
    other = swap_channels(batch, 0.5, rng(1))
    assert torch.equal(other.colors.sort(dim=2).values, batch.colors.sort(dim=2).values)
    same = [torch.equal(other.colors[i], batch.colors[i]) for i in range(8)]
    assert 0 < sum(same) < 8
    assert torch.equal(other.depth, batch.depth)
    assert swap_channels(batch, 0.0, rng()) is batch


def test_joining_needs_clips_of_one_kind():
    one, two = moving_clips(1, 3), moving_clips(2, 3, first=1)
    joined = join_clips([one, two])
    assert torch.equal(joined.colors, moving_clips(3, 3).colors)
    assert joined.captions == ["clip 0", "clip 1", "clip 2"]
    bare = type(one)(one.colors, None, None, None, one.captions)
    assert join_clips([bare, bare]).depth is None
    with pytest.raises(InputError, match="some clips have depth and others have not"):
        join_clips([one, bare])
    with pytest.raises(InputError, match="no clips to join"):
        join_clips([])
