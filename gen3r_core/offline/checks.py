"""What is refused before hours are spent on it."""

from __future__ import annotations

from pathlib import Path

from gen3r_core.errors import InputError, OutputError
from gen3r_core.offline.keyframes import Keyframes

__all__ = ["check_cameras", "check_not_here"]


def check_not_here(destination: Path) -> None:
    """Refuse the working directory: a shell whose folder was replaced finds nothing there.

    Args:
        destination: absolute. A mounted folder is all right: it stays, and gets new contents.

    Raises:
        OutputError: the destination is the working directory, and no mount.
    """
    if destination.exists() and destination.samefile(".") and not destination.is_mount():
        raise OutputError(
            f"cannot write {destination}: you are in this folder, and a map replaces its whole folder; "
            f"choose one within it, such as --output_dir map"
        )


def check_cameras(keyframes: Keyframes, recording: Path) -> None:
    """Refuse several cameras without poses.

    Args:
        keyframes: of all cameras.
        recording: whose they are, for the error.

    Raises:
        InputError: nothing tells how the cameras lie.
    """
    if len(keyframes.cameras) > 1 and not keyframes.facts["posed"]:
        raise InputError(
            f"{recording}: without poses nothing tells how its {len(keyframes.cameras)} cameras lie; "
            f"name one (--camera {keyframes.cameras[0]}); {keyframes.facts['why_not']}"
        )
