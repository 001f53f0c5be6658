# SPDX-License-Identifier: Apache-2.0
"""Topologies: what is connected with what. Nodes and rules are elsewhere."""

from __future__ import annotations

from typing import Any

from mininet.topo import Topo

from topologies.errors import LabError
from topologies.lab import TUNNEL_OVERHEAD
from topologies.links import DEFAULT_WIRE_MTU, TapLink, WireLink
from topologies.nodes import VM

MAX_VMS = 100


class TwoServers(Topo):
    """Two servers with VMs, all in the virtual network `blue` (VNI 42), a wire between them.

        vm1 --- s1 ======== s2 --- vm2
        vm3 ---/    (wire)    \\--- vm4

    vms: VMs per server; odd ones are on s1, even ones on s2.
    mtu: the wire's; the VMs' is what the tunnel leaves.
    wire: the wire's settings, as of WireLink: bw, delay, jitter, loss, max_queue_size, duplicate, reorder …
    """

    def build(self, vms: int = 1, mtu: int = DEFAULT_WIRE_MTU, **wire: Any) -> None:
        if not isinstance(vms, int) or not 1 <= vms <= MAX_VMS:
            raise LabError(f"two_servers: vms={vms}: a server has from 1 to {MAX_VMS} VMs")
        servers = [self.addSwitch("s1"), self.addSwitch("s2")]
        self.addLink(*servers, port1=1, port2=1, cls=WireLink, mtu=mtu, **wire)
        for number in range(1, 2 * vms + 1):
            vm = self.addHost(
                f"vm{number}",
                cls=VM,
                network="blue",
                vni=42,
                ip=f"10.0.0.{number}/8",
                mac=f"00:00:00:00:00:{number:02x}",
            )
            self.addLink(vm, servers[(number - 1) % 2], cls=TapLink, mtu=mtu - TUNNEL_OVERHEAD["vxlan"])
