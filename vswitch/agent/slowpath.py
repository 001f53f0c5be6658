# SPDX-License-Identifier: Apache-2.0
"""The slow path: a miss becomes a cached flow and its reverse; changes re-translate the flows they touch.

Each cached flow is one key with the translation that it was made of; keys that are treated alike share one.
What flows count goes to their translations, and from there to rules and groups. When a rule changes, only the
flows that it touches, or would now touch, are translated again.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from vswitch.agent.bpdu import STP_ADDRESS
from vswitch.agent.budget import (
    BURST_NS,
    PACKET_IN_INTERVAL_NS,
    PACKET_INS_AT_ONCE,
    SHARE,
    SURPLUS_NS,
    Budget,
)
from vswitch.agent.datapath import Datapath
from vswitch.agent.drops import DropMasks
from vswitch.agent.fields import ETH_DST
from vswitch.agent.flow_index import FlowIndex
from vswitch.agent.memo import Memo
from vswitch.agent.normal import AGING_NS, MacTable
from vswitch.agent.packet import OutsideKey, Packet
from vswitch.agent.packet_too_big import packet_too_big
from vswitch.agent.pipeline import (
    MAX_OPERATIONS,
    On,
    Thing,
    Translation,
    World,
    translate,
    translate_packet_out,
)
from vswitch.agent.ports import PortTable
from vswitch.agent.tables import Change, ChangeKind
from vswitch.errors import VSwitchError
from vswitch.flow import (
    Controller,
    DropReason,
    FlowKey,
    FlowStats,
    Program,
    Punt,
    PuntReason,
)
from vswitch.layout import FLOWS_LIMIT
from vswitch.openflow import actions as of
from vswitch.openflow.constants import BadAction, Port
from vswitch.openflow.errors import OpenFlowError
from vswitch.openflow.oxm import BY_NAME, Oxm

if TYPE_CHECKING:
    from vswitch.agent.groups import Group, GroupTable
    from vswitch.agent.meters import MeterTable
    from vswitch.agent.tables import FlowTables, Rule

log = logging.getLogger(__name__)

FLOW_IDLE_S = 10.0
DROP_IDLE_S = 1.0
"""How long an unused entry stays; entries of packets that no rule wants go sooner."""

MAX_FLOWS = FLOWS_LIMIT
"""Cached flows, as many as the datapath takes; beyond, packets are forwarded one by one by the slow path."""

MAX_FLOWS_WITH_REVERSE = MAX_FLOWS // 2
"""With more, flows get no reverse, which nobody may ask for: the room is for those that packets came of."""

AGING_PERIOD_NS = 5_000_000_000

PORT_SHARE = 8
"""A port may have so many times the entries that are still free: one that fills the cache leaves some to
others."""

MAX_DROPS = 4096
"""Entries for all packets of a kind that no rule wants; beyond, all are forgotten."""

TURN_DOWN_NS = 5_000
"""What it costs to turn a packet down."""

VID = 0xFFF
MAC_BITS = (1 << 48) - 1

TURN_NS = 5_000_000
"""How long packets are handled before others may run."""

AT_ONCE = 32
"""And how many of them between two looks at the clock."""

MAX_UNFLUSHED = 4096
"""Translations with counters that their rules have not been given."""

_NO_KEY = FlowKey(*[0] * len(FlowKey._fields))


class CachedFlow:
    """One entry of the datapath's flow table."""

    __slots__ = ("bytes", "key", "packets", "proactive", "translation")

    def __init__(self, key: FlowKey, translation: Translation, proactive: bool) -> None:
        self.key = key
        self.translation = translation
        self.proactive = proactive  # installed for the reverse of another flow
        self.packets = 0  # what of its counters has been given to translations
        self.bytes = 0


class PacketInEvent(NamedTuple):
    """A packet for the controllers, as it was when `action` sent it."""

    in_port: int
    tunnel_id: int
    metadata: int
    action: Controller
    frame: bytes

    @classmethod
    def of(cls, key: FlowKey, action: Controller, frame: bytes) -> PacketInEvent:
        """Of a packet that arrived with `key`."""
        tunnel_id = key.tunnel_id if action.tunnel_id is None else action.tunnel_id
        return cls(key.in_port, tunnel_id, action.metadata, action, frame)


class _Ending(NamedTuple):
    """A program that the datapath was told to replace or to remove; its final counters are still to come."""

    flow: CachedFlow
    translation: Translation


class SlowPath:
    """Owns the datapath's flow entries. `packet_in` is called with each packet for the controllers."""

    def __init__(
        self,
        datapath: Datapath,
        tables: FlowTables,
        ports: PortTable,
        groups: GroupTable,
        meters: MeterTable,
        packet_in: Callable[[PacketInEvent], None],
        clock: Callable[[], int],
        proactive_reverse: bool = True,
    ) -> None:
        self.datapath = datapath
        self.macs = MacTable()
        self.world = World(tables, ports, groups, meters, self.macs)
        self.packet_in = packet_in
        self.clock = clock
        self.proactive_reverse = proactive_reverse
        self.bpdus: Callable[[int, bytes], None] | None = None
        """Called with port and frame of what comes to the bridges' group address, which no rule then sees."""

        self.address_aging_ns = AGING_NS
        self.flows: dict[FlowKey, CachedFlow] = {}
        self.misses = 0
        self.uncacheable = 0
        self.too_big_sent = 0
        self._memo = Memo()
        self._index = FlowIndex()
        self._time = Budget(SHARE, BURST_NS)
        self._packet_ins = Budget(1, PACKET_INS_AT_ONCE * PACKET_IN_INTERVAL_NS)
        self._drop_masks = DropMasks(datapath.set_drop_mask)
        self._drops: set[FlowKey] = set()  # the keys of flows under drop masks
        self._flows_of: defaultdict[int, int] = defaultdict(int)  # how many, by port of arrival
        self._ending: dict[FlowKey, list[_Ending]] = {}  # the oldest first; seldom more than one
        # what was counted for the packets that were released last, by their handles
        self._in_hand: dict[int, tuple[Translation, int, int]] = {}
        self._unflushed: set[Translation] = set()
        self._stale: set[Translation] = set()
        self._added: list[Rule] = []
        self._translations: set[Translation] = set()  # that have flows
        self._dependents: dict[Thing, set[Translation]] = {}
        self._tos_mask = 0  # the bits of the TOS that cached flows' keys have
        self._port_states: dict[int, tuple[object, ...]] | None = None  # not looked at yet
        self._next_aging_ns = 0
        tables.credit = self.credit_rules

    @property
    def drop_fragments(self) -> bool:
        """OFPC_FRAG_DROP: fragments are dropped before the tables."""
        return self.world.drop_fragments

    @drop_fragments.setter
    def drop_fragments(self, drop: bool) -> None:
        if drop != self.world.drop_fragments:
            self._change_world(self.world._replace(drop_fragments=drop))

    @property
    def standalone(self) -> bool:
        """Packets are forwarded as by OFPP_NORMAL, whatever the rules say; revalidate() has it so."""
        return self.world.standalone

    @standalone.setter
    def standalone(self, standalone: bool) -> None:
        if standalone != self.world.standalone:
            self._change_world(self.world._replace(standalone=standalone))

    def _change_world(self, world: World) -> None:
        self.world = world
        self._stale |= self._translations
        self._forget_treatments()

    # --- packets -----------------------------------------------------------------------------------------

    def handle_punts(self, limit: int = 64) -> int:
        """Dispose of up to `limit` waiting packets, for no longer than a turn; returns how many there
        were."""
        self.revalidate()
        turn_ends_ns = self.clock() + TURN_NS
        handled = 0
        while handled < limit and self.clock() < turn_ends_ns:
            punts = self.datapath.poll_punts(min(AT_ONCE, limit - handled))
            self.retire_ended()
            if not punts:
                break
            with self.datapath.together():
                for punt in punts:
                    if punt.reason == PuntReason.MISS:
                        self._miss(punt)
                    elif punt.reason == PuntReason.TOO_BIG:
                        self._too_big(punt)
                    else:
                        self._asked_for(punt)
            handled += len(punts)
        return handled

    def _asked_for(self, punt: Punt) -> None:
        """A program's Controller action sent this packet."""
        action = punt.action
        if self._turn_down(punt, punt.key, self._packet_ins):
            return
        self.datapath.discard(punt.packet, DropReason.DELIVERED)
        if action is None:
            return  # its program is gone meanwhile
        key = punt.key
        if key.in_port == 0:
            key = key._replace(in_port=Port.CONTROLLER)  # the frame of a packet-out
        self._tell_controllers(PacketInEvent.of(key, action, punt.frame))

    def _tell_controllers(self, event: PacketInEvent) -> None:
        self.packet_in(event)
        self._packet_ins.charge(event.in_port, PACKET_IN_INTERVAL_NS, self.clock())

    def _charge(self, port_no: int, cost_ns: int) -> None:
        """The packets of a port have cost so much of the agent's time."""
        if port_no not in self.world.ports:
            return
        now_ns = self.clock()
        self._time.charge(port_no, cost_ns, now_ns)
        spent_until_ns = self._time.spent_until(port_no, SURPLUS_NS)
        if spent_until_ns > now_ns:
            self.datapath.hold_back_punts(port_no, int(spent_until_ns))

    def _turn_down(self, punt: Punt, key: FlowKey, budget: Budget) -> bool:
        """Discard a packet whose port has cost too much, unless its sender is known; True if so."""
        if not budget.is_spent(key.in_port, self.clock()):
            return False
        if self.macs.port_of(key.vlan_tci & VID, key.eth_src) == key.in_port:
            return False
        self.datapath.discard(punt.packet, DropReason.LIMITED)
        self._charge(key.in_port, TURN_DOWN_NS)
        return True

    def _too_big(self, punt: Punt) -> None:
        """Tell the sender of a packet that was dropped how long it may be, where it came from."""
        self.datapath.discard(punt.packet, DropReason.DELIVERED)
        key = punt.key
        error = packet_too_big(key, punt.frame, punt.mtu)
        if error is None or key.in_port not in self.world.ports:
            return
        self.too_big_sent += 1
        tunnel_id = of.SetField(Oxm(BY_NAME["tunnel_id"], key.tunnel_id))
        self.packet_out(error, (tunnel_id, of.Output(key.in_port)), Port.CONTROLLER)

    def _miss(self, punt: Punt) -> None:
        self.misses += 1
        key, frame = self._flow_key(punt.key), punt.frame
        if self.bpdus is not None and key.eth_dst == STP_ADDRESS:
            self.datapath.discard(punt.packet, DropReason.DELIVERED)
            self.bpdus(key.in_port, frame)
            return
        flow = self.flows.get(key)
        translation = self._memo.find(key) if flow is None else flow.translation
        if translation is None and self._turn_down(punt, key, self._time):
            return
        if translation is None:
            translation = self._learn(key, frame)
        elif translation.asks_controller and self._turn_down(punt, key, self._packet_ins):
            return
        elif flow is None:
            self._learn_sources(translation)
            self._install_new(key, translation)
        octets = punt.bytes or len(frame)
        self._count(translation, punt.packets, octets, self.clock())
        self._in_hand[punt.packet] = translation, punt.packets, octets
        program = translation.program
        whole = punt.packets == 1 and not punt.partial
        if not program:
            self.datapath.discard(punt.packet, translation.drop)
        elif len(program) == 1 and isinstance(program[0], Controller) and whole:
            self._tell_controllers(PacketInEvent.of(key, program[0], frame))
            self.datapath.discard(punt.packet, DropReason.DELIVERED)
        else:
            self._execute(punt, program)

    def _flow_key(self, key: FlowKey) -> FlowKey:
        """The key of the cached flow for a packet's key."""
        if key.ip_tos & ~self._tos_mask:
            return key._replace(ip_tos=key.ip_tos & self._tos_mask)
        return key

    def _execute(self, punt: Punt, program: Program) -> None:
        try:
            self.datapath.execute(punt.packet, program)
        except VSwitchError:  # no room for the program
            self.datapath.discard(punt.packet, DropReason.RULE)

    def _learn(self, key: FlowKey, frame: bytes) -> Translation:
        """Translate a new flow and install it, its reverse too."""
        began_ns = self.clock()
        translation = self._translate_packet(key, frame)
        self._install_new(key, translation)
        self._charge(key.in_port, self.clock() - began_ns)
        return translation

    def _translate_packet(self, key: FlowKey, frame: bytes) -> Translation:
        translation = translate(Packet(key, frame), self.world)
        if not self._learn_sources(translation).isdisjoint(translation.destinations):
            translation = translate(Packet(key, frame), self.world)
        if translation.uncacheable is None:
            self._memo.add(key, translation)
        return translation

    def _install_new(self, key: FlowKey, translation: Translation) -> None:
        if translation.uncacheable is not None:
            self.uncacheable += 1
        elif translation.is_unwanted and not key.remarks:
            self._install_drop(key, translation)
        elif self._flows_of[key.in_port] < PORT_SHARE * (MAX_FLOWS - len(self.flows)):
            self._install(key, translation, proactive=False)
            if self.proactive_reverse and len(self.flows) < MAX_FLOWS_WITH_REVERSE:
                self._install_reverse(key, translation)

    def _install_drop(self, key: FlowKey, translation: Translation) -> None:
        """Have the datapath drop all packets that are treated so, by one entry under a mask."""
        masks = translation.masks
        if self.bpdus is not None:  # which no entry may catch
            masks = tuple(sorted({**dict(masks), ETH_DST: MAC_BITS}.items()))
        masked = self._drop_masks.key(key, masks)
        if masked is None or len(self._drops) >= MAX_DROPS:
            self._forget_drops()
            masked = self._drop_masks.key(key, masks)
        assert masked is not None
        if masked not in self.flows and len(self.flows) < MAX_FLOWS:
            self._install(masked, translation, proactive=False)
            self._drops.add(masked)

    def drop_mask(self, key: FlowKey) -> FlowKey | None:
        """The mask that a flow's key is under, if it is."""
        return self._drop_masks.mask(key)

    def _forget_drops(self) -> None:
        for key in list(self._drops):
            self._remove(self.flows[key])
        self._drop_masks.clear()

    def _forget_treatments(self) -> None:
        """Something has changed that translations depend on: what stands for many packets goes."""
        self._memo.clear()
        self._forget_drops()

    def _translate(self, key: FlowKey) -> Translation:
        """By the memo, or anew. Raises OutsideKey when the key does not tell what the translation is."""
        translation = self._memo.find(key)
        if translation is None:
            translation = translate(Packet(key), self.world)
            self._memo.add(key, translation)
        return translation

    def _install_reverse(self, key: FlowKey, translation: Translation) -> None:
        """Install the flow's mirror image, by the rules for it, if there is one that needs no controller."""
        reverse = None if translation.mirror is None else translation.mirror.key(key)
        if reverse is None or reverse in self.flows:
            return
        try:
            answer = self._translate(reverse)
        except OutsideKey:
            return
        if not answer.missed and not answer.asks_controller:
            self._install(reverse, answer, proactive=True)

    def packet_out(
        self, frame: bytes, actions: Iterable[of.Action], in_port: int, tunnel_id: int = 0
    ) -> None:
        """Carry out a packet-out; also packets that were buffered, whose action is an output to TABLE.

        tunnel_id: what a packet came with that was buffered. Raises OpenFlowError when it takes too much.
        """
        self.revalidate()
        actions = tuple(actions)
        key = _NO_KEY
        if not all(isinstance(action, of.Output) and action.port <= Port.MAX for action in actions):
            key = self.datapath.key_of(frame)
        key = key._replace(in_port=in_port, tunnel_id=tunnel_id)
        translation = translate_packet_out(actions, Packet(key, frame), self.world)
        self._count(translation, 1, len(frame), self.clock())
        self._learn_sources(translation)
        if translation.drop == DropReason.TOO_MANY_OPERATIONS:
            raise OpenFlowError(BadAction.TOO_MANY, f"more than {MAX_OPERATIONS} operations for one packet")
        program = translation.program
        while program and isinstance(program[0], Controller):
            self.packet_in(PacketInEvent.of(key, program[0], frame))
            program = program[1:]
        if program:
            try:
                sender = in_port if in_port in self.world.ports else 0
                self.datapath.send(frame, program, sender, tunnel_id)
            except VSwitchError as error:  # no room for the program
                log.warning("a packet-out was dropped: %s", error)

    # --- flows -------------------------------------------------------------------------------------------

    def _install(self, key: FlowKey, translation: Translation, proactive: bool) -> None:
        try:
            self.datapath.install(key, translation.program, _idle_timeout(translation))
        except VSwitchError:  # no room for the program: the flow goes on packet by packet
            return
        flow = self.flows[key] = CachedFlow(key, translation, proactive)
        self._flows_of[key.in_port] += 1
        self._link(flow)

    def _remove(self, flow: CachedFlow) -> None:
        """Have the datapath forget a flow; its final counters come later."""
        self._ending.setdefault(flow.key, []).append(_Ending(flow, flow.translation))
        self.datapath.remove(flow.key)
        self._forget(flow)

    def _forget(self, flow: CachedFlow) -> None:
        self._unlink(flow)
        del self.flows[flow.key]
        self._flows_of[flow.key.in_port] -= 1
        if flow.key.drop_mask:
            self._drops.discard(flow.key)

    def _link(self, flow: CachedFlow) -> None:
        translation = flow.translation
        translation.flows.add(flow)
        if not flow.key.drop_mask:  # those under a mask do not outlive a new rule
            self._index.add(flow)
        if len(translation.flows) == 1:
            self._translations.add(translation)
            for step in translation.steps:
                if step.rule is not None:
                    step.rule.flows.add(translation)
            for group in translation.all_groups:
                group.flows.add(translation)
            for thing in translation.things:
                self._dependents.setdefault(thing, set()).add(translation)

    def _unlink(self, flow: CachedFlow) -> None:
        translation = flow.translation
        translation.flows.discard(flow)
        if not flow.key.drop_mask:
            self._index.remove(flow)
        if translation.flows:
            return
        self._translations.discard(translation)
        for step in translation.steps:
            if step.rule is not None:
                step.rule.flows.discard(translation)
        for group in translation.all_groups:
            group.flows.discard(translation)
        for thing in translation.things:
            dependents = self._dependents[thing]
            dependents.discard(translation)
            if not dependents:
                del self._dependents[thing]
        now_ns = self.clock()
        for vlan, mac, port in translation.sources:
            if self.macs.port_of(vlan, mac) == port:
                self.macs.learn(vlan, mac, port, now_ns)

    # --- MAC addresses -----------------------------------------------------------------------------------

    def _learn_sources(self, translation: Translation) -> set[tuple[int, int]]:
        """A packet of this translation came: note where from. Returns the addresses whose place changed."""
        changed: set[tuple[int, int]] = set()
        if translation.sources:
            now_ns = self.clock()
            for vlan, mac, port in translation.sources:
                changed.update(self.macs.learn(vlan, mac, port, now_ns))
            for address in changed:
                self._address_moved(address)
            self.revalidate()
        return changed

    def _address_moved(self, address: tuple[int, int]) -> None:
        """Translations that depend on where this address is are to be made anew."""
        place = (On.ADDRESS, *address)
        if self._memo.depends_on(place):
            self._memo.clear()
        self._stale |= self._dependents_on(place)

    def _age_addresses(self) -> None:
        """Forget the MAC addresses that no packet came from for long."""
        now_ns = self.clock()
        if now_ns < self._next_aging_ns:
            return
        self._next_aging_ns = now_ns + AGING_PERIOD_NS
        for vlan, mac in self.macs.aged(now_ns, self.address_aging_ns):
            users = self._dependents_on((On.ADDRESS, vlan, mac))
            port = self.macs.port_of(vlan, mac)
            if any((vlan, mac, port) in translation.sources for translation in users):
                assert port is not None
                self.macs.learn(vlan, mac, port, self.clock())  # its flows have not been idle for long
            else:
                self.macs.forget(vlan, mac)
                self._address_moved((vlan, mac))
        self.revalidate()

    def forget_addresses(self) -> None:
        """Stations may be behind other ports now: learn all addresses anew."""
        for address in list(self.macs):
            self.macs.forget(*address)
            self._address_moved(address)
        self.revalidate()

    # --- changes -----------------------------------------------------------------------------------------

    def rules_changed(self, changes: Iterable[Change]) -> None:
        """Note which flows have to be looked at again; revalidate() does so."""
        for kind, rule in changes:
            if kind == ChangeKind.ADDED:
                self._added.append(rule)
            else:
                self._stale |= rule.flows
            if rule.tos_mask:
                self._stale |= self._dependents_on((On.REMARK,))
        self._forget_treatments()

    def groups_changed(self, groups: Iterable[Group]) -> None:
        """Groups were changed or deleted, or what they watch went up or down."""
        for group in groups:
            self._stale |= group.flows
        self._forget_treatments()

    def meters_changed(self, meter_ids: Iterable[int]) -> None:
        """Meters were changed: whether one remarks matters to what is looked up after it."""
        for meter_id in meter_ids:
            self._stale |= self._dependents_on((On.METER, meter_id))
        self._forget_treatments()

    def ports_changed(self) -> None:
        """Ports came, went, were configured, or their links did."""
        before, after = self._port_states, self._states_of_ports()
        self._port_states = after
        self._forget_treatments()
        for address in self.macs.of_other_ports_than(after.keys()):
            self.macs.forget(*address)
            self._stale |= self._dependents_on((On.ADDRESS, *address))
        if before is None:
            changed = {thing[1] for thing in self._dependents if thing[0] == On.PORT}
        else:
            changed = {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)}
        if not changed:
            return
        self._stale |= self._dependents_on((On.FLOODED_PORTS,)) | self._dependents_on((On.LIVE_PORTS,))
        for port_no in changed:
            self._stale |= self._dependents_on((On.PORT, port_no))

    def _dependents_on(self, thing: Thing) -> set[Translation]:
        return self._dependents.get(thing, set())

    def _states_of_ports(self) -> dict[int, tuple[object, ...]]:
        """What translations depend on, of each port."""
        ports = self.world.ports
        flooded = set(ports.flood(0))
        return {
            port_no: (
                ports.kind(port_no),
                ports.receives(port_no),
                ports.forwards(port_no),
                ports.tells_misses(port_no),
                ports.is_live(port_no),
                ports.physical(port_no),
                port_no in flooded,
            )
            for port_no in ports.infos
        }

    def revalidate(self) -> None:
        """Translate the flows anew that changes touched; afterwards none forwards by old rules."""
        tos_mask = self.world.tables.tos_mask
        if not (self._stale or self._added or tos_mask != self._tos_mask):
            return
        self._tell_apart(self._tos_mask | tos_mask)
        stale = {flow for translation in self._stale for flow in translation.flows}
        for rule in self._added:
            stale.update(self._index.captured_by(rule))
        self._stale = set()
        self._added = []
        if stale:
            self._take_ended()
        with self.datapath.together():
            for flow in stale:
                if self.flows.get(flow.key) is flow:
                    self._retranslate(flow)
        self._tell_apart(tos_mask)

    def _tell_apart(self, tos_mask: int) -> None:
        """Have these bits of the TOS in the keys of flows.

        A bit that comes: the flows that there are stand for packets without it from then on. A bit that goes:
        those stand for all packets, and the flows of packets with it end.
        """
        if tos_mask == self._tos_mask:
            return
        with self.datapath.together():
            for flow in [flow for flow in self.flows.values() if flow.key.ip_tos & ~tos_mask]:
                self._remove(flow)
            self.datapath.set_tos_mask(tos_mask)
        self._tos_mask = tos_mask

    def _retranslate(self, flow: CachedFlow) -> None:
        try:
            translation = self._translate(flow.key)
        except OutsideKey:
            self._remove(flow)  # the next packet decides
            return
        if translation is flow.translation:
            return
        if flow.proactive and (translation.missed or translation.asks_controller):
            self._remove(flow)
            return
        before = flow.translation
        if before.is_like(translation):
            self._move(flow, translation)
            return
        try:
            self.datapath.install(flow.key, translation.program, _idle_timeout(translation))
        except VSwitchError:  # no room for the program
            self._remove(flow)
            return
        self._ending.setdefault(flow.key, []).append(_Ending(flow, before))
        self._move(flow, translation)

    def _move(self, flow: CachedFlow, translation: Translation) -> None:
        self._unlink(flow)
        flow.translation = translation
        self._link(flow)

    # --- counters ----------------------------------------------------------------------------------------

    def retire_ended(self) -> None:
        """Take in the final counters of programs and entries that ended; let old MAC addresses go."""
        self._take_ended()
        self._age_addresses()

    def _take_ended(self) -> None:
        for key, stats, _replaced, by_itself in self.datapath.ended():
            ending = self._next_ending(key)
            if ending is not None:
                self._credit(ending.flow, ending.translation, stats)
                if by_itself:
                    # It ended before it was replaced or removed: there will be no other answer, and if it was
                    # replaced, there is a new entry now.
                    ending.flow.packets = ending.flow.bytes = 0
                continue
            flow = self.flows.get(key)
            if by_itself and flow is not None:
                self._credit(flow, flow.translation, stats)
                self._forget(flow)
        for packet in self.datapath.counted():
            translation, packets, octets = self._in_hand[packet]
            self._count(translation, -packets, -octets, 0)

    def _next_ending(self, key: FlowKey) -> _Ending | None:
        """The oldest program of this key that is to end."""
        endings = self._ending.get(key)
        if endings is None:
            return None
        ending = endings.pop(0)
        if not endings:
            del self._ending[key]
        return ending

    def credit_all(self) -> Iterator[None]:
        """Bring all counters of rules and groups up to date, part by part: what happens between them is
        counted later."""
        self.retire_ended()
        for part in self.datapath.flow_stats_in_parts():
            self._credit_live(part)
            yield
        self._flush()

    def credit_rules(self, rules: Iterable[Rule]) -> None:
        """Bring these rules' counters up to date, as far as the datapath has carried out its commands."""
        self.retire_ended()
        keys = {
            flow.key
            for rule in rules
            for translation in rule.flows
            for flow in translation.flows
            if flow.key not in self._ending
        }
        self._credit_live(self.datapath.flow_stats(keys) if keys else {})

    def _credit_live(self, live: dict[FlowKey, FlowStats]) -> None:
        for key, stats in live.items():
            flow = self.flows.get(key)
            if flow is not None and key not in self._ending:
                self._credit(flow, flow.translation, stats)
        self._flush()

    def _credit(self, flow: CachedFlow, translation: Translation, stats: FlowStats) -> None:
        """Count for `translation` what `flow` counted since the last time."""
        packets = stats.packets - flow.packets
        if packets > 0:
            self._count(translation, packets, stats.bytes - flow.bytes, stats.last_used_ns)
            flow.packets, flow.bytes = stats.packets, stats.bytes

    def _count(self, translation: Translation, packets: int, octets: int, last_used_ns: int) -> None:
        translation.count(packets, octets, last_used_ns)
        self._unflushed.add(translation)
        if len(self._unflushed) > MAX_UNFLUSHED:
            self._flush()

    def _flush(self) -> None:
        for translation in self._unflushed:
            translation.flush()
        self._unflushed.clear()


def _idle_timeout(translation: Translation) -> float:
    return DROP_IDLE_S if translation.missed else FLOW_IDLE_S
