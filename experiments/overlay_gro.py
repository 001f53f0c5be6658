# SPDX-License-Identifier: Apache-2.0
"""What does GRO over VXLAN bring, and how does the switch compare with what a user would pick instead?

TCP from a VM on one server to a VM on the other, through VXLAN, on a wire that carries 1500-byte frames: by
the switch with GRO on and off, by the Linux kernel's VXLAN, and by Open vSwitch's userspace datapath. Every
frame's TCP checksum is computed by its sender and verified by its receiver in all four.
"""

from __future__ import annotations

from typing import Any

from experiments.iperf import Load
from experiments.options import LENGTH, TCP_RUNS, Option, check_length, choice, integer, several
from experiments.peers.base import BackEnd
from experiments.peers.kernel import KernelVxlan
from experiments.peers.ovs import OvsUserspace
from experiments.peers.vswitch import VSwitchOverlay, VSwitchOverVeth
from experiments.plan import Case, Config, Experiment, Plan, Ratio, flows_text

BACK_ENDS: dict[str, type[BackEnd]] = {
    kind.name: kind for kind in (VSwitchOverlay, KernelVxlan, OvsUserspace)
}
MEMORY, VETH = "memory", "veth"
GRO_STATES = {"vswitch": (True, False), "kernel": (True,), "ovs-userspace": (False,)}
BASELINE = "kernel"
BARS = {
    (VETH, "vswitch / kernel"): 0.5,
    (VETH, "vswitch / ovs-userspace"): 4.0,
}
"""What the ratios with the switch over a wire are to be at least."""

OPTIONS = {
    "runs": Option(integer(1, 1000), 5, 3, "how often each configuration is measured"),
    **LENGTH,
    "flows": Option(several(integer(1, 128)), (1, 4), (1, 4), "parallel TCP connections, comma-separated"),
    "switches": Option(
        several(choice(*BACK_ENDS)), tuple(BACK_ENDS), tuple(BACK_ENDS), f"among {', '.join(BACK_ENDS)}"
    ),
    "wire": Option(choice("memory", VETH), "memory", "memory", "veth: the switch over a veth, too"),
    "encap": Option(choice("vxlan"), "vxlan", "vxlan", "tunnel format"),
    **TCP_RUNS,
}


def plan(options: dict[str, Any]) -> Plan:
    """The cases and ratios for the chosen switches and numbers of flows."""
    check_length(options)
    cases, ratios = [], []
    for flows in options["flows"]:
        load = Load(flows, options["seconds"], options["warmup"], options["congestion"])
        configs: dict[tuple[str, str, bool], Config] = {}
        for switch in options["switches"]:
            for wire, back_end in _wires(switch, options["wire"]).items():
                for gro in GRO_STATES[switch]:
                    config = {"switch": switch, "encap": options["encap"], "wire": wire}
                    config |= {"gro": gro, "flows": flows}
                    configs[switch, wire, gro] = config
                    cases.append(Case(config, back_end.name, load))
        for wire in _wires("vswitch", options["wire"]):
            between = f"{options['encap']}, " + ("" if wire == MEMORY else f"{wire}, ")
            ratios += _ratios(configs, wire, between + flows_text(flows))
    back_ends = [
        back_end for switch in options["switches"] for back_end in _wires(switch, options["wire"]).values()
    ]
    return Plan(tuple(back_ends), tuple(cases), tuple(ratios), BASELINE, ("iperf3",))


def _wires(switch: str, wire: str) -> dict[str, type[BackEnd]]:
    """The wires that a switch is measured over, and the back end for each."""
    if switch != "vswitch":
        return {VETH: BACK_ENDS[switch]}
    over_memory: dict[str, type[BackEnd]] = {MEMORY: VSwitchOverlay}
    return over_memory | {VETH: VSwitchOverVeth} if wire == VETH else over_memory


def _ratios(configs: dict[tuple[str, str, bool], Config], wire: str, suffix: str) -> list[Ratio]:
    """The ratios with the switch over `wire`; those among the peers once."""
    ours, kernel, ovs = ("vswitch", wire), ("kernel", VETH), ("ovs-userspace", VETH)
    pairs = {
        "gro on / off": ((*ours, True), (*ours, False)),
        "vswitch / kernel": ((*ours, True), (*kernel, True)),
        "vswitch / ovs-userspace": ((*ours, True), (*ovs, False)),
        "vswitch without gro / kernel": ((*ours, False), (*kernel, True)),
    }
    if wire == MEMORY:
        pairs["ovs-userspace / kernel"] = ((*ovs, False), (*kernel, True))
    return [
        Ratio(f"{label}, {suffix}", configs[top], configs[bottom], at_least=BARS.get((wire, label)))
        for label, (top, bottom) in pairs.items()
        if top in configs and bottom in configs
    ]


EXPERIMENT = Experiment(
    name="overlay-gro",
    question="What does GRO over VXLAN bring, beside the kernel's VXLAN and Open vSwitch in userspace?",
    title="TCP between two VMs through VXLAN, 1500-byte frames on the wire",
    options=OPTIONS,
    plan=plan,
)
