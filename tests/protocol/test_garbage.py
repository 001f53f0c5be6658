# SPDX-License-Identifier: Apache-2.0
"""A flood of packets that nobody wants, or that are dear, costs others nothing."""

from __future__ import annotations

import random

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Dot1Q, Ether

from tests.protocol.frames import MAC_B
from tests.protocol.harness import add, goto, out

FRAMES = 300
FEW = 90
"""Of FRAMES, so many may reach the agent before the datapath drops the rest."""

ANY = random.Random(12)


def mac(first=2):
    return ":".join(f"{byte:02x}" for byte in (first, *ANY.randbytes(5)))


def ip():
    return ".".join(str(byte) for byte in ANY.randbytes(4))


def ip6():
    return f"fd00::{ANY.getrandbits(16):x}:{ANY.getrandbits(16):x}"


def port():
    return ANY.getrandbits(16)


GARBAGE = {
    "MACs": lambda: Ether(src=mac(), dst=mac()) / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(),
    "5-tuples": lambda: (
        Ether(src=mac(), dst=MAC_B) / IP(src=ip(), dst=ip()) / TCP(sport=port(), dport=port())
    ),
    "IPv6": lambda: (
        Ether(src=mac(), dst=mac()) / IPv6(src=ip6(), dst=ip6()) / UDP(sport=port(), dport=port())
    ),
    "fragments": lambda: (
        Ether(src=mac(), dst=mac()) / IP(src=ip(), dst=ip(), frag=ANY.getrandbits(12), proto=17)
    ),
    "IPv6 fragments": lambda: (
        Ether(src=mac(), dst=mac())
        / IPv6(src=ip6(), dst=ip6())
        / IPv6ExtHdrFragment(offset=ANY.getrandbits(12), nh=17)
    ),
    "VLANs": lambda: Ether(src=mac(), dst=mac()) / Dot1Q(vlan=ANY.getrandbits(12)) / IP(dst=ip()) / UDP(),
    "ARP": lambda: Ether(src=mac(), dst=mac()) / ARP(psrc=ip(), pdst=ip()),
    "ICMP": lambda: Ether(src=mac(), dst=mac()) / IP(src=ip(), dst=ip()) / ICMP(type=ANY.getrandbits(8)),
    "types": lambda: Ether(src=mac(), dst=mac(), type=0x9000 + ANY.getrandbits(12)) / bytes(50),
    "bytes": lambda: Ether(ANY.randbytes(64)),
}

PIPELINES = {
    "no rules": [],
    "addresses of VMs": [add({"eth_dst": 0x020000000000 + n}, out(2)) for n in range(1, 60)],
    "an overlay": [
        *[add({"in_port": 2, "tunnel_id": vni}, goto(1)) for vni in range(100, 140)],
        add({"in_port": 1}, goto(1)),
        *[add({"metadata": 0, "eth_dst": n << 8 | 0x0C}, out(2), table_id=1) for n in range(40)],
    ],
    "an access list": [
        *[
            add({"eth_type": 0x800, "ip_proto": 6, "ipv4_dst": 0x0A010001 + 256 * n, "tcp_dst": 80}, out(2))
            for n in range(40)
        ],
        *[add({"eth_type": 0x86DD, "ipv6_dst": (0x20010DB8 << 96) + n}, out(2)) for n in range(1, 40)],
        add({"eth_type": 0x800}, priority=1),
    ],
}


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("kind", GARBAGE)
def test_what_no_rule_wants_is_dropped_without_the_agent(switch, datapath, kind, pipeline):
    """And counted as if each packet had been looked up."""
    switch.says(*PIPELINES[pipeline])
    frames = [bytes(GARBAGE[kind]()) for _ in range(FRAMES)]
    delivered = 0
    for frame in frames:
        delivered += len(switch.receives(1, frame))
    assert delivered == 0
    assert switch.slowpath.misses < FEW
    (table, *_) = switch.stats(3)
    assert table.lookup_count == FRAMES
    assert datapath.held == 0
