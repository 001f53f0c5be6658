# SPDX-License-Identifier: Apache-2.0
"""The agent's ends of the rings that it shares with the worker: commands, punts, captured frames.

Rows are packed and unpacked as bytes: the slow path's speed is made here, and NumPy's record fields take a
microsecond each.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from struct import Struct
from typing import Any

import numpy as np

from vswitch import layout
from vswitch.dataplane.memory import Memory
from vswitch.flow import CapturedFrame, Controller, Ended, FlowKey, FlowStats, Punt, PuntReason
from vswitch.keys import key_from, key_words
from vswitch.layout import Command, PuntKind

_NO_KEY = (0,) * layout.KEY_WORDS
_ARGS = 6
_COMMAND = Struct(f"=q{layout.KEY_WORDS}Q{_ARGS}q4q")  # op, key, args, then what the worker answers
_KEYED = Struct(f"=q{layout.KEY_WORDS}Q")  # its beginning
_ANSWER = Struct("=4q")  # ended, packets, bytes, last_used_ns
_ANSWER_AT = _COMMAND.size - _ANSWER.size
_PUNT = Struct(f"=q{layout.KEY_WORDS}Q7q")  # the fields of punt_dtype
assert _COMMAND.size == layout.command_dtype.itemsize
assert _PUNT.size == layout.punt_dtype.itemsize
_REASONS = {reason.value: reason for reason in PuntReason}
_NOTHING = (0, 0, 0, 0)
_PAUSE_S = 0.0001
_HEAD, _ASLEEP = layout.COMMAND_HEAD_OFFSET // 8, layout.ASLEEP_OFFSET // 8


def _bytes_of(rows: np.ndarray) -> memoryview:
    return memoryview(rows.view(np.uint8).reshape(-1))


class CommandRing:
    """Commands to the worker, and its answers. `alive`: whether there is a worker that will apply them."""

    def __init__(self, t: Any, words: np.ndarray, wake_fd: int, alive: Callable[[], bool]) -> None:
        self.given = 0
        self._rows = _bytes_of(t["commands"])
        self._flags = t["commands"]["ended"]
        self._words = words
        self._wake_fd = wake_fd
        self._alive = alive
        self._fence = threading.Lock()
        self._together = 0  # nested calls of together()
        self._read = 0  # commands whose answers were taken in
        self._ended: list[Ended] = []

    def give(self, op: Command, *args: int, key: FlowKey | None = None) -> None:
        """Append a command; waits while the ring is full."""
        if self.given - self._read >= layout.COMMANDS:
            self.wait(self.given + 1 - layout.COMMANDS)
            self._read_answers()
        at = self.given % layout.COMMANDS * _COMMAND.size
        words = _NO_KEY if key is None else key_words(key)
        _COMMAND.pack_into(self._rows, at, op, *words, *args, *(0,) * (_ARGS - len(args)), *_NOTHING)
        self.given += 1
        self._words[_HEAD] = self.given
        if not self._together:
            self._wake()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Commands given within are announced once, at the end or when somebody waits for them."""
        self._together += 1
        try:
            yield
        finally:
            self._together -= 1
            if not self._together:
                self._wake()

    def _wake(self) -> None:
        # The worker says that it falls asleep, then looks at the head; we do it the other way round. A lock's
        # atomic operations keep our load behind our store, which the processor would not.
        with self._fence:
            if self._words[_ASLEEP]:
                os.eventfd_write(self._wake_fd, 1)

    @property
    def applied(self) -> int:
        """How many commands the worker has applied."""
        return int(self._words[layout.COMMAND_TAIL_OFFSET // 8])

    def wait(self, commands: int) -> None:
        """Return when the worker has applied that many commands."""
        self._wake()
        while self.applied < commands and self._alive():
            time.sleep(_PAUSE_S)

    async def drained(self) -> None:
        """Returns when every command given so far has been applied."""
        commands = self.given
        self._wake()
        while self.applied < commands and self._alive():
            await asyncio.sleep(_PAUSE_S)

    def ended(self) -> list[Ended]:
        """What became of replaced and removed programs since the last call, in the order of the commands."""
        self._read_answers()
        ended, self._ended = self._ended, []
        return ended

    def _read_answers(self) -> None:
        """Take in what the worker answered, before the rows are used again."""
        applied = self.applied
        for number in self._answered(applied):
            at = number % layout.COMMANDS * _COMMAND.size
            _ended, *stats = _ANSWER.unpack_from(self._rows, at + _ANSWER_AT)
            op, *words = _KEYED.unpack_from(self._rows, at)
            self._ended.append(Ended(key_from(words), FlowStats(*stats), op == Command.INSTALL))
        self._read = applied

    def _answered(self, applied: int) -> list[int]:
        """Of the commands that were applied since the last call, those that ended a program."""
        if applied - self._read < 8:
            return [n for n in range(self._read, applied) if self._flags[n % layout.COMMANDS]]
        numbers = np.arange(self._read, applied)
        found: list[int] = numbers[self._flags[numbers % layout.COMMANDS] != 0].tolist()
        return found


class PuntRing:
    """Packets and reports from the worker.

    fd: readable while some wait. action: gives a Controller action by its number.
    """

    def __init__(
        self,
        t: Any,
        memory: Memory,
        words: np.ndarray,
        fd: int,
        action: Callable[[int], Controller | None],
    ) -> None:
        self._rows = _bytes_of(t["punts"])
        self._frames = int(t["punt_memory"])
        self._memory = memory
        self._words = words
        self._fd = fd
        self._action = action
        self._fence = threading.Lock()
        self._evicted: list[tuple[FlowKey, FlowStats]] = []

    def poll(self, limit: int) -> list[Punt]:
        """Up to `limit` punts; reports of evicted entries are kept for evicted()."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            pass
        punts: list[Punt] = []
        head = int(self._words[layout.PUNT_HEAD_OFFSET // 8])
        tail = int(self._words[layout.PUNT_TAIL_OFFSET // 8])
        while tail < head and len(punts) < limit:
            kind, *words, slot, length, action, partial, packets, octets, last_used_ns = _PUNT.unpack_from(
                self._rows, tail % layout.PUNTS * _PUNT.size
            )
            key = key_from(words)
            if kind == PuntKind.EVICTED:
                self._evicted.append((key, FlowStats(packets, octets, last_used_ns)))
            else:
                frame = self._memory.read(self._frames + slot * layout.PUNT_SLOT_SIZE, length)
                asked = self._action(action) if action else None
                punts.append(Punt(_REASONS[kind], key, frame, slot, asked, packets, octets, partial != 0))
            tail += 1
        self._words[layout.PUNT_TAIL_OFFSET // 8] = tail
        # The worker signals only what it puts into an empty ring, and looks at the tail after that.
        with self._fence:
            if tail < int(self._words[layout.PUNT_HEAD_OFFSET // 8]):
                os.eventfd_write(self._fd, 1)
        return punts

    def evicted(self) -> list[tuple[FlowKey, FlowStats]]:
        """Entries that ended by themselves since the last call, with final counters."""
        evicted, self._evicted = self._evicted, []
        return evicted


class CaptureRing:
    """Copies of the frames that pass captured ports."""

    def __init__(self, t: Any, memory: Memory, words: np.ndarray) -> None:
        self._t = t
        self._memory = memory
        self._words = words

    def poll(self, numbers: dict[int, int]) -> Iterator[CapturedFrame]:
        """The frames since the last call. `numbers`: port numbers by the dataplane's index."""
        head = int(self._words[layout.CAPTURE_HEAD_OFFSET // 8])
        tail = int(self._words[layout.CAPTURE_TAIL_OFFSET // 8])
        for number in range(tail, head):
            place = number % layout.CAPTURES
            row = self._t["captures"][place]
            at = int(self._t["capture_memory"]) + place * layout.CAPTURE_SLOT_SIZE
            data = self._memory.read(at, int(row["captured"]))
            port_no, outbound = numbers[int(row["port"])], bool(row["outbound"])
            yield CapturedFrame(port_no, outbound, int(row["time_ns"]), int(row["length"]), data)
        self._words[layout.CAPTURE_TAIL_OFFSET // 8] = head
