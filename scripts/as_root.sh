#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Run a command as root from the project's folder (network namespaces need it). Files that it leaves in the tree
# are given back to the tree's owner.
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$ROOT"
if [ "$(id -u)" -ne 0 ]; then
    as_root "$ROOT/scripts/as_root.sh" "$@"
    exit
fi
give_back() {
    if [ "$OWNER" != root ] && [ "$OWNER" != UNKNOWN ]; then
        find "$ROOT" -xdev -user root -exec chown -h "$OWNER": {} +
    fi
}
trap give_back EXIT
status=0
"$@" || status=$?
exit "$status"
