# SPDX-License-Identifier: Apache-2.0
"""A driver's handle of one receive queue: finished packets by polling or by wake-up (S0.6)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

from vswitch import layout
from vswitch.dataplane.memory import Memory
from vswitch.layout import Csum


@dataclass(frozen=True)
class FinishedPacket:
    """A packet as the queue delivers it: inner headers where a tunnel of ours brought it.

    frame: its bytes. frames: how many of the network's became it. gso_size: payload bytes of each of them
    (the last may be shorter), 0 for a single frame, and for aggregates of the kind `lro`, which tell nothing
    of their segments. checksum: what is known of its TCP or UDP checksum. in_port: number of the port, or of
    the tunnel that it came through, with the virtual network `tunnel_id`.
    """

    frame: bytes
    frames: int
    gso_size: int
    checksum: Csum
    in_port: int
    tunnel_id: int


class QueueHandle:
    """An opened queue; as a context manager, it is closed at the end. One thread at a time may use it.

    To poll, call poll() again and again. To wait, call arm(), then select on fileno(), then poll().
    """

    def __init__(self, memory: Memory, port_of: Callable[[int], int], close: Callable[[], None]) -> None:
        self._memory = memory
        self._port_of = port_of
        self._close = close
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.offset = memory.map_private(layout.DRIVER_SIZE)
        self._words = memory.words(self.offset, layout.DRIVER_PAGE // 8)
        self._words[layout.DRIVER_FD // 8] = self._fd
        self._fence = threading.Lock()

    def __enter__(self) -> QueueHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def waiting(self) -> int:
        """Packets that poll() would give: the status that a driver polls."""
        return int(self._words[layout.DRIVER_HEAD // 8] - self._words[layout.DRIVER_TAIL // 8])

    def poll(self, limit: int = layout.DRIVER_SLOTS) -> list[FinishedPacket]:
        """Up to `limit` finished packets, in the order in which they were finished."""
        tail = int(self._words[layout.DRIVER_TAIL // 8])
        packets = []
        for number in range(tail, tail + min(limit, self.waiting())):
            at = self.offset + layout.DRIVER_PAGE + number % layout.DRIVER_SLOTS * layout.DRIVER_SLOT_SIZE
            length, gso_size, csum, frames, in_port, tunnel_id = self._memory.words(at, 6).tolist()
            frame = self._memory.read(at + layout.DRIVER_SLOT_HEAD, length)
            known = Csum(csum)
            packets.append(FinishedPacket(frame, frames, gso_size, known, self._port_of(in_port), tunnel_id))
        self._words[layout.DRIVER_TAIL // 8] = tail + len(packets)
        return packets

    def fileno(self) -> int:
        """Readable after arm(), once a packet waits."""
        return self._fd

    def arm(self) -> None:
        """Have fileno() become readable, once, when a packet waits; at once if one does already."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            pass
        self._words[layout.DRIVER_ARMED // 8] = 1
        with self._fence:  # a lock is a full fence: the worker sees `armed`, or we see its packet
            pass
        if self.waiting():
            self._words[layout.DRIVER_ARMED // 8] = 0
            os.eventfd_write(self._fd, 1)

    def close(self) -> None:
        """Give the queue back to the switch; packets that were not taken are lost. May be called again."""
        if self._fd < 0:
            return
        self._close()
        os.close(self._fd)
        self._fd = -1
        self._memory.unmap(self.offset, layout.DRIVER_SIZE)
