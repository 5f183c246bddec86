"""What a checkpoint folder holds, what is missing, and under which licence each part stands."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from gen3r_core.checkpoint.components import SPECS
from gen3r_core.checkpoint.convert import sha256
from gen3r_core.checkpoint.folder import Checkpoint, open_checkpoint
from gen3r_core.checkpoint.licences import licence_of_folder
from gen3r_core.checkpoint.loading import build_empty
from gen3r_core.errors import CheckpointError
from gen3r_core.models.text_encoder import Tokenizer


@dataclass(frozen=True)
class PartInfo:
    """One row of the table.

    Attributes:
        name: our name of the component.
        state: "ok", "missing" or "broken".
        files: number of weight files.
        size_bytes: of these files.
        parameters: numbers stored that the model uses.
        dtype: floating types in the files, most frequent first.
        licence: of the weights.
        detail: why it is broken, or what was left out.
    """

    name: str
    state: str
    files: int = 0
    size_bytes: int = 0
    parameters: int = 0
    dtype: str = ""
    licence: str = ""
    detail: str = ""


def inspect_checkpoint(folder: Path | Checkpoint | None, *, verify: bool = False) -> tuple[Checkpoint, list[PartInfo]]:
    """Check every component's keys and shapes without loading weights.

    Args:
        folder: checkpoint of any layout, or one that is already open; None for the model in this package.
        verify: also compare the SHA-256 sums of our layout.

    Raises:
        CheckpointError: the folder is not a checkpoint.
    """
    checkpoint = folder if isinstance(folder, Checkpoint) else open_checkpoint(folder)
    rows = [_component(checkpoint, name) for name in SPECS]
    rows.append(_tokenizer(checkpoint))
    if verify:
        rows += _verified(checkpoint)
    return checkpoint, rows


def _component(checkpoint: Checkpoint, name: str) -> PartInfo:
    licence = _licence(checkpoint, name, SPECS[name].published)
    if name not in checkpoint.components:
        return PartInfo(name, "missing", licence=licence)
    files = checkpoint.components[name]
    try:
        plan = build_empty(files).plan
        infos, paths = files.source.infos, files.source.files
    except CheckpointError as error:
        return PartInfo(name, "broken", licence=licence, detail=str(error))
    finally:
        files.close()
    kinds = Counter(str(infos[key].file_dtype).removeprefix("torch.") for key in plan.assignments)
    return PartInfo(
        name,
        "ok",
        files=len(paths),
        size_bytes=sum(path.stat().st_size for path in paths),
        parameters=sum(math.prod(infos[key].shape) for key in plan.assignments),
        dtype="+".join(kind for kind, _ in kinds.most_common()),
        licence=licence,
        detail=f"{len(plan.ignored)} tensors without use left out" if plan.ignored else "",
    )


def _licence(checkpoint: Checkpoint, name: str, folder: str) -> str:
    """What the checkpoint says of a part; otherwise what the maker of the published one says."""
    return str(checkpoint.manifest.get("licences", {}).get(name) or licence_of_folder(folder))


def _tokenizer(checkpoint: Checkpoint) -> PartInfo:
    licence = _licence(checkpoint, "tokenizer", "tokenizer")
    if checkpoint.tokenizer is None:
        return PartInfo("tokenizer", "missing", licence=licence)
    try:
        Tokenizer.from_folder(checkpoint.tokenizer)
    except CheckpointError as error:
        return PartInfo("tokenizer", "broken", licence=licence, detail=str(error))
    files = [path for path in checkpoint.tokenizer.iterdir() if path.is_file()]
    return PartInfo(
        "tokenizer", "ok", files=len(files), size_bytes=sum(f.stat().st_size for f in files), licence=licence
    )


def _verified(checkpoint: Checkpoint) -> list[PartInfo]:
    files = checkpoint.manifest.get("files", {})
    if not files:
        return [PartInfo("sums", "missing", detail="only our layout stores SHA-256 sums")]
    absent = [name for name in files if not (checkpoint.root / name).is_file()]
    changed = [
        name
        for name, facts in files.items()
        if name not in absent and sha256(checkpoint.root / name) != facts["sha256"]
    ]
    wrong = [f"{title}: {', '.join(names)}" for title, names in (("missing", absent), ("changed", changed)) if names]
    if wrong:
        return [PartInfo("sums", "broken", detail=f"since conversion {'; '.join(wrong)}. Convert or copy again")]
    return [PartInfo("sums", "ok", files=len(files), detail="all SHA-256 sums agree")]


def format_info(checkpoint: Checkpoint, rows: list[PartInfo]) -> str:
    """The table as text, one line a part, details below."""
    layouts = {"gen3r": "our layout", "published": "published layout", "parts": "parts for training (Wan base folder)"}
    defaults = checkpoint.defaults
    size = "x".join(str(side) for side in defaults["image_size"])
    usual = f"{defaults['steps']} steps, guidance {defaults['guidance']:g}, geometry from {defaults['geometry']}"
    head = f"{checkpoint.root}: {layouts[checkpoint.layout]}, {defaults['num_frames']} frames of {size}, {usual}"
    titles = ("part", "state", "files", "size", "parameters", "dtype", "licence of the weights")
    table = [titles]
    for row in rows:
        present = row.state == "ok"
        table.append(
            (
                row.name,
                row.state,
                str(row.files) if present else "-",
                f"{row.size_bytes / 2**20:.1f} MiB" if present and row.size_bytes else "-",
                f"{row.parameters / 1e6:.2f} M" if row.parameters else "-",
                row.dtype or "-",
                row.licence or "-",
            )
        )
    widths = [max(len(line[column]) for line in table) for column in range(len(titles))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    notes = [f"{row.name}: {row.detail}" for row in rows if row.detail]
    return "\n".join([head, "", *lines, *(["", *notes] if notes else [])])
