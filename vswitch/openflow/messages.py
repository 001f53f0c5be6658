# SPDX-License-Identifier: Apache-2.0
"""Messages of the session: handshake, configuration, roles, errors, packets, ports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from struct import Struct
from typing import ClassVar

from vswitch.openflow.actions import Action, decode_actions, encode_actions
from vswitch.openflow.constants import (
    MAX_PORT_NAME_LENGTH,
    NO_BUFFER,
    VERSION,
    BadRequest,
    MessageType,
    PortConfig,
    PortFeature,
    PortReason,
    PortState,
)
from vswitch.openflow.errors import OpenFlowError, describe_error
from vswitch.openflow.message import Message, exactly, register
from vswitch.openflow.oxm import Match
from vswitch.openflow.wire import field_text, text_field, unpack

_TOO_SHORT = BadRequest.BAD_LEN


# --- handshake -------------------------------------------------------------------------------------------


@register
@dataclass(frozen=True)
class Hello(Message):
    TYPE: ClassVar = MessageType.HELLO
    ELEMENT: ClassVar = Struct("!HH")
    VERSION_BITMAP: ClassVar = 1
    versions: frozenset[int] | None = frozenset({VERSION})  # None: no version bitmap came

    def body(self) -> bytes:
        if self.versions is None:
            return b""
        words = [0] * (max(self.versions, default=0) // 32 + 1)
        for version in self.versions:
            words[version // 32] |= 1 << version % 32
        bitmaps = Struct(f"!{len(words)}I").pack(*words)
        element = self.ELEMENT.pack(self.VERSION_BITMAP, self.ELEMENT.size + len(bitmaps)) + bitmaps
        return element + bytes(-len(element) % 8)

    @classmethod
    def parse(cls, body: bytes, xid: int) -> Hello:
        versions = None
        offset = 0
        while len(body) - offset >= cls.ELEMENT.size:
            kind, length = cls.ELEMENT.unpack_from(body, offset)
            if length < cls.ELEMENT.size or offset + length > len(body):
                raise OpenFlowError(BadRequest.BAD_LEN, f"hello element of {length} bytes")
            if kind == cls.VERSION_BITMAP:
                versions = cls._versions(body[offset + cls.ELEMENT.size : offset + length])
            offset += (length + 7) & ~7
        return cls(versions, xid=xid)

    @staticmethod
    def _versions(bitmaps: bytes) -> frozenset[int]:
        found: set[int] = set()
        for word_number in range(len(bitmaps) // 4):
            word = int.from_bytes(bitmaps[4 * word_number : 4 * word_number + 4], "big")
            found.update(32 * word_number + bit for bit in range(32) if word >> bit & 1)
        return frozenset(found)


@register
@dataclass(frozen=True)
class FeaturesRequest(Message):
    TYPE: ClassVar = MessageType.FEATURES_REQUEST


@register
@dataclass(frozen=True)
class FeaturesReply(Message):
    TYPE: ClassVar = MessageType.FEATURES_REPLY
    LAYOUT: ClassVar = Struct("!QIBB2xI4x")
    datapath_id: int
    n_buffers: int
    n_tables: int
    auxiliary_id: int
    capabilities: int

    def body(self) -> bytes:
        return self.LAYOUT.pack(
            self.datapath_id, self.n_buffers, self.n_tables, self.auxiliary_id, self.capabilities
        )

    @classmethod
    def parse(cls, body: bytes, xid: int) -> FeaturesReply:
        return cls(*exactly(cls.LAYOUT, body), xid=xid)


@dataclass(frozen=True)
class _SwitchConfig(Message):
    LAYOUT: ClassVar = Struct("!HH")
    flags: int
    miss_send_len: int

    def body(self) -> bytes:
        return self.LAYOUT.pack(self.flags, self.miss_send_len)

    @classmethod
    def parse(cls, body: bytes, xid: int):
        return cls(*exactly(cls.LAYOUT, body), xid=xid)


@register
@dataclass(frozen=True)
class GetConfigRequest(Message):
    TYPE: ClassVar = MessageType.GET_CONFIG_REQUEST


@register
@dataclass(frozen=True)
class GetConfigReply(_SwitchConfig):
    TYPE: ClassVar = MessageType.GET_CONFIG_REPLY


@register
@dataclass(frozen=True)
class SetConfig(_SwitchConfig):
    TYPE: ClassVar = MessageType.SET_CONFIG


# --- symmetric -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Echo(Message):
    data: bytes = b""

    def body(self) -> bytes:
        return self.data

    @classmethod
    def parse(cls, body: bytes, xid: int):
        return cls(bytes(body), xid=xid)


@register
@dataclass(frozen=True)
class EchoRequest(_Echo):
    TYPE: ClassVar = MessageType.ECHO_REQUEST


@register
@dataclass(frozen=True)
class EchoReply(_Echo):
    TYPE: ClassVar = MessageType.ECHO_REPLY


@register
@dataclass(frozen=True)
class Error(Message):
    """What the receiver of a message had against it; `data` is that message, as far as it fits, or a text."""

    TYPE: ClassVar = MessageType.ERROR
    LAYOUT: ClassVar = Struct("!HH")
    type: int
    code: int
    data: bytes = b""

    def body(self) -> bytes:
        return self.LAYOUT.pack(self.type, self.code) + self.data

    @classmethod
    def parse(cls, body: bytes, xid: int) -> Error:
        error_type, code = unpack(cls.LAYOUT, body, 0, _TOO_SHORT)
        return cls(error_type, code, bytes(body[cls.LAYOUT.size :]), xid=xid)

    def __str__(self) -> str:
        return describe_error(self.type, self.code)


@register
@dataclass(frozen=True)
class Experimenter(Message):
    TYPE: ClassVar = MessageType.EXPERIMENTER
    LAYOUT: ClassVar = Struct("!II")
    experimenter: int
    exp_type: int
    data: bytes = b""

    def body(self) -> bytes:
        return self.LAYOUT.pack(self.experimenter, self.exp_type) + self.data

    @classmethod
    def parse(cls, body: bytes, xid: int) -> Experimenter:
        experimenter, exp_type = unpack(cls.LAYOUT, body, 0, _TOO_SHORT)
        return cls(experimenter, exp_type, bytes(body[cls.LAYOUT.size :]), xid=xid)


@register
@dataclass(frozen=True)
class BarrierRequest(Message):
    TYPE: ClassVar = MessageType.BARRIER_REQUEST


@register
@dataclass(frozen=True)
class BarrierReply(Message):
    TYPE: ClassVar = MessageType.BARRIER_REPLY


# --- roles -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Role(Message):
    LAYOUT: ClassVar = Struct("!I4xQ")
    role: int
    generation_id: int

    def body(self) -> bytes:
        return self.LAYOUT.pack(self.role, self.generation_id)

    @classmethod
    def parse(cls, body: bytes, xid: int):
        return cls(*exactly(cls.LAYOUT, body), xid=xid)


@register
@dataclass(frozen=True)
class RoleRequest(_Role):
    TYPE: ClassVar = MessageType.ROLE_REQUEST


@register
@dataclass(frozen=True)
class RoleReply(_Role):
    TYPE: ClassVar = MessageType.ROLE_REPLY


# --- asynchronous configuration --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Async(Message):
    """Bitmaps of the reasons of which a controller hears: as master or equal, and as slave."""

    LAYOUT: ClassVar = Struct("!6I")
    packet_in: tuple[int, int]
    port_status: tuple[int, int]
    flow_removed: tuple[int, int]

    def body(self) -> bytes:
        return self.LAYOUT.pack(*self.packet_in, *self.port_status, *self.flow_removed)

    @classmethod
    def parse(cls, body: bytes, xid: int):
        masks = exactly(cls.LAYOUT, body)
        return cls(masks[0:2], masks[2:4], masks[4:6], xid=xid)


@register
@dataclass(frozen=True)
class GetAsyncRequest(Message):
    TYPE: ClassVar = MessageType.GET_ASYNC_REQUEST


@register
@dataclass(frozen=True)
class GetAsyncReply(_Async):
    TYPE: ClassVar = MessageType.GET_ASYNC_REPLY


@register
@dataclass(frozen=True)
class SetAsync(_Async):
    TYPE: ClassVar = MessageType.SET_ASYNC


@register
@dataclass(frozen=True)
class TableMod(Message):
    """Configures a table; 1.3 has no configuration but bits that it calls deprecated."""

    TYPE: ClassVar = MessageType.TABLE_MOD
    LAYOUT: ClassVar = Struct("!B3xI")
    DEPRECATED: ClassVar = 3
    table_id: int
    config: int

    def body(self) -> bytes:
        return self.LAYOUT.pack(self.table_id, self.config)

    @classmethod
    def parse(cls, body: bytes, xid: int) -> TableMod:
        return cls(*exactly(cls.LAYOUT, body), xid=xid)


# --- packets ---------------------------------------------------------------------------------------------


@register
@dataclass(frozen=True)
class PacketIn(Message):
    TYPE: ClassVar = MessageType.PACKET_IN
    LAYOUT: ClassVar = Struct("!IHBBQ")
    total_len: int
    reason: int
    table_id: int
    cookie: int
    match: Match
    data: bytes
    buffer_id: int = NO_BUFFER

    def body(self) -> bytes:
        head = self.LAYOUT.pack(self.buffer_id, self.total_len, self.reason, self.table_id, self.cookie)
        return head + self.match.encode() + b"\0\0" + self.data

    @classmethod
    def parse(cls, body: bytes, xid: int) -> PacketIn:
        buffer_id, total_len, reason, table_id, cookie = unpack(cls.LAYOUT, body, 0, _TOO_SHORT)
        match, offset = Match.decode(body, cls.LAYOUT.size)
        data = bytes(body[offset + 2 :])
        return cls(total_len, reason, table_id, cookie, match, data, buffer_id, xid=xid)


@register
@dataclass(frozen=True)
class PacketOut(Message):
    TYPE: ClassVar = MessageType.PACKET_OUT
    LAYOUT: ClassVar = Struct("!IIH6x")
    in_port: int
    actions: tuple[Action, ...]
    data: bytes
    buffer_id: int = NO_BUFFER

    def body(self) -> bytes:
        actions = encode_actions(self.actions)
        return self.LAYOUT.pack(self.buffer_id, self.in_port, len(actions)) + actions + self.data

    @classmethod
    def parse(cls, body: bytes, xid: int) -> PacketOut:
        buffer_id, in_port, actions_len = unpack(cls.LAYOUT, body, 0, _TOO_SHORT)
        end = cls.LAYOUT.size + actions_len
        if end > len(body):
            raise OpenFlowError(BadRequest.BAD_LEN, f"{actions_len} bytes of actions")
        actions = decode_actions(body[cls.LAYOUT.size : end])
        return cls(in_port, actions, bytes(body[end:]), buffer_id, xid=xid)


# --- ports -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PortDesc:
    """struct ofp_port."""

    LAYOUT: ClassVar = Struct("!I4x6s2x16sIIIIIIII")
    port_no: int
    hw_addr: bytes
    name: str
    config: int = PortConfig.NONE
    state: int = PortState.NONE
    curr: int = PortFeature.NONE
    advertised: int = PortFeature.NONE
    supported: int = PortFeature.NONE
    peer: int = PortFeature.NONE
    curr_speed: int = 0  # kbit/s
    max_speed: int = 0

    def encode(self) -> bytes:
        return self.LAYOUT.pack(
            self.port_no,
            self.hw_addr,
            text_field(self.name, MAX_PORT_NAME_LENGTH),
            self.config,
            self.state,
            self.curr,
            self.advertised,
            self.supported,
            self.peer,
            self.curr_speed,
            self.max_speed,
        )

    @classmethod
    def decode(cls, data: bytes) -> PortDesc:
        port_no, hw_addr, name, *rest = exactly(cls.LAYOUT, data)
        return cls(port_no, hw_addr, field_text(name), *rest)


@register
@dataclass(frozen=True)
class PortStatus(Message):
    TYPE: ClassVar = MessageType.PORT_STATUS
    LAYOUT: ClassVar = Struct("!B7x")
    reason: int
    port: PortDesc

    def body(self) -> bytes:
        return self.LAYOUT.pack(self.reason) + self.port.encode()

    @classmethod
    def parse(cls, body: bytes, xid: int) -> PortStatus:
        (reason,) = unpack(cls.LAYOUT, body, 0, _TOO_SHORT)
        return cls(reason, PortDesc.decode(body[cls.LAYOUT.size :]), xid=xid)

    def __str__(self) -> str:
        return f"port {self.port.port_no} {PortReason(self.reason).name}"


@register
@dataclass(frozen=True)
class PortMod(Message):
    TYPE: ClassVar = MessageType.PORT_MOD
    LAYOUT: ClassVar = Struct("!I4x6s2xIII4x")
    port_no: int
    hw_addr: bytes
    config: int
    mask: int
    advertise: int = 0

    def body(self) -> bytes:
        return self.LAYOUT.pack(self.port_no, self.hw_addr, self.config, self.mask, self.advertise)

    @classmethod
    def parse(cls, body: bytes, xid: int) -> PortMod:
        return cls(*exactly(cls.LAYOUT, body), xid=xid)


def concatenated(items: Iterable) -> bytes:
    """The items' encodings, one after the other."""
    return b"".join(item.encode() for item in items)
