"""What the transformer is conditioned on: known frames, their mask, and packed camera rays.

Time is folded four frames to a latent frame, the first frame repeated four times; appearance is
the left half of the width, geometry the right (Gen3R, arXiv 2601.04090).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from gen3r_core.errors import InputError
from gen3r_core.geometry.cameras import intrinsics_after_resize_crop, pluecker_rays
from gen3r_core.geometry.rigid import relative_to_first
from gen3r_core.multiples import FOLD, SIZE_MULTIPLE
from gen3r_core.scene import CameraPath

SPATIAL = 8
"""Pixels along each side of a latent cell."""


class Task(StrEnum):
    """Which frames are given: the first; the first and last; all of them."""

    ONE_VIEW = "1view"
    TWO_VIEW = "2view"
    ALL_VIEW = "allview"

    def known_frames(self, num_frames: int) -> list[int]:
        """Indices of the frames that are given as images."""
        if self is Task.ONE_VIEW:
            return [0]
        if self is Task.TWO_VIEW:
            return sorted({0, num_frames - 1})
        return list(range(num_frames))


@dataclass(frozen=True)
class LatentShape:
    """Sizes of a job: frames, height and width in pixels, and of its latents.

    Raises:
        InputError: the frame count is not 4k+1 or a side is not a multiple of 112.
    """

    num_frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.num_frames % FOLD != 1:
            below = max(1, (self.num_frames - 1) // FOLD * FOLD + 1)
            raise InputError(
                f"the number of frames must be 4k+1 (1, 5, 9, ...), got {self.num_frames}; "
                f"the nearest are {below} and {below + FOLD}"
            )
        for name, side in (("height", self.height), ("width", self.width)):
            if side < SIZE_MULTIPLE or side % SIZE_MULTIPLE:
                below = max(SIZE_MULTIPLE, side // SIZE_MULTIPLE * SIZE_MULTIPLE)
                raise InputError(
                    f"image {name} {side} is not supported: generation needs multiples of {SIZE_MULTIPLE} pixels; "
                    f"the nearest are {below} and {below + SIZE_MULTIPLE}"
                )

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` in pixels."""
        return self.height, self.width

    @property
    def latent(self) -> tuple[int, int, int]:
        """``(f, h, 2w)``: latent frames, rows, and columns of both halves."""
        return (self.num_frames - 1) // FOLD + 1, self.height // SPATIAL, self.width // SPATIAL * 2


@dataclass(frozen=True)
class Conditions:
    """Everything the transformer is conditioned on, for B jobs.

    Attributes:
        text: ``[B, text_len, text_dim]`` zero-padded.
        negative_text: the same for the negative prompt; None where unguided.
        image_tokens: ``[B, N, image_dim]``.
        control_latents: ``[B, 20, f, h, 2w]`` float32.
        camera_tokens: ``[B, dim, f, h/2, w]`` output of the camera adapter.
    """

    text: Tensor
    negative_text: Tensor | None
    image_tokens: Tensor
    control_latents: Tensor
    camera_tokens: Tensor | None


def fold_time(frames: Tensor) -> Tensor:
    """Fold frames into latent frames, the first one repeated four times.

    Args:
        frames: ``[B, F, C, H, W]``, F = 4k+1.

    Returns:
        ``[B, 4C, (F+3)/4, H, W]``; the four frames of a channel are neighbours.
    """
    padded = torch.cat((frames[:, :1].expand(-1, FOLD, -1, -1, -1), frames[:, 1:]), dim=1)
    groups: Tensor = padded.unflatten(1, (-1, FOLD))
    return groups.permute(0, 3, 2, 1, 4, 5).flatten(1, 2)


def pack_cameras(rays: Tensor) -> Tensor:
    """Plücker rays to the camera adapter's input, the same on both halves.

    Args:
        rays: ``[B, F, 6, H, W]``.

    Returns:
        ``[B, 24, f, H, 2W]``.
    """
    folded = fold_time(rays)
    return torch.cat((folded, folded), dim=-1)


def camera_rays(path: CameraPath, shape: LatentShape, device: torch.device | str) -> Tensor:
    """Plücker rays of a path, relative to its first camera, in scene units.

    Args:
        path: one camera a frame (see :func:`thin_path`).
        shape: of the job.
        device: where the result lies.

    Returns:
        ``[F, 6, H, W]`` float32.
    """
    poses = relative_to_first(path.T_world_cam.to(device=device, dtype=torch.float32)).clone()
    if path.metres_per_unit is not None:
        poses[:, :3, 3] /= path.metres_per_unit
    intrinsics = path.intrinsics.to(device=device, dtype=torch.float32)
    if tuple(path.image_size) != shape.size:
        intrinsics = intrinsics_after_resize_crop(intrinsics, path.image_size, shape.size)
    return pluecker_rays(poses, intrinsics, shape.size)


def thin_path(path: CameraPath, num_frames: int) -> CameraPath:
    """One camera a frame: the path itself, or every n-th of its cameras with first and last kept.

    Raises:
        InputError: there are fewer cameras than frames, or they cannot be thinned evenly.
    """
    count = len(path)
    if count == num_frames:
        return path
    if count > num_frames > 1 and (count - 1) % (num_frames - 1) == 0:
        stride = (count - 1) // (num_frames - 1)
        return CameraPath(path.T_world_cam[::stride], path.intrinsics[::stride], path.image_size, path.metres_per_unit)
    if num_frames == 1:
        return CameraPath(path.T_world_cam[:1], path.intrinsics[:1], path.image_size, path.metres_per_unit)
    usable = [n for n in range(FOLD + 1, count + 1, FOLD) if (count - 1) % (n - 1) == 0]
    advice = f"with these cameras {', '.join(map(str, usable))} frames work" if usable else "give one camera a frame"
    raise InputError(f"the camera path has {count} cameras but the job has {num_frames} frames; {advice}")


def known_frame_mask(task: Task, num_frames: int, latent_size: tuple[int, int]) -> Tensor:
    """Mask channels of the control latents: 1 on known frames of the appearance half.

    Args:
        task: which frames are known.
        num_frames: F.
        latent_size: rows and columns of one half.

    Returns:
        ``[1, 4, f, h, 2w]`` float32.
    """
    rows, columns = latent_size
    mask = torch.zeros(1, num_frames, 1, rows, 2 * columns)
    mask[:, task.known_frames(num_frames), :, :, :columns] = 1
    return fold_time(mask)


def control_video(images: Tensor, task: Task, num_frames: int) -> Tensor:
    """The clip given to the video VAE: known frames in place, zeros elsewhere, scaled to [-1, 1].

    Args:
        images: ``[B, N, 3, H, W]`` in [0, 1]; N is the number of frames the task knows.
        task: where the images belong.
        num_frames: F.

    Returns:
        ``[B, 3, F, H, W]``; unknown frames are -1.
    """
    batch, _, channels, height, width = images.shape
    video = images.new_zeros(batch, num_frames, channels, height, width)
    for place, frame in enumerate(task.known_frames(num_frames)):  # a list as index would make a GPU wait
        video[:, frame] = images[:, place]
    return (video * 2 - 1).clamp(-1, 1).transpose(1, 2)


def choose_images(images: Tensor, task: Task, num_frames: int) -> Tensor:
    """The images a task uses, out of those given.

    Args:
        images: ``[N, 3, H, W]``.
        task: 1view takes the first, 2view first and last, allview the first ``num_frames``.
        num_frames: F.

    Raises:
        InputError: there are too few.
    """
    count = len(images)
    needed = {Task.ONE_VIEW: 1, Task.TWO_VIEW: min(2, num_frames), Task.ALL_VIEW: num_frames}[task]
    if count < needed:
        fewer = (count - 1) // FOLD * FOLD + 1
        advice = f"; lower the number of frames to {fewer}" if task is Task.ALL_VIEW and count else ""
        raise InputError(f"task {task.value} needs {needed} image{'s' * (needed > 1)}, got {count}{advice}")
    if task is Task.TWO_VIEW:
        return images[[0, -1]] if num_frames > 1 else images[:1]  # one frame is first and last
    return images[:needed]


def control_latents(video_latents: Tensor, task: Task, num_frames: int) -> Tensor:
    """Twenty control channels: VAE latents on the appearance half, zeros on geometry, and the mask.

    Args:
        video_latents: ``[B, 16, f, h, w]`` latents of :func:`control_video`.
        task: which frames are known.
        num_frames: F.

    Returns:
        ``[B, 20, f, h, 2w]``.
    """
    both = torch.cat((video_latents, torch.zeros_like(video_latents)), dim=-1)
    rows, columns = video_latents.shape[-2:]
    mask = known_frame_mask(task, num_frames, (rows, columns)).to(both).expand(len(both), -1, -1, -1, -1)
    return torch.cat((both, mask), dim=1)


def stack_frames(images: Sequence[Tensor]) -> Tensor:
    """Stack ``[3, H, W]`` images to ``[N, 3, H, W]``.

    Raises:
        InputError: no images, or of different sizes.
    """
    if not images:
        raise InputError("no images were given")
    for index, image in enumerate(images):
        if image.shape != images[0].shape:
            raise InputError(
                f"images are of mixed size: image {index} is {tuple(image.shape[1:])}, image 0 is "
                f"{tuple(images[0].shape[1:])}; all must have the same height and width"
            )
    return torch.stack(list(images))
