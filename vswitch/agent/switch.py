# SPDX-License-Identifier: Apache-2.0
"""The switch as its controllers see it: every request of OpenFlow 1.3 that it answers. No I/O.

What is not in OpenFlowSwitch.HANDLERS is answered by OFPBRC_BAD_TYPE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from vswitch.agent import admission
from vswitch.agent.datapath import Datapath
from vswitch.agent.extensions import Extensions
from vswitch.agent.features import table_features
from vswitch.agent.pipeline import translate_packet_out
from vswitch.agent.ports import PortChange, PortTable
from vswitch.agent.session import Session
from vswitch.agent.slowpath import PacketInEvent, SlowPath, without_controller
from vswitch.agent.tables import SECOND_NS, FlowTables, Removal, Rule
from vswitch.flow import Controller, FlowKey
from vswitch.openflow import messages as m
from vswitch.openflow import multipart as mp
from vswitch.openflow.actions import Output
from vswitch.openflow.constants import (
    MAX_LEN_NO_BUFFER,
    NO_BUFFER,
    TABLE_COUNT,
    BadRequest,
    Capability,
    FlowModCommand,
    FlowModFlag,
    FragmentHandling,
    MessageType,
    MultipartType,
    Port,
    PortConfig,
    PortModFailed,
    Role,
    RoleRequestFailed,
    SwitchConfigFailed,
    TableFeaturesFailed,
)
from vswitch.openflow.errors import ExperimenterError, OpenFlowError
from vswitch.openflow.flow_mod import FlowMod, FlowRemoved
from vswitch.openflow.message import Message
from vswitch.openflow.oxm import Match
from vswitch.openflow.table_features import TableFeatures, TableFeaturesRequest

CAPABILITIES = Capability.FLOW_STATS | Capability.TABLE_STATS | Capability.PORT_STATS
MAX_PACKET_IN_DATA = 65_000
"""A packet-in, as every message, is shorter than 64 KiB."""

UNDEFINED_GENERATION = 0xFFFF_FFFF_FFFF_FFFF
_ETHERNET_HEADER = 14
_NO_KEY = FlowKey(*[0] * len(FlowKey._fields))
_CHANGES_STATE = frozenset({MessageType.FLOW_MOD, MessageType.PACKET_OUT, MessageType.PORT_MOD})
_NEEDS_SETTLING = frozenset({MultipartType.FLOW, MultipartType.AGGREGATE, MultipartType.TABLE})


class OpenFlowSwitch:
    """Tables, ports and sessions of one datapath. `clock` gives nanoseconds of CLOCK_MONOTONIC."""

    def __init__(
        self,
        datapath: Datapath,
        name: str,
        dpid: int,
        clock: Callable[[], int],
        proactive_reverse: bool = True,
    ) -> None:
        self.datapath = datapath
        self.name = name
        self.dpid = dpid
        self.clock = clock
        self.sessions: list[Session] = []
        self.ports = PortTable()
        self.tables = FlowTables()
        self.slowpath = SlowPath(datapath, self.tables, self.ports, self._packet_in, clock, proactive_reverse)
        self.extensions = Extensions(datapath, self.slowpath, self.refresh_ports)
        self.miss_send_len = 128
        self.generation_id: int | None = None
        self.ports.refresh(datapath.ports(), clock())

    # --- requests ----------------------------------------------------------------------------------------

    def handle(self, session: Session, message: Message) -> None:
        """Carry out one message of an open session; answers and errors are queued in the session."""
        try:
            handler = self.HANDLERS.get(message.TYPE)
            if handler is None:
                raise OpenFlowError(BadRequest.BAD_TYPE, f"{message.TYPE.name} is not for a switch")
            if session.role == Role.SLAVE and message.TYPE in _CHANGES_STATE:
                raise OpenFlowError(BadRequest.IS_SLAVE)
            handler(self, session, message)
        except (OpenFlowError, ExperimenterError) as error:
            session.connection.refuse(error, message)

    @staticmethod
    def needs_settling(message: Message) -> bool:
        """Must everything before `message` have reached the datapath when it is handled?"""
        if message.TYPE == MessageType.BARRIER_REQUEST:
            return True
        return isinstance(message, mp.MultipartRequest) and message.kind in _NEEDS_SETTLING

    async def settle(self) -> None:
        """Returns when the datapath forwards by the rules as they are now."""
        self.slowpath.revalidate()
        await self.datapath.drained()

    def _features(self, session: Session, request: m.FeaturesRequest) -> None:
        session.reply(m.FeaturesReply(self.dpid, 0, TABLE_COUNT, 0, CAPABILITIES, xid=request.xid))

    def _get_config(self, session: Session, request: m.GetConfigRequest) -> None:
        session.reply(m.GetConfigReply(FragmentHandling.NORMAL, self.miss_send_len, xid=request.xid))

    def _set_config(self, session: Session, request: m.SetConfig) -> None:
        if request.flags != FragmentHandling.NORMAL:
            raise OpenFlowError(SwitchConfigFailed.BAD_FLAGS, f"flags {request.flags:#x}")
        self.miss_send_len = request.miss_send_len

    def _barrier(self, session: Session, request: m.BarrierRequest) -> None:
        session.reply(m.BarrierReply(xid=request.xid))

    def _role(self, session: Session, request: m.RoleRequest) -> None:
        if request.role not in Role._value2member_map_:
            raise OpenFlowError(RoleRequestFailed.BAD_ROLE, f"role {request.role}")
        if request.role in (Role.MASTER, Role.SLAVE):
            self._check_generation(request.generation_id)
        if request.role == Role.MASTER:
            for other in self.sessions:
                if other.role == Role.MASTER:
                    other.role = Role.SLAVE
        if request.role != Role.NOCHANGE:
            session.role = Role(request.role)
        generation = UNDEFINED_GENERATION if self.generation_id is None else self.generation_id
        session.reply(m.RoleReply(session.role, generation, xid=request.xid))

    def _check_generation(self, generation_id: int) -> None:
        """Refuse a generation older than the latest; 64-bit circular comparison (section 6.3.6)."""
        if self.generation_id is not None and (generation_id - self.generation_id) >> 63 & 1:
            raise OpenFlowError(RoleRequestFailed.STALE, f"generation {generation_id}")
        self.generation_id = generation_id

    def _error(self, session: Session, message: m.Error) -> None:
        """The controller refused something of ours; nothing depends on it."""

    def _experimenter(self, session: Session, request: m.Experimenter) -> None:
        answer = self.extensions.handle(request, session.role == Role.SLAVE)
        if answer is not None:
            session.reply(answer)

    # --- rules -------------------------------------------------------------------------------------------

    def _flow_mod(self, session: Session, mod: FlowMod) -> None:
        if mod.command not in (FlowModCommand.DELETE, FlowModCommand.DELETE_STRICT):
            admission.check_instructions(mod.table_id, mod.instructions)
            if mod.buffer_id != NO_BUFFER:
                raise OpenFlowError(BadRequest.BUFFER_UNKNOWN, "packets are not buffered")
        changes, removals = self.tables.apply(mod, self.clock())
        self.slowpath.rules_changed(changes)
        self._flows_removed(removals)

    def expire_rules(self) -> None:
        """End the rules whose idle or hard time-out has come."""
        changes, removals = self.tables.expire(self.clock())
        if changes:
            self.slowpath.rules_changed(changes)
            self.slowpath.revalidate()
            self._flows_removed(removals)

    def _flows_removed(self, removals: Iterable[Removal]) -> None:
        for rule, reason in removals:
            if rule.flags & FlowModFlag.SEND_FLOW_REM:
                self.notify(
                    FlowRemoved(
                        rule.cookie,
                        rule.priority,
                        reason,
                        rule.table_id,
                        *self._age(rule.created_ns),
                        rule.idle_timeout,
                        rule.hard_timeout,
                        rule.packets,
                        rule.bytes,
                        rule.match,
                    )
                )

    def _age(self, since_ns: int) -> tuple[int, int]:
        """(seconds, nanoseconds) since then."""
        return divmod(max(0, self.clock() - since_ns), SECOND_NS)

    # --- packets -----------------------------------------------------------------------------------------

    def _packet_in(self, event: PacketInEvent) -> None:
        if not self.sessions:
            return
        key, action = event.key, event.action
        context = {"in_port": key.in_port, "tunnel_id": key.tunnel_id, "metadata": event.metadata}
        match = Match.of(**{name: value for name, value in context.items() if value})
        limit = MAX_PACKET_IN_DATA if action.max_len == MAX_LEN_NO_BUFFER else action.max_len
        self.notify(
            m.PacketIn(
                min(len(event.frame), 0xFFFF),
                action.reason,
                action.table_id,
                action.cookie,
                match,
                event.frame[: min(limit, MAX_PACKET_IN_DATA)],
            )
        )

    def _packet_out(self, session: Session, request: m.PacketOut) -> None:
        if request.buffer_id != NO_BUFFER:
            raise OpenFlowError(BadRequest.BUFFER_UNKNOWN, "packets are not buffered")
        if request.in_port > Port.MAX and request.in_port not in (Port.CONTROLLER, Port.LOCAL, Port.ANY):
            raise OpenFlowError(BadRequest.BAD_PORT, f"in_port {request.in_port:#x}")
        if len(request.data) < _ETHERNET_HEADER:
            raise OpenFlowError(BadRequest.BAD_PACKET, f"{len(request.data)} bytes of packet")
        admission.check_actions(request.actions, packet_out=True)
        key = _NO_KEY._replace(in_port=request.in_port)
        if any(isinstance(action, Output) and action.port == Port.TABLE for action in request.actions):
            key = self.datapath.key_of(request.data)._replace(in_port=request.in_port)
        translation = translate_packet_out(request.actions, key, self.tables, self.ports)
        self.slowpath.count_packet_out(translation, request.data)
        for action in translation.program:
            if isinstance(action, Controller):
                self._packet_in(PacketInEvent(key, 0, action, request.data))
        program = without_controller(translation.program)
        if program:
            self.datapath.send(request.data, program, request.in_port if request.in_port <= Port.MAX else 0)

    # --- ports -------------------------------------------------------------------------------------------

    def refresh_ports(self) -> None:
        """Ask the datapath for its ports, and tell the controllers what changed."""
        before = set(self.ports.infos)
        changes = self.ports.refresh(self.datapath.ports(), self.clock())
        if before != set(self.ports.infos):
            self.slowpath.ports_changed()
            self.slowpath.revalidate()
        self._ports_changed(changes)

    def _port_mod(self, session: Session, request: m.PortMod) -> None:
        if request.port_no > Port.MAX:
            raise OpenFlowError(PortModFailed.BAD_PORT, f"port {request.port_no:#x}")
        changes = self.ports.modify(request)
        if changes:
            self.slowpath.ports_changed()
            self._ports_changed(changes)

    def _ports_changed(self, changes: Iterable[PortChange]) -> None:
        for reason, desc in changes:
            self.notify(m.PortStatus(reason, desc))

    # --- multipart ---------------------------------------------------------------------------------------

    def _multipart(self, session: Session, request: mp.MultipartRequest) -> None:
        items = self.MULTIPART[request.kind](self, request.request)
        for part in mp.replies(request.kind, items, request.xid):
            session.reply(part)

    def _desc(self, _request: mp.Empty) -> list[mp.Desc]:
        software = str(self.datapath.capabilities()["version"])
        return [mp.Desc("mininet-offload", "Numba software switch", software, "None", self.name)]

    def _flow_stats(self, wanted: mp.FlowFilter) -> list[mp.FlowStats]:
        self.slowpath.credit_all()
        return [self._stats_of(rule) for rule in self.tables.select(wanted)]

    def _stats_of(self, rule: Rule) -> mp.FlowStats:
        return mp.FlowStats(
            rule.table_id,
            *self._age(rule.created_ns),
            rule.priority,
            rule.idle_timeout,
            rule.hard_timeout,
            rule.flags,
            rule.cookie,
            rule.packets,
            rule.bytes,
            rule.match,
            rule.instructions,
        )

    def _aggregate(self, wanted: mp.FlowFilter) -> list[mp.Aggregate]:
        self.slowpath.credit_all()
        rules = self.tables.select(wanted)
        return [
            mp.Aggregate(sum(rule.packets for rule in rules), sum(rule.bytes for rule in rules), len(rules))
        ]

    def _table_stats(self, _request: mp.Empty) -> list[mp.TableStats]:
        self.slowpath.credit_all()
        return [
            mp.TableStats(table.table_id, len(table.rules), table.lookups, table.matched)
            for table in self.tables.tables
        ]

    def _table_features(self, request: TableFeaturesRequest) -> list[TableFeatures]:
        if request.body:
            raise OpenFlowError(TableFeaturesFailed.EPERM, "the tables' features cannot be changed")
        return list(table_features())

    def _port_stats(self, wanted: mp.PortStatsRequest) -> list[mp.PortStats]:
        infos = {info.port_no: info for info in self.datapath.ports()}
        if wanted.port_no != Port.ANY and wanted.port_no not in infos:
            raise OpenFlowError(BadRequest.BAD_PORT, f"port {wanted.port_no}")
        selected = sorted(infos) if wanted.port_no == Port.ANY else [wanted.port_no]
        stats = []
        for port_no in selected:
            c = infos[port_no].counters
            age = self._age(self.ports.since_ns.get(port_no, self.clock()))
            stats.append(
                mp.PortStats(
                    port_no,
                    c.rx_packets,
                    c.tx_packets,
                    c.rx_bytes,
                    c.tx_bytes,
                    c.rx_dropped,
                    c.tx_dropped,
                    c.rx_errors,
                    c.tx_errors,
                    duration_sec=age[0],
                    duration_nsec=age[1],
                )
            )
        return stats

    def _port_desc(self, _request: mp.Empty) -> list[m.PortDesc]:
        return self.ports.descriptions()

    # --- asynchronous messages ---------------------------------------------------------------------------

    def notify(self, message: Message) -> None:
        """Send an asynchronous message to every controller that is to hear of it."""
        for session in self.sessions:
            session.notify(message)

    HANDLERS: ClassVar[dict[MessageType, Callable[[OpenFlowSwitch, Session, Any], None]]] = {
        MessageType.ERROR: _error,
        MessageType.EXPERIMENTER: _experimenter,
        MessageType.FEATURES_REQUEST: _features,
        MessageType.GET_CONFIG_REQUEST: _get_config,
        MessageType.SET_CONFIG: _set_config,
        MessageType.PACKET_OUT: _packet_out,
        MessageType.FLOW_MOD: _flow_mod,
        MessageType.PORT_MOD: _port_mod,
        MessageType.MULTIPART_REQUEST: _multipart,
        MessageType.BARRIER_REQUEST: _barrier,
        MessageType.ROLE_REQUEST: _role,
    }

    MULTIPART: ClassVar[dict[int, Callable[[OpenFlowSwitch, Any], list[Any]]]] = {
        MultipartType.DESC: _desc,
        MultipartType.FLOW: _flow_stats,
        MultipartType.AGGREGATE: _aggregate,
        MultipartType.TABLE: _table_stats,
        MultipartType.TABLE_FEATURES: _table_features,
        MultipartType.PORT_STATS: _port_stats,
        MultipartType.PORT_DESC: _port_desc,
    }


def port_config_names(config: PortConfig) -> list[str]:
    """The configuration bits that are set, by name."""
    return [flag.name for flag in PortConfig if flag and flag & config and flag.name]
