# SPDX-License-Identifier: Apache-2.0
"""The error that an OpenFlow peer is told about."""

from __future__ import annotations

import enum

from vswitch.errors import VSwitchError
from vswitch.openflow import constants as c

EXPERIMENTER_ID = 0x4D4E4F46

ERROR_TYPES: dict[type[enum.IntEnum], c.ErrorType] = {
    c.HelloFailed: c.ErrorType.HELLO_FAILED,
    c.BadRequest: c.ErrorType.BAD_REQUEST,
    c.BadAction: c.ErrorType.BAD_ACTION,
    c.BadInstruction: c.ErrorType.BAD_INSTRUCTION,
    c.BadMatch: c.ErrorType.BAD_MATCH,
    c.FlowModFailed: c.ErrorType.FLOW_MOD_FAILED,
    c.GroupModFailed: c.ErrorType.GROUP_MOD_FAILED,
    c.PortModFailed: c.ErrorType.PORT_MOD_FAILED,
    c.TableModFailed: c.ErrorType.TABLE_MOD_FAILED,
    c.QueueOpFailed: c.ErrorType.QUEUE_OP_FAILED,
    c.SwitchConfigFailed: c.ErrorType.SWITCH_CONFIG_FAILED,
    c.MeterModFailed: c.ErrorType.METER_MOD_FAILED,
    c.TableFeaturesFailed: c.ErrorType.TABLE_FEATURES_FAILED,
    c.RoleRequestFailed: c.ErrorType.ROLE_REQUEST_FAILED,
}
"""Which OFPET_* an enumeration of codes belongs to."""


class OpenFlowError(VSwitchError):
    """A message that the receiver refuses; `type` and `code` are those of the OFPT_ERROR that answers it.

    data: what the OFPT_ERROR carries instead of the refused message, when not None.
    """

    def __init__(self, code: enum.IntEnum, text: str = "", data: bytes | None = None) -> None:
        self.type = ERROR_TYPES[type(code)]
        self.code = code
        self.data = data
        super().__init__(f"{self.type.name}/{code.name}" + (f": {text}" if text else ""))


class ExperimenterError(VSwitchError):
    """A refused Experimenter message: OFPET_EXPERIMENTER with our experimenter id and the reason as text."""

    def __init__(self, exp_type: int, text: str) -> None:
        self.exp_type = exp_type
        self.text = text
        super().__init__(text)


def describe_error(error_type: int, code: int) -> str:
    """`BAD_MATCH/BAD_PREREQ` for the numbers of an OFPT_ERROR; unknown ones as numbers."""
    for codes, known_type in ERROR_TYPES.items():
        if known_type == error_type:
            name = codes(code).name if code in codes._value2member_map_ else str(code)
            return f"{known_type.name}/{name}"
    return f"{error_type}/{code}"
