# SPDX-License-Identifier: Apache-2.0
"""The slow path: a miss becomes a cached flow and its reverse; changed rules change the flows they touch.

Each cached flow remembers the rules it was made of. So a rule's counters are the sums of its flows', and when
a rule changes only the flows that it touches, or would now touch, are translated again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from vswitch.agent.classifier import Classifier
from vswitch.agent.datapath import Datapath
from vswitch.agent.fields import METADATA
from vswitch.agent.pipeline import Step, Translation, translate
from vswitch.agent.ports import PortTable
from vswitch.agent.reverse import mirror_key
from vswitch.agent.tables import Change, ChangeKind, FlowTables, Rule
from vswitch.flow import (
    Controller,
    DropReason,
    FlowKey,
    FlowStats,
    Program,
    Punt,
    PuntReason,
)

FLOW_IDLE_S = 10.0
DROP_IDLE_S = 1.0
"""How long an unused entry stays; entries of packets that no rule wants go sooner."""

MAX_FLOWS = 200_000
"""Cached flows; beyond, packets are forwarded one by one by the slow path."""

_NO_STATS = FlowStats(0, 0, 0)


class CachedFlow:
    """One entry of the datapath's flow table, and how it came about."""

    __slots__ = ("credited", "key", "proactive", "translation")

    def __init__(self, key: FlowKey, translation: Translation, proactive: bool) -> None:
        self.key = key
        self.translation = translation
        self.proactive = proactive  # installed for the reverse of another flow
        self.credited = _NO_STATS  # the part of its counters that its rules have been given


class PacketInEvent(NamedTuple):
    """A packet for the controllers."""

    key: FlowKey
    metadata: int
    action: Controller
    frame: bytes


class SlowPath:
    """Owns the datapath's flow entries. `packet_in` is called with each packet for the controllers."""

    def __init__(
        self,
        datapath: Datapath,
        tables: FlowTables,
        ports: PortTable,
        packet_in: Callable[[PacketInEvent], None],
        clock: Callable[[], int],
        proactive_reverse: bool = True,
    ) -> None:
        self.datapath = datapath
        self.tables = tables
        self.ports = ports
        self.packet_in = packet_in
        self.clock = clock
        self.proactive_reverse = proactive_reverse
        self.flows: dict[FlowKey, CachedFlow] = {}
        self.misses = 0
        self._stale: set[CachedFlow] = set()
        self._added: list[Rule] = []
        tables.credit = self.credit_rules

    # --- packets -----------------------------------------------------------------------------------------

    def handle_punts(self, limit: int = 64) -> int:
        """Dispose of up to `limit` waiting packets; returns how many there were."""
        self.revalidate()
        self.retire_evicted()
        punts = self.datapath.poll_punts(limit)
        for punt in punts:
            self._handle(punt)
        return len(punts)

    def _handle(self, punt: Punt) -> None:
        if punt.reason == PuntReason.ACTION:
            flow = self.flows.get(punt.key)
            translation = translate(punt.key, self.tables, self.ports) if flow is None else flow.translation
            self._to_controllers(punt.key, translation, punt.frame)
            self.datapath.discard(punt.packet, DropReason.DELIVERED)
            return
        self.misses += 1
        flow = self.flows.get(punt.key)
        translation = self._learn(punt.key) if flow is None else flow.translation
        _count(translation.steps, 1, len(punt.frame), self.clock())
        sent = self._to_controllers(punt.key, translation, punt.frame)
        program = without_controller(translation.program)
        if program:
            self.datapath.execute(punt.packet, program)
        else:
            self.datapath.discard(punt.packet, DropReason.DELIVERED if sent else translation.drop)

    def _learn(self, key: FlowKey) -> Translation:
        """Translate a new flow and install it, its reverse too."""
        translation = translate(key, self.tables, self.ports)
        if len(self.flows) < MAX_FLOWS:
            self._install(key, translation, proactive=False)
        if self.proactive_reverse and len(self.flows) < MAX_FLOWS:
            self._install_reverse(key, translation)
        return translation

    def _install_reverse(self, key: FlowKey, translation: Translation) -> None:
        """Install the flow's mirror image, by the rules for it, if there is one that needs no controller."""
        reverse = mirror_key(key, translation.program, self.ports)
        if reverse is None or reverse in self.flows:
            return
        answer = translate(reverse, self.tables, self.ports)
        if not answer.missed and not _asks_controller(answer.program):
            self._install(reverse, answer, proactive=True)

    def _to_controllers(self, key: FlowKey, translation: Translation, frame: bytes) -> bool:
        """Make the packet-ins of a translation; False when it has none."""
        actions = [action for action in translation.program if isinstance(action, Controller)]
        for action in actions:
            metadata = next(
                (
                    step.fields[METADATA]
                    for step in translation.steps
                    if step.table.table_id == action.table_id
                ),
                0,
            )
            self.packet_in(PacketInEvent(key, metadata, action, frame))
        return bool(actions)

    # --- flows -------------------------------------------------------------------------------------------

    def _install(self, key: FlowKey, translation: Translation, proactive: bool) -> None:
        flow = self.flows[key] = CachedFlow(key, translation, proactive)
        _link(flow)
        self.datapath.install(key, translation.program, _idle_timeout(translation))

    def _forget(self, flow: CachedFlow) -> None:
        _unlink(flow)
        self._stale.discard(flow)
        del self.flows[flow.key]
        self.datapath.remove(flow.key)

    def retire_evicted(self) -> None:
        """Give the counters of entries that ended by themselves to their rules, and forget them."""
        for key, stats in self.datapath.evicted():
            flow = self.flows.get(key)
            if flow is not None:
                _credit(flow, stats)
                self._forget(flow)

    # --- changed rules -----------------------------------------------------------------------------------

    def rules_changed(self, changes: Iterable[Change]) -> None:
        """Note which flows have to be looked at again; revalidate() does so."""
        for kind, rule in changes:
            if kind == ChangeKind.ADDED:
                self._added.append(rule)
            else:
                self._stale |= rule.flows

    def ports_changed(self) -> None:
        """Ports came, went or were configured: any flow may be translated differently."""
        self._stale.update(self.flows.values())

    @property
    def needs_revalidation(self) -> bool:
        return bool(self._stale or self._added)

    def revalidate(self) -> None:
        """Translate the flows anew that changes touched; afterwards none forwards by old rules."""
        stale = self._stale | self._captured_by_added()
        self._stale = set()
        self._added = []
        if not stale:
            return
        self.retire_evicted()
        live = [flow for flow in stale if self.flows.get(flow.key) is flow]
        self._credit_from_datapath(live)
        for flow in live:
            self._retranslate(flow)

    def _captured_by_added(self) -> set[CachedFlow]:
        """The flows that a rule added since would have caught."""
        by_table: dict[int, Classifier[Rule]] = {}
        for rule in self._added:
            by_table.setdefault(rule.table_id, Classifier()).add(rule)
        captured = set()
        for table_id, added in by_table.items():
            for flow in self.tables.tables[table_id].flows:
                if any(
                    _captures(added, step)
                    for step in flow.translation.steps
                    if step.table.table_id == table_id
                ):
                    captured.add(flow)
        return captured

    def _retranslate(self, flow: CachedFlow) -> None:
        translation = translate(flow.key, self.tables, self.ports)
        if flow.proactive and translation.missed:
            self._forget(flow)
            return
        before = flow.translation
        _unlink(flow)
        flow.translation = translation
        _link(flow)
        if before.program != translation.program or before.missed != translation.missed:
            self.datapath.install(flow.key, translation.program, _idle_timeout(translation))

    # --- counters ----------------------------------------------------------------------------------------

    def credit_all(self) -> None:
        """Bring all rules' counters up to date."""
        self.retire_evicted()
        for key, stats in self.datapath.flow_stats().items():
            flow = self.flows.get(key)
            if flow is not None:
                _credit(flow, stats)

    def credit_rules(self, rules: Iterable[Rule]) -> None:
        """Bring these rules' counters up to date."""
        self.retire_evicted()
        self._credit_from_datapath({flow for rule in rules for flow in rule.flows})

    def count_packet_out(self, translation: Translation, frame: bytes) -> None:
        """A packet-out went through the tables."""
        _count(translation.steps, 1, len(frame), self.clock())

    def _credit_from_datapath(self, flows: Iterable[CachedFlow]) -> None:
        keys = [flow.key for flow in flows]
        if keys:
            for key, stats in self.datapath.flow_stats(keys).items():
                _credit(self.flows[key], stats)


def without_controller(program: Program) -> Program:
    """What is left for the datapath when the agent makes the packet-ins itself."""
    return tuple(action for action in program if not isinstance(action, Controller))


def _asks_controller(program: Program) -> bool:
    return any(isinstance(action, Controller) for action in program)


def _idle_timeout(translation: Translation) -> float:
    return DROP_IDLE_S if translation.missed else FLOW_IDLE_S


def _captures(added: Classifier[Rule], step: Step) -> bool:
    rule = added.lookup(step.fields)
    return rule is not None and (step.rule is None or rule.priority > step.rule.priority)


def _link(flow: CachedFlow) -> None:
    for table, _fields, rule in flow.translation.steps:
        table.flows.add(flow)
        if rule is not None:
            rule.flows.add(flow)


def _unlink(flow: CachedFlow) -> None:
    for table, _fields, rule in flow.translation.steps:
        table.flows.discard(flow)
        if rule is not None:
            rule.flows.discard(flow)


def _credit(flow: CachedFlow, stats: FlowStats) -> None:
    """Give the rules of `flow` what it has counted since the last time."""
    packets = stats.packets - flow.credited.packets
    octets = stats.bytes - flow.credited.bytes
    flow.credited = stats
    if packets:
        _count(flow.translation.steps, packets, octets, stats.last_used_ns)


def _count(steps: Iterable[Step], packets: int, octets: int, last_used_ns: int) -> None:
    for table, _fields, rule in steps:
        table.lookups += packets
        if rule is not None:
            table.matched += packets
            rule.count(packets, octets, last_used_ns)
