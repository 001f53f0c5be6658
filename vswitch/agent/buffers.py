# SPDX-License-Identifier: Apache-2.0
"""Packets that wait while the controllers have only their beginnings (1.3.5, sections 6.1.2 and 7.4.1)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from vswitch.openflow.constants import NO_BUFFER, BadRequest
from vswitch.openflow.errors import OpenFlowError

BUFFERS = 256
TIMEOUT_NS = 5_000_000_000
"""How long a packet is kept at least; afterwards another may take its place."""

_SLOT_BITS = 8
_GENERATIONS = (1 << 31 - _SLOT_BITS) - 1


class Buffered(NamedTuple):
    """A packet, the port that it came in through, and its tunnel's id."""

    frame: bytes
    in_port: int
    tunnel_id: int


class _Slot:
    __slots__ = ("expires_ns", "generation", "packet")

    def __init__(self) -> None:
        self.generation = 0
        self.packet: Buffered | None = None
        self.expires_ns = 0


class PacketBuffers:
    """`clock` gives nanoseconds. A buffer's id names its slot and how often that was used before."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self.clock = clock
        self._slots = tuple(_Slot() for _ in range(BUFFERS))
        self._free = deque(range(BUFFERS))
        self._stored: deque[int] = deque()  # ids, the oldest first; some of them taken since

    def store(self, packet: Buffered) -> int:
        """The id of the buffer that keeps the packet; NO_BUFFER when all are taken."""
        now_ns = self.clock()
        self._expire(now_ns)
        if not self._free:
            return NO_BUFFER
        number = self._free.popleft()
        slot = self._slots[number]
        slot.generation = slot.generation % _GENERATIONS + 1
        slot.packet = packet
        slot.expires_ns = now_ns + TIMEOUT_NS
        buffer_id = slot.generation << _SLOT_BITS | number
        self._stored.append(buffer_id)
        return buffer_id

    def take(self, buffer_id: int) -> Buffered:
        """The packet, once; raises OpenFlowError(BUFFER_EMPTY, BUFFER_UNKNOWN)."""
        self._expire(self.clock())
        number = buffer_id % BUFFERS
        slot = self._slots[number]
        if buffer_id >> _SLOT_BITS != slot.generation or not slot.expires_ns:
            raise OpenFlowError(BadRequest.BUFFER_UNKNOWN, f"buffer {buffer_id:#x}")
        packet, slot.packet = slot.packet, None
        if packet is None:
            raise OpenFlowError(BadRequest.BUFFER_EMPTY, f"buffer {buffer_id:#x}")
        self._free.append(number)
        return packet

    def _expire(self, now_ns: int) -> None:
        """Free the buffers whose time is over."""
        while self._stored:
            buffer_id = self._stored[0]
            number = buffer_id % BUFFERS
            slot = self._slots[number]
            if buffer_id >> _SLOT_BITS == slot.generation and slot.packet is not None:
                if now_ns < slot.expires_ns:
                    return
                slot.packet, slot.expires_ns = None, 0
                self._free.append(number)
            self._stored.popleft()
