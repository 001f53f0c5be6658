# SPDX-License-Identifier: Apache-2.0
"""Forwarding: find a packet's flow, run its action program, send it out of ports, or punt it to the agent."""

from numba import njit

from vswitch.dataplane import flow_table
from vswitch.dataplane.intrinsics import acquire64, copy, release64, store64, sys_write
from vswitch.dataplane.outgoing import take_group
from vswitch.dataplane.ports import packet, tap
from vswitch.dataplane.tso import NO_TUNNEL, segment
from vswitch.layout import (
    KEY_WORDS,
    OP_WORDS,
    PUNT_HEAD_OFFSET,
    PUNT_SLOT_SIZE,
    PUNT_TAIL_OFFSET,
    PUNTS,
    WAKE_OFFSET,
    Counter,
    Csum,
    Op,
    PortKind,
    PuntKind,
)

OUTPUT, SET_TUNNEL, CONTROLLER = Op.OUTPUT.value, Op.SET_TUNNEL.value, Op.CONTROLLER.value


@njit(cache=True)
def forward(mem, t, group):
    """Dispose of one group: by its flow's program, or as a miss."""
    first = t["packets"][group["first"]]
    flow_table.make_key(mem, t, first)
    place = flow_table.find(t, t["key"])
    take_group(mem, t, group)
    if place == flow_table.NOT_FOUND:
        punt(mem, t, PuntKind.MISS.value, 0)
        return
    flow = t["flows"][place]
    flow["packets"] += t["outgoing"]["frames"]
    flow["bytes"] += _bytes_received(t["outgoing"])
    flow["last_used_ns"] = t["now_ns"]
    run_program(mem, t, flow["program"], flow["program_len"])


@njit(cache=True)
def _bytes_received(out):
    """Bytes of the frames that became this packet: each had the headers."""
    return out["payload_len"] + out["frames"] * out["header_len"]


@njit(cache=True)
def run_program(mem, t, program, length):
    """Run `length` operations at `program` on `t['outgoing']`. None of them drops by rule."""
    if length == 0:
        t["counters"][Counter.NO_RULE.value] += 1
        return
    for step in range(length):
        at = program + OP_WORDS * step
        op = t["programs"][at]
        if op == OUTPUT:
            output(mem, t, t["programs"][at + 1])
        elif op == SET_TUNNEL:
            t["outgoing"]["tunnel_id"] = t["programs"][at + 1]
        elif op == CONTROLLER:
            punt(mem, t, PuntKind.ACTION.value, t["programs"][at + 1])


@njit(cache=True)
def output(mem, t, index):
    """Send the packet out of the port of this index."""
    port = t["ports"][index]
    kind = port["kind"]
    sent = 0
    if kind == PortKind.NONE.value:
        t["counters"][Counter.UNKNOWN_PORT.value] += 1
    elif not port["up"]:
        t["counters"][Counter.PORT_DOWN.value] += 1
        port["tx_dropped"] += 1
    elif kind == PortKind.TAP.value:
        tap.send(mem, t, index)
    elif kind == PortKind.WIRE.value:
        segment(mem, t, index, NO_TUNNEL)
    elif kind == PortKind.PACKET.value:
        packet.send(mem, t, index)
    else:
        uplink = t["ports"][port["uplink"]]
        if uplink["kind"] == PortKind.NONE.value or not uplink["up"]:
            t["counters"][Counter.NO_UPLINK.value] += 1
            port["tx_dropped"] += 1
            return
        sent = segment(mem, t, port["uplink"], index)
        port["tx_packets"] += sent
        port["tx_bytes"] += t["outgoing"]["bytes"] if sent else 0


@njit(cache=True)
def punt(mem, t, kind, action):
    """Hand a copy of the packet to the agent, in a punt slot that the agent gives back.

    action: number of the Controller action that asks for it, 0 for a miss.
    """
    head = acquire64(mem, PUNT_HEAD_OFFSET)
    if t["free_punt_count"] == 0 or head - acquire64(mem, PUNT_TAIL_OFFSET) >= PUNTS:
        t["counters"][Counter.PUNT_OVERFLOW.value] += 1
        return
    out = t["outgoing"]
    t["free_punt_count"] -= 1
    slot = t["free_punts"][t["free_punt_count"]]
    at = t["punt_memory"] + slot * PUNT_SLOT_SIZE
    copy(mem, at, out["header"], out["header_len"])
    at += out["header_len"]
    for index in range(out["range_count"]):
        piece = t["ranges"][index]
        copy(mem, at, piece["offset"], piece["length"])
        at += piece["length"]
    row = t["punts"][head & (PUNTS - 1)]
    row["kind"] = kind
    row["action"] = action
    for word in range(KEY_WORDS):
        row["key"][word] = t["key"][word]
    row["slot"] = slot
    row["length"] = out["bytes"]
    row["packets"] = out["frames"]
    row["bytes"] = _bytes_received(out)
    row["partial"] = 1 if out["csum"] == Csum.PARTIAL.value else 0
    info = t["held"][slot]
    info["length"] = out["bytes"]
    info["in_port"] = out["in_port"]
    info["tunnel_id"] = out["tunnel_id"]
    info["csum"] = out["csum"]
    info["gso_size"] = out["gso_size"]
    _publish_punt(mem, t, head)


@njit(cache=True)
def report_evicted(mem, t, key, packets, bytes_, last_used_ns):
    """Tell the agent that an entry ends, with its counters; False when the ring is full (try later)."""
    head = acquire64(mem, PUNT_HEAD_OFFSET)
    if head - acquire64(mem, PUNT_TAIL_OFFSET) >= PUNTS:
        return False
    row = t["punts"][head & (PUNTS - 1)]
    row["kind"] = PuntKind.EVICTED.value
    for word in range(KEY_WORDS):
        row["key"][word] = key[word]
    row["packets"] = packets
    row["bytes"] = bytes_
    row["last_used_ns"] = last_used_ns
    _publish_punt(mem, t, head)
    return True


@njit(cache=True)
def _publish_punt(mem, t, head):
    release64(mem, PUNT_HEAD_OFFSET, head + 1)
    store64(mem, WAKE_OFFSET, 1)
    sys_write(mem, t["agent_fd"], WAKE_OFFSET, 8)
