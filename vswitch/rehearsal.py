# SPDX-License-Identifier: Apache-2.0
"""What a switch does with its first packets, done once before it is ready, on a datapath that nobody is at.

Python runs a function faster when it has run a few times, and whatever is looked up for the first time takes
longer: a first packet took twice as long as later ones, at each of the translations that it waits for.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator

from vswitch import layout
from vswitch.agent.session import Session
from vswitch.agent.switch import OpenFlowSwitch
from vswitch.agent.trace import build_frame
from vswitch.datapath import Datapath
from vswitch.flow import PortCounters, PortInfo
from vswitch.keys import key_words
from vswitch.layout import PuntKind
from vswitch.openflow import spec
from vswitch.openflow.actions import Output, SetField
from vswitch.openflow.connection import Connection
from vswitch.openflow.constants import MAX_LEN_NO_BUFFER, Port
from vswitch.openflow.flow_mod import FlowMod
from vswitch.openflow.instructions import ApplyActions, GotoTable, Instruction, Instructions, WriteMetadata
from vswitch.openflow.message import Message
from vswitch.openflow.messages import BarrierRequest, PacketOut
from vswitch.openflow.oxm import ARP, BY_NAME, IPV4, IPV6, Match, Oxm
from vswitch.openflow.spec import Priority, Table

ROUNDS = 20
OVERLAY = VM, TUNNEL = 1, spec.TUNNEL_PORT_BASE
ASKING = 2, 3
NORMAL = 4, 5
"""Pairs of ports: of an overlay; whose packets go to the controller; that are forwarded as OFPP_NORMAL."""

VNI = 42
BROADCAST, IPV6_GROUP = 0xFFFF_FFFF_FFFF, 0x3333_FF00_0000
ICMP, ICMPV6 = 1, 58
ECHO_REPLY, ECHO_REQUEST, NEIGHBOUR_SOLICITATION = 0, 8, 135


def rehearse() -> None:
    """Forward packets of new flows by an overlay's rules, a learning controller's, and OFPP_NORMAL."""
    stage = Stage(dpid=1)
    try:
        asyncio.run(Rehearsal(stage).run())
    finally:
        stage.close()
        gc.collect()


class Stage(Datapath):
    """A datapath without workers: what it is told waits for them."""

    def ports(self) -> list[PortInfo]:
        kinds = {TUNNEL: "tunnel"}
        return [
            PortInfo(number, "", kinds.get(number, "tap"), bytes(6), 1500, True, "", PortCounters())
            for number in (*OVERLAY, *ASKING, *NORMAL)
        ]

    def arrive(self, frame: bytes, in_port: int) -> None:
        """Have a packet of a new flow wait for the agent, as worker 0 does."""
        number = int(self._words[layout.PUNT_HEAD_OFFSET // 8])
        slot = number % layout.PUNTS
        row = self.t["punts"][slot]
        row["kind"], row["slot"], row["length"] = PuntKind.MISS, slot, len(frame)
        row["packets"], row["bytes"] = 1, len(frame)
        tunnel_id = VNI if in_port == TUNNEL else 0
        row["key"] = [word - (word >> 63 << 64) for word in key_words(self.key_of(frame, in_port, tunnel_id))]
        self.memory.write(int(self.t["punt_memory"]) + slot * layout.PUNT_SLOT_SIZE, frame)
        self._words[layout.PUNT_HEAD_OFFSET // 8] = number + 1


class Rehearsal:
    """The stage's switch, and its controller."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.switch = OpenFlowSwitch(stage, "rehearsal", 1, time.monotonic_ns)
        self.controller = Connection(time.monotonic_ns())
        self.session = Session("rehearsal", Connection(time.monotonic_ns()), lambda data: 0)
        self.switch.sessions.append(self.session)

    async def run(self) -> None:
        self.session.flush()
        await self._say(*_rules())
        for number in range(2, 2 * ROUNDS + 2, 2):
            frames = _conversation(number, number + 1)
            for first, second in (OVERLAY, NORMAL):
                for place, frame in enumerate(frames):
                    self._arrives(frame, second if place % 2 else first)
            await self._learn(number, *frames)
            self.switch.tick()
            await self.switch.expire_rules()

    def _arrives(self, frame: bytes, port: int) -> None:
        self.stage.arrive(frame, port)
        self.switch.slowpath.handle_punts()

    async def _learn(self, asking: int, question: bytes, answer: bytes, *_more: bytes) -> None:
        """As a learning controller does: flood the question, and make a rule when the answer comes."""
        here, there = ASKING
        self._arrives(question, here)
        await self._say(PacketOut(here, (Output(Port.FLOOD),), question))
        self._arrives(answer, there)
        back = ApplyActions((Output(here),))
        rule = FlowMod(Match.of(in_port=there, eth_dst=asking), Instructions.of(back), priority=Priority.HOST)
        await self._say(rule, PacketOut(there, back.actions, answer), BarrierRequest())

    async def _say(self, *messages: Message) -> None:
        for message in messages:
            self.controller.send(message)
        await self.switch.receive(self.session, self.controller.data_to_send())


def _rules() -> Iterator[FlowMod]:
    """Of an overlay's pipeline (openflow/spec.py), of a learning controller, and of one for OFPP_NORMAL."""
    vni, flood = spec.vni_metadata(VNI), spec.FLOOD_NEXT_HOP
    enter = WriteMetadata(*vni), GotoTable(Table.POLICY)
    group_bit = (1 << 40, 1 << 40)
    to_tunnel = SetField(Oxm(BY_NAME["tunnel_id"], VNI)), Output(TUNNEL)

    def rule(table: int, priority: int, match: Match, *instructions: Instruction) -> FlowMod:
        return FlowMod(match, Instructions.of(*instructions), table, priority=priority)

    def hop(number: int) -> tuple[Instruction, Instruction]:
        return WriteMetadata(*spec.next_hop_metadata(number)), GotoTable(Table.OUTPUT)

    yield rule(Table.CLASSIFICATION, Priority.DEFAULT, Match.of(in_port=VM), *enter)
    yield rule(Table.CLASSIFICATION, Priority.DEFAULT, Match.of(in_port=TUNNEL, tunnel_id=VNI), *enter)
    yield rule(Table.POLICY, Priority.DEFAULT, Match.of(), GotoTable(Table.FORWARDING))
    yield rule(Table.FORWARDING, Priority.FLOOD, Match.of(metadata=vni, eth_dst=group_bit), *hop(flood))
    for number in range(2, 2 * ROUNDS + 2):  # even ones are here
        to = hop(TUNNEL if number % 2 else VM)
        yield rule(Table.FORWARDING, Priority.HOST, Match.of(metadata=vni, eth_dst=number), *to)
    for next_hop, actions in ((TUNNEL, to_tunnel), (VM, (Output(VM),)), (flood, (Output(VM), *to_tunnel))):
        match = Match.of(metadata=spec.output_metadata(VNI, next_hop))
        yield rule(Table.OUTPUT, Priority.HOST, match, ApplyActions(actions))
    controller = Output(Port.CONTROLLER, MAX_LEN_NO_BUFFER)
    yield rule(0, Priority.MISS, Match.of(), ApplyActions((controller,)))
    for port in NORMAL:
        yield rule(0, Priority.DEFAULT, Match.of(in_port=port), ApplyActions((Output(Port.NORMAL),)))


def _conversation(one: int, other: int) -> list[bytes]:
    """What two hosts say first, in turn: question and answer of ARP, a ping and its answer, a question of
    IPv6. Their numbers are their addresses."""
    there = {"eth_src": one, "eth_dst": other}
    back = {"eth_src": other, "eth_dst": one}
    arp = {"eth_type": ARP, "arp_sha": one, "arp_spa": one, "arp_tpa": other}
    answer = {
        "eth_type": ARP,
        "arp_op": 2,
        "arp_sha": other,
        "arp_spa": other,
        "arp_tha": one,
        "arp_tpa": one,
    }
    ping = {"eth_type": IPV4, "ip_proto": ICMP}
    question = {"eth_type": IPV6, "ip_proto": ICMPV6, "icmpv6_type": NEIGHBOUR_SOLICITATION}
    return [
        build_frame({**arp, "eth_src": one, "eth_dst": BROADCAST}),
        build_frame({**answer, **back}),
        build_frame({**ping, **there, "ipv4_src": one, "ipv4_dst": other, "icmpv4_type": ECHO_REQUEST}),
        build_frame({**ping, **back, "ipv4_src": other, "ipv4_dst": one, "icmpv4_type": ECHO_REPLY}),
        build_frame(
            {**question, "eth_src": one, "eth_dst": IPV6_GROUP | other, "ipv6_src": one, "ipv6_dst": other}
        ),
    ]
