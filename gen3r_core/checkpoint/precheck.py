"""A quick look at a checkpoint folder without PyTorch: what is missing or cut off is found before anything is loaded.

:func:`gen3r_core.checkpoint.folder.open_checkpoint` looks closer, but takes the seconds that importing PyTorch takes.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from gen3r_core.checkpoint.packaged import PACKAGED, packaged_folder
from gen3r_core.errors import CheckpointError
from gen3r_core.geometry_source import GeometrySource

MANIFEST, INDEX, WAN_VAE = "gen3r.json", "model_index.json", "Wan2.1_VAE.pth"
"""One of these marks a checkpoint: our layout, the published one, a Wan base folder."""

_LARGEST_HEADER = 100 << 20


@dataclass(frozen=True)
class CheckpointFacts:
    """What a node needs to know before the model is loaded.

    Attributes:
        name: as results will carry it.
        packaged: whether it is the small model of this package.
        steps: denoising steps that suit it.
        guidance: weight of the prompt that suits it.
        geometry: where the geometry of what it generates comes from, see
            :class:`gen3r_core.geometry_source.GeometrySource`.
    """

    name: str
    packaged: bool
    steps: int = 50
    guidance: float = 5.0
    geometry: str = GeometrySource.LATENTS


def check_checkpoint(root: Path | str | None) -> CheckpointFacts:
    """See whether a checkpoint is there and whole, as far as sizes tell.

    Args:
        root: folder; None, or "gen3r-small" where there is no such folder, for the model in this package.

    Raises:
        CheckpointError: it is not there, is none, or files are missing or cut off.
    """
    packaged = root is None or (str(root) == PACKAGED and not Path(root).is_dir())
    folder = packaged_folder() if root is None or packaged else Path(root).expanduser()
    if packaged and not (folder / MANIFEST).is_file():
        raise CheckpointError(
            f"no checkpoint was named, and this copy of gen3r came without the weights of {PACKAGED} ({folder}). Name "
            f"a checkpoint folder; 'gen3r fetch REPO_ID FOLDER' downloads a published one"
        )
    if not folder.is_dir():
        raise CheckpointError(
            f"checkpoint folder {folder} does not exist. 'gen3r fetch REPO_ID {folder}' downloads a published one"
        )
    if not any((folder / name).is_file() for name in (MANIFEST, INDEX, WAN_VAE)):
        raise CheckpointError(f"{folder} is not a checkpoint: it holds none of {MANIFEST}, {INDEX} and {WAN_VAE}")
    for path in sorted(folder.rglob("*.safetensors")):
        check_length(path)
    name = PACKAGED if packaged else folder.absolute().name
    if not (folder / MANIFEST).is_file():
        return CheckpointFacts(name, packaged)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        sizes = {file: int(facts["bytes"]) for file, facts in manifest.get("files", {}).items()}
        defaults = manifest.get("defaults", {})
        steps, guidance = int(defaults.get("steps", 50)), float(defaults.get("guidance", 5.0))
        facts = CheckpointFacts(name, packaged, steps, guidance, GeometrySource(defaults.get("geometry", "latents")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{folder / MANIFEST} is damaged ({error}). Copy the checkpoint again") from error
    for file, size in sizes.items():
        path = folder / file
        there = path.stat().st_size if path.is_file() else None
        if there != size:
            found = "is missing" if there is None else f"has {there} bytes instead of {size}"
            raise CheckpointError(f"{path} {found}, going by {MANIFEST}. Copy the checkpoint again")
    return facts


def check_length(path: Path) -> None:
    """Compare the length of a safetensors file with what its header promises.

    Raises:
        CheckpointError: it is shorter or longer, or has no header that can be read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, _LARGEST_HEADER):
                raise ValueError(f"its header would have {length} bytes")
            header = json.loads(file.read(length))
        ends = [int(tensor["data_offsets"][1]) for name, tensor in header.items() if name != "__metadata__"]
    except (OSError, ValueError, TypeError, LookupError, AttributeError, struct.error) as error:
        raise CheckpointError(f"{path} is no safetensors file ({error}). Copy the checkpoint again") from error
    promised = 8 + length + max(ends, default=0)
    if promised != size:
        raise CheckpointError(f"{path} has {size} bytes instead of {promised}: it was cut off. Copy it again")
