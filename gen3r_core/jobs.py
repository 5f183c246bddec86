"""What to generate and how: jobs, options, random draws, and all checks that need no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gen3r_core.conditioning import LatentShape, Task, choose_images, thin_path
from gen3r_core.errors import InputError
from gen3r_core.geometry.trajectories import BUILT_IN_PATHS
from gen3r_core.geometry_source import GeometrySource
from gen3r_core.models.attention import AttentionKernel
from gen3r_core.prompts import DEFAULT_NEGATIVE
from gen3r_core.scene import CameraPath

LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Job:
    """What to generate.

    Attributes:
        images: ``[N, 3, H, W]`` float in [0, 1], any size; see :class:`Task` for which are used.
        task: which frames the images are.
        prompt: text, or its embedding ``[length, text_dim]``.
        cameras: "free" (no camera condition), the name of a built-in path, or a path. Ignored
            for allview.
        seed: for latents and for the draw from the VAE's posterior.
    """

    images: Tensor
    task: Task
    prompt: str | Tensor = ""
    cameras: str | CameraPath = "free"
    seed: int = 42


@dataclass(frozen=True)
class Sampling:
    """How to generate.

    Attributes:
        num_frames: frames of the result, 4k+1; None takes the model's (for allview, no more than
            there are images).
        size: ``(height, width)`` in pixels, multiples of 112; None takes the model's.
        steps: network evaluations (each on two prompts where guided).
        guidance: weight of the prompt against the negative prompt; 1 or less runs unguided.
        negative_prompt: text, or its embedding ``[length, text_dim]``.
        scheduler: "euler", "unipc" or "dpm++".
        shift: of the noise levels; None takes the checkpoint's or the solver's.
        limit_depth: only depths between the 0.1 and the 98 percentile of a frame (and at most 50
            units) are valid; otherwise all positive ones.
        attention: kernel, see :class:`AttentionKernel`.
        guided_share: first and last share of the steps between which guidance is on, see
            :class:`gen3r_core.denoising.Guidance`.
        geometry: where the geometry comes from, see :class:`gen3r_core.geometry_source.GeometrySource`.
        point_map: also predict each pixel's point directly, by VGGT's point head, which nothing but a comparison needs.
    """

    num_frames: int | None = None
    size: tuple[int, int] | None = None
    steps: int = 50
    guidance: float = 5.0
    negative_prompt: str | Tensor = DEFAULT_NEGATIVE
    scheduler: str = "euler"
    shift: float | None = None
    limit_depth: bool = True
    attention: AttentionKernel | str = AttentionKernel.AUTO
    guided_share: tuple[float, float] = (0.0, 1.0)
    geometry: GeometrySource | str = GeometrySource.LATENTS
    point_map: bool = False


@dataclass(frozen=True)
class Noise:
    """Random draws of a job, standard normal.

    Attributes:
        latents: ``[16, f, h, 2w]`` float32.
        posterior: ``[16, f, h, w]`` float32.
    """

    latents: Tensor
    posterior: Tensor

    @classmethod
    def draw(cls, seed: int, channels: int, shape: LatentShape) -> Noise:
        """Draw both from one generator on the host, so that every device gives the same result.

        Args:
            seed: 0 or more, below 2^63.
            channels: of the latents.
            shape: of the job.
        """
        generator = torch.Generator().manual_seed(seed)
        frames, rows, columns = shape.latent
        return cls(
            torch.randn(channels, frames, rows, columns, generator=generator),
            torch.randn(channels, frames, rows, columns // 2, generator=generator),
        )


def check_images(images: Tensor, what: str = "images") -> None:
    """Refuse anything but ``[N, 3, H, W]`` floating point images.

    Args:
        images: to check; values are not looked at.
        what: their name for the message.

    Raises:
        InputError: another shape, no image, or whole numbers.
    """
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise InputError(f"{what} must have shape [N, 3, H, W], N at least 1, got {tuple(images.shape)}")
    if not images.is_floating_point():
        raise InputError(f"{what} must be floating point in [0, 1], got {images.dtype}; divide 8-bit images by 255")


def resolve_jobs(
    jobs: Sequence[Job], sampling: Sampling, *, num_frames: int, image_size: tuple[int, int]
) -> tuple[LatentShape, list[Job]]:
    """Check that jobs are sound and go together; fix frame count, size, and what each job uses.

    Args:
        jobs: as a caller gives them.
        sampling: options common to all.
        num_frames: the model's frame count, where ``sampling`` has none.
        image_size: the model's ``(height, width)``, where ``sampling`` has none.

    Returns:
        the shape, and the jobs with the images that the task uses, and one camera a frame.

    Raises:
        InputError: images, cameras, seeds or options cannot be used.
    """
    if not jobs:
        raise InputError("no job was given")
    task = _common_task(jobs)
    for index, job in enumerate(jobs):
        check_images(job.images, f"images of job {index}")
        if not 0 <= job.seed <= LARGEST_SEED:
            raise InputError(f"seeds are whole numbers from 0 to {LARGEST_SEED}, got {job.seed}")
    frames = sampling.num_frames
    if frames is None:
        frames = num_frames
        if task is Task.ALL_VIEW:
            frames = min(frames, *((len(job.images) - 1) // 4 * 4 + 1 for job in jobs))
    height, width = sampling.size or image_size
    shape = LatentShape(frames, height, width)
    resolved = []
    for job in jobs:
        cameras = job.cameras
        if task is Task.ALL_VIEW:
            cameras = "free"
        elif isinstance(cameras, CameraPath):
            cameras = thin_path(cameras, frames)
        elif cameras not in BUILT_IN_PATHS:
            raise InputError(f"camera path {cameras!r} is unknown; choose one of: {', '.join(BUILT_IN_PATHS)}")
        resolved.append(replace(job, task=task, images=choose_images(job.images, task, frames), cameras=cameras))
    return shape, resolved


def check_noise(noise: Sequence[Noise], num_jobs: int, channels: int, shape: LatentShape) -> None:
    """Refuse random draws that do not fit the jobs.

    Raises:
        InputError: there is not one draw a job, or one has another shape.
    """
    if len(noise) != num_jobs:
        raise InputError(f"there must be one random draw a job: {num_jobs} jobs, {len(noise)} draws")
    frames, rows, columns = shape.latent
    wanted = ((channels, frames, rows, columns), (channels, frames, rows, columns // 2))
    for index, draw in enumerate(noise):
        got = (tuple(draw.latents.shape), tuple(draw.posterior.shape))
        if got != wanted:
            raise InputError(
                f"the random draw of job {index} has latents {got[0]} and posterior {got[1]}; "
                f"this job needs {wanted[0]} and {wanted[1]}"
            )


def _common_task(jobs: Sequence[Job]) -> Task:
    try:
        tasks = {Task(job.task) for job in jobs}
    except ValueError as error:
        raise InputError(f"{error}; choose one of: {', '.join(Task)}") from error
    if len(tasks) > 1:
        raise InputError(f"jobs of a batch must have one task, got {', '.join(sorted(t.value for t in tasks))}")
    return tasks.pop()
