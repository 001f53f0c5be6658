# SPDX-License-Identifier: Apache-2.0
"""The virtio-net header (virtio 1.2, section 5.1.6) in front of the frames of TAPs and packet sockets: how
a super-frame is to be segmented, and which checksum is left to be completed."""

from vswitch.dataplane import checksum, crc32c
from vswitch.dataplane.checksum import PROTO_TCP, PROTO_UDP
from vswitch.dataplane.compiled import compiled
from vswitch.dataplane.intrinsics import (
    load8,
    load16,
    load_le16,
    store8,
    store16,
    store64,
    store_le16,
    store_le32,
)
from vswitch.dataplane.parse import PROTO_SCTP
from vswitch.layout import HEADER_MAX, MAX_EXTENSION_HEADERS, Csum

HEADER = 10
"""Bytes of struct virtio_net_hdr."""
NEEDS_CSUM, DATA_VALID = 1, 2
GSO_NONE, GSO_TCPV4, GSO_UDP, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 0, 1, 3, 4, 5, 0x80
UDP_TUNNEL_CSUM, UDP_TUNNEL_IPV4, UDP_TUNNEL_IPV6 = 8, 0x20, 0x40
CWR = 0x80
LONGEST_EXTENSIONS = 128
"""Bytes of IPv6 extension headers in front of which a packet's IPv6 header is looked for."""
SCTP_FIELD = 8


@compiled
def read(mem, at, packet):
    """Fill in what the header at `at` says of `packet`'s checksum and segment size."""
    flags = load8(mem, at)
    kind = load8(mem, at + 1) & ~GSO_ECN
    packet["gso_size"] = 0
    packet["csum"] = Csum.UNKNOWN.value
    if kind != GSO_NONE and kind != GSO_UDP:  # GSO_UDP asks for IP fragments
        packet["gso_size"] = load_le16(mem, at + 4)
    if flags & NEEDS_CSUM:
        packet["csum"] = Csum.PARTIAL.value
        packet["csum_start"] = load_le16(mem, at + 6)
        packet["csum_offset"] = load_le16(mem, at + 8)
    elif flags & DATA_VALID:
        packet["csum"] = Csum.GOOD.value


@compiled
def settle_offload(mem, packet):
    """Find the headers that the sender's kernel has left a checksum and the segmentation of.

    They are those that `parse` found, or those of a packet that the sender tunnels itself, in whatever
    format. A checksum that is neither's is completed: SCTP's, and where no later stage could say whose it is.
    So is one with bytes behind the IP packet, which whoever completes it later would add to its sum.
    """
    if packet["csum"] != Csum.PARTIAL.value:
        packet["gso_size"] = 0  # segmentation needs a partial checksum (virtio 1.2, 5.1.6.2)
        return
    field = checksum.l4_field(packet["ip_proto"])
    parsed = packet["ip_version"] != 0 and packet["payload"] > packet["l4"]
    parsed = parsed and packet["payload"] - packet["l2"] <= HEADER_MAX
    if parsed and packet["csum_start"] == packet["l4"] - packet["offset"] and packet["csum_offset"] == field:
        has_trailer = packet["payload"] + packet["payload_len"] < packet["offset"] + packet["length"]
        if packet["gso_size"] or not has_trailer:
            return
    start = packet["offset"] + packet["csum_start"]
    end = packet["offset"] + packet["length"]
    proto = _proto_of_field(packet["csum_offset"])
    if start + packet["csum_offset"] + 2 <= end:
        l3 = _ip_header_of(mem, packet, start, end, proto)
        if l3 and _adopt(mem, packet, l3, start, end, proto):
            return
        if l3:
            end = min(_ip_end(mem, l3), end)
        if l3 and proto == PROTO_SCTP:
            _complete_sctp(mem, start, end)
        elif start + packet["csum_offset"] + 2 <= end:
            value = checksum.finish(checksum.sum_bytes(mem, start, end - start))
            store16(mem, start + packet["csum_offset"], value if value else 0xFFFF)
    packet["csum"] = Csum.UNKNOWN.value
    packet["gso_size"] = 0


@compiled
def _proto_of_field(offset):
    """The protocol that has its checksum so far behind its header's begin; 0: none that is known."""
    if offset == SCTP_FIELD:
        return PROTO_SCTP
    if offset == checksum.l4_field(PROTO_TCP):
        return PROTO_TCP
    return PROTO_UDP if offset == checksum.l4_field(PROTO_UDP) else 0


@compiled
def _ip_header_of(mem, packet, l4, end, proto):
    """Where the IP header stands whose payload, of this protocol, begins at `l4`; 0: there is none.

    It is the one that `parse` found, or stands behind what `parse` understood: never among these headers.
    """
    if packet["ip_version"] and l4 == packet["l4"]:
        return packet["l3"] if packet["ip_proto"] == proto and packet["frag"] == 0 else 0
    return _ip_in_front(mem, packet["l4"], l4, end, proto)


@compiled
def _ip_in_front(mem, first, l4, end, proto):
    """Where the IP header stands that ends at `l4`, with a payload of this protocol; 0: there is none.

    It is told by its version, length, protocol and, of IPv4, checksum: what stands between `first`, which it
    cannot precede, and the header may be anything.
    """
    for length in range(20, 64, 4):
        l3 = l4 - length
        if l3 < first:
            break
        if load8(mem, l3) != 0x40 | (length >> 2) or load8(mem, l3 + 9) != proto:
            continue
        if load16(mem, l3 + 6) & 0x3FFF == 0 and l4 <= _ip_end(mem, l3) <= end:
            if checksum.ipv4_header_right(mem, l3, length):
                return l3
    for length in range(40, 40 + LONGEST_EXTENSIONS, 8):
        l3 = l4 - length
        if l3 < first:
            break
        if load8(mem, l3) >> 4 == 6 and l4 <= _ip_end(mem, l3) <= end and _leads_to(mem, l3, l4, proto):
            return l3
    return 0


@compiled
def _ip_end(mem, l3):
    """Where the IP packet at `l3` ends, as its header says."""
    return l3 + load16(mem, l3 + 2) if load8(mem, l3) >> 4 == 4 else l3 + 40 + load16(mem, l3 + 4)


@compiled
def _leads_to(mem, l3, l4, proto):
    """Whether the IPv6 header at `l3` and its extensions, none of a fragment, lead to `proto` at `l4`."""
    header, next_header = l3 + 40, load8(mem, l3 + 6)
    for _ in range(MAX_EXTENSION_HEADERS):
        is_extension = next_header == 0 or next_header == 43 or next_header == 60
        if not is_extension or header + 8 > l4:
            break
        next_header = load8(mem, header)
        header += 8 + load8(mem, header + 1) * 8
    return header == l4 and next_header == proto


@compiled
def _adopt(mem, packet, l3, l4, end, proto):
    """Note that offloads concern the TCP or UDP header at `l4`; False: its checksum has to be completed here.

    The header may be unsound, or too far behind, or bytes behind the packet would get into the checksum.
    """
    length = min(_ip_end(mem, l3), end) - l4
    header = 8
    if proto == PROTO_TCP and length >= 20:
        header = (load8(mem, l4 + 12) >> 4) * 4
    is_sound = header >= 20 if proto == PROTO_TCP else proto == PROTO_UDP
    if not is_sound or header > length or l4 + header - packet["l2"] > HEADER_MAX:
        return False
    if packet["gso_size"] == 0 and l4 + length < end:
        return False
    packet["gso_l3"] = l3
    packet["gso_l4"] = l4
    packet["payload"] = l4 + header
    packet["payload_len"] = length - header
    return True


@compiled
def _complete_sctp(mem, l4, end):
    """Write the checksum of the SCTP packet at `l4`, a CRC over all of it with zeros in the field."""
    if l4 + SCTP_FIELD + 4 <= end:
        store_le32(mem, l4 + SCTP_FIELD, 0)
        store_le32(mem, l4 + SCTP_FIELD, crc32c.of_bytes(mem, l4, end - l4))


@compiled
def is_super_frame(out):
    """Whether the outgoing packet is left to the receiver's kernel to be cut into segments."""
    return out["csum"] == Csum.PARTIAL.value and 0 < out["gso_size"] < out["payload_len"]


@compiled
def write(mem, at, out):
    """Write the header of the outgoing packet, whose own headers stand in the scratch."""
    write_nothing(mem, at)
    if out["csum"] == Csum.GOOD.value:
        store8(mem, at, DATA_VALID)
    elif out["csum"] == Csum.PARTIAL.value:
        write_partial(mem, at, out["gso_l4"], checksum.l4_field(out["gso_proto"]))
        if is_super_frame(out):
            kind = GSO_UDP_L4
            if out["gso_proto"] == PROTO_TCP:
                kind = GSO_TCPV4 if out["gso_version"] == 4 else GSO_TCPV6
                if load16(mem, out["header"] + out["gso_l4"] + 12) & CWR:
                    kind |= GSO_ECN
            write_segmentation(mem, at, kind, out["header_len"], out["gso_size"])


@compiled
def write_tunnelled(mem, at, out):
    """Write the header, of TUNNEL_VNET_HEADER bytes, of a super-frame in its sender's tunnel over UDP."""
    write(mem, at, out)
    store8(mem, at + 1, load8(mem, at + 1) | (UDP_TUNNEL_IPV4 if out["ip_version"] == 4 else UDP_TUNNEL_IPV6))
    if load16(mem, out["header"] + out["l4"] + checksum.l4_field(PROTO_UDP)):
        store8(mem, at, load8(mem, at) | UDP_TUNNEL_CSUM)
    store16(mem, at + HEADER, 0)
    store64(mem, at + HEADER + 2, 0)
    store_le16(mem, at + HEADER + 10, out["l4"])
    store_le16(mem, at + HEADER + 12, out["gso_l3"])


@compiled
def write_nothing(mem, at):
    """Write the header of a single frame of which nothing is known."""
    store64(mem, at, 0)
    store_le16(mem, at + 8, 0)


@compiled
def write_partial(mem, at, start, offset):
    """Write the header of a single frame whose checksum, `offset` bytes behind `start`, is partial."""
    store64(mem, at, 0)
    store8(mem, at, NEEDS_CSUM)
    store_le16(mem, at + 6, start)
    store_le16(mem, at + 8, offset)


@compiled
def write_segmentation(mem, at, kind, header_len, gso_size):
    """Add to the header at `at` how a super-frame with `header_len` bytes of headers is to be segmented."""
    store8(mem, at + 1, kind)
    store_le16(mem, at + 2, header_len)
    store_le16(mem, at + 4, gso_size)
