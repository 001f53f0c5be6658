# SPDX-License-Identifier: Apache-2.0
"""The switch as its controllers see it: every request of OpenFlow 1.3 that it answers. No I/O.

What is not in OpenFlowSwitch.HANDLERS is answered by OFPBRC_BAD_TYPE.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple

from vswitch.agent import admission, counters
from vswitch.agent.bridge import Bridge
from vswitch.agent.buffers import BUFFERS, Buffered, PacketBuffers
from vswitch.agent.datapath import Datapath
from vswitch.agent.extensions import Extensions
from vswitch.agent.groups import GroupTable
from vswitch.agent.meters import MeterTable
from vswitch.agent.ports import PortChange, PortTable
from vswitch.agent.session import MAX_UNSENT_BYTES, AsyncConfig, Session
from vswitch.agent.slowpath import PacketInEvent, SlowPath
from vswitch.agent.snoopers import Snoopers
from vswitch.agent.standalone import Standalone
from vswitch.agent.statistics import NEED_CREDIT, NEED_SETTLING, Statistics
from vswitch.agent.tables import SECOND_NS, Change, FlowTables, Removal
from vswitch.agent.turns import Client, Turns
from vswitch.config import StpSettings
from vswitch.openflow import messages as m
from vswitch.openflow import multipart as mp
from vswitch.openflow.actions import Output
from vswitch.openflow.constants import (
    MAX_LEN_NO_BUFFER,
    NO_BUFFER,
    TABLE_ALL,
    TABLE_COUNT,
    BadRequest,
    Capability,
    FlowModCommand,
    FlowModFlag,
    FlowRemovedReason,
    FragmentHandling,
    GroupModCommand,
    MessageType,
    MeterModCommand,
    PacketInReason,
    Port,
    PortConfig,
    QueueOpFailed,
    Role,
    RoleRequestFailed,
    SwitchConfigFailed,
    TableModFailed,
)
from vswitch.openflow.errors import ExperimenterError, OpenFlowError
from vswitch.openflow.flow_mod import FlowMod, FlowRemoved
from vswitch.openflow.groups import GroupMod
from vswitch.openflow.message import Message
from vswitch.openflow.meters import MeterMod
from vswitch.openflow.oxm import Match
from vswitch.openflow.queues import QueueGetConfigReply, QueueGetConfigRequest
from vswitch.openflow.table_features import TableFeaturesRequest

Replies = Iterable[Message | None]
"""None: others may run before the next."""

CAPABILITIES = Capability.FLOW_STATS | Capability.TABLE_STATS | Capability.PORT_STATS | Capability.GROUP_STATS
MAX_PACKET_IN_DATA = 65_000
"""A packet-in, as every message, is shorter than 64 KiB."""

UNDEFINED_GENERATION = 0xFFFF_FFFF_FFFF_FFFF
_ETHERNET_HEADER = 14
_CHANGES_STATE = frozenset(
    {
        MessageType.PACKET_OUT,
        MessageType.FLOW_MOD,
        MessageType.GROUP_MOD,
        MessageType.PORT_MOD,
        MessageType.TABLE_MOD,
        MessageType.METER_MOD,
    }
)
"""What a slave may not send (section 6.3.6)."""


class _Ended(NamedTuple):
    """A rule whose end is announced as soon as its counters are final."""

    number: int
    removal: Removal
    age: tuple[int, int]


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
        self.turns = Turns(clock)
        self.sessions: list[Session] = []
        self.snoopers = Snoopers()
        self._dropped_before = Counter(packet_ins_dropped=0, notices_dropped=0)  # of sessions that have ended
        self.ports = PortTable()
        self.tables = FlowTables()
        self.groups = GroupTable()
        self.meters = MeterTable(datapath)
        self.buffers = PacketBuffers(clock)
        self.slowpath = SlowPath(
            datapath,
            self.tables,
            self.ports,
            self.groups,
            self.meters,
            self._packet_in,
            clock,
            proactive_reverse,
        )
        self.statistics = Statistics(self)
        self.extensions = Extensions(
            datapath, self.slowpath, self.refresh_ports, lambda first: counters.reply(self, first)
        )
        self.generation_id: int | None = None
        self._ended: deque[_Ended] = deque()
        self._ended_count = 0
        self.standalone: Standalone | None = None
        self.bridge: Bridge | None = None
        self.ports.refresh(datapath.ports(), clock())

    def forward_without_controller(self, has_controllers: bool) -> None:
        """Be a learning switch while no controller is there (fail mode `standalone`)."""
        self.standalone = Standalone(self, has_controllers)

    def run_spanning_tree(self, settings: StpSettings) -> None:
        """Be a bridge of a spanning tree from now on; the datapath must be started."""
        self.bridge = Bridge(self, settings)

    def tick(self) -> None:
        """To be called a few times a second: what depends on the time alone, beside the rules' time-outs."""
        if self.standalone is not None:
            self.standalone.look()
        if self.bridge is not None:
            self.bridge.handle_timer()

    # --- requests ----------------------------------------------------------------------------------------

    async def receive(self, session: Session, data: bytes) -> None:
        """Carry out the messages that `data` completes, in order; what they lead to has been sent then.

        A peer that does not read the answers has the rest of its requests wait; what is left of them when its
        connection has closed is not carried out.
        """
        connection = session.connection
        connection.take_in(data, self.clock())
        await self.turns.take(session)
        for message in connection.messages():
            if not await self._may_go_on(session):
                break
            if message is None:
                continue
            if self.needs_settling(message):
                session.flush()
                await self.settle()
                if self.turns.is_over(session):
                    await self.turns.take(session)
            if isinstance(message, mp.MultipartRequest) and message.kind in NEED_CREDIT:
                await self.credit_all(session)
            for reply in self.handle(session, message):
                if reply is not None:
                    session.reply(reply)
                if not await self._may_go_on(session):
                    break
        self.slowpath.revalidate()
        if self._ended:
            await self.settle()
        session.flush()

    async def _may_go_on(self, session: Session) -> bool:
        """Let others run if the session has had its turn, or its peer has too much to read; False when its
        connection has closed meanwhile."""
        if session.unsent_bytes > MAX_UNSENT_BYTES:
            session.flush()
        if session.unsent_bytes > MAX_UNSENT_BYTES:
            self.slowpath.revalidate()  # packets do not wait for the peer
            await session.drained()
        if self.turns.is_over(session):
            session.flush()
            await self.turns.take(session)
        return session.connection.closed is None

    async def credit_all(self, client: Client) -> None:
        """Bring all counters of rules and groups up to date, in the client's turns."""
        for _part in self.slowpath.credit_all():
            if self.turns.is_over(client):
                await self.turns.take(client)

    def handle(self, session: Session, message: Message) -> Replies:
        """Carry out one message of an open session. Errors are queued in the session, and answers that are
        short; the parts of those that may be long come one by one."""
        if self.standalone is not None and session.primary:
            self.standalone.heard()
        try:
            handler = self.HANDLERS.get(message.TYPE)
            if handler is None:
                raise OpenFlowError(BadRequest.BAD_TYPE, f"{message.TYPE.name} is not for a switch")
            if session.role == Role.SLAVE and message.TYPE in _CHANGES_STATE:
                raise OpenFlowError(BadRequest.IS_SLAVE)
            return handler(self, session, message) or ()
        except (OpenFlowError, ExperimenterError) as error:
            session.connection.refuse(error, message)
            return ()

    @staticmethod
    def needs_settling(message: Message) -> bool:
        """Must everything before `message` have reached the datapath when it is handled?"""
        if message.TYPE == MessageType.BARRIER_REQUEST:
            return True
        return isinstance(message, mp.MultipartRequest) and message.kind in NEED_SETTLING

    async def settle(self) -> None:
        """Returns when the datapath forwards by the rules as they are now, and the counters of those that
        ended are final; announces them."""
        last = self._ended_count
        self.slowpath.revalidate()
        await self.datapath.drained()
        self.slowpath.retire_ended()
        due = [ended for ended in self._ended if ended.number <= last]
        if due:
            self.slowpath.credit_rules(ended.removal.rule for ended in due)
            for ended in due:
                self._ended.popleft()
                self._announce(ended)

    def _features(self, session: Session, request: m.FeaturesRequest) -> None:
        session.reply(m.FeaturesReply(self.dpid, BUFFERS, TABLE_COUNT, 0, CAPABILITIES, xid=request.xid))

    def _get_config(self, session: Session, request: m.GetConfigRequest) -> None:
        session.reply(m.GetConfigReply(self._fragments, session.miss_send_len, xid=request.xid))

    def _set_config(self, session: Session, request: m.SetConfig) -> None:
        if request.flags not in (FragmentHandling.NORMAL, FragmentHandling.DROP):
            raise OpenFlowError(SwitchConfigFailed.BAD_FLAGS, f"flags {request.flags:#x}")
        if request.flags != self._fragments:
            if session.role == Role.SLAVE:
                raise OpenFlowError(BadRequest.IS_SLAVE)
            self.slowpath.drop_fragments = request.flags == FragmentHandling.DROP
        session.miss_send_len = request.miss_send_len

    @property
    def _fragments(self) -> FragmentHandling:
        return FragmentHandling.DROP if self.slowpath.drop_fragments else FragmentHandling.NORMAL

    def _barrier(self, session: Session, request: m.BarrierRequest) -> None:
        session.reply(m.BarrierReply(xid=request.xid))

    def _get_async(self, session: Session, request: m.GetAsyncRequest) -> None:
        session.reply(m.GetAsyncReply(*session.asynchronous, xid=request.xid))

    def _set_async(self, session: Session, request: m.SetAsync) -> None:
        session.asynchronous = AsyncConfig(request.packet_in, request.port_status, request.flow_removed)

    def _queue_config(self, session: Session, request: QueueGetConfigRequest) -> None:
        if request.port_no != Port.ANY and request.port_no not in self.ports:
            raise OpenFlowError(QueueOpFailed.BAD_PORT, f"port {request.port_no}")
        session.reply(QueueGetConfigReply(request.port_no, xid=request.xid))

    def _table_mod(self, session: Session, request: m.TableMod) -> None:
        if request.table_id >= TABLE_COUNT and request.table_id != TABLE_ALL:
            raise OpenFlowError(TableModFailed.BAD_TABLE, f"table {request.table_id}")
        if request.config & ~m.TableMod.DEPRECATED:
            raise OpenFlowError(TableModFailed.BAD_CONFIG, f"config {request.config:#x}")

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

    def _multipart(self, session: Session, request: mp.MultipartRequest) -> Replies:
        body = request.request
        if isinstance(body, TableFeaturesRequest):
            if session.role == Role.SLAVE and body.body:
                raise OpenFlowError(BadRequest.IS_SLAVE)
            more = bool(request.flags & mp.MORE)
            whole = session.request_parts.join(request.xid, request.received, body.body, more)
            if whole is None:
                return ()
            body = TableFeaturesRequest(whole)
        return mp.replies(request.kind, self.statistics.answer(request.kind, body), request.xid)

    # --- rules, groups, meters ---------------------------------------------------------------------------

    def _flow_mod(self, session: Session, mod: FlowMod) -> None:
        deletes = mod.command in (FlowModCommand.DELETE, FlowModCommand.DELETE_STRICT)
        if not deletes:
            self.tables.check_table(mod)
            admission.check_instructions(mod.table_id, mod.match, mod.instructions, self.groups, self.meters)
        changes, removals = self.tables.apply(mod, self.clock())
        self._rules_changed(changes, removals)
        if mod.buffer_id != NO_BUFFER and not deletes:
            packet = self.buffers.take(mod.buffer_id)
            self.slowpath.packet_out(packet.frame, (Output(Port.TABLE),), packet.in_port, packet.tunnel_id)

    def _group_mod(self, session: Session, mod: GroupMod) -> None:
        changed = self.groups.apply(mod, self.clock())
        if mod.command == GroupModCommand.DELETE:
            rules = {rule for group in changed for rule in self.tables.of_group(group.group_id)}
            self._rules_changed(*self.tables.remove(rules, FlowRemovedReason.GROUP_DELETE))
        self.slowpath.groups_changed(changed)

    def _meter_mod(self, session: Session, mod: MeterMod) -> None:
        if mod.command == MeterModCommand.DELETE:
            rules = {rule for meter_id in self.meters.named(mod) for rule in self.tables.of_meter(meter_id)}
            self._rules_changed(*self.tables.remove(rules, FlowRemovedReason.DELETE))
            # no packet passes unmetered between the end of the meter and that of the rules
            self.slowpath.revalidate()
        self.meters.apply(mod, self.clock())
        if mod.command == MeterModCommand.MODIFY:
            self.slowpath.meters_changed([mod.meter_id])

    async def expire_rules(self) -> None:
        """End the rules whose idle or hard time-out has come."""
        changes, removals = self.tables.expire(self.clock())
        if changes:
            self._rules_changed(changes, removals)
            self.slowpath.revalidate()
        if self._ended:
            await self.settle()

    def _rules_changed(self, changes: Iterable[Change], removals: Iterable[Removal]) -> None:
        self.slowpath.rules_changed(changes)
        for removal in removals:
            if removal.rule.flags & FlowModFlag.SEND_FLOW_REM:
                self._ended_count += 1
                age = self._age(removal.rule.created_ns)
                self._ended.append(_Ended(self._ended_count, removal, age))

    def _announce(self, ended: _Ended) -> None:
        rule, reason = ended.removal
        self.notify(
            FlowRemoved(
                rule.cookie,
                rule.priority,
                reason,
                rule.table_id,
                *ended.age,
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
        """Send a packet to the controllers that hear of such; truncated, it waits in a buffer."""
        action, frame = event.action, event.frame
        buffer_id: int | None = None
        for session in self.sessions:
            if not session.hears_of(MessageType.PACKET_IN, action.reason):
                continue
            limit = session.miss_send_len if action.reason == PacketInReason.INVALID_TTL else action.max_len
            truncated = limit != MAX_LEN_NO_BUFFER and limit < len(frame)
            limit = min(limit, MAX_PACKET_IN_DATA)
            if truncated and buffer_id is None:
                buffer_id = self.buffers.store(Buffered(frame, event.in_port, event.tunnel_id))
            if not truncated or buffer_id == NO_BUFFER:
                session.notify(self._packet_in_message(event, frame[:MAX_PACKET_IN_DATA], NO_BUFFER))
            else:
                assert buffer_id is not None
                session.notify(self._packet_in_message(event, frame[:limit], buffer_id))

    def _packet_in_message(self, event: PacketInEvent, data: bytes, buffer_id: int) -> m.PacketIn:
        """What is 0 is left out, and the physical port where it is the port of arrival (section 7.2.3.7)."""
        action = event.action
        physical = self.ports.physical(event.in_port)
        context = {
            "in_port": event.in_port,
            "in_phy_port": 0 if physical == event.in_port else physical,
            "tunnel_id": event.tunnel_id,
            "metadata": event.metadata,
        }
        match = Match.of(**{name: value for name, value in context.items() if value})
        total = min(len(event.frame), 0xFFFF)
        return m.PacketIn(total, action.reason, action.table_id, action.cookie, match, data, buffer_id)

    def _packet_out(self, session: Session, request: m.PacketOut) -> None:
        if request.in_port > Port.MAX and request.in_port not in (Port.CONTROLLER, Port.LOCAL, Port.ANY):
            raise OpenFlowError(BadRequest.BAD_PORT, f"in_port {request.in_port:#x}")
        admission.check_packet_out(request.actions, self.groups)
        frame, tunnel_id = request.data, 0
        if request.buffer_id != NO_BUFFER:
            frame, _in_port, tunnel_id = self.buffers.take(request.buffer_id)
        if len(frame) < _ETHERNET_HEADER:
            raise OpenFlowError(BadRequest.BAD_PACKET, f"{len(frame)} bytes of packet")
        self.slowpath.packet_out(frame, request.actions, request.in_port, tunnel_id)

    # --- ports -------------------------------------------------------------------------------------------

    def refresh_ports(self) -> None:
        """Ask the datapath for its ports, and tell the controllers what changed."""
        changes = self.ports.refresh(self.datapath.ports(), self.clock())
        self.slowpath.ports_changed()  # a tunnel may have another uplink, of which controllers are not told
        self._look_at_tree()
        self._tell_of_ports(changes)
        self.slowpath.revalidate()

    def look_at_links(self) -> None:
        """The same, if a link has changed since it was last looked at."""
        if self.datapath.refresh_ports():
            self.refresh_ports()

    def _port_mod(self, session: Session, request: m.PortMod) -> None:
        changes = self.ports.modify(request)
        if changes:
            self.slowpath.ports_changed()
            self._look_at_tree()
        self._tell_of_ports(changes)

    def _look_at_tree(self) -> None:
        if self.bridge is not None:
            self.bridge.look_at_ports()

    def _tell_of_ports(self, changes: list[PortChange]) -> None:
        for reason, desc in changes:
            self.notify(m.PortStatus(reason, desc))

    # --- asynchronous messages ---------------------------------------------------------------------------

    def end_session(self, session: Session) -> None:
        """Forget a session; what it was not told stays counted."""
        self._dropped_before.update(_dropped(session))
        self.sessions.remove(session)

    def dropped(self) -> dict[str, int]:
        """Messages that were not sent to controllers and snoopers that did not read, by counter."""
        total = self._dropped_before.copy()
        for session in self.sessions:
            total.update(_dropped(session))
        return {**total, "snoop_messages_dropped": self.snoopers.dropped}

    def notify(self, message: m.PacketIn | m.PortStatus | FlowRemoved) -> None:
        """Send an asynchronous message to every controller that is to hear of it."""
        for session in self.sessions:
            session.notify(message)

    HANDLERS: ClassVar[dict[MessageType, Callable[[OpenFlowSwitch, Session, Any], Replies | None]]] = {
        MessageType.ERROR: _error,
        MessageType.EXPERIMENTER: _experimenter,
        MessageType.FEATURES_REQUEST: _features,
        MessageType.GET_CONFIG_REQUEST: _get_config,
        MessageType.SET_CONFIG: _set_config,
        MessageType.PACKET_OUT: _packet_out,
        MessageType.FLOW_MOD: _flow_mod,
        MessageType.GROUP_MOD: _group_mod,
        MessageType.PORT_MOD: _port_mod,
        MessageType.TABLE_MOD: _table_mod,
        MessageType.MULTIPART_REQUEST: _multipart,
        MessageType.BARRIER_REQUEST: _barrier,
        MessageType.QUEUE_GET_CONFIG_REQUEST: _queue_config,
        MessageType.ROLE_REQUEST: _role,
        MessageType.GET_ASYNC_REQUEST: _get_async,
        MessageType.SET_ASYNC: _set_async,
        MessageType.METER_MOD: _meter_mod,
    }


def _dropped(session: Session) -> dict[str, int]:
    return {
        "packet_ins_dropped": session.packet_ins_dropped,
        "notices_dropped": session.notices_dropped,
    }


def port_config_names(config: PortConfig) -> list[str]:
    """The configuration bits that are set, by name."""
    return [flag.name for flag in PortConfig if flag and flag & config and flag.name]
