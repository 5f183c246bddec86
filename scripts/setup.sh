#!/usr/bin/env bash
# Makes .venv at the repository's root and installs the project into it, editable, with the tools of its tests and ROS 2.
#
# Run it as often as you like: steps whose inputs have not changed are skipped. It changes nothing outside .venv,
# except that it installs missing Debian packages when it runs as root.
#
#   PYTHON=python3.12 scripts/setup.sh      use this interpreter
#   TORCH=torch==2.11.0 scripts/setup.sh    install this torch where .venv has none
#   ROS=no scripts/setup.sh                 leave ROS out: where it has no wheels, or where only gen3r_core is wanted
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/common.sh
venv=.venv
stamps=$venv/.setup
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off

# What open3d's shared library is linked against; torch, av and pillow bring their own.
debian_packages=(libegl1 libgl1 libidn2-0 libudev1 libusb-1.0-0 libx11-6)

python_fits() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
        if command -v "$candidate" >/dev/null && python_fits "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    stop "no Python 3.11, 3.12 or 3.13 found (looked for ${PYTHON:-python3.11, python3.12, python3.13, python3});" \
        "install one, on Debian: apt-get install python3 python3-venv, or name it: PYTHON=/path/to/python $0"
}

make_venv() {
    if [[ -x $venv/bin/python ]] && python_fits "$venv/bin/python" && "$venv/bin/python" -m pip --version &>/dev/null; then
        return
    fi
    local python name
    python=$(find_python)
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        name=python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv
        install_debian_packages "$name" || true
        "$python" -c 'import ensurepip, venv' 2>/dev/null ||
            stop "$python has no venv module: install the Debian package $name and run this again"
    fi
    say "making $venv with $python"
    "$python" -m venv --clear "$venv"
}

installed_torch() {
    "$venv/bin/python" -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null || true
}

install_project() {
    local torch key
    torch=$(installed_torch)
    # An editable install depends on these files, on where the tree lies, and on its top-level packages.
    key=$({ cat pyproject.toml setup.py scripts/setup.sh; pwd; ls -d gen3r_*; echo "$torch"; "$venv/bin/python" -VV; } |
        sha256sum | cut -d' ' -f1)
    if [[ -n $torch && -e $stamps/installed-$key ]]; then
        return
    fi
    if [[ -z $torch ]]; then
        say "installing ${TORCH:=torch==2.13.0} (minutes, the first time)"
        "$venv/bin/python" -m pip install --quiet "$TORCH"
        rm -rf "$stamps"
        install_project
        return
    fi
    mkdir -p "$stamps"
    echo "torch==$torch" >"$stamps/constraints.txt"
    say "installing the project and its tools beside torch $torch"
    "$venv/bin/python" -m pip install --quiet --constraint "$stamps/constraints.txt" --editable '.[dev]'
    rm -f "$stamps"/installed-*
    touch "$stamps/installed-$key"
}

# open3d is the one dependency that needs libraries of the system; try it once for each installed set.
check_libraries() {
    local stamp error
    stamp=$stamps/open3d-works
    if [[ -e $stamp && ! $stamp -ot $stamps/constraints.txt ]]; then
        return
    fi
    if ! error=$("$venv/bin/python" -c 'import open3d' 2>&1); then
        stop "open3d cannot be imported (${error##*$'\n'}); it needs the libraries of these Debian packages:" \
            "apt-get install ${debian_packages[*]}"
    fi
    touch "$stamp"
}

make_venv
install_debian_packages "${debian_packages[@]}" || true
install_project
check_libraries
if [[ ${ROS:-} == no ]]; then
    say "ROS is left out (ROS=no)"
else
    bash scripts/ros.sh
fi
say "ready: $venv ($("$venv/bin/python" -V), torch $(installed_torch))"
