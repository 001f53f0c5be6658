# SPDX-License-Identifier: Apache-2.0
"""The NIC's API, as a driver uses it, on two switches (S0.1, S0.3, S0.5 to S0.7, S0.10)."""

from __future__ import annotations

import select
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.packets import IP, TCP, Ether, payload_of, tcp_segment, tcp_stream, vxlan
from tests.reference import l4_checksum_right, nic_first
from tests.unit.rig import INTERPRETED, Rig, examples
from tests.unit.servers import TUNNEL_PORT, VM_PORT, VNI, WIRE_PORT, Pair, SocketTap
from vswitch import layout
from vswitch import nic as api
from vswitch.dataplane.ports.vnet import DATA_VALID
from vswitch.errors import ConfigError
from vswitch.flow import Output
from vswitch.nic import Match, Rule

MSS = 1000
SEGMENTS = 5
VM2_MAC = "00:00:00:00:00:02"
FIELDS = "dst_mac, protocol, src_ip, dst_ip, src_port, dst_port, vni"


@pytest.fixture(params=["VXLAN", "plain", "VXLAN, 3 workers"])
def pair(request, monkeypatch, tmp_path):
    monkeypatch.setattr("vswitch.ports.TapDevice", SocketTap)
    workers = 3 if request.param.endswith("workers") else 1
    pair = Pair(str(tmp_path / "wire"), tunnel=request.param != "plain", workers=workers)
    yield pair
    pair.close()


@pytest.fixture
def nic(pair):
    """The receiving NIC."""
    return pair.servers[1].dp.nic(WIRE_PORT)


class Flow:
    """A connection from VM 1 to a port of VM 2."""

    def __init__(self, pair, dport, sport=5001):
        self.pair, self.ports, self.seq = pair, {"dport": dport, "sport": sport}, 1000

    def send(self):
        """Send a super-frame; how many frames of the network each packet that VM 2 gets was made of."""
        frame = tcp_segment(MSS * SEGMENTS, self.seq, seed=self.seq, **self.ports)
        self.seq += MSS * SEGMENTS
        self.pair.servers[0].send(frame, gso_size=MSS)
        self.pair.run()
        delivered = self.pair.servers[1].received()
        for packet in delivered:
            packet.assert_consistent()
        assert b"".join(payload_of(packet.frame) for packet in delivered) == payload_of(frame)
        return [len(payload_of(packet.frame)) // MSS for packet in delivered]


MERGED, ALONE = [SEGMENTS], [1] * SEGMENTS


def test_s0_1_each_queue_has_its_own_setting(pair, nic):
    nic.set_queue_count(2)
    nic.set_equal(1)
    nic.add_filter(Match(protocol="tcp", dst_port=80), queue=1)
    web, mail = Flow(pair, 80), Flow(pair, 110)
    assert (web.send(), mail.send()) == (MERGED, MERGED)
    nic.set_lro(1, "off")
    assert (web.send(), mail.send()) == (ALONE, MERGED)
    nic.set_lro(0, "off")
    nic.set_lro(1, "on")
    assert (web.send(), mail.send()) == (MERGED, ALONE)
    assert [stats.frames for stats in nic.stats()] == [3 * SEGMENTS] * 2
    assert [stats.aggregates for stats in nic.stats()] == [2, 2]
    assert [stats.merged for stats in nic.stats()] == [2 * (SEGMENTS - 1)] * 2
    assert [stats.reasons["disabled"] for stats in nic.stats()] == [SEGMENTS] * 2


@pytest.mark.parametrize(
    "match",
    [
        Match(protocol="tcp", dst_port=110),
        Match(protocol="tcp", src_ip="10.0.0.1", dst_ip="10.0.0.2", src_port=5001, dst_port=110),
    ],
    ids=["wildcards", "fully given"],
)
def test_s0_3_flows_that_match_a_rule_are_coalesced_and_no_others(pair, nic, match):
    nic.set_lro(None, "rules")
    nic.add_rule(match)
    assert (Flow(pair, 110).send(), Flow(pair, 111).send()) == (MERGED, ALONE)
    assert nic.stats()[0].reasons["no_rule"] == SEGMENTS


@pytest.mark.parametrize(
    ("match", "other"),
    [
        ({"dst_mac": VM2_MAC}, {"dst_mac": "00:00:00:00:00:03"}),
        ({"dst_ip": "10.0.0.2"}, {"dst_ip": "10.0.0.3"}),
        ({"dst_ip": "10.0.0.0/30"}, {"dst_ip": "10.0.0.4/30"}),
    ],
)
def test_s0_3_rules_by_destination(pair, nic, match, other):
    nic.set_lro(None, "rules")
    rule = nic.add_rule(Match(**other))
    assert Flow(pair, 80).send() == ALONE
    nic.delete_rule(rule.id)
    nic.add_rule(Match(**match))
    assert Flow(pair, 80).send() == MERGED


def test_s0_3_a_rule_by_virtual_network(pair, nic):
    nic.set_lro(None, "rules")
    nic.add_rule(Match(vni=VNI if TUNNEL_PORT in pair.servers[1].dp._ports else 0))
    flow = Flow(pair, 80)
    assert flow.send() == MERGED
    nic.add_rule(Match(protocol="tcp"), lro=False, priority=1)
    assert flow.send() == ALONE


def test_s0_3_a_rule_serves_one_queue_several_or_all(pair, nic):
    nic.set_queue_count(3)
    flows = [Flow(pair, port) for port in (80, 81, 82)]
    for queue, flow in enumerate(flows):
        nic.add_filter(Match(protocol="tcp", dst_port=flow.ports["dport"]), queue)
    nic.set_lro(None, "rules")
    for queues, expected in (
        ([1], [ALONE, MERGED, ALONE]),
        ([0, 2], [MERGED, ALONE, MERGED]),
        (None, [MERGED] * 3),
    ):
        rule = nic.add_rule(Match(dst_ip="10.0.0.2"), queues)
        assert [flow.send() for flow in flows] == expected
        nic.delete_rule(rule.id)
    assert [flow.send() for flow in flows] == [ALONE] * 3


def test_s0_5_a_vif_coalesces_what_the_nic_leaves_alone(pair, nic):
    vif = pair.servers[1].dp.nic(VM_PORT)
    assert (vif.position, nic.position) == ("vif", "nic")
    nic.set_lro(None, "off")
    flow = Flow(pair, 80)
    assert flow.send() == ALONE
    vif.set_lro(None, "on")
    assert flow.send() == MERGED
    assert (vif.stats()[0].frames, vif.stats()[0].aggregates, nic.stats()[0].aggregates) == (SEGMENTS, 1, 0)
    vif.set_lro(None, "rules")
    assert flow.send() == ALONE
    vif.add_rule(Match(dst_mac=VM2_MAC))
    assert flow.send() == MERGED
    vif.set_lro(None, "off")
    assert flow.send() == ALONE


def test_s0_5_a_flow_that_more_than_one_port_gets_passes_the_vif(pair, nic):
    server = pair.servers[1]
    nic.set_lro(None, "off")
    flow = Flow(pair, 80)
    flow.send()
    server.dp.nic(VM_PORT).set_lro(0, "on")
    for key in server.dp.flow_stats():
        server.dp.install(key, (Output(VM_PORT), Output(WIRE_PORT)))
    assert flow.send() == ALONE


def test_s0_7_aggregates_are_completed_by_size(pair, nic):
    nic.set_completion_size(0, 3 * MSS + 40)
    flow = Flow(pair, 80)
    assert flow.send() == [3, 2]
    nic.set_completion_size(0, 3 * MSS + 39)
    assert flow.send() == [2, 2, 1]


def test_s0_10_the_kind_lro_delivers_one_large_packet_without_a_word_of_its_segments(pair, nic):
    nic.set_lro_kind(None, "lro")
    frame = tcp_segment(MSS * 4 + 501, 1000)
    pair.servers[0].send(
        frame, gso_size=MSS + 1
    )  # an odd size: the last segment's sum begins at an odd place
    pair.run()
    (packet,) = pair.servers[1].received()
    assert (packet.flags, packet.gso_type, packet.gso_size) == (DATA_VALID, 0, 0)
    assert l4_checksum_right(packet.frame)
    assert payload_of(packet.frame) == payload_of(frame)
    assert Ether(packet.frame)[IP].len == len(packet.frame) - 14
    nic.set_lro_kind(None, "gro")
    assert Flow(pair, 81).send() == MERGED


def test_s0_6_a_driver_polls_its_queue(pair, nic):
    nic.set_queue_count(2)
    nic.add_filter(Match(protocol="tcp", dst_port=80), 1)
    nic.add_filter(Match(protocol="tcp", dst_port=81), 0)
    web, other = Flow(pair, 80), Flow(pair, 81)
    with nic.open_queue(1) as handle:
        frame = tcp_segment(MSS * SEGMENTS, 1000, dport=80)
        pair.servers[0].send(frame, gso_size=MSS)
        pair.run()
        assert pair.servers[1].received() == []
        assert handle.waiting() == 1
        (packet,) = handle.poll()
        assert payload_of(packet.frame) == payload_of(frame)
        assert (packet.frames, packet.gso_size, packet.checksum) == (SEGMENTS, MSS, layout.Csum.PARTIAL)
        tunnelled = TUNNEL_PORT in pair.servers[1].dp._ports
        assert (packet.in_port, packet.tunnel_id) == ((TUNNEL_PORT, VNI) if tunnelled else (WIRE_PORT, 0))
        assert handle.poll() == []
        assert other.send() == MERGED
        with pytest.raises(ConfigError, match="is held by a driver already"):
            nic.open_queue(1)
    assert web.send() == MERGED


def test_s0_6_a_driver_that_armed_its_queue_is_woken_once(pair, nic):
    def is_readable():
        return bool(select.select([handle], [], [], 0)[0])

    def send():
        pair.servers[0].send(tcp_segment(10, 1000))
        pair.run()

    with nic.open_queue(0) as handle:
        send()
        assert not is_readable()
        handle.arm()
        assert is_readable()  # there was one already
        assert len(handle.poll()) == 1
        handle.arm()
        assert not is_readable()
        send()
        assert is_readable()
        assert len(handle.poll()) == 1
        handle.arm()
        assert not is_readable()


def test_s0_6_what_a_driver_leaves_no_room_for_is_counted(pair, nic):
    nic.set_lro(0, "off")
    with nic.open_queue(0) as handle:
        for number in range(layout.DRIVER_SLOTS // SEGMENTS + 1):
            pair.servers[0].send(tcp_segment(MSS * SEGMENTS, 1000 + number, dport=80), gso_size=MSS)
            pair.run()
        sent = SEGMENTS * (layout.DRIVER_SLOTS // SEGMENTS + 1)
        assert len(handle.poll(10)) == 10
        assert len(handle.poll(1000)) == layout.DRIVER_SLOTS - 10
        assert nic.stats()[0].dropped == sent - layout.DRIVER_SLOTS
        assert pair.servers[1].dp.counters()["driver_queue_full"] == sent - layout.DRIVER_SLOTS


def test_changes_on_live_traffic_lose_no_packet(pair, nic):
    """Every setting is changed between and before bursts, while commands wait to be applied."""
    changes = [
        lambda: nic.set_queue_count(4),
        lambda: nic.set_lro(0, "rules"),
        lambda: nic.add_filter(Match(dst_ip="10.0.0.2"), 3),
        lambda: nic.set_lro(3, "off"),
        lambda: nic.add_rule(Match(protocol="tcp")),
        lambda: nic.set_lro(None, "rules"),
        lambda: nic.set_weights([1, 2, 3]),
        lambda: nic.set_completion_size(None, 2500),
        lambda: nic.delete_filter(nic.filters()[0].id),
        lambda: nic.set_key(bytes(range(40))),
        lambda: pair.servers[1].dp.nic(VM_PORT).set_lro(0, "on"),
        lambda: nic.delete_rule(nic.rules()[0].id),
        lambda: nic.set_equal(1),
        lambda: nic.set_queue_count(1),
    ]
    flows = [Flow(pair, 80 + number) for number in range(3)]
    for change in changes:
        change()
        for flow in flows:
            assert sum(flow.send()) == SEGMENTS
    assert pair.servers[1].dropped() == 0
    assert sum(stats.frames for stats in nic.stats()) <= SEGMENTS * len(changes) * len(flows)


@pytest.mark.skipif(INTERPRETED, reason="the workers run in threads of their own, as fast as compiled code")
def test_changes_between_the_bursts_of_a_running_worker_lose_no_packet(pair, nic):
    """A thousand changes while super-frames pass; everything that was sent arrives."""
    sender, receiver = pair.servers
    Flow(pair, 80).send()  # both switches know the flow
    for server in pair.servers:
        server.dp.start()
    got, sent, seq = 0, 0, 1000 + MSS * SEGMENTS
    rule = nic.add_rule(Match(protocol="tcp", dst_port=80))
    deadline = time.monotonic() + 30
    for change in range(1000):
        if change % 2 == 0:
            with nic.batch():
                nic.delete_rule(rule.id)
                nic.set_queue_count(1 + change % 7)
                nic.set_lro(None, ("off", "on", "rules")[change % 3])
        else:
            rule = nic.add_rule(Match(protocol="tcp", dst_port=80))
        if sent - got < 20 * MSS * SEGMENTS:
            sender.hand_over(tcp_segment(MSS * SEGMENTS, seq), gso_size=MSS)
            sent, seq = sent + MSS * SEGMENTS, seq + MSS * SEGMENTS
        got += sum(len(payload_of(packet.frame)) for packet in receiver.received())
    while got < sent and time.monotonic() < deadline:
        got += sum(len(payload_of(packet.frame)) for packet in receiver.received())
    assert got == sent > 100 * MSS * SEGMENTS
    assert receiver.dropped() == 0


def test_a_batch_becomes_effective_as_a_whole_or_not_at_all(pair, nic):
    before = nic.describe()
    with pytest.raises(ConfigError), nic.batch():
        nic.set_queue_count(4)
        nic.add_filter(Match(vni=1), 3)
        nic.set_lro(4, "off")
    assert nic.describe() == before
    given = pair.servers[1].dp._commands.given
    with nic.batch():
        nic.set_queue_count(4)
        nic.add_filter(Match(vni=1), 3)
        nic.set_lro(3, "off")
    assert pair.servers[1].dp._commands.given == given + 1
    assert [settings.lro for settings in nic.settings()] == ["on", "on", "on", "off"]


def test_the_indirection_table_follows_equal_and_weights(nic):
    nic.set_queue_count(4)
    assert nic.indirection == tuple(entry % 4 for entry in range(128))
    nic.set_equal(2)
    assert nic.indirection == (0, 1) * 64
    nic.set_weights([1, 0, 3])
    assert [nic.indirection.count(queue) for queue in range(4)] == [32, 0, 96, 0]
    nic.set_weights([1, 1, 1])
    assert sorted(nic.indirection.count(queue) for queue in range(3)) == [42, 43, 43]
    nic.set_equal()
    nic.set_queue_count(2)
    assert nic.indirection == (0, 1) * 64


def test_filters_are_listed_in_the_order_in_which_they_are_asked(nic):
    nic.set_queue_count(2)
    for match, priority in (
        (Match(vni=1), 0),
        (Match(dst_mac=VM2_MAC), 0),
        (Match(dst_ip="10.0.0.2"), 0),
        (Match(protocol="tcp"), 0),
        (Match(vni=2), 5),
        (Match(protocol="udp"), 0),
    ):
        nic.add_filter(match, 1, priority)
    assert [what.match.to_object() for what in nic.filters()] == [
        {"vni": 2}, {"protocol": "tcp"}, {"protocol": "udp"}, {"dst_ip": "10.0.0.2"}, {"dst_mac": VM2_MAC},
        {"vni": 1},
    ]  # fmt: skip


REFUSED = [
    (lambda nic: nic.set_queue_count(9), "queues: 9 is out of range (allowed: 1 to 8)"),
    (lambda nic: nic.set_queue_count(1), "queues: wire2's filter 1 names queue 1"),
    (lambda nic: nic.set_lro(2, "on"), "queue: wire2 has no queue 2 (allowed: 0 to 1)"),
    (lambda nic: nic.set_lro(0, "maybe"), "lro: 'maybe' is not known (allowed: off, on, rules)"),
    (lambda nic: nic.set_lro_kind(0, "tso"), "lro_kind: 'tso' is not known (allowed: gro, lro)"),
    (
        lambda nic: nic.set_completion_size(0, 1500),
        "completion_size: 1500 is out of range (allowed: 1501 to 65535)",
    ),
    (lambda nic: nic.set_worker(0, 1), "worker: 1 is out of range (allowed: 0 to 0)"),
    (lambda nic: nic.set_equal(3), "equal: 3 is out of range (allowed: 1 to 2)"),
    (lambda nic: nic.set_weights([1, 1, 1]), "weight: 3 weights are given (allowed: 1 to 2 numbers)"),
    (
        lambda nic: nic.set_weights([0, 0]),
        "weight: no queue would get anything (allowed: at least one weight above 0)",
    ),
    (lambda nic: nic.set_indirection([0]), "indirection: 1 entries are given (allowed: 128 entries)"),
    (lambda nic: nic.set_key("12:34"), "hkey: it is no key (allowed: 40 bytes in hexadecimal)"),
    (lambda nic: nic.add_filter(Match(vni=1), 5), "queue: wire2 has no queue 5 (allowed: 0 to 1)"),
    (
        lambda nic: nic.add_filter(Match(vni=42), 0),
        "filter: wire2's filter 1 matches the same (allowed: another priority)",
    ),
    (lambda nic: nic.delete_filter(9), "filter: wire2 has no filter 9 (allowed: 1)"),
    (
        lambda nic: nic.add_rule(Match(vni=42), [0, 1]),
        "rule: wire2's rule 2 matches the same (allowed: another priority)",
    ),
    (
        lambda nic: nic.add_rule(Match(vni=1), []),
        "queues: no queue is given (allowed: queue numbers, or none for all)",
    ),
    (lambda nic: nic.delete_rule(1), "rule: wire2 has no rule 1 (allowed: 2)"),
    (
        lambda nic: nic.add_rule(Match(vni=1), priority=-1),
        "priority: -1 is out of range (allowed: 0 to 65535)",
    ),
]  # fmt: skip


@pytest.mark.parametrize("pair", ["plain"], indirect=True)
@pytest.mark.parametrize(("call", "sentence"), REFUSED)
def test_a_wrong_setting_is_refused_with_a_sentence_and_changes_nothing(nic, call, sentence):
    nic.set_queue_count(2)
    nic.add_filter(Match(vni=42), 1)
    nic.add_rule(Match(vni=42), [1])
    before = nic.describe()
    with pytest.raises(ConfigError) as error:
        call(nic)
    assert str(error.value) == sentence
    assert nic.describe() == before


@pytest.mark.parametrize("pair", ["plain"], indirect=True)
def test_a_vif_has_neither_filters_nor_queues_nor_drivers(pair):
    vif = pair.servers[1].dp.nic(VM_PORT)
    for call in (
        lambda: vif.set_queue_count(2),
        lambda: vif.set_equal(1),
        lambda: vif.set_weights([1]),
        lambda: vif.set_key(bytes(40)),
        lambda: vif.add_filter(Match(vni=1), 0),
        lambda: vif.open_queue(0),
    ):
        with pytest.raises(ConfigError, match="it is a VM's port"):
            call()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, f"match: it names no field (allowed: {FIELDS})"),
        ({"dst_mac": "02:00"}, "match.dst_mac: '02:00' is no MAC address (allowed: as 02:00:00:00:00:01)"),
        (
            {"dst_ip": "10.0.0.1/8"},
            "match.dst_ip: 10.0.0.1/8 has bits behind its mask (allowed: 10.0.0.0/8)",
        ),
        (
            {"dst_ip": "10.0.0.0/33"},
            "match.dst_ip: '10.0.0.0/33' is no IP address or prefix"
            " (allowed: as 10.0.0.1, 10.0.0.0/8 or fd00::/8)",
        ),
        (
            {"src_ip": "10.0.0.1", "dst_ip": "fd00::1"},
            "match: 10.0.0.1 and fd00::1 are of two IP versions (allowed: one version)",
        ),
        (
            {"dst_port": 80},
            "match.dst_port: only some protocols have ports (allowed: protocol tcp, udp or sctp)",
        ),
        (
            {"protocol": "tcp", "dst_port": 70000},
            "match.dst_port: 70000 is out of range (allowed: 1 to 65535)",
        ),
        (
            {"protocol": "http"},
            "match.protocol: 'http' is not known (allowed: icmp, tcp, udp, icmpv6, sctp or a number)",
        ),
        ({"vni": -1}, f"match.vni: -1 is out of range (allowed: 0 to {(1 << 63) - 1})"),
        (
            {"color": 1},
            f"match.color: there is no such field (allowed: {FIELDS})",
        ),
    ],
)  # fmt: skip
def test_a_wrong_match_is_refused_with_a_sentence(fields, sentence):
    with pytest.raises(ConfigError) as error:
        Match.from_object(fields)
    assert str(error.value) == sentence


def test_a_match_is_the_same_after_a_way_through_json():
    match = Match(dst_mac=VM2_MAC, protocol="tcp", src_ip="fd00::/8", dst_port=80, vni=42)
    assert Match.from_object(match.to_object()) == match


# Rules against a naive twin

rule_matches = st.sampled_from(
    [
        {"vni": 0}, {"vni": 42}, {"dst_mac": VM2_MAC}, {"dst_mac": "00:00:00:00:00:03"},
        {"dst_ip": "10.0.0.2"}, {"dst_ip": "10.0.0.0/24"}, {"dst_ip": "fd00::2"}, {"protocol": "tcp"},
        {"protocol": "udp"}, {"protocol": "tcp", "dst_port": 80}, {"protocol": "tcp", "dst_port": 81},
        {"protocol": "tcp", "src_port": 5001, "vni": 42}, {"src_ip": "10.0.0.1", "dst_mac": VM2_MAC},
    ]
)  # fmt: skip


@pytest.fixture(scope="module")
def rig():
    with Rig(wires=1) as rig:
        rig.add_tunnel()
        yield rig


@settings(max_examples=examples(150))
@given(
    rules=st.lists(st.tuples(st.integers(0, 2), rule_matches, st.booleans()), max_size=8),
    flows=st.lists(
        st.tuples(st.sampled_from([80, 81, 82]), st.sampled_from([4, 6]), st.sampled_from([0, 42])),
        min_size=1, max_size=6, unique=True,
    ),
)  # fmt: skip
def test_s0_3_rules_decide_as_the_naive_twin_says(rig, rules, flows):
    """Bursts of several flows, interleaved, of three frames and a pure ACK each."""
    placed = [
        Rule(number, Match(**match), None, lro, priority)
        for number, (priority, match, lro) in enumerate(rules)
    ]
    state = api._State(1, ("rules",) * 8, rules=tuple(sorted(placed, key=api._order)))
    api.fill_row(rig.t["nics"][1, 0], state)
    bursts = []
    for dport, version, vni in flows:
        stream = tcp_stream(3, dport=dport, version=version)
        stream.insert(1, tcp_segment(0, 1100, dport=dport, version=version))
        bursts.append([(frame, vni) for frame in stream])
    interleaved = [frame for turn in zip(*bursts, strict=True) for frame in turn]
    rig.burst([frame if vni == 0 else vxlan(frame, vni) for frame, vni in interleaved], 1)
    entries = [(priority, match) for priority, match, _ in rules]
    expected = []
    for frame, vni in interleaved:
        place = nic_first(entries, frame, vni)
        allowed = place is not None and rules[place][2]
        last = Ether(frame)[TCP].seq == 1200  # joins the frame before it, which the ACK keeps from the first
        if not (allowed and last):
            expected.append(2 if allowed and Ether(frame)[TCP].seq == 1100 and payload_of(frame) else 1)
    assert [len(group) for group in rig.coalesce()] == expected
