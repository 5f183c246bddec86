"""Clips for tests of the training: smooth patterns that move, known depth and cameras, made in a millisecond."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gen3r_core.training.batch import ClipBatch


def moving_clips(clips=2, frames=5, size=(16, 16), first=0, device="cpu"):
    """`clips` clips, numbered from `first`: each number always looks the same."""
    numbers = torch.arange(first, first + clips, dtype=torch.float32)
    time = torch.arange(frames, dtype=torch.float32)[None, :, None, None, None]
    y = torch.linspace(0, 3, size[0])[None, None, None, :, None]
    x = torch.linspace(0, 3, size[1])[None, None, None, None, :]
    phase = (numbers[:, None] * 1.7 + torch.arange(3) * 2.1)[:, None, :, None, None]
    colors = 0.5 + 0.45 * torch.sin(2 * x + phase + 0.2 * time) * torch.cos(1.5 * y - phase)
    intrinsics = torch.tensor([[size[1], 0, size[1] / 2], [0, size[1], size[0] / 2], [0, 0, 1.0]])
    poses = torch.eye(4).repeat(clips, frames, 1, 1)
    poses[..., 0, 3] = 0.1 * torch.arange(frames)
    return ClipBatch(
        colors=colors.to(device),
        depth=torch.full((clips, frames, *size), 2.0, device=device),
        intrinsics=intrinsics.repeat(clips, frames, 1, 1).to(device),
        T_world_cam=poses.to(device),
        captions=[f"clip {int(number)}" for number in numbers],
    )


@dataclass
class MovingSource:
    """Numbered clips: step s has clips s * batch_size and so on."""

    seed: int = 0

    def batch(self, step, batch_size, *, num_frames, size, device):
        return moving_clips(batch_size, num_frames, size, self.seed * 1000 + step * batch_size, device)
