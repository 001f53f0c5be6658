# SPDX-License-Identifier: Apache-2.0
"""A flood of packets that nobody wants, or that are dear, costs others nothing."""

from __future__ import annotations

import random

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Dot1Q, Ether

from tests.protocol.frames import MAC_A, MAC_B, udp
from tests.protocol.harness import TO_CONTROLLER, FakeSwitch, add, goto, m, out
from vswitch.agent import normal, slowpath
from vswitch.agent.budget import BURST_NS, PACKET_IN_INTERVAL_NS, PACKET_INS_AT_ONCE, SHARE, Budget
from vswitch.agent.normal import MacTable
from vswitch.agent.slowpath import TURN_DOWN_NS
from vswitch.flow import DropReason, FlowKey, Punt, PuntReason
from vswitch.openflow.constants import Port, PortConfig
from vswitch.rings import PuntQueue

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


def test_unknown_networks_of_a_tunnel_are_dropped_without_the_agent(switch, datapath):
    switch.says(*PIPELINES["an overlay"])
    for _ in range(FRAMES):
        assert switch.receives(2, udp(), tunnel_id=ANY.randrange(200, 1 << 24)) == []
    assert switch.slowpath.misses < FEW
    assert switch.receives(2, bytes(Ether(src=MAC_A, dst="00:00:00:00:07:0c") / IP()), tunnel_id=107) == []
    assert switch.receives(3, udp()) == []
    assert switch.stats(3)[0].lookup_count == FRAMES + 2


def test_entries_of_what_no_rule_wants_end_when_a_rule_comes(switch, datapath):
    switch.says(add({"eth_dst": 0x0C}, out(2)))
    assert switch.receives(1) == []
    switch.says(add({"eth_type": 0x800}, out(3)))
    assert switch.receives(1) == [3]


def test_more_masks_than_the_datapath_has(switch, datapath):
    """All are forgotten, and the next packets tell anew."""
    for bits in range(1, 48):
        mask = (1 << 48) - (1 << bits)
        switch.says(add({"eth_dst": (1 << 47, mask)}, out(2), priority=bits))
        assert switch.receives(1, udp()) == []
    for number in range(200):
        frame = bytes(Ether(dst=mac(number & 0x7E), src=MAC_A) / IP() / UDP())
        assert switch.receives(1, frame) == []
        datapath.take_sent()
    assert switch.stats(3)[0].lookup_count == 247


def test_the_spanning_tree_hears_its_frames_through_a_port_that_takes_no_others(switch, datapath):
    """What the switch drops there is dropped by masked entries, which no frame of the tree falls under."""
    heard = []
    switch.slowpath.bpdus = lambda port_no, frame: heard.append(port_no)
    info = datapath.infos[1]
    switch.says(m.PortMod(1, info.mac, PortConfig.NO_RECV, PortConfig.NO_RECV, 0))
    assert switch.receives(1) == []
    bpdu = bytes(Ether(src=MAC_A, dst="01:80:c2:00:00:00", type=38) / bytes(38))
    assert switch.receives(1, bpdu) == []
    assert heard == [1]


# --- budgets ---------------------------------------------------------------------------------------------


def packet_ins(switch, datapath, port_no, count):
    """How many of so many packets that come through a port are told to the controller."""
    switch.hears()
    for number in range(count):
        switch.receives(port_no, udp(sport=number))
    told = [message for message in switch.hears() if isinstance(message, m.PacketIn)]
    assert len(told) + datapath.discarded.count(DropReason.LIMITED) == count
    datapath.discarded.clear()
    return len(told)


def test_a_flood_through_one_port_leaves_the_controllers_to_the_others(switch, datapath, clock):
    switch.says(add({}, TO_CONTROLLER, priority=0))
    burst = PACKET_INS_AT_ONCE
    assert burst <= packet_ins(switch, datapath, 1, burst + 100) <= burst + 2
    assert packet_ins(switch, datapath, 2, 10) == 10
    clock.advance(0.5)
    assert packet_ins(switch, datapath, 1, 200) == pytest.approx(PACKET_INS_AT_ONCE, abs=2)
    clock.advance(0.1)
    assert packet_ins(switch, datapath, 1, 200) == pytest.approx(1e8 / PACKET_IN_INTERVAL_NS, abs=2)


def test_the_datapath_keeps_a_flood_to_itself_that_costs_much_to_turn_down(
    switch, datapath, clock, monkeypatch
):
    monkeypatch.setattr(slowpath, "SURPLUS_NS", 300 * TURN_DOWN_NS)
    switch.slowpath._time = Budget(SHARE, 1000)
    switch.says(add({}, TO_CONTROLLER, priority=0))
    number = 0
    while 1 not in datapath.held_back:
        switch.receives(1, udp(sport=number % 60_000))
        number += 1
    assert number == pytest.approx(300 + PACKET_INS_AT_ONCE, abs=5)
    assert 0 < datapath.held_back[1] - clock() < 1e9
    datapath.discarded.clear()
    assert packet_ins(switch, datapath, 2, 10) == 10


def test_known_stations_are_served_when_their_port_has_cost_too_much(datapath, clock):
    switch = FakeSwitch(datapath, clock)
    switch.says(add({}, out(Port.NORMAL)))
    switch.receives(1, udp())
    switch.slowpath._charge(1, 2 * BURST_NS)
    assert switch.receives(1, udp(sport=7)) == [2, 3]
    assert switch.receives(1, bytes(Ether(src=mac(), dst=MAC_B) / IP() / UDP())) == []
    assert datapath.discarded == [DropReason.LIMITED]
    assert switch.receives(2, udp(reverse=True, sport=8)) == [1]


def test_what_ports_may_cost():
    """A share of the time in the long run, whatever comes how."""
    ports, now_ns, cost_ns = Budget(SHARE, BURST_NS), 10**9, 0
    for _ in range(20_000):
        now_ns += ANY.randrange(200_000)
        if not ports.is_spent(1, now_ns):
            cost = ANY.randrange(100_000)
            ports.charge(1, cost, now_ns)
            cost_ns += cost
    assert cost_ns == pytest.approx(BURST_NS + SHARE * (now_ns - 10**9), rel=0.05)
    assert not ports.is_spent(2, now_ns)


# --- what else ports share -------------------------------------------------------------------------------


def test_ports_are_served_in_turn():
    queue = PuntQueue()
    for number in range(100):
        port_no = 1 if number < 90 else number % 3 + 1
        queue.add(number, Punt(PuntReason.MISS, FlowKey(port_no, *[0] * 13), b"", number))
    taken = []
    while queue:
        assert queue.first == min(set(range(100)) - set(taken))
        taken += [punt.packet for punt in queue.take(ANY.randrange(1, 9))]
    ports = [1 if number < 90 else number % 3 + 1 for number in taken]
    assert ports[:9] == [1, 2, 3] * 3
    for port_no in (1, 2, 3):
        own = [number for number, port in zip(taken, ports, strict=True) if port == port_no]
        assert own == sorted(own)


def test_a_port_that_fills_the_cache_leaves_room(switch, datapath, monkeypatch):
    monkeypatch.setattr(slowpath, "MAX_FLOWS", 90)
    switch.says(add({}, out(3)))
    for number in range(200):
        assert switch.receives(1, udp(sport=number)) == [3]
    for number in range(3):
        switch.receives(2, udp(sport=number))
    assert len([key for key in datapath.entries if key.in_port == 2]) == 3


def test_a_flood_of_addresses_at_one_port_leaves_those_of_others(monkeypatch):
    monkeypatch.setattr(normal, "MAX_ADDRESSES", 100)
    table = MacTable()
    for station in range(20):
        table.learn(0, station, 2, station)
    for address in range(1000, 2000):
        table.learn(0, address, 1, address)
    assert all(table.port_of(0, station) == 2 for station in range(20))
    assert [address for _vlan, address in table][20:] == list(range(1920, 2000))
    table.learn(0, 1999, 3, 5000)
    table.forget(0, 5)
    assert (table.port_of(0, 1999), table.port_of(0, 5)) == (3, None)
    assert len(list(table)) == 99
