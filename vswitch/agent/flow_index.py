# SPDX-License-Identifier: Apache-2.0
"""Which cached flows would a new rule catch? Answered by indexes, not by looking at every flow.

For each table there is, for the masks of rules that were added to it of late, a dictionary from what the
flows have under these masks to the flows. It is begun when it is first asked for, and each question takes
some more flows in, so that none lasts; until it is complete, all flows are looked at. It is kept up to date,
and dropped when nobody asks any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from vswitch.agent.fields import IN_PHY_PORT, IN_PORT, KEY_FIELDS, OUTSIDE, Masks
from vswitch.agent.pipeline import Step, Translation

if TYPE_CHECKING:
    from vswitch.agent.slowpath import CachedFlow
    from vswitch.agent.tables import Rule

SMALL = 64
"""With so few flows in a table, looking at each is as good."""

BUILD_STEP = 8192
"""Flows that one question takes into an index; some ten milliseconds."""

MAX_INDEXES = 8
"""Of one table."""

PATIENCE = 1
"""An index is dropped when this many times its flows were added to it with no question in between."""

_Plan = tuple[tuple[int, int, int], ...]
"""For each mask: (index into the key, mask, bits to add): what a flow has under it."""


class _Kind:
    """Flows whose packets came to a table alike: what they had there follows from the key in one way."""

    def __init__(self, step: Step) -> None:
        self.written = step.written
        self.unknown = step.unknown
        self.translations: set[Translation] = set()

    @property
    def flows(self) -> Iterator[CachedFlow]:
        return chain.from_iterable(translation.flows for translation in self.translations)

    def plan(self, masks: Masks) -> _Plan | None:
        """How to tell what a flow has under `masks`; None when its key does not tell."""
        written = {index: (bits, value) for index, bits, value in self.written}
        plan = []
        for index, mask in masks:
            if self.unknown >> index & 1:
                return None
            bits, value = written.get(index, (0, 0))
            if index == IN_PHY_PORT:
                index = IN_PORT
            if index >= KEY_FIELDS:
                index, bits = IN_PORT, mask
            plan.append((index, mask & ~bits, value & mask))
        return tuple(plan)

    def having(self, masks: Masks, values: tuple[int, ...]) -> Iterable[CachedFlow]:
        """The flows that have these values under `masks`; all, when their keys do not tell."""
        flows: Iterable[CachedFlow] = self.flows
        plan = self.plan(masks)
        if plan is None:
            return flows
        for (index, mask, added), value in zip(reversed(plan), reversed(values), strict=True):
            wanted = value & mask
            if wanted | added != value:
                return ()
            if mask:  # the last fields of a key, which differ most, come first
                flows = [flow for flow in flows if flow.key[index] & mask == wanted]
        return flows


class _MaskIndex:
    """The flows of one table by what they have under some masks.

    missing: the flows that are still to be taken in; the index keeps the set.
    """

    def __init__(self, masks: Masks, missing: set[CachedFlow]) -> None:
        self.unasked = 0  # flows that were added since the last question
        self._masks = masks
        self._missing = missing
        self._plans: dict[_Kind, _Plan | None] = {}
        self._found: dict[int, CachedFlow | set[CachedFlow]] = {}  # by hash; most have but one

    @property
    def complete(self) -> bool:
        """Whether find() finds every flow."""
        return not self._missing

    def extend(self, kinds: dict[Translation, _Kind]) -> None:
        """Take in some of the flows that are missing."""
        for _ in range(min(BUILD_STEP, len(self._missing))):
            flow = self._missing.pop()
            self._take_in(flow, kinds[flow.translation])

    def add(self, flow: CachedFlow, kind: _Kind) -> None:
        self.unasked += 1
        self._take_in(flow, kind)

    def _take_in(self, flow: CachedFlow, kind: _Kind) -> None:
        plan = self._plan(kind)
        if plan is not None:
            place = _hash(flow, plan)
            there = self._found.setdefault(place, flow)
            if isinstance(there, set):
                there.add(flow)
            elif there is not flow:
                self._found[place] = {there, flow}

    def remove(self, flow: CachedFlow, kind: _Kind) -> None:
        if flow in self._missing:
            self._missing.remove(flow)
            return
        plan = self._plan(kind)
        if plan is not None:
            place = _hash(flow, plan)
            there = self._found[place]
            if isinstance(there, set) and len(there) > 1:
                there.remove(flow)
            else:
                del self._found[place]

    def forget(self, kind: _Kind) -> None:
        self._plans.pop(kind, None)

    def find(self, values: tuple[int, ...]) -> Iterator[CachedFlow]:
        """The flows that have these values, perhaps; others may be among them."""
        there = self._found.get(hash(values), ())
        yield from there if isinstance(there, (set, tuple)) else (there,)
        for kind, plan in self._plans.items():
            if plan is None:
                yield from kind.flows

    def _plan(self, kind: _Kind) -> _Plan | None:
        if kind not in self._plans:
            self._plans[kind] = kind.plan(self._masks)
        return self._plans[kind]


class _TableIndex:
    """The flows that were looked up in one table."""

    def __init__(self) -> None:
        self.flows = 0
        self._rules: dict[Translation, Rule | None] = {}  # that its flows went to
        self._kinds: dict[Translation, _Kind] = {}
        self._kinds_by_step: dict[tuple[object, int], _Kind] = {}
        self._by_masks: dict[Masks, _MaskIndex] = {}  # the longest unasked first

    def captured_by(self, rule: Rule) -> Iterator[CachedFlow]:
        """The flows that the rule, which is new, takes from the rules that they went to."""
        masks = tuple(pair for pair in rule.masks if pair[0] < OUTSIDE)
        values = rule.values[: len(masks)]
        for flow in self._matching(masks, values):
            loser = self._rules[flow.translation]
            if loser is None or rule.priority > loser.priority:
                yield flow

    def _matching(self, masks: Masks, values: tuple[int, ...]) -> list[CachedFlow]:
        if masks and self.flows > SMALL:
            index = self._by_masks.pop(masks, None) or self._begin(masks)
            self._by_masks[masks] = index
            index.unasked = 0
            if index.complete:
                return list(index.find(values))
            index.extend(self._kinds)
        return [flow for kind in self._kinds_by_step.values() for flow in kind.having(masks, values)]

    def _begin(self, masks: Masks) -> _MaskIndex:
        if len(self._by_masks) >= MAX_INDEXES:
            del self._by_masks[next(iter(self._by_masks))]
        return _MaskIndex(masks, set().union(*(kind.flows for kind in self._kinds_by_step.values())))

    def add(self, flow: CachedFlow, step: Step) -> None:
        self.flows += 1
        translation = flow.translation
        if translation not in self._kinds:
            how = step.written, step.unknown
            kind = self._kinds_by_step.get(how) or self._kinds_by_step.setdefault(how, _Kind(step))
            kind.translations.add(translation)
            self._kinds[translation] = kind
            self._rules[translation] = step.rule
        if self._by_masks:
            self._add_to_indexes(flow, self._kinds[translation])

    def _add_to_indexes(self, flow: CachedFlow, kind: _Kind) -> None:
        for masks, index in list(self._by_masks.items()):
            index.add(flow, kind)
            if index.unasked > PATIENCE * max(self.flows, SMALL):
                del self._by_masks[masks]

    def remove(self, flow: CachedFlow) -> None:
        self.flows -= 1
        translation = flow.translation
        kind = self._kinds[translation]
        for index in self._by_masks.values():
            index.remove(flow, kind)
        if translation.flows:
            return
        del self._kinds[translation], self._rules[translation]
        kind.translations.remove(translation)
        if not kind.translations:
            del self._kinds_by_step[kind.written, kind.unknown]
            for index in self._by_masks.values():
                index.forget(kind)


class FlowIndex:
    """The cached flows by the tables that they were looked up in."""

    def __init__(self) -> None:
        self._tables: dict[int, _TableIndex] = {}

    def add(self, flow: CachedFlow) -> None:
        for step in flow.translation.steps:
            table_id = step.table.table_id
            table = self._tables.get(table_id)
            if table is None:
                table = self._tables[table_id] = _TableIndex()
            table.add(flow, step)

    def remove(self, flow: CachedFlow) -> None:
        """`flow` is in the `flows` of its translation no more."""
        for step in flow.translation.steps:
            self._tables[step.table.table_id].remove(flow)

    def captured_by(self, rule: Rule) -> Iterable[CachedFlow]:
        """The flows that a new rule takes from the rules that they went to; others may be among them."""
        table = self._tables.get(rule.table_id)
        return () if table is None else table.captured_by(rule)


def _hash(flow: CachedFlow, plan: _Plan) -> int:
    key = flow.key
    return hash(tuple([key[index] & mask | added for index, mask, added in plan]))
