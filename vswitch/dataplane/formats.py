# SPDX-License-Identifier: Apache-2.0
"""Tunnel formats as rows of numbers (S1.1, S1.2): the engine knows no protocol by name.

A packet is `outer IPv4 | opaque field | inner packet`. A row says which outer protocol carries the format,
how long the opaque field is (0: its first byte tells), where an identifier of the format and where the flow
identifier (the virtual network) stand in it, and which 16-bit length field, if any, is to be adjusted.
"""

from dataclasses import dataclass

from numba import njit

from vswitch.dataplane.intrinsics import load8, load32

NO_TUNNEL = -1
UNKNOWN_REMOTE = -2


@dataclass(frozen=True)
class Format:
    """A tunnel format in numbers. Offsets count bytes from the start of the opaque field; -1: there is none.

    template: the opaque field as it is sent, before identifiers, length and entropy are filled in.
    check: (offset, mask, value) of one byte that must match on receiving.
    """

    name: str
    outer_proto: int
    opaque_len: int
    id_offset: int
    id_length: int
    id_value: int
    flow_id_offset: int
    flow_id_length: int
    length_field: int
    entropy_offset: int
    template: bytes
    check: tuple[int, int, int] = (-1, 0, 0)


SHIPPED = {
    # RFC 7348: UDP header, then flags (I: the VNI is valid), 24 reserved bits, VNI, 8 reserved bits
    "vxlan": Format(
        name="vxlan",
        outer_proto=17,
        opaque_len=16,
        id_offset=2,
        id_length=2,
        id_value=4789,
        flow_id_offset=12,
        flow_id_length=3,
        length_field=4,
        entropy_offset=0,
        template=bytes.fromhex("0000 12b5 0000 0000  08000000 00000000"),
        check=(8, 0x08, 0x08),
    ),
}


def fill_row(row, numbers):
    """Write the numbers of a Format into a row of the format table."""
    row["outer_proto"] = numbers.outer_proto
    row["opaque_len"] = numbers.opaque_len
    row["id_offset"] = numbers.id_offset
    row["id_length"] = numbers.id_length
    row["id_value"] = numbers.id_value
    row["flow_id_offset"] = numbers.flow_id_offset
    row["flow_id_length"] = numbers.flow_id_length
    row["length_field"] = numbers.length_field
    row["entropy_offset"] = numbers.entropy_offset
    row["check_offset"], row["check_mask"], row["check_value"] = numbers.check
    row["used"] = 1


@njit(cache=True)
def opaque_length(mem, row, opaque, end):
    """Length of the opaque field at `opaque`, 0 when it cannot be one. `end`: of the readable bytes."""
    length = row["opaque_len"]
    if length == 0:
        if opaque >= end:
            return 0
        length = load8(mem, opaque)
    least = max(row["flow_id_offset"] + row["flow_id_length"], row["id_offset"] + row["id_length"])
    return length if length >= least else 0


@njit(cache=True)
def is_format(mem, row, proto, opaque, end):
    """Whether a packet of IP protocol `proto` with its payload at `opaque` is of the row's format."""
    if row["used"] == 0 or row["outer_proto"] != proto or opaque + row["opaque_len"] > end:
        return False
    length = opaque_length(mem, row, opaque, end)
    if length == 0 or opaque + length > end:
        return False
    if row["check_offset"] >= 0:
        if load8(mem, opaque + row["check_offset"]) & row["check_mask"] != row["check_value"]:
            return False
    value = 0
    for index in range(row["id_length"]):
        value = (value << 8) | load8(mem, opaque + row["id_offset"] + index)
    return value == row["id_value"]


@njit(cache=True)
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
            if is_format(mem, t["formats"][port["format"]], proto, opaque, end):
                return index
    found = NO_TUNNEL
    for place in range(t["tunnel_count"]):
        index = t["tunnels"][place]
        port = t["ports"][index]
        if port["local_ip"] == destination:
            if is_format(mem, t["formats"][port["format"]], proto, opaque, end):
                if port["remote_ip"] == source:
                    t["last_tunnel"] = index
                    return index
                found = UNKNOWN_REMOTE
    return found


@njit(cache=True)
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
