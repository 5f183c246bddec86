"""The ROS package's description agrees with itself and with the tree; no ROS is needed to see that."""

import ast
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import gen3r_core

ROOT = Path(__file__).resolve().parents[1]
CMAKE = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
PACKAGE = ET.parse(ROOT / "package.xml").getroot()
INTERFACES = sorted(
    str(path.relative_to(ROOT)) for kind in ("msg", "srv", "action") for path in (ROOT / kind).iterdir()
)


def declared():
    return {element.text for element in PACKAGE if element.tag.endswith("depend")}


def test_the_version_is_that_of_the_python_packages():
    assert PACKAGE.findtext("name") == "gen3r"
    assert PACKAGE.findtext("version") == gen3r_core.__version__


def test_every_interface_is_built():
    block = re.search(r"rosidl_generate_interfaces\((.*?)\)", CMAKE, re.DOTALL)[1]
    assert sorted(re.findall(r"(?:msg|srv|action)/\S+", block)) == INTERFACES


def test_what_cmake_asks_for_is_declared():
    assert set(re.findall(r"find_package\((\w+)", CMAKE)) <= declared()


def test_packages_that_interfaces_use_are_declared():
    used = {
        package
        for name in INTERFACES
        for package in re.findall(r"^(\w+)/\w+", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert used - {"gen3r"} <= declared()


def test_ros_packages_that_the_code_imports_are_declared():
    imported = set()
    for path in (ROOT / "gen3r_ros").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.partition(".")[0])
    ros = {name for name in imported if name.startswith(("rcl", "tf2", "ament", "launch")) or name.endswith("_msgs")}
    assert "rclpy" in ros
    assert ros <= declared()


@pytest.mark.parametrize("name", INTERFACES)
def test_every_field_says_what_it_is(name):
    """Units and frames stand in the comments."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    fields = [line for line in lines if line.strip() and line != "---" and not line.lstrip().startswith("#")]
    assert fields
    assert [line for line in fields if "#" not in line] == []
