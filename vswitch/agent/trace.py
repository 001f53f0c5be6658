# SPDX-License-Identifier: Apache-2.0
"""Explains a packet's way through the tables, as Open vSwitch's `ofproto/trace` does. Changes nothing."""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from vswitch.agent.fields import REMARKS
from vswitch.agent.groups import Group
from vswitch.agent.packet import Packet
from vswitch.agent.pipeline import Note, Step, World, translate
from vswitch.errors import ConfigError
from vswitch.flow import FlowKey
from vswitch.openflow.constants import GroupType
from vswitch.openflow.oxm import (
    ARP,
    BY_NAME,
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
    MPLS,
    MPLS_MULTICAST,
    NEIGHBOUR_SOLICITATION,
    PBB,
    SCTP,
    TCP,
    UDP,
)
from vswitch.words import unknown

Describe = Callable[[Any], Any]

_SYNONYMS = {
    "dl_src": "eth_src",
    "dl_dst": "eth_dst",
    "dl_type": "eth_type",
    "dl_vlan": "vlan_vid",
    "dl_vlan_pcp": "vlan_pcp",
    "nw_proto": "ip_proto",
    "nw_ecn": "ip_ecn",
    "nd_target": "ipv6_nd_target",
    "nd_sll": "ipv6_nd_sll",
    "nd_tll": "ipv6_nd_tll",
    "ipv6_label": "ipv6_flabel",
    "tun_id": "tunnel_id",
}
"""ovs-ofctl's names of fields."""

_BY_TYPE = {
    # ovs-ofctl's name: the fields that it stands for, by the Ethernet type
    "nw_src": {IPV4: "ipv4_src", ARP: "arp_spa", IPV6: "ipv6_src"},
    "nw_dst": {IPV4: "ipv4_dst", ARP: "arp_tpa", IPV6: "ipv6_dst"},
}
_PORT_NAMES = {TCP: "tcp", UDP: "udp", SCTP: "sctp"}
_WORDS = {
    "ip": {"eth_type": IPV4},
    "ipv6": {"eth_type": IPV6},
    "arp": {"eth_type": ARP},
    "mpls": {"eth_type": MPLS},
    "icmp": {"eth_type": IPV4, "ip_proto": ICMP},
    "icmp6": {"eth_type": IPV6, "ip_proto": ICMPV6},
    **{name: {"eth_type": IPV4, "ip_proto": number} for number, name in _PORT_NAMES.items()},
    **{f"{name}6": {"eth_type": IPV6, "ip_proto": number} for number, name in _PORT_NAMES.items()},
}
"""ovs-ofctl's words for kinds of packets."""

_DEFAULT_TTL = 64
_VID = 0xFFF


def parse_flow(text: str, port_number: Callable[[str], int]) -> dict[str, int]:
    """The fields of `in_port=1,eth_type=0x800,ipv4_dst=10.0.0.1`, by their OXM names; raises ConfigError.

    ovs-ofctl's names and words (`tcp,nw_dst=10.0.0.1,tp_dst=80`) are understood as well.
    """
    fields: dict[str, int] = {}
    later: list[tuple[str, str]] = []
    for part in filter(None, text.replace(" ", "").split(",")):
        name, equals, value = part.partition("=")
        if not equals:
            if name not in _WORDS:
                raise unknown("flow", "there is no kind of packet", name, _WORDS)
            fields |= _WORDS[name]
        elif name == "in_port":
            fields["in_port"] = port_number(value)
        else:
            later.append((_SYNONYMS.get(name, name), value))
    for name, value in sorted(later, key=lambda pair: pair[0] not in ("eth_type", "ip_proto")):
        name = _full_name(name, fields)
        if name == "nw_tos":
            fields["ip_dscp"] = _number("nw_tos", value, 8) >> 2
        elif name in BY_NAME:
            fields[name] = _value(name, value)
        else:
            raise unknown("flow", "there is no field", name, (*BY_NAME, *_SYNONYMS, *_BY_TYPE))
    for name in list(fields):
        for required, values in BY_NAME[name].requires:
            if values is not None and len(values) == 1:
                fields.setdefault(required, next(iter(values)))
    return fields


def _full_name(name: str, fields: dict[str, int]) -> str:
    """The field that one of ovs-ofctl's names stands for in a packet of this kind."""
    eth_type, proto = fields.get("eth_type", IPV4), fields.get("ip_proto")
    if name in _BY_TYPE:
        return _BY_TYPE[name].get(eth_type, name)
    if name in ("tp_src", "tp_dst") and proto in _PORT_NAMES:
        return f"{_PORT_NAMES[proto]}_{name[3:]}"
    if name in ("icmp_type", "icmp_code"):
        return name.replace("icmp", "icmpv6" if eth_type == IPV6 else "icmpv4")
    return name


def _value(name: str, text: str) -> int:
    field = BY_NAME[name]
    try:
        if field.style == "mac" and ":" in text:
            value = int.from_bytes(bytes.fromhex(text.replace(":", "")), "big")
        elif field.style == "ipv4" and "." in text:
            value = int(IPv4Address(text))
        elif field.style == "ipv6" and ":" in text:
            value = int(IPv6Address(text))
        else:
            value = int(text, 0)
    except ValueError:
        raise ConfigError(
            "flow", f"{text!r} is no value of {name}", f"a value of {field.bits} bits"
        ) from None
    return _in_range(name, value, field.bits)


def _number(name: str, text: str, bits: int) -> int:
    try:
        return _in_range(name, int(text, 0), bits)
    except ValueError:
        raise ConfigError("flow", f"{text!r} is no value of {name}", f"a number of {bits} bits") from None


def _in_range(name: str, value: int, bits: int) -> int:
    if not 0 <= value < 1 << bits:
        raise ConfigError("flow", f"{value:#x} is no value of {name}", f"{bits} bits")
    return value


# --- a frame of such fields ------------------------------------------------------------------------------


def build_frame(fields: dict[str, int]) -> bytes:
    """A frame that has these fields; the others are 0, lengths and the IPv4 header's checksum are right."""
    eth_type = fields.get("eth_type", 0)
    payload = _payload(eth_type, fields)
    frame = _bytes(fields, "eth_dst", 6) + _bytes(fields, "eth_src", 6)
    if fields.get("vlan_vid") or "vlan_pcp" in fields:
        tci = fields.get("vlan_vid", 0) & _VID | fields.get("vlan_pcp", 0) << 13
        frame += struct.pack("!HH", 0x8100, tci)
    return (frame + struct.pack("!H", eth_type) + payload).ljust(60, b"\0")


def _bytes(fields: dict[str, int], name: str, length: int) -> bytes:
    return fields.get(name, 0).to_bytes(length, "big")


def _payload(eth_type: int, fields: dict[str, int]) -> bytes:
    if eth_type == ARP:
        return (
            struct.pack("!HHBBH", 1, IPV4, 6, 4, fields.get("arp_op", 1))
            + _bytes(fields, "arp_sha", 6)
            + _bytes(fields, "arp_spa", 4)
            + _bytes(fields, "arp_tha", 6)
            + _bytes(fields, "arp_tpa", 4)
        )
    if eth_type in (MPLS, MPLS_MULTICAST):
        label, tc, bos = (fields.get(f"mpls_{name}", default) for name, default in _LSE_PARTS)
        return struct.pack("!I", label << 12 | tc << 9 | bos << 8 | _DEFAULT_TTL)
    if eth_type == PBB:
        return struct.pack("!I", fields.get("pbb_isid", 0)) + bytes(14)
    tos = fields.get("ip_dscp", 0) << 2 | fields.get("ip_ecn", 0)
    if eth_type == IPV4:
        return _ipv4(tos, _l4(fields), fields)
    if eth_type == IPV6:
        l4 = _l4(fields)
        word = 6 << 28 | tos << 20 | fields.get("ipv6_flabel", 0)
        header = struct.pack("!IHBB", word, len(l4), fields.get("ip_proto", 59), _DEFAULT_TTL)
        return header + _bytes(fields, "ipv6_src", 16) + _bytes(fields, "ipv6_dst", 16) + l4
    return b""


_LSE_PARTS = (("label", 0), ("tc", 0), ("bos", 1))


def _ipv4(tos: int, l4: bytes, fields: dict[str, int]) -> bytes:
    addresses = _bytes(fields, "ipv4_src", 4) + _bytes(fields, "ipv4_dst", 4)
    head = struct.pack("!BBHHHBB", 0x45, tos, 20 + len(l4), 0, 0, _DEFAULT_TTL, fields.get("ip_proto", 0))
    total = sum(struct.unpack("!9H", head + addresses))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return head + struct.pack("!H", ~total & 0xFFFF) + addresses + l4


def _l4(fields: dict[str, int]) -> bytes:
    proto = fields.get("ip_proto", 0)
    if proto in _PORT_NAMES:
        name = _PORT_NAMES[proto]
        ports = struct.pack("!HH", fields.get(f"{name}_src", 0), fields.get(f"{name}_dst", 0))
        return {
            TCP: ports + struct.pack("!8xBBH4x", 5 << 4, 2, 0xFFFF),
            UDP: ports + struct.pack("!HH", 8, 0),
            SCTP: ports + bytes(8),
        }[proto]
    if proto == ICMP:
        return struct.pack("!BB6x", fields.get("icmpv4_type", 0), fields.get("icmpv4_code", 0))
    if proto != ICMPV6:
        return b""
    kind = fields.get("icmpv6_type", 0)
    message = struct.pack("!BB6x", kind, fields.get("icmpv6_code", 0)) + _bytes(fields, "ipv6_nd_target", 16)
    name, option = ("ipv6_nd_sll", 1) if kind == NEIGHBOUR_SOLICITATION else ("ipv6_nd_tll", 2)
    return message + (bytes([option, 1]) + _bytes(fields, name, 6) if name in fields else b"")


# --- the explanation -------------------------------------------------------------------------------------


def explain(
    key: FlowKey, frame: bytes, world: World, describe_key: Describe, describe_action: Describe
) -> dict[str, Any]:
    """What happens to the packet, step by step, as plain JSON values."""
    notes: list[Note] = []
    translation = translate(Packet(key, frame), world, notes)
    return {
        "packet": describe_key(key),
        "frame": frame.hex(),
        "steps": [{"depth": note.depth, "kind": note.kind, "text": _text(note)} for note in notes],
        "program": [describe_action(action) for action in translation.program],
        "drop": None if translation.program else translation.drop.name.lower(),
        "cacheable": translation.uncacheable is None,
        "uncacheable": translation.uncacheable,
        "depends_on": [
            f"{FlowKey._fields[index]}/{mask & (1 << _BITS[index]) - 1:#x}"
            for index, mask in translation.masks
            if index != REMARKS
        ],
    }


_BITS = dict(enumerate((32, 64, 48, 48, 16, 16, 16, 8, 8, 8, 128, 128, 16, 16, 14)))
"""Bits of the key's fields, by index."""


def _text(note: Note) -> str:
    if note.kind == "table":
        return _table_text(note.about)
    if note.kind == "group":
        group: Group = note.about
        kind = GroupType(group.type).name.lower()
        return f"group {group.group_id}, {kind}, {len(group.buckets)} bucket(s)"
    if note.kind == "bucket":
        weight = f", weight {note.about.weight}" if note.about.weight else ""
        return f"bucket {note.text}{weight}"
    return note.text or str(note.about)


def _table_text(step: Step) -> str:
    rule = step.rule
    if rule is None:
        return f"table {step.table.table_id}: no rule matches; the packet is dropped"
    match = str(rule.match) or "everything"
    return f"table {step.table.table_id}: {match}, priority {rule.priority}, cookie {rule.cookie:#x}"
