# SPDX-License-Identifier: Apache-2.0
"""How fast is the switch between two plain hosts, beside Open vSwitch in userspace and the kernel's bridge?

h1 - switch - h2 over veth, as Mininet wires them: one TCP connection with the offloads that the hosts have by
default, the same inside a VXLAN tunnel of the hosts' own kernels, and UDP in 64-byte frames. All are counted
where they arrive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from experiments.iperf import Load, transfer
from experiments.metrics import Measurement, Workload
from experiments.options import (
    LENGTH,
    TCP_RUNS,
    Option,
    check_length,
    choice,
    default_cores,
    integer,
    server_cores,
    several,
)
from experiments.packets import PacketLoad, as_bed
from experiments.peers.base import BackEnd
from experiments.peers.l2 import BridgeBed, OvsBed, VSwitchBed
from experiments.plan import Case, Config, Experiment, Plan, Ratio

BACK_ENDS: dict[str, type[BackEnd]] = {kind.name: kind for kind in (VSwitchBed, BridgeBed, OvsBed)}
BASELINE = "bridge"
TCP, VXLAN, UDP = "TCP", "host VXLAN", "UDP 64 bytes"
LOADS = {"tcp": TCP, "host-vxlan": VXLAN, "udp": UDP}
BARS = {
    ("vswitch", "ovs-userspace", TCP): 6.0,
    ("vswitch", "bridge", TCP): 0.2,
    ("vswitch", "ovs-userspace", UDP): 1.5,
    ("vswitch", "bridge", VXLAN): 0.7,
}
"""What the ratios are to be at least."""

OPTIONS = {
    "runs": Option(integer(1, 1000), 5, 3, "how often each configuration is measured"),
    **LENGTH,
    "switches": Option(
        several(choice(*BACK_ENDS)), tuple(BACK_ENDS), tuple(BACK_ENDS), f"among {', '.join(BACK_ENDS)}"
    ),
    "loads": Option(several(choice(*LOADS)), tuple(LOADS), tuple(LOADS), f"among {', '.join(LOADS)}"),
    **TCP_RUNS,
    "cores": Option(server_cores, default_cores(), default_cores(), "cores: h1's, h2's (0,1 or 0+1,2+3)"),
}


@dataclass(frozen=True)
class TunnelLoad(Load):
    """The TCP connections inside the tunnel that the hosts have between them."""

    def run(self, back_end: BackEnd) -> Measurement:
        return transfer(*as_bed(back_end).tunnel_endpoints(), self)


def plan(options: dict[str, Any]) -> Plan:
    """The cases and ratios for the chosen switches."""
    check_length(options)
    seconds, warmup = options["seconds"], options["warmup"]
    loads: dict[str, Workload] = {
        TCP: Load(1, seconds, warmup, options["congestion"]),
        VXLAN: TunnelLoad(1, seconds, warmup, options["congestion"]),
        UDP: PacketLoad(seconds - warmup, warmup),
    }
    cases, ratios = [], []
    for name in (LOADS[word] for word in options["loads"]):
        configs: dict[str, Config] = {
            switch: {"switch": switch, "load": name} for switch in options["switches"]
        }
        cases += [Case(config, switch, loads[name]) for switch, config in configs.items()]
        ratios += [
            Ratio(
                f"{top} / {bottom}, {name}",
                configs[top],
                configs[bottom],
                at_least=BARS.get((top, bottom, name)),
            )
            for top, bottom in (
                ("vswitch", "ovs-userspace"),
                ("vswitch", "bridge"),
                ("ovs-userspace", "bridge"),
            )
            if top in configs and bottom in configs
        ]
    return Plan(
        tuple(BACK_ENDS[name] for name in options["switches"]),
        tuple(cases),
        tuple(ratios),
        BASELINE,
        ("iperf3",),
    )


EXPERIMENT = Experiment(
    name="l2-forwarding",
    question="How fast is the switch between plain hosts, beside the kernel's bridge and Open vSwitch?",
    title="h1 - switch - h2 over veth",
    options=OPTIONS,
    plan=plan,
)
