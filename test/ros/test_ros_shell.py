"""scripts/env.sh: a shell in which everything of the project runs, from any folder, and set up in no time."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

ROOT = Path(__file__).resolve().parents[2]
BARE = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8"}


def shell(source, cwd, **variables):
    return subprocess.run(
        ["bash", "-c", source],
        cwd=cwd,
        env={**BARE, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def copy(tmp_path):
    """The script in a tree of its own, to be broken."""
    (tmp_path / "tree/scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts/env.sh", tmp_path / "tree/scripts")
    return tmp_path / "tree"


def test_it_works_from_any_folder_under_strict_options(tmp_path):
    source = f"""set -euo pipefail; CDPATH=/; source {os.path.relpath(ROOT, tmp_path)}/scripts/env.sh
        command -v python gen3r; echo "$ROS_DISTRO $RMW_IMPLEMENTATION"
        python -c 'import rclpy, gen3r.msg, tf2_msgs.msg, gen3r_ros.qos; print(gen3r.msg.NovelView.__name__)'"""
    done = shell(source, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{ROOT}/.venv/bin/python",
        f"{ROOT}/.venv/bin/gen3r",
        "kilted rmw_fastrtps_cpp",
        "NovelView",
    ]


@pytest.mark.parametrize(("prefix", "starts"), [("", 2), (f"source {ROOT}/scripts/env.sh;", 1)])
def test_python_is_not_started_twice(tmp_path, prefix, starts):
    """As it is where the shell is not set up: the wheels then start it again, and a debugger loses it."""
    done = shell(f"{prefix} {ROOT}/.venv/bin/python -X importtime -c 'import rclpy'", tmp_path)
    assert done.returncode == 0, done.stderr
    assert sum(line.endswith("| encodings") for line in done.stderr.splitlines()) == starts


def test_a_second_time_changes_nothing(tmp_path):
    once = shell(f"source {ROOT}/scripts/env.sh; env -u _; declare -F", tmp_path)
    twice = shell(f"source {ROOT}/scripts/env.sh; source {ROOT}/scripts/env.sh; env -u _; declare -F", tmp_path)
    assert once.returncode == 0, once.stderr
    assert once.stdout == twice.stdout
    assert "gen3r_" not in once.stdout.rpartition("\n")[2]
    assert "declare" not in once.stdout


def test_what_was_there_stays_behind_ours(tmp_path):
    done = shell(
        f'source {ROOT}/scripts/env.sh; echo "$LD_LIBRARY_PATH $AMENT_PREFIX_PATH $FASTDDS_DEFAULT_PROFILES_FILE"',
        tmp_path,
        LD_LIBRARY_PATH="/one:/two",
        AMENT_PREFIX_PATH="/overlay",
        FASTDDS_DEFAULT_PROFILES_FILE="/mine.xml",
    )
    libraries, prefixes, profile = done.stdout.split()
    assert libraries.startswith(f"{ROOT}/.venv/lib:")
    assert libraries.endswith(":/one:/two")
    assert prefixes == f"{ROOT}/.venv:/overlay"
    assert profile == "/mine.xml"


def test_the_profile_for_large_messages_is_named(tmp_path):
    done = shell(f'source {ROOT}/scripts/env.sh; echo "$FASTDDS_DEFAULT_PROFILES_FILE"', tmp_path)
    assert done.stdout.strip() == f"{ROOT}/config/fastdds.xml"
    assert Path(done.stdout.strip()).exists()


def test_one_command_runs_in_it_with_its_arguments_and_exit_code(tmp_path):
    done = shell(f"bash {ROOT}/scripts/env.sh python -c 'import rclpy, sys; sys.exit(len(sys.argv))' 'a b' c", tmp_path)
    assert done.returncode == 3, done.stderr
    alone = shell(f"bash {ROOT}/scripts/env.sh", tmp_path)
    assert alone.returncode == 2
    assert "usage: source " in alone.stderr


def test_another_ros_in_the_shell_is_refused_and_nothing_is_changed(tmp_path):
    (tmp_path / "jazzy/share/rclpy").mkdir(parents=True)
    done = shell(
        f"env -u _ >before; source {ROOT}/scripts/env.sh; echo $?; env -u _ | diff before - && echo same",
        tmp_path,
        AMENT_PREFIX_PATH=f"{tmp_path}/jazzy",
    )
    assert done.stdout == "1\nsame\n"
    assert f"this shell has another ROS, {tmp_path}/jazzy" in done.stderr


def test_without_a_venv_it_says_how_to_make_one(copy):
    done = shell("source scripts/env.sh; echo $?", copy)
    assert done.stdout == "1\n"
    assert f"there is no {copy}/.venv: run  make setup" in done.stderr
    assert shell("bash scripts/env.sh true", copy).returncode == 1


def test_without_ros_the_rest_is_set_up(copy):
    (copy / ".venv/bin").mkdir(parents=True)
    (copy / ".venv/bin/python").symlink_to("/bin/true")
    done = shell('source scripts/env.sh; echo "$? ${PATH%%:*} ${ROS_DISTRO-none}"', copy)
    assert done.stdout == f"0 {copy}/.venv/bin none\n"
    assert f"there is no ROS in {copy}/.venv" in done.stderr


def test_another_shell_is_told(tmp_path):
    done = subprocess.run(
        ["sh", "-c", f". {ROOT}/scripts/env.sh; echo $?"],
        env=BARE,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout == "1\n"
    assert "env.sh: this needs bash" in done.stderr


def test_setting_ros_up_again_takes_seconds(tmp_path):
    """And no network. It fails where the interfaces changed and `make setup` has not run since."""
    start = time.monotonic()
    done = shell(f"bash {ROOT}/scripts/ros.sh", tmp_path, PIP_NO_INDEX="1", PATH=os.environ["PATH"])
    seconds = time.monotonic() - start
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), "run `make setup` first"
    assert seconds < 5
