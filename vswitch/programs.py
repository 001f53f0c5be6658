# SPDX-License-Identifier: Apache-2.0
"""Where action programs are kept: written by the agent, run by the workers; equal ones share a place."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from vswitch import flow
from vswitch.dataplane.rewrite import FIELD_NUMBERS
from vswitch.errors import VSwitchError
from vswitch.layout import OP_WORDS, Op

_WORD = (1 << 64) - 1
_SIGN = 1 << 63


class ProgramStore:
    """Programs in the `programs` words of each worker, at the same places.

    index_of: the dataplane's index of a port number, 0 for none. meter_index: that of a meter, -1 for none.
    live_places: offsets of the programs that flows and waiting commands name; asked when room runs out.
    """

    def __init__(
        self,
        words: Sequence[np.ndarray],
        index_of: Callable[[int], int],
        meter_index: Callable[[int], int],
        live_places: Callable[[], set[int]],
    ) -> None:
        self._words = words
        self._index_of = index_of
        self._meter_index = meter_index
        self._live_places = live_places
        self._places: dict[tuple[int, ...], int] = {}
        self._standing: dict[int, tuple[int, ...]] = {}  # by place; those that are out of date, too
        self._known: dict[flow.Program, tuple[int, int]] = {}  # what place() has answered, while that holds
        self._next = 0
        self._free: dict[int, list[int]] = {}  # by number of words
        self._controllers: dict[int, flow.Controller] = {}
        self._controller_numbers: dict[flow.Controller, int] = {}
        self._next_controller = 1

    def place(self, program: flow.Program) -> tuple[int, int]:
        """Offset and number of operations of a program, valid until the next call unless a flow or a waiting
        command names it by then; raises VSwitchError when there is no room."""
        known = self._known.get(program)
        if known is None:
            known = self._place_of(self._compile(program)), len(program)
            self._known[program] = known
        return known

    def _place_of(self, words: tuple[int, ...]) -> int:
        place = self._places.get(words)
        if place is None:
            place = self._room_for(words)
            for theirs in self._words:
                theirs[place : place + len(words)] = words
            self._places[words] = place
            self._standing[place] = words
        return place

    def renumbered(self) -> None:
        """A number has come to stand for a port or meter: programs that name it are compiled anew."""
        self._known.clear()

    def controller(self, number: int) -> flow.Controller | None:
        """The Controller action of this number; None when no program has it any more."""
        return self._controllers.get(number)

    def forget_port(self, index: int) -> None:
        """A port is gone: programs that name its index send there no more, and are compiled anew.

        Each keeps its place for as long as something names it.
        """
        self._forget(Op.OUTPUT, index, 0)

    def forget_meter(self, index: int) -> None:
        """A meter is gone: programs that name its index pass their packets, and are compiled anew."""
        self._forget(Op.METER, index, -1)

    def _forget(self, op: Op, argument: int, instead: int) -> None:
        self._known.clear()
        for words, place in list(self._places.items()):
            for at in range(0, len(words), OP_WORDS):
                if words[at] == op and words[at + 1] == argument:
                    for theirs in self._words:
                        theirs[place + at + 1] = instead
                    self._places.pop(words, None)

    def _room_for(self, words: tuple[int, ...]) -> int:
        place = self._take(len(words))
        if place is None:
            self._collect(words)
            place = self._take(len(words))
        if place is None:
            raise VSwitchError(f"there is no room for another action program ({len(self._places)} are kept)")
        return place

    def _take(self, length: int) -> int | None:
        free = self._free.get(length)
        if free:
            return free.pop()
        if self._next + length > len(self._words[0]):
            return None
        self._next += length
        return self._next - length

    def _collect(self, wanted: tuple[int, ...]) -> None:
        """Free the places of programs that nothing names. wanted: a program that has no place yet."""
        self._known.clear()
        live = self._live_places()
        self._places = {words: place for words, place in self._places.items() if place in live}
        self._standing = {place: words for place, words in self._standing.items() if place in live}
        # The gaps between what lives are free; the last one is what _take() takes from.
        self._free.clear()
        self._next = 0
        for place, words in sorted(self._standing.items()):
            gap = place - self._next
            if gap:
                self._free_gap(self._next, gap)
            self._next = place + len(words)
        used = {
            words[at + 1]
            for words in (*self._standing.values(), wanted)
            for at in range(0, len(words), OP_WORDS)
            if words[at] in (Op.CONTROLLER, Op.DEC_TTL)
        }
        self._controllers = {number: self._controllers[number] for number in used}
        self._controller_numbers = {action: number for number, action in self._controllers.items()}

    def _free_gap(self, place: int, gap: int) -> None:
        """Cut a gap into places of the lengths that are most wanted: those of one and two operations."""
        size = 2 * OP_WORDS
        while gap >= size:
            self._free.setdefault(size, []).append(place)
            place, gap = place + size, gap - size
        if gap:
            self._free.setdefault(gap, []).append(place)

    def _compile(self, program: flow.Program) -> tuple[int, ...]:
        words: list[int] = []
        for action in program:
            words += self._operation(action)
        return tuple(words)

    def _operation(self, action: flow.Action) -> tuple[int, int, int, int]:
        """The words of one action."""
        match action:
            case flow.Output(port):
                return Op.OUTPUT, self._index_of(port), 0, 0
            case flow.SetTunnel(tunnel_id):
                return Op.SET_TUNNEL, tunnel_id, 0, 0
            case flow.Controller():
                return Op.CONTROLLER, self._number(action), 0, 0
            case flow.SetField(name, value):
                return Op.SET_FIELD, FIELD_NUMBERS[name], _signed(value >> 64), _signed(value & _WORD)
            case flow.Push(ethertype):
                return Op.PUSH, ethertype, 0, 0
            case flow.PopVlan():
                return Op.POP_VLAN, 0, 0, 0
            case flow.PopMpls(ethertype):
                return Op.POP_MPLS, ethertype, 0, 0
            case flow.PopPbb():
                return Op.POP_PBB, 0, 0, 0
            case flow.SetTtl(ttl, mpls):
                return Op.SET_TTL, ttl, int(mpls), 0
            case flow.DecTtl(invalid, mpls):
                return Op.DEC_TTL, self._number(invalid), int(mpls), 0
            case flow.CopyTtl(inwards):
                return Op.COPY_TTL, int(inwards), 0, 0
            case flow.Meter(meter_id):
                return Op.METER, self._meter_index(meter_id), 0, 0
            case flow.LookUpAgain(number):
                return Op.LOOK_UP_AGAIN, number, 0, 0
            case flow.Save():
                return Op.SAVE, 0, 0, 0
            case flow.Restore():
                return Op.RESTORE, 0, 0, 0
        raise AssertionError(f"{action!r} is no action")

    def _number(self, action: flow.Controller) -> int:
        number = self._controller_numbers.get(action)
        if number is None:
            number = self._controller_numbers[action] = self._next_controller
            self._controllers[number] = action
            self._next_controller += 1
        return number


def _signed(word: int) -> int:
    return word - (1 << 64) if word & _SIGN else word
