# SPDX-License-Identifier: Apache-2.0
"""OpenFlow flow tables: rules, flow-mod semantics, time-outs (1.3.5, sections 5.2 to 5.5 and 6.4)."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from vswitch.agent.classifier import Classifier
from vswitch.agent.fields import Fields, Masks, compile_match
from vswitch.openflow.actions import Group, Output
from vswitch.openflow.constants import (
    GROUP_ANY,
    TABLE_ALL,
    TABLE_COUNT,
    FlowModCommand,
    FlowModFailed,
    FlowModFlag,
    FlowRemovedReason,
    Port,
)
from vswitch.openflow.errors import OpenFlowError
from vswitch.openflow.flow_mod import FlowMod
from vswitch.openflow.instructions import ApplyActions, Instructions, WriteActions
from vswitch.openflow.multipart import FlowFilter
from vswitch.openflow.oxm import Canonical, Match

if TYPE_CHECKING:
    from vswitch.agent.slowpath import CachedFlow

MAX_RULES = 100_000
"""Per table; more are refused with OFPFMFC_TABLE_FULL."""

SECOND_NS = 1_000_000_000


@dataclass(eq=False)
class Rule:
    """One flow entry. Its counters are those of the cached flows that went through it, living and gone."""

    table_id: int
    priority: int
    match: Match
    instructions: Instructions
    cookie: int
    flags: int
    idle_timeout: int  # seconds, 0 = none
    hard_timeout: int
    created_ns: int
    packets: int = 0
    bytes: int = 0
    last_used_ns: int = 0
    flows: set[CachedFlow] = field(default_factory=set, repr=False)
    masks: Masks = field(init=False, repr=False)
    values: Fields = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.masks, self.values = compile_match(self.match)
        self.last_used_ns = self.created_ns

    @property
    def is_table_miss(self) -> bool:
        return self.priority == 0 and not self.masks

    def count(self, packets: int, octets: int, last_used_ns: int) -> None:
        if not self.flags & FlowModFlag.NO_PKT_COUNTS:
            self.packets += packets
        if not self.flags & FlowModFlag.NO_BYT_COUNTS:
            self.bytes += octets
        self.last_used_ns = max(self.last_used_ns, last_used_ns)

    def sends_to(self, out_port: int, out_group: int) -> bool:
        """Does it pass the out_port and out_group filters of a request?"""
        if out_port == Port.ANY and out_group == GROUP_ANY:
            return True
        actions = [
            action
            for instruction in self.instructions
            if isinstance(instruction, (ApplyActions, WriteActions))
            for action in instruction.actions
        ]
        return (
            out_port == Port.ANY or any(isinstance(a, Output) and a.port == out_port for a in actions)
        ) and (
            out_group == GROUP_ANY or any(isinstance(a, Group) and a.group_id == out_group for a in actions)
        )

    def expiry(self, now_ns: int) -> FlowRemovedReason | None:
        """Which of its time-outs is over."""
        if self.hard_timeout and self.created_ns + self.hard_timeout * SECOND_NS <= now_ns:
            return FlowRemovedReason.HARD_TIMEOUT
        if self.idle_timeout and self.last_used_ns + self.idle_timeout * SECOND_NS <= now_ns:
            return FlowRemovedReason.IDLE_TIMEOUT
        return None


class Table:
    """One flow table."""

    def __init__(self, table_id: int) -> None:
        self.table_id = table_id
        self.lookups = 0
        self.matched = 0
        self.flows: set[CachedFlow] = set()  # that were looked up here
        self.rules: dict[tuple[int, Canonical], Rule] = {}
        self._classifier: Classifier[Rule] = Classifier()

    def lookup(self, fields: Fields) -> Rule | None:
        return self._classifier.lookup(fields)

    def add(self, rule: Rule) -> None:
        self.rules[rule.priority, rule.match.canonical] = rule
        self._classifier.add(rule)

    def remove(self, rule: Rule) -> None:
        del self.rules[rule.priority, rule.match.canonical]
        self._classifier.remove(rule)


class ChangeKind(enum.Enum):
    ADDED = enum.auto()
    MODIFIED = enum.auto()
    REMOVED = enum.auto()


class Change(NamedTuple):
    """What happened to a rule: the slow path's reason to look at its cached flows again."""

    kind: ChangeKind
    rule: Rule


class Removal(NamedTuple):
    """A rule that ended, for the flow-removed message."""

    rule: Rule
    reason: FlowRemovedReason


class FlowTables:
    """The tables of one switch. `credit` is called with rules whose counters have to be up to date."""

    def __init__(self, credit: Callable[[Iterable[Rule]], None] = lambda rules: None) -> None:
        self.tables = tuple(Table(table_id) for table_id in range(TABLE_COUNT))
        self.credit = credit
        self._timed: set[Rule] = set()

    def apply(self, mod: FlowMod, now_ns: int) -> tuple[list[Change], list[Removal]]:
        """Carry out a flow-mod whose instructions were checked, or raise OpenFlowError."""
        deletes = mod.command in (FlowModCommand.DELETE, FlowModCommand.DELETE_STRICT)
        if mod.table_id >= TABLE_COUNT and not (deletes and mod.table_id == TABLE_ALL):
            raise OpenFlowError(FlowModFailed.BAD_TABLE_ID, f"table {mod.table_id}")
        if mod.command == FlowModCommand.ADD:
            return self._add(mod, now_ns), []
        if deletes:
            return self._delete(mod)
        return self._modify(mod), []

    def __iter__(self) -> Iterator[Rule]:
        """All rules, by table, the highest priority first."""
        for table in self.tables:
            yield from sorted(table.rules.values(), key=lambda rule: -rule.priority)

    def select(self, wanted: FlowFilter) -> list[Rule]:
        """The rules that a flow or aggregate request asks about."""
        return [
            rule
            for rule in self._in_tables(wanted.table_id)
            if _is_within(rule.match, wanted.match)
            and (rule.cookie ^ wanted.cookie) & wanted.cookie_mask == 0
            and rule.sends_to(wanted.out_port, wanted.out_group)
        ]

    def expire(self, now_ns: int) -> tuple[list[Change], list[Removal]]:
        """End the rules whose time is over."""
        suspects = [rule for rule in self._timed if rule.expiry(now_ns) is not None]
        if not suspects:
            return [], []
        self.credit(suspects)
        removals = []
        for rule in suspects:
            reason = rule.expiry(now_ns)
            if reason is not None:
                removals.append(Removal(rule, reason))
        return self._remove(removals), removals

    def _add(self, mod: FlowMod, now_ns: int) -> list[Change]:
        table = self.tables[mod.table_id]
        rule = Rule(
            mod.table_id,
            mod.priority,
            mod.match,
            mod.instructions,
            mod.cookie,
            mod.flags,
            mod.idle_timeout,
            mod.hard_timeout,
            now_ns,
        )
        if mod.flags & FlowModFlag.CHECK_OVERLAP and any(
            other.priority == mod.priority and _overlap(other.match, mod.match)
            for other in table.rules.values()
        ):
            raise OpenFlowError(FlowModFailed.OVERLAP)
        replaced = table.rules.get((mod.priority, mod.match.canonical))
        if replaced is None and len(table.rules) >= MAX_RULES:
            raise OpenFlowError(FlowModFailed.TABLE_FULL, f"{MAX_RULES} rules")
        changes = []
        if replaced is not None:
            changes += self._remove([Removal(replaced, FlowRemovedReason.DELETE)])
            if not mod.flags & FlowModFlag.RESET_COUNTS:
                rule.packets, rule.bytes = replaced.packets, replaced.bytes
        table.add(rule)
        if rule.idle_timeout or rule.hard_timeout:
            self._timed.add(rule)
        return [*changes, Change(ChangeKind.ADDED, rule)]

    def _modify(self, mod: FlowMod) -> list[Change]:
        rules = self._selected(mod)
        self.credit(rules)
        for rule in rules:
            rule.instructions = mod.instructions
            if mod.flags & FlowModFlag.RESET_COUNTS:
                rule.packets = rule.bytes = 0
        return [Change(ChangeKind.MODIFIED, rule) for rule in rules]

    def _delete(self, mod: FlowMod) -> tuple[list[Change], list[Removal]]:
        removals = [
            Removal(rule, FlowRemovedReason.DELETE)
            for rule in self._selected(mod)
            if rule.sends_to(mod.out_port, mod.out_group)
        ]
        return self._remove(removals), removals

    def _remove(self, removals: list[Removal]) -> list[Change]:
        self.credit([removal.rule for removal in removals])
        for rule, _reason in removals:
            self.tables[rule.table_id].remove(rule)
            self._timed.discard(rule)
        return [Change(ChangeKind.REMOVED, removal.rule) for removal in removals]

    def _selected(self, mod: FlowMod) -> list[Rule]:
        """The rules that a modify or delete names, strictly or not; the cookie filter applied."""
        rules = self._in_tables(mod.table_id)
        if mod.command in (FlowModCommand.MODIFY_STRICT, FlowModCommand.DELETE_STRICT):
            tables = self.tables if mod.table_id == TABLE_ALL else (self.tables[mod.table_id],)
            identity = (mod.priority, mod.match.canonical)
            rules = (table.rules[identity] for table in tables if identity in table.rules)
        else:
            rules = (rule for rule in rules if _is_within(rule.match, mod.match))
        return [rule for rule in rules if (rule.cookie ^ mod.cookie) & mod.cookie_mask == 0]

    def _in_tables(self, table_id: int) -> Iterator[Rule]:
        if table_id == TABLE_ALL:
            return iter(self)
        if table_id >= TABLE_COUNT:
            return iter(())
        return iter(list(self.tables[table_id].rules.values()))


def _is_within(match: Match, wanted: Match) -> bool:
    """Does everything that `match` matches match `wanted` too?"""
    fields = {number: (value, mask) for number, value, mask in match.canonical}
    for number, value, mask in wanted.canonical:
        if number not in fields:
            return False
        own_value, own_mask = fields[number]
        if mask & ~own_mask or (own_value ^ value) & mask:
            return False
    return True


def _overlap(match: Match, other: Match) -> bool:
    """Is there a packet that both match? Prerequisites included, as fields like any other."""
    fields = {number: (value, mask) for number, value, mask in other.canonical}
    for number, value, mask in match.canonical:
        if number in fields:
            other_value, other_mask = fields[number]
            if (value ^ other_value) & mask & other_mask:
                return False
    return True
