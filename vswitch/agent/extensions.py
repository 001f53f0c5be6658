# SPDX-License-Identifier: Apache-2.0
"""Our Experimenter messages, carried out on the datapath."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from vswitch.agent.datapath import Datapath
from vswitch.agent.nics import Nics
from vswitch.agent.slowpath import SlowPath
from vswitch.errors import ConfigError
from vswitch.openflow import experimenter as ex
from vswitch.openflow.constants import BadRequest, Port
from vswitch.openflow.errors import EXPERIMENTER_ID, ExperimenterError, OpenFlowError
from vswitch.openflow.messages import Experimenter
from vswitch.tunnel_formats import parse_format

_READ_ONLY = (ex.CapabilitiesRequest, ex.SettingsRequest, ex.NicStatsRequest, ex.CountersRequest)


class Extensions:
    """What the controllers set by Experimenter messages, and what they ask by them.

    ports_changed: is called after ports did. counters: those of the ports from a number on.
    settings: what controllers set and did not take back, by what it sets, in the order in which it was set.
    changes: how often they did. forwarding: the ports of forwarding VMs, whoever said so.
    """

    def __init__(
        self,
        datapath: Datapath,
        slowpath: SlowPath,
        ports_changed: Callable[[], None],
        counters: Callable[[int], ex.CountersReply],
    ) -> None:
        self.datapath = datapath
        self.slowpath = slowpath
        self.ports_changed = ports_changed
        self.counters = counters
        self.tunnels: dict[int, ex.TunnelAdd] = {}
        self.settings: dict[Hashable, ex.Setting] = {}
        self.changes = 0
        self.forwarding: set[int] = set()
        self.nics = Nics(datapath)
        self.intent_revision: int | None = None

    def handle(self, message: Experimenter, is_slave: bool) -> Experimenter | None:
        """Carry out `message`; returns the answer, if it has one.

        Raises OpenFlowError or ExperimenterError for what is refused.
        """
        if message.experimenter != EXPERIMENTER_ID:
            raise OpenFlowError(BadRequest.BAD_EXPERIMENTER, f"experimenter {message.experimenter:#x}")
        body = ex.from_wire(message.exp_type, message.data)
        if is_slave and not isinstance(body, _READ_ONLY):
            raise OpenFlowError(BadRequest.IS_SLAVE)
        try:
            answer = self.carry_out(body)
            self._keep(body)
        except ConfigError as error:
            raise ExperimenterError(message.exp_type, str(error)) from error
        if answer is None:
            return None
        exp_type, data = ex.to_wire(answer)
        return Experimenter(EXPERIMENTER_ID, exp_type, data, xid=message.xid)

    def carry_out(self, body: object) -> ex.Reply | None:
        """Do what a message asks for; returns the answer, if it has one. Raises ConfigError."""
        if self.nics.carry_out(body):
            return None
        if isinstance(body, ex.RoleSet):
            self._set_role(body)
        elif isinstance(body, ex.FormatAdd):
            self.datapath.set_format(body.name, parse_format(body.name, body.numbers))
        elif isinstance(body, ex.FormatDelete):
            self._delete_format(body.name)
        elif isinstance(body, ex.PacketTooBigSet):
            self.datapath.set_packet_too_big(body.enabled)
        elif isinstance(body, ex.ProactiveReverseSet):
            self.slowpath.proactive_reverse = body.enabled
        elif isinstance(body, ex.TunnelAdd):
            self._add_tunnel(body)
        elif isinstance(body, ex.TunnelDelete):
            self._delete_tunnel(body)
        elif isinstance(body, ex.IntentRevision):
            self.intent_revision = body.revision
        elif isinstance(body, ex.CapabilitiesRequest):
            return self._capabilities()
        elif isinstance(body, ex.SettingsRequest):
            return ex.SettingsReply.of(list(self.settings.values()), body.first)
        elif isinstance(body, ex.NicStatsRequest):
            return ex.NicStatsReply(body.port_no, tuple(self.nics.statistics(body.port_no)))
        elif isinstance(body, ex.CountersRequest):
            return self.counters(body.first)
        else:
            raise OpenFlowError(BadRequest.BAD_EXP_TYPE, f"{type(body).__name__} is not for a switch")
        return None

    def _set_role(self, request: ex.RoleSet) -> None:
        forwards = request.role == "forwarding"
        self.datapath.set_forwarding(request.port_no, forwards)
        (self.forwarding.add if forwards else self.forwarding.discard)(request.port_no)

    def _keep(self, body: object) -> None:
        """Remember a setting until it is taken back: by what undo() makes of it."""
        self.changes += not isinstance(body, _READ_ONLY)
        if isinstance(body, ex.Setting):
            if body == body.undo():
                self.settings.pop(body.key, None)
            else:
                self.settings[body.key] = body
            return
        for key, setting in list(self.settings.items()):
            if setting.undo() == body:
                del self.settings[key]

    def _delete_format(self, name: str) -> None:
        """One that a controller added and somebody deleted by hand is gone already."""
        deleted_by_hand = (ex.FormatAdd, name) in self.settings and name not in self.datapath.formats()
        if not deleted_by_hand:
            self.datapath.delete_format(name)

    def _add_tunnel(self, tunnel: ex.TunnelAdd) -> None:
        if self.tunnels.get(tunnel.port_no) == tunnel:
            return
        self.datapath.add_tunnel(
            tunnel.port_no,
            tunnel.name,
            tunnel.format,
            tunnel.local_ip,
            tunnel.remote_ip,
            tunnel.local_mac,
            tunnel.remote_mac,
            tunnel.uplink_port,
        )
        self.tunnels[tunnel.port_no] = tunnel
        self.ports_changed()

    def _delete_tunnel(self, request: ex.TunnelDelete) -> None:
        if request.port_no not in self.tunnels:
            raise ConfigError("port_no", f"there is no tunnel port {request.port_no}")
        self.datapath.remove_tunnel(request.port_no)
        del self.tunnels[request.port_no]
        self.ports_changed()

    def _capabilities(self) -> ex.CapabilitiesReply:
        can = self.datapath.capabilities()
        ports = tuple(info.port_no for info in self.datapath.ports() if info.port_no <= Port.MAX)
        return ex.CapabilitiesReply(
            can["version"],
            tuple(can["formats"]),
            ports,
            can["queues"],
            tuple(sorted(self.tunnels)),
            self.slowpath.proactive_reverse,
            can["workers"],
        )
