# Functions of the setup scripts, for bash; they are sourced after `set -euo pipefail`.

say() { printf 'setup: %s\n' "$*"; }
stop() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }

debian_package_missing() {
    [[ $(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null) != ii* ]]
}

# Installs what is missing of the packages named, or says which command would do it and returns 1.
install_debian_packages() {
    local package missing=()
    command -v dpkg-query >/dev/null || return 0
    for package in "$@"; do
        if debian_package_missing "$package"; then missing+=("$package"); fi
    done
    ((${#missing[@]})) || return 0
    local update=(apt-get update) install=(apt-get install -y --no-install-recommends "${missing[@]}")
    if [[ $(id -u) != 0 ]]; then
        say "Debian packages are missing. As root, run:  ${update[*]} && ${install[*]}"
        return 1
    fi
    say "installing Debian packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    "${update[@]}" -qq || say "apt-get update failed; trying with the lists at hand"
    "${install[@]}" -qq || { say "this command failed:  ${install[*]}"; return 1; }
}
