# SPDX-License-Identifier: Apache-2.0
"""OpenFlow instructions (1.3.5, section 7.2.4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from struct import Struct
from typing import ClassVar, TypeVar

from vswitch.openflow.actions import Action, Group, Output, decode_actions, encode_actions
from vswitch.openflow.constants import BadInstruction, InstructionType
from vswitch.openflow.errors import OpenFlowError

_HEADER = Struct("!HH")
_PADDED_HEADER = Struct("!HH4x")


@dataclass(frozen=True)
class GotoTable:
    table_id: int
    TYPE: ClassVar[InstructionType] = InstructionType.GOTO_TABLE
    LAYOUT: ClassVar[Struct] = Struct("!HHB3x")

    def encode(self) -> bytes:
        return self.LAYOUT.pack(self.TYPE, self.LAYOUT.size, self.table_id)

    def __str__(self) -> str:
        return f"goto_table:{self.table_id}"


@dataclass(frozen=True)
class WriteMetadata:
    metadata: int
    mask: int = 0xFFFF_FFFF_FFFF_FFFF
    TYPE: ClassVar[InstructionType] = InstructionType.WRITE_METADATA
    LAYOUT: ClassVar[Struct] = Struct("!HH4xQQ")

    def encode(self) -> bytes:
        return self.LAYOUT.pack(self.TYPE, self.LAYOUT.size, self.metadata, self.mask)

    def __str__(self) -> str:
        return f"write_metadata:{self.metadata:#x}/{self.mask:#x}"


@dataclass(frozen=True)
class _WithActions:
    actions: tuple[Action, ...]
    TYPE: ClassVar[InstructionType]

    def encode(self) -> bytes:
        body = encode_actions(self.actions)
        return _PADDED_HEADER.pack(self.TYPE, _PADDED_HEADER.size + len(body)) + body

    def __str__(self) -> str:
        return f"{self.TYPE.name.lower()}({','.join(map(str, self.actions)) or 'drop'})"


@dataclass(frozen=True)
class WriteActions(_WithActions):
    TYPE: ClassVar[InstructionType] = InstructionType.WRITE_ACTIONS


@dataclass(frozen=True)
class ApplyActions(_WithActions):
    TYPE: ClassVar[InstructionType] = InstructionType.APPLY_ACTIONS


@dataclass(frozen=True)
class ClearActions:
    TYPE: ClassVar[InstructionType] = InstructionType.CLEAR_ACTIONS

    def encode(self) -> bytes:
        return _PADDED_HEADER.pack(self.TYPE, _PADDED_HEADER.size)

    def __str__(self) -> str:
        return "clear_actions"


@dataclass(frozen=True)
class Meter:
    meter_id: int
    TYPE: ClassVar[InstructionType] = InstructionType.METER
    LAYOUT: ClassVar[Struct] = Struct("!HHI")

    def encode(self) -> bytes:
        return self.LAYOUT.pack(self.TYPE, self.LAYOUT.size, self.meter_id)

    def __str__(self) -> str:
        return f"meter:{self.meter_id}"


Instruction = GotoTable | WriteMetadata | WriteActions | ApplyActions | ClearActions | Meter
_I = TypeVar("_I")


@dataclass(frozen=True)
class Instructions:
    """The instructions of a rule as they came, at most one of each type, and the bytes they came in."""

    items: tuple[Instruction, ...]
    wire: bytes

    @classmethod
    def of(cls, *items: Instruction) -> Instructions:
        return cls(items, b"".join(item.encode() for item in items))

    @staticmethod
    @lru_cache(maxsize=256)
    def decode(data: bytes) -> Instructions:
        """The instructions that fill `data` exactly; raises OpenFlowError otherwise.

        Rules have few different ones, so that they are remembered.
        """
        items: list[Instruction] = []
        offset = 0
        while offset < len(data):
            if len(data) - offset < _PADDED_HEADER.size:
                raise OpenFlowError(BadInstruction.BAD_LEN, "the list ends inside an instruction")
            kind, length = _HEADER.unpack_from(data, offset)
            if length < _PADDED_HEADER.size or length % 8 or length > len(data) - offset:
                raise OpenFlowError(BadInstruction.BAD_LEN, f"instruction of {length} bytes")
            items.append(_decode_instruction(kind, data[offset : offset + length]))
            offset += length
        if len({item.TYPE for item in items}) != len(items):
            raise OpenFlowError(BadInstruction.UNSUP_INST, "the same instruction twice")
        return Instructions(tuple(items), data)

    def get(self, kind: type[_I]) -> _I | None:
        """The instruction of class `kind`, if there is one."""
        for item in self.items:
            if isinstance(item, kind):
                return item
        return None

    @cached_property
    def outputs(self) -> frozenset[int]:
        """The ports that they output to, reserved ones included."""
        return frozenset(action.port for action in self._actions() if isinstance(action, Output))

    @cached_property
    def groups(self) -> frozenset[int]:
        return frozenset(action.group_id for action in self._actions() if isinstance(action, Group))

    @property
    def meter_id(self) -> int | None:
        meter = self.get(Meter)
        return None if meter is None else meter.meter_id

    def _actions(self) -> Iterator[Action]:
        for item in self.items:
            if isinstance(item, _WithActions):
                yield from item.actions

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.items)

    def __str__(self) -> str:
        return ",".join(map(str, self.items)) or "drop"


NO_INSTRUCTIONS = Instructions.of()


def _decode_instruction(kind: int, data: bytes) -> Instruction:
    if kind == InstructionType.WRITE_ACTIONS:
        return WriteActions(decode_actions(data[_PADDED_HEADER.size :]))
    if kind == InstructionType.APPLY_ACTIONS:
        return ApplyActions(decode_actions(data[_PADDED_HEADER.size :]))
    if kind == InstructionType.CLEAR_ACTIONS:
        if len(data) != _PADDED_HEADER.size:
            raise OpenFlowError(BadInstruction.BAD_LEN, f"CLEAR_ACTIONS of {len(data)} bytes")
        return ClearActions()
    if kind == InstructionType.EXPERIMENTER:
        raise OpenFlowError(BadInstruction.BAD_EXPERIMENTER, "unknown experimenter")
    fixed: type[GotoTable] | type[WriteMetadata] | type[Meter] | None = _FIXED.get(kind)
    if fixed is None:
        raise OpenFlowError(BadInstruction.UNKNOWN_INST, f"instruction type {kind}")
    if len(data) != fixed.LAYOUT.size:
        raise OpenFlowError(BadInstruction.BAD_LEN, f"{fixed.TYPE.name} of {len(data)} bytes")
    return fixed(*fixed.LAYOUT.unpack(data)[2:])


_FIXED: dict[int, type[GotoTable] | type[WriteMetadata] | type[Meter]] = {
    InstructionType.GOTO_TABLE: GotoTable,
    InstructionType.WRITE_METADATA: WriteMetadata,
    InstructionType.METER: Meter,
}
