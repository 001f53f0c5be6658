# SPDX-License-Identifier: Apache-2.0
"""One controller's session, without I/O: its connection, its role, and what it is told unasked."""

from __future__ import annotations

from collections.abc import Callable

from vswitch.openflow.connection import Connection
from vswitch.openflow.constants import MessageType, Role
from vswitch.openflow.message import Message

MAX_BACKLOG_BYTES = 4 << 20
"""Unsent bytes beyond which packet-ins to this controller are dropped and counted."""

_SLAVE_HEARS = frozenset({MessageType.PORT_STATUS})


class Session:
    """`write` is called when the connection has something to send, and returns the bytes not yet sent;
    `close` ends the session from this side."""

    def __init__(
        self,
        target: str,
        connection: Connection,
        write: Callable[[bytes], int],
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.target = target
        self.connection = connection
        self.close = close
        self.role = Role.EQUAL
        self.packet_ins_dropped = 0
        self._write = write
        self._backlog = 0

    def reply(self, message: Message) -> None:
        """Queue an answer; flush() sends it."""
        self.connection.send(message)

    def notify(self, message: Message) -> bool:
        """Send an asynchronous message if this controller is to hear of such; False if it was not sent."""
        if not self.connection.established:
            return False
        if self.role == Role.SLAVE and message.TYPE not in _SLAVE_HEARS:
            return False
        if message.TYPE == MessageType.PACKET_IN and self._backlog > MAX_BACKLOG_BYTES:
            self.packet_ins_dropped += 1
            return False
        self.connection.send(message)
        self.flush()
        return True

    def flush(self) -> None:
        self._backlog = self._write(self.connection.data_to_send())
