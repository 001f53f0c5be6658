# SPDX-License-Identifier: Apache-2.0
"""Tuple space search (Srinivasan, Suri, Varghese 1999; as in Open vSwitch): the best rule for a packet.

Rules that look at the same bits share a dictionary, so a look-up costs one probe per distinct set of masks,
not one comparison per rule. It goes by stages (Pfaff et al., The Design and Implementation of Open vSwitch,
NSDI 2015, section 5.3): what no rule has in its first fields is not asked for its last ones, so that flows
which differ there are seen to be treated alike. Of what no rule has, no more leading bits are looked at than
tell it from all that rules have (prefix tracking, section 5.4, for every field): random addresses are few
flows.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from dataclasses import dataclass
from itertools import count
from typing import Generic, Protocol, TypeVar

from vswitch.agent.fields import (
    IN_PHY_PORT,
    IN_PORT,
    IP_PROTO,
    IP_TOS,
    L4_SRC,
    METADATA,
    OUTSIDE,
    TUNNEL_ID,
    Fields,
    Masks,
)

_PIPELINE_FIELDS = frozenset((IN_PORT, TUNNEL_ID, METADATA, IN_PHY_PORT))
PREFIX_STEP = 4
"""Leading bits are looked at in such steps, so that there are few different masks."""


class Classifiable(Protocol):
    """What the classifier needs to know of a rule."""

    priority: int
    masks: Masks
    values: Fields


class Lookable(Protocol):
    """What the classifier needs to know of a packet. Asking is noted: the answer may depend on it.

    values: by index; unknown: the indexes (as bits) whose values look() has to find first, at a price.
    """

    values: list[int]
    unknown: int

    def look(self, masks: Masks) -> None:
        """Note that these bits of `values` are about to be looked at, and have them there."""
        ...


R = TypeVar("R", bound=Classifiable)


Rank = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Ranked(Generic[R]):
    """A rule and what it wins by: the priority, then who was here first."""

    rank: Rank
    rule: R


def _stage_number(index: int) -> int:
    """When a field is looked at: pipeline fields first, then those of layer 2, 3 and 4."""
    return 0 if index in _PIPELINE_FIELDS else 1 if index < IP_PROTO else 2 if index < L4_SRC else 3


class _Stage:
    """The first fields of a subtable's rules, and how many rules have which values there."""

    def __init__(self, masks: Masks, number: int) -> None:
        self.masks: Masks = tuple([pair for pair in masks if _stage_number(pair[0]) == number])  # its own
        before = [pair for pair in masks if _stage_number(pair[0]) < number]
        self.fields: Masks = (*before, *self.masks)
        self._places = [masks.index(pair) for pair in self.fields]
        self._counts: dict[Fields, int] = {}
        self._widths = [mask.bit_length() for _index, mask in self.fields]
        self._indexes = sum(1 << index for index, _mask in self.masks)  # as bits
        self._is_plain = not any(index == IP_TOS or index >= OUTSIDE for index, _mask in self.masks)
        self._numbers: list[int] | None = None  # what _number() makes of the values that rules have, in order

    def add(self, values: Fields) -> None:
        first = tuple([values[place] for place in self._places])
        count = self._counts.get(first, 0)
        self._counts[first] = count + 1
        if not count and self._numbers is not None:
            insort(self._numbers, self._number(first))

    def remove(self, values: Fields) -> None:
        first = tuple([values[place] for place in self._places])
        self._counts[first] -= 1
        if not self._counts[first]:
            del self._counts[first]
            if self._numbers is not None:
                del self._numbers[bisect_left(self._numbers, self._number(first))]

    def admits(self, packet: Lookable) -> bool:
        """Is there a rule with the packet's values in the first fields? What tells is looked at."""
        if not self._is_plain or packet.unknown & self._indexes:
            packet.look(self.masks)  # which may change the values
            return self._first(packet.values) in self._counts
        first = self._first(packet.values)
        found = first in self._counts
        packet.look(self.masks if found else self._difference(first))
        return found

    def _first(self, values: list[int]) -> Fields:
        return tuple([values[index] & mask for index, mask in self.fields])

    def _number(self, first: Fields) -> int:
        """The values one behind the other, so that those which agree in most leading bits are neighbours."""
        number = 0
        for value, width in zip(first, self._widths, strict=True):
            number = number << width | value
        return number

    def _difference(self, first: Fields) -> Masks:
        """The bits of its own fields that tell these values, which no rule has, from those of all rules."""
        if self._numbers is None:
            self._numbers = sorted(map(self._number, self._counts))
        number = self._number(first)
        place = bisect_left(self._numbers, number)
        neighbours = self._numbers[max(0, place - 1) : place + 1]
        equal_from = min((number ^ neighbour).bit_length() for neighbour in neighbours)
        rest = sum(self._widths) - equal_from + 1  # leading bits that tell, of all fields
        masks = []
        for (index, mask), width in zip(self.fields, self._widths, strict=True):
            bits = min(width, -(-rest // PREFIX_STEP) * PREFIX_STEP)
            if bits > 0 and (index, mask) in self.masks:
                masks.append((index, mask & ~((1 << width - bits) - 1)))
            rest -= width
        return tuple(masks)


class _Subtable(Generic[R]):
    """The rules with the same masks."""

    def __init__(self, masks: Masks) -> None:
        self.masks = masks
        self.indexes = sum(1 << index for index, _mask in masks)  # as bits
        self.max_priority = -1
        self.rules: dict[Fields, list[_Ranked[R]]] = {}  # of one value: the highest rank first
        self._priorities: Counter[int] = Counter()
        numbers = sorted({_stage_number(index) for index, _mask in masks})
        self._stages = [_Stage(masks, number) for number in numbers]
        # by the indexes that a packet does not know: the ranks by the values of the others
        self._parts: dict[int, dict[Fields, list[Rank]]] = {}

    def add(self, ranked: _Ranked[R]) -> None:
        rule = ranked.rule
        rules = self.rules.setdefault(rule.values, [])
        rules.append(ranked)
        rules.sort(reverse=True, key=_rank)
        self._priorities[rule.priority] += 1
        self.max_priority = max(self.max_priority, rule.priority)
        for stage in self._stages:
            stage.add(rule.values)
        for unknown, parts in self._parts.items():
            parts.setdefault(self._part(rule, unknown), []).append(ranked.rank)

    def remove(self, rule: R) -> None:
        rules = self.rules[rule.values]
        (place,) = (place for place, ranked in enumerate(rules) if ranked.rule is rule)
        rank = rules.pop(place).rank
        if not rules:
            del self.rules[rule.values]
        self._priorities[rule.priority] -= 1
        if not self._priorities[rule.priority]:
            del self._priorities[rule.priority]
            self.max_priority = max(self._priorities, default=-1)
        for stage in self._stages:
            stage.remove(rule.values)
        for unknown, parts in self._parts.items():
            part = self._part(rule, unknown)
            parts[part].remove(rank)
            if not parts[part]:
                del parts[part]

    def known_masks(self, unknown: int) -> Masks:
        return tuple([pair for pair in self.masks if not unknown >> pair[0] & 1])

    def lookup(self, packet: Lookable) -> _Ranked[R] | None:
        """The best rule that matches, of a packet that knows all fields."""
        for stage in self._stages:
            if not stage.admits(packet):
                return None
        values = packet.values
        return self.rules[tuple([values[index] & mask for index, mask in self.masks])][0]

    def best_rank(self, values: list[int], unknown: int) -> Rank | None:
        """The highest rank among the rules that match as far as is known."""
        unknown &= self.indexes
        parts = self._parts.get(unknown)
        if parts is None:
            parts = self._parts[unknown] = {}
            for rules in self.rules.values():
                for ranked in rules:
                    parts.setdefault(self._part(ranked.rule, unknown), []).append(ranked.rank)
        ranks = parts.get(tuple([values[index] & mask for index, mask in self.known_masks(unknown)]))
        return None if ranks is None else max(ranks)

    def _part(self, rule: R, unknown: int) -> Fields:
        """The values of `rule` that a packet knows."""
        pairs = zip(self.masks, rule.values, strict=True)
        return tuple([value for (index, _mask), value in pairs if not unknown >> index & 1])


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

        What the packet does not know is looked at only where, by the rest, a rule might be the best of all.
        """
        if self._by_priority is None:
            self._by_priority = sorted(self._subtables.values(), key=_max_priority, reverse=True)
        best: _Ranked[R] | None = None
        unknown = packet.unknown
        postponed: list[_Subtable[R]] = []
        for subtable in self._by_priority:
            if best is not None and best.rule.priority > subtable.max_priority:
                break
            if subtable.indexes & unknown:
                packet.look(subtable.known_masks(unknown))
                postponed.append(subtable)
                continue
            found = subtable.lookup(packet)
            if found is not None and (best is None or found.rank > best.rank):
                best = found
        if postponed:
            best = _lookup_unknown(postponed, packet, best)
        return None if best is None else best.rule


def _lookup_unknown(
    subtables: list[_Subtable[R]], packet: Lookable, best: _Ranked[R] | None
) -> _Ranked[R] | None:
    """The best rule of these subtables that is better than `best`, else `best`."""
    values, unknown = packet.values, packet.unknown
    ranked = [(rank, table) for table in subtables if (rank := table.best_rank(values, unknown)) is not None]
    for rank, subtable in sorted(ranked, key=_first, reverse=True):
        if best is not None and best.rank > rank:
            break
        found = subtable.lookup(packet)
        if found is not None and (best is None or found.rank > best.rank):
            best = found
    return best


def _first(pair: tuple[Rank, _Subtable[R]]) -> Rank:
    return pair[0]


def _rank(ranked: _Ranked[R]) -> Rank:
    return ranked.rank


def _max_priority(subtable: _Subtable[R]) -> int:
    return subtable.max_priority
