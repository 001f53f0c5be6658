# SPDX-License-Identifier: Apache-2.0
"""Multipart requests and replies: descriptions and statistics (1.3.5, section 7.3.5).

A type that is missing from REQUESTS is answered by OFPBRC_BAD_MULTIPART.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass
from struct import Struct
from typing import Any, ClassVar

from vswitch.openflow.constants import (
    DESC_LENGTH,
    GROUP_ANY,
    MAX_MESSAGE_LENGTH,
    SERIAL_LENGTH,
    TABLE_ALL,
    BadRequest,
    MessageType,
    MultipartType,
    Port,
)
from vswitch.openflow.errors import OpenFlowError
from vswitch.openflow.groups import GroupDesc, GroupFeatures, GroupStats, GroupStatsRequest
from vswitch.openflow.instructions import Instructions
from vswitch.openflow.message import HEADER, Message, exactly, register
from vswitch.openflow.messages import PortDesc, concatenated
from vswitch.openflow.meters import MeterConfig, MeterFeatures, MeterRequest, MeterStats
from vswitch.openflow.oxm import MAX_MATCH_LENGTH, Match
from vswitch.openflow.queues import QueueStats, QueueStatsRequest
from vswitch.openflow.table_features import TableFeatures, TableFeaturesRequest
from vswitch.openflow.wire import field_text, text_field, unpack

MORE = 1
"""OFPMPF_REQ_MORE and OFPMPF_REPLY_MORE."""

ITEMS_AT_ONCE = 32
"""Items of a reply that are encoded before others may run."""

_HEADER = Struct("!HH4x")
MAX_ITEM_LENGTH = MAX_MESSAGE_LENGTH - HEADER.size - _HEADER.size
"""An item of a reply is in one message as a whole."""


@dataclass(frozen=True)
class Desc:
    LAYOUT: ClassVar = Struct(f"!{DESC_LENGTH}s{DESC_LENGTH}s{DESC_LENGTH}s{SERIAL_LENGTH}s{DESC_LENGTH}s")
    manufacturer: str
    hardware: str
    software: str
    serial: str
    datapath: str

    def encode(self) -> bytes:
        sizes = (DESC_LENGTH, DESC_LENGTH, DESC_LENGTH, SERIAL_LENGTH, DESC_LENGTH)
        return b"".join(text_field(text, size) for text, size in zip(astuple(self), sizes, strict=True))

    @classmethod
    def decode(cls, data: bytes) -> Desc:
        return cls(*map(field_text, exactly(cls.LAYOUT, data)))


@dataclass(frozen=True)
class FlowFilter:
    """Which rules a flow or aggregate request asks about."""

    LAYOUT: ClassVar = Struct("!B3xII4xQQ")
    match: Match
    table_id: int = TABLE_ALL
    out_port: int = Port.ANY
    out_group: int = GROUP_ANY
    cookie: int = 0
    cookie_mask: int = 0

    def encode(self) -> bytes:
        head = self.LAYOUT.pack(self.table_id, self.out_port, self.out_group, self.cookie, self.cookie_mask)
        return head + self.match.encode()

    @classmethod
    def decode(cls, data: bytes) -> FlowFilter:
        head = unpack(cls.LAYOUT, data, 0, BadRequest.BAD_LEN)
        match, end = Match.decode(data, cls.LAYOUT.size)
        if end != len(data):
            raise OpenFlowError(BadRequest.BAD_LEN, "bytes behind the match")
        return cls(match, *head)


@dataclass(frozen=True)
class FlowStats:
    """One rule: its match and instructions are the bytes of the flow-mod that made it."""

    LAYOUT: ClassVar = Struct("!HBxIIHHHH4xQQQ")
    table_id: int
    duration_sec: int
    duration_nsec: int
    priority: int
    idle_timeout: int
    hard_timeout: int
    flags: int
    cookie: int
    packet_count: int
    byte_count: int
    match: Match
    instructions: Instructions

    def encode(self) -> bytes:
        tail = self.match.encode() + self.instructions.wire
        head = self.LAYOUT.pack(
            self.LAYOUT.size + len(tail),
            self.table_id,
            self.duration_sec,
            self.duration_nsec,
            self.priority,
            self.idle_timeout,
            self.hard_timeout,
            self.flags,
            self.cookie,
            self.packet_count,
            self.byte_count,
        )
        return head + tail

    @classmethod
    def decode(cls, data: bytes) -> FlowStats:
        head = unpack(cls.LAYOUT, data, 0, BadRequest.BAD_LEN)
        match, offset = Match.decode(data, cls.LAYOUT.size)
        values: tuple[Any, ...] = (*head[1:], match, Instructions.decode(data[offset:]))
        return cls(*values)


MAX_INSTRUCTIONS_LENGTH = MAX_ITEM_LENGTH - FlowStats.LAYOUT.size - MAX_MATCH_LENGTH
"""With longer ones a flow-mod can be a message where the statistics of its rule cannot."""

MAX_BUCKETS_LENGTH = MAX_ITEM_LENGTH - GroupDesc.LAYOUT.size
"""The same of groups and their descriptions."""


@dataclass(frozen=True)
class Aggregate:
    LAYOUT: ClassVar = Struct("!QQI4x")
    packet_count: int
    byte_count: int
    flow_count: int

    def encode(self) -> bytes:
        return self.LAYOUT.pack(*astuple(self))

    @classmethod
    def decode(cls, data: bytes) -> Aggregate:
        return cls(*exactly(cls.LAYOUT, data))


@dataclass(frozen=True)
class TableStats:
    LAYOUT: ClassVar = Struct("!B3xIQQ")
    table_id: int
    active_count: int
    lookup_count: int
    matched_count: int

    def encode(self) -> bytes:
        return self.LAYOUT.pack(*astuple(self))

    @classmethod
    def decode(cls, data: bytes) -> TableStats:
        return cls(*exactly(cls.LAYOUT, data))


@dataclass(frozen=True)
class PortStatsRequest:
    LAYOUT: ClassVar = Struct("!I4x")
    port_no: int = Port.ANY

    def encode(self) -> bytes:
        return self.LAYOUT.pack(self.port_no)

    @classmethod
    def decode(cls, data: bytes) -> PortStatsRequest:
        return cls(*exactly(cls.LAYOUT, data))


@dataclass(frozen=True)
class PortStats:
    LAYOUT: ClassVar = Struct("!I4xQQQQQQQQQQQQII")
    port_no: int
    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    rx_dropped: int
    tx_dropped: int
    rx_errors: int
    tx_errors: int
    rx_frame_err: int = 0
    rx_over_err: int = 0
    rx_crc_err: int = 0
    collisions: int = 0
    duration_sec: int = 0
    duration_nsec: int = 0

    def encode(self) -> bytes:
        return self.LAYOUT.pack(*astuple(self))

    @classmethod
    def decode(cls, data: bytes) -> PortStats:
        return cls(*exactly(cls.LAYOUT, data))


# --- the two messages ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Empty:
    """The body of a request that has none."""

    def encode(self) -> bytes:
        return b""

    @classmethod
    def decode(cls, data: bytes) -> Empty:
        if data:
            raise OpenFlowError(BadRequest.BAD_LEN, f"{len(data)} bytes where none are due")
        return cls()


RequestBody = (
    Empty
    | FlowFilter
    | PortStatsRequest
    | QueueStatsRequest
    | GroupStatsRequest
    | MeterRequest
    | TableFeaturesRequest
)
ReplyItem = (
    Desc
    | FlowStats
    | Aggregate
    | TableStats
    | PortStats
    | QueueStats
    | GroupStats
    | GroupDesc
    | GroupFeatures
    | MeterStats
    | MeterConfig
    | MeterFeatures
    | TableFeatures
    | PortDesc
)

REQUESTS: dict[int, Any] = {
    MultipartType.DESC: Empty,
    MultipartType.FLOW: FlowFilter,
    MultipartType.AGGREGATE: FlowFilter,
    MultipartType.TABLE: Empty,
    MultipartType.PORT_STATS: PortStatsRequest,
    MultipartType.QUEUE: QueueStatsRequest,
    MultipartType.GROUP: GroupStatsRequest,
    MultipartType.GROUP_DESC: Empty,
    MultipartType.GROUP_FEATURES: Empty,
    MultipartType.METER: MeterRequest,
    MultipartType.METER_CONFIG: MeterRequest,
    MultipartType.METER_FEATURES: Empty,
    MultipartType.TABLE_FEATURES: TableFeaturesRequest,
    MultipartType.PORT_DESC: Empty,
}
"""The body of a request, by multipart type."""


def _own_length(data: bytes, offset: int) -> int:
    """Of an item that starts with its length."""
    return int.from_bytes(data[offset : offset + 2], "big")


def _length_behind_id(data: bytes, offset: int) -> int:
    return _own_length(data, offset + 4)


def _fixed(item: Any) -> tuple[Any, Callable[[bytes, int], int]]:
    return item, lambda data, offset: item.LAYOUT.size


REPLIES: dict[int, tuple[Any, Callable[[bytes, int], int]]] = {
    MultipartType.DESC: _fixed(Desc),
    MultipartType.FLOW: (FlowStats, _own_length),
    MultipartType.AGGREGATE: _fixed(Aggregate),
    MultipartType.TABLE: _fixed(TableStats),
    MultipartType.PORT_STATS: _fixed(PortStats),
    MultipartType.QUEUE: _fixed(QueueStats),
    MultipartType.GROUP: (GroupStats, _own_length),
    MultipartType.GROUP_DESC: (GroupDesc, _own_length),
    MultipartType.GROUP_FEATURES: _fixed(GroupFeatures),
    MultipartType.METER: (MeterStats, _length_behind_id),
    MultipartType.METER_CONFIG: (MeterConfig, _own_length),
    MultipartType.METER_FEATURES: _fixed(MeterFeatures),
    MultipartType.TABLE_FEATURES: (TableFeatures, _own_length),
    MultipartType.PORT_DESC: _fixed(PortDesc),
}
"""The items of a reply, by multipart type, and the length of the item at an offset."""


@register
@dataclass(frozen=True)
class MultipartRequest(Message):
    TYPE: ClassVar = MessageType.MULTIPART_REQUEST
    LAYOUT: ClassVar = _HEADER
    kind: int
    request: RequestBody = Empty()
    flags: int = 0

    def body(self) -> bytes:
        return self.LAYOUT.pack(self.kind, self.flags) + self.request.encode()

    @classmethod
    def parse(cls, body: bytes, xid: int) -> MultipartRequest:
        kind, flags = unpack(cls.LAYOUT, body, 0, BadRequest.BAD_LEN)
        request = REQUESTS.get(kind)
        if request is None:
            experimenter = kind == MultipartType.EXPERIMENTER
            code = BadRequest.BAD_EXPERIMENTER if experimenter else BadRequest.BAD_MULTIPART
            raise OpenFlowError(code, f"multipart type {kind}")
        if flags & MORE and kind != MultipartType.TABLE_FEATURES:
            raise OpenFlowError(BadRequest.MULTIPART_BUFFER_OVERFLOW, "a request in several messages")
        return cls(kind, request.decode(body[cls.LAYOUT.size :]), flags, xid=xid)


@register
@dataclass(frozen=True)
class MultipartReply(Message):
    TYPE: ClassVar = MessageType.MULTIPART_REPLY
    LAYOUT: ClassVar = _HEADER
    kind: int
    items: tuple[ReplyItem | Encoded, ...]
    flags: int = 0

    def body(self) -> bytes:
        return self.LAYOUT.pack(self.kind, self.flags) + concatenated(self.items)

    @classmethod
    def parse(cls, body: bytes, xid: int) -> MultipartReply:
        kind, flags = unpack(cls.LAYOUT, body, 0, BadRequest.BAD_LEN)
        if kind not in REPLIES:
            raise OpenFlowError(BadRequest.BAD_MULTIPART, f"multipart type {kind}")
        item, length_at = REPLIES[kind]
        items = []
        offset = cls.LAYOUT.size
        while offset < len(body):
            length = length_at(body, offset)
            if length < 8 or offset + length > len(body):
                raise OpenFlowError(BadRequest.BAD_LEN, f"item of {length} bytes")
            items.append(item.decode(body[offset : offset + length]))
            offset += length
        return cls(kind, tuple(items), flags, xid=xid)


@dataclass(frozen=True)
class Encoded:
    """An item as its bytes."""

    data: bytes

    def encode(self) -> bytes:
        return self.data


def replies(kind: int, items: Iterable[ReplyItem], xid: int) -> Iterator[MultipartReply | None]:
    """The reply to one request, in as many messages as its length needs; at least one. None: some items have
    been encoded, and more will be."""
    part: list[Encoded] = []
    used = 0
    for number, item in enumerate(items, 1):
        encoded = Encoded(item.encode())
        length = len(encoded.data)
        if used + length > MAX_ITEM_LENGTH:
            yield MultipartReply(kind, tuple(part), MORE, xid=xid)
            part, used = [], 0
        elif number % ITEMS_AT_ONCE == 0:
            yield None
        part.append(encoded)
        used += length
    yield MultipartReply(kind, tuple(part), xid=xid)
