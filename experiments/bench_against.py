# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments bench --against CHECKOUT`: which stage is slower here than there, or faster?

Single figures vary by half from run to run, where a process's memory comes to lie for instance; pairs taken
side by side vary by a few percent. So each figure is of a process of its own, both states are measured in
turn, and what is compared is the ratio of each pair. Each state is measured by its own `experiments.bench`.
"""

from __future__ import annotations

import json
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

from experiments.checkout import Checkout, last_line
from experiments.errors import ExperimentError
from experiments.progress import Reporter
from experiments.stats import SLOWER, Estimate, median_interval, not_slower, verdict

PAIRS = 11  # at least, for intervals of 95 % that leave out an outlier on either side
TABLE_WIDTH = 100  # where there is no terminal
ROWS = """
import json, tempfile
from pathlib import Path
from experiments.bench import Bench, measure
with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
    bench = Bench(Path(directory))
    try:
        print(json.dumps(measure(bench)))
    finally:
        bench.close()
"""
"""Prints the rows of a checkout's bench. Older ones have no command that a program can read, but these."""

Row = dict[str, float]
"""ns per frame by stage."""


def compare(here: Checkout, there: Checkout, pairs: int, reporter: Reporter) -> list[tuple[Row, Row]]:
    """The figures of both, in turn; the one that is first in a pair is second in the next.

    The first run of each compiles, and does not count.
    """
    for checkout in (here, there):
        reporter.phase(f"compiling what is not compiled yet in {checkout.root}")
        figures(checkout)
    reporter.expect(pairs)
    taken = []
    for number in range(pairs):
        if number % 2 == 0:
            own, other = figures(here), figures(there)
        else:
            other, own = figures(there), figures(here)
        taken.append((own, other))
        reporter.finished("pair", _outcome(*taken[-1]))
    return taken


def _outcome(here: Row, there: Row) -> str:
    """A pair in a few words: by what its stages differ, in the middle."""
    common = [there[stage] / here[stage] for stage in here if stage in there and here[stage] > 0]
    return f"{median(common):.3f} of its speed" if common else "no stage in common"


def figures(checkout: Checkout) -> Row:
    """One run of a checkout's bench."""
    result = checkout.run("-c", ROWS)
    try:
        return dict(json.loads(result.stdout))
    except (ValueError, TypeError):
        raise ExperimentError(f"the bench of {checkout.root} does not run: {last_line(result)}") from None


def speeds(pairs: list[tuple[Row, Row]]) -> dict[str, Estimate]:
    """How fast each stage that both have is here, as a multiple of its speed there.

    A stage that is a difference of two runs may come out as nothing; such pairs say nothing about it.
    """
    ratios: dict[str, list[float]] = {}
    for here, there in pairs:
        for stage in here:
            if stage in there and here[stage] > 0 and there[stage] > 0:
                ratios.setdefault(stage, []).append(there[stage] / here[stage])
    return {stage: median_interval(values) for stage, values in ratios.items()}


def report(pairs: list[tuple[Row, Row]], console: Console) -> bool:
    """Print the table, and what only one of the two has; whether no stage is slower here."""
    here, there = ({stage: None for pair in pairs for stage in pair[side]} for side in (0, 1))
    compared = speeds(pairs)
    if not compared:
        raise ExperimentError("the two checkouts have no stage in common: there is nothing to compare")
    if not console.is_terminal:
        console.width = TABLE_WIDTH
    console.print(_table(pairs, compared))
    for name, stages in (("here", here.keys() - there.keys()), ("there", there.keys() - here.keys())):
        if stages:
            console.print(f"only {name}: {', '.join(sorted(stages))}", markup=False, soft_wrap=True)
    slower = [stage for stage, estimate in compared.items() if verdict(estimate) == SLOWER]
    console.print(
        f"slower here than there: {', '.join(slower)}" if slower else "no stage is slower here than there",
        markup=False,
        soft_wrap=True,
    )
    return not_slower(compared.values())


def _table(pairs: list[tuple[Row, Row]], compared: dict[str, Estimate]) -> Table:
    confidence = min(estimate.confidence for estimate in compared.values())
    table = Table(
        box=box.SIMPLE_HEAD,
        caption=f"ns per frame, medians of {len(pairs)}; speed: there / here of each pair, "
        f"median and {confidence:.0%} interval",
    )
    table.add_column("stage", overflow="fold")
    for heading in ("here", "there", "speed", "interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("here is", no_wrap=True)
    for stage, estimate in compared.items():
        own, other = (median(pair[side][stage] for pair in pairs) for side in (0, 1))
        table.add_row(
            stage,
            f"{own:.1f}",
            f"{other:.1f}",
            f"{estimate.median:.3f}",
            f"{estimate.low:.3f} - {estimate.high:.3f}",
            verdict(estimate),
        )
    return table
