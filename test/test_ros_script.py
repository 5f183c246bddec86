"""The logic of scripts/ros.sh, run in a small tree with stand-ins for Python and CMake that note what they are asked.

What it really installs and builds is tried by every clean checkout that runs the tests, and by test/ros.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Answers questions about itself with the true Python; pip "installs" a CMake file as the wheels have it.
PYTHON = """#!/bin/bash
here=$(dirname "$0")
tree=$(dirname "$(dirname "$here")")
case "$*" in
  *'-m pip install'*)
    echo "$*" >>"$tree/pip.log"
    [[ -e $tree/offline ]] && { echo 'ERROR: no connection' >&2; exit 1; }
    mkdir -p "$tree/.venv/share/std_msgs/cmake" "$tree/.venv/share/rclpy"
    cp "$tree/wheel.cmake" "$tree/.venv/share/std_msgs/cmake/std_msgs.cmake";;
  *platform.libc_ver*) if [[ -e $tree/machine ]]; then cat "$tree/machine"; else exec python3 "$@"; fi;;
  *get_path*) cat "$tree/headers";;
  *get_include*) echo /venv/numpy/include;;
  *version_info*) echo python3.11;;
  *-VV*) echo Python 3.11.7;;
esac
"""

# Configures and builds to nothing; installs one file a message, as its manifest says.
CMAKE = """#!/bin/bash
venv=$(dirname "$(dirname "$0")")
tree=$(dirname "$venv")
echo "$*" >>"$tree/cmake.log"
case "$1" in
  -S) [[ -e $tree/unbuildable ]] && { echo 'CMake Error: no rosidl'; exit 1; }
      mkdir -p "$4"; echo "$2" >"$4/source"; [[ $AMENT_PREFIX_PATH == "$venv" ]] || exit 1;;
  --install)
      source=$(cat "$2/source")
      name=$(sed -n 's/.*<name>\\(.*\\)<.*/\\1/p' "$source/package.xml")
      site=$venv/lib/python3.11/site-packages
      mkdir -p "$venv/share/$name" "$site/$name" "$site/$name-0.1.0-py3.11.egg-info"
      cp "$source/package.xml" "$venv/share/$name/"
      echo "$venv/share/$name/package.xml" >"$2/install_manifest.txt"
      for file in "$source"/msg/*.msg; do
          touch "$site/$name/$(basename "$file").py"
          echo "$site/$name/$(basename "$file").py" >>"$2/install_manifest.txt"
      done;;
esac
"""

WHEEL = """set(A "/opt/python/cp311-cp311/include/python3.11")
set(B "/opt/python/cp311-cp311/lib/python3.11/site-packages/numpy/_core/include;/usr/include")
"""


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def tree(tmp_path):
    """A tree with the script, its packages, a .venv of stand-ins, a compiler, and an ordinary user."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    for name in ("package.xml", "CMakeLists.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("msg", "srv", "action"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "config").mkdir()
    executable(tmp_path / ".venv/bin/python", PYTHON)
    executable(tmp_path / ".venv/bin/cmake", CMAKE)
    (tmp_path / ".venv/.setup").mkdir()
    (tmp_path / ".venv/.setup/constraints.txt").write_text("torch==2.13.0\n")
    (tmp_path / "wheel.cmake").write_text(WHEEL)
    (tmp_path / "include").mkdir()
    (tmp_path / "include/Python.h").touch()
    (tmp_path / "headers").write_text(f"{tmp_path}/include\n")
    executable(tmp_path / "bin/c++", "#!/bin/bash\n")
    executable(tmp_path / "bin/id", "#!/bin/bash\necho 1000\n")
    executable(tmp_path / "bin/dpkg-query", "#!/bin/bash\necho 'un '\n")
    return tmp_path


def run(tree, **variables):
    environment = {**os.environ, "PATH": f"{tree / 'bin'}:{os.environ['PATH']}", **variables}
    environment.pop("CXX", None)
    environment.update(variables)
    return subprocess.run(
        ["bash", "scripts/ros.sh"], cwd=tree, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def calls(tree, program):
    log = tree / f"{program}.log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def built(tree):
    return [line.split()[1] for line in calls(tree, "cmake") if line.startswith("-S")]


def site(tree, package):
    return tree / ".venv/lib/python3.11/site-packages" / package


def test_wheels_are_installed_mended_and_interfaces_built(tree):
    done = run(tree)
    assert done.returncode == 0, done.stderr
    assert calls(tree, "pip") == [
        f"-m pip install --quiet --constraint {tree}/.venv/.setup/constraints.txt --requirement scripts/ros-wheels.txt"
    ]
    assert (tree / ".venv/share/std_msgs/cmake/std_msgs.cmake").read_text() == (
        f'set(A "{tree}/include")\nset(B "/venv/numpy/include;/usr/include")\n'
    )
    assert built(tree) == ["scripts/tf2_msgs", "."]
    assert (site(tree, "gen3r") / "NovelView.msg.py").exists()
    assert (tree / ".venv/share/gen3r/config").resolve() == tree / "config"


def test_only_our_interfaces_are_built_not_the_python_packages(tree):
    run(tree)
    assert sum("-DGEN3R_INTERFACES_ONLY=ON" in line for line in calls(tree, "cmake")) == 1


def test_pip_is_left_with_its_own_record_of_gen3r(tree):
    run(tree)
    assert not list((tree / ".venv").rglob("*.egg-info"))


def test_a_second_run_does_nothing(tree):
    run(tree)
    calls(tree, "pip"), calls(tree, "cmake")
    done = run(tree)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert calls(tree, "pip") == calls(tree, "cmake") == []


def test_a_changed_message_is_built_again_and_a_removed_one_is_gone(tree):
    run(tree)
    calls(tree, "pip"), calls(tree, "cmake")
    (tree / "msg/Keyframe.msg").unlink()
    (tree / "msg/New.msg").write_text("int8 x\n")
    run(tree)
    assert built(tree) == ["."]
    assert calls(tree, "pip") == []
    names = {path.name for path in site(tree, "gen3r").iterdir()}
    assert "New.msg.py" in names
    assert "Keyframe.msg.py" not in names


def test_other_wheels_are_installed_and_all_is_built_on_them(tree):
    run(tree)
    calls(tree, "pip"), calls(tree, "cmake")
    with (tree / "scripts/ros-wheels.txt").open("a") as file:
        file.write("ros-kilted-trajectory-msgs\n")
    run(tree)
    assert len(calls(tree, "pip")) == 1
    assert built(tree) == ["scripts/tf2_msgs", "."]
    assert len(list((tree / ".venv/.setup").glob("ros-wheels-*"))) == 1


def test_wheels_that_are_mended_already_stay_as_they_are(tree):
    (tree / "wheel.cmake").write_text('set(A "/usr/include")\n')
    assert run(tree).returncode == 0
    assert (tree / ".venv/share/std_msgs/cmake/std_msgs.cmake").read_text() == 'set(A "/usr/include")\n'


def test_a_wheel_of_tf2_msgs_is_left_alone(tree):
    site(tree, "ros_tf2_msgs-0.41.0.dist-info").mkdir(parents=True)
    run(tree)
    assert built(tree) == ["."]


def test_an_interrupted_build_is_done_again(tree):
    (tree / "unbuildable").touch()
    assert run(tree).returncode == 1
    (tree / "unbuildable").unlink()
    calls(tree, "cmake")
    assert run(tree).returncode == 0
    assert built(tree) == ["scripts/tf2_msgs", "."]


def test_what_does_not_build_says_why_and_where_it_stands(tree):
    (tree / "unbuildable").touch()
    done = run(tree)
    assert "CMake Error: no rosidl" in done.stderr
    log = f"{tree}/.venv/.setup/build/tf2_msgs/log.txt"
    assert f"error: the interfaces of tf2_msgs do not build; all of the output: {log}\n" in done.stderr


@pytest.mark.parametrize("machine", ["PyPy 3.11.9", "Linux on aarch64", "the C library glibc 2.17"])
def test_a_machine_without_wheels_is_told_what_there_is(tree, machine):
    (tree / "machine").write_text(machine + "\n")
    done = run(tree)
    assert done.returncode == 1
    assert calls(tree, "pip") == []
    assert (
        "error: the ROS wheels are for CPython 3.10 to 3.14 on Linux, x86_64, glibc 2.28 or newer; "
        f"this is {machine}." in done.stderr
    )
    assert "docs/ros.md" in done.stderr
    assert "ROS=no make setup" in done.stderr


@pytest.mark.parametrize(
    ("patch", "told"),
    [
        ("", ""),
        ("sys.version_info = (3, 9, 2); platform.python_version = lambda: '3.9.2'", "CPython 3.9.2"),
        ("sys.version_info = (3, 15, 0); platform.python_version = lambda: '3.15.0'", "CPython 3.15.0"),
        ("sys.implementation.name = 'pypy'; platform.python_implementation = lambda: 'PyPy'", "PyPy 3."),
        ("platform.machine = lambda: 'aarch64'", "Linux on aarch64"),
        ("platform.system = lambda: 'Darwin'", "Darwin on x86_64"),
        ("platform.libc_ver = lambda: ('glibc', '2.17')", "the C library glibc 2.17"),
        ("platform.libc_ver = lambda: ('', '')", "the C library (unknown)"),
    ],
)
def test_the_check_of_the_machine(patch, told):
    script = (ROOT / "scripts/ros.sh").read_text()
    source = script.split("unfit_machine() {")[1].split("ask_python '")[1].split("'\n")[0]
    always = "platform.machine = lambda: 'x86_64'; platform.libc_ver = lambda: ('glibc', '2.36')"
    done = subprocess.run(
        ["python3", "-c", f"import platform, sys\n{always}\n{patch}\n{source}"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.startswith(told)
    assert bool(done.stdout) == bool(told)


def test_wheels_that_cannot_be_fetched_are_tried_again(tree):
    (tree / "offline").touch()
    done = run(tree)
    assert done.returncode == 1
    assert "ERROR: no connection" in done.stderr
    assert "error: pip could not install the ROS wheels" in done.stderr
    (tree / "offline").unlink()
    calls(tree, "pip")
    assert run(tree).returncode == 0
    assert len(calls(tree, "pip")) == 1


def test_paths_that_cannot_be_mended_are_named(tree):
    (tree / "wheel.cmake").write_text('set(A "/opt/python/cp311-cp311/lib/libpython3.so")\n')
    done = run(tree)
    assert done.returncode == 1
    assert "share/std_msgs/cmake/std_msgs.cmake\n" in done.stderr
    assert "still name the machine that built them" in done.stderr


def test_a_missing_compiler_is_asked_for(tree):
    done = run(tree, CXX="c++-of-nowhere -O2")
    assert done.returncode == 1
    assert "apt-get update && apt-get install -y --no-install-recommends g++\n" in done.stdout
    assert "error: the interfaces need a C++ compiler, and there is no c++-of-nowhere: on Debian" in done.stderr


def test_missing_headers_of_python_are_asked_for(tree):
    (tree / "include/Python.h").unlink()
    done = run(tree)
    assert done.returncode == 1
    assert "apt-get install -y --no-install-recommends python3.11-dev\n" in done.stdout
    assert f"and there is no {tree}/include/Python.h: on Debian, apt-get install python3.11-dev" in done.stderr


def test_root_gets_the_compiler_installed(tree):
    executable(tree / "bin/id", "#!/bin/bash\necho 0\n")
    executable(tree / "bin/apt-get", f'#!/bin/bash\necho "$*" >>apt.log; cp {tree}/bin/c++ {tree}/bin/c++-new\n')
    done = run(tree, CXX="c++-new")
    assert done.returncode == 0, done.stderr
    assert (tree / "apt.log").read_text().splitlines() == ["update -qq", "install -y --no-install-recommends g++ -qq"]


def test_a_sourced_distribution_does_not_leak_into_the_build(tree):
    other = tree / "opt/ros"
    (other / "share/rclpy").mkdir(parents=True)
    done = run(tree, AMENT_PREFIX_PATH=str(other), CMAKE_PREFIX_PATH=str(other), PYTHONPATH=str(other))
    assert done.returncode == 0, done.stderr
