"""A camera in a world: pictures with depth from any pose, the true cloud, and how far points are off.

The ground truth of simulations. The world's frame has z up and the floor at z = 0.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.io.atomic import atomic_path, output_error
from gen3r_core.worlds.motion import camera_poses
from gen3r_core.worlds.world import World

Array = NDArray[np.float64]
CACHE_BYTES = 1 << 30
"""What a folder of pictures may hold."""
_CLOUD_SIDE = 128
_CLOUD_PLACES = 3
_CLOUD_AWAY = 0.3
_POINTS_AT_ONCE = 1 << 14


@dataclass(frozen=True, eq=False)
class Picture:
    """What the camera sees.

    Attributes:
        colors: ``[H, W, 3]`` uint8 RGB.
        depth: ``[H, W]`` float32 z-depth in metres; 0 where nothing is.
    """

    colors: NDArray[np.uint8]
    depth: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class TrueCloud:
    """Surfaces as points.

    Attributes:
        points: ``[N, 3]`` float32 world metres.
        colors: ``[N, 3]`` uint8 RGB.
    """

    points: NDArray[np.float32]
    colors: NDArray[np.uint8]


def intrinsics_of(size: tuple[int, int], hfov: float) -> Array:
    """``[3, 3]`` of a camera with square pixels and its principal point in the middle.

    Args:
        size: ``(height, width)``, pixels.
        hfov: horizontal field of view, radians.

    Returns:
        Pixels, the first one's *corner* at (0, 0).

    Raises:
        InputError: a size under 2 pixels or over 8192, or a field of view not between 0.1 and 2.8.
    """
    if not 2 <= min(size) <= max(size) <= 8192 or not 0.1 <= hfov <= 2.8:
        raise InputError(
            f"a camera has a size of 2 to 8192 pixels and a field of view of 0.1 to 2.8 radians, got {size} and {hfov}"
        )
    focal = size[1] / 2 / math.tan(hfov / 2)
    return np.array([[focal, 0.0, size[1] / 2], [0.0, focal, size[0] / 2], [0.0, 0.0, 1.0]])


class WorldCamera:
    """Renders on this CPU, in the calling thread.

    Args:
        world: the world.
        size: ``(height, width)`` of the pictures, pixels.
        hfov: horizontal field of view, radians.
        samples: n x n samples a pixel.
        cache_folder: keeps pictures for the next time, up to :data:`CACHE_BYTES`; created if it is missing. None
            keeps only the last.

    Attributes:
        intrinsics: ``[3, 3]`` float64, pixels, the first one's *corner* at (0, 0).
        rendered: pictures that were not there before.

    Raises:
        InputError: as :func:`intrinsics_of`, or for no samples.
        OutputError: the folder cannot be made.
    """

    def __init__(
        self,
        world: World,
        size: tuple[int, int],
        hfov: float,
        *,
        samples: int = 2,
        cache_folder: Path | None = None,
    ) -> None:
        if not 1 <= samples <= 8:
            raise InputError(f"a picture has 1 to 8 times as many samples a side, got {samples}")
        self.world, self.size, self.intrinsics = world, size, intrinsics_of(size, hfov)
        self.rendered = 0
        self._samples = samples
        self._folder = None if cache_folder is None else _Folder(cache_folder)
        self._last: tuple[bytes, Picture] | None = None
        # Of the whole world: another seed, kind or version of the code is another one.
        self._key = f"{world.seed} {world.kind} {size} {hfov} {samples} {_code()}".encode()

    def prepare(self) -> None:
        """Do now what the first picture would have to wait for: loading PyTorch takes seconds."""
        import gen3r_core.worlds.rendering  # noqa: F401

        _ = self._packed

    def picture(self, T_world_cam: Array) -> Picture:
        """What the camera sees from a pose.

        Args:
            T_world_cam: ``[4, 4]`` camera to world, metres, OpenCV axes.

        Raises:
            InputError: it is no such matrix of finite numbers.
            OutputError: it cannot be kept in the folder.
        """
        pose = np.asarray(T_world_cam, dtype=np.float64)
        if pose.shape != (4, 4) or not np.isfinite(pose).all():
            raise InputError(f"a camera pose is a matrix [4, 4] of finite numbers, got shape {pose.shape}")
        # Nanometres and less do not make another picture.
        name = hashlib.sha256(self._key + (pose.round(9) + 0.0).tobytes()).digest()
        if self._last is not None and self._last[0] == name:
            return self._last[1]
        kept = None if self._folder is None else self._folder.read(name.hex(), self.size)
        picture = self._render(pose, self.intrinsics, self.size, self._samples) if kept is None else kept
        if kept is None:
            self.rendered += 1
            if self._folder is not None:
                self._folder.write(name.hex(), picture)
        self._last = (name, picture)
        return picture

    def cloud(self, height: float = 1.0, spacing: float = 0.03) -> TrueCloud:
        """All surfaces that can be seen from a few places in every room, looking in all directions.

        Args:
            height: of these places over the floor, metres.
            spacing: edge of the cubes that get one point each, metres.
        """
        from gen3r_core.reconstruction.cloud import PointCloud, voxel_down_sample

        K = intrinsics_of((_CLOUD_SIDE, _CLOUD_SIDE), math.pi / 2)
        u = (np.arange(_CLOUD_SIDE) + 0.5 - K[0, 2]) / K[0, 0]
        rays = np.stack([*np.meshgrid(u, u), np.ones((_CLOUD_SIDE, _CLOUD_SIDE))], axis=-1)
        points, colors = [], []
        for x, y in self._places():
            for yaw, pitch in [*((n * math.pi / 2, 0.0) for n in range(4)), (0.0, math.pi / 2), (0.0, -math.pi / 2)]:
                pose = camera_poses(np.array([x, y, height]), np.array(yaw), np.array(pitch), np.array(0.0))
                seen = self._render(pose, K, (_CLOUD_SIDE, _CLOUD_SIDE), 1)
                there = seen.depth > 0
                points.append((rays[there] * seen.depth[there, None]) @ pose[:3, :3].T + pose[:3, 3])
                colors.append(seen.colors[there] / 255.0)
        thinned = voxel_down_sample(PointCloud(np.concatenate(points), np.concatenate(colors)), spacing)
        return TrueCloud(thinned.points.astype(np.float32), np.rint(thinned.colors * 255).astype(np.uint8))

    def distance(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """How far points are from the nearest surface; exact, unlike distances to :meth:`cloud`.

        Args:
            points: ``[N, 3]`` world metres.

        Returns:
            ``[N]`` metres, 0 or more, on either side of the surface.
        """
        import torch

        from gen3r_core.worlds.intersection import signed_distance

        flat = torch.from_numpy(np.asarray(points, dtype=np.float32).reshape(1, -1, 1, 3))
        parts = [signed_distance(self._packed.solids, part).reshape(-1) for part in flat.split(_POINTS_AT_ONCE, dim=1)]
        return np.asarray(torch.cat(parts).abs().double().numpy()) if parts else np.zeros(0)

    @cached_property
    def _packed(self):  # type: ignore[no-untyped-def]  # noqa: ANN202 - its type needs PyTorch, which comes late
        from gen3r_core.worlds.packing import pack_worlds

        return pack_worlds([self.world])

    def _render(self, pose: Array, K: Array, size: tuple[int, int], samples: int) -> Picture:
        import torch

        from gen3r_core.worlds.rendering import render

        found = render(self._packed, torch.from_numpy(pose)[None, None], torch.from_numpy(K)[None, None], size,
                       samples=samples)  # fmt: skip
        colors = (found.colors[0, 0].clamp(0, 1) * 255).round().byte().numpy()
        return Picture(colors, found.depth[0, 0].float().numpy())

    def _places(self) -> Array:
        """``[N, 2]`` metres: up to three in each room, far from each other and from things."""
        space = self.world.free_space
        points, clearance = space.points().reshape(-1, 2), space.clearance.ravel()
        found: list[Array] = []
        for room in self.world.rooms:
            x0, y0, x1, y1 = room.inside
            inside = ((points > (x0, y0)) & (points < (x1, y1))).all(axis=1)
            open_ = points[inside & (clearance > min(_CLOUD_AWAY, float(clearance[inside].max()) * 0.9))]
            here = [open_[np.linalg.norm(open_ - ((x0 + x1) / 2, (y0 + y1) / 2), axis=1).argmin()]]
            for _ in range(_CLOUD_PLACES - 1):
                away = np.min([np.linalg.norm(open_ - one, axis=1) for one in here], axis=0)
                here.append(open_[away.argmax()])
            found += here
        return np.stack(found)


class _Folder:
    """Pictures on disk, the oldest removed when there are too many."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(folder, error) from error
        self._folder = folder
        self._bytes = sum(size for _, size, _ in self._files())

    def read(self, name: str, size: tuple[int, int]) -> Picture | None:
        path = self._folder / f"{name}.npz"
        try:
            with np.load(path, allow_pickle=False) as file:
                picture = Picture(file["colors"], file["depth"])
            os.utime(path)
        except Exception:  # noqa: BLE001 - whatever is wrong with a damaged file: it is rendered again
            return None
        whole = picture.colors.shape == (*size, 3) and picture.depth.shape == size
        return picture if whole else None

    def write(self, name: str, picture: Picture) -> None:
        path = self._folder / f"{name}.npz"
        with atomic_path(path) as partial:
            np.savez_compressed(partial, colors=picture.colors, depth=picture.depth)
        self._bytes += path.stat().st_size
        if self._bytes > CACHE_BYTES:
            self._make_room()

    def _make_room(self) -> None:
        files = sorted(self._files())
        self._bytes = sum(size for _, size, _ in files)
        for _, size, path in files:
            if self._bytes <= CACHE_BYTES * 3 // 4:
                break
            path.unlink(missing_ok=True)
            self._bytes -= size

    def _files(self) -> list[tuple[float, int, Path]]:
        found = []
        for path in self._folder.glob("*.npz"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process made room
                continue
            found.append((status.st_mtime, status.st_size, path))
        return found


@cache
def _code() -> str:
    """Changes with the code that draws and renders worlds, so that no old picture is taken for a new one."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
