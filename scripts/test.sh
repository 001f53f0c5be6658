#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# All tests, three ways: interpreted and with bounds checks (the parts where that says something), then compiled.
# Arguments go to the compiled run; with arguments, only that one is done.
set -uo pipefail
. "$(dirname "$0")/common.sh"
cd "$ROOT"
export MPLBACKEND=Agg
LOGS=$(mktemp -d)
trap 'rm -rf "$LOGS"' EXIT
# The time limit is for a thread that a test left running: pytest has its own for each test.
pytest() { timeout --kill-after=10 "${LIMIT_S:-600}" .venv/bin/python -m pytest -q -p no:cacheprovider -m "not nightly" "$@"; }
present() { for path in "$@"; do [ -e "$path" ] && echo "$path"; done; }

if [ $# -gt 0 ]; then
    pytest "$@"
    exit
fi

# The first two use no network and no clock, so they may run side by side.
mapfile -t plain < <(present tests/unit tests/protocol)
mapfile -t unit < <(present tests/unit)
NUMBA_DISABLE_JIT=1 pytest "${plain[@]}" >"$LOGS/interpreted" 2>&1 &
interpreted=$!
NUMBA_BOUNDSCHECK=1 pytest "${unit[@]}" >"$LOGS/bounds" 2>&1 &
bounds=$!
failed=0
ended() {  # RUN STATUS
    [ "$2" -eq 0 ] || failed=1
    [ "$2" -ne 124 ] || echo "the $1 run did not end within ${LIMIT_S:-600} s and was stopped" >&2
}
status=0; wait "$interpreted" || status=$?; ended interpreted "$status"
status=0; wait "$bounds" || status=$?; ended bounds "$status"
for run in interpreted bounds; do
    echo "==== $run ===="
    cat "$LOGS/$run"
done
echo "==== compiled ===="
pytest tests 2>&1 | tee "$LOGS/compiled"
ended compiled "${PIPESTATUS[0]}"

.venv/bin/python scripts/total.py "$LOGS/interpreted" "$LOGS/bounds" "$LOGS/compiled" || failed=1
exit "$failed"
