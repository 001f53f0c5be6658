# SPDX-License-Identifier: Apache-2.0
"""A Linux router in a VM between two VMs of the other server, and two VMs beside it at which connections end:
the topology `forwarding_vm`, with a receive queue of the router's server for each of the three.

How the router's queue coalesces is changed between runs as a user does it: by a new intent to the controller.
"""

from __future__ import annotations

from typing import Any

from mininet.net import Mininet

from experiments.checkout import Checkout
from experiments.iperf import Endpoint
from experiments.peers.base import BackEnd, Variant
from experiments.peers.vswitch import VSwitchOverlay
from experiments.system import wait_until
from topologies.controllers import Orchestrator
from topologies.lab import Lab
from topologies.nodes import VM, VSwitch
from topologies.topos import JUMBO_MTU, ForwardingVm

OFF, SNOOPED, NAIVE, GRO = "LRO off", "LRO, snooped", "naive LRO", "GRO"
QUEUES = {"router": 0, "router-eth1": 0, "end1": 1, "end2": 2}
ROUTER_QUEUE, LRO_QUEUE, PLAIN_QUEUE = range(3)
UPLINK = 1
PATIENCE_S = 10.0


class ForwardingBed(VSwitchOverlay):
    """The two servers. end1's queue coalesces, end2's does not, and the router's is changed."""

    name = "vswitch"

    @classmethod
    def of(cls, checkout: Checkout) -> type[BackEnd] | None:
        return None  # its loads ask more of it than a harness does

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.router = ""

    def start(self) -> None:
        self.lab = lab = Lab(run_dir=self.servers.run_dir / self.name)
        topo = ForwardingVm(ends=2)
        for node in topo.nodes():
            topo.setNodeInfo(node, {**topo.nodeInfo(node), "lab": lab})
        for host in topo.hosts():
            topo.setNodeInfo(host, {**topo.nodeInfo(host), "iperf3": False})
        for switch, cpus in zip(topo.switches(), (self.servers.first, self.servers.second), strict=True):
            topo.setNodeInfo(switch, {**topo.nodeInfo(switch), "cpu": sorted(cpus), "batch": True})
        self.net = net = Mininet(topo=topo, switch=VSwitch, controller=None, build=False)
        net.addController("c0", Orchestrator, lab=lab)
        net.start()
        server = self._vm("server").IP()
        wait_until(
            lambda: "1 received" in self._vm("client").cmd(f"ping -c 1 -W 1 {server}"),
            PATIENCE_S,
            f"nothing passes the router; the switches' logs are in {lab.run_dir}",
        )

    def prepare(self, config: dict[str, Any]) -> None:
        """config: router, what its queue does: OFF, SNOOPED, NAIVE or GRO."""
        if config["router"] == self.router:
            return
        assert self.lab and self.lab.orchestrator
        intent = self.lab.orchestrator.intent()
        role = "terminating" if config["router"] == NAIVE else "forwarding"
        for name in ("router", "router-eth1"):
            intent["vms"][name] = {**intent["vms"][name], "role": role}
        intent["nic"] = {"s2": nic(config["router"])}
        self.lab.orchestrator.set_intent(intent)
        self.router = config["router"]

    def variants(self) -> list[Variant]:
        return [Variant()]

    def endpoints(self) -> tuple[Endpoint, Endpoint]:
        return self.endpoint("client"), self.endpoint("server")

    def endpoint(self, name: str) -> Endpoint:
        vm = self._vm(name)
        first = vm.server is self._switch("s1")
        return Endpoint(vm.pid, vm.IP(), self.servers.first if first else self.servers.second)

    def counters(self) -> dict[str, int]:
        """The switches' counters, and those of the receive queues of the router's server."""
        counts = super().counters()
        for queue in self._switch("s2").control("nic.stats", port=UPLINK):
            for name in ("frames", "merged"):
                counts[f"s2.queue{queue['queue']}.{name}"] = queue[name]
        return counts

    def _vm(self, name: str) -> VM:
        assert self.lab
        return self.lab.vms[name]


def nic(router: str) -> dict[str, Any]:
    """The NIC of the router's server, as the intent has it: three queues, one for the router's two vNICs."""
    filters = [{"vm": vm, "queue": queue} for vm, queue in QUEUES.items()]
    lro: list[dict[str, Any]] = [
        {"queues": [LRO_QUEUE], "lro": "on"},
        {"queues": [PLAIN_QUEUE], "lro": "off"},
    ]
    if router == GRO:
        lro.append({"queues": [ROUTER_QUEUE], "lro": "on"})
    elif router != OFF:  # that follows from the router's role
        classic = {"lro": "on", "kind": "lro", "completion_size": JUMBO_MTU}
        lro.append({"queues": [ROUTER_QUEUE], **classic})
    return {"queues": 3, "filters": filters, "lro": lro}
