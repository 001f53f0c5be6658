# SPDX-License-Identifier: Apache-2.0
"""The OpenFlow pipeline, run once per flow: a key in, an action program out (1.3.5, sections 5.1 to 5.10).

Pure: nothing is counted, installed or sent here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from vswitch.agent import fields as f
from vswitch.agent.ports import PortTable
from vswitch.agent.tables import FlowTables, Rule, Table
from vswitch.flow import Action, Controller, DropReason, FlowKey, Output, Program, SetTunnel
from vswitch.openflow import actions as of
from vswitch.openflow.constants import PacketInReason, Port
from vswitch.openflow.instructions import (
    ApplyActions,
    ClearActions,
    GotoTable,
    WriteActions,
    WriteMetadata,
)

UNKNOWN_COOKIE = 0xFFFF_FFFF_FFFF_FFFF
"""Cookie of a packet-in that no rule caused."""


class Step(NamedTuple):
    """One table on a packet's way."""

    table: Table
    fields: f.Fields  # as looked up: the key, rewritten so far, and the metadata
    rule: Rule | None  # None: nothing matched


class Translation(NamedTuple):
    """What the pipeline does to all packets of one key."""

    program: Program
    steps: tuple[Step, ...]
    drop: DropReason  # why, if the program forwards nothing

    @property
    def missed(self) -> bool:
        """Did the packet end at a table where nothing matched, not even a table-miss rule?"""
        return bool(self.steps) and self.steps[-1].rule is None


def translate(key: FlowKey, tables: FlowTables, ports: PortTable) -> Translation:
    """What happens to a packet that arrives with `key`."""
    if not ports.receives(key.in_port):
        return Translation((), (), DropReason.PORT_CONFIG)
    run = _Run(key, tables, ports)
    run.tables_from(0)
    return run.result()


def translate_packet_out(
    actions: Iterable[of.Action], key: FlowKey, tables: FlowTables, ports: PortTable
) -> Translation:
    """What a packet-out's actions do to a packet of `key`; `key.in_port` is the message's in_port."""
    run = _Run(key, tables, ports)
    run.apply(actions, _Cause(PacketInReason.ACTION, UNKNOWN_COOKIE, 0))
    return run.result()


class _Cause(NamedTuple):
    """Why a packet would go to the controller."""

    reason: PacketInReason
    cookie: int
    table_id: int


class _ActionSet:
    """The actions that run when the pipeline ends, in the specification's order (section 5.10)."""

    def __init__(self) -> None:
        self._set_fields: dict[int, of.SetField] = {}
        self._output: of.Output | None = None

    def write(self, actions: Iterable[of.Action]) -> None:
        for action in actions:
            if isinstance(action, of.SetField):
                self._set_fields[action.oxm.field.number] = action
            elif isinstance(action, of.Output):
                self._output = action

    def clear(self) -> None:
        self._set_fields.clear()
        self._output = None

    def in_order(self) -> list[of.Action]:
        actions: list[of.Action] = [*self._set_fields.values()]
        if self._output is not None:
            actions.append(self._output)
        return actions


class _Run:
    """One packet's way through the pipeline."""

    def __init__(self, key: FlowKey, tables: FlowTables, ports: PortTable) -> None:
        self.in_port = key.in_port
        self.tables = tables
        self.ports = ports
        self.fields = [*key, 0]
        self.steps: list[Step] = []
        self.program: list[Action] = []
        self.program_tunnel_id = key.tunnel_id

    def result(self) -> Translation:
        missed = bool(self.steps) and self.steps[-1].rule is None
        drop = DropReason.TABLE_MISS if missed else DropReason.RULE
        return Translation(tuple(self.program), tuple(self.steps), drop)

    def tables_from(self, table_id: int) -> None:
        action_set = _ActionSet()
        next_table: int | None = table_id
        while next_table is not None:
            table = self.tables.tables[next_table]
            looked_up = tuple(self.fields)
            rule = table.lookup(looked_up)
            self.steps.append(Step(table, looked_up, rule))
            if rule is None:
                return
            next_table = self._execute(rule, action_set)
        last = self.steps[-1].rule
        assert last is not None
        self.apply(action_set.in_order(), _Cause(PacketInReason.ACTION, last.cookie, last.table_id))

    def _execute(self, rule: Rule, action_set: _ActionSet) -> int | None:
        """Run a rule's instructions in the specification's order (section 5.9); the next table, if any."""
        instructions = rule.instructions
        apply_actions = instructions.get(ApplyActions)
        if apply_actions is not None:
            reason = PacketInReason.NO_MATCH if rule.is_table_miss else PacketInReason.ACTION
            self.apply(apply_actions.actions, _Cause(reason, rule.cookie, rule.table_id))
        if instructions.get(ClearActions) is not None:
            action_set.clear()
        write_actions = instructions.get(WriteActions)
        if write_actions is not None:
            action_set.write(write_actions.actions)
        write_metadata = instructions.get(WriteMetadata)
        if write_metadata is not None:
            value, mask = write_metadata.metadata, write_metadata.mask
            self.fields[f.METADATA] = self.fields[f.METADATA] & ~mask | value & mask
        goto_table = instructions.get(GotoTable)
        return None if goto_table is None else goto_table.table_id

    def apply(self, actions: Iterable[of.Action], cause: _Cause) -> None:
        for action in actions:
            if isinstance(action, of.SetField):
                assert action.oxm.field.name == "tunnel_id"
                self.fields[f.TUNNEL_ID] = action.oxm.value
            elif isinstance(action, of.Output):
                self._output(action, cause)
            else:
                raise AssertionError(f"{action} was not refused at admission")

    def _output(self, action: of.Output, cause: _Cause) -> None:
        port = action.port
        if port == Port.CONTROLLER:
            if self.ports.punts(self.in_port):
                self.program.append(Controller(action.max_len, *cause))
        elif port == Port.TABLE:
            self.tables_from(0)
        elif port in (Port.ALL, Port.FLOOD):
            for port_no in self.ports.flood(self.in_port):
                self._send(port_no)
        elif port == Port.IN_PORT:
            if self.ports.forwards(self.in_port):
                self._send(self.in_port)
        elif port != self.in_port and self.ports.forwards(port):
            self._send(port)

    def _send(self, port_no: int) -> None:
        tunnel_id = self.fields[f.TUNNEL_ID]
        if tunnel_id != self.program_tunnel_id:
            self.program.append(SetTunnel(tunnel_id))
            self.program_tunnel_id = tunnel_id
        self.program.append(Output(port_no))
