# SPDX-License-Identifier: Apache-2.0
"""Whatever rules say and however they change: the cache does what a naive OpenFlow switch would (test of all
parts of the slow path together, over the fake datapath)."""

from __future__ import annotations

import contextlib
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.sctp import SCTP, SCTPChunkData

from tests.protocol.fake_datapath import FakeClock, FakeDatapath, tap
from tests.protocol.naive import Naive
from vswitch.agent import pipeline
from vswitch.agent.groups import Bucket, Group
from vswitch.agent.packet import Packet
from vswitch.agent.pipeline import translate
from vswitch.agent.ports import PortTable
from vswitch.agent.slowpath import SlowPath
from vswitch.agent.tables import FlowTables
from vswitch.openflow import actions as of
from vswitch.openflow.constants import FlowModCommand, PacketInReason, Port, PortConfig
from vswitch.openflow.errors import OpenFlowError
from vswitch.openflow.flow_mod import FlowMod
from vswitch.openflow.instructions import (
    ApplyActions,
    ClearActions,
    GotoTable,
    Instructions,
    Meter,
    WriteActions,
    WriteMetadata,
)
from vswitch.openflow.messages import PortMod
from vswitch.openflow.oxm import BY_NAME, Match, Oxm

TUNNEL = 9
TABLES = 3
ANY = Port.ANY


class Groups(dict):
    """A group table whose liveness is that of ports."""

    def live_buckets(self, group, ports):
        return [
            number
            for number, bucket in enumerate(group.buckets)
            if bucket.watch_port == ANY or ports.is_live(bucket.watch_port)
        ]


class Meters:
    """Meters that raise drop precedences by their numbers."""

    def remarks(self, meter_id):
        return meter_id > 0


class Rig:
    """A slow path over a fake datapath, and the naive switch beside it."""

    def __init__(self, proactive_reverse=True, datapath=FakeDatapath):
        self.clock = FakeClock()
        self.datapath = datapath(self.clock)
        self.datapath.infos[TUNNEL] = tap(TUNNEL)._replace(kind="tunnel", uplink=1)
        self.ports = PortTable()
        self.ports.refresh(self.datapath.ports(), 0)
        self.tables = FlowTables()
        self.groups = Groups()
        self.events = []
        self.slowpath = SlowPath(
            self.datapath,
            self.tables,
            self.ports,
            self.groups,
            Meters(),
            self.events.append,
            self.clock,
            proactive_reverse,
        )
        kinds = {info.port_no: info.kind for info in self.datapath.ports()}
        self.naive = Naive([[] for _ in range(TABLES)], self.groups, kinds)
        self.naive.uplinks[TUNNEL] = 1
        self.packets = 0

    def settle(self):
        self.slowpath.revalidate()
        self.datapath.catch_up()
        self.slowpath.retire_ended()

    def change_rules(self, mod):
        try:
            changes, _removals = self.tables.apply(mod, self.clock())
        except OpenFlowError:
            return
        self.slowpath.rules_changed(changes)
        self.naive.tables = [list(table.rules.values()) for table in self.tables.tables[:TABLES]]

    def change_group(self, group_id, group):
        before = self.groups.pop(group_id, None)
        if group is not None:
            self.groups[group_id] = group
        if before is not None:
            self.slowpath.groups_changed([before])
        else:
            self.slowpath._memo.clear()
            self.slowpath._stale |= self.slowpath._translations  # rules cannot name a group that is not there

    def set_port(self, port, there):
        if there:
            self.datapath.infos.setdefault(port, tap(port))
        else:
            self.datapath.infos.pop(port, None)
        self.ports.refresh(self.datapath.ports(), 0)
        self.slowpath.ports_changed()
        self.slowpath.groups_changed(self.groups.values())
        self.naive.ports = {info.port_no: info.kind for info in self.datapath.ports()}
        self.naive.macs = {mac: at for mac, at in self.naive.macs.items() if at in self.naive.ports}
        self.naive.quiet &= self.naive.ports.keys()

    def set_uplink(self, port):
        """The tunnel is made anew."""
        self.datapath.infos[TUNNEL] = self.datapath.infos[TUNNEL]._replace(uplink=port)
        self.ports.refresh(self.datapath.ports(), 0)
        self.slowpath.ports_changed()
        self.naive.uplinks[TUNNEL] = port

    def set_quiet(self, port, quiet):
        """Have a port send no packet-ins of table misses, or send them again."""
        bit = PortConfig.NO_PACKET_IN
        self.ports.modify(PortMod(port, self.ports.infos[port].mac, bit if quiet else 0, bit))
        self.slowpath.ports_changed()
        (self.naive.quiet.add if quiet else self.naive.quiet.discard)(port)

    def exceed(self, exceeded):
        """Whether the packets that come exceed the meters."""
        self.datapath.exceeded = self.naive.exceeded = exceeded

    def evict(self, number):
        if number < len(self.datapath.entries):
            self.datapath.evict(list(self.datapath.entries)[number])

    def receive(self, data, in_port, tunnel_id=0):
        self.packets += 1
        self.datapath.receive(in_port, data, tunnel_id)
        return self._happened()

    def packet_out(self, data, in_port, actions):
        self.packets += actions.count(of.Output(Port.TABLE))
        with contextlib.suppress(OpenFlowError):  # too many operations
            self.slowpath.packet_out(data, actions, in_port)
        return self._happened()

    def _happened(self):
        while self.slowpath.handle_punts():
            pass
        outputs = [(sent.port, sent.frame, sent.tunnel_id) for sent in self.datapath.take_sent()]
        packet_ins = [
            (e.action.reason, e.action.cookie, e.action.table_id, e.metadata, e.tunnel_id, e.frame)
            for e in self.events
        ]
        self.events.clear()
        self.naive.macs = {at: self.slowpath.macs.port_of(*at) for at in self.slowpath.macs}
        return outputs, packet_ins, self.naive.macs

    def check_programs(self):
        """No entry's program is another than a new translation of its key."""
        for key, entry in self.datapath.entries.items():
            fresh = translate(Packet(key), self.slowpath.world)
            assert entry.program == fresh.program
            assert fresh.uncacheable is None
        assert self.datapath.entries.keys() == self.slowpath.flows.keys()

    def check_counters(self):
        self.settle()
        for _part in self.slowpath.credit_all():
            pass
        assert not self.slowpath._ending
        assert self.tables.tables[0].lookups == self.packets


def is_among(happened, expected):
    """Did one of the expected things happen? Whether an address is learned from a packet whose TTL is over is
    nobody's business."""
    if any(packet_in[0] == PacketInReason.INVALID_TTL for packet_in in happened[1]):
        return happened[:2] in [outcome[:2] for outcome in expected]
    return happened in expected


# --- packets ---------------------------------------------------------------------------------------------

A, B, C = "00:00:00:00:00:0a", "00:00:00:00:00:0b", "00:00:00:00:00:0c"


AF11, AF12, AF13 = 10, 12, 14


def ether(dst=B, **fields):
    return Ether(src=A, dst=dst, **fields)


def ip(**fields):
    return IP(src="10.0.0.1", dst="10.0.0.2", **fields)


def ip6(**fields):
    return IPv6(src="fd00::1", dst="fd00::2", **fields)


def pbb(isid, inner):
    return bytes(Ether(src=C, dst=B, type=0x88E7)) + isid.to_bytes(4, "big") + bytes(inner)


FRAMES = [
    bytes(frame)
    for frame in (
        ether() / ip() / UDP(sport=1, dport=2) / b"abc",
        ether() / ip(ttl=1) / UDP(sport=1, dport=2, chksum=0) / b"abc",
        ether() / ip(tos=46 << 2) / TCP(sport=1, dport=2) / b"abcd",
        Ether(src=B, dst=A) / IP(src="10.0.0.2", dst="10.0.0.1") / TCP(sport=2, dport=1),
        ether() / ip(tos=AF11 << 2) / UDP(sport=1, dport=2) / b"abc",
        ether() / ip(tos=AF12 << 2 | 1) / TCP(sport=1, dport=2) / b"abcd",
        ether() / ip6(tc=AF11 << 2 | 3) / UDP(sport=1, dport=2),
        ether() / Dot1Q(vlan=5) / ip(tos=AF11 << 2) / UDP(sport=1, dport=2),
        ether() / ip(flags="MF") / UDP(sport=1, dport=2) / b"abcdefgh",
        ether() / ip(frag=10, proto=17) / bytes(24),
        ether() / ip() / ICMP(type=8) / b"ping",
        ether() / ip() / SCTP(sport=1, dport=2) / SCTPChunkData(data=b"abcd"),
        ether() / ip6(fl=7) / TCP(sport=1, dport=2) / b"abc",
        ether() / ip6(tc=4) / UDP(sport=1, dport=2),
        ether() / ip6() / IPv6ExtHdrHopByHop() / UDP(sport=1, dport=2),
        ether() / ip6() / IPv6ExtHdrFragment(offset=9, nh=17) / bytes(24),
        ether() / ip6() / ICMPv6EchoRequest(),
        ether() / ip6() / ICMPv6ND_NS(tgt="fd00::2") / ICMPv6NDOptSrcLLAddr(lladdr=A),
        ether() / ip6() / ICMPv6ND_NA(tgt="fd00::2") / ICMPv6NDOptDstLLAddr(lladdr=A),
        ether("ff:ff:ff:ff:ff:ff") / ARP(op=1, psrc="10.0.0.1", pdst="10.0.0.2", hwsrc=A),
        ether() / ARP(op=300, psrc="10.0.0.1", pdst="10.0.0.2", hwsrc=B),
        ether() / Dot1Q(vlan=5, prio=3) / ip() / UDP(sport=1, dport=2),
        ether() / Dot1Q(vlan=5) / Dot1Q(vlan=6, prio=1) / ip() / UDP(sport=1, dport=2),
        ether(type=0x88A8) / Dot1Q(vlan=5) / Dot1Q(vlan=6) / Dot1Q(vlan=7) / ip() / UDP(sport=1, dport=2),
        ether() / MPLS(label=1, cos=2, s=1, ttl=64) / ip() / UDP(sport=1, dport=2),
        ether() / MPLS(label=1, s=0, ttl=1) / MPLS(label=2, s=1, ttl=9) / ip6() / UDP(sport=1, dport=2),
        ether() / Dot1Q(vlan=5) / MPLS(label=1, s=1, ttl=64) / ip() / UDP(sport=1, dport=2),
        pbb(7, ether() / ip() / UDP(sport=1, dport=2)),
        pbb(8, ether() / Dot1Q(vlan=5) / ip() / UDP(sport=1, dport=2)),
        ether("01:80:c2:00:00:00", type=0x1234) / bytes(30),
    )
]

# --- rules -----------------------------------------------------------------------------------------------

TCP4, UDP4 = {"eth_type": 0x800, "ip_proto": 6}, {"eth_type": 0x800, "ip_proto": 17}
UDP6 = {"eth_type": 0x86DD, "ip_proto": 17}
ND = {"eth_type": 0x86DD, "ip_proto": 58}
MATCHES = [
    {"in_port": 1}, {"in_port": 2, "in_phy_port": 2}, {"in_port": TUNNEL, "in_phy_port": 1},
    {"in_port": TUNNEL, "in_phy_port": 2}, {"tunnel_id": 5}, {"tunnel_id": (1, 1)},
    {"metadata": 1}, {"metadata": (0, 1)}, {"eth_dst": 0x0B}, {"eth_dst": (0x0B, 0x0F)}, {"eth_src": 0x0A},
    {"eth_dst": 0x1234}, {"eth_type": 0x800}, {"eth_type": 0x86DD}, {"eth_type": 0x806}, {"eth_type": 0x8847},
    {"eth_type": 0x88E7}, {"eth_type": 0x8100}, {"vlan_vid": 0}, {"vlan_vid": 0x1005}, {"vlan_vid": 0x1006},
    {"vlan_vid": (0x1000, 0x1000)}, {"vlan_vid": 0x1005, "vlan_pcp": 3}, {"eth_type": 0x800, "ip_dscp": 46},
    {"eth_type": 0x86DD, "ip_ecn": 0}, {"eth_type": 0x800, "ip_dscp": AF11},
    {"eth_type": 0x800, "ip_dscp": AF12}, {"eth_type": 0x800, "ip_dscp": AF13},
    {"eth_type": 0x86DD, "ip_dscp": AF13}, TCP4, UDP4, {"eth_type": 0x800, "ipv4_src": 0x0A000001},
    {"eth_type": 0x800, "ipv4_dst": (0x0A000000, 0xFFFFFF00)}, {"eth_type": 0x800, "ipv4_dst": 0x0A000009},
    TCP4 | {"tcp_dst": 2}, UDP4 | {"udp_src": 1}, UDP4 | {"udp_dst": 99}, UDP6 | {"udp_src": 1},
    {"eth_type": 0x800, "ip_proto": 132, "sctp_dst": 2}, {"eth_type": 0x800, "ip_proto": 1, "icmpv4_type": 8},
    {"eth_type": 0x86DD, "ipv6_src": (0xFD << 120, 0xFF << 120)}, {"eth_type": 0x86DD, "ipv6_flabel": 7},
    ND | {"icmpv6_type": 128}, ND | {"icmpv6_type": 135, "ipv6_nd_target": (0xFD << 120) + 2},
    ND | {"icmpv6_type": 135, "ipv6_nd_sll": 0x0A}, ND | {"icmpv6_type": 136, "ipv6_nd_tll": 0x0A},
    {"eth_type": 0x806, "arp_op": 1}, {"eth_type": 0x806, "arp_op": 300}, {"eth_type": 0x806, "arp_op": 44},
    {"eth_type": 0x806, "arp_spa": 0x0A000001}, {"eth_type": 0x806, "arp_sha": 0x0B},
    {"eth_type": 0x806, "arp_op": 1, "arp_tha": 0}, {"eth_type": 0x8847, "mpls_label": 1},
    {"eth_type": 0x8847, "mpls_label": 2}, {"eth_type": 0x8847, "mpls_bos": 1},
    {"eth_type": 0x8847, "mpls_tc": 2},
    {"eth_type": 0x88E7, "pbb_isid": 7}, {"eth_type": 0x88E7, "pbb_isid": (8, 8)},
]  # fmt: skip

SETS = {
    "eth_dst": (0x0B, 0x1234), "eth_src": (0x0A, 0x0C), "vlan_vid": (0x1005, 0x1006), "vlan_pcp": (3, 0),
    "ip_dscp": (46, 0, AF11), "ip_ecn": (0, 1), "ipv4_src": (0x0A000001, 9),
    "ipv4_dst": (0x0A000009, 0x0A000002),
    "ipv6_src": ((0xFD << 120) + 1, 3), "ipv6_flabel": (7, 8), "tcp_dst": (2, 99), "udp_src": (1, 99),
    "udp_dst": (99, 2), "sctp_dst": (2, 99), "icmpv4_type": (8, 0), "icmpv6_type": (128, 129),
    "ipv6_nd_target": ((0xFD << 120) + 2, 5), "ipv6_nd_sll": (0x0A, 0x0B), "ipv6_nd_tll": (0x0A, 0x0B),
    "arp_op": (1, 300), "arp_spa": (0x0A000001, 2), "arp_sha": (0x0B, 0x0A), "arp_tha": (0, 1),
    "mpls_label": (1, 2), "mpls_tc": (2, 0), "mpls_bos": (0, 1), "pbb_isid": (7, 8), "tunnel_id": (5, 6),
    "eth_type": (0x800, 0x8847, 0x1234),
}  # fmt: skip
SET_FIELDS = [of.SetField(Oxm(BY_NAME[name], value)) for name, values in SETS.items() for value in values]
OUTPUTS = [
    of.Output(port)
    for port in (
        *(1, 2, 3, TUNNEL, 77),
        *(Port.FLOOD, Port.ALL, Port.IN_PORT, Port.NORMAL, Port.CONTROLLER, Port.LOCAL),
    )
]
TAGS = [
    of.PushVlan(0x8100), of.PushVlan(0x88A8), of.PopVlan(), of.PushMpls(0x8847), of.PopMpls(0x800),
    of.PopMpls(0x86DD), of.PopMpls(0x8847), of.PopMpls(0x8100), of.PushPbb(0x88E7), of.PopPbb(),
]  # fmt: skip
TTLS = [of.SetNwTtl(9), of.SetMplsTtl(8), of.DecNwTtl(), of.DecMplsTtl(), of.CopyTtlIn(), of.CopyTtlOut(),
        of.SetQueue(1)]  # fmt: skip


class Scenario:
    """Rules, groups, packets and what else happens, drawn by a seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def action(self, groups=(1, 2)):
        kinds = [OUTPUTS, OUTPUTS, OUTPUTS, SET_FIELDS, SET_FIELDS, TAGS, TTLS, [of.Group(n) for n in groups]]
        return self.random.choice(self.random.choice(kinds[: None if groups else -1]))

    def actions(self, groups=(1, 2)):
        return tuple(self.action(groups) for _ in range(self.random.randint(0, 4)))

    def flow_mod(self):
        draw = self.random
        table_id = draw.randrange(TABLES)
        instructions = []
        if not draw.randrange(6):
            instructions.append(Meter(draw.randint(1, 2)))
        if draw.randrange(4):
            instructions.append(ApplyActions(self.actions()))
        if not draw.randrange(5):
            instructions.append(ClearActions())
        if not draw.randrange(3):
            instructions.append(WriteActions(self.actions()))
        if not draw.randrange(3):
            instructions.append(WriteMetadata(draw.randrange(4), 3))
        if table_id < TABLES - 1 and draw.randrange(2):
            instructions.append(GotoTable(draw.randint(table_id + 1, TABLES - 1)))
        return FlowMod(
            Match.of(**draw.choice(MATCHES if draw.randrange(3) else [{}, {"in_port": 1}])),
            Instructions.of(*instructions),
            command=FlowModCommand(draw.choice([0, 0, 0, 0, 0, 1, 2, 3, 4])),
            table_id=table_id,
            priority=draw.randrange(4),
            cookie=draw.randrange(4),
        )

    def group_change(self):
        """Group 1 may go through group 2."""
        draw = self.random
        number = draw.randint(1, 2)
        if not draw.randrange(5):
            return "group", number, None
        kind = draw.randrange(4)
        buckets = tuple(
            Bucket(
                draw.randrange(4) if kind == 1 else 0,
                draw.choice([ANY, 2, 3]) if kind in (1, 3) else ANY,
                ANY,
                self.actions(groups=(2,) if number == 1 else ()),
            )
            for _ in range(1 if kind == 2 else draw.randint(1, 3))
        )
        return "group", number, Group(number, kind, buckets, 0)

    def port_change(self):
        return "port", self.random.choice([2, 3]), bool(self.random.randrange(2))

    def uplink_change(self):
        return "uplink", self.random.choice([1, 2])

    def quiet_change(self):
        return "quiet", self.random.choice([1, TUNNEL]), bool(self.random.randrange(2))

    def eviction(self):
        return "evict", self.random.randrange(8)

    def excess(self):
        return "exceed", bool(self.random.randrange(2))

    def packet(self):
        draw = self.random
        return "packet", draw.choice(FRAMES), draw.choice([1, 1, 2, 3, TUNNEL]), draw.choice([0, 5])

    def packet_out(self):
        draw = self.random
        actions = self.actions()
        if draw.randrange(2):
            actions = (*actions, of.Output(Port.TABLE))
        return "packet_out", draw.choice(FRAMES), draw.choice([1, 3, Port.CONTROLLER]), actions

    def start(self):
        """Enough rules that most packets find some."""
        for _ in range(self.random.randint(5, 25)):
            yield self.flow_mod() if self.random.randrange(5) else self.group_change()

    def events(self, *others):
        for _ in range(60):
            kind = self.random.randrange(10)
            if kind < 2:
                yield self.flow_mod()
            elif kind < 8:
                yield self.packet()
            else:
                yield self.random.choice(others)(self)


EXAMPLES = 40 if settings.default.max_examples <= 100 else 3000
EVENTS = (
    Scenario.group_change,
    Scenario.port_change,
    Scenario.uplink_change,
    Scenario.quiet_change,
    Scenario.eviction,
    Scenario.excess,
    Scenario.packet_out,
)
QUIET_EVENTS = Scenario.group_change, Scenario.eviction, Scenario.excess


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(0, 1 << 32), st.booleans())
def test_cache_is_a_naive_switch(seed, proactive_reverse):
    rig = Rig(proactive_reverse)
    go_through(rig, seed)
    rig.check_counters()


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(4, 40))
def test_cache_is_a_naive_switch_that_does_not_do_much(seed, max_operations):
    """Packets that take too many operations are dropped as a whole, the first of a flow as those after it."""
    rig = Rig()
    rig.naive.max_operations = max_operations
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "MAX_OPERATIONS", max_operations)
        go_through(rig, seed)


def go_through(rig, seed):
    """Compare a switch with the naive one, whatever happens to it."""
    scenario = Scenario(seed)
    for event in itertools.chain(scenario.start(), scenario.events(*EVENTS)):
        match event:
            case FlowMod():
                rig.change_rules(event)
            case ("group", number, group):
                rig.change_group(number, group)
            case ("port", port, there):
                rig.set_port(port, there)
            case ("uplink", port):
                rig.set_uplink(port)
            case ("quiet", port, quiet):
                rig.set_quiet(port, quiet)
            case ("evict", number):
                rig.evict(number)
            case ("exceed", exceeded):
                rig.exceed(exceeded)
            case ("packet", data, in_port, tunnel_id) if in_port in rig.datapath.infos:
                rig.settle()
                tunnel_id = tunnel_id if in_port == TUNNEL else 0
                expected = rig.naive.possibilities(data, in_port, tunnel_id)
                assert is_among(rig.receive(data, in_port, tunnel_id), expected)
            case ("packet_out", data, in_port, actions) if in_port in (*rig.datapath.infos, Port.CONTROLLER):
                rig.settle()
                rig.exceed(False)  # what meters make of a packet-out, tables do not see
                expected = rig.naive.possibilities(data, in_port, 0, actions)
                assert is_among(rig.packet_out(data, in_port, actions), expected)
        rig.settle()
        rig.check_programs()
    assert rig.datapath.held == 0


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(0, 6))
def test_counters_are_exact_whenever_commands_are_applied(seed, lag):
    """The datapath is `lag` commands behind; entries end by themselves meanwhile. No packet is lost to rules'
    counters, none counted twice."""
    rig = Rig()
    rig.datapath.lag = lag
    scenario = Scenario(seed)
    for event in itertools.chain(scenario.start(), scenario.events(Scenario.group_change, Scenario.eviction)):
        match event:
            case FlowMod():
                rig.change_rules(event)
            case ("group", number, group):
                rig.change_group(number, group)
            case ("evict", number):
                rig.evict(number)
            case ("exceed", exceeded):
                rig.exceed(exceeded)
            case ("packet", data, in_port, tunnel_id):
                rig.receive(data, in_port, tunnel_id if in_port == TUNNEL else 0)
    rig.check_counters()
