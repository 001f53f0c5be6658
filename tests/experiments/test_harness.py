# SPDX-License-Identifier: Apache-2.0
"""The harness with a made-up back end: order, calibration, repetition of disturbed runs, and stopping."""

from __future__ import annotations

import json
import random

import pytest
from rich.console import Console

from experiments import harness, iperf
from experiments.cpu import CpuUse
from experiments.errors import ExperimentError
from experiments.harness import Harness
from experiments.iperf import Load
from experiments.peers.base import BackEnd, Variant
from experiments.plan import Case, Experiment, Plan
from experiments.progress import Reporter
from tests.experiments.samples import options, transfer


class FakePeer(BackEnd):
    """Its throughput depends on the placement; `log` tells what was done to it."""

    name = "fake"
    log: list[str] = []  # noqa: RUF012
    rates = {"per server": 1e9, "any core": 3e9, "one core": 2e9}  # noqa: RUF012

    def start(self):
        self.variant = None
        self.log.append("start")

    def stop(self):
        self.log.append("stop")

    def variants(self):
        return [Variant(placement) for placement in self.rates]

    def use(self, variant):
        self.variant = variant

    def endpoints(self):
        return self, self


CASES = tuple(
    Case({"switch": "fake", "encap": "vxlan", "gro": gro, "flows": 1}, "fake", Load(1, 1))
    for gro in (True, False)
)
EXPERIMENT = Experiment("fake", "?", "a title", {}, lambda values: Plan((FakePeer,), CASES, (), "fake"))


@pytest.fixture
def lab(monkeypatch, tmp_path):
    """A harness whose transfers and CPU readings are made up; returns how to run it."""
    FakePeer.log = []
    uses = []

    def measured(client, server, load):
        return transfer(FakePeer.rates[client.variant.placement])

    monkeypatch.setattr(harness, "require_root", lambda: None)
    monkeypatch.setattr(harness, "CALM_WITHIN_S", 0)
    monkeypatch.setattr(iperf, "transfer", measured)
    monkeypatch.setattr(
        harness.cpu, "use_between", lambda *args: CpuUse(1.0, uses.pop(0) if uses else 0.0, 0.0)
    )

    def run(disturbances=(), **changes):
        uses[:] = disturbances
        reporter = Reporter(Console(quiet=True))
        return Harness(EXPERIMENT, options(**changes), tmp_path / "out", reporter, quick=False).run()

    run.folder = tmp_path / "out"
    return run


def test_the_best_variant_is_found_and_used(lab):
    summary = lab(runs=2)
    rates = [row for row in summary["rows"] if row["metric"] == "throughput_bps"]
    assert [row["median"] for row in rates] == [3e9, 3e9]
    assert all("any core" in row["variant"] for row in rates)
    assert FakePeer.log == ["start", "stop"]


def test_the_best_few_meet_again_in_runs_of_full_length(lab, monkeypatch):
    """A variant that won its heat by chance loses the finals."""
    seconds = []

    def measured(client, server, load):
        seconds.append(load.seconds)
        lucky = len(seconds) <= 3 and client.variant.placement == "one core"
        return transfer(9e9 if lucky else FakePeer.rates[client.variant.placement])

    monkeypatch.setattr(iperf, "transfer", measured)
    monkeypatch.setattr(harness, "HEAT_S", 7)
    summary = lab(runs=1)
    assert all("any core" in row["variant"] for row in summary["rows"])
    assert seconds[:9] == [7] * 3 + [1] * 6
    calibration = json.loads((lab.folder / "raw" / "fake-vxlan-gro-on-1-flow-calibration.json").read_text())
    assert {name: len(rates) for name, rates in calibration["finals"].items()} == dict.fromkeys(
        calibration["heats"], 2
    )


def test_the_run_folder_has_everything(lab):
    lab(runs=2)
    names = {path.name for path in lab.folder.iterdir()}
    assert {"config.json", "environment.json", "summary.json", "raw", "logs"} <= names
    raw = json.loads((lab.folder / "raw" / "fake-vxlan-gro-on-1-flow-1-1.json").read_text())
    assert {"load", "counters_before", "counters_after", "cpu", "reasons"} <= raw.keys()
    assert json.loads((lab.folder / "config.json").read_text())["runs"] == 2


def test_a_disturbed_run_is_repeated(lab):
    summary = lab(disturbances=[0.5, 0.0], runs=1)
    assert summary["valid"]
    assert len(list((lab.folder / "raw").glob("*-1-2.json"))) == 1


def test_a_repetition_waits_until_others_have_ended(lab, monkeypatch):
    monkeypatch.setattr(harness, "CALM_WITHIN_S", 60)
    monkeypatch.setattr(harness, "LOOK_S", 0.001)
    summary = lab(disturbances=[0.5, *[0.4] * 20, 0.0, 0.0], runs=1)
    assert summary["valid"]
    assert len(list((lab.folder / "raw").glob("*-1-2.json"))) == 1
    assert not list((lab.folder / "raw").glob("*-1-3.json"))


def test_patience_with_others_ends(lab, monkeypatch):
    monkeypatch.setattr(harness, "CALM_WITHIN_S", 0.05)
    monkeypatch.setattr(harness, "LOOK_S", 0.01)
    summary = lab(disturbances=[0.5] * 1000, runs=1)
    assert not summary["valid"]


def test_a_run_that_stays_disturbed_is_invalid(lab):
    summary = lab(disturbances=[0.5] * 50, runs=1)
    assert not summary["valid"]
    assert "others used 0.50 of a core" in summary["invalid_reasons"][0]


def test_repetitions_are_limited(lab):
    lab(disturbances=[0.5] * 1000, runs=20)
    raw = [path for path in (lab.folder / "raw").iterdir() if "calibration" not in path.name]
    assert len(raw) == 20 * len(CASES) + harness.ALL_RETRIES


def test_what_is_to_be_compared_exactly_is_measured_side_by_side():
    plain = [Case({"switch": "fake", "gro": n}, "fake", Load(1, 1)) for n in range(20)]
    compared = [Case({"switch": "fake", "encap": n}, "fake", Load(1, 1), "formats") for n in range(5)]
    mixed = [case for pair in zip(plain, compared, strict=False) for case in pair] + plain[5:]
    orders = [harness.shuffled(mixed, random.Random(seed)) for seed in range(5)]
    for order in orders:
        assert sorted(map(str, order)) == sorted(map(str, mixed))
        places = [order.index(case) for case in compared]
        assert max(places) - min(places) == 4
    assert len({tuple(order.index(case) for case in compared) for order in orders}) == 5


def test_order_is_random_and_repeatable(lab, monkeypatch):
    orders = []
    for seed in (1, 1, 2):
        order = []
        monkeypatch.setattr(Reporter, "finished", lambda self, what, outcome, order=order: order.append(what))
        lab(runs=8, seed=seed)
        orders.append(order)
    assert orders[0] == orders[1] != orders[2]


def test_back_ends_are_stopped_after_a_failure(lab, monkeypatch):
    def broken(*arguments):
        raise ExperimentError("iperf3 failed: no route to host")

    monkeypatch.setattr(iperf, "transfer", broken)
    with pytest.raises(ExperimentError):
        lab(runs=1)
    assert FakePeer.log == ["start", "stop"]


def test_back_ends_are_stopped_after_ctrl_c(lab, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(iperf, "transfer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lab(runs=1)
    assert FakePeer.log == ["start", "stop"]


def test_an_earlier_run_is_replaced(lab):
    lab(runs=2)
    lab(runs=1)
    assert not list((lab.folder / "raw").glob("*-2-1.json"))
