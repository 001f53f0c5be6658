# SPDX-License-Identifier: Apache-2.0
"""GRO over random bursts: order, payload, the naive twin, and that segmenting undoes merging."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.packets import (
    ICMP,
    IP,
    TCP,
    UDP,
    VXLAN,
    Ether,
    Raw,
    checksums_right,
    ip_header,
    payload,
    payload_of,
    tcp_segment,
    tcp_stream,
    vm_ether,
    vxlan,
)
from tests.reference import flow_of, merged
from tests.unit.rig import NO_TUNNEL, Rig, examples
from vswitch.dataplane import gro
from vswitch.layout import BURST, GRO_BUCKETS

WIRE = 1


@pytest.fixture(scope="module")
def rig():
    with Rig(wires=2) as rig:
        rig.tunnel = rig.add_tunnel()
        yield rig


@st.composite
def bursts(draw):
    """Interleaved connections, mostly well-behaved, with all that breaks aggregates."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    version = rng.choice([4, 6])
    flows = [
        {
            "seq": rng.choice([0, 5, 2**32 - 300]),
            "id": rng.randrange(65536),
            "size": rng.choice([20, 21, 100]),
        }
        for _ in range(rng.choice([1, 2, 5]))
    ]
    quirks = [
        "tos",
        "ttl",
        "df",
        "id",
        "seq",
        "flags",
        "ack",
        "short",
        "stamp",
        "checksum",
        "urgptr",
        "other",
    ]
    chance = rng.choice([0, 0.05, 0.3])
    frames = []
    for _ in range(draw(st.integers(1, 24))):
        number = rng.randrange(len(flows))
        flow = flows[number]
        quirk = rng.choice(quirks) if rng.random() < chance else ""
        size = rng.randrange(flow["size"]) if quirk == "short" else flow["size"]
        if quirk == "other":
            other = rng.choice([UDP(sport=1, dport=2) / Raw(b"x"), ICMP() / Raw(b"y")])
            frames.append(bytes(vm_ether() / ip_header(4) / other))
            continue
        ip = {"tos": 2 if quirk == "tos" else 0, "ttl": 9 if quirk == "ttl" else 64, "id": flow["id"]}
        ip["flags"] = "" if (number % 2) ^ (quirk == "df") else "DF"
        if version == 6:
            ip = {"tc": ip["tos"], "hlim": ip["ttl"]}
        extra = {"chksum": 0x1111} if quirk == "checksum" else {"urgptr": 3} if quirk == "urgptr" else {}
        seq = flow["seq"] + (7 if quirk == "seq" else 0)
        frames.append(
            tcp_segment(
                size, seq, rng.choice(["PA", "FA", "EA", "SA", "CA"]) if quirk == "flags" else "A",
                version, ip,
                (5, 6 + (quirk == "stamp")) if number % 3 else None, seed=len(frames), sport=4000 + number,
                ack=9 if quirk == "ack" else 7, **extra,
            )
        )  # fmt: skip
        flow["seq"] += size
        flow["id"] = (flow["id"] + (3 if quirk == "id" else 1)) & 0xFFFF
    return frames


def undo(frame):
    """What may differ after merging and segmenting: IP identifications where DF is set."""
    packet = Ether(frame)
    if IP in packet and "DF" in packet[IP].flags:
        packet[IP].id = 0
        del packet[IP].chksum
    return bytes(packet)


@settings(max_examples=examples(80))
@given(frames=bursts(), carried=st.booleans(), onward=st.booleans())
def test_segmenting_what_was_merged_gives_the_frames_back(rig, frames, carried, onward):
    """Received plain or in VXLAN, sent on plain or in VXLAN; and the groups are those of the naive twin."""
    rig.burst([vxlan(frame) for frame in frames] if carried else frames, WIRE)
    groups = rig.coalesce()
    assert groups == merged(frames)
    for number, members in enumerate(groups):
        delivered = rig.take(number)
        originals = [frames[member] for member in members]
        assert payload_of(delivered) == b"".join(map(payload_of, originals))
        sent = rig.segment(1, rig.tunnel if onward else NO_TUNNEL)
        if onward:
            sent = [bytes(Ether(frame)[VXLAN].payload) for frame in sent]
        if len(members) == 1:
            assert sent == originals
            continue
        assert all(map(checksums_right, sent))
        assert list(map(undo, sent)) == list(map(undo, originals))


@settings(max_examples=examples(60))
@given(frames=bursts())
def test_each_flows_payload_is_delivered_in_order(rig, frames):
    expected: dict = {}
    for frame in frames:
        if TCP in Ether(frame):
            expected[flow_of(frame)] = expected.get(flow_of(frame), b"") + payload_of(frame)
    delivered: dict = {}
    for packet in rig.deliver(frames, WIRE):
        if TCP in Ether(packet):
            delivered[flow_of(packet)] = delivered.get(flow_of(packet), b"") + payload_of(packet)
    assert delivered == expected


def test_equal_connections_of_two_virtual_networks_are_never_merged(rig):
    frames = tcp_stream(6)
    carried = [vxlan(frame, 42 + index % 2) for index, frame in enumerate(frames)]
    rig.burst(carried, WIRE)
    assert len(rig.coalesce()) == 6
    both = [vxlan(frame, vni) for frame in frames for vni in (42, 43)]
    rig.burst(both, WIRE)
    groups = rig.coalesce()
    assert groups == [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]]


def test_plain_and_tunnelled_frames_of_equal_connections_are_never_merged(rig):
    frames = tcp_stream(4)
    rig.burst([frames[0], vxlan(frames[1]), frames[1], vxlan(frames[2])], WIRE)
    assert rig.coalesce() == [[0, 2], [1, 3]]


@pytest.mark.parametrize(
    ("change", "merged"),
    [
        ({}, 1),
        ({"sport": 50001}, 2),
        ({"flags": ""}, 2),
        ({"tos": 0xB8}, 1),
        ({"id": 77}, 1),
        ({"udp_checksum": None}, 1),
    ],
    ids=str,
)
def test_outer_headers_that_must_be_equal(rig, change, merged):
    """The opaque field but for its length and checksum, and the outer DF (S1.4)."""
    one, other = tcp_stream(2)
    rig.burst([vxlan(one), vxlan(other, **change)], WIRE)
    assert len(rig.coalesce()) == merged


def test_reserved_bits_of_the_opaque_field_must_be_equal(rig):
    one, other = (bytearray(vxlan(frame)) for frame in tcp_stream(2))
    other[49] = 1
    rig.burst([bytes(one), bytes(other)], WIRE)
    assert len(rig.coalesce()) == 2


def test_many_interleaved_connections_are_all_merged(rig):
    flows = 64
    streams = [tcp_stream(4, 30, sport=4000 + flow) for flow in range(flows)]
    frames = [stream[place] for place in range(4) for stream in streams]
    rig.burst(frames, WIRE)
    assert rig.coalesce() == [[flow + flows * place for place in range(4)] for flow in range(flows)]


def test_a_burst_of_nothing_but_different_flows(rig):
    rig.burst([tcp_segment(30, sport=4000 + flow) for flow in range(BURST)], WIRE)
    assert rig.coalesce() == [[flow] for flow in range(BURST)]


def test_colliding_hash_buckets_keep_connections_apart(rig):
    """All flows are forced into one bucket, some with one and the same hash."""
    flows = 6
    streams = [tcp_stream(3, 30, sport=4000 + flow) for flow in range(flows)]
    rig.burst([stream[place] for place in range(3) for stream in streams], WIRE)
    for row in rig.t["packets"][: 3 * flows]:
        row["hash"] = int(row["hash"]) // GRO_BUCKETS * GRO_BUCKETS
    expected = [[flow + flows * place for place in range(3)] for flow in range(flows)]
    assert rig.coalesce() == expected
    for row in rig.t["packets"][: 3 * flows]:
        row["hash"] = GRO_BUCKETS
    assert rig.coalesce() == expected


def test_a_replaced_group_in_a_shared_bucket_keeps_its_neighbours(rig):
    """Flow 1's PSH closes its group in the middle of the bucket's list; flows 0 and 2 go on merging."""
    streams = [tcp_stream(3, 30, sport=4000 + flow, flags="PA" if flow == 1 else "A") for flow in range(3)]
    rig.burst([stream[place] for place in range(3) for stream in streams], WIRE)
    for row in rig.t["packets"][:9]:
        row["hash"] = 0
    assert rig.coalesce() == [[0, 3, 6], [1], [2, 5, 8], [4], [7]]


@settings(max_examples=examples(40))
@given(lengths=st.lists(st.integers(1, 1400), min_size=1, max_size=60))
def test_an_aggregate_is_as_long_as_its_payload(rig, lengths):
    seq, frames = 10, []
    for length in lengths:
        frames.append(tcp_segment(length, seq, seed=length))
        seq += length
    delivered = rig.deliver(frames, WIRE)
    assert b"".join(map(payload_of, delivered)) == b"".join(payload(length, length) for length in lengths)
    for packet in delivered:
        assert Ether(packet)[IP].len == len(packet) - 14 <= 65535


@pytest.mark.parametrize("change", [{"urgptr": 3}, {"ip": {"flags": "DF+evil"}}], ids=str)
def test_bits_without_a_meaning_must_be_equal_too(rig, change):
    rig.burst([tcp_segment(100, 1000), tcp_segment(100, 1100, **change)], WIRE)
    assert len(rig.coalesce()) == 2


@pytest.mark.parametrize("left", [0, 1, 3, 4, 19])
def test_cut_tcp_headers_are_compared_within_their_frames(rig, left):
    """The last frame ends the rig's array, and its ports would lie behind it."""
    frame = bytes(vm_ether() / ip_header(4, proto=6) / Raw(payload(left)))
    rig.burst([frame, frame], WIRE)
    assert rig.coalesce() == [[0], [1]]


def test_nothing_is_merged_with_an_earlier_burst(rig):
    one, other = tcp_stream(2)
    assert len(rig.deliver([one], WIRE)) == 1
    assert rig.deliver([other], WIRE) == [other]
    assert gro.NO_PACKET == -1
