# SPDX-License-Identifier: Apache-2.0
"""The stamp that says on what, with what, and when an experiment ran."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from topologies.processes import run

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("numba", "llvmlite", "numpy", "mininet")


def stamp(seed: int) -> dict[str, Any]:
    """Kernel, CPU, versions, commit, seed and time; a program that is not installed is None."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seed": seed,
        "kernel": platform.release(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
        "packages": {name: _package(name) for name in PACKAGES},
        "iperf3": _first_line("iperf3", "--version"),
        "ovs": _first_line("ovs-vswitchd", "--version"),
        "git_commit": _first_line("git", "-C", str(ROOT), "rev-parse", "HEAD"),
        "git_dirty": bool(_first_line("git", "-C", str(ROOT), "status", "--porcelain")),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _package(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _first_line(*argv: str) -> str | None:
    try:
        result = run(argv)
    except FileNotFoundError:
        return None
    lines = result.stdout.splitlines()
    return lines[0] if result.returncode == 0 and lines else None
