# SPDX-License-Identifier: Apache-2.0
"""What rules and packet-outs may contain. What the switch cannot do is refused here, never ignored later."""

from __future__ import annotations

from collections.abc import Iterable

from vswitch.openflow.actions import Action, Experimenter, Group, Output, SetField, SetQueue
from vswitch.openflow.constants import (
    TABLE_COUNT,
    ActionType,
    BadAction,
    BadInstruction,
    InstructionType,
    Port,
)
from vswitch.openflow.errors import OpenFlowError
from vswitch.openflow.instructions import (
    ApplyActions,
    GotoTable,
    Instructions,
    WriteActions,
)

INSTRUCTIONS = frozenset(
    {
        InstructionType.GOTO_TABLE,
        InstructionType.WRITE_METADATA,
        InstructionType.WRITE_ACTIONS,
        InstructionType.APPLY_ACTIONS,
        InstructionType.CLEAR_ACTIONS,
    }
)
"""Instructions that rules can have; others are refused with OFPBIC_UNSUP_INST."""

ACTIONS = frozenset({ActionType.OUTPUT, ActionType.SET_FIELD})
"""Actions that rules and packet-outs can have; others are refused as check_actions() says."""

SETTABLE = frozenset({"tunnel_id"})
"""Fields that set-field can write; others are refused with OFPBAC_BAD_SET_TYPE."""

_OUTPUT_PORTS = frozenset({Port.IN_PORT, Port.FLOOD, Port.ALL, Port.CONTROLLER})


def check_instructions(table_id: int, instructions: Instructions) -> None:
    """Raise OpenFlowError unless a rule of table `table_id` may have these instructions."""
    for instruction in instructions:
        if instruction.TYPE not in INSTRUCTIONS:
            raise OpenFlowError(BadInstruction.UNSUP_INST, f"{instruction.TYPE.name} is not supported")
        if isinstance(instruction, GotoTable):
            if not table_id < instruction.table_id < TABLE_COUNT:
                raise OpenFlowError(BadInstruction.BAD_TABLE_ID, f"goto {instruction.table_id}")
        elif isinstance(instruction, (ApplyActions, WriteActions)):
            check_actions(instruction.actions)


def check_actions(actions: Iterable[Action], packet_out: bool = False) -> None:
    """Raise OpenFlowError unless the switch can run `actions`; a packet-out may also output to the tables."""
    for action in actions:
        if action.TYPE not in ACTIONS:
            raise _unsupported(action)
        if isinstance(action, Output):
            reserved = action.port in _OUTPUT_PORTS or (packet_out and action.port == Port.TABLE)
            if not reserved and not 0 < action.port <= Port.MAX:
                raise OpenFlowError(BadAction.BAD_OUT_PORT, f"output to {action.port:#x}")
        elif isinstance(action, SetField) and action.oxm.field.name not in SETTABLE:
            raise OpenFlowError(BadAction.BAD_SET_TYPE, f"{action.oxm.field.name} cannot be set")


def _unsupported(action: Action) -> OpenFlowError:
    """The error for an action that is not in ACTIONS."""
    if isinstance(action, Group):
        return OpenFlowError(BadAction.BAD_OUT_GROUP, f"there is no group {action.group_id}")
    if isinstance(action, SetQueue):
        return OpenFlowError(BadAction.BAD_QUEUE, f"there is no queue {action.queue_id}")
    if isinstance(action, Experimenter):
        return OpenFlowError(BadAction.BAD_EXPERIMENTER, f"experimenter {action.experimenter:#x}")
    return OpenFlowError(BadAction.BAD_TYPE, f"{action.TYPE.name} is not supported")
