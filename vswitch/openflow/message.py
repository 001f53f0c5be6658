# SPDX-License-Identifier: Apache-2.0
"""The OpenFlow header and the base of all messages (1.3.5, section 7.1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct
from typing import ClassVar, TypeVar

from vswitch.openflow.constants import VERSION, BadRequest, MessageType
from vswitch.openflow.errors import OpenFlowError

HEADER = Struct("!BBHI")
"""version, type, length, xid."""


@dataclass(frozen=True)
class Message:
    """One OpenFlow message; subclasses add their fields. `xid` pairs replies with requests.

    received: the bytes that it was decoded from, which an OFPT_ERROR about it quotes.
    """

    TYPE: ClassVar[MessageType]
    xid: int = field(default=0, kw_only=True)
    received: bytes = field(default=b"", init=False, compare=False, repr=False)

    def body(self) -> bytes:
        """The bytes behind the header."""
        return b""

    @classmethod
    def parse(cls, body: bytes, xid: int) -> Message:
        """The message of these bytes; raises OpenFlowError with what an OFPT_ERROR would say."""
        if body:
            raise OpenFlowError(BadRequest.BAD_LEN, f"{cls.TYPE.name} with {len(body)} bytes of body")
        return cls(xid=xid)

    def encode(self) -> bytes:
        body = self.body()
        return HEADER.pack(VERSION, self.TYPE, HEADER.size + len(body), self.xid) + body


_M = TypeVar("_M", bound=type[Message])
MESSAGES: dict[int, type[Message]] = {}
"""Every message that the codec knows, by type."""


def register(cls: _M) -> _M:
    MESSAGES[cls.TYPE] = cls
    return cls


def exactly(layout: Struct, body: bytes) -> tuple:
    """`body` as `layout`, which it must fill."""
    if len(body) != layout.size:
        raise OpenFlowError(BadRequest.BAD_LEN, f"{len(body)} bytes where {layout.size} are due")
    return layout.unpack(body)


def decode_message(frame: bytes) -> Message:
    """The message in `frame`, header and all; raises OpenFlowError."""
    _version, message_type, _length, xid = HEADER.unpack_from(frame)
    cls = MESSAGES.get(message_type)
    if cls is None:
        raise OpenFlowError(BadRequest.BAD_TYPE, f"message type {message_type}")
    message = cls.parse(frame[HEADER.size :], xid)
    object.__setattr__(message, "received", frame)
    return message
