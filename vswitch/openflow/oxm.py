# SPDX-License-Identifier: Apache-2.0
"""OpenFlow Extensible Match: the 40 basic fields as a table, and matches of them (1.3.5, section 7.2.3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import NamedTuple

from vswitch.openflow.constants import BadMatch
from vswitch.openflow.errors import OpenFlowError
from vswitch.openflow.wire import pad, padded_length, unpack

OXM_CLASS_BASIC = 0x8000
MATCH_TYPE_OXM = 1
VID_PRESENT = 0x1000
VID_NONE = 0

IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
MPLS, MPLS_MULTICAST, PBB = 0x8847, 0x8848, 0x88E7
ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT = 135, 136

_HEADER = Struct("!HBB")
_MATCH_HEADER = Struct("!HH")

Requirement = tuple[str, frozenset[int] | None]
"""A field that must come earlier in the match, and the values it may have (None: any but 0)."""


class Field(NamedTuple):
    """One OXM field."""

    number: int
    name: str
    bits: int
    maskable: bool
    requires: tuple[Requirement, ...]
    style: str  # how people read it: "int", "hex", "mac", "ipv4", "ipv6"
    length: int  # bytes on the wire, without a mask
    full_mask: int


WIDER_ON_THE_WIRE = {"ipv6_flabel": 4, "mpls_label": 4}


def _field(
    number: int, name: str, bits: int, maskable: bool, requires: tuple[Requirement, ...], style: str
) -> Field:
    length = WIDER_ON_THE_WIRE.get(name, (bits + 7) // 8)
    return Field(number, name, bits, maskable, requires, style, length, (1 << bits) - 1)


def _one_of(name: str, *values: int) -> tuple[Requirement, ...]:
    return ((name, frozenset(values)),)


_IP = _one_of("eth_type", IPV4, IPV6)
_ON_IPV4 = _one_of("eth_type", IPV4)
_ON_IPV6 = _one_of("eth_type", IPV6)
_ON_ARP = _one_of("eth_type", ARP)
_ON_MPLS = _one_of("eth_type", MPLS, MPLS_MULTICAST)
_ON_TCP, _ON_UDP, _ON_SCTP = (_IP + _one_of("ip_proto", protocol) for protocol in (TCP, UDP, SCTP))
_ON_ICMP = _ON_IPV4 + _one_of("ip_proto", ICMP)
_ON_ICMPV6 = _ON_IPV6 + _one_of("ip_proto", ICMPV6)
_ON_ND = _ON_ICMPV6 + _one_of("icmpv6_type", NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT)

FIELDS: tuple[Field, ...] = tuple(
    _field(number, *row)
    for number, row in enumerate(
        (
            # name, bits, maskable, requires, style
            ("in_port", 32, False, (), "int"),
            ("in_phy_port", 32, False, (("in_port", None),), "int"),
            ("metadata", 64, True, (), "hex"),
            ("eth_dst", 48, True, (), "mac"),
            ("eth_src", 48, True, (), "mac"),
            ("eth_type", 16, False, (), "hex"),
            ("vlan_vid", 13, True, (), "hex"),
            ("vlan_pcp", 3, False, (("vlan_vid", None),), "int"),
            ("ip_dscp", 6, False, _IP, "int"),
            ("ip_ecn", 2, False, _IP, "int"),
            ("ip_proto", 8, False, _IP, "int"),
            ("ipv4_src", 32, True, _ON_IPV4, "ipv4"),
            ("ipv4_dst", 32, True, _ON_IPV4, "ipv4"),
            ("tcp_src", 16, False, _ON_TCP, "int"),
            ("tcp_dst", 16, False, _ON_TCP, "int"),
            ("udp_src", 16, False, _ON_UDP, "int"),
            ("udp_dst", 16, False, _ON_UDP, "int"),
            ("sctp_src", 16, False, _ON_SCTP, "int"),
            ("sctp_dst", 16, False, _ON_SCTP, "int"),
            ("icmpv4_type", 8, False, _ON_ICMP, "int"),
            ("icmpv4_code", 8, False, _ON_ICMP, "int"),
            ("arp_op", 16, False, _ON_ARP, "int"),
            ("arp_spa", 32, True, _ON_ARP, "ipv4"),
            ("arp_tpa", 32, True, _ON_ARP, "ipv4"),
            ("arp_sha", 48, True, _ON_ARP, "mac"),
            ("arp_tha", 48, True, _ON_ARP, "mac"),
            ("ipv6_src", 128, True, _ON_IPV6, "ipv6"),
            ("ipv6_dst", 128, True, _ON_IPV6, "ipv6"),
            ("ipv6_flabel", 20, True, _ON_IPV6, "hex"),
            ("icmpv6_type", 8, False, _ON_ICMPV6, "int"),
            ("icmpv6_code", 8, False, _ON_ICMPV6, "int"),
            ("ipv6_nd_target", 128, False, _ON_ND, "ipv6"),
            ("ipv6_nd_sll", 48, False, _ON_ICMPV6 + _one_of("icmpv6_type", NEIGHBOUR_SOLICITATION), "mac"),
            ("ipv6_nd_tll", 48, False, _ON_ICMPV6 + _one_of("icmpv6_type", NEIGHBOUR_ADVERTISEMENT), "mac"),
            ("mpls_label", 20, False, _ON_MPLS, "int"),
            ("mpls_tc", 3, False, _ON_MPLS, "int"),
            ("mpls_bos", 1, False, _ON_MPLS, "int"),
            ("pbb_isid", 24, True, _one_of("eth_type", PBB), "int"),
            ("tunnel_id", 64, True, (), "hex"),
            ("ipv6_exthdr", 9, True, _ON_IPV6, "hex"),
        )
    )
)
BY_NAME = {field.name: field for field in FIELDS}

MAX_MATCH_LENGTH = padded_length(
    _MATCH_HEADER.size + sum(_HEADER.size + (field.length << field.maskable) for field in FIELDS)
)
"""No match is longer: it has no field twice."""


class Oxm(NamedTuple):
    """One field of a match (or of a set-field action). `mask` is None when none came with it."""

    field: Field
    value: int
    mask: int | None = None

    @property
    def effective_mask(self) -> int:
        return self.field.full_mask if self.mask is None else self.mask & self.field.full_mask

    def encode(self) -> bytes:
        field, length = self.field, self.field.length
        value = self.value.to_bytes(length, "big")
        if self.mask is None:
            return _HEADER.pack(OXM_CLASS_BASIC, field.number << 1, length) + value
        mask = self.mask.to_bytes(length, "big")
        return _HEADER.pack(OXM_CLASS_BASIC, field.number << 1 | 1, 2 * length) + value + mask

    def __str__(self) -> str:
        name, style = self.field.name, self.field.style
        if self.mask is None:
            return f"{name}={format_value(style, self.value)}"
        return f"{name}={format_value(style, self.value)}/{format_value(style, self.mask)}"


def format_value(style: str, value: int) -> str:
    """A field's value as people write it."""
    if style == "mac":
        return value.to_bytes(6, "big").hex(":")
    if style == "ipv4":
        return str(IPv4Address(value))
    if style == "ipv6":
        return str(IPv6Address(value))
    return hex(value) if style == "hex" else str(value)


def decode_oxm(data: bytes, offset: int, end: int) -> tuple[Oxm, int]:
    """The OXM TLV at `offset`, which must end by `end`, and the offset behind it.

    Checks class, field, length, mask and value by themselves; prerequisites are the match's business.
    """
    if end - offset < _HEADER.size:
        raise OpenFlowError(BadMatch.BAD_LEN, "the match ends inside a field's header")
    oxm_class, field_and_mask, length = _HEADER.unpack_from(data, offset)
    start = offset + _HEADER.size
    if end - start < length:
        raise OpenFlowError(BadMatch.BAD_LEN, "the match ends inside a field")
    number, has_mask = field_and_mask >> 1, field_and_mask & 1
    if oxm_class != OXM_CLASS_BASIC or number >= len(FIELDS):
        raise OpenFlowError(BadMatch.BAD_FIELD, f"class {oxm_class:#06x} field {number}")
    field = FIELDS[number]
    if has_mask and not field.maskable:
        raise OpenFlowError(BadMatch.BAD_MASK, f"{field.name} cannot be masked")
    size = field.length
    if length != (2 * size if has_mask else size):
        raise OpenFlowError(BadMatch.BAD_LEN, f"{field.name} with {length} bytes")
    value = int.from_bytes(data[start : start + size], "big")
    mask = int.from_bytes(data[start + size : start + 2 * size], "big") if has_mask else None
    oxm = Oxm(field, value, mask)
    _check_value(oxm)
    return oxm, start + length


def _check_value(oxm: Oxm) -> None:
    if oxm.mask is not None and oxm.value & ~oxm.mask:
        raise OpenFlowError(BadMatch.BAD_WILDCARDS, f"{oxm.field.name} has bits outside its mask")
    if oxm.value > oxm.field.full_mask:
        raise OpenFlowError(BadMatch.BAD_VALUE, f"{oxm.field.name}={oxm.value:#x}")


Canonical = tuple[tuple[int, int, int], ...]
Shape = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Match:
    """An OXM match: its fields as they came, and the bytes they came in (without the padding)."""

    fields: tuple[Oxm, ...]
    wire: bytes

    @classmethod
    def of(cls, **values: int | tuple[int, int]) -> Match:
        """`Match.of(in_port=1, ipv4_dst=(0x0A000000, 0xFF000000))`; fields in the order of their numbers.

        Raises OpenFlowError as a switch would for a wrong value, mask, or missing prerequisite, and KeyError
        for an unknown field.
        """
        fields = []
        for name, value in sorted(values.items(), key=lambda item: BY_NAME[item[0]].number):
            oxm = Oxm(BY_NAME[name], *value) if isinstance(value, tuple) else Oxm(BY_NAME[name], value)
            if oxm.mask is not None and not oxm.field.maskable:
                raise OpenFlowError(BadMatch.BAD_MASK, f"{name} cannot be masked")
            _check_value(oxm)
            fields.append(oxm)
        _check_prerequisites(fields)
        body = b"".join(oxm.encode() for oxm in fields)
        return cls(tuple(fields), _MATCH_HEADER.pack(MATCH_TYPE_OXM, _MATCH_HEADER.size + len(body)) + body)

    @classmethod
    def decode(cls, data: bytes, offset: int = 0) -> tuple[Match, int]:
        """The match at `offset` of `data`, and the offset behind its padding."""
        match_type, length = unpack(_MATCH_HEADER, data, offset, BadMatch.BAD_LEN)
        if match_type != MATCH_TYPE_OXM:
            raise OpenFlowError(BadMatch.BAD_TYPE, f"match type {match_type}")
        end = offset + length
        if length < _MATCH_HEADER.size or offset + padded_length(length) > len(data):
            raise OpenFlowError(BadMatch.BAD_LEN, f"match of {length} bytes")
        fields = []
        position = offset + _MATCH_HEADER.size
        while position < end:
            oxm, position = decode_oxm(data, position, end)
            fields.append(oxm)
        _check_prerequisites(fields)
        return cls(tuple(fields), bytes(data[offset:end])), offset + padded_length(length)

    def encode(self) -> bytes:
        """The bytes as they came, padded to a multiple of 8."""
        return pad(self.wire)

    @cached_property
    def canonical(self) -> Canonical:
        """(field number, value, mask) in the order of the numbers, without fully wildcarded fields.

        Equal for matches that match the same packets.
        """
        return tuple(
            sorted(
                [
                    (field.number, value, field.full_mask if mask is None else mask & field.full_mask)
                    for field, value, mask in self.fields
                    if mask is None or mask & field.full_mask
                ]
            )
        )

    @cached_property
    def shape(self) -> Shape:
        """Which bits of which fields it looks at, whatever their values: (field number, mask)."""
        return tuple([(number, mask) for number, _value, mask in self.canonical])

    def get(self, name: str) -> Oxm | None:
        return next((oxm for oxm in self.fields if oxm.field.name == name), None)

    def __iter__(self) -> Iterator[Oxm]:
        return iter(self.fields)

    def __str__(self) -> str:
        return ",".join(map(str, self.fields))


def _check_prerequisites(fields: list[Oxm]) -> None:
    """Each field's prerequisites come before it, and no field twice."""
    seen: dict[str, int] = {}
    for oxm in fields:
        name = oxm.field.name
        if name in seen:
            raise OpenFlowError(BadMatch.DUP_FIELD, name)
        for required, values in oxm.field.requires:
            value = seen.get(required)
            if not value or (values is not None and value not in values):
                raise OpenFlowError(BadMatch.BAD_PREREQ, f"{name} without its {required}")
        seen[name] = oxm.value
