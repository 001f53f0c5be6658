#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# All tests, three ways: interpreted and with bounds checks (the parts where that says something), and compiled.
# Arguments go to the compiled run; with arguments, only that one is done.
set -uo pipefail
. "$(dirname "$0")/common.sh"
cd "$ROOT"
export MPLBACKEND=Agg
LOGS=$(mktemp -d)
trap 'rm -rf "$LOGS"' EXIT
# The time limit is for a thread that a test left running: pytest has its own for each test.
pytest() {
    timeout --kill-after=10 "${LIMIT_S:-900}" .venv/bin/python -m pytest -q -p no:cacheprovider "$@"
}
compile() { .venv/bin/python -m vswitch.compile; }

if [ $# -gt 0 ]; then
    compile
    pytest "$@"
    exit
fi

# What uses no network and no clock runs in two lines side by side, which take about as long. What the compiler does
# not touch (tests/protocol) runs once.
checked() {
    local failed=0
    NUMBA_DISABLE_JIT=1 pytest tests/protocol >"$LOGS/protocol" 2>&1 || failed=1
    NUMBA_BOUNDSCHECK=1 pytest tests/unit >"$LOGS/bounds" 2>&1 || failed=1
    return "$failed"
}
compiled_and_not() {
    local failed=0
    .venv/bin/python -c 'from conformance.patterns import suite; suite()' || true  # its tests say what is wrong
    { compile && pytest tests/unit >"$LOGS/compiled" 2>&1; } || failed=1
    NUMBA_DISABLE_JIT=1 pytest tests/unit >"$LOGS/interpreted" 2>&1 || failed=1
    return "$failed"
}
# Labs wait more than they work: two processes take file after file, the slow ones first, and do not see each other.
# Names of sockets are short: so is that of the folder for temporary files.
labs() {
    pytest --dist loadfile --no-loadscope-reorder --basetemp "$LOGS/t" \
        --tx '2*popen//python=scripts/isolated.sh .venv/bin/python' "$@"
}

failed=0
show() { echo "==== $1 ===="; cat "$LOGS/$1"; }
checked & side=$!
compiled_and_not || failed=1
wait "$side" || failed=1
for run in protocol bounds compiled interpreted; do show "$run"; done

quick=$(find tests -mindepth 1 -maxdepth 1 -type d ! -name unit ! -name protocol ! -name experiments ! -name mininet ! -name __pycache__)
labs tests/experiments tests/mininet $quick >"$LOGS/labs" 2>&1 || failed=1
show labs

.venv/bin/python scripts/total.py "$LOGS"/{protocol,bounds,compiled,interpreted,labs} || failed=1
exit "$failed"
