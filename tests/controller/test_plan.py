# SPDX-License-Identifier: Apache-2.0
"""From one state of a switch to another, by the difference and in a safe order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ryu_apps.core.intent import Intent, from_object
from ryu_apps.core.lookup import outputs
from ryu_apps.core.plan import AddRule, DeleteRule, Undo, apply, plan
from ryu_apps.core.rules import SwitchState, desired_state
from tests.controller.strategies import intents
from vswitch.openflow.experimenter import (
    FormatAdd,
    LroRuleAdd,
    LroSet,
    NicFilterAdd,
    NicQueuesSet,
    PacketMatch,
    Setting,
    TunnelAdd,
    TunnelDelete,
)

states = intents().map(lambda intent: desired_state(intent, next(iter(intent.servers))))


@given(states, states)
def test_leads_to_the_wanted_state(old: SwitchState, new: SwitchState) -> None:
    reached = apply(old, plan(old, new))
    assert reached.rules == new.rules
    assert reached.tunnels == new.tunnels
    assert reached.settings == new.settings
    assert plan(reached, new) == []


@given(states)
def test_nothing_to_do_for_the_same_state(state: SwitchState) -> None:
    assert plan(state, state) == []


@given(states)
def test_from_nothing_and_back(state: SwitchState) -> None:
    built = apply(SwitchState(), plan(SwitchState(), state))
    assert built.rules == state.rules
    emptied = apply(built, plan(built, SwitchState()))
    assert (emptied.rules, emptied.tunnels) == ({}, {})


@given(states, states)
def test_touches_only_what_differs(old: SwitchState, new: SwitchState) -> None:
    kept = {key for key, rule in new.rules.items() if old.rules.get(key) == rule}
    for step in plan(old, new):
        if isinstance(step, (AddRule, DeleteRule)):
            assert step.rule.key not in kept


@given(states, states)
def test_no_step_leaves_a_rule_without_what_it_leads_to(old: SwitchState, new: SwitchState) -> None:
    """New rules appear after their tunnels, from the last table to the first; old ones go the other way."""
    steps = plan(old, new)
    added = [step.rule.table for step in steps if isinstance(step, AddRule)]
    deleted = [step.rule.table for step in steps if isinstance(step, DeleteRule)]
    assert added == sorted(added, reverse=True)
    assert deleted == sorted(deleted)
    order = [type(step) for step in steps if not isinstance(step, (Setting, Undo, TunnelDelete))]
    assert order == sorted(order, key=[TunnelAdd, AddRule, DeleteRule].index)


@given(intents(), st.data())
def test_what_both_intents_want_works_after_every_step(intent: Intent, data: st.DataObject) -> None:
    """A VM goes away; the others' packets take the same way throughout."""
    if not intent.vms:
        return
    gone = data.draw(st.sampled_from(sorted(intent.vms)))
    server = intent.vms[gone].server
    smaller = replace_vms(intent, gone)
    state, new = desired_state(intent, server), desired_state(smaller, server)
    kept = [vm for vm in smaller.vms.values() if vm.server == server]
    ways = {}
    for vm in kept:
        for other in smaller.vms.values():
            if other.network == vm.network and other.mac != vm.mac:
                packet = (vm.port, int(other.mac.replace(":", ""), 16))
                ways[packet] = outputs(state, in_port=packet[0], eth_dst=packet[1])
    for step in plan(state, new):
        state = apply(state, [step])
        for (port, eth_dst), way in ways.items():
            assert outputs(state, in_port=port, eth_dst=eth_dst) == way


def replace_vms(intent: Intent, gone: str) -> Intent:
    document = intent.to_object()
    del document["vms"][gone]
    document["offload"]["overrides"] = []
    return from_object(document)


def tunnel(port_no: int, remote: int, uplink_port: int = 1, format: str = "vxlan") -> TunnelAdd:
    return TunnelAdd(
        port_no=port_no,
        name=f"tun{port_no}",
        format=format,
        local_ip="192.168.0.1",
        remote_ip=f"192.168.0.{remote}",
        local_mac="02:00:00:00:00:01",
        remote_mac="02:00:00:00:00:02",
        uplink_port=uplink_port,
    )


def test_a_tunnel_that_changes_is_replaced_in_one_step() -> None:
    old, new = tunnel(1002, 2), tunnel(1002, 2, uplink_port=7)
    assert plan(SwitchState(tunnels={1002: old}), SwitchState(tunnels={1002: new})) == [new]


def test_a_remote_that_gets_another_port_loses_the_old_one_first() -> None:
    steps = plan(SwitchState(tunnels={1002: tunnel(1002, 2)}), SwitchState(tunnels={1003: tunnel(1003, 2)}))
    assert steps == [TunnelDelete(port_no=1002), tunnel(1003, 2)]


def test_a_tunnel_of_unknown_settings_is_sent_again_if_wanted_and_removed_if_not() -> None:
    old = SwitchState(tunnels={1002: None, 1003: None})
    assert plan(old, SwitchState(tunnels={1002: tunnel(1002, 2)})) == [
        TunnelDelete(port_no=1003),
        tunnel(1002, 2),
    ]


def having(*settings: Setting, **fields: Any) -> SwitchState:
    return SwitchState(settings={setting.key: setting for setting in settings}, **fields)


def test_a_queue_that_is_no_longer_named_goes_back_to_the_default() -> None:
    off = LroSet(1, 0, "off")
    assert plan(having(NicQueuesSet(1, 2), off), having(NicQueuesSet(1, 2))) == [Undo(off)]


def test_what_names_a_queue_comes_after_it_and_goes_before_it() -> None:
    match = PacketMatch(protocol="tcp", dst_port=80)
    few, many = NicQueuesSet(1, 2), NicQueuesSet(1, 4)
    on_0, on_3 = NicFilterAdd(1, match, 0), NicFilterAdd(1, match, 3)
    rule = LroRuleAdd(1, match, (3,))
    assert plan(having(few, on_0), having(many, on_3, rule)) == [many, on_3, rule]
    assert plan(having(many, on_3, rule), having(few, on_0)) == [on_0, Undo(rule), few]
    assert plan(having(many, on_3), having()) == [Undo(on_3), Undo(many)]


def test_a_rule_for_other_queues_comes_after_the_one_whose_packets_it_takes() -> None:
    """A NIC refuses a second rule for the same packets in the same queue."""
    count, match = NicQueuesSet(1, 3), PacketMatch(dst_ip="10.0.0.1")
    everywhere, here = LroRuleAdd(1, match), LroRuleAdd(1, match, queues=(0,))
    there = LroRuleAdd(1, match, queues=(2,))
    assert plan(having(count, everywhere), having(count, here)) == [Undo(everywhere), here]
    assert plan(having(count, here), having(count, everywhere)) == [Undo(here), everywhere]
    assert plan(having(count, here), having(count, there)) == [there, Undo(here)]
    assert plan(having(everywhere), having(count, here)) == [count, Undo(everywhere), here]


def numbered(name: str, port: int) -> FormatAdd:
    return FormatAdd(name, {"outer_proto": 17, "opaque_len": 8, "id_offset": 2, "id_value": port})


def test_a_format_comes_before_its_tunnels_and_goes_after_them() -> None:
    new = tunnel(1002, 2, format="new")
    mine = numbered("new", 999)
    with_it = having(mine, tunnels={1002: new})
    assert plan(having(), with_it) == [mine, new]
    assert plan(with_it, having()) == [TunnelDelete(1002), Undo(mine)]


def test_a_format_gets_other_numbers_while_no_tunnel_has_it() -> None:
    old, new = numbered("new", 999), numbered("new", 1000)
    tunnels = {1002: tunnel(1002, 2, format="new"), 1003: tunnel(1003, 3)}
    steps = plan(having(old, tunnels=tunnels), having(new, tunnels=tunnels))
    assert steps == [TunnelDelete(1002), new, tunnels[1002]]


def test_a_format_that_takes_the_place_of_another_comes_after_it_went() -> None:
    old, new = numbered("old", 999), numbered("new", 999)
    steps = plan(
        having(old, tunnels={1002: tunnel(1002, 2, format="old")}),
        having(new, tunnels={1002: tunnel(1002, 2, format="new")}),
    )
    assert steps == [TunnelDelete(1002), Undo(old), new, tunnel(1002, 2, format="new")]


@given(states)
def test_a_rule_with_other_instructions_is_put_in_its_place(state: SwitchState) -> None:
    for key, rule in state.rules.items():
        other = replace(rule, cookie=rule.cookie ^ 1)
        assert plan(replace(state, rules=state.rules | {key: other}), state) == [AddRule(rule)]
