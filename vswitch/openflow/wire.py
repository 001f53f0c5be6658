# SPDX-License-Identifier: Apache-2.0
"""Helpers of the codec: bounded unpacking and padding."""

from __future__ import annotations

import enum
from struct import Struct
from typing import Any

from vswitch.openflow.errors import OpenFlowError


def unpack(layout: Struct, data: bytes, offset: int, too_short: enum.IntEnum) -> tuple[Any, ...]:
    """`layout` at `offset` of `data`; raises OpenFlowError(too_short) when `data` ends before."""
    if len(data) - offset < layout.size:
        raise OpenFlowError(too_short, f"{len(data) - offset} bytes where {layout.size} are needed")
    return layout.unpack_from(data, offset)


def padded_length(length: int) -> int:
    """`length` rounded up to a multiple of 8."""
    return (length + 7) & ~7


def pad(data: bytes) -> bytes:
    """`data` with zeros up to a multiple of 8 bytes."""
    return data + bytes(-len(data) % 8)


def text_field(text: str, size: int) -> bytes:
    """`text` as a zero-terminated field of `size` bytes, cut where it does not fit."""
    return text.encode("utf-8", "replace")[: size - 1].ljust(size, b"\0")


def field_text(data: bytes) -> str:
    """The text of a zero-terminated field."""
    return data.split(b"\0", 1)[0].decode("utf-8", "replace")
