# SPDX-License-Identifier: Apache-2.0
"""Tunnel formats as rows of numbers (S1.1, S1.2): the engine knows no protocol by name.

The rows are of `vswitch.tunnel_formats.Format`, which tells what their numbers mean. A row is reached only
through the tunnels of its format, so the command that adds a tunnel announces it.
"""

from vswitch.dataplane.carried import is_bare_ip
from vswitch.dataplane.compiled import compiled
from vswitch.dataplane.ethernet import ETH_HEADER
from vswitch.dataplane.intrinsics import copy, load8, load16, load32, load64, store8, store16, store64
from vswitch.layout import Counter
from vswitch.tunnel_formats import AUTO, IP

NO_TUNNEL = -1
UNKNOWN_REMOTE = -2
NO_LENGTH = -1
FIT = -1


def fill_row(row, numbers):
    """Write the numbers of a Format into a row of the format table."""
    row["outer_proto"] = numbers.outer_proto
    row["outer_proto6"] = numbers.outer_proto6 or numbers.outer_proto
    row["opaque_len"] = numbers.opaque_len
    row["self_describing"] = numbers.self_describing
    row["id_offset"] = numbers.id_offset
    row["id_length"] = numbers.id_length
    row["id_value"] = numbers.id_value
    row["flow_id_offset"] = numbers.flow_id_offset
    row["flow_id_length"] = numbers.flow_id_length
    row["flow_id_shift"] = numbers.flow_id_shift
    row["length_field"] = numbers.length_field
    row["entropy_offset"] = numbers.entropy_offset
    row["check_offset"], row["check_mask"], row["check_value"] = numbers.check
    row["inner_ip"], row["inner_auto"] = numbers.inner == IP, numbers.inner == AUTO
    row["least_len"] = max(
        int(numbers.self_describing),
        numbers.id_offset + numbers.id_length,
        numbers.flow_id_offset + numbers.flow_id_length,
        numbers.length_field + 2 if numbers.length_field >= 0 else 0,
        numbers.check[0] + 1,
    )


# Receiving


@compiled
def opaque_length(mem, row, opaque, end):
    """Length of the opaque field at `opaque`, or NO_LENGTH: it is none. `end`: of the readable bytes."""
    length = row["opaque_len"]
    if row["self_describing"]:
        if opaque >= end:
            return NO_LENGTH
        length = load8(mem, opaque)
        if length < row["least_len"]:
            return NO_LENGTH
    return length if opaque + length <= end else NO_LENGTH


@compiled
def is_format(mem, row, proto, opaque, end):
    """Whether a packet of IP protocol `proto` with its payload at `opaque` is of the row's format."""
    if row["outer_proto"] != proto and row["outer_proto6"] != proto:
        return False
    if opaque_length(mem, row, opaque, end) == NO_LENGTH:
        return False
    if row["check_offset"] >= 0:
        if load8(mem, opaque + row["check_offset"]) & row["check_mask"] != row["check_value"]:
            return False
    return _load_bytes(mem, opaque + row["id_offset"], row["id_length"]) == row["id_value"]


@compiled
def find_tunnel(mem, t, l3, opaque, end):
    """Port index of the tunnel that delivers this outer packet (local and remote address and format match).

    NO_TUNNEL: it is an ordinary packet. UNKNOWN_REMOTE: addressed to a tunnel's local address in its format,
    but by nobody whom we have a tunnel to.
    """
    proto = load8(mem, l3 + 9)
    source, destination = load32(mem, l3 + 12), load32(mem, l3 + 16)
    index = t["last_tunnel"]
    if index >= 0:
        port = t["ports"][index]
        if port["remote_ip"] == source and port["local_ip"] == destination:
            row = t["formats"][port["format"]]
            if is_format(mem, row, proto, opaque, end) and _is_for(mem, row, l3, opaque, end):
                return index
    found = NO_TUNNEL
    for place in range(t["tunnel_count"]):
        index = t["tunnels"][place]
        port = t["ports"][index]
        row = t["formats"][port["format"]]
        if port["local_ip"] == destination and is_format(mem, row, proto, opaque, end):
            if port["remote_ip"] != source:
                if found == NO_TUNNEL:
                    found = UNKNOWN_REMOTE
            elif _is_for(mem, row, l3, opaque, end):
                t["last_tunnel"] = index
                return index
            else:
                found = index  # unless there is a tunnel of its format's twin
    return found


@compiled
def _is_for(mem, row, l3, opaque, end):
    """Whether a packet of the row's format is for its tunnel rather than for one of its twin's (Format)."""
    if not row["has_twin"]:
        return True
    inner = opaque + opaque_length(mem, row, opaque, end)
    return is_bare_ip(mem, inner, end, l3 + load16(mem, l3 + 2) - inner) == (row["inner_ip"] != 0)


@compiled
def same_opaque(mem, one, other, length, length_field, outer_is_udp):
    """Whether two opaque fields are equal but for their length field and UDP checksum (S1.4)."""
    index = 0
    while index < length:
        if index == length_field:
            index += 4 if outer_is_udp else 2
        elif index + 4 <= length and not index < length_field < index + 4:
            if load32(mem, one + index) != load32(mem, other + index):
                return False
            index += 4
        else:
            if load8(mem, one + index) != load8(mem, other + index):
                return False
            index += 1
    return True


@compiled
def flow_id(mem, row, opaque):
    """The virtual network that an opaque field names (S1.2); 0 when its format has no room for any."""
    value = _load_bytes(mem, opaque + row["flow_id_offset"], row["flow_id_length"])
    return value >> row["flow_id_shift"]


@compiled
def open_gap(mem, opaque, length):
    """Move an opaque field over outer headers that were read, so that Ethernet fits behind it; its place."""
    moved = opaque - ETH_HEADER
    for index in range(0, length, 8):  # what is copied too much is in the gap
        store64(mem, moved + index, load64(mem, opaque + index))
    return moved


@compiled
def synthesise_ethernet(mem, at, template, eth_type):
    """Write the Ethernet header of a packet that came without: from the tunnel's other end to this one."""
    copy(mem, at, template + 6, 6)
    copy(mem, at + 6, template, 6)
    store16(mem, at + 12, eth_type)


@compiled
def _load_bytes(mem, offset, count):
    value = 0
    for index in range(count):
        value = (value << 8) | load8(mem, offset + index)
    return value


# Sending


@compiled
def encapsulation_verdict(row, out, is_bare_ip):
    """Why a packet cannot be sent in this format, as a counter, or FIT.

    is_bare_ip: whether nothing but VLAN tags stands between its Ethernet and IP headers.
    """
    if row["inner_ip"] and not is_bare_ip:
        return Counter.NOT_IP.value
    bits = 8 * row["flow_id_length"] - row["flow_id_shift"]
    if out["tunnel_id"] < 0 or out["tunnel_id"] >> bits:
        return Counter.TUNNEL_ID_TOO_LARGE.value
    return FIT


@compiled
def write_identifiers(mem, row, opaque, out):
    """Fill in the virtual network and the entropy of an opaque field that was copied from its template."""
    length = row["flow_id_length"]
    at = opaque + row["flow_id_offset"]
    shift = row["flow_id_shift"]
    value = _load_bytes(mem, at, length) & ((1 << shift) - 1) | (out["tunnel_id"] << shift)
    for index in range(length):
        store8(mem, at + index, (value >> (8 * (length - 1 - index))) & 0xFF)
    if row["entropy_offset"] >= 0:
        store16(mem, opaque + row["entropy_offset"], 0xC000 | (out["hash"] & 0x3FFF))
