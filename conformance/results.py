# SPDX-License-Identifier: Apache-2.0
"""From results to the table, the list of failures, `results.json`, and whether the bars are reached."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from conformance.patterns import CATEGORIES, REQUIRED_TOTAL, TOTAL, Pattern

BAR = 980
WIDTH = 110

# Passed of 991 (and of the 114 required). Open vSwitch: `python -m conformance --target ovs` on Debian 12.
# The others: results that osrg published for Ryu's certification, 2014 to 2016.
ANCHORS = {
    "Open vSwitch 3.1, userspace": {
        "action": 34,
        "set_field": 106,
        "match": 536,
        "group": 9,
        "meter": 0,
        "total": 685,
        "required": 114,
    },
    "ofsoftswitch13 (published)": {"total": 955},
    "Trema switch (published)": {"total": 966},
    "lagopus (published)": {"total": 973},
}


@dataclass(frozen=True)
class Result:
    """What came of one test; `reason` is the tester's, when it failed."""

    pattern: Pattern
    passed: bool
    reason: str = ""


@dataclass(frozen=True)
class Count:
    """How many of some tests passed."""

    passed: int
    tests: int

    @property
    def failed(self) -> int:
        return self.tests - self.passed

    def __str__(self) -> str:
        return f"{self.passed} / {self.tests}" if self.tests else ""


def counts(results: Sequence[Result]) -> dict[str, Count]:
    """By category that was run, `total`, and of those `required`."""
    groups = {
        category: [result for result in results if result.pattern.category == category]
        for category in CATEGORIES
    }
    groups = {category: members for category, members in groups.items() if members}
    groups["total"] = list(results)
    groups["required"] = [result for result in results if result.pattern.required]
    return {name: Count(sum(result.passed for result in of), len(of)) for name, of in groups.items()}


def shortfalls(results: Sequence[Result]) -> list[str]:
    """In which bars the results fall short, one sentence each.

    Of a part of the suite no more may fail than of the whole, and all that is required must pass.
    """
    count = counts(results)
    sentences = []
    if count["total"].failed > TOTAL - BAR:
        sentences.append(
            f"{count['total'].failed} of {count['total'].tests} tests fail: at most {TOTAL - BAR} of the "
            f"{TOTAL} may"
        )
    if count["required"].failed:
        sentences.append(
            f"{count['required'].failed} of {count['required'].tests} required tests fail: all "
            f"{REQUIRED_TOTAL} must pass"
        )
    return sentences


def write(results: Sequence[Result], about: dict[str, Any], out: Path) -> None:
    """Write results.json, table.txt and failures.txt."""
    document = {
        **about,
        "bar": {"total": BAR, "of": TOTAL, "required": REQUIRED_TOTAL},
        "shortfalls": shortfalls(results),
        "counts": {
            name: {"passed": count.passed, "tests": count.tests} for name, count in counts(results).items()
        },
        "anchors": ANCHORS,
        "tests": [
            {
                "file": result.pattern.file,
                "index": result.pattern.index,
                "test": result.pattern.description,
                "required": result.pattern.required,
                "passed": result.passed,
                "reason": result.reason,
            }
            for result in results
        ],
    }
    (out / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    (out / "failures.txt").write_text(failures(results))
    with (out / "table.txt").open("w") as file:
        Console(file=file, width=WIDTH).print(table(results, about["target"]))


def failures(results: Sequence[Result]) -> str:
    """Each failed test with the tester's reason, a paragraph per file."""
    lines, file = [], ""
    for result in results:
        if result.passed:
            continue
        if result.pattern.file != file:
            file = result.pattern.file
            lines.append(file)
        required = "  (required)" if result.pattern.required else ""
        lines.append(f"    {result.pattern.index}: {result.pattern.description}{required}")
        lines.append(f"        {result.reason}")
    return "".join(f"{line}\n" for line in lines)


def table(results: Sequence[Result], target: str) -> Table:
    """Passed of tests by category, beside what others reach."""
    rows = counts(results)
    shown = Table(title="Ryu's OpenFlow 1.3 switch tester: tests passed", box=box.SIMPLE_HEAD)
    shown.add_column("")
    for column in (target, *ANCHORS):
        shown.add_column(column, justify="right")
    for name, count in rows.items():
        if name == "total":
            shown.add_section()
        anchors = [str(anchor.get(name, "")) for anchor in ANCHORS.values()]
        shown.add_row(name.replace("_", "-"), str(count), *anchors)
    return shown
