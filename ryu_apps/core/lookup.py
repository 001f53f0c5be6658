# SPDX-License-Identifier: Apache-2.0
"""A fake network that answers "where would this packet go?", so that rules can be judged without a switch.

It knows what the overlay's pipeline uses of OpenFlow 1.3: masked matches, priorities, metadata, goto,
set-field tunnel_id and output, and that a packet never leaves by the port it came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ryu_apps.core.intent import Intent
from ryu_apps.core.rules import Rule, SwitchState, tunnel_port
from vswitch.openflow.actions import Output, SetField
from vswitch.openflow.instructions import ApplyActions, GotoTable, WriteMetadata


class Exit(NamedTuple):
    """A copy of the packet that leaves by `port`, with this tunnel id set."""

    port: int
    tunnel_id: int


def outputs(state: SwitchState, **packet: int) -> list[Exit]:
    """Where the packet goes. packet: fields by OXM name; in_port and eth_dst at least."""
    fields = {"metadata": 0, "tunnel_id": 0, **packet}
    exits: list[Exit] = []
    table: int | None = 0
    while table is not None:
        rule = best_match(state, table, fields)
        if rule is None:
            break
        table = _run(rule, fields, exits)
    return [exit for exit in exits if exit.port != packet["in_port"]]


def best_match(state: SwitchState, table: int, fields: Mapping[str, int]) -> Rule | None:
    """The matching rule of highest priority in a table."""
    matching = [rule for rule in state.rules.values() if rule.table == table and _matches(rule, fields)]
    return max(matching, key=lambda rule: rule.priority, default=None)


def _matches(rule: Rule, fields: Mapping[str, int]) -> bool:
    return all(
        oxm.field.name in fields and fields[oxm.field.name] & oxm.effective_mask == oxm.value
        for oxm in rule.match
    )


def _run(rule: Rule, fields: dict[str, int], exits: list[Exit]) -> int | None:
    """Execute a rule; the number of the next table."""
    next_table = None
    for instruction in rule.instructions:
        if isinstance(instruction, WriteMetadata):
            fields["metadata"] = fields["metadata"] & ~instruction.mask | instruction.metadata
        elif isinstance(instruction, GotoTable):
            next_table = instruction.table_id
        elif isinstance(instruction, ApplyActions):
            for action in instruction.actions:
                if isinstance(action, SetField):
                    fields[action.oxm.field.name] = action.oxm.value
                elif isinstance(action, Output):
                    exits.append(Exit(action.port, fields["tunnel_id"]))
    return next_table


def receivers(intent: Intent, states: Mapping[str, SwitchState], vm: str, eth_dst: int) -> list[str]:
    """The VMs that a packet from `vm` to `eth_dst` reaches; one that gets two copies is named twice."""
    servers = {tunnel_port(intent, name): name for name in intent.servers}
    vms = {(other.server, other.port): name for name, other in intent.vms.items()}
    sender = intent.vms[vm]
    reached: list[str] = []
    waiting = [(sender.server, sender.port, 0)]
    while waiting:
        server, in_port, tunnel_id = waiting.pop(0)
        for exit in outputs(states[server], in_port=in_port, tunnel_id=tunnel_id, eth_dst=eth_dst):
            if exit.port in states[server].tunnels:
                waiting.append((servers[exit.port], tunnel_port(intent, server), exit.tunnel_id))
            else:
                reached.append(vms[server, exit.port])
    return sorted(reached)
