#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Try every Python that pyproject.toml promises and this machine has, besides the one of .venv, which `make test`
# tries: in a copy of the tree of its own (build/pythonX.Y) set up as a user does, import everything and run the
# tests marked `smoke`, labs among them.
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$ROOT"
LOGS=$(mktemp -d)
trap 'rm -rf "$LOGS"' EXIT

# is_python PROGRAM VERSION : true when the program runs, and is that Python (a shim may exist and not run)
is_python() {
    [ -x "$1" ] && "$1" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$2')" 2>/dev/null
}

# The first of that version on the PATH, or among pyenv's.
interpreter() {
    local program
    for program in "$(command -v "python$1" || true)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python3; do
        if is_python "$program" "$1"; then
            echo "$program"
            return
        fi
    done
}

copy_tree() {
    as_owner mkdir -p "$1"
    find "$1" -mindepth 1 -maxdepth 1 ! -name '.venv*' -exec rm -rf {} +
    # what is the project's, and no file that tests write meanwhile
    as_owner git ls-files -z --cached --others --exclude-standard | tar -c --null --files-from=- \
        | as_owner tar -x -C "$1"
}

# try VERSION PROGRAM
try() {
    local copy=$ROOT/build/python$1
    copy_tree "$copy" && PYTHON=$2 "$copy/scripts/setup.sh" && "$copy/scripts/isolated.sh" "$copy/scripts/test.sh" -m smoke
}

logs=()
failed=0
for version in $(promised_pythons); do
    if is_python .venv/bin/python "$version"; then
        echo "Python $version is that of .venv: make test tries it"
        continue
    fi
    program=$(interpreter "$version")
    if [ -z "$program" ]; then
        echo "There is no Python $version on this machine: not tried"
        continue
    fi
    echo "==== Python $version ===="
    try "$version" "$program" 2>&1 | tee "$LOGS/python$version" || failed=1
    logs+=("$LOGS/python$version")
done
[ ${#logs[@]} -eq 0 ] || .venv/bin/python scripts/total.py "${logs[@]}" || failed=1
exit "$failed"
