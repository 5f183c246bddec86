"""The logic of scripts/setup.sh, run in a small tree with a stand-in Python that only notes what it is asked to do.

What it really installs is tried by every clean checkout that runs the tests. test_ros_script.py has the part about ROS.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Fits every version check; "installs" torch by making a file; open3d imports unless a file says it does not.
PYTHON = """#!/bin/bash
here=$(dirname "$0")
case "$*" in
  *'-m pip install'*) echo "$*" >>"$here/pip.log"; case "$*" in *torch==*) touch "$here/torch";; esac;;
  *'version("torch")'*) [[ -e $here/torch ]] && echo 2.13.0+cpu;;
  *'import open3d'*) if [[ -e $here/broken ]]; then echo 'OSError: libusb-1.0.so.0 is missing' >&2; exit 1; fi;;
  *-V*) echo Python 3.11.7;;
esac
exit 0
"""


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def tree(tmp_path):
    """A tree with the script, a finished .venv, all Debian packages, and an ordinary user."""
    for name in ("scripts/setup.sh", "scripts/common.sh", "pyproject.toml", "setup.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "gen3r_core").mkdir()
    executable(tmp_path / "scripts/ros.sh", "#!/bin/bash\necho 'setup: ROS'; exit ${ROS_SCRIPT_ENDS_WITH:-0}\n")
    executable(tmp_path / ".venv/bin/python", PYTHON)
    executable(tmp_path / "bin/id", "#!/bin/bash\necho 1000\n")
    executable(tmp_path / "bin/dpkg-query", "#!/bin/bash\necho 'ii '\n")
    return tmp_path


def run(tree, **variables):
    environment = {**os.environ, "PATH": f"{tree / 'bin'}:{os.environ['PATH']}", **variables}
    return subprocess.run(
        ["bash", "scripts/setup.sh"], cwd=tree, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def pip_calls(tree):
    log = tree / ".venv/bin/pip.log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def test_torch_comes_first_and_is_never_replaced(tree):
    done = run(tree)
    assert done.returncode == 0, done.stderr
    assert pip_calls(tree) == [
        "-m pip install --quiet torch==2.13.0",
        "-m pip install --quiet --constraint .venv/.setup/constraints.txt --editable .[dev]",
    ]
    assert (tree / ".venv/.setup/constraints.txt").read_text() == "torch==2.13.0+cpu\n"
    assert "setup: ready: .venv (Python 3.11.7, torch 2.13.0+cpu)" in done.stdout


def test_a_torch_that_is_there_stays(tree):
    (tree / ".venv/bin/torch").touch()
    run(tree)
    assert len(pip_calls(tree)) == 1


def test_another_torch_can_be_asked_for(tree):
    run(tree, TORCH="torch==2.11.0")
    assert pip_calls(tree)[0] == "-m pip install --quiet torch==2.11.0"


def test_a_second_run_installs_nothing(tree):
    run(tree)
    pip_calls(tree)
    done = run(tree)
    assert done.returncode == 0
    assert pip_calls(tree) == []
    assert done.stdout.startswith("setup: ROS\nsetup: ready")


def test_ros_comes_last_and_its_failure_is_that_of_the_whole(tree):
    done = run(tree, ROS_SCRIPT_ENDS_WITH="3")
    assert done.returncode == 3
    assert done.stdout.endswith("setup: ROS\n")


def test_ros_can_be_left_out(tree):
    done = run(tree, ROS="no", ROS_SCRIPT_ENDS_WITH="3")
    assert done.returncode == 0
    assert "setup: ROS is left out (ROS=no)\nsetup: ready" in done.stdout


@pytest.mark.parametrize("change", ["pyproject.toml", "scripts/setup.sh", "a package", "torch"])
def test_changed_inputs_install_again(tree, change):
    run(tree)
    pip_calls(tree)
    if change == "a package":
        (tree / "gen3r_ros").mkdir()
    elif change == "torch":
        (tree / ".venv/bin/torch").unlink()
    else:
        with (tree / change).open("a") as file:
            file.write("\n# changed\n")
    run(tree)
    assert pip_calls(tree)[-1].endswith("--editable .[dev]")
    assert len(list((tree / ".venv/.setup").glob("installed-*"))) == 1


def test_missing_debian_packages_are_named_to_an_ordinary_user(tree):
    executable(tree / "bin/dpkg-query", "#!/bin/bash\n[[ ${!#} == libgl1 ]] && echo 'ii ' || echo 'un '\n")
    done = run(tree)
    assert done.returncode == 0
    assert (
        "As root, run:  apt-get update && apt-get install -y --no-install-recommends "
        "libegl1 libidn2-0 libudev1 libusb-1.0-0 libx11-6\n" in done.stdout
    )


def test_root_installs_them_after_one_update(tree):
    executable(tree / "bin/id", "#!/bin/bash\necho 0\n")
    executable(tree / "bin/dpkg-query", "#!/bin/bash\nexit 1\n")
    executable(tree / "bin/apt-get", '#!/bin/bash\necho "$*" >>apt.log\n')
    assert run(tree).returncode == 0
    assert (tree / "apt.log").read_text().splitlines() == [
        "update -qq",
        "install -y --no-install-recommends libegl1 libgl1 libidn2-0 libudev1 libusb-1.0-0 libx11-6 -qq",
    ]


def test_an_open3d_that_does_not_import_stops_with_the_packages(tree):
    (tree / ".venv/bin/broken").touch()
    done = run(tree)
    assert done.returncode == 1
    assert "error: open3d cannot be imported (OSError: libusb-1.0.so.0 is missing)" in done.stderr
    assert "apt-get install libegl1 libgl1" in done.stderr
    (tree / ".venv/bin/broken").unlink()
    assert run(tree).returncode == 0


def test_no_fitting_python_is_said(tree):
    shutil.rmtree(tree / ".venv")
    executable(tree / "bin/python2", "#!/bin/bash\nexit 1\n")
    done = run(tree, PYTHON="python2")
    assert done.returncode == 1
    assert "no Python 3.11, 3.12 or 3.13 found (looked for python2)" in done.stderr
    assert not (tree / ".venv").exists()


def test_a_python_without_venv_names_the_debian_package(tree):
    shutil.rmtree(tree / ".venv")
    executable(
        tree / "bin/python3.12",
        '#!/bin/bash\ncase "$*" in *"import ensurepip"*) exit 1;; *print*) echo 3.12;; esac\n',
    )
    executable(tree / "bin/dpkg-query", "#!/bin/bash\nexit 1\n")
    done = run(tree, PYTHON="python3.12")
    assert done.returncode == 1
    assert "install -y --no-install-recommends python3.12-venv" in done.stdout
    assert "has no venv module: install the Debian package python3.12-venv and run this again" in done.stderr
