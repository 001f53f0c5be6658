# SPDX-License-Identifier: Apache-2.0
"""Group buckets, OFPP_NORMAL, meters, TTLs, fragments: how packets are treated, and what is cached of it."""

from __future__ import annotations

import random
from ipaddress import IPv4Address

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import Dot1Q, Ether

from tests.protocol.frames import arp_request, later_fragment, tcp, udp
from tests.protocol.harness import add, delete, goto, group, m, metadata, meter, out
from vswitch.agent.normal import AGING_NS, MAX_ADDRESSES, MacTable
from vswitch.flow import LookUpAgain, Output, Restore, Save
from vswitch.flow import Meter as MeterOp
from vswitch.openflow import actions as of
from vswitch.openflow.constants import (
    FlowModCommand,
    GroupModCommand,
    GroupType,
    MeterModCommand,
    PacketInReason,
    Port,
)
from vswitch.openflow.groups import Bucket
from vswitch.openflow.instructions import ApplyActions, Meter, WriteActions
from vswitch.openflow.meters import Band
from vswitch.openflow.oxm import BY_NAME, Oxm

GROUP = ApplyActions((of.Group(1),))


def bucket(*actions, **fields):
    return Bucket(tuple(of.Output(a) if isinstance(a, int) else a for a in actions), **fields)


def set_field(name, value):
    return of.SetField(Oxm(BY_NAME[name], value))


def dst(mac):
    return set_field("eth_dst", mac)


def flow(number):
    """Random addresses and ports."""
    draw = random.Random(number)
    ether = Ether(src="00:00:00:00:00:0a", dst="00:00:00:00:00:0b")
    ip = IP(src=str(IPv4Address(draw.randrange(1 << 32))), dst=str(IPv4Address(draw.randrange(1 << 32))))
    return bytes(ether / ip / TCP(sport=draw.randrange(1 << 16), dport=draw.randrange(1 << 16)))


def programs(datapath):
    return [entry.program for entry in datapath.entries.values()]


# --- groups ----------------------------------------------------------------------------------------------


def test_all_gives_each_bucket_a_copy(switch, datapath):
    switch.says(
        group(1, bucket(dst(1), 2), bucket(3)),
        add({"in_port": 1}, ApplyActions((of.Group(1), of.Output(2)))),
    )
    datapath.take_sent()
    datapath.receive(1, udp())
    switch.slowpath.handle_punts()
    sent = [(s.port, s.frame[:6].hex()) for s in datapath.take_sent()]
    assert sent == [(2, "000000000001"), (3, "00000000000b"), (2, "00000000000b")]


def test_copies_are_made_only_where_something_follows(switch, datapath):
    switch.says(
        group(1, bucket(2), bucket(dst(1), 2), bucket(dst(2), 3)),
        add({"in_port": 1}, GROUP),
    )
    switch.receives(1)
    (program,) = programs(datapath)
    assert [type(a) for a in program if isinstance(a, (Save, Restore))] == [Save, Restore]
    assert program[0] == Output(2)


@pytest.mark.parametrize("weights", [(1, 1), (1, 2), (1, 2, 3), (5, 0, 5)])
def test_select_shares_by_weight(switch, weights):
    buckets = [bucket(2 if n % 2 else 3, weight=weight) for n, weight in enumerate(weights)]
    switch.says(group(1, *buckets, kind=GroupType.SELECT), add({"in_port": 1}, GROUP))
    flows = 1500
    ports = [switch.receives(1, flow(n)) for n in range(flows)]
    expected = sum(weight for n, weight in enumerate(weights) if n % 2) / sum(weights)
    share = ports.count([2]) / flows
    assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / flows) ** 0.5 + 1e-9)
    assert [switch.receives(1, flow(n)) for n in range(50)] == ports[:50]


def test_select_moves_only_the_flows_of_a_bucket_that_dies(switch, datapath):
    buckets = [
        bucket(2, weight=1, watch_port=2),
        bucket(3, weight=1, watch_port=3),
        bucket(Port.IN_PORT, weight=1),
    ]
    switch.says(group(1, *buckets, kind=GroupType.SELECT), add({"in_port": 1}, GROUP))
    before = [switch.receives(1, flow(n)) for n in range(100)]
    datapath.set_up(2, False)
    switch.of.refresh_ports()
    after = [switch.receives(1, flow(n)) for n in range(100)]
    assert [2] not in after
    assert all(new == old for old, new in zip(before, after, strict=True) if old != [2])


def test_failover_follows_the_links_of_cached_flows(switch, datapath):
    switch.says(
        group(1, bucket(2, watch_port=2), bucket(3, watch_port=3), kind=GroupType.FF),
        add({"in_port": 1}, GROUP),
    )
    assert switch.receives(1) == [2]
    datapath.set_up(2, False)
    switch.of.refresh_ports()
    assert programs(datapath) == [(Output(3),)]
    assert switch.receives(1) == [3]
    assert switch.slowpath.misses == 1


def test_changed_group_changes_cached_flows(switch):
    switch.says(group(1, bucket(2), kind=GroupType.INDIRECT), add({"in_port": 1}, GROUP))
    assert switch.receives(1) == [2]
    switch.says(group(1, bucket(3), command=GroupModCommand.MODIFY, kind=GroupType.INDIRECT))
    assert switch.receives(1) == [3]
    assert switch.slowpath.misses == 1


def test_group_wins_over_output_in_an_action_set(switch):
    switch.says(
        group(1, bucket(2), kind=GroupType.INDIRECT), add({}, WriteActions((of.Output(3), of.Group(1))))
    )
    assert switch.receives(1) == [2]


def test_action_set_has_its_order(switch, datapath):
    """Pop before push before set-field before output, whatever the order of writing (section 5.10)."""
    actions = (of.Output(2), set_field("vlan_vid", 0x1007), of.PushVlan(0x8100), of.PopVlan())
    switch.says(add({}, WriteActions(actions)))
    datapath.receive(1, bytes(Ether(dst="00:00:00:00:00:0b") / Dot1Q(vlan=5, prio=3) / IP() / TCP()))
    switch.slowpath.handle_punts()
    (sent,) = datapath.take_sent()
    frame = Ether(sent.frame)
    assert (frame.vlan, frame.prio, frame["Dot1Q"].type) == (7, 0, 0x800)


def test_packet_in_of_a_group_has_no_cookie(switch):
    switch.says(group(1, bucket(Port.CONTROLLER), kind=GroupType.INDIRECT), add({}, GROUP, cookie=9))
    switch.receives(1)
    (packet_in,) = switch.hears()
    assert (packet_in.reason, packet_in.cookie) == (PacketInReason.ACTION, 0xFFFF_FFFF_FFFF_FFFF)


# --- OFPP_NORMAL -----------------------------------------------------------------------------------------

NORMAL = add({}, ApplyActions((of.Output(Port.NORMAL),)))


def test_normal_learns(switch):
    switch.says(NORMAL)
    assert switch.receives(1, tcp()) == [2, 3]
    assert switch.receives(2, tcp(reverse=True)) == [1]
    assert switch.receives(1, tcp()) == [2]


def test_a_station_that_moves_is_followed_both_ways(switch):
    switch.says(NORMAL)
    switch.receives(1, tcp())
    assert switch.receives(2, tcp(reverse=True)) == [1]
    assert switch.receives(3, tcp()) == [2]  # A is at port 3 now
    assert switch.receives(2, tcp(reverse=True)) == [3]
    assert switch.receives(1, tcp()) == [2]  # and back: the flow of before must not be what it was
    assert switch.receives(2, tcp(reverse=True)) == [1]


def test_vlans_have_their_own_addresses(switch):
    switch.says(NORMAL)
    ether = Ether(src="00:00:00:00:00:0b", dst="00:00:00:00:00:0a")
    switch.receives(2, bytes(ether / Dot1Q(vlan=5) / IP() / TCP()))
    assert switch.receives(1, tcp()) == [2, 3]


def test_address_is_forgotten_after_its_time(switch, datapath, clock):
    switch.says(NORMAL)
    switch.receives(1, tcp())
    switch.receives(2, tcp(reverse=True))
    clock.advance(AGING_NS / 1e9 / 2)
    switch.receives(1, tcp())
    datapath.evict(datapath.key_of(tcp(reverse=True), 2))
    switch.slowpath.retire_ended()
    clock.advance(AGING_NS / 1e9 + 1)
    switch.slowpath.retire_ended()
    assert switch.receives(1, tcp()) == [2, 3]


def test_bridge_addresses_stay(switch):
    switch.says(NORMAL)
    assert switch.receives(1, bytes.fromhex("0180c2000000") + udp()[6:]) == []


def test_mac_table_is_bounded():
    macs = MacTable()
    for mac in range(MAX_ADDRESSES + 1):
        changed = macs.learn(0, mac, 1, mac)
    assert len(list(macs)) == MAX_ADDRESSES
    assert changed == [(0, MAX_ADDRESSES), (0, 0)]
    assert macs.learn(0, 5, 1, 10**6) == []


# --- meters ----------------------------------------------------------------------------------------------


DROP, REMARK = Band(1, 1000), Band(2, 1000, prec_level=1)


def test_meter_comes_before_the_actions(switch, datapath):
    switch.says(meter(1, DROP), add({"in_port": 1}, out(2), Meter(1)))
    assert switch.receives(1) == [2]
    assert programs(datapath) == [(MeterOp(1), Output(2))]


AF11, AF12, AF13 = 10, 12, 14


def by_precedence(eth_type=0x800):
    """Table 1 outputs by the drop precedence, which table 0 meters."""
    match = {"eth_type": eth_type}
    return [
        add({"in_port": 1}, Meter(1), goto(1)),
        add(match | {"ip_dscp": AF11}, out(2), table_id=1),
        add(match | {"ip_dscp": AF12}, out(3), table_id=1),
    ]


@pytest.mark.parametrize("layer", [IP(tos=AF11 << 2 | 1), IPv6(tc=AF11 << 2 | 2)], ids=["IPv4", "IPv6"])
def test_later_tables_see_what_a_meter_remarks(switch, datapath, layer):
    """The packets of one flow that exceed the meter, and those that do not; from the cache, and counted."""
    frame = bytes(Ether() / layer / UDP())
    switch.says(meter(1, REMARK), *by_precedence(0x800 if isinstance(layer, IP) else 0x86DD))
    for exceeded, port in [(False, 2), (True, 3), (True, 3), (False, 2), (True, 3)]:
        datapath.exceeded = exceeded
        assert switch.receives(1, frame) == [port]
    assert switch.slowpath.misses == 3 and switch.slowpath.uncacheable == 0
    assert [stats.packet_count for stats in switch.stats()] == [5, 2, 3]


def test_a_second_meter_and_a_third_table_see_what_the_first_made(switch, datapath):
    frame = bytes(Ether() / IP(tos=AF11 << 2) / UDP())
    ip = {"eth_type": 0x800}
    switch.says(
        meter(1, REMARK),
        add({}, Meter(1), goto(1)),
        add(ip | {"ip_dscp": AF12}, Meter(1), goto(2), table_id=1),
        add(ip | {"ip_dscp": AF11}, out(2), goto(2), table_id=1),
        add(ip | {"ip_dscp": AF13}, out(3), table_id=2),
        add(ip | {"ip_dscp": AF11}, out(3), table_id=2),
    )
    for _ in range(2):
        datapath.exceeded = True
        assert switch.receives(1, frame) == [3]
        datapath.exceeded = False
        assert switch.receives(1, frame) == [2, 3]
    assert switch.slowpath.uncacheable == 0


@pytest.mark.parametrize("dscp", [AF11, AF13, 46, 0])
def test_what_is_set_before_the_meter_is_remarked_and_what_is_set_behind_it_is_not(switch, datapath, dscp):
    """Whatever the packets came with."""
    set_dscp = ApplyActions((set_field("ip_dscp", AF11),))
    frame = bytes(Ether() / IP(tos=dscp << 2) / UDP())
    datapath.exceeded = True
    switch.says(
        meter(1, REMARK),
        add({"eth_type": 0x800}, set_dscp, goto(1)),
        add({"eth_type": 0x800}, Meter(1), goto(2), table_id=1),
        add({"eth_type": 0x800, "ip_dscp": AF12}, out(3), table_id=2),
    )
    assert [switch.receives(1, frame) for _ in range(2)] == [[3], [3]]
    mod = FlowModCommand.MODIFY
    switch.says(add({"eth_type": 0x800}, Meter(1), set_dscp, goto(2), table_id=1, command=mod))
    assert [switch.receives(1, frame) for _ in range(2)] == [[], []]
    assert switch.slowpath.uncacheable == 0


def test_a_meter_that_remarks_no_more_ends_what_depended_on_it(switch, datapath):
    frame = bytes(Ether() / IP(tos=AF11 << 2) / UDP())
    switch.says(meter(1, REMARK), *by_precedence())
    datapath.exceeded = True
    assert [switch.receives(1, frame) for _ in range(2)] == [[3], [3]]
    switch.says(meter(1, DROP, command=MeterModCommand.MODIFY))
    datapath.exceeded = False
    assert [switch.receives(1, frame) for _ in range(2)] == [[2], [2]]
    assert not any(key.remarks for key in datapath.entries)


WITHOUT_A_LOOK = {
    "a rule that wins came": add({"in_port": 1}, out(2), table_id=1, priority=0x9000),
    "those that looked went": delete({"eth_type": 0x800}, table_id=1, out_port=3),
}


@pytest.mark.parametrize("change", WITHOUT_A_LOOK.values(), ids=WITHOUT_A_LOOK.keys())
def test_rules_that_look_at_no_remark_any_more_end_what_depended_on_it(switch, datapath, change):
    frame = bytes(Ether() / IP(tos=AF11 << 2) / UDP())
    looks = add({"eth_type": 0x800, "ip_dscp": AF12}, out(3), table_id=1, priority=2)
    switch.says(meter(1, REMARK), add({"in_port": 1}, Meter(1), goto(1)), looks)
    elsewhere = add({"eth_type": 0x800, "ip_dscp": AF12}, table_id=5)
    switch.says(add({}, out(2), table_id=1, priority=1), elsewhere)
    datapath.exceeded = True
    assert [switch.receives(1, frame) for _ in range(2)] == [[3], [3]]
    switch.says(change)
    assert not any(key.remarks or LookUpAgain(0) in e.program for key, e in datapath.entries.items())
    assert switch.receives(1, frame) == [2]
    assert [stats.packet_count for stats in switch.stats() if stats.table_id == 0] == [3]


def test_a_group_behind_a_remark_and_one_before_it_change(switch, datapath):
    frame = bytes(Ether() / IP(tos=AF11 << 2) / UDP())
    ip = {"eth_type": 0x800}
    switch.says(
        meter(1, REMARK),
        group(1, bucket(2)),
        group(2, bucket(3)),
        add({"in_port": 1}, Meter(1), GROUP, goto(1)),
        add(ip | {"ip_dscp": AF12}, ApplyActions((of.Group(2),)), table_id=1),
    )
    datapath.exceeded = True
    assert [switch.receives(1, frame) for _ in range(2)] == [[2, 3], [2, 3]]
    switch.says(group(1, bucket(3), command=GroupModCommand.MODIFY))
    assert switch.receives(1, frame) == [3, 3]
    switch.says(group(2, bucket(2), command=GroupModCommand.MODIFY))
    assert switch.receives(1, frame) == [3, 2]
    assert switch.slowpath.misses == 2


@pytest.mark.parametrize("version", [4, 6])
def test_select_sends_all_fragments_of_a_datagram_one_way(switch, version):
    """Whatever their first one tells of ports and, behind IPv6's fragment header, of the protocol."""
    buckets = [bucket(2, weight=1), bucket(3, weight=1)]
    switch.says(group(1, *buckets, kind=GroupType.SELECT), add({}, GROUP))
    ways = set()
    for number in range(40):
        fragments = [fragment(number, place, version) for place in range(3)]
        (way,) = {tuple(switch.receives(1, frame)) for frame in fragments}
        ways.add(way)
    assert ways == {(2,), (3,)}


def fragment(number, place, version):
    """Of a UDP datagram, behind destination options in IPv6."""
    udp = bytes(UDP(sport=number, dport=9) / bytes(1000))
    ether = Ether(src="00:00:00:00:00:0a", dst="00:00:00:00:00:0b")
    if version == 4:
        flags = {"flags": "MF"} if place < 2 else {}
        part = udp[place * 400 :][:400]
        return bytes(
            ether / IP(src=f"10.0.{number}.1", dst="10.0.0.2", proto=17, frag=place * 50, **flags) / part
        )
    part = (bytes([17, 0, 1, 4, 0, 0, 0, 0]) + udp)[place * 400 :][:400]
    header = IPv6ExtHdrFragment(nh=60, offset=place * 50, m=int(place < 2), id=number)
    return bytes(ether / IPv6(src=f"fd00::{number}", dst="fd00::2") / header / part)


def test_what_is_no_af_class_is_never_looked_up_again(switch, datapath):
    switch.says(meter(1, REMARK), *by_precedence(), add({"eth_type": 0x800}, out(2), table_id=1, priority=1))
    datapath.exceeded = True
    for dscp in (0, AF13, 46, 8, 11):
        assert switch.receives(1, bytes(Ether() / IP(tos=dscp << 2) / UDP())) == [2]
    assert switch.slowpath.misses == 5
    assert all(LookUpAgain(0) not in entry.program for entry in datapath.entries.values())


# --- TTLs, fragments, fields outside the key -------------------------------------------------------------


def test_invalid_ttl_is_told(switch, datapath):
    switch.says(
        add({}, metadata(6), goto(1)), add({}, ApplyActions((of.DecNwTtl(), of.Output(2))), table_id=1)
    )
    frame = bytes(Ether() / IP(ttl=1) / TCP())
    assert switch.receives(1, frame) == []
    (entry,) = datapath.entries.values()
    invalid = entry.program[0].invalid
    assert (invalid.reason, invalid.table_id, invalid.metadata) == (PacketInReason.INVALID_TTL, 1, 6)


def test_fragments_can_be_dropped(switch):
    switch.says(add({}, out(2)))
    assert switch.receives(1, later_fragment()) == [2]
    switch.says(m.SetConfig(1, 128))
    assert switch.receives(1, later_fragment()) == []
    assert switch.receives(1, udp()) == [2]


def test_what_the_key_does_not_tell_goes_packet_by_packet(switch, datapath):
    switch.says(add({"eth_type": 0x806, "arp_sha": 0x0A}, out(2)), add({"in_port": 1}, out(3), priority=1))
    for _ in range(3):
        assert switch.receives(1, arp_request()) == [2]
    assert datapath.entries == {} and switch.slowpath.uncacheable == 3
    assert switch.receives(1, udp()) == [3]
    assert len(datapath.entries) == 1
    assert [s.packet_count for s in switch.stats()] == [3, 1]


def test_a_rule_about_it_ends_the_cached_flow(switch, datapath):
    switch.says(add({}, out(3), priority=1))
    switch.receives(1, arp_request())
    assert len(datapath.entries) == 1
    switch.says(add({"eth_type": 0x806, "arp_sha": 0x0A}, out(2)))
    assert datapath.entries == {}
    assert switch.receives(1, arp_request()) == [2]
    assert [s.packet_count for s in switch.stats()] == [1, 1]
