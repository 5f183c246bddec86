"""Which frames of a clip a figure is about."""

from __future__ import annotations

from gen3r_core.conditioning import Task
from gen3r_core.multiples import FOLD

__all__ = ["frame_classes", "measured_frames", "middle_frames"]


def measured_frames(task: Task | None, num_frames: int) -> list[int]:
    """The frames that a task has to make up: those it is not given; all where it is given all.

    Args:
        task: None for what is not a task of generation: all frames.
        num_frames: F.
    """
    if task is None or task is Task.ALL_VIEW:
        return list(range(num_frames))
    return sorted(set(range(num_frames)) - set(task.known_frames(num_frames)))


def middle_frames(num_frames: int) -> list[int]:
    """The frame in the middle of a clip, (F - 1) / 2 rounded down, and its two neighbours, as far as there are any."""
    middle = (num_frames - 1) // 2
    return [frame for frame in range(middle - 1, middle + 2) if 0 <= frame < num_frames]


def frame_classes(num_frames: int) -> dict[str, list[int]]:
    """Frames by their place in the video VAE's latent frames, which decide how well they can be.

    Args:
        num_frames: F.

    Returns:
        "first" (frame 0, a latent frame of its own), "whole" (frames 4k, k > 0, which end a latent frame), "between"
        (the others) and "last" (the last four); without those that have no frame.
    """
    frames = range(num_frames)
    classes = {
        "first": [0],
        "whole": [frame for frame in frames if frame and frame % FOLD == 0],
        "between": [frame for frame in frames if frame % FOLD],
        "last": list(frames)[-FOLD:],
    }
    return {name: members for name, members in classes.items() if members}
