# SPDX-License-Identifier: Apache-2.0
"""Meters on the wire: meter-mod, and three multipart types about them (1.3.5, 7.3.4.4, 7.3.5.12 to 14)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from struct import Struct
from typing import Any, ClassVar

from vswitch.openflow.constants import (
    METER_ALL,
    BadRequest,
    MessageType,
    MeterBandType,
    MeterFlag,
    MeterModCommand,
    MeterModFailed,
)
from vswitch.openflow.errors import OpenFlowError
from vswitch.openflow.message import Message, exactly, register
from vswitch.openflow.wire import unpack

_ALL_FLAGS = sum(MeterFlag)


@dataclass(frozen=True)
class Band:
    """One meter band. `burst_size` counts only with MeterFlag.BURST, `prec_level` for DSCP_REMARK."""

    LAYOUT: ClassVar = Struct("!HHIIB3x")
    type: int
    rate: int  # kbit/s, or packets/s
    burst_size: int = 0  # kbit, or packets
    prec_level: int = 0

    def encode(self) -> bytes:
        return self.LAYOUT.pack(self.type, self.LAYOUT.size, self.rate, self.burst_size, self.prec_level)


def encode_bands(bands: Iterable[Band]) -> bytes:
    return b"".join(band.encode() for band in bands)


def decode_bands(data: bytes) -> tuple[Band, ...]:
    """The bands that fill `data` exactly; raises OpenFlowError."""
    bands = []
    for offset in range(0, len(data), Band.LAYOUT.size):
        kind, length, rate, burst_size, prec_level = unpack(Band.LAYOUT, data, offset, BadRequest.BAD_LEN)
        if kind not in (MeterBandType.DROP, MeterBandType.DSCP_REMARK):
            raise OpenFlowError(MeterModFailed.BAD_BAND, f"band type {kind}")
        if length != Band.LAYOUT.size:
            raise OpenFlowError(BadRequest.BAD_LEN, f"band of {length} bytes")
        bands.append(Band(kind, rate, burst_size, prec_level if kind == MeterBandType.DSCP_REMARK else 0))
    return tuple(bands)


@register
@dataclass(frozen=True)
class MeterMod(Message):
    TYPE: ClassVar = MessageType.METER_MOD
    LAYOUT: ClassVar = Struct("!HHI")
    command: int
    meter_id: int
    flags: int = MeterFlag.KBPS
    bands: tuple[Band, ...] = ()

    def body(self) -> bytes:
        return self.LAYOUT.pack(self.command, self.flags, self.meter_id) + encode_bands(self.bands)

    @classmethod
    def parse(cls, body: bytes, xid: int) -> MeterMod:
        command, flags, meter_id = unpack(cls.LAYOUT, body, 0, BadRequest.BAD_LEN)
        if command not in MeterModCommand._value2member_map_:
            raise OpenFlowError(MeterModFailed.BAD_COMMAND, f"command {command}")
        if flags & ~_ALL_FLAGS:
            raise OpenFlowError(MeterModFailed.BAD_FLAGS, f"flags {flags:#x}")
        return cls(command, meter_id, flags, decode_bands(body[cls.LAYOUT.size :]), xid=xid)


@dataclass(frozen=True)
class MeterRequest:
    """Which meters a statistics or configuration request asks about."""

    LAYOUT: ClassVar = Struct("!I4x")
    meter_id: int = METER_ALL

    def encode(self) -> bytes:
        return self.LAYOUT.pack(self.meter_id)

    @classmethod
    def decode(cls, data: bytes) -> MeterRequest:
        return cls(*exactly(cls.LAYOUT, data))


@dataclass(frozen=True)
class MeterStats:
    """`bands` are (packets, bytes) that each band took; `flow_count` counts the rules that name the meter."""

    LAYOUT: ClassVar = Struct("!IH6xIQQII")
    BAND: ClassVar = Struct("!QQ")
    meter_id: int
    flow_count: int
    packet_in_count: int
    byte_in_count: int
    duration_sec: int
    duration_nsec: int
    bands: tuple[tuple[int, int], ...]

    def encode(self) -> bytes:
        bands = b"".join(self.BAND.pack(*counters) for counters in self.bands)
        meter_id, *counts, _bands = astuple(self)
        return self.LAYOUT.pack(meter_id, self.LAYOUT.size + len(bands), *counts) + bands

    @classmethod
    def decode(cls, data: bytes) -> MeterStats:
        meter_id, _length, *counts = unpack(cls.LAYOUT, data, 0, BadRequest.BAD_LEN)
        if (len(data) - cls.LAYOUT.size) % cls.BAND.size:
            raise OpenFlowError(BadRequest.BAD_LEN, "the reply ends inside a band")
        bands = tuple(cls.BAND.iter_unpack(data[cls.LAYOUT.size :]))
        values: tuple[Any, ...] = (meter_id, *counts, bands)
        return cls(*values)


@dataclass(frozen=True)
class MeterConfig:
    """A meter as it was given."""

    LAYOUT: ClassVar = Struct("!HHI")
    flags: int
    meter_id: int
    bands: tuple[Band, ...]

    def encode(self) -> bytes:
        bands = encode_bands(self.bands)
        return self.LAYOUT.pack(self.LAYOUT.size + len(bands), self.flags, self.meter_id) + bands

    @classmethod
    def decode(cls, data: bytes) -> MeterConfig:
        _length, flags, meter_id = unpack(cls.LAYOUT, data, 0, BadRequest.BAD_LEN)
        return cls(flags, meter_id, decode_bands(data[cls.LAYOUT.size :]))


@dataclass(frozen=True)
class MeterFeatures:
    """`band_types` and `capabilities` (MeterFlag) are bitmaps."""

    LAYOUT: ClassVar = Struct("!IIIBB2x")
    max_meter: int
    band_types: int
    capabilities: int
    max_bands: int
    max_color: int

    def encode(self) -> bytes:
        return self.LAYOUT.pack(*astuple(self))

    @classmethod
    def decode(cls, data: bytes) -> MeterFeatures:
        return cls(*exactly(cls.LAYOUT, data))
