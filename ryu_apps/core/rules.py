# SPDX-License-Identifier: Apache-2.0
"""From the intent to the desired state of each switch: tunnels, rules, settings of formats and NICs.

Each server's switch holds the whole forwarding table of the virtual networks that have a VM on it: a
unicast packet goes straight to the server of its destination, and one for a MAC address that no VM has is
dropped. Broadcast and multicast are replicated by the sender's switch (head-end replication): to its own
VMs of the network and once to each server that has others. What came through a tunnel is flooded to local
VMs only, so no packet can go round. What bridges keep to themselves (spanning tree, LLDP …) goes nowhere.

A packet that comes through a tunnel without Ethernet header goes to the VM of its IP address. A format that
carries no Ethernet frames carries no ARP: who asks for a VM on another server is answered by the switch.

Servers that no wire joins directly reach each other through those between: there the packets of their
tunnels are forwarded by their outer destination, along the shortest way, and stay as they are.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field

from ryu_apps.core import offload
from ryu_apps.core.intent import Intent
from ryu_apps.core.nics import nic_settings
from ryu_apps.core.ports import Claims, claims
from ryu_apps.core.sections import VM
from vswitch.openflow import spec
from vswitch.openflow.actions import Action, Output, SetField
from vswitch.openflow.constants import Port
from vswitch.openflow.experimenter import FormatAdd, PacketTooBigSet, Setting, TunnelAdd
from vswitch.openflow.instructions import ApplyActions, GotoTable, Instruction, Instructions, WriteMetadata
from vswitch.openflow.oxm import BY_NAME, Canonical, Match, Oxm
from vswitch.openflow.spec import Cookie, Priority, Table
from vswitch.tunnel_formats import ETHERNET, IP

MULTICAST = (0x0100_0000_0000, 0x0100_0000_0000)
"""(value, mask) of eth_dst: the group bit, that is broadcast and multicast."""

COOKIE = 0x4F << 56
COOKIE_MASK = 0xFF << 56
"""The cookies of all our rules (spec.Cookie) and of no other application's."""

MAX_INDEXED_DPID = 0xFFFF
ETH_IPV4, ETH_ARP = 0x0800, 0x0806
ARP_REQUEST, ARP_REPLY = 1, 2

RuleKey = tuple[int, int, Canonical]


@dataclass(frozen=True)
class Rule:
    """One OpenFlow rule. Two rules with the same key cannot both be in a switch."""

    table: int
    priority: int
    match: Match
    instructions: Instructions
    cookie: int

    @property
    def key(self) -> RuleKey:
        return self.table, self.priority, self.match.canonical

    def same_effect(self, other: Rule) -> bool:
        """True when a switch that has `other` need not be told this rule."""
        return self.cookie == other.cookie and set(self.instructions.items) == set(other.instructions.items)

    def __str__(self) -> str:
        match = str(self.match) or "any"
        return f"table {self.table} priority {self.priority} {match} -> {self.instructions}"


@dataclass(frozen=True)
class SwitchState:
    """What a switch is to hold, or holds.

    tunnels: by port number; None when a switch has one there whose settings it did not tell.
    settings: formats, NICs, roles: what is not the default, by what it sets, in the order to set it in.
    proactive_reverse: whether a flow's reverse entry is installed with it.
    claims: the ports that it must have, which is not for it to hold.
    """

    rules: dict[RuleKey, Rule] = field(default_factory=dict)
    tunnels: dict[int, TunnelAdd | None] = field(default_factory=dict)
    settings: dict[Hashable, Setting] = field(default_factory=dict)
    proactive_reverse: bool = True
    claims: Claims = field(default_factory=dict, compare=False)


def desired_states(intent: Intent) -> dict[str, SwitchState]:
    """The state of every server's switch, by server name."""
    return {server: desired_state(intent, server) for server in intent.servers}


def desired_state(intent: Intent, server: str) -> SwitchState:
    """The state of the switch of one server. Raises spec.SpecError if a rule does not fit its table."""
    rules: dict[RuleKey, Rule] = {}
    for rule in _rules(intent, server):
        spec.check(rule.table, rule.match, rule.instructions)
        rules[rule.key] = rule
    tunnels: dict[int, TunnelAdd | None] = {tunnel.port_no: tunnel for tunnel in _tunnels(intent, server)}
    settings = {setting.key: setting for setting in _settings(intent, server)}
    return SwitchState(rules, tunnels, settings, intent.proactive_reverse, claims(intent, server))


def tunnel_port(intent: Intent, remote: str) -> int:
    """The number of the tunnel port to `remote`, the same on all switches.

    It follows from the remote's datapath id, so that a server that comes or goes does not renumber the
    others; only when a datapath id is above MAX_INDEXED_DPID it follows from its rank.
    """
    dpids = sorted(server.dpid for server in intent.servers.values())
    dpid = intent.servers[remote].dpid
    return spec.TUNNEL_PORT_BASE + (dpid if dpids[-1] <= MAX_INDEXED_DPID else dpids.index(dpid))


def peers(intent: Intent, server: str, network: str | None = None) -> list[str]:
    """The other servers that share `network` (None: any virtual network) with `server`."""
    ours = intent.networks_of(server) if network is None else intent.networks_of(server) & {network}
    return [other for other in intent.servers if other != server and intent.networks_of(other) & ours]


# ---- tunnels and offloads ----


def _tunnels(intent: Intent, server: str) -> Iterator[TunnelAdd]:
    local = intent.servers[server]
    for peer in peers(intent, server):
        remote = intent.servers[peer]
        # intent._check_tunnels: servers that share a network have both.
        uplink = intent.uplink_to(server, peer)
        assert local.underlay_ip and remote.underlay_ip and uplink is not None
        port_no = tunnel_port(intent, peer)
        yield TunnelAdd(
            port_no=port_no,
            name=f"tun{port_no}",
            format=intent.tunnel.format,
            local_ip=local.underlay_ip,
            remote_ip=remote.underlay_ip,
            local_mac=_uplink_mac(intent, server),
            remote_mac=_uplink_mac(intent, peer),
            uplink_port=uplink,
        )


def _settings(intent: Intent, server: str) -> Iterator[Setting]:
    for name, numbers in intent.formats.items():
        yield FormatAdd(name, numbers)
    if not intent.tunnel.packet_too_big:
        yield PacketTooBigSet(False)
    yield from nic_settings(intent, server)
    yield from offload.settings(intent, server)


# ---- rules, in the order in which a packet meets them ----


def _rules(intent: Intent, server: str) -> Iterator[Rule]:
    networks = sorted(intent.networks_of(server))
    if networks:
        yield _rule(Table.POLICY, Priority.DEFAULT, Match.of(), Cookie.POLICY, 0, GotoTable(Table.FORWARDING))
        reserved = Match.of(eth_dst=spec.RESERVED_ADDRESSES)
        yield _rule(Table.FORWARDING, Priority.RESERVED, reserved, Cookie.RESERVED, 0)
    for network in networks:
        yield from _classification(intent, server, network)
        yield from _forwarding(intent, server, network)
        yield from _output(intent, server, network)
    yield from _underlay(intent, server)


def _classification(intent: Intent, server: str, network: str) -> Iterator[Rule]:
    vni = intent.virtual_networks[network].vni
    enter = WriteMetadata(*spec.vni_metadata(vni)), GotoTable(Table.POLICY)
    for port in _local_ports(intent, server, network):
        yield _rule(
            Table.CLASSIFICATION, Priority.DEFAULT, Match.of(in_port=port), Cookie.CLASSIFY_PORT, vni, *enter
        )
    tunnel_id = {"tunnel_id": vni} if intent.tunnel_row().flow_id_bits else {}
    for port in _tunnel_ports(intent, server, network):
        match = Match.of(in_port=port, **tunnel_id)
        yield _rule(Table.CLASSIFICATION, Priority.DEFAULT, match, Cookie.CLASSIFY_TUNNEL, vni, *enter)


def _forwarding(intent: Intent, server: str, network: str) -> Iterator[Rule]:
    vni = intent.virtual_networks[network].vni
    metadata = spec.vni_metadata(vni)
    for vm in intent.vms.values():
        if vm.network == network:
            next_hop = vm.port if vm.server == server else tunnel_port(intent, vm.server)
            match = Match.of(metadata=metadata, eth_dst=number(vm.mac))
            yield _rule(
                Table.FORWARDING, Priority.HOST, match, Cookie.FORWARD_UNICAST, vni, *_to_next_hop(next_hop)
            )
    if peers(intent, server, network):
        frame = {"eth_dst": number(_uplink_mac(intent, server)), "eth_type": ETH_IPV4}
        for vm in _vms_of_bare_ip(intent, network, server):
            match = Match.of(metadata=metadata, ipv4_dst=_address(vm), **frame)
            to_vm = _to_next_hop(spec.BARE_IP_NEXT_HOP + vm.port)
            yield _rule(Table.FORWARDING, Priority.HOST, match, Cookie.FORWARD_UNICAST, vni, *to_vm)
    match = Match.of(metadata=metadata, eth_dst=MULTICAST)
    flood = _to_next_hop(spec.FLOOD_NEXT_HOP)
    yield _rule(Table.FORWARDING, Priority.FLOOD, match, Cookie.FORWARD_FLOOD, vni, *flood)


def _output(intent: Intent, server: str, network: str) -> Iterator[Rule]:
    vni = intent.virtual_networks[network].vni
    row = intent.tunnel_row()
    local = tuple(Output(port) for port in _local_ports(intent, server, network))
    tunnels = tuple(Output(port) for port in _tunnel_ports(intent, server, network))
    set_tunnel = (SetField(Oxm(BY_NAME["tunnel_id"], vni)),) if row.flow_id_bits else ()

    def rule(next_hop: int, *actions: Action, priority: int = Priority.DEFAULT, **match: int) -> Rule:
        fields = Match.of(metadata=spec.output_metadata(vni, next_hop), **match)
        return _rule(Table.OUTPUT, priority, fields, Cookie.OUTPUT, vni, ApplyActions(actions))

    for output in local:
        yield rule(output.port, output)
    for output in tunnels:
        yield rule(output.port, *set_tunnel, output)
    for vm in _vms_of_bare_ip(intent, network, server) if tunnels else ():
        to_vm = _set("eth_dst", number(vm.mac)), Output(vm.port)
        yield rule(spec.BARE_IP_NEXT_HOP + vm.port, *to_vm)
    if row.inner == IP:
        yield rule(spec.FLOOD_NEXT_HOP, *local)
        yield from _arp_answers(intent, server, network, rule)
        return
    # A switch never outputs to in_port, so the sender is left out of these without a rule for each.
    remote: tuple[Action, ...] = (*set_tunnel, *tunnels) if tunnels else ()
    yield rule(spec.FLOOD_NEXT_HOP, *local, *remote)
    for output in tunnels:
        yield rule(spec.FLOOD_NEXT_HOP, *local, priority=Priority.FLOOD, in_port=output.port)


def _underlay(intent: Intent, server: str) -> Iterator[Rule]:
    """What comes by a wire and is for another server leaves by the wire on the way there."""
    wires = intent.servers[server].wires
    if len(wires) < 2:
        return
    for port in intent.uplinks(server):
        match = Match.of(in_port=port)
        to_underlay = GotoTable(Table.UNDERLAY)
        yield _rule(Table.CLASSIFICATION, Priority.DEFAULT, match, Cookie.UNDERLAY, port, to_underlay)
    for name, other in intent.servers.items():
        port_no = intent.uplink_to(server, name) if name != server else None
        if other.underlay_ip and port_no is not None:
            match = Match.of(eth_type=ETH_IPV4, ipv4_dst=int(ipaddress.IPv4Address(other.underlay_ip)))
            send = ApplyActions((Output(port_no),))
            yield _rule(Table.UNDERLAY, Priority.HOST, match, Cookie.UNDERLAY, port_no, send)


def _arp_answers(intent: Intent, server: str, network: str, rule: Callable[..., Rule]) -> Iterator[Rule]:
    """VMs' requests for addresses elsewhere get an answer."""
    for vm in _vms(intent, network, server):
        for remote in _vms(intent, network):
            if remote.server != server:
                request = {"eth_type": ETH_ARP, "arp_op": ARP_REQUEST, "arp_tpa": _address(remote)}
                for next_hop in (spec.FLOOD_NEXT_HOP, tunnel_port(intent, remote.server)):
                    answer = _arp_reply(vm, remote)
                    yield rule(next_hop, *answer, priority=Priority.HOST, in_port=vm.port, **request)


def _arp_reply(asker: VM, owner: VM) -> tuple[Action, ...]:
    """Make a request an answer, and send it back where it came from."""
    fields = {
        "eth_src": number(owner.mac),
        "eth_dst": number(asker.mac),
        "arp_op": ARP_REPLY,
        "arp_sha": number(owner.mac),
        "arp_spa": _address(owner),
        "arp_tha": number(asker.mac),
        "arp_tpa": _address(asker),
    }
    return (*(_set(name, value) for name, value in fields.items()), Output(Port.IN_PORT))


def _set(name: str, value: int) -> SetField:
    return SetField(Oxm(BY_NAME[name], value))


def _rule(
    table: int, priority: int, match: Match, kind: Cookie, owner: int, *instructions: Instruction
) -> Rule:
    """owner: the VNI of the network, or the port of the underlay, that the rule is for."""
    return Rule(int(table), int(priority), match, Instructions.of(*instructions), spec.cookie(kind, owner))


def _to_next_hop(next_hop: int) -> tuple[WriteMetadata, GotoTable]:
    return WriteMetadata(*spec.next_hop_metadata(next_hop)), GotoTable(Table.OUTPUT)


def _local_ports(intent: Intent, server: str, network: str) -> list[int]:
    return sorted(vm.port for vm in _vms(intent, network, server))


def _tunnel_ports(intent: Intent, server: str, network: str) -> list[int]:
    return sorted(tunnel_port(intent, peer) for peer in peers(intent, server, network))


def _vms(intent: Intent, network: str, server: str | None = None) -> list[VM]:
    """The VMs of a network (on one server)."""
    return [vm for vm in intent.vms.values() if vm.network == network and server in (None, vm.server)]


def _vms_of_bare_ip(intent: Intent, network: str, server: str) -> list[VM]:
    """The VMs on a server that packets without Ethernet headers can be for."""
    if intent.tunnel_row().inner == ETHERNET:
        return []
    return [vm for vm in _vms(intent, network, server) if vm.ip and ":" not in vm.ip]


def _uplink_mac(intent: Intent, server: str) -> str:
    """What its tunnels' packets are addressed to, also after they were taken out."""
    end = intent.servers[server]
    assert end.uplink_port  # intent._check_tunnels
    return spec.port_mac(end.dpid, end.uplink_port)


def _address(vm: VM) -> int:
    """A VM's IPv4 address."""
    return int(ipaddress.IPv4Address(vm.ip))


def number(mac: str) -> int:
    """A MAC address as a number."""
    return int(mac.replace(":", ""), 16)
