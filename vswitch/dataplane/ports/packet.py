# SPDX-License-Identifier: Apache-2.0
"""A packet port, compiled: an interface's frames, with a virtio-net header both ways.

Receiving: the kernel copies frames into the slots of a ring (TPACKET_V2, packet_mmap in the kernel's
documentation). Slots stay ours until `release`. Of a frame that is longer than a slot, the slot holds the
beginning, and the whole is read from the socket's queue into a pool buffer. One of more than 64 KB (BIG TCP)
becomes several super-frames, each in a buffer of its own.

Sending: frames are staged, headers copied and payload by reference, and given to the kernel many at a time by
`flush`, which has to come before the memory that they refer to is released.
"""

from vswitch.dataplane import checksum
from vswitch.dataplane.account import drop_received, drop_sent
from vswitch.dataplane.checksum import PROTO_TCP
from vswitch.dataplane.compiled import compiled
from vswitch.dataplane.ethernet import ETH_HEADER, ETH_IPV4, ETH_IPV6, ETH_VLAN, VLAN_TAG
from vswitch.dataplane.formats import find_tunnel
from vswitch.dataplane.gro import CWR, FIN, LONGEST_TCP_HEADER, PSH
from vswitch.dataplane.intrinsics import (
    MESSAGE,
    MESSAGE_LENGTH,
    acquire64,
    copy,
    errno,
    load8,
    load16,
    load32,
    load64,
    load_le16,
    load_le32,
    prefetch,
    release64,
    set_iov,
    set_message,
    store8,
    store16,
    store32,
    store64,
    store_le16,
    sys_clear_error,
    sys_read,
    sys_readv,
    sys_sendmmsg,
    sys_writev,
)
from vswitch.dataplane.outgoing import link_header, network_offset, write_packet
from vswitch.dataplane.ports import vnet
from vswitch.dataplane.ports.tap import EAGAIN, ENOBUFS, POOL_HEADROOM
from vswitch.dataplane.ports.wire import reclaim, release_buffer
from vswitch.dataplane.seq import seq_add
from vswitch.dataplane.workers import done_up_to
from vswitch.layout import (
    BUFFER_SIZE,
    BURST,
    IOV_OFFSET,
    LARGE_BURST,
    MAX_FRAME_LEN,
    PROTOTYPE_OFFSET,
    RING_SLOT_SIZE,
    RING_SLOTS,
    STAGED,
    STAGED_HEAD,
    STAGED_IOVS,
    TUNNEL_VNET_HEADER,
    WAKE_OFFSET,
    Counter,
    Csum,
)

TP_STATUS_USER, TP_STATUS_COPY, TP_STATUS_VLAN_VALID, TP_STATUS_VLAN_TPID_VALID = 1, 2, 0x10, 0x40
TP_SNAPLEN, TP_MAC, TP_VLAN_TCI, TP_VLAN_TPID = 8, 12, 24, 26
"""Offsets in struct tpacket2_hdr, which starts with the 32-bit words tp_status and tp_len."""
MAC_ADDRESSES = 12
UNKNOWN_PARTS = 0
JUMBO_OPTION, JUMBO_PAYLOAD = 8, 0xC204
"""Bytes of a hop-by-hop header with the jumbo payload option alone, and that option's type and length."""
UDP_OUTER = ETH_HEADER + 20 + 8
"""Ethernet, IPv4 and UDP headers in front of a tunnel's frames."""
IOV = 16
EMSGSIZE = 90
IOVS_OFFSET = STAGED * MESSAGE
HEADS_OFFSET = IOVS_OFFSET + STAGED_IOVS * IOV
STAGING_SIZE = HEADS_OFFSET + STAGED * STAGED_HEAD
HEAD_ROOM = STAGED_HEAD - vnet.HEADER
"""Bytes of a frame that its staging place takes: the longest headers, and small frames whole."""
SHORTEST = 60
"""Bytes of the shortest frame without its check sequence (IEEE 802.3); what is shorter is padded."""
LARGE = 4096
"""Payload bytes that are worth a system call of their own: more frames behind them gain nothing."""


# Receiving


@compiled
def receive(mem, t, place):
    """Take frames, up to BURST, as packet rows; their slots and buffers stay held until `release`."""
    socket = t["sockets"][place]
    socket["large_free"] = socket["large_end"]
    number = socket["taken"]
    limit = min(number + BURST, socket["tail"] + RING_SLOTS // 2)
    count = 0
    while count < BURST and number < limit:
        slot = _slot(socket, number)
        status = acquire64(mem, slot) & 0xFFFFFFFF
        if not status & TP_STATUS_USER:
            break
        ahead = _slot(socket, number + 2)
        prefetch(mem, ahead)
        prefetch(mem, ahead + 64)
        prefetch(mem, ahead + 128)
        goes_on = status & TP_STATUS_COPY
        segments = _segments_of_tunnel(mem, t, slot)
        parts = _parts(mem, slot) if goes_on and segments == 0 else 1
        if (segments > 1 and not _can_be_apart(mem, slot, segments)) or parts == UNKNOWN_PARTS:
            _discard(mem, t, socket, goes_on)
        elif not goes_on and segments <= 1:
            count += _take(mem, t, socket, slot, count)
        elif count + max(segments, parts) > BURST or not _room_for(mem, t, socket, slot, segments, parts):
            break
        elif segments > 1:
            count += _take_series(mem, t, place, slot, count, segments)
        elif parts > 1:
            count += _take_parts(mem, t, place, slot, count, parts)
        else:
            count += _take_large(mem, t, place, slot, count)
        number += 1
        socket["taken"] = number
    return count


@compiled
def _slot(socket, number):
    return socket["ring"] + (number & (RING_SLOTS - 1)) * RING_SLOT_SIZE


@compiled
def _take(mem, t, socket, slot, row):
    """Make packet row `row` of a frame that stands whole in its slot; 1, or 0 when it does not."""
    length = load_le32(mem, slot + 4)
    if _is_cut(mem, slot):
        _lose(t, socket, Counter.RX_RING_FULL.value)  # the kernel had no room to queue the whole
        return 0
    packet = t["packets"][row]
    _describe(mem, t, socket, slot, packet, slot + load_le16(mem, slot + TP_MAC), length)
    return 1


@compiled
def _is_cut(mem, slot):
    """Whether the slot has only the beginning of its frame."""
    return load_le32(mem, slot + TP_SNAPLEN) < load_le32(mem, slot + 4)


@compiled
def _room_for(mem, t, socket, slot, segments, parts):
    """Whether the pool has room for a frame that is longer than its slot; wires give back what they can."""
    if segments <= 1 and parts == 1 and _fits_behind(mem, socket, slot):
        return True
    if t["free_buffer_count"] < parts:
        for index in range(t["wire_count"]):
            reclaim(mem, t, index)
    return socket["large_count"] + parts <= LARGE_BURST and t["free_buffer_count"] >= parts


@compiled
def _fits_behind(mem, socket, slot):
    """Whether a frame fits into the last buffer, behind those that were read into it."""
    start = socket["large_free"] + POOL_HEADROOM
    return start + vnet.HEADER + load_le32(mem, slot + 4) <= socket["large_end"]


@compiled
def _take_large(mem, t, place, slot, row):
    """Make packet row `row` of a frame that goes on behind its slot, by reading it whole; 1 or 0."""
    socket = t["sockets"][place]
    length = load_le32(mem, slot + 4)
    if not _fits_behind(mem, socket, slot):
        _hold(t, place)
    start = socket["large_free"] + POOL_HEADROOM
    if sys_read(mem, socket["fd"], start, socket["large_end"] - start) != length + vnet.HEADER:
        return _misread(t, socket)
    socket["large_free"] = start + (vnet.HEADER + length + 63 & ~63)
    t["large_numbers"][place, socket["large_count"] - 1] = socket["taken"]
    packet = t["packets"][row]
    _describe(mem, t, socket, slot, packet, start + vnet.HEADER, length)
    if packet["gso_size"]:
        packet["buffer"] = t["large_buffers"][place, socket["large_count"] - 1]
    return 1


@compiled
def _misread(t, socket):
    """Count a frame as malformed that is not as long as its slot tells; no row comes of it."""
    _lose(t, socket, Counter.RX_BAD_DESCRIPTOR.value)
    return 0


@compiled
def _lose(t, socket, reason):
    """A frame came of which there will be no row."""
    t["ports"][socket["port"]]["rx_packets"] += 1
    drop_received(t, socket["port"], reason, 1)


@compiled
def _hold(t, place):
    """Take a free buffer until `release`; where it begins."""
    socket = t["sockets"][place]
    t["free_buffer_count"] -= 1
    buffer = t["free_buffers"][t["free_buffer_count"]]
    t["buffers"][buffer] = 1
    t["large_buffers"][place, socket["large_count"]] = buffer
    t["large_numbers"][place, socket["large_count"]] = socket["taken"]
    socket["large_count"] += 1
    socket["large_free"] = t["pool"] + buffer * BUFFER_SIZE
    socket["large_end"] = socket["large_free"] + BUFFER_SIZE
    return socket["large_free"]


# Super-frames of more than 64 KB (BIG TCP)


@compiled
def _parts(mem, slot):
    """How many super-frames a frame is to be cut into; UNKNOWN_PARTS: nobody can say where."""
    length = load_le32(mem, slot + 4)
    if length <= MAX_FRAME_LEN:
        return 1
    _, header_len, part_len = _big_header(mem, slot)
    if part_len <= 0:
        return UNKNOWN_PARTS
    parts = (length - header_len + part_len - 1) // part_len
    return parts if parts <= LARGE_BURST else UNKNOWN_PARTS


@compiled
def _big_header(mem, slot):
    """(offset of the IP header, bytes of headers, payload bytes of a part) of a big TCP super-frame.

    The last is 0 where it is none: its IP header has no options, and its length, which does not fit there,
    stands nowhere or in an option of IPv6 (RFC 2675). Nor is it in an IP tunnel, whose length does not fit.
    """
    frame = slot + load_le16(mem, slot + TP_MAC)
    kind = load8(mem, frame - vnet.HEADER + 1) & ~vnet.GSO_ECN
    gso_size, start = load_le16(mem, frame - vnet.HEADER + 4), load_le16(mem, frame - vnet.HEADER + 6)
    l4 = frame + start
    if gso_size == 0 or l4 + LONGEST_TCP_HEADER > slot + RING_SLOT_SIZE:
        return 0, 0, 0
    if kind == vnet.GSO_TCPV4:
        l3 = l4 - 20
        sound = l3 >= frame + ETH_HEADER and load8(mem, l3) == 0x45 and load8(mem, l3 + 9) == PROTO_TCP
    elif kind == vnet.GSO_TCPV6:
        l3 = l4 - 40
        sound = l3 >= frame + ETH_HEADER and load8(mem, l3) >> 4 == 6 and load8(mem, l3 + 6) == PROTO_TCP
        if not sound:
            l3 -= JUMBO_OPTION
            sound = l3 >= frame + ETH_HEADER and _is_jumbogram(mem, l3)
    else:
        return 0, 0, 0
    header_len = start + (load8(mem, l4 + 12) >> 4) * 4
    if not sound or header_len < start + 20 or _is_in_ip(mem, frame, l3):
        return 0, 0, 0
    return l3 - frame, header_len, (MAX_FRAME_LEN - VLAN_TAG - header_len) // gso_size * gso_size


@compiled
def _is_in_ip(mem, frame, l3):
    """Whether another IP header stands in front of the one at `l3`."""
    network = frame + network_offset(mem, frame, l3 - frame)
    eth_type = load16(mem, network - 2)
    return network < l3 and (eth_type == ETH_IPV4 or eth_type == ETH_IPV6)


@compiled
def _is_jumbogram(mem, l3):
    """Whether an IPv6 header and nothing but a jumbo payload option, in front of TCP, stand at `l3`."""
    is_ipv6 = load8(mem, l3) >> 4 == 6 and load16(mem, l3 + 4) == 0 and load8(mem, l3 + 6) == 0
    return is_ipv6 and load32(mem, l3 + 40) == PROTO_TCP << 24 | JUMBO_PAYLOAD


@compiled
def _take_parts(mem, t, place, slot, row, parts):
    """Make packet rows of a frame of more than 64 KB: super-frames of whole segments, with headers each."""
    socket = t["sockets"][place]
    ip_offset, header_len, part_len = _big_header(mem, slot)
    length = load_le32(mem, slot + 4)
    first = socket["large_count"]
    for number in range(parts):
        start = _hold(t, place) + POOL_HEADROOM
        lead = vnet.HEADER + header_len if number else 0
        set_iov(mem, IOV_OFFSET, number, start + lead, vnet.HEADER + header_len + part_len - lead)
    socket["large_free"] = socket["large_end"]
    if sys_readv(mem, socket["fd"], IOV_OFFSET, parts) != length + vnet.HEADER:
        return _misread(t, socket)
    buffers = t["large_buffers"][place]
    start = t["pool"] + buffers[first] * BUFFER_SIZE + POOL_HEADROOM
    copy(mem, PROTOTYPE_OFFSET, start, vnet.HEADER + header_len)
    left = length - header_len
    for number in range(parts):
        own = min(part_len, left)
        left -= own
        start = t["pool"] + buffers[first + number] * BUFFER_SIZE + POOL_HEADROOM
        frame = _head_part(mem, start, ip_offset, header_len, number * part_len, own, left)
        packet = t["packets"][row + number]
        end = start + vnet.HEADER + header_len + own
        _describe(mem, t, socket, slot, packet, frame, end - frame)
        packet["buffer"] = buffers[first + number]
    return parts


@compiled
def _head_part(mem, start, ip_offset, header_len, done, own, left):
    """Write the headers of a part in front of its payload; where its frame begins.

    start: of its place in the pool. done, own, left: payload bytes before it, in it and behind it. At
    PROTOTYPE_OFFSET stand the whole's virtio-net header and headers, of which a jumbo payload option is left
    away.
    """
    whole = PROTOTYPE_OFFSET + vnet.HEADER
    csum_start = load_le16(mem, whole - vnet.HEADER + 6)
    version = load8(mem, whole + ip_offset) >> 4
    ip_len = 20 if version == 4 else 40
    left_away = csum_start - ip_offset - ip_len
    frame = start + vnet.HEADER + left_away
    copy(mem, frame - vnet.HEADER, PROTOTYPE_OFFSET, vnet.HEADER + ip_offset + ip_len)
    l3, l4 = frame + ip_offset, frame + ip_offset + ip_len
    copy(mem, l4, whole + csum_start, header_len - csum_start)
    store_le16(mem, frame - vnet.HEADER + 6, ip_offset + ip_len)
    l4_len = header_len - csum_start + own
    if version == 4:
        segments_before = done // load_le16(mem, frame - vnet.HEADER + 4)
        store16(mem, l3 + 2, ip_len + l4_len)
        store16(mem, l3 + 4, (load16(mem, l3 + 4) + segments_before) & 0xFFFF)
        store16(mem, l3 + 10, 0)
        store16(mem, l3 + 10, checksum.finish(checksum.sum_header(mem, l3, ip_len)))
    else:
        store16(mem, l3 + 4, l4_len)
        store8(mem, l3 + 6, PROTO_TCP)
    flags = load8(mem, l4 + 13)
    if done:
        flags &= ~CWR
    if left:
        flags &= ~(FIN | PSH)
    store8(mem, l4 + 13, flags)
    store32(mem, l4 + 4, seq_add(load32(mem, l4 + 4), done))
    pseudo_sum = checksum.pseudo_header(mem, l3, version, PROTO_TCP, l4_len)
    store16(mem, l4 + checksum.l4_field(PROTO_TCP), checksum.fold(pseudo_sum))
    return frame


@compiled
def _segments_of_tunnel(mem, t, slot):
    """How many frames a super-frame of one of our tunnels' other ends (see tso.py) stands for; or 0.

    One that is neither whole in its slot nor queued is none: it is lost.
    """
    frame = slot + load_le16(mem, slot + TP_MAC)
    if t["tunnel_count"] == 0 or load8(mem, frame - vnet.HEADER + 1) != vnet.GSO_UDP_L4:
        return 0
    if _is_cut(mem, slot) and not load_le32(mem, slot) & TP_STATUS_COPY:
        return 0
    l3 = frame + ETH_HEADER
    if (
        load_le32(mem, slot) & TP_STATUS_VLAN_VALID
        or load16(mem, l3 - 2) != ETH_IPV4
        or load8(mem, l3) != 0x45
    ):
        return 0
    if load_le16(mem, frame - vnet.HEADER + 6) != UDP_OUTER - 8:
        return 0  # a tunnel's frame with a super-frame inside
    if find_tunnel(mem, t, l3, l3 + 20, slot + RING_SLOT_SIZE) < 0:
        return 0
    return -((UDP_OUTER - load_le32(mem, slot + 4)) // load_le16(mem, frame - vnet.HEADER + 4))


@compiled
def _can_be_apart(mem, slot, segments):
    """Whether so many frames fit into a burst, and into a pool buffer, each with outer headers.

    No kernel makes so many of them that they do not, but who has the other end's packet socket can.
    """
    length = load_le32(mem, slot + 4) + segments * UDP_OUTER
    return segments <= BURST and length <= BUFFER_SIZE - POOL_HEADROOM


@compiled
def _discard(mem, t, socket, goes_on):
    """Count a frame as malformed, and take the whole of it off the socket's queue if it waits there."""
    if goes_on:
        sys_read(mem, socket["fd"], WAKE_OFFSET + 8, 16)  # what is not read of it is gone
    _lose(t, socket, Counter.RX_BAD_DESCRIPTOR.value)


@compiled
def _take_series(mem, t, place, slot, row, segments):
    """Make packet rows of a tunnel's frames: take them with gaps between, and put outer headers there."""
    socket = t["sockets"][place]
    size = load_le16(mem, slot + load_le16(mem, slot + TP_MAC) - vnet.HEADER + 4)
    length = load_le32(mem, slot + 4)
    first = _hold(t, place) + POOL_HEADROOM
    socket["large_free"] = socket["large_end"]
    stride = UDP_OUTER + size
    if not load_le32(mem, slot) & TP_STATUS_COPY:
        _copy_apart(mem, slot, first, size, segments)
    elif not _read_apart(mem, socket, first, size, segments, length):
        return _misread(t, socket)
    left = length - UDP_OUTER
    for number in range(segments):
        frame = first + number * stride
        own = min(size, left)
        left -= own
        if number > 0:
            copy(mem, frame, first, UDP_OUTER)
        if number == 0 or own < size:
            _set_lengths(mem, frame + ETH_HEADER, own)
        packet = t["packets"][row + number]
        packet["gso_size"] = 0
        packet["csum"] = Csum.PARTIAL.value  # the outer one
        packet["csum_start"] = UDP_OUTER - 8
        packet["csum_offset"] = 6
        _place(t, socket, packet, frame, UDP_OUTER + own)
    return segments


@compiled
def _copy_apart(mem, slot, first, size, segments):
    """Copy the frames of a super-frame that stands whole in its slot, with gaps for outer headers."""
    frame = slot + load_le16(mem, slot + TP_MAC)
    left = load_le32(mem, slot + 4) - UDP_OUTER
    copy(mem, first, frame, UDP_OUTER)
    for number in range(segments):
        own = min(size, left)
        left -= own
        copy(mem, first + number * (UDP_OUTER + size) + UDP_OUTER, frame + UDP_OUTER + number * size, own)


@compiled
def _read_apart(mem, socket, first, size, segments, length):
    """Read the frames of a super-frame that waits at the socket, likewise; whether that was all of it."""
    stride = UDP_OUTER + size
    set_iov(mem, IOV_OFFSET, 0, first - vnet.HEADER, vnet.HEADER + stride)
    for number in range(1, segments):
        set_iov(mem, IOV_OFFSET, number, first + number * stride + UDP_OUTER, size)
    return sys_readv(mem, socket["fd"], IOV_OFFSET, segments) == length + vnet.HEADER


@compiled
def _set_lengths(mem, l3, length):
    """Make IPv4 and UDP headers right for `length` bytes behind them; the UDP checksum stays partial."""
    store16(mem, l3 + 2, 28 + length)
    store16(mem, l3 + 10, 0)
    store16(mem, l3 + 10, checksum.finish(checksum.sum_header(mem, l3, 20)))
    store16(mem, l3 + 24, 8 + length)


@compiled
def _describe(mem, t, socket, slot, packet, frame, length):
    """Fill in the row of the frame at `frame`, behind its virtio-net header; put its VLAN tag back."""
    vnet.read(mem, frame - vnet.HEADER, packet)
    status = load_le32(mem, slot)
    if status & TP_STATUS_VLAN_VALID:
        tpid = load_le16(mem, slot + TP_VLAN_TPID) if status & TP_STATUS_VLAN_TPID_VALID else ETH_VLAN
        addresses, rest = load64(mem, frame), load32(mem, frame + 8)
        frame -= VLAN_TAG
        length += VLAN_TAG
        store64(mem, frame, addresses)
        store32(mem, frame + 8, rest)
        store16(mem, frame + MAC_ADDRESSES, tpid)
        store16(mem, frame + MAC_ADDRESSES + 2, load_le16(mem, slot + TP_VLAN_TCI))
        packet["csum_start"] += VLAN_TAG
    _place(t, socket, packet, frame, length)


@compiled
def _place(t, socket, packet, frame, length):
    port = t["ports"][socket["port"]]
    packet["offset"] = frame
    packet["length"] = length
    packet["head_length"] = length
    packet["ext"] = 0
    packet["port"] = socket["port"]
    packet["queue"] = 0
    packet["buffer"] = -1
    port["rx_packets"] += 1
    port["rx_bytes"] += length


@compiled
def release(mem, t, place):
    """Give the slots of what was received back to the kernel, and our references to its pool buffers.

    What other workers have in hand is kept, up to half of the ring; a later call gives it back.
    """
    socket = t["sockets"][place]
    tail = socket["taken"]
    if t["workers"] > 1:
        tail = done_up_to(mem, t, socket, tail)
    for number in range(socket["tail"], tail):
        release64(mem, _slot(socket, number), 0)
    socket["tail"] = tail
    buffers, numbers = t["large_buffers"][place], t["large_numbers"][place]
    kept = 0
    for index in range(socket["large_count"]):
        if numbers[index] < tail:
            release_buffer(t, buffers[index])
        else:
            buffers[kept] = buffers[index]
            numbers[kept] = numbers[index]
            kept += 1
    socket["large_count"] = kept


@compiled
def clear_error(mem, t, place):
    """An interface that went down leaves an error at its socket; without this, ppoll would not wait."""
    sys_clear_error(mem, t["sockets"][place]["fd"], WAKE_OFFSET + 8)


# Sending


@compiled
def send(mem, t, index):
    """Stage `t['outgoing']` as it is: a super-frame is segmented by whoever has to, if anyone."""
    out = t["outgoing"]
    port = t["ports"][index]
    is_super = vnet.is_super_frame(out)
    length = out["header_len"] + out["gso_size"] if is_super else out["bytes"]
    excess = length - ETH_HEADER - port["mtu"]
    if excess > 0 and excess > link_header(mem, t) - ETH_HEADER:
        port["tx_requested"] += 1
        drop_sent(t, index, Counter.MTU_EXCEEDED.value, 1)
        return
    place = port["socket"]
    at = stage(mem, t, place, out["range_count"])
    vnet.write(mem, at - vnet.HEADER, out)
    if out["bytes"] <= HEAD_ROOM:
        write_packet(mem, t, at)
        for index in range(out["bytes"], SHORTEST):
            store8(mem, at + index, 0)
        publish(mem, t, place, max(out["bytes"], SHORTEST))
        return
    copy(mem, at, out["header"], out["header_len"])
    for number in range(out["range_count"]):
        add_piece(mem, t, place, t["ranges"][number]["offset"], t["ranges"][number]["length"])
    publish(mem, t, place, out["header_len"])
    if out["payload_len"] >= LARGE:
        flush(mem, t, place)


@compiled
def inject(mem, t, place):
    """Send a super-frame that is in a tunnel over UDP by the port's injector; False: none takes it."""
    socket = t["sockets"][place]
    out = t["outgoing"]
    if socket["injector_fd"] == 0:
        socket["injector_wanted"] = 1
        return False
    flush(mem, t, place)
    start = out["header"] - TUNNEL_VNET_HEADER
    vnet.write_tunnelled(mem, start, out)
    set_iov(mem, IOV_OFFSET, 0, start, TUNNEL_VNET_HEADER + out["header_len"])
    for number in range(out["range_count"]):
        piece = t["ranges"][number]
        set_iov(mem, IOV_OFFSET, 1 + number, piece["offset"], piece["length"])
    if sys_writev(mem, socket["injector_fd"], IOV_OFFSET, 1 + out["range_count"]) < 0:
        return False
    port = t["ports"][socket["port"]]
    port["tx_requested"] += 1
    port["tx_packets"] += 1
    port["tx_bytes"] += out["bytes"]
    return True


@compiled
def stage(mem, t, place, pieces):
    """Where the headers of the next frame are to be written; HEAD_ROOM bytes, behind a virtio-net header.

    pieces: how often `add_piece` may be called before `publish` completes the frame.
    """
    socket = t["sockets"][place]
    if socket["staged"] == STAGED or socket["iovs"] + 1 + pieces > STAGED_IOVS:
        flush(mem, t, place)
    socket["first_iov"] = socket["iovs"]
    socket["iovs"] += 1
    return socket["staging"] + HEADS_OFFSET + socket["staged"] * STAGED_HEAD + vnet.HEADER


@compiled
def add_piece(mem, t, place, offset, length):
    """The frame continues at mem[offset:offset+length], which has to stay until `flush`."""
    socket = t["sockets"][place]
    set_iov(mem, socket["staging"] + IOVS_OFFSET, socket["iovs"], offset, length)
    socket["iovs"] += 1


@compiled
def publish(mem, t, place, head_len):
    """Complete the staged frame, of which `head_len` bytes were written where `stage` said."""
    socket = t["sockets"][place]
    number, first = socket["staged"], socket["first_iov"]
    head = socket["staging"] + HEADS_OFFSET + number * STAGED_HEAD
    iovs = socket["staging"] + IOVS_OFFSET
    set_iov(mem, iovs, first, head, vnet.HEADER + head_len)
    set_message(mem, socket["staging"], number, iovs + IOV * first, socket["iovs"] - first)
    socket["staged"] = number + 1
    t["staged_frames"] += 1
    t["ports"][socket["port"]]["tx_requested"] += 1


@compiled
def flush_all(mem, t):
    """Send what was staged at any port."""
    if t["staged_frames"] == 0:
        return
    for place in range(t["socket_count"]):
        flush(mem, t, place)


@compiled
def flush(mem, t, place):
    """Give the staged frames to the kernel. What it refuses is counted."""
    socket = t["sockets"][place]
    staged = socket["staged"]
    done = 0
    while done < staged:
        sent = sys_sendmmsg(mem, socket["fd"], socket["staging"] + MESSAGE * done, staged - done)
        if sent > 0:
            _count_sent(mem, t, socket, done, sent)
            done += sent
        else:
            done += _count_refused(t, socket, staged - done, errno())
    t["staged_frames"] -= staged
    socket["staged"] = 0
    socket["iovs"] = 0


@compiled
def _count_sent(mem, t, socket, first, count):
    port = t["ports"][socket["port"]]
    port["tx_packets"] += count
    for number in range(first, first + count):
        length = load_le32(mem, socket["staging"] + MESSAGE * number + MESSAGE_LENGTH)
        port["tx_bytes"] += length - vnet.HEADER


@compiled
def _count_refused(t, socket, waiting, error):
    """Count the frame that the kernel refused, or all that wait when it has no room; their number."""
    count = waiting if error == EAGAIN else 1
    reason = Counter.PACKET_ERROR.value
    if error == EAGAIN or error == ENOBUFS:
        reason = Counter.PACKET_BUSY.value
    elif error == EMSGSIZE:
        reason = Counter.MTU_EXCEEDED.value
    drop_sent(t, socket["port"], reason, count)
    return count
