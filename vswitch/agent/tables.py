# SPDX-License-Identifier: Apache-2.0
"""OpenFlow flow tables: rules, flow-mod semantics, time-outs (1.3.5, sections 5.2 to 5.5 and 6.4)."""

from __future__ import annotations

import copy
import dataclasses
import enum
import functools
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from vswitch.agent.classifier import Classifier, Lookable
from vswitch.agent.fields import IP_TOS, Fields, Masks, compile_match
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
from vswitch.openflow.instructions import Instructions
from vswitch.openflow.multipart import FlowFilter
from vswitch.openflow.oxm import Canonical, Match, Shape

if TYPE_CHECKING:
    from vswitch.agent.pipeline import Translation

MAX_RULES = 100_000
"""Per table; more are refused with OFPFMFC_TABLE_FULL."""

SECOND_NS = 1_000_000_000
_DELETES = (FlowModCommand.DELETE, FlowModCommand.DELETE_STRICT)


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
    flows: set[Translation] = field(default_factory=set, repr=False)
    masks: Masks = field(init=False, repr=False)
    values: Fields = field(init=False, repr=False)
    tos_mask: int = field(init=False, repr=False)
    """The bits of the TOS that it looks at."""

    def __post_init__(self) -> None:
        self.masks, self.values = compile_match(self.match)
        self.tos_mask = dict(self.masks).get(IP_TOS, 0)
        self.last_used_ns = max(self.last_used_ns, self.created_ns)

    @property
    def is_table_miss(self) -> bool:
        return self.priority == 0 and not self.masks

    def count(self, packets: int, octets: int, last_used_ns: int) -> None:
        if not self.flags & FlowModFlag.NO_PKT_COUNTS:
            self.packets += packets
        if not self.flags & FlowModFlag.NO_BYT_COUNTS:
            self.bytes += octets
        self.last_used_ns = max(self.last_used_ns, last_used_ns)

    def take_over(self, after: Rule) -> None:
        """Become as `after`, keeping the counters."""
        self.match, self.instructions = after.match, after.instructions
        self.cookie, self.flags = after.cookie, after.flags
        self.idle_timeout, self.hard_timeout = after.idle_timeout, after.hard_timeout
        self.created_ns, self.last_used_ns = after.created_ns, after.last_used_ns

    def sends_to(self, out_port: int, out_group: int) -> bool:
        """Does it pass the out_port and out_group filters of a request?"""
        return (out_port == Port.ANY or out_port in self.instructions.outputs) and (
            out_group == GROUP_ANY or out_group in self.instructions.groups
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
        self.rules: dict[tuple[int, Canonical], Rule] = {}
        self._by_shape: dict[Shape, dict[Canonical, dict[int, Rule]]] = {}  # then by priority
        self._classifier: Classifier[Rule] = Classifier()

    def lookup(self, packet: Lookable) -> Rule | None:
        return self._classifier.lookup(packet)

    def add(self, rule: Rule) -> None:
        canonical = rule.match.canonical
        self.rules[rule.priority, canonical] = rule
        matches = self._by_shape.setdefault(rule.match.shape, {})
        matches.setdefault(canonical, {})[rule.priority] = rule
        self._classifier.add(rule)

    def remove(self, rule: Rule) -> None:
        canonical, shape = rule.match.canonical, rule.match.shape
        del self.rules[rule.priority, canonical]
        matches = self._by_shape[shape]
        del matches[canonical][rule.priority]
        if not matches[canonical]:
            del matches[canonical]
            if not matches:
                del self._by_shape[shape]
        self._classifier.remove(rule)

    def within(self, wanted: Match) -> Iterator[Rule]:
        """The rules that match nothing but what `wanted` matches too."""
        if not wanted.shape:
            yield from self.rules.values()
            return
        wanted_masks = dict(wanted.shape)
        for shape, matches in self._by_shape.items():
            if shape == wanted.shape:
                yield from matches.get(wanted.canonical, {}).values()
                continue
            masks = dict(shape)
            if any(mask & ~masks.get(number, 0) for number, mask in wanted_masks.items()):
                continue
            for canonical, rules in matches.items():
                if _is_within(canonical, wanted.canonical):
                    yield from rules.values()


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
    """The tables of one switch. `credit` is called with rules whose times of last use have to be up to date.

    What the datapath has yet to report of a rule that changed or ended is counted for it when it does.
    """

    def __init__(self, credit: Callable[[Iterable[Rule]], None] = lambda rules: None) -> None:
        self.tables = tuple(Table(table_id) for table_id in range(TABLE_COUNT))
        self.credit = credit
        self._timed: set[Rule] = set()
        self._of_group: dict[int, set[Rule]] = {}
        self._of_meter: dict[int, set[Rule]] = {}
        self._tos_masks: Counter[int] = Counter()  # of the rules that look at the TOS
        self.tos_mask = 0
        """The bits of the TOS that some rule looks at."""

    def apply(self, mod: FlowMod, now_ns: int) -> tuple[list[Change], list[Removal]]:
        """Carry out a flow-mod whose instructions were checked, or raise OpenFlowError."""
        self.check_table(mod)
        if mod.command == FlowModCommand.ADD:
            return self._add(mod, now_ns), []
        if mod.command in _DELETES:
            return self._delete(mod)
        return self._modify(mod), []

    @staticmethod
    def check_table(mod: FlowMod) -> None:
        """Raise OpenFlowError(BAD_TABLE_ID) unless there is the table; a delete may mean all."""
        if mod.table_id >= TABLE_COUNT and not (mod.command in _DELETES and mod.table_id == TABLE_ALL):
            raise OpenFlowError(FlowModFailed.BAD_TABLE_ID, f"table {mod.table_id}")

    def __iter__(self) -> Iterator[Rule]:
        """All rules, by table, the highest priority first."""
        for table in self.tables:
            yield from _by_priority(table.rules.values())

    def select(self, wanted: FlowFilter) -> Iterator[Rule]:
        """The rules that a flow or aggregate request asks about, by table, the highest priority first."""
        for table in self._named(wanted.table_id):
            for rule in _by_priority(table.within(wanted.match)):
                if (rule.cookie ^ wanted.cookie) & wanted.cookie_mask == 0 and rule.sends_to(
                    wanted.out_port, wanted.out_group
                ):
                    yield rule

    def of_group(self, group_id: int) -> list[Rule]:
        """The rules that name a group."""
        return list(self._of_group.get(group_id, ()))

    def of_meter(self, meter_id: int) -> list[Rule]:
        """The rules that name a meter."""
        return list(self._of_meter.get(meter_id, ()))

    def remove(self, rules: Iterable[Rule], reason: FlowRemovedReason) -> tuple[list[Change], list[Removal]]:
        """End these rules, for this reason."""
        removals = [Removal(rule, reason) for rule in rules]
        return self._remove(removals), removals

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

    # --- flow-mods ---------------------------------------------------------------------------------------

    def _add(self, mod: FlowMod, now_ns: int) -> list[Change]:
        table = self.tables[mod.table_id]
        if mod.flags & FlowModFlag.CHECK_OVERLAP and any(
            other.priority == mod.priority and _overlap(other.match, mod.match)
            for other in table.rules.values()
        ):
            raise OpenFlowError(FlowModFailed.OVERLAP)
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
        replaced = table.rules.get((mod.priority, mod.match.canonical))
        if replaced is None:
            if len(table.rules) >= MAX_RULES:
                raise OpenFlowError(FlowModFailed.TABLE_FULL, f"{MAX_RULES} rules")
            return [self._insert(rule)]
        return self._replace(replaced, rule, bool(mod.flags & FlowModFlag.RESET_COUNTS))

    def _modify(self, mod: FlowMod) -> list[Change]:
        changes = []
        rules = self._selected(mod)
        reset_counts = bool(mod.flags & FlowModFlag.RESET_COUNTS)
        if reset_counts:
            self.credit(rules)  # their idle time goes on
        for rule in rules:
            after = copy.copy(rule)
            after.instructions = mod.instructions
            changes += self._replace(rule, after, reset_counts)
        return changes

    def _delete(self, mod: FlowMod) -> tuple[list[Change], list[Removal]]:
        removals = [
            Removal(rule, FlowRemovedReason.DELETE)
            for rule in self._selected(mod)
            if rule.sends_to(mod.out_port, mod.out_group)
        ]
        return self._remove(removals), removals

    def _selected(self, mod: FlowMod) -> list[Rule]:
        """The rules that a modify or delete names, strictly or not; the cookie filter applied."""
        tables = self._named(mod.table_id)
        rules: Iterable[Rule]
        if mod.command in (FlowModCommand.MODIFY_STRICT, FlowModCommand.DELETE_STRICT):
            identity = (mod.priority, mod.match.canonical)
            rules = (table.rules[identity] for table in tables if identity in table.rules)
        else:
            rules = (rule for table in tables for rule in table.within(mod.match))
        return [rule for rule in rules if (rule.cookie ^ mod.cookie) & mod.cookie_mask == 0]

    def _named(self, table_id: int) -> Sequence[Table]:
        """The tables that a request means by `table_id`."""
        if table_id == TABLE_ALL:
            return [table for table in self.tables if table.rules]
        return self.tables[table_id : table_id + 1]

    # --- rules come, change and go -----------------------------------------------------------------------

    def _insert(self, rule: Rule) -> Change:
        self.tables[rule.table_id].add(rule)
        if rule.tos_mask:
            self._tos_masks[rule.tos_mask] += 1
            self._combine_tos_masks()
        self._index(rule)
        return Change(ChangeKind.ADDED, rule)

    def _replace(self, rule: Rule, after: Rule, reset_counts: bool) -> list[Change]:
        """Let `rule` be as `after`, which has the same match and priority.

        With `reset_counts` it becomes another rule, so that nothing of what the old one forwarded, and the
        datapath has yet to report, is counted for the new one.
        """
        if reset_counts:
            fresh = dataclasses.replace(after, packets=0, bytes=0, flows=set())
            self._forget(rule)
            return [Change(ChangeKind.REMOVED, rule), self._insert(fresh)]
        self._unindex(rule)
        rule.take_over(after)
        self._index(rule)
        return [Change(ChangeKind.MODIFIED, rule)]

    def _remove(self, removals: list[Removal]) -> list[Change]:
        for rule, _reason in removals:
            self._forget(rule)
        return [Change(ChangeKind.REMOVED, removal.rule) for removal in removals]

    def _forget(self, rule: Rule) -> None:
        self.tables[rule.table_id].remove(rule)
        if rule.tos_mask:
            self._tos_masks[rule.tos_mask] -= 1
            self._combine_tos_masks()
        self._unindex(rule)

    def _combine_tos_masks(self) -> None:
        self._tos_masks = +self._tos_masks
        self.tos_mask = functools.reduce(operator.or_, self._tos_masks, 0)

    def _index(self, rule: Rule) -> None:
        if rule.idle_timeout or rule.hard_timeout:
            self._timed.add(rule)
        for group_id in rule.instructions.groups:
            self._of_group.setdefault(group_id, set()).add(rule)
        meter_id = rule.instructions.meter_id
        if meter_id is not None:
            self._of_meter.setdefault(meter_id, set()).add(rule)

    def _unindex(self, rule: Rule) -> None:
        self._timed.discard(rule)
        for group_id in rule.instructions.groups:
            _discard(self._of_group, group_id, rule)
        meter_id = rule.instructions.meter_id
        if meter_id is not None:
            _discard(self._of_meter, meter_id, rule)


def _by_priority(rules: Iterable[Rule]) -> list[Rule]:
    """The rules, the highest priority first."""
    return sorted(rules, key=operator.attrgetter("priority"), reverse=True)


def _discard(rules: dict[int, set[Rule]], number: int, rule: Rule) -> None:
    rules[number].discard(rule)
    if not rules[number]:
        del rules[number]


def _is_within(canonical: Canonical, wanted: Canonical) -> bool:
    """Does everything that the one matches match the other too?"""
    fields = {number: (value, mask) for number, value, mask in canonical}
    for number, value, mask in wanted:
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
