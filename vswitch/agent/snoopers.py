# SPDX-License-Identifier: Apache-2.0
"""Who reads along what the switch and its controllers say to each other. Nobody waits for them."""

from __future__ import annotations

from typing import Protocol

MAX_SNOOPERS = 8
MAX_BACKLOG = 1 << 20
"""Unsent bytes beyond which a message is dropped for one who does not read, and counted."""


class _Transport(Protocol):
    def get_write_buffer_size(self) -> int: ...


class Writer(Protocol):
    """What is needed of an `asyncio.StreamWriter`."""

    @property
    def transport(self) -> _Transport: ...

    def write(self, data: bytes) -> None: ...

    def is_closing(self) -> bool: ...


class Snoopers:
    """dropped: messages that a snooper did not get since it does not read."""

    def __init__(self) -> None:
        self.dropped = 0
        self._writers: list[Writer] = []

    def add(self, writer: Writer) -> bool:
        """Copy to `writer` from now on; False when there are MAX_SNOOPERS others."""
        if writer not in self._writers:
            if len(self._writers) >= MAX_SNOOPERS:
                return False
            self._writers.append(writer)
        return True

    def remove(self, writer: Writer) -> None:
        if writer in self._writers:
            self._writers.remove(writer)

    def copy(self, message: bytes) -> None:
        """A whole OpenFlow message of a controller's session, in either direction."""
        for writer in self._writers:
            if writer.is_closing():
                continue
            if writer.transport.get_write_buffer_size() > MAX_BACKLOG:
                self.dropped += 1
            else:
                writer.write(message)
