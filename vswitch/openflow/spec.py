# SPDX-License-Identifier: Apache-2.0
"""The overlay's pipeline, declared once for switch and controller: tables, metadata layout, names of numbers.

A packet's way: CLASSIFICATION finds its virtual network, POLICY permits or drops it, FORWARDING finds
its next hop, OUTPUT sends it there. What is on its way from one server to another passes CLASSIFICATION and
UNDERLAY alone. The metadata carries the VNI (low 32 bits) and the next hop (high 32).
The switch itself is an ordinary multi-table OpenFlow switch: check() is for the controller, before it sends.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any, NamedTuple

from vswitch.errors import VSwitchError
from vswitch.openflow.actions import Action
from vswitch.openflow.constants import ActionType, InstructionType
from vswitch.openflow.instructions import ApplyActions, GotoTable, Instruction, WriteActions, WriteMetadata
from vswitch.openflow.oxm import Match

TUNNEL_PORT_BASE = 1000
"""Tunnel port number = this + index of the remote; smaller numbers are physical ports."""

VNI_MASK = 0x0000_0000_FFFF_FFFF
NEXT_HOP_MASK = 0xFFFF_FFFF_0000_0000
NEXT_HOP_SHIFT = 32
MAX_VNI = 0xFFFFFF
FLOOD_NEXT_HOP = 0xFFFF_FFFF
"""The next hop of broadcast, multicast and unknown destinations."""
BARE_IP_NEXT_HOP = 0x8000_0000
"""The next hop of a packet that came without Ethernet header: this + the port of the VM of its address."""

RESERVED_ADDRESSES = (0x0180_C200_0000, 0xFFFF_FFFF_FFF0)
"""(value, mask) of eth_dst that no bridge forwards: spanning tree, LACP, LLDP (IEEE 802.1Q, table 8-1)."""


class Table(enum.IntEnum):
    CLASSIFICATION = 0
    POLICY = 1
    FORWARDING = 2
    OUTPUT = 3
    UNDERLAY = 4


class Priority(enum.IntEnum):
    """Of rules; higher wins."""

    MISS = 0  # the table-miss rule
    DEFAULT = 1000  # what holds where nothing more special does
    FLOOD = 2000  # broadcast and multicast
    PREFIX = 3000  # + prefix length
    HOST = 4000  # a MAC or a full address
    RESERVED = 4500  # what no bridge forwards
    POLICY = 5000  # + rank of the policy


class Cookie(enum.IntEnum):
    """High 16 bits of a rule's cookie: what the rule is for; the rest numbers its owner."""

    CLASSIFY_PORT = 0x4F01
    CLASSIFY_TUNNEL = 0x4F02
    POLICY = 0x4F03
    FORWARD_UNICAST = 0x4F04
    FORWARD_FLOOD = 0x4F05
    OUTPUT = 0x4F06
    RESERVED = 0x4F07
    UNDERLAY = 0x4F08


COOKIE_SHIFT = 48


def cookie(kind: Cookie, number: int = 0) -> int:
    """The 64-bit cookie of a rule of this kind."""
    return kind << COOKIE_SHIFT | number


def vni_metadata(vni: int) -> tuple[int, int]:
    """(value, mask) of the metadata of a packet in virtual network `vni`, whatever its next hop."""
    return vni, VNI_MASK


def next_hop_metadata(next_hop: int) -> tuple[int, int]:
    """(value, mask) that writes the next hop and leaves the VNI."""
    return next_hop << NEXT_HOP_SHIFT, NEXT_HOP_MASK


def output_metadata(vni: int, next_hop: int) -> int:
    """The whole metadata of a packet that reaches OUTPUT."""
    return next_hop << NEXT_HOP_SHIFT | vni


def port_mac(dpid: int, port_no: int) -> str:
    """The hardware address of a wire port that was given none: 02:4f, the low 24 bits of dpid, the port."""
    return bytes((0x02, 0x4F, *(dpid & 0xFFFFFF).to_bytes(3, "big"), port_no & 0xFF)).hex(":")


def local_mac(dpid: int) -> str:
    """The hardware address of OFPP_LOCAL: 02:4c, the low 32 bits of dpid."""
    return bytes((0x02, 0x4C, *(dpid & 0xFFFF_FFFF).to_bytes(4, "big"))).hex(":")


class TableSpec(NamedTuple):
    """What a rule of one table may consist of."""

    id: Table
    purpose: str
    match: frozenset[str]
    instructions: frozenset[InstructionType]
    actions: frozenset[ActionType]
    set_fields: frozenset[str]
    next_tables: frozenset[int]


_ADDRESSES = {"eth_type", "ipv4_src", "ipv4_dst", "ipv6_src", "ipv6_dst"}
_PORTS = {f"{protocol}_{end}" for protocol in ("tcp", "udp", "sctp") for end in ("src", "dst")} | {
    "icmpv4_type",
    "icmpv4_code",
    "icmpv6_type",
    "icmpv6_code",
}
_ARP_FIELDS = {"arp_op", "arp_spa", "arp_tpa", "arp_sha", "arp_tha"}
_NOTHING: frozenset[Any] = frozenset()

TABLES: dict[int, TableSpec] = {
    table.id: table
    for table in (
        TableSpec(
            Table.CLASSIFICATION,
            "in_port (and tunnel_id) to virtual network; a wire's to the underlay",
            frozenset({"in_port", "tunnel_id"}),
            frozenset({InstructionType.WRITE_METADATA, InstructionType.GOTO_TABLE}),
            _NOTHING,
            _NOTHING,
            frozenset({Table.POLICY, Table.UNDERLAY}),
        ),
        TableSpec(
            Table.POLICY,
            "permit (goto) or deny (no instruction) per virtual network",
            frozenset({"metadata", "eth_src", "eth_dst", "ip_proto", "ip_dscp"} | _ADDRESSES | _PORTS),
            frozenset({InstructionType.GOTO_TABLE}),
            _NOTHING,
            _NOTHING,
            frozenset({Table.FORWARDING}),
        ),
        TableSpec(
            Table.FORWARDING,
            "destination to next hop: MAC FIB, prefixes, flood; reserved addresses to none",
            frozenset({"metadata", "eth_dst", "eth_type", "ipv4_dst", "ipv6_dst"}),
            frozenset({InstructionType.WRITE_METADATA, InstructionType.GOTO_TABLE}),
            _NOTHING,
            _NOTHING,
            frozenset({Table.OUTPUT}),
        ),
        TableSpec(
            Table.OUTPUT,
            "next hop to tunnel id and port; in_port tells flooded packets of tunnels from those of VMs. "
            "Gives what came as bare IP its VM's address; where tunnels carry no frames, answers ARP",
            frozenset({"metadata", "in_port", "eth_type", "arp_op", "arp_tpa"}),
            frozenset({InstructionType.APPLY_ACTIONS, InstructionType.WRITE_ACTIONS}),
            frozenset({ActionType.OUTPUT, ActionType.SET_FIELD}),
            frozenset({"tunnel_id", "eth_dst", "eth_src"} | _ARP_FIELDS),
            _NOTHING,
        ),
        TableSpec(
            Table.UNDERLAY,
            "packets of other servers' tunnels: the outer destination to the wire on the way there",
            frozenset({"eth_type", "ipv4_dst"}),
            frozenset({InstructionType.APPLY_ACTIONS}),
            frozenset({ActionType.OUTPUT}),
            _NOTHING,
            _NOTHING,
        ),
    )
}


class SpecError(VSwitchError):
    """A rule that the pipeline's declaration does not allow."""


def check(table_id: int, match: Match | Iterable[str], instructions: Iterable[Instruction]) -> None:
    """Raise SpecError unless table `table_id` allows the rule.

    match: a Match, or anything that iterates over the names of its fields (a dict does).
    """
    table = TABLES.get(table_id)
    if table is None:
        raise SpecError(f"table {table_id} is not in the pipeline")
    names = {oxm.field.name for oxm in match} if isinstance(match, Match) else set(match)
    if names - table.match:
        raise SpecError(f"table {table.id.name} does not match on {', '.join(sorted(names - table.match))}")
    for instruction in instructions:
        _check_instruction(table, instruction)


def _check_instruction(table: TableSpec, instruction: Instruction) -> None:
    if instruction.TYPE not in table.instructions:
        raise SpecError(f"table {table.id.name} has no instruction {instruction.TYPE.name}")
    if isinstance(instruction, GotoTable) and instruction.table_id not in table.next_tables:
        raise SpecError(f"table {table.id.name} does not lead to table {instruction.table_id}")
    if isinstance(instruction, WriteMetadata) and instruction.metadata & ~instruction.mask:
        raise SpecError(f"table {table.id.name} writes metadata outside its mask")
    if isinstance(instruction, (ApplyActions, WriteActions)):
        for action in instruction.actions:
            _check_action(table, action)


def _check_action(table: TableSpec, action: Action) -> None:
    if action.TYPE not in table.actions:
        raise SpecError(f"table {table.id.name} has no action {action.TYPE.name}")
    oxm = getattr(action, "oxm", None)
    if oxm is not None and oxm.field.name not in table.set_fields:
        raise SpecError(f"table {table.id.name} does not set {oxm.field.name}")
