#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# apt_install.sh PACKAGE...: install packages (as root) without starting a service that they bring, now (policy-rc.d;
# one that is already there is respected and left alone) or at the next boot.
set -euo pipefail
POLICY=/usr/sbin/policy-rc.d
if [ ! -e "$POLICY" ]; then
    trap 'rm -f "$POLICY"' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    printf '#!/bin/sh\nexit 101\n' >"$POLICY"
    chmod 755 "$POLICY"
fi
export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -o DPkg::Lock::Timeout=120 -o Dpkg::Options::=--force-confold)
had_ovs=$(command -v ovs-vswitchd || true)
"${apt[@]}" update
"${apt[@]}" install --yes --no-install-recommends "$@"

if [ -z "$had_ovs" ] && command -v ovs-vswitchd >/dev/null && command -v systemctl >/dev/null; then
    systemctl disable openvswitch-switch.service || echo "openvswitch-switch stays enabled for the next boot"
fi
