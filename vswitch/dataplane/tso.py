# SPDX-License-Identifier: Apache-2.0
"""Segmentation offload of TCP and UDP, with or without a tunnel's outer headers (S1.3).

The prototype is a segment's headers as far as they are the same for all. Each segment is a copy of it with
lengths, IP identifications, sequence number, flags and checksums filled in; checksums are sums of what the
prototype contributes, which is computed once, and what the segment does.

Segments go to a wire, whose slots they are written into with their checksums complete, or to a packet port,
where their TCP or UDP checksums are left partial, to the interface.
"""

from vswitch.dataplane import checksum
from vswitch.dataplane.account import drop_sent
from vswitch.dataplane.checksum import PROTO_TCP, PROTO_UDP
from vswitch.dataplane.compiled import compiled, inlined
from vswitch.dataplane.ethernet import ETH_HEADER, ETH_IPV4, ETH_IPV6, ETH_QINQ, ETH_VLAN
from vswitch.dataplane.formats import FIT, NO_TUNNEL, encapsulation_verdict, write_identifiers
from vswitch.dataplane.gro import CWR, FIN, PSH
from vswitch.dataplane.intrinsics import copy, load8, load16, load32, store8, store16, store32
from vswitch.dataplane.outgoing import (
    START,
    advance,
    complete_tunnel_headers,
    drop_front,
    drop_trailer,
    gather,
    is_ip,
    is_tunnelled_by_sender,
    is_udp_tunnelled_by_sender,
    link_header,
    number_tunnel_header,
    set_ip_length,
    sum_payload,
)
from vswitch.dataplane.ports import packet, vnet
from vswitch.dataplane.ports.wire import admit, data_of, look_at_clock, publish_frame, reserve, slot_of
from vswitch.dataplane.seq import seq_add
from vswitch.layout import (
    MAX_FRAME_LEN,
    PROTOTYPE_OFFSET,
    SERIES,
    SERIES_OFFSET,
    SLOT_HEAD,
    SLOT_HEAD_MAX,
    STAGED_HEAD,
    Counter,
    Csum,
    PortKind,
    SlotKind,
)

OUTER_IP = ETH_HEADER
"""Offset of the outer IPv4 header in a template."""
SPARE_BUFFERS = 8
"""Pool buffers that no wire holds, so that one whose receiver takes nothing cannot hold all of them."""
UDP_HEADER = 8


@compiled
def segment(mem, t, index, tunnel):
    """Send `t['outgoing']` out of a wire or packet port, as one frame or as segments of its `gso_size`.

    index: of the port. tunnel: index of the tunnel port whose outer headers go in front, or NO_TUNNEL.
    Returns the frames sent; what is not sent is counted.
    """
    if tunnel < 0:
        return _segment(mem, t, index, NO_TUNNEL)
    out = t["outgoing"]
    row = t["formats"][t["ports"][tunnel]["format"]]
    verdict = encapsulation_verdict(row, out, is_ip(mem, out))
    if verdict != FIT:
        drop_sent(t, tunnel, verdict, frame_count(out))
        return 0
    if not row["inner_ip"]:
        return _segment(mem, t, index, tunnel)
    left_away = out["l3"]
    trailer_len = drop_trailer(out)
    drop_front(out, left_away)
    sent = _segment(mem, t, index, tunnel)
    drop_front(out, -left_away)
    out["trailer_len"] = trailer_len
    out["bytes"] += trailer_len
    return sent


@compiled
def path_mtu(t, tunnel):
    """Bytes of the longest IP packet that a tunnel takes, behind headers like the outgoing one's."""
    port = t["ports"][tunnel]
    carried = 0 if t["formats"][port["format"]]["inner_ip"] else t["outgoing"]["l3"]
    return t["ports"][port["uplink"]]["mtu"] + ETH_HEADER - port["template_len"] - carried


@compiled
def _segment(mem, t, index, tunnel):
    out = t["outgoing"]
    port = t["ports"][index]
    template_len = t["ports"][tunnel]["template_len"] if tunnel >= 0 else 0
    gso_size = _segment_size(out)
    if port["kind"] == PortKind.PACKET.value and tunnel < 0 and not _is_beyond_the_kernel(mem, out):
        packet.send(mem, t, index)
        return 1
    excess = template_len + out["header_len"] + gso_size + out["trailer_len"] - ETH_HEADER - port["mtu"]
    if excess > 0 and (tunnel >= 0 or excess > link_header(mem, t) - ETH_HEADER):
        _drop_too_big(t, index, tunnel)
        return 0
    if tunnel >= 0:
        t["ports"][tunnel]["tx_packets"] += frame_count(out)
        t["ports"][tunnel]["tx_bytes"] += out["bytes"]
    if port["kind"] == PortKind.PACKET.value and tunnel < 0 and _is_in_plain_udp_tunnel(mem, out):
        if packet.inject(mem, t, port["socket"]):
            return 1
    _make_prototype(mem, t, tunnel, template_len)
    whole = out["payload_len"] <= gso_size
    if port["kind"] == PortKind.WIRE.value:
        port["tx_requested"] += frame_count(out)
        look_at_clock(mem, t, port["wire"])
        if whole:
            return _send_whole(mem, t, port["wire"], tunnel, template_len)
        return _send_segments(mem, t, port["wire"], tunnel, template_len, gso_size)
    if whole:
        return _stage_whole(mem, t, port["socket"], tunnel, template_len)
    if t["sockets"][port["socket"]]["udp_gso"] and _is_udp_tunnel(mem, t, tunnel):
        return _stage_datagrams(mem, t, port["socket"], tunnel, template_len, gso_size)
    return _stage_segments(mem, t, port["socket"], tunnel, template_len, gso_size)


@compiled
def frame_count(out):
    """As how many frames wires and tunnels carry the packet."""
    gso_size = _segment_size(out)
    return 1 if out["payload_len"] <= gso_size else -(-out["payload_len"] // gso_size)


@compiled
def _segment_size(out):
    """Payload bytes of each frame but the last, which may be shorter."""
    gso_size = out["gso_size"]
    if gso_size == 0 or not _is_tcp_or_udp(out) or out["payload_len"] <= gso_size:
        return out["payload_len"]
    return gso_size


@compiled
def _drop_too_big(t, index, tunnel):
    """The packet in hand does not fit into the frames of this port, or of the tunnel that goes through it."""
    port = index if tunnel < 0 else tunnel
    frames = 1
    if t["ports"][index]["kind"] == PortKind.WIRE.value or tunnel >= 0:
        frames = frame_count(t["outgoing"])
    if tunnel < 0:
        t["ports"][index]["tx_requested"] += frames
    drop_sent(t, port, Counter.MTU_EXCEEDED.value, frames)


@compiled
def _is_udp_tunnel(mem, t, tunnel):
    """Whether the outermost tunnel that segments are in is one over UDP, which the kernel can segment."""
    if tunnel >= 0:
        return t["formats"][t["ports"][tunnel]["format"]]["outer_proto"] == PROTO_UDP
    return _is_in_plain_udp_tunnel(mem, t["outgoing"])


@compiled
def _is_in_plain_udp_tunnel(mem, out):
    """Whether the sender's own tunnel is one over UDP, with VLAN tags at most in front of its IP header."""
    return is_udp_tunnelled_by_sender(out) and is_ip(mem, out)


@compiled
def _is_beyond_the_kernel(mem, out):
    """Whether the packet is a super-frame that no packet socket can be given: in MPLS or PBB, which not every
    kernel can segment, or in a tunnel, which its virtio-net header has no word for."""
    if not vnet.is_super_frame(out):
        return False
    eth_type = load16(mem, out["header"] + ETH_HEADER - 2)
    is_plain = eth_type == ETH_IPV4 or eth_type == ETH_IPV6 or eth_type == ETH_VLAN or eth_type == ETH_QINQ
    return not is_plain or (out["ip_version"] != 0 and is_tunnelled_by_sender(out))


@compiled
def _is_tcp_or_udp(out):
    return out["gso_version"] != 0 and (out["gso_proto"] == PROTO_TCP or out["gso_proto"] == PROTO_UDP)


@compiled
def _make_prototype(mem, t, tunnel, template_len):
    """Outer headers with identifiers filled in, then the packet's own headers, at PROTOTYPE_OFFSET."""
    out = t["outgoing"]
    copy(mem, PROTOTYPE_OFFSET + template_len, out["header"], out["header_len"])
    if tunnel < 0:
        return
    port = t["ports"][tunnel]
    row = t["formats"][port["format"]]
    copy(mem, PROTOTYPE_OFFSET, port["template"], template_len)
    write_identifiers(mem, row, PROTOTYPE_OFFSET + OUTER_IP + 20, out)
    if row["inner_ip"] and out["ip_version"] == 6:
        store8(mem, PROTOTYPE_OFFSET + OUTER_IP + 9, row["outer_proto6"])
    if out["ip_version"]:
        store8(mem, PROTOTYPE_OFFSET + OUTER_IP + 1, out["tos"] & 3)  # RFC 6040: ECN is copied outwards


@compiled
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


@compiled
def _outer_sum(mem):
    """Sum of the prototype's outer IPv4 header, whose length, identification and checksum are zero."""
    return checksum.sum_header(mem, PROTOTYPE_OFFSET + OUTER_IP, 20)


@compiled
def _send_whole(mem, t, wire_index, tunnel, template_len):
    """One frame, copied whole."""
    out = t["outgoing"]
    wire = t["wires"][wire_index]
    header_len = template_len + out["header_len"]
    frame_len = template_len + out["bytes"]
    release_ns = admit(t, wire_index, frame_len)
    if release_ns < 0 or not reserve(mem, t, wire_index):
        return 0
    slot = slot_of(wire, wire["tx_slots"], wire["tx_head"])
    kind = SlotKind.INLINE.value
    at = slot + SLOT_HEAD
    if frame_len > SLOT_HEAD_MAX:
        kind = SlotKind.DATA.value
        at = data_of(wire, wire["tx_data"], wire["tx_head"])
    copy(mem, at, PROTOTYPE_OFFSET, header_len)
    gather(mem, t, at + header_len, START, START, frame_len - header_len)
    if out["csum"] == Csum.PARTIAL.value:
        l4 = at + template_len + out["gso_l4"]
        checksum.store_l4(mem, l4, out["gso_proto"], checksum.sum_bytes(mem, l4, at + frame_len - l4))
    if tunnel >= 0:
        _set_outer(mem, t, at, tunnel, frame_len, _outer_sum(mem))
    publish_frame(mem, t, wire_index, release_ns, kind, frame_len, frame_len, 0, -1)
    return 1


@compiled
def _send_segments(mem, t, wire_index, tunnel, template_len, gso_size):
    """Write the segments into slots of the wire; the payload stays in the pool where it can."""
    out = t["outgoing"]
    wire = t["wires"][wire_index]
    header_len = template_len + out["header_len"]
    by_reference = out["buffer"] >= 0 and header_len <= SLOT_HEAD_MAX
    by_reference = by_reference and t["free_buffer_count"] > SPARE_BUFFERS
    series = _begin_series(mem, t, tunnel, template_len)
    sent = 0
    lead = 0  # payload that stands in the slot: what UDP carries may have headers that the receiver looks for
    index, position = START, START  # the range that the next segment starts in, and where in it
    for number in range(-(-out["payload_len"] // gso_size)):
        length = min(gso_size, out["payload_len"] - number * gso_size)
        release_ns = admit(t, wire_index, header_len + length)
        if release_ns >= 0 and reserve(mem, t, wire_index):
            source = t["ranges"][index]["offset"] + position
            if by_reference and position + length <= t["ranges"][index]["length"]:
                kind = SlotKind.SPLIT.value
                at = slot_of(wire, wire["tx_slots"], wire["tx_head"]) + SLOT_HEAD
            else:
                kind = SlotKind.DATA.value
                at = data_of(wire, wire["tx_data"], wire["tx_head"])
                source = at + header_len
                gather(mem, t, source, index, position, length)
            _write_headers(mem, t, at, tunnel, template_len, series, number, length)
            payload_sum = checksum.sum_bytes(mem, source, length)
            _complete_checksum(mem, out, at + template_len + out["gso_l4"], series, payload_sum, length)
            whole = header_len + length
            if kind == SlotKind.SPLIT.value:
                buffer = out["buffer"]
                if out["gso_proto"] != PROTO_TCP:
                    lead = min(SLOT_HEAD_MAX - header_len, length)
                    copy(mem, at + header_len, source, lead)
                publish_frame(
                    mem, t, wire_index, release_ns, kind, whole, header_len + lead, source + lead, buffer
                )
            else:
                publish_frame(mem, t, wire_index, release_ns, kind, whole, whole, 0, -1)
            sent += 1
        index, position = advance(t, index, position + length)
    return sent


@compiled
def _begin_series(mem, t, tunnel, template_len):
    """Take the fields that vary out of the prototype; they, and what the rest contributes to each checksum.

    (IP identification, sequence number, TCP flags, IPv4 sum, TCP or UDP header's sum, pseudo-header's sum,
    outer IPv4 sum), all sums without lengths.
    """
    out = t["outgoing"]
    l3 = PROTOTYPE_OFFSET + template_len + out["gso_l3"]
    l4 = PROTOTYPE_OFFSET + template_len + out["gso_l4"]
    ip_id, ip_sum, seq, flags = 0, 0, 0, 0
    if out["gso_version"] == 4:
        ip_id = load16(mem, l3 + 4)
        store32(mem, l3 + 2, 0)
        store16(mem, l3 + 10, 0)
        ip_sum = checksum.sum_header(mem, l3, out["gso_l4"] - out["gso_l3"])
    if out["gso_proto"] == PROTO_TCP:
        seq = load32(mem, l4 + 4)
        flags = load8(mem, l4 + 13)
        store32(mem, l4 + 4, 0)
        store8(mem, l4 + 13, 0)
    else:
        store16(mem, l4 + 4, 0)  # length
    store16(mem, l4 + checksum.l4_field(out["gso_proto"]), 0)
    l4_sum = checksum.sum_header(mem, l4, out["header_len"] - out["gso_l4"])
    pseudo_sum = checksum.pseudo_header(mem, l3, out["gso_version"], out["gso_proto"], 0)
    outer_sum = _outer_sum(mem) if tunnel >= 0 else 0
    return ip_id, seq, flags, ip_sum, l4_sum, pseudo_sum, outer_sum


@inlined
def _write_headers(mem, t, at, tunnel, template_len, series, number, length):
    """Headers of segment `number`, which has `length` bytes, but for its TCP or UDP checksum."""
    out = t["outgoing"]
    ip_id, seq, flags, ip_sum, _, _, outer_sum = series
    header_len = template_len + out["header_len"]
    copy(mem, at, PROTOTYPE_OFFSET, header_len)
    l3 = at + template_len + out["gso_l3"]
    l4 = at + template_len + out["gso_l4"]
    done = number * out["gso_size"]
    ip_len = out["header_len"] - out["gso_l3"] + length
    if out["gso_version"] == 4:
        own_id = (ip_id + number) & 0xFFFF
        store16(mem, l3 + 2, ip_len)
        store16(mem, l3 + 4, own_id)
        store16(mem, l3 + 10, checksum.finish(ip_sum + ip_len + own_id))
    else:
        store16(mem, l3 + 4, ip_len - 40)
    if out["gso_proto"] == PROTO_TCP:
        if done > 0:
            flags &= ~CWR
        if done + length < out["payload_len"]:
            flags &= ~(FIN | PSH)
        store32(mem, l4 + 4, seq_add(seq, done))
        store8(mem, l4 + 13, flags)
    else:
        store16(mem, l4 + 4, out["header_len"] - out["gso_l4"] + length)
    if is_tunnelled_by_sender(out):
        number_tunnel_header(mem, out, at + template_len, number)
        complete_tunnel_headers(mem, out, at + template_len, at + header_len + length)
    if tunnel >= 0:
        _set_outer(mem, t, at, tunnel, header_len + length, outer_sum)


@inlined
def _complete_checksum(mem, out, l4, series, payload_sum, length):
    """Write the TCP or UDP checksum of a segment whose other fields are complete."""
    _, _, _, _, l4_sum, pseudo_sum, _ = series
    total = l4_sum + pseudo_sum + out["header_len"] - out["gso_l4"] + length + payload_sum
    if out["gso_proto"] == PROTO_TCP:
        seq = load32(mem, l4 + 4)
        total += (seq >> 16) + (seq & 0xFFFF) + load8(mem, l4 + 13)
    else:
        total += load16(mem, l4 + 4)
    checksum.store_l4(mem, l4, out["gso_proto"], total)


# To a packet port


@compiled
def _stage_whole(mem, t, place, tunnel, template_len):
    """One frame with outer headers."""
    out = t["outgoing"]
    header_len = template_len + out["header_len"]
    at = packet.stage(mem, t, place, out["range_count"])
    copy(mem, at, PROTOTYPE_OFFSET, header_len)
    body_len = out["bytes"] - out["header_len"]
    if tunnel >= 0:
        _set_outer(mem, t, at, tunnel, header_len + body_len, _outer_sum(mem))
    _write_vnet_header(mem, at - vnet.HEADER, out, template_len)
    if header_len + body_len <= packet.HEAD_ROOM:
        gather(mem, t, at + header_len, START, START, body_len)
        header_len += body_len
    else:
        _add_pieces(mem, t, place, START, START, body_len)
    packet.publish(mem, t, place, header_len)
    return 1


@compiled
def _write_vnet_header(mem, at, out, template_len):
    if out["csum"] == Csum.PARTIAL.value:
        vnet.write_partial(mem, at, template_len + out["gso_l4"], checksum.l4_field(out["gso_proto"]))
    else:
        vnet.write_nothing(mem, at)


@compiled
def _stage_segments(mem, t, place, tunnel, template_len, gso_size):
    """Stage the segments at a packet port, the payload by reference."""
    out = t["outgoing"]
    header_len = template_len + out["header_len"]
    series = _begin_series(mem, t, tunnel, template_len)
    pseudo_sum = series[5]
    field = checksum.l4_field(out["gso_proto"])
    index, position = START, START
    count = -(-out["payload_len"] // gso_size)
    for number in range(count):
        length = min(gso_size, out["payload_len"] - number * gso_size)
        at = packet.stage(mem, t, place, out["range_count"])
        _write_headers(mem, t, at, tunnel, template_len, series, number, length)
        l4_len = out["header_len"] - out["gso_l4"] + length
        store16(mem, at + template_len + out["gso_l4"] + field, checksum.fold(pseudo_sum + l4_len))
        _write_vnet_header(mem, at - vnet.HEADER, out, template_len)
        index, position = _add_pieces(mem, t, place, index, position, length)
        packet.publish(mem, t, place, header_len)
    return count


@compiled
def _add_pieces(mem, t, place, index, position, length):
    """Refer to `length` payload bytes from range `index`, byte `position`, on; where the next ones start."""
    while length > 0:
        part = min(length, t["ranges"][index]["length"] - position)
        packet.add_piece(mem, t, place, t["ranges"][index]["offset"] + position, part)
        length -= part
        index, position = advance(t, index, position + part)
    return index, position


@compiled
def _stage_datagrams(mem, t, place, tunnel, template_len, gso_size):
    """Send the segments as payload of few large datagrams of which the kernel makes one a segment (UDP GSO).

    The outer UDP checksum is the kernel's then, so the inner ones have to be complete.
    """
    out = t["outgoing"]
    series = _begin_series(mem, t, tunnel, template_len)
    l3 = OUTER_IP if tunnel >= 0 else out["l3"]
    udp = OUTER_IP + 20 if tunnel >= 0 else out["l4"]
    outer_len = udp + UDP_HEADER
    own_len = template_len + out["header_len"] - outer_len
    count = -(-out["payload_len"] // gso_size)
    most = max(1, min(SERIES, (MAX_FRAME_LEN - outer_len) // (own_len + gso_size)))
    number = 0
    index, position = START, START
    while number < count:
        first, stop = number, min(number + most, count)
        at = packet.stage(mem, t, place, 2 * (stop - first) + out["range_count"])
        total = 0
        while number < stop:
            headers = at if number == first else SERIES_OFFSET + (number - first) * STAGED_HEAD
            length = min(gso_size, out["payload_len"] - number * gso_size)
            _write_headers(mem, t, headers, NO_TUNNEL, template_len, series, number, length)
            if number > first:
                packet.add_piece(mem, t, place, headers + outer_len, own_len)
            total += own_len + length
            payload_sum = sum_payload(mem, t, index, position, length)
            index, position = _add_pieces(mem, t, place, index, position, length)
            l4 = headers + template_len + out["gso_l4"]
            _complete_checksum(mem, out, l4, series, payload_sum, length)
            number += 1
        if tunnel >= 0:
            _set_outer(mem, t, at, tunnel, outer_len + total, series[6])
            t["ports"][tunnel]["ip_id"] += stop - first - 1
        else:
            set_ip_length(mem, at + l3, at + udp, at + outer_len + total)
            store16(mem, at + udp + 4, UDP_HEADER + total)
        version = 4 if tunnel >= 0 else out["ip_version"]
        field = checksum.l4_field(PROTO_UDP)
        pseudo_sum = checksum.pseudo_header(mem, at + l3, version, PROTO_UDP, UDP_HEADER + total)
        store16(mem, at + udp + field, checksum.fold(pseudo_sum))
        vnet.write_partial(mem, at - vnet.HEADER, udp, field)
        if stop - first > 1:
            vnet.write_segmentation(mem, at - vnet.HEADER, vnet.GSO_UDP_L4, outer_len, own_len + gso_size)
        packet.publish(mem, t, place, outer_len + own_len)
        packet.flush(mem, t, place)  # the scratch is wanted for the next datagram
    return count
