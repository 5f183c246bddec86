"""Arguments with a slip in their names are refused, and only where they are meant for our launch files."""

import re

import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from gen3r_core.errors import InputError
from gen3r_ros.launch_arguments import NODE_ARGUMENTS, refuse_unknown

NAMES = [one.name for one in NODE_ARGUMENTS]


def test_arguments_with_a_slip_are_refused_where_they_are_meant_for_the_file():
    command = ["/usr/bin/ros2", "launch", "gen3r", "gen3r.launch.py", "..."]
    for words, expected in (
        ("checkpont:=a", "checkpont is no argument of gen3r.launch.py; did you mean checkpoint?"),
        ("zzz:=a", f"zzz is no argument of gen3r.launch.py; there are {', '.join(NAMES)}"),
    ):
        with pytest.raises(InputError, match=f"^{re.escape(expected)}$"):
            refuse_unknown([words], command, "/a/b/gen3r.launch.py", NAMES)
    refuse_unknown(["image:=a", "launch-prefix:=gdb", "emulate_tty:=true"], command, "/a/gen3r.launch.py", NAMES)
    refuse_unknown(["checkpont:=a"], command, "/a/another.launch.py", NAMES)  # included: they are the other's


def test_a_file_is_meant_by_its_package_or_by_its_own_path(tmp_path, monkeypatch):
    """Not where a file of the same name includes it: the words are that one's."""
    ours, theirs = tmp_path / "ours/gen3r.launch.py", tmp_path / "theirs/gen3r.launch.py"
    for file in (ours, theirs):
        file.parent.mkdir()
        file.touch()
    link = tmp_path / "link.launch.py"
    link.symlink_to(ours)
    monkeypatch.chdir(ours.parent)

    def refused(*words):
        try:
            refuse_unknown(["robot:=r1"], ["/opt/bin/ros2", "launch", *words, "robot:=r1"], str(ours), NAMES)
        except InputError:
            return True
        return False

    assert refused("gen3r", "gen3r.launch.py")
    assert refused("--debug", "gen3r", "gen3r.launch.py")
    for path in (str(ours), "gen3r.launch.py", "./gen3r.launch.py", "../ours/gen3r.launch.py", str(link)):
        assert refused(path), path
        assert refused("-d", path), path
    assert not refused("my_robot", "gen3r.launch.py"), "though the folder we are in has one of ours"
    assert not refused("gen3r", "sim.launch.py")
    assert not refused("my_robot", "robot.launch.py")
    assert not refused(str(theirs))
    assert not refused("../theirs/gen3r.launch.py")
    monkeypatch.chdir(theirs.parent)
    assert not refused("gen3r.launch.py")
