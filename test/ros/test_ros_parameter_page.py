"""The reference page, the parameter file and the profiles: they are those of the declarations."""

from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

import rclpy
import yaml

from gen3r_ros.parameter_file import SECTIONS, parameter_file
from gen3r_ros.parameter_page import parameter_page, table
from gen3r_ros.parameters import CAMERA_PARAMETERS, PARAMETERS, declare
from gen3r_ros.player_parameters import PARAMETERS as PLAYER
from gen3r_ros.simulator_faults import FAULTS
from gen3r_ros.simulator_parameters import PARAMETERS as SIMULATOR

ROOT = Path(__file__).resolve().parents[2]
PROFILES = sorted((ROOT / "config/profiles").glob("*.yaml"))


def test_page_and_file_are_those_of_the_declarations():
    page = ROOT / "docs/parameters.md"
    assert page.read_text() == parameter_page(), "run python -m gen3r_ros.parameter_page > docs/parameters.md"
    file = ROOT / "config/gen3r.yaml"
    assert file.read_text() == parameter_file(), "run python -m gen3r_ros.parameter_file > config/gen3r.yaml"


def test_every_parameter_has_one_row():
    lines = parameter_page().splitlines()
    for name in [*PARAMETERS, *(f"NAME.{name}" for name in CAMERA_PARAMETERS), *FAULTS]:
        assert sum(line.startswith(f"| `{name}` |") for line in lines) in {1, 2}, name  # of two nodes
    for name in (*SIMULATOR, *PLAYER):
        assert any(line.startswith(f"| `{name}` |") for line in lines)
    assert set(SECTIONS) <= set(PARAMETERS)
    row = next(line for line in lines if line.startswith("| `window` |"))
    assert row == "| `window` | `8` | 1 to 200 | yes | keyframes in a reconstruction, at most |"
    assert '| `scheduler` | `"euler"` | `euler`, `unipc`, `dpm++` | yes | solver |' in lines


def test_rows_have_as_many_cells_as_their_heads():
    node = table(PARAMETERS, [one.runtime for one in PARAMETERS.values()])
    for part in (node, table(SIMULATOR), table(FAULTS), table(PLAYER)):
        assert len({line.replace("\\|", "").count("|") for line in part.splitlines()}) == 1


def test_there_is_a_profile_for_each_machine():
    assert [path.stem for path in PROFILES] == ["cpu", "gpu12", "gpu24", "gpu80"]


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_profiles_have_parameters_that_exist_with_values_that_can_be(client, path):
    values = yaml.safe_load(path.read_text())["/**"]["ros__parameters"]
    assert set(values) <= set(PARAMETERS)
    node = rclpy.create_node("profiled", context=client.context, cli_args=["--ros-args", "--params-file", str(path)])
    declared = declare(node)
    for name, value in values.items():
        assert type(value) is type(PARAMETERS[name].default), name
        assert getattr(declared, name) == value
    node.destroy_node()
