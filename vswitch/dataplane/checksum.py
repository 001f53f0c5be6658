# SPDX-License-Identifier: Apache-2.0
"""The Internet checksum (RFC 1071). Sums are unfolded int64; words are big-endian unless a name says otherwise."""

from numba import njit

from vswitch.dataplane.intrinsics import load8, load16, load_le16, load_le32


@njit(cache=True)
def fold(total):
    """A sum folded to 16 bits."""
    total = (total & 0xFFFF) + ((total >> 16) & 0xFFFFFFFF) + (total >> 48)
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


@njit(cache=True)
def swap(total16):
    """A folded sum of words in the other byte order."""
    return ((total16 & 0xFF) << 8) | (total16 >> 8)


@njit(cache=True)
def sum_bytes(mem, offset, length):
    """Sum of the 16-bit words of mem[offset:offset+length], an odd last byte padded by zero; folded.

    Adds four bytes at a time in the machine's order, since the sum may be swapped as a whole afterwards.
    """
    total = 0
    for index in range(length >> 2):
        total += load_le32(mem, offset + (index << 2))
    rest = offset + (length & ~3)
    if length & 2:
        total += load_le16(mem, rest)
        rest += 2
    if length & 1:
        total += load8(mem, rest)
    return swap(fold(total))


@njit(cache=True)
def sum_header(mem, offset, length):
    """As sum_bytes for the few words of a header; `length` is even."""
    total = 0
    for index in range(length >> 1):
        total += load16(mem, offset + (index << 1))
    return total


@njit(cache=True)
def finish(total):
    """The checksum field for a sum: its folded complement."""
    return ~fold(total) & 0xFFFF


@njit(cache=True)
def pseudo_header(mem, l3, ip_version, proto, l4_length):
    """Sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1) of the IP header at `l3`."""
    if ip_version == 4:
        return sum_header(mem, l3 + 12, 8) + proto + l4_length
    return sum_header(mem, l3 + 8, 32) + proto + l4_length
