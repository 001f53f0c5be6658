#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Run a command as root where all network devices, namespaces, labs and wires are its own: two test runs side by
# side then neither see nor disturb each other, nor what else the machine has. There is no way out to a network.
set -euo pipefail
if [ "${1:-}" != --inside ]; then
    exec unshare --net --mount -- "$0" --inside "$@"
fi
shift
ip link set lo up
mount -t sysfs none /sys
for folder in /run/netns /run/mininet-offload /run/openvswitch /dev/shm; do
    mkdir -p "$folder"
    mount -t tmpfs none "$folder"
done
exec "$@"
