# SPDX-License-Identifier: Apache-2.0
"""The OpenFlow pipeline, run once per flow: a packet in, an action program out (1.3.5, sections 5.1 to 5.12).

Pure: nothing is counted, learned, installed or sent here.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from vswitch.agent import fields as f
from vswitch.agent.fields import Masks
from vswitch.agent.normal import MacTable, is_multicast, is_reserved
from vswitch.agent.packet import LooksAgain, OutsideKey, Packet
from vswitch.agent.ports import PortTable
from vswitch.agent.reverse import mirror_of
from vswitch.flow import (
    MAX_REMARKS,
    MAX_SAVED,
    VLAN_PRESENT,
    Action,
    Controller,
    CopyTtl,
    DecTtl,
    DropReason,
    LookUpAgain,
    Output,
    PopMpls,
    PopPbb,
    PopVlan,
    Program,
    Push,
    Restore,
    Save,
    SetField,
    SetTtl,
    SetTunnel,
)
from vswitch.flow import Meter as MeterOp
from vswitch.openflow import actions as of
from vswitch.openflow.constants import MAX_LEN_NO_BUFFER, GroupType, PacketInReason, Port
from vswitch.openflow.instructions import (
    ApplyActions,
    ClearActions,
    GotoTable,
    Meter,
    WriteActions,
    WriteMetadata,
)

if TYPE_CHECKING:
    from vswitch.agent.groups import Bucket, Group, GroupTable
    from vswitch.agent.meters import MeterTable
    from vswitch.agent.slowpath import CachedFlow
    from vswitch.agent.tables import FlowTables, Rule, Table

UNKNOWN_COOKIE = 0xFFFF_FFFF_FFFF_FFFF
"""Cookie of a packet-in that no single rule caused (1.3.5, section 7.4.1: of a group or the action set)."""

MAX_OPERATIONS = 16_384
"""Look-ups, actions, buckets and outputs for one packet. Groups that follow each other multiply: without a
bound eight of eight buckets each would keep the switch busy for minutes. The longest list of actions that a
message can hold is half of it."""

_VID = 0xFFF
_WORD = (1 << 64) - 1
_EVERYTHING = (1 << f.FIELD_COUNT) - 1
"""All indexes of the vector, as bits."""
_OF_DATAGRAM = (f.TUNNEL_ID, f.ETH_DST, f.ETH_SRC, f.VLAN_TCI, f.ETH_TYPE, f.IP_SRC, f.IP_DST)
_OF_FLOW = (*_OF_DATAGRAM, f.IP_PROTO, f.L4_SRC, f.L4_DST)
"""The fields of the key that the bucket of a select group depends on: those that all fragments of a datagram
have in common, and those of a packet that is whole."""


class World(NamedTuple):
    """All that a translation depends on beside the packet."""

    tables: FlowTables
    ports: PortTable
    groups: GroupTable
    meters: MeterTable
    macs: MacTable
    drop_fragments: bool = False  # OFPC_FRAG_DROP
    standalone: bool = False  # a learning switch, whatever the rules say


class On(enum.IntEnum):
    """Kinds of things that a translation depends on, beside rules and groups. A Thing is one of them, with
    what names it."""

    PORT = enum.auto()  # its number
    FLOODED_PORTS = enum.auto()
    LIVE_PORTS = enum.auto()
    METER = enum.auto()  # its number
    ADDRESS = enum.auto()  # VLAN and MAC address: where it is
    REMARK = enum.auto()  # whether rules look at the DSCP behind a meter


Thing = tuple[Any, ...]


class Step(NamedTuple):
    """One table on a packet's way."""

    table: Table
    rule: Rule | None  # None: nothing matched
    written: tuple[tuple[int, int, int], ...]  # Packet.state() when it was looked up
    unknown: int


class Source(NamedTuple):
    """A MAC address that OFPP_NORMAL saw at a port."""

    vlan: int
    mac: int
    port: int


class Translation:
    """What the pipeline does to all packets that agree with one in the bits of the key that `masks` tells.

    Of packets that are looked up again (their key has remarks), `steps` and `all_groups` are all that it
    depends on; `taken`, `groups`, `buckets` and `program` are of the steps that they have not taken before.
    mirror: how their answers' keys follow from theirs, if they are sent out of one port. flows: the cached
    flows that are treated so. packets, bytes, last_used_ns: what they counted that the
    rules, groups and buckets have not been given yet; flush() gives it.
    """

    __slots__ = (
        "all_groups",
        "asks_controller",
        "buckets",
        "bytes",
        "destinations",
        "drop",
        "flows",
        "groups",
        "is_unwanted",
        "last_used_ns",
        "masks",
        "mirror",
        "missed",
        "packets",
        "program",
        "sources",
        "steps",
        "taken",
        "things",
        "uncacheable",
    )

    def __init__(self, run: _Run, program: Program, drop: DropReason) -> None:
        self.program = program
        self.asks_controller = any(isinstance(action, Controller) for action in program)
        self.mirror = mirror_of(program, run.world.ports)
        self.taken = tuple(run.steps[run.steps_before :])
        self.steps = (*run.steps, run.unfinished) if run.unfinished else tuple(run.steps)
        # whether the packet ended at a table where nothing matched, not even a table-miss rule
        self.missed = bool(run.steps) and run.steps[-1].rule is None
        self.drop = drop  # why, if the program forwards nothing
        self.uncacheable = run.packet.uncacheable
        self.masks: Masks = tuple((index, mask) for index, mask in enumerate(run.packet.looked) if mask)
        self.groups = tuple(run.groups)
        self.all_groups = (*run.groups_before, *run.groups)
        self.buckets = tuple(run.buckets)
        self.sources = tuple(run.sources)
        self.destinations = tuple(run.destinations)
        places = {*self.destinations, *((source.vlan, source.mac) for source in self.sources)}
        self.things = frozenset(run.things).union((On.ADDRESS, *place) for place in places)
        # whether no rule wants these packets, and they teach nothing
        self.is_unwanted = not (program or self.sources or self.destinations)
        self.flows: set[CachedFlow] = set()
        self.packets = 0
        self.bytes = 0
        self.last_used_ns = 0

    def is_like(self, other: Translation) -> bool:
        """Does it the same, by the same rules and buckets?"""
        return (
            self.program == other.program
            and self.drop == other.drop
            and [step.rule for step in self.steps] == [step.rule for step in other.steps]
            and [step.table for step in self.steps] == [step.table for step in other.steps]
            and self.groups == other.groups
            and self.buckets == other.buckets
        )

    def count(self, packets: int, octets: int, last_used_ns: int) -> None:
        self.packets += packets
        self.bytes += octets
        if last_used_ns > self.last_used_ns:
            self.last_used_ns = last_used_ns

    def flush(self) -> None:
        """Give what was counted to the rules, groups and buckets."""
        packets, octets = self.packets, self.bytes
        if not packets:
            return
        for table, rule, _written, _unknown in self.taken:
            table.lookups += packets
            if rule is not None:
                table.matched += packets
                rule.count(packets, octets, self.last_used_ns)
        for group in self.groups:
            group.count(packets, octets)
        for bucket in self.buckets:
            bucket.count(packets, octets)
        self.packets = self.bytes = 0


def translate(packet: Packet, world: World, notes: list[Note] | None = None) -> Translation:
    """What happens to a packet that arrives.

    notes: where to tell about every step, for people. Raises OutsideKey when the packet is but a key, and the
    answer depends on more, or no packet comes to have such a key.
    """
    run = _Run(packet, world, notes)
    if not world.ports.receives(packet.key.in_port):
        return Translation(run, (), DropReason.PORT_CONFIG)
    if world.drop_fragments and packet.is_fragment:
        return Translation(run, (), DropReason.RULE)
    return run.result_of(run.normal if world.standalone else lambda: run.tables_from(0))


def translate_packet_out(actions: Iterable[of.Action], packet: Packet, world: World) -> Translation:
    """What a packet-out's actions do to a packet; its key's in_port is the message's in_port.

    What a meter remarks is not seen: there is no flow whose packets could be looked up again.
    """
    packet.looks_again = False
    run = _Run(packet, world, None)
    return run.result_of(lambda: run.apply(actions, _Cause(PacketInReason.ACTION, UNKNOWN_COOKIE, 0)))


class Note(NamedTuple):
    """Something that happened on the way, for explanations.

    kind: "table", "instruction", "action", "group", "bucket" or "remark".
    """

    depth: int
    kind: str
    about: Any
    text: str = ""


class _TooMany(Exception):
    """The packet has had MAX_OPERATIONS, and more would follow."""


class _Cause(NamedTuple):
    """Why a packet would go to the controller."""

    reason: PacketInReason
    cookie: int
    table_id: int


class _ActionSet:
    """The actions that run when the pipeline ends: one of each kind, set-fields one of each field."""

    def __init__(self) -> None:
        self._actions: dict[Any, of.Action] = {}
        self.output_reason = PacketInReason.ACTION

    def write(self, actions: Iterable[of.Action], reason: PacketInReason = PacketInReason.ACTION) -> None:
        for action in actions:
            if isinstance(action, of.SetField):
                self._actions[action.oxm.field.number] = action
            else:
                self._actions[type(action)] = action
            if isinstance(action, of.Output):
                self.output_reason = reason

    def clear(self) -> None:
        self._actions.clear()

    def in_order(self) -> list[of.Action]:
        """The actions as they are to run; a group takes the place of an output."""
        actions = sorted(self._actions.values(), key=lambda action: of.SET_ORDER[type(action)])
        if of.Group in self._actions:
            actions = [action for action in actions if not isinstance(action, of.Output)]
        return actions


class _Run:
    """One packet's way through the pipeline."""

    def __init__(self, packet: Packet, world: World, notes: list[Note] | None) -> None:
        self.packet = packet
        self.world = world
        self.notes = notes
        self.depth = 0
        self.in_port = packet.key.in_port
        packet.look(((f.IN_PORT, (1 << 32) - 1), (f.REMARKS, (1 << 2 * MAX_REMARKS) - 1)))
        packet.came_through(world.ports.physical(self.in_port))
        self.steps: list[Step] = []
        self.steps_before = 0
        self.unfinished: Step | None = None  # where the packet is to be looked up again
        self.groups_before: list[Group] = []
        self.remarks_seen = 0
        self.program: list[Action] = []
        self.tunnel_id: int | None = None  # None: that of arrival
        self.program_tunnel_id: int | None = None
        self.groups: list[Group] = []
        self.buckets: list[Bucket] = []
        self.things: set[Thing] = {(On.PORT, self.in_port)}
        self.sources: list[Source] = []
        self.destinations: list[tuple[int, int]] = []
        self.saved = 0
        self.operations = 0

    def result_of(self, act: Callable[[], None]) -> Translation:
        """What comes of the packet when `act` runs. One that takes too many operations is dropped as a whole:
        a half of its copies would be of no use to anybody."""
        try:
            act()
        except _TooMany:
            self.depth = 0
            self.note("remark", None, f"more than {MAX_OPERATIONS} operations: the packet is dropped")
            return Translation(self, (), DropReason.TOO_MANY_OPERATIONS)
        except LooksAgain:
            self.note("remark", None, "what the meter makes of it decides: it is looked up again")
            self.program.append(LookUpAgain(self.packet.remarks_seen))
            return Translation(self, tuple(self.program), DropReason.RULE)
        except OutsideKey as error:
            if not self.packet.has_arrived:
                raise
            return self._dead_end(str(error))
        if not self.packet.has_all_remarks:
            if not self.packet.has_arrived:
                raise OutsideKey("remarks that no packet has")
            return self._dead_end("what a meter made of it that does so no more")
        missed = bool(self.steps) and self.steps[-1].rule is None
        drop = DropReason.TABLE_MISS if missed else DropReason.RULE
        return Translation(self, _without_useless_copies(self.program), drop)

    def _dead_end(self, what: str) -> Translation:
        """Of a packet that came to be looked up again by rules that are others now, or that is to be read
        where its headers stand no more: it is dropped."""
        self.packet.uncacheable = f"{what} is not in the flow key"
        return Translation(self, (), DropReason.RULE)

    def note(self, kind: str, about: Any, text: str = "") -> None:
        if self.notes is not None:
            self.notes.append(Note(self.depth, kind, about, text))

    def _count_operation(self) -> None:
        self.operations += 1
        if self.operations > MAX_OPERATIONS:
            raise _TooMany

    # --- tables ------------------------------------------------------------------------------------------

    def tables_from(self, table_id: int) -> None:
        action_set = _ActionSet()
        next_table: int | None = table_id
        while next_table is not None:
            self._count_operation()
            table = self.world.tables.tables[next_table]
            try:
                rule = table.lookup(self.packet)
            except LooksAgain:
                self.unfinished = Step(table, None, (), _EVERYTHING)
                raise
            if self.packet.remarks_seen > self.remarks_seen:
                self._begin_anew()
            step = Step(table, rule, *self.packet.state())
            self.steps.append(step)
            self.note("table", step)
            if rule is None:
                return
            next_table = self._execute(rule, action_set)
        actions = action_set.in_order()
        if actions:
            table_id = self.steps[-1].table.table_id
            self.note("instruction", None, "action set")
            self.apply(actions, _Cause(action_set.output_reason, UNKNOWN_COOKIE, table_id))

    def _begin_anew(self) -> None:
        """All that happened so far, the datapath did before it looked the packet up again."""
        self.remarks_seen = self.packet.remarks_seen
        self.steps_before = len(self.steps)
        self.groups_before += self.groups
        self.program.clear()
        self.groups.clear()
        self.buckets.clear()

    def _execute(self, rule: Rule, action_set: _ActionSet) -> int | None:
        """Run a rule's instructions in the specification's order (section 5.9); the next table, if any."""
        by_kind: dict[type, Any] = {type(instruction): instruction for instruction in rule.instructions}
        reason = PacketInReason.NO_MATCH if rule.is_table_miss else PacketInReason.ACTION
        if Meter in by_kind:
            self._meter(by_kind[Meter])
        if ApplyActions in by_kind:
            self.note("instruction", by_kind[ApplyActions], "apply_actions")
            self.apply(by_kind[ApplyActions].actions, _Cause(reason, rule.cookie, rule.table_id))
        if ClearActions in by_kind:
            self.note("instruction", by_kind[ClearActions], "clear_actions")
            action_set.clear()
        if WriteActions in by_kind:
            self.note("instruction", by_kind[WriteActions], str(by_kind[WriteActions]))
            action_set.write(by_kind[WriteActions].actions, reason)
        if WriteMetadata in by_kind:
            self.note("instruction", by_kind[WriteMetadata], str(by_kind[WriteMetadata]))
            self.packet.write_metadata(by_kind[WriteMetadata].metadata, by_kind[WriteMetadata].mask)
        goto = by_kind.get(GotoTable)
        if goto is None:
            return None
        self.note("instruction", goto, str(goto))
        return goto.table_id

    def _meter(self, instruction: Meter) -> None:
        self.note("instruction", instruction, str(instruction))
        self.things.add((On.METER, instruction.meter_id))
        self.program.append(MeterOp(instruction.meter_id))
        if self.world.meters.remarks(instruction.meter_id):
            self.things.add((On.REMARK,))
            self.packet.remark()

    # --- actions -----------------------------------------------------------------------------------------

    def apply(self, actions: Iterable[of.Action], cause: _Cause) -> None:
        self.depth += 1
        for action in actions:
            self._count_operation()
            self.note("action", action)
            _PERFORM[type(action)](self, action, cause)
        self.depth -= 1

    def _emit(self, action: Action, applies: bool = True) -> None:
        if applies:
            self.program.append(action)
        else:
            self.note("remark", action, "the packet has no such header: nothing happens")

    def _set_field(self, action: of.SetField, cause: _Cause) -> None:
        name, value = action.oxm.field.name, action.oxm.value
        if name == "vlan_vid":
            value &= _VID
        applies = self.packet.set_field(name, value)
        if name == "tunnel_id":
            self.tunnel_id = value
        else:
            self._emit(SetField(name, value), applies)

    def _push_vlan(self, action: of.PushVlan, cause: _Cause) -> None:
        self.packet.push_vlan()
        self._emit(Push(action.ethertype))

    def _pop_vlan(self, action: of.PopVlan, cause: _Cause) -> None:
        self._emit(PopVlan(), self.packet.pop_vlan())

    def _push_mpls(self, action: of.PushMpls, cause: _Cause) -> None:
        self.packet.push_mpls(action.ethertype)
        self._emit(Push(action.ethertype))

    def _pop_mpls(self, action: of.PopMpls, cause: _Cause) -> None:
        self._emit(PopMpls(action.ethertype), self.packet.pop_mpls(action.ethertype))

    def _push_pbb(self, action: of.PushPbb, cause: _Cause) -> None:
        self.packet.push_pbb(action.ethertype)
        self._emit(Push(action.ethertype))

    def _pop_pbb(self, action: of.PopPbb, cause: _Cause) -> None:
        self._emit(PopPbb(), self.packet.pop_pbb())

    def _set_nw_ttl(self, action: of.SetNwTtl, cause: _Cause) -> None:
        self._emit(SetTtl(action.ttl), self.packet.is_ip)

    def _set_mpls_ttl(self, action: of.SetMplsTtl, cause: _Cause) -> None:
        self._emit(SetTtl(action.ttl, mpls=True), self.packet.is_mpls)

    def _dec_nw_ttl(self, action: of.DecNwTtl, cause: _Cause) -> None:
        self._emit(DecTtl(self._invalid_ttl(cause)), self.packet.is_ip)

    def _dec_mpls_ttl(self, action: of.DecMplsTtl, cause: _Cause) -> None:
        self._emit(DecTtl(self._invalid_ttl(cause), mpls=True), self.packet.is_mpls)

    def _copy_ttl_out(self, action: of.CopyTtlOut, cause: _Cause) -> None:
        self._emit(CopyTtl(inwards=False), self.packet.is_mpls)

    def _copy_ttl_in(self, action: of.CopyTtlIn, cause: _Cause) -> None:
        self._emit(CopyTtl(inwards=True), self.packet.is_mpls)

    def _set_queue(self, action: of.SetQueue, cause: _Cause) -> None:
        """Ports have one queue: what is to be queued elsewhere is queued there."""
        self.note("remark", action, "ports have one queue")

    def _invalid_ttl(self, cause: _Cause) -> Controller:
        """`max_len` is for the agent to say, which knows miss_send_len."""
        return self._controller(MAX_LEN_NO_BUFFER, cause._replace(reason=PacketInReason.INVALID_TTL))

    def _controller(self, max_len: int, cause: _Cause) -> Controller:
        return Controller(max_len, *cause, self.packet.values[f.METADATA], self.tunnel_id)

    # --- outputs -----------------------------------------------------------------------------------------

    def _output(self, action: of.Output, cause: _Cause) -> None:
        port, ports = action.port, self.world.ports
        if port == Port.CONTROLLER:
            if cause.reason == PacketInReason.NO_MATCH and not ports.tells_misses(self.in_port):
                self.note("remark", action, "the port of arrival sends no packet-ins of table misses")
            else:
                # the program depends on the metadata and tunnel id that the controller is told
                self.program.append(self._controller(action.max_len, cause))
        elif port == Port.TABLE:
            self._copied(lambda: self.tables_from(0))
        elif port == Port.NORMAL:
            self.normal()
        elif port in (Port.ALL, Port.FLOOD):
            self._flood()
        elif port == Port.IN_PORT:
            self._send(self.in_port)
        elif port != self.in_port:
            self._send(port)
        else:
            self.note("remark", action, "not back out of the port of arrival: that takes IN_PORT")

    def _flood(self) -> None:
        self.things.add((On.FLOODED_PORTS,))
        for port_no in self.world.ports.flood(self.in_port):
            self._send(port_no)

    def _send(self, port_no: int) -> None:
        self._count_operation()
        self.things.add((On.PORT, port_no))
        ports = self.world.ports
        if port_no not in ports or not ports.forwards(port_no):
            self.note("remark", port_no, f"port {port_no} does not forward or does not exist")
            return
        tunnel_id = self.tunnel_id
        if tunnel_id is not None and tunnel_id != self.program_tunnel_id and ports.kind(port_no) == "tunnel":
            self.program.append(SetTunnel(tunnel_id))
            self.program_tunnel_id = tunnel_id
        self.program.append(Output(port_no))

    # --- OFPP_NORMAL -------------------------------------------------------------------------------------

    def normal(self) -> None:
        """Forward as a MAC-learning, VLAN-aware bridge whose ports are all trunks (IEEE 802.1Q)."""
        packet, macs, ports = self.packet, self.world.macs, self.world.ports
        src, dst = packet.get("eth_src"), packet.get("eth_dst")
        packet.look(((f.VLAN_TCI, VLAN_PRESENT | _VID),))
        vlan = packet.values[f.VLAN_TCI] & _VID
        if self.in_port in ports and not is_multicast(src):
            if packet.frame is None and macs.port_of(vlan, src) != self.in_port:
                raise OutsideKey("a MAC address that only a packet can teach")
            self.sources.append(Source(vlan, src, self.in_port))
        if is_reserved(dst):
            self.note("remark", None, "bridges do not forward this address")
        elif is_multicast(dst):
            self._flood()
        else:
            self.destinations.append((vlan, dst))
            port = macs.port_of(vlan, dst)
            self.note("remark", None, "unknown address: flood" if port is None else f"learned at port {port}")
            if port is None:
                self._flood()
            elif port != self.in_port:
                self._send(port)

    # --- groups ------------------------------------------------------------------------------------------

    def _group(self, action: of.Group, cause: _Cause) -> None:
        group = self.world.groups.get(action.group_id)
        if group is None:
            self.note("remark", action, "there is no such group")
            return
        if self.saved >= MAX_SAVED:
            self.note("remark", action, f"more than {MAX_SAVED} groups inside each other")
            return
        self.groups.append(group)
        self.note("group", group)
        cause = _Cause(PacketInReason.ACTION, UNKNOWN_COOKIE, cause.table_id)
        self.depth += 1
        for number in self._chosen(group):
            self._count_operation()
            bucket = group.buckets[number]
            self.buckets.append(bucket)
            self.note("bucket", bucket, str(number))
            actions = _ActionSet()
            actions.write(bucket.actions)
            in_order = actions.in_order()
            self._copied(lambda in_order=in_order: self.apply(in_order, cause))
        self.depth -= 1

    def _chosen(self, group: Group) -> Sequence[int]:
        """The buckets, by number, that the packet goes through (section 5.6.1)."""
        if group.type == GroupType.ALL:
            return range(len(group.buckets))
        if group.type == GroupType.INDIRECT:
            return range(min(1, len(group.buckets)))
        self.things.add((On.LIVE_PORTS,))
        live = self.world.groups.live_buckets(group, self.world.ports)
        if group.type == GroupType.FF:
            return live[:1]
        weighted = [number for number in live if group.buckets[number].weight > 0]
        if len(weighted) > 1:
            (fragment,) = self.packet.of_arrival((f.IP_FRAG,))
            hashed = _OF_DATAGRAM if fragment else _OF_FLOW
            flow_hash = hash((group.group_id, *self.packet.of_arrival(hashed)))
            weighted = [max(weighted, key=lambda n: _score(flow_hash, n, group.buckets[n].weight))]
        return weighted

    def _copied(self, act: Any) -> None:
        """Run `act` on a copy of the packet."""
        before = self.packet.snapshot()
        tunnel_ids = self.tunnel_id, self.program_tunnel_id
        start = len(self.program)
        self.program.append(Save())
        self.saved += 1
        act()
        self.saved -= 1
        if any(not isinstance(action, (Output, Controller)) for action in self.program[start + 1 :]):
            self.program.append(Restore())
        else:
            del self.program[start]
        self.tunnel_id, self.program_tunnel_id = tunnel_ids
        self.packet.restore(before)


def _score(flow_hash: int, number: int, weight: int) -> float:
    """Weighted rendezvous hashing: the buckets' shares are as their weights, and a bucket that dies or comes
    moves only its own flows. The bits are mixed as in SplitMix64 (Steele, Lea, Flood 2014)."""
    word = flow_hash + (number + 1) * 0x9E37_79B9_7F4A_7C15 & _WORD
    word = (word ^ word >> 30) * 0xBF58_476D_1CE4_E5B9 & _WORD
    word = (word ^ word >> 27) * 0x94D0_49BB_1331_11EB & _WORD
    uniform = (((word ^ word >> 31) >> 12) + 0.5) / (1 << 52)
    return -weight / math.log(uniform)


def _without_useless_copies(program: list[Action]) -> Program:
    """The program without a Save whose Restore nothing follows."""
    program = program[:]
    while program and isinstance(program[-1], Restore):
        depth = 0
        for place in range(len(program) - 1, -1, -1):
            action = program[place]
            if isinstance(action, Restore):
                depth += 1
            elif isinstance(action, Save):
                depth -= 1
                if depth == 0:
                    del program[place], program[-1]
                    break
    return tuple(program)


_PERFORM: dict[type, Any] = {
    of.SetField: _Run._set_field,
    of.Output: _Run._output,
    of.Group: _Run._group,
    of.SetQueue: _Run._set_queue,
    of.PushVlan: _Run._push_vlan,
    of.PopVlan: _Run._pop_vlan,
    of.PushMpls: _Run._push_mpls,
    of.PopMpls: _Run._pop_mpls,
    of.PushPbb: _Run._push_pbb,
    of.PopPbb: _Run._pop_pbb,
    of.SetNwTtl: _Run._set_nw_ttl,
    of.SetMplsTtl: _Run._set_mpls_ttl,
    of.DecNwTtl: _Run._dec_nw_ttl,
    of.DecMplsTtl: _Run._dec_mpls_ttl,
    of.CopyTtlOut: _Run._copy_ttl_out,
    of.CopyTtlIn: _Run._copy_ttl_in,
}
