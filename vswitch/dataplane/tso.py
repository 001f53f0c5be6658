# SPDX-License-Identifier: Apache-2.0
"""TCP segmentation offload, with or without a tunnel's outer headers (S1.3).

The prototype is a segment's headers as far as they are the same for all. Each segment is a copy of it with
lengths, IP identifications, sequence number, flags and checksums filled in; checksums are sums of what the
prototype contributes, which is computed once, and what the segment does.
"""

from numba import njit

from vswitch.dataplane import checksum
from vswitch.dataplane.gro import CWR, FIN, PROTO_TCP, PSH
from vswitch.dataplane.intrinsics import copy, load8, load16, load32, store8, store16, store32
from vswitch.dataplane.parse import ETH_HEADER, PROTO_UDP
from vswitch.dataplane.ports.wire import admit, data_of, publish_frame, reserve, slot_of
from vswitch.dataplane.seq import seq_add
from vswitch.layout import (
    PROTOTYPE_OFFSET,
    SLOT_HEAD,
    SLOT_HEAD_MAX,
    Counter,
    Csum,
    SlotKind,
)

NO_TUNNEL = -1
OUTER_IP = ETH_HEADER
"""Offset of the outer IPv4 header in a template."""


@njit(cache=True)
def segment(mem, t, wire_index, tunnel):
    """Send `t['outgoing']` on a wire, as one frame or as segments of its `gso_size`.

    tunnel: index of the tunnel port whose outer headers go in front, or NO_TUNNEL. Returns the frames sent;
    what is not sent is counted.
    """
    out = t["outgoing"]
    wire = t["wires"][wire_index]
    template_len = t["ports"][tunnel]["template_len"] if tunnel >= 0 else 0
    gso_size = out["gso_size"]
    is_tcp = out["ip_version"] != 0 and out["ip_proto"] == PROTO_TCP
    if gso_size == 0 or not is_tcp or out["payload_len"] <= gso_size:
        gso_size = out["payload_len"]
    link_header = ETH_HEADER if tunnel >= 0 else out["l3"]
    if template_len + out["header_len"] + gso_size - link_header > t["ports"][wire["port"]]["mtu"]:
        t["counters"][Counter.MTU_EXCEEDED.value] += 1
        t["ports"][wire["port"]]["tx_dropped"] += 1
        return 0
    _make_prototype(mem, t, tunnel, template_len)
    if out["payload_len"] <= gso_size:
        return _send_whole(mem, t, wire_index, tunnel, template_len)
    return _send_segments(mem, t, wire_index, tunnel, template_len, gso_size)


@njit(cache=True)
def _make_prototype(mem, t, tunnel, template_len):
    """Outer headers with identifiers filled in, then the packet's own headers, at PROTOTYPE_OFFSET."""
    out = t["outgoing"]
    copy(mem, PROTOTYPE_OFFSET + template_len, out["header"], out["header_len"])
    if tunnel < 0:
        return
    port = t["ports"][tunnel]
    row = t["formats"][port["format"]]
    copy(mem, PROTOTYPE_OFFSET, port["template"], template_len)
    opaque = PROTOTYPE_OFFSET + OUTER_IP + 20
    for index in range(row["flow_id_length"]):
        shift = 8 * (row["flow_id_length"] - 1 - index)
        store8(mem, opaque + row["flow_id_offset"] + index, (out["tunnel_id"] >> shift) & 0xFF)
    if row["entropy_offset"] >= 0:
        store16(mem, opaque + row["entropy_offset"], 0xC000 | (out["hash"] & 0x3FFF))
    if out["ip_version"]:
        store8(mem, PROTOTYPE_OFFSET + OUTER_IP + 1, out["tos"] & 3)  # RFC 6040: ECN is copied outwards


@njit(cache=True)
def _set_outer(mem, t, at, tunnel, frame_len, outer_sum):
    """Lengths, identification and checksum of the outer headers of the frame at `at`."""
    port = t["ports"][tunnel]
    row = t["formats"][port["format"]]
    port["ip_id"] = (port["ip_id"] + 1) & 0xFFFF
    total = frame_len - ETH_HEADER
    store16(mem, at + OUTER_IP + 2, total)
    store16(mem, at + OUTER_IP + 4, port["ip_id"])
    store16(mem, at + OUTER_IP + 10, checksum.finish(outer_sum + total + port["ip_id"]))
    if row["length_field"] >= 0:
        store16(mem, at + OUTER_IP + 20 + row["length_field"], total - 20)


@njit(cache=True)
def _outer_sum(mem):
    """Sum of the prototype's outer IPv4 header, whose length, identification and checksum are zero."""
    return checksum.sum_header(mem, PROTOTYPE_OFFSET + OUTER_IP, 20)


@njit(cache=True)
def _send_whole(mem, t, wire_index, tunnel, template_len):
    """One frame, copied whole."""
    out = t["outgoing"]
    wire = t["wires"][wire_index]
    header_len = template_len + out["header_len"]
    frame_len = header_len + out["payload_len"]
    release_ns = admit(t, wire_index, frame_len)
    if release_ns < 0 or not reserve(mem, t, wire_index):
        return 0
    slot = slot_of(wire["tx_slots"], wire["tx_head"])
    kind = SlotKind.INLINE.value
    at = slot + SLOT_HEAD
    if frame_len > SLOT_HEAD_MAX:
        kind = SlotKind.DATA.value
        at = data_of(wire["tx_data"], wire["data_size"], wire["tx_head"])
    copy(mem, at, PROTOTYPE_OFFSET, header_len)
    _gather(mem, t, at + header_len, 0, 0, out["payload_len"])
    if out["csum"] == Csum.PARTIAL.value:
        l4 = at + template_len + out["l4"]
        field = l4 + (16 if out["ip_proto"] == PROTO_TCP else 6)
        value = checksum.finish(checksum.sum_bytes(mem, l4, at + frame_len - l4))
        if value == 0 and out["ip_proto"] == PROTO_UDP:
            value = 0xFFFF
        store16(mem, field, value)
    if tunnel >= 0:
        _set_outer(mem, t, at, tunnel, frame_len, _outer_sum(mem))
    publish_frame(mem, t, wire_index, release_ns, kind, frame_len, frame_len, 0, -1)
    return 1


@njit(cache=True)
def _gather(mem, t, target, index, position, length):
    """Copy `length` payload bytes from range `index`, byte `position`, on."""
    while length > 0:
        part = min(length, t["ranges"][index]["length"] - position)
        copy(mem, target, t["ranges"][index]["offset"] + position, part)
        target += part
        length -= part
        position = 0
        index += 1


@njit(cache=True)
def _send_segments(mem, t, wire_index, tunnel, template_len, gso_size):
    out = t["outgoing"]
    wire = t["wires"][wire_index]
    header_len = template_len + out["header_len"]
    l3 = PROTOTYPE_OFFSET + template_len + out["l3"]
    l4 = PROTOTYPE_OFFSET + template_len + out["l4"]
    is_ipv4 = out["ip_version"] == 4
    ip_id = load16(mem, l3 + 4) if is_ipv4 else 0
    seq = load32(mem, l4 + 4)
    flags = load8(mem, l4 + 13)
    # what the prototype contributes to each checksum, its variable fields being zero
    if is_ipv4:
        store32(mem, l3 + 2, 0)
        store16(mem, l3 + 10, 0)
    store32(mem, l4 + 4, 0)
    store8(mem, l4 + 13, 0)
    store16(mem, l4 + 16, 0)
    tcp_len = out["header_len"] - out["l4"]
    ip_len = out["header_len"] - out["l3"]
    ip_sum = checksum.sum_header(mem, l3, out["l4"] - out["l3"]) if is_ipv4 else 0
    tcp_sum = checksum.sum_header(mem, l4, tcp_len)
    tcp_sum += checksum.pseudo_header(mem, l3, out["ip_version"], PROTO_TCP, tcp_len)
    outer_sum = _outer_sum(mem) if tunnel >= 0 else 0
    by_reference = out["buffer"] >= 0 and header_len <= SLOT_HEAD_MAX

    done = 0
    sent = 0
    index = 0  # the range that the next segment starts in, and where in it
    position = 0
    while done < out["payload_len"]:
        length = min(gso_size, out["payload_len"] - done)
        frame_len = header_len + length
        release_ns = admit(t, wire_index, frame_len)
        if release_ns >= 0 and reserve(mem, t, wire_index):
            source = t["ranges"][index]["offset"] + position
            slot = slot_of(wire["tx_slots"], wire["tx_head"])
            if by_reference and position + length <= t["ranges"][index]["length"]:
                kind = SlotKind.SPLIT.value
                at = slot + SLOT_HEAD
                copy(mem, at, PROTOTYPE_OFFSET, header_len)
            else:
                kind = SlotKind.DATA.value
                at = data_of(wire["tx_data"], wire["data_size"], wire["tx_head"])
                copy(mem, at, PROTOTYPE_OFFSET, header_len)
                source = at + header_len
                _gather(mem, t, source, index, position, length)
            s3 = at + template_len + out["l3"]
            s4 = at + template_len + out["l4"]
            if is_ipv4:
                store16(mem, s3 + 2, ip_len + length)
                store16(mem, s3 + 4, ip_id)
                store16(mem, s3 + 10, checksum.finish(ip_sum + ip_len + length + ip_id))
            else:
                store16(mem, s3 + 4, ip_len - 40 + length)
            own_flags = flags
            if done > 0:
                own_flags &= ~CWR
            if done + length < out["payload_len"]:
                own_flags &= ~(FIN | PSH)
            store32(mem, s4 + 4, seq)
            store8(mem, s4 + 13, own_flags)
            total = tcp_sum + length + (seq >> 16) + (seq & 0xFFFF) + own_flags
            total += checksum.sum_bytes(mem, source, length)
            store16(mem, s4 + 16, checksum.finish(total))
            if tunnel >= 0:
                _set_outer(mem, t, at, tunnel, frame_len, outer_sum)
            if kind == SlotKind.SPLIT.value:
                publish_frame(
                    mem, t, wire_index, release_ns, kind, frame_len, header_len, source, out["buffer"]
                )
            else:
                publish_frame(mem, t, wire_index, release_ns, kind, frame_len, frame_len, 0, -1)
            sent += 1
        done += length
        seq = seq_add(seq, length)
        ip_id = (ip_id + 1) & 0xFFFF
        position += length
        while index < out["range_count"] - 1 and position >= t["ranges"][index]["length"]:
            position -= t["ranges"][index]["length"]
            index += 1
    return sent
