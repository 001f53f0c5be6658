# SPDX-License-Identifier: Apache-2.0
"""`python -m conformance [FILE …] [--category action …] [--out DIR]`: Ryu's OpenFlow 1.3 switch tester on
this switch.

All 991 tests take about 35 minutes, of which 26 are tests of rates. Exit status: 0 when the bars are reached
(980 of 991, and all 114 that are required), 3 when not, 1 for an error.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from conformance import patterns
from conformance.errors import ConformanceError
from conformance.results import Result, failures, shortfalls, table, write
from conformance.rig import PROGRAMS, TARGETS
from conformance.run import run
from experiments import environment
from experiments.harness import write_json
from experiments.system import require_programs, require_root
from topologies.interrupts import interruptible
from vswitch.errors import VSwitchError

MARKER = "config.json"  # a folder that has it is a run folder of ours
EXIT_ERROR = 1
EXIT_SHORT = 3
EXIT_INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = parser().parse_args(argv)
    try:
        with interruptible():
            suite = patterns.suite()
            chosen = patterns.select(patterns.load(suite), options.category, options.file, options.sample)
            if options.list:
                return print_list(chosen)
            return run_command(options, suite, chosen)
    except VSwitchError as error:
        print(f"conformance: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("conformance: interrupted; everything that was started has been ended", file=sys.stderr)
        return EXIT_INTERRUPTED


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m conformance", description="Ryu's OpenFlow 1.3 switch tester on this switch."
    )
    top.add_argument("file", nargs="*", metavar="FILE", help="files of tests, such as 'match/1*' (all)")
    top.add_argument("--category", nargs="+", default=[], choices=patterns.CATEGORIES, help="only these")
    top.add_argument("--target", choices=TARGETS, default="vswitch", help="the switch under test")
    top.add_argument("--out", type=Path, metavar="DIR", help="run folder (runs/conformance-TIME)")
    top.add_argument(
        "--sample", type=positive, metavar="N", help="about N tests, spread over the chosen ones"
    )
    top.add_argument(
        "--throughput-seconds",
        type=positive,
        metavar="S",
        help="shorten the tests of rates, which take 30 s each; their margins are made for 30",
    )
    top.add_argument("--list", action="store_true", help="print the chosen tests and run nothing")
    return top


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def print_list(chosen: list[patterns.Pattern]) -> int:
    for pattern in chosen:
        print(f"{pattern.file}:{pattern.index} {pattern.description}")
    return 0


def run_command(options: argparse.Namespace, suite: Path, chosen: list[patterns.Pattern]) -> int:
    require_root()
    require_programs(PROGRAMS)
    out = (options.out or Path("runs") / f"conformance-{time.strftime('%Y%m%d-%H%M%S')}").absolute()
    make_folder(out)
    about: dict[str, Any] = {
        "target": options.target,
        "throughput_seconds": options.throughput_seconds,
        "environment": environment.stamp(seed=0),
    }
    write_json(out / MARKER, about)
    console = Console(highlight=False)
    started = time.monotonic()
    with progress(console, len(chosen)) as finished:
        results = run(TARGETS[options.target](), suite, chosen, out, options.throughput_seconds, finished)
    about["seconds"] = round(time.monotonic() - started, 1)
    write(results, about, out)
    return report(console, results, options.target, out)


def report(console: Console, results: list[Result], target: str, out: Path) -> int:
    """Show the failures and the table; the exit status. Only our switch is held to the bars."""
    console.print(failures(results), markup=False, soft_wrap=True, end="")
    if not console.is_terminal:
        console.width = 110
    console.print(table(results, target))
    missed = shortfalls(results) if target == "vswitch" else []
    for sentence in missed:
        console.print(f"NOT REACHED: {sentence}", markup=False, soft_wrap=True)
    console.print(f"run folder: {out}", markup=False, soft_wrap=True)
    return EXIT_SHORT if missed else 0


def make_folder(out: Path) -> None:
    """Make the run folder; one of an earlier run is replaced, anything else that is there is refused."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MARKER).exists())):
        raise ConformanceError(f"{out} is not an empty folder: give another with --out")
    shutil.rmtree(out, ignore_errors=True)
    try:
        out.mkdir(parents=True)
    except OSError as error:
        raise ConformanceError(f"cannot make the run folder {out}: {error.strerror}") from None


class progress:
    """A bar on a terminal, a line every 50 tests elsewhere; entering gives the function for a result."""

    EVERY = 50

    def __init__(self, console: Console, total: int) -> None:
        self.console, self.total = console, total
        self.done = self.failed = 0
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]} failed"),
            TimeElapsedColumn(),
        )
        self.bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.task = self.bar.add_task("starting the switches", total=total, failed=0)

    def __enter__(self) -> progress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, result: Result) -> None:
        self.done += 1
        self.failed += not result.passed
        self.bar.update(self.task, completed=self.done, description=result.pattern.file, failed=self.failed)
        if not self.console.is_terminal and (self.done % self.EVERY == 0 or self.done == self.total):
            self.console.print(f"[{self.done}/{self.total}] {self.failed} failed", markup=False)
