# SPDX-License-Identifier: Apache-2.0
"""The wires between servers: which neighbour is next on the way to another server. Pure.

All switches decide alike: what one sends on the way to a server, the next one sends on along the same tree of
shortest ways, which ends there. So no packet goes round.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping


def next_hops(neighbours: Mapping[str, Iterable[str]], destination: str) -> dict[str, str]:
    """By server: its neighbour on a shortest way to `destination`. Who has no way there is not in it."""
    towards = {destination: destination}
    waiting = deque([destination])
    while waiting:
        server = waiting.popleft()
        for neighbour in sorted(neighbours.get(server, ())):
            if neighbour not in towards:
                towards[neighbour] = server
                waiting.append(neighbour)
    del towards[destination]
    return towards


def path(neighbours: Mapping[str, Iterable[str]], source: str, destination: str) -> list[str]:
    """The servers on the way, with both ends; empty when there is none."""
    towards = next_hops(neighbours, destination)
    way = [source]
    while way[-1] != destination:
        if way[-1] not in towards:
            return []
        way.append(towards[way[-1]])
    return way
