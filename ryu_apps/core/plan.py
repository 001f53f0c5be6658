# SPDX-License-Identifier: Apache-2.0
"""The difference between two states of a switch, as steps in an order that never breaks what stays.

First what packets will need (tunnels, then rules from the last table to the first), then what nothing uses
any more (rules from the first table to the last, then tunnels). The same function serves a new intent (old
and new state both computed) and a switch that comes back (the old state as it reports it).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Union

from ryu_apps.core.rules import Rule, SwitchState
from vswitch.openflow.experimenter import GroSet, ProactiveReverseSet, TunnelAdd, TunnelDelete


@dataclass(frozen=True)
class AddRule:
    """Add a rule, or put it in the place of the one with its key."""

    rule: Rule


@dataclass(frozen=True)
class DeleteRule:
    """Delete exactly this rule (strictly, by table, priority and match)."""

    rule: Rule


Step = Union[AddRule, DeleteRule, TunnelAdd, TunnelDelete, GroSet, ProactiveReverseSet]


def plan(old: SwitchState, new: SwitchState) -> list[Step]:
    """The steps that lead a switch from `old` to `new`; none when they are the same."""
    stale = _tunnels_in_the_way(old, new)
    steps: list[Step] = [TunnelDelete(port_no=port) for port in stale]
    steps += [
        tunnel for port, tunnel in sorted(new.tunnels.items()) if tunnel and old.tunnels.get(port) != tunnel
    ]
    steps += [AddRule(rule) for rule in sorted(_added(old, new), key=_order, reverse=True)]
    steps += [DeleteRule(old.rules[key]) for key in sorted(old.rules.keys() - new.rules.keys())]
    gone = sorted(old.tunnels.keys() - new.tunnels.keys() - set(stale))
    steps += [TunnelDelete(port_no=port) for port in gone]
    steps += _gro_steps(old, new)
    if old.proactive_reverse != new.proactive_reverse:
        steps.append(ProactiveReverseSet(new.proactive_reverse))
    return steps


def apply(state: SwitchState, steps: list[Step]) -> SwitchState:
    """The state after `steps`; what a correct switch makes of them."""
    rules, tunnels, gro = dict(state.rules), dict(state.tunnels), dict(state.gro)
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
        else:
            gro[step.port_no, step.queue] = step.enabled
    return replace(state, rules=rules, tunnels=tunnels, gro=gro, proactive_reverse=proactive_reverse)


def _order(rule: Rule) -> tuple[int, int, object]:
    return rule.key


def _added(old: SwitchState, new: SwitchState) -> list[Rule]:
    """Rules that `old` lacks or has with other instructions or another cookie."""
    return [
        rule
        for key, rule in new.rules.items()
        if key not in old.rules or not rule.same_effect(old.rules[key])
    ]


def _tunnels_in_the_way(old: SwitchState, new: SwitchState) -> list[int]:
    """Ports of old tunnels whose remote gets, or may get, another port: only one may have its address."""
    ports = {(tunnel.format, tunnel.remote_ip): port for port, tunnel in new.tunnels.items() if tunnel}

    def in_the_way(port: int, tunnel: TunnelAdd | None) -> bool:
        if tunnel is None:
            return port not in new.tunnels
        return ports.get((tunnel.format, tunnel.remote_ip), port) != port

    return sorted(port for port, tunnel in old.tunnels.items() if in_the_way(port, tunnel))


def _gro_steps(old: SwitchState, new: SwitchState) -> list[Step]:
    """Settings that differ; a queue that is no longer named goes back to the default."""
    wanted = {queue: new.gro_default for queue in old.gro} | new.gro
    return [
        GroSet(port_no=port, queue=queue, enabled=enabled)
        for (port, queue), enabled in sorted(wanted.items())
        if old.gro.get((port, queue)) != enabled
    ]
