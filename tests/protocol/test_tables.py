# SPDX-License-Identifier: Apache-2.0
"""Flow-table semantics as dialogues: what a controller says, and what it then sees."""

from __future__ import annotations

import asyncio
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.frames import udp
from tests.protocol.harness import FakeSwitch, Peer, add, delete, goto, m, out, set_tunnel
from vswitch.agent.classifier import Classifier
from vswitch.agent.fields import ETH_DST, ETH_TYPE, IN_PORT, IP_PROTO, IP_SRC, L4_DST, METADATA
from vswitch.agent.tables import MAX_RULES, Rule, Table
from vswitch.openflow import actions as a
from vswitch.openflow import multipart as mp
from vswitch.openflow.constants import (
    BadAction,
    BadInstruction,
    ErrorType,
    FlowModCommand,
    FlowModFailed,
    FlowModFlag,
    FlowRemovedReason,
    MeterModFailed,
    MultipartType,
)
from vswitch.openflow.flow_mod import FlowRemoved
from vswitch.openflow.instructions import ApplyActions, Instructions, Meter, WriteActions
from vswitch.openflow.oxm import BY_NAME, Match, Oxm

TCP80 = {"eth_type": 0x800, "ip_proto": 6, "tcp_dst": 80}


def rules(switch, **wanted):
    """(table, priority, match, instructions) of the rules that a flow stats request returns."""
    request = mp.FlowFilter(Match.of(**wanted.pop("match", {})), **wanted)
    return [(s.table_id, s.priority, str(s.match), str(s.instructions)) for s in switch.stats(1, request)]


def refused(switch, mod):
    """(type, code) of the error that answers `mod`, after which nothing has changed."""
    before = rules(switch)
    error = switch.asks(mod)
    assert isinstance(error, m.Error)
    assert rules(switch) == before
    return error.type, error.code


# --- add -------------------------------------------------------------------------------------------------


def test_added_rules_come_back_by_table_and_priority(switch):
    switch.says(
        add({"in_port": 1}, out(2), priority=5),
        add({"in_port": 2}, out(1), priority=9),
        add({}, out(3), table_id=7, priority=1),
    )
    assert rules(switch) == [
        (0, 9, "in_port=2", "apply_actions(output:1)"),
        (0, 5, "in_port=1", "apply_actions(output:2)"),
        (7, 1, "", "apply_actions(output:3)"),
    ]


def test_stats_return_the_bytes_of_the_flow_mod(switch):
    """A mask of all ones and an unusual order of actions are kept as they came."""
    mod = add({"eth_dst": (5, 2**48 - 1)}, ApplyActions((a.Output(2, 7), a.Output(3, 9))), goto(4), cookie=77)
    switch.says(mod)
    (stats,) = switch.stats()
    assert (stats.match.wire, stats.instructions.wire) == (mod.match.wire, mod.instructions.wire)
    assert stats.cookie == 77


def test_same_match_and_priority_replaces(switch):
    switch.says(add({"in_port": 1}, out(2)), add({"in_port": 1}, out(3), cookie=4))
    assert [r[3] for r in rules(switch)] == ["apply_actions(output:3)"]


def test_fully_masked_and_exact_are_the_same_match(switch):
    switch.says(add({"eth_dst": 5}, out(2)), add({"eth_dst": (5, 2**48 - 1)}, out(3)))
    assert len(rules(switch)) == 1


def test_replacing_keeps_counters_unless_told(switch):
    switch.says(add({}, out(2)))
    switch.receives(1)
    switch.says(add({}, out(3)))
    assert switch.stats()[0].packet_count == 1
    switch.says(add({}, out(3), flags=FlowModFlag.RESET_COUNTS))
    assert switch.stats()[0].packet_count == 0


def test_overlap_is_refused_when_asked(switch):
    switch.says(add({"in_port": 1}, out(2), priority=5))
    check = FlowModFlag.CHECK_OVERLAP
    overlapping = add({"eth_type": 0x800}, out(2), priority=5, flags=check)
    assert refused(switch, overlapping) == (ErrorType.FLOW_MOD_FAILED, FlowModFailed.OVERLAP)
    assert refused(switch, add({"in_port": 1}, out(3), priority=5, flags=check))
    assert switch.says(add({"eth_type": 0x800}, out(2), priority=6, flags=check)) == []
    assert switch.says(add({"in_port": 2}, out(2), priority=5, flags=check)) == []
    assert switch.says(add({"eth_type": 0x806}, out(2), priority=5)) == []


def test_masked_overlap(switch):
    switch.says(add({"eth_dst": (0x0100, 0xFF00)}, out(2)))
    check = FlowModFlag.CHECK_OVERLAP
    assert switch.says(add({"eth_dst": (0x0200, 0xFF00)}, out(2), flags=check)) == []
    assert len(switch.says(add({"eth_dst": (0x0001, 0x00FF)}, out(2), flags=check))) == 1


# --- what cannot be done is refused ----------------------------------------------------------------------


def set_field(name, value):
    return ApplyActions((a.SetField(Oxm(BY_NAME[name], value)),))


REFUSED = {
    "table 254": (add({}, table_id=254), ErrorType.FLOW_MOD_FAILED, FlowModFailed.BAD_TABLE_ID),
    "add to all tables": (add({}, table_id=255), ErrorType.FLOW_MOD_FAILED, FlowModFailed.BAD_TABLE_ID),
    "goto itself": (add({}, goto(3), table_id=3), ErrorType.BAD_INSTRUCTION, BadInstruction.BAD_TABLE_ID),
    "goto back": (add({}, goto(2), table_id=3), ErrorType.BAD_INSTRUCTION, BadInstruction.BAD_TABLE_ID),
    "goto 254": (add({}, goto(254)), ErrorType.BAD_INSTRUCTION, BadInstruction.BAD_TABLE_ID),
    "meter": (add({}, Meter(1)), ErrorType.METER_MOD_FAILED, MeterModFailed.UNKNOWN_METER),
    "group": (add({}, ApplyActions((a.Group(1),))), ErrorType.BAD_ACTION, BadAction.BAD_OUT_GROUP),
    "all queues": (
        add({}, ApplyActions((a.SetQueue(0xFFFFFFFF),))),
        ErrorType.BAD_ACTION,
        BadAction.BAD_QUEUE,
    ),
    "push": (add({}, WriteActions((a.PushVlan(0x9100),))), ErrorType.BAD_ACTION, BadAction.BAD_ARGUMENT),
    "push MPLS": (add({}, ApplyActions((a.PushMpls(0x800),))), ErrorType.BAD_ACTION, BadAction.BAD_ARGUMENT),
    "push PBB": (add({}, ApplyActions((a.PushPbb(0x88A8),))), ErrorType.BAD_ACTION, BadAction.BAD_ARGUMENT),
    "set in_port": (add({}, set_field("in_port", 1)), ErrorType.BAD_ACTION, BadAction.BAD_SET_TYPE),
    "set metadata": (add({}, set_field("metadata", 1)), ErrorType.BAD_ACTION, BadAction.BAD_SET_TYPE),
    "set exthdr": (
        add({"eth_type": 0x86DD}, set_field("ipv6_exthdr", 1)),
        ErrorType.BAD_ACTION,
        BadAction.BAD_SET_TYPE,
    ),
    "set VLAN without its bit": (
        add({"vlan_vid": 0x1005}, set_field("vlan_vid", 5)),
        ErrorType.BAD_ACTION,
        BadAction.BAD_SET_ARGUMENT,
    ),
    "experimenter action": (
        add({}, ApplyActions((a.Experimenter(1, b"12345678"),))),
        ErrorType.BAD_ACTION,
        BadAction.BAD_EXPERIMENTER,
    ),
    "port 0": (add({}, out(0)), ErrorType.BAD_ACTION, BadAction.BAD_OUT_PORT),
    "port ANY": (add({}, out(0xFFFFFFFF)), ErrorType.BAD_ACTION, BadAction.BAD_OUT_PORT),
    "port TABLE": (add({}, out(0xFFFFFFF9)), ErrorType.BAD_ACTION, BadAction.BAD_OUT_PORT),
}


@pytest.mark.parametrize(("mod", "error_type", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(switch, mod, error_type, code):
    assert refused(switch, mod) == (error_type, code)


def test_full_table(switch, monkeypatch):
    monkeypatch.setattr("vswitch.agent.tables.MAX_RULES", 2)
    switch.says(add({"in_port": 1}), add({"in_port": 2}))
    full = refused(switch, add({"in_port": 3}))
    assert full == (ErrorType.FLOW_MOD_FAILED, FlowModFailed.TABLE_FULL)
    assert switch.says(add({"in_port": 2}, out(1))) == []
    assert MAX_RULES >= 10_000


# --- modify ----------------------------------------------------------------------------------------------


def test_modify_changes_instructions_of_what_it_covers_and_nothing_else(switch):
    switch.says(
        add({"in_port": 1, **TCP80}, out(2), cookie=7),
        add({"in_port": 1}, out(2)),
        add({"in_port": 2}, out(2)),
    )
    switch.receives(1)
    switch.says(add({"in_port": 1}, out(3), command=FlowModCommand.MODIFY, priority=1, cookie=99))
    changed = {s.match.canonical: (str(s.instructions), s.cookie, s.packet_count) for s in switch.stats()}
    assert sorted(changed.values()) == [
        ("apply_actions(output:2)", 0, 0),
        ("apply_actions(output:3)", 0, 1),
        ("apply_actions(output:3)", 7, 0),
    ]


def test_modify_strict_needs_match_and_priority(switch):
    switch.says(add({"in_port": 1}, out(2), priority=5))
    strict = FlowModCommand.MODIFY_STRICT
    switch.says(add({"in_port": 1}, out(3), command=strict, priority=4))
    switch.says(add({}, out(3), command=strict, priority=5))
    assert rules(switch)[0][3] == "apply_actions(output:2)"
    switch.says(add({"in_port": 1}, out(3), command=strict, priority=5))
    assert rules(switch)[0][3] == "apply_actions(output:3)"


def test_modify_of_nothing_adds_nothing(switch):
    assert switch.says(add({"in_port": 1}, out(3), command=FlowModCommand.MODIFY)) == []
    assert rules(switch) == []


# --- delete ----------------------------------------------------------------------------------------------


def test_delete_takes_what_is_as_special_or_more(switch):
    switch.says(add(TCP80, out(1)), add({"eth_type": 0x800}, out(1)), add({"eth_type": 0x806}, out(1)))
    switch.says(delete({"eth_type": 0x800, "ip_proto": 6}))
    assert len(rules(switch)) == 2
    switch.says(delete({"eth_type": 0x800}))
    assert [r[2] for r in rules(switch)] == ["eth_type=0x806"]


def test_delete_with_prefixes(switch):
    switch.says(
        add({"eth_type": 0x800, "ipv4_dst": (0x0A010000, 0xFFFF0000)}, out(1)),
        add({"eth_type": 0x800, "ipv4_dst": 0x0A010203}, out(1)),
        add({"eth_type": 0x800, "ipv4_dst": (0x0A000000, 0xFF000000)}, out(1)),
    )
    switch.says(delete({"eth_type": 0x800, "ipv4_dst": (0x0A010000, 0xFFFF0000)}))
    assert [r[2] for r in rules(switch)] == ["eth_type=0x800,ipv4_dst=10.0.0.0/255.0.0.0"]


def test_delete_strict(switch):
    switch.says(add({"in_port": 1}, out(2), priority=5))
    switch.says(delete({"in_port": 1}, strict=True, priority=6), delete({}, strict=True, priority=5))
    assert len(rules(switch)) == 1
    switch.says(delete({"in_port": 1}, strict=True, priority=5))
    assert rules(switch) == []


def test_delete_in_one_table_or_all(switch):
    switch.says(*(add({}, out(1), table_id=table) for table in (0, 1, 2)))
    switch.says(delete(table_id=1))
    assert [r[0] for r in rules(switch)] == [0, 2]
    switch.says(delete(table_id=255))
    assert rules(switch) == []


def test_delete_by_out_port(switch):
    switch.says(
        add({"in_port": 1}, out(2)),
        add({"in_port": 2}, WriteActions((a.Output(2),))),
        add({"in_port": 3}, out(1)),
    )
    switch.says(delete(out_port=2))
    assert [r[2] for r in rules(switch)] == ["in_port=3"]
    switch.says(delete(out_group=1))
    assert len(rules(switch)) == 1


@pytest.mark.parametrize("command", [FlowModCommand.MODIFY, FlowModCommand.DELETE])
def test_cookie_mask_selects(switch, command):
    switch.says(add({"in_port": 1}, out(2), cookie=0x11), add({"in_port": 2}, out(2), cookie=0x21))
    switch.says(add({}, out(3), command=command, cookie=0x10, cookie_mask=0xF0))
    left = [(s.cookie, str(s.instructions)) for s in switch.stats()]
    assert (0x21, "apply_actions(output:2)") in left
    assert (0x11, "apply_actions(output:2)") not in left


def test_flow_stats_filters(switch):
    switch.says(
        add({"in_port": 1}, out(2), cookie=1),
        add({"in_port": 1, **TCP80}, out(3), cookie=2),
        add({}, out(2), cookie=1, table_id=4),
    )
    assert len(rules(switch, table_id=4)) == 1
    assert len(rules(switch, out_port=2)) == 2
    assert len(rules(switch, cookie=1, cookie_mask=3)) == 2
    assert len(rules(switch, match={"in_port": 1})) == 2
    assert rules(switch, table_id=9) == []
    (aggregate,) = switch.stats(MultipartType.AGGREGATE)
    assert aggregate.flow_count == 3


# --- time-outs and flow-removed --------------------------------------------------------------------------


def removed(messages):
    return [(x.reason, str(x.match), x.packet_count) for x in messages if isinstance(x, FlowRemoved)]


def test_deleted_rule_is_announced_when_asked_for(switch):
    switch.says(
        add({"in_port": 1}, out(2), flags=FlowModFlag.SEND_FLOW_REM, cookie=5),
        add({"in_port": 2}, out(1)),
    )
    switch.receives(1, udp())
    (message,) = switch.says(delete())
    assert removed([message]) == [(FlowRemovedReason.DELETE, "in_port=1", 1)]
    assert (message.cookie, message.byte_count) == (5, len(udp()))


def test_replaced_rule_is_not_announced(switch):
    flags = FlowModFlag.SEND_FLOW_REM
    assert switch.says(add({}, out(2), flags=flags), add({}, out(3), flags=flags)) == []


def test_hard_timeout(switch, clock):
    switch.says(add({}, out(2), hard_timeout=3, flags=FlowModFlag.SEND_FLOW_REM))
    clock.advance(2.9)
    switch.receives(1)
    asyncio.run(switch.of.expire_rules())
    assert len(rules(switch)) == 1
    clock.advance(0.1)
    asyncio.run(switch.of.expire_rules())
    (message,) = switch.hears()
    assert removed([message]) == [(FlowRemovedReason.HARD_TIMEOUT, "", 1)]
    assert (message.duration_sec, message.hard_timeout) == (3, 3)
    assert switch.receives(1) == []


def test_idle_timeout_counts_from_the_last_packet(switch, clock):
    switch.says(add({}, out(2), idle_timeout=2, flags=FlowModFlag.SEND_FLOW_REM))
    for _ in range(3):
        clock.advance(1.5)
        switch.receives(1)
        asyncio.run(switch.of.expire_rules())
    assert len(rules(switch)) == 1
    clock.advance(2)
    asyncio.run(switch.of.expire_rules())
    assert removed(switch.hears()) == [(FlowRemovedReason.IDLE_TIMEOUT, "", 3)]


def test_flow_entries_that_ended_earlier_still_count_for_the_idle_timeout(switch, datapath, clock):
    switch.says(add({}, out(2), idle_timeout=60))
    switch.receives(1)
    clock.advance(30)
    switch.receives(1)
    datapath.evict(datapath.key_of(udp(), 1))
    clock.advance(59)
    asyncio.run(switch.of.expire_rules())
    assert switch.stats()[0].packet_count == 2
    clock.advance(1)
    asyncio.run(switch.of.expire_rules())
    assert rules(switch) == []


def test_counting_can_be_switched_off_per_rule(switch):
    switch.says(add({}, out(2), flags=FlowModFlag.NO_BYT_COUNTS))
    switch.receives(1)
    (stats,) = switch.stats()
    assert (stats.packet_count, stats.byte_count, stats.flags) == (1, 0, FlowModFlag.NO_BYT_COUNTS)


def test_slave_hears_nothing_of_removed_rules(switch):
    other = Peer(switch.of)
    other.says(m.RoleRequest(3, 1))
    switch.says(add({}, out(2), flags=FlowModFlag.SEND_FLOW_REM), delete())
    assert other.hears() == []


# --- the classifier against the obvious ------------------------------------------------------------------


def rule(priority, match):
    return Rule(0, priority, match, Instructions.of(set_and_out()), 0, 0, 0, 0, 0)


def set_and_out():
    return ApplyActions((set_tunnel(1), a.Output(1)))


def matches(rule, fields):
    return all(fields[n] & mask == value for (n, mask), value in zip(rule.masks, rule.values, strict=True))


class PacketStub:
    INDEXES = (IN_PORT, ETH_DST, IP_SRC, L4_DST, METADATA)

    def __init__(self, *fields):
        self.values = [0] * (METADATA + 1)
        self.unknown = 0
        self.looked = [0] * (METADATA + 1)
        self.values[ETH_TYPE], self.values[IP_PROTO] = PREREQUISITES.values()
        for index, value in zip(self.INDEXES, fields, strict=True):
            self.values[index] = value

    def look(self, masks):
        for index, mask in masks:
            self.looked[index] |= mask

    def agrees(self, other):
        """In all that was looked at of it."""
        return not any((self.values[n] ^ other.values[n]) & self.looked[n] for n in self.INDEXES)


PREREQUISITES = {"eth_type": 0x800, "ip_proto": 17}

small_rules = st.builds(
    lambda priority, values: (priority, Match.of(**PREREQUISITES, **values) if values else Match.of()),
    st.integers(0, 4),
    st.fixed_dictionaries(
        {},
        optional={
            "in_port": st.integers(1, 3),
            "eth_dst": st.tuples(st.integers(0, 3), st.just(3)) | st.just((2, 2)) | st.just((0, 1)),
            "metadata": st.integers(0, 2),
            "ipv4_src": st.tuples(st.integers(0, 3), st.just(3)) | st.just((2, 2)),
            "udp_dst": st.integers(0, 2),
        },
    ),
)


@given(st.lists(small_rules, max_size=12), st.lists(st.integers(0, 11), max_size=6))
def test_classifier_finds_what_a_linear_search_finds(made, dropped):
    """And what it did not look at does not matter: packets that agree in the rest go to the same rule."""
    classifier: Classifier[Rule] = Classifier()
    present = {(priority, match.canonical): rule(priority, match) for priority, match in made}
    for each in present.values():
        classifier.add(each)
    for number in dropped:
        if number < len(made) and (made[number][0], made[number][1].canonical) in present:
            classifier.remove(present.pop((made[number][0], made[number][1].canonical)))
    packets = [PacketStub(*fields) for fields in product((1, 2), range(4), range(3), (0, 1), (0, 2))]
    found = [classifier.lookup(packet) for packet in packets]
    for packet, its in zip(packets, found, strict=True):
        hits = [each for each in present.values() if matches(each, packet.values)]
        best = max((each.priority for each in hits), default=None)
        assert (its is None) == (best is None)
        assert its is None or (its.priority == best and its in hits)
        for other, its_rule in zip(packets, found, strict=True):
            assert its_rule is its or not packet.agrees(other)


def covers(wanted, match):
    """Every (field, bit) that `wanted` asks for is asked for by `match` with the same value."""
    fields = {oxm.field.name: oxm for oxm in match}
    for oxm in wanted:
        for bit in range(oxm.field.bits):
            if oxm.effective_mask >> bit & 1:
                own = fields.get(oxm.field.name)
                if own is None or not own.effective_mask >> bit & 1 or (own.value ^ oxm.value) >> bit & 1:
                    return False
    return True


@given(st.lists(small_rules, max_size=12), small_rules)
def test_the_rules_within_a_match_are_those_that_a_comparison_of_all_finds(made, wanted):
    table = Table(0)
    present = {(priority, match.canonical): rule(priority, match) for priority, match in made}
    for each in present.values():
        table.add(each)
    found = list(table.within(wanted[1]))
    assert len(found) == len(set(found))
    assert set(found) == {each for each in present.values() if covers(wanted[1], each.match)}
    for each in found:
        table.remove(each)
    assert list(table.within(wanted[1])) == []


def test_a_replaced_rule_starts_its_time_anew_and_keeps_its_counters(switch, clock):
    switch.says(add({}, out(2), cookie=1))
    switch.receives(1)
    clock.advance(3)
    switch.says(add({}, out(3), cookie=2, idle_timeout=9))
    clock.advance(1)
    (stats,) = switch.stats()
    assert (stats.cookie, stats.idle_timeout, stats.duration_sec, stats.packet_count) == (2, 9, 1, 1)
    assert switch.receives(1) == [3]
    assert switch.stats()[0].packet_count == 2


def test_reset_counts(switch):
    switch.says(add({}, out(2)))
    switch.receives(1)
    flags = FlowModFlag.RESET_COUNTS
    switch.says(add({}, out(3), command=FlowModCommand.MODIFY, flags=flags))
    assert switch.stats()[0].packet_count == 0
    switch.receives(1)
    switch.says(add({}, out(2), command=FlowModCommand.MODIFY))
    assert switch.stats()[0].packet_count == 1
    switch.says(add({}, out(2), flags=flags))
    assert switch.stats()[0].packet_count == 0


def test_a_rule_that_is_modified_does_not_idle_out_for_it(switch, clock):
    switch.says(add({}, out(2), idle_timeout=3))
    clock.advance(2)
    switch.receives(1)
    clock.advance(2)
    flags = FlowModFlag.RESET_COUNTS
    switch.says(add({}, out(3), command=FlowModCommand.MODIFY, flags=flags))
    asyncio.run(switch.of.expire_rules())
    assert len(rules(switch)) == 1


def test_two_switches_share_nothing(clock, datapath):
    first, second = FakeSwitch(datapath, clock), FakeSwitch(datapath, clock)
    first.says(add({}, out(2)))
    assert len(rules(first)) == 1 and rules(second) == []
