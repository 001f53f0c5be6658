# SPDX-License-Identifier: Apache-2.0
"""A VM's vNIC, compiled: super-frames with a virtio-net header (virtio 1.2, section 5.1.6) both ways."""

from numba import njit

from vswitch.dataplane import checksum
from vswitch.dataplane.intrinsics import (
    copy,
    errno,
    load8,
    load16,
    load_le16,
    set_iov,
    store8,
    store16,
    store64,
    store_le16,
    sys_read,
    sys_writev,
)
from vswitch.layout import (
    BUFFER_SIZE,
    HEADER_MAX,
    IOV_OFFSET,
    VNET_HEADER,
    VNET_OFFSET,
    Counter,
    Csum,
)

NEEDS_CSUM, DATA_VALID = 1, 2
GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_ECN = 0, 1, 4, 0x80
EAGAIN, ENOBUFS = 11, 105
PROTO_TCP, PROTO_UDP = 6, 17
POOL_HEADROOM = 128


@njit(cache=True)
def receive(mem, t, port_index, buffer):
    """Read one frame of the VM into a pool buffer, as packet row 0; whether there was one."""
    port = t["ports"][port_index]
    start = t["pool"] + buffer * BUFFER_SIZE + POOL_HEADROOM
    length = sys_read(mem, port["fd"], start, BUFFER_SIZE - POOL_HEADROOM)
    if length <= VNET_HEADER:
        return False
    frame = start + VNET_HEADER
    packet = t["packets"][0]
    packet["offset"] = frame
    packet["length"] = length - VNET_HEADER
    packet["head_length"] = length - VNET_HEADER
    packet["ext"] = 0
    packet["port"] = port_index
    packet["queue"] = 0
    packet["buffer"] = buffer
    packet["csum"] = Csum.UNKNOWN.value
    packet["gso_size"] = load_le16(mem, start + 4) if load8(mem, start + 1) & ~GSO_ECN else 0
    if load8(mem, start) & NEEDS_CSUM:
        packet["csum"] = Csum.PARTIAL.value
        packet["csum_start"] = load_le16(mem, start + 6)
        packet["csum_offset"] = load_le16(mem, start + 8)
    port["rx_packets"] += 1
    port["rx_bytes"] += packet["length"]
    return True


@njit(cache=True)
def settle_checksum(mem, packet):
    """Complete a partial checksum that is not that of the TCP or UDP header which `parse` found.

    It may belong to a packet that the VM tunnels itself.
    """
    if packet["csum"] != Csum.PARTIAL.value:
        packet["gso_size"] = 0  # segmentation needs a partial checksum (virtio 1.2, 5.1.6.2)
        return
    proto = packet["ip_proto"]
    field = 16 if proto == PROTO_TCP else 6
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


@njit(cache=True)
def send(mem, t, port_index):
    """Write `t['outgoing']` to the VM: one system call, the payload from where it lies."""
    out = t["outgoing"]
    port = t["ports"][port_index]
    header_len = out["header_len"]
    _write_vnet_header(mem, out)
    copy(mem, out["header"] - VNET_HEADER, VNET_OFFSET, VNET_HEADER)
    set_iov(mem, IOV_OFFSET, 0, out["header"] - VNET_HEADER, header_len + VNET_HEADER)
    for index in range(out["range_count"]):
        piece = t["ranges"][index]
        set_iov(mem, IOV_OFFSET, 1 + index, piece["offset"], piece["length"])
    written = sys_writev(mem, port["fd"], IOV_OFFSET, 1 + out["range_count"])
    port["ready"] = 1  # the VM's stack has answered within the call, most likely
    if written < 0:
        error = errno()
        if error == EAGAIN or error == ENOBUFS:
            t["counters"][Counter.TAP_BUSY.value] += 1
            port["tx_dropped"] += 1
        else:
            t["counters"][Counter.TAP_ERROR.value] += 1
            port["tx_errors"] += 1
        return
    port["tx_packets"] += 1
    port["tx_bytes"] += out["bytes"]


@njit(cache=True)
def _write_vnet_header(mem, out):
    store64(mem, VNET_OFFSET, 0)
    store_le16(mem, VNET_OFFSET + 8, 0)
    store_le16(mem, VNET_OFFSET + 10, 0)
    if out["csum"] == Csum.GOOD.value:
        store8(mem, VNET_OFFSET, DATA_VALID)
    elif out["csum"] == Csum.PARTIAL.value:
        store8(mem, VNET_OFFSET, NEEDS_CSUM)
        store_le16(mem, VNET_OFFSET + 6, out["l4"])
        store_le16(mem, VNET_OFFSET + 8, 16 if out["ip_proto"] == PROTO_TCP else 6)
        if out["gso_size"] > 0 and out["payload_len"] > out["gso_size"]:
            flags = load16(mem, out["header"] + out["l4"] + 12)
            kind = GSO_TCPV4 if out["ip_version"] == 4 else GSO_TCPV6
            store8(mem, VNET_OFFSET + 1, kind | (GSO_ECN if flags & 0x80 else 0))
            store_le16(mem, VNET_OFFSET + 2, out["header_len"])
            store_le16(mem, VNET_OFFSET + 4, out["gso_size"])
