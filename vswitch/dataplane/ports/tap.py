# SPDX-License-Identifier: Apache-2.0
"""A VM's vNIC, compiled: super-frames with a virtio-net header (virtio 1.2, section 5.1.6) both ways."""

from vswitch.dataplane.account import drop_received, drop_sent
from vswitch.dataplane.compiled import compiled
from vswitch.dataplane.intrinsics import copy, errno, set_iov, store_le16, sys_read, sys_writev
from vswitch.dataplane.ports import vnet
from vswitch.layout import BUFFER_SIZE, IOV_OFFSET, VNET_HEADER, VNET_OFFSET, Counter

EAGAIN, ENOBUFS = 11, 105
POOL_HEADROOM = 128


@compiled
def receive(mem, t, port_index, buffer):
    """Read one frame of the VM into a pool buffer, as packet row 0; whether there was one."""
    port = t["ports"][port_index]
    start = t["pool"] + buffer * BUFFER_SIZE + POOL_HEADROOM
    length = sys_read(mem, port["fd"], start, BUFFER_SIZE - POOL_HEADROOM)
    if length <= VNET_HEADER:
        return False
    if length > BUFFER_SIZE - POOL_HEADROOM:  # the kernel tells how long it was, not what it had room for
        port["rx_packets"] += 1
        drop_received(t, port_index, Counter.RX_BAD_DESCRIPTOR.value, 1)
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
    vnet.read(mem, start, packet)
    port["rx_packets"] += 1
    port["rx_bytes"] += packet["length"]
    return True


@compiled
def send(mem, t, port_index):
    """Write `t['outgoing']` to the VM: one system call, the payload from where it lies."""
    out = t["outgoing"]
    port = t["ports"][port_index]
    header_len = out["header_len"]
    vnet.write(mem, VNET_OFFSET, out)
    store_le16(mem, VNET_OFFSET + vnet.HEADER, 0)
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
            drop_sent(t, port_index, Counter.TAP_BUSY.value, 1)
        else:
            drop_sent(t, port_index, Counter.TAP_ERROR.value, 1)
        return
    port["tx_packets"] += 1
    port["tx_bytes"] += out["bytes"]
