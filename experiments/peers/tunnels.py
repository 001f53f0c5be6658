# SPDX-License-Identifier: Apache-2.0
"""The overlay by the switch in any tunnel format, changed between runs as a user does it: by a new intent.

A virtual network of Ethernet frames cannot be carried by a format without Ethernet (IP-in-IP). For those, the
intent's VXLAN stays for ARP, and IP packets go into a tunnel beside it by two rules on each switch, sent over
its passive OpenFlow port.
"""

from __future__ import annotations

import socket
from typing import Any

from mininet.net import Mininet

from experiments.errors import ExperimentError
from experiments.peers.base import WIRE_MTU
from experiments.peers.vswitch import VSwitchOverlay
from topologies.controllers import Orchestrator
from topologies.lab import Lab
from topologies.links import TapLink
from topologies.nodes import VM, VSwitch
from vswitch.openflow import experimenter, spec
from vswitch.openflow.actions import Output, SetField
from vswitch.openflow.constants import FlowModCommand, MessageType
from vswitch.openflow.experimenter import TunnelAdd
from vswitch.openflow.flow_mod import FlowMod
from vswitch.openflow.instructions import ApplyActions, Instructions
from vswitch.openflow.message import HEADER, Message
from vswitch.openflow.messages import BarrierRequest, Experimenter, Hello
from vswitch.openflow.oxm import BY_NAME, Match, Oxm
from vswitch.tunnel_formats import IP, SHIPPED, Format, format_numbers, overhead

OWN = Format(
    name="own", outer_proto=17, opaque_len=16, id_offset=2, id_length=2, id_value=50000, flow_id_offset=10,
    flow_id_length=4, length_field=4, entropy_offset=0,
)  # fmt: skip
"""What a user adds by numbers: a header of eight bytes behind UDP."""
FORMATS = {**SHIPPED, OWN.name: OWN}
VM_MTU = WIRE_MTU - max(map(overhead, FORMATS.values()))
"""The same for all, so that all carry the same segments."""
LISTEN_PORT = 6640
BESIDE = spec.TUNNEL_PORT_BASE + 5000
PRIORITY = 60000
ETH_IPV4 = 0x0800
PATIENCE_S = 5.0


class VSwitchTunnels(VSwitchOverlay):
    """Two servers, each row of the table of formats in turn, with GRO and the VMs' TSO on or off."""

    name = "vswitch"
    programs = (*VSwitchOverlay.programs, "ethtool")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.state: dict[str, Any] = {}

    def start(self) -> None:
        self.lab = lab = Lab(run_dir=self.servers.run_dir / self.name)
        self.net = net = Mininet(controller=None, build=False)
        net.addController("c0", Orchestrator, lab=lab)
        cores = (self.servers.first, self.servers.second)
        for n, cpus in enumerate(cores, start=1):
            net.addSwitch(
                f"s{n}", cls=VSwitch, cpu=min(cpus), lab=lab, batch=True, listenPort=LISTEN_PORT + n
            )
        self.join(net, *net.switches)
        for n, switch in enumerate(net.switches, start=1):
            vm = net.addHost(f"vm{n}", cls=VM, lab=lab, iperf3=False, ip=f"10.0.0.{n}/24")
            net.addLink(vm, switch, cls=TapLink, mtu=VM_MTU)
        net.start()

    def prepare(self, config: dict[str, Any]) -> None:
        """config: encap, gro, tso."""
        assert self.lab and self.lab.orchestrator
        bare = FORMATS[config["encap"]].inner == IP
        wanted = {"encap": "vxlan" if bare else config["encap"], "gro": config["gro"], "bare": bare}
        for vm in self._vms():
            vm.cmd("ethtool -K", vm.tap.name if vm.tap else "eth0", "tso", "on" if config["tso"] else "off")
        if wanted == self.state:
            return
        if self.state.get("bare") and not bare:
            self._lead_aside(FlowModCommand.DELETE_STRICT)
        intent = self.lab.orchestrator.intent()
        self.lab.orchestrator.set_intent(
            intent
            | {
                "formats": {OWN.name: format_numbers(OWN)},
                "tunnel": {"format": wanted["encap"]},
                "offload": {"gro": config["gro"]},
            }
        )
        if bare:
            self._lead_aside(FlowModCommand.ADD)
        self.state = wanted

    def _lead_aside(self, command: FlowModCommand) -> None:
        """Add or delete, on both switches, the rules that send IP packets through a tunnel of bare IP."""
        assert self.lab
        for vm, switch, other in zip(self._vms(), self._switches(), self._switches()[::-1], strict=True):
            ends = [(end.underlay_ip, end.uplink_port() or 0) for end in (switch, other)]
            (local_ip, local_port), (remote_ip, remote_port) = ends
            tunnel = TunnelAdd(
                port_no=BESIDE, name="beside", format="ipip", local_ip=local_ip, remote_ip=remote_ip,
                local_mac=spec.port_mac(int(switch.dpid, 16), local_port),
                remote_mac=spec.port_mac(int(other.dpid, 16), remote_port), uplink_port=local_port,
            )  # fmt: skip
            exp_type, data = experimenter.to_wire(tunnel)
            messages: list[Message] = [Experimenter(experimenter.EXPERIMENTER_ID, exp_type, data)]
            mac = SetField(Oxm(BY_NAME["eth_dst"], int(vm.mac.replace(":", ""), 16)))
            vm_port = vm.server_port or 0
            paths = {vm_port: (Output(BESIDE),), BESIDE: (mac, Output(vm_port))}
            for in_port, actions in paths.items():
                match = Match.of(in_port=in_port, eth_type=ETH_IPV4)
                instructions = Instructions.of(ApplyActions(actions))
                messages.append(FlowMod(match, instructions, command=command, priority=PRIORITY))
            tell(switch.listenPort or 0, messages)

    def _switches(self) -> list[VSwitch]:
        assert self.lab
        return list(self.lab.switches.values())


def tell(port: int, messages: list[Message]) -> None:
    """Send messages to a switch's passive port; returns when it has taken all. Raises ExperimentError."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        connection.sendall(b"".join(m.encode() for m in [Hello(), *messages, BarrierRequest(xid=1)]))
        received = b""
        while True:
            data = connection.recv(1 << 16)
            if not data:
                raise ExperimentError("the switch ended the OpenFlow connection")
            received += data
            while len(received) >= HEADER.size:
                _, kind, length, _ = HEADER.unpack_from(received)
                if len(received) < length:
                    break
                message, received = received[:length], received[length:]
                if kind == MessageType.ERROR:
                    raise ExperimentError(f"the switch refused a rule: {message[12:]!r}")
                if kind == MessageType.BARRIER_REPLY:
                    return
