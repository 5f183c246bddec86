"""Clips for tests of the training: smooth patterns that move, known depth and cameras, made in a millisecond."""

from __future__ import annotations

import contextlib
import resource
import signal
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from gen3r_core.io.cameras import write_transforms
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


SCENE_SIZE = (12, 20)


def write_scene(folder, frames=6, depth=False, size=SCENE_SIZE, cameras=True):
    """Frame i is grey level 10 i; its depth i metres and a half; camera i is at x = i."""
    (folder / "images").mkdir(parents=True)
    names = [f"frame{index:05d}.png" for index in range(frames)]
    for index, name in enumerate(names):
        Image.fromarray(np.full((*size, 3), 10 * index, np.uint8)).save(folder / "images" / name)
        if depth:
            (folder / "depth").mkdir(exist_ok=True)
            Image.fromarray(np.full(size, 1000 * index + 500, np.uint16)).save(folder / "depth" / name)
    (folder / "captions.txt").write_text("a room\n\nanother room\n")
    if cameras:
        poses = torch.eye(4).repeat(frames, 1, 1)
        poses[:, 0, 3] = torch.arange(frames)
        intrinsics = torch.tensor([[20.0, 0, 10], [0, 20, 6], [0, 0, 1]]).repeat(frames, 1, 1)
        paths = [f"images/{name}" for name in names]
        write_transforms(folder / "transforms.json", poses, intrinsics, size, paths, axes="opencv")


@contextlib.contextmanager
def small_disk(size):
    """Inside, no file can grow beyond `size` bytes: as on a full disk, writing fails half-way."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
