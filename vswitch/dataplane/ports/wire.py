# SPDX-License-Identifier: Apache-2.0
"""A wire's rings, compiled: sending with rate, delay, loss and all that, and receiving when frames are due.

A wire is a pair of rings of descriptors in memory that two switches share, one ring for each direction. As a
NIC fetches a packet's bytes from its host's memory, the receiver reads the payload of a segment where the
sender's TAP left it: in the sender's pool, which the receiver has mapped too. A slot is the sender's again
when the receiver's tail has passed it; only then are its pool buffer's references given back.
"""

from vswitch.dataplane import checksum
from vswitch.dataplane.account import drop_received, drop_sent
from vswitch.dataplane.capture import capture
from vswitch.dataplane.compiled import compiled
from vswitch.dataplane.ethernet import ETH_HEADER, ETH_IPV4, ETH_IPV6, ETH_QINQ, ETH_VLAN, VLAN_TAG
from vswitch.dataplane.hashing import next_random
from vswitch.dataplane.intrinsics import (
    acquire64,
    copy,
    full_fence,
    load8,
    load16,
    load64,
    load_le16,
    load_le32,
    monotonic_ns,
    prefetch,
    release64,
    store8,
    store16,
    store64,
    store_le16,
    store_le32,
    sys_read,
    sys_write,
)
from vswitch.dataplane.workers import done_up_to
from vswitch.layout import (
    BURST,
    CURSOR_ASLEEP,
    CURSOR_HEAD,
    CURSOR_TAIL,
    CURSOR_UNORDERED,
    CURSOR_WAITING,
    LARGE_BURST,
    MAX_VLAN_TAGS,
    SLOT_EPOCH,
    SLOT_EXT,
    SLOT_HEAD,
    SLOT_HEAD_LENGTH,
    SLOT_HEAD_MAX,
    SLOT_KIND,
    SLOT_LENGTH,
    SLOT_RELEASE,
    SLOT_SIZE,
    TIMESPEC_OFFSET,
    WAKE_OFFSET,
    Counter,
    SlotKind,
)

NEVER = 1 << 62
LATE_NS = 1_000_000
"""A frame that leaves the wire this long after its time tells that the emulation fell behind."""
INEXACT_NS = 50_000
"""How late half of the frames may be: what is beyond is counted, so that their median can be told."""
ROOM = 64 * LARGE_BURST + BURST
"""Free slots that a port is read for: those of a packet port's turn, or of a TAP's one super-frame."""
DROPPED = -1
STALL_NS = 100_000_000
"""A full ring of which the receiver took nothing for so long belongs to one that has stopped."""


@compiled
def place_of(wire, number):
    """The place in the ring of slot `number`, which is used again and again."""
    return number & (wire["slots"] - 1)


@compiled
def slot_of(wire, slots, number):
    """Where slot `number` stands, in one of the wire's two arrays of slots."""
    return slots + place_of(wire, number) * SLOT_SIZE


@compiled
def data_of(wire, data, number):
    """Where the data area of slot `number` stands, likewise."""
    return data + place_of(wire, number) * wire["data_size"]


# Sending


@compiled
def reclaim(mem, t, index):
    """Take back the slots that the receiver has released, and their references to pool buffers."""
    wire = t["wires"][index]
    tail = min(acquire64(mem, wire["tx_cursors"] + CURSOR_TAIL), wire["tx_published"])
    while wire["tx_clean"] < tail:
        place = place_of(wire, wire["tx_clean"])
        buffer = t["wire_buffers"][index, place]
        if buffer >= 0:
            t["wire_buffers"][index, place] = -1
            release_buffer(t, buffer)
        wire["tx_clean"] += 1


@compiled
def release_buffer(t, buffer):
    """Give back one reference to a pool buffer; the last makes it free."""
    t["buffers"][buffer] -= 1
    if t["buffers"][buffer] == 0:
        t["free_buffers"][t["free_buffer_count"]] = buffer
        t["free_buffer_count"] += 1


@compiled
def reserve(mem, t, index):
    """Whether slot `tx_head` may be written; for a full ring, the frame is dropped."""
    if _has_slot(mem, t, index):
        return True
    wire = t["wires"][index]
    reason = Counter.WIRE_STALLED.value if _is_stalled(t, wire) else Counter.WIRE_FULL.value
    drop_sent(t, wire["port"], reason, 1)
    return False


@compiled
def _has_slot(mem, t, index):
    """Whether the ring has a free slot."""
    wire = t["wires"][index]
    if wire["tx_head"] - wire["tx_clean"] >= wire["slots"]:
        reclaim(mem, t, index)
    return wire["tx_head"] - wire["tx_clean"] < wire["slots"]


@compiled
def has_room(mem, t, index):
    """Whether what a port is read for fits in the ring, or need not. Asks to be woken when not.

    Nobody waits for a receiver that lives but takes nothing (SIGSTOP): what does not fit is dropped then.
    """
    wire = t["wires"][index]
    if wire["tx_head"] - wire["tx_clean"] <= wire["slots"] - ROOM:
        return True
    reclaim(mem, t, index)
    if wire["tx_head"] - wire["tx_clean"] <= wire["slots"] - ROOM:
        return True
    release64(mem, wire["tx_cursors"] + CURSOR_WAITING, 1)
    full_fence()
    reclaim(mem, t, index)
    if wire["tx_head"] - wire["tx_clean"] <= wire["slots"] - ROOM:
        return True
    if wire["tx_clean"] != wire["full_clean"] or wire["full_since_ns"] == 0:
        wire["full_clean"] = wire["tx_clean"]
        wire["full_since_ns"] = t["now_ns"]
    return _is_stalled(t, wire)


@compiled
def _is_stalled(t, wire):
    if wire["full_since_ns"] == 0 or wire["tx_clean"] != wire["full_clean"]:
        return False
    return t["now_ns"] - wire["full_since_ns"] >= STALL_NS


@compiled
def look_at_clock(mem, t, index):
    """See that `t['now_ns']` is no time before the packet in hand came, where a wire tells when it leaves.

    The pass may have begun long before: a worker can lose its processor between any two instructions.
    """
    if t["wires"][index]["impaired"]:
        _look_at_clock(mem, t)


@compiled
def _look_at_clock(mem, t):
    if t["clocked"]:
        t["now_ns"] = monotonic_ns(mem, TIMESPEC_OFFSET)


@compiled
def admit(t, index, length):
    """When a frame of `length` bytes that is sent now leaves the wire (0: at once), or DROPPED.

    Rate: the frame takes its turn behind those before it. Queue limit and ECN threshold count the frames
    whose turn has not come. Then delay and jitter; a frame chosen for reordering skips them (as netem).
    """
    wire = t["wires"][index]
    if not wire["impaired"]:
        return 0
    now_ns = t["now_ns"]
    if wire["loss"] and _random(wire) < wire["loss"]:
        drop_sent(t, wire["port"], Counter.WIRE_LOSS.value, 1)
        return DROPPED
    start_ns = max(now_ns, wire["free_at_ns"])
    turns = t["wire_turns"][index]
    _leave_queue(wire, turns, now_ns)
    if wire["queue_limit"] and wire["tx_head"] - wire["queue_head"] >= wire["queue_limit"]:
        drop_sent(t, wire["port"], Counter.WIRE_QUEUE.value, 1)
        return DROPPED
    if wire["rate"] > 0:
        wire["free_at_ns"] = start_ns + _line_time_ns(wire, length)
        start_ns = wire["free_at_ns"]
    turns[place_of(wire, wire["tx_head"])] = start_ns
    if wire["reorder"] and _random(wire) < wire["reorder"]:
        t["counters"][Counter.WIRE_REORDERED.value] += 1
        return start_ns
    if wire["rate"] == 0 and wire["delay_ns"] == 0 and wire["jitter_ns"] == 0:
        return 0  # a wire that loses or repeats frames only has no times to keep
    delay_ns = wire["delay_ns"]
    if wire["jitter_ns"]:
        # 24 bits of the random number: the product of all 32 and a long jitter is no 64-bit integer
        delay_ns += ((_random(wire) >> 8) * (2 * wire["jitter_ns"]) >> 24) - wire["jitter_ns"]
    return start_ns + max(delay_ns, 0)


@compiled
def _line_time_ns(wire, length):
    """How long a frame of `length` bytes takes the line at the wire's rate."""
    return int((max(length, wire["least_length"]) + wire["added_length"]) * 1e9 / wire["rate"])


@compiled
def _leave_queue(wire, turns, now_ns):
    """Step over the frames whose turn has come."""
    while wire["queue_head"] < wire["tx_head"] and turns[place_of(wire, wire["queue_head"])] <= now_ns:
        wire["queue_head"] += 1


@compiled
def queue_anew(mem, t, index):
    """Let the frames whose turn has not come take their turns at the rate that is set now.

    Without that, those that come next would wait behind a queue that leaves at a rate of the past. Delays
    stay. A receiver that has sorted the frames already (jitter, reordering) keeps to the times that it knows.
    """
    wire = t["wires"][index]
    turns = t["wire_turns"][index]
    wire["free_at_ns"] = t["now_ns"]
    _leave_queue(wire, turns, t["now_ns"])
    for number in range(wire["queue_head"], wire["tx_head"]):
        slot = slot_of(wire, wire["tx_slots"], number)
        if wire["rate"] > 0:
            wire["free_at_ns"] += _line_time_ns(wire, load_le32(mem, slot + SLOT_LENGTH))
        earlier_by = turns[place_of(wire, number)] - wire["free_at_ns"]
        turns[place_of(wire, number)] = wire["free_at_ns"]
        release64(mem, slot + SLOT_RELEASE, load64(mem, slot + SLOT_RELEASE) - earlier_by)
    _wake(mem, wire)


@compiled
def _random(wire):
    state, bits = next_random(wire["random"])
    wire["random"] = state
    return bits


@compiled
def publish_frame(mem, t, index, release_ns, kind, frame_len, head_len, ext, buffer):
    """Complete slot `tx_head`, whose head or data area holds the frame's first `head_len` bytes already.

    ext, buffer: where in `mem`, and in which pool buffer, a SPLIT frame's payload stands. The receiver sees
    the slot after `flush`.
    """
    wire = t["wires"][index]
    number = wire["tx_head"]
    slot = slot_of(wire, wire["tx_slots"], number)
    port = t["ports"][wire["port"]]
    store64(mem, slot + SLOT_RELEASE, release_ns)
    store_le32(mem, slot + SLOT_LENGTH, frame_len)
    store_le16(mem, slot + SLOT_HEAD_LENGTH, head_len)
    store_le16(mem, slot + SLOT_KIND, kind)
    store64(mem, slot + SLOT_EXT, ext - t["pool"])
    store_le32(mem, slot + SLOT_EPOCH, wire["epoch"])
    t["wire_buffers"][index, place_of(wire, number)] = buffer
    if buffer >= 0:
        t["buffers"][buffer] += 1
    if port["capture"]:
        start = data_of(wire, wire["tx_data"], number)
        start = start if kind == SlotKind.DATA.value else slot + SLOT_HEAD
        capture(mem, t, wire["port"], 1, start, head_len, ext, frame_len)
    wire["tx_head"] = number + 1
    port["tx_packets"] += 1
    port["tx_bytes"] += frame_len
    if wire["impaired"]:
        _mark_congestion(mem, t, wire, slot, kind, number)
        if wire["duplicate"] and _random(wire) < wire["duplicate"] and _has_slot(mem, t, index):
            _duplicate(mem, t, index, slot, number, buffer)


@compiled
def _mark_congestion(mem, t, wire, slot, kind, number):
    """Set CE on an ECN-capable IPv4 or IPv6 frame that joined a queue over the threshold (RFC 3168)."""
    if wire["ecn_threshold"] == 0 or number - wire["queue_head"] < wire["ecn_threshold"]:
        return
    at = slot + SLOT_HEAD
    if kind == SlotKind.DATA.value:
        at = data_of(wire, wire["tx_data"], number)
    l3 = at + ETH_HEADER
    ethertype = load16(mem, l3 - 2)
    for _ in range(MAX_VLAN_TAGS):
        if ethertype == ETH_VLAN or ethertype == ETH_QINQ:
            ethertype = load16(mem, l3 + 2)
            l3 += VLAN_TAG
    if ethertype == ETH_IPV4 and load8(mem, l3 + 1) & 3 in (1, 2):
        before = load16(mem, l3)
        store8(mem, l3 + 1, load8(mem, l3 + 1) | 3)
        change = (~load16(mem, l3 + 10) & 0xFFFF) + (~before & 0xFFFF) + load16(mem, l3)
        store16(mem, l3 + 10, checksum.finish(change))
        t["counters"][Counter.WIRE_MARKED.value] += 1
    elif ethertype == ETH_IPV6 and (load8(mem, l3 + 1) >> 4) & 3 in (1, 2):
        store8(mem, l3 + 1, load8(mem, l3 + 1) | 0x30)
        t["counters"][Counter.WIRE_MARKED.value] += 1


@compiled
def _duplicate(mem, t, index, slot, number, buffer):
    """Slot `number` once more."""
    wire = t["wires"][index]
    twin = wire["tx_head"]
    copy(mem, slot_of(wire, wire["tx_slots"], twin), slot, SLOT_SIZE)
    if load_le16(mem, slot + SLOT_KIND) == SlotKind.DATA.value:
        target = data_of(wire, wire["tx_data"], twin)
        copy(mem, target, data_of(wire, wire["tx_data"], number), wire["data_size"])
    t["wire_buffers"][index, place_of(wire, twin)] = buffer
    t["wire_turns"][index, place_of(wire, twin)] = t["wire_turns"][index, place_of(wire, number)]
    if buffer >= 0:
        t["buffers"][buffer] += 1
    wire["tx_head"] = twin + 1
    t["counters"][Counter.WIRE_DUPLICATED.value] += 1


@compiled
def flush(mem, t, index):
    """Let the receiver see what was sent since the last call, and wake it when it sleeps."""
    wire = t["wires"][index]
    if wire["tx_head"] == wire["tx_published"]:
        return
    release64(mem, wire["tx_cursors"] + CURSOR_HEAD, wire["tx_head"])
    wire["tx_published"] = wire["tx_head"]
    _wake(mem, wire)


@compiled
def _wake(mem, wire):
    """Have a receiver that sleeps look at the wire."""
    full_fence()
    if acquire64(mem, wire["tx_cursors"] + CURSOR_ASLEEP) == 1:
        release64(mem, wire["tx_cursors"] + CURSOR_ASLEEP, 0)
        kick(mem, wire)


@compiled
def kick(mem, wire):
    """Wake the other end; a FIFO that is full has woken it already."""
    sys_write(mem, wire["kick_fd"], WAKE_OFFSET, 1)


# Receiving


@compiled
def receive(mem, t, index):
    """Take the frames that are due, up to BURST, as packet rows; their slots stay held until `release`.

    What became due since the pass began is taken, too.
    """
    wire = t["wires"][index]
    head = _visible_head(mem, wire)
    if _unordered(mem, wire):
        _look_at_clock(mem, t)
        return _receive_by_time(mem, t, index, head)
    number = wire["rx_tail"]
    stop = min(head, number + BURST)
    if number < stop and load64(mem, slot_of(wire, wire["rx_slots"], number) + SLOT_RELEASE) > 0:
        _look_at_clock(mem, t)
    count = 0
    while number < stop:
        slot = slot_of(wire, wire["rx_slots"], number)
        if number + 2 < stop:
            ahead = slot_of(wire, wire["rx_slots"], number + 2)
            prefetch(mem, ahead)
            prefetch(mem, ahead + 64)
            prefetch(mem, ahead + 128)
        release_ns = load64(mem, slot + SLOT_RELEASE)
        if release_ns > t["now_ns"]:
            break
        _note_lateness(t, release_ns)
        count += _take(mem, t, wire, slot, number, count)
        number += 1
    wire["taken"] = number
    return count


@compiled
def _visible_head(mem, wire):
    """The sender's head, as far as a sender that is in its right mind can have gone."""
    return min(acquire64(mem, wire["rx_cursors"] + CURSOR_HEAD), wire["rx_tail"] + wire["slots"])


@compiled
def _unordered(mem, wire):
    """Whether frames may overtake each other: as the sender says, and until the last such frame is taken."""
    if load64(mem, wire["rx_cursors"] + CURSOR_UNORDERED):
        wire["unordered"] = 1
    elif wire["heap_size"] == 0 and wire["taken"] == wire["rx_tail"]:
        wire["unordered"] = 0
    return wire["unordered"] != 0


@compiled
def _note_lateness(t, release_ns):
    """Count a frame that had a release time, and by how much it was missed."""
    if release_ns <= 0:
        return
    late_ns = t["now_ns"] - release_ns
    t["counters"][Counter.WIRE_TIMED.value] += 1
    t["counters"][Counter.WIRE_LATENESS_NS.value] += late_ns
    if late_ns > INEXACT_NS:
        t["counters"][Counter.WIRE_INEXACT.value] += 1
        if late_ns > LATE_NS:
            t["counters"][Counter.WIRE_LATE.value] += 1


@compiled
def _take(mem, t, wire, slot, number, place):
    """Make packet row `place` of a slot; 1, or 0 for a slot that is dropped. Trusts nothing that it says."""
    port = t["ports"][wire["port"]]
    port["rx_packets"] += 1
    length = load_le32(mem, slot + SLOT_LENGTH)
    kind = load_le16(mem, slot + SLOT_KIND)
    head_length = length
    packet = t["packets"][place]
    packet["offset"] = slot + SLOT_HEAD
    if kind == SlotKind.SPLIT.value:
        if load_le32(mem, slot + SLOT_EPOCH) != wire["peer_epoch"]:
            drop_received(t, wire["port"], Counter.RX_STALE_SLOT.value, 1)
            return 0
        head_length = load_le16(mem, slot + SLOT_HEAD_LENGTH)
        ext = load64(mem, slot + SLOT_EXT)
        if head_length > SLOT_HEAD_MAX or length < head_length or ext < 0:
            return _bad_descriptor(t, wire)
        if ext > wire["peer_pool_size"] - (length - head_length):
            return _bad_descriptor(t, wire)
        packet["ext"] = wire["peer_pool"] + ext
    elif kind == SlotKind.DATA.value:
        packet["offset"] = data_of(wire, wire["rx_data"], number)
        if length > wire["data_size"]:
            return _bad_descriptor(t, wire)
    elif kind != SlotKind.INLINE.value or length > SLOT_HEAD_MAX:
        return _bad_descriptor(t, wire)
    packet["length"] = length
    packet["head_length"] = head_length
    packet["port"] = wire["port"]
    packet["queue"] = 0
    packet["buffer"] = -1
    packet["gso_size"] = 0
    packet["csum"] = 0
    port["rx_bytes"] += length
    if port["capture"]:
        capture(mem, t, wire["port"], 0, packet["offset"], head_length, packet["ext"], length)
    return 1


@compiled
def _bad_descriptor(t, wire):
    drop_received(t, wire["port"], Counter.RX_BAD_DESCRIPTOR.value, 1)
    return 0


@compiled
def release(mem, t, index):
    """Give the slots of the last burst back to the sender, and wake it when it waits for room.

    Slots whose frames are in other workers' hands are kept; a later call gives them back.
    """
    wire = t["wires"][index]
    if wire["unordered"]:
        _release_by_time(t, index)
    elif wire["taken"] > wire["rx_tail"]:
        wire["rx_tail"] = wire["taken"]
    tail = wire["rx_tail"]
    if t["workers"] > 1:
        tail = done_up_to(mem, t, wire, tail)
    if acquire64(mem, wire["rx_cursors"] + CURSOR_TAIL) == tail:
        return
    release64(mem, wire["rx_cursors"] + CURSOR_TAIL, tail)
    full_fence()
    if acquire64(mem, wire["rx_cursors"] + CURSOR_WAITING) == 1:
        release64(mem, wire["rx_cursors"] + CURSOR_WAITING, 0)
        kick(mem, wire)


# Receiving where frames may overtake each other: slots wait in a heap by release time. `taken` counts the
# slots that have entered the heap; `wire_taken` marks delivered ones behind a tail that cannot move yet.


@compiled
def _receive_by_time(mem, t, index, head):
    wire = t["wires"][index]
    while wire["taken"] < head:
        number = wire["taken"]
        slot = slot_of(wire, wire["rx_slots"], number)
        _heap_push(t["wire_heap"][index], wire, load64(mem, slot + SLOT_RELEASE), number)
        wire["taken"] = number + 1
    heap = t["wire_heap"][index]
    count = 0
    while count < BURST and wire["heap_size"] > 0 and heap[0, 0] <= t["now_ns"]:
        release_ns = heap[0, 0]
        number = heap[0, 1]
        _heap_pop(heap, wire)
        _note_lateness(t, release_ns)
        count += _take(mem, t, wire, slot_of(wire, wire["rx_slots"], number), number, count)
        t["wire_taken"][index, place_of(wire, number)] = 1
    return count


@compiled
def _release_by_time(t, index):
    wire = t["wires"][index]
    while wire["rx_tail"] < wire["taken"] and t["wire_taken"][index, place_of(wire, wire["rx_tail"])]:
        t["wire_taken"][index, place_of(wire, wire["rx_tail"])] = 0
        wire["rx_tail"] += 1


@compiled
def _heap_less(heap, one, other):
    if heap[one, 0] != heap[other, 0]:
        return heap[one, 0] < heap[other, 0]
    return heap[one, 1] < heap[other, 1]


@compiled
def _heap_swap(heap, one, other):
    for column in range(2):
        value = heap[one, column]
        heap[one, column] = heap[other, column]
        heap[other, column] = value


@compiled
def _heap_push(heap, wire, release_ns, number):
    place = wire["heap_size"]
    heap[place, 0] = release_ns
    heap[place, 1] = number
    wire["heap_size"] = place + 1
    while place > 0 and _heap_less(heap, place, (place - 1) // 2):
        _heap_swap(heap, place, (place - 1) // 2)
        place = (place - 1) // 2


@compiled
def _heap_pop(heap, wire):
    size = wire["heap_size"] - 1
    wire["heap_size"] = size
    _heap_swap(heap, 0, size)
    place = 0
    while True:
        least = place
        for child in (2 * place + 1, 2 * place + 2):
            if child < size and _heap_less(heap, child, least):
                least = child
        if least == place:
            return
        _heap_swap(heap, place, least)
        place = least


# Sleeping


@compiled
def next_due_ns(mem, t, index):
    """When the next frame leaves the wire: NEVER when none is on it."""
    wire = t["wires"][index]
    head = _visible_head(mem, wire)
    if wire["unordered"]:
        if wire["taken"] < head:
            return 0
        return t["wire_heap"][index, 0, 0] if wire["heap_size"] > 0 else NEVER
    if wire["rx_tail"] >= head:
        return NEVER
    return load64(mem, slot_of(wire, wire["rx_slots"], wire["rx_tail"]) + SLOT_RELEASE)


@compiled
def fall_asleep(mem, t, index):
    """Ask the sender to wake us; the caller looks once more for frames before it sleeps."""
    release64(mem, t["wires"][index]["rx_cursors"] + CURSOR_ASLEEP, 1)


@compiled
def wake_up(mem, t, index):
    """Nobody needs to wake us any more."""
    release64(mem, t["wires"][index]["rx_cursors"] + CURSOR_ASLEEP, 0)


@compiled
def drain(mem, t, index):
    """Empty the FIFO that woke us."""
    sys_read(mem, t["wires"][index]["wake_fd"], WAKE_OFFSET + 8, 32)
