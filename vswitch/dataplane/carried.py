# SPDX-License-Identifier: Apache-2.0
"""Whether a tunnel carries an Ethernet frame or a bare IP packet, where only the bytes can tell.

The first four bits of an IP packet are its version, but they may be those of an Ethernet address as well
(RFC 8469, section 1). So a packet is bare IP if its IP header holds, and it does not hold as a frame.
"""

from vswitch.dataplane import checksum
from vswitch.dataplane.compiled import compiled
from vswitch.dataplane.ethernet import (
    ETH_ARP,
    ETH_HEADER,
    ETH_IPV4,
    ETH_IPV6,
    ETH_QINQ,
    ETH_VLAN,
    VLAN_TAG,
)
from vswitch.dataplane.intrinsics import load8, load16, load32
from vswitch.layout import MAX_VLAN_TAGS

TELLING = ETH_HEADER + MAX_VLAN_TAGS * VLAN_TAG + 60
"""Bytes that tell: as many as an Ethernet header, tags and the longest IPv4 header have."""
ARP_OF_IPV4 = 0x0001_0800
"""Hardware and protocol type in an ARP header."""


@compiled
def is_bare_ip(mem, at, end, length):
    """Whether the `length` bytes at `at` are an IP packet, and no Ethernet frame. `end`: of the readable."""
    return ip_holds(mem, at, end, length) and not _frame_holds(mem, at, end, length)


@compiled
def ip_holds(mem, at, end, length):
    """Whether an IPv4 header with a right checksum, or an IPv6 header, fits the `length` bytes at `at`."""
    if at + 20 > end:
        return False
    first = load8(mem, at)
    if first >> 4 == 4:
        ihl = (first & 15) * 4
        total = load16(mem, at + 2)
        if ihl < 20 or at + ihl > end or total < ihl or total > length:
            return False
        return checksum.ipv4_header_right(mem, at, ihl)
    return first >> 4 == 6 and 40 + load16(mem, at + 4) == length


@compiled
def _frame_holds(mem, at, end, length):
    """Whether an Ethernet header is followed by what its type says: IPv4, IPv6 or ARP, in VLANs or not.

    Of the bytes at `at`, 20 can be read: they hold as IP.
    """
    l3 = at + ETH_HEADER
    for _ in range(MAX_VLAN_TAGS):
        if l3 + VLAN_TAG > end or not (load16(mem, l3 - 2) == ETH_VLAN or load16(mem, l3 - 2) == ETH_QINQ):
            break
        l3 += VLAN_TAG
    eth_type = load16(mem, l3 - 2)
    if eth_type == ETH_ARP:
        return l3 + 4 <= end and load32(mem, l3) == ARP_OF_IPV4
    if eth_type == ETH_IPV4 or eth_type == ETH_IPV6:
        return ip_holds(mem, l3, end, length - (l3 - at))
    return False
