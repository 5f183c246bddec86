"""A recording becomes a map, stage by stage; each is kept when it is done."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gen3r_core.errors import InputError
from gen3r_core.io.images import read_image, write_image
from gen3r_core.mapping.fusion import PlacedView, placed_views
from gen3r_core.mapping.windows import Predictor, WindowStore, run_windows
from gen3r_core.maps.folder import check_map_destination, write_map
from gen3r_core.maps.scene_map import MapCloud, MapMesh, SceneMap
from gen3r_core.offline.anchored import anchor_windows
from gen3r_core.offline.checks import check_cameras, check_not_here
from gen3r_core.offline.confirming import confirm_views, confirmed
from gen3r_core.offline.counting import Counted, Shifted
from gen3r_core.offline.frames import MapFrames
from gen3r_core.offline.fused_files import load_cloud, load_mesh, save_cloud, save_mesh
from gen3r_core.offline.fusing import choose_voxel, fuse_cloud, make_mesh, read_view, save_view
from gen3r_core.offline.generation import Ends, find_stretch, generate_views
from gen3r_core.offline.keyframes import Keyframes, select_keyframes
from gen3r_core.offline.matched import feature_book, match_windows, refinement
from gen3r_core.offline.model import CalibratedPredictor, LatePredictor, OfflineModel, fingerprint
from gen3r_core.offline.options import OfflineOptions, Stretch
from gen3r_core.offline.placing import PRECISE, Placed, correction, drift_of, place, window_scales
from gen3r_core.offline.signature import later_of, signature_of
from gen3r_core.offline.work import WorkFolder, work_folder_of
from gen3r_core.progress import Callback, JobMonitor
from gen3r_core.recordings.opening import open_recording

__all__ = ["EXIT_CLEAN", "EXIT_PARTLY", "STAGES", "Outcome", "reconstruct"]

EXIT_CLEAN, EXIT_PARTLY = 0, 3
STAGES = ("select", "windows", "match", "anchor", "graph", "views", "generate", "fuse", "write")


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        exit_code: 0, or 3 where something was lost.
        run: what ``run.json`` says.
    """

    exit_code: int
    run: dict[str, Any]


def reconstruct(
    recording: Path,
    destination: Path,
    model: OfflineModel,
    options: OfflineOptions,
    *,
    resume: bool = False,
    callback: Callback | None = None,
) -> Outcome:
    """Make a map of a recording.

    Args:
        recording: to read.
        destination: folder of the map.
        model: what predicts.
        options: how.
        resume: go on with the work of a run that was stopped.
        callback: told of each stage's steps; returning False stops the run, to be resumed.

    Returns:
        What came of it; the map is written then, and the work folder gone.

    Raises:
        InputError: the recording or an option cannot be used.
        CheckpointError: the model cannot be used.
        OutputError: something cannot be written.
        CancelledError: the callback asked for it.
    """
    destination = Path(os.path.abspath(destination))  # noqa: PTH100 - links stay what they are
    check_map_destination(destination)
    check_not_here(destination)
    recording = recording.resolve()
    if not recording.exists():
        raise InputError(f"{recording}: there is no such recording")
    signature = signature_of(recording, destination, model, options)
    with WorkFolder(work_folder_of(destination), signature, later_of(options), resume=resume) as work:
        run = _Run(recording, model, options, work, JobMonitor(callback, model.device))
        keyframes = run.select()
        predictor = run.calibrated(keyframes)
        names = run.windows(keyframes, predictor)
        stores = run.anchor(keyframes, names, run.match(keyframes, names))
        placed = run.graph(keyframes, names, stores, predictor)
        run.views(keyframes, names, stores, placed)
        run.generate(keyframes)
        cloud, mesh = run.fuse(keyframes, placed)
        outcome = run.write(destination, keyframes, placed, cloud, mesh)
        work.remove()
    return outcome


class _Run:
    """The stages, with what they share."""

    def __init__(
        self, recording: Path, model: OfflineModel, options: OfflineOptions, work: WorkFolder, monitor: JobMonitor
    ) -> None:
        self.recording, self.model, self.options, self.work, self.monitor = recording, model, options, work, monitor
        self._stores: list[WindowStore] = []

    # ------------------------------------------------------------------ select

    def select(self) -> Keyframes:
        folder = self.work.path / "keyframes"
        sight = self.model.sight
        if self.options.longest is not None:
            sight = replace(sight, longest=self.options.longest)
        if self.work.facts_of("select") is None:
            with self.work.stage("select") as facts, open_recording(self.recording) as opened:
                facts["format"] = opened.format
                facts.update(select_keyframes(opened, self.options, sight, folder, self.monitor))
                check_cameras(Keyframes.load(folder, facts), self.recording)
        keyframes = Keyframes.load(folder, self.work.facts_of("select") or {})
        for stretch in self.options.stretches:  # before hours are spent on the other stages
            find_stretch(keyframes, stretch, self.recording)
        return keyframes

    def calibrated(self, keyframes: Keyframes) -> Predictor:
        known = {
            fingerprint(keyframes.image(number)): one.intrinsics
            for number, one in enumerate(keyframes.table)
            if one.intrinsics is not None
        }
        return CalibratedPredictor(LatePredictor(self.model), known)

    # ------------------------------------------------------------------ windows

    def _store(self, stage: str, camera: int) -> WindowStore:
        return WindowStore(self.work.path / stage / str(camera), {"model": self.model.name})

    def windows(self, keyframes: Keyframes, predictor: Predictor) -> list[list[str]]:
        facts = self.work.facts_of("windows")
        if facts is not None:
            return [list(names) for names in facts["names"]]
        with self.work.stage("windows") as facts:
            facts["names"] = []
            done = 0
            for index, camera in enumerate(keyframes.cameras):
                numbers = keyframes.of(camera)
                monitor = Shifted(self.monitor, done, len(keyframes))
                store = self._store("windows", index)
                facts["names"].append(
                    run_windows(keyframes.frames(numbers), predictor, store, self.options.window, monitor=monitor)
                )
                done += len(numbers)
            return [list(names) for names in facts["names"]]

    # ------------------------------------------------------------------ match

    def match(self, keyframes: Keyframes, names: list[list[str]]) -> list[WindowStore]:
        """The stores to go on with: windows with the cameras of matches, or as they were predicted."""
        raw = [self._store("windows", index) for index in range(len(names))]
        if not self.options.matches or self._anchoring(keyframes):
            return raw
        matched = [self._store("matched", index) for index in range(len(names))]
        if self.work.facts_of("match") is None:
            with self.work.stage("match") as facts:
                facts["cameras"] = [
                    match_windows(raw[index], names[index], matched[index], feature_book(keyframes, camera),
                                  self.monitor, self.model.device, refinement(keyframes, camera))
                    for index, camera in enumerate(keyframes.cameras)
                ]  # fmt: skip
        return matched

    # ------------------------------------------------------------------ anchor

    def anchor(self, keyframes: Keyframes, names: list[list[str]], raw: list[WindowStore]) -> list[WindowStore]:
        """The stores to go on with: windows fitted to known poses in metres, or as they are."""
        if not self._anchoring(keyframes):
            return raw
        fitted = [self._store("anchored", index) for index in range(len(names))]
        if self.work.facts_of("anchor") is None:
            with self.work.stage("anchor") as facts:
                facts["windows"] = [
                    anchor_windows(raw[index], names[index], fitted[index], keyframes.poses(keyframes.of(camera)),
                                   self.monitor, self.model.device)
                    for index, camera in enumerate(keyframes.cameras)
                ]  # fmt: skip
        return fitted

    def _anchoring(self, keyframes: Keyframes) -> bool:
        wanted = self.options.anchor and self.options.graph
        return wanted and bool(keyframes.facts["metric"]) and bool(keyframes.facts["posed"])

    # ------------------------------------------------------------------ graph

    def graph(
        self, keyframes: Keyframes, names: list[list[str]], stores: Sequence[WindowStore], predictor: Predictor
    ) -> list[Placed]:
        paths = [self.work.path / f"placed_{index}.npz" for index in range(len(names))]
        if self.work.facts_of("graph") is None:
            with self.work.stage("graph") as facts:
                facts["cameras"] = []
                first: Placed | None = None
                for index, camera in enumerate(keyframes.cameras):
                    placed = self._place(keyframes, camera, names[index], stores[index], predictor, first)
                    placed.save(paths[index])
                    facts["cameras"].append(placed.facts)
                    first = first or placed
        return [Placed.load(path) for path in paths]

    def _place(
        self, keyframes: Keyframes, camera: str, names: list[str], store: WindowStore, predictor: Predictor,
        first: Placed | None,
    ) -> Placed:  # fmt: skip
        numbers = keyframes.of(camera)
        poses, drift = keyframes.poses(numbers), drift_of(keyframes.facts["world"])
        if not keyframes.facts["metric"] and np.isfinite(poses).any():
            drift = PRECISE
        if first is not None:  # what the first camera found out of the odometry's drift holds for all
            own = keyframes.of(keyframes.cameras[0])
            stamps = [keyframes.table[number].stamp_ns for number in own]
            poses = correction(first, keyframes.poses(own), stamps, poses,
                               [keyframes.table[number].stamp_ns for number in numbers])  # fmt: skip
            drift = PRECISE
        return place(
            store, names, predictor, poses, drift, metres=bool(keyframes.facts["metric"]), graph=self.options.graph,
            surfaces=self._anchoring(keyframes), book=feature_book(keyframes, camera) if self.options.matches else None,
            depth_scales=window_scales(store, names, keyframes, numbers), monitor=self.monitor,
        )  # fmt: skip

    # ------------------------------------------------------------------ views

    def views(
        self, keyframes: Keyframes, names: list[list[str]], stores: Sequence[WindowStore], placed: Sequence[Placed]
    ) -> None:
        """Each keyframe with its depth in the world, one file each."""
        if self.work.facts_of("views") is not None:
            return
        folder = self.work.path / "views"
        folder.mkdir(exist_ok=True)
        with self.work.stage("views") as facts:
            depths = []
            for index, camera in enumerate(keyframes.cameras):
                numbers = keyframes.of(camera)
                for view in placed_views(stores[index], names[index], placed[index], monitor=self.monitor):
                    number = numbers[view.frame]
                    save_view(folder / f"{number:06d}.npz", view._replace(frame=number))
                    trusted = view.depth[view.depth > 0]
                    if len(trusted):
                        depths.append(float(np.median(trusted)))
            facts["typical_depth"] = float(np.median(depths)) if depths else 1.0

    # ------------------------------------------------------------------ generate

    def generate(self, keyframes: Keyframes) -> list[int]:
        """How many views were generated for each stretch."""
        if not self.options.stretches:
            return []
        facts = self.work.facts_of("generate")
        if facts is None:
            folder = self.work.path / "generated"
            folder.mkdir(exist_ok=True)
            with self.work.stage("generate") as facts:
                facts["counts"], facts["why_not"] = [], []
                pipeline = self.model.pipeline()
                if self.options.steps is not None:
                    pipeline.sampling = replace(pipeline.sampling, steps=self.options.steps)
                facts["geometry"] = str(pipeline.sampling.geometry)
                for number, stretch in enumerate(self.options.stretches):
                    views, why_not = generate_views(
                        pipeline, self._ends(keyframes, stretch), self.options.prompt, self.options.seed + number,
                        sum(facts["counts"]), self.monitor,
                    )  # fmt: skip
                    for view in views:
                        save_view(folder / f"{view.frame:06d}.npz", view)
                        write_image(folder / f"{view.frame:06d}.png", view.colors)
                    facts["counts"].append(len(views))
                    facts["why_not"].append(why_not)
        return [int(count) for count in facts["counts"]]

    def _ends(self, keyframes: Keyframes, stretch: Stretch) -> Ends:
        way = [self._view(keyframes, number) for number in find_stretch(keyframes, stretch, self.recording)]
        ends = (way[0],) if stretch.end_s is None else (way[0], way[-1])
        return Ends(stretch, ends, np.stack([view.T_world_cam for view in way]))

    # ------------------------------------------------------------------ fuse

    def fuse(self, keyframes: Keyframes, placed: Sequence[Placed]) -> tuple[MapCloud, MapMesh | None]:
        """All views as one cloud, and as a mesh if one was asked for."""
        facts = self.work.facts_of("fuse")
        if facts is None:
            with self.work.stage("fuse") as facts:
                typical = float((self.work.facts_of("views") or {})["typical_depth"])
                facts["voxel"] = choose_voxel(self.options.voxel, placed[0].metric, typical)
                facts["confirmed"] = None
                if self.options.confirm:
                    poses = np.concatenate([one.T_world_cam for one in placed])
                    facts["confirmed"] = round(confirm_views(
                        self.work.path / "views", self._masks, len(keyframes), poses, typical, self.monitor
                    ), 4)  # fmt: skip
                total = 2 * (len(keyframes) + self._generated)
                told = Counted(self.monitor, "fuse", total)
                cloud, facts["evicted"] = fuse_cloud(
                    told(self._all(keyframes)), told(self._all(keyframes)), facts["voxel"], self.options.max_points
                )
                save_cloud(self.work.path / "cloud.npz", cloud)
                if self.options.mesh:
                    views = Counted(self.monitor, "mesh", len(keyframes))(
                        self._sure(keyframes, number) for number in range(len(keyframes))
                    )
                    save_mesh(self.work.path / "mesh.npz", make_mesh(views, 2 * facts["voxel"]))
        mesh = load_mesh(self.work.path / "mesh.npz") if self.options.mesh else None
        return load_cloud(self.work.path / "cloud.npz"), mesh

    def _view(self, keyframes: Keyframes, number: int) -> PlacedView:
        return read_view(self.work.path / "views" / f"{number:06d}.npz", keyframes.image(number))

    @property
    def _masks(self) -> Path:
        return self.work.path / "confirmed"

    def _sure(self, keyframes: Keyframes, number: int) -> PlacedView:
        view = self._view(keyframes, number)
        return confirmed(view, self._masks, number) if self.options.confirm else view

    def _all(self, keyframes: Keyframes) -> Iterator[tuple[PlacedView, bool]]:
        for number in range(len(keyframes)):
            yield self._sure(keyframes, number), False
        for number in range(self._generated):
            path = self.work.path / "generated" / f"{number:06d}.npz"
            yield read_view(path, read_image(path.with_suffix(".png"))), True

    @property
    def _generated(self) -> int:
        return sum((self.work.facts_of("generate") or {}).get("counts", []))

    # ------------------------------------------------------------------ write

    def write(
        self, destination: Path, keyframes: Keyframes, placed: Sequence[Placed], cloud: MapCloud, mesh: MapMesh | None
    ) -> Outcome:
        """The folder of the map."""
        frames = MapFrames(self.work.path, keyframes, self._generated, depth=self.options.depth)
        facts = self._facts(keyframes, placed, cloud)
        write_map(
            SceneMap(frames, cloud, placed[0].metric, facts, mesh),
            destination,
            depth=self.options.depth,
            progress=lambda p: self.monitor.report(p.stage, p.step, p.total),
        )
        return Outcome(facts["exit_code"], facts)

    def _facts(self, keyframes: Keyframes, placed: Sequence[Placed], cloud: MapCloud) -> dict[str, Any]:
        selected = keyframes.facts
        fused, made = self.work.facts_of("fuse") or {}, self.work.facts_of("generate") or {}
        anchored, matched = self.work.facts_of("anchor"), self.work.facts_of("match")
        reason = placed[0].reason
        if reason and selected["why_not"]:
            reason = f"{reason} ({selected['why_not']})"
        return {
            "command": "reconstruct",
            "source": str(self.recording),
            "format": selected["format"],
            "model": self.model.name,
            "device": str(self.model.device),
            "options": self.options.facts(),
            "metric": placed[0].metric,
            "why_not_metric": reason,
            "world": selected["world"],
            "cameras": selected["cameras"],
            "counts": selected["counts"],
            "keyframes": len(keyframes),
            "with_pose": selected["posed"],
            "windows": sum(one.facts["windows"] for one in placed),
            "loops": sum(one.facts["loops"] for one in placed),
            "graph": [one.facts for one in placed],
            "matched": None if matched is None else matched["cameras"],
            "anchored": None if anchored is None else anchored["windows"],
            "confirmed": fused.get("confirmed"),
            "voxel": fused.get("voxel"),
            "points": len(cloud),
            "points_given_up": fused.get("evicted", 0),
            "generated": {
                "frames": self._generated,
                "points": int(cloud.generated.sum()),
                "geometry": made.get("geometry"),
                "why_not": [why for why in made.get("why_not", []) if why],
            },
            "lost": selected["lost"],
            "losses": selected["losses"],
            "seconds": self.work.seconds,
            "exit_code": EXIT_PARTLY if selected["lost"] else EXIT_CLEAN,
        }
