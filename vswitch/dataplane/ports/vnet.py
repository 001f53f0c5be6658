# SPDX-License-Identifier: Apache-2.0
"""The virtio-net header (virtio 1.2, section 5.1.6) in front of the frames of TAPs and packet sockets: how
a super-frame is to be segmented, and which checksum is left to be completed."""

from vswitch.dataplane import checksum
from vswitch.dataplane.checksum import PROTO_TCP
from vswitch.dataplane.compiled import compiled
from vswitch.dataplane.intrinsics import load8, load16, load_le16, store8, store16, store64, store_le16
from vswitch.layout import HEADER_MAX, Csum

HEADER = 10
"""Bytes of struct virtio_net_hdr."""
NEEDS_CSUM, DATA_VALID = 1, 2
GSO_NONE, GSO_TCPV4, GSO_UDP, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 0, 1, 3, 4, 5, 0x80
CWR = 0x80


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
def settle_checksum(mem, packet):
    """Complete a partial checksum that is not that of the TCP or UDP header which `parse` found.

    It may belong to a packet that the sender tunnels itself.
    """
    if packet["csum"] != Csum.PARTIAL.value:
        packet["gso_size"] = 0  # segmentation needs a partial checksum (virtio 1.2, 5.1.6.2)
        return
    field = checksum.l4_field(packet["ip_proto"])
    parsed = packet["ip_version"] != 0 and packet["payload"] > packet["l4"]
    parsed = parsed and packet["payload"] - packet["l2"] <= HEADER_MAX
    if parsed and packet["csum_start"] == packet["l4"] - packet["offset"] and packet["csum_offset"] == field:
        return
    packet["csum"] = Csum.UNKNOWN.value
    packet["gso_size"] = 0
    start, at = packet["csum_start"], packet["csum_start"] + packet["csum_offset"]
    if at + 2 > packet["length"]:
        return
    value = checksum.finish(checksum.sum_bytes(mem, packet["offset"] + start, packet["length"] - start))
    store16(mem, packet["offset"] + at, value if value else 0xFFFF)


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
        is_tcp = out["ip_proto"] == PROTO_TCP
        write_partial(mem, at, out["l4"], checksum.l4_field(out["ip_proto"]))
        if is_super_frame(out):
            kind = GSO_UDP_L4
            if is_tcp:
                kind = GSO_TCPV4 if out["ip_version"] == 4 else GSO_TCPV6
                if load16(mem, out["header"] + out["l4"] + 12) & CWR:
                    kind |= GSO_ECN
            write_segmentation(mem, at, kind, out["header_len"], out["gso_size"])


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
