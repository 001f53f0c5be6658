# SPDX-License-Identifier: Apache-2.0
"""The driver's side of a receive queue (S0.6): finished packets wait in a ring, to be polled for.

A queue that a driver has opened is not forwarded by the switch: its packets, aggregates and others, go into
the driver's ring. A driver that armed the ring is woken by the next packet, once, as by a NIC's interrupt.
"""

from vswitch.dataplane.account import drop_received
from vswitch.dataplane.compiled import compiled
from vswitch.dataplane.intrinsics import acquire64, assign, full_fence, load64, release64, store64, sys_write
from vswitch.dataplane.outgoing import take_group, write_packet
from vswitch.layout import (
    DRIVER_ARMED,
    DRIVER_FD,
    DRIVER_HEAD,
    DRIVER_PAGE,
    DRIVER_SLOT_HEAD,
    DRIVER_SLOT_SIZE,
    DRIVER_SLOTS,
    DRIVER_TAIL,
    WAKE_OFFSET,
    Counter,
)


@compiled
def hand_over(mem, t, nic):
    """Move the groups whose queues have drivers into these drivers' rings; the others close up."""
    kept = 0
    for number in range(t["group_count"]):
        group = t["groups"][number]
        first = t["packets"][group["first"]]
        ring = nic["drivers"][first["queue"]]
        if ring:
            _put(mem, t, ring, group, first)
            continue
        if kept != number:
            assign(t["groups"][kept], group)
        kept += 1
    t["group_count"] = kept


@compiled
def _put(mem, t, ring, group, first):
    take_group(mem, t, group)
    out = t["outgoing"]
    head = load64(mem, ring + DRIVER_HEAD)
    full = head - acquire64(mem, ring + DRIVER_TAIL) >= DRIVER_SLOTS
    if full or out["bytes"] > DRIVER_SLOT_SIZE - DRIVER_SLOT_HEAD:
        drop_received(t, first["in_port"], Counter.DRIVER_QUEUE_FULL.value, out["frames"])
        t["nic_queues"][first["port"], first["queue"]]["dropped"] += out["frames"]
        return
    at = ring + DRIVER_PAGE + head % DRIVER_SLOTS * DRIVER_SLOT_SIZE
    store64(mem, at, out["bytes"])
    store64(mem, at + 8, out["gso_size"])
    store64(mem, at + 16, out["csum"])
    store64(mem, at + 24, out["frames"])
    store64(mem, at + 32, out["in_port"])
    store64(mem, at + 40, out["tunnel_id"])
    write_packet(mem, t, at + DRIVER_SLOT_HEAD)
    t["ports"][first["in_port"]]["rx_forwarded"] += out["frames"]
    release64(mem, ring + DRIVER_HEAD, head + 1)
    _wake(mem, ring)


@compiled
def _wake(mem, ring):
    """Wake the driver if it asked for that since it was woken last."""
    full_fence()
    if acquire64(mem, ring + DRIVER_ARMED):
        release64(mem, ring + DRIVER_ARMED, 0)
        store64(mem, WAKE_OFFSET, 1)
        sys_write(mem, load64(mem, ring + DRIVER_FD), WAKE_OFFSET, 8)
