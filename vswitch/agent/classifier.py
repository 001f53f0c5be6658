# SPDX-License-Identifier: Apache-2.0
"""Tuple space search (Srinivasan, Suri, Varghese 1999; as in Open vSwitch): the best rule for a packet.

Rules that look at the same bits share a dictionary, so a look-up costs one probe per distinct set of masks,
not one comparison per rule.
"""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import Generic, NamedTuple, Protocol, TypeVar

from vswitch.agent.fields import OUTSIDE, Fields, Masks


class Classifiable(Protocol):
    """What the classifier needs to know of a rule."""

    priority: int
    masks: Masks
    values: Fields


class Lookable(Protocol):
    """What the classifier needs to know of a packet. Asking is noted: the answer may depend on it."""

    values: list[int]

    def look(self, masks: Masks) -> None:
        """Note that these bits of `values` are about to be looked at, and have them there."""
        ...


R = TypeVar("R", bound=Classifiable)
_T = TypeVar("_T")


class _Ranked(NamedTuple, Generic[R]):
    """A rule and what it wins by: the priority, then who was here first."""

    rank: tuple[int, int]
    rule: R


class _Subtable(Generic[R]):
    """The rules with the same masks."""

    def __init__(self, masks: Masks) -> None:
        self.masks = masks
        self.key_masks: Masks = tuple(pair for pair in masks if pair[0] < OUTSIDE)
        self.max_priority = -1
        self.rules: dict[Fields, list[_Ranked[R]]] = {}  # of one value: the highest rank first
        self._priorities: Counter[int] = Counter()
        self.is_outside = len(self.key_masks) < len(masks)
        self._key_parts: dict[Fields, list[tuple[int, int]]] = {}  # ranks by the values inside the key

    def add(self, ranked: _Ranked[R]) -> None:
        rule = ranked.rule
        rules = self.rules.setdefault(rule.values, [])
        rules.append(ranked)
        rules.sort(reverse=True, key=_rank)
        self._priorities[rule.priority] += 1
        self.max_priority = max(self.max_priority, rule.priority)
        if self.is_outside:
            self._key_parts.setdefault(rule.values[: len(self.key_masks)], []).append(ranked.rank)

    def remove(self, rule: R) -> None:
        rules = self.rules[rule.values]
        (place,) = (place for place, ranked in enumerate(rules) if ranked.rule is rule)
        rank = rules.pop(place).rank
        if not rules:
            del self.rules[rule.values]
        _subtract(self._priorities, rule.priority)
        if rule.priority not in self._priorities:
            self.max_priority = max(self._priorities, default=-1)
        if self.is_outside:
            part = rule.values[: len(self.key_masks)]
            self._key_parts[part].remove(rank)
            if not self._key_parts[part]:
                del self._key_parts[part]

    def lookup(self, values: list[int]) -> _Ranked[R] | None:
        rules = self.rules.get(tuple([values[index] & mask for index, mask in self.masks]))
        return None if rules is None else rules[0]

    def best_rank(self, values: list[int]) -> tuple[int, int] | None:
        """The highest rank among the rules that match as far as the key tells."""
        ranks = self._key_parts.get(tuple([values[index] & mask for index, mask in self.key_masks]))
        return None if ranks is None else max(ranks)


class Classifier(Generic[R]):
    """A set of rules; identity, not equality, tells them apart."""

    def __init__(self) -> None:
        self._subtables: dict[Masks, _Subtable[R]] = {}
        self._by_priority: list[_Subtable[R]] | None = []
        self._numbers = count()

    def add(self, rule: R) -> None:
        subtable = self._subtables.get(rule.masks)
        if subtable is None:
            subtable = self._subtables[rule.masks] = _Subtable(rule.masks)
        previous = subtable.max_priority
        subtable.add(_Ranked((rule.priority, -next(self._numbers)), rule))
        if subtable.max_priority != previous:
            self._by_priority = None

    def remove(self, rule: R) -> None:
        subtable = self._subtables[rule.masks]
        previous = subtable.max_priority
        subtable.remove(rule)
        if not subtable.rules:
            del self._subtables[rule.masks]
        if subtable.max_priority != previous:
            self._by_priority = None

    def lookup(self, packet: Lookable) -> R | None:
        """The rule of the highest priority that matches; of several, the one that was added first.

        What no key has is looked at only where, by the key, a rule might be better than all others.
        """
        if self._by_priority is None:
            self._by_priority = sorted(self._subtables.values(), key=_max_priority, reverse=True)
        best: _Ranked[R] | None = None
        values = packet.values
        outside: list[_Subtable[R]] = []
        for subtable in self._by_priority:
            if best is not None and best.rule.priority > subtable.max_priority:
                break
            packet.look(subtable.key_masks)
            if subtable.is_outside:
                outside.append(subtable)
                continue
            found = subtable.lookup(values)
            if found is not None and (best is None or found.rank > best.rank):
                best = found
        if outside:
            best = _lookup_outside(outside, packet, best)
        return None if best is None else best.rule


def _lookup_outside(
    subtables: list[_Subtable[R]], packet: Lookable, best: _Ranked[R] | None
) -> _Ranked[R] | None:
    """The best rule of these subtables that is better than `best`, else `best`."""
    ranked = [(rank, s) for s in subtables if (rank := s.best_rank(packet.values)) is not None]
    for rank, subtable in sorted(ranked, key=lambda pair: pair[0], reverse=True):
        if best is not None and best.rank > rank:
            break
        packet.look(subtable.masks)
        found = subtable.lookup(packet.values)
        if found is not None and (best is None or found.rank > best.rank):
            best = found
    return best


def _rank(ranked: _Ranked[R]) -> tuple[int, int]:
    return ranked.rank


def _max_priority(subtable: _Subtable[R]) -> int:
    return subtable.max_priority


def _subtract(counter: Counter[_T], item: _T) -> None:
    counter[item] -= 1
    if not counter[item]:
        del counter[item]
