# SPDX-License-Identifier: Apache-2.0
"""OpenFlow for one packet at a time, without keys, programs or caches: the oracle of the pipeline.

Written from the specification (1.3.5, chapter 5) on frames of frame_model; reads the rules and groups, and
nothing else, from the switch under test.
"""

from __future__ import annotations

import copy
import itertools

from tests.protocol.fake_datapath import remark
from tests.protocol.frame_model import Frame
from vswitch.openflow import actions as of
from vswitch.openflow.constants import PacketInReason, Port
from vswitch.openflow.instructions import (
    ApplyActions,
    ClearActions,
    GotoTable,
    Meter,
    WriteActions,
    WriteMetadata,
)

ALL, SELECT, INDIRECT, FAILOVER = range(4)
ORDER = (
    of.CopyTtlIn, of.PopVlan, of.PopMpls, of.PopPbb, of.PushMpls, of.PushPbb, of.PushVlan, of.CopyTtlOut,
    of.DecNwTtl, of.DecMplsTtl, of.SetNwTtl, of.SetMplsTtl, of.SetField, of.SetQueue, of.Group, of.Output,
)  # fmt: skip


class TooMany(Exception):
    """More operations than the switch does with one packet."""


class PacketEnds(Exception):
    """Its TTL is not valid any more."""


class Naive:
    """`tables`: [[rule, …], …], each table's in the order in which the rules came. max_operations: with more,
    a packet is dropped, whatever its TTL."""

    def __init__(self, tables, groups, ports, max_operations=1 << 30):
        self.tables, self.groups, self.ports = tables, groups, ports
        self.max_operations = max_operations
        self.macs = {}
        self.counts = {}
        self.uplinks = {}  # of tunnels
        self.quiet = set()  # ports with NO_PACKET_IN
        self.exceeded = False  # whether packets exceed the meters, whose numbers are their levels

    def possibilities(self, data, in_port, tunnel_id=0, actions=None):
        """What may happen to a packet, one for each bucket that select groups may choose: a list of
        (outputs, packet-ins, MAC table). The caller puts the right table into `macs`."""
        found = []
        macs = dict(self.macs)
        for choices in itertools.product(range(3), repeat=2):
            self.macs = dict(macs)
            try:
                Way(self, data, in_port, tunnel_id, choices, ttl_matters=False).run(actions)
            except TooMany:
                found.append(([], [], self.macs))
                continue
            self.macs = dict(macs)
            found.append((*Way(self, data, in_port, tunnel_id, choices).run(actions), self.macs))
        self.macs = macs
        return found


class Way:
    """`choices`: the number of the bucket that group 1, group 2 chooses, if it is a select group."""

    def __init__(self, switch, data, in_port, tunnel_id, choices, ttl_matters=True):
        self.ttl_matters, self.operations = ttl_matters, 0
        self.switch, self.in_port, self.choices = switch, in_port, choices
        self.frame, self.tunnel_id, self.metadata = Frame(data), tunnel_id, 0
        self.outputs, self.packet_ins, self.rules = [], [], []

    def run(self, actions):
        try:
            if actions is None:
                self.tables()
            else:
                self.apply(actions, (PacketInReason.ACTION, -1, 0))
        except PacketEnds:
            pass
        return self.outputs, self.packet_ins

    def count(self):
        self.operations += 1
        if self.operations > self.switch.max_operations:
            raise TooMany

    # --- tables ---

    def matches(self, rule):
        fields = self.frame.fields()
        uplinks = self.switch.uplinks
        fields |= {"in_port": self.in_port, "in_phy_port": uplinks.get(self.in_port, self.in_port)}
        fields |= {"metadata": self.metadata, "tunnel_id": self.tunnel_id}
        for oxm in rule.match:
            mask = (1 << oxm.field.bits) - 1 if oxm.mask is None else oxm.mask
            if mask and (oxm.field.name not in fields or fields[oxm.field.name] & mask != oxm.value):
                return False
        return True

    def tables(self):
        action_set, reason = {}, PacketInReason.ACTION
        table_id = 0
        while table_id is not None:
            self.count()
            matching = [rule for rule in self.switch.tables[table_id] if self.matches(rule)]
            if not matching:
                return
            rule = max(matching, key=lambda rule: rule.priority)
            self.rules.append(rule)
            instructions = {type(i): i for i in rule.instructions}
            own = PacketInReason.ACTION
            if rule.priority == 0 and not any(oxm.mask != 0 for oxm in rule.match):
                own = PacketInReason.NO_MATCH
            if Meter in instructions and self.switch.exceeded:
                remark(self.frame, instructions[Meter].meter_id)
            if ApplyActions in instructions:
                self.apply(instructions[ApplyActions].actions, (own, rule.cookie, table_id))
            if ClearActions in instructions:
                action_set = {}
            if WriteActions in instructions:
                for action in instructions[WriteActions].actions:
                    name = action.oxm.field.name if isinstance(action, of.SetField) else ""
                    action_set[type(action), name] = action
                    if isinstance(action, of.Output):
                        reason = own
            if WriteMetadata in instructions:
                write = instructions[WriteMetadata]
                self.metadata = self.metadata & ~write.mask | write.metadata & write.mask
            last = table_id
            table_id = instructions[GotoTable].table_id if GotoTable in instructions else None
        self.apply(in_order(action_set), (reason, -1, last))

    # --- actions ---

    def apply(self, actions, cause):
        for action in actions:
            self.act(action, cause)

    def act(self, action, cause):
        self.count()
        frame = self.frame
        match action:
            case of.Output(port, _max_len):
                self.output(port, cause)
            case of.Group(group_id):
                self.group(group_id, (PacketInReason.ACTION, -1, cause[2]))
            case of.SetField(oxm):
                if oxm.field.name == "tunnel_id":
                    self.tunnel_id = oxm.value
                else:
                    frame.set_field(oxm.field.name, oxm.value)
            case of.PushVlan(ethertype) | of.PushMpls(ethertype) | of.PushPbb(ethertype):
                frame.push(ethertype)
            case of.PopVlan():
                frame.pop_vlan()
            case of.PopMpls(ethertype):
                frame.pop_mpls(ethertype)
            case of.PopPbb():
                frame.pop_pbb()
            case of.SetNwTtl(ttl):
                frame.set_ttl(ttl, False)
            case of.SetMplsTtl(ttl):
                frame.set_ttl(ttl, True)
            case of.DecNwTtl() | of.DecMplsTtl():
                if not frame.dec_ttl(isinstance(action, of.DecMplsTtl)) and self.ttl_matters:
                    self.packet_in((PacketInReason.INVALID_TTL, *cause[1:]))
                    raise PacketEnds
            case of.CopyTtlOut():
                frame.copy_ttl(False)
            case of.CopyTtlIn():
                frame.copy_ttl(True)
            case of.SetQueue():
                pass
            case _:
                raise AssertionError(action)

    def packet_in(self, cause):
        reason, cookie, table_id = cause
        if reason == PacketInReason.NO_MATCH and self.in_port in self.switch.quiet:
            return
        context = cookie % 2**64, table_id, self.metadata, self.tunnel_id
        self.packet_ins.append((reason, *context, bytes(self.frame)))

    def output(self, port, cause):
        if port == Port.CONTROLLER:
            self.packet_in(cause)
        elif port in (Port.ALL, Port.FLOOD):
            self.flood()
        elif port == Port.NORMAL:
            self.normal()
        elif port == Port.TABLE:
            self.on_a_copy(self.tables)
        elif port == Port.IN_PORT:
            self.send(self.in_port)
        elif port != self.in_port:
            self.send(port)

    def send(self, port):
        self.count()
        if port in self.switch.ports and port != Port.LOCAL:
            tunnel_id = self.tunnel_id if self.switch.ports[port] == "tunnel" else 0
            self.outputs.append((port, bytes(self.frame), tunnel_id))

    def flood(self):
        for port in sorted(self.switch.ports):
            if port not in (self.in_port, Port.LOCAL):
                self.send(port)

    def normal(self):
        fields = self.frame.fields()
        vlan, src, dst = fields["vlan_vid"] & 0xFFF, fields["eth_src"], fields["eth_dst"]
        if not src >> 40 & 1 and self.in_port in self.switch.ports:
            self.switch.macs[vlan, src] = self.in_port
        if 0x0180C2000000 <= dst <= 0x0180C200000F:
            return
        port = self.switch.macs.get((vlan, dst))
        if dst >> 40 & 1 or port is None:
            self.flood()
        elif port != self.in_port:
            self.send(port)

    def group(self, group_id, cause):
        group = self.switch.groups.get(group_id)
        if group is None:
            return
        buckets = list(group.buckets)
        if group.type == SELECT:
            buckets = [bucket for bucket in buckets if self.live(bucket) and bucket.weight]
            buckets = buckets[self.choices[group_id - 1] % len(buckets) :][:1] if buckets else []
        elif group.type == FAILOVER:
            buckets = [bucket for bucket in buckets if self.live(bucket)][:1]
        for bucket in buckets:
            self.count()
            actions = {
                (type(action), action.oxm.field.name if isinstance(action, of.SetField) else ""): action
                for action in bucket.actions
            }
            self.on_a_copy(lambda actions=actions: self.apply(in_order(actions), cause))

    def live(self, bucket):
        return bucket.watch_port in {Port.ANY, *self.switch.ports} - {Port.LOCAL}

    def on_a_copy(self, act):
        before = copy.deepcopy(self.frame), self.tunnel_id, self.metadata
        try:
            act()
        except PacketEnds:
            pass
        self.frame, self.tunnel_id, self.metadata = before


def in_order(action_set):
    actions = sorted(action_set.values(), key=lambda action: ORDER.index(type(action)))
    if any(isinstance(action, of.Group) for action in actions):
        actions = [action for action in actions if not isinstance(action, of.Output)]
    return actions
