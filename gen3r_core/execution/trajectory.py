"""How far the latents of one way of denoising stray from those of another."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Trajectory:
    """Latents by noise level; an instance is a :data:`gen3r_core.denoising.LatentsWatch`.

    Attributes:
        levels: falling.
        latents: float32 on the host, one for each level.
    """

    levels: list[float] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)

    def __call__(self, level: float, latents: Tensor) -> None:
        """Add one; the level of a job's first noise starts anew (a job that began again, say)."""
        if self.levels and level >= self.levels[-1]:
            self.levels.clear()
            self.latents.clear()
        self.levels.append(level)
        self.latents.append(latents.detach().float().cpu())

    def at(self, level: float) -> Tensor:
        """The latents at a level, on the line between its neighbours: Euler's own path between its steps."""
        rising = self.levels[::-1]
        place = bisect_left(rising, level)
        if place == 0:
            return self.latents[-1]
        if place == len(rising):
            return self.latents[0]
        low, high = rising[place - 1], rising[place]
        below, above = self.latents[-place], self.latents[-place - 1]
        return torch.lerp(below, above, (level - low) / (high - low))


@dataclass(frozen=True)
class TrajectoryError:
    """L2 errors of latents, relative to the exact way's length from noise to clean latents.

    Attributes:
        levels: noise levels, falling.
        errors: at each of them.
    """

    levels: list[float]
    errors: list[float]

    @property
    def final(self) -> float:
        """Of the clean latents."""
        return self.errors[-1]

    @property
    def worst(self) -> float:
        """The largest on the way."""
        return max(self.errors)

    def accepted(self, limit: float) -> bool:
        """Whether no error is over the limit, nor not a number."""
        return all(error <= limit for error in self.errors)


def compare(candidate: Trajectory, exact: Trajectory) -> TrajectoryError:
    """Errors of a way of denoising against the exact one, at the levels of the former.

    Args:
        candidate: any solver, any number of steps.
        exact: best Euler with many steps, whose path between steps is known.
    """
    errors = []
    way = torch.linalg.vector_norm(exact.latents[-1] - exact.latents[0])
    for level, latents in zip(candidate.levels, candidate.latents, strict=True):
        true = exact.at(level)
        errors.append(float(torch.linalg.vector_norm(latents - true) / way))
    return TrajectoryError(list(candidate.levels), errors)
