"""Trained parts that lie in folders of their own, put together to one checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from gen3r_core.checkpoint.components import SPECS
from gen3r_core.checkpoint.folder import (
    GENERATION,
    MANIFEST,
    PUBLISHED_DEFAULTS,
    SCHEDULER_DEFAULTS,
    Checkpoint,
    ComponentFiles,
    open_checkpoint,
    read_json,
    scheduler_config,
)
from gen3r_core.checkpoint.loading import build_empty
from gen3r_core.errors import CheckpointError, InputError
from gen3r_core.fit import check_fit
from gen3r_core.models.text_encoder import TextEncoder, Tokenizer

__all__ = ["SCHEDULER", "TOKENIZER", "UNKNOWN_LICENCE", "check_parts", "find_component", "gather_parts"]

TOKENIZER = "tokenizer"
SCHEDULER = "scheduler"
_KNOWN = (*SPECS, TOKENIZER, SCHEDULER)
_MARKERS = (MANIFEST, "model_index.json")
UNKNOWN_LICENCE = "not stated"


def find_component(name: str, path: Path | str) -> ComponentFiles:
    """A network's files: a component folder that a training has exported, or any checkpoint that holds it.

    Args:
        name: our name of the network.
        path: component folder (``config.json`` and weights), a folder with component folders by name, or a
            checkpoint folder of any layout.

    Raises:
        CheckpointError: there is nothing, or something else.
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"{name}: folder {path} does not exist; name the folder of a trained part")
    for root in (path, path.parent):
        if _is_marked(root):
            return open_checkpoint(root).component(name)
    for own in (path, path / name):
        if _is_component(own):
            config = {key: value for key, value in read_json(own / "config.json").items() if not key.startswith("_")}
            return ComponentFiles(SPECS[name], own, "gen3r", config)
    try:
        return open_checkpoint(path).component(name)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from error


def gather_parts(
    parts: Iterable[tuple[str | None, Path]],
    defaults: Mapping[str, Any],
    base: Checkpoint | None = None,
    licence: str = UNKNOWN_LICENCE,
) -> Checkpoint:
    """Put parts together; nothing is loaded or copied.

    The tokenizer is the one beside the text encoder, and the scheduler's configuration the one beside the transformer,
    as ``gen3r train transformer`` writes them, unless they are given themselves.

    Args:
        parts: folders with our name of the network, "tokenizer" or "scheduler"; with None as name, a folder of a
            training or a checkpoint, of which every part is taken.
        defaults: what the checkpoint's ``defaults`` hold, as far as they differ from ``base``'s.
        base: gives the parts that are not named.
        licence: of the parts' weights, to be noted.

    Raises:
        CheckpointError: a folder holds no such part, or a text encoder has no tokenizer.
        InputError: a name is unknown or given twice.
    """
    places: dict[str, Path] = {}
    for given, path in parts:
        found = _everything(path) if given is None else {given: path}
        for name, place in found.items():
            if name not in _KNOWN:
                raise InputError(f"part {name!r} is unknown; choose among {', '.join(_KNOWN)}")
            if name in places:
                raise InputError(f"{name} is given twice: {places[name]} and {place}; name one of them")
            places[name] = place
    own = {name: find_component(name, place) for name, place in places.items() if name in SPECS}
    components = {**(base.components if base else {}), **own}
    tokenizer = _tokenizer(places, own, base)
    new = [*own, *([TOKENIZER] if tokenizer is not None and (base is None or tokenizer != base.tokenizer) else [])]
    licences = {**(base.manifest.get("licences", {}) if base else {}), **dict.fromkeys(new, licence)}
    return Checkpoint(
        root=base.root if base else Path(),
        layout=base.layout if base else "gen3r",
        components={name: components[name] for name in SPECS if name in components},
        tokenizer=tokenizer,
        scheduler=_scheduler(places, own, base),
        defaults={
            **(base.defaults if base else {key: PUBLISHED_DEFAULTS[key] for key in GENERATION}),
            **defaults,
        },
        manifest={**(base.manifest if base else {}), "licences": licences},
    )


def check_parts(checkpoint: Checkpoint) -> None:
    """Check that parts of different origin belong together, as far as they are there; no weights are read.

    Raises:
        CheckpointError: widths differ, the tokenizer knows more pieces than the text encoder, or files do not fit.
    """
    modules = {}
    for name, files in checkpoint.components.items():
        try:
            modules[name] = build_empty(files).module
        finally:
            files.close()
    text = cast(TextEncoder | None, modules.pop("text_encoder", None))
    if len(modules) == len(SPECS) - 1:
        check_fit(**modules, text_encoder=text)  # type: ignore[arg-type]
    if text is not None and checkpoint.tokenizer is not None:
        pieces, rows = Tokenizer.from_folder(checkpoint.tokenizer).vocab_size, text.config.vocab_size
        if pieces > rows:
            raise CheckpointError(
                f"the tokenizer in {checkpoint.tokenizer} knows {pieces} pieces, the text encoder only {rows}. Take "
                f"both from one training"
            )


def _is_marked(folder: Path) -> bool:
    return any((folder / marker).is_file() for marker in _MARKERS)


def _is_component(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _everything(path: Path) -> dict[str, Path]:
    """All parts of a training's folder, of a component folder that has its name, or of a checkpoint."""
    if _is_marked(path):
        checkpoint = open_checkpoint(path)
        found = {name: files.path for name, files in checkpoint.components.items()}
        beside = {TOKENIZER: checkpoint.tokenizer, SCHEDULER: path / SCHEDULER}
    else:
        single = path.name in SPECS and _is_component(path)
        places = {path.name: path} if single else {name: path / name for name in SPECS}
        found = {name: place for name, place in places.items() if _is_component(place)}
        beside = {} if single else {name: path / name for name in (TOKENIZER, SCHEDULER)}
    if not found:
        raise CheckpointError(
            f"{path} holds no trained part: neither a folder called {', '.join(SPECS)} with config.json and weights, "
            f"nor a checkpoint. Name the folder of a training, or NAME=FOLDER"
        )
    return found | {name: place for name, place in beside.items() if place is not None and place.is_dir()}


def _tokenizer(places: Mapping[str, Path], own: Mapping[str, ComponentFiles], base: Checkpoint | None) -> Path | None:
    if TOKENIZER in places:
        if not places[TOKENIZER].is_dir():
            raise CheckpointError(f"tokenizer: folder {places[TOKENIZER]} does not exist")
        return places[TOKENIZER]
    usual = base.tokenizer if base else None
    if "text_encoder" not in own:
        return usual
    beside = own["text_encoder"].path.parent / TOKENIZER
    if beside.is_dir():
        return beside
    if usual is None:
        raise CheckpointError(
            f"the text encoder in {own['text_encoder'].path} needs its tokenizer, and there is none beside it; name "
            f"its folder: tokenizer=FOLDER"
        )
    return usual


def _scheduler(
    places: Mapping[str, Path], own: Mapping[str, ComponentFiles], base: Checkpoint | None
) -> dict[str, Any]:
    if SCHEDULER in places:
        return scheduler_config(places[SCHEDULER])
    if "transformer" in own:
        beside = own["transformer"].path.parent / SCHEDULER
        if beside.is_dir():
            return scheduler_config(beside)
    return dict(base.scheduler) if base else dict(SCHEDULER_DEFAULTS)
