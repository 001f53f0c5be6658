# SPDX-License-Identifier: Apache-2.0
"""The experiment on forwarding VMs: what it compares, its bars, and two short real runs (S0.10)."""

from __future__ import annotations

import pytest

from experiments.errors import ExperimentError
from experiments.forwarding_vm import EXPERIMENT, Forwarded, plan
from experiments.iperf import Load
from experiments.options import default_cores
from experiments.peers.base import Servers
from experiments.peers.forwarding import NAIVE, SNOOPED, ForwardingBed, nic
from ryu_apps.core.intent import from_object
from topologies.lab import Lab

FULL = {name: option.default for name, option in EXPERIMENT.options.items()}
WAYS = ["LRO off", "LRO, snooped", "naive LRO", "GRO"]


def test_s0_10_every_way_is_measured_alone_and_beside_others():
    made = plan(FULL)
    cases = [(case.config["load"], case.config["router"], case.load.beside) for case in made.cases]
    assert cases == [(load, way, load != "alone") for load in ("alone", "with others") for way in WAYS]
    assert FULL["runs"] >= 5


@pytest.mark.parametrize("load", ["alone", "with others"])
def test_s0_10_bars(load):
    bars = {ratio.label: (ratio.at_least, ratio.at_most) for ratio in plan(FULL).ratios}
    assert bars[f"LRO with snooped MSS / off, {load}"] == (1.5, None)
    assert bars[f"naive LRO / off, {load}"] == (None, 0.5)


def test_s0_10_terminating_vms_are_compared_within_a_run():
    """One by a queue with LRO, one by a queue without, at the same time as the router in each way."""
    ratios = {ratio.label: ratio for ratio in plan(FULL).ratios if ratio.metrics}
    assert set(ratios) == {f"terminating VMs, LRO on / off, beside a router with {way}" for way in WAYS}
    for ratio in ratios.values():
        assert ratio.metrics == ("to_lro_on_bps", "to_lro_off_bps")
        assert ratio.numerator == ratio.denominator and ratio.numerator["load"] == "with others"


def test_a_warmup_longer_than_the_run_is_refused():
    with pytest.raises(ExperimentError, match="warmup"):
        plan(FULL | {"seconds": 1, "warmup": 1})


@pytest.mark.parametrize("way", WAYS)
def test_the_controller_takes_each_nic(way):
    """The intent's own checks, without a network."""
    common = {"server": "s2", "network": "blue"}
    names = ("router", "router-eth1", "end1", "end2")
    vms = {name: {**common, "port": n, "mac": f"00:00:00:00:00:0{n}"} for n, name in enumerate(names, 2)}
    servers = {"s2": {"dpid": 2, "uplink_port": 1}}
    from_object(
        {
            "virtual_networks": {"blue": {"vni": 42}},
            "servers": servers,
            "vms": vms,
            "nic": {"s2": nic(way)},
        }
    )


@pytest.mark.root
def test_s0_10_the_router_with_others_and_the_naive_failure(tmp_path):
    """Every queue does what it is set to while all are loaded; naive aggregates are dropped, and counted."""
    bed = ForwardingBed(Servers(*default_cores(), tmp_path))
    try:
        bed.start()
        bed.prepare({"router": SNOOPED})
        before = bed.counters()
        snooped = Forwarded(Load(2, 1, 0.25), beside=True).run(bed).values
        grown = {name: count - before[name] for name, count in bed.counters().items()}
        bed.prepare({"router": NAIVE})
        naive = Forwarded(Load(2, 1, 0.25)).run(bed).values
    finally:
        bed.stop()
        Lab.close_current()
    assert min(snooped["throughput_bps"], snooped["to_lro_on_bps"], snooped["to_lro_off_bps"]) > 0
    assert snooped["packets_cut_to_mss"] > 0 == snooped["packets_too_large"]
    assert grown["s2.queue0.merged"] > 0 and grown["s2.queue1.merged"] > 0
    assert grown["s2.queue2.frames"] > 0 == grown["s2.queue2.merged"]
    assert naive["packets_too_large"] > 0 == naive["packets_cut_to_mss"]
    assert "to_lro_on_bps" not in naive
