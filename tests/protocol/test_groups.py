# SPDX-License-Identifier: Apache-2.0
"""Group-mods as dialogues, and what the statistics then say."""

from __future__ import annotations

import time

import pytest

from tests.protocol.fake_datapath import tap
from tests.protocol.frames import udp
from tests.protocol.harness import add, goto, group, m, out
from vswitch.agent.groups import MAX_CHAIN, GroupTable
from vswitch.agent.ports import PortTable
from vswitch.flow import DropReason
from vswitch.openflow import actions as a
from vswitch.openflow import multipart as mp
from vswitch.openflow.constants import (
    GROUP_ALL,
    BadAction,
    ErrorType,
    FlowModFlag,
    FlowRemovedReason,
    GroupModCommand,
    GroupModFailed,
    GroupType,
    MultipartType,
    Port,
)
from vswitch.openflow.flow_mod import FlowRemoved
from vswitch.openflow.groups import Bucket, GroupDesc, GroupMod, GroupStatsRequest
from vswitch.openflow.instructions import ApplyActions, WriteActions


def to(*ports, **fields):
    return Bucket(tuple(a.Output(port) for port in ports), **fields)


def chain(*group_ids, **fields):
    return Bucket(tuple(a.Group(group_id) for group_id in group_ids), **fields)


def remove(group_id):
    return GroupMod(GroupModCommand.DELETE, group_id)


def use(group_id):
    return ApplyActions((a.Group(group_id),))


def described(switch):
    return {desc.group_id: desc for desc in switch.stats(MultipartType.GROUP_DESC)}


def refused(switch, mod):
    before = described(switch)
    error = switch.asks(mod)
    assert described(switch) == before
    return error.type, error.code


# --- add, modify, delete ---------------------------------------------------------------------------------


def test_a_group_is_described_as_it_was_given(switch):
    buckets = (to(1, weight=3), to(2, 3, weight=1, watch_port=2))
    assert switch.says(group(7, *buckets, kind=GroupType.SELECT)) == []
    assert described(switch) == {7: GroupDesc(GroupType.SELECT, 7, buckets)}


def test_a_group_may_be_empty_and_have_any_number_up_to_the_last(switch):
    assert switch.says(group(0), group(0xFFFFFF00)) == []
    assert sorted(described(switch)) == [0, 0xFFFFFF00]


def test_modify_replaces_type_and_buckets(switch, clock):
    switch.says(group(1, to(1)))
    clock.advance(3)
    switch.says(group(1, to(2), kind=GroupType.INDIRECT, command=GroupModCommand.MODIFY))
    assert described(switch) == {1: GroupDesc(GroupType.INDIRECT, 1, (to(2),))}
    (stats,) = switch.stats(MultipartType.GROUP, GroupStatsRequest())
    assert stats.duration_sec == 3


def test_delete_one_none_or_all(switch):
    switch.says(group(1), group(2), group(3))
    assert switch.says(remove(2), remove(9)) == []
    assert sorted(described(switch)) == [1, 3]
    switch.says(remove(GROUP_ALL))
    assert described(switch) == {}


@pytest.mark.parametrize("instruction", [ApplyActions, WriteActions])
def test_deleting_a_group_deletes_the_rules_that_name_it(switch, instruction):
    switch.says(
        group(1, to(2)),
        add({"in_port": 1}, instruction((a.Group(1),)), flags=FlowModFlag.SEND_FLOW_REM, cookie=5),
        add({"in_port": 2}, out(1), flags=FlowModFlag.SEND_FLOW_REM),
    )
    (removed,) = switch.says(remove(1))
    assert isinstance(removed, FlowRemoved)
    assert (removed.reason, removed.cookie) == (FlowRemovedReason.GROUP_DELETE, 5)
    assert [str(rule.match) for rule in switch.stats()] == ["in_port=2"]


def test_a_rule_that_names_the_group_no_longer_stays(switch):
    switch.says(group(1, to(2)), add({}, use(1)), add({}, out(2)), remove(1))
    assert len(switch.stats()) == 1


def test_statistics_count_who_names_a_group(switch, clock):
    switch.says(group(1, to(2)), group(2, chain(1)), add({"in_port": 1}, use(1)), add({"in_port": 2}, use(1)))
    clock.advance(2)
    stats = {s.group_id: s for s in switch.stats(MultipartType.GROUP, GroupStatsRequest())}
    assert {number: s.ref_count for number, s in stats.items()} == {1: 3, 2: 0}
    assert (stats[1].packet_count, stats[1].buckets, stats[1].duration_sec) == (0, ((0, 0),), 2)
    (one,) = switch.stats(MultipartType.GROUP, GroupStatsRequest(2))
    assert one.group_id == 2
    assert switch.stats(MultipartType.GROUP, GroupStatsRequest(3)) == ()


def test_rules_by_group(switch):
    switch.says(group(1), group(2), add({"in_port": 1}, use(1)), add({"in_port": 2}, use(2)))
    assert len(switch.stats(request=mp.FlowFilter(add().match, out_group=1))) == 1


def test_features(switch):
    (features,) = switch.stats(MultipartType.GROUP_FEATURES)
    assert (features.types, features.capabilities) == (0b1111, 0b1111)
    assert features.actions[0] >> 22 & 1 and not features.actions[0] >> 13 & 1


# --- what is refused -------------------------------------------------------------------------------------

FAILED = ErrorType.GROUP_MOD_FAILED
REFUSED = {
    "exists": (group(1, to(1)), FAILED, GroupModFailed.GROUP_EXISTS),
    "modify of nothing": (group(5, command=GroupModCommand.MODIFY), FAILED, GroupModFailed.UNKNOWN_GROUP),
    "number of all": (group(GROUP_ALL), FAILED, GroupModFailed.INVALID_GROUP),
    "number beyond": (group(0xFFFFFF01), FAILED, GroupModFailed.INVALID_GROUP),
    "unknown type": (group(5, kind=4), FAILED, GroupModFailed.BAD_TYPE),
    "unknown command": (group(5, command=3), FAILED, GroupModFailed.BAD_COMMAND),
    "indirect with two": (
        group(5, to(1), to(2), kind=GroupType.INDIRECT),
        FAILED,
        GroupModFailed.INVALID_GROUP,
    ),
    "indirect with none": (group(5, kind=GroupType.INDIRECT), FAILED, GroupModFailed.INVALID_GROUP),
    "weight in all": (group(5, to(1, weight=1)), FAILED, GroupModFailed.INVALID_GROUP),
    "watch in all": (group(5, to(1, watch_port=1)), FAILED, GroupModFailed.WATCH_UNSUPPORTED),
    "failover of nothing": (group(5, to(1), kind=GroupType.FF), FAILED, GroupModFailed.INVALID_GROUP),
    "watch port 0": (group(5, to(1, watch_port=0), kind=GroupType.FF), FAILED, GroupModFailed.BAD_WATCH),
    "watch the controller": (
        group(5, to(1, watch_port=0xFFFFFFFD), kind=GroupType.SELECT),
        FAILED,
        GroupModFailed.BAD_WATCH,
    ),
    "watch no group": (group(5, to(1, watch_group=9), kind=GroupType.FF), FAILED, GroupModFailed.BAD_WATCH),
    "to itself": (group(5, chain(5)), FAILED, GroupModFailed.LOOP),
    "watches itself": (group(5, to(1, watch_group=5), kind=GroupType.FF), FAILED, GroupModFailed.LOOP),
    "loop": (group(1, chain(2), command=GroupModCommand.MODIFY), FAILED, GroupModFailed.LOOP),
    "loop of three": (group(1, chain(3), command=GroupModCommand.MODIFY), FAILED, GroupModFailed.LOOP),
    "chained": (remove(1), FAILED, GroupModFailed.CHAINED_GROUP),
    "no such group": (group(5, chain(9)), ErrorType.BAD_ACTION, BadAction.BAD_OUT_GROUP),
    "to the tables": (group(5, to(0xFFFFFFF9)), ErrorType.BAD_ACTION, BadAction.BAD_OUT_PORT),
    "bad action": (
        group(5, Bucket((a.PushVlan(0x8847),))),
        ErrorType.BAD_ACTION,
        BadAction.BAD_ARGUMENT,
    ),
    "too long to be described": (
        group(5, Bucket((a.DecNwTtl(),) * 8187)),
        ErrorType.BAD_ACTION,
        BadAction.TOO_MANY,
    ),
    "many buckets": (group(5, *[to(1)] * 1025), FAILED, GroupModFailed.OUT_OF_BUCKETS),
}


@pytest.mark.parametrize(("mod", "error_type", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(switch, mod, error_type, code):
    switch.says(group(1), group(2, chain(1)), group(3, chain(2)))
    assert refused(switch, mod) == (error_type, code)


def test_full(switch, monkeypatch):
    monkeypatch.setattr("vswitch.agent.groups.MAX_GROUPS", 1)
    switch.says(group(1))
    assert refused(switch, group(2)) == (FAILED, GroupModFailed.OUT_OF_GROUPS)


def test_chains_have_a_longest(switch):
    assert switch.says(group(0), *(group(n, chain(n - 1)) for n in range(1, MAX_CHAIN))) == []
    too_long = (FAILED, GroupModFailed.CHAINING_UNSUPPORTED)
    assert refused(switch, group(99, chain(MAX_CHAIN - 1))) == too_long
    switch.says(group(98))
    assert refused(switch, group(0, chain(98), command=GroupModCommand.MODIFY)) == too_long


def test_the_longest_chain_is_gone_through_from_everywhere(switch, datapath):
    switch.says(group(0, to(2)), *(group(n, chain(n - 1)) for n in range(1, MAX_CHAIN)))
    switch.says(add({}, use(MAX_CHAIN - 1)))
    assert switch.receives(1) == [2]
    for action in (a.Group(MAX_CHAIN - 1), a.Output(Port.TABLE)):
        switch.says(m.PacketOut(1, (action,), udp()))
        assert [sent.port for sent in datapath.take_sent()] == [2]


def fan_out(switch, buckets):
    """Groups in a row, each with as many buckets, which reach a port by as many ways as they multiply to."""
    switch.says(group(0, *[to(2)] * buckets))
    switch.says(*(group(n, *[chain(n - 1)] * buckets) for n in range(1, MAX_CHAIN)))
    return MAX_CHAIN - 1


def test_groups_that_multiply_have_an_end(switch, datapath):
    """Eight groups of eight buckets would be 16.7 million outputs: such a packet is dropped, at once."""
    started = time.process_time()
    switch.says(add({}, ApplyActions((a.Output(3), a.Group(fan_out(switch, 8))))))
    assert switch.receives(1) == switch.receives(1) == []
    assert time.process_time() - started < 5
    assert datapath.discarded == [DropReason.TOO_MANY_OPERATIONS]
    (entry,) = datapath.entries.values()
    assert entry.program == () and entry.stats.packets == 1


def test_groups_multiply_as_long_as_there_is_no_end(switch, datapath):
    """What is too much is looked at again when a group becomes less."""
    switch.says(add({}, use(fan_out(switch, 2))))
    assert switch.receives(1) == [2] * 2**MAX_CHAIN
    switch.says(group(0, *[to(2)] * 600, command=GroupModCommand.MODIFY))
    assert switch.receives(1) == []
    switch.says(group(0, to(2), command=GroupModCommand.MODIFY))
    assert switch.receives(1) == [2] * 2 ** (MAX_CHAIN - 1)


def test_a_packet_out_that_is_too_much_is_refused(switch, datapath):
    top = fan_out(switch, 8)
    switch.says(add({}, use(top)))
    for action in (a.Group(top), a.Output(Port.TABLE)):
        error = switch.asks(m.PacketOut(1, (action,), udp()))
        assert (error.type, error.code) == (ErrorType.BAD_ACTION, BadAction.TOO_MANY)
    assert datapath.take_sent() == []


def test_going_to_the_tables_again_and_again_has_an_end(switch):
    switch.says(*(add({}, goto(n + 1), table_id=n) for n in range(8)))
    error = switch.asks(m.PacketOut(1, (a.Output(Port.TABLE),) * 4000, udp()[:60]))
    assert (error.type, error.code) == (ErrorType.BAD_ACTION, BadAction.TOO_MANY)


def test_a_rule_needs_its_group(switch):
    error = switch.asks(add({}, use(1)))
    assert (error.type, error.code) == (ErrorType.BAD_ACTION, BadAction.BAD_OUT_GROUP)


# --- liveness --------------------------------------------------------------------------------------------


@pytest.fixture
def ports():
    ports = PortTable()
    ports.refresh([tap(1), tap(2, up=False)], 0)
    return ports


def test_a_bucket_is_live_by_its_port_its_group_or_without_any(ports):
    groups = GroupTable()
    for mod in (
        group(1, to(1, watch_port=1), to(2, watch_port=2), kind=GroupType.FF),
        group(2, to(2, watch_port=2), to(9, watch_port=9), kind=GroupType.FF),
        group(3, to(1, watch_group=1), to(1, watch_group=2), kind=GroupType.SELECT),
        group(4, to(1, watch_port=2, watch_group=1), kind=GroupType.FF),
        group(5, to(1)),
        group(6, to(1, watch_group=5), kind=GroupType.FF),
        group(7, kind=GroupType.FF),
    ):
        groups.apply(mod, 0)
    live = {group.group_id: groups.live_buckets(group, ports) for group in groups}
    assert live == {1: [0], 2: [], 3: [0], 4: [0], 5: [0], 6: [0], 7: []}


def test_a_group_that_many_buckets_watch_is_looked_at_once(ports):
    """Ways multiply along the chain: there are 16.7 million to the port that is down."""
    groups = GroupTable()
    groups.apply(group(0, *[to(2, watch_port=2)] * 8, kind=GroupType.FF), 0)
    for n in range(1, MAX_CHAIN):
        groups.apply(group(n, *[to(2, watch_group=n - 1)] * 8, kind=GroupType.FF), 0)
    started = time.process_time()
    assert groups.live_buckets(groups.get(MAX_CHAIN - 1), ports) == []
    assert time.process_time() - started < 1


def test_what_a_change_concerns(ports):
    groups = GroupTable()
    for mod in (group(1, to(1)), group(2, chain(1)), group(3, chain(2)), group(4)):
        assert groups.apply(mod, 0) == []
    changed = groups.apply(group(1, to(2), command=GroupModCommand.MODIFY), 0)
    assert sorted(group.group_id for group in changed) == [1, 2, 3]
    groups.apply(group(2, command=GroupModCommand.MODIFY), 0)
    assert [group.group_id for group in groups.apply(remove(1), 0)] == [1]
