"""Under which licences the parts of a Gen3R checkpoint stand, as far as their makers say.

These are facts about other people's weights, collected from their public model cards and
repositories. They inform; the card of the checkpoint that is fetched has the last word.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class PartLicence:
    """The licence of one part of a checkpoint.

    Attributes:
        folders: names of the checkpoint's sub-folders that hold the part.
        work: whose weights these are.
        licence: SPDX identifier where there is one, else a name.
        commercial_use: whether the licence permits commercial use; None where only the
            checkpoint's own card can say.
        source: where the makers state it.
        note: what else to know, or an empty string.
    """

    folders: tuple[str, ...]
    work: str
    licence: str
    commercial_use: bool | None
    source: str
    note: str = ""


PART_LICENCES: tuple[PartLicence, ...] = (
    PartLicence(
        ("transformer",),
        "Gen3R, fine-tuned from Wan2.1-Fun-V1.1-1.3B-Control-Camera",
        "see the checkpoint's card (code of Gen3R: MIT; base weights: Apache-2.0)",
        None,
        "https://github.com/JaceyHuang/Gen3R",
    ),
    PartLicence(
        ("geo_adapter",),
        "Gen3R, geometry adapter",
        "see the checkpoint's card (code of Gen3R: MIT)",
        None,
        "https://github.com/JaceyHuang/Gen3R",
    ),
    PartLicence(("wan_vae",), "Wan2.1, video VAE", "Apache-2.0", True, "https://github.com/Wan-Video/Wan2.1"),
    PartLicence(
        ("text_encoder", "tokenizer"),
        "UMT5-XXL, as Wan2.1 ships it",
        "Apache-2.0",
        True,
        "https://huggingface.co/google/umt5-xxl",
    ),
    PartLicence(
        ("clip_image_encoder",),
        "OpenCLIP ViT-H/14 with XLM-RoBERTa, as Wan2.1 ships it",
        "MIT",
        True,
        "https://github.com/mlfoundations/open_clip",
    ),
    PartLicence(
        ("vggt",),
        "VGGT-1B",
        "CC-BY-NC-4.0",
        False,
        "https://huggingface.co/facebook/VGGT-1B",
        "not for commercial use; a variant for commercial use, VGGT-1B-Commercial, has a licence of its own",
    ),
)


def licences_of(paths: Iterable[str]) -> tuple[PartLicence, ...]:
    """Return the licences of the parts that the given files belong to, in the order of :data:`PART_LICENCES`.

    Args:
        paths: file paths relative to the checkpoint's root, with forward slashes.
    """
    present = {path.partition("/")[0] for path in paths if "/" in path}
    return tuple(part for part in PART_LICENCES if present.intersection(part.folders))


def licence_notice(repo_id: str, card_licence: str | None, parts: Iterable[PartLicence]) -> str:
    """Return lines that tell a user, before anything is downloaded, what the weights may be used for.

    Args:
        repo_id: the checkpoint's name on the hub.
        card_licence: the licence that its model card names; None where it names none.
        parts: the licences of its parts, as from :func:`licences_of`.
    """
    stated = card_licence or "none stated: ask its makers before you rely on it"
    lines = [f"{repo_id}: licence on its card: {stated}"]
    for part in parts:
        lines.append(f"  {' and '.join(part.folders)}: {part.work}: {part.licence} ({part.source})")
        if part.note:
            lines.append(f"    {part.note}")
    if any(part.commercial_use is False for part in parts):
        lines.append("The whole is not for commercial use, because a part is not.")
    return "\n".join(lines)


def licence_of_folder(folder: str) -> str:
    """Return the licence of the part that lies in a published sub-folder; an empty string for unknown ones."""
    return next((part.licence for part in PART_LICENCES if folder in part.folders), "")
