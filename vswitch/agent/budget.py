# SPDX-License-Identifier: Apache-2.0
"""What the packets of a port may cost the agent, so that a flood through one leaves time to the others."""

from __future__ import annotations

SHARE = 0.1
"""Of the agent's time: what the packets of one port may cost in the long run."""

BURST_NS = 200_000_000
"""Of the agent's time: what they may cost at once."""

SURPLUS_NS = 100_000_000
"""Of the agent's time, beyond: what turning them down may cost before the dataplane does that."""

PACKET_IN_NS = 300_000
"""What a packet-in counts for: the controllers' time is dearer than the agent's."""


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
        """Until when the dataplane is to keep the port's packets to itself: even to turn them down has cost
        too much. None: it need not."""
        until_ns = self._paid_until_ns.get(port_no, 0) - (BURST_NS + SURPLUS_NS) / SHARE
        return int(until_ns) if until_ns > now_ns else None
