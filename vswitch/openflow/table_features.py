# SPDX-License-Identifier: Apache-2.0
"""Table features: what the rules of each table may consist of (1.3.5, section 7.3.5.5)."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from struct import Struct
from typing import ClassVar

from vswitch.openflow.constants import ActionType, InstructionType, TableFeaturesFailed
from vswitch.openflow.errors import OpenFlowError
from vswitch.openflow.oxm import OXM_CLASS_BASIC, Field
from vswitch.openflow.wire import field_text, pad, padded_length, text_field, unpack

_NAME_LENGTH = 32
_ID = Struct("!HH")
_OXM_ID = Struct("!HBB")


class Property(enum.IntEnum):
    """OFPTFPT_*; the odd ones tell what differs in table-miss rules."""

    INSTRUCTIONS = 0
    INSTRUCTIONS_MISS = 1
    NEXT_TABLES = 2
    NEXT_TABLES_MISS = 3
    WRITE_ACTIONS = 4
    WRITE_ACTIONS_MISS = 5
    APPLY_ACTIONS = 6
    APPLY_ACTIONS_MISS = 7
    MATCH = 8
    WILDCARDS = 10
    WRITE_SETFIELD = 12
    WRITE_SETFIELD_MISS = 13
    APPLY_SETFIELD = 14
    APPLY_SETFIELD_MISS = 15

    @property
    def of_rules(self) -> Property:
        """The property that tells the same of rules that are no table-miss rules."""
        return Property(self & ~1)


def ids(types: Iterable[InstructionType | ActionType]) -> bytes:
    """Instructions or actions as a property lists them."""
    return b"".join(_ID.pack(kind, _ID.size) for kind in types)


def field_ids(fields: Iterable[Field], with_masks: bool = False) -> bytes:
    """Match fields as a property lists them; `with_masks`: say which of them may be masked."""
    return b"".join(
        _OXM_ID.pack(OXM_CLASS_BASIC, field.number << 1 | has_mask, field.length << has_mask)
        for field in fields
        for has_mask in (int(with_masks and field.maskable),)
    )


@dataclass(frozen=True)
class TableFeatures:
    """`properties` are (type, list of ids as bytes), in order."""

    LAYOUT: ClassVar = Struct(f"!HB5x{_NAME_LENGTH}sQQII")
    table_id: int
    name: str
    metadata_match: int
    metadata_write: int
    config: int
    max_entries: int
    properties: tuple[tuple[int, bytes], ...]

    def encode(self) -> bytes:
        properties = b"".join(
            pad(_ID.pack(kind, _ID.size + len(data)) + data) for kind, data in self.properties
        )
        head = self.LAYOUT.pack(
            self.LAYOUT.size + len(properties),
            self.table_id,
            text_field(self.name, _NAME_LENGTH),
            self.metadata_match,
            self.metadata_write,
            self.config,
            self.max_entries,
        )
        return head + properties

    @classmethod
    def decode(cls, data: bytes) -> TableFeatures:
        _length, table_id, name, match, write, config, entries = unpack(
            cls.LAYOUT, data, 0, TableFeaturesFailed.BAD_LEN
        )
        properties = []
        offset = cls.LAYOUT.size
        while offset < len(data):
            kind, length = unpack(_ID, data, offset, TableFeaturesFailed.BAD_LEN)
            if length < _ID.size or offset + length > len(data):
                raise OpenFlowError(TableFeaturesFailed.BAD_LEN, f"table feature property of {length} bytes")
            properties.append((kind, bytes(data[offset + _ID.size : offset + length])))
            offset += padded_length(length)
        return cls(table_id, field_text(name), match, write, config, entries, tuple(properties))


@dataclass(frozen=True)
class TableFeaturesRequest:
    """Empty: tell the features. Otherwise: the tables as they shall be."""

    body: bytes = b""

    def encode(self) -> bytes:
        return self.body

    @classmethod
    def decode(cls, data: bytes) -> TableFeaturesRequest:
        return cls(bytes(data))

    def tables(self) -> Iterator[TableFeatures]:
        """The tables as they shall be; raises OpenFlowError(TABLE_FEATURES_FAILED/BAD_LEN)."""
        offset = 0
        while offset < len(self.body):
            length, *_rest = unpack(TableFeatures.LAYOUT, self.body, offset, TableFeaturesFailed.BAD_LEN)
            if length < TableFeatures.LAYOUT.size or length > len(self.body) - offset:
                raise OpenFlowError(TableFeaturesFailed.BAD_LEN, f"table features of {length} bytes")
            yield TableFeatures.decode(self.body[offset : offset + length])
            offset += length
