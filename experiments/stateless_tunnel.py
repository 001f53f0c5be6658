# SPDX-License-Identifier: Apache-2.0
"""What does it bring that the NIC knows a tunnel's format as numbers (S1.7)?

TCP from a VM on one server to a VM on the other, on a wire that carries 1500-byte frames, in every shipped
encapsulation and in one that a user adds by numbers while the switches run: with coalescing on and off. And
without the framework: a NIC that does not recognise the format sees plain IP or UDP, so it neither segments
(the VM's stack does) nor coalesces.
"""

from __future__ import annotations

from typing import Any

from experiments.iperf import Load
from experiments.options import LENGTH, TCP_RUNS, Option, check_length, choice, integer, several
from experiments.peers.tunnels import FORMATS, OWN, VSwitchTunnels
from experiments.plan import Case, Config, Experiment, Plan, Ratio, Spread, flows_text

STANDARD = "vxlan"
GRO_GAIN, FRAMEWORK_GAIN = 2.3, 1.8
SPREAD, SAME_CODE = 0.15, 0.05

OPTIONS = {
    "runs": Option(integer(1, 1000), 5, 1, "how often each configuration is measured"),
    **LENGTH,
    "seconds": Option(integer(1, 3600), 2, 1, "length of a run"),
    "flows": Option(integer(1, 128), 4, 4, "parallel TCP connections"),
    "encap": Option(
        several(choice(*FORMATS)),
        tuple(FORMATS),
        tuple(FORMATS),
        f"tunnel formats among {', '.join(FORMATS)}",
    ),
    **TCP_RUNS,
}


def plan(options: dict[str, Any]) -> Plan:
    """Three cases for each format, and the ratios that the framework stands for."""
    check_length(options)
    load = Load(options["flows"], options["seconds"], options["warmup"], options["congestion"])
    suffix = flows_text(options["flows"])
    cases: list[Case] = []
    ratios: list[Ratio | Spread] = []
    for encap in options["encap"]:
        on, off = _config(options, encap), _config(options, encap, gro=False)
        without = _config(options, encap, gro=False, tso=False)
        cases.append(Case(on, VSwitchTunnels.name, load, side_by_side="formats"))
        cases += [Case(config, VSwitchTunnels.name, load) for config in (off, without)]
        ratios += [
            Ratio(f"gro on / off, {encap}, {suffix}", on, off, at_least=GRO_GAIN),
            Ratio(f"framework / without, {encap}, {suffix}", on, without, at_least=FRAMEWORK_GAIN),
        ]
        if encap != STANDARD and STANDARD in options["encap"]:
            bars = (1 - SAME_CODE, 1 + SAME_CODE) if encap == OWN.name else (None, None)
            ratios.append(Ratio(f"{encap} / {STANDARD}, {suffix}", on, _config(options, STANDARD), *bars))
    everywhere = tuple(_config(options, encap) for encap in options["encap"])
    ratios.append(Spread(f"slowest / fastest format, {suffix}", everywhere, at_least=1 - SPREAD))
    return Plan((VSwitchTunnels,), tuple(cases), tuple(ratios), VSwitchTunnels.name, ("iperf3",))


def _config(options: dict[str, Any], encap: str, gro: bool = True, tso: bool = True) -> Config:
    config = {"switch": VSwitchTunnels.name, "encap": encap, "wire": "memory"}
    return config | {"gro": gro, "tso": tso, "flows": options["flows"]}


EXPERIMENT = Experiment(
    name="stateless-tunnel",
    question="What do TSO and coalescing bring to tunnels of any format, one that a user adds included?",
    title="TCP between two VMs through stateless tunnels, 1500-byte frames on the wire",
    options=OPTIONS,
    plan=plan,
)
