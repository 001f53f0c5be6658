# SPDX-License-Identifier: Apache-2.0
"""Tuple space search (Srinivasan, Suri, Varghese 1999; as in Open vSwitch): the best rule for a packet.

Rules that look at the same bits share a dictionary, so a look-up costs one probe per distinct set of masks,
not one comparison per rule.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from vswitch.agent.fields import Fields, Masks


class Classifiable(Protocol):
    """What the classifier needs to know of a rule."""

    priority: int
    masks: Masks
    values: Fields


R = TypeVar("R", bound=Classifiable)


class _Subtable(Generic[R]):
    """The rules with the same masks."""

    def __init__(self, masks: Masks) -> None:
        self.masks = masks
        self.max_priority = -1
        self.rules: dict[Fields, list[R]] = {}  # of one value: the highest priority first

    def add(self, rule: R) -> None:
        rules = self.rules.setdefault(rule.values, [])
        rules.append(rule)
        rules.sort(key=lambda rule: -rule.priority)
        self.max_priority = max(self.max_priority, rule.priority)

    def remove(self, rule: R) -> None:
        rules = self.rules[rule.values]
        rules.remove(rule)
        if not rules:
            del self.rules[rule.values]
        if rule.priority == self.max_priority:
            self.max_priority = max((rules[0].priority for rules in self.rules.values()), default=-1)


class Classifier(Generic[R]):
    """A set of rules; identity, not equality, tells them apart."""

    def __init__(self) -> None:
        self._subtables: dict[Masks, _Subtable[R]] = {}
        self._by_priority: list[_Subtable[R]] = []

    def add(self, rule: R) -> None:
        subtable = self._subtables.get(rule.masks)
        if subtable is None:
            subtable = self._subtables[rule.masks] = _Subtable(rule.masks)
        previous = subtable.max_priority
        subtable.add(rule)
        if subtable.max_priority != previous:
            self._sort()

    def remove(self, rule: R) -> None:
        subtable = self._subtables[rule.masks]
        previous = subtable.max_priority
        subtable.remove(rule)
        if not subtable.rules:
            del self._subtables[rule.masks]
        if subtable.max_priority != previous:
            self._sort()

    def lookup(self, fields: Fields) -> R | None:
        """The rule of the highest priority that matches `fields`."""
        best: R | None = None
        for subtable in self._by_priority:
            if best is not None and best.priority >= subtable.max_priority:
                break
            rules = subtable.rules.get(tuple([fields[index] & mask for index, mask in subtable.masks]))
            if rules is not None and (best is None or rules[0].priority > best.priority):
                best = rules[0]
        return best

    def _sort(self) -> None:
        self._by_priority = sorted(self._subtables.values(), key=lambda subtable: -subtable.max_priority)
