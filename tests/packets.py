# SPDX-License-Identifier: Apache-2.0
"""scapy packets: the independent codec that the dataplane's tests take as their oracle."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar

import numpy as np
from scapy.config import conf

conf.verb = 0
conf.checkIPaddr = False

from scapy.contrib.mpls import MPLS  # noqa: E402
from scapy.layers.inet import ICMP, IP, TCP, UDP  # noqa: E402
from scapy.layers.inet6 import (  # noqa: E402
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1AH, Dot1Q, Ether  # noqa: E402
from scapy.layers.sctp import SCTP, SCTPChunkData  # noqa: E402
from scapy.layers.vxlan import VXLAN  # noqa: E402
from scapy.packet import Packet, Raw  # noqa: E402

__all__ = [
    "ARP", "ICMP", "IP", "MPLS", "SCTP", "TCP", "UDP", "VXLAN", "Dot1AD", "Dot1AH", "Dot1Q", "Ether",
    "ICMPv6EchoRequest", "ICMPv6NDOptDstLLAddr", "ICMPv6NDOptMTU", "ICMPv6NDOptSrcLLAddr", "ICMPv6ND_NA",
    "ICMPv6ND_NS", "IPv6", "IPv6ExtHdrDestOpt", "IPv6ExtHdrFragment", "IPv6ExtHdrHopByHop",
    "IPv6ExtHdrRouting", "Packet", "Raw", "SCTPChunkData", "checksums_right", "internet_address", "ip_header",
    "mac_address", "payload", "payload_of", "tcp_segment", "tcp_stream", "vm_ether", "vxlan",
]  # fmt: skip

REMEMBERED = 4096
"""Frames that are built, or read, a second time are taken from memory: scapy took half of the tests' time."""
Build = TypeVar("Build", bound=Callable[..., bytes])

VM1_MAC, VM2_MAC = "00:00:00:00:00:01", "00:00:00:00:00:02"
TIMESTAMP = 10


def payload(length: int, seed: int = 0) -> bytes:
    """Bytes that differ by place and seed."""
    index = np.arange(length)
    return ((index * 7 + index // 251 + seed * 31) & 0xFF).astype(np.uint8).tobytes()


def remembered(build: Build) -> Build:
    """`build`, for arguments that say by their `repr` what they are."""
    frames: dict[str, bytes] = {}

    @wraps(build)
    def remembering(*arguments: object, **fields: object) -> bytes:
        asked = repr((arguments, fields))
        if asked not in frames:
            if len(frames) == REMEMBERED:
                frames.clear()
            frames[asked] = build(*arguments, **fields)
        return frames[asked]

    return remembering  # type: ignore[return-value]


def mac_address(text: str) -> int:
    """A MAC address as a number."""
    return int(text.replace(":", ""), 16)


def internet_address(text: str) -> int:
    """An IPv4 or IPv6 address as a number."""
    return int(ipaddress.ip_address(text))


def vm_ether() -> Packet:
    return Ether(src=VM1_MAC, dst=VM2_MAC)


def ip_header(version: int, **fields: object) -> Packet:
    """IPv4 with DF, or IPv6, from VM 1 to VM 2."""
    if version == 4:
        values = {"src": "10.0.0.1", "dst": "10.0.0.2", "flags": "DF", "id": 0} | fields
        return IP(**values)
    values = {"src": "fd00::1", "dst": "fd00::2"} | fields
    return IPv6(**values)


@remembered
def tcp_segment(
    length: int = 100,
    seq: int = 1000,
    flags: str = "A",
    version: int = 4,
    ip: dict | None = None,
    timestamp: tuple[int, int] | None = None,
    seed: int = 0,
    **tcp: object,
) -> bytes:
    """A TCP frame from VM 1 to VM 2. ip, tcp: header fields as scapy names them."""
    options = [("NOP", None), ("NOP", None), ("Timestamp", timestamp)] if timestamp else []
    fields = {"sport": 5001, "dport": 80, "ack": 7, "window": 500, "options": options} | tcp
    frame = vm_ether() / ip_header(version, **(ip or {})) / TCP(seq=seq & 0xFFFFFFFF, flags=flags, **fields)
    return bytes(frame / Raw(payload(length, seed)) if length else frame)


def tcp_stream(count: int, length: int = 100, seq: int = 1000, **fields: object) -> list[bytes]:
    """Consecutive segments of one connection."""
    return [
        tcp_segment(length, seq + index * length, seed=index, **fields)  # type: ignore[arg-type]
        for index in range(count)
    ]


@remembered
def vxlan(
    inner: bytes,
    vni: int = 42,
    source: str = "192.168.0.2",
    target: str = "192.168.0.1",
    sport: int = 50000,
    udp_checksum: int | None = 0,
    **ip: object,
) -> bytes:
    """A frame in VXLAN. udp_checksum: 0 for none, None for the right one."""
    udp = UDP(sport=sport, dport=4789) if udp_checksum is None else UDP(
        sport=sport, dport=4789, chksum=udp_checksum
    )  # fmt: skip
    fields = {"src": source, "dst": target, "flags": "DF", "ttl": 64} | ip
    outer = Ether(src="02:4f:00:00:02:01", dst="02:4f:00:00:01:01") / IP(**fields) / udp
    return bytes(outer / VXLAN(vni=vni, flags="Instance") / Raw(inner))


@lru_cache(REMEMBERED)
def payload_of(frame: bytes) -> bytes:
    """The TCP or UDP payload, without Ethernet padding."""
    packet = Ether(frame)
    for layer in (TCP, UDP):
        if layer in packet:
            body = packet[layer].payload
            return b"" if body.__class__.__name__ in ("Padding", "NoPayload") else _without_padding(packet)
    return b""


def _without_padding(packet: Packet) -> bytes:
    ip = packet[IP] if IP in packet else packet[IPv6]
    l4 = packet[TCP] if TCP in packet else packet[UDP]
    header = l4.dataofs * 4 if TCP in packet else 8
    whole = bytes(ip)
    total = ip.len if IP in packet else ip.plen + 40
    start = len(whole) - len(bytes(l4))
    return whole[start + header : total]


@lru_cache(REMEMBERED)
def checksums_right(frame: bytes) -> bool:
    """Whether scapy would have written the same checksums (and lengths) into every header of the frame."""
    again = Ether(frame)
    for layer in again.iterpayloads():
        for field in ("chksum", "len", "plen", "cksum"):
            if field in layer.fields and not (isinstance(layer, UDP) and layer.fields.get("chksum") == 0):
                layer.delfieldval(field)  # forgets the layer's bytes, too
    return bytes(again) == frame
