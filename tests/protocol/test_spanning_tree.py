# SPDX-License-Identifier: Apache-2.0
"""The spanning tree: engines wired back to back in virtual time, and its bytes against scapy's."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import LLC, STP, Dot3

from vswitch.agent.bpdu import SECOND_NS, ConfigBpdu, TcnBpdu, decode_frame, encode_frame
from vswitch.agent.spanning_tree import SpanningTree, State
from vswitch.config import StpSettings, parse_stp
from vswitch.errors import ConfigError

DEFAULT = StpSettings()
CONVERGENCE_NS = (DEFAULT.max_age + 2 * DEFAULT.forward_delay + 5) * SECOND_NS
SOURCE = bytes.fromhex("024f00000101")


class Network:
    """Bridges by number, joined by cables of ((bridge, port), (bridge, port)). Cables take a millisecond."""

    def __init__(self, count, cables, settings=DEFAULT):
        self.now = 0
        self.trees = {n: SpanningTree(32768 << 48 | n, settings, 0) for n in range(1, count + 1)}
        self.cables = []
        self.flying = []  # (due, bridge, port, bpdu)
        for ends in cables:
            self.plug(ends)

    def plug(self, ends):
        self.cables.append(ends)
        for bridge, port in ends:
            self.trees[bridge].enable(port, self.now)
            self._send(bridge)

    def cut(self, ends, noticed=True):
        """noticed: the link goes down at both ends, too."""
        self.cables.remove(ends)
        for bridge, port in ends if noticed else ():
            self.trees[bridge].disable(port, self.now)
            self._send(bridge)

    def run(self, duration_ns, watch=lambda: None):
        end = self.now + duration_ns
        while True:
            timers = [tree.next_timer() for tree in self.trees.values()]
            due = min([*(t for t in timers if t is not None), *(f[0] for f in self.flying)], default=end)
            if due > end:
                self.now = end
                return
            self.now = max(self.now, due)
            arrived = [f for f in self.flying if f[0] <= self.now]
            self.flying = [f for f in self.flying if f[0] > self.now]
            for _, bridge, port, bpdu in arrived:
                self.trees[bridge].receive(port, bpdu, self.now)
                self._send(bridge)
            for bridge, tree in self.trees.items():
                tree.handle_timer(self.now)
                self._send(bridge)
            watch()

    def _send(self, bridge):
        for port, bpdu in self.trees[bridge].to_send():
            frame = encode_frame(bpdu, SOURCE)
            for ends in self.cables:
                if (bridge, port) in ends:
                    far = ends[1 - ends.index((bridge, port))]
                    self.flying.append((self.now + 1_000_000, *far, decode_frame(frame)))

    def forwarding(self):
        """The cables that frames cross."""
        return [
            ends for ends in self.cables if all(self.trees[b].state(p) == State.FORWARDING for b, p in ends)
        ]

    def components(self, cables):
        groups = {bridge: {bridge} for bridge in self.trees}
        for (one, _), (other, _) in cables:
            merged = groups[one] | groups[other]
            for bridge in merged:
                groups[bridge] = merged
        return {frozenset(group) for group in groups.values()}

    def has_loop(self):
        cables = self.forwarding()
        return len(cables) > len(self.trees) - len(self.components(cables))

    def check_tree(self):
        """One tree that joins whatever cables join, with the least bridge of each part as its root."""
        cables = self.forwarding()
        assert not self.has_loop()
        assert self.components(cables) == self.components(self.cables)
        for part in self.components(self.cables):
            for bridge in part:
                assert self.trees[bridge].designated_root & 0xFFFF == min(part)


def network_of(count, pairs):
    """A network with a cable between the bridges of each pair; ports are numbered as cables come."""
    used = dict.fromkeys(range(1, count + 1), 0)
    cables = []
    for pair in pairs:
        ends = []
        for bridge in pair:
            used[bridge] += 1
            ends.append((bridge, used[bridge]))
        cables.append(tuple(ends))
    return Network(count, cables)


@st.composite
def graphs(draw):
    count = draw(st.integers(2, 7))
    pairs = [pair for pair in combinations(range(1, count + 1), 2)]
    return count, draw(st.lists(st.sampled_from(pairs), min_size=1, max_size=14))  # parallel cables too


@given(graphs())
def test_exactly_one_spanning_tree(graph):
    network = network_of(*graph)
    network.run(CONVERGENCE_NS)
    network.check_tree()


@given(graphs(), st.integers(0, 1 << 30), st.booleans())
def test_it_mends_itself_and_never_loops(graph, seed, noticed):
    """Cables go and come back, with the link's state or silently; at no moment does a loop forward."""
    network = network_of(*graph)
    loops = []
    watch = lambda: loops.append(network.now) if network.has_loop() else None  # noqa: E731
    chance = random.Random(seed)
    network.run(CONVERGENCE_NS, watch)
    for _ in range(3):
        cut = chance.choice(network.cables)
        network.cut(cut, noticed)
        network.run(chance.randrange(1, 4) * CONVERGENCE_NS // 3, watch)
        if noticed:
            network.plug(cut)
        network.run(CONVERGENCE_NS, watch)
        network.check_tree()
        if not network.cables:
            break
    assert not loops


def test_the_shortest_way_to_the_root_carries():
    """Of a ring of four the cable far from the root is not used, at the end of the higher number."""
    network = network_of(4, [(1, 2), (2, 3), (3, 4), (4, 1)])
    network.run(CONVERGENCE_NS)
    assert network.trees[3].root_port == 1  # of two ways that are as long, that of the lesser bridge
    assert [network.trees[4].state(port) for port in (1, 2)] == [State.FORWARDING] * 2
    assert [network.trees[3].role(port) for port in (1, 2)] == ["root", "blocked"]
    assert network.trees[3].state(2) == State.BLOCKING


def test_a_port_listens_and_learns_before_it_forwards():
    network = network_of(2, [(1, 2)])
    seen = []
    network.run(35 * SECOND_NS, lambda: seen.append((network.trees[1].state(1), network.now)))
    first = {state: time for state, time in reversed(seen)}
    assert list(dict.fromkeys(state for state, _ in seen)) == [
        State.LISTENING,
        State.LEARNING,
        State.FORWARDING,
    ]
    assert first[State.LEARNING] == 15 * SECOND_NS
    assert first[State.FORWARDING] == 30 * SECOND_NS


def test_a_failure_that_nobody_notices_is_found_by_the_missing_hellos():
    network = network_of(3, [(1, 2), (2, 3), (3, 1)])
    network.run(CONVERGENCE_NS)
    assert network.trees[3].role(1) == "blocked"
    network.cut(((1, 1), (2, 1)), noticed=False)
    network.run(45 * SECOND_NS)
    assert ((2, 2), (3, 1)) not in network.forwarding()
    network.run(5 * SECOND_NS)  # within max_age and two forward delays in all
    network.check_tree()


def test_a_change_makes_addresses_be_learned_anew_everywhere():
    network = network_of(4, [(1, 2), (2, 3), (3, 1), (3, 4)])
    network.run(2 * CONVERGENCE_NS)
    for tree in network.trees.values():
        assert not tree.topology_change
        tree.addresses_moved = False
    network.cut(((3, 2), (1, 2)))
    network.run(CONVERGENCE_NS)
    assert all(tree.addresses_moved for tree in network.trees.values())


def test_the_roots_timers_hold_for_all():
    fast = StpSettings(hello_time=1, max_age=6, forward_delay=4)
    network = Network(2, [])
    network.trees[1] = SpanningTree(1, fast, 0)
    network.plug(((1, 1), (2, 1)))
    network.run(9 * SECOND_NS)
    network.check_tree()
    assert network.trees[2].forward_delay_ns == 4 * SECOND_NS


def test_our_own_bpdu_come_back_changes_nothing():
    """As from a host that echoes, or a cable from a port to itself."""
    tree = SpanningTree(7, DEFAULT, 0)
    tree.enable(1, 0)
    ((_, bpdu),) = tree.to_send()
    tree.receive(1, bpdu, 1)
    assert tree.role(1) == "designated"
    assert tree.to_send() == []


def test_a_cable_between_two_ports_of_one_bridge_is_blocked_at_one_end():
    network = Network(1, [((1, 1), (1, 2))])
    network.run(CONVERGENCE_NS)
    assert [network.trees[1].state(port) for port in (1, 2)] == [State.FORWARDING, State.BLOCKING]


def test_of_two_ports_on_one_cable_the_lesser_stays_designated():
    tree = SpanningTree(7, DEFAULT, 0)
    for port in (1, 2):
        tree.enable(port, 0)
    (_, first), (_, second) = tree.to_send()
    tree.receive(1, second, 1)
    tree.receive(2, first, 1)
    assert [tree.role(port) for port in (1, 2)] == ["designated", "blocked"]


def told(root=1, age_s=0, bridge=1, **fields):
    """What a bridge with a better root says."""
    times = {"max_age_ns": 20 * SECOND_NS, "hello_time_ns": 2 * SECOND_NS, "forward_delay_ns": 15 * SECOND_NS}
    return ConfigBpdu(root, 0, bridge, 0x8001, age_s * SECOND_NS, **{**times, **fields})


def two_ports():
    """A bridge with two ports, which have said what they say at first."""
    tree = SpanningTree(32768 << 48 | 5, DEFAULT, 0)
    for port in (1, 2):
        tree.enable(port, 0)
    tree.handle_timer(SECOND_NS)
    tree.to_send()
    return tree


@pytest.mark.parametrize(("age_s", "passed_on_s"), [(0, 1), (18, 19), (19, None)])
def test_what_is_told_ages_by_a_second_from_bridge_to_bridge(age_s, passed_on_s):
    """And is not passed on when it is as old as it may become."""
    tree = two_ports()
    tree.receive(1, told(age_s=age_s), SECOND_NS)
    ages = [bpdu.message_age_ns // SECOND_NS for port, bpdu in tree.to_send() if port == 2]
    assert ages == ([] if passed_on_s is None else [passed_on_s])


def test_news_within_a_second_waits_and_is_not_lost():
    tree = two_ports()
    tree.receive(1, told(root=4, bridge=4), SECOND_NS)
    assert [bpdu.root_id for port, bpdu in tree.to_send()] == [4]
    tree.receive(1, told(root=3, bridge=3), SECOND_NS + 1)
    assert tree.to_send() == []
    tree.handle_timer(2 * SECOND_NS)
    assert [(port, bpdu.root_id) for port, bpdu in tree.to_send()] == [(2, 3)]


def test_who_knows_less_is_told_at_once():
    tree = two_ports()
    tree.receive(2, told(root=0xFFFF << 48, bridge=0xFFFF << 48), SECOND_NS)
    assert [(port, bpdu.root_id) for port, bpdu in tree.to_send()] == [(2, tree.bridge_id)]


def test_a_bridge_that_becomes_the_root_goes_by_its_own_times():
    tree = two_ports()
    fast = {"max_age_ns": 6 * SECOND_NS, "forward_delay_ns": 4 * SECOND_NS}
    tree.receive(1, told(**fast), SECOND_NS)
    assert tree.forward_delay_ns == 4 * SECOND_NS
    tree.handle_timer(7 * SECOND_NS)
    assert (tree.root_port, tree.forward_delay_ns) == (None, 15 * SECOND_NS)


@given(st.lists(st.tuples(st.integers(1, 3), st.binary(max_size=60), st.integers(0, 5)), max_size=30))
def test_hostile_bpdus_neither_stop_nor_confuse_the_engine(inputs):
    tree = SpanningTree(32768 << 48 | 5, DEFAULT, 0)
    now = 0
    for port in (1, 2):
        tree.enable(port, 0)
    for port, payload, seconds in inputs:
        now += seconds * SECOND_NS
        tree.handle_timer(now)
        bpdu = decode_frame(bytes(12) + len(payload).to_bytes(2, "big") + payload)
        if bpdu is not None:
            tree.receive(port, bpdu, now)
    for _ in range(600):  # a BPDU's times are of at most 256 s
        now += SECOND_NS
        tree.handle_timer(now)
    assert [tree.state(port) for port in (1, 2)] == [State.FORWARDING] * 2
    assert tree.designated_root == tree.bridge_id


configs = st.builds(
    ConfigBpdu,
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 0xFFFF),
    st.integers(0, 5).map(lambda s: s * SECOND_NS),
    st.integers(6, 40).map(lambda s: s * SECOND_NS),
    st.integers(1, 10).map(lambda s: s * SECOND_NS),
    st.integers(4, 30).map(lambda s: s * SECOND_NS),
    st.booleans(),
    st.booleans(),
)


@given(configs)
def test_a_configuration_bpdu_is_what_scapy_reads(bpdu):
    frame = encode_frame(bpdu, SOURCE)
    assert len(frame) == 60
    packet = Dot3(frame)
    assert (packet.dst, packet.src, packet.len) == ("01:80:c2:00:00:00", SOURCE.hex(":"), 38)
    assert (packet[LLC].dsap, packet[LLC].ssap, packet[LLC].ctrl) == (0x42, 0x42, 3)
    stp = packet[STP]
    assert (stp.proto, stp.version, stp.bpdutype) == (0, 0, 0)
    assert stp.bpduflags == bpdu.topology_change | bpdu.topology_change_ack << 7
    assert stp.rootid << 48 | int(stp.rootmac.replace(":", ""), 16) == bpdu.root_id
    assert stp.bridgeid << 48 | int(stp.bridgemac.replace(":", ""), 16) == bpdu.bridge_id
    assert (stp.pathcost, stp.portid) == (bpdu.root_path_cost, bpdu.port_id)
    times = stp.age, stp.maxage, stp.hellotime, stp.fwddelay
    assert [time * SECOND_NS for time in times] == list(bpdu[4:8])
    assert decode_frame(frame) == bpdu


def test_a_topology_change_notification_is_what_scapy_reads():
    frame = encode_frame(TcnBpdu(), SOURCE)
    assert Dot3(frame).len == 7
    assert bytes(Dot3(frame)[LLC].payload)[:4] == b"\0\0\0\x80"
    assert decode_frame(frame) == TcnBpdu()


def scapy_frame(**fields):
    return bytes(Dot3(dst="01:80:c2:00:00:00", src="02:00:00:00:00:01") / LLC() / STP(**fields))


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (scapy_frame(age=20, maxage=20), "too old"),
        (scapy_frame(proto=1), "another protocol"),
        (scapy_frame(bpdutype=0x42), "no such type"),
        (scapy_frame()[:40], "cut off"),
        (scapy_frame().replace(b"\x42\x42\x03", b"\xaa\xaa\x03"), "SNAP, as Cisco's own protocols"),
        (bytes(12) + b"\x08\x00" + bytes(46), "no 802.3 frame"),
        (b"", "nothing"),
    ],
)
def test_what_is_no_bpdu_is_not_taken_for_one(frame, why):
    assert decode_frame(frame) is None, why


def test_a_later_versions_bpdu_is_read_as_one_of_ours():
    assert decode_frame(scapy_frame(version=2)) is not None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "colour=red",
            "stp: a spanning tree has no setting 'colour' (allowed: priority, hello_time, max_age, ",
        ),
        ("priority", "stp: the option 'priority' has no value (allowed: key=value)"),
        ("hello_time=0", "stp.hello_time: '0' is out of range (allowed: a whole number from 1 to 10)"),
        ("forward_delay=4", "stp.max_age: 20 does not go with hello_time 2 and forward_delay 4 (allowed: "),
    ],
)
def test_settings_that_cannot_be(text, sentence):
    with pytest.raises(ConfigError) as error:
        parse_stp(text)
    assert str(error.value).startswith(sentence)


def test_settings_that_can():
    assert parse_stp("") == DEFAULT
    assert parse_stp("priority=0,hello_time=1,max_age=6,forward_delay=4") == StpSettings(0, 1, 6, 4)
