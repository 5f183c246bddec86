"""Where configuration is found, and what the transport profile does to an environment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from gen3r_core.errors import InputError
from gen3r_ros import share
from gen3r_ros.share import share_path
from gen3r_ros.transport import PROFILE, use_large_message_profile

ROOT = Path(__file__).resolve().parents[2]


def installed(folder):
    """A share folder of gen3r as colcon leaves it below ``folder``."""
    index = folder / "share/ament_index/resource_index/packages"
    index.mkdir(parents=True)
    (index / "gen3r").touch()
    (folder / "share/gen3r/config").mkdir(parents=True)
    (folder / "share/gen3r/config/fastdds.xml").touch()
    return folder


@pytest.fixture
def no_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(share, "__file__", str(tmp_path / "site-packages/gen3r_ros/share.py"))


def test_a_checkout_has_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(installed(tmp_path)))
    assert share_path(PROFILE) == ROOT / "config/fastdds.xml"


def test_otherwise_it_is_that_of_the_installed_package(monkeypatch, tmp_path, no_checkout):
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(installed(tmp_path)))
    assert share_path(PROFILE) == tmp_path / "share/gen3r/config/fastdds.xml"


def test_a_file_that_is_nowhere_names_the_places(monkeypatch, tmp_path):
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(installed(tmp_path)))
    with pytest.raises(
        InputError, match=r"^config/none.yaml of gen3r is not there \(looked for .*; build the"
    ) as caught:
        share_path("config/none.yaml")
    assert str(ROOT / "config/none.yaml") in str(caught.value)
    assert str(tmp_path / "share/gen3r/config/none.yaml") in str(caught.value)


@pytest.mark.parametrize("prefixes", ["", "/nonexistent"])
def test_no_package_at_all_is_said(monkeypatch, no_checkout, prefixes):
    monkeypatch.setenv("AMENT_PREFIX_PATH", prefixes)
    with pytest.raises(InputError, match="no checkout, and no ROS package gen3r that is sourced"):
        share_path(PROFILE)


@pytest.mark.parametrize("middleware", [{}, {"RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}])
def test_the_profile_is_named_to_both_generations_of_fast_dds(middleware):
    environ = dict(middleware)
    use_large_message_profile(environ)
    profile = str(ROOT / "config/fastdds.xml")
    assert environ == {
        **middleware,
        "FASTDDS_DEFAULT_PROFILES_FILE": profile,
        "FASTRTPS_DEFAULT_PROFILES_FILE": profile,
    }


def test_a_users_own_profile_stays():
    environ = {"FASTDDS_DEFAULT_PROFILES_FILE": "/mine.xml"}
    use_large_message_profile(environ)
    assert environ["FASTDDS_DEFAULT_PROFILES_FILE"] == "/mine.xml"


def test_another_middleware_is_left_alone():
    environ = {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}
    use_large_message_profile(environ)
    assert environ == {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}


def test_processes_started_later_have_it_too():
    source = """
import os, subprocess
from gen3r_ros.transport import use_large_message_profile
use_large_message_profile()
print(subprocess.run(["printenv", "FASTDDS_DEFAULT_PROFILES_FILE"], capture_output=True, text=True).stdout)"""
    environment = {name: value for name, value in os.environ.items() if "PROFILES_FILE" not in name}
    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == str(ROOT / "config/fastdds.xml")
