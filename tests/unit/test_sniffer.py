# SPDX-License-Identifier: Apache-2.0
"""What a capture makes of frames that the kernel has not finished: checksums and tags."""

from __future__ import annotations

import struct

import pytest
from scapy.all import ICMP, IP, SCTP, TCP, UDP, Dot1AD, Dot1Q, Ether, IPv6, Raw

from vswitch import sniffer

V4 = IP(src="10.0.0.1", dst="10.0.0.2")
V6 = IPv6(src="fd00::1", dst="fd00::2")


def pseudo_header_sum(packet) -> int:
    """What the kernel leaves in the checksum's place: the sum of addresses, protocol and length."""
    ip = packet[IP] if IP in packet else packet[IPv6]
    segment = bytes(ip.payload)
    version = 4 if IP in packet else 16
    header = bytes(ip)
    addresses = header[12:20] if version == 4 else header[8:40]
    number = 6 if TCP in packet else 17
    total = sum(struct.unpack(f"!{len(addresses) // 2}H", addresses)) + number + len(segment)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.mark.parametrize("ip", [V4, V6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("payload", [b"", b"odd", b"even", bytes(1400), b"\xff" * 999])
@pytest.mark.parametrize("segment", [TCP(sport=1, dport=2, seq=7), UDP(sport=1, dport=2)], ids=["TCP", "UDP"])
def test_a_partial_checksum_is_completed(ip, segment, payload):
    """As scapy computes it."""
    right = Ether() / ip / segment / Raw(payload)
    wanted = bytes(right)
    offset = 16 if TCP in right else 6
    start = 14 + (20 if IP in right else 40)
    frame = bytearray(wanted)
    struct.pack_into("!H", frame, start + offset, pseudo_header_sum(Ether(wanted)))
    sniffer._complete_checksum(frame, sniffer.NEEDS_CSUM, 0, 0, 0, start, offset)
    assert bytes(frame) == wanted


@pytest.mark.parametrize(
    ("flags", "start", "offset"),
    [
        (0, 34, 16),  # finished
        (sniffer.NEEDS_CSUM, 34, 8),  # SCTP's, which is a CRC
        (sniffer.NEEDS_CSUM, 60, 16),  # behind the end
        (sniffer.NEEDS_CSUM, 0xFFFF, 16),
    ],
)
def test_what_is_no_partial_checksum_is_left(flags, start, offset):
    frame = bytearray(bytes(Ether() / V4 / SCTP() / Raw(bytes(12))))
    before = bytes(frame)
    sniffer._complete_checksum(frame, flags, 0, 0, 0, start, offset)
    assert bytes(frame) == before


@pytest.mark.parametrize(
    ("status", "tpid", "tag"),
    [
        (0x10 | 0x40, 0x88A8, Dot1AD(vlan=5, prio=3)),
        (0x10, 0, Dot1Q(vlan=5, prio=3)),
        (0, 0, None),
    ],
)
def test_a_tag_that_the_kernel_took_out_is_put_back(status, tpid, tag):
    untagged = Ether() / V4 / ICMP()
    auxdata = struct.pack("=IIIHHHH", status, 0, 0, 0, 0, 3 << 13 | 5, tpid)
    frame = bytearray(bytes(untagged))
    frame[12:12] = sniffer._tag(auxdata)
    if tag is None:
        assert bytes(frame) == bytes(untagged)
    else:
        tagged = Ether(bytes(frame))
        assert (tagged[type(tag)].vlan, tagged[type(tag)].prio) == (5, 3)
        assert ICMP in tagged
