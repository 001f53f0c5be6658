# SPDX-License-Identifier: Apache-2.0
"""What rules, buckets and packet-outs may contain. What the switch cannot do is refused here, never ignored
later (1.3.5, sections 5.9, 5.12, 6.4 and 7.4.1)."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import TYPE_CHECKING

from vswitch.openflow import actions as of
from vswitch.openflow.constants import (
    METER_MAX,
    QUEUE_ALL,
    TABLE_COUNT,
    ActionType,
    BadAction,
    BadInstruction,
    InstructionType,
    MeterModFailed,
    Port,
)
from vswitch.openflow.errors import OpenFlowError
from vswitch.openflow.instructions import ApplyActions, GotoTable, Instructions, Meter, WriteActions
from vswitch.openflow.multipart import MAX_INSTRUCTIONS_LENGTH
from vswitch.openflow.oxm import IPV4, IPV6, MPLS, MPLS_MULTICAST, PBB, VID_PRESENT, Match

if TYPE_CHECKING:
    from vswitch.agent.groups import GroupTable
    from vswitch.agent.meters import MeterTable

INSTRUCTIONS = frozenset(InstructionType) - {InstructionType.EXPERIMENTER}
"""Instructions that rules can have; others are refused with OFPBIC_UNSUP_INST."""

ACTIONS = frozenset(ActionType) - {ActionType.EXPERIMENTER}
"""Actions of rules, buckets and packet-outs. Ports have no queues: to set one is without effect."""

SETTABLE = frozenset(
    {
        "eth_dst", "eth_src", "eth_type", "vlan_vid", "vlan_pcp", "ip_dscp", "ip_ecn", "ip_proto",
        "ipv4_src", "ipv4_dst", "tcp_src", "tcp_dst", "udp_src", "udp_dst", "sctp_src", "sctp_dst",
        "icmpv4_type", "icmpv4_code", "arp_op", "arp_spa", "arp_tpa", "arp_sha", "arp_tha",
        "ipv6_src", "ipv6_dst", "ipv6_flabel", "icmpv6_type", "icmpv6_code",
        "ipv6_nd_target", "ipv6_nd_sll", "ipv6_nd_tll",
        "mpls_label", "mpls_tc", "mpls_bos", "pbb_isid", "tunnel_id",
    }
)  # fmt: skip
"""Fields that set-field can write; others are refused with OFPBAC_BAD_SET_TYPE."""

OUTPUT_PORTS = frozenset({Port.IN_PORT, Port.NORMAL, Port.FLOOD, Port.ALL, Port.CONTROLLER, Port.LOCAL})
"""Reserved ports that every action list can output to; a packet-out to OFPP_TABLE too."""

_VLAN_TYPES = frozenset({0x8100, 0x88A8})
_MPLS_TYPES = frozenset({MPLS, MPLS_MULTICAST})
_PBB_TYPES = frozenset({PBB})
_IP_TYPES = frozenset({IPV4, IPV6})
_PUSHABLE: dict[type, frozenset[int]] = {
    of.PushVlan: _VLAN_TYPES,
    of.PushMpls: _MPLS_TYPES,
    of.PushPbb: _PBB_TYPES,
}
_WORKS_ON: dict[type, frozenset[int]] = {
    of.SetNwTtl: _IP_TYPES,
    of.DecNwTtl: _IP_TYPES,
    of.SetMplsTtl: _MPLS_TYPES,
    of.DecMplsTtl: _MPLS_TYPES,
    of.PopMpls: _MPLS_TYPES,
    of.PopPbb: _PBB_TYPES,
}
"""The Ethernet types of the packets that an action does something to."""


def check_instructions(
    table_id: int, match: Match, instructions: Instructions, groups: GroupTable, meters: MeterTable
) -> None:
    """Raise OpenFlowError unless a rule of table `table_id` with this match may have these instructions."""
    if len(instructions.wire) > MAX_INSTRUCTIONS_LENGTH:
        raise OpenFlowError(BadAction.TOO_MANY, f"{len(instructions.wire)} bytes of instructions")
    packet: _Packet | None = None
    for instruction in instructions:
        if isinstance(instruction, GotoTable):
            if not table_id < instruction.table_id < TABLE_COUNT:
                raise OpenFlowError(BadInstruction.BAD_TABLE_ID, f"goto {instruction.table_id}")
        elif isinstance(instruction, ApplyActions):
            packet = _Packet(match)
            _check_actions(instruction.actions, groups, packet)
        elif isinstance(instruction, Meter):
            _check_meter(instruction.meter_id, meters)
    write_actions = instructions.get(WriteActions)
    if write_actions is not None:
        in_order = sorted(write_actions.actions, key=lambda action: of.SET_ORDER[type(action)])
        _check_actions(in_order, groups, packet or _Packet(match))


def check_bucket_actions(actions: Iterable[of.Action], groups: Container[int]) -> None:
    """Raise OpenFlowError unless a bucket may have `actions`. What packets it will get is not known."""
    _check_actions(actions, groups)


def check_packet_out(actions: Iterable[of.Action], groups: Container[int]) -> None:
    """Raise OpenFlowError unless a packet-out may have `actions`; it may output to the tables."""
    _check_actions(actions, groups, to_tables=True)


def _check_meter(meter_id: int, meters: MeterTable) -> None:
    if not 0 < meter_id <= METER_MAX:
        raise OpenFlowError(MeterModFailed.INVALID_METER, f"meter {meter_id:#x}")
    if not meters.exists(meter_id):
        raise OpenFlowError(MeterModFailed.UNKNOWN_METER, f"there is no meter {meter_id}")


def _check_actions(
    actions: Iterable[of.Action],
    groups: Container[int],
    packet: _Packet | None = None,
    to_tables: bool = False,
) -> None:
    for action in actions:
        if isinstance(action, of.Output):
            if not (0 < action.port <= Port.MAX or action.port in OUTPUT_PORTS) and not (
                to_tables and action.port == Port.TABLE
            ):
                raise OpenFlowError(BadAction.BAD_OUT_PORT, f"output to {action.port:#x}")
        elif isinstance(action, of.SetField):
            _check_set_field(action)
        elif isinstance(action, of.Group):
            if action.group_id not in groups:
                raise OpenFlowError(BadAction.BAD_OUT_GROUP, f"there is no group {action.group_id}")
        elif isinstance(action, of.SetQueue):
            if action.queue_id == QUEUE_ALL:
                raise OpenFlowError(BadAction.BAD_QUEUE, "all queues")
        elif isinstance(action, (of.PushVlan, of.PushMpls, of.PushPbb)):
            if action.ethertype not in _PUSHABLE[type(action)]:
                raise OpenFlowError(BadAction.BAD_ARGUMENT, f"{action.TYPE.name} of {action.ethertype:#06x}")
        elif isinstance(action, of.Experimenter):
            raise OpenFlowError(BadAction.BAD_EXPERIMENTER, f"experimenter {action.experimenter:#x}")
        if packet is not None:
            packet.apply(action)


def _check_set_field(action: of.SetField) -> None:
    name = action.oxm.field.name
    if name not in SETTABLE:
        raise OpenFlowError(BadAction.BAD_SET_TYPE, f"{name} cannot be set")
    if name == "vlan_vid" and not action.oxm.value & VID_PRESENT:
        raise OpenFlowError(BadAction.BAD_SET_ARGUMENT, "a VLAN id without OFPVID_PRESENT")


class _Packet:
    """What is known of the packets that come to an action: from the match, and from the actions before.

    `values` holds the fields that others require; a field that is missing in it may have any value.
    """

    def __init__(self, match: Match) -> None:
        self.values = {oxm.field.name: oxm.value for oxm in match.fields if oxm.field.name in _REQUIRED}
        vlan_vid = match.get("vlan_vid")
        self.untagged = vlan_vid is not None and vlan_vid.value == 0 and vlan_vid.mask is None

    def apply(self, action: of.Action) -> None:
        """Raise OpenFlowError(MATCH_INCONSISTENT) when the action cannot do anything to these packets."""
        kind = type(action)
        eth_type = self.values.get("eth_type")
        if kind in _WORKS_ON and eth_type is not None and eth_type not in _WORKS_ON[kind]:
            raise OpenFlowError(BadAction.MATCH_INCONSISTENT, f"{action} of eth_type={eth_type:#06x}")
        if isinstance(action, of.SetField):
            self._set_field(action)
        elif isinstance(action, of.PushVlan):
            self.values["vlan_vid"] = VID_PRESENT
            self.untagged = False
        elif isinstance(action, of.PopVlan):
            if self.untagged:
                raise OpenFlowError(BadAction.MATCH_INCONSISTENT, f"{action} of untagged packets")
            self.values.pop("vlan_vid", None)
        elif isinstance(action, of.PopMpls):
            tags = {name: value for name, value in self.values.items() if name == "vlan_vid"}
            self.values = {"eth_type": action.ethertype, **tags}
        elif isinstance(action, (of.PushMpls, of.PushPbb)):
            # in front of the VLAN tags (section 5.11)
            self.values = {"eth_type": action.ethertype}
            self.untagged = False
        elif isinstance(action, of.PopPbb):
            self.values.clear()
            self.untagged = False

    def _set_field(self, action: of.SetField) -> None:
        field = action.oxm.field
        if field.name == "vlan_vid" and self.untagged:
            raise OpenFlowError(BadAction.MATCH_INCONSISTENT, f"{action} of untagged packets")
        for required, allowed in field.requires:
            value = self.values.get(required)
            if not value or (allowed is not None and value not in allowed):
                raise OpenFlowError(BadAction.MATCH_INCONSISTENT, f"{action} without its {required}")
        if field.name in _REQUIRED:
            self.values[field.name] = action.oxm.value


_REQUIRED = frozenset({"eth_type", "ip_proto", "icmpv6_type", "vlan_vid"})
"""Fields that other fields require."""
