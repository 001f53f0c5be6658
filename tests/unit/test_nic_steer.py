# SPDX-License-Identifier: Apache-2.0
"""Queue assignment (S0.2): RSS by its published check values, filters and RSS against a naive twin."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import fragment as fragment4

from tests.packets import (
    ARP,
    ICMP,
    IP,
    SCTP,
    TCP,
    UDP,
    Dot1Q,
    Ether,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrFragment,
    Raw,
    payload,
    tcp_segment,
    vm_ether,
    vxlan,
)
from tests.reference import nic_first, rss_input, toeplitz
from tests.unit.rig import Rig, examples
from vswitch import nic as api
from vswitch.dataplane.nic.steer import rss_hash, steer
from vswitch.flow import Output, SetTunnel
from vswitch.layout import MAX_QUEUES, RSS_ENTRIES
from vswitch.nic import DEFAULT_KEY, Filter, Match

WIRE = 1
CHECK_VALUES = [
    ("66.9.149.187", 2794, "161.142.100.80", 1766, 0x323E8FC2, 0x51CCC178),
    ("199.92.111.2", 14230, "65.69.140.83", 4739, 0xD718262A, 0xC626B0EA),
    ("24.19.198.95", 12898, "12.22.207.184", 38024, 0xD2D0A5DE, 0x5C2B394A),
    ("38.27.205.30", 48228, "209.142.163.6", 2217, 0x82989176, 0xAFC7327F),
    ("153.39.163.191", 44251, "202.188.127.2", 1303, 0x5D1809C5, 0x10E828A2),
    ("3ffe:501:8::260:97ff:fe40:efab", 14230, "ff02::1", 4739, 0x0F0C461C, 0xDDE51BBF),
]


@pytest.fixture(scope="module")
def rig():
    with Rig(wires=1) as rig:
        rig.tunnel = rig.add_tunnel()
        yield rig


def state(filters=(), key=DEFAULT_KEY, table=None, queue_count=MAX_QUEUES):
    ordered = tuple(sorted(filters, key=api._order))
    return api._State(queue_count, ("on",) * MAX_QUEUES, key=key, table=table, filters=ordered)


def ip_between(source, target):
    return IPv6(src=source, dst=target) if ":" in source else IP(src=source, dst=target)


def hash_of(rig, frame):
    assert rig.burst([frame], WIRE) == [-1]
    nic = rig.t["nics"][WIRE, 0]
    return int(rss_hash(rig.mem, nic, rig.t["packets"][0]))


@pytest.mark.parametrize(("source", "sport", "target", "dport", "addresses", "with_ports"), CHECK_VALUES)
def test_s0_2_rss_has_the_published_check_values(rig, source, sport, target, dport, addresses, with_ports):
    api.fill_row(rig.t["nics"][WIRE, 0], state())
    for l4 in (TCP, UDP):
        frame = Ether() / ip_between(source, target) / l4(sport=sport, dport=dport) / Raw(payload(40))
        assert hash_of(rig, bytes(frame)) == with_ports
    assert hash_of(rig, bytes(Ether() / ip_between(source, target) / Raw(payload(40)))) == addresses
    if ":" not in source:
        fragment = Ether() / IP(src=source, dst=target, flags="MF") / UDP(sport=sport, dport=dport)
        assert hash_of(rig, bytes(fragment / Raw(payload(40)))) == addresses


def fragments_of(version, l4, options):
    """A datagram in three fragments."""
    rest = bytes(l4 / Raw(payload(3000)))
    proto = {UDP: 17, TCP: 6, SCTP: 132, ICMP: 1, ICMPv6EchoRequest: 58}[type(l4)]
    if version == 4:
        packet = vm_ether() / IP(src="10.0.0.1", dst="10.0.0.2", id=7, proto=proto) / Raw(rest)
        return [bytes(fragment) for fragment in fragment4(packet, 1200)]
    if options:
        rest = bytes([proto, 0]) + bytes([1, 4, 0, 0, 0, 0]) + rest
        proto = 60
    return [
        bytes(
            vm_ether()
            / IPv6(src="fd00::1", dst="fd00::2")
            / IPv6ExtHdrFragment(nh=proto, offset=at // 8, m=int(at + 1200 < len(rest)), id=7)
            / Raw(rest[at : at + 1200])
        )
        for at in range(0, len(rest), 1200)
    ]


DATAGRAMS = [
    *((4, l4(sport=1, dport=2), False) for l4 in (UDP, TCP, SCTP)),
    (4, ICMP(), False),
    *((6, l4(sport=1, dport=2), options) for l4 in (UDP, TCP) for options in (False, True)),
    (6, ICMPv6EchoRequest(), False),
]


@pytest.mark.parametrize(("version", "l4", "options"), DATAGRAMS, ids=str)
def test_all_fragments_of_a_datagram_take_one_way(rig, version, l4, options):
    """Through a NIC with queues, and behind a tunnel: its UDP port is what others spread packets by."""
    api.fill_row(rig.t["nics"][WIRE, 0], state())
    frames = fragments_of(version, l4, options)
    assert len(frames) == 3
    assert len({hash_of(rig, frame) for frame in frames}) == 1
    hashes, ports = set(), set()
    for frame in frames:
        rig.burst([frame], WIRE, verify=False)
        hashes.add(int(rig.t["packets"][0]["hash"]))
        rig.run(frame, (SetTunnel(42), Output(rig.tunnel)), port=WIRE)
        ports |= {Ether(sent)[UDP].sport for sent in rig.sent()}
    assert len(hashes) == len(ports) == 1


def test_what_is_no_ip_has_the_hash_zero(rig):
    assert hash_of(rig, bytes(Ether() / ARP())) == 0


MACS = ["02:00:00:00:00:01", "02:00:00:00:00:02"]
ADDRESSES = ["10.0.0.1", "10.0.0.2", "10.1.0.1"]
ADDRESSES6 = ["fd00::1", "fd00::2", "fd01::1"]
PORTS = [80, 110, 5001]
VNIS = [0, 42, 43]


@st.composite
def matches(draw):
    family = draw(st.sampled_from([ADDRESSES, ADDRESSES6]))
    prefixes = [*family, "10.0.0.0/8", "10.0.0.0/24"] if family is ADDRESSES else [*family, "fd00::/16"]
    match = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "dst_mac": st.sampled_from(MACS),
                "protocol": st.sampled_from(["tcp", "udp"]),
                "src_ip": st.sampled_from(prefixes),
                "dst_ip": st.sampled_from(prefixes),
                "src_port": st.sampled_from(PORTS),
                "dst_port": st.sampled_from(PORTS),
                "vni": st.sampled_from(VNIS),
            },
        )
    )
    if "src_port" in match or "dst_port" in match:
        match.setdefault("protocol", "tcp")
    return match or {"vni": 42}


@st.composite
def frames(draw):
    """A frame, and the virtual network that it comes through (0: none)."""
    ether = Ether(src=draw(st.sampled_from(MACS)), dst=draw(st.sampled_from(MACS)))
    if draw(st.booleans()):
        ether /= Dot1Q(vlan=5)
    vni = draw(st.sampled_from(VNIS))
    kind = draw(st.sampled_from(["tcp", "udp", "fragment", "arp", "tcp6", "udp6"]))
    family = ADDRESSES6 if kind.endswith("6") else ADDRESSES
    source, target = draw(st.sampled_from(family)), draw(st.sampled_from(family))
    sport, dport = draw(st.sampled_from(PORTS)), draw(st.sampled_from(PORTS))
    if kind == "arp":
        frame = ether / ARP(op=6, psrc=source, pdst=target)
    elif kind == "fragment":
        place = draw(st.sampled_from([{"flags": "MF"}, {"frag": 4}, {"flags": "MF", "frag": 4}]))
        frame = ether / IP(src=source, dst=target, **place) / TCP(sport=sport, dport=dport)
    else:
        l4 = TCP if kind.startswith("tcp") else UDP
        frame = ether / ip_between(source, target) / l4(sport=sport, dport=dport)
    return bytes(frame / Raw(payload(20))), vni


queues = st.integers(0, MAX_QUEUES - 1)


@settings(max_examples=examples(200))
@given(
    filters=st.lists(st.tuples(st.integers(0, 2), matches(), queues), max_size=12),
    burst=st.lists(frames(), min_size=1, max_size=12),
    key=st.one_of(st.just(DEFAULT_KEY), st.binary(min_size=40, max_size=40)),
    table=st.lists(queues, min_size=RSS_ENTRIES, max_size=RSS_ENTRIES),
)
def test_s0_2_queues_are_those_of_the_naive_twin(rig, filters, burst, key, table):
    """All kinds of filters mixed, overlapping, of equal and different priorities, and RSS for the rest."""
    placed = [Filter(number, Match(**match), queue, priority)
              for number, (priority, match, queue) in enumerate(filters)]  # fmt: skip
    nic = rig.t["nics"][WIRE, 0]
    api.fill_row(nic, state(placed, key, tuple(table)))
    rig.burst([frame if vni == 0 else vxlan(frame, vni) for frame, vni in burst], WIRE)
    steer(rig.mem, rig.t, nic)
    for number, (frame, vni) in enumerate(burst):
        place = nic_first([(priority, match) for priority, match, _ in filters], frame, vni)
        expected = filters[place][2] if place is not None else table[toeplitz(key, rss_input(frame)) % 128]
        assert rig.t["packets"][number]["queue"] == expected


def test_s0_2_one_vm_over_several_queues_and_several_vms_on_one(rig):
    """Eight VMs on four queues by their MAC addresses; one of them has a connection on a queue of its own."""
    macs = [f"02:00:00:00:00:{number:02x}" for number in range(8)]
    filters = [Filter(number, Match(dst_mac=mac), number % 3, 0) for number, mac in enumerate(macs)]
    filters.append(Filter(9, Match(protocol="tcp", dst_ip="10.0.0.2", dst_port=80), 3, 0))
    nic = rig.t["nics"][WIRE, 0]
    api.fill_row(nic, state(filters, queue_count=4))
    burst = [bytes(Ether(dst=mac) / IP(dst="10.0.0.2") / TCP(dport=81) / Raw(b"x")) for mac in macs]
    burst.append(bytes(Ether(dst=macs[0]) / IP(dst="10.0.0.2") / TCP(dport=80) / Raw(b"x")))
    rig.burst(burst, WIRE)
    steer(rig.mem, rig.t, nic)
    assert rig.t["packets"]["queue"][: len(burst)].tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 3]


def test_s0_4_a_connection_stays_on_one_queue_whatever_comes_between_its_frames(rig):
    """And so on one worker, since each queue has one."""
    nic = rig.t["nics"][WIRE, 0]
    api.fill_row(nic, state())
    seen = {}
    for turn in range(4):
        burst = [
            tcp_segment(100, 1000 + 100 * turn, sport=5000 + number, version=version)
            for number in range(turn % 2, 16, 1 + turn % 3)
            for version in (4, 6)
        ]
        rig.burst(burst, WIRE)
        steer(rig.mem, rig.t, nic)
        for row, frame in enumerate(burst):
            queue = int(rig.t["packets"][row]["queue"])
            assert seen.setdefault((Ether(frame).type, Ether(frame)[TCP].sport), queue) == queue
    assert len(set(seen.values())) > 4
