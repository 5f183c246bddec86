"""The clips that a model is measured on: procedural worlds by index, or scenes of a data set on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from gen3r_core.errors import InputError
from gen3r_core.training.batch import ClipBatch
from gen3r_core.training.scene_files import Scene as SceneOnDisk
from gen3r_core.training.scene_files import find_scenes, open_scene, read_frames
from gen3r_core.worlds.clips import ClipPlan, plan_clip, render_clips
from gen3r_core.worlds.packing import capacity_of, pack_worlds
from gen3r_core.worlds.splits import Split, world_seed

__all__ = ["FolderScenes", "Scenes", "TrueScene", "WorldScenes"]


@dataclass(frozen=True)
class TrueScene:
    """One clip and all that is known about it; tensors on one device, float32.

    Attributes:
        name: for people and for file names.
        row: its number among the clips.
        place: its number in its split or data set; what is drawn at random depends on it alone.
        colors: ``[F, 3, H, W]`` RGB in [0, 1], of 8 bits, as files have it and as models are trained.
        depth: ``[F, H, W]`` metres along the optical axis, 0 where unknown; None without depth.
        intrinsics: ``[F, 3, 3]`` pixels, the first pixel's middle at (0.5, 0.5); None without cameras.
        T_world_cam: ``[F, 4, 4]`` camera to world, metres, OpenCV axes; None without cameras.
        caption: perhaps empty.
    """

    name: str
    row: int
    place: int
    colors: Tensor
    depth: Tensor | None
    intrinsics: Tensor | None
    T_world_cam: Tensor | None
    caption: str

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` in pixels."""
        return int(self.colors.shape[-2]), int(self.colors.shape[-1])

    def batch(self) -> ClipBatch:
        """As a batch of one clip."""

        def one(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[None]

        return ClipBatch(
            self.colors[None], one(self.depth), one(self.intrinsics), one(self.T_world_cam), [self.caption]
        )


class Scenes(Protocol):
    """A sequence of clips, made when they are asked for: always the same ones."""

    def __len__(self) -> int:
        """The number of clips."""
        ...

    def load(self, rows: Sequence[int], device: torch.device) -> list[TrueScene]:
        """Some of the clips; ``rows`` count from 0 to the number of clips."""
        ...

    def other_caption(self, row: int) -> str:
        """The caption of another scene, differing from this one's.

        Raises:
            InputError: there is none.
        """
        ...


class WorldScenes:
    """Clips of procedural worlds.

    Args:
        split: "train", "val" or "test".
        indices: of worlds in the split.
        num_frames: F.
        size: ``(height, width)`` in pixels.
        samples: n x n rays a pixel.

    Raises:
        InputError: no worlds, or an index beyond the split.
    """

    def __init__(
        self, split: Split, indices: Sequence[int], num_frames: int, size: tuple[int, int], *, samples: int = 2
    ) -> None:
        if not indices:
            raise InputError("there is no world to evaluate on; give a range of seeds")
        for index in (indices[0], indices[-1]):
            world_seed(split, index)
        self.split, self.indices, self.samples = split, indices, samples
        self._plan = lru_cache(maxsize=256)(lambda index: plan_clip(split, index, num_frames, size))

    def __len__(self) -> int:
        """The number of clips."""
        return len(self.indices)

    def load(self, rows: Sequence[int], device: torch.device) -> list[TrueScene]:
        """See :class:`Scenes`; rendered on the device as one batch."""
        plans: list[ClipPlan] = [self._plan(self.indices[row]) for row in rows]
        if len(plans) > 1:  # tensors of one shape; what fills them up cannot be seen
            capacity = capacity_of([plan.world for plan in plans])
            plans = [replace(plan, packed=pack_worlds([plan.world], capacity=capacity)) for plan in plans]
        with torch.no_grad():
            rendering = render_clips(plans, device=device, samples=self.samples)
        colors = rendering.colors.clamp(0, 1).mul(255).round().div(255).movedim(-1, 2)
        return [
            TrueScene(
                name=f"{self.split}_{self.indices[row]:06d}",
                row=row,
                place=self.indices[row],
                colors=colors[number],
                depth=rendering.depth[number].float(),
                intrinsics=rendering.intrinsics[number].float(),
                T_world_cam=rendering.T_world_cam[number].float(),
                caption=plans[number].caption,
            )
            for number, row in enumerate(rows)
        ]

    def other_caption(self, row: int) -> str:
        """That of the next world, or of the first after it that is described differently."""
        index = self.indices[row]
        own, other = self._plan(index).caption, index + 1
        while (found := str(self._plan(other).caption)) == own:
            other += 1
        return found


class FolderScenes:
    """Scenes of a data set on disk (:mod:`gen3r_core.training.scene_files`): the first frames of each, first caption.

    Args:
        root: the data set.
        split: whose lists; a folder without any lists is taken as a whole.
        num_frames: F.
        size: ``(height, width)`` to scale and cut to.
        rows: which scenes, by their place in the list; None takes all.
        interval: every so-manyeth frame.

    Raises:
        InputError: the data set, or a scene's cameras or captions, cannot be read, or a scene is too short.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        num_frames: int,
        size: tuple[int, int],
        *,
        rows: Sequence[int] | None = None,
        interval: int = 1,
    ) -> None:
        if interval < 1:
            raise InputError(f"frames are taken at an interval of at least 1, got {interval}")
        listed = any(root.glob("*_videos_dirs.txt"))
        found = find_scenes(root, split if listed else "train")
        self.places = list(range(len(found)) if rows is None else rows)
        if not self.places or not all(0 <= place < len(found) for place in self.places):
            raise InputError(f"{root} has {len(found)} scenes of split {split!r}, counted from 0; choose among them")
        self._frames = [interval * index for index in range(num_frames)]
        self._size = size
        self._scenes: list[SceneOnDisk] = []
        for place in self.places:
            scene = open_scene(found[place])
            if len(scene.images) <= self._frames[-1]:
                raise InputError(
                    f"{found[place].images} has {len(scene.images)} frames, and {self._frames[-1] + 1} are needed; "
                    f"ask for fewer frames (--num_frames) or a smaller interval"
                )
            self._scenes.append(scene)

    def __len__(self) -> int:
        """The number of clips."""
        return len(self._scenes)

    def load(self, rows: Sequence[int], device: torch.device) -> list[TrueScene]:
        """See :class:`Scenes`.

        Raises:
            InputError: naming the file that is missing, damaged or does not fit.
        """
        scenes = []
        for row in rows:
            clip = read_frames(self._scenes[row], self._frames, self._size, self._caption(row)).to(device)
            depth, intrinsics, poses = (
                None if values is None else values[0] for values in (clip.depth, clip.intrinsics, clip.T_world_cam)
            )
            name = self._scenes[row].images[0].parent.parent.name
            place = self.places[row]
            colors, caption = clip.colors[0], clip.captions[0]
            scenes.append(TrueScene(f"{place:06d}_{name}", row, place, colors, depth, intrinsics, poses, caption))
        return scenes

    def other_caption(self, row: int) -> str:
        """That of the next scene with another one, the first following the last."""
        own = self._caption(row)
        for step in range(1, len(self)):
            found = self._caption((row + step) % len(self))
            if found not in {own, ""}:
                return found
        raise InputError("there is no other caption to prompt with; evaluate on more scenes, or with another --prompt")

    def _caption(self, row: int) -> str:
        captions = self._scenes[row].captions
        return captions[0] if captions else ""
