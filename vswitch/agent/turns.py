# SPDX-License-Identifier: Apache-2.0
"""Who may work in the agent's loop: one client at a time, for one slice, so that no number of them delays others.

Start-time fair queueing (Goyal, Vin, Cheng 1997): who has had the least time is next, and who was idle starts with
as much as the one whose turn it is has had. So a client that asks for little is served next, however many others ask
for much; and none, old or new, gets more than its share.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count

SLICE_NS = 2_000_000
"""After so long a time the client whose turn it is lets others run, at the next place where it can."""


class Client:
    """One that takes turns: a session of OpenFlow, or a connection to the control socket."""

    __slots__ = ("had_ns",)

    def __init__(self) -> None:
        self.had_ns = 0  # the virtual time at which its last turn ended


class Turns:
    """Turns in the loop that runs; one in each of its rounds, so that what is not a client's is done in between.

    clock: gives nanoseconds.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Client | None = None  # whose turn it is in this round
        self._began_ns = 0
        self._virtual_ns = 0  # how much the client had had when its turn began
        self._waiting: list[tuple[int, int, Client, asyncio.Future[None]]] = []
        self._numbers = count()

    async def take(self, client: Client) -> None:
        """Returns when it is the client's turn."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._client = loop, None
            self._waiting.clear()
        if self._client is None:
            self._give(client)
        else:
            turn: asyncio.Future[None] = loop.create_future()
            virtual_ns = max(client.had_ns, self._virtual_ns)
            heapq.heappush(self._waiting, (virtual_ns, next(self._numbers), client, turn))
            await turn
        self._began_ns = self._clock()

    def is_over(self, client: Client) -> bool:
        """Is the client to let others run?"""
        return client is not self._client or self._clock() - self._began_ns >= SLICE_NS

    def _give(self, client: Client, turn: asyncio.Future[None] | None = None) -> None:
        assert self._loop is not None
        self._client = client
        self._virtual_ns = max(client.had_ns, self._virtual_ns)
        self._began_ns = self._clock()
        if turn is not None:
            turn.set_result(None)
        self._loop.call_soon(self._next)  # behind the client's step

    def _next(self) -> None:
        """The client has had its turn."""
        assert self._client is not None
        self._client.had_ns = self._virtual_ns + self._clock() - self._began_ns
        self._client = None
        while self._waiting and self._client is None:
            _had_ns, _number, client, turn = heapq.heappop(self._waiting)
            if not turn.done():  # it is when its client is gone
                self._give(client, turn)
