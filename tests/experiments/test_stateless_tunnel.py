# SPDX-License-Identifier: Apache-2.0
"""The experiment on stateless tunnels: what it compares, its bars, and a short real run (S1.7)."""

from __future__ import annotations

import pytest

from experiments.cpu import CpuUse
from experiments.errors import ExperimentError
from experiments.peers.tunnels import FORMATS, OWN
from experiments.plan import Ratio, Spread
from experiments.report import plot
from experiments.stateless_tunnel import EXPERIMENT, plan
from experiments.summary import Sample, summarise
from tests.experiments.samples import ENVIRONMENT, transfer
from tests.experiments.test_real_runs import run_to_end
from vswitch.tunnel_formats import SHIPPED, check_format

FULL = {name: option.default for name, option in EXPERIMENT.options.items()}


def test_s1_7_every_encapsulation_is_measured_with_the_framework_and_without():
    made = plan(FULL)
    ways = {(case.config["encap"], case.config["gro"], case.config["tso"]) for case in made.cases}
    assert ways == {(encap, *way) for encap in FORMATS for way in [(1, 1), (0, 1), (0, 0)]}
    assert FORMATS.keys() == SHIPPED.keys() | {"own"}
    bars = {ratio.label: (ratio.at_least, ratio.at_most) for ratio in made.ratios if isinstance(ratio, Ratio)}
    assert bars["gro on / off, gre16, 4 flows"] == (2.3, None)
    assert bars["framework / without, ipip, 4 flows"] == (1.8, None)
    assert bars["mplsoudp / vxlan, 4 flows"] == (None, None)
    assert bars["own / vxlan, 4 flows"] == (0.95, 1.05)
    assert len(bars) == len(made.ratios) - 1 == 3 * len(FORMATS) - 1


def test_the_spread_is_the_slowest_format_over_the_fastest():
    """Whichever these are in the runs that were made."""
    rates = {encap: 10e9 + place for place, encap in enumerate(FORMATS)} | {"gre": 8e9}
    (spread,) = [ratio for ratio in plan(FULL).ratios if isinstance(ratio, Spread)]
    ratio = spread.ratio(lambda config: rates[config["encap"]])
    assert (ratio.numerator["encap"], ratio.denominator["encap"]) == ("gre", list(FORMATS)[-1])
    assert (ratio.label, ratio.at_least) == ("slowest / fastest format, 4 flows", 0.85)
    assert {config["gro"] for config in spread.among} == {True}


def test_the_users_format_is_acceptable():
    check_format(OWN, SHIPPED.values())


def test_a_warmup_longer_than_the_run_is_refused():
    with pytest.raises(ExperimentError, match="warmup"):
        plan(FULL | {"seconds": 1, "warmup": 1})


def test_the_plot_has_a_panel_for_each_way_and_a_bar_for_each_format(tmp_path):
    made = plan(FULL | {"encap": ("gre", "own")})
    runs = [[Sample(case, 0, 0, transfer(1e9), CpuUse(1.0, 0.0, 0.0)) for case in made.cases]]
    summary = summarise("stateless-tunnel", ENVIRONMENT, {}, made, runs, {})
    plot(summary, "a title", tmp_path)
    drawn = (tmp_path / "plot.svg").read_text()
    for way in ("GRO on, TSO on", "GRO off, TSO on", "GRO off, TSO off"):
        assert drawn.count(f">{way}, 4 flows<") == 1
    assert drawn.count(">own<") == drawn.count(">gre<") == 1


@pytest.mark.parametrize(
    ("bars", "median", "told"),
    [
        ({}, 1.0, {}),
        ({"at_least": 2.3}, 2.3, {"at_least": 2.3, "met": True}),
        ({"at_least": 2.3}, 2.2, {"at_least": 2.3, "met": False}),
        ({"at_least": 0.9, "at_most": 1.1}, 1.2, {"at_least": 0.9, "at_most": 1.1, "met": False}),
        ({"at_most": 1.0}, 0.9, {"at_most": 1.0, "met": True}),
        ({"at_most": 0}, 0, {"at_most": 0, "met": False}),
    ],
)
def test_a_ratio_tells_whether_its_bars_are_met(bars, median, told):
    """A bar is for the median; one of 0 is for every run, of which the highest was 1.3 here."""
    assert Ratio("", {}, {}, **bars).bars(median, 1.3) == told


def test_nothing_at_all_meets_a_bar_of_nothing():
    assert Ratio("", {}, {}, at_most=0).bars(0, 0)["met"]


@pytest.mark.root
def test_s1_7_a_short_run_of_formats_of_each_kind(tmp_path):
    """Ethernet inside, bare IP inside, and the one by numbers, in turn on the same switches."""
    short = ("runs=1", "seconds=1", "warmup=0.25", "flows=1", "other_cpu=1024", "--quick")
    options = "encap=vxlan,ipip,own"
    summary, _ = run_to_end(tmp_path / "out", options, name="stateless-tunnel", short=short)
    rates = {
        (row["config"]["encap"], row["config"]["gro"], row["config"]["tso"]): row["median"]
        for row in summary["rows"]
        if row["metric"] == "throughput_bps"
    }
    assert len(rates) == 9 and min(rates.values()) > 0
    assert {"at_least", "met"} <= summary["ratios"]["framework / without, own, 1 flow"].keys()
    spread = summary["ratios"]["slowest / fastest format, 1 flow"]
    assert spread["median"] == min(rates[encap, True, True] for encap in ("vxlan", "ipip", "own")) / max(
        rates[encap, True, True] for encap in ("vxlan", "ipip", "own")
    )
