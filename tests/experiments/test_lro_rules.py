# SPDX-License-Identifier: Apache-2.0
"""The experiment on LRO rules: its settings are valid ones, its bars, and a short real run."""

from __future__ import annotations

import pytest

from experiments.errors import ExperimentError
from experiments.lro_rules import CHANGES, EXPERIMENT, ONE_TRANSFER, RULES, TWO_TRANSFERS, plan
from experiments.peers.nic import RECEIVER
from ryu_apps.core import intent as intents
from ryu_apps.core.offload import rules
from tests.experiments.test_real_runs import run_to_end

FULL = {name: option.default for name, option in EXPERIMENT.options.items()}
INTENT = {
    "virtual_networks": {"blue": {"vni": 42}},
    "servers": {
        name: {"dpid": n, "underlay_ip": f"192.168.0.{n}", "uplink_port": 1}
        for n, name in enumerate(("s1", RECEIVER), start=1)
    },
    "vms": {"vm2": {"server": RECEIVER, "port": 2, "network": "blue", "mac": "02:00:00:00:00:02"}},
}


@pytest.mark.parametrize("policy", [*ONE_TRANSFER.values(), *TWO_TRANSFERS.values(), *CHANGES])
def test_the_controller_takes_every_setting(policy):
    intents.from_object(INTENT | {"nic": {RECEIVER: policy}})


def test_the_matching_rule_is_the_last_of_64():
    intent = intents.from_object(INTENT | {"nic": {RECEIVER: ONE_TRANSFER[f"by the last of {RULES} rules"]}})
    ports = [decision.setting.match.dst_port for decision in rules(intent, RECEIVER)]
    assert len(ports) == RULES == 64
    assert ports.index(5301) == RULES - 1


def test_the_cost_of_rules_has_a_bar():
    bars = {ratio.label: ratio.at_least for ratio in plan(FULL).ratios if ratio.at_least}
    assert bars == {
        "64 rules, the last matches / no rules, on": 0.9,
        "64 rules, none matches / no rules, off": 0.9,
    }


def test_a_change_may_lose_nothing_in_any_run():
    (lost,) = [ratio for ratio in plan(FULL).ratios if ratio.at_most is not None]
    assert (lost.label, lost.at_most) == ("packets lost / changes of settings on live traffic", 0)
    assert lost.metrics == ("packets_lost", "changes")


def test_a_warmup_longer_than_the_run_is_refused():
    with pytest.raises(ExperimentError, match="warmup"):
        plan(FULL | {"seconds": 1, "warmup": 1})


@pytest.mark.root
@pytest.mark.slow
def test_s0_1_s0_3_rules_and_queues_choose_what_is_coalesced(tmp_path):
    """Frames per packet tell it; and changes on live traffic lose nothing."""
    short = ("runs=1", "seconds=1", "warmup=0.25", "flows=1", "other_cpu=1024", "--quick")
    summary, _ = run_to_end(tmp_path / "out", name="lro-rules", short=short)
    rows = {(row["config"]["lro"], row["metric"]): row["median"] for row in summary["rows"]}
    merged = {lro for lro, metric in rows if metric == "frames_per_packet" and rows[lro, metric] > 1.5}
    alone = {lro for lro, metric in rows if metric == "frames_per_packet" and rows[lro, metric] == 1}
    assert merged == {
        "on", "by a rule", "by the last of 64 rules", "a rule matches it", "its queue on, the other's off"
    }  # fmt: skip
    assert alone == {
        "off", "none of 64 rules matches", "a rule matches the other", "its queue off, the other's on"
    }  # fmt: skip
    assert rows["set anew all the time", "packets_lost"] == 0
    assert rows["set anew all the time", "changes"] > 0
    lost = summary["ratios"]["packets lost / changes of settings on live traffic"]
    assert (lost["high"], lost["met"]) == (0, True)
