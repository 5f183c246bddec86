"""The default parameter file, from the declarations.

python -m gen3r_ros.parameter_file > config/gen3r.yaml
"""

from __future__ import annotations

import json
import sys
import textwrap

from gen3r_ros.declared import Declared
from gen3r_ros.parameters import PARAMETERS

_HEAD = """\
# Parameters of gen3r_node, all with their defaults: copy this file, change what has to be, and name it:
#
#     ros2 launch gen3r gen3r.launch.py image:=/camera/image_raw params_file:=FILE
#     ros2 run gen3r gen3r_node --ros-args --params-file FILE
#
# Made by python -m gen3r_ros.parameter_file. Those marked * can be changed at any time (`ros2 param set`), the others
# before configure. A number with a point is written with one: 1.0, not 1.
/**:
  ros__parameters:
"""
SECTIONS = {
    "autostart": "Start",
    "checkpoint": "The model and its process",
    "image_transport": "Frames and images",
    "keyframe_translation_m": "Keyframes",
    "continuous": "Reconstruction",
    "map_voxel_m": "The map",
    "prompt": "Prediction",
    "diagnostics_period_s": "Diagnostics",
}
"""Titles, by the first parameter below each."""

_INDENT = " " * 4


def parameter_file() -> str:
    """The text of config/gen3r.yaml."""
    lines = []
    for name, one in PARAMETERS.items():
        if name in SECTIONS:
            lines += ["", f"{_INDENT}# --- {SECTIONS[name]}"]
        first = f"{_INDENT}#{'*' if one.runtime else ''} "
        lines += textwrap.wrap(
            _described(one), 116, initial_indent=first, subsequent_indent=f"{_INDENT}#  ", break_long_words=False
        )
        lines.append(f"{_INDENT}{name}: {json.dumps(one.default)}")
    return _HEAD + "\n".join(lines[1:]) + "\n"


def _described(one: Declared) -> str:
    if one.values:
        return f"{one.text} (one of {', '.join(one.values)})"
    if not one.high:
        return one.text
    low, high = (f"{bound:g}" if isinstance(one.default, float) else str(bound) for bound in (one.low, one.high))
    return f"{one.text} ({low} to {high})"


if __name__ == "__main__":
    sys.stdout.write(parameter_file())
