# SPDX-License-Identifier: Apache-2.0
"""Path MTU discovery across tunnels: the ICMP error for a packet that does not fit into one.

The overlay is a bridge and has no address, so the error comes from the packet's destination, as if that had
sent it back. IPv4's is sent for packets that may be fragmented, too: tunnels do not fragment, and a sender
that is told does.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from vswitch.agent.normal import is_multicast
from vswitch.flow import FRAG_LATER, VLAN_PRESENT, FlowKey
from vswitch.openflow.oxm import ICMP, ICMPV6, IPV4, IPV6, SCTP, TCP, UDP

LEAST_IPV4_MTU = 68
"""RFC 791: every network takes packets of this length (RFC 1191, section 3)."""
LEAST_IPV6_MTU = 1280
"""RFC 8200, section 5; senders ignore less (RFC 8201, section 4)."""
MAX_IPV4_ERROR = 576
"""RFC 1812, 4.3.2.3."""
MAX_IPV6_ERROR = LEAST_IPV6_MTU
"""RFC 4443, 2.4 c."""
TTL = 64
INTERNETWORK_CONTROL = 0xC0
"""The precedence of ICMP errors (RFC 1812, 4.3.2.5)."""
DONT_FRAGMENT = 0x4000
UNREACHABLE, FRAGMENTATION_NEEDED = 3, 4
TOO_BIG_V6 = 2

_ICMP_ERRORS = frozenset({3, 4, 5, 11, 12})
_ICMPV6_REDIRECT = 137
_TPIDS = (0x88A8, 0x8100)
_ETHERNET, _TAG = 14, 4


def packet_too_big(key: FlowKey, frame: bytes, mtu: int) -> bytes | None:
    """The frame that tells the sender of `frame` that IP packets of up to `mtu` bytes arrive, or None.

    key: of the packet as it was received. frame: the packet as it was to be sent, as rules changed it.
    None where no error may be sent: RFC 1122, 3.2.2 and RFC 4443, 2.4 e.
    """
    tpids, l3 = _tags(frame)
    if is_multicast(key.eth_dst) or is_multicast(key.eth_src) or key.ip_frag == FRAG_LATER:
        return None
    if key.eth_type == IPV4 and frame[l3] >> 4 == 4:
        error = _fragmentation_needed(key, _as_received(key, frame[l3:]), mtu)
    elif key.eth_type == IPV6 and frame[l3] >> 4 == 6:
        error = _packet_too_big(key, _as_received(key, frame[l3:]), mtu)
    else:
        return None
    return error and _link_header(key, tpids) + error


def _fragmentation_needed(key: FlowKey, packet: bytes, mtu: int) -> bytes | None:
    """RFC 792, RFC 1191 section 4."""
    source, destination = IPv4Address(key.ip_src), IPv4Address(key.ip_dst)
    if mtu < LEAST_IPV4_MTU or (key.ip_proto == ICMP and key.l4_src in _ICMP_ERRORS):
        return None
    if not _is_a_host(source) or not _is_a_host(destination):
        return None
    quote = packet[: MAX_IPV4_ERROR - 28]
    message = struct.pack("!BBHHH", UNREACHABLE, FRAGMENTATION_NEEDED, 0, 0, mtu) + quote
    message = _with_checksum(message, 2)
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45, INTERNETWORK_CONTROL, 20 + len(message), 0, DONT_FRAGMENT, TTL, ICMP, 0,
        destination.packed, source.packed,
    )  # fmt: skip
    return _with_checksum(header, 10) + message


def _is_a_host(address: IPv4Address) -> bool:
    """One of 0.0.0.0/8, 127.0.0.0/8 or 224.0.0.0/3 is none."""
    return 1 <= address.packed[0] < 224 and not address.is_loopback


def _packet_too_big(key: FlowKey, packet: bytes, mtu: int) -> bytes | None:
    """RFC 4443, 3.2."""
    source, destination = IPv6Address(key.ip_src), IPv6Address(key.ip_dst)
    if mtu < LEAST_IPV6_MTU or (key.ip_proto == ICMPV6 and _is_icmpv6_error(key.l4_src)):
        return None
    if source.is_unspecified or source.is_multicast or source.is_loopback or destination.is_multicast:
        return None
    quote = packet[: MAX_IPV6_ERROR - 48]
    message = struct.pack("!BBHI", TOO_BIG_V6, 0, 0, mtu) + quote
    addresses = destination.packed + source.packed
    pseudo_header = addresses + struct.pack("!II", len(message), ICMPV6)
    message = _with_checksum(pseudo_header + message, len(pseudo_header) + 2)[len(pseudo_header) :]
    return struct.pack("!IHBB", 6 << 28, len(message), ICMPV6, TTL) + addresses + message


def _is_icmpv6_error(icmp_type: int) -> bool:
    return icmp_type < 128 or icmp_type == _ICMPV6_REDIRECT


def _tags(frame: bytes) -> tuple[list[int], int]:
    """The types of a frame's VLAN tags, and the offset of what is behind them."""
    tpids: list[int] = []
    l3 = _ETHERNET
    while (tpid := int.from_bytes(frame[l3 - 2 : l3], "big")) in _TPIDS:
        tpids.append(tpid)
        l3 += _TAG
    return tpids, l3


def _link_header(key: FlowKey, tpids: list[int]) -> bytes:
    """Back to where the packet came from, in its VLANs.

    tpids: the types of the packet's tags, if they are still those that it came with.
    """
    tags = [tag & ~VLAN_PRESENT for tag in (key.vlan_tci, key.vlan_inner) if tag]
    if len(tpids) != len(tags):
        tpids = list(_TPIDS[-len(tags) :])
    header = key.eth_src.to_bytes(6, "big") + key.eth_dst.to_bytes(6, "big")
    for tpid, tag in zip(tpids, tags, strict=False):
        header += struct.pack("!HH", tpid, tag)
    return header + struct.pack("!H", key.eth_type)


def _as_received(key: FlowKey, packet: bytes) -> bytes:
    """An IP packet with the addresses and ports that its sender gave it: by these it knows what is quoted."""
    head = bytearray(packet)
    if key.eth_type == IPV4:
        l4, protocol = (head[0] & 15) * 4, head[9]
        if head[12:20] != (addresses := struct.pack("!II", key.ip_src, key.ip_dst)):
            head[12:20] = addresses
            head[:l4] = _with_checksum(bytes(head[:10]) + bytes(2) + bytes(head[12:l4]), 10)
    else:
        l4, protocol = 40, head[6]
        head[8:40] = key.ip_src.to_bytes(16, "big") + key.ip_dst.to_bytes(16, "big")
    if protocol in (TCP, UDP, SCTP):
        head[l4 : l4 + 4] = struct.pack("!HH", key.l4_src, key.l4_dst)
    return bytes(head)


def _with_checksum(data: bytes, at: int) -> bytes:
    """Data whose 16 bits at `at` are zero, with their Internet checksum there (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return data[:at] + struct.pack("!H", 0xFFFF - total) + data[at + 2 :]
