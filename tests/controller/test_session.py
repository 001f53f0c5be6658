# SPDX-License-Identifier: Apache-2.0
"""One switch's session, as a dialogue: the switch says this, the controller says that."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from ryu_apps.core.intent import Intent, from_object
from ryu_apps.core.plan import AddRule, DeleteRule, Undo
from ryu_apps.core.rules import Rule, SwitchState, desired_state
from ryu_apps.core.session import Barrier, Message, RulesRequest, State, SwitchSession
from vswitch.openflow.experimenter import (
    CapabilitiesReply,
    CapabilitiesRequest,
    FormatAdd,
    IntentRevision,
    LroSet,
    NicQueuesSet,
    ProactiveReverseSet,
    Setting,
    SettingsReply,
    SettingsRequest,
    TunnelAdd,
)
from vswitch.openflow.instructions import Instructions

NOTHING_SET = SettingsReply(0, ())
CAPABILITIES = CapabilitiesReply(
    version="1", formats=("vxlan",), ports=tuple(range(1, 10)), queues=1, tunnels=()
)


def intent(**vms: str) -> Intent:
    """VMs by name, each on the server of its value."""
    return from_object(
        {
            "virtual_networks": {"blue": {"vni": 42}},
            "servers": {
                "s1": {"dpid": 1, "underlay_ip": "192.168.0.1", "uplink_port": 1},
                "s2": {"dpid": 2, "underlay_ip": "192.168.0.2", "uplink_port": 1},
            },
            "vms": {
                name: {
                    "server": server,
                    "port": 2 + i,
                    "network": "blue",
                    "mac": f"00:00:00:00:00:{i + 1:02x}",
                }
                for i, (name, server) in enumerate(vms.items())
            },
        }
    )


def state(**vms: str) -> SwitchState:
    return desired_state(intent(**vms), "s1")


def added(messages: list[Message]) -> list[Rule]:
    return [message.rule for message in messages if isinstance(message, AddRule)]


def test_a_new_switch_is_asked_then_filled_then_told_the_revision() -> None:
    wanted = state(vm1="s1", vm2="s2")
    session = SwitchSession(wanted, 7)
    assert session.start() == [CapabilitiesRequest(), SettingsRequest(), RulesRequest()]
    assert session.capabilities(CAPABILITIES) == []
    assert session.settings(NOTHING_SET) == []
    steps = session.rules([], more=False)
    assert {rule.key for rule in added(steps)} == set(wanted.rules)
    assert isinstance(steps[0], TunnelAdd)
    assert steps[-1] == Barrier(7)
    assert session.state is State.APPLYING
    assert session.barrier_reply(Barrier(7)) == [IntentRevision(7)]
    assert (session.state, session.synced_revision) == (State.SYNCED, 7)


@pytest.mark.parametrize("capabilities_first", [True, False])
def test_answers_may_come_in_any_order_and_in_parts(capabilities_first: bool) -> None:
    rules = list(state(vm1="s1", vm2="s2").rules.values())
    session = SwitchSession(state(vm1="s1", vm2="s2"), 7)
    session.start()
    session.settings(NOTHING_SET)
    if capabilities_first:
        assert session.capabilities(CAPABILITIES) == []
        assert session.rules(rules[:3], more=True) == []
        steps = session.rules(rules[3:], more=False)
    else:
        assert session.rules(rules[:3], more=True) == []
        assert session.rules(rules[3:], more=False) == []
        steps = session.capabilities(CAPABILITIES)
    assert added(steps) == []
    assert steps[-1] == Barrier(7)


def test_a_switch_that_kept_its_rules_is_not_told_them_again() -> None:
    wanted = state(vm1="s1", vm2="s2")
    session = SwitchSession(wanted, 7)
    session.start()
    session.settings(NOTHING_SET)
    session.capabilities(CAPABILITIES)
    steps = session.rules(wanted.rules.values(), more=False)
    assert [type(step) for step in steps] == [TunnelAdd, Barrier]


def test_a_stale_rule_of_ours_is_deleted_and_only_it() -> None:
    old, new = state(vm1="s1", vm2="s2", vm3="s1"), state(vm1="s1", vm2="s2")
    session = SwitchSession(new, 7)
    session.start()
    session.settings(NOTHING_SET)
    session.capabilities(CAPABILITIES)
    steps = session.rules(old.rules.values(), more=False)
    deleted = {step.rule.key for step in steps if isinstance(step, DeleteRule)}
    assert deleted == old.rules.keys() - new.rules.keys()


def synced(wanted: SwitchState) -> SwitchSession:
    session = SwitchSession(wanted, 7)
    session.start()
    session.settings(NOTHING_SET)
    session.capabilities(CAPABILITIES)
    session.rules([], more=False)
    session.barrier_reply(Barrier(7))
    return session


def test_a_new_intent_is_applied_by_the_difference() -> None:
    session = synced(state(vm1="s1", vm2="s2"))
    steps = session.update(state(vm1="s1", vm2="s2", vm3="s1"), 8)
    assert not any(isinstance(step, (TunnelAdd, Setting)) for step in steps)
    new_hosts = [rule for rule in added(steps) if rule.table == 2]
    assert [str(rule.match.get("eth_dst")) for rule in new_hosts] == ["eth_dst=00:00:00:00:00:03"]
    assert session.synced_revision is None
    assert session.barrier_reply(Barrier(8)) == [IntentRevision(8)]


def test_settings_that_an_earlier_controller_left_are_put_right() -> None:
    left = [NicQueuesSet(1, 4), LroSet(1, 3, "off")]
    session = SwitchSession(state(vm1="s1"), 7)
    session.start()
    session.rules([], more=False)
    session.capabilities(msgspec.structs.replace(CAPABILITIES, proactive_reverse=False))
    steps = session.settings(SettingsReply.of(left))
    assert steps == [*added_rules(steps), Undo(left[1]), Undo(left[0]), ProactiveReverseSet(True), Barrier(7)]


def added_rules(messages: list[Message]) -> list[Message]:
    return [message for message in messages if isinstance(message, AddRule)]


def test_settings_that_a_switch_kept_are_not_set_again() -> None:
    """They come in parts, each of which is asked for."""
    kept = [FormatAdd("new", {"outer_proto": 200, "opaque_len": 0}), NicQueuesSet(1, 4), LroSet(1, 3, "off")]
    wanted = SwitchState(settings={setting.key: setting for setting in kept})
    session = SwitchSession(wanted, 7)
    session.start()
    session.capabilities(CAPABILITIES)
    session.rules([], more=False)
    first = SettingsReply.of(kept[:2])
    assert session.settings(msgspec.structs.replace(first, more=True)) == [SettingsRequest(2)]
    assert session.settings(msgspec.structs.replace(SettingsReply.of(kept, 2), first=2)) == [Barrier(7)]


def test_a_refused_setting_is_reported_and_tried_again_with_the_next_intent() -> None:
    wanted = SwitchState(settings={setting.key: setting for setting in [LroSet(1, 3, "off")]})
    session = synced(SwitchState())
    (setting, _barrier) = session.update(wanted, 8)
    session.refused(setting, "queue: uplink0 has no queue 3 (allowed: 0)")
    assert session.barrier_reply(Barrier(8)) == []
    assert "uplink0 has no queue 3" in session.errors[0]
    assert session.update(wanted, 9) == [setting, Barrier(9)]


def test_what_a_refused_setting_was_to_replace_is_still_there() -> None:
    before, after = LroSet(1, 0, "on"), LroSet(1, 0, "rules")
    session = synced(SwitchState(settings={before.key: before}))
    (setting, _barrier) = session.update(SwitchState(settings={after.key: after}), 8)
    session.refused(setting, "mode: the port has no rules")
    assert session.update(SwitchState(), 9) == [Undo(before), Barrier(9)]


def test_what_a_refused_rule_was_to_replace_is_still_there() -> None:
    wanted = state(vm1="s1", vm2="s2")
    session = synced(wanted)
    (rule, *_others) = wanted.rules.values()
    other = replace(rule, instructions=Instructions.of())
    assert other != rule
    steps = session.update(replace(wanted, rules={**wanted.rules, rule.key: other}), 8)
    session.refused(steps[0], "BAD_ACTION/BAD_OUT_GROUP")
    without = {key: kept for key, kept in wanted.rules.items() if key != rule.key}
    assert session.update(replace(wanted, rules=without), 9) == [DeleteRule(rule), Barrier(9)]


def test_a_format_of_the_intent_need_not_be_known_before() -> None:
    wanted = state(vm1="s1", vm2="s2")
    tunnels = {port: msgspec.structs.replace(t, format="new") for port, t in wanted.tunnels.items() if t}
    mine = FormatAdd("new", {"outer_proto": 200, "opaque_len": 0})
    session = synced(replace(wanted, tunnels=tunnels, settings={mine.key: mine}))
    assert session.errors == []


def test_the_same_rules_under_a_new_revision_need_only_the_barrier() -> None:
    session = synced(state(vm1="s1", vm2="s2"))
    assert session.update(state(vm1="s1", vm2="s2"), 8) == [Barrier(8)]


def test_a_barrier_of_an_intent_that_changed_meanwhile_says_nothing() -> None:
    session = synced(state(vm1="s1", vm2="s2"))
    session.update(state(vm1="s1"), 8)
    session.update(state(vm1="s1", vm2="s2"), 9)
    assert session.barrier_reply(Barrier(8)) == []
    assert session.barrier_reply(Barrier(9)) == [IntentRevision(9)]


def test_a_new_intent_before_the_switch_has_answered_waits_for_the_answers() -> None:
    session = SwitchSession(state(vm1="s1"), 7)
    session.start()
    session.settings(NOTHING_SET)
    assert session.update(state(vm1="s1", vm2="s2"), 8) == []
    session.capabilities(CAPABILITIES)
    steps = session.rules([], more=False)
    assert {rule.key for rule in added(steps)} == set(state(vm1="s1", vm2="s2").rules)
    assert steps[-1] == Barrier(8)


def test_a_refused_rule_is_reported_and_tried_again_with_the_next_intent() -> None:
    wanted = state(vm1="s1", vm2="s2")
    session = SwitchSession(wanted, 7)
    session.start()
    session.settings(NOTHING_SET)
    session.capabilities(CAPABILITIES)
    refused = next(m for m in session.rules([], more=False) if isinstance(m, AddRule))
    session.refused(refused, "FLOW_MOD_FAILED/TABLE_FULL")
    assert session.barrier_reply(Barrier(7)) == []
    assert session.synced_revision is None
    assert session.errors == [f"FLOW_MOD_FAILED/TABLE_FULL, in answer to adding {refused.rule}"]
    assert added(session.update(wanted, 8)) == [refused.rule]
    assert session.errors == []
    assert session.barrier_reply(Barrier(8)) == [IntentRevision(8)]


def test_a_switch_without_the_tunnel_format_is_an_error() -> None:
    session = SwitchSession(state(vm1="s1", vm2="s2"), 7)
    session.start()
    session.settings(NOTHING_SET)
    session.capabilities(msgspec.structs.replace(CAPABILITIES, formats=("gre",)))
    session.rules([], more=False)
    assert session.errors == ["the switch has no tunnel format 'vxlan' (it has: gre)"]


def test_a_switch_of_another_make_is_told_apart() -> None:
    session = SwitchSession(state(vm1="s1"), 7)
    request = session.start()[0]
    session.refused(request, "BAD_REQUEST/BAD_EXPERIMENTER")
    assert session.rules([], more=False) == []
    assert session.errors[1] == "the switch does not know the offload messages: it is not a VSwitch"
