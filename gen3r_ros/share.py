"""Where the files beside the code lie: configuration and launch files, from a checkout or installed by colcon."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_path

from gen3r_core.errors import InputError


def share_path(relative: str) -> Path:
    """Find a file of the ROS package's share folder.

    A checkout comes before an installed package, so that its own files go with its code.

    Args:
        relative: path in the checkout, which is also that in the share folder: ``config/fastdds.xml``.

    Returns:
        the absolute path of an existing file or folder.

    Raises:
        InputError: it is in none of the places.
    """
    places = [folder / relative for folder in _folders()]
    for place in places:
        if place.exists():
            return place
    looked = " and ".join(str(place) for place in places) or "no checkout, and no ROS package gen3r that is sourced"
    raise InputError(
        f"{relative} of gen3r is not there (looked for {looked}); build the workspace with colcon and source its "
        f"install/setup.bash, or run from a checkout"
    )


def _folders() -> list[Path]:
    folders = []
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "package.xml").exists():
        folders.append(checkout)
    with contextlib.suppress(PackageNotFoundError, OSError):  # the latter where no ROS is sourced at all
        folders.append(Path(get_package_share_path("gen3r")))
    return folders
