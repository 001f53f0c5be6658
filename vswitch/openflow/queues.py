# SPDX-License-Identifier: Apache-2.0
"""Requests about queues (1.3.5, sections 7.3.5.8 and 7.3.6), which the ports of this switch do not have."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from struct import Struct
from typing import ClassVar

from vswitch.openflow.constants import QUEUE_ALL, MessageType, Port
from vswitch.openflow.message import Message, exactly, register


@dataclass(frozen=True)
class QueueStatsRequest:
    LAYOUT: ClassVar = Struct("!II")
    port_no: int = Port.ANY
    queue_id: int = QUEUE_ALL

    def encode(self) -> bytes:
        return self.LAYOUT.pack(self.port_no, self.queue_id)

    @classmethod
    def decode(cls, data: bytes) -> QueueStatsRequest:
        return cls(*exactly(cls.LAYOUT, data))


@dataclass(frozen=True)
class QueueStats:
    LAYOUT: ClassVar = Struct("!IIQQQII")
    port_no: int
    queue_id: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    duration_sec: int
    duration_nsec: int

    def encode(self) -> bytes:
        return self.LAYOUT.pack(*astuple(self))

    @classmethod
    def decode(cls, data: bytes) -> QueueStats:
        return cls(*exactly(cls.LAYOUT, data))


@dataclass(frozen=True)
class _QueueConfig(Message):
    LAYOUT: ClassVar = Struct("!I4x")
    port_no: int

    def body(self) -> bytes:
        return self.LAYOUT.pack(self.port_no)

    @classmethod
    def parse(cls, body: bytes, xid: int):
        return cls(*exactly(cls.LAYOUT, body), xid=xid)


@register
@dataclass(frozen=True)
class QueueGetConfigRequest(_QueueConfig):
    TYPE: ClassVar = MessageType.QUEUE_GET_CONFIG_REQUEST


@register
@dataclass(frozen=True)
class QueueGetConfigReply(_QueueConfig):
    """The queues of a port: none."""

    TYPE: ClassVar = MessageType.QUEUE_GET_CONFIG_REPLY
