"""What may be imported: no ROS in the core, nothing heavy at the start, and every module."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "gen3r_core").rglob("*.py"))

# First parts of module names that only exist where ROS does (distributions and PyPI wheels alike).
ROS_PREFIXES = ("rclpy", "ros", "ament", "rosidl", "rcl", "tf2", "launch", "builtin_interfaces", "cv_bridge")
ROS_SUFFIXES = ("_msgs", "_srvs", "_msgs_py", "_ros", "_interfaces")
NOT_ROS = ("rosbags",)  # a library without ROS that reads its files
ROS_MODULES = ("gen3r", "gen3r_ros", "message_filters", "unique_identifier_msgs", "tf_transformations")


def is_ros(module: str) -> bool:
    top = module.partition(".")[0]
    if top in NOT_ROS:
        return False
    return top in ROS_MODULES or top.startswith(ROS_PREFIXES) or top.endswith(ROS_SUFFIXES)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__"}:
                names.add(str(node.args[0].value))
    return names


def run(source: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )


@pytest.mark.parametrize("name", ["rclpy.node", "sensor_msgs.msg", "tf2_ros", "ros_x", "gen3r.msg", "gen3r_ros.node"])
def test_ros_names_are_recognised(name):
    assert is_ros(name)


@pytest.mark.parametrize("name", ["gen3r_core.scene", "torch", "re", "tqdm", "transformers", "rosbags.typesys"])
def test_other_names_are_not(name):
    assert not is_ros(name)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_no_source_names_a_ros_package(path):
    assert not [name for name in imported(path) if is_ros(name)]


NETWORK = {"socket", "ssl", "http", "urllib", "urllib3", "requests", "httpx", "httpx2", "aiohttp", "huggingface_hub"}


ALLOWED = {"gen3r_core.checkpoint.hub": {"huggingface_hub"}}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_only_fetching_reaches_the_network(path):
    reaching = {name for name in imported(path) if name.partition(".")[0] in NETWORK and name != "urllib.parse"}
    allowed = ALLOWED.get(module_name(path), set())
    assert {name.partition(".")[0] for name in reaching} == allowed


KERNELS = {"gen3r_core.worlds.fused"}
"""Need Triton, which comes with PyTorch for CUDA only; others import them when they run there."""


def test_every_module_imports_where_ros_cannot_be_imported():
    modules = [module_name(path) for path in SOURCES if path.name != "__main__.py"]
    if importlib.util.find_spec("triton") is None:
        modules = [name for name in modules if name not in KERNELS]
    source = f"""
import importlib, json, sys, traceback

class Blocker:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in {NOT_ROS!r}:
            return
        if top in {ROS_MODULES!r} or top.startswith({ROS_PREFIXES!r}) or top.endswith({ROS_SUFFIXES!r}):
            raise ImportError(f"blocked: {{name}}")

sys.meta_path.insert(0, Blocker())
try:
    import rclpy
except ImportError as error:
    assert "blocked: rclpy" in str(error)
else:
    raise SystemExit("the blocker does not block")
failures = {{}}
for name in {modules!r}:
    try:
        importlib.import_module(name)
    except BaseException:
        failures[name] = traceback.format_exc()
print(json.dumps(failures))
"""
    done = run(source)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {}
    assert len(modules) > 10


@pytest.mark.parametrize("module", ["gen3r_core", "gen3r_core.errors", "gen3r_core.cli"])
def test_the_start_is_quick_and_imports_nothing_heavy(module):
    source = f"""
import json, sys, time
start = time.perf_counter()
import {module}
seconds = time.perf_counter() - start
heavy = sorted({{"torch", "open3d", "diffusers", "transformers", "scipy", "av", "huggingface_hub"}} & set(sys.modules))
print(json.dumps([seconds, heavy]))
"""
    measured = []
    for _ in range(3):
        done = run(source)
        assert done.returncode == 0, done.stderr
        seconds, heavy = json.loads(done.stdout)
        assert heavy == []
        measured.append(seconds)
    assert min(measured) < 0.5
