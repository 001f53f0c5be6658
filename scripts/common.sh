# SPDX-License-Identifier: Apache-2.0
# Sourced by the other scripts: where the tree is, whose it is, and how to say what went wrong.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
OWNER=$(stat -c %U "$ROOT")
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"  # Debian leaves these out for users

say() { echo "setup: $*"; }
die() { echo "setup: $*" >&2; exit 1; }

# The Pythons that the project promises to run with, one a line.
promised_pythons() { sed -n 's/.*"Programming Language :: Python :: \(3\.[0-9]*\)".*/\1/p' "$ROOT/pyproject.toml"; }

# Run a command as root; asks for the password only when sudo needs one.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif ! command -v sudo >/dev/null; then
        die "root is needed for '$1', and there is no sudo: run make as root or install sudo"
    elif ! sudo true; then
        die "root is needed for '$1', and sudo refused: run make as a user who may use sudo, or as root"
    else
        sudo "$@"
    fi
}

# Run a command as the owner of the tree, so that `sudo make` leaves no file there that its user cannot remove.
as_owner() {
    if [ "$(id -u)" -eq 0 ] && [ "$OWNER" != root ] && [ "$OWNER" != UNKNOWN ]; then
        HOME=$(getent passwd "$OWNER" | cut -d: -f6) runuser -u "$OWNER" -- "$@"
    else
        "$@"
    fi
}
