# SPDX-License-Identifier: Apache-2.0
"""Who is served by the slow path, and how much: ports share the agent, so that none floods the others away."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from vswitch.flow import Punt

SHARE = 0.1
"""Of the agent's time: what the packets of one port may cost in the long run."""

BURST_NS = 200_000_000
"""Of the agent's time: what they may cost at once."""

SURPLUS_NS = 100_000_000
"""Of the agent's time, beyond: what turning them down may cost before the dataplane does that."""

PACKET_IN_NS = 300_000
"""What a packet-in counts for: the controllers' time is dearer than the agent's."""


class PuntQueue:
    """Punts that wait for the agent, by port of arrival. Ports are served in turn, each in the order in which
    its packets came."""

    def __init__(self) -> None:
        self._by_port: dict[int, deque[Punt]] = {}  # the one whose turn it is first

    def __bool__(self) -> bool:
        return bool(self._by_port)

    def extend(self, punts: Iterable[Punt]) -> None:
        for punt in punts:
            waiting = self._by_port.get(punt.key.in_port)
            if waiting is None:
                self._by_port[punt.key.in_port] = deque((punt,))
            else:
                waiting.append(punt)

    def take(self) -> Punt:
        """The next one; there must be one."""
        port_no = next(iter(self._by_port))
        waiting = self._by_port.pop(port_no)
        punt = waiting.popleft()
        if waiting:
            self._by_port[port_no] = waiting
        return punt


class PuntBudget:
    """What ports may cost: by the generic cell rate algorithm (ITU-T I.371), with time for cells."""

    def __init__(self) -> None:
        self._paid_until_ns: dict[int, float] = {}  # by port: when it has earned all that it has cost

    def charge(self, port_no: int, cost_ns: int, now_ns: int) -> None:
        earned_ns = max(self._paid_until_ns.get(port_no, 0), now_ns)
        self._paid_until_ns[port_no] = earned_ns + cost_ns / SHARE

    def is_spent(self, port_no: int, now_ns: int) -> bool:
        """Has the port nothing left?"""
        return self._paid_until_ns.get(port_no, 0) - now_ns > BURST_NS / SHARE

    def held_back_until(self, port_no: int, now_ns: int) -> int | None:
        """Until when the dataplane is to keep the port's packets to itself: even to turn them down has cost too
        much. None: it need not."""
        until_ns = self._paid_until_ns.get(port_no, 0) - (BURST_NS + SURPLUS_NS) / SHARE
        return int(until_ns) if until_ns > now_ns else None
