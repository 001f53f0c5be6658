# SPDX-License-Identifier: Apache-2.0
"""What the packets of a port may cost the agent, so that a flood through one leaves time to the others."""

from __future__ import annotations

SHARE = 0.1
"""Of the agent's time: what the packets of one port may cost in the long run."""

BURST_NS = 200_000_000
"""Of the agent's time: what they may cost at once. It does for two thousand translations."""

SURPLUS_NS = 100_000_000
"""Of the agent's time, beyond: what turning them down may cost before the dataplane does that."""

PACKET_IN_INTERVAL_NS = 3_000_000
PACKET_INS_AT_ONCE = 100
"""How often the controllers hear of the packets of a port. Each takes Ryu some tenths of a millisecond."""


class Budget:
    """What ports may cost: by the generic cell rate algorithm (ITU-T I.371), with time for cells.

    share: of the time, what each port may cost in the long run. burst_ns: what it may cost at once.
    """

    def __init__(self, share: float, burst_ns: int) -> None:
        self._share = share
        self._burst_ns = burst_ns
        self._paid_until_ns: dict[int, float] = {}  # by port: when it has earned all that it has cost

    def charge(self, port_no: int, cost_ns: int, now_ns: int) -> None:
        earned_ns = max(self._paid_until_ns.get(port_no, 0), now_ns)
        self._paid_until_ns[port_no] = earned_ns + cost_ns / self._share

    def is_spent(self, port_no: int, now_ns: int) -> bool:
        """Has the port nothing left?"""
        return self.spent_until(port_no) > now_ns

    def spent_until(self, port_no: int, surplus_ns: int = 0) -> float:
        """Until when the port has nothing left, nor of so much more."""
        return self._paid_until_ns.get(port_no, 0) - (self._burst_ns + surplus_ns) / self._share
