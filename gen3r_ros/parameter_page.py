"""The reference page of all parameters, from the declarations.

python -m gen3r_ros.parameter_page > docs/parameters.md
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable, Mapping

from gen3r_ros import player_parameters, simulator_parameters
from gen3r_ros.declared import Declared
from gen3r_ros.parameter_file import SECTIONS
from gen3r_ros.parameters import CAMERA_PARAMETERS, PARAMETERS
from gen3r_ros.simulator_faults import FAULTS

_HEAD = """\
# Parameters

Made by `python -m gen3r_ros.parameter_page` from the declarations, which `ros2 param describe` tells as well.
[config/gen3r.yaml](../config/gen3r.yaml) has all of the node's with their defaults;
[config/profiles](../config/profiles) has those that suit a laptop without a GPU, and GPUs of 12, 24 and 80 GB:

```
ros2 launch gen3r gen3r.launch.py image:=/camera/image_raw params_file:=config/profiles/gpu24.yaml
```

**Any time** are those that take effect at once (`ros2 param set`); the others are read when the node is configured, and
refused after that, with the reason. Lengths are in metres, times in seconds, angles in degrees where the name ends so.

## gen3r_node

"""

_CAMERAS = """\
## Each of several cameras

With `cameras: front,left` each has these, under its name (`front.image`); slashes of a name are points here. All are
read before configure. Predicted views begin at the first camera.

"""

_QOS = """\
## Quality of service

Of each topic, as ROS has it: `qos_overrides.TOPIC.subscription.POLICY` for `image_raw`, `camera_info` and depth images,
`qos_overrides.TOPIC.publisher.POLICY` for results. The policies are `reliability`, `durability`, `history` and `depth`,
the topic is the whole name, after remapping:

```
--ros-args -p qos_overrides./camera/image_raw.subscription.reliability:=reliable
```

They can be given at start only. What does not go with another node's is named on `/diagnostics`.

"""

_SIMULATOR = """\
## gen3r_sim

None of these changes later.

"""

_PLAYER = """\
## gen3r_play

None of these changes later.

"""

_FAULTS = """\
### Faults

What goes wrong on purpose; all of them at any time.

"""


def parameter_page() -> str:
    """The text of docs/parameters.md."""
    parts = [_HEAD]
    names = list(PARAMETERS)
    begins = [names.index(first) for first in SECTIONS] + [len(names)]
    for title, (begin, end) in zip(SECTIONS.values(), itertools.pairwise(begins), strict=True):
        chosen = {name: PARAMETERS[name] for name in names[begin:end]}
        parts += [f"### {title}\n\n", table(chosen, [PARAMETERS[name].runtime for name in chosen]), "\n"]
    parts += [_CAMERAS, table({f"NAME.{name}": one for name, one in CAMERA_PARAMETERS.items()}), "\n", _QOS]
    parts += [_SIMULATOR, table(simulator_parameters.PARAMETERS), "\n", _FAULTS, table(FAULTS), "\n"]
    parts += [_PLAYER, table(player_parameters.PARAMETERS)]
    return "\n".join("".join(parts).splitlines()) + "\n"


def table(parameters: Mapping[str, Declared], runtime: Iterable[bool] | None = None) -> str:
    """Rows of Markdown.

    Args:
        parameters: by name.
        runtime: whether each can be set at any time; None leaves the column out.
    """
    told = None if runtime is None else list(runtime)
    lines = ["| parameter | default | values | " + ("any time | |" if told else "|")]
    lines.append("| --- | --- | --- | --- |" + (" --- |" if told else ""))
    for index, (name, one) in enumerate(parameters.items()):
        cells = [f"`{name}`", f"`{json.dumps(_short(one.default))}`", _values(one)]
        cells += ["yes" if told[index] else ""] if told else []
        lines.append(f"| {' | '.join(cells)} | {_escaped(one.text)} |")
    return "\n".join(lines) + "\n"


def _short(default: bool | float | str) -> bool | float | str:
    return round(default, 4) if isinstance(default, float) else default


def _values(one: Declared) -> str:
    if one.values:
        return ", ".join(f"`{value}`" if value else "empty" for value in one.values)
    if isinstance(one.default, bool):
        return "true, false"
    if isinstance(one.default, str):
        return "text"
    number = "{:,g}" if isinstance(one.default, float) else "{:,.0f}"
    low, high = (number.format(bound) for bound in (one.low, one.high))
    return f"{low} to {high}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.stdout.write(parameter_page())
