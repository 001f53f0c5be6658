# SPDX-License-Identifier: Apache-2.0
"""OpenFlow actions (1.3.5, section 7.2.5): one small class each, and lists of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from struct import Struct
from typing import ClassVar, TypeVar

from vswitch.openflow.constants import MAX_LEN_NO_BUFFER, ActionType, BadAction, BadMatch, Port
from vswitch.openflow.errors import OpenFlowError
from vswitch.openflow.oxm import Oxm, decode_oxm
from vswitch.openflow.wire import pad

_HEADER = Struct("!HH")
_EMPTY = "!4x"
_ETHERTYPE = "!H2x"
_NUMBER = "!I"
_TTL = "!B3x"


@dataclass(frozen=True)
class _Fixed:
    """An action whose body is a fixed layout of its fields."""

    TYPE: ClassVar[ActionType]
    LAYOUT: ClassVar[Struct]

    def encode(self) -> bytes:
        return _HEADER.pack(self.TYPE, _HEADER.size + self.LAYOUT.size) + self.LAYOUT.pack(*astuple(self))

    def __str__(self) -> str:
        values = ",".join(map(str, astuple(self)))
        return f"{self.TYPE.name.lower()}:{values}" if values else self.TYPE.name.lower()


_F = TypeVar("_F", bound=type[_Fixed])
FIXED: dict[int, type[_Fixed]] = {}
"""Fixed-layout actions by type."""


def _fixed(action_type: ActionType, layout: str):
    def register(cls: _F) -> _F:
        cls.TYPE = action_type
        cls.LAYOUT = Struct(layout)
        FIXED[action_type] = cls
        return cls

    return register


@_fixed(ActionType.OUTPUT, "!IH6x")
@dataclass(frozen=True)
class Output(_Fixed):
    port: int
    max_len: int = MAX_LEN_NO_BUFFER  # bytes of the packet, for the controller port only

    def __str__(self) -> str:
        if self.port == Port.CONTROLLER:
            return f"CONTROLLER:{self.max_len}"
        return Port(self.port).name if self.port in Port._value2member_map_ else f"output:{self.port}"


@_fixed(ActionType.COPY_TTL_OUT, _EMPTY)
@dataclass(frozen=True)
class CopyTtlOut(_Fixed):
    pass


@_fixed(ActionType.COPY_TTL_IN, _EMPTY)
@dataclass(frozen=True)
class CopyTtlIn(_Fixed):
    pass


@_fixed(ActionType.SET_MPLS_TTL, _TTL)
@dataclass(frozen=True)
class SetMplsTtl(_Fixed):
    ttl: int


@_fixed(ActionType.DEC_MPLS_TTL, _EMPTY)
@dataclass(frozen=True)
class DecMplsTtl(_Fixed):
    pass


@_fixed(ActionType.PUSH_VLAN, _ETHERTYPE)
@dataclass(frozen=True)
class PushVlan(_Fixed):
    ethertype: int


@_fixed(ActionType.POP_VLAN, _EMPTY)
@dataclass(frozen=True)
class PopVlan(_Fixed):
    pass


@_fixed(ActionType.PUSH_MPLS, _ETHERTYPE)
@dataclass(frozen=True)
class PushMpls(_Fixed):
    ethertype: int


@_fixed(ActionType.POP_MPLS, _ETHERTYPE)
@dataclass(frozen=True)
class PopMpls(_Fixed):
    ethertype: int


@_fixed(ActionType.SET_QUEUE, _NUMBER)
@dataclass(frozen=True)
class SetQueue(_Fixed):
    queue_id: int


@_fixed(ActionType.GROUP, _NUMBER)
@dataclass(frozen=True)
class Group(_Fixed):
    group_id: int


@_fixed(ActionType.SET_NW_TTL, _TTL)
@dataclass(frozen=True)
class SetNwTtl(_Fixed):
    ttl: int


@_fixed(ActionType.DEC_NW_TTL, _EMPTY)
@dataclass(frozen=True)
class DecNwTtl(_Fixed):
    pass


@_fixed(ActionType.PUSH_PBB, _ETHERTYPE)
@dataclass(frozen=True)
class PushPbb(_Fixed):
    ethertype: int


@_fixed(ActionType.POP_PBB, _EMPTY)
@dataclass(frozen=True)
class PopPbb(_Fixed):
    pass


@dataclass(frozen=True)
class SetField:
    """Writes one header or pipeline field; the OXM comes without a mask."""

    oxm: Oxm
    TYPE: ClassVar[ActionType] = ActionType.SET_FIELD

    def encode(self) -> bytes:
        oxm = self.oxm.encode()
        body = pad(_HEADER.pack(self.TYPE, 0) + oxm)
        return _HEADER.pack(self.TYPE, len(body)) + body[_HEADER.size :]

    def __str__(self) -> str:
        return f"set_field:{self.oxm}"


@dataclass(frozen=True)
class Experimenter:
    experimenter: int
    data: bytes
    TYPE: ClassVar[ActionType] = ActionType.EXPERIMENTER
    LAYOUT: ClassVar[Struct] = Struct("!I")

    def encode(self) -> bytes:
        length = _HEADER.size + self.LAYOUT.size + len(self.data)
        return _HEADER.pack(self.TYPE, length) + self.LAYOUT.pack(self.experimenter) + self.data

    def __str__(self) -> str:
        return f"experimenter:{self.experimenter:#x}"


Action = _Fixed | SetField | Experimenter

SET_ORDER: dict[type, int] = {
    kind: place
    for place, kind in enumerate(
        (
            CopyTtlIn,
            *(PopVlan, PopMpls, PopPbb),
            *(PushMpls, PushPbb, PushVlan),
            CopyTtlOut,
            *(DecNwTtl, DecMplsTtl, SetNwTtl, SetMplsTtl),
            SetField,
            SetQueue,
            Group,
            Output,
            Experimenter,
        )
    )
}
"""The order in which an action set runs (section 5.10)."""


def encode_actions(actions: Iterable[Action]) -> bytes:
    return b"".join(action.encode() for action in actions)


def decode_actions(data: bytes) -> tuple[Action, ...]:
    """The actions that fill `data` exactly; raises OpenFlowError(BAD_ACTION/…)."""
    actions: list[Action] = []
    offset = 0
    while offset < len(data):
        if len(data) - offset < _HEADER.size:
            raise OpenFlowError(BadAction.BAD_LEN, "the list ends inside an action's header")
        action_type, length = _HEADER.unpack_from(data, offset)
        if length < 8 or length % 8 or length > len(data) - offset:
            raise OpenFlowError(BadAction.BAD_LEN, f"action of {length} bytes")
        actions.append(_decode_action(action_type, data[offset + _HEADER.size : offset + length]))
        offset += length
    return tuple(actions)


def _decode_action(action_type: int, body: bytes) -> Action:
    cls = FIXED.get(action_type)
    if cls is not None:
        if len(body) != cls.LAYOUT.size:
            raise OpenFlowError(BadAction.BAD_LEN, f"{cls.TYPE.name} with {len(body)} bytes")
        return cls(*cls.LAYOUT.unpack(body))
    if action_type == ActionType.SET_FIELD:
        return SetField(_decode_set_field(body))
    if action_type == ActionType.EXPERIMENTER:
        (experimenter,) = Experimenter.LAYOUT.unpack_from(body)
        return Experimenter(experimenter, bytes(body[Experimenter.LAYOUT.size :]))
    raise OpenFlowError(BadAction.BAD_TYPE, f"action type {action_type}")


_SET_FIELD_ERRORS = {
    BadMatch.BAD_FIELD: BadAction.BAD_SET_TYPE,
    BadMatch.BAD_MASK: BadAction.BAD_SET_TYPE,
    BadMatch.BAD_LEN: BadAction.BAD_SET_LEN,
    BadMatch.BAD_VALUE: BadAction.BAD_SET_ARGUMENT,
    BadMatch.BAD_WILDCARDS: BadAction.BAD_SET_ARGUMENT,
}
"""What an error of an OXM is called when it is a set-field's argument."""


def _decode_set_field(body: bytes) -> Oxm:
    try:
        oxm, end = decode_oxm(body, 0, len(body))
    except OpenFlowError as error:
        raise OpenFlowError(_SET_FIELD_ERRORS[BadMatch(error.code)], str(error)) from error
    if oxm.mask is not None:
        raise OpenFlowError(BadAction.BAD_SET_TYPE, f"{oxm.field.name} with a mask")
    if len(body) - end >= 8:
        raise OpenFlowError(BadAction.BAD_SET_LEN, f"{len(body) - end} bytes of padding")
    return oxm
