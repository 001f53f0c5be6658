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
from vswitch.dataplane.intrinsics import (
    acquire64,
    assign,
    full_fence,
    release64,
    store64,
    sys_write,
    sys_yield,
)
from vswitch.layout import (
    ASLEEP_OFFSET,
    BURST,
    COMMAND_TAIL_OFFSET,
    COMMANDS,
    CONTROL_SIZE,
    INBOX,
    INBOX_HEAD_OFFSET,
    INBOX_TAIL_OFFSET,
    RETURNED,
    RETURNED_HEAD_OFFSET,
    RETURNED_TAIL_OFFSET,
    STOP_OFFSET,
    WAKE_OFFSET,
    Command,
    Counter,
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
            assign(tables[worker]["inbox"][t["handed"][worker] & INBOX_MASK], packet)
            t["handed"][worker] += 1
            continue
        if kept != index:
            assign(t["packets"][kept], packet)
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
    asleep = _control(t, worker) + ASLEEP_OFFSET
    if acquire64(mem, asleep):
        release64(mem, asleep, 0)
        store64(mem, WAKE_OFFSET, 1)
        sys_write(mem, tables[worker]["wake_fd"], WAKE_OFFSET, 8)


@compiled
def may_receive(mem, t):
    """Whether a burst may be taken from a port: each inbox has room for it, and nothing is to settle."""
    if t["settling"]:
        return False
    for worker in range(1, t["workers"]):
        tail = acquire64(mem, _control(t, worker) + INBOX_TAIL_OFFSET)
        if t["handed"][worker] - tail > INBOX - BURST:
            t["counters"][Counter.WORKER_BUSY.value] += 1
            return False
    return True


@compiled
def done_up_to(mem, t, row, tail):
    """Up to where the slots of a wire or socket (`row`) may be given back, of those before `tail`.

    Those whose frames other workers were handed may be when these have passed the marks that were set then.
    """
    if not _have_passed(mem, t, row):
        return row["done"]
    row["done"] = row["marked"]
    row["marked"] = tail
    row["turned"] = 0
    for worker in range(1, t["workers"]):
        row["marks"][worker] = t["handed"][worker]
    if _have_passed(mem, t, row):
        row["done"] = tail
    return row["done"]


@compiled
def _have_passed(mem, t, row):
    """Whether the others are done with what the marks tell, and this worker with what they handed back."""
    if not row["turned"]:
        for worker in range(1, t["workers"]):
            if acquire64(mem, _control(t, worker) + INBOX_TAIL_OFFSET) < row["marks"][worker]:
                return False
        for worker in range(1, t["workers"]):
            row["back_marks"][worker] = acquire64(mem, _control(t, worker) + RETURNED_HEAD_OFFSET)
        row["turned"] = 1
    for worker in range(1, t["workers"]):
        if acquire64(mem, _control(t, worker) + RETURNED_TAIL_OFFSET) < row["back_marks"][worker]:
            return False
    return True


@compiled
def are_done(mem, t):
    """Whether no frame is in the hands of another worker, or on its way back."""
    for worker in range(1, t["workers"]):
        control = _control(t, worker)
        if acquire64(mem, control + INBOX_TAIL_OFFSET) != t["handed"][worker]:
            return False
        if acquire64(mem, control + RETURNED_HEAD_OFFSET) != acquire64(mem, control + RETURNED_TAIL_OFFSET):
            return False
    return True


@compiled
def have_applied(mem, t, commands):
    """Whether each of the others has applied that many commands."""
    for worker in range(1, t["workers"]):
        if acquire64(mem, _control(t, worker) + COMMAND_TAIL_OFFSET) < commands:
            return False
    return True


@compiled
def have_delivered(mem, t):
    """Whether another worker has done with frames since the last call: VMs may have answered them."""
    delivered = False
    for worker in range(1, t["workers"]):
        tail = acquire64(mem, _control(t, worker) + INBOX_TAIL_OFFSET)
        delivered = delivered or tail != t["finished"][worker]
        t["finished"][worker] = tail
    return delivered


@compiled
def take_back(mem, t, other):
    """Take groups that another worker (`other`: its tables) hands back, up to a burst; how many frames."""
    control = _control(t, other["worker"])
    tail = acquire64(mem, control + RETURNED_TAIL_OFFSET)
    head = acquire64(mem, control + RETURNED_HEAD_OFFSET)
    count = 0
    t["group_count"] = 0
    while tail + count < head:
        returned = other["returned_groups"][(tail + count) & RETURNED_MASK]
        frames = returned["count"]
        if count + frames > BURST:
            break
        group = t["groups"][t["group_count"]]
        assign(group, returned)
        t["group_count"] += 1
        group["first"] = count
        group["last"] = count + frames - 1
        for index in range(count, count + frames):
            assign(t["packets"][index], other["returned"][(tail + index) & RETURNED_MASK])
            t["packets"][index]["next"] = index + 1
        count += frames
        t["packets"][count - 1]["next"] = NO_PACKET
    return count


@compiled
def let_go(mem, t, other, count):
    """The frames that take_back() gave are done with."""
    tail = _control(t, other["worker"]) + RETURNED_TAIL_OFFSET
    release64(mem, tail, acquire64(mem, tail) + count)


# The others


@compiled
def agreed_commands(mem, t, head, tail):
    """How many commands, of `head` given and `tail` applied ones, another worker than 0 may have applied now.

    An entry that it gets may let frames pass those before them in worker 0's hands: on their way back, or
    executed by the commands that come with it. So worker 0 goes first, and what was handed back is awaited;
    meanwhile `t['settling']` keeps the next frames in the inbox. If worker 0 has gone on and ended entries by
    then, what it got back may wait for the agent: then that end belongs to what is agreed.
    """
    if acquire64(mem, _control(t, 0) + COMMAND_TAIL_OFFSET) < t["agreed"]:
        return tail
    if t["agreed"] == tail:
        t["agreed"] = head
        return tail
    if acquire64(mem, RETURNED_HEAD_OFFSET) != acquire64(mem, RETURNED_TAIL_OFFSET):
        t["settling"] = 1
        return tail
    applied = acquire64(mem, _control(t, 0) + COMMAND_TAIL_OFFSET)
    if applied > head:
        return tail  # by commands that are not announced here yet
    if _end_entries(t, t["agreed"], applied):
        t["agreed"] = applied
        t["settling"] = 1
        return tail
    return t["agreed"]


@compiled
def _end_entries(t, first, last):
    """Whether commands from number `first` to before `last` make packets misses that had entries before."""
    for number in range(first, last):
        op = t["commands"][number & (COMMANDS - 1)]["op"]
        if op == Command.REMOVE.value or op == Command.TOS_MASK.value:
            return True
    return False


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
        assign(t["packets"][count], packet)
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
    assign(t["returned_groups"][head & RETURNED_MASK], group)
    index = group["first"]
    while index >= 0:
        assign(t["returned"][head & RETURNED_MASK], t["packets"][index])
        head += 1
        index = t["packets"][index]["next"]
    release64(mem, RETURNED_HEAD_OFFSET, head)
