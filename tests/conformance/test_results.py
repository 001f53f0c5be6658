# SPDX-License-Identifier: Apache-2.0
"""From results to verdict, table and files."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from conformance import results
from conformance.command import make_folder, report
from conformance.errors import ConformanceError
from conformance.patterns import Pattern
from conformance.results import Count, Result


def made(failed: int = 0, failed_required: int = 0) -> list[Result]:
    """991 results like the suite's, of which so many failed."""
    required = [Pattern("match/04_ETH_SRC", n, "ethernet/ipv4-->x", False) for n in range(114)]
    others = [Pattern("action/26_PUSH_PBB", n, "ethernet/arp-->y", False) for n in range(877)]
    return [Result(p, p.index >= failed_required, "no packet-in.") for p in required] + [
        Result(p, p.index >= failed, "flow_stats(1 != 2)") for p in others
    ]


@pytest.mark.parametrize(
    ("failed", "required", "missed"), [(0, 0, 0), (11, 0, 0), (12, 0, 1), (0, 1, 1), (11, 1, 2)]
)
def test_bars(failed, required, missed):
    assert len(results.shortfalls(made(failed, required))) == missed


def test_a_part_must_not_fail_more_than_the_whole_may():
    part = made(12)[114:]
    assert results.shortfalls(part) == ["12 of 877 tests fail: at most 11 of the 991 may"]


def test_counts_and_table():
    assert results.counts(made(5)) == {
        "action": Count(872, 877),
        "match": Count(114, 114),
        "total": Count(986, 991),
        "required": Count(114, 114),
    }
    text = io.StringIO()
    Console(file=text, width=results.WIDTH).print(results.table(made(5), "vswitch"))
    assert "986 / 991" in text.getvalue()
    assert all(figure in text.getvalue() for figure in ("685", "955", "966", "973"))


def test_files_for_people_and_programs(tmp_path):
    results.write(made(1, 1), {"target": "vswitch"}, tmp_path)
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["counts"]["total"] == {"passed": 989, "tests": 991}
    assert document["shortfalls"] == ["1 of 114 required tests fail: all 114 must pass"]
    (failed,) = [test for test in document["tests"] if not test["passed"] and test["required"]]
    assert (failed["file"], failed["reason"]) == ("match/04_ETH_SRC", "no packet-in.")
    assert (tmp_path / "failures.txt").read_text() == (
        "match/04_ETH_SRC\n    0: ethernet/ipv4-->x  (required)\n        no packet-in.\n"
        "action/26_PUSH_PBB\n    0: ethernet/arp-->y\n        flow_stats(1 != 2)\n"
    )
    assert "989 / 991" in (tmp_path / "table.txt").read_text()


def test_only_our_switch_is_held_to_the_bars(tmp_path):
    console = Console(file=io.StringIO())
    assert report(console, made(500), "vswitch", tmp_path) == 3
    assert "NOT REACHED: 500 of 991 tests fail" in console.file.getvalue()
    assert report(console, made(500), "ovs", tmp_path) == 0
    assert report(console, made(11), "vswitch", tmp_path) == 0


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConformanceError, match=r"is not an empty folder: give another with --out$"):
        make_folder(tmp_path)
    run = tmp_path / "run"
    make_folder(run)
    (run / "config.json").touch()
    make_folder(run)
    assert not list(run.iterdir())
