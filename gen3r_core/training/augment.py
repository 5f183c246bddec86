"""Several training clips from one: crops, stretches, time reversal and colours, on the batch's device.

What is drawn comes from a numpy generator on the host, so that the same seed means the same on every device and
nothing waits for one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gen3r_core.errors import InputError
from gen3r_core.training.batch import ClipBatch

__all__ = [
    "jitter_colors",
    "join_clips",
    "mirror",
    "on_device",
    "random_crop",
    "reverse_time",
    "stretches",
    "swap_channels",
]


def random_crop(batch: ClipBatch, size: tuple[int, int], rng: np.random.Generator) -> ClipBatch:
    """Cuts a window of `size` (height, width) out of each clip, intrinsics following.

    Raises:
        InputError: the frames are smaller than that.
    """
    height, width = batch.size
    if size == batch.size:
        return batch
    if size[0] > height or size[1] > width:
        raise InputError(f"cannot cut {size} out of frames of {batch.size} (height, width)")
    tops = rng.integers(0, height - size[0] + 1, len(batch)).tolist()
    lefts = rng.integers(0, width - size[1] + 1, len(batch)).tolist()

    def cut(values: Tensor) -> Tensor:
        windows = [
            clip[..., top : top + size[0], left : left + size[1]]
            for clip, top, left in zip(values, tops, lefts, strict=True)
        ]
        return torch.stack(windows)

    intrinsics = batch.intrinsics
    if intrinsics is not None:
        shift = torch.zeros(len(batch), 1, 3, 3, dtype=intrinsics.dtype)
        shift[:, 0, 0, 2] = torch.tensor(lefts, dtype=shift.dtype)
        shift[:, 0, 1, 2] = torch.tensor(tops, dtype=shift.dtype)
        intrinsics = intrinsics - on_device(shift, batch.device)
    depth = None if batch.depth is None else cut(batch.depth)
    return replace(batch, colors=cut(batch.colors), depth=depth, intrinsics=intrinsics)


def stretches(clips: int, frames: int, num_frames: int, max_interval: int, rng: np.random.Generator) -> Tensor:
    """Which frames to take of clips: consecutive ones, or every second, up to every `max_interval`-th.

    Args:
        clips: how many clips.
        frames: frames of each.
        num_frames: frames wanted, at most `frames`.
        max_interval: largest distance between frames, where the clips are long enough.
        rng: draws interval and start by clip.

    Returns:
        `[clips, num_frames]` int64, on the host.
    """
    longest = max(1, min(max_interval, (frames - 1) // max(1, num_frames - 1)))
    intervals = rng.integers(1, longest + 1, clips)
    starts = rng.integers(0, frames - intervals * (num_frames - 1))
    return torch.from_numpy(starts[:, None] + intervals[:, None] * np.arange(num_frames)[None])


def reverse_time(batch: ClipBatch, probability: float, rng: np.random.Generator) -> ClipBatch:
    """Lets some clips run backwards."""
    chosen = rng.random(len(batch)) < probability
    if not chosen.any():
        return batch
    frames = batch.colors.shape[1]
    index = torch.arange(frames).repeat(len(batch), 1)
    index[torch.from_numpy(chosen)] = torch.arange(frames).flip(0)
    order = on_device(index, batch.device)
    rows = torch.arange(len(batch), device=batch.device)[:, None]
    return batch.map(lambda values: values[rows, order])


def jitter_colors(batch: ClipBatch, strength: float, rng: np.random.Generator) -> ClipBatch:
    """Changes each clip's brightness, contrast and white balance by up to about `strength` (0.1 is mild)."""
    if strength == 0:
        return batch
    gain = torch.from_numpy(np.exp(rng.normal(0, strength / 2, (len(batch), 1, 3, 1, 1)))).float()
    gain = gain * torch.from_numpy(np.exp(rng.normal(0, strength, (len(batch), 1, 1, 1, 1)))).float()
    offset = torch.from_numpy(rng.normal(0, strength / 4, (len(batch), 1, 1, 1, 1))).float()
    colors = batch.colors
    return replace(
        batch,
        colors=((colors - 0.5) * on_device(gain, batch.device) + 0.5 + on_device(offset, batch.device)).clamp(0, 1),
    )


def mirror(batch: ClipBatch, probability: float, rng: np.random.Generator) -> ClipBatch:
    """Swaps left and right of some clips, cameras and world with them (both have their x axes turned round)."""
    chosen = rng.random(len(batch)) < probability
    if not chosen.any():
        return batch
    flags = on_device(torch.from_numpy(chosen), batch.device)

    def swapped(values: Tensor) -> Tensor:
        return torch.where(flags.view(-1, *[1] * (values.ndim - 1)), values.flip(-1), values)

    intrinsics, poses = batch.intrinsics, batch.T_world_cam
    if intrinsics is not None:
        centre = torch.where(flags[:, None], batch.size[1] - intrinsics[..., 0, 2], intrinsics[..., 0, 2])
        intrinsics = intrinsics.clone()
        intrinsics[..., 0, 2] = centre
    if poses is not None:
        sign = torch.ones_like(poses)  # of diag(-1, 1, 1, 1) @ pose @ diag(-1, 1, 1, 1)
        sign[..., 0, :].neg_()
        sign[..., :, 0].neg_()
        poses = torch.where(flags[:, None, None, None], poses * sign, poses)
    depth = None if batch.depth is None else swapped(batch.depth)
    return replace(batch, colors=swapped(batch.colors), depth=depth, intrinsics=intrinsics, T_world_cam=poses)


def swap_channels(batch: ClipBatch, probability: float, rng: np.random.Generator) -> ClipBatch:
    """Lets red, green and blue of some clips change places; captions that name colours are then wrong."""
    chosen = rng.random(len(batch)) < probability
    orders = np.stack([rng.permutation(3) if each else np.arange(3) for each in chosen])
    if not chosen.any():
        return batch
    order = on_device(torch.from_numpy(orders), batch.device)
    rows = torch.arange(len(batch), device=batch.device)[:, None]
    return replace(batch, colors=batch.colors.transpose(1, 2)[rows, order].transpose(1, 2))


def join_clips(batches: list[ClipBatch]) -> ClipBatch:
    """One batch of all clips.

    Raises:
        InputError: there are none, or some have depth or cameras and others have not.
    """
    if not batches:
        raise InputError("there are no clips to join")

    def join(name: str) -> Tensor | None:
        values = [getattr(each, name) for each in batches]
        if all(value is None for value in values):
            return None
        if any(value is None for value in values):
            raise InputError(f"some clips have {name} and others have not; train on sources of one kind")
        return torch.cat(values)

    return ClipBatch(
        colors=torch.cat([each.colors for each in batches]),
        depth=join("depth"),
        intrinsics=join("intrinsics"),
        T_world_cam=join("T_world_cam"),
        captions=[caption for each in batches for caption in each.captions],
    )


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """A small host tensor on a device, without waiting for it."""
    if device.type == "cuda":  # pragma: gpu-only
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
