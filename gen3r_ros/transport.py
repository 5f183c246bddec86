"""Fast DDS for images: its profile must be in force before a process joins the graph."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from gen3r_ros.share import share_path

PROFILE = "config/fastdds.xml"
"""In the share folder."""

# Of Fast DDS 3 (ROS 2 Kilted) and 2 (Jazzy).
_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")


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
    for variable in _VARIABLES:
        if not environ.get(variable):
            environ[variable] = profile
