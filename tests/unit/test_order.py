# SPDX-License-Identifier: Apache-2.0
"""What the cache does reorders no connection: the agent and the dataplane together, driven pass by pass."""

from __future__ import annotations

import random
import tempfile
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.packets import UDP, Ether
from tests.protocol.harness import Peer, add, delete, goto, group, meter, out
from tests.unit.rig import examples
from tests.unit.servers import TUNNEL_PORT, VM_PORT, WIRE_PORT, Pair, SocketTap
from tests.unit.vms import OTHER, RECEIVER, Switch, number_of, packet
from vswitch.agent.switch import OpenFlowSwitch
from vswitch.openflow import actions as of
from vswitch.openflow import messages as m
from vswitch.openflow.constants import (
    GroupModCommand,
    GroupType,
    MeterBandType,
    MeterFlag,
    PortConfig,
)
from vswitch.openflow.groups import Bucket
from vswitch.openflow.instructions import ApplyActions, Meter
from vswitch.openflow.meters import Band

CONNECTIONS = 4
CE, ECT0 = 3, 2
IPV4 = {"eth_type": 0x800}


@pytest.fixture
def switch(monkeypatch):
    monkeypatch.setattr("vswitch.ports.TapDevice", SocketTap)
    switch = Switch()
    yield switch
    switch.close()


def test_packets_that_wait_for_the_agent_go_before_those_that_find_the_entry(switch):
    """Some wait where the agent has not looked yet when it installs their flow."""
    switch.says(add({"in_port": 1}, out(2)))
    for _ in range(4):
        switch.send(0)
    switch.step()
    for _ in range(4):
        switch.send(0)
    switch.answer(limit=2)  # the entry is to come, with two of the packets
    switch.step()
    for _ in range(4):
        switch.send(0)
    switch.settle()
    assert switch.got() == list(range(12))
    assert switch.counted() == 12


def test_a_mark_costs_no_packet_its_place(switch):
    """A CE mark, or another DSCP, is no reason to ask the agent."""
    switch.says(add({"in_port": 1}, out(2)))
    switch.send(0)
    switch.settle()
    misses = switch.of.slowpath.misses
    for tos in [ECT0, CE, 46 << 2, 10 << 2 | CE, 0, 255]:
        switch.send(0, tos)
        switch.step()
    assert switch.got() == list(range(7))
    assert switch.of.slowpath.misses == misses


@pytest.mark.parametrize(
    ("field", "classes"), [("ip_dscp", [0, 46 << 2, 10 << 2]), ("ip_ecn", [0, ECT0, CE])], ids=["DSCP", "ECN"]
)
def test_a_rule_that_looks_at_marks_comes_and_goes(switch, field, classes):
    """Meanwhile it decides for packets with its mark; before and after, all are one flow."""
    value = classes[1] >> (2 if field == "ip_dscp" else 0)
    rule = IPV4 | {field: value}
    switch.says(add({"in_port": 1}, out(2)))
    for turn in range(3):
        for tos in classes:
            switch.send(turn, tos)
            switch.settle()
        assert switch.got(turn) == [0, 1, 2]
        assert len([key for key in switch.dp.flow_stats() if key.l4_src == 1000 + turn]) == 1
        switch.says(add(rule, out(3), priority=0x9000))
        for tos in classes * 2:
            switch.send(turn, tos)
            switch.settle()
        assert switch.got(turn) == [0, 1, 2, 3, 5, 6, 8]
        assert switch.got(turn, OTHER) == [4, 7]
        switch.says(delete(rule, strict=True, priority=0x9000))
        for tos in classes:
            switch.send(turn, tos)
            switch.settle()
        assert switch.got(turn) == [0, 1, 2, 3, 5, 6, 8, 9, 10, 11]
        assert not any(key.ip_tos for key in switch.dp.flow_stats())
    assert switch.counted() == sum(switch.sent.values())


def test_packets_of_two_marks_wait_when_marks_tell_flows_apart_no_more(switch):
    """Those with a mark wait for their own entry; when the rule goes they are of a flow that has one."""
    rule = IPV4 | {"ip_dscp": 1}
    switch.says(add({"in_port": 1}, out(2)), add(rule, out(3), priority=0x9000))
    switch.send(0)
    switch.settle()
    switch.send(0, 46 << 2)
    switch.step()
    switch.says(delete(rule, strict=True, priority=0x9000))
    switch.step()
    switch.send(0)
    switch.settle()
    assert switch.got() == [0, 1, 2]
    assert switch.counted() == 3


def test_what_an_entry_forwards_of_the_waiting_is_counted_for_the_rules_of_that_time(switch):
    switch.says(add({"in_port": 1}, out(2), cookie=1))
    for _ in range(3):
        switch.send(0)
    switch.step()
    switch.answer(limit=1)
    switch.step()  # the entry forwards all three
    switch.says(delete(), add({"in_port": 1}, out(3), cookie=2))
    switch.settle()
    switch.send(0)
    switch.settle()
    assert (switch.got(), switch.got(port=OTHER)) == ([0, 1, 2], [3])
    assert [stats.packet_count for stats in switch.controller.stats()] == [1]
    assert switch.counted() == 4


# Whatever happens


def change(switch: Switch, draw: random.Random, marks: bool) -> None:
    """A controller changes something that packets depend on."""
    port = draw.choice([RECEIVER, RECEIVER, OTHER])
    priority = draw.randrange(3)
    connection = IPV4 | {"ip_proto": 17, "udp_src": 1000 + draw.randrange(CONNECTIONS)}
    match = draw.choice([{}, {"in_port": 1}, connection, IPV4])
    if marks and draw.randrange(2):
        match = IPV4 | draw.choice([{"ip_dscp": 46}, {"ip_ecn": CE}, {"ip_dscp": 0}])
    instructions = draw.choice(
        [[out(port)], [goto(1)], [ApplyActions((of.Group(1),))], [Meter(1), out(port)], []]
    )
    kind = draw.randrange(6)
    if kind < 3:
        switch.says(add(match, *instructions, priority=priority))
    elif kind == 3:
        switch.says(delete(match, strict=True, priority=priority))
    elif kind == 4:
        bucket = Bucket((of.Output(port),), weight=1)
        switch.says(group(1, bucket, kind=GroupType.SELECT, command=GroupModCommand.MODIFY))
    else:
        down = draw.choice([PortConfig.NONE, PortConfig.NONE, PortConfig.NO_FWD])
        mac = switch.of.ports.infos[OTHER].mac
        switch.says(m.PortMod(OTHER, mac, down, PortConfig.NO_FWD, 0))


@settings(max_examples=examples(60))
@given(seed=st.integers(0, 2**32 - 1), marks=st.booleans())
def test_receivers_see_no_reordering(seed, marks):
    """Marks change, rules do, entries end, the agent lags. marks: rules look at marks, so that packets of one
    mark are a class of their own, between which order is not kept."""
    draw = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vswitch.ports.TapDevice", SocketTap)
        switch = Switch()
        switch.says(
            group(1, Bucket((of.Output(RECEIVER),), weight=1), kind=GroupType.SELECT),
            meter(1, Band(MeterBandType.DROP, 1 << 20), flags=MeterFlag.PKTPS),
            add({}, out(RECEIVER), priority=0),
            add({}, out(RECEIVER), table_id=1),
        )
        tos_of: dict[tuple[int, int, int], int] = {}
        for _ in range(draw.randrange(20, 80)):
            kind = draw.randrange(12)
            if kind < 5:
                connection, version = draw.randrange(CONNECTIONS), draw.choice([4, 4, 6])
                for _ in range(draw.randrange(1, 9)):
                    tos = draw.choice([0, 0, ECT0, CE, 46 << 2])
                    tos_of[connection, version, switch.sent[connection, version]] = tos
                    switch.send(connection, tos, version)
            elif kind < 8:
                switch.step()
            elif kind < 10:
                switch.answer(draw.choice([1, 2, 5, 64]))
            elif kind < 11:
                change(switch, draw, marks)
            else:
                switch.sweep()
        switch.settle()
        switch.receive()
        assert sum(map(len, switch.arrived.values())) + switch.dropped() == sum(switch.sent.values())
        for (_port, connection, version), numbers in switch.arrived.items():
            classes = defaultdict(list)
            for number in numbers:
                classes[tos_of[connection, version, number] if marks else 0].append(number)
            for in_class in classes.values():
                assert in_class == sorted(in_class)
        overflow = switch.dp.counters()["punt_overflow"]
        assert switch.counted() == sum(switch.sent.values()) - overflow
        assert switch.dp.t["free_punt_count"] == len(switch.dp.t["free_punts"])
        assert (switch.dp.t["held_first"] == -1).all()
        switch.close()


@settings(max_examples=examples(40))
@given(seed=st.integers(0, 2**32 - 1), workers=st.integers(2, 3))
def test_receivers_see_no_reordering_by_several_workers(seed, workers):
    """Which run in any turn; queues change their workers, rules change, entries end."""
    draw = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        patch.setattr("vswitch.ports.TapDevice", SocketTap)
        pair = Pair(f"{folder}/wire", workers=workers)
        sender, receiver = pair.servers
        nic = receiver.dp.nic(WIRE_PORT)
        nic.set_queue_count(workers)
        agent = OpenFlowSwitch(receiver.dp, "s2", 2, lambda: pair.now_ns)
        controller = Peer(agent)
        receiver.answer_misses = agent.slowpath.handle_punts
        controller.says(add({"in_port": TUNNEL_PORT}, out(VM_PORT), priority=0))
        sent, got = Counter(), defaultdict(list)
        for _ in range(draw.randrange(20, 60)):
            for _ in range(draw.randrange(5)):
                connection = draw.randrange(CONNECTIONS)
                sender.send(packet(connection, sent[connection], draw.choice([0, ECT0, CE])))
                sent[connection] += 1
            sender.step(pair.now_ns)
            sender.answer_misses()
            kind = draw.randrange(10)
            if kind == 0:
                nic.set_worker(draw.randrange(workers), draw.randrange(workers))
            elif kind == 1:
                match = IPV4 | {"ip_proto": 17, "udp_src": 1000 + draw.randrange(CONNECTIONS)}
                rule = add(match, out(VM_PORT)) if draw.randrange(2) else delete(match)
                controller.says(rule)
            elif kind == 2:
                for key in draw.sample(list(agent.slowpath.flows), min(1, len(agent.slowpath.flows))):
                    agent.slowpath._remove(agent.slowpath.flows[key])
            for _ in range(draw.randrange(8)):
                receiver.step_worker(draw.randrange(workers), pair.now_ns)
                if not draw.randrange(4):
                    agent.slowpath.handle_punts(draw.choice([1, 3, 64]))
        pair.run()
        for delivered in receiver.received():
            got[Ether(delivered.frame)[UDP].sport - 1000].append(number_of(delivered.frame))
        assert got == {connection: list(range(count)) for connection, count in sent.items()}
        pair.close()
