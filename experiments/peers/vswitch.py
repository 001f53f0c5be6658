# SPDX-License-Identifier: Apache-2.0
"""The overlay by the switch: the topology `two_servers` with its controller, as a user runs it with Mininet.

GRO is switched between runs as a user does it: by a new intent to the controller.
"""

from __future__ import annotations

from typing import Any

from mininet.link import Link
from mininet.net import Mininet

from experiments.checkout import Checkout
from experiments.iperf import Endpoint
from experiments.peers.base import SMALL_WINDOW, WIRE_MTU, BackEnd, Servers, Variant
from experiments.peers.served import served_by
from topologies.controllers import Orchestrator
from topologies.lab import Lab
from topologies.links import TapLink, WireLink
from topologies.nodes import VM, VSwitch


class VSwitchOverlay(BackEnd):
    name = "vswitch"
    programs: tuple[str, ...] = ("mnexec", "ip", "nsenter")

    @classmethod
    def of(cls, checkout: Checkout) -> type[BackEnd] | None:
        return served_by(checkout, cls)

    def __init__(self, servers: Servers) -> None:
        super().__init__(servers)
        self.net: Mininet | None = None
        self.lab: Lab | None = None
        self.gro: bool | None = None
        self.variant = Variant()

    def start(self) -> None:
        self.lab = lab = Lab(run_dir=self.servers.run_dir / self.name)
        self.net = net = Mininet(controller=None, build=False)
        controller = net.addController("c0", Orchestrator, lab=lab)
        cores = (self.servers.first, self.servers.second)
        switches = [
            net.addSwitch(f"s{n}", cls=VSwitch, cpu=sorted(cpus), lab=lab, batch=True)
            for n, cpus in enumerate(cores, start=1)
        ]
        self.join(net, *switches)
        for n, switch in enumerate(switches, start=1):
            vm = net.addHost(f"vm{n}", cls=VM, lab=lab, iperf3=False, ip=f"10.0.0.{n}/24")
            net.addLink(vm, switch, cls=TapLink)
        net.start()
        self.gro = controller.gro

    def join(self, net: Mininet, first: VSwitch, second: VSwitch) -> None:
        """Put the wire between the switches."""
        net.addLink(first, second, port1=1, port2=1, cls=WireLink)

    def stop(self) -> None:
        net, self.net = self.net, None
        if net:
            net.stop()
        if self.lab:
            self.lab.close()

    def variants(self) -> list[Variant]:
        return [Variant(), Variant(window=SMALL_WINDOW)]

    def quick_variants(self) -> list[Variant]:
        return [Variant()]

    def use(self, variant: Variant) -> None:
        self.variant = variant

    def prepare(self, config: dict[str, Any]) -> None:
        if self.lab and self.lab.orchestrator and config["gro"] != self.gro:
            intent = self.lab.orchestrator.intent()
            self.lab.orchestrator.set_intent({**intent, "offload": {"gro": config["gro"]}})
            self.gro = config["gro"]

    def endpoints(self) -> tuple[Endpoint, Endpoint]:
        first, second = self._vms()
        return (
            Endpoint(first.pid, first.IP(), self.servers.first, self.variant.window),
            Endpoint(second.pid, second.IP(), self.servers.second),
        )

    def counters(self) -> dict[str, int]:
        """The switches' counters by reason, each under its switch's name."""
        if not self.lab:
            return {}
        counts: dict[str, int] = {}
        for switch in self.lab.switches.values():
            reasons = switch.control("counters")["reasons"]
            counts |= {f"{switch.name}.{reason}": count for reason, count in reasons.items()}
        return counts

    def _switch(self, name: str) -> VSwitch:
        assert self.lab
        return self.lab.switches[name]

    def _vms(self) -> list[VM]:
        assert self.lab
        return list(self.lab.vms.values())


class VSwitchCompared(VSwitchOverlay):
    """The same where its settings are compared: in one variant, which spreads least from run to run."""

    def variants(self) -> list[Variant]:
        return [Variant(window=SMALL_WINDOW)]

    quick_variants = variants


class VSwitchOverVeth(VSwitchOverlay):
    """The same over a veth between two packet ports, set as the kernel peer's: without TSO, with GRO."""

    name = "vswitch-veth"
    programs = (*VSwitchOverlay.programs, "ethtool")

    def join(self, net: Mininet, first: VSwitch, second: VSwitch) -> None:
        link = net.addLink(first, second, port1=1, port2=1, cls=Link)
        for intf in (link.intf1, link.intf2):
            intf.cmd("ip link set", intf.name, "mtu", WIRE_MTU)
            intf.cmd("ethtool -K", intf.name, "tx off tso off gso off gro on")

    def quick_variants(self) -> list[Variant]:
        return [Variant(window=SMALL_WINDOW)]
