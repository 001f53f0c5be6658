# SPDX-License-Identifier: Apache-2.0
"""Which queues coalesce, and for whom: derived from the VMs' roles, unless it is set by hand (S0.8).

What ends at a VM here is coalesced, what a VM forwards is not: it would have to be cut again. So a server
whose VMs all terminate coalesces everything; where one forwards, queues ask rules, which tell the two apart
by the destination. Each decision carries the sentence that explains it (`GET /offload/explain`).

What is set by hand wins: a queue's `lro`, a VM's `lro`, and `rules`, which come before the derived ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ryu_apps.core import nics
from ryu_apps.core.sections import HAND_SET, VM, NicPolicy
from vswitch.openflow import experimenter as ex

if TYPE_CHECKING:
    from ryu_apps.core.intent import Intent

DERIVED = 0
"""Priority of derived rules; those set by hand for a VM have HAND_SET."""


class Decision(NamedTuple):
    """A message for the switch (None: none is needed), and why."""

    setting: ex.Setting | None
    why: str


def settings(intent: Intent, server: str) -> Iterator[ex.Setting]:
    """What the switch of a server is told about coalescing and roles."""
    for decision in (*queues(intent, server), *rules(intent, server), *ports(intent, server)):
        if decision.setting is not None and decision.setting != decision.setting.undo():
            yield decision.setting


def queues(intent: Intent, server: str) -> list[Decision]:
    """Each receive queue of the uplinks, in order."""
    return [decision for port in intent.uplinks(server) for decision in _queues(intent, server, port)]


def _queues(intent: Intent, server: str, port: int) -> list[Decision]:
    by_hand = nics.queue_policies(intent.nic.get(server, NicPolicy()))
    overridden = {
        entry.queue: (index, entry.gro)
        for index, entry in enumerate(intent.offload.overrides)
        if (entry.server, entry.port) == (server, port)
    }
    usual, usual_why = _usual(intent, server)
    decisions = []
    for queue in range(intent.queue_count(server)):
        if queue in by_hand:
            index, entry = by_hand[queue]
            lro, why = str(entry.lro), f"set by hand in nic.{server}.lro[{index}]"
            setting = ex.LroSet(port, queue, lro, entry.kind, entry.completion_size)  # type: ignore[arg-type]
        elif queue in overridden:
            index, gro = overridden[queue]
            setting = ex.LroSet(port, queue, "on" if gro else "off")
            why = f"set by hand in offload.overrides[{index}]"
        else:
            setting, why = ex.LroSet(port, queue, usual), usual_why  # type: ignore[arg-type]
        decisions.append(Decision(_default_of_nic(setting), why))
    return decisions


def _default_of_nic(setting: ex.LroSet) -> ex.LroSet:
    """`on` is what a NIC's queue is without being told."""
    usual = setting.undo()
    return usual if setting == msgspec.structs.replace(usual, lro="on") else setting


def _usual(intent: Intent, server: str) -> tuple[str, str]:
    """What queues do that are not set by hand."""
    if not intent.offload.gro:
        return "off", "offload.gro is false"
    special = [name for name, vm in _vms(intent, server) if vm.role == "forwarding" or vm.lro is not None]
    if not special:
        return "on", f"all connections to {server} end there: no VM on it forwards"
    return "rules", f"not all VMs on {server} are alike: {', '.join(special)}"


def rules(intent: Intent, server: str) -> list[Decision]:
    """The LRO rules of the uplinks, set by hand and derived, in the order in which the switch asks them."""
    return [decision for port in intent.uplinks(server) for decision in _rules(intent, server, port)]


def _rules(intent: Intent, server: str, port: int) -> list[Decision]:
    by_hand = [
        Decision(
            ex.LroRuleAdd(port, nics.packet_match(intent, rule), rule.queues, rule.lro, rule.priority),
            f"set by hand in nic.{server}.rules[{index}]",
        )
        for index, rule in enumerate(intent.nic.get(server, NicPolicy()).rules)
    ]
    decisions = by_hand + list(_derived(intent, server, port))
    return sorted(decisions, key=lambda d: -d.setting.priority if isinstance(d.setting, ex.LroRuleAdd) else 0)


def _derived(intent: Intent, server: str, port: int) -> Iterator[Decision]:
    """For the queues that are not set by hand; none where those need no rules."""
    usual, _ = _usual(intent, server)
    set_by_hand = nics.queue_policies(intent.nic.get(server, NicPolicy()))
    overrides = intent.offload.overrides
    set_by_hand_too = {entry.queue for entry in overrides if (entry.server, entry.port) == (server, port)}
    count = intent.queue_count(server)
    left = tuple(queue for queue in range(count) if queue not in set_by_hand.keys() | set_by_hand_too)
    if usual != "rules" or not left:
        return
    for_queues = () if len(left) == count else left
    for name, vm in _vms(intent, server):
        match = nics.vm_match(intent, vm)
        if vm.lro is not None:
            yield Decision(
                ex.LroRuleAdd(port, match, for_queues, vm.lro, HAND_SET), f"set by hand in vms.{name}.lro"
            )
        elif vm.role == "terminating":
            why = f"{name} is terminating: connections to it end on {server}"
            yield Decision(ex.LroRuleAdd(port, match, for_queues, True, DERIVED), why)
        elif vm.ip is not None:
            own = msgspec.structs.replace(match, dst_ip=vm.ip)
            why = f"{name} forwards, but connections to its own address {vm.ip} end on {server}"
            yield Decision(ex.LroRuleAdd(port, own, for_queues, True, DERIVED), why)


def ports(intent: Intent, server: str) -> list[Decision]:
    """Roles, and coalescing at the switch's ports in front of VMs (S0.5)."""
    decisions = []
    for name, vm in _vms(intent, server):
        if vm.role == "forwarding":
            why = f"{name} forwards: the MSS of what passes it is kept, and large packets are cut to it"
            decisions.append(Decision(ex.RoleSet(vm.port, "forwarding"), why))
        if vm.vif_lro:
            decisions.append(Decision(ex.LroSet(vm.port, 0, "on"), f"set by hand in vms.{name}.vif_lro"))
    return decisions


def explain(intent: Intent) -> dict[str, Any]:
    """By server: its queues, rules and VM ports, each with the reason. What no rule matches is as it was."""
    return {
        server: {
            "port": intent.servers[server].uplink_port,
            "queues": [_explained(decision) for decision in queues(intent, server)],
            "rules": [_explained(decision) for decision in rules(intent, server)],
            "vms": {name: _vm(intent, server, name, vm) for name, vm in _vms(intent, server)},
            "vm_ports": [_explained(decision) for decision in ports(intent, server)],
        }
        for server in intent.servers
    }


def _explained(decision: Decision, **more: object) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(decision.setting)
    if shown.get("lro") == "default":
        shown["lro"] = "on"
    return {**shown, **more, "why": decision.why}


def _vm(intent: Intent, server: str, name: str, vm: VM) -> dict[str, Any]:
    usual, why = _usual(intent, server)
    if usual != "rules":
        return {"role": vm.role, "lro": usual == "on", "why": why}
    if vm.lro is not None:
        return {"role": vm.role, "lro": vm.lro, "why": f"set by hand in vms.{name}.lro"}
    if vm.role == "terminating":
        return {"role": vm.role, "lro": True, "why": f"connections to {name} end on {server}"}
    return {"role": vm.role, "lro": False, "why": f"{name} forwards: what it gets would have to be cut again"}


def _vms(intent: Intent, server: str) -> list[tuple[str, VM]]:
    return sorted((name, vm) for name, vm in intent.vms.items() if vm.server == server)
