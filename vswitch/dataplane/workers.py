# SPDX-License-Identifier: Apache-2.0
"""Frames between workers (S0.4): from worker 0, which serves the ports, to those that serve queues, and back.

Worker 0 receives and parses every frame, as a NIC does, and puts the rows of those whose queue has another
worker into that worker's inbox. There they are coalesced, looked up, and delivered to VMs. What such a worker
cannot do by itself (a miss, a port that is no TAP, a meter) it hands back, whole groups at a time.

Rows travel, packets do not: all workers see the same memory at the same offsets. So a port's slots stay held
until the workers have passed the marks that were set when their frames were handed over. Each ring has one
writer and one reader; its cursors stand in the control region of the worker that is not number 0.
"""

from vswitch.dataplane.compiled import compiled
from vswitch.dataplane.gro import NO_PACKET
from vswitch.dataplane.intrinsics import acquire64, full_fence, release64, store64, sys_write, sys_yield
from vswitch.layout import (
    ASLEEP_OFFSET,
    BURST,
    CONTROL_SIZE,
    INBOX,
    INBOX_HEAD_OFFSET,
    INBOX_TAIL_OFFSET,
    RETURNED,
    RETURNED_HEAD_OFFSET,
    RETURNED_TAIL_OFFSET,
    STOP_OFFSET,
    WAKE_OFFSET,
)

INBOX_MASK = INBOX - 1
RETURNED_MASK = RETURNED - 1


@compiled
def _control(t, worker):
    return t["controls"] + worker * CONTROL_SIZE


# Worker 0


@compiled
def distribute(mem, tables, t, nic):
    """Hand over the frames of the burst whose queues have other workers; the others close up."""
    kept = 0
    for index in range(t["packet_count"]):
        packet = t["packets"][index]
        worker = nic["workers"][packet["queue"]]
        if worker:
            tables[worker]["inbox"][t["handed"][worker] & INBOX_MASK] = packet
            t["handed"][worker] += 1
            continue
        if kept != index:
            t["packets"][kept] = packet
        kept += 1
    t["packet_count"] = kept
    for worker in range(1, t["workers"]):
        head = _control(t, worker) + INBOX_HEAD_OFFSET
        if acquire64(mem, head) != t["handed"][worker]:
            release64(mem, head, t["handed"][worker])
            _wake(mem, t, tables, worker)


@compiled
def _wake(mem, t, tables, worker):
    full_fence()
    if acquire64(mem, _control(t, worker) + ASLEEP_OFFSET):
        store64(mem, WAKE_OFFSET, 1)
        sys_write(mem, tables[worker]["wake_fd"], WAKE_OFFSET, 8)


@compiled
def have_room(mem, t):
    """Whether each inbox has room for a burst."""
    for worker in range(1, t["workers"]):
        tail = acquire64(mem, _control(t, worker) + INBOX_TAIL_OFFSET)
        if t["handed"][worker] - tail > INBOX - BURST:
            return False
    return True


@compiled
def have_passed(mem, t, marks):
    """Whether the others are done with the first `marks[worker]` frames that each was handed."""
    for worker in range(1, t["workers"]):
        control = _control(t, worker)
        if acquire64(mem, control + INBOX_TAIL_OFFSET) < marks[worker]:
            return False
        if acquire64(mem, control + RETURNED_HEAD_OFFSET) != acquire64(mem, control + RETURNED_TAIL_OFFSET):
            return False
    return True


@compiled
def are_done(mem, t):
    """Whether no frame is in the hands of another worker."""
    return have_passed(mem, t, t["handed"])


@compiled
def take_back(mem, t, other):
    """Take a group that another worker (`other`: its tables) hands back, as group 0; its number of frames."""
    control = _control(t, other["worker"])
    tail = acquire64(mem, control + RETURNED_TAIL_OFFSET)
    if tail == acquire64(mem, control + RETURNED_HEAD_OFFSET):
        return 0
    t["groups"][0] = other["returned_groups"][tail & RETURNED_MASK]
    group = t["groups"][0]
    count = group["count"]
    for index in range(count):
        t["packets"][index] = other["returned"][(tail + index) & RETURNED_MASK]
        t["packets"][index]["next"] = index + 1
    t["packets"][count - 1]["next"] = NO_PACKET
    group["first"] = 0
    group["last"] = count - 1
    return count


@compiled
def let_go(mem, t, other, count):
    """A group that take_back() gave is done with."""
    tail = _control(t, other["worker"]) + RETURNED_TAIL_OFFSET
    release64(mem, tail, acquire64(mem, tail) + count)


# The others


@compiled
def take(mem, t):
    """Take frames from the inbox, all of one port and up to BURST, as packet rows; their number."""
    tail = acquire64(mem, INBOX_TAIL_OFFSET)
    head = acquire64(mem, INBOX_HEAD_OFFSET)
    count = 0
    while tail + count < head and count < BURST:
        packet = t["inbox"][(tail + count) & INBOX_MASK]
        if count > 0 and packet["port"] != t["packets"][0]["port"]:
            break
        t["packets"][count] = packet
        count += 1
    t["packet_count"] = count
    return count


@compiled
def finish(mem, count):
    """The oldest `count` frames of the inbox are done with."""
    release64(mem, INBOX_TAIL_OFFSET, acquire64(mem, INBOX_TAIL_OFFSET) + count)


@compiled
def hand_back(mem, t, group):
    """Have worker 0 forward a group; waits while there is no room, which worker 0 always makes."""
    head = acquire64(mem, RETURNED_HEAD_OFFSET)
    while head + group["count"] - acquire64(mem, RETURNED_TAIL_OFFSET) > RETURNED:
        if acquire64(mem, STOP_OFFSET):
            return
        sys_yield()
    t["returned_groups"][head & RETURNED_MASK] = group
    index = group["first"]
    while index >= 0:
        t["returned"][head & RETURNED_MASK] = t["packets"][index]
        head += 1
        index = t["packets"][index]["next"]
    release64(mem, RETURNED_HEAD_OFFSET, head)
