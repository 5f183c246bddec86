#!/usr/bin/env bash
# Puts ROS 2 into .venv: the wheels of scripts/ros-wheels.txt, their CMake files mended, and the interfaces built,
# those of this tree (package gen3r) and tf2_msgs, of which there is no wheel.
#
# scripts/setup.sh runs it. As there: what has not changed is skipped, and nothing changes outside .venv but missing
# Debian packages when it runs as root.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh
venv=$PWD/.venv
stamps=$venv/.setup
python=$venv/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off
# Of another ROS in this shell nothing may leak into the build.
unset AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH PYTHONPATH

ask_python() { "$python" -c "$1"; }

python_headers() { ask_python 'import sysconfig; print(sysconfig.get_path("include"))'; }

# What this machine is, in words, if there are no wheels for it; otherwise nothing.
unfit_machine() {
    ask_python '
import platform, sys
libc, version = platform.libc_ver()
if sys.implementation.name != "cpython" or not (3, 10) <= sys.version_info[:2] <= (3, 14):
    print(f"{platform.python_implementation()} {platform.python_version()}")
elif (platform.system(), platform.machine()) != ("Linux", "x86_64"):
    print(f"{platform.system()} on {platform.machine()}")
elif libc != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 28):
    print("the C library", libc or "(unknown)", version)'
}

install_wheels() {
    local unfit key
    key=$({ cat scripts/ros-wheels.txt scripts/ros.sh; echo "$venv"; "$python" -VV; } | sha256sum | cut -d' ' -f1)
    if [[ -e $stamps/ros-wheels-$key ]]; then
        return
    fi
    unfit=$(unfit_machine)
    [[ -z $unfit ]] ||
        stop "the ROS wheels are for CPython 3.10 to 3.14 on Linux, x86_64, glibc 2.28 or newer; this is $unfit." \
            "Use such a machine or PYTHON=..., build in a ROS distribution's workspace (docs/ros.md)," \
            "or go on without ROS: ROS=no make setup"
    say "installing the ROS wheels"
    "$python" -m pip install --quiet --constraint "$stamps/constraints.txt" --requirement scripts/ros-wheels.txt ||
        stop "pip could not install the ROS wheels (its reason stands above); they come from PyPI and are named in" \
            "scripts/ros-wheels.txt. Without ROS: ROS=no make setup"
    mend_wheels
    rm -f "$stamps"/ros-wheels-*
    touch "$stamps/ros-wheels-$key"
}

# The wheels' CMake files name the Python and NumPy headers of the machine that built them: put in those of .venv.
mend_wheels() {
    local built='/opt/python/cp3[0-9]+-cp3[0-9]+' headers numpy
    headers=$(python_headers)
    numpy=$(ask_python 'import numpy; print(numpy.get_include())')
    { grep -rlZE --include='*.cmake' "$built" "$venv"/share/*/cmake || true; } |
        xargs -0r sed -Ei -e "s#$built/include/python3\.[0-9]+#$headers#g" \
            -e "s#$built/lib/python3\.[0-9]+/site-packages/numpy/[a-z_]*core/include#$numpy#g"
    if grep -rlE --include='*.cmake' "$built" "$venv"/share/*/cmake >&2; then
        stop "these CMake files of the ROS wheels still name the machine that built them; mend_wheels in scripts/ros.sh" \
            "does not know their paths"
    fi
}

check_compiler() {
    local compiler=${CXX:-c++} headers version
    compiler=${compiler%% *}
    if ! command -v "$compiler" >/dev/null; then
        install_debian_packages g++ || true
        command -v "$compiler" >/dev/null ||
            stop "the interfaces need a C++ compiler, and there is no $compiler: on Debian, apt-get install g++"
    fi
    headers=$(python_headers)
    if [[ ! -e $headers/Python.h ]]; then
        version=$(ask_python 'import sys; print("python%d.%d" % sys.version_info[:2])')
        install_debian_packages "$version-dev" || true
        [[ -e $headers/Python.h ]] ||
            stop "the interfaces need the C headers of $version, and there is no $headers/Python.h:" \
                "on Debian, apt-get install $version-dev"
    fi
}

# Builds a package of interfaces and installs it into .venv: its name, its folder, further arguments for CMake.
build_interfaces() {
    local name=$1 source=$2 key build=$stamps/build/$1
    shift 2
    key=$({ (cd "$source" && sha256sum package.xml CMakeLists.txt && find msg srv action -type f 2>/dev/null | sort |
        xargs sha256sum); cat scripts/ros.sh scripts/ros-wheels.txt; echo "$venv $*"; "$python" -VV; } |
        sha256sum | cut -d' ' -f1)
    if [[ -e $stamps/interfaces-$name-$key ]]; then
        return
    fi
    check_compiler
    say "building the interfaces of $name"
    rm -rf "$build"
    mkdir -p "$build"
    if ! (
        source scripts/env.sh
        cmake -S "$source" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF \
            -DCMAKE_INSTALL_PREFIX="$venv" -DPython3_EXECUTABLE="$python" "$@" &&
            cmake --build "$build"
    ) >"$build/log.txt" 2>&1; then
        tail -n 30 "$build/log.txt" >&2
        stop "the interfaces of $name do not build; all of the output: $build/log.txt"
    fi
    # What an older build installed and this one does not may not stay behind.
    if [[ -e $stamps/interfaces-$name.files ]]; then
        xargs -d '\n' rm -f <"$stamps/interfaces-$name.files"
    fi
    rm -f "$stamps/interfaces-$name"-*
    "$venv/bin/cmake" --install "$build" >>"$build/log.txt"
    cp "$build/install_manifest.txt" "$stamps/interfaces-$name.files"
    # The generators leave a Python distribution of the package's name; pip knows gen3r, and must know only its own.
    rm -rf "$venv"/lib/python3*/site-packages/"$name"-*.egg-info
    touch "$stamps/interfaces-$name-$key"
}

mkdir -p "$stamps"
install_wheels
if ! compgen -G "$venv/lib/python3*/site-packages/ros_tf2_msgs-*.dist-info" >/dev/null; then
    build_interfaces tf2_msgs scripts/tf2_msgs
fi
build_interfaces gen3r . -DGEN3R_INTERFACES_ONLY=ON
# What a ROS tool looks for of the package is that of this tree: in its share folder, and for `ros2 run` and launch files.
ln -sfn ../../../config "$venv/share/gen3r/config"
# `ros2 launch` does not follow links to folders.
rm -rf "$venv/share/gen3r/launch"
mkdir -p "$venv/share/gen3r/launch" "$venv/lib/gen3r"
for file in launch/*.launch.py; do
    ln -s "../../../../$file" "$venv/share/gen3r/launch/"
done
for program in gen3r_node gen3r_sim gen3r_play; do
    ln -sfn "../../bin/$program" "$venv/lib/gen3r/$program"
done
