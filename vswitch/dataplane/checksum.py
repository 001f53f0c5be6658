# SPDX-License-Identifier: Apache-2.0
"""The Internet checksum (RFC 1071). Sums are unfolded int64 of big-endian words."""

from vswitch.dataplane.compiled import compiled
from vswitch.dataplane.intrinsics import load8, load16, load64, load_le16, load_le32, store16

PROTO_TCP, PROTO_UDP = 6, 17


@compiled
def fold(total):
    """A sum folded to 16 bits."""
    total = (total & 0xFFFF) + ((total >> 16) & 0xFFFFFFFF) + (total >> 48)
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


@compiled
def swap(total16):
    """A folded sum of words in the other byte order."""
    return ((total16 & 0xFF) << 8) | (total16 >> 8)


@compiled
def sum_native(mem, offset, length):
    """Sum of mem[offset:offset+length] as words in the machine's byte order, an odd last byte padded by zero.

    Of use where the order does not matter: whether a sum is 0xFFFF, or to be swapped when it is folded. Adds
    eight bytes at a time into two accumulators: masks and shifts vectorise better than widening loads.
    """
    low = 0
    high = 0
    for index in range(length >> 3):
        word = load64(mem, offset + (index << 3))
        low += word & 0xFFFFFFFF
        high += (word >> 32) & 0xFFFFFFFF
    total = low + high
    if length & 7:
        rest = offset + (length & ~7)
        if length & 4:
            total += load_le32(mem, rest)
            rest += 4
        if length & 2:
            total += load_le16(mem, rest)
            rest += 2
        if length & 1:
            total += load8(mem, rest)
    return total


@compiled
def sum_bytes(mem, offset, length):
    """Sum of the big-endian words of mem[offset:offset+length], an odd last byte padded by zero; folded."""
    return swap(fold(sum_native(mem, offset, length)))


@compiled
def ipv4_header_right(mem, l3, ihl):
    """Whether the header checksum of the IPv4 header of `ihl` bytes at `l3` is right (RFC 791)."""
    one, other = load64(mem, l3), load64(mem, l3 + 8)
    total = (
        (one & 0xFFFFFFFF) + ((one >> 32) & 0xFFFFFFFF) + (other & 0xFFFFFFFF) + ((other >> 32) & 0xFFFFFFFF)
    )
    total += load_le32(mem, l3 + 16)
    if ihl > 20:
        total += sum_native(mem, l3 + 20, ihl - 20)
    return fold(total) == 0xFFFF


@compiled
def l4_right(mem, l3, ip_version, proto, l4, header, payload, payload_len):
    """Whether the checksum of a TCP segment or UDP datagram is right.

    Its first `header` bytes stand at `l4`, the other `payload_len` at `payload`.
    """
    length = header + payload_len
    total = swap(fold(proto + length))
    if ip_version == 4:
        addresses = load64(mem, l3 + 12)
        total += (addresses & 0xFFFFFFFF) + ((addresses >> 32) & 0xFFFFFFFF)
    else:
        total += sum_native(mem, l3 + 8, 32)
    total += sum_native(mem, l4, header)
    rest = sum_native(mem, payload, payload_len)
    if header & 1:
        rest = swap(fold(rest))
    return fold(total + rest) == 0xFFFF


@compiled
def sum_header(mem, offset, length):
    """As sum_bytes for the few words of a header; `length` is even."""
    total = 0
    for index in range(length >> 1):
        total += load16(mem, offset + (index << 1))
    return total


@compiled
def finish(total):
    """The checksum field for a sum: its folded complement."""
    return ~fold(total) & 0xFFFF


@compiled
def pseudo_header(mem, l3, ip_version, proto, l4_length):
    """Sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1) of the IP header at `l3`."""
    if ip_version == 4:
        return sum_header(mem, l3 + 12, 8) + proto + l4_length
    return sum_header(mem, l3 + 8, 32) + proto + l4_length


@compiled
def l4_field(proto):
    """Offset of the checksum in a TCP or UDP header."""
    return 16 if proto == PROTO_TCP else 6


@compiled
def store_l4(mem, l4, proto, total):
    """Write the checksum of the TCP segment or UDP datagram at `l4` for its sum, pseudo-header included."""
    value = finish(total)
    if value == 0 and proto == PROTO_UDP:
        value = 0xFFFF  # 0 says that there is none (RFC 768)
    store16(mem, l4 + l4_field(proto), value)
