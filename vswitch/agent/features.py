# SPDX-License-Identifier: Apache-2.0
"""The features of the flow tables, told from what admission and match compilation support."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from vswitch.agent.admission import ACTIONS, INSTRUCTIONS, SETTABLE
from vswitch.agent.fields import MATCHABLE
from vswitch.agent.tables import MAX_RULES
from vswitch.openflow.constants import TABLE_COUNT, InstructionType, TableFeaturesFailed
from vswitch.openflow.errors import OpenFlowError
from vswitch.openflow.oxm import FIELDS
from vswitch.openflow.table_features import Property, TableFeatures, field_ids, ids

_ALL_METADATA = 0xFFFF_FFFF_FFFF_FFFF
_MATCHABLE = [field for field in FIELDS if field.name in MATCHABLE]
_SETTABLE = [field for field in FIELDS if field.name in SETTABLE]
_LISTS_NUMBERS = (Property.NEXT_TABLES, Property.NEXT_TABLES_MISS)
"""Properties whose items are single bytes; those of the others are of four bytes."""


@cache
def table_features() -> tuple[TableFeatures, ...]:
    """All tables; they differ only in the tables that come after them. Table-miss rules may be as others."""
    actions = ids(sorted(ACTIONS))
    set_fields = field_ids(_SETTABLE)
    tables = []
    for table_id in range(TABLE_COUNT):
        following = bytes(range(table_id + 1, TABLE_COUNT))
        kinds = INSTRUCTIONS if following else INSTRUCTIONS - {InstructionType.GOTO_TABLE}
        properties = (
            (Property.INSTRUCTIONS, ids(sorted(kinds))),
            (Property.NEXT_TABLES, following),
            (Property.WRITE_ACTIONS, actions),
            (Property.APPLY_ACTIONS, actions),
            (Property.MATCH, field_ids(_MATCHABLE, with_masks=True)),
            (Property.WILDCARDS, field_ids(_MATCHABLE)),
            (Property.WRITE_SETFIELD, set_fields),
            (Property.APPLY_SETFIELD, set_fields),
        )
        tables.append(TableFeatures(table_id, "", _ALL_METADATA, _ALL_METADATA, 0, MAX_RULES, properties))
    return tuple(tables)


def check_table_features(wanted: Iterable[TableFeatures]) -> None:
    """Raise OpenFlowError(TABLE_FEATURES_FAILED/…) unless the tables are wanted as they are.

    The pipeline is fixed: what the switch cannot do is refused as such, what it merely does not change
    by OFPTFFC_EPERM.
    """
    present = {table.table_id: table for table in table_features()}
    left = set(present)
    is_as_wanted = True
    for table in wanted:
        if table.table_id not in left:
            raise OpenFlowError(TableFeaturesFailed.BAD_TABLE, f"table {table.table_id}")
        left.discard(table.table_id)
        is_as_wanted &= _is_as_wanted(present[table.table_id], table)
    if left or not is_as_wanted:
        raise OpenFlowError(TableFeaturesFailed.EPERM, "the tables' features cannot be changed")


def _is_as_wanted(present: TableFeatures, wanted: TableFeatures) -> bool:
    """Is the table as wanted? Raises OpenFlowError when it never could be."""
    offered = dict(present.properties)
    for kind, data in wanted.properties:
        if kind not in Property._value2member_map_:
            raise OpenFlowError(TableFeaturesFailed.BAD_TYPE, f"table feature property {kind}")
        size = 1 if kind in _LISTS_NUMBERS else 4
        if len(data) % size:
            raise OpenFlowError(TableFeaturesFailed.BAD_LEN, f"table feature property of {len(data)} bytes")
        if not _items(data, size) <= _items(offered[Property(kind).of_rules], size):
            raise OpenFlowError(
                TableFeaturesFailed.BAD_ARGUMENT, f"{Property(kind).name} beyond what there is"
            )
    changed = (wanted.name, wanted.config, wanted.max_entries) != (
        present.name,
        present.config,
        present.max_entries,
    )
    metadata = (wanted.metadata_match, wanted.metadata_write)
    return (
        not changed
        and metadata == (present.metadata_match, present.metadata_write)
        and dict(wanted.properties) == offered
    )


def _items(data: bytes, size: int) -> set[bytes]:
    return {data[offset : offset + size] for offset in range(0, len(data), size)}
