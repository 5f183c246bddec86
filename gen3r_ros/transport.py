"""Fast DDS for images: its profile must be in force before a process joins the graph."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from gen3r_ros.share import share_path

PROFILE = "config/fastdds.xml"
"""In the share folder."""

# Of Fast DDS 2, with the distributions that have it, and of 3, which warns of the old one.
_OLD, _NEW = "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"
_OLD_DISTRIBUTIONS = ("humble", "iron", "jazzy")


def use_large_message_profile(environ: MutableMapping[str, str] | None = None) -> None:
    """Name the profile for large messages to Fast DDS, for this process and those it starts.

    Without it best-effort subscribers on the same machine get next to none of the images of 640x480 pixels and more.
    What a user has set stays; another middleware is left alone.

    Args:
        environ: where variables are set; None takes those of this process. Call it before ``rclpy.init``.

    Raises:
        InputError: the profile is not installed.
    """
    environ = os.environ if environ is None else environ
    if "fastrtps" not in environ.get("RMW_IMPLEMENTATION", "fastrtps"):
        return
    profile = str(share_path(PROFILE))
    for variable in _variables(environ.get("ROS_DISTRO", "")):
        if not environ.get(variable):
            environ[variable] = profile


def _variables(distribution: str) -> tuple[str, ...]:
    if not distribution:
        return _NEW, _OLD
    return (_OLD,) if distribution in _OLD_DISTRIBUTIONS else (_NEW,)
