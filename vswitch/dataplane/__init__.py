# SPDX-License-Identifier: Apache-2.0
"""The compiled half: packet bytes, tables, stages and the worker loop that runs them.

Compiled code is kept in a directory named after a hash of the sources (under $XDG_CACHE_HOME, or ~/.cache),
since Numba does not notice edits of imported files. The hash covers their paths and times too, by which Numba
itself finds what it kept. NUMBA_CACHE_DIR overrides the directory.
"""

import hashlib
import os
import sys
from pathlib import Path


def cache_directory() -> Path:
    """Where the code that these sources compile to is kept."""
    package = Path(__file__).parent
    digest = hashlib.sha256(sys.version.encode())
    for source in sorted([package.parent / "layout.py", *package.glob("**/*.py")]):
        digest.update(f"{source} {source.stat().st_mtime_ns}".encode())
        digest.update(source.read_bytes())
    mode = "checked" if os.environ.get("NUMBA_BOUNDSCHECK") == "1" else "plain"
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "mininet-offload" / f"{digest.hexdigest()[:16]}-{mode}"


def _use_cache_directory() -> None:
    if "NUMBA_CACHE_DIR" not in os.environ:
        os.environ["NUMBA_CACHE_DIR"] = str(cache_directory())
        import numba  # it may have been imported, and read its settings, already

        numba.config.reload_config()


_use_cache_directory()
