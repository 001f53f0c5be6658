# SPDX-License-Identifier: Apache-2.0
"""Whatever a peer sends, the switch lives, and the session ends only where the specification lets it.

The messages are Ryu's, whole and mutilated: bytes changed, cut off, added, put together from several, in any
order, in pieces of any size.
"""

from __future__ import annotations

import asyncio
import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.protocol.fake_datapath import FakeClock, FakeDatapath
from tests.protocol.frames import arp_request, ping, tagged, tcp, udp
from tests.protocol.harness import FakeSwitch, Peer, add, delete, m, out
from tests.protocol.test_codec import REQUESTS, instruction_lists, matches
from vswitch.openflow import instructions as i
from vswitch.openflow.connection import Connection
from vswitch.openflow.constants import ERROR_DATA_LENGTH, GROUP_ALL, METER_ALL, MessageType
from vswitch.openflow.flow_mod import FlowMod
from vswitch.openflow.groups import Bucket, GroupMod
from vswitch.openflow.message import HEADER, decode_message
from vswitch.openflow.meters import Band, MeterMod

FRAMES = (udp(), tcp(v6=True), ping(), tagged(), arp_request())

EXPRESSIONS = (
    *(text for _message, text in REQUESTS),
    "OFPRoleRequest(dp, ofp.OFPCR_ROLE_SLAVE, 1)",
    "OFPRoleRequest(dp, ofp.OFPCR_ROLE_EQUAL, 0)",
    "OFPSetConfig(dp, 1, 0)",
    "OFPGroupMod(dp, ofp.OFPGC_ADD, ofp.OFPGT_ALL, 5, [OFPBucket(actions=[OFPActionGroup(1)])])",
    "OFPGroupMod(dp, ofp.OFPGC_MODIFY, ofp.OFPGT_FF, 1,"
    " [OFPBucket(0, 2, ofp.OFPG_ANY, [OFPActionOutput(2)])])",
    "OFPGroupMod(dp, ofp.OFPGC_DELETE, group_id=1)",
    "OFPMeterMod(dp, ofp.OFPMC_ADD, 1, 9, [OFPMeterBandDrop(10, 5)])",
    "OFPMeterMod(dp, ofp.OFPMC_DELETE, meter_id=ofp.OFPM_ALL)",
    "OFPFlowMod(dp, match=OFPMatch(in_port=1), cookie=1,"
    " instructions=[OFPInstructionActions(4, [OFPActionOutput(2)])])",
    "OFPFlowMod(dp, match=OFPMatch(eth_type=0x800), priority=9, instructions=[OFPInstructionMeter(3),"
    " OFPInstructionActions(4, [OFPActionDecNwTtl(), OFPActionSetField(ipv4_dst='10.0.0.9'),"
    " OFPActionPushVlan(), OFPActionSetField(vlan_vid=0x1007), OFPActionGroup(1)]),"
    " OFPInstructionGotoTable(3)])",
    "OFPFlowMod(dp, match=OFPMatch(vlan_vid=(0x1000, 0x1000)), table_id=3, flags=1, hard_timeout=1,"
    " instructions=[OFPInstructionActions(3, [OFPActionPopVlan(), OFPActionOutput(ofp.OFPP_FLOOD)])])",
    "OFPFlowMod(dp, command=ofp.OFPFC_DELETE, table_id=ofp.OFPTT_ALL, out_port=ofp.OFPP_ANY,"
    " out_group=ofp.OFPG_ANY, instructions=[])",
    "OFPFlowMod(dp, priority=0, instructions=[OFPInstructionActions(4,"
    " [OFPActionOutput(ofp.OFPP_CONTROLLER, 60)])])",
    "OFPFlowMod(dp, priority=1, buffer_id=0x100, instructions=[OFPInstructionActions(4,"
    " [OFPActionOutput(ofp.OFPP_NORMAL)])])",
    "OFPPacketOut(dp, 0x100, 1, [OFPActionOutput(2)])",
    f"OFPPacketOut(dp, ofp.OFP_NO_BUFFER, 1, [OFPActionOutput(ofp.OFPP_TABLE)], {udp()!r})",
    "OFPPacketOut(dp, ofp.OFP_NO_BUFFER, ofp.OFPP_CONTROLLER,"
    f" [OFPActionOutput(ofp.OFPP_NORMAL)], {tcp()!r})",
)


class Corpus(tuple):
    def __repr__(self):
        return "the messages of EXPRESSIONS"


@pytest.fixture(scope="module")
def corpus(ryu):
    """Valid messages, by Ryu."""
    return Corpus(ryu.build(expression) for expression in EXPRESSIONS)


def framed(data):
    """The message with the length that it has."""
    return data[:2] + min(len(data), 0xFFFF).to_bytes(2, "big") + data[4:]


class Fuzzed:
    """A switch with some state, a peer that sends anything, and one that behaves."""

    def __init__(self):
        self.clock = FakeClock()
        self.datapath = FakeDatapath(self.clock)
        self.switch = FakeSwitch(self.datapath, self.clock)
        self.switch.says(
            GroupMod(0, 1, 0, (Bucket(add({}, out(2, 3)).instructions.items[0].actions),)),
            MeterMod(0, 3, 1, (Band(1, 1000),)),
            add({"in_port": 1}, out(2), priority=1),
        )
        self.hostile = Peer(self.switch.of, "hostile")
        self.answers = bytearray()
        self.hostile.session._write = self._written

    def _written(self, data):
        self.answers += data
        return 0

    def sends(self, data):
        asyncio.run(self.switch.of.receive(self.hostile.session, data))

    def check_answers(self, message):
        """Each error quotes the message that it is about; all that is said is well-formed."""
        data, self.answers = bytes(self.answers), bytearray()
        while data:
            length = HEADER.unpack_from(data)[2]
            answer = decode_message(data[:length])
            if isinstance(answer, m.Error) and message is not None and answer.type != 0xFFFF:
                assert answer.data in (message[:ERROR_DATA_LENGTH], message[: HEADER.size]), answer
            data = data[length:]

    def traffic(self):
        self.clock.advance(0.3)
        for port, frame in enumerate(FRAMES):
            self.switch.receives(port % 3 + 1, frame)
        asyncio.run(self.switch.of.expire_rules())

    def check_and_close(self, still_there=True):
        """The hostile session lives, if it has to; the switch works for the other peer."""
        assert (self.hostile.session.connection.closed is None) == still_there
        self.switch.says(
            m.RoleRequest(2, self.switch.of.generation_id or 0),
            delete(table_id=255),
            GroupMod(2, GROUP_ALL),
            MeterMod(2, METER_ALL),
            m.SetConfig(0, 128),
        )
        mac = self.datapath.infos[1].mac
        for port_no, info in self.datapath.infos.items():
            self.switch.says(m.PortMod(port_no, info.mac, 0, 0x65))
        assert mac == self.datapath.infos[1].mac
        answers = self.switch.says(add({}, out(2)), m.BarrierRequest(xid=77))
        assert answers[-1] == m.BarrierReply(xid=77)
        assert self.switch.receives(1, udp()) == [2]
        assert self.datapath.held == 0
        os.close(self.datapath.punt_fd)


# --- mutations -------------------------------------------------------------------------------------------

changes = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=6)


@st.composite
def mutants(draw):
    """(a message, bytes to change, bytes to cut off, bytes to add, (a message to go on as, from where))"""
    return (
        draw(st.integers(0, len(EXPRESSIONS) - 1)),
        draw(changes),
        draw(st.integers(0, 40) | st.just(0)),
        draw(st.binary(max_size=24) | st.just(b"")),
        draw(st.none() | st.tuples(st.integers(0, len(EXPRESSIONS) - 1), st.integers(8, 80))),
    )


def mutate(corpus, recipe):
    """A message whose length is right and whose rest need not be."""
    index, bytes_changed, cut, added, splice = recipe
    data = bytearray(corpus[index])
    if splice is not None:
        data = data[: splice[1]] + bytearray(corpus[splice[0]])[splice[1] :]
    for position, value in bytes_changed:
        data[position % len(data)] = value
    if cut:
        data = data[: max(HEADER.size, len(data) - cut)]
    return framed(bytes(data + added))


@given(st.lists(mutants(), min_size=1, max_size=12))
@settings(max_examples=max(settings().max_examples, 300))
def test_mutilated_messages(corpus, recipes):
    fuzzed = Fuzzed()
    for recipe in recipes:
        message = mutate(corpus, recipe)
        fuzzed.sends(message)
        fuzzed.check_answers(message)
        fuzzed.traffic()
    fuzzed.check_and_close()


@given(st.lists(st.integers(0, len(EXPRESSIONS) - 1), max_size=30), st.lists(st.integers(1, 90), min_size=1))
def test_valid_messages_in_any_order_and_any_pieces(corpus, order, cuts):
    fuzzed = Fuzzed()
    stream = b"".join(corpus[index] for index in order)
    number = 0
    while stream:
        size = cuts[number % len(cuts)]
        fuzzed.sends(stream[:size])
        stream = stream[size:]
        number += 1
    fuzzed.traffic()
    fuzzed.check_answers(None)
    fuzzed.check_and_close()


@given(matches(), instruction_lists)
def test_every_rule_that_can_be_written_is_carried_out_or_refused(match, instructions):
    """And what was carried out is told as it came."""
    fuzzed = Fuzzed()
    mod = FlowMod(match, i.Instructions.of(*instructions), priority=500)
    answers = fuzzed.switch.says(mod)
    told = [stats for stats in fuzzed.switch.stats() if stats.priority == 500]
    assert len(told) + len(answers) == 1
    assert all((s.match.wire, s.instructions.wire) == (mod.match.wire, mod.instructions.wire) for s in told)
    fuzzed.traffic()
    fuzzed.check_and_close()


@given(st.binary(max_size=400))
def test_any_bytes_after_the_hello(data):
    """A session whose framing is lost ends with an error; until then it lives."""
    fuzzed = Fuzzed()
    fuzzed.sends(data)
    fuzzed.check_answers(None)
    fuzzed.check_and_close(still_there=not _framing_is_lost(data))


def _framing_is_lost(data):
    while len(data) >= HEADER.size:
        length = HEADER.unpack_from(data)[2]
        if length < HEADER.size:
            return True
        if length > len(data):
            return False
        data = data[length:]
    return False


@given(st.integers(0, len(EXPRESSIONS) - 1), changes)
def test_anything_but_a_hello_first_ends_the_session(corpus, index, bytes_changed):
    message = mutate(corpus, (index, bytes_changed, 0, b"", None))
    connection = Connection(0)
    connection.receive(message, 0)
    if message[1] != MessageType.HELLO:
        assert connection.closed is not None and not connection.established
    assert connection.receive(m.FeaturesRequest().encode(), 0) == [] or connection.established


@pytest.mark.nightly
def test_a_million_mutilated_messages(corpus):
    """In long sessions, so that states pile up. FUZZ_SEED repeats a run, FUZZ_SESSIONS shortens it."""
    seed = int(os.environ.get("FUZZ_SEED", random.randrange(1 << 32)))
    print(f"FUZZ_SEED={seed}")
    generator = random.Random(seed)
    for _session in range(int(os.environ.get("FUZZ_SESSIONS", "1000"))):
        fuzzed = Fuzzed()
        for number in range(1000):
            recipe = (
                generator.randrange(len(corpus)),
                [(generator.randrange(300), generator.randrange(256)) for _ in range(generator.randrange(4))],
                generator.choice((0, 0, 0, generator.randrange(40))),
                generator.randbytes(generator.choice((0, 0, 0, generator.randrange(24)))),
                generator.choice(
                    (None, None, (generator.randrange(len(corpus)), generator.randrange(8, 80)))
                ),
            )
            message = mutate(corpus, recipe)
            fuzzed.sends(message)
            fuzzed.check_answers(message)
            if number % 50 == 0:
                fuzzed.traffic()
        fuzzed.check_and_close()
