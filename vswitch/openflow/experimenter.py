# SPDX-License-Identifier: Apache-2.0
"""What OpenFlow has no word for: our Experimenter messages, one typed class each. Bodies are JSON.

exp_type, data = to_wire(LroSet(port_no=1, queue=0, lro="on"))
request = from_wire(exp_type, data)      # raises ExperimenterError with the sentence to answer

Messages that change a setting are `Setting`s: two of the same `key` set the same thing, and `undo()` makes
the message that takes one back. The switch keeps those that it carried out and tells them (SettingsRequest),
so that a controller brings it to another state by the difference.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from ipaddress import ip_address
from typing import Annotated, Any, Literal

import msgspec

from vswitch.config import MAX_WORKERS
from vswitch.openflow.constants import MAX_PORT_NAME_LENGTH, BadRequest, Port
from vswitch.openflow.errors import EXPERIMENTER_ID as EXPERIMENTER_ID
from vswitch.openflow.errors import ExperimenterError, OpenFlowError
from vswitch.openflow.spec import MAX_VNI

MAX_QUEUES = 8
RSS_KEY_LENGTH = 40
INDIRECTION_LENGTH = 128
MAX_COMPLETION = 0xFFFF
MAX_PART_BYTES = 48_000
"""Of the settings, or of the ports' counters, in one message; OpenFlow's have at most 65,535 bytes."""

PortNumber = Annotated[int, msgspec.Meta(ge=1, le=int(Port.MAX))]
Mac = Annotated[str, msgspec.Meta(pattern=r"^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$")]
PortName = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_PORT_NAME_LENGTH - 1)]
Identifier = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,32}$")]
Queue = Annotated[int, msgspec.Meta(ge=0, lt=MAX_QUEUES)]
Priority = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
TransportPort = Annotated[int, msgspec.Meta(ge=1, le=0xFFFF)]
Vni = Annotated[int, msgspec.Meta(ge=0, le=MAX_VNI)]
Hex = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{2})*$")]


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the bodies; an unknown or missing key is an error."""


class Setting(_Body, frozen=True):
    """Base of the messages that set something which the switch keeps."""

    @property
    def key(self) -> Hashable:
        """What it sets."""
        raise NotImplementedError

    def undo(self) -> _Body:
        """The message that takes it back."""
        raise NotImplementedError


class LroSet(Setting, frozen=True, omit_defaults=True):
    """Receive coalescing of one queue: off, on, or for what the rules match (S0.1, S0.3).

    lro: `default` is on for a NIC's queue and off for the port in front of a VM (S0.5).
    kind: an aggregate carries segmentation metadata (`gro`), or not, as a classic NIC's (`lro`, S0.10).
    completion_size: bytes of an IP packet at which an aggregate is complete (S0.7).
    """

    port_no: PortNumber
    queue: Queue
    lro: Literal["off", "on", "rules", "default"]
    kind: Literal["gro", "lro"] = "gro"
    completion_size: Annotated[int, msgspec.Meta(ge=1, le=MAX_COMPLETION)] = MAX_COMPLETION

    @property
    def key(self) -> Hashable:
        return LroSet, self.port_no, self.queue

    def undo(self) -> LroSet:
        return LroSet(self.port_no, self.queue, "default")


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
    proactive_reverse: bool = True
    workers: int = 1  # threads that serve the queues


class IntentRevision(_Body, frozen=True):
    """Sent by the controller when all rules of this revision of the intent are in place."""

    revision: Annotated[int, msgspec.Meta(ge=0)]


class ProactiveReverseSet(_Body, frozen=True):
    """Whether a new flow's reverse entry is installed together with it (S4.5)."""

    enabled: bool


class FormatAdd(Setting, frozen=True):
    """A tunnel format as numbers, by name (S1.1, S1.2, S1.6); `vswitch.tunnel_formats` explains them."""

    name: Identifier
    numbers: dict[str, Any]

    @property
    def key(self) -> Hashable:
        return FormatAdd, self.name

    def undo(self) -> FormatDelete:
        return FormatDelete(self.name)


class FormatDelete(_Body, frozen=True):
    """Remove a tunnel format; no tunnel may use it."""

    name: Identifier


class NicQueuesSet(Setting, frozen=True):
    """How many receive queues a NIC has (ethtool -L combined)."""

    port_no: PortNumber
    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_QUEUES)]

    @property
    def key(self) -> Hashable:
        return NicQueuesSet, self.port_no

    def undo(self) -> NicQueuesSet:
        return NicQueuesSet(self.port_no, 1)


class NicWorkersSet(Setting, frozen=True, omit_defaults=True):
    """Which of the switch's workers serves each receive queue, in the queues' order (S0.4).

    Queues that the list is too short for, by default all, go to the workers in turn.
    """

    port_no: PortNumber
    workers: tuple[Annotated[int, msgspec.Meta(ge=0, lt=MAX_WORKERS)], ...] = ()

    @property
    def key(self) -> Hashable:
        return NicWorkersSet, self.port_no

    def undo(self) -> NicWorkersSet:
        return NicWorkersSet(self.port_no)


class NicRssSet(Setting, frozen=True, omit_defaults=True):
    """How what no filter matches is spread (S0.2): the Toeplitz key, and the queue of each hash bucket.

    What is empty goes back to the default: the usual key, and the queues in turn.
    """

    port_no: PortNumber
    hash_key: Hex = ""
    indirection: tuple[Queue, ...] = ()

    def __post_init__(self) -> None:
        if len(self.hash_key) not in (0, 2 * RSS_KEY_LENGTH):
            raise ValueError(f"hash_key is not of {RSS_KEY_LENGTH} bytes")
        if len(self.indirection) not in (0, INDIRECTION_LENGTH):
            raise ValueError(f"indirection has not {INDIRECTION_LENGTH} entries")

    @property
    def key(self) -> Hashable:
        return NicRssSet, self.port_no

    def undo(self) -> NicRssSet:
        return NicRssSet(self.port_no)


class PacketMatch(_Body, frozen=True, omit_defaults=True):
    """Which packets, by inner headers and virtual network; what is None may be anything (S0.2, S0.3).

    Addresses may be prefixes: `10.0.0.0/8`. `vswitch.nic.Match` is the same on the switch, and checks more.
    """

    dst_mac: Mac | None = None
    protocol: str | int | None = None
    src_ip: str | None = None
    dst_ip: str | None = None
    src_port: TransportPort | None = None
    dst_port: TransportPort | None = None
    vni: Vni | None = None

    def __str__(self) -> str:
        given = msgspec.to_builtins(self)
        return ",".join(f"{name}={value}" for name, value in given.items()) or "*"


class NicFilterAdd(Setting, frozen=True, omit_defaults=True):
    """Packets of this match go to this queue (S0.2). Of several that match, the highest priority decides."""

    port_no: PortNumber
    match: PacketMatch
    queue: Queue
    priority: Priority = 0

    @property
    def key(self) -> Hashable:
        return NicFilterAdd, self.port_no, self.match, self.priority

    def undo(self) -> NicFilterDelete:
        return NicFilterDelete(self.port_no, self.match, self.priority)


class NicFilterDelete(_Body, frozen=True, omit_defaults=True):
    """Remove the filter of exactly this match and priority, if it is there."""

    port_no: PortNumber
    match: PacketMatch
    priority: Priority = 0


class LroRuleAdd(Setting, frozen=True, omit_defaults=True):
    """Whether packets of this match are coalesced, in queues whose mode is `rules` (S0.3).

    queues: empty stands for all. Of several rules that match, the highest priority decides.
    """

    port_no: PortNumber
    match: PacketMatch
    queues: tuple[Queue, ...] = ()
    lro: bool = True
    priority: Priority = 0

    @property
    def key(self) -> Hashable:
        return LroRuleAdd, self.port_no, self.match, self.queues, self.priority

    def undo(self) -> LroRuleDelete:
        return LroRuleDelete(self.port_no, self.match, self.queues, self.priority)


class LroRuleDelete(_Body, frozen=True, omit_defaults=True):
    """Remove the rule of exactly this match, these queues and this priority, if it is there."""

    port_no: PortNumber
    match: PacketMatch
    queues: tuple[Queue, ...] = ()
    priority: Priority = 0


class RoleSet(Setting, frozen=True):
    """Whether the VM at a port forwards others' connections: their MSS is snooped then (S0.8, S0.9)."""

    port_no: PortNumber
    role: Literal["terminating", "forwarding"]

    @property
    def key(self) -> Hashable:
        return RoleSet, self.port_no

    def undo(self) -> RoleSet:
        return RoleSet(self.port_no, "terminating")


class PacketTooBigSet(Setting, frozen=True):
    """Whether senders are told of packets that are too big for a tunnel (RFC 1191, RFC 8201)."""

    enabled: bool

    @property
    def key(self) -> Hashable:
        return PacketTooBigSet

    def undo(self) -> PacketTooBigSet:
        return PacketTooBigSet(True)


class NicStatsRequest(_Body, frozen=True):
    """Ask for the counters of a NIC's queues."""

    port_no: PortNumber


class NicStatsReply(_Body, frozen=True):
    """Of each queue: frames, bytes, merged, aggregates, dropped, and why not merged by reason."""

    port_no: PortNumber
    queues: tuple[dict[str, Any], ...]


class CountersRequest(_Body, frozen=True, omit_defaults=True):
    """Ask for the next, of the ports from number `first` on."""

    first: Annotated[int, msgspec.Meta(ge=0)] = 0


class CountersReply(_Body, frozen=True, omit_defaults=True):
    """Everything that the switch has counted since its start.

    reasons: by name; of the whole switch, and only when `first` was 0. ports, queues: by name of the port.
    next: the number of the port to ask from, when there are others.
    """

    reasons: dict[str, int]
    ports: dict[str, dict[str, int]]
    queues: dict[str, tuple[dict[str, Any], ...]]
    next: int | None = None


class SettingsRequest(_Body, frozen=True, omit_defaults=True):
    """Ask for the `Setting`s that were carried out and not taken back, from the one of this number on."""

    first: Annotated[int, msgspec.Meta(ge=0)] = 0


class Kept(_Body, frozen=True):
    """A setting within another message: its experimenter type and body."""

    type: int
    body: dict[str, Any]

    @classmethod
    def of(cls, setting: Setting) -> Kept:
        exp_type, data = to_wire(setting)
        return cls(exp_type, msgspec.json.decode(data))

    def message(self) -> Any:
        """The setting; raises OpenFlowError or ExperimenterError."""
        return from_wire(self.type, msgspec.json.encode(self.body))


class SettingsReply(_Body, frozen=True, omit_defaults=True):
    """Settings, in an order in which they can be carried out. more: others follow, to be asked for."""

    first: int
    settings: tuple[Kept, ...]
    more: bool = False

    @classmethod
    def of(cls, settings: Sequence[Setting], first: int = 0) -> SettingsReply:
        """As many of `settings`, from number `first` on, as one message holds."""
        kept: list[Kept] = []
        size = 0
        for setting in settings[first:]:
            following = Kept.of(setting)
            size += len(msgspec.json.encode(following.body))
            if size > MAX_PART_BYTES:
                return cls(first, tuple(kept), True)
            kept.append(following)
        return cls(first, tuple(kept))

    def messages(self) -> list[Setting]:
        """The settings as messages. Raises OpenFlowError or ExperimenterError."""
        return [kept.message() for kept in self.settings]


Reply = CapabilitiesReply | CountersReply | NicStatsReply | SettingsReply

EXP_TYPES: dict[int, type[_Body]] = {
    1: LroSet,
    2: TunnelAdd,
    3: TunnelDelete,
    4: CapabilitiesRequest,
    5: CapabilitiesReply,
    6: IntentRevision,
    7: ProactiveReverseSet,
    8: FormatAdd,
    9: FormatDelete,
    10: NicQueuesSet,
    11: NicRssSet,
    12: NicFilterAdd,
    13: NicFilterDelete,
    14: LroRuleAdd,
    15: LroRuleDelete,
    16: RoleSet,
    17: NicStatsRequest,
    18: NicStatsReply,
    19: SettingsRequest,
    20: SettingsReply,
    21: NicWorkersSet,
    22: PacketTooBigSet,
    23: CountersRequest,
    24: CountersReply,
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
