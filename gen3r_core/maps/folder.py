"""The folder of a map: written as a whole or not at all, and read again. ``docs/outputs.md`` shows its layout."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gen3r_core.errors import InputError, OutputError
from gen3r_core.io.atomic import check_free_space, write_json_atomic, write_text_atomic
from gen3r_core.io.images import read_image
from gen3r_core.io.replacing import is_leftover, replaced_folder
from gen3r_core.maps.bag import BAG, write_bag
from gen3r_core.maps.facts import FrameFacts, camera_names, check_rigid
from gen3r_core.maps.ply_files import read_map_cloud, read_map_mesh, write_map_cloud, write_map_mesh
from gen3r_core.maps.pose_files import parse_transforms, transforms_text, tum_texts, write_colmap_text
from gen3r_core.maps.report import VIEWS, build_report
from gen3r_core.maps.scene_map import MapFrame, SceneMap

if TYPE_CHECKING:
    from gen3r_core.progress import Callback

__all__ = ["check_map_destination", "read_map", "write_map"]

STAGE = "write"
"""Of the progress."""

_JPEG_QUALITY = 95
_MILLI = 1000.0
_ENTRIES = frozenset(
    {"cloud.ply", "mesh.ply", "images", "depth", "transforms.json", "colmap", BAG, "report.html", "run.json"}
)
_POINT_BYTES = 27 + 24 + 80
_FIXED_BYTES = 4 << 20


def check_map_destination(folder: Path) -> None:
    """Checks before a long job that a map may be written to a folder.

    Args:
        folder: need not exist. One with a map is all right: that will be replaced.

    Raises:
        OutputError: a file is in the way, it may not be written to, or it holds things that are not a map's.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"cannot write {folder}: it is a file and not a folder; choose another --output_dir")
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {folder}: {existing} may not be written to; choose another --output_dir")
    check_free_space(folder, _FIXED_BYTES)
    try:
        names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}; choose another --output_dir") from error
    foreign = sorted(name for name in names if not (name in _ENTRIES or _is_trajectory(name) or is_leftover(name)))
    if foreign:
        raise OutputError(
            f"cannot write {folder}: a map replaces its whole folder, and there are other things in it "
            f"({', '.join(foreign[:3])}{', ...' if len(foreign) > 3 else ''}); choose another --output_dir"
        )


def write_map(
    scene_map: SceneMap,
    folder: Path,
    *,
    depth: bool = False,
    mcap: bool = True,
    report: bool = True,
    images: bool = True,
    progress: Callback | None = None,
) -> None:
    """Writes all files of a map, or none; an earlier map there is replaced as a whole.

    Frames are gone through once, one by one.

    Args:
        scene_map: to write.
        folder: its parents are made.
        depth: also the depth of frames that have it.
        mcap: also the bag.
        report: also ``report.html``.
        images: also the frames' images; without them the bag and the report have none either.
        progress: told of stage "write"; may cancel.

    Raises:
        InputError: a frame's pose is not rigid.
        OutputError: the folder holds other things, or a file cannot be written.
        CancelledError: the callback asked for it; nothing is changed then.
    """
    check_map_destination(folder)
    count = len(scene_map.frames)
    drawn = VIEWS if report and images else 0
    steps = _Steps(progress, count + 3 + (count if mcap else 0) + drawn)
    cloud, metric = scene_map.cloud, scene_map.metric
    check_free_space(folder, _FIXED_BYTES + _POINT_BYTES * len(cloud))
    with replaced_folder(folder) as new:
        facts = []
        for index, frame in enumerate(scene_map.frames):
            facts.append(_write_frame(new, index, frame, images=images, depth=depth))
            steps.done()
        write_text_atomic(new / "transforms.json", transforms_text(facts, metric=metric))
        for name, text in tum_texts(facts).items():
            write_text_atomic(new / name, text)
        write_map_cloud(new / "cloud.ply", cloud, metric=metric)
        if scene_map.mesh is not None:
            write_map_mesh(new / "mesh.ply", scene_map.mesh, metric=metric)
        steps.done()
        (new / "colmap").mkdir()
        write_colmap_text(new / "colmap", facts, cloud)
        steps.done()
        if mcap:
            write_bag(
                new / BAG, facts, cloud, lambda index: (new / str(facts[index].image)).read_bytes(),
                metric=metric, step=steps.done,
            )  # fmt: skip
        run = _run_facts(scene_map, facts)
        if report:
            picture = _Frames(new, facts).__getitem__ if images else None
            text = build_report(facts, cloud, run, picture, metric=metric, step=steps.done)
            write_text_atomic(new / "report.html", text)
        write_json_atomic(new / "run.json", run)
        steps.finish()


def read_map(folder: Path) -> SceneMap:
    """Reads a map.

    Args:
        folder: that :func:`write_map` wrote.

    Returns:
        the map. Its frames are read when they are asked for (InputError if that fails); those whose image was not
        written are mid-grey.

    Raises:
        InputError: naming the file that is missing or damaged.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of a map; check the path")
    path = folder / "run.json"
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{folder}: this folder holds no map (no run.json); give one that gen3r wrote") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: this file cannot be read: {error}") from error
    if not isinstance(run, dict) or not isinstance(run.get("metric"), bool):
        raise InputError(f"{path}: this is not the run.json of a map (it does not say whether it is metric)")
    facts = parse_transforms(folder / "transforms.json")
    cloud = read_map_cloud(folder / "cloud.ply")
    mesh = read_map_mesh(folder / "mesh.ply") if (folder / "mesh.ply").exists() else None
    return SceneMap(_Frames(folder, facts), cloud, run["metric"], run, mesh)


class _Frames(Sequence[MapFrame]):
    """Frames of a folder, each read when it is asked for."""

    def __init__(self, folder: Path, facts: Sequence[FrameFacts]) -> None:
        self._folder, self._facts = folder, facts

    def __len__(self) -> int:
        return len(self._facts)

    def __iter__(self) -> Iterator[MapFrame]:
        return (self._read(fact) for fact in self._facts)

    @overload
    def __getitem__(self, index: int) -> MapFrame: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[MapFrame]: ...
    def __getitem__(self, index: int | slice) -> MapFrame | Sequence[MapFrame]:
        if isinstance(index, slice):
            return _Frames(self._folder, self._facts[index])
        return self._read(self._facts[index])

    def _read(self, fact: FrameFacts) -> MapFrame:
        image = np.full((*fact.size, 3), 128, np.uint8)
        if fact.image is not None:
            image = read_image(self._folder / fact.image)
            if image.shape[:2] != fact.size:
                raise InputError(
                    f"{self._folder / fact.image}: the image is {image.shape[:2]} (height, width), and transforms.json "
                    f"says {fact.size}; was it changed?"
                )
        depth = None if fact.depth is None else _read_depth(self._folder / fact.depth, fact.size)
        return MapFrame(image, fact.T_world_cam, fact.intrinsics, fact.stamp_ns, fact.camera, fact.generated, depth)


class _Steps:
    """Tells of progress; of nothing where nobody listens, so that PyTorch need not be loaded for it."""

    def __init__(self, callback: Callback | None, total: int) -> None:
        self._report: Callable[[str, int, int], None] | None = None
        if callback is not None:
            from gen3r_core.progress import JobMonitor

            self._report = JobMonitor(callback).report
        self._step, self._total = -1, total
        self.done()

    def finish(self) -> None:
        self._step = self._total - 1
        self.done()

    def done(self) -> None:
        self._step += 1
        if self._report is not None:
            self._report(STAGE, self._step, self._total)


def _write_frame(folder: Path, index: int, frame: MapFrame, *, images: bool, depth: bool) -> FrameFacts:
    T, K = frame.T_world_cam.astype(np.float64), frame.intrinsics.astype(np.float64)
    facts = FrameFacts(T, K, frame.size, frame.stamp_ns, frame.camera, frame.generated)
    check_rigid(facts, index)
    if images:
        name = f"images/{index:06d}.jpg"
        _save(folder / name, Image.fromarray(frame.image), "JPEG", quality=_JPEG_QUALITY, subsampling=0)
        facts = replace(facts, image=name)
    if depth and frame.depth is not None:
        name = f"depth/{index:06d}.png"
        _save(folder / name, Image.fromarray(_millis(frame.depth)), "PNG", compress_level=3)
        facts = replace(facts, depth=name)
    return facts


def _save(path: Path, image: Image.Image, kind: str, **options: Any) -> None:
    """Encodes in memory first: Pillow does not always tell of a full disk."""
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(file.getvalue())


def _millis(depth: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Thousandths of the map's unit; 0 where depth is not known, or too large for 16 bits."""
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = np.rint(depth.astype(np.float64) * _MILLI)
        usable = np.isfinite(scaled) & (scaled > 0) & (scaled <= np.iinfo(np.uint16).max)
    return np.where(usable, scaled, 0).astype(np.uint16)


def _read_depth(path: Path, size: tuple[int, int]) -> NDArray[np.float32]:
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path}: this depth image is missing or damaged: {error}") from error
    if values.shape != size:
        raise InputError(f"{path}: the depth is {values.shape} (height, width), and transforms.json says {size}")
    return (values / np.float32(_MILLI)).astype(np.float32)


def _run_facts(scene_map: SceneMap, facts: Sequence[FrameFacts]) -> dict[str, Any]:
    """What ``run.json`` says: the run's own words, and what was written."""
    cloud, mesh = scene_map.cloud, scene_map.mesh
    result = {
        "frames": len(facts),
        "generated_frames": sum(frame.generated for frame in facts),
        "cameras": list(camera_names(frame.camera for frame in facts)),
        "points": len(cloud),
        "generated_points": int(cloud.generated.sum()),
        "triangles": 0 if mesh is None else len(mesh.triangles),
    }
    return {**_plain(scene_map.run), "metric": bool(scene_map.metric), "result": result}


def _plain(value: Any) -> Any:
    """For JSON: what is not finite is null, arrays are lists, paths and the like are text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def _is_trajectory(name: str) -> bool:
    return name == "poses.tum" or (name.startswith("poses_") and name.endswith(".tum"))
