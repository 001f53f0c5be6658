# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments list | run NAME [key=value …] [--quick] [--out DIR] | report DIR | bench`.

NAME is a shipped experiment's, or the path of a file of one's own that defines EXPERIMENT.

`run` and `bench` take `--against CHECKOUT`, and then compare this checkout with another one.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments import own
from experiments.against import against
from experiments.against import report as report_comparison
from experiments.checkout import Checkout
from experiments.errors import ExperimentError
from experiments.plan import Experiment
from topologies.interrupts import interruptible
from vswitch.errors import VSwitchError

MODULES = {
    "overlay-gro": "experiments.overlay_gro",
    "l2-forwarding": "experiments.l2_forwarding",
    "flow-setup": "experiments.flow_setup",
    "stateless-tunnel": "experiments.stateless_tunnel",
    "forwarding-vm": "experiments.forwarding_vm",
    "lro-rules": "experiments.lro_rules",
}

AGAINST: dict[str, Any] = {
    "type": Path,
    "metavar": "CHECKOUT",
    "help": "measure this checkout of the project too, in turn, and tell what is slower here",
}
EXIT_ERROR = 1
EXIT_INVALID = EXIT_SLOWER = 3  # done, but what was measured is not as it should be
EXIT_INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit status: 0, or 1 error, 2 usage, 3 invalid run or slower than
    CHECKOUT, 130 interrupted.
    """
    arguments = sys.argv[1:] if argv is None else argv
    options = parse_arguments(arguments)
    try:
        with interruptible():
            return options.command(options)
    except VSwitchError as error:
        print(f"experiments: {error}", file=sys.stderr)
        return EXIT_ERROR
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(
            f"experiments: no room left on the disk of {error.filename or 'the run folder'}", file=sys.stderr
        )
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("experiments: interrupted; everything that was started has been ended", file=sys.stderr)
        return EXIT_INTERRUPTED


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line; `key=value` may stand before, between and after the other options."""
    options, rest = parser().parse_known_args(arguments)
    if rest:
        if "name" not in options or any(word.startswith("-") for word in rest):
            parser().error(f"unrecognized arguments: {' '.join(rest)}")
        options.options += rest
    return options


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    top.set_defaults(command=lambda options: print_list())
    commands = top.add_subparsers(metavar="COMMAND")
    listing = commands.add_parser("list", help="show the experiments and their options")
    listing.add_argument("names", metavar="NAME", nargs="*", help="of these only (default: the shipped ones)")
    listing.set_defaults(command=lambda options: print_list(options.names))
    run = commands.add_parser("run", help="run an experiment")
    run.add_argument("name", metavar="NAME", help="as list shows it, or a file of your own: path/to/mine.py")
    run.add_argument("options", metavar="key=value", nargs="*", default=[])
    run.add_argument("--quick", action="store_true", help="fewer and shorter runs: at most 45 s on 2 cores")
    run.add_argument("--out", type=Path, metavar="DIR", help="run folder (default: runs/NAME-TIME)")
    run.add_argument("--against", **AGAINST)
    run.set_defaults(command=run_command)
    report = commands.add_parser("report", help="write the tables and plots of a run folder again")
    report.add_argument("folder", type=Path, metavar="DIR")
    report.set_defaults(command=report_command)
    bench = commands.add_parser("bench", help="ns per frame and stage of the dataplane")
    bench.add_argument("--against", **AGAINST)
    bench.add_argument(
        "--pairs", type=int, metavar="N", help="pairs of runs with --against (default and least: 11)"
    )
    bench.set_defaults(command=bench_command)
    return top


def print_list(names: Sequence[str] = ()) -> int:
    console = Console(highlight=False)
    for experiment in map(find, names or MODULES):
        console.print(f"[bold]{experiment.name}[/bold]: {experiment.question}", soft_wrap=True)
        for key, option in experiment.options.items():
            default, quick = display(option.default), display(option.quick)
            values = default if default == quick else f"{default}, quick {quick}"
            console.print(f"    {key:<11} {option.help} ({values})", markup=False, soft_wrap=True)
    return 0


def display(value: object) -> str:
    """An option's value as it is written on the command line."""
    if isinstance(value, frozenset):
        return "+".join(map(str, sorted(value)))
    return ",".join(map(display, value)) if isinstance(value, tuple) else str(value)


def run_command(options: argparse.Namespace) -> int:
    from experiments.harness import Harness
    from experiments.options import parse_options
    from experiments.progress import Reporter

    experiment = find(options.name)
    if options.against:
        experiment = against(experiment, Checkout.at(options.against))
    values = parse_options(experiment.options, options.options, options.quick)
    out = options.out or Path("runs") / f"{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    console = Console(highlight=False)
    with Reporter(console) as reporter, own.errors_told(Path(experiment.file)):
        summary = Harness(experiment, values, out, reporter, options.quick).run()
    return tell(summary, experiment, out, console)


def report_command(options: argparse.Namespace) -> int:
    from experiments.report import load_summary

    summary = load_summary(options.folder)
    return tell(
        summary, find(summary.get("file") or summary["experiment"]), options.folder, Console(highlight=False)
    )


def tell(summary: dict[str, Any], experiment: Experiment, folder: Path, console: Console) -> int:
    """Write the report and say whether the run counts; returns the exit status."""
    from experiments.report import write_report

    write_report(summary, experiment, folder, console)
    give_to_caller(folder)
    for reason in summary["invalid_reasons"]:
        console.print(f"INVALID: {reason}", markup=False, soft_wrap=True)
    as_fast = report_comparison(summary, console)
    print_paths(console, folder)
    if not summary["valid"]:
        return EXIT_INVALID
    return 0 if as_fast else EXIT_SLOWER


def print_paths(console: Console, folder: Path) -> None:
    console.print(f"plot:       {folder / 'plot.png'}", markup=False, soft_wrap=True)
    console.print(f"run folder: {folder}", markup=False, soft_wrap=True)


def bench_command(options: argparse.Namespace) -> int:
    if importlib.util.find_spec("experiments.bench") is None:
        print("experiments: bench is not part of this installation", file=sys.stderr)
        return EXIT_ERROR
    if options.against:
        return bench_against(options)
    if options.pairs is not None:
        raise ExperimentError("--pairs is of bench --against CHECKOUT")
    return importlib.import_module("experiments.bench").main() or 0


def bench_against(options: argparse.Namespace) -> int:
    from experiments import bench_against
    from experiments.progress import Reporter

    pairs = bench_against.PAIRS if options.pairs is None else options.pairs
    if pairs < bench_against.PAIRS:
        raise ExperimentError(f"--pairs must be at least {bench_against.PAIRS}: fewer tell too little")
    there = Checkout.at(options.against)
    console = Console(highlight=False)
    with Reporter(console) as reporter:
        taken = bench_against.compare(Checkout.here(), there, pairs, reporter)
    return 0 if bench_against.report(taken, console) else EXIT_SLOWER


def find(name: str) -> Experiment:
    """The experiment of a name, or in a file; raises when there is none."""
    if own.is_file(name):
        return own.load(Path(name), MODULES)
    if name not in MODULES:
        raise ExperimentError(
            f"unknown experiment {name!r}: there is {', '.join(MODULES)}, or a file of your own (mine.py)"
        )
    return importlib.import_module(MODULES[name]).EXPERIMENT


def give_to_caller(folder: Path) -> None:
    """Under sudo, let the user who called own the results."""
    user, group = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
    if user and group and os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, int(user), int(group))
