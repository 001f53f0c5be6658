# SPDX-License-Identifier: Apache-2.0
"""docs/seeds.md: every label has code, tests that are named after it, and experiments that can be run.

That files and names in its code spans exist is checked for all pages, in tests/docs/test_packet_walk.py.
"""

from __future__ import annotations

import re

import pytest

from experiments.command import MODULES
from tests.docs.pages import ROOT, page

LABELS = [f"S0.{n}" for n in range(1, 11)] + [f"S1.{n}" for n in range(1, 8)]
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split("|")]
    for line in page("seeds").splitlines()
    if line.startswith("| S")
]
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
CODE = re.compile(r"`((?:vswitch|ryu_apps|topologies|experiments)/[\w/]+\.py)(?:::[\w.]+)?`")


def test_every_label_has_a_row():
    assert [row[0] for row in ROWS] == LABELS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_is_complete(row: list[str]):
    label, _, code, tests, experiment = row
    assert CODE.findall(code), f"{label} has no code"
    named = TEST.findall(tests)
    assert len(named) == tests.count("`") // 2 > 0, f"{label}: {tests} are no tests"
    word = label.lower().replace(".", "_")
    for path, name in named:
        assert re.search(rf"_{word}(_|$)", name), f"{name} is not named after {label}"
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE), f"there is no {name}"
    assert not experiment or experiment.strip("`") in MODULES
