# SPDX-License-Identifier: Apache-2.0
"""Which cached flows would a new rule catch? Answered by indexes, not by looking at every flow.

For each table there is, for the masks of rules that were added to it of late, a dictionary from what the
flows have under these masks to the flows. It is built when it is first asked for, kept up to date, and
dropped when nobody asks any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from vswitch.agent.fields import IN_PHY_PORT, IN_PORT, KEY_FIELDS, OUTSIDE, Masks
from vswitch.agent.pipeline import Step, Translation

if TYPE_CHECKING:
    from vswitch.agent.slowpath import CachedFlow
    from vswitch.agent.tables import Rule

SMALL = 64
"""With so few flows in a table, looking at each is as good."""

MAX_INDEXES = 8
"""Of one table."""

PATIENCE = 4
"""An index is dropped when this many times its flows were added to it with no question in between."""

_Plan = tuple[tuple[int, int, int], ...]
"""For each mask: (index into the key, mask, bits to add): what a flow has under it."""


class _MaskIndex:
    """The flows of one table by what they have under some masks."""

    def __init__(self, masks: Masks) -> None:
        self.masks = masks
        self.unasked = 0  # flows that were added since the last question
        self.flows = 0
        self._plans: dict[Translation, _Plan] = {}
        self._untold: set[Translation] = set()  # those whose flows' keys do not tell what they have
        self._found: dict[int, CachedFlow | set[CachedFlow]] = {}  # by hash; most have but one

    def add(self, flow: CachedFlow, step: Step) -> None:
        self.unasked += 1
        self.flows += 1
        plan = self._plan(flow.translation, step)
        if plan is not None:
            place = _hash(flow, plan)
            there = self._found.setdefault(place, flow)
            if isinstance(there, set):
                there.add(flow)
            elif there is not flow:
                self._found[place] = {there, flow}

    def remove(self, flow: CachedFlow, step: Step) -> None:
        self.flows -= 1
        plan = self._plan(flow.translation, step)
        if plan is not None:
            place = _hash(flow, plan)
            there = self._found[place]
            if isinstance(there, set) and len(there) > 1:
                there.remove(flow)
            else:
                del self._found[place]

    def forget(self, translation: Translation) -> None:
        self._plans.pop(translation, None)
        self._untold.discard(translation)

    def find(self, values: tuple[int, ...]) -> Iterator[CachedFlow]:
        """The flows that have these values, perhaps; others may be among them."""
        self.unasked = 0
        there = self._found.get(hash(values), ())
        yield from there if isinstance(there, (set, tuple)) else (there,)
        for translation in self._untold:
            yield from translation.flows

    def _plan(self, translation: Translation, step: Step) -> _Plan | None:
        plan = self._plans.get(translation)
        if plan is None and translation not in self._untold:
            plan = _plan(self.masks, step)
            if plan is None:
                self._untold.add(translation)
            else:
                self._plans[translation] = plan
        return plan


class _TableIndex:
    """The flows that were looked up in one table."""

    def __init__(self) -> None:
        self.steps: dict[Translation, Step] = {}
        self.flows = 0
        self.by_masks: dict[Masks, _MaskIndex] = {}  # the longest unasked first

    def captured_by(self, rule: Rule) -> Iterator[CachedFlow]:
        """The flows that the rule, which is new, takes from the rules that they went to."""
        masks = tuple(pair for pair in rule.masks if pair[0] < OUTSIDE)
        values = rule.values[: len(masks)]
        for flow in self._matching(masks, values):
            loser = self.steps[flow.translation].rule
            if loser is None or rule.priority > loser.priority:
                yield flow

    def _matching(self, masks: Masks, values: tuple[int, ...]) -> Iterable[CachedFlow]:
        if not masks:
            return [flow for translation in self.steps for flow in translation.flows]
        if self.flows <= SMALL:
            return list(self._scan(masks, values))
        index = self.by_masks.pop(masks, None) or self._build(masks)
        self.by_masks[masks] = index
        return list(index.find(values))

    def _scan(self, masks: Masks, values: tuple[int, ...]) -> Iterator[CachedFlow]:
        for translation, step in self.steps.items():
            plan = _plan(masks, step)
            for flow in translation.flows:
                if plan is None or _values(flow, plan) == values:
                    yield flow

    def _build(self, masks: Masks) -> _MaskIndex:
        if len(self.by_masks) >= MAX_INDEXES:
            del self.by_masks[next(iter(self.by_masks))]
        index = _MaskIndex(masks)
        for translation, step in self.steps.items():
            for flow in translation.flows:
                index.add(flow, step)
        return index

    def add(self, flow: CachedFlow) -> None:
        self.flows += 1
        if self.by_masks:
            step = self.steps[flow.translation]
            for masks, index in list(self.by_masks.items()):
                index.add(flow, step)
                if index.unasked > PATIENCE * max(self.flows, SMALL):
                    del self.by_masks[masks]

    def remove(self, flow: CachedFlow) -> None:
        self.flows -= 1
        for index in self.by_masks.values():
            index.remove(flow, self.steps[flow.translation])

    def forget(self, translation: Translation) -> None:
        del self.steps[translation]
        for index in self.by_masks.values():
            index.forget(translation)


class FlowIndex:
    """The cached flows by the tables that they were looked up in."""

    def __init__(self) -> None:
        self._tables: dict[int, _TableIndex] = {}

    def add(self, flow: CachedFlow) -> None:
        """`flow` is in the `flows` of its translation already."""
        translation = flow.translation
        first = len(translation.flows) == 1
        for step in translation.steps:
            table_id = step.table.table_id
            if first:
                self._tables.setdefault(table_id, _TableIndex()).steps[translation] = step
            self._tables[table_id].add(flow)

    def remove(self, flow: CachedFlow) -> None:
        """`flow` is in the `flows` of its translation no more."""
        translation = flow.translation
        for step in translation.steps:
            table = self._tables[step.table.table_id]
            table.remove(flow)
            if not translation.flows:
                table.forget(translation)

    def captured_by(self, rule: Rule) -> Iterable[CachedFlow]:
        """The flows that a new rule takes from the rules that they went to; others may be among them."""
        table = self._tables.get(rule.table_id)
        return () if table is None else table.captured_by(rule)


def _plan(masks: Masks, step: Step) -> _Plan | None:
    """How to tell what a flow has under `masks` at `step`; None when its key does not tell."""
    written = {index: (bits, value) for index, bits, value in step.written}
    plan = []
    for index, mask in masks:
        if step.unknown >> index & 1:
            return None
        bits, value = written.get(index, (0, 0))
        if index == IN_PHY_PORT:
            index = IN_PORT
        if index >= KEY_FIELDS:
            index, bits = IN_PORT, mask
        plan.append((index, mask & ~bits, value & mask))
    return tuple(plan)


def _values(flow: CachedFlow, plan: _Plan) -> tuple[int, ...]:
    key = flow.key
    return tuple([key[index] & mask | added for index, mask, added in plan])


def _hash(flow: CachedFlow, plan: _Plan) -> int:
    return hash(_values(flow, plan))
