# SPDX-License-Identifier: Apache-2.0
"""The slow path: cached flows and their reverse, changes of rules, counters."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.protocol.fake_datapath import FakeClock, FakeDatapath, tap
from tests.protocol.frames import arp_request, later_fragment, ping, tcp, udp
from tests.protocol.harness import TO_CONTROLLER, FakeSwitch, add, delete, goto, m, metadata, out, set_tunnel
from vswitch.agent import slowpath
from vswitch.agent.packet import Packet
from vswitch.agent.pipeline import translate
from vswitch.flow import Controller, DropReason, Output, SetTunnel
from vswitch.layout import FLOWS_LIMIT
from vswitch.openflow import multipart as mp
from vswitch.openflow.actions import Output as OfOutput
from vswitch.openflow.constants import FlowModCommand, MultipartType, Port
from vswitch.openflow.instructions import ApplyActions


def programs(datapath):
    """Port of arrival and program of each cached flow."""
    return sorted((key.in_port, entry.program) for key, entry in datapath.entries.items())


def tunnel_switch(datapath, clock, **options):
    datapath.infos[1000] = tap(1000)._replace(kind="tunnel")
    return FakeSwitch(datapath, clock, **options)


# --- misses ----------------------------------------------------------------------------------------------


def test_first_packet_installs_the_flow_and_later_ones_do_not_punt(switch, datapath):
    switch.says(add({"in_port": 1}, out(2)))
    assert [switch.receives(1) for _ in range(3)] == [[2]] * 3
    assert switch.slowpath.misses == 1
    assert datapath.entries[datapath.key_of(udp(), 1)].idle_timeout_s == slowpath.FLOW_IDLE_S


def test_miss_is_installed_as_a_short_drop(switch, datapath):
    assert switch.receives(1) == []
    assert programs(datapath) == [(1, ())]
    (entry,) = datapath.entries.values()
    assert entry.idle_timeout_s == slowpath.DROP_IDLE_S


def test_several_packets_of_a_new_flow_are_all_forwarded(switch, datapath):
    switch.says(add({"in_port": 1}, out(2)))
    for _ in range(5):
        datapath.receive(1, udp())
    switch.slowpath.handle_punts()
    assert [s.port for s in datapath.take_sent()] == [2] * 5
    assert datapath.installs == 1
    assert switch.stats()[0].packet_count == 5


def test_a_full_cache_forwards_packet_by_packet(switch, datapath, monkeypatch):
    monkeypatch.setattr(slowpath, "MAX_FLOWS", 1)
    monkeypatch.setattr(slowpath, "MAX_FLOWS_WITH_REVERSE", 1)
    switch.says(add({}, out(2)))
    assert [switch.receives(1, udp(sport=n)) for n in (1, 2, 2)] == [[2]] * 3
    assert len(datapath.entries) == 1
    assert switch.stats()[0].packet_count == 3


def test_a_filling_cache_takes_no_flow_that_no_packet_came_of(switch, datapath, monkeypatch):
    monkeypatch.setattr(slowpath, "MAX_FLOWS_WITH_REVERSE", 2)
    switch.says(*TWO_WAYS)
    for sport in range(4):
        assert switch.receives(1, udp(sport=sport)) == [2]
    assert [in_port for in_port, _program in programs(datapath)] == [1, 1, 1, 1, 2]


def test_the_cache_takes_no_more_than_the_datapath():
    assert slowpath.MAX_FLOWS <= FLOWS_LIMIT


def test_an_evicted_flow_is_installed_again(switch, datapath, clock):
    switch.says(add({"in_port": 1}, out(2)))
    switch.receives(1)
    switch.receives(1)
    clock.advance(slowpath.FLOW_IDLE_S)
    datapath.idle_out()
    assert not datapath.entries
    assert switch.receives(1) == [2]
    assert len(datapath.entries) == 1
    assert switch.stats()[0].packet_count == 3


# --- proactive reverse -----------------------------------------------------------------------------------

TWO_WAYS = (add({"in_port": 1}, out(2)), add({"in_port": 2}, out(1)))


MIRRORED = {
    "udp": udp,
    "tcp": tcp,
    "ping": ping,
    "tcp over ipv6": lambda reverse=False: tcp(reverse, v6=True),
    "ping over ipv6": lambda reverse=False: ping(reverse, v6=True),
}


@pytest.mark.parametrize("frame", MIRRORED.values(), ids=MIRRORED.keys())
def test_reverse_is_installed_with_the_flow(switch, frame):
    switch.says(*TWO_WAYS)
    assert switch.receives(1, frame()) == [2]
    assert switch.receives(2, frame(reverse=True)) == [1]
    assert switch.slowpath.misses == 1


def test_reverse_through_a_tunnel(datapath, clock):
    """VM to tunnel: the answer arrives with the VNI that was set."""
    switch = tunnel_switch(datapath, clock)
    switch.says(
        add({"in_port": 1}, ApplyActions((set_tunnel(42), OfOutput(1000)))),
        add({"in_port": 1000, "tunnel_id": 42}, out(1)),
    )
    assert switch.receives(1, tcp()) == [(1000, 42)]
    assert switch.receives(1000, tcp(reverse=True), tunnel_id=42) == [1]
    assert switch.slowpath.misses == 1


def test_reverse_of_what_came_from_a_tunnel(datapath, clock):
    """Tunnel to VM: the answer comes from the VM with no tunnel id."""
    switch = tunnel_switch(datapath, clock)
    switch.says(
        add({"in_port": 1}, ApplyActions((set_tunnel(42), OfOutput(1000)))),
        add({"in_port": 1000, "tunnel_id": 42}, out(1)),
    )
    assert switch.receives(1000, tcp(), tunnel_id=42) == [1]
    assert programs(datapath) == [(1, (SetTunnel(42), Output(1000))), (1000, (Output(1),))]


def test_reverse_has_its_own_policy(switch, datapath):
    switch.says(add({"in_port": 1}, out(2)), add({"in_port": 2}))
    assert switch.receives(1, tcp()) == [2]
    assert programs(datapath) == [(1, (Output(2),)), (2, ())]


NOT_MIRRORED = {
    "reverse would miss": ((add({"in_port": 1}, out(2)),), udp()),
    "reverse asks the controller": ((add({"in_port": 1}, out(2)), add({}, TO_CONTROLLER, priority=0)), udp()),
    "two outputs": ((add({"in_port": 1}, out(2, 3)), add({}, out(1), priority=0)), udp()),
    "no output": ((add({"in_port": 1}), add({}, out(1), priority=0)), udp()),
    "unknown port": ((add({"in_port": 1}, out(77)), add({}, out(1), priority=0)), udp()),
    "arp": (TWO_WAYS, arp_request()),
    "later fragment": (TWO_WAYS, later_fragment()),
    "multicast": (TWO_WAYS, b"\x01" + udp()[1:]),
}


@pytest.mark.parametrize(("mods", "frame"), NOT_MIRRORED.values(), ids=NOT_MIRRORED.keys())
def test_no_reverse(switch, datapath, mods, frame):
    switch.says(*mods)
    switch.receives(1, frame)
    assert len(datapath.entries) == 1


def test_reverse_can_be_switched_off(datapath, clock):
    switch = FakeSwitch(datapath, clock, proactive_reverse=False)
    switch.says(*TWO_WAYS)
    switch.receives(1)
    assert len(datapath.entries) == 1


# --- changes ---------------------------------------------------------------------------------------------


def test_barrier_reply_comes_after_the_flows_changed(switch, datapath):
    switch.says(add({"in_port": 1}, out(2)))
    switch.receives(1)
    drains = datapath.drains
    answers = switch.says(add({"in_port": 1}, out(3), priority=0x9000), m.BarrierRequest(xid=7))
    assert answers == [m.BarrierReply(xid=7)]
    assert datapath.drains == drains + 1
    assert programs(datapath) == [(1, (Output(3),))]


def test_only_touched_flows_are_installed_again(switch, datapath):
    switch.says(add({"eth_type": 0x800}, out(2)))
    for n in range(10):
        switch.receives(1, udp(sport=n))
    installs = datapath.installs
    special = {"eth_type": 0x800, "ip_proto": 17, "udp_src": 3}
    switch.says(add(special, out(3), priority=0x9000))
    assert datapath.installs == installs + 1
    assert switch.receives(1, udp(sport=3)) == [3]
    assert switch.receives(1, udp(sport=4)) == [2]


def test_lower_priority_rule_touches_nothing(switch, datapath):
    switch.says(add({}, out(2)))
    switch.receives(1)
    installs = datapath.installs
    switch.says(add({}, out(3), priority=1), add({}, out(3), table_id=4))
    assert datapath.installs == installs


def test_drop_becomes_forwarding_when_the_rule_comes(switch, datapath):
    assert switch.receives(1) == []
    switch.says(add({}, out(2)))
    assert datapath.entries == {}
    assert switch.receives(1) == [2]


def test_deleted_rule_stops_its_flows(switch, datapath):
    switch.says(*TWO_WAYS)
    switch.receives(1)
    assert len(datapath.entries) == 2
    switch.says(delete())
    assert switch.receives(1) == []
    assert programs(datapath) == [(1, ())]


def test_modified_rule_in_a_later_table(switch):
    switch.says(add({}, goto(1)), add({}, out(2), table_id=1))
    assert switch.receives(1) == [2]
    switch.says(add({}, out(3), table_id=1, command=FlowModCommand.MODIFY))
    assert switch.receives(1) == [3]


def test_marks_tell_flows_apart_while_a_rule_looks_at_them(switch, datapath, monkeypatch):
    """So that what it decides for one mark is never done to packets with another."""
    commands = []
    for name in ("set_tos_mask", "install"):
        command = getattr(datapath, name)
        told = lambda *args, name=name, command=command: (commands.append(name), command(*args))  # noqa: E731
        monkeypatch.setattr(datapath, name, told)
    switch.says(add({"in_port": 1}, out(2), priority=1))
    switch.receives(1)
    commands.clear()
    rule = {"eth_type": 0x800, "ip_dscp": 0}
    switch.says(add(rule, out(3)))
    assert commands == ["set_tos_mask", "install"]
    switch.says(delete(rule))
    assert commands == ["set_tos_mask", "install", "install", "set_tos_mask"]


def test_new_port_joins_the_flood(switch, datapath):
    switch.says(add({}, out(Port.FLOOD)))
    assert switch.receives(1) == [2, 3]
    datapath.infos[9] = tap(9)
    switch.of.refresh_ports()
    (status,) = switch.hears()
    assert (status.reason, status.port.port_no) == (0, 9)
    assert switch.receives(1) == [2, 3, 9]


# --- packet-ins of cached flows --------------------------------------------------------------------------


def test_cached_controller_action(switch, datapath):
    switch.says(add({}, TO_CONTROLLER, priority=0))
    for _ in range(2):
        assert switch.receives(1) == []
    assert len(switch.hears()) == 2
    assert switch.slowpath.misses == 1
    assert datapath.discarded == [DropReason.DELIVERED] * 2
    ((_port, (action,)),) = programs(datapath)
    assert isinstance(action, Controller)
    assert switch.stats()[0].packet_count == 2


# --- counters --------------------------------------------------------------------------------------------


def counts(switch):
    return [(s.packet_count, s.byte_count) for s in switch.stats()]


def test_rules_count_the_packets_of_their_flows(switch):
    switch.says(
        add({}, metadata(1), goto(1)),
        add({"in_port": 1}, out(2), table_id=1),
        add({}, table_id=1, priority=1),
    )
    for n in (1, 1, 2):
        switch.receives(1, udp(sport=n))
    switch.receives(3)
    size = len(udp())
    assert counts(switch) == [(4, 4 * size), (3, 3 * size), (1, size)]
    tables = {t.table_id: t for t in switch.stats(MultipartType.TABLE)}
    assert (tables[0].active_count, tables[0].lookup_count, tables[0].matched_count) == (1, 4, 4)
    assert (tables[1].active_count, tables[1].lookup_count, tables[1].matched_count) == (2, 4, 4)
    assert tables[2] == mp.TableStats(2, 0, 0, 0)


def test_misses_are_looked_up_but_not_matched(switch):
    switch.receives(1)
    switch.receives(1)
    table = switch.stats(MultipartType.TABLE)[0]
    assert (table.lookup_count, table.matched_count) == (2, 0)


def test_counters_survive_changes_and_evictions(switch, datapath):
    switch.says(add({}, out(2), priority=1))
    switch.receives(1)
    switch.receives(1)
    switch.says(add({}, out(3), priority=2))
    switch.receives(1)
    datapath.evict(datapath.key_of(udp(), 1))
    switch.receives(1)
    assert [packets for packets, _ in counts(switch)] == [2, 2]
    switch.says(delete({}, strict=True, priority=2))
    switch.receives(1)
    assert [packets for packets, _ in counts(switch)] == [3]


def test_port_counters_and_aggregate(switch):
    switch.says(add({}, out(2)))
    switch.receives(1)
    ports = {p.port_no: p for p in switch.stats(MultipartType.PORT_STATS, mp.PortStatsRequest())}
    assert (ports[1].rx_packets, ports[2].tx_packets, ports[2].tx_bytes) == (1, 1, len(udp()))
    (aggregate,) = switch.stats(MultipartType.AGGREGATE)
    assert aggregate == mp.Aggregate(1, len(udp()), 1)


# --- whatever happens, the cache does what the pipeline would ---------------------------------------------

small_matches = st.fixed_dictionaries(
    {},
    optional={
        "in_port": st.sampled_from([1, 2, 3]),
        "eth_type": st.just(0x800),
        "eth_dst": st.sampled_from([0x0A, 0x0B, (0x0A, 0x0F), (0x0A, 0x0E)]),
        "metadata": st.sampled_from([1, (1, 3), (0, 1)]),
        "tunnel_id": st.sampled_from([0, 5]),
    },
)
some_actions = st.lists(
    st.sampled_from([OfOutput(1), OfOutput(2), OfOutput(Port.FLOOD), OfOutput(Port.IN_PORT), set_tunnel(5)]),
    max_size=3,
).map(lambda actions: ApplyActions(tuple(actions)))


@st.composite
def flow_mods(draw):
    table_id = draw(st.integers(0, 2))
    instructions = []
    if draw(st.booleans()):
        instructions.append(draw(some_actions))
    if draw(st.booleans()):
        instructions.append(metadata(draw(st.integers(0, 3))))
    if table_id < 2 and draw(st.booleans()):
        instructions.append(goto(draw(st.integers(table_id + 1, 2))))
    command = draw(st.sampled_from([0, 0, 0, 1, 2, 3, 4]))
    priority = draw(st.integers(0, 3))
    return add(draw(small_matches), *instructions, command=command, table_id=table_id, priority=priority)


packets = st.tuples(st.integers(1, 3), st.booleans(), st.sampled_from([0, 5]))
evictions = st.tuples(st.just("evict"), st.integers(0, 5))


@settings(max_examples=60 if settings.default.max_examples <= 100 else 3000)
@given(st.lists(st.one_of(flow_mods(), packets, packets, evictions), max_size=25))
def test_cache_follows_the_pipeline(events):
    clock = FakeClock()
    datapath = FakeDatapath(clock)
    switch = FakeSwitch(datapath, clock)
    sent_by_rule_packets = 0
    for event in events:
        if isinstance(event, tuple) and event[0] == "evict":
            if event[1] < len(datapath.entries):
                datapath.evict(list(datapath.entries)[event[1]])
        elif isinstance(event, tuple):
            port, reverse, tunnel_id = event
            switch.receives(port, tcp(reverse=reverse), tunnel_id)
            sent_by_rule_packets += 1
        else:
            assert switch.says(event) == []
        for key, entry in datapath.entries.items():
            assert entry.program == translate(Packet(key), switch.slowpath.world).program
    table = switch.stats(MultipartType.TABLE)[0]
    assert table.lookup_count == sent_by_rule_packets
    assert datapath.held == 0
