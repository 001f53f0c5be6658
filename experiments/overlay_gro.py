# SPDX-License-Identifier: Apache-2.0
"""What does GRO over VXLAN bring, and how does the switch compare with what a user would pick instead?

TCP from a VM on one server to a VM on the other, through VXLAN, on a wire that carries 1500-byte frames: by
the switch with GRO on and off, by the Linux kernel's VXLAN, and by Open vSwitch's userspace datapath. Every
frame's TCP checksum is computed by its sender and verified by its receiver in all four.
"""

from __future__ import annotations

from typing import Any

from experiments.errors import ExperimentError
from experiments.iperf import Load
from experiments.options import Option, choice, default_cores, integer, number, server_cores, several
from experiments.peers.base import BackEnd
from experiments.peers.kernel import KernelVxlan
from experiments.peers.ovs import OvsUserspace
from experiments.peers.vswitch import VSwitchOverlay
from experiments.plan import Case, Config, Experiment, Plan, Ratio, flows_text

BACK_ENDS: dict[str, type[BackEnd]] = {
    kind.name: kind for kind in (VSwitchOverlay, KernelVxlan, OvsUserspace)
}
GRO_STATES = {"vswitch": (True, False), "kernel": (True,), "ovs-userspace": (False,)}
BASELINE = "kernel"

OPTIONS = {
    "runs": Option(integer(1, 1000), 5, 3, "how often each configuration is measured"),
    "seconds": Option(integer(1, 3600), 3, 1, "length of a run"),
    "warmup": Option(number(0, 60), 0.5, 0.25, "seconds at the start of a run that do not count"),
    "flows": Option(several(integer(1, 128)), (1, 4), (1, 4), "parallel TCP connections, comma-separated"),
    "switches": Option(
        several(choice(*BACK_ENDS)), tuple(BACK_ENDS), tuple(BACK_ENDS), f"among {', '.join(BACK_ENDS)}"
    ),
    "encap": Option(choice("vxlan"), "vxlan", "vxlan", "tunnel format"),
    "congestion": Option(choice("cubic", "reno", "bbr"), "cubic", "cubic", "TCP congestion control"),
    "cores": Option(server_cores, default_cores(), default_cores(), "cores of each server: 0,1 or 0+1,2+3"),
    "other_cpu": Option(number(0, 1024), 0.05, 0.05, "cores that others may use before a run is invalid"),
    "seed": Option(integer(0, 2**31), 1, 1, "of the order of the runs"),
}


def plan(options: dict[str, Any]) -> Plan:
    """The cases and ratios for the chosen switches and numbers of flows."""
    if options["warmup"] >= options["seconds"]:
        raise ExperimentError("warmup must be shorter than seconds: nothing would be measured")
    cases, ratios = [], []
    for flows in options["flows"]:
        load = Load(flows, options["seconds"], options["warmup"], options["congestion"])
        configs: dict[tuple[str, bool], Config] = {}
        for switch in options["switches"]:
            for gro in GRO_STATES[switch]:
                config = {"switch": switch, "encap": options["encap"], "gro": gro, "flows": flows}
                configs[switch, gro] = config
                cases.append(Case(config, switch, load))
        ratios += _ratios(configs, f"{options['encap']}, {flows_text(flows)}")
    return Plan(tuple(BACK_ENDS[name] for name in options["switches"]), tuple(cases), tuple(ratios), BASELINE)


def _ratios(configs: dict[tuple[str, bool], Config], suffix: str) -> list[Ratio]:
    pairs = {
        "gro on / off": (("vswitch", True), ("vswitch", False)),
        "vswitch / kernel": (("vswitch", True), ("kernel", True)),
        "vswitch / ovs-userspace": (("vswitch", True), ("ovs-userspace", False)),
        "vswitch without gro / kernel": (("vswitch", False), ("kernel", True)),
        "ovs-userspace / kernel": (("ovs-userspace", False), ("kernel", True)),
    }
    return [
        Ratio(f"{label}, {suffix}", configs[top], configs[bottom])
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
