# SPDX-License-Identifier: Apache-2.0
"""The features of the flow tables, told from what admission and match compilation support."""

from __future__ import annotations

from collections.abc import Iterator

from vswitch.agent.admission import ACTIONS, INSTRUCTIONS, SETTABLE
from vswitch.agent.fields import MATCHABLE
from vswitch.agent.tables import MAX_RULES
from vswitch.openflow.constants import TABLE_COUNT, InstructionType
from vswitch.openflow.oxm import FIELDS
from vswitch.openflow.table_features import Property, TableFeatures, field_ids, ids

_ALL_METADATA = 0xFFFF_FFFF_FFFF_FFFF
_MATCHABLE = [field for field in FIELDS if field.name in MATCHABLE]
_SETTABLE = [field for field in FIELDS if field.name in SETTABLE]


def table_features() -> Iterator[TableFeatures]:
    """All tables; they differ only in the tables that come after them."""
    actions = ids(sorted(ACTIONS))
    set_fields = field_ids(_SETTABLE)
    for table_id in range(TABLE_COUNT):
        following = bytes(range(table_id + 1, TABLE_COUNT))
        kinds = INSTRUCTIONS if following else INSTRUCTIONS - {InstructionType.GOTO_TABLE}
        yield TableFeatures(
            table_id,
            f"table{table_id}",
            _ALL_METADATA,
            _ALL_METADATA,
            0,
            MAX_RULES,
            (
                (Property.INSTRUCTIONS, ids(sorted(kinds))),
                (Property.NEXT_TABLES, following),
                (Property.WRITE_ACTIONS, actions),
                (Property.APPLY_ACTIONS, actions),
                (Property.MATCH, field_ids(_MATCHABLE, with_masks=True)),
                (Property.WILDCARDS, field_ids(_MATCHABLE)),
                (Property.WRITE_SETFIELD, set_fields),
                (Property.APPLY_SETFIELD, set_fields),
            ),
        )
