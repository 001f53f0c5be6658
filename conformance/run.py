# SPDX-License-Identifier: Apache-2.0
"""Runs chosen tests against a target: starts the test bed and Ryu's tester, and follows it to its end."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from conformance.errors import ConformanceError
from conformance.patterns import Pattern
from conformance.results import Result
from conformance.rig import CONTROLLER, ROOT, Rig, Target
from topologies.controllers import ryu_python
from topologies.processes import end, spawn

STALL_S = 180.0  # the longest test takes 30 s of load and some waiting


class TesterRun:
    """Ryu's tester in a test bed. `finished` is called with each result as it comes."""

    def __init__(self, rig: Rig, out: Path, finished: Callable[[Result], None]) -> None:
        self.rig = rig
        self.log = out / "tester.log"
        self.plan = out / "plan.json"
        self.lines = out / "tester.jsonl"
        self.finished = finished
        self.process: subprocess.Popen | None = None

    def run(self, suite: Path, patterns: Sequence[Pattern], throughput_seconds: int | None) -> list[Result]:
        """The results of all tests, in order; raises ConformanceError when the tester or the target ends."""
        plan = {
            "listen": CONTROLLER,
            "results": str(self.lines),
            "throughput_seconds": throughput_seconds,
            "tests": [(str(suite / f"{pattern.file}.json"), pattern.index) for pattern in patterns],
        }
        self.plan.write_text(json.dumps(plan))
        self.lines.touch()
        argv = [str(ryu_python()), "-m", "conformance.tester", str(self.plan)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with self.log.open("w") as log:
            self.process = spawn(
                argv, pid=self.rig.namespace.pid, stdout=log, stderr=subprocess.STDOUT, env=environment
            )
        try:
            with self.lines.open() as lines:
                return self._follow(lines, patterns)
        finally:
            end(self.process)

    def _follow(self, lines: TextIO, patterns: Sequence[Pattern]) -> list[Result]:
        assert self.process
        results: list[Result] = []
        last = time.monotonic()
        while len(results) < len(patterns):
            ended = self.process.poll() is not None  # before reading, so that its last lines are read
            line = lines.readline()
            if line:
                outcome = json.loads(line)
                results.append(Result(patterns[len(results)], outcome["passed"], outcome["reason"]))
                self.finished(results[-1])
                last = time.monotonic()
                continue
            waiting_for = patterns[len(results)]
            self.rig.target.check()
            if ended:
                raise ConformanceError(f"Ryu's tester ended before {waiting_for.file}: {self._last_words()}")
            if time.monotonic() - last > STALL_S:
                raise ConformanceError(
                    f"Ryu's tester has not finished {waiting_for.file} ({waiting_for.description}) within "
                    f"{STALL_S:g} s; its log is {self.log}"
                )
            time.sleep(0.05)
        return results

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "it said nothing"


def run(
    target: Target,
    suite: Path,
    patterns: Sequence[Pattern],
    out: Path,
    throughput_seconds: int | None,
    finished: Callable[[Result], None],
) -> list[Result]:
    """Run the tests against the target and return their results; logs are left in `out`."""
    with Rig(target, out) as rig:
        return TesterRun(rig, out, finished).run(suite, patterns, throughput_seconds)
