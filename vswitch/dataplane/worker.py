# SPDX-License-Identifier: Apache-2.0
"""The worker's loop. A packet's way through the files: docs/explanation/packet-walk.md."""

from numba import njit

from vswitch.dataplane import mss, workers
from vswitch.dataplane.account import drop_received
from vswitch.dataplane.actions import forward
from vswitch.dataplane.commands import apply_commands, sweep
from vswitch.dataplane.compiled import compiled, inlined
from vswitch.dataplane.gro import coalesce, single
from vswitch.dataplane.intrinsics import (
    acquire64,
    assign,
    full_fence,
    load16,
    load_le16,
    monotonic_ns,
    pointer_to,
    prefetch,
    release64,
    store_le16,
    store_le32,
    sys_ppoll,
    sys_read,
    sys_yield,
)
from vswitch.dataplane.nic import queues
from vswitch.dataplane.parse import FORWARD, parse, parse_received
from vswitch.dataplane.ports import packet, tap, wire
from vswitch.dataplane.ports.vnet import settle_offload
from vswitch.layout import (
    ASLEEP_OFFSET,
    COMMAND_HEAD_OFFSET,
    COMMAND_TAIL_OFFSET,
    INBOX_HEAD_OFFSET,
    INBOX_TAIL_OFFSET,
    POLLFDS_OFFSET,
    STOP_OFFSET,
    TAP_BURST,
    TIMESPEC_OFFSET,
    WAKE_OFFSET,
    Counter,
    Csum,
)

POLLIN, POLLERR = 1, 8
IDLE_WAIT_NS = 500_000_000
"""Longest sleep: how long an idle worker takes to notice what nobody woke it for."""
SPIN_NS = 10_000
"""How long a worker looks on for frames before it sleeps: as long as sleeping and being woken takes."""
WATCH_NS = 100_000
"""How long it looks on while frames keep coming within such a time, letting others run between the looks:
waking a core that sleeps costs whoever sends to it several microseconds."""
EARLY_NS = 50_000
"""A worker that sleeps until a frame leaves a wire wakes so long before, and then looks on: the kernel wakes
nobody to the microsecond."""
PREFETCH_BYTES = 1536
BUSY_PASSES = 8
"""A worker that is kept busy by wires looks at every TAP after so many passes."""


@njit(cache=True, nogil=True)
def run(mem_array, tables, number):
    """Be worker `number` until STOP is set. `tables`: of all workers, as layout.make_tables gives them."""
    mem = pointer_to(mem_array)
    t = tables[number]
    t["clocked"] = 1
    next_sweep_ns = 0
    worked_ns = 0
    patience_ns = SPIN_NS
    while acquire64(mem, STOP_OFFSET) == 0:
        now_ns = monotonic_ns(mem, TIMESPEC_OFFSET)
        # what the others are done with before a pass is given back in it: then worker 0 may sleep
        may_sleep = number != 0 or t["workers"] == 1 or workers.are_done(mem, t)
        worked = step(mem, tables, number, now_ns)
        if number == 0 and now_ns >= next_sweep_ns:
            next_sweep_ns = now_ns + sweep(mem, tables)
        if worked:
            patience_ns = WATCH_NS if now_ns - worked_ns < WATCH_NS else SPIN_NS
            worked_ns = now_ns
        elif _is_due_soon(mem, t, now_ns):
            continue  # who sleeps or lets others run may not be back in time
        elif now_ns - worked_ns > patience_ns and may_sleep:
            _sleep(mem, t, next_sweep_ns if number == 0 and t["flow_count"] > 0 else wire.NEVER)
        elif now_ns - worked_ns > SPIN_NS:
            sys_yield()


@compiled
def step(mem, tables, number, now_ns):
    """One pass of worker `number`: commands, then each port's frames through all stages, then out.

    Only worker 0 has ports; the others have what it hands to them. Returns how much was done.
    """
    t = tables[number]
    t["now_ns"] = now_ns
    t["loops"] += 1
    worked = apply_commands(mem, t)
    look = t["loops"] % BUSY_PASSES == 0
    if t["workers"] > 1:
        look = workers.have_delivered(mem, t) or look
        worked += _serve_worker(mem, tables, t)
    for index in range(t["wire_count"]):
        worked += _serve_wire(mem, tables, t, index)
    if _room_on_wires(mem, t):
        for _ in range(t["tap_count"]):
            index = t["taps"][t["tap_turn"]]
            t["tap_turn"] = (t["tap_turn"] + 1) % t["tap_count"]
            if t["ports"][index]["ready"] or look:
                served = _serve_tap(mem, t, index)
                worked += served
                if served and _is_due(mem, t):
                    break  # the other TAPs have their turn when that frame has left its wire
        for place in range(t["socket_count"]):
            if _room_on_wires(mem, t):  # others have sent since
                worked += _serve_packet(mem, tables, t, place)
    else:
        t["counters"][Counter.TX_BACKPRESSURE.value] += 1
    for index in range(t["wire_count"]):
        wire.flush(mem, t, index)
    return worked


@inlined
def _serve_worker(mem, tables, t):
    """What other workers hand to this one: frames of its queues, or groups that only worker 0 can forward.

    Worker 0 also gives back what packet ports hold for others, however full wires and pool are.
    """
    if t["worker"]:
        count = workers.take(mem, t) if t["settling"] == 0 else 0
        if count > 0:
            coalesce(mem, t)
            for number in range(t["group_count"]):
                forward(mem, t, t["groups"][number])
            workers.finish(mem, count)
        return count
    worked = 0
    for worker in range(1, t["workers"]):
        count = workers.take_back(mem, t, tables[worker])
        while count > 0:
            for number in range(t["group_count"]):
                forward(mem, t, t["groups"][number])
            packet.flush_all(mem, t)
            workers.let_go(mem, t, tables[worker], count)
            worked += count
            count = workers.take_back(mem, t, tables[worker])
    for place in range(t["socket_count"]):
        packet.release(mem, t, place)
    return worked


@inlined
def _serve_wire(mem, tables, t, index):
    """Inhale a burst from a wire, parse, coalesce, forward; the slots are held until all is sent."""
    count = 0
    if t["workers"] == 1 or workers.may_receive(mem, t):
        count = wire.receive(mem, t, index)
    _forward_burst(mem, tables, t, count)
    wire.release(mem, t, index)
    return count


@inlined
def _serve_packet(mem, tables, t, place):
    """As _serve_wire, for a packet port that is up."""
    if not t["ports"][t["sockets"][place]["port"]]["up"]:
        return 0
    count = 0
    if t["workers"] == 1 or workers.may_receive(mem, t):
        count = packet.receive(mem, t, place)
    _forward_burst(mem, tables, t, count)
    packet.release(mem, t, place)
    return count


@inlined
def _forward_burst(mem, tables, t, count):
    """Everything that is done with `count` received frames."""
    t["packet_count"] = count
    if count > 0:
        _parse_burst(mem, t)
        queues.receive(mem, tables, t)
        for number in range(t["group_count"]):
            forward(mem, t, t["groups"][number])
    packet.flush_all(mem, t)


@inlined
def _parse_burst(mem, t):
    """Parse the burst; what is dropped is counted, the rest moves up."""
    kept = 0
    for index in range(t["packet_count"]):
        row = t["packets"][index]
        if index + 1 < t["packet_count"]:
            _prefetch_payload(mem, t["packets"][index + 1])
        verdict = parse_received(mem, t, row)
        if verdict != FORWARD:
            drop_received(t, row["port"], verdict, 1)
            continue
        if row["in_port"] != row["port"]:
            t["ports"][row["port"]]["rx_decapsulated"] += 1
            t["ports"][row["in_port"]]["rx_packets"] += 1
            t["ports"][row["in_port"]]["rx_bytes"] += row["length"] - (row["l2"] - row["offset"])
        if row["csum"] == Csum.BAD.value:
            t["counters"][Counter.RX_BAD_CHECKSUM.value] += 1
        settle_offload(mem, row)
        if kept != index:
            assign(t["packets"][kept], row)
        kept += 1
    t["packet_count"] = kept


@compiled
def _prefetch_payload(mem, row):
    """Ask for the bytes whose checksum comes next: they lie in the caches of the core that sent them.

    The processor's own prefetching begins anew with every frame, after some misses.
    """
    start, length = row["offset"], row["length"]
    if row["head_length"] < length:
        start, length = row["ext"], length - row["head_length"]
    for line in range(min(length, PREFETCH_BYTES) >> 6):
        prefetch(mem, start + (line << 6))


@compiled
def _room_on_wires(mem, t):
    """Whether every unimpaired wire that is up can take a super-frame; TAPs, packet ports wait until then."""
    if t["free_buffer_count"] == 0:
        for index in range(t["wire_count"]):
            wire.reclaim(mem, t, index)
        if t["free_buffer_count"] == 0:
            for index in range(t["wire_count"]):
                release64(mem, t["wires"][index]["tx_cursors"] + wire.CURSOR_WAITING, 1)
            full_fence()
            for index in range(t["wire_count"]):
                wire.reclaim(mem, t, index)
            if t["free_buffer_count"] == 0:
                return False
    for index in range(t["wire_count"]):
        row = t["wires"][index]
        if t["ports"][row["port"]]["up"] and not row["impaired"] and not wire.has_room(mem, t, index):
            return False
    return True


@inlined
def _serve_tap(mem, t, index):
    """Read up to TAP_BURST super-frames from a VM and forward each, as long as wires have room."""
    for count in range(TAP_BURST):
        if not _room_on_wires(mem, t):
            return count
        buffer = t["free_buffers"][t["free_buffer_count"] - 1]
        if not tap.receive(mem, t, index, buffer):
            t["ports"][index]["ready"] = 0
            return count
        row = t["packets"][0]
        verdict = parse(mem, t, row, False)
        if verdict != FORWARD:
            drop_received(t, index, verdict, 1)
            continue
        settle_offload(mem, row)
        if t["ports"][index]["forwarding"]:
            mss.from_vm(mem, t, row)
        t["free_buffer_count"] -= 1
        t["buffers"][buffer] = 1  # held while it is forwarded; wires add references of their own
        t["packet_count"] = 1
        single(t)
        forward(mem, t, t["groups"][0])
        t["forwarded_mss"] = mss.NOT_FORWARDED
        packet.flush_all(mem, t)
        wire.release_buffer(t, buffer)
    return TAP_BURST


@compiled
def _is_due(mem, t):
    """Whether a frame's time to leave a wire came since the pass began."""
    now_ns = monotonic_ns(mem, TIMESPEC_OFFSET)
    for index in range(t["wire_count"]):
        if t["now_ns"] < wire.next_due_ns(mem, t, index) <= now_ns:
            return True
    return False


@compiled
def _is_due_soon(mem, t, now_ns):
    """Whether a frame leaves a wire within EARLY_NS of `now_ns`, when the pass began.

    One that should have left before is held up by other workers.
    """
    for index in range(t["wire_count"]):
        if 0 < wire.next_due_ns(mem, t, index) - now_ns <= EARLY_NS:
            return True
    return False


@inlined
def _sleep(mem, t, wake_at_ns):
    """Wait for a TAP, a wire, a packet port, the agent, worker 0, or the next frame's release time."""
    t["sleeps"] += 1
    release64(mem, ASLEEP_OFFSET, 1)
    for index in range(t["wire_count"]):
        wire.fall_asleep(mem, t, index)
    full_fence()
    for index in range(t["wire_count"]):
        wake_at_ns = min(wake_at_ns, wire.next_due_ns(mem, t, index) - EARLY_NS)
    if acquire64(mem, COMMAND_HEAD_OFFSET) != acquire64(mem, COMMAND_TAIL_OFFSET):
        wake_at_ns = 0
    if acquire64(mem, INBOX_HEAD_OFFSET) != acquire64(mem, INBOX_TAIL_OFFSET):
        wake_at_ns = 0
    room = _room_on_wires(mem, t)
    if not room:
        wake_at_ns = min(wake_at_ns, t["now_ns"] + wire.STALL_NS)
    wait_ns = min(max(wake_at_ns - monotonic_ns(mem, TIMESPEC_OFFSET), 0), IDLE_WAIT_NS)
    count = _fill_pollfds(mem, t, room)
    if sys_ppoll(mem, POLLFDS_OFFSET, count, TIMESPEC_OFFSET, wait_ns) > 0:
        for place in range(t["tap_count"]):
            if load16(mem, POLLFDS_OFFSET + 8 * place + 6):
                t["ports"][t["taps"][place]]["ready"] = 1
        if load16(mem, POLLFDS_OFFSET + 8 * t["tap_count"] + 6):
            sys_read(mem, t["wake_fd"], WAKE_OFFSET + 8, 8)
    for index in range(t["wire_count"]):
        if load16(mem, POLLFDS_OFFSET + 8 * (t["tap_count"] + 1 + index) + 6):
            wire.drain(mem, t, index)
        wire.wake_up(mem, t, index)
    first = t["tap_count"] + 1 + t["wire_count"]
    for place in range(t["socket_count"]):
        if load_le16(mem, POLLFDS_OFFSET + 8 * (first + place) + 6) & POLLERR:
            packet.clear_error(mem, t, place)
    release64(mem, ASLEEP_OFFSET, 0)


@compiled
def _fill_pollfds(mem, t, room):
    """struct pollfd of each TAP, of the agent's wake-up, of each wire and packet port; their number."""
    count = 0
    for place in range(t["tap_count"]):
        port = t["ports"][t["taps"][place]]
        _set_pollfd(mem, count, port["fd"] if room and port["up"] else -1)
        count += 1
    _set_pollfd(mem, count, t["wake_fd"])
    count += 1
    for index in range(t["wire_count"]):
        _set_pollfd(mem, count, t["wires"][index]["wake_fd"])
        count += 1
    for place in range(t["socket_count"]):
        socket = t["sockets"][place]
        up = t["ports"][socket["port"]]["up"]
        _set_pollfd(mem, count, socket["fd"] if room and up else -1)
        count += 1
    return count


@compiled
def _set_pollfd(mem, place, fd):
    at = POLLFDS_OFFSET + 8 * place
    store_le32(mem, at, fd)
    store_le16(mem, at + 4, POLLIN)
    store_le16(mem, at + 6, 0)
