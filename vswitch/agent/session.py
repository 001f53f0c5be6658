# SPDX-License-Identifier: Apache-2.0
"""One controller's session, without I/O: its connection, its role, and what it is told unasked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from vswitch.agent.request_parts import RequestParts
from vswitch.agent.turns import Client
from vswitch.openflow.connection import Connection, error_reply
from vswitch.openflow.constants import (
    DEFAULT_MISS_SEND_LEN,
    FlowRemovedReason,
    MessageType,
    PacketInReason,
    PortReason,
    Role,
)
from vswitch.openflow.errors import OpenFlowError
from vswitch.openflow.flow_mod import FlowRemoved
from vswitch.openflow.message import Message
from vswitch.openflow.messages import PacketIn, PortStatus

MAX_UNSENT_BYTES = 1 << 20
"""Unsent bytes beyond which the next request of a controller waits until it has read the answers."""

MAX_PACKET_IN_BACKLOG = 4 << 20
MAX_NOTICE_BACKLOG = 16 << 20
"""Unsent bytes beyond which packet-ins to a controller, and flow-removed and port-status messages, are
dropped and counted: what happens does not wait for who is to hear of it. Packet-ins give way first."""


class AsyncConfig(NamedTuple):
    """Bitmaps of the reasons that a controller hears of: (as master or equal, as slave)."""

    packet_in: tuple[int, int]
    port_status: tuple[int, int]
    flow_removed: tuple[int, int]


def _bitmap(*reasons: int) -> int:
    return sum(1 << reason for reason in reasons)


DEFAULT_ASYNC = AsyncConfig(
    packet_in=(_bitmap(PacketInReason.NO_MATCH, PacketInReason.ACTION), 0),
    port_status=(_bitmap(*PortReason), _bitmap(*PortReason)),
    flow_removed=(_bitmap(*FlowRemovedReason), 0),
)
"""What a controller hears of until it says otherwise (section 7.3.10): all but OFPR_INVALID_TTL."""


async def _at_once() -> None:
    """A peer that always reads."""


class Session(Client):
    """`write` is called when the connection has something to send, and returns the bytes not yet sent;
    `close` ends the session from this side; `drained` returns when most of what was written has been sent, or
    when the connection has been closed since the peer does not take it.

    primary: with a controller that the switch connects to by itself.
    """

    def __init__(
        self,
        target: str,
        connection: Connection,
        write: Callable[[bytes], int],
        close: Callable[[], None] = lambda: None,
        drained: Callable[[], Awaitable[None]] = _at_once,
        primary: bool = False,
    ) -> None:
        super().__init__()
        self.target = target
        self.primary = primary
        self.connection = connection
        self.close = close
        self.drained = drained
        self.role = Role.EQUAL
        self.asynchronous = DEFAULT_ASYNC
        self.miss_send_len = DEFAULT_MISS_SEND_LEN
        self.request_parts = RequestParts(self._refuse)
        self.packet_ins_dropped = 0
        self.notices_dropped = 0
        self._write = write
        self._written = 0
        self._backlog = 0

    def reply(self, message: Message) -> None:
        """Queue an answer; flush() sends it."""
        self.connection.send(message)

    def _refuse(self, error: OpenFlowError, frame: bytes, xid: int) -> None:
        """Answer an earlier message with an error."""
        self.connection.send(error_reply(error, frame, xid))

    def hears_of(self, kind: MessageType, reason: int) -> bool:
        """Is this controller to get asynchronous messages of this kind, for this reason?"""
        if not self.connection.established:
            return False
        masks = getattr(self.asynchronous, kind.name.lower())
        return bool(masks[self.role == Role.SLAVE] >> reason & 1)

    def notify(self, message: PacketIn | PortStatus | FlowRemoved) -> bool:
        """Send an asynchronous message if this controller is to hear of such; False if it was not sent."""
        if not self.hears_of(message.TYPE, message.reason):
            return False
        if message.TYPE == MessageType.PACKET_IN:
            if self.unsent_bytes > MAX_PACKET_IN_BACKLOG:
                self.packet_ins_dropped += 1
                return False
        elif self.unsent_bytes > MAX_NOTICE_BACKLOG:
            self.notices_dropped += 1
            return False
        self.connection.send(message)
        self.flush()
        return True

    def flush(self) -> None:
        data = self.connection.data_to_send()
        self._written += len(data)
        self._backlog = self._write(data)

    @property
    def unsent_bytes(self) -> int:
        """What waits to be sent, queued in the connection or written already."""
        return self.connection.queued_bytes + self._backlog

    @property
    def taken(self) -> int:
        """The bytes that the peer's side took until the last flush()."""
        return self._written - self._backlog
