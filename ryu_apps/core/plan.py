# SPDX-License-Identifier: Apache-2.0
"""The difference between two states of a switch, as steps in an order that never breaks what stays.

First what packets will need (formats, tunnels, then rules from the last table to the first), then what
nothing uses any more (rules from the first table to the last, then tunnels, then formats), then the NICs.
The same function serves a new intent (old and new state both computed) and a switch that comes back (the old
state as it reports it).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Union

from ryu_apps.core.rules import Rule, SwitchState
from vswitch.openflow.experimenter import (
    FormatAdd,
    LroRuleAdd,
    NicQueuesSet,
    ProactiveReverseSet,
    Setting,
    TunnelAdd,
    TunnelDelete,
)


@dataclass(frozen=True)
class AddRule:
    """Add a rule, or put it in the place of the one with its key."""

    rule: Rule


@dataclass(frozen=True)
class DeleteRule:
    """Delete exactly this rule (strictly, by table, priority and match)."""

    rule: Rule


@dataclass(frozen=True)
class Undo:
    """Take a setting back."""

    setting: Setting


Step = Union[AddRule, DeleteRule, TunnelAdd, TunnelDelete, Setting, Undo, ProactiveReverseSet]


def plan(old: SwitchState, new: SwitchState) -> list[Step]:
    """The steps that lead a switch from `old` to `new`; none when they are the same."""
    # Formats first; one that is to go may be in the way of another, and so may a tunnel that has it.
    changed = [s for key, s in new.settings.items() if old.settings.get(key) != s]
    dropped = [s for key, s in old.settings.items() if key not in new.settings]
    formats = [s for s in changed if isinstance(s, FormatAdd)]
    useless = [s for s in dropped if isinstance(s, FormatAdd)]
    in_the_way = useless if formats else []
    replaced = {s.name for s in formats if s.key in old.settings}
    stale = _tunnels_in_the_way(old, new, replaced | {s.name for s in in_the_way})
    steps: list[Step] = [TunnelDelete(port_no=port) for port in stale]
    steps += [*map(Undo, in_the_way), *formats]
    steps += [
        tunnel
        for port, tunnel in sorted(new.tunnels.items())
        if tunnel and (old.tunnels.get(port) != tunnel or port in stale)
    ]
    steps += [AddRule(rule) for rule in sorted(_added(old, new), key=_order, reverse=True)]
    steps += [DeleteRule(old.rules[key]) for key in sorted(old.rules.keys() - new.rules.keys())]
    gone = sorted(old.tunnels.keys() - new.tunnels.keys() - set(stale))
    steps += [TunnelDelete(port_no=port) for port in gone]
    steps += [Undo(s) for s in useless if s not in in_the_way]
    steps += _nic_steps(old, changed, dropped)
    if old.proactive_reverse != new.proactive_reverse:
        steps.append(ProactiveReverseSet(new.proactive_reverse))
    return steps


def apply(state: SwitchState, steps: list[Step]) -> SwitchState:
    """The state after `steps`; what a correct switch makes of them."""
    rules, tunnels, settings = dict(state.rules), dict(state.tunnels), dict(state.settings)
    proactive_reverse = state.proactive_reverse
    for step in steps:
        if isinstance(step, AddRule):
            rules[step.rule.key] = step.rule
        elif isinstance(step, DeleteRule):
            del rules[step.rule.key]
        elif isinstance(step, TunnelAdd):
            tunnels[step.port_no] = step
        elif isinstance(step, TunnelDelete):
            del tunnels[step.port_no]
        elif isinstance(step, ProactiveReverseSet):
            proactive_reverse = step.enabled
        elif isinstance(step, Undo):
            del settings[step.setting.key]
        else:
            settings[step.key] = step
    return replace(
        state, rules=rules, tunnels=tunnels, settings=settings, proactive_reverse=proactive_reverse
    )


def _order(rule: Rule) -> tuple[int, int, object]:
    return rule.key


def _added(old: SwitchState, new: SwitchState) -> list[Rule]:
    """Rules that `old` lacks or has with other instructions or another cookie."""
    return [
        rule
        for key, rule in new.rules.items()
        if key not in old.rules or not rule.same_effect(old.rules[key])
    ]


def _tunnels_in_the_way(old: SwitchState, new: SwitchState, formats: set[str]) -> list[int]:
    """Ports of old tunnels whose remote gets, or may get, another port: only one may have its address.

    Also of those whose format gets, or may get, other numbers: a tunnel's format stays as it is.
    """
    ports = {(tunnel.format, tunnel.remote_ip): port for port, tunnel in new.tunnels.items() if tunnel}

    def in_the_way(port: int, tunnel: TunnelAdd | None) -> bool:
        if tunnel is None:
            return port not in new.tunnels or bool(formats)
        if tunnel.format in formats:
            return True
        return ports.get((tunnel.format, tunnel.remote_ip), port) != port

    return sorted(port for port, tunnel in old.tunnels.items() if in_the_way(port, tunnel))


def _nic_steps(old: SwitchState, changed: list[Setting], dropped: list[Setting]) -> list[Step]:
    """NICs and roles. What names a queue comes after the NIC has it, and goes before the NIC loses it."""
    counts = {s.key: s.count for s in old.settings.values() if isinstance(s, NicQueuesSet)}
    grown = [s for s in changed if isinstance(s, NicQueuesSet) and s.count >= counts.get(s.key, 1)]
    fewer = [s for s in changed if isinstance(s, NicQueuesSet) and s not in grown]
    others = [s for s in changed if not isinstance(s, (FormatAdd, NicQueuesSet))]
    gone = [s for s in reversed(dropped) if not isinstance(s, (FormatAdd, NicQueuesSet))]
    first = [s for s in gone if any(_same_packets(s, other) for other in others)]
    last = [s for s in gone if s not in first]
    one_left = [s for s in dropped if isinstance(s, NicQueuesSet)]
    return [*grown, *map(Undo, first), *others, *map(Undo, last), *fewer, *map(Undo, one_left)]


def _same_packets(old: Setting, new: Setting) -> bool:
    """Whether both are LRO rules for the same packets in some queue: a NIC takes only one of them."""
    if not isinstance(old, LroRuleAdd) or not isinstance(new, LroRuleAdd):
        return False
    if (old.port_no, old.match, old.priority) != (new.port_no, new.match, new.priority):
        return False
    return not old.queues or not new.queues or bool(set(old.queues) & set(new.queues))
