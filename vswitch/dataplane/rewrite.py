# SPDX-License-Identifier: Apache-2.0
"""Changes that action programs make to the headers of `t['outgoing']` (OpenFlow 1.3.5, section 5.12).

An operation sees the headers as a receiver would: what stands behind the VLAN tags is IP, ARP, MPLS or PBB by
its Ethernet type, and nothing behind MPLS or PBB is seen. Each returns DONE or why not. Checksums are kept
right by what changed (RFC 1624), so that a wrong one stays wrong.
"""

from vswitch.dataplane import checksum, crc32c
from vswitch.dataplane.compiled import compiled
from vswitch.dataplane.ethernet import (
    ETH_ARP,
    ETH_HEADER,
    ETH_MPLS,
    ETH_MPLS_MULTICAST,
    ETH_PBB,
    ETH_QINQ,
    ETH_VLAN,
    MPLS_ENTRY,
    PBB_TAG,
    VLAN_TAG,
)
from vswitch.dataplane.intrinsics import (
    copy,
    load8,
    load16,
    load32,
    load_le32,
    store8,
    store16,
    store32,
    store_le32,
)
from vswitch.dataplane.outgoing import (
    complete_checksum,
    drop_front,
    is_ip,
    is_tunnelled_by_sender,
    network_offset,
    open_front,
    parse_anew,
    reach,
    set_tos,
)
from vswitch.dataplane.parse import FRAG_LATER, PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP
from vswitch.dataplane.ports.vnet import is_super_frame
from vswitch.layout import Csum

SETTABLE = (
    "eth_dst", "eth_src", "eth_type", "vlan_vid", "vlan_pcp", "ip_dscp", "ip_ecn", "ip_proto", "ipv4_src",
    "ipv4_dst",
    "tcp_src", "tcp_dst", "udp_src", "udp_dst", "sctp_src", "sctp_dst", "icmpv4_type", "icmpv4_code",
    "arp_op", "arp_spa", "arp_tpa", "arp_sha", "arp_tha", "ipv6_src", "ipv6_dst", "ipv6_flabel",
    "icmpv6_type", "icmpv6_code", "ipv6_nd_target", "ipv6_nd_sll", "ipv6_nd_tll",
    "mpls_label", "mpls_tc", "mpls_bos", "pbb_isid",
)  # fmt: skip
"""The fields that Op.SET_FIELD writes, by the names of their OXMs; its first argument is an index here."""

FIELD_NUMBERS = {name: number for number, name in enumerate(SETTABLE)}

(
    ETH_DST, ETH_SRC, ETH_TYPE, VLAN_VID, VLAN_PCP, IP_DSCP, IP_ECN, IP_PROTO, IPV4_SRC, IPV4_DST,
    TCP_SRC, TCP_DST, UDP_SRC, UDP_DST, SCTP_SRC, SCTP_DST, ICMPV4_TYPE, ICMPV4_CODE,
    ARP_OP, ARP_SPA, ARP_TPA, ARP_SHA, ARP_THA, IPV6_SRC, IPV6_DST, IPV6_FLABEL,
    ICMPV6_TYPE, ICMPV6_CODE, IPV6_ND_TARGET, IPV6_ND_SLL, IPV6_ND_TLL,
    MPLS_LABEL, MPLS_TC, MPLS_BOS, PBB_ISID,
) = range(len(SETTABLE))  # fmt: skip

DONE = 0
MISSING = 1
"""The packet has no such header; it stays as it is."""
NO_ROOM = 2
"""The headers would become longer than the scratch has room for."""
BAD_TTL = 3
"""The TTL would become 0; the packet stays as it is."""

ETH_ADDRESSES = 12
ARP_PACKET = 28
PROTO_IPV4, PROTO_IPV6, PROTO_ROUTING, PROTO_FRAGMENT = 4, 41, 43, 44
ND_SOLICITATION, ND_ADVERTISEMENT = 135, 136
ND_SOURCE_LINK, ND_TARGET_LINK = 1, 2
MPLS, IPV4, IPV6 = 1, 4, 6
"""Headers that have a TTL."""


# What the headers are


@compiled
def _network(mem, out):
    """Offset of what stands behind the VLAN tags."""
    return network_offset(mem, out["header"], out["header_len"])


@compiled
def _eth_type(mem, out, network):
    """The Ethernet type of what stands at offset `network`."""
    return load16(mem, out["header"] + network - 2)


@compiled
def _has_tag(mem, t):
    """Whether a VLAN tag stands behind the Ethernet addresses."""
    eth_type = load16(mem, t["outgoing"]["header"] + ETH_ADDRESSES)
    return (eth_type == ETH_VLAN or eth_type == ETH_QINQ) and reach(mem, t, ETH_HEADER + VLAN_TAG)


@compiled
def _find_mpls(mem, t):
    """Offset of the MPLS label stack entry on top, or 0."""
    found = _find(mem, t, ETH_MPLS, MPLS_ENTRY)
    return found if found else _find(mem, t, ETH_MPLS_MULTICAST, MPLS_ENTRY)


@compiled
def _find_pbb(mem, t):
    """Offset of the I-TAG's control information, or 0."""
    return _find(mem, t, ETH_PBB, PBB_TAG)


@compiled
def _find(mem, t, eth_type, length):
    """Offset of the header of this Ethernet type behind the VLAN tags, or 0; its `length` bytes are there."""
    network = _network(mem, t["outgoing"])
    if _eth_type(mem, t["outgoing"], network) != eth_type:
        return 0
    return network if reach(mem, t, network + length) else 0


@compiled
def _has_l4(mem, t, proto, ip_version, length):
    """Whether the first `length` bytes of this protocol's header are there. ip_version 0: either."""
    out = t["outgoing"]
    if not is_ip(mem, out) or out["ip_proto"] != proto or out["frag"] == FRAG_LATER:
        return False
    if ip_version != 0 and out["ip_version"] != ip_version:
        return False
    return length <= _l4_length(mem, out) and reach(mem, t, out["l4"] + length)


@compiled
def _l4_length(mem, out):
    """Bytes behind the IP headers, as the IP header tells."""
    l3 = out["header"] + out["l3"]
    if out["ip_version"] == 4:
        return load16(mem, l3 + 2) - (out["l4"] - out["l3"])
    return load16(mem, l3 + 4) + 40 - (out["l4"] - out["l3"])


# Checksums


@compiled
def _replace16(mem, at, value):
    """Write a word; what the sum over it changes by."""
    before = load16(mem, at)
    store16(mem, at, value)
    return (~before & 0xFFFF) + value


@compiled
def _replace_mac(mem, at, mac):
    """Write a MAC address; what the sum over it changes by."""
    change = _replace16(mem, at, (mac >> 32) & 0xFFFF)
    change += _replace16(mem, at + 2, (mac >> 16) & 0xFFFF)
    return change + _replace16(mem, at + 4, mac & 0xFFFF)


@compiled
def _replace_ipv6(mem, at, high, low):
    """Write an IPv6 address; what the sum over it changes by."""
    change = 0
    for word in range(4):
        shift = 48 - 16 * word
        change += _replace16(mem, at + 2 * word, (high >> shift) & 0xFFFF)
        change += _replace16(mem, at + 8 + 2 * word, (low >> shift) & 0xFFFF)
    return change


@compiled
def _amend(mem, field, change):
    """Adjust a checksum to a change of what it covers (RFC 1624, equation 3)."""
    store16(mem, field, checksum.finish((~load16(mem, field) & 0xFFFF) + change))


@compiled
def _amend_l4(mem, t, change, of_pseudo_header):
    """Adjust the L4 checksum to a change of the pseudo-header, or of what it covers beside."""
    out = t["outgoing"]
    proto = out["ip_proto"]
    place = -1
    if proto == PROTO_TCP or proto == PROTO_UDP:
        place = checksum.l4_field(proto)
    elif (proto == PROTO_ICMPV6 and out["ip_version"] == 6) or (proto == PROTO_ICMP and not of_pseudo_header):
        place = 2
    if place < 0 or not _has_l4(mem, t, proto, 0, place + 2):
        return
    field = out["header"] + out["l4"] + place
    is_own_partial = out["csum"] == Csum.PARTIAL.value and not is_tunnelled_by_sender(out)
    if not is_own_partial and proto == PROTO_UDP and load16(mem, field) == 0:
        return  # it has none (RFC 768)
    if is_own_partial or is_super_frame(out):
        if of_pseudo_header:
            store16(mem, field, checksum.fold(load16(mem, field) + change))
        return
    _amend(mem, field, change)
    if proto == PROTO_UDP and load16(mem, field) == 0:
        store16(mem, field, 0xFFFF)


# Set-field


@compiled
def set_field(mem, t, field, high, low):
    """Write a field, given by its number; `high` and `low` are 64 bits each of the value."""
    if field <= ETH_TYPE:
        return _set_ethernet(mem, t, field, low)
    if field <= VLAN_PCP:
        return _set_vlan(mem, t, field, low)
    if field <= IP_PROTO:
        return _set_ip(mem, t, field, low)
    if field <= IPV4_DST:
        return _set_ipv4(mem, t, field, low)
    if field <= SCTP_DST:
        return _set_port(mem, t, field, low)
    if field <= ICMPV4_CODE:
        return _set_icmp(mem, t, PROTO_ICMP, 4, field == ICMPV4_TYPE, low)
    if field <= ARP_THA:
        return _set_arp(mem, t, field, low)
    if field <= IPV6_FLABEL:
        return _set_ipv6(mem, t, field, high, low)
    if field <= ICMPV6_CODE:
        return _set_icmp(mem, t, PROTO_ICMPV6, 6, field == ICMPV6_TYPE, low)
    if field <= IPV6_ND_TLL:
        return _set_nd(mem, t, field, high, low)
    if field <= MPLS_BOS:
        return _set_mpls(mem, t, field, low)
    return _set_pbb(mem, t, low)


@compiled
def _set_ethernet(mem, t, field, value):
    out = t["outgoing"]
    if field == ETH_TYPE:
        at = out["header"] + _network(mem, out) - 2
        if load16(mem, at) != value:
            complete_checksum(mem, t)
            store16(mem, at, value)
            parse_anew(mem, t)
        return DONE
    _replace_mac(mem, out["header"] + (0 if field == ETH_DST else 6), value)
    return DONE


@compiled
def _set_vlan(mem, t, field, value):
    if not _has_tag(mem, t):
        return MISSING
    at = t["outgoing"]["header"] + ETH_HEADER
    tci = load16(mem, at)
    if field == VLAN_VID:
        store16(mem, at, (tci & 0xF000) | (value & 0xFFF))
    else:
        store16(mem, at, (tci & 0x1FFF) | ((value & 7) << 13))
    return DONE


@compiled
def _set_ip(mem, t, field, value):
    out = t["outgoing"]
    if not is_ip(mem, out):
        return MISSING
    if field == IP_PROTO:
        if out["ip_proto"] != value:
            _set_ip_proto(mem, t, value)
    elif field == IP_DSCP:
        set_tos(mem, out, ((value & 0x3F) << 2) | (out["tos"] & 3))
    else:
        set_tos(mem, out, (out["tos"] & ~3) | (value & 3))
    return DONE


@compiled
def _set_ip_proto(mem, t, value):
    """The checksum that stays right is that of the header which stands there, by the old protocol."""
    out = t["outgoing"]
    complete_checksum(mem, t)
    _amend_l4(mem, t, (~out["ip_proto"] & 0xFFFF) + value, True)
    l3 = out["header"] + out["l3"]
    if out["ip_version"] == 4:
        word = (load8(mem, l3 + 8) << 8) | (value & 0xFF)
        _amend(mem, l3 + 10, _replace16(mem, l3 + 8, word))
    else:
        store8(mem, _walk_extensions(mem, out)[0], value)
    parse_anew(mem, t)


@compiled
def _walk_extensions(mem, out):
    """(where the number of the protocol behind IPv6 and its extension headers stands, whether a routing
    header names another final destination, which the checksum covers) (RFC 8200, sections 4 and 8.1)."""
    place = out["header"] + out["l3"] + 6
    header = out["header"] + out["l3"] + 40
    is_routed = False
    while header < out["header"] + out["l4"]:
        proto = load8(mem, place)
        if proto == PROTO_ROUTING and load8(mem, header + 3) > 0:
            is_routed = True
        place = header
        header += 8 if proto == PROTO_FRAGMENT else 8 + load8(mem, header + 1) * 8
    return place, is_routed


@compiled
def _set_ipv4(mem, t, field, value):
    out = t["outgoing"]
    if not is_ip(mem, out) or out["ip_version"] != 4:
        return MISSING
    l3 = out["header"] + out["l3"]
    at = l3 + (12 if field == IPV4_SRC else 16)
    change = _replace16(mem, at, (value >> 16) & 0xFFFF) + _replace16(mem, at + 2, value & 0xFFFF)
    _amend(mem, l3 + 10, change)
    _amend_l4(mem, t, change, True)
    return DONE


@compiled
def _set_ipv6(mem, t, field, high, low):
    out = t["outgoing"]
    if not is_ip(mem, out) or out["ip_version"] != 6:
        return MISSING
    l3 = out["header"] + out["l3"]
    if field == IPV6_FLABEL:
        store32(mem, l3, (load32(mem, l3) & 0xFFF00000) | (low & 0xFFFFF))
        return DONE
    change = _replace_ipv6(mem, l3 + (8 if field == IPV6_SRC else 24), high, low)
    if field == IPV6_SRC or not _walk_extensions(mem, out)[1]:
        _amend_l4(mem, t, change, True)
    return DONE


@compiled
def _set_port(mem, t, field, value):
    out = t["outgoing"]
    proto = PROTO_TCP if field <= TCP_DST else PROTO_UDP if field <= UDP_DST else PROTO_SCTP
    if not _has_l4(mem, t, proto, 0, 4):
        return MISSING
    is_source = field == TCP_SRC or field == UDP_SRC or field == SCTP_SRC
    place = 0 if is_source else 2
    if proto == PROTO_SCTP:
        return _set_sctp_port(mem, t, place, value)
    _amend_l4(mem, t, _replace16(mem, out["header"] + out["l4"] + place, value), False)
    return DONE


@compiled
def _set_sctp_port(mem, t, place, value):
    """SCTP's checksum covers the whole datagram, which a fragment is not (RFC 9260, appendix A)."""
    out = t["outgoing"]
    if out["frag"] or not _has_l4(mem, t, PROTO_SCTP, 0, 12):
        return MISSING
    at = out["header"] + out["l4"]
    difference = load16(mem, at + place) ^ value
    store16(mem, at + place, value)
    behind = _l4_length(mem, out) - place - 2
    store_le32(mem, at + 8, load_le32(mem, at + 8) ^ crc32c.of_difference(difference, behind))
    return DONE


@compiled
def _set_icmp(mem, t, proto, ip_version, is_type, value):
    out = t["outgoing"]
    if not _has_l4(mem, t, proto, ip_version, 4):
        return MISSING
    at = out["header"] + out["l4"]
    before = load16(mem, at)
    word = (before & 0xFF) | ((value & 0xFF) << 8) if is_type else (before & 0xFF00) | (value & 0xFF)
    _amend_l4(mem, t, _replace16(mem, at, word), False)
    return DONE


@compiled
def _set_arp(mem, t, field, value):
    arp = _find(mem, t, ETH_ARP, ARP_PACKET)
    if arp == 0:
        return MISSING
    at = t["outgoing"]["header"] + arp
    if field == ARP_OP:
        store16(mem, at + 6, value)
    elif field == ARP_SHA:
        _replace_mac(mem, at + 8, value)
    elif field == ARP_SPA:
        store32(mem, at + 14, value)
    elif field == ARP_THA:
        _replace_mac(mem, at + 18, value)
    else:
        store32(mem, at + 24, value)
    return DONE


@compiled
def _set_nd(mem, t, field, high, low):
    """Neighbour discovery's target, and link-layer address options (RFC 4861, sections 4.3, 4.4, 4.6.1)."""
    out = t["outgoing"]
    if not _has_l4(mem, t, PROTO_ICMPV6, 6, 24):
        return MISSING
    kind = load8(mem, out["header"] + out["l4"])
    if field == IPV6_ND_TARGET:
        if not (kind == ND_SOLICITATION or kind == ND_ADVERTISEMENT):
            return MISSING
        _amend_l4(mem, t, _replace_ipv6(mem, out["header"] + out["l4"] + 8, high, low), False)
        return DONE
    wanted = ND_SOURCE_LINK if field == IPV6_ND_SLL else ND_TARGET_LINK
    if kind != (ND_SOLICITATION if field == IPV6_ND_SLL else ND_ADVERTISEMENT):
        return MISSING
    option = 24
    while _has_l4(mem, t, PROTO_ICMPV6, 6, option + 8):
        at = out["header"] + out["l4"] + option
        if load8(mem, at) == wanted:
            _amend_l4(mem, t, _replace_mac(mem, at + 2, low), False)
            return DONE
        size = load8(mem, at + 1) * 8
        if size == 0:
            break
        option += size
    return MISSING


@compiled
def _set_mpls(mem, t, field, value):
    mpls = _find_mpls(mem, t)
    if mpls == 0:
        return MISSING
    at = t["outgoing"]["header"] + mpls
    entry = load32(mem, at)
    if field == MPLS_LABEL:
        entry = (entry & 0xFFF) | ((value & 0xFFFFF) << 12)
    elif field == MPLS_TC:
        entry = (entry & 0xFFFFF1FF) | ((value & 7) << 9)
    else:
        entry = (entry & 0xFFFFFEFF) | ((value & 1) << 8)
    store32(mem, at, entry)
    return DONE


@compiled
def _set_pbb(mem, t, value):
    pbb = _find_pbb(mem, t)
    if pbb == 0:
        return MISSING
    at = t["outgoing"]["header"] + pbb
    store32(mem, at, (load32(mem, at) & 0xFF000000) | (value & 0xFFFFFF))
    return DONE


# Push and pop


@compiled
def push(mem, t, ethertype):
    """Put a tag in front; its fields are copied from the outer ones that there are (1.3.5, 5.12.1)."""
    if ethertype == ETH_VLAN or ethertype == ETH_QINQ:
        return _push_vlan(mem, t, ethertype)
    if ethertype == ETH_PBB:
        return _push_pbb(mem, t)
    return _push_mpls(mem, t, ethertype)


@compiled
def _push_vlan(mem, t, ethertype):
    out = t["outgoing"]
    tci = load16(mem, out["header"] + ETH_HEADER) & 0xEFFF if _has_tag(mem, t) else 0
    if not open_front(out, VLAN_TAG):
        return NO_ROOM
    _move_forward(mem, out["header"], ETH_ADDRESSES, VLAN_TAG)
    store16(mem, out["header"] + ETH_ADDRESSES, ethertype)
    store16(mem, out["header"] + ETH_HEADER, tci)
    return DONE


@compiled
def _push_mpls(mem, t, ethertype):
    """In front of VLAN tags too: immediately behind the Ethernet header (1.3.5, section 5.12)."""
    out = t["outgoing"]
    mpls = _find_mpls(mem, t)
    entry = 0
    if mpls:
        entry = load32(mem, out["header"] + mpls) & 0xFFFFFEFF
    elif is_ip(mem, out):
        entry = _load_ttl(mem, out, out["ip_version"], out["l3"])
    if mpls != ETH_HEADER:
        entry |= 0x100  # bottom of stack: no other entry follows
    if not open_front(out, MPLS_ENTRY):
        return NO_ROOM
    _move_forward(mem, out["header"], ETH_HEADER, MPLS_ENTRY)
    store16(mem, out["header"] + ETH_ADDRESSES, ethertype)
    store32(mem, out["header"] + ETH_HEADER, entry)
    return DONE


@compiled
def _push_pbb(mem, t):
    """A new Ethernet header with the customer's addresses, and an I-TAG (IEEE 802.1Q, section 9.7)."""
    out = t["outgoing"]
    pbb = _find_pbb(mem, t)
    service = load32(mem, out["header"] + pbb) & 0xFFFFFF if pbb else 0
    priority = load16(mem, out["header"] + ETH_HEADER) >> 13 if _has_tag(mem, t) else 0
    if not open_front(out, ETH_HEADER + PBB_TAG):
        return NO_ROOM
    at = out["header"]
    copy(mem, at, at + ETH_HEADER + PBB_TAG, ETH_ADDRESSES)
    store16(mem, at + ETH_ADDRESSES, ETH_PBB)
    store32(mem, at + ETH_HEADER, (priority << 29) | service)
    return DONE


@compiled
def pop_vlan(mem, t):
    """Take the VLAN tag behind the Ethernet addresses away."""
    if not _has_tag(mem, t):
        return MISSING
    _close_gap(mem, t["outgoing"], ETH_ADDRESSES, VLAN_TAG)
    if t["outgoing"]["ip_version"] == 0:
        parse_anew(mem, t)
    return DONE


@compiled
def pop_mpls(mem, t, ethertype):
    """Take the MPLS entry on top away; what is behind it is of type `ethertype`."""
    mpls = _find_mpls(mem, t)
    if mpls == 0:
        return MISSING
    out = t["outgoing"]
    complete_checksum(mem, t)
    _close_gap(mem, out, mpls, MPLS_ENTRY)
    store16(mem, out["header"] + mpls - 2, ethertype)
    parse_anew(mem, t)
    return DONE


@compiled
def pop_pbb(mem, t):
    """Take everything in front of the customer's addresses away."""
    pbb = _find_pbb(mem, t)
    if pbb == 0 or not reach(mem, t, pbb + PBB_TAG + ETH_HEADER):
        return MISSING
    complete_checksum(mem, t)
    drop_front(t["outgoing"], pbb + PBB_TAG)
    parse_anew(mem, t)
    return DONE


@compiled
def _move_forward(mem, at, length, distance):
    """Move `length` bytes to `at` from `distance` bytes behind it; both are even."""
    for offset in range(0, length, 2):
        store16(mem, at + offset, load16(mem, at + distance + offset))


@compiled
def _close_gap(mem, out, length, gap):
    """Remove the `gap` bytes behind the first `length`; both are even."""
    at = out["header"]
    for offset in range(length - 2, -2, -2):
        store16(mem, at + gap + offset, load16(mem, at + offset))
    drop_front(out, gap)


# TTL


@compiled
def set_ttl(mem, t, ttl, of_mpls):
    """Write the TTL of the MPLS entry on top, or of the IP header."""
    kind, offset = _outermost_ttl(mem, t)
    if kind == 0 or (kind == MPLS) != (of_mpls != 0):
        return MISSING
    _store_ttl(mem, t["outgoing"], kind, offset, ttl)
    return DONE


@compiled
def decrement_ttl(mem, t, of_mpls):
    """Decrement the TTL of the MPLS entry on top, or of the IP header."""
    kind, offset = _outermost_ttl(mem, t)
    if kind == 0 or (kind == MPLS) != (of_mpls != 0):
        return MISSING
    ttl = _load_ttl(mem, t["outgoing"], kind, offset)
    if ttl <= 1:
        return BAD_TTL
    _store_ttl(mem, t["outgoing"], kind, offset, ttl - 1)
    return DONE


@compiled
def copy_ttl(mem, t, inwards):
    """Copy the TTL from the next-to-outermost header that has one to the outermost, or the other way."""
    kind, offset = _outermost_ttl(mem, t)
    next_kind, next_offset = _next_ttl(mem, t, kind, offset)
    if next_kind == 0:
        return MISSING
    out = t["outgoing"]
    if inwards:
        _store_ttl(mem, out, next_kind, next_offset, _load_ttl(mem, out, kind, offset))
    else:
        _store_ttl(mem, out, kind, offset, _load_ttl(mem, out, next_kind, next_offset))
    return DONE


@compiled
def _outermost_ttl(mem, t):
    """Kind and offset of the outermost header that has a TTL; kind 0: there is none."""
    out = t["outgoing"]
    if is_ip(mem, out):
        return out["ip_version"], out["l3"]
    mpls = _find_mpls(mem, t)
    return (MPLS, mpls) if mpls else (0, 0)


@compiled
def _next_ttl(mem, t, kind, offset):
    """Kind and offset of the header with a TTL that follows this one."""
    out = t["outgoing"]
    if kind == MPLS:
        inner = offset + MPLS_ENTRY
        if not load8(mem, out["header"] + offset + 2) & 1:
            return (MPLS, inner) if reach(mem, t, inner + MPLS_ENTRY) else (0, 0)
        return _ip_header(mem, t, inner)
    if kind and not out["frag"] and (out["ip_proto"] == PROTO_IPV4 or out["ip_proto"] == PROTO_IPV6):
        return _ip_header(mem, t, out["l4"])
    return 0, 0


@compiled
def _ip_header(mem, t, offset):
    """Kind and offset of the IP header at `offset`, told by its version and length; kind 0: it is none."""
    out = t["outgoing"]
    if not reach(mem, t, offset + 20):
        return 0, 0
    at = out["header"] + offset
    version = load8(mem, at) >> 4
    if version == IPV4 and offset + load16(mem, at + 2) <= out["bytes"] and load8(mem, at) & 15 >= 5:
        return IPV4, offset
    if version == IPV6 and offset + 40 + load16(mem, at + 4) <= out["bytes"] and reach(mem, t, offset + 40):
        return IPV6, offset
    return 0, 0


@compiled
def _load_ttl(mem, out, kind, offset):
    at = out["header"] + offset
    return load8(mem, at + (3 if kind == MPLS else 8 if kind == IPV4 else 7))


@compiled
def _store_ttl(mem, out, kind, offset, ttl):
    at = out["header"] + offset
    if kind == IPV4:
        _amend(mem, at + 10, _replace16(mem, at + 8, ((ttl & 0xFF) << 8) | load8(mem, at + 9)))
    else:
        store8(mem, at + (3 if kind == MPLS else 7), ttl & 0xFF)
