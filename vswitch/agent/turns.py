# SPDX-License-Identifier: Apache-2.0
"""Who may work in the agent's loop: one client at a time, for one slice, so that no number of them delays
others.

Start-time fair queueing (Goyal, Vin, Cheng 1997): who has had the least time is next, and who was idle starts
with as much as the one whose turn it is had when it began. Every second turn is for those who were idle, if
there are some: who asks for little is served soon, however many others ask for much, and who asks for much
goes on, however many come for little.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from itertools import count

SLICE_NS = 2_000_000
"""After so long a time the client whose turn it is lets others run, at the next place where it can."""


class Client:
    """One that takes turns: a session of OpenFlow, or a connection to the control socket."""

    __slots__ = ("had_ns",)

    def __init__(self) -> None:
        self.had_ns = 0  # as virtual time


class Turns:
    """Turns in the loop that runs: one in each of its rounds, so that what is not a client's is done in
    between.

    clock: gives nanoseconds.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Client | None = None  # whose turn it is in this round
        self._was_idle = False  # before its turn
        self._began_ns = 0
        self._virtual_ns = 0  # what it had had when its turn began
        # who has come to wait, having been idle, and who had a turn just before
        self._idle: deque[tuple[Client, asyncio.Future[None]]] = deque()
        self._busy: list[tuple[int, int, Client, asyncio.Future[None]]] = []
        self._numbers = count()

    async def take(self, client: Client) -> None:
        """Returns when it is the client's turn."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._client = loop, None
            self._idle.clear()
            self._busy.clear()
        if self._client is None:
            self._give(client)
        else:
            if client is self._client:
                self._charge()
            turn: asyncio.Future[None] = loop.create_future()
            if client.had_ns <= self._virtual_ns:
                self._idle.append((client, turn))
            else:
                heapq.heappush(self._busy, (client.had_ns, next(self._numbers), client, turn))
            await turn
        self._began_ns = self._clock()

    def is_over(self, client: Client) -> bool:
        """Is the client to let others run?"""
        return client is not self._client or self._clock() - self._began_ns >= SLICE_NS

    def _give(self, client: Client, turn: asyncio.Future[None] | None = None) -> None:
        assert self._loop is not None
        self._client = client
        self._virtual_ns = client.had_ns = max(client.had_ns, self._virtual_ns)
        self._began_ns = self._clock()
        if turn is not None:
            turn.set_result(None)
        self._loop.call_soon(self._next)  # behind the client's step

    def _charge(self) -> None:
        """The client has had some time."""
        assert self._client is not None
        now_ns = self._clock()
        self._client.had_ns += now_ns - self._began_ns
        self._began_ns = now_ns

    def _next(self) -> None:
        """The client has had its turn."""
        self._charge()
        self._client = None
        while self._client is None and (self._idle or self._busy):
            self._was_idle = bool(self._idle) and not (self._was_idle and self._busy)
            client, turn = self._idle.popleft() if self._was_idle else heapq.heappop(self._busy)[2:]
            if not turn.done():  # it is when its client is gone
                self._give(client, turn)
