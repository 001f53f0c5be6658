# SPDX-License-Identifier: Apache-2.0
"""May a NIC coalesce what a VM only forwards (S0.9, S0.10)?

TCP between two VMs of one server, through a Linux router in a VM of another. The router's receive queue

- coalesces nothing; or
- delivers large packets without a word of their segments, as classic LRO NICs do, and the large packets that
  the router sends are segmented to the MSS that was snooped; or
- delivers the same without that, which is naive; or
- delivers them with word of their segments, which Linux hands on: a way that the patent did not have.

Alone, and while two VMs beside the router receive too, one by a queue with LRO, one by a queue without.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from experiments.iperf import Load, transfers
from experiments.metrics import Measurement
from experiments.options import LENGTH, TCP_RUNS, Option, check_length, integer
from experiments.peers.forwarding import GRO, NAIVE, OFF, SNOOPED, ForwardingBed
from experiments.plan import Case, Config, Experiment, Plan, Ratio

if TYPE_CHECKING:
    from experiments.peers.base import BackEnd

ALONE, BESIDE = "alone", "with others"
OTHERS = {"end1": "to_lro_on_bps", "end2": "to_lro_off_bps"}
GAIN, FAILURE = 1.5, 0.5

OPTIONS = {
    "runs": Option(integer(1, 1000), 5, 3, "how often each configuration is measured"),
    **LENGTH,
    "flows": Option(integer(1, 128), 4, 4, "parallel TCP connections through the router"),
    **TCP_RUNS,
}


@dataclass(frozen=True)
class Forwarded:
    """TCP through the router, and at the same time one connection to each VM beside it if `beside`."""

    load: Load
    beside: bool = False

    def run(self, back_end: BackEnd) -> Measurement:
        """What came through the router, what its server counted of that, and what the others got."""
        assert isinstance(back_end, ForwardingBed)
        before = back_end.counters()
        client, server = back_end.endpoints()
        wanted = [(client, server, self.load)]
        if self.beside:
            one = replace(self.load, flows=1)
            wanted += [(client, back_end.endpoint(name), one) for name in OTHERS]
        forwarded, *others = transfers(wanted)
        grown = {name: count - before[name] for name, count in back_end.counters().items()}
        values = {
            "throughput_bps": forwarded.primary,
            "packets_cut_to_mss": grown["s2.mss_segmented"],
            "packets_too_large": grown["s2.mtu_exceeded"],
        }
        values |= {name: other.primary for name, other in zip(OTHERS.values(), others, strict=False)}
        return Measurement(values, {"forwarded": forwarded.raw, "others": [other.raw for other in others]})

    def shortened(self, seconds: int) -> Forwarded:
        return replace(self, load=self.load.shortened(seconds))


def plan(options: dict[str, Any]) -> Plan:
    """The ways of the router's queue, alone and beside others."""
    check_length(options)
    load = Load(options["flows"], options["seconds"], options["warmup"], options["congestion"])
    cases, ratios = [], []
    for where in (ALONE, BESIDE):
        configs = {router: _config(where, router) for router in (OFF, SNOOPED, NAIVE, GRO)}
        measured = Forwarded(load, beside=where == BESIDE)
        cases += [Case(config, ForwardingBed.name, measured) for config in configs.values()]
        ratios += [
            Ratio(f"LRO with snooped MSS / off, {where}", configs[SNOOPED], configs[OFF], at_least=GAIN),
            Ratio(f"naive LRO / off, {where}", configs[NAIVE], configs[OFF], at_most=FAILURE),
            Ratio(f"GRO / off, {where}", configs[GRO], configs[OFF]),
        ]
    metrics = (OTHERS["end1"], OTHERS["end2"])
    ratios += [
        Ratio(
            f"terminating VMs, LRO on / off, beside a router with {router}", config, config, metrics=metrics
        )
        for router, config in configs.items()
    ]
    return Plan((ForwardingBed,), tuple(cases), tuple(ratios), ForwardingBed.name, ("iperf3",))


def _config(where: str, router: str) -> Config:
    return {"switch": ForwardingBed.name, "load": where, "router": router}


EXPERIMENT = Experiment(
    name="forwarding-vm",
    question="May a NIC coalesce what a VM only forwards, if the MSS that it cuts to is snooped?",
    title="TCP through a Linux router in a VM, 1500-byte frames on the wire",
    options=OPTIONS,
    plan=plan,
)
