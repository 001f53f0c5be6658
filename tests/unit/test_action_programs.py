# SPDX-License-Identifier: Apache-2.0
"""Random action programs on packets of all kinds, on super-frames, and on bytes that are no packets."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.packets import (
    MPLS,
    TCP,
    UDP,
    Dot1Q,
    Ether,
    Raw,
    checksums_right,
    ip_header,
    payload,
    vm_ether,
)
from tests.unit.programs import FIELD_BITS, actions, programs
from tests.unit.rig import Rig, examples
from tests.unit.test_rewrite import CASES
from vswitch.dataplane.rewrite import SETTABLE
from vswitch.flow import Band, Meter, Output, SetField
from vswitch.layout import Csum

WIRE = 1
FRAMES = [bytes(frame) for frame, _, _ in CASES]
READABLE = [frame for frame in FRAMES if checksums_right(frame)]
"""Frames that scapy would build again as they are."""


def make_rig():
    rig = Rig(wires=1, mtu=9000)
    row = rig.t["meters"][0]
    row["used"], row["in_packets"], row["bands"] = 1, 1, 1
    return rig


RIG = make_rig()


def outcome(frame, program, **known):
    """What is sent and what is punted, in no order: a super-frame's outputs come one behind the other."""
    RIG.run(frame, program, **known)
    return sorted(RIG.sent()), sorted(RIG.punted())


def set_meter(band):
    row = RIG.t["meters"][0]
    row["rate"][0], row["burst"][0], row["tokens"][0] = 0, band.burst, band.burst
    row["prec_level"][0] = band.prec_level


def test_every_settable_field_is_tried():
    assert set(FIELD_BITS) == set(SETTABLE)


@st.composite
def super_frames(draw):
    """A super-frame and its segment size."""
    packet = vm_ether()
    for _ in range(draw(st.integers(0, 2))):
        packet /= Dot1Q(vlan=draw(st.integers(0, 4095)), prio=draw(st.integers(0, 7)))
    ttl = draw(st.sampled_from([1, 64]))
    packet /= draw(st.sampled_from([ip_header(4, ttl=ttl), ip_header(6, hlim=ttl)]))
    if draw(st.booleans()):
        packet /= TCP(
            sport=5, dport=6, seq=2**32 - 70, flags=draw(st.sampled_from(["A", "PFA", "CA", "CPFA"]))
        )
    else:
        packet /= UDP(sport=5, dport=6)
    size = draw(st.sampled_from([40, 41, 100]))
    return bytes(packet / Raw(payload(draw(st.integers(size + 1, 5 * size))))), size


@settings(max_examples=examples(200))
@given(
    sent=super_frames(), program=programs(), band=st.builds(Band, st.just(0), st.integers(0, 6), st.just(1))
)
def test_a_super_frame_becomes_what_its_segments_would(sent, program, band):
    frame, size = sent
    segments, _ = outcome(frame, (Output(WIRE),), csum=Csum.PARTIAL, gso_size=size)
    assert len(segments) > 1
    expected = [], []
    set_meter(band)
    RIG.run(frame, (Output(WIRE),), csum=Csum.PARTIAL, gso_size=size)
    for segment in RIG.sent():
        for total, part in zip(expected, outcome(segment, program), strict=True):
            total += part
    set_meter(band)
    result = outcome(frame, program, csum=Csum.PARTIAL, gso_size=size)
    assert result == tuple(map(sorted, expected))


KINDS = ["eth_type", "ip_proto", "icmpv6_type", "mpls_bos", "PopMpls"]
"""What says what follows: another value makes another packet of the same bytes."""


def readable(frame):
    """Does scapy see all headers? What is behind MPLS it guesses from a nibble, which may be a VLAN tag's."""
    return MPLS not in Ether(frame)


@settings(max_examples=examples(200))
@given(frame=st.sampled_from(list(filter(readable, READABLE))), program=programs(without=KINDS))
def test_checksums_that_were_right_are_right_afterwards(frame, program):
    for sent in outcome(frame, (*program, Output(WIRE)))[0]:
        assert not readable(sent) or checksums_right(sent), Ether(sent).summary()


@settings(max_examples=examples(400))
@given(
    frame=st.one_of(
        st.binary(min_size=14, max_size=700),
        st.tuples(st.sampled_from(FRAMES), st.integers(0, 10**6), st.binary(min_size=1, max_size=4)).map(
            lambda drawn: mutated(*drawn)
        ),
        st.tuples(st.sampled_from(FRAMES), st.integers(14, 200)).map(lambda drawn: drawn[0][: drawn[1]]),
    ),
    program=programs(),
)
def test_bytes_that_are_no_packet_are_disposed_of_once(frame, program):
    """Nothing reads or writes outside of the packet, as the interpreted and the bounds-checked run tell."""
    RIG.counted()
    set_meter(Band(0, 1, 1))
    sent, punted = outcome(frame, program)
    counted = RIG.counted()
    hands_on = bool(sent or punted)
    dropped = {reason for reason in counted if reason != "no_such_header"}
    assert hands_on or dropped
    assert dropped <= {
        "no_rule",
        "invalid_ttl",
        "meter_drop",
        "headers_too_long",
        "mtu_exceeded",
        "unknown_port",
        "punt_overflow",
    }


def mutated(frame, place, change):
    """A frame some of whose bytes are others."""
    place %= len(frame)
    return (frame[:place] + change + frame[place + len(change) :])[: len(frame)]


@settings(max_examples=examples(50))
@given(action=actions, frame=st.sampled_from(FRAMES))
def test_one_operation_changes_no_counter_but_that_of_a_missing_header(action, frame):
    RIG.counted()
    set_meter(Band(0, 5))
    outcome(frame, (action, Output(WIRE)))
    assert RIG.counted() in ({}, {"no_such_header": 1}, {"invalid_ttl": 1})


def test_a_meter_that_is_named_twice_is_applied_twice():
    set_meter(Band(0, 3))
    sent, _ = outcome(FRAMES[0], (Meter(0), Meter(0), Output(WIRE)))
    assert len(sent) == 1
    sent, _ = outcome(FRAMES[0], (Meter(0), Meter(0), SetField("ip_dscp", 1), Output(WIRE)))
    assert sent == []
