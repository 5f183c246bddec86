#!/usr/bin/env bash
# Sets a shell up for everything of the project, ROS included:
#
#   source scripts/env.sh               this shell, from any folder
#   bash scripts/env.sh COMMAND...      one command
#
# Sourcing it again changes nothing more. It needs bash and a .venv (`make setup`).

_gen3r_environment() {
    local root venv entry libraries
    root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd) || return
    venv=$root/.venv
    if [[ ! -x $venv/bin/python ]]; then
        echo "env.sh: there is no $venv: run  make setup" >&2
        return 1
    fi
    local IFS=:
    for entry in ${AMENT_PREFIX_PATH-}; do
        if [[ $entry != "$venv" && -e $entry/share/rclpy ]]; then
            echo "env.sh: this shell has another ROS, $entry; $venv brings its own: open a new shell" >&2
            return 1
        fi
    done
    export VIRTUAL_ENV=$venv
    _gen3r_first PATH "$venv/bin"
    hash -r
    if [[ ! -e $venv/share/rclpy ]]; then
        echo "env.sh: there is no ROS in $venv" >&2
        return
    fi
    # The wheels start Python again to set these two; done here, they need not, and debuggers and pipes stay whole.
    libraries=$(printf ':%s' "$venv"/lib/python3*/site-packages/ros_*.libs)
    _gen3r_first LD_LIBRARY_PATH "$venv/lib$libraries"
    export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
    _gen3r_first AMENT_PREFIX_PATH "$venv"
    _gen3r_first CMAKE_PREFIX_PATH "$venv"
    export ROS_VERSION=2 ROS_PYTHON_VERSION=3 ROS_DISTRO=kilted
    # There is no other middleware among the wheels.
    export RMW_IMPLEMENTATION=rmw_fastrtps_cpp
    export FASTDDS_DEFAULT_PROFILES_FILE=${FASTDDS_DEFAULT_PROFILES_FILE:-$root/config/fastdds.xml}
}

# Puts folders (a:b) at the front of a variable of such, and takes them out where they stand further back.
_gen3r_first() {
    local name=$1 added=$2 kept='' entry IFS=:
    for entry in ${!name-}; do
        if [[ -n $entry && :$added: != *:"$entry":* ]]; then kept+=:$entry; fi
    done
    export "$name=$added$kept"
}

if [ -z "${BASH_VERSION-}" ]; then
    echo "env.sh: this needs bash" >&2
    return 1
elif [[ ${BASH_SOURCE[0]} != "$0" ]]; then
    _gen3r_environment
    eval "unset -f _gen3r_environment _gen3r_first; return $?"
elif (($# == 0)); then
    echo "usage: source ${BASH_SOURCE[0]}, or: bash ${BASH_SOURCE[0]} COMMAND..." >&2
    exit 2
fi
_gen3r_environment || exit
exec "$@"
