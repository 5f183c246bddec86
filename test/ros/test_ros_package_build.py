"""The whole ROS package, built and installed as colcon does it, and used from where it was installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

ROOT = Path(__file__).resolve().parents[2]

USE = """
import gen3r_core.cli, gen3r_core.worlds.captions, gen3r_ros.qos, rclpy
from gen3r.action import PredictViews
from gen3r.msg import NovelView
from gen3r_ros.share import share_path
from gen3r_ros.transport import PROFILE

for module in (gen3r_core, gen3r_ros, __import__("gen3r")):
    print(module.__path__[0])
print(share_path(PROFILE))
context = rclpy.Context()
context.init()
node = rclpy.create_node("installed", context=context)
node.create_publisher(NovelView, "novel_view", gen3r_ros.qos.RESULT).publish(NovelView(scene_id="a"))
"""


@pytest.mark.slow
def test_the_package_builds_and_works_where_it_is_installed(graph, tmp_path):
    build, prefix = tmp_path / "build", tmp_path / "install"
    for step in (
        ["-S", ROOT, "-B", build, "-G", "Ninja", f"-DCMAKE_INSTALL_PREFIX={prefix}", "-DBUILD_TESTING=OFF"],
        ["--build", build],
        ["--install", build],
    ):
        done = subprocess.run(
            ["cmake", *map(str, step)], env=graph, capture_output=True, text=True, timeout=280, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    site = prefix / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    for program in ("gen3r_node", "gen3r_sim", "gen3r_play"):
        assert os.access(prefix / "lib/gen3r" / program, os.X_OK), "for ros2 run"
    for file in ("config/gen3r.yaml", "launch/gen3r.launch.py", "launch/sim.launch.py", "launch/bag.launch.py"):
        assert (prefix / "share/gen3r" / file).is_file(), "for ros2 launch"
    data = [
        path.relative_to(ROOT)
        for package in ("gen3r_core", "gen3r_ros")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    ]
    assert Path("gen3r_ros/py.typed") in data
    assert [path for path in data if not (site / path).exists()] == []
    overlay = {
        **graph,
        "AMENT_PREFIX_PATH": f"{prefix}:{graph['AMENT_PREFIX_PATH']}",
        "LD_LIBRARY_PATH": f"{prefix}/lib:{graph['LD_LIBRARY_PATH']}",
        "PYTHONPATH": str(site),
    }
    overlay.pop("COVERAGE_PROCESS_START", None)
    done = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=os.sep,
        env=overlay,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    places = [str(site / package) for package in ("gen3r_core", "gen3r_ros", "gen3r")]
    assert done.stdout.split() == [*places, f"{prefix}/share/gen3r/config/fastdds.xml"]
