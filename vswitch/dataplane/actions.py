# SPDX-License-Identifier: Apache-2.0
"""Forwarding: find a packet's flow, run its action program, send it out of ports, or punt it to the agent."""

from vswitch.dataplane import checksum, flow_table, held, meters, mss, rewrite
from vswitch.dataplane.account import (
    NOBODY,
    close_frames,
    drop_copy,
    drop_sent,
    hand_on,
    hold,
    open_frames,
)
from vswitch.dataplane.compiled import compiled, inlined
from vswitch.dataplane.gro import FIN, RST, SYN
from vswitch.dataplane.intrinsics import (
    acquire64,
    full_fence,
    release64,
    store8,
    store64,
    sys_write,
)
from vswitch.dataplane.outgoing import (
    cut,
    is_ip,
    is_udp_tunnelled_by_sender,
    restore,
    save,
    segment_count,
    take_group,
    write_packet,
)
from vswitch.dataplane.ports import tap
from vswitch.dataplane.ports.packet import SHORTEST
from vswitch.dataplane.ports.vnet import is_super_frame
from vswitch.dataplane.tso import NO_TUNNEL, frame_count, path_mtu, segment
from vswitch.dataplane.workers import hand_back
from vswitch.flow import MAX_SAVED
from vswitch.layout import (
    COMMAND_TAIL_OFFSET,
    KEY_TOS,
    KEY_WORDS,
    OP_WORDS,
    PUNT_HEAD_OFFSET,
    PUNT_SLOT_SIZE,
    PUNT_TAIL_OFFSET,
    PUNTS,
    REMARKS_SHIFT,
    REPORTS,
    TOO_BIG_BURST,
    TOO_BIG_INTERVAL_NS,
    WAKE_OFFSET,
    Counter,
    Csum,
    Held,
    Op,
    PortKind,
    PuntKind,
)

OUTPUT, SET_TUNNEL, CONTROLLER, METER = (
    Op.OUTPUT.value, Op.SET_TUNNEL.value, Op.CONTROLLER.value, Op.METER.value,
)  # fmt: skip
SET_FIELD, PUSH, POP_VLAN, POP_MPLS, POP_PBB = (
    Op.SET_FIELD.value, Op.PUSH.value, Op.POP_VLAN.value, Op.POP_MPLS.value, Op.POP_PBB.value,
)  # fmt: skip
SET_TTL, DEC_TTL, COPY_TTL = Op.SET_TTL.value, Op.DEC_TTL.value, Op.COPY_TTL.value
SAVE, RESTORE, LOOK_UP_AGAIN = Op.SAVE.value, Op.RESTORE.value, Op.LOOK_UP_AGAIN.value

WHOLE = MAX_SAVED
"""Where a super-frame is saved while a program treats its segments one by one."""
UNCUT = MAX_SAVED + 1
"""Where the packet is saved that an operation cuts; it may be such a segment."""


@compiled
def forward(mem, t, group):
    """Dispose of one group: by its flow's program, or as a miss."""
    first = t["packets"][group["first"]]
    flow_table.make_key(mem, t, first)
    place = flow_table.find(t, t["key"])
    if t["worker"] and not _is_ours(t, group, place):
        hand_back(mem, t, group)
        return
    received = take_group(mem, t, group)
    frames = t["outgoing"]["frames"]
    if place == flow_table.NOT_FOUND:
        place = flow_table.find_drop(t)
        if place == flow_table.NOT_FOUND:
            t["key"][KEY_TOS] |= first["tos"]
            open_frames(t, first["in_port"], frames)
            punt(mem, t, PuntKind.MISS.value, 0, received, 0)
            close_frames(t)
            return
    flow = t["flows"][place]
    flow["packets"] += frames
    flow["bytes"] += received
    flow["last_used_ns"] = t["now_ns"]
    run_program(mem, t, flow["program"], flow["program_len"], first["in_port"], frames)


@compiled
def _is_ours(t, group, place):
    """Whether a worker that does not serve the ports can forward a group, whose flow stands at `place`.

    Whoever reads what forwarding VMs send must see the segments that tell of their connections' MSS.
    """
    if place == flow_table.NOT_FOUND or t["flows"][place]["program_len"] < 0:
        return False
    return t["forwarding_vms"] == 0 or group["flags"] & (SYN | FIN | RST) == 0


@compiled
def run_program(mem, t, program, length, port, frames):
    """Run `length` operations at `program` on `t['outgoing']`. One that hands nothing on drops by rule.

    port, frames: which port received the packet, as how many frames that are not accounted for yet.
    """
    open_frames(t, port, frames)
    for step in range(length):
        at = program + OP_WORDS * step
        op = t["programs"][at]
        if op == OUTPUT:
            hand_on(t)
            output(mem, t, t["programs"][at + 1])
        elif op == SET_TUNNEL:
            t["outgoing"]["tunnel_id"] = t["programs"][at + 1]
        else:
            _run_rewriting(mem, t, at, length - step)
            break
    close_frames(t)


# Programs that do more than to output


@inlined
def _run_rewriting(mem, t, program, length):
    """Run operations of any kind."""
    out = t["outgoing"]
    if not is_super_frame(out) or not _tells_segments_apart(t, program, length):
        _run_any(mem, t, program, length)
        return
    save(mem, t, WHOLE)
    count = segment_count(out)
    are_frames = t["open_frames"] == count
    for number in range(count):
        restore(mem, t, WHOLE)
        _cut_segment(mem, t, number)
        if are_frames:
            open_frames(t, t["account"], 1)
        _run_any(mem, t, program, length)
        if are_frames:
            close_frames(t)


@compiled
def _tells_segments_apart(t, program, length):
    """Whether a program does to a super-frame what cannot be done to all its segments at once.

    That is: changing types, so that it is no TCP any more, remarking some of them, and going on by a program
    that is not known yet.
    """
    for step in range(length):
        at = program + OP_WORDS * step
        op, argument = t["programs"][at], t["programs"][at + 1]
        if op == POP_MPLS or op == POP_PBB or op == LOOK_UP_AGAIN:
            return True
        if op == SET_FIELD and (argument == rewrite.ETH_TYPE or argument == rewrite.IP_PROTO):
            return True
        if op == METER and not meters.treats_alike(t, argument):
            return True
    return False


@compiled
def _cut_segment(mem, t, number):
    """Make the super-frame its segment of this number."""
    out = t["outgoing"]
    start = number * out["gso_size"]
    cut(mem, t, start, min(out["gso_size"], out["payload_len"] - start))
    out["gso_size"] = 0
    out["frames"] = 1


@compiled
def _run_any(mem, t, program, length):
    """As _run_rewriting, of a packet that can be treated as a whole."""
    depth = 0
    over = 0  # SAVEs without their RESTORE since a copy of the packet ended
    step = 0
    while step < length:
        at = program + OP_WORDS * step
        op = t["programs"][at]
        step += 1
        if over:
            if op == SAVE:
                over += 1
            elif op == RESTORE:
                over -= 1
            if over:
                continue
        if op == SAVE:
            if depth == MAX_SAVED:
                return
            save(mem, t, depth)
            depth += 1
        elif op == RESTORE and depth > 0:
            depth -= 1
            restore(mem, t, depth)
        elif op == LOOK_UP_AGAIN:
            place = _look_up_again(mem, t, t["programs"][at + 1])
            if place == flow_table.NOT_FOUND:
                return
            program, length = t["flows"][place]["program"], t["flows"][place]["program_len"]
            step = 0
        elif not _operate(mem, t, at):
            if depth == 0:
                return
            over = 1  # that copy only: go on at its RESTORE


@compiled
def _look_up_again(mem, t, number):
    """Where the entry for what meters made of the packet stands: its key with the drop precedence that it has
    now. The entry counts it; without one it is a miss."""
    out = t["outgoing"]
    shift = REMARKS_SHIFT + 2 * number
    precedence = (out["tos"] >> 3) & 3
    if precedence == 0:  # no packet that a meter may remark has that, and the key would stay what it is
        drop_copy(t, Counter.NO_RULE.value, 1)
        return flow_table.NOT_FOUND
    t["key"][0] = (t["key"][0] & ((1 << shift) - 1)) | (precedence << shift)
    place = flow_table.find(t, t["key"])
    if place == flow_table.NOT_FOUND:
        punt(mem, t, PuntKind.MISS.value, 0, out["bytes"], 0)
        return place
    flow = t["flows"][place]
    flow["packets"] += out["frames"]
    flow["bytes"] += out["bytes"]
    flow["last_used_ns"] = t["now_ns"]
    return place


@compiled
def _operate(mem, t, at):
    """Carry out the operation at `at`, which is no SAVE; False: it dropped the packet, and counted that."""
    op, a, b, c = t["programs"][at], t["programs"][at + 1], t["programs"][at + 2], t["programs"][at + 3]
    if op == OUTPUT:
        hand_on(t)
        output(mem, t, a)
        return True
    if op == CONTROLLER:
        if _punt_packets(mem, t, a):
            hand_on(t)
        return True
    if op == METER:
        return meters.apply(mem, t, a)
    if op == SET_TUNNEL:
        t["outgoing"]["tunnel_id"] = a
        return True
    if op == RESTORE:
        return True  # there is nothing to restore
    result = _rewrite(mem, t, op, a, b, c)
    if result == rewrite.MISSING:
        t["counters"][Counter.NO_SUCH_HEADER.value] += 1
    elif result == rewrite.NO_ROOM:
        drop_copy(t, Counter.HEADERS_TOO_LONG.value, 1)
        return False
    elif result == rewrite.BAD_TTL:
        _punt_packets(mem, t, a)
        drop_copy(t, Counter.INVALID_TTL.value, segment_count(t["outgoing"]))
        return False
    return True


@inlined
def _rewrite(mem, t, op, a, b, c):
    """Carry out an operation that changes the headers, and nothing else."""
    if op == SET_FIELD:
        return rewrite.set_field(mem, t, a, b, c)
    if op == PUSH:
        return rewrite.push(mem, t, a)
    if op == POP_VLAN:
        return rewrite.pop_vlan(mem, t)
    if op == POP_MPLS:
        return rewrite.pop_mpls(mem, t, a)
    if op == POP_PBB:
        return rewrite.pop_pbb(mem, t)
    if op == SET_TTL:
        return rewrite.set_ttl(mem, t, a, b)
    if op == DEC_TTL:
        return rewrite.decrement_ttl(mem, t, b)
    return rewrite.copy_ttl(mem, t, a)


@compiled
def output(mem, t, index):
    """Send the packet out of the port of this index."""
    port = t["ports"][index]
    kind = port["kind"]
    if kind == PortKind.NONE.value:
        t["ports"][NOBODY]["tx_requested"] += 1
        drop_sent(t, NOBODY, Counter.UNKNOWN_PORT.value, 1)
    elif not port["up"]:
        frames = frame_count(t["outgoing"]) if _cuts(kind) else 1
        port["tx_requested"] += frames
        drop_sent(t, index, Counter.PORT_DOWN.value, frames)
    elif kind == PortKind.TAP.value:
        if port["forwarding"]:
            mss.to_vm(mem, t, index)
        if is_super_frame(t["outgoing"]) and is_udp_tunnelled_by_sender(t["outgoing"]):
            _send_segments_to_vm(mem, t, index)
        else:
            port["tx_requested"] += 1
            tap.send(mem, t, index)
    elif kind == PortKind.WIRE.value or kind == PortKind.PACKET.value:
        if t["forwarded_mss"]:
            mss.fit_to_path(mem, t, index, NO_TUNNEL)
        segment(mem, t, index, NO_TUNNEL)
    else:
        _output_to_tunnel(mem, t, index)


@compiled
def _cuts(kind):
    """Whether ports of this kind carry the segments of a super-frame one by one."""
    return kind == PortKind.WIRE.value or kind == PortKind.TUNNEL.value


@compiled
def _send_segments_to_vm(mem, t, index):
    """Cut a super-frame for a VM whose kernel does not take it whole.

    Linux takes one in a UDP tunnel for one of UDP, and drops it, if the virtio-net header tells of no tunnel.
    """
    save(mem, t, UNCUT)
    t["ports"][index]["tx_requested"] += segment_count(t["outgoing"])
    for number in range(segment_count(t["outgoing"])):
        restore(mem, t, UNCUT)
        _cut_segment(mem, t, number)
        tap.send(mem, t, index)
    restore(mem, t, UNCUT)


@compiled
def _output_to_tunnel(mem, t, index):
    port = t["ports"][index]
    uplink = t["ports"][port["uplink"]]
    if uplink["kind"] == PortKind.NONE.value or not uplink["up"]:
        frames = frame_count(t["outgoing"])
        port["tx_requested"] += frames
        drop_sent(t, index, Counter.NO_UPLINK.value, frames)
        return
    if t["forwarded_mss"]:
        mss.fit_to_path(mem, t, port["uplink"], index)
    port["tx_requested"] += frame_count(t["outgoing"])
    sent = segment(mem, t, port["uplink"], index)
    if sent == 0 and t["too_big_reports"]:
        _report_if_too_big(mem, t, index)


# To the agent


@compiled
def _punt_packets(mem, t, action):
    """Hand copies to the agent, as Controller action number `action` asks: a super-frame as its segments.

    Returns whether the agent gets any.
    """
    if not is_super_frame(t["outgoing"]):
        return punt(mem, t, PuntKind.ACTION.value, action, t["outgoing"]["bytes"], 0)
    punted = False
    save(mem, t, UNCUT)
    for number in range(segment_count(t["outgoing"])):
        restore(mem, t, UNCUT)
        _cut_segment(mem, t, number)
        punted = punt(mem, t, PuntKind.ACTION.value, action, t["outgoing"]["bytes"], 0) or punted
    restore(mem, t, UNCUT)
    return punted


@compiled
def _report_if_too_big(mem, t, tunnel):
    """Hand a packet that was not sent to the agent if it is an IP packet too big for the tunnel.

    Its sender is to be told. Of a super-frame, one segment tells it all.
    """
    out = t["outgoing"]
    port = t["ports"][out["in_port"]]
    if port["kind"] == PortKind.NONE.value or not is_ip(mem, out):
        return  # of the agent's own, or nobody to tell
    mtu = path_mtu(t, tunnel)
    size = out["gso_size"] if is_super_frame(out) else out["payload_len"]
    if out["header_len"] - out["l3"] + size <= mtu:
        return
    if not _may_report(t, port) or _is_limited(t, port) or not _has_room_for_punt(mem, t, port):
        t["counters"][Counter.PACKET_TOO_BIG_SUPPRESSED.value] += 1
        return
    save(mem, t, UNCUT)
    if is_super_frame(out):
        _cut_segment(mem, t, 0)
    punt(mem, t, PuntKind.TOO_BIG.value, 0, out["bytes"], mtu)
    restore(mem, t, UNCUT)


@compiled
def _may_report(t, port):
    """Whether the port's senders may be told once more (RFC 1812, 4.3.2.8; RFC 4443, 2.4 f)."""
    at_ns = max(port["too_big_at_ns"], t["now_ns"])
    if at_ns - t["now_ns"] > (TOO_BIG_BURST - 1) * TOO_BIG_INTERVAL_NS:
        return False
    port["too_big_at_ns"] = at_ns + TOO_BIG_INTERVAL_NS
    return True


@compiled
def _is_limited(t, port):
    """Whether the agent wants no packets of the port for now."""
    return t["now_ns"] < port["punts_from_ns"]


@compiled
def _has_room_for_punt(mem, t, port):
    """Whether there is a punt slot, of which the port has its share."""
    if port["punts"] >= t["free_punt_count"] or t["outgoing"]["bytes"] > PUNT_SLOT_SIZE:
        return False
    return acquire64(mem, PUNT_HEAD_OFFSET) - acquire64(mem, PUNT_TAIL_OFFSET) < PUNTS


@compiled
def punt(mem, t, kind, action, received, mtu):
    """Hand a copy of the packet to the agent, in a punt slot that the agent gives back; False: there is none.

    action: number of the Controller action that asks for it, or 0. received: bytes of the frames that became
    the packet. mtu: how long a packet that is too big might be, or 0. The copy's checksum is a whole one, but
    for a super-frame's.
    """
    out = t["outgoing"]
    port = t["ports"][out["in_port"]]
    frames = t["open_frames"] if kind == PuntKind.MISS.value else 0
    if _is_limited(t, port):
        drop_copy(t, Counter.PUNT_LIMITED.value, max(frames, 1))
        return False
    if not _has_room_for_punt(mem, t, port):
        drop_copy(t, Counter.PUNT_OVERFLOW.value, max(frames, 1))
        return False
    port["punts"] += 1
    head = acquire64(mem, PUNT_HEAD_OFFSET)
    t["free_punt_count"] -= 1
    slot = t["free_punts"][t["free_punt_count"]]
    at = t["punt_memory"] + slot * PUNT_SLOT_SIZE
    write_packet(mem, t, at)
    length = out["bytes"]
    if port["kind"] == PortKind.PACKET.value:
        while length < SHORTEST:  # as it is on the medium
            store8(mem, at + length, 0)
            length += 1
    row = t["punts"][head & (PUNTS - 1)]
    row["kind"] = kind
    row["action"] = action
    row["mtu"] = mtu
    for word in range(KEY_WORDS):
        row["key"][word] = t["key"][word]
    row["slot"] = slot
    row["length"] = length
    row["packets"] = out["frames"]
    row["bytes"] = received
    info = t["held"][slot]
    info["length"] = out["bytes"]
    info["in_port"] = out["in_port"]
    info["tunnel_id"] = out["tunnel_id"]
    info["csum"] = out["csum"]
    info["csum_start"] = out["gso_l4"]
    info["csum_offset"] = checksum.l4_field(out["gso_proto"])
    info["gso_size"] = out["gso_size"]
    info["forwarded_mss"] = t["forwarded_mss"]
    info["number"] = head
    info["hash"] = out["hash"]
    info["packets"] = out["frames"]
    info["bytes"] = received
    info["state"] = Held.COPY.value
    info["frames"] = 0
    if kind == PuntKind.MISS.value:
        for word in range(KEY_WORDS):
            info["key"][word] = t["key"][word]
        held.wait(t, slot)
        hold(t, info)
    if out["csum"] == Csum.PARTIAL.value and not is_super_frame(out):
        l4 = at + out["gso_l4"]
        l4_sum = checksum.sum_bytes(mem, l4, out["bytes"] - out["gso_l4"])
        checksum.store_l4(mem, l4, out["gso_proto"], l4_sum)
        info["csum"] = Csum.GOOD.value
    row["partial"] = 1 if info["csum"] == Csum.PARTIAL.value else 0
    _publish_punt(mem, t, head)
    return True


@compiled
def report_evicted(mem, t, key, packets, bytes_, last_used_ns):
    """Tell the agent that an entry ends, with its counters, and how many commands were applied before; False
    when the ring has no room for reports (try later)."""
    head = acquire64(mem, PUNT_HEAD_OFFSET)
    if head - acquire64(mem, PUNT_TAIL_OFFSET) >= REPORTS:
        return False
    row = t["punts"][head & (PUNTS - 1)]
    row["kind"] = PuntKind.EVICTED.value
    row["slot"] = acquire64(mem, COMMAND_TAIL_OFFSET)
    for word in range(KEY_WORDS):
        row["key"][word] = key[word]
    row["packets"] = packets
    row["bytes"] = bytes_
    row["last_used_ns"] = last_used_ns
    _publish_punt(mem, t, head)
    return True


@compiled
def _publish_punt(mem, t, head):
    release64(mem, PUNT_HEAD_OFFSET, head + 1)
    full_fence()
    if acquire64(mem, PUNT_TAIL_OFFSET) == head:  # the agent, which has taken all others, may wait
        store64(mem, WAKE_OFFSET, 1)
        sys_write(mem, t["agent_fd"], WAKE_OFFSET, 8)
