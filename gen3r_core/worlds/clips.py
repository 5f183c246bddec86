"""Clips: a world, a path through it and a caption become colours, depth and cameras.

What costs Python time (:func:`plan_clip`) is apart from what costs the GPU's (:func:`render_clips`), so
that workers can plan while a GPU renders and trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gen3r_core.errors import InputError
from gen3r_core.scene import CameraPath
from gen3r_core.worlds.captions import caption, objects_seen, rooms_visited
from gen3r_core.worlds.floorplan import WorldKind
from gen3r_core.worlds.motion import PATH_KINDS, PathKind
from gen3r_core.worlds.packing import Capacity, PackedWorlds, fits, pack_worlds, stack_worlds
from gen3r_core.worlds.paths import WorldPath, make_path
from gen3r_core.worlds.rendering import Rendering, render
from gen3r_core.worlds.shading import Trace
from gen3r_core.worlds.sight import Sight
from gen3r_core.worlds.splits import Split, world_seed
from gen3r_core.worlds.world import World, make_world

_PATH_SHARES = (0.5, 0.25, 0.25)
_LOOKS = 5


@dataclass(frozen=True, eq=False)
class ClipPlan:
    """All about a clip but its pixels.

    Attributes:
        world: the world.
        path: where the camera goes.
        caption: what it sees.
        packed: the world as tensors on the CPU, a batch of one.
    """

    world: World
    path: WorldPath
    caption: str
    packed: PackedWorlds


@dataclass(frozen=True, eq=False)
class Clip:
    """A rendered clip.

    Attributes:
        colors: ``[F, H, W, 3]`` RGB in [0, 1).
        depth: ``[F, H, W]`` z-depth, metres.
        intrinsics: ``[F, 3, 3]`` pixels, the first pixel's middle at (0.5, 0.5).
        T_world_cam: ``[F, 4, 4]`` camera to world, metres, OpenCV axes; the world has z up.
        caption: what it shows.
        seed: of its world.
        kind: "robot", "drone" or "hand".
    """

    colors: Tensor
    depth: Tensor
    intrinsics: Tensor
    T_world_cam: Tensor
    caption: str
    seed: int
    kind: PathKind

    def __len__(self) -> int:
        return int(self.colors.shape[0])

    @property
    def image_size(self) -> tuple[int, int]:
        """``(height, width)`` in pixels."""
        return int(self.colors.shape[1]), int(self.colors.shape[2])

    def camera_path(self, metres_per_unit: float | None = None) -> CameraPath:
        """The cameras, in metres; ``metres_per_unit`` as :class:`~gen3r_core.scene.CameraPath` has it."""
        return CameraPath(self.T_world_cam.cpu(), self.intrinsics.cpu(), self.image_size, metres_per_unit)


def plan_clip(
    split: Split,
    index: int,
    num_frames: int = 17,
    size: tuple[int, int] = (224, 224),
    *,
    world_kind: WorldKind | None = None,
    path_kind: PathKind | None = None,
    speed: float | None = None,
    variant: int = 0,
    capacity: Capacity | None = None,
    capacities: Sequence[Capacity] = (),
) -> ClipPlan:
    """Draw a world, a path and a caption; takes about 60 ms of one CPU core.

    Args:
        split: "train", "val" or "test".
        index: of the world in its split.
        num_frames: F, at least 1.
        size: ``(height, width)`` in pixels.
        world_kind: "room", "corridor" or "rooms"; None draws it.
        path_kind: "robot", "drone" or "hand"; None draws it (50, 25 and 25 percent).
        speed: mean metres between frames; None draws it.
        variant: another number is another path through the same world.
        capacity: what the tensors are filled up to, such as ``FULL_CAPACITY``; None takes the world's
            size. Clips of one batch need the same.
        capacities: several instead, such as ``CAPACITIES``: the first that fits is taken, and
            ``plan.packed.solids.counts`` tells which it is.

    Raises:
        InputError: for arguments that make no sense, or if the world fits into no capacity.
    """
    seed = world_seed(split, index)
    world = make_world(seed, world_kind)
    rng = np.random.default_rng((seed, 3, variant))
    drawn = PATH_KINDS[int(rng.choice(len(PATH_KINDS), p=_PATH_SHARES))]
    sight = Sight(world)
    path = make_path(
        world, drawn if path_kind is None else path_kind, num_frames, size, seed=variant, speed=speed, sight=sight
    )
    packed = sight.packed
    if capacity is None and capacities:
        capacity = next((one for one in capacities if fits(world, one)), capacities[-1])
    if capacity is not None:
        packed = pack_worlds([world], capacity=capacity)
    return ClipPlan(world, path, describe(sight, path, rng), packed)


def describe(sight: Sight, path: WorldPath, rng: np.random.Generator) -> str:
    """A caption of what is seen along a path, by a few rays in a few frames."""
    world, K = sight.world, path.intrinsics[0]
    frames = np.unique(np.linspace(0, len(path) - 1, _LOOKS).round().astype(np.int64))
    tangents = (float(path.size[0] / 2 / K[1, 1]), float(path.size[1] / 2 / K[0, 0]))
    _, ids = sight.look(path.T_world_cam[frames], tangents)
    rooms = rooms_visited(world, path.T_world_cam[:, :3, 3])
    return caption(world, objects_seen(world, ids), path.kind, rooms, rng)


def render_clips(
    plans: Sequence[ClipPlan],
    *,
    device: torch.device | str = "cpu",
    samples: int = 2,
    rays_at_once: int | None = None,
    trace: Trace | None = None,
) -> Rendering:
    """Render clips of one length, size and capacity as one batch.

    Args:
        plans: B of them.
        device: where to render.
        samples: n x n samples a pixel.
        rays_at_once: see :func:`~gen3r_core.worlds.rendering.render`.
        trace: see :func:`~gen3r_core.worlds.rendering.render`.

    Raises:
        InputError: if there is none, or they differ in frames, size or capacity.
    """
    if not plans:
        raise InputError("there is no clip to render; give at least one plan")
    shapes = {(len(plan.path), plan.path.size) for plan in plans}
    if len(shapes) != 1:
        raise InputError(f"clips of one batch have one length and size, got {sorted(shapes)}")
    packed = stack_worlds([plan.packed for plan in plans]).to(device)
    poses = torch.from_numpy(np.stack([plan.path.T_world_cam for plan in plans]))
    intrinsics = torch.from_numpy(np.stack([plan.path.intrinsics for plan in plans]))
    return render(
        packed, poses, intrinsics, plans[0].path.size, samples=samples, rays_at_once=rays_at_once, trace=trace
    )


def split_clips(plans: Sequence[ClipPlan], rendering: Rendering) -> list[Clip]:
    """The clips of a batch; their tensors are views of the rendering's."""
    return [
        Clip(
            rendering.colors[row],
            rendering.depth[row],
            rendering.intrinsics[row],
            rendering.T_world_cam[row],
            plan.caption,
            plan.world.seed,
            plan.path.kind,
        )
        for row, plan in enumerate(plans)
    ]


def make_clip(
    split: Split,
    index: int,
    num_frames: int = 17,
    size: tuple[int, int] = (224, 224),
    *,
    world_kind: WorldKind | None = None,
    path_kind: PathKind | None = None,
    speed: float | None = None,
    variant: int = 0,
    samples: int = 2,
    device: torch.device | str = "cpu",
) -> Clip:
    """Plan and render one clip; arguments as :func:`plan_clip` and :func:`render_clips`.

    Returns:
        The clip, float32 on the device.
    """
    plan = plan_clip(
        split,
        index,
        num_frames,
        size,
        world_kind=world_kind,
        path_kind=path_kind,
        speed=speed,
        variant=variant,
    )
    return split_clips([plan], render_clips([plan], device=device, samples=samples))[0]
