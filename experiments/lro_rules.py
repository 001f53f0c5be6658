# SPDX-License-Identifier: Apache-2.0
"""Do LRO rules choose the flows that are coalesced, queue by queue, and what do they cost (S0.1 to S0.3)?

TCP from a VM on one server to a VM on the other. Which of the receiving NIC's flows are coalesced is said by
its queues' settings and rules, which the controller sets between runs, and in some of them during the run:

- throughput without LRO, with LRO, and with LRO by a rule; by the last of 64 rules, and under 64 rules of
  which none matches;
- two transfers side by side, one of which a rule matches, or one of which is in a queue with LRO and the
  other in a queue without. Frames per packet tell which of them is coalesced;
- settings and rules that change all the time, under one transfer: what is lost by it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from experiments.errors import ExperimentError
from experiments.iperf import PORT, Load
from experiments.metrics import Measurement, Workload
from experiments.options import LENGTH, TCP_RUNS, Option, check_length, integer
from experiments.peers.base import BackEnd
from experiments.peers.nic import Policy, VSwitchNic
from experiments.plan import Case, Config, Experiment, Plan, Ratio
from experiments.system import wait_until
from topologies.processes import end, listening, spawn

RULES = 64
RULES_COST = 0.9  # of the throughput is left at least
OTHER_PORT = PORT + 1  # of the transfer beside the measured one
MEASURED_QUEUE, OTHER_QUEUE = 1, 2
QUEUES = 4
FIRST, LAST = 200, 100  # priorities

OPTIONS = {
    "runs": Option(integer(1, 1000), 5, 2, "how often each configuration is measured"),
    **LENGTH,
    "flows": Option(integer(1, 128), 4, 4, "parallel TCP connections of a transfer"),
    **TCP_RUNS,
}


# The NIC's settings


def rule(port: int, priority: int = LAST) -> dict[str, Any]:
    """Coalesce TCP to this port, whatever its addresses."""
    return {"protocol": "tcp", "dst_port": port, "priority": priority}


def by_rules(*rules: dict[str, Any]) -> Policy:
    return {"lro": [{"lro": "rules"}], "rules": list(rules)}


OFF: Policy = {"lro": [{"lro": "off"}]}
ON: Policy = {"lro": [{"lro": "on"}]}
ONE_RULE = by_rules(rule(PORT))
OTHERS = [rule(10000 + place, FIRST) for place in range(RULES - 1)]
LAST_OF_MANY = by_rules(*OTHERS, rule(PORT))
NONE_OF_MANY = by_rules(*OTHERS, rule(OTHER_PORT))


def apart(lro: list[dict[str, Any]], rules: list[dict[str, Any]]) -> Policy:
    """The two transfers in a queue each, by filters."""
    ports = {PORT: MEASURED_QUEUE, OTHER_PORT: OTHER_QUEUE}
    filters = [{"protocol": "tcp", "dst_port": port, "queue": queue} for port, queue in ports.items()]
    return {"queues": QUEUES, "filters": filters, "lro": lro, "rules": rules}


def one_matches(port: int) -> Policy:
    """All queues ask the same rule."""
    return apart([{"lro": "rules"}], [rule(port)])


def one_on(queue: int) -> Policy:
    """LRO in one queue only."""
    others = [other for other in range(QUEUES) if other != queue]
    return apart([{"queues": [queue], "lro": "on"}, {"queues": others, "lro": "off"}], [])


ONE_TRANSFER = {
    "off": OFF,
    "on": ON,
    "by a rule": ONE_RULE,
    f"by the last of {RULES} rules": LAST_OF_MANY,
    f"none of {RULES} rules matches": NONE_OF_MANY,
}
TWO_TRANSFERS = {
    "a rule matches it": one_matches(PORT),
    "a rule matches the other": one_matches(OTHER_PORT),
    "its queue on, the other's off": one_on(MEASURED_QUEUE),
    "its queue off, the other's on": one_on(OTHER_QUEUE),
}
CHANGING = "set anew all the time"
CHANGES = (ONE_RULE, LAST_OF_MANY, ON, one_matches(PORT), OFF, one_on(MEASURED_QUEUE))


# The loads


@dataclass(frozen=True)
class Transfer:
    """A transfer under some settings; `frames_per_packet`: of its queue, 1 where nothing is coalesced."""

    load: Load
    policy: Policy
    queue: int = 0

    def run(self, back_end: BackEnd) -> Measurement:
        assert isinstance(back_end, VSwitchNic)
        back_end.set_nic(self.policy)
        before = back_end.queue(self.queue)
        measured = self._load(back_end)
        after = back_end.queue(self.queue)
        frames, merged = (after[name] - before[name] for name in ("frames", "merged"))
        density = {"frames_per_packet": frames / (frames - merged)}
        return replace(measured, values=self._values(measured.values, density))

    def _load(self, back_end: VSwitchNic) -> Measurement:
        return self.load.run(back_end)

    @staticmethod
    def _values(transferred: dict[str, float], density: dict[str, float]) -> dict[str, float]:
        return transferred | density

    def shortened(self, seconds: int) -> Transfer:
        return replace(self, load=self.load.shortened(seconds))


@dataclass(frozen=True)
class BesideAnother(Transfer):
    """The same beside another transfer, to `OTHER_PORT`; it is about what is coalesced."""

    def _load(self, back_end: VSwitchNic) -> Measurement:
        with another_transfer(back_end, self.load):
            return super()._load(back_end)

    @staticmethod
    def _values(transferred: dict[str, float], density: dict[str, float]) -> dict[str, float]:
        return density | transferred


@dataclass(frozen=True)
class UnderChanges:
    """A transfer while the NIC's settings change all the time.

    packets_lost: what the switches dropped or the wire lost. changes: how often they changed.
    """

    load: Load

    def run(self, back_end: BackEnd) -> Measurement:
        assert isinstance(back_end, VSwitchNic)
        before = back_end.lost()
        with back_end.changing(CHANGES) as changes:
            measured = self.load.run(back_end)
        lost = {"packets_lost": back_end.lost() - before, "changes": len(changes)}
        return replace(measured, values=measured.values | lost)

    def shortened(self, seconds: int) -> UnderChanges:
        return UnderChanges(self.load.shortened(seconds))


@contextmanager
def another_transfer(back_end: VSwitchNic, load: Load) -> Iterator[None]:
    """Another one of the same kind, on the same cores, from before the block's beginning to after its end."""
    client, server = back_end.endpoints()
    port = str(OTHER_PORT)
    listener = spawn(["iperf3", "-s", "-1", "-p", port], pid=server.pid, cpus=server.cpus)
    try:
        wait_until(lambda: listening(server.pid, OTHER_PORT), 5, "the second iperf3 server did not start")
        argv = ["iperf3", "-c", server.ip, "-p", port, "-t", "0", "-P", str(load.flows)]
        argv += ["-C", load.congestion, *(["-w", client.window] if client.window else [])]
        sender = spawn(argv, pid=client.pid, cpus=client.cpus, stdout=subprocess.DEVNULL)
        try:
            yield
            if sender.poll() is not None:
                raise ExperimentError("the transfer beside the measured one ended early")
        finally:
            end(sender)
    finally:
        end(listener)


# The plan


def plan(options: dict[str, Any]) -> Plan:
    """A case for each setting, and the ratios that tell what rules cost."""
    check_length(options)
    load = Load(options["flows"], options["seconds"], options["warmup"], options["congestion"])
    loads: dict[tuple[str, str], Workload] = {
        ("one transfer", name): Transfer(load, policy) for name, policy in ONE_TRANSFER.items()
    }
    loads["one transfer", CHANGING] = UnderChanges(load)
    loads |= {
        ("two transfers", name): BesideAnother(load, policy, MEASURED_QUEUE)
        for name, policy in TWO_TRANSFERS.items()
    }
    configs: dict[str, Config] = {
        lro: {"switch": VSwitchNic.name, "load": kind, "lro": lro} for kind, lro in loads
    }
    cases = [Case(configs[lro], VSwitchNic.name, load) for (_, lro), load in loads.items()]
    return Plan((VSwitchNic,), tuple(cases), tuple(_ratios(configs)), VSwitchNic.name, ("iperf3",))


def _ratios(configs: dict[str, Config]) -> Iterator[Ratio]:
    off, on, one, last, none = (configs[lro] for lro in ONE_TRANSFER)
    changing = configs[CHANGING]
    yield Ratio("on / off", on, off)
    yield Ratio("by a rule / off", one, off)
    yield Ratio("by a rule / on", one, on)
    yield Ratio(f"{RULES} rules, the last matches / no rules, on", last, on, at_least=RULES_COST)
    yield Ratio(f"{RULES} rules, none matches / no rules, off", none, off, at_least=RULES_COST)
    matched, missed, queue_on, queue_off = (configs[lro] for lro in TWO_TRANSFERS)
    yield Ratio("frames per packet, a rule matches / does not", matched, missed)
    yield Ratio("frames per packet, queue on / off", queue_on, queue_off)
    yield Ratio(
        "packets lost / changes of settings on live traffic", changing, changing, at_most=0,
        metrics=("packets_lost", "changes"),
    )  # fmt: skip


EXPERIMENT = Experiment(
    name="lro-rules",
    question="Do LRO rules choose the flows that are coalesced, queue by queue, and what do they cost?",
    title="TCP to a VM behind a NIC with LRO rules, VXLAN, 1500-byte frames on the wire",
    options=OPTIONS,
    plan=plan,
)
