#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that `make demo` and `make test` need, on Debian and Ubuntu: the packages below, and two virtual
# environments (.venv: the project; .venv-ryu: the controller). With the word `faucet`: another controller, for a
# test with it (.venv-faucet). Run again, it does nothing that is done already.
# It starts no service and changes no configuration. PYTHON names the interpreter (default python3).
# Which Pythons are tried: the classifiers in pyproject.toml.
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$ROOT"

# command it brings : package. mnexec runs a program inside a Mininet host; Open vSwitch is a peer in experiments.
NEEDED=(mnexec:mininet iperf3:iperf3 ovs-vswitchd:openvswitch-switch ovs-vsctl:openvswitch-switch ethtool:ethtool
        tcpdump:tcpdump tshark:tshark ip:iproute2 ping:iputils-ping ps:procps)
PYTHON=${PYTHON:-python3}

main() {
    wait_for_another
    check_python
    if [ "${1:-}" = faucet ]; then
        faucet_environment
        return
    fi
    install_packages
    project_environment
    controller_environment
}

# Two at once would make one environment between them.
wait_for_another() {
    exec 9<scripts/setup.sh
    flock --nonblock 9 || { say "waiting for another set-up of this folder"; flock 9; }
}

check_python() {
    PYTHON=$(command -v "$PYTHON") || die "python3 was not found: install Python 3.10 or newer, or set PYTHON"
    VERSION=$("$PYTHON" -c 'import platform; print(platform.python_version())') \
        || die "$PYTHON does not run: set PYTHON to a Python 3.10 or newer"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
        || die "$PYTHON is Python $VERSION, but 3.10 or newer is needed: set PYTHON to one"
    promised_pythons | grep -qx "${VERSION%.*}" \
        || say "Python $VERSION is newer than those that are tried ($(promised_pythons | paste -sd' ')): PYTHON names another"
}

install_packages() {
    local missing=() need
    for need in "${NEEDED[@]}"; do
        command -v "${need%%:*}" >/dev/null || missing+=("${need#*:}")
    done
    # Debian's Python comes without venv.
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
    [ ${#missing[@]} -eq 0 ] && return
    mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
    command -v apt-get >/dev/null || die "these are missing and only apt-get (Debian, Ubuntu) is known here: install by hand: ${missing[*]}"
    say "installing ${missing[*]} (services are not started)"
    local log status=0
    log=$(mktemp)
    as_root bash "$ROOT/scripts/apt_install.sh" "${missing[@]}" >"$log" 2>&1 || status=$?
    if [ "$status" -ne 0 ]; then
        tail -n 15 "$log" >&2
        rm -f "$log"
        die "apt-get could not install ${missing[*]}: see its last lines above (is the network reachable, is another apt running?)"
    fi
    rm -f "$log"
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null || die "$PYTHON has no venv module even with python3-venv installed: set PYTHON to one that has"
    for need in "${NEEDED[@]}"; do
        command -v "${need%%:*}" >/dev/null || die "package ${need#*:} is installed but its command ${need%%:*} is not found"
    done
}

# environment DIR STAMPED-FILES -- : true when DIR was already made from these files with this Python
up_to_date() {
    local dir=$1; shift
    STAMP=$dir/.made-from-$(cat "$@" scripts/setup.sh <(echo "$PYTHON $VERSION $ROOT") | sha256sum | cut -c1-16)
    [ -e "$STAMP" ] && [ -x "$dir/bin/python" ]
}

# pip with the machine's own configuration (index, proxy, certificates).
pip_install() {
    local dir=$1; shift
    as_owner "$dir/bin/python" -m pip install -qq --disable-pip-version-check "$@" \
        || die "pip could not install the Python packages into $dir: see its lines above (is the package index reachable?)"
}

project_environment() {
    up_to_date .venv pyproject.toml && return
    say "making .venv with Python $VERSION (the project and its tests)"
    as_owner "$PYTHON" -m venv --clear .venv || die "$PYTHON could not make the virtual environment .venv"
    pip_install .venv --editable '.[test]'
    as_owner touch "$STAMP"
}

controller_environment() {
    up_to_date .venv-ryu scripts/requirements-ryu.txt && return
    say "making .venv-ryu with Python $VERSION (the Ryu controller)"
    as_owner "$PYTHON" -m venv --clear .venv-ryu || die "$PYTHON could not make the virtual environment .venv-ryu"
    # Ryu 4.34 builds with neither a newer setuptools, nor (on Python 3.12 and later) an older one; wheel from 0.46
    # on wants a newer packaging than Ryu.
    pip_install .venv-ryu 'setuptools>=66.1,<67' 'wheel<0.46'
    pip_install .venv-ryu --no-build-isolation -r scripts/requirements-ryu.txt
    as_owner touch "$STAMP"
}

faucet_environment() {
    up_to_date .venv-faucet scripts/requirements-faucet.txt && return
    say "making .venv-faucet with Python $VERSION (the controller FAUCET, for its test)"
    as_owner "$PYTHON" -m venv --clear .venv-faucet || die "$PYTHON could not make the virtual environment .venv-faucet"
    pip_install .venv-faucet -r scripts/requirements-faucet.txt
    as_owner touch "$STAMP"
}

main "$@"
