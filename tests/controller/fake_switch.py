# SPDX-License-Identifier: Apache-2.0
"""A minimal OpenFlow 1.3 switch on a socket: it keeps what it is told and answers our controller."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from struct import Struct

from tests.patience import PATIENCE_S
from vswitch.openflow import experimenter as ex
from vswitch.openflow import messages as m
from vswitch.openflow import multipart as mp
from vswitch.openflow.constants import (
    BadRequest,
    ErrorType,
    FlowModCommand,
    FlowModFailed,
    MessageType,
    MultipartType,
)
from vswitch.openflow.flow_mod import FlowMod
from vswitch.openflow.message import Message, decode_message

HEADER = Struct("!BBHI")
RULES_A_PART = 5


class FakeSwitch:
    """rules: flow-mods by (table, priority, canonical match).

    tunnels, settings, revision: as set by our messages.

    log: every message that came, in order. refuse: which flow-mods are answered by TABLE_FULL.
    ours: False for a switch that does not know our experimenter messages. silent: it answers nothing.
    ports: those that it says it has.
    """

    def __init__(self, dpid: int, ours: bool = True, ports: tuple[int, ...] = tuple(range(1, 10))) -> None:
        self.dpid = dpid
        self.ports = ports
        self.ours = ours
        self.silent = False
        self.rules: dict[tuple, FlowMod] = {}
        self.tunnels: dict[int, ex.TunnelAdd] = {}
        self.settings: dict[Hashable, ex.Setting] = {}
        self.revision: int | None = None
        self.log: list[object] = []
        self.refuse: Callable[[FlowMod], bool] = lambda message: False
        self._socket: socket.socket | None = None

    @contextmanager
    def connected(self, port: int, timeout_s: float = PATIENCE_S) -> Iterator[FakeSwitch]:
        """Connected to the controller on 127.0.0.1; what the switch holds survives the connection."""
        self._socket = _connect(port, timeout_s)
        reader = threading.Thread(target=self._serve, args=(self._socket,), daemon=True)
        reader.start()
        try:
            yield self
        finally:
            self._socket.shutdown(socket.SHUT_RDWR)
            reader.join(5)
            self._socket.close()

    def wait_for(self, what: Callable[[FakeSwitch], bool], timeout_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not what(self):
            assert time.monotonic() < deadline, f"waited {timeout_s} s; the log is {self.log}"
            time.sleep(0.01)

    def flow_mods(self) -> list[FlowMod]:
        return [message for message in self.log if isinstance(message, FlowMod)]

    def send(self, message: Message) -> None:
        assert self._socket
        self._socket.sendall(message.encode())

    def _serve(self, connection: socket.socket) -> None:
        self.send(m.Hello())
        stream = connection.makefile("rb")
        while header := stream.read(HEADER.size):
            frame = header + stream.read(HEADER.unpack(header)[2] - HEADER.size)
            message = decode_message(frame)
            self.log.append(message)
            for answer in self._answers(message, frame):
                if not self.silent:
                    self.send(answer)

    def _answers(self, message: Message, frame: bytes) -> Iterator[Message]:
        xid = message.xid
        if isinstance(message, m.FeaturesRequest):
            yield m.FeaturesReply(self.dpid, 0, 254, 0, 7, xid=xid)
        elif isinstance(message, m.EchoRequest):
            yield m.EchoReply(message.data, xid=xid)
        elif isinstance(message, m.BarrierRequest):
            yield m.BarrierReply(xid=xid)
        elif isinstance(message, mp.MultipartRequest):
            yield from self._statistics(message)
        elif isinstance(message, m.Experimenter):
            yield from self._experimenter(message, frame)
        elif isinstance(message, FlowMod):
            yield from self._flow_mod(message, frame)
        else:
            assert message.TYPE in (MessageType.HELLO, MessageType.SET_CONFIG), message

    def _flow_mod(self, message: FlowMod, frame: bytes) -> Iterator[Message]:
        key = message.table_id, message.priority, message.match.canonical
        if self.refuse(message):
            yield m.Error(ErrorType.FLOW_MOD_FAILED, FlowModFailed.TABLE_FULL, frame[:64], xid=message.xid)
        elif message.command == FlowModCommand.ADD:
            self.rules[key] = message
        else:
            assert message.command == FlowModCommand.DELETE_STRICT
            removed = self.rules.pop(key)
            assert removed.cookie & message.cookie_mask == message.cookie & message.cookie_mask

    def _statistics(self, message: mp.MultipartRequest) -> Iterator[Message]:
        if message.kind == MultipartType.PORT_DESC:
            ports = tuple(m.PortDesc(n, bytes((2, 0, 0, 0, 0, n)), f"port{n}") for n in (1, 2))
            yield mp.MultipartReply(MultipartType.PORT_DESC, ports, xid=message.xid)
            return
        assert message.kind == MultipartType.FLOW
        query = message.request
        assert isinstance(query, mp.FlowFilter)
        entries = [
            mp.FlowStats(
                rule.table_id, 0, 0, rule.priority, 0, 0, 0, rule.cookie, 0, 0, rule.match, rule.instructions
            )
            for rule in self.rules.values()
            if rule.cookie & query.cookie_mask == query.cookie & query.cookie_mask
        ]
        parts = [tuple(entries[i : i + RULES_A_PART]) for i in range(0, len(entries), RULES_A_PART)] or [()]
        for part in parts:
            more = 0 if part is parts[-1] else mp.MORE
            yield mp.MultipartReply(MultipartType.FLOW, part, more, xid=message.xid)

    def _experimenter(self, message: m.Experimenter, frame: bytes) -> Iterator[Message]:
        if not self.ours:
            yield m.Error(ErrorType.BAD_REQUEST, BadRequest.BAD_EXPERIMENTER, frame[:64], xid=message.xid)
            return
        assert message.experimenter == ex.EXPERIMENTER_ID
        body = ex.from_wire(message.exp_type, message.data)
        self.log[-1] = body
        if isinstance(body, ex.CapabilitiesRequest):
            reply = ex.CapabilitiesReply("test", ("vxlan",), self.ports, 1, tuple(self.tunnels))
            exp_type, data = ex.to_wire(reply)
            yield m.Experimenter(ex.EXPERIMENTER_ID, exp_type, data, xid=message.xid)
        elif isinstance(body, ex.CountersRequest):
            number = body.first or 1
            counted = {f"port{number}": {"rx_packets": number}}, {f"port{number}": ({"frames": number},)}
            reply = ex.CountersReply(
                {} if body.first else {"no_rule": 3}, *counted, None if body.first else 2
            )
            exp_type, data = ex.to_wire(reply)
            yield m.Experimenter(ex.EXPERIMENTER_ID, exp_type, data, xid=message.xid)
        elif isinstance(body, ex.TunnelAdd):
            self.tunnels[body.port_no] = body
        elif isinstance(body, ex.TunnelDelete):
            del self.tunnels[body.port_no]
        elif isinstance(body, ex.SettingsRequest):
            exp_type, data = ex.to_wire(ex.SettingsReply.of(list(self.settings.values()), body.first))
            yield m.Experimenter(ex.EXPERIMENTER_ID, exp_type, data, xid=message.xid)
        elif isinstance(body, ex.Setting) and body != body.undo():
            self.settings[body.key] = body
        elif isinstance(body, ex.IntentRevision):
            self.revision = body.revision
        else:
            for key in [key for key, setting in self.settings.items() if setting.undo() == body]:
                del self.settings[key]


def _connect(port: int, timeout_s: float) -> socket.socket:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=None)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
