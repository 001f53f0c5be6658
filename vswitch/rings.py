# SPDX-License-Identifier: Apache-2.0
"""The agent's ends of the rings that it shares with the workers: commands, punts, captured frames.

Rows are packed and unpacked as bytes: the slow path's speed is made here, and NumPy's record fields take a
microsecond each.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from struct import Struct
from typing import Any

import numpy as np

from vswitch import layout
from vswitch.dataplane.memory import Memory
from vswitch.flow import (
    NEVER_USED,
    CapturedFrame,
    Controller,
    Ended,
    FlowKey,
    FlowStats,
    Punt,
    PuntReason,
)
from vswitch.keys import key_from, key_words
from vswitch.layout import Command, PuntKind

_NO_KEY = (0,) * layout.KEY_WORDS
_ARGS = 6
_COMMAND = Struct(f"=q{layout.KEY_WORDS}Q{_ARGS}q4q")  # op, key, args, then what the worker answers
_KEYED = Struct(f"=q{layout.KEY_WORDS}Q")  # its beginning
_FIRST_ARG = Struct("=q")
_ANSWER = Struct("=4q")  # ended, packets, bytes, last_used_ns
_ANSWER_AT = _COMMAND.size - _ANSWER.size
_PUNT = Struct(f"=q{layout.KEY_WORDS}Q8q")  # the fields of punt_dtype
assert _COMMAND.size == layout.command_dtype.itemsize
assert _PUNT.size == layout.punt_dtype.itemsize
_REASONS = {reason.value: reason for reason in PuntReason}
_NO_ANSWER = (0, 0, 0, 0)
_PAUSE_S = 0.0001
_HEAD, _TAIL = layout.COMMAND_HEAD_OFFSET // 8, layout.COMMAND_TAIL_OFFSET // 8
_ASLEEP = layout.ASLEEP_OFFSET // 8
EVERYWHERE = {
    Command.INSTALL,
    Command.REMOVE,
    Command.PORT_STATE,
    Command.NIC,
    Command.FORWARDING,
    Command.TOS_MASK,
}
"""Commands that concern all workers alike."""


def _bytes_of(rows: np.ndarray) -> memoryview:
    return memoryview(rows.view(np.uint8).reshape(-1))


class _WorkerRing:
    """One worker's ring of commands. words: its control region."""

    def __init__(self, t: Any, words: np.ndarray) -> None:
        self.rows = _bytes_of(t["commands"])
        self.flags = t["commands"]["ended"]
        self.words = memoryview(words)  # whose items are read and written in half the time
        self.wake_fd = int(t["wake_fd"])


class CommandRing:
    """Commands to the workers, and their answers. `alive`: whether there are workers that will apply them.

    Each worker has a ring, and each ring a row for every command: what concerns worker 0 alone, which has the
    ports, is Command.NOTHING to the others. So a number stands for the same command everywhere.
    """

    def __init__(self, tables: Any, words: Sequence[np.ndarray], alive: Callable[[], bool]) -> None:
        self.given = 0
        self._rings = [_WorkerRing(t, own) for t, own in zip(tables, words, strict=True)]
        self._first, *self._others = self._rings
        self._alive = alive
        self._fence = threading.Lock()
        self._together = 0  # nested calls of together()
        self._read = 0  # commands whose answers were taken in
        self._ended: list[tuple[int, Ended]] = []
        self._counted: list[int] = []

    def give(
        self, op: Command, *args: int, key: FlowKey | None = None, others: tuple[int, ...] | None = None
    ) -> None:
        """Append a command; waits while the ring is full.

        others: operation and arguments for the workers that have no ports; by default the same, if it is one
        of EVERYWHERE.
        """
        if self.given - self._read >= layout.COMMANDS:
            self.wait(self.given + 1 - layout.COMMANDS)
            self._read_answers()
        at = self.given % layout.COMMANDS * _COMMAND.size
        words = _NO_KEY if key is None else key_words(key)
        _COMMAND.pack_into(self._first.rows, at, op, *words, *args, *(0,) * (_ARGS - len(args)), *_NO_ANSWER)
        self.given += 1
        self._first.words[_HEAD] = self.given
        if self._others:
            if others is None:
                others = (op, *args) if op in EVERYWHERE else (Command.NOTHING,)
            op_there, *args_there = others
            rest = (0,) * (_ARGS - len(args_there))
            for ring in self._others:
                _COMMAND.pack_into(ring.rows, at, op_there, *words, *args_there, *rest, *_NO_ANSWER)
        if not self._together:
            self._wake()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Commands given within are announced once, at the end or when somebody waits for them.

        The other workers apply them when the first has applied them all.
        """
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
        for ring in self._others:
            ring.words[_HEAD] = self.given
        with self._fence:
            for ring in self._rings:
                if ring.words[_ASLEEP]:
                    os.eventfd_write(ring.wake_fd, 1)

    @property
    def applied(self) -> int:
        """How many commands every worker has applied."""
        if not self._others:
            return self._first.words[_TAIL]
        return min(ring.words[_TAIL] for ring in self._rings)

    def wait(self, commands: int) -> None:
        """Return when every worker has applied that many commands."""
        self._wake()
        while self.applied < commands and self._alive():
            time.sleep(_PAUSE_S)

    async def drained(self) -> None:
        """Returns when every command given so far has been applied."""
        commands = self.given
        self._wake()
        while self.applied < commands and self._alive():
            await asyncio.sleep(_PAUSE_S)

    def ended(self) -> tuple[int, list[tuple[int, Ended]]]:
        """How many commands have answered; what became of replaced and removed programs since the last call,
        with the numbers of the commands, in their order."""
        self._read_answers()
        ended, self._ended = self._ended, []
        return self._read, ended

    def counted(self) -> list[int]:
        """The punt slots that were released since the last call with what flows' entries had counted."""
        self._read_answers()
        counted, self._counted = self._counted, []
        return counted

    def end(self, keys: Sequence[FlowKey]) -> dict[FlowKey, FlowStats]:
        """Remove the entries for these keys that there are, and return what they had counted; waits for that.
        What became of them before is left to ended()."""
        self.wait(self.given)
        self._read_answers()
        before = len(self._ended)
        with self.together():
            for key in keys:
                self.give(Command.REMOVE, key=key)
        self.wait(self.given)
        self._read_answers()
        answers = self._ended[before:]
        del self._ended[before:]
        return {answer.key: answer.stats for _number, answer in answers}

    def _read_answers(self) -> None:
        """Take in what the workers answered, before the rows are used again."""
        applied = self.applied
        for number in self._answered(applied):
            at = number % layout.COMMANDS * _COMMAND.size
            op, *words = _KEYED.unpack_from(self._first.rows, at)
            if op in (Command.EXECUTE, Command.DISCARD):
                self._counted.append(_FIRST_ARG.unpack_from(self._first.rows, at + _KEYED.size)[0])
                continue
            ended, *stats = _ANSWER.unpack_from(self._first.rows, at + _ANSWER_AT)
            total = FlowStats(*stats) if ended else NEVER_USED
            for ring in self._others:
                ended, *stats = _ANSWER.unpack_from(ring.rows, at + _ANSWER_AT)
                total = total.plus(FlowStats(*stats)) if ended else total
            self._ended.append((number, Ended(key_from(words), total, op == Command.INSTALL)))
        self._read = applied

    def _answered(self, applied: int) -> list[int]:
        """Of the commands that were applied since the last call, those that ended a program somewhere."""
        if applied - self._read < 8 and not self._others:
            flags = self._first.flags
            return [n for n in range(self._read, applied) if flags[n % layout.COMMANDS]]
        numbers = np.arange(self._read, applied)
        places = numbers % layout.COMMANDS
        ended = np.any([ring.flags[places] != 0 for ring in self._rings], axis=0)
        found: list[int] = numbers[ended].tolist()
        return found


class PuntQueue:
    """Punts that were taken from the ring and not yet given to the agent, by port of arrival.

    Ports are served in turn, each in the order in which its packets came.
    """

    def __init__(self) -> None:
        self._by_port: dict[int, deque[tuple[int, Punt]]] = {}  # the one whose turn it is first

    def __bool__(self) -> bool:
        return bool(self._by_port)

    def add(self, number: int, punt: Punt) -> None:
        waiting = self._by_port.get(punt.key.in_port)
        if waiting is None:
            self._by_port[punt.key.in_port] = deque(((number, punt),))
        else:
            waiting.append((number, punt))

    def take(self, limit: int) -> list[Punt]:
        """The next ones, up to `limit`."""
        taken: list[Punt] = []
        while self._by_port and len(taken) < limit:
            port_no = next(iter(self._by_port))
            waiting = self._by_port.pop(port_no)
            alone = not self._by_port
            for _ in range(min(len(waiting), limit - len(taken)) if alone else 1):
                taken.append(waiting.popleft()[1])
            if waiting:
                self._by_port[port_no] = waiting
        return taken

    @property
    def first(self) -> int:
        """The least of their numbers; there must be one."""
        return min(waiting[0][0] for waiting in self._by_port.values())


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
        self._kinds = t["punts"]["kind"]
        self._frames = int(t["punt_memory"])
        self._memory = memory
        self._words = memoryview(words)
        self._fd = fd
        self._action = action
        self._fence = threading.Lock()
        self._evicted: list[tuple[int, Ended]] = []
        self._searched = 0  # number of the first punt that evicted() has not looked at
        self._taken: int = self._words[layout.PUNT_TAIL_OFFSET // 8]  # punts that were taken from the ring
        self._queue = PuntQueue()
        self.unseen = self._taken
        """A number: poll() has given all punts before, and perhaps some of those from there on."""

    def poll(self, limit: int) -> list[Punt]:
        """Up to `limit` punts, of all ports in turn. Keys of misses have the whole TOS."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            pass
        self._take_all()
        punts = self._queue.take(limit)
        self.unseen = self._queue.first if self._queue else self._taken
        # The worker signals only what it puts into an empty ring, and looks at the tail after that.
        with self._fence:
            if self._queue or self._taken < self._words[layout.PUNT_HEAD_OFFSET // 8]:
                os.eventfd_write(self._fd, 1)
        return punts

    def _take_all(self) -> None:
        """Move what is in the ring to the queue."""
        head = self._words[layout.PUNT_HEAD_OFFSET // 8]
        tail = self._taken
        while tail < head:
            kind, *words, slot, length, action, partial, packets, octets, _, mtu = _PUNT.unpack_from(
                self._rows, tail % layout.PUNTS * _PUNT.size
            )
            if kind == PuntKind.EVICTED:
                self._find_evicted(tail + 1)
            else:
                frame = self._memory.read(self._frames + slot * layout.PUNT_SLOT_SIZE, length)
                asked = self._action(action) if action else None
                key = key_from(words)
                punt = Punt(_REASONS[kind], key, frame, slot, asked, packets, octets, partial != 0, mtu)
                self._queue.add(tail, punt)
            tail += 1
        self._taken = self._words[layout.PUNT_TAIL_OFFSET // 8] = tail

    def evicted(self, commands: int) -> list[tuple[int, Ended]]:
        """Entries that ended by themselves before so many commands had been applied, each with how many had,
        in this order; those of earlier calls are left out. Punts that wait for poll() may stand before."""
        self._find_evicted(self._words[layout.PUNT_HEAD_OFFSET // 8])
        evicted = [report for report in self._evicted if report[0] <= commands]
        del self._evicted[: len(evicted)]
        return evicted

    def _find_evicted(self, head: int) -> None:
        """Take in the reports among the punts before number `head`."""
        first = max(self._searched, self._taken)
        if first >= head:
            return
        places = np.arange(first, head) % layout.PUNTS
        for place in places[self._kinds[places] == PuntKind.EVICTED].tolist():
            _kind, *words, applied, _, _, _, packets, octets, last_used_ns, _ = _PUNT.unpack_from(
                self._rows, place * _PUNT.size
            )
            stats = FlowStats(packets, octets, last_used_ns)
            self._evicted.append((applied, Ended(key_from(words), stats, replaced=False, by_itself=True)))
        self._searched = head


class CaptureRing:
    """Copies of the frames that pass captured ports."""

    def __init__(self, t: Any, memory: Memory, words: np.ndarray) -> None:
        self._t = t
        self._memory = memory
        self._words = memoryview(words)

    def poll(self, numbers: dict[int, int]) -> Iterator[CapturedFrame]:
        """The frames since the last call. `numbers`: port numbers by the dataplane's index."""
        head = self._words[layout.CAPTURE_HEAD_OFFSET // 8]
        tail = self._words[layout.CAPTURE_TAIL_OFFSET // 8]
        for number in range(tail, head):
            place = number % layout.CAPTURES
            row = self._t["captures"][place]
            at = int(self._t["capture_memory"]) + place * layout.CAPTURE_SLOT_SIZE
            data = self._memory.read(at, int(row["captured"]))
            port_no, outbound = numbers[int(row["port"])], bool(row["outbound"])
            yield CapturedFrame(port_no, outbound, int(row["time_ns"]), int(row["length"]), data)
        self._words[layout.CAPTURE_TAIL_OFFSET // 8] = head
