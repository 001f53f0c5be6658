# SPDX-License-Identifier: Apache-2.0
"""Where action programs are kept: written by the agent, run by the worker; equal ones share a place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vswitch.errors import VSwitchError
from vswitch.flow import Output, Program, SetTunnel
from vswitch.layout import OP_WORDS, Op


class ProgramStore:
    """Programs in the dataplane's `programs` words. A program that was placed stays.

    index_of: the dataplane's index of a port number, 0 for none.
    """

    def __init__(self, words: np.ndarray, index_of: Callable[[int], int]) -> None:
        self._words = words
        self._index_of = index_of
        self._places: dict[tuple[int, ...], tuple[int, int]] = {}
        self._next = 0

    def place(self, program: Program) -> tuple[int, int]:
        """Offset and number of operations of a program; raises VSwitchError when there is no room."""
        words = self._compile(program)
        place = self._places.get(words)
        if place is None:
            if self._next + len(words) > len(self._words):
                raise VSwitchError(
                    f"there is no room for another action program ({len(self._places)} are kept)"
                )
            place = (self._next, len(program))
            self._words[self._next : self._next + len(words)] = words
            self._next += len(words)
            self._places[words] = place
        return place

    def forget_port(self, index: int) -> None:
        """A port is gone: programs that name its index send there no more, and are compiled anew."""
        for words, (offset, _) in list(self._places.items()):
            for at in range(0, len(words), OP_WORDS):
                if words[at] == Op.OUTPUT and words[at + 1] == index:
                    self._words[offset + at + 1] = 0
                    self._places.pop(words, None)

    def _compile(self, program: Program) -> tuple[int, ...]:
        words: list[int] = []
        for action in program:
            if isinstance(action, Output):
                words += (Op.OUTPUT, self._index_of(action.port))
            elif isinstance(action, SetTunnel):
                words += (Op.SET_TUNNEL, action.tunnel_id)
            else:
                words += (Op.CONTROLLER, 0)
        assert len(words) == OP_WORDS * len(program)
        return tuple(words)
