# SPDX-License-Identifier: Apache-2.0
"""The ports as OpenFlow sees them: descriptions, configuration bits, changes to report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from vswitch.agent.spanning_tree import State
from vswitch.flow import PortInfo
from vswitch.openflow.constants import (
    Port,
    PortConfig,
    PortFeature,
    PortModFailed,
    PortReason,
    PortState,
)
from vswitch.openflow.errors import OpenFlowError
from vswitch.openflow.messages import PortDesc, PortMod

SPEED_KBPS = 10_000_000
"""The speed of ports that nothing limits; a veth says so, too."""

MAX_SPEED_KBPS = 0xFFFF_FFFF
_RATES = {
    10_000: PortFeature.RATE_10MB_FD,
    100_000: PortFeature.RATE_100MB_FD,
    1_000_000: PortFeature.RATE_1GB_FD,
    10_000_000: PortFeature.RATE_10GB_FD,
    40_000_000: PortFeature.RATE_40GB_FD,
    100_000_000: PortFeature.RATE_100GB_FD,
    1_000_000_000: PortFeature.RATE_1TB_FD,
}
"""The speeds, in kbit/s, that have a bit of their own."""

_ADVERTISABLE = sum(_RATES.values()) | PortFeature.RATE_OTHER | PortFeature.COPPER
_SETTABLE = PortConfig.PORT_DOWN | PortConfig.NO_RECV | PortConfig.NO_FWD | PortConfig.NO_PACKET_IN

# Plain numbers, which are combined ten times as fast: each translation asks.
_RECEIVES_NOT = int(PortConfig.NO_RECV | PortConfig.PORT_DOWN)
_FORWARDS_NOT = int(PortConfig.NO_FWD | PortConfig.PORT_DOWN)
_LOCAL_FORWARDS_NOT = int(PortConfig.NO_FWD)


class PortChange(NamedTuple):
    reason: PortReason
    desc: PortDesc


class PortTable:
    """The switch's ports, kept in step with the datapath by refresh()."""

    def __init__(self) -> None:
        self.infos: dict[int, PortInfo] = {}
        self.stp_states: Mapping[int, State] = {}  # of the ports that are part of a spanning tree
        self.since_ns: dict[int, int] = {}
        self._config: dict[int, PortConfig] = {}

    def __contains__(self, port_no: int) -> bool:
        return port_no in self.infos

    def kind(self, port_no: int) -> str | None:
        """PortInfo.kind, or None when there is no such port."""
        info = self.infos.get(port_no)
        return None if info is None else info.kind

    def config(self, port_no: int) -> PortConfig:
        return self._config.get(port_no, PortConfig.NONE)

    def _config_bits(self, port_no: int) -> int:
        return int(self._config.get(port_no, 0))

    def receives(self, port_no: int) -> bool:
        return not self._config_bits(port_no) & _RECEIVES_NOT and self._in_tree(port_no)

    def forwards(self, port_no: int) -> bool:
        """May packets be sent to the port? To LOCAL also while it is configured down, as it is at first: the
        datapath drops them, and counts them there."""
        forbidding = _LOCAL_FORWARDS_NOT if port_no == Port.LOCAL else _FORWARDS_NOT
        return not self._config_bits(port_no) & forbidding and self._in_tree(port_no)

    def _in_tree(self, port_no: int) -> bool:
        """Does the spanning tree, if there is one, let the port forward?

        A port that learns forwards nothing, and learns nothing either: what follows is a topology change,
        at which all addresses are learned anew.
        """
        return self.stp_states.get(port_no, State.FORWARDING) == State.FORWARDING

    def tells_misses(self, port_no: int) -> bool:
        """May table misses of this port go to the controller? What rules send there on purpose does in any
        case (section 7.2.1)."""
        return not self.config(port_no) & PortConfig.NO_PACKET_IN

    def is_live(self, port_no: int) -> bool:
        """Is the port there, its link up, and it not configured down (OFPPS_LIVE)?"""
        info = self.infos.get(port_no)
        return info is not None and info.up and not self.config(port_no) & PortConfig.PORT_DOWN

    def flood(self, in_port: int) -> list[int]:
        """The ports that OFPP_FLOOD and OFPP_ALL stand for: not LOCAL, behind which there is nobody."""
        left_out = (in_port, Port.LOCAL)
        return [n for n in sorted(self.infos) if n not in left_out and self.forwards(n)]

    def physical(self, port_no: int) -> int:
        """The port that packets of this one come through: of a tunnel its uplink (section 7.2.3.7)."""
        info = self.infos.get(port_no)
        return port_no if info is None else info.uplink or port_no

    def describe(self, port_no: int) -> PortDesc:
        info = self.infos[port_no]
        config = self.config(port_no)
        state = PortState.LIVE if self.is_live(port_no) else PortState.LINK_DOWN
        if port_no == Port.LOCAL:
            return PortDesc(port_no, info.mac, info.name, config, state)
        speed = min(info.speed_kbps or SPEED_KBPS, MAX_SPEED_KBPS)
        current = _RATES.get(speed, PortFeature.RATE_OTHER) | PortFeature.COPPER
        return PortDesc(
            port_no, info.mac, info.name, config, state, current, curr_speed=speed, max_speed=speed
        )

    def descriptions(self) -> list[PortDesc]:
        return [self.describe(port_no) for port_no in sorted(self.infos)]

    def refresh(self, infos: Iterable[PortInfo], now_ns: int) -> list[PortChange]:
        """Take over what the datapath says; returns what controllers should hear of it."""
        before = {port_no: self.describe(port_no) for port_no in self.infos}
        self.infos = {info.port_no: info for info in infos}
        for port_no in self.infos:
            self.since_ns.setdefault(port_no, now_ns)
        if Port.LOCAL in self.infos:
            self._config.setdefault(Port.LOCAL, PortConfig.PORT_DOWN)
        changes = []
        for port_no, desc in before.items():
            if port_no not in self.infos:
                self._config.pop(port_no, None)
                del self.since_ns[port_no]
                changes.append(PortChange(PortReason.DELETE, desc))
        for desc in self.descriptions():
            if desc.port_no not in before:
                changes.append(PortChange(PortReason.ADD, desc))
            elif desc != before[desc.port_no]:
                changes.append(PortChange(PortReason.MODIFY, desc))
        return changes

    def modify(self, mod: PortMod) -> list[PortChange]:
        """Carry out a port-mod; raises OpenFlowError(PORT_MOD_FAILED/…)."""
        info = self.infos.get(mod.port_no)
        if info is None:
            raise OpenFlowError(PortModFailed.BAD_PORT, f"port {mod.port_no}")
        if mod.hw_addr != info.mac:
            raise OpenFlowError(PortModFailed.BAD_HW_ADDR, mod.hw_addr.hex(":"))
        if (mod.config | mod.mask) & ~_SETTABLE:
            raise OpenFlowError(PortModFailed.BAD_CONFIG, f"config {mod.config:#x} mask {mod.mask:#x}")
        if mod.advertise & ~_ADVERTISABLE:
            raise OpenFlowError(PortModFailed.BAD_ADVERTISE, f"features {mod.advertise:#x}")
        before = self.config(mod.port_no)
        after = PortConfig(before & ~mod.mask | mod.config & mod.mask)
        self._config[mod.port_no] = after
        return [PortChange(PortReason.MODIFY, self.describe(mod.port_no))] if after != before else []
