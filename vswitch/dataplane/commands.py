# SPDX-License-Identifier: Apache-2.0
"""What the agent asks of the worker, applied in the order in which it was asked."""

from vswitch.dataplane import flow_table, held, mss
from vswitch.dataplane.account import (
    NOBODY,
    close_frames,
    drop_copy,
    hand_on,
    leave_to_nobody,
    open_frames,
    stop_holding,
)
from vswitch.dataplane.actions import CONTROLLER, report_evicted, run_program
from vswitch.dataplane.compiled import compiled, inlined
from vswitch.dataplane.gro import NO_PACKET
from vswitch.dataplane.intrinsics import acquire64, assign, release64, store64
from vswitch.dataplane.outgoing import take_group
from vswitch.dataplane.parse import FORWARD, parse
from vswitch.dataplane.ports import packet as packet_port
from vswitch.dataplane.ports.vnet import settle_offload
from vswitch.dataplane.ports.wire import queue_anew
from vswitch.dataplane.workers import agreed_commands, are_done, have_applied
from vswitch.layout import (
    COMMAND_HEAD_OFFSET,
    COMMAND_TAIL_OFFSET,
    COMMANDS,
    CURSOR_UNORDERED,
    FLOWS,
    HELD_BUCKETS,
    KEY_WORDS,
    NO_SLOT,
    PUNT_SLOT_SIZE,
    Command,
    Counter,
    Held,
    PortKind,
)

COMMAND_BURST = 256
SWEEP_PERIOD_NS = 1_000_000_000
SWEEP_PARTS = 64
SWEEP_AT_ONCE = 4096
"""Entries that the worker checks for idleness without a look at its ports in between."""


@inlined
def apply_commands(mem, t):
    """Apply up to COMMAND_BURST commands; their number.

    What frames in other workers' hands rely on changes when these are done with them, and new frames come
    when the others know of the change: until then, `t['settling']` has the ports wait. What the others apply:
    agreed_commands().
    """
    head = acquire64(mem, COMMAND_HEAD_OFFSET)
    tail = acquire64(mem, COMMAND_TAIL_OFFSET)
    count = 0
    t["settling"] = 0
    if t["worker"]:
        if tail < head:
            head = agreed_commands(mem, t, head, tail)
    elif t["workers"] > 1:
        t["settling"] = not have_applied(mem, t, t["awaited"])
    while tail < head and count < COMMAND_BURST:
        command = t["commands"][tail & (COMMANDS - 1)]
        unsettles = t["workers"] > 1 and t["worker"] == 0 and _unsettles(command["op"])
        if unsettles and not are_done(mem, t):
            t["settling"] = 1
            break
        _apply(mem, t, command)
        tail += 1
        if unsettles:
            t["awaited"] = tail
            t["settling"] = 1
        count += 1
        release64(mem, COMMAND_TAIL_OFFSET, tail)
    return count


@compiled
def _unsettles(op):
    """Whether an operation changes what parsed frames rely on: their queue, their memory, their port."""
    return op == Command.NIC.value or op == Command.NEW_POOL.value or op == Command.REMOVE_TUNNEL.value


@inlined
def _apply(mem, t, command):
    op = command["op"]
    args = command["args"]
    if op == Command.INSTALL.value:
        _answer(t, command, flow_table.find(t, command["key"]))
        if not flow_table.install(t, command["key"], args[0], args[1], args[2]):
            if t["worker"] == 0:  # without an entry, the others hand the flow's frames back
                t["counters"][Counter.FLOW_TABLE_FULL.value] += 1
                report_evicted(mem, t, command["key"], 0, 0, 0)
        elif t["worker"] == 0:
            _forward_waiting(mem, t, held.bucket_of(command["key"]), args[3])
    elif op == Command.REMOVE.value:
        place = flow_table.find(t, command["key"])
        _answer(t, command, place)
        if place != flow_table.NOT_FOUND:
            flow_table.remove(t, place)
    elif op == Command.EXECUTE.value:
        if t["held"][args[0]]["state"] == Held.WAITING.value:
            _execute_held(mem, t, args[0], args[1], args[2], Held.FORWARDED.value)
        _free_punt(t, command, args[0])
    elif op == Command.DISCARD.value:
        if t["held"][args[0]]["state"] == Held.WAITING.value:
            _discard_held(t, args[0], args[1])
        _free_punt(t, command, args[0])
    elif op == Command.SEND.value:
        _send(mem, t, args[0], args[1], args[2])
    elif op == Command.METER.value:
        _take_over_meter(t["meters"][args[0]], t["meter_settings"][args[0]], args[1])
    elif op == Command.WIRE.value:
        _take_over_settings(mem, t, args[0])
    elif op == Command.NEW_POOL.value:
        wire = t["wires"][args[0]]
        wire["peer_pool"] = args[1]
        wire["peer_pool_size"] = args[2]
        wire["peer_epoch"] = args[3]
    elif op == Command.PORT_STATE.value:
        t["ports"][args[0]]["up"] = args[1]
    elif op == Command.NIC.value:
        t["nic_rows"][args[0]] = args[1]
        t["vif_count"] = args[2]
    elif op == Command.ADD_TUNNEL.value:
        t["ports"][args[0]]["kind"] = PortKind.TUNNEL.value
        t["tunnels"][t["tunnel_count"]] = args[0]
        t["tunnel_count"] += 1
    elif op == Command.CAPTURE.value:
        t["ports"][args[0]]["capture"] = args[1]
    elif op == Command.FORWARDING.value:
        t["forwarding_vms"] += args[1] - t["ports"][args[0]]["forwarding"]
        t["ports"][args[0]]["forwarding"] = args[1]
        if not args[1]:
            mss.forget_port(t, args[0])
    elif op == Command.INJECTOR.value:
        t["sockets"][args[0]]["injector_fd"] = args[1]
    elif op == Command.TOO_BIG_REPORTS.value:
        t["too_big_reports"] = args[0]
    elif op == Command.REMOVE_TUNNEL.value:
        _remove_tunnel(t, args[0])
    elif op == Command.TOS_MASK.value:
        t["tos_mask"] = args[0]
        if t["worker"] == 0:
            for bucket in range(HELD_BUCKETS):
                _forward_waiting(mem, t, bucket, args[1])

    elif op == Command.DROP_MASK.value:
        for word in range(KEY_WORDS):
            t["drop_masks"][args[0]][word] = command["key"][word]
        t["drop_mask_count"] = max(t["drop_mask_count"], args[0] + 1)


@compiled
def _answer(t, command, place):
    """Write into the command what the program that it ends has counted."""
    if place == flow_table.NOT_FOUND:
        command["ended"] = 0
        return
    flow = t["flows"][place]
    command["ended"] = 1
    command["packets"] = flow["packets"]
    command["bytes"] = flow["bytes"]
    command["last_used_ns"] = flow["last_used_ns"]


@compiled
def _free_punt(t, command, slot):
    """Take a slot back; the answer is whether the flow's entry has counted its packet."""
    command["ended"] = 1 if t["held"][slot]["state"] == Held.COUNTED.value else 0
    t["ports"][t["held"][slot]["in_port"]]["punts"] -= 1
    t["free_punts"][t["free_punt_count"]] = slot
    t["free_punt_count"] += 1


@compiled
def _forward_waiting(mem, t, bucket, unseen):
    """Forward the misses of a bucket whose flows have entries now, before any packet comes that finds one.

    What an entry drops, or only gives to the agent, the agent has already. unseen: number of the first punt
    that the agent had not seen when it asked for this; it counts those before, and the entry the others.
    """
    slot = t["held_first"][bucket]
    while slot != NO_SLOT:
        info = t["held"][slot]
        following = info["next"]
        held.take_key(t, slot)
        place = flow_table.find(t, t["key"])
        if place != flow_table.NOT_FOUND and _sends_on(t, t["flows"][place]):
            flow = t["flows"][place]
            state = Held.FORWARDED.value
            if info["number"] >= unseen:
                state = Held.COUNTED.value
                flow["packets"] += info["packets"]
                flow["bytes"] += info["bytes"]
                flow["last_used_ns"] = t["now_ns"]
            _execute_held(mem, t, slot, flow["program"], flow["program_len"], state)
        slot = following


@compiled
def _sends_on(t, flow):
    """Whether an entry's program does more with a packet than to drop it or to give it to the agent."""
    length = flow["program_len"]
    return length > 1 or (length == 1 and t["programs"][flow["program"]] != CONTROLLER)


@compiled
def _execute_held(mem, t, slot, program, program_len, state):
    """Run a program on a miss that waits, which then is in this state."""
    held.leave(t, slot)
    info = t["held"][slot]
    info["state"] = state
    at = t["punt_memory"] + slot * PUNT_SLOT_SIZE
    stop_holding(t, info)
    _execute(mem, t, at, info, program, program_len, slot)


@compiled
def _discard_held(t, slot, reason):
    """Drop a miss that waits for this reason; -1: a controller has it, which is none."""
    held.leave(t, slot)
    stop_holding(t, t["held"][slot])
    if reason < 0:
        hand_on(t)
    else:
        drop_copy(t, reason, max(t["open_frames"], 1))
    close_frames(t)


@compiled
def _send(mem, t, slot, program, program_len):
    """Run a program on a packet of the agent's own."""
    info = t["injections"][slot]
    t["ports"][NOBODY]["rx_packets"] += 1
    t["ports"][NOBODY]["rx_bytes"] += info["length"]
    open_frames(t, NOBODY, 1)
    _execute(mem, t, t["injection_memory"] + slot * PUNT_SLOT_SIZE, info, program, program_len, NO_SLOT)


@compiled
def _execute(mem, t, at, info, program, program_len, slot):
    """Run a program on a packet that lies whole at mem[at], and whose frames are open.

    slot: of the miss that it is, or NO_SLOT.
    """
    packet = t["packets"][0]
    packet["offset"] = at
    packet["length"] = info["length"]
    packet["head_length"] = info["length"]
    packet["ext"] = 0
    packet["port"] = info["in_port"]
    packet["queue"] = 0
    packet["buffer"] = -1
    packet["csum"] = info["csum"]
    packet["csum_start"] = info["csum_start"]
    packet["csum_offset"] = info["csum_offset"]
    packet["gso_size"] = info["gso_size"]
    packet["next"] = NO_PACKET
    verdict = parse(mem, t, packet, False)
    if verdict != FORWARD:
        drop_copy(t, verdict, 1)
        close_frames(t)
        return
    settle_offload(mem, packet)
    packet["tunnel_id"] = info["tunnel_id"]
    if slot == NO_SLOT:
        flow_table.make_key(mem, t, packet)
    else:
        packet["hash"] = info["hash"]
        held.take_key(t, slot)
    group = t["groups"][0]
    group["first"] = 0
    group["last"] = 0
    group["count"] = 1
    group["gso_size"] = packet["gso_size"]
    group["payload_len"] = packet["payload_len"]
    group["plain"] = 0
    take_group(mem, t, group)
    t["forwarded_mss"] = info["forwarded_mss"]
    run_program(mem, t, program, program_len, t["account"], t["open_frames"])
    t["forwarded_mss"] = mss.NOT_FORWARDED
    packet_port.flush_all(mem, t)


@compiled
def _take_over_settings(mem, t, index):
    wire, wanted = t["wires"][index], t["wire_settings"][index]
    if not wire["impaired"]:
        wire["queue_head"] = wire["tx_head"]  # it had no queue
    wire["rate"] = wanted["rate"]
    wire["least_length"] = wanted["least_length"]
    wire["added_length"] = wanted["added_length"]
    wire["delay_ns"] = wanted["delay_ns"]
    wire["jitter_ns"] = wanted["jitter_ns"]
    wire["loss"] = wanted["loss"]
    wire["duplicate"] = wanted["duplicate"]
    wire["reorder"] = wanted["reorder"]
    wire["queue_limit"] = wanted["queue_limit"]
    wire["ecn_threshold"] = wanted["ecn_threshold"]
    if wanted["random"]:
        wire["random"] = wanted["random"]
    wire["impaired"] = wanted["impaired"]
    queue_anew(mem, t, index)
    store64(mem, wire["tx_cursors"] + CURSOR_UNORDERED, 1 if wire["jitter_ns"] or wire["reorder"] else 0)


@compiled
def _take_over_meter(meter, wanted, modified):
    """Give a meter the bands of `wanted`, with counters of their own. One that was merely modified goes on
    counting packets and bytes."""
    packets = meter["packets"]
    length = meter["bytes"]
    assign(meter, wanted)
    if modified:
        meter["packets"] = packets
        meter["bytes"] = length


@compiled
def _remove_tunnel(t, index):
    leave_to_nobody(t, index)
    t["ports"][index]["kind"] = PortKind.NONE.value
    t["last_tunnel"] = -1
    for place in range(t["tunnel_count"]):
        if t["tunnels"][place] == index:
            t["tunnel_count"] -= 1
            t["tunnels"][place] = t["tunnels"][t["tunnel_count"]]
            return


@compiled
def sweep(mem, tables):
    """Remove idle entries in the next part of the flow table; in how many ns the part after it is due.

    tables: of all workers, of which number 0 calls this; an entry that another one uses is not idle.

    `flow_bits` tells where entries are, so that a large empty table costs nothing. A table with few entries
    is swept in one part, so that an idle worker wakes once in SWEEP_PERIOD_NS.
    """
    t = tables[0]
    parts = 1 if t["flow_count"] <= SWEEP_AT_ONCE else SWEEP_PARTS
    stride = FLOWS // 32 // parts
    first = t["sweep"] & ~(stride - 1)
    t["sweep"] = (first + stride) & (FLOWS // 32 - 1)
    for index in range(first, first + stride):
        bits = t["flow_bits"][index]
        bit = 0
        while bits and bit < 32:
            if bits & (1 << bit):
                bits &= ~(1 << bit)
                _sweep_place(mem, tables, t, (index << 5) + bit)
            bit += 1
    return SWEEP_PERIOD_NS // parts


@compiled
def _sweep_place(mem, tables, t, place):
    flow = t["flows"][place]
    if not flow_table.is_idle(t, flow):
        return
    for worker in range(1, t["workers"]):
        theirs = flow_table.find(tables[worker], flow["key"])
        if theirs != flow_table.NOT_FOUND and not flow_table.is_idle(t, tables[worker]["flows"][theirs]):
            return
    if report_evicted(mem, t, flow["key"], flow["packets"], flow["bytes"], flow["last_used_ns"]):
        t["counters"][Counter.EVICTED_IDLE.value] += 1
        if t["workers"] == 1:
            flow_table.remove(t, place)
        else:
            flow["idle_timeout_ns"] = 0  # the agent has all workers remove it
