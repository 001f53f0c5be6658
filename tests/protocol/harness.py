# SPDX-License-Identifier: Apache-2.0
"""Dialogues with a switch that has no I/O: a controller says something, a port receives something."""

from __future__ import annotations

import asyncio

from tests.protocol.frames import udp
from vswitch.agent.session import Session
from vswitch.agent.switch import OpenFlowSwitch
from vswitch.openflow import messages as m
from vswitch.openflow import multipart as mp
from vswitch.openflow.actions import Output, SetField
from vswitch.openflow.connection import Connection
from vswitch.openflow.constants import (
    FlowModCommand,
    GroupModCommand,
    GroupType,
    MeterFlag,
    MeterModCommand,
    MultipartType,
    Port,
)
from vswitch.openflow.flow_mod import FlowMod
from vswitch.openflow.groups import GroupMod
from vswitch.openflow.instructions import (
    ApplyActions,
    GotoTable,
    Instructions,
    WriteActions,
    WriteMetadata,
)
from vswitch.openflow.meters import MeterMod
from vswitch.openflow.oxm import BY_NAME, Match, Oxm


class Peer:
    """A controller, joined to the switch back to back."""

    def __init__(self, switch, name="peer"):
        self.switch = switch
        self.connection = Connection(switch.clock())
        self.inbox = []
        self.session = Session(name, Connection(switch.clock()), self._to_controller)
        switch.sessions.append(self.session)
        self.session.flush()
        self._to_switch()
        assert self.session.connection.established and self.connection.established

    def _to_controller(self, data):
        self.inbox += self.connection.receive(data, self.switch.clock())
        return 0

    def says_bytes(self, data):
        """Send bytes that need not be a message."""
        self._switch_receives(data)

    def _to_switch(self):
        self._switch_receives(self.connection.data_to_send())

    def _switch_receives(self, data):
        asyncio.run(self.switch.receive(self.session, data))

    def says(self, *messages):
        """Send messages; returns what the switch answered and announced meanwhile."""
        self.hears()
        for message in messages:
            self.connection.send(message)
        self._to_switch()
        return self.hears()

    def asks(self, message):
        """Send a request that has exactly one answer."""
        (answer,) = self.says(message)
        return answer

    def hears(self):
        inbox, self.inbox = self.inbox, []
        return inbox

    def stats(self, kind=MultipartType.FLOW, request=None):
        if request is None:
            request = mp.FlowFilter(Match.of()) if kind in (1, 2) else mp.Empty()
        return self.asks(mp.MultipartRequest(kind, request)).items


class FakeSwitch(Peer):
    """A switch over a FakeDatapath with one controller, which the methods of Peer speak for."""

    def __init__(self, datapath, clock, proactive_reverse=True):
        self.datapath = datapath
        self.of = OpenFlowSwitch(datapath, "s1", 1, clock, proactive_reverse)
        super().__init__(self.of)

    @property
    def slowpath(self):
        return self.of.slowpath

    def receives(self, port, frame=None, tunnel_id=0):
        """A frame arrives at a port; returns the ports (with VNI, for tunnels) that it left through."""
        self.datapath.take_sent()
        self.datapath.receive(port, frame or udp(), tunnel_id)
        while self.slowpath.handle_punts():
            pass
        return [(s.port, s.tunnel_id) if s.tunnel_id else s.port for s in self.datapath.take_sent()]


def add(match=None, *instructions, command=FlowModCommand.ADD, **fields):
    """A flow-mod; `match` as keywords of Match.of()."""
    return FlowMod(Match.of(**(match or {})), Instructions.of(*instructions), command=command, **fields)


def delete(match=None, strict=False, **fields):
    command = FlowModCommand.DELETE_STRICT if strict else FlowModCommand.DELETE
    fields.setdefault("table_id", 0)
    return add(match, command=command, **fields)


def out(*ports):
    """apply_actions(output…)."""
    return ApplyActions(tuple(Output(port) for port in ports))


def write(*ports):
    return WriteActions(tuple(Output(port) for port in ports))


def set_tunnel(tunnel_id):
    return SetField(Oxm(BY_NAME["tunnel_id"], tunnel_id))


def group(group_id, *buckets, kind=GroupType.ALL, command=GroupModCommand.ADD):
    return GroupMod(command, group_id, kind, buckets)


def meter(meter_id, *bands, flags=MeterFlag.KBPS, command=MeterModCommand.ADD):
    return MeterMod(command, meter_id, flags, bands)


goto = GotoTable
metadata = WriteMetadata
TO_CONTROLLER = ApplyActions((Output(Port.CONTROLLER),))

__all__ = [
    "TO_CONTROLLER", "FakeSwitch", "Peer", "add", "delete", "goto", "group", "m", "metadata", "meter", "out",
    "set_tunnel", "write",
]  # fmt: skip
