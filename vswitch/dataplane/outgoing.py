# SPDX-License-Identifier: Apache-2.0
"""The packet that an action program works on: writable headers in the scratch, payload by reference.

A group of frames becomes one packet here: its headers are copied once and made right for the whole, its
payload stays where it was received, as ranges of `mem`. Headers grow into the room in front of HEADER_OFFSET
when tags are pushed, and are pulled out of the payload when tags are popped from in front of them.

A packet of more than `gso_size` payload bytes is a super-frame: it stands for the TCP segments, or the UDP
datagrams, that it will be cut into. Wherever tags were pushed, `l3` and `l4` tell where its IP and TCP or UDP
headers truly are. `gso_l3` and `gso_l4` tell where those stand that it is cut by, and whose checksum may be
partial: the same ones, or, in a packet that its sender has put into a tunnel of its own, those inside.
"""

from vswitch.dataplane import checksum
from vswitch.dataplane.checksum import PROTO_TCP, PROTO_UDP
from vswitch.dataplane.compiled import compiled, inlined
from vswitch.dataplane.ethernet import (
    ETH_HEADER,
    ETH_MPLS,
    ETH_MPLS_MULTICAST,
    ETH_PBB,
    ETH_QINQ,
    ETH_VLAN,
    MPLS_ENTRY,
    PBB_TAG,
    VLAN_TAG,
)
from vswitch.dataplane.gro import CWR, FIN, PSH
from vswitch.dataplane.intrinsics import (
    assign,
    copy,
    load8,
    load16,
    load32,
    store8,
    store16,
    store32,
)
from vswitch.dataplane.parse import PROTO_GRE, parse
from vswitch.dataplane.ports import vnet
from vswitch.dataplane.seq import seq_add
from vswitch.layout import (
    HEADER_MAX,
    HEADER_OFFSET,
    SAVED_OFFSET,
    SHIM_ROOM,
    STAGED_HEAD,
    TEMPLATE_SIZE,
    Csum,
)

LONGEST_HEADERS = STAGED_HEAD - vnet.HEADER - TEMPLATE_SIZE
"""Bytes of headers that ports have room for."""
HEADROOM = 512
"""Bytes in front of HEADER_OFFSET that pushed headers may take."""
HEADER_LIMIT = HEADER_OFFSET + 2 * HEADER_MAX
"""Where headers that are pulled out of the payload end at the latest."""
MPLS_BOTTOM = 0x100
"""The bit of a label stack entry's last 16 that tells that no other entry follows (RFC 3032)."""
GRE_CHECKSUM = 0x80
"""The bit of a GRE header's first byte that tells of a checksum (RFC 2784)."""
START = 0
"""Of ranges, and of the payload in the first of them."""


@compiled
def take_group(mem, t, group):
    """Make `t['outgoing']` and `t['ranges']` the packet that `group` stands for; the bytes of its frames."""
    first = t["packets"][group["first"]]
    out = t["outgoing"]
    out["header"] = HEADER_OFFSET
    out["header_len"] = first["payload"] - first["l2"]
    out["l3"] = first["l3"] - first["l2"]
    out["l4"] = first["l4"] - first["l2"]
    out["ip_version"] = first["ip_version"]
    out["ip_proto"] = first["ip_proto"]
    _offload_own_headers(out)
    if first["gso_l4"]:
        out["gso_l3"] = first["gso_l3"] - first["l2"]
        out["gso_l4"] = first["gso_l4"] - first["l2"]
        out["gso_version"] = load8(mem, first["gso_l3"]) >> 4
        is_tcp = first["csum_offset"] == checksum.l4_field(PROTO_TCP)
        out["gso_proto"] = PROTO_TCP if is_tcp else PROTO_UDP
    out["frag"] = first["frag"]
    out["tos"] = first["tos"]
    out["payload_len"] = group["payload_len"]
    is_single = group["count"] == 1 and first["gso_size"] == 0
    out["trailer_len"] = _trailer_length(first) if is_single else 0
    out["gso_size"] = group["gso_size"] if group["count"] > 1 else first["gso_size"]
    out["csum"] = first["csum"]
    out["in_port"] = first["in_port"]
    out["tunnel_id"] = first["tunnel_id"]
    out["hash"] = first["hash"]
    out["buffer"] = first["buffer"]
    out["frames"] = group["count"]
    out["range_count"] = 0
    # Of an aggregate's frames, each had the headers; a single frame may have had padding behind the packet.
    received = out["payload_len"] + out["frames"] * out["header_len"]
    if out["frames"] == 1:
        received = first["length"] - (first["l2"] - first["offset"])
    if out["header_len"] > HEADER_MAX:
        _shorten_headers(t, first)
        _add_payload(t, first, first["l3"], out["payload_len"] + out["trailer_len"])
    elif out["frames"] == 1:
        _add_payload(t, first, first["payload"], out["payload_len"] + out["trailer_len"])
    else:
        index = group["first"]
        while index >= 0:
            packet = t["packets"][index]
            _add_payload(t, packet, packet["payload"], packet["payload_len"])
            index = packet["next"]
    copy(mem, HEADER_OFFSET, first["l2"], out["header_len"])
    if group["count"] > 1:
        _complete_headers(mem, out, group["flags"])
    if first["ecn_changed"]:
        set_tos(mem, out, first["tos"])
    if group["plain"] and out["frames"] > 1:  # as a classic LRO NIC delivers (S0.10): no word of segments
        out["gso_size"] = 0
        complete_checksum(mem, t)
    out["bytes"] = out["header_len"] + out["payload_len"] + out["trailer_len"]
    return received


@compiled
def _trailer_length(packet):
    """Bytes behind the IP packet of a parsed frame."""
    return packet["length"] - (packet["payload"] - packet["offset"]) - packet["payload_len"]


@compiled
def _shorten_headers(t, first):
    """Headers longer than the scratch pass as payload behind Ethernet."""
    out = t["outgoing"]
    out["payload_len"] += out["header_len"] - out["l3"]
    out["header_len"] = out["l3"]
    out["l4"] = out["l3"]
    out["ip_version"] = 0
    _offload_own_headers(out)


@compiled
def _offload_own_headers(out):
    """Checksum and segmentation concern the headers at `l3` and `l4`."""
    out["gso_l3"] = out["l3"]
    out["gso_l4"] = out["l4"]
    out["gso_version"] = out["ip_version"]
    out["gso_proto"] = out["ip_proto"]


@compiled
def _add_payload(t, packet, start, length):
    """Payload continues with the `length` bytes of a frame that begin in its head, at `start`."""
    in_head = min(packet["offset"] + packet["head_length"] - start, length)
    _add_range(t, start, in_head)
    _add_range(t, packet["ext"], length - in_head)


@compiled
def _add_range(t, offset, length):
    """Payload continues at mem[offset:offset+length]; what adjoins the last range extends it."""
    if length == 0:
        return
    out = t["outgoing"]
    count = out["range_count"]
    if count > 0 and t["ranges"][count - 1]["offset"] + t["ranges"][count - 1]["length"] == offset:
        t["ranges"][count - 1]["length"] += length
        return
    t["ranges"][count]["offset"] = offset
    t["ranges"][count]["length"] = length
    out["range_count"] = count + 1


@compiled
def _complete_headers(mem, out, flags):
    """Lengths, TCP flags and checksums of a super-frame, whose TCP or UDP checksum is a partial one."""
    l3 = out["header"] + out["gso_l3"]
    l4 = out["header"] + out["gso_l4"]
    end = out["header"] + out["header_len"] + out["payload_len"]
    set_ip_length(mem, l3, l4, end)
    if out["gso_proto"] == PROTO_TCP:
        store8(mem, l4 + 13, flags & 0xFF)
    else:
        store16(mem, l4 + 4, end - l4)
    pseudo_sum = checksum.pseudo_header(mem, l3, out["gso_version"], out["gso_proto"], end - l4)
    store16(mem, l4 + checksum.l4_field(out["gso_proto"]), checksum.fold(pseudo_sum))
    out["csum"] = Csum.PARTIAL.value
    if is_tunnelled_by_sender(out):
        complete_tunnel_headers(mem, out, out["header"], end)


@compiled
def set_ip_length(mem, l3, l4, end):
    """Write the length of the IP packet that ends at `end`, and IPv4's header checksum."""
    if load8(mem, l3) >> 4 == 4:
        store16(mem, l3 + 2, end - l3)
        store16(mem, l3 + 10, 0)
        store16(mem, l3 + 10, checksum.finish(checksum.sum_header(mem, l3, l4 - l3)))
    else:
        store16(mem, l3 + 4, end - l3 - 40)


@compiled
def number_tunnel_header(mem, out, header, number):
    """Give the IPv4 header of a sender's own tunnel the identification of a segment. header: of the frame."""
    if out["ip_version"] == 4:
        l3 = header + out["l3"]
        store16(mem, l3 + 4, (load16(mem, l3 + 4) + number) & 0xFFFF)


@compiled
def is_tunnelled_by_sender(out):
    """Whether offloads concern a packet inside of one: its sender has put it into a tunnel of its own."""
    return out["gso_l4"] != out["l4"]


@compiled
def is_udp_tunnelled_by_sender(out):
    """Whether that tunnel is one over UDP."""
    return is_tunnelled_by_sender(out) and out["ip_version"] != 0 and out["ip_proto"] == PROTO_UDP


@compiled
def complete_tunnel_headers(mem, out, header, end):
    """Make the headers right in front of those that the packet is cut by: of its sender's own tunnel.

    header: where the frame's headers stand, complete from `gso_l3` on; end: of the frame. The checksum of UDP
    or GRE follows from headers alone (Linux calls that local checksum offload): what it covers from `gso_l4`
    on sums up, with the checksum there completed, to the complement of that one's pseudo-header.
    """
    if out["ip_version"] == 0:
        return
    l3, l4 = header + out["l3"], header + out["l4"]
    gso_l3, gso_l4 = header + out["gso_l3"], header + out["gso_l4"]
    set_ip_length(mem, l3, l4, end)
    field = 0
    total = 0
    if out["ip_proto"] == PROTO_UDP:
        store16(mem, l4 + 4, end - l4)
        field = l4 + checksum.l4_field(PROTO_UDP)
        total = checksum.pseudo_header(mem, l3, out["ip_version"], PROTO_UDP, end - l4)
    elif out["ip_proto"] == PROTO_GRE and load8(mem, l4) & GRE_CHECKSUM:
        field = l4 + 4
    if field == 0 or (load16(mem, field) == 0 and out["ip_proto"] == PROTO_UDP):
        return  # there is none
    store16(mem, field, 0)
    inner_sum = checksum.pseudo_header(mem, gso_l3, out["gso_version"], out["gso_proto"], end - gso_l4)
    inner_sum = checksum.finish(inner_sum)
    if (gso_l4 - l4) & 1:
        inner_sum = checksum.swap(inner_sum)
    total += checksum.sum_bytes(mem, l4, gso_l4 - l4) + inner_sum
    value = checksum.finish(total)
    store16(mem, field, value if value else 0xFFFF)


@compiled
def set_tos(mem, out, tos):
    """Write the TOS or traffic class, and keep IPv4's header checksum right (RFC 1624)."""
    l3 = out["header"] + out["l3"]
    out["tos"] = tos
    if out["ip_version"] == 4:
        before = load16(mem, l3)
        store8(mem, l3 + 1, tos)
        store16(
            mem,
            l3 + 10,
            checksum.finish((~load16(mem, l3 + 10) & 0xFFFF) + (~before & 0xFFFF) + load16(mem, l3)),
        )
    elif out["ip_version"] == 6:
        store16(mem, l3, (load8(mem, l3) >> 4 << 12) | (tos << 4) | (load8(mem, l3 + 1) & 15))


# Headers that grow and shrink


@compiled
def open_front(out, count):
    """Make room for `count` bytes in front of the headers; False when they have grown too long."""
    if out["header"] - count < HEADER_OFFSET - HEADROOM or out["header_len"] + count > LONGEST_HEADERS:
        return False
    out["header"] -= count
    _header_grew(out, count)
    return True


@compiled
def drop_front(out, count):
    """Take the first `count` bytes away."""
    out["header"] += count
    _header_grew(out, -count)


@compiled
def _header_grew(out, count):
    out["header_len"] += count
    out["l3"] += count
    out["l4"] += count
    out["gso_l3"] += count
    out["gso_l4"] += count
    out["bytes"] += count


@compiled
def drop_trailer(out):
    """Leave what stands behind the IP packet away; how many bytes it was."""
    length = out["trailer_len"]
    out["trailer_len"] = 0
    out["bytes"] -= length
    return length


@compiled
def lose_trailer(t):
    """Be without what stands behind the IP packet for good: a super-frame cannot have it."""
    drop_trailer(t["outgoing"])
    _cut_ranges(t, START, t["outgoing"]["payload_len"])


@compiled
def reach(mem, t, length):
    """Whether the packet's first `length` bytes stand in the scratch; they are pulled there if need be."""
    out = t["outgoing"]
    missing = length - out["header_len"]
    if missing <= 0:
        return True
    if missing > _within_reach(t):
        return False
    gather(mem, t, out["header"] + out["header_len"], START, START, missing)
    _pull(t, missing)
    return True


@compiled
def _within_reach(t):
    """How many payload bytes can be pulled into the scratch; those of a super-frame are no header."""
    out = t["outgoing"]
    if vnet.is_super_frame(out):
        return 0
    room = min(LONGEST_HEADERS, HEADER_LIMIT - out["header"]) - out["header_len"]
    return max(min(out["payload_len"], room), 0)


@compiled
def _pull(t, count):
    """The first `count` payload bytes, which stand behind the headers in the scratch, are headers now."""
    out = t["outgoing"]
    out["header_len"] += count
    out["payload_len"] -= count
    _cut_ranges(t, count, out["bytes"] - out["header_len"])


@compiled
def network_offset(mem, header, length):
    """Offset of what stands behind the VLAN tags of a frame whose first `length` bytes are at `header`."""
    offset = ETH_HEADER
    eth_type = load16(mem, header + ETH_HEADER - 2)
    while (eth_type == ETH_VLAN or eth_type == ETH_QINQ) and offset + VLAN_TAG <= length:
        eth_type = load16(mem, header + offset + 2)
        offset += VLAN_TAG
    return offset


@compiled
def is_ip(mem, out):
    """Whether the packet is IPv4 or IPv6, behind VLAN tags at most."""
    return out["ip_version"] != 0 and network_offset(mem, out["header"], out["header_len"]) == out["l3"]


@compiled
def link_header(mem, t):
    """Bytes in front of the network layer, which an MTU does not count: Ethernet, tags and shims."""
    out = t["outgoing"]
    length = ETH_HEADER
    eth_type = load16(mem, out["header"] + ETH_HEADER - 2)
    while True:
        is_mpls = eth_type == ETH_MPLS or eth_type == ETH_MPLS_MULTICAST
        size = 0
        if is_mpls:
            size = MPLS_ENTRY
        elif eth_type == ETH_VLAN or eth_type == ETH_QINQ:
            size = VLAN_TAG
        elif eth_type == ETH_PBB:
            size = PBB_TAG + ETH_HEADER
        if size == 0 or length + size > ETH_HEADER + SHIM_ROOM or not reach(mem, t, length + size):
            return length
        length += size
        last_word = load16(mem, out["header"] + length - 2)
        if not is_mpls:
            eth_type = last_word
        elif last_word & MPLS_BOTTOM:
            return length


@compiled
def parse_anew(mem, t):
    """Find the headers again, after their types changed or others came to light.

    A partial checksum stays one, and a super-frame that: what was in front of them has gone only.
    """
    out = t["outgoing"]
    ahead = _within_reach(t)
    gather(mem, t, out["header"] + out["header_len"], START, START, ahead)
    packet = t["parsed"]
    # The parser steps over few VLAN tags, and many may have been pushed: it begins at the last of them.
    skipped = network_offset(mem, out["header"], out["header_len"] + ahead) - ETH_HEADER
    packet["offset"] = out["header"] + skipped
    packet["head_length"] = out["header_len"] + ahead - skipped
    packet["ext"] = 0
    packet["length"] = out["bytes"] - skipped
    packet["port"] = out["in_port"]
    packet["queue"] = 0
    packet["csum"] = Csum.UNKNOWN.value
    parse(mem, t, packet, False)  # whatever its verdict: what is no known packet is sent on as it is
    headers = packet["payload"] - out["header"] if packet["ip_version"] else packet["l3"] - out["header"]
    if headers > out["header_len"]:
        _pull(t, headers - out["header_len"])
    out["l3"] = packet["l3"] - out["header"]
    out["l4"] = packet["l4"] - out["header"]
    out["ip_version"] = packet["ip_version"]
    out["ip_proto"] = packet["ip_proto"]
    out["frag"] = packet["frag"]
    out["tos"] = packet["tos"]
    if out["csum"] != Csum.PARTIAL.value:
        out["csum"] = Csum.UNKNOWN.value
        out["gso_size"] = 0
        _offload_own_headers(out)
        body = out["bytes"] - out["header_len"]
        out["trailer_len"] = min(_trailer_length(packet), body) if packet["ip_version"] else 0
        out["payload_len"] = body - out["trailer_len"]
    elif is_tunnelled_by_sender(out) and out["gso_l3"] < out["l4"]:
        out["ip_version"] = 0  # no tunnel: what offloads concern stands among the headers that came to light
        out["l4"] = out["l3"]


# Super-frames and their segments


@compiled
def segment_count(out):
    """How many packets this one stands for."""
    if not vnet.is_super_frame(out):
        return 1
    return (out["payload_len"] + out["gso_size"] - 1) // out["gso_size"]


@compiled
def cut(mem, t, start, length):
    """Keep of a super-frame the segments of payload bytes `start` … `start + length`."""
    out = t["outgoing"]
    l3 = out["header"] + out["gso_l3"]
    l4 = out["header"] + out["gso_l4"]
    flags = 0
    if out["gso_proto"] == PROTO_TCP:
        flags = load8(mem, l4 + 13)
        if start > 0:
            flags &= ~CWR
        if start + length < out["payload_len"]:
            flags &= ~(FIN | PSH)
        store32(mem, l4 + 4, seq_add(load32(mem, l4 + 4), start))
    number = start // out["gso_size"]
    if out["gso_version"] == 4:
        store16(mem, l3 + 4, (load16(mem, l3 + 4) + number) & 0xFFFF)
    if is_tunnelled_by_sender(out):
        number_tunnel_header(mem, out, out["header"], number)
    _cut_ranges(t, start, length)
    out["payload_len"] = length
    out["bytes"] = out["header_len"] + length
    _complete_headers(mem, out, flags)


@compiled
def _cut_ranges(t, start, length):
    """Keep `length` bytes of the payload from byte `start` on."""
    kept = 0
    position = 0
    for index in range(t["outgoing"]["range_count"]):
        piece = t["ranges"][index]
        first = max(start - position, 0)
        last = min(start + length - position, piece["length"])
        position += piece["length"]
        if first < last:
            t["ranges"][kept]["offset"] = piece["offset"] + first
            t["ranges"][kept]["length"] = last - first
            kept += 1
    t["outgoing"]["range_count"] = kept


# Payload


@inlined
def advance(t, index, position):
    """The range and the place in it that are `position` bytes behind the start of range `index`."""
    while index < t["outgoing"]["range_count"] - 1 and position >= t["ranges"][index]["length"]:
        position -= t["ranges"][index]["length"]
        index += 1
    return index, position


@compiled
def gather(mem, t, target, index, position, length):
    """Copy `length` payload bytes, from byte `position` of range `index` on, to `target`."""
    while length > 0:
        part = min(length, t["ranges"][index]["length"] - position)
        copy(mem, target, t["ranges"][index]["offset"] + position, part)
        target += part
        length -= part
        position = 0
        index += 1


@compiled
def write_packet(mem, t, target):
    """Copy the whole packet to `target`."""
    out = t["outgoing"]
    copy(mem, target, out["header"], out["header_len"])
    gather(mem, t, target + out["header_len"], START, START, out["bytes"] - out["header_len"])


@compiled
def sum_payload(mem, t, index, position, length):
    """Checksum of `length` payload bytes, from byte `position` of range `index` on: a folded sum."""
    total = 0
    done = 0
    while done < length:
        part = min(length - done, t["ranges"][index]["length"] - position)
        part_sum = checksum.sum_bytes(mem, t["ranges"][index]["offset"] + position, part)
        total += checksum.swap(part_sum) if done & 1 else part_sum
        done += part
        position = 0
        index += 1
    return checksum.fold(total)


# Checksums


@compiled
def sum_l4(mem, t):
    """Sum of the packet from the TCP or UDP header on that offloads concern; it is no super-frame."""
    out = t["outgoing"]
    length = out["header_len"] - out["gso_l4"]
    payload_sum = sum_payload(mem, t, START, START, out["payload_len"])
    if length & 1:
        payload_sum = checksum.swap(payload_sum)
    return checksum.sum_bytes(mem, out["header"] + out["gso_l4"], length) + payload_sum


@compiled
def complete_checksum(mem, t):
    """Make a partial checksum a whole one. The packet is no super-frame."""
    out = t["outgoing"]
    if out["csum"] == Csum.PARTIAL.value:
        checksum.store_l4(mem, out["header"] + out["gso_l4"], out["gso_proto"], sum_l4(mem, t))
        out["csum"] = Csum.GOOD.value


# Remembering packets


@compiled
def save(mem, t, place):
    """Remember the packet at `place`, of SAVED."""
    out = t["outgoing"]
    assign(t["saved"][place], out)
    for index in range(out["range_count"]):
        assign(t["saved_ranges"][place, index], t["ranges"][index])
    copy(mem, SAVED_OFFSET + place * STAGED_HEAD, out["header"], out["header_len"])


@compiled
def restore(mem, t, place):
    """The packet is again the one that was saved at `place`."""
    out = t["outgoing"]
    assign(out, t["saved"][place])
    for index in range(out["range_count"]):
        assign(t["ranges"][index], t["saved_ranges"][place, index])
    copy(mem, out["header"], SAVED_OFFSET + place * STAGED_HEAD, out["header_len"])
