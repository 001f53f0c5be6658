# SPDX-License-Identifier: Apache-2.0
"""Messages about rules: flow-mod and flow-removed (1.3.5, sections 7.3.4.1 and 7.4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Any, ClassVar

from vswitch.openflow.constants import (
    GROUP_ANY,
    NO_BUFFER,
    BadRequest,
    FlowModCommand,
    FlowModFailed,
    FlowModFlag,
    MessageType,
    Port,
)
from vswitch.openflow.errors import OpenFlowError
from vswitch.openflow.instructions import NO_INSTRUCTIONS, Instructions
from vswitch.openflow.message import Message, register
from vswitch.openflow.oxm import Match
from vswitch.openflow.wire import unpack

DEFAULT_PRIORITY = 0x8000
_ALL_FLAGS = sum(FlowModFlag)


@register
@dataclass(frozen=True)
class FlowMod(Message):
    TYPE: ClassVar = MessageType.FLOW_MOD
    LAYOUT: ClassVar = Struct("!QQBBHHHIIIH2x")
    match: Match
    instructions: Instructions = NO_INSTRUCTIONS
    table_id: int = 0
    command: int = FlowModCommand.ADD
    priority: int = DEFAULT_PRIORITY
    idle_timeout: int = 0  # seconds
    hard_timeout: int = 0  # seconds
    cookie: int = 0
    cookie_mask: int = 0
    buffer_id: int = NO_BUFFER
    out_port: int = Port.ANY
    out_group: int = GROUP_ANY
    flags: int = FlowModFlag.NONE

    def body(self) -> bytes:
        head = self.LAYOUT.pack(
            self.cookie,
            self.cookie_mask,
            self.table_id,
            self.command,
            self.idle_timeout,
            self.hard_timeout,
            self.priority,
            self.buffer_id,
            self.out_port,
            self.out_group,
            self.flags,
        )
        return head + self.match.encode() + self.instructions.wire

    @classmethod
    def parse(cls, body: bytes, xid: int) -> FlowMod:
        (
            cookie,
            cookie_mask,
            table_id,
            command,
            idle_timeout,
            hard_timeout,
            priority,
            buffer_id,
            out_port,
            out_group,
            flags,
        ) = unpack(cls.LAYOUT, body, 0, BadRequest.BAD_LEN)
        if command not in FlowModCommand._value2member_map_:
            raise OpenFlowError(FlowModFailed.BAD_COMMAND, f"command {command}")
        if flags & ~_ALL_FLAGS:
            raise OpenFlowError(FlowModFailed.BAD_FLAGS, f"flags {flags:#x}")
        match, offset = Match.decode(body, cls.LAYOUT.size)
        return cls(
            match,
            Instructions.decode(body[offset:]),
            table_id,
            command,
            priority,
            idle_timeout,
            hard_timeout,
            cookie,
            cookie_mask,
            buffer_id,
            out_port,
            out_group,
            flags,
            xid=xid,
        )


@register
@dataclass(frozen=True)
class FlowRemoved(Message):
    TYPE: ClassVar = MessageType.FLOW_REMOVED
    LAYOUT: ClassVar = Struct("!QHBBIIHHQQ")
    cookie: int
    priority: int
    reason: int
    table_id: int
    duration_sec: int
    duration_nsec: int
    idle_timeout: int
    hard_timeout: int
    packet_count: int
    byte_count: int
    match: Match

    def body(self) -> bytes:
        head = self.LAYOUT.pack(
            self.cookie,
            self.priority,
            self.reason,
            self.table_id,
            self.duration_sec,
            self.duration_nsec,
            self.idle_timeout,
            self.hard_timeout,
            self.packet_count,
            self.byte_count,
        )
        return head + self.match.encode()

    @classmethod
    def parse(cls, body: bytes, xid: int) -> FlowRemoved:
        head = unpack(cls.LAYOUT, body, 0, BadRequest.BAD_LEN)
        match, end = Match.decode(body, cls.LAYOUT.size)
        if end != len(body):
            raise OpenFlowError(BadRequest.BAD_LEN, "bytes behind the match")
        values: tuple[Any, ...] = (*head, match)
        return cls(*values, xid=xid)
