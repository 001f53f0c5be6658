# SPDX-License-Identifier: Apache-2.0
"""How many new flows a second, how many flows at once, how many rule changes a second?

h1 - switch - h2 over veth, with 1,000 rules, of which the traffic matches one:

- new flows: every packet is the first of its flow; those that arrive are counted.
- cached flows: all flows are known, and their packets come in turn as fast as the sender can.
- flow-mods: rules of flows that carry traffic are added and deleted; every packet has to arrive.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

from experiments.errors import ExperimentError
from experiments.metrics import Measurement, Workload
from experiments.options import Option, choice, default_cores, integer, number, server_cores, several
from experiments.packets import SETTLE_S, as_bed, blast, delivered, offered
from experiments.peers.base import BackEnd, Variant
from experiments.peers.l2 import OPENFLOW_PORT, OpenFlowBed, OvsBed, VSwitchBed
from experiments.plan import Case, Config, Experiment, Plan, Ratio
from experiments.system import project_environment, wait_until
from topologies.processes import end, spawn

BASELINE = "ovs-userspace"
NEW, CACHED, MODS = "new flows", "cached flows", "flow-mods"
FILL_RATE = 20_000  # new flows a second, with which the cache is filled
MOST_FILL_S = 120.0  # until all flows are to be known
LIVE_FLOWS = 100  # whose rules change
TRAFFIC_RATE = 20_000  # packets a second meanwhile
WAITED = 0.01  # of the time: a sender that waits more is faster than the switch
PATIENCE_S = 15.0
FORGETTING_S = 60.0


def _counted(bed: OpenFlowBed, reason: str) -> int | None:
    """What the switch has counted; None when it cannot tell."""
    return next((count for name, count in bed.counters().items() if name.endswith(f".{reason}")), None)


@dataclass(frozen=True)
class NewFlows:
    """`rate` flows of one packet each a second, none seen before, for `seconds`."""

    rate: int
    seconds: int

    def run(self, back_end: BackEnd) -> Measurement:
        bed = as_bed(back_end)
        before = delivered(bed)
        total = self.rate * self.seconds
        # no run is to meet flows of an earlier one that are still cached, by a switch that does not tell
        first = int(time.monotonic() * 1000) % 2000 * 50_000
        with blast(
            bed, seconds=self.seconds + PATIENCE_S, rate=self.rate, total=total, flows=total, first=first
        ) as sender:
            sent = sender.result()
        time.sleep(SETTLE_S)
        arrived = delivered(bed) - before
        values = {"flows_per_second": arrived / sent["seconds"], "memory_bytes": bed.memory_bytes()}
        return Measurement(values, {"arrived": arrived, **sent}, offered=sent["sent"] / sent["seconds"])

    def shortened(self, seconds: int) -> NewFlows:
        return replace(self, seconds=seconds)


@dataclass(frozen=True)
class CachedFlows:
    """`flows` flows that are all known, a packet of each in turn, for `seconds`.

    More packets are offered than the slow path takes while the flows are new, and a flow whose packet was
    lost is not known: packets of all are sent, round after round, until none of a round is lost or new.
    """

    flows: int
    seconds: float

    def run(self, back_end: BackEnd) -> Measurement:
        bed = as_bed(back_end)
        assert isinstance(bed, OpenFlowBed)
        values, raw = self._fill(bed)
        start = delivered(bed)
        with blast(bed, seconds=self.seconds + 0.5, flows=self.flows) as sender:
            time.sleep(0.25)
            before, began = delivered(bed), time.monotonic()
            time.sleep(self.seconds)
            rate = (delivered(bed) - before) / (time.monotonic() - began)
            raw |= sender.result()
        time.sleep(SETTLE_S)
        values = {"packets_per_second": rate, **values, "memory_bytes": bed.memory_bytes()}
        return Measurement(values, raw, offered=offered(rate, delivered(bed) - start, raw["sent"]))

    def _fill(self, bed: OpenFlowBed) -> tuple[dict[str, float], dict[str, Any]]:
        """Have the switch learn the flows; how many it knows if it can tell, and what that took."""
        began, lost_before = time.monotonic(), _counted(bed, "punt_overflow")
        rounds, known = 0, False
        while not known and time.monotonic() - began < MOST_FILL_S:
            misses, before = _counted(bed, "slow_path_misses"), delivered(bed)
            self._pass(bed)
            missed, arrived = _counted(bed, "slow_path_misses"), delivered(bed) - before
            rounds += 1
            known = missed == misses and arrived == self.flows
        raw = {
            "rounds": rounds,
            "fill_seconds": time.monotonic() - began,
            "arrived_of_the_last_round": arrived,
        }
        if missed is None or misses is None:
            return {}, raw
        lost = _counted(bed, "punt_overflow")
        assert lost is not None and lost_before is not None
        return {"cached_flows": arrived - (missed - misses)}, {**raw, "lost_punts": lost - lost_before}

    def _pass(self, bed: OpenFlowBed) -> None:
        """Send a packet of each flow."""
        seconds = self.flows / FILL_RATE + PATIENCE_S
        with blast(bed, seconds=seconds, rate=FILL_RATE, total=self.flows, flows=self.flows) as sender:
            sender.result()
        time.sleep(SETTLE_S)

    def shortened(self, seconds: int) -> CachedFlows:
        return replace(self, seconds=seconds)


@dataclass(frozen=True)
class FlowMods:
    """`rate` flow-mods a second for `seconds`, on flows that carry traffic."""

    rate: int
    seconds: int

    def run(self, back_end: BackEnd) -> Measurement:
        bed = as_bed(back_end)
        with blast(bed, seconds=1, rate=1000, total=LIVE_FLOWS, flows=LIVE_FLOWS) as sender:
            sender.result()
        time.sleep(SETTLE_S)
        before = delivered(bed)
        total = TRAFFIC_RATE * (self.seconds + 1)
        with blast(
            bed, seconds=self.seconds + PATIENCE_S, rate=TRAFFIC_RATE, total=total, flows=LIVE_FLOWS
        ) as sender:
            outcome = self._send_mods(bed)
            sent = sender.result()["sent"]
        time.sleep(SETTLE_S)
        rate = outcome["flow_mods"] / outcome["seconds"]
        # a sender that never waited for the switch has offered what it sent, however much it was to send
        offer = self.rate if outcome["waited"] > WAITED * outcome["seconds"] else rate
        values = {
            "flow_mods_per_second": rate,
            "packets_lost": sent - (delivered(bed) - before),
            "memory_bytes": bed.memory_bytes(),
        }
        if outcome["errors"]:
            raise ExperimentError(f"{bed.name} refused {outcome['errors']:.0f} flow-mods")
        return Measurement(values, {"packets_sent": sent, **outcome}, offered=offer)

    def _send_mods(self, bed: Any) -> dict[str, float]:
        argv = [sys.executable, "-m", "experiments.flow_mods", str(OPENFLOW_PORT), f"--rate={self.rate}"]
        argv += [f"--seconds={self.seconds}", f"--flows={LIVE_FLOWS}"]
        process = spawn(
            argv, pid=bed.hypervisor.pid, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=project_environment(),
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=self.seconds + PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise ExperimentError(f"{bed.name} did not answer the flow-mods in time") from None
        finally:
            end(process)
        if process.returncode:
            raise ExperimentError(
                f"flow-mods to {bed.name} failed: {output.decode().strip().splitlines()[-1]}"
            )
        return json.loads(output)

    def shortened(self, seconds: int) -> FlowMods:
        return replace(self, seconds=seconds)


class Ruled(OpenFlowBed):
    """A bed with the experiment's rules, left to the scheduler."""

    def variants(self) -> list[Variant]:
        return [Variant("any core")]

    def quick_variants(self) -> list[Variant]:
        return self.variants()

    def prepare(self, config: Config) -> None:
        """Each run begins with the same rules and an empty cache."""
        path = self.servers.run_dir / f"{self.name}.rules"
        path.write_text("".join(f"{rule}\n" for rule in rules(config["rules"])))
        self.ofctl("del-flows")
        self.await_empty_cache()
        self.ofctl("add-flows", str(path))

    def await_empty_cache(self) -> None:
        """Returns when the switch has forgotten the flows that no rule is for any more."""


class VSwitchWithRules(Ruled, VSwitchBed):
    def await_empty_cache(self) -> None:
        wait_until(
            lambda: not self._control("show")["flows"], FORGETTING_S, "the switch keeps flows without a rule"
        )


class OvsWithRules(Ruled, OvsBed):
    pass


def rules(count: int) -> list[str]:
    """`count` rules in all, of which the last two forward and the others, an access list, match nothing."""
    access = [
        f"priority=100,udp,nw_src=10.{200 + number // 250}.{number % 250}.0/24,tp_dst={number + 1},"
        "actions=drop"
        for number in range(count - 2)
    ]
    return [*access, "priority=1,in_port=1,actions=output:2", "priority=1,in_port=2,actions=output:1"]


BACK_ENDS: dict[str, type[BackEnd]] = {kind.name: kind for kind in (VSwitchWithRules, OvsWithRules)}

OPTIONS = {
    "runs": Option(integer(1, 1000), 5, 2, "how often each configuration is measured"),
    "seconds": Option(integer(1, 3600), 3, 1, "length of a run"),
    "rules": Option(integer(2, 10_000), 1000, 1000, "rules that are installed"),
    "new_flows": Option(integer(1, 10**6), 80_000, 80_000, "new flows that are offered, a second"),
    "cached_flows": Option(integer(1, 10**6), 100_000, 10_000, "flows that are known at once"),
    "flow_mods": Option(integer(1, 10**6), 50_000, 50_000, "flow-mods that are sent, a second"),
    "switches": Option(
        several(choice(*BACK_ENDS)), tuple(BACK_ENDS), tuple(BACK_ENDS), f"among {', '.join(BACK_ENDS)}"
    ),
    "cores": Option(server_cores, default_cores(), default_cores(), "cores: h1's, h2's (0,1 or 0+1,2+3)"),
    "other_cpu": Option(number(0, 1024), 0.05, 0.05, "cores that others may use before a run is invalid"),
    "seed": Option(integer(0, 2**31), 1, 1, "of the order of the runs"),
}


def plan(options: dict[str, Any]) -> Plan:
    """The cases and ratios for the chosen switches."""
    loads: dict[str, Workload] = {
        NEW: NewFlows(options["new_flows"], options["seconds"]),
        CACHED: CachedFlows(options["cached_flows"], options["seconds"]),
        MODS: FlowMods(options["flow_mods"], options["seconds"]),
    }
    cases, ratios = [], []
    for name, load in loads.items():
        configs: dict[str, Config] = {
            switch: {"switch": switch, "load": name, "rules": options["rules"]}
            for switch in options["switches"]
        }
        cases += [Case(config, switch, load) for switch, config in configs.items()]
        if set(configs) == set(BACK_ENDS):
            ratios.append(Ratio(f"vswitch / ovs-userspace, {name}", configs["vswitch"], configs[BASELINE]))
    return Plan(tuple(BACK_ENDS[name] for name in options["switches"]), tuple(cases), tuple(ratios), BASELINE)


EXPERIMENT = Experiment(
    name="flow-setup",
    question="How many new flows, known flows and rule changes does the switch stand?",
    title="h1 - switch - h2 over veth, 1,000 rules",
    options=OPTIONS,
    plan=plan,
)
