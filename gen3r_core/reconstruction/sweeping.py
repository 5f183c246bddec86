"""Depth maps corrected by what neighbouring images show, where the cameras are known as well as matches tell them.

A pixel moved by the right depth lands on what it shows (plane sweeping, R. Collins, CVPR 1996). Around a network's
depth some factors are tried; patches are compared by their normalised correlation, in those neighbours that show them
best, so that what is hidden in one does not count. Costs are smoothed over the picture, a factor far from 1 costs a
little, and the mean of the factors, weighted by how well they do, is taken (soft minimum). Where the images show
nothing that could be found again, depth stays. Unlike :mod:`gen3r_core.reconstruction.anchoring` it looks for no
common scale, and asks for no agreement: it cannot go far.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gen3r_core.errors import InputError
from gen3r_core.geometry.rigid import compose, invert_rigid

__all__ = ["SweepOptions", "sweep_depth"]

_GREY = (0.299, 0.587, 0.114)
_NOISE = 2e-4
"""Variance of grey values in [0, 1] of a patch that shows nothing that could be found again."""
_UNSEEN = 1.0
"""Cost of a pixel outside of another image: that of patches that have nothing to do with each other."""
_NEAREST = 1e-3


@dataclass(frozen=True)
class SweepOptions:
    """How factors are tried.

    Attributes:
        longest: pixels of the longer side of the images that are compared; larger ones are scaled down.
        sources: images that each one is compared with, at most; the better half of them counts.
        least_baseline: between them over the median depth, at least.
        best_baseline: the same, where neighbours tell most.
        facing: least cosine between the directions that neighbours look in.
        planes: factors that are tried.
        reach: natural logarithm of the largest factor.
        patch: pixels of a patch's side, odd.
        blur: standard deviation in pixels over which costs are smoothed.
        sharpness: cost by which a factor is clearly worse.
        trust: cost of the largest factor; patches that are opposite cost 2.

    Raises:
        InputError: numbers make no sense.
    """

    longest: int = 112
    sources: int = 6
    least_baseline: float = 0.01
    best_baseline: float = 0.12
    facing: float = 0.75
    planes: int = 15
    reach: float = 0.3
    patch: int = 5
    blur: float = 3.0
    sharpness: float = 0.02
    trust: float = 0.05

    def __post_init__(self) -> None:
        sizes = (self.reach, self.blur, self.sharpness, self.best_baseline)
        if self.planes < 3 or self.sources < 1 or self.patch % 2 != 1 or self.longest < 4 * self.patch:
            raise InputError(f"sweeping needs 3 factors, a source, and an odd patch in images of four, got {self}")
        if not all(math.isfinite(size) and size > 0 for size in sizes) or self.trust < 0:
            raise InputError(f"sweeping needs positive sizes, got {self}")


@torch.no_grad()
def sweep_depth(
    images: Tensor, depth: Tensor, intrinsics: Tensor, T_world_cam: Tensor, options: SweepOptions | None = None
) -> Tensor:
    """Correct depth maps.

    Args:
        images: ``[N, 3, H, W]`` float RGB in [0, 1].
        depth: ``[N, H, W]`` float, along the cameras' z, any unit; not positive where unknown.
        intrinsics: ``[N, 3, 3]`` float, pixels, the first one's corner at (0, 0).
        T_world_cam: ``[N, 4, 4]`` float, rigid, camera to world, OpenCV axes, in the depth's unit.
        options: how factors are tried.

    Returns:
        ``[N, H, W]`` float32 in the unit of the depth; what was not positive stays, and views without neighbours stay
        as they are.

    Raises:
        InputError: shapes do not fit.
    """
    options = options or SweepOptions()
    count, _, height, width = images.shape
    shapes = (depth.shape, intrinsics.shape, T_world_cam.shape)
    if shapes != ((count, height, width), (count, 3, 3), (count, 4, 4)):
        raise InputError(f"{count} images of {height}x{width} need depth, intrinsics and poses, got shapes {shapes}")
    views = _Views(images.float(), depth.float(), intrinsics.float(), T_world_cam.float(), options)
    logs = torch.stack([views.factor(number) for number in range(count)])
    if logs.shape[1:] != (height, width):
        logs = F.interpolate(logs[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]
    return torch.where(depth > 0, depth.float() * logs.exp(), depth.float())


class _Views:
    """All images, scaled down."""

    def __init__(
        self, images: Tensor, depth: Tensor, intrinsics: Tensor, T_world_cam: Tensor, options: SweepOptions
    ) -> None:
        height, width = images.shape[2:]
        share = min(1.0, options.longest / max(height, width))
        self.size = (max(1, round(height * share)), max(1, round(width * share)))
        scale = torch.tensor([self.size[1] / width, self.size[0] / height, 1.0], device=images.device)
        grey = (images * images.new_tensor(_GREY)[:, None, None]).sum(dim=1, keepdim=True)
        self.grey = F.interpolate(grey, self.size, mode="area")
        self.depth = F.interpolate(depth[:, None], self.size, mode="nearest-exact")[:, 0]
        self.K = scale[:, None] * intrinsics
        self.rays = torch.linalg.inv(self.K) @ self._pixels()
        self.T_world_cam, self.T_cam_world, self.options = T_world_cam, invert_rigid(T_world_cam), options
        self.logs = torch.linspace(-options.reach, options.reach, options.planes, device=images.device)
        mean = self._pooled(self.grey)
        self.mean, self.variance = mean, (self._pooled(self.grey.square()) - mean.square()).clamp(min=0)

    def _pixels(self) -> Tensor:
        """``[3, h w]`` x, y and 1 of all pixels' middles."""
        y, x = (torch.arange(side, device=self.K.device) + 0.5 for side in self.size)
        v, u = torch.meshgrid(y, x, indexing="ij")
        return torch.stack([u, v, torch.ones_like(u)]).flatten(1)

    def _pooled(self, values: Tensor) -> Tensor:
        side = self.options.patch
        return F.avg_pool2d(values, side, 1, side // 2, count_include_pad=False)

    def factor(self, number: int) -> Tensor:
        """``[h, w]`` logarithm of what a view's depth is to be multiplied by."""
        sources, own = self._sources(number), self.depth[number]
        if not len(sources):
            return torch.zeros_like(own)
        costs = torch.stack([self._cost(number, int(source)) for source in sources])
        better = costs.sort(dim=0).values[: (len(sources) + 1) // 2].mean(dim=0)
        # A patch without texture correlates with anything: it has nothing to say.
        texture = self.variance[number] / (self.variance[number] + _NOISE)
        known = (own > 0).to(own.dtype)
        cost = self._smoothed(better * texture * known)
        cost = cost + self.options.trust * (self.logs / self.options.reach).square()[:, None, None]
        weight = (-cost / self.options.sharpness).softmax(dim=0)
        return (weight * self.logs[:, None, None]).sum(dim=0)

    def _sources(self, number: int) -> Tensor:
        """``[S]`` the views to compare one with."""
        options, own = self.options, self.depth[number]
        if not bool((own > 0).any()):
            return torch.zeros(0, dtype=torch.long)
        places, ahead = self.T_world_cam[:, :3, 3], self.T_world_cam[:, :3, 2]
        baseline = (places - places[number]).norm(dim=1) / own[own > 0].median()
        facing = ahead @ ahead[number]
        angle = facing.clamp(-1, 1).acos()
        doubt = (baseline - options.best_baseline).abs() + options.best_baseline * angle
        usable = (baseline > options.least_baseline) & (facing > options.facing)
        usable[number] = False
        order = torch.where(usable, doubt, torch.inf).argsort()
        return order[: min(options.sources, int(usable.sum()))]

    def _cost(self, number: int, source: int) -> Tensor:
        """``[P, h, w]`` 0 for patches that are alike, 1 for those that are not, for each factor."""
        height, width = self.size
        T = compose(self.T_cam_world[source], self.T_world_cam[number])
        turn = self.K[source] @ T[:3, :3] @ self.rays[number]
        shift = self.K[source] @ T[:3, 3]
        depth = self.depth[number].clamp(min=0).flatten() * self.logs.exp()[:, None]
        seen = turn[:, None] * depth + shift[:, None, None]
        z = seen[2].clamp(min=_NEAREST)
        grid = torch.stack([2 * seen[0] / z / width - 1, 2 * seen[1] / z / height - 1], dim=-1)
        grid = grid.view(len(depth), height, width, 2)
        inside = (grid.abs() < 1).all(dim=-1) & (seen[2].view(len(depth), height, width) > _NEAREST)
        other = self.grey[source : source + 1].expand(len(depth), -1, -1, -1)
        moved = F.grid_sample(other, grid, mode="bilinear", padding_mode="border", align_corners=False)
        mean = self._pooled(moved)
        variance = (self._pooled(moved.square()) - mean.square()).clamp(min=0)
        both = self._pooled(moved * self.grey[number]) - mean * self.mean[number]
        alike = both / ((variance + _NOISE) * (self.variance[number] + _NOISE)).sqrt()
        return torch.where(inside, 1 - alike[:, 0], torch.full_like(alike[:, 0], _UNSEEN))

    def _smoothed(self, cost: Tensor) -> Tensor:
        """``[P, h, w]`` costs, each with those around it."""
        reach = min(math.ceil(3 * self.options.blur), min(self.size) - 1)
        steps = torch.arange(-reach, reach + 1, device=cost.device, dtype=cost.dtype)
        kernel = torch.exp(-0.5 * (steps / self.options.blur).square())
        kernel = kernel / kernel.sum()
        wide = F.pad(cost[:, None], (reach, reach, reach, reach), mode="replicate")
        return F.conv2d(F.conv2d(wide, kernel[None, None, None]), kernel[None, None, :, None])[:, 0]
