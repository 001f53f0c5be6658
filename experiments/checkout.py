# SPDX-License-Identifier: Apache-2.0
"""Another checkout of this project, which runs with its own code: to compare two states of the switch."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from experiments.errors import ExperimentError
from topologies.controllers import PYTHON_VARIABLE, ROOT, ryu_python
from topologies.errors import LabError
from topologies.processes import run
from vswitch import code_cache

MARKS = ("vswitch/datapath.py", "experiments/bench.py")  # what a checkout has


@dataclass(frozen=True)
class Checkout:
    """The tree at `root`, and the Python that runs it: of its own .venv, or ours where it has none."""

    root: Path
    python: Path

    @classmethod
    def here(cls) -> Checkout:
        """This checkout."""
        return cls(ROOT, Path(sys.executable))

    @classmethod
    def at(cls, path: Path) -> Checkout:
        """The checkout at a path; raises ExperimentError when there is none, or its Python does not run."""
        root = path.absolute()
        for mark in MARKS:
            if not (root / mark).is_file():
                raise ExperimentError(f"--against: {path} is no checkout of this project: it has no {mark}")
        own = root / ".venv" / "bin" / "python"
        if own.is_symlink() and not own.exists():
            raise ExperimentError(f"--against: the Python of {path} is gone: run `make setup` there")
        return cls(root, own if own.exists() else Path(sys.executable))

    def environment(self) -> dict[str, str]:
        """The environment for its programs. Where it has no .venv-ryu, its controllers run with ours.

        Once the dataplane is imported here, the environment names our directory of compiled code.
        """
        environment = {**os.environ, "PYTHONPATH": str(self.root)}
        if environment.get(code_cache.VARIABLE) == str(code_cache.cache_directory()):
            del environment[code_cache.VARIABLE]
        if not (self.root / ".venv-ryu").exists():
            try:
                environment[PYTHON_VARIABLE] = str(ryu_python())
            except LabError:
                pass  # who starts a controller is told
        return environment

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run its Python to the end; `-c` and `-m` mean its own packages."""
        return run([str(self.python), *arguments], env=self.environment(), cwd=self.root)

    def compile(self) -> None:
        """Compile its dataplane ahead of its first start; raises ExperimentError when that fails."""
        result = self.run("-m", "vswitch.compile")
        if result.returncode:
            raise ExperimentError(f"--against: {self.root} does not compile: {last_line(result)}")

    def commit(self) -> str:
        """Its commit, or its path where git knows none."""
        result = run(["git", "-C", str(self.root), "rev-parse", "HEAD"])
        return result.stdout.strip() if result.returncode == 0 else str(self.root)


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    """What a program said last."""
    lines = (result.stderr.strip() or result.stdout.strip()).splitlines()
    return lines[-1].strip() if lines else f"it ended with status {result.returncode}"
