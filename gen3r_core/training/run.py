"""A training from its configuration: which stage, on which clips, by which plan, into which folder."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, cast

import torch

from gen3r_core.errors import InputError
from gen3r_core.io.atomic import write_json_atomic
from gen3r_core.training.batch import ClipSource
from gen3r_core.training.folders import FolderOptions, ReadAhead
from gen3r_core.training.folders import from_config as folder_source
from gen3r_core.training.loop import Trainer
from gen3r_core.training.options import read_options
from gen3r_core.training.plan import Plan
from gen3r_core.training.processes import make_accelerator
from gen3r_core.training.stage import EncodingStage, Stage
from gen3r_core.training.worlds_source import WorldsOptions, WorldsSource

__all__ = ["RESOLVED", "STAGES", "TrainConfig", "make_stage", "read_config", "train"]

STAGES = ("video_vae", "vggt", "geometry_adapter", "transformer")
"""What can be trained, in the order in which parts need one another."""

WORLDS = "worlds"
RESOLVED = "training.json"
"""The file beside a training's results with its whole configuration."""


@dataclass(frozen=True)
class TrainConfig:
    """A whole training, checked.

    Attributes:
        stage: one of :data:`STAGES`.
        data: "worlds", or the folder of a data set.
        plan: values of :class:`gen3r_core.training.plan.Plan`.
        model: values of the stage's own options.
        source: values of :class:`WorldsOptions` or :class:`FolderOptions`.
        validation: the same for validation, where they differ from the usual.
    """

    stage: str
    data: str = WORLDS
    plan: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    validation: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise InputError(f"stage {self.stage!r} is unknown; choose one of: {', '.join(STAGES)}")
        frames = [phase.num_frames for phase in self.read_plan().stretches]
        if self.stage != "vggt" and any(count % 4 != 1 for count in frames):
            raise InputError(f"stage {self.stage} trains on clips of 4k+1 frames, but the phases have {frames}")
        if self.data == WORLDS:
            rendered = read_options(WorldsOptions, self.source, "source").clip_frames
            if max(frames) > rendered:
                raise InputError(
                    f"a phase has clips of {max(frames)} frames, but worlds are rendered with {rendered}; "
                    f"set source.clip_frames={max(frames)}"
                )
        else:
            read_options(FolderOptions, self.source, "source")

    def read_plan(self) -> Plan:
        """The plan, checked."""
        return read_options(Plan, self.plan, "plan")


def read_config(stage: str, path: Path | None, changes: Iterable[str] = (), **given: Any) -> TrainConfig:
    """A configuration from a file and from changes to it.

    Args:
        stage: one of :data:`STAGES`.
        path: JSON file with the fields of :class:`TrainConfig` (its stage must be this one); None has defaults only.
        changes: `key=value`, the key with dots (`plan.steps=100`, `plan.phases.0.batch_size=4`), the value as JSON, or
            as a text where it is none.
        given: fields to replace last; None leaves a field as it is.

    Raises:
        InputError: the file cannot be read, or something in it is unknown or does not fit together.
    """
    values = _read_file(path) if path is not None else {}
    if values.get("stage", stage) != stage:
        raise InputError(f"{path} is the configuration of stage {values['stage']!r}, not of {stage!r}")
    for change in changes:
        _change(values, change)
    values.update({key: value for key, value in given.items() if value is not None})
    known = {item.name for item in fields(TrainConfig)}
    if unknown := sorted(set(values) - known):
        raise InputError(f"configuration: unknown keys {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    return read_options(TrainConfig, {**values, "stage": stage}, "configuration")


def make_stage(name: str, values: Mapping[str, Any], device: torch.device) -> Stage:
    """A stage by name; its module is imported only now.

    Raises:
        InputError: options that it does not know or cannot use.
        CheckpointError: parts that it needs cannot be loaded.
    """
    module = importlib.import_module(f"gen3r_core.training.{name}")
    return cast(Stage, module.from_config(dict(values), device))


def train(
    config: TrainConfig,
    folder: Path,
    *,
    resume: bool = False,
    max_minutes: float | None = None,
    cpu: bool = False,
    bar: bool = False,
) -> Path:
    """Trains a stage and exports its component; the resolved configuration is saved beside it.

    Args:
        config: what to train.
        folder: of the training.
        resume: go on from the newest checkpoint in the folder, if there is one.
        max_minutes: wall time in all, in place of the plan's.
        cpu: stay on the CPU.
        bar: show a progress bar.

    Returns:
        The component's folder.

    Raises:
        Gen3RError: see :meth:`gen3r_core.training.loop.Trainer.run` and :func:`make_stage`.
    """
    limit = {} if max_minutes is None else {"max_minutes": max_minutes}
    plan = read_options(Plan, config.plan | limit, "plan")
    accelerator = make_accelerator(cpu=cpu, accumulation=plan.accumulation)
    source = _make_source(config, config.source)
    validation = _validation_source(config, plan)
    try:
        stage = make_stage(config.stage, config.model, accelerator.device)
        clips = stage.wrap_source(source) if isinstance(stage, EncodingStage) else source
        trainer = Trainer(stage, clips, plan, folder, accelerator=accelerator, validation=validation, bar=bar)

        def note() -> None:
            if accelerator.is_main_process:
                write_json_atomic(folder / RESOLVED, _resolved(config, plan, stage))

        return trainer.run(resume=resume, ready=note)  # what a training began with stays where it cannot be resumed
    finally:
        for each in (source, validation):
            if isinstance(each, ReadAhead | WorldsSource):
                each.close()


def _make_source(config: TrainConfig, values: Mapping[str, Any]) -> ClipSource:
    if config.data == WORLDS:
        return WorldsSource(read_options(WorldsOptions, values, "source"))
    return folder_source(Path(config.data), values)


def _validation_source(config: TrainConfig, plan: Plan) -> ClipSource | None:
    """Clips of the split that is kept for it: unchanged, in order, made once; None where a data set lists none."""
    size = plan.validation_batch_size
    if config.data == WORLDS:
        usual: dict[str, Any] = {
            "split": "val",
            "clip_frames": plan.stretches[-1].num_frames,
            "pool": size * plan.validation_batches,
            "chunk": size,
            "fresh": 0.0,
            "reverse": 0.0,
        }
        keep: tuple[str, ...] = ("samples", "seed")
    else:
        usual = {"split": "test", "workers": 0}
        keep = ("on_error",)
        if "split" not in config.validation and not (Path(config.data) / "test_videos_dirs.txt").is_file():
            return None
    kept = {key: config.source[key] for key in keep if key in config.source}
    return _make_source(config, {**usual, **kept, **config.validation})


def _resolved(config: TrainConfig, plan: Plan, stage: Stage) -> dict[str, Any]:
    """All values, defaults included, as a configuration file."""
    options = getattr(stage, "options", None)
    kind = WorldsOptions if config.data == WORLDS else FolderOptions
    return {
        **asdict(config),
        "plan": {**asdict(plan), "phases": [asdict(phase) for phase in plan.stretches]},
        "model": asdict(options) if is_dataclass(options) and not isinstance(options, type) else config.model,
        "source": asdict(cast(Any, read_options(kind, config.source, "source"))),
    }


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"configuration {path} cannot be read: {error.strerror or error}; check the path") from error
    except ValueError as error:
        raise InputError(f"configuration {path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"configuration {path} must hold a JSON object, not a {type(values).__name__}")
    return values


def _change(values: dict[str, Any], change: str) -> None:
    key, separator, text = change.partition("=")
    if not separator or not key:
        raise InputError(f"{change!r} is no change of the configuration; write key=value, e.g. plan.steps=100")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    place: Any = values
    *path, last = key.split(".")
    if path[:2] == ["plan", "phases"]:  # none given is one with all defaults
        plan = values.setdefault("plan", {})
        if isinstance(plan, dict):
            plan.setdefault("phases", [{}])
    for part in path:
        place = place[_index(place, part, change)] if isinstance(place, list) else place.setdefault(part, {})
        if not isinstance(place, dict | list):
            raise InputError(f"{change!r}: {part!r} is a single value and has nothing inside")
    if isinstance(place, list):
        place[_index(place, last, change)] = value
    else:
        place[last] = value


def _index(place: list[Any], part: str, change: str) -> int:
    if not part.isdigit() or int(part) >= len(place):
        raise InputError(f"{change!r}: {part!r} is none of the {len(place)} places 0 to {len(place) - 1} of a list")
    return int(part)
