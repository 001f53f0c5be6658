# SPDX-License-Identifier: Apache-2.0
"""Where the compiled dataplane is kept, and whether it is whole; for those, too, who do not load Numba.

The directory is named after a hash of the sources (under $XDG_CACHE_HOME, or ~/.cache), since Numba does not
notice edits of imported files. The hash covers their paths and times too, by which Numba itself finds what it
kept. NUMBA_CACHE_DIR overrides the directory.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

VARIABLE = "NUMBA_CACHE_DIR"
MARKER = "complete"


def cache_directory() -> Path:
    """Where the code that these sources compile to is kept."""
    package = Path(__file__).parent
    digest = hashlib.sha256(sys.version.encode())
    for source in sorted([package / "layout.py", *package.glob("dataplane/**/*.py")]):
        digest.update(f"{source} {source.stat().st_mtime_ns}".encode())
        digest.update(source.read_bytes())
    mode = "checked" if os.environ.get("NUMBA_BOUNDSCHECK") == "1" else "plain"
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "mininet-offload" / f"{digest.hexdigest()[:16]}-{mode}"


def current_directory() -> Path:
    """The directory that is in use."""
    return Path(os.environ.get(VARIABLE) or cache_directory())


def is_complete() -> bool:
    """Whether all code is there, or none is needed."""
    return os.environ.get("NUMBA_DISABLE_JIT", "0") != "0" or (current_directory() / MARKER).exists()
