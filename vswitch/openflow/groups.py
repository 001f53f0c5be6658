# SPDX-License-Identifier: Apache-2.0
"""Groups on the wire: group-mod, and the three multipart types about them (1.3.5, 7.3.4.2, 7.3.5.9 to 11)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from struct import Struct
from typing import Any, ClassVar

from vswitch.openflow.actions import Action, decode_actions, encode_actions
from vswitch.openflow.constants import (
    GROUP_ALL,
    GROUP_ANY,
    BadRequest,
    GroupModCommand,
    GroupModFailed,
    GroupType,
    MessageType,
    Port,
)
from vswitch.openflow.errors import OpenFlowError
from vswitch.openflow.message import Message, exactly, register
from vswitch.openflow.wire import unpack


@dataclass(frozen=True)
class Bucket:
    """One set of actions of a group. `weight` is for select groups, what it watches for its liveness."""

    LAYOUT: ClassVar = Struct("!HHII4x")
    actions: tuple[Action, ...] = ()
    weight: int = 0
    watch_port: int = Port.ANY
    watch_group: int = GROUP_ANY

    def encode(self) -> bytes:
        actions = encode_actions(self.actions)
        length = self.LAYOUT.size + len(actions)
        return self.LAYOUT.pack(length, self.weight, self.watch_port, self.watch_group) + actions


def encode_buckets(buckets: Iterable[Bucket]) -> bytes:
    return b"".join(bucket.encode() for bucket in buckets)


def decode_buckets(data: bytes) -> tuple[Bucket, ...]:
    """The buckets that fill `data` exactly; raises OpenFlowError(BAD_BUCKET, BAD_ACTION/…)."""
    buckets = []
    offset = 0
    while offset < len(data):
        length, weight, watch_port, watch_group = unpack(
            Bucket.LAYOUT, data, offset, GroupModFailed.BAD_BUCKET
        )
        if length < Bucket.LAYOUT.size or length % 8 or length > len(data) - offset:
            raise OpenFlowError(GroupModFailed.BAD_BUCKET, f"bucket of {length} bytes")
        actions = decode_actions(data[offset + Bucket.LAYOUT.size : offset + length])
        buckets.append(Bucket(actions, weight, watch_port, watch_group))
        offset += length
    return tuple(buckets)


@register
@dataclass(frozen=True)
class GroupMod(Message):
    TYPE: ClassVar = MessageType.GROUP_MOD
    LAYOUT: ClassVar = Struct("!HBxI")
    command: int
    group_id: int
    type: int = GroupType.ALL
    buckets: tuple[Bucket, ...] = ()

    def body(self) -> bytes:
        return self.LAYOUT.pack(self.command, self.type, self.group_id) + encode_buckets(self.buckets)

    @classmethod
    def parse(cls, body: bytes, xid: int) -> GroupMod:
        command, group_type, group_id = unpack(cls.LAYOUT, body, 0, BadRequest.BAD_LEN)
        if command not in GroupModCommand._value2member_map_:
            raise OpenFlowError(GroupModFailed.BAD_COMMAND, f"command {command}")
        return cls(command, group_id, group_type, decode_buckets(body[cls.LAYOUT.size :]), xid=xid)


@dataclass(frozen=True)
class GroupStatsRequest:
    LAYOUT: ClassVar = Struct("!I4x")
    group_id: int = GROUP_ALL

    def encode(self) -> bytes:
        return self.LAYOUT.pack(self.group_id)

    @classmethod
    def decode(cls, data: bytes) -> GroupStatsRequest:
        return cls(*exactly(cls.LAYOUT, data))


@dataclass(frozen=True)
class GroupStats:
    """`buckets` are (packets, bytes) of each; `ref_count` counts the rules and groups that name the group."""

    LAYOUT: ClassVar = Struct("!H2xII4xQQII")
    BUCKET: ClassVar = Struct("!QQ")
    group_id: int
    ref_count: int
    packet_count: int
    byte_count: int
    duration_sec: int
    duration_nsec: int
    buckets: tuple[tuple[int, int], ...]

    def encode(self) -> bytes:
        buckets = b"".join(self.BUCKET.pack(*counters) for counters in self.buckets)
        *head, _buckets = astuple(self)
        return self.LAYOUT.pack(self.LAYOUT.size + len(buckets), *head) + buckets

    @classmethod
    def decode(cls, data: bytes) -> GroupStats:
        head = unpack(cls.LAYOUT, data, 0, BadRequest.BAD_LEN)
        if (len(data) - cls.LAYOUT.size) % cls.BUCKET.size:
            raise OpenFlowError(BadRequest.BAD_LEN, "the reply ends inside a bucket")
        values: tuple[Any, ...] = (*head[1:], tuple(cls.BUCKET.iter_unpack(data[cls.LAYOUT.size :])))
        return cls(*values)


@dataclass(frozen=True)
class GroupDesc:
    LAYOUT: ClassVar = Struct("!HBxI")
    type: int
    group_id: int
    buckets: tuple[Bucket, ...]

    def encode(self) -> bytes:
        buckets = encode_buckets(self.buckets)
        return self.LAYOUT.pack(self.LAYOUT.size + len(buckets), self.type, self.group_id) + buckets

    @classmethod
    def decode(cls, data: bytes) -> GroupDesc:
        _length, group_type, group_id = unpack(cls.LAYOUT, data, 0, BadRequest.BAD_LEN)
        return cls(group_type, group_id, decode_buckets(data[cls.LAYOUT.size :]))


@dataclass(frozen=True)
class GroupFeatures:
    """Bitmaps of group types and capabilities; per type the most groups there can be, and their actions."""

    LAYOUT: ClassVar = Struct("!II4I4I")
    types: int
    capabilities: int
    max_groups: tuple[int, int, int, int]
    actions: tuple[int, int, int, int]

    def encode(self) -> bytes:
        return self.LAYOUT.pack(self.types, self.capabilities, *self.max_groups, *self.actions)

    @classmethod
    def decode(cls, data: bytes) -> GroupFeatures:
        types, capabilities, *rest = exactly(cls.LAYOUT, data)
        return cls(types, capabilities, tuple(rest[:4]), tuple(rest[4:]))
