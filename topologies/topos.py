# SPDX-License-Identifier: Apache-2.0
"""Topologies: what is connected with what. Nodes and rules are elsewhere."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from mininet.topo import Topo

from topologies.errors import LabError
from topologies.links import DEFAULT_WIRE_MTU, WIRE_SETTINGS, TapLink, WireLink
from topologies.nodes import VM
from topologies.options import require_known

MAX_VMS = 100
MAX_SERVERS = 50
SHAPES = ("line", "ring")
NO_PARAMETER = "there is no parameter"
JUMBO_MTU = 9000


class TwoServers(Topo):
    """Two servers with VMs, all in the virtual network `blue` (VNI 42), a wire between them.

        vm1 --- s1 ======== s2 --- vm2
        vm3 ---/    (wire)    \\--- vm4

    vms: VMs per server; odd ones are on s1, even ones on s2.
    mtu: the wire's; the VMs' is what the tunnel leaves.
    wire: the wire's settings, as of WireLink: bw, delay, jitter, loss, max_queue_size, duplicate, reorder …
    """

    def build(self, vms: int = 1, mtu: int = DEFAULT_WIRE_MTU, **wire: Any) -> None:
        require_known("two_servers", NO_PARAMETER, wire, ("vms", "mtu", *WIRE_SETTINGS))
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
            self.addLink(vm, servers[(number - 1) % 2], cls=TapLink)


class ForwardingVm(Topo):
    """A router in a VM, between the virtual networks `blue` (VNI 42) and `red` (VNI 43).

        client (blue) --- s1 ======== s2 --- router (blue and red)
        server (red) ----/    (wire)    \\--- end1, end2 … (blue)

    client is 10.1.0.1, server 10.2.0.1, the router 254 in both networks; end1 … are 10.1.0.11 and so on, VMs
    on the router's server at which connections end.

    ends: how many of those.
    mtu: the wire's; the VMs' is what the tunnel leaves, but for the router's:
    router_mtu: large, so that aggregates of what it forwards fit.
    wire: the wire's settings, as of WireLink.
    """

    def build(
        self, ends: int = 1, mtu: int = DEFAULT_WIRE_MTU, router_mtu: int = JUMBO_MTU, **wire: Any
    ) -> None:
        require_known("forwarding_vm", NO_PARAMETER, wire, ("ends", "mtu", "router_mtu", *WIRE_SETTINGS))
        if not isinstance(ends, int) or not 0 <= ends <= MAX_VMS:
            raise LabError(f"forwarding_vm: ends={ends}: a server has from 0 to {MAX_VMS} of them")
        s1, s2 = self.addSwitch("s1"), self.addSwitch("s2")
        self.addLink(s1, s2, port1=1, port2=1, cls=WireLink, mtu=mtu, **wire)
        router = self.addHost(
            "router", cls=VM, role="forwarding", network="blue", vni=42, ip="10.1.0.254/24", mac=_mac(1, 254)
        )
        self.addLink(router, s2, cls=TapLink, mtu=router_mtu)
        red = {"network": "red", "vni": 43, "ip": "10.2.0.254/24", "addr1": _mac(2, 254)}
        self.addLink(router, s2, cls=TapLink, mtu=router_mtu, **red)
        places = [("client", s1, 1, 1), ("server", s1, 2, 1)]
        places += [(f"end{number}", s2, 1, 10 + number) for number in range(1, ends + 1)]
        for name, switch, subnet, host in places:
            vm = self.addHost(
                name,
                cls=VM,
                network={1: "blue", 2: "red"}[subnet],
                vni=41 + subnet,
                ip=f"10.{subnet}.0.{host}/24",
                mac=_mac(subnet, host),
                defaultRoute=f"via 10.{subnet}.0.254",
            )
            self.addLink(vm, switch, cls=TapLink)


class Servers(Topo):
    """Servers in a line or a ring, a wire between neighbours, VMs of the virtual network `blue` (VNI 42).

        vm1 --- s1 ======== s2 ======== s3 --- vm3
                  \\         |         //
                    =====  vm2  =====          (with shape=ring)

    servers: how many. shape: line, or ring.
    vms: VMs per server; vm1 is on s1, vm2 on s2, and so on in turn.
    mtu: the wires'; the VMs' is what the tunnel leaves.
    wire: the wires' settings, as of WireLink.
    """

    def build(
        self, servers: int = 3, shape: str = "line", vms: int = 1, mtu: int = DEFAULT_WIRE_MTU, **wire: Any
    ) -> None:
        require_known("servers", NO_PARAMETER, wire, ("servers", "shape", "vms", "mtu", *WIRE_SETTINGS))
        if not isinstance(servers, int) or not 2 <= servers <= MAX_SERVERS:
            raise LabError(f"servers: servers={servers}: there are from 2 to {MAX_SERVERS}")
        if shape not in SHAPES:
            raise LabError(f"servers: shape={shape}: it is {' or '.join(SHAPES)}")
        if not isinstance(vms, int) or not 1 <= vms <= MAX_VMS:
            raise LabError(f"servers: vms={vms}: a server has from 1 to {MAX_VMS} VMs")
        switches = [self.addSwitch(f"s{number}") for number in range(1, servers + 1)]
        pairs = list(pairwise(switches))
        if shape == "ring" and servers > 2:
            pairs.append((switches[-1], switches[0]))
        for pair in pairs:
            self.addLink(*pair, cls=WireLink, mtu=mtu, **wire)
        for number in range(1, servers * vms + 1):
            vm = self.addHost(
                f"vm{number}",
                cls=VM,
                network="blue",
                vni=42,
                ip=f"10.0.{number >> 8}.{number & 0xFF}/8",
                mac=f"00:00:00:00:{number >> 8:02x}:{number & 0xFF:02x}",
            )
            self.addLink(vm, switches[(number - 1) % servers], cls=TapLink)


TOPOLOGIES = {"two_servers": TwoServers, "forwarding_vm": ForwardingVm, "servers": Servers}
"""By their names in `mn`."""


def _mac(subnet: int, host: int) -> str:
    return f"00:00:00:00:{subnet:02x}:{host:02x}"
