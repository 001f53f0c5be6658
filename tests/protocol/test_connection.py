# SPDX-License-Identifier: Apache-2.0
"""The connection engine: framing, version negotiation, keep-alive, and what malformed bytes are answered."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.openflow import messages as m
from vswitch.openflow import oxm
from vswitch.openflow.connection import ECHO_INTERVAL_NS, Connection
from vswitch.openflow.constants import (
    BadAction,
    BadInstruction,
    BadMatch,
    BadRequest,
    ErrorType,
    FlowModFailed,
    GroupModFailed,
    HelloFailed,
    MultipartType,
)
from vswitch.openflow.flow_mod import FlowMod
from vswitch.openflow.instructions import ApplyActions, Instructions
from vswitch.openflow.message import HEADER, decode_message
from vswitch.openflow.multipart import FlowFilter, MultipartRequest
from vswitch.openflow.oxm import Match

HELLO = m.Hello().encode()


def frames(data):
    while data:
        length = HEADER.unpack_from(data)[2]
        yield data[:length]
        data = data[length:]


def established():
    connection = Connection(0)
    connection.receive(HELLO, 0)
    connection.data_to_send()
    return connection


def answers(connection):
    return [decode_message(frame) for frame in frames(connection.data_to_send())]


def error_for(data):
    """(type, code) of the one error that `data` is answered with; the session goes on."""
    connection = established()
    assert connection.receive(data, 0) == []
    (error,) = answers(connection)
    assert connection.closed is None
    assert isinstance(error, m.Error) and error.xid == HEADER.unpack_from(data)[3]
    assert error.data == data
    return error.type, error.code


def message(kind, body=b"", xid=7, version=4):
    return HEADER.pack(version, kind, HEADER.size + len(body), xid) + body


# --- framing ---------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(1, 50), min_size=1))
def test_messages_come_out_however_the_stream_is_cut(bodies, cuts):
    stream = HELLO + b"".join(m.Error(1, 1, body, xid=n).encode() for n, body in enumerate(bodies))
    connection = Connection(0)
    received = []
    while stream:
        size = cuts[len(stream) % len(cuts)]
        received += connection.receive(stream[:size], 0)
        stream = stream[size:]
    assert [(e.xid, e.data) for e in received] == list(enumerate(bodies))


def test_two_engines_meet_back_to_back():
    left, right = Connection(0), Connection(0)
    left.receive(right.data_to_send(), 0)
    right.receive(left.data_to_send(), 0)
    assert left.established and right.established
    left.send(m.FeaturesRequest(xid=left.next_xid()))
    (request,) = right.receive(left.data_to_send(), 0)
    assert request == m.FeaturesRequest(xid=2)


def test_a_length_below_the_header_ends_the_connection():
    connection = established()
    assert connection.receive(HEADER.pack(4, 2, 7, 9), 0) == []
    (error,) = answers(connection)
    assert (error.type, error.code, error.xid) == (ErrorType.BAD_REQUEST, BadRequest.BAD_LEN, 9)
    assert "length 7" in connection.closed
    assert connection.receive(m.EchoRequest().encode(), 0) == []


# --- negotiation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hello",
    [
        m.Hello().encode(),
        m.Hello(frozenset({1, 4, 6})).encode(),
        message(0, version=4),
        message(0, version=6),
        message(0, struct.pack("!HHI", 1, 8, 0x12), version=6),
        message(0, struct.pack("!HH4xHHI", 99, 8, 1, 8, 0x10)),
    ],
    ids=["bitmap", "several", "no bitmap", "newer", "newer with bitmap", "unknown element"],
)
def test_hello_that_can_speak_1_3_is_accepted(hello):
    connection = Connection(0)
    assert connection.receive(hello, 0) == []
    assert connection.established


@pytest.mark.parametrize(
    "first",
    [message(0, version=1), m.Hello(frozenset({1, 5})).encode(), m.FeaturesRequest().encode(), message(99)],
    ids=["1.0 only", "bitmap without 1.3", "no hello", "nonsense"],
)
def test_anything_else_ends_it_with_hello_failed(first):
    connection = Connection(0)
    connection.data_to_send()
    connection.receive(first + m.FeaturesRequest().encode(), 0)
    (error,) = answers(connection)
    assert (error.type, error.code) == (ErrorType.HELLO_FAILED, HelloFailed.INCOMPATIBLE)
    assert error.data
    assert connection.closed and not connection.established


def test_refusal_by_the_peer_is_named():
    connection = Connection(0)
    connection.receive(m.Error(0, 0, b"no").encode(), 0)
    assert "HELLO_FAILED/INCOMPATIBLE" in connection.closed


# --- keep-alive ------------------------------------------------------------------------------------------


def test_silent_peer_is_probed_then_given_up():
    connection = established()
    assert connection.next_timer() == ECHO_INTERVAL_NS
    connection.handle_timer(ECHO_INTERVAL_NS - 1)
    assert answers(connection) == []
    connection.handle_timer(ECHO_INTERVAL_NS)
    (probe,) = answers(connection)
    assert isinstance(probe, m.EchoRequest)
    connection.handle_timer(2 * ECHO_INTERVAL_NS)
    assert connection.closed == "the peer is silent"
    assert connection.next_timer() is None


def test_answer_to_the_probe_keeps_the_connection():
    connection = established()
    connection.handle_timer(ECHO_INTERVAL_NS)
    (probe,) = answers(connection)
    connection.receive(m.EchoReply(probe.data, xid=probe.xid).encode(), ECHO_INTERVAL_NS + 1)
    assert connection.next_timer() == 2 * ECHO_INTERVAL_NS + 1
    assert connection.closed is None


def test_silence_tells_nothing_while_nobody_listens():
    connection = established()
    connection.attend(9 * ECHO_INTERVAL_NS)
    connection.handle_timer(9 * ECHO_INTERVAL_NS)
    assert connection.closed is None and answers(connection) == []
    assert connection.next_timer() == 10 * ECHO_INTERVAL_NS


def test_echo_is_answered_with_its_data():
    connection = established()
    connection.receive(m.EchoRequest(b"abc", xid=3).encode(), 0)
    assert answers(connection) == [m.EchoReply(b"abc", xid=3)]


# --- malformed messages ----------------------------------------------------------------------------------

ERRORS = {
    "wrong version": (message(5, version=1), BadRequest.BAD_VERSION),
    "unknown type": (message(77), BadRequest.BAD_TYPE),
    "short group-mod": (message(15, bytes(4)), BadRequest.BAD_LEN),
    "short meter-mod": (message(29, bytes(4)), BadRequest.BAD_LEN),
    "meter-mod that ends inside a band": (
        message(29, struct.pack("!HHIHHI", 0, 1, 1, 1, 16, 5)),
        BadRequest.BAD_LEN,
    ),
    "meter band of a wrong length": (
        message(29, struct.pack("!HHIHHII4x", 0, 1, 1, 1, 24, 5, 0)),
        BadRequest.BAD_LEN,
    ),
    "long table-mod": (message(17, bytes(12)), BadRequest.BAD_LEN),
    "short set-async": (message(28, bytes(20)), BadRequest.BAD_LEN),
    "short queue configuration": (message(22, bytes(4)), BadRequest.BAD_LEN),
    "experimenter multipart": (
        message(18, struct.pack("!HH4xII", 0xFFFF, 0, 1, 2)),
        BadRequest.BAD_EXPERIMENTER,
    ),
    "features with a body": (message(5, b"12345678"), BadRequest.BAD_LEN),
    "short set-config": (message(9, b"1"), BadRequest.BAD_LEN),
    "short flow-mod": (message(14, bytes(20)), BadRequest.BAD_LEN),
    "short packet-out": (message(13, bytes(4)), BadRequest.BAD_LEN),
    "packet-out with too many actions": (
        message(13, struct.pack("!IIH6x", 0xFFFFFFFF, 1, 64)),
        BadRequest.BAD_LEN,
    ),
    "unknown multipart": (message(18, struct.pack("!HH4x", 77, 0)), BadRequest.BAD_MULTIPART),
    "multipart with a body": (message(18, struct.pack("!HH4x8x", 0, 0)), BadRequest.BAD_LEN),
    "port stats without a body": (message(18, struct.pack("!HH4x", 4, 0)), BadRequest.BAD_LEN),
}


@pytest.mark.parametrize(("data", "code"), ERRORS.values(), ids=ERRORS.keys())
def test_malformed_requests(data, code):
    assert error_for(data) == (ErrorType.BAD_REQUEST, code)


def flow_mod(match=b"", instructions=b"", command=0, flags=0, match_type=1, match_length=None):
    length = 4 + len(match) if match_length is None else match_length
    head = FlowMod.LAYOUT.pack(0, 0, 0, command, 0, 0, 1, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, flags)
    body = struct.pack("!HH", match_type, length) + match
    return message(14, head + body + bytes(-len(body) % 8) + instructions)


def tlv(number, value, mask=None, oxm_class=0x8000):
    return struct.pack("!HBB", oxm_class, number << 1 | (mask is not None), len(value + (mask or b""))) + (
        value + (mask or b"")
    )


IPV4_TYPE = tlv(5, b"\x08\x00")
MATCH_ERRORS = {
    "standard match": (flow_mod(match_type=0), BadMatch.BAD_TYPE),
    "length below the header": (flow_mod(match_length=3), BadMatch.BAD_LEN),
    "length beyond the message": (flow_mod(match_length=400), BadMatch.BAD_LEN),
    "field ends early": (flow_mod(tlv(0, b"1234")[:6]), BadMatch.BAD_LEN),
    "header ends early": (flow_mod(b"\x80\x00"), BadMatch.BAD_LEN),
    "wrong field length": (flow_mod(tlv(0, b"12")), BadMatch.BAD_LEN),
    "unknown field": (flow_mod(tlv(40, b"1")), BadMatch.BAD_FIELD),
    "unknown class": (flow_mod(tlv(0, b"1234", oxm_class=1)), BadMatch.BAD_FIELD),
    "mask where none may be": (flow_mod(tlv(0, b"1234", b"\xff" * 4)), BadMatch.BAD_MASK),
    "value beyond the field": (flow_mod(IPV4_TYPE + tlv(8, b"\x40")), BadMatch.BAD_VALUE),
    "bits outside the mask": (flow_mod(tlv(3, b"123456", bytes(6))), BadMatch.BAD_WILDCARDS),
    "missing prerequisite": (flow_mod(tlv(11, b"1234")), BadMatch.BAD_PREREQ),
    "wrong prerequisite": (flow_mod(tlv(5, b"\x86\xdd") + tlv(11, b"1234")), BadMatch.BAD_PREREQ),
    "late prerequisite": (flow_mod(tlv(11, b"1234") + IPV4_TYPE), BadMatch.BAD_PREREQ),
    "PCP of an untagged frame": (flow_mod(tlv(6, bytes(2)) + tlv(7, b"\1")), BadMatch.BAD_PREREQ),
    "the same field twice": (flow_mod(IPV4_TYPE + IPV4_TYPE), BadMatch.DUP_FIELD),
}


@pytest.mark.parametrize(("data", "code"), MATCH_ERRORS.values(), ids=MATCH_ERRORS.keys())
def test_malformed_matches(data, code):
    assert error_for(data) == (ErrorType.BAD_MATCH, code)


def apply_actions(*actions):
    body = b"".join(actions)
    return struct.pack("!HH4x", 4, 8 + len(body)) + body


def set_field(body, length=None):
    padded = body + bytes(-(len(body) + 4) % 8)
    return struct.pack("!HH", 25, length or 4 + len(padded)) + padded


ACTION_ERRORS = {
    "unknown action": (struct.pack("!HH4x", 99, 8), BadAction.BAD_TYPE),
    "shorter than an action": (struct.pack("!HH4x", 0, 4), BadAction.BAD_LEN),
    "no multiple of 8": (struct.pack("!HH12x", 0, 12), BadAction.BAD_LEN),
    "longer than the list": (struct.pack("!HH4x", 0, 64), BadAction.BAD_LEN),
    "output of 8 bytes": (struct.pack("!HH4x", 0, 8), BadAction.BAD_LEN),
    "set-field of nothing known": (set_field(tlv(77, b"1")), BadAction.BAD_SET_TYPE),
    "set-field with a mask": (set_field(tlv(3, b"123456", b"\xff" * 6)), BadAction.BAD_SET_TYPE),
    "set-field of wrong length": (set_field(tlv(3, b"12")), BadAction.BAD_SET_LEN),
    "set-field beyond the field": (set_field(tlv(7, b"\x08")), BadAction.BAD_SET_ARGUMENT),
}


@pytest.mark.parametrize(("action", "code"), ACTION_ERRORS.values(), ids=ACTION_ERRORS.keys())
def test_malformed_actions(action, code):
    assert error_for(flow_mod(instructions=apply_actions(action))) == (ErrorType.BAD_ACTION, code)


def test_malformed_buckets():
    def group_mod(*buckets):
        return message(15, struct.pack("!HBxI", 0, 0, 1) + b"".join(buckets))

    bad_bucket = (ErrorType.GROUP_MOD_FAILED, GroupModFailed.BAD_BUCKET)
    assert error_for(group_mod(struct.pack("!HHII4x", 8, 0, 0, 0))) == bad_bucket
    assert error_for(group_mod(struct.pack("!HHII4x", 20, 0, 0, 0), bytes(4))) == bad_bucket
    assert error_for(group_mod(struct.pack("!HHII4x", 24, 0, 0, 0))) == bad_bucket
    assert error_for(group_mod(bytes(3))) == bad_bucket
    bucket = struct.pack("!HHII4x", 24, 0, 0, 0) + struct.pack("!HH4x", 99, 8)
    assert error_for(group_mod(bucket)) == (ErrorType.BAD_ACTION, BadAction.BAD_TYPE)


GOTO = struct.pack("!HHB3x", 1, 8, 3)
INSTRUCTION_ERRORS = {
    "unknown": (struct.pack("!HH4x", 99, 8), BadInstruction.UNKNOWN_INST),
    "unknown experimenter": (struct.pack("!HH4x", 0xFFFF, 8), BadInstruction.BAD_EXPERIMENTER),
    "too short": (struct.pack("!HH4x", 1, 4), BadInstruction.BAD_LEN),
    "too long": (struct.pack("!HH4x", 1, 64), BadInstruction.BAD_LEN),
    "goto of 16 bytes": (struct.pack("!HHB11x", 1, 16, 3), BadInstruction.BAD_LEN),
    "cut off": (GOTO[:4], BadInstruction.BAD_LEN),
    "twice the same": (GOTO + GOTO, BadInstruction.UNSUP_INST),
}


@pytest.mark.parametrize(("data", "code"), INSTRUCTION_ERRORS.values(), ids=INSTRUCTION_ERRORS.keys())
def test_malformed_instructions(data, code):
    assert error_for(flow_mod(instructions=data)) == (ErrorType.BAD_INSTRUCTION, code)


def test_unknown_commands_and_flags():
    assert error_for(flow_mod(command=9)) == (ErrorType.FLOW_MOD_FAILED, FlowModFailed.BAD_COMMAND)
    assert error_for(flow_mod(flags=0x20)) == (ErrorType.FLOW_MOD_FAILED, FlowModFailed.BAD_FLAGS)


def test_errors_are_never_answered():
    connection = established()
    assert connection.receive(message(1, b"x"), 0) == []
    assert connection.data_to_send() == b""


# --- fuzzing ---------------------------------------------------------------------------------------------

SAMPLES = [
    FlowMod(Match.of(in_port=1, eth_type=0x800, ipv4_dst=1), Instructions.of(ApplyActions(()))).encode(),
    m.PacketOut(1, (), b"frame").encode(),
    m.Hello().encode(),
    m.RoleRequest(2, 1).encode(),
    MultipartRequest(MultipartType.FLOW, FlowFilter(Match.of())).encode(),
]


@given(
    st.sampled_from(SAMPLES),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6),
    st.integers(0, 60),
)
def test_mutated_messages_raise_nothing(sample, changes, cut):
    data = bytearray(sample)
    for position, value in changes:
        data[position % len(data)] = value
    connection = established()
    connection.receive(bytes(data[: len(data) - cut] if cut < len(data) else data), 0)
    connection.data_to_send()


@given(st.binary(max_size=300), st.integers(0, 30))
def test_random_bodies_raise_nothing(body, kind):
    connection = established()
    for received in connection.receive(message(kind, body), 0):
        assert decode_message(received.encode()) == received
    assert connection.closed is None


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing(data):
    for connection in (Connection(0), established()):
        connection.receive(data, 0)


def test_requirements_name_fields_that_come_earlier():
    order = {field.name: field.number for field in oxm.FIELDS}
    for field in oxm.FIELDS:
        assert all(order[name] < field.number for name, _values in field.requires)
    assert len(oxm.FIELDS) == 40
