# SPDX-License-Identifier: Apache-2.0
"""A packet on its way through the pipeline: its fields, what actions made of them, and who looked at what.

The fields come from the flow key. What no key has (ARP hardware addresses, what stands behind a popped
label …) is read from the frame, and makes the packet's treatment its own: `uncacheable`. A packet made of a
key alone has no frame to read: OutsideKey is raised.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from vswitch.agent import fields as f
from vswitch.agent.fields import PLACES, Masks
from vswitch.flow import FRAG_FIRST, FRAG_LATER, MAX_REMARKS, VLAN_PRESENT, FlowKey
from vswitch.openflow.oxm import (
    ARP,
    BY_NAME,
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
    MPLS,
    MPLS_MULTICAST,
    PBB,
    SCTP,
    TCP,
    UDP,
)

VLAN, QINQ = 0x8100, 0x88A8
_TPIDS = (VLAN, QINQ)
_IP_TYPES = (IPV4, IPV6)
_MPLS_TYPES = (MPLS, MPLS_MULTICAST)
_PORTS = (TCP, UDP, SCTP)
_ICMPS = (ICMP, ICMPV6)
_ETHERNET, _TAG, _LSE, _ITAG = 14, 4, 4, 4
_TCI = 0xEFFF

_OUTSIDE_BITS = sum(1 << index for index in range(f.OUTSIDE, f.FIELD_COUNT))
_L4_BITS = 1 << f.L4_SRC | 1 << f.L4_DST | 1 << f.ND_TARGET | 1 << f.ND_SLL | 1 << f.ND_TLL
_L3_INDEXES = (f.IP_PROTO, f.IP_TOS, f.IP_FRAG, f.IP_SRC, f.IP_DST, f.L4_SRC, f.L4_DST,
               *range(f.OUTSIDE, f.FIELD_COUNT))  # fmt: skip
_L3_BITS = sum(1 << index for index in _L3_INDEXES)
_L2_BITS = 1 << f.ETH_DST | 1 << f.ETH_SRC | 1 << f.VLAN_TCI | 1 << f.VLAN_INNER | 1 << f.ETH_TYPE
_PARTS = frozenset(("vlan_vid", "vlan_pcp", "ip_dscp", "ip_ecn", "mpls_label", "mpls_tc", "mpls_bos"))
"""Match fields that share a place in the vector with others."""

_ALL_BITS = (1 << 128) - 1
_NO_OUTSIDE = [0] * (f.FIELD_COUNT - f.OUTSIDE)
_DSCP = 0xFC
_PRECEDENCE = 3 << 3

_LOOK_TYPE: Masks = ((f.ETH_TYPE, 0xFFFF),)
_LOOK_TAGS: Masks = ((f.VLAN_TCI, 0xFFFF), (f.VLAN_INNER, 0xFFFF))
_LOOK_TAG: Masks = ((f.VLAN_TCI, VLAN_PRESENT),)
_LOOK_FRAGMENT: Masks = ((f.IP_FRAG, FRAG_LATER),)
_LOOK_HEADERS: Masks = (*_LOOK_TAGS, *_LOOK_TYPE)


class OutsideKey(Exception):
    """Something was looked at that the key alone does not tell."""


class LooksAgain(Exception):
    """What a meter made of the packet was looked at. The datapath knows, and looks the packet up again."""


class _Base(NamedTuple):
    """Where in the frame the headers begin that the fields do not tell."""

    offset: int  # behind the type field
    eth_type: int | None  # None: as the frame's type field says, and the Ethernet addresses are unknown too
    tags: int  # VLAN tags that were looked through before


class _Covered(NamedTuple):
    """The packet as it was before a header was pushed in front of it."""

    values: list[int]
    constant: list[int]
    unknown: int
    deeper: tuple[int, ...]
    base: _Base
    proto: int | None


class Packet:
    """The fields of one packet. Nothing here changes bytes; the datapath does, by the program.

    values: the vector of `fields`. looked: the bits of the key that anything depended on so far.
    uncacheable: what was looked at that the key does not tell, in words; None: nothing.
    remarks_seen: how many of the key's remarks were looked at. Before all are, the frame is not read: it is
    what the datapath has made of the packet by then. looks_again: may look() raise LooksAgain?
    """

    __slots__ = (
        "_base",
        "_constant",
        "_covered",
        "_deeper",
        "_later_frame",
        "_proto",
        "_remarked",
        "_remarks",
        "_reshaped",
        "frame",
        "key",
        "looked",
        "looks_again",
        "remarks_seen",
        "uncacheable",
        "unknown",
        "values",
    )

    def __init__(self, key: FlowKey, frame: bytes | None = None) -> None:
        self.key = key
        self._remarks = remarks_of(key)
        self.remarks_seen = 0
        self.looks_again = True
        self.frame = None if self._remarks else frame
        self._later_frame = frame
        self.values: list[int] = [*key, 0, key.in_port, *_NO_OUTSIDE]
        self.looked = [0] * f.KEY_FIELDS
        self.uncacheable: str | None = None
        self._constant = [0] * f.FIELD_COUNT  # bits that were written, and do not depend on the key any more
        self._constant[f.METADATA] = _ALL_BITS
        self.unknown = _OUTSIDE_BITS  # indexes whose values have to be read from the frame
        self._deeper: tuple[int, ...] = ()  # VLAN tags behind the inner one
        self._base = _Base(_ETHERNET, None, 0)
        self._proto: int | None = None  # the IP protocol, where it was written
        self._covered: list[_Covered] = []
        self._remarked = False  # by a meter, since its DSCP was known last
        self._reshaped = False  # the headers do not stand any more where they did

    # --- looking -----------------------------------------------------------------------------------------

    def look(self, masks: Masks) -> None:
        """Note that these bits of `values` are about to be looked at, and have them there.

        Raises OutsideKey when there is no frame to read them from, and LooksAgain.
        """
        looked, constant, unknown = self.looked, self._constant, self.unknown
        for index, mask in masks:
            if unknown >> index & 1:
                self._outside(f.NAMES[index])
                self._reveal()
                unknown = self.unknown
            elif index < f.KEY_FIELDS:
                if self._remarked and index == f.IP_TOS and mask & _DSCP:
                    self._look_at_remark()
                mask &= ~constant[index]
                looked[index] |= mask

    def get(self, name: str) -> int:
        """The value of a match field, looked at."""
        place = PLACES[name]
        self.look(((place.slot, place.mask),))
        return (self.values[place.slot] & place.mask) >> place.shift

    @property
    def is_ip(self) -> bool:
        self.look(_LOOK_TYPE)
        return self.values[f.ETH_TYPE] in _IP_TYPES

    @property
    def is_mpls(self) -> bool:
        self.look(_LOOK_TYPE)
        return self.values[f.ETH_TYPE] in _MPLS_TYPES

    @property
    def is_fragment(self) -> bool:
        """Part of a fragmented IP datagram?"""
        self.look(_LOOK_FRAGMENT)
        return self.values[f.IP_FRAG] != 0

    def of_arrival(self, indexes: tuple[int, ...]) -> list[int]:
        """What the packet came with in these fields of the key, looked at."""
        for index in indexes:
            self.looked[index] = _ALL_BITS
        return [self.key[index] for index in indexes]

    def _outside(self, what: str) -> None:
        if self.frame is None:
            raise OutsideKey(what)
        if self.uncacheable is None:
            self.uncacheable = f"{what} is not in the flow key"

    def _reveal(self) -> None:
        """Read what is unknown from the frame."""
        assert self.frame is not None
        found = _read(self.frame, self._base, self._proto)
        for index in range(f.FIELD_COUNT):
            if self.unknown >> index & 1:
                self.values[index] = found[index]
                self._constant[index] = _ALL_BITS
        self.unknown = 0

    def state(self) -> tuple[tuple[tuple[int, int, int], ...], int]:
        """How the vector follows from the key now: ((index, written bits, their values), …), and the indexes
        (as bits) for which it does not."""
        written = tuple(
            (index, bits, self.values[index] & bits)
            for index, bits in enumerate(self._constant)
            if bits and not self.unknown >> index & 1
        )
        return written, self.unknown

    # --- pipeline fields ---------------------------------------------------------------------------------

    def came_through(self, port_no: int) -> None:
        """Note the physical port. What it is of a tunnel, the key does not tell."""
        if port_no != self.key.in_port:
            self.values[f.IN_PHY_PORT] = port_no
            self._constant[f.IN_PHY_PORT] = _ALL_BITS

    def write_metadata(self, value: int, mask: int) -> None:
        self.values[f.METADATA] = self.values[f.METADATA] & ~mask | value & mask
        self._constant[f.METADATA] = _ALL_BITS

    def remark(self) -> None:
        """A meter may have changed the DSCP."""
        self._remarked = self._remarked or self.is_ip

    def _look_at_remark(self) -> None:
        """Have the DSCP that meters made of the one before, by the key's next remark."""
        if not self.looks_again or not self.is_ip or self.uncacheable is not None:
            return
        self._remarked = False
        self.looked[f.IP_TOS] |= _DSCP & ~self._constant[f.IP_TOS]
        tos = self.values[f.IP_TOS]
        if not may_be_remarked(tos) or self.remarks_seen == MAX_REMARKS:
            return
        if self.remarks_seen == len(self._remarks):
            raise LooksAgain
        precedence = self._remarks[self.remarks_seen]
        self.remarks_seen += 1
        self._write(f.IP_TOS, tos & _DSCP & ~_PRECEDENCE | precedence << 3, _DSCP)
        if self.has_all_remarks and not self._reshaped:
            self.frame = self._later_frame

    @property
    def has_all_remarks(self) -> bool:
        """Have all the key's remarks been looked at?"""
        return self.remarks_seen == len(self._remarks)

    @property
    def has_arrived(self) -> bool:
        """Is it a packet, and not but a key?"""
        return self._later_frame is not None

    # --- set-field ---------------------------------------------------------------------------------------

    def set_field(self, name: str, value: int) -> bool:
        """Write a field; False when the packet has no such header."""
        if not self._has(name):
            return False
        if name == "ip_dscp":
            self._remarked = False
        if name == "eth_type":
            self._set_eth_type(value)
        elif name == "ip_proto":
            self._set_ip_proto(value)
        elif name == "arp_op":
            self._write(f.IP_PROTO, value if value <= f.MAX_KEY_ARP_OP else 0)
            self._write(f.ARP_OP, value)
        else:
            place = PLACES[name]
            if name == "vlan_vid":
                value |= VLAN_PRESENT
            if name not in _PARTS:
                self._write(place.slot, value)
            else:
                if self.unknown >> place.slot & 1:
                    self.look(((place.slot, place.mask),))
                self._write(place.slot, value << place.shift, place.mask)
        return True

    def _has(self, name: str) -> bool:
        """Does the packet have the header that this field is in?"""
        if name in ("vlan_vid", "vlan_pcp"):
            self.look(_LOOK_TAG)
            return bool(self.values[f.VLAN_TCI] & VLAN_PRESENT)
        for required, wanted in BY_NAME[name].requires:
            if wanted is not None and self.get(required) not in wanted:
                return False
        if PLACES[name].slot in (f.L4_SRC, f.L4_DST):
            self.look(((f.IP_FRAG, FRAG_LATER & ~FRAG_FIRST),))
            return not self.values[f.IP_FRAG] & FRAG_LATER & ~FRAG_FIRST
        return True

    def _write(self, index: int, value: int, mask: int = _ALL_BITS) -> None:
        self.values[index] = self.values[index] & ~mask | value
        self._constant[index] |= mask
        self.unknown &= ~(1 << index)

    def _set_eth_type(self, eth_type: int) -> None:
        self.look(_LOOK_TYPE)
        if eth_type != self.values[f.ETH_TYPE]:
            self._reshaped = True
            self._obscure(self._base_at_l3()._replace(eth_type=eth_type))

    def _set_ip_proto(self, proto: int) -> None:
        before = self.get("ip_proto")
        if before != proto:
            self._write(f.IP_PROTO, proto)
            self._proto = proto
            if not (before in _PORTS and proto in _PORTS):
                self._base_at_l3()
                self.unknown |= _L4_BITS

    # --- push and pop ------------------------------------------------------------------------------------

    def push_vlan(self) -> None:
        self._reshaped = True
        self._base_at_l3()
        self.look(_LOOK_TAGS)
        tags = self._tags()
        self._set_tags((tags[0] if tags else VLAN_PRESENT, *tags))

    def pop_vlan(self) -> bool:
        """False when there is no tag."""
        self.look(_LOOK_TAG)
        if not self.values[f.VLAN_TCI] & VLAN_PRESENT:
            return False
        self._reshaped = True
        base = self._base_at_l3()
        self.look(_LOOK_HEADERS)
        tags = self._tags()
        self._set_tags(tags[1:])
        if len(tags) == 2 and self.values[f.ETH_TYPE] in _TPIDS and not self._covered:
            # another tag, behind those that the key has room for
            self._base = base._replace(tags=1)
            self.unknown |= _L3_BITS | 1 << f.VLAN_INNER | 1 << f.ETH_TYPE
        return True

    def push_mpls(self, eth_type: int) -> None:
        """In front of VLAN tags too (section 5.11)."""
        follows_label = self.is_mpls
        self.look(_LOOK_TAG)
        lse = 1
        if follows_label:
            self.look(((f.IP_SRC, _ALL_BITS),))
            tagged = self.values[f.VLAN_TCI] & VLAN_PRESENT
            lse = self.values[f.IP_SRC] & ~1 | (1 if tagged else 0)
        self._cover(eth_type)
        self._write(f.IP_SRC, lse)

    def pop_mpls(self, eth_type: int) -> bool:
        """False when there is no label."""
        if not self.is_mpls:
            return False
        self._reshaped = True
        if self._covered:
            outer = self._tags()
            dst, src = self.values[f.ETH_DST], self.values[f.ETH_SRC]
            constants = self._constant[f.ETH_DST], self._constant[f.ETH_SRC]
            self._uncover()
            self.values[f.ETH_DST], self.values[f.ETH_SRC] = dst, src
            self._constant[f.ETH_DST], self._constant[f.ETH_SRC] = constants
            self._uncovered_as(eth_type, outer)
        else:
            base = self._base_at_l3()
            self._obscure(base._replace(offset=base.offset + _LSE, eth_type=eth_type))
        return True

    def push_pbb(self, eth_type: int) -> None:
        self.look(_LOOK_TYPE)
        isid = 0
        if self.values[f.ETH_TYPE] == PBB:
            isid = self.get("pbb_isid")
        self._cover(eth_type)
        self._write(f.IP_DST, isid)

    def pop_pbb(self) -> bool:
        """False when there is no service tag."""
        self.look(_LOOK_TYPE)
        if self.values[f.ETH_TYPE] != PBB:
            return False
        self._reshaped = True
        if self._covered:
            self._uncover()
        else:
            base = self._base_at_l3()
            self._base = _Base(base.offset + _ITAG + _ETHERNET, None, 0)
            self.unknown |= _L2_BITS | _L3_BITS
            self._proto = None
            self._deeper = ()
        return True

    def _cover(self, eth_type: int) -> None:
        """A header comes in front of everything behind the Ethernet addresses."""
        self._reshaped = True
        base = self._base_at_l3()
        self._covered.append(
            _Covered(
                self.values[:],
                self._constant[:],
                self.unknown,
                self._deeper,
                base,
                self._proto,
            )
        )
        self._deeper = ()
        self._proto = None
        self._write(f.ETH_TYPE, eth_type)
        for index in (f.VLAN_TCI, f.VLAN_INNER, *_L3_INDEXES):
            self._write(index, 0)
        self.unknown = 0

    def _uncover(self) -> None:
        """The header that _cover() stands for goes; pipeline fields stay as they are."""
        covered = self._covered.pop()
        for index in (f.TUNNEL_ID, f.METADATA):
            covered.values[index], covered.constant[index] = self.values[index], self._constant[index]
        self.values[:] = covered.values
        self._constant[:] = covered.constant
        self.unknown, self._deeper = covered.unknown, covered.deeper
        self._base, self._proto = covered.base, covered.proto

    def _uncovered_as(self, eth_type: int, outer: tuple[int, ...]) -> None:
        """What a label covered is taken for `eth_type`; tags that were pushed in front of the label stay."""
        self.look(_LOOK_TAGS)
        tags = self._tags()
        natural = _TPIDS if tags else (self.values[f.ETH_TYPE],)
        if self.values[f.ETH_TYPE] in _MPLS_TYPES and not tags:
            natural = _MPLS_TYPES
        if eth_type not in natural:
            # bytes of one kind read as another: nothing of them makes sense
            for index in _L3_INDEXES:
                self._write(index, 0)
            tags = ()
        if eth_type not in _TPIDS or not tags:
            self._write(f.ETH_TYPE, eth_type)
        self._set_tags((*outer, *tags))

    def _tags(self) -> tuple[int, ...]:
        """All VLAN tags, the outermost first."""
        tags = self.values[f.VLAN_TCI], self.values[f.VLAN_INNER], *self._deeper
        return tuple(tci for tci in tags if tci)

    def _set_tags(self, tags: tuple[int, ...]) -> None:
        outer, inner, *deeper = (*tags, 0, 0)[: max(2, len(tags))]
        self._write(f.VLAN_TCI, outer)
        self._write(f.VLAN_INNER, inner)
        self._deeper = tuple(deeper)

    def _obscure(self, base: _Base) -> None:
        """Everything from the Ethernet type on is what the frame has at `base`."""
        assert base.eth_type is not None
        self._proto = None
        self._write(f.ETH_TYPE, base.eth_type)
        if self._covered:
            # the label or service tag that was pushed makes no sense as something else
            for index in _L3_INDEXES:
                self._write(index, 0)
            return
        self.unknown |= _L3_BITS
        tags = len(self._tags())
        self._base = base._replace(tags=tags)
        if base.eth_type in _TPIDS and tags < 2:
            self.unknown |= 1 << f.ETH_TYPE | 1 << f.VLAN_INNER | (0 if tags else 1 << f.VLAN_TCI)

    def _base_at_l3(self) -> _Base:
        """The base, told so that it begins behind the Ethernet type that `values` has.

        To be called before the number of tags changes.
        """
        base = self._base
        if base.eth_type is None or base.eth_type in _TPIDS:
            self.look(_LOOK_HEADERS)
            tags = min(len(self._tags()), 2)
            offset = base.offset + _TAG * (tags - base.tags)
            base = self._base = _Base(offset, self.values[f.ETH_TYPE], tags)
        return base

    # --- copies ------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """The packet as it is, for restore()."""
        return (
            self.values[:],
            self._constant[:],
            self.unknown,
            self._deeper,
            self._base,
            self._proto,
            self._covered[:],
            self._remarked,
            self._reshaped,
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Be what the packet was; what was looked at meanwhile stays noted."""
        values, constant, self.unknown, self._deeper, self._base, self._proto, covered, *flags = snapshot
        self._remarked, self._reshaped = flags
        self.values[:] = values
        self._constant[:] = constant
        self._covered = covered[:]


Snapshot = tuple[list[int], list[int], int, tuple[int, ...], _Base, int | None, list[_Covered], bool, bool]


def may_be_remarked(tos: int) -> bool:
    """Can a meter raise the drop precedence? Only within an AF class (RFC 2597)."""
    return 1 <= tos >> 5 <= 4 and not tos & 4 and 0 < tos >> 3 & 3 < 3


def remarks_of(key: FlowKey) -> tuple[int, ...]:
    """The drop precedences with which a packet was looked up again, in turn."""
    remarks, left = [], key.remarks
    while left:
        remarks.append(left & 3)
        left >>= 2
    return tuple(remarks)


def _read(frame: bytes, base: _Base, proto: int | None) -> list[int]:
    """The vector of what begins at `base`; fields that are not there are 0."""
    values = [0] * f.FIELD_COUNT
    offset, eth_type, tags = base
    if eth_type is None:
        if offset > len(frame):
            return values
        (eth_type,) = struct.unpack_from("!H", frame, offset - 2)
        values[f.ETH_DST] = int.from_bytes(frame[offset - 14 : offset - 8], "big")
        values[f.ETH_SRC] = int.from_bytes(frame[offset - 8 : offset - 2], "big")
    while tags < 2 and eth_type in _TPIDS and offset + _TAG <= len(frame):
        tci, eth_type = struct.unpack_from("!HH", frame, offset)
        values[f.VLAN_INNER if values[f.VLAN_TCI] or tags else f.VLAN_TCI] = tci & _TCI | VLAN_PRESENT
        offset += _TAG
        tags += 1
    values[f.ETH_TYPE] = eth_type
    rest = frame[offset:]
    if eth_type == ARP and len(rest) >= 28:
        _read_arp(values, rest)
    elif eth_type == IPV4 and len(rest) >= 20:
        _read_ipv4(values, rest, proto)
    elif eth_type == IPV6 and len(rest) >= 40:
        _read_ipv6(values, rest, proto)
    elif eth_type in _MPLS_TYPES and len(rest) >= 4:
        values[f.IP_SRC] = int.from_bytes(rest[:3], "big")
    elif eth_type == PBB and len(rest) >= 4:
        values[f.IP_DST] = int.from_bytes(rest[1:4], "big")
    return values


def _read_arp(values: list[int], arp: bytes) -> None:
    operation, sha, spa, tha, tpa = struct.unpack_from("!6xH6sI6sI", arp)
    values[f.ARP_OP] = operation
    values[f.IP_PROTO] = operation if operation <= f.MAX_KEY_ARP_OP else 0
    values[f.IP_SRC], values[f.IP_DST] = spa, tpa
    values[f.ARP_SHA], values[f.ARP_THA] = int.from_bytes(sha, "big"), int.from_bytes(tha, "big")


def _read_ipv4(values: list[int], ip: bytes, proto: int | None) -> None:
    first, tos, total, fragment, protocol, src, dst = struct.unpack_from("!BBH2xHxB2xII", ip)
    header = (first & 15) * 4
    if first >> 4 != 4 or header < 20 or not header <= total <= len(ip):
        return
    values[f.IP_TOS] = tos
    values[f.IP_FRAG] = FRAG_LATER if fragment & 0x1FFF else FRAG_FIRST if fragment & 0x2000 else 0
    values[f.IP_PROTO] = protocol
    values[f.IP_SRC], values[f.IP_DST] = src, dst
    _read_l4(values, protocol if proto is None else proto, ip[header:total])


_HOP_BY_HOP, _ROUTING, _FRAGMENT, _ESP, _AUTH, _NO_NEXT, _DESTINATION = 0, 43, 44, 50, 51, 59, 60
_SKIPPED = (_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION)
_MAX_EXTENSION_HEADERS = 8


def _read_ipv6(values: list[int], ip: bytes, proto: int | None) -> None:
    word, length, protocol = struct.unpack_from("!IHB", ip)
    if word >> 28 != 6 or 40 + length > len(ip):
        return
    values[f.IP_TOS] = word >> 20 & 0xFF
    values[f.IPV6_FLABEL] = word & 0xFFFFF
    values[f.IP_SRC], values[f.IP_DST] = int.from_bytes(ip[8:24], "big"), int.from_bytes(ip[24:40], "big")
    values[f.EXTHDR] = extension_headers(protocol, ip[40 : 40 + length])
    rest = ip[40 : 40 + length]
    for _ in range(_MAX_EXTENSION_HEADERS):
        if protocol not in _SKIPPED or len(rest) < 8:
            break
        size = 8 if protocol == _FRAGMENT else 8 + rest[1] * 8
        if size > len(rest):
            break
        if protocol == _FRAGMENT:
            place = rest[2] << 8 | rest[3]
            if place & 0xFFF9:
                values[f.IP_FRAG] = FRAG_LATER if place & 0xFFF8 else FRAG_FIRST
        protocol, rest = rest[0], rest[size:]
        if values[f.IP_FRAG] == FRAG_LATER:
            break
    values[f.IP_PROTO] = protocol
    _read_l4(values, protocol if proto is None else proto, rest)


_EXTHDR_BITS = {_ESP: 1 << 1, _AUTH: 1 << 2, _DESTINATION: 1 << 3, _FRAGMENT: 1 << 4, _ROUTING: 1 << 5,
                _HOP_BY_HOP: 1 << 6}  # fmt: skip
_EXTHDR_NO_NEXT, _EXTHDR_REPEATED, _EXTHDR_OUT_OF_ORDER = 1 << 0, 1 << 7, 1 << 8
_EXTHDR_RANKS = {_HOP_BY_HOP: 0, _DESTINATION: 1, _ROUTING: 2, _FRAGMENT: 3, _AUTH: 4, _ESP: 5}
"""The order that RFC 8200, section 4.1, prefers; destination options may come again at the end."""


def extension_headers(protocol: int, rest: bytes) -> int:
    """The bits of OXM_OF_IPV6_EXTHDR (1.3.5, section 7.2.3.8) for a chain that begins with `protocol`."""
    bits, rank = 0, -1
    seen: list[int] = []
    while protocol in _EXTHDR_BITS or protocol == _NO_NEXT:
        if protocol == _NO_NEXT:
            return bits | _EXTHDR_NO_NEXT
        if seen.count(protocol) >= (2 if protocol == _DESTINATION else 1):
            bits |= _EXTHDR_REPEATED
        own_rank = _EXTHDR_RANKS[protocol]
        if protocol == _DESTINATION and (_ROUTING in seen or _DESTINATION in seen or rank > own_rank):
            own_rank = 6
        if own_rank < rank:
            bits |= _EXTHDR_OUT_OF_ORDER
        rank = max(rank, own_rank)
        seen.append(protocol)
        bits |= _EXTHDR_BITS[protocol]
        if protocol == _ESP or len(rest) < 8:
            return bits
        if protocol == _FRAGMENT:
            size = 8
        elif protocol == _AUTH:
            size = (rest[1] + 2) * 4
        else:
            size = 8 + rest[1] * 8
        protocol, rest = rest[0], rest[size:]
    return bits


_NEIGHBOUR_TARGET = slice(8, 24)
_SOURCE_OPTION, _TARGET_OPTION = 1, 2


def _read_l4(values: list[int], proto: int, segment: bytes) -> None:
    if values[f.IP_FRAG] == FRAG_LATER or len(segment) < 4:
        return
    if proto in _PORTS:
        values[f.L4_SRC], values[f.L4_DST] = struct.unpack_from("!HH", segment)
    elif proto in _ICMPS:
        values[f.L4_SRC], values[f.L4_DST] = segment[0], segment[1]
    if proto != ICMPV6 or len(segment) < _NEIGHBOUR_TARGET.stop:
        return
    values[f.ND_TARGET] = int.from_bytes(segment[_NEIGHBOUR_TARGET], "big")
    options = segment[_NEIGHBOUR_TARGET.stop :]
    while len(options) >= 8 and options[1]:
        if options[0] == _SOURCE_OPTION:
            values[f.ND_SLL] = int.from_bytes(options[2:8], "big")
        elif options[0] == _TARGET_OPTION:
            values[f.ND_TLL] = int.from_bytes(options[2:8], "big")
        options = options[options[1] * 8 :]
