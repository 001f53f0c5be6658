# SPDX-License-Identifier: Apache-2.0
"""What OpenFlow has no word for: our Experimenter messages, one typed class each. Bodies are JSON.

exp_type, data = to_wire(GroSet(port_no=1, queue=0, enabled=True))
request = from_wire(exp_type, data)      # raises ExperimenterError with the sentence to answer
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Any

import msgspec

from vswitch.openflow.constants import MAX_PORT_NAME_LENGTH, BadRequest, Port
from vswitch.openflow.errors import EXPERIMENTER_ID as EXPERIMENTER_ID
from vswitch.openflow.errors import ExperimenterError, OpenFlowError

PortNumber = Annotated[int, msgspec.Meta(ge=1, le=int(Port.MAX))]
Mac = Annotated[str, msgspec.Meta(pattern=r"^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$")]
PortName = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_PORT_NAME_LENGTH - 1)]
Identifier = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,32}$")]


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the bodies; an unknown or missing key is an error."""


class GroSet(_Body, frozen=True):
    """Turn receive coalescing of one queue of one port on or off (S0.1)."""

    port_no: PortNumber
    queue: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
    enabled: bool


class TunnelAdd(_Body, frozen=True):
    """Make a tunnel port, or replace the one of this number. Addresses are the outer header's."""

    port_no: PortNumber
    name: PortName
    format: Identifier
    local_ip: str
    remote_ip: str
    local_mac: Mac
    remote_mac: Mac
    uplink_port: PortNumber

    def __post_init__(self) -> None:
        local, remote = ip_address(self.local_ip), ip_address(self.remote_ip)
        if local.version != remote.version:
            raise ValueError("local_ip and remote_ip are of different IP versions")


class TunnelDelete(_Body, frozen=True):
    """Remove a tunnel port."""

    port_no: PortNumber


class CapabilitiesRequest(_Body, frozen=True):
    """Ask what the switch can do."""


class CapabilitiesReply(_Body, frozen=True):
    """What the switch can do."""

    version: str
    formats: tuple[str, ...]
    ports: tuple[int, ...]
    queues: int  # receive queues of each port
    tunnels: tuple[int, ...]  # tunnel ports there are
    gro: tuple[GroSet, ...] = ()  # what was set by GroSet
    proactive_reverse: bool = True


class IntentRevision(_Body, frozen=True):
    """Sent by the controller when all rules of this revision of the intent are in place."""

    revision: Annotated[int, msgspec.Meta(ge=0)]


class ProactiveReverseSet(_Body, frozen=True):
    """Whether a new flow's reverse entry is installed together with it (S4.5)."""

    enabled: bool


EXP_TYPES: dict[int, type[_Body]] = {
    1: GroSet,
    2: TunnelAdd,
    3: TunnelDelete,
    4: CapabilitiesRequest,
    5: CapabilitiesReply,
    6: IntentRevision,
    7: ProactiveReverseSet,
}
"""The experimenter type of each class."""

_NUMBERS = {cls: number for number, cls in EXP_TYPES.items()}


def to_wire(body: _Body) -> tuple[int, bytes]:
    """(exp_type, data) for an OFPT_EXPERIMENTER with EXPERIMENTER_ID."""
    return _NUMBERS[type(body)], msgspec.json.encode(body)


def from_wire(exp_type: int, data: bytes) -> Any:
    """The body of an OFPT_EXPERIMENTER with EXPERIMENTER_ID.

    Raises OpenFlowError(BAD_EXP_TYPE) for an unknown type and ExperimenterError for an invalid body.
    """
    cls = EXP_TYPES.get(exp_type)
    if cls is None:
        raise OpenFlowError(BadRequest.BAD_EXP_TYPE, f"experimenter type {exp_type}")
    try:
        return msgspec.json.decode(data, type=cls)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ExperimenterError(exp_type, f"{cls.__name__}: {error}") from error
