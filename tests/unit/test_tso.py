# SPDX-License-Identifier: Apache-2.0
"""Segmentation: a super-frame goes in, scapy reads what stands on the wire."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.packets import (
    IP,
    TCP,
    UDP,
    VXLAN,
    Dot1Q,
    Ether,
    IPv6,
    IPv6ExtHdrDestOpt,
    Raw,
    checksums_right,
    ip_header,
    payload,
    payload_of,
    tcp_segment,
    vm_ether,
)
from tests.reference import internet_sum
from tests.unit.rig import LOCAL_IP, NO_TUNNEL, REMOTE_IP, REMOTE_MAC, VNI, Rig, examples
from vswitch import layout
from vswitch.dataplane.ports.tap import POOL_HEADROOM
from vswitch.layout import Csum, SlotKind

WIRE_PORT = 1


@pytest.fixture(scope="module")
def rig():
    with Rig(wires=1) as rig:
        rig.tunnel = rig.add_tunnel()
        yield rig


def load(rig, frame, gso_size, by_reference=False, pieces=1):
    """Make a frame the outgoing packet, as if a VM had sent it with a partial checksum."""
    rig.burst([frame], WIRE_PORT, gso_size, verify=False)
    packet = rig.t["packets"][0]
    if by_reference:
        at = int(rig.t["pool"]) + POOL_HEADROOM
        rig.write(at, frame)
        change = at - int(packet["offset"])
        for field in ("offset", "l2", "l3", "l4", "payload"):
            packet[field] += change
        packet["buffer"] = 0
    rig.coalesce()
    rig.take(0)
    out = rig.t["outgoing"]
    out["tunnel_id"], out["csum"] = VNI, Csum.PARTIAL
    start, length = (int(rig.t["ranges"][0][name]) for name in ("offset", "length"))
    if pieces > 1:
        borders = [start + length * number // pieces for number in range(pieces + 1)]
        for number in range(pieces):
            rig.t["ranges"][number] = (borders[number], borders[number + 1] - borders[number])
        out["range_count"] = pieces


def kinds(rig):
    """The kinds of the slots in the order of their use."""
    row = rig.t["wires"][0]
    slots = rig.mem[int(row["tx_slots"]) :][: layout.WIRE_SLOTS * layout.SLOT_SIZE].reshape(
        layout.WIRE_SLOTS, -1
    )
    return slots[:, layout.SLOT_KIND]


def ip_of(packet):
    return packet[IP] if IP in packet else packet[IPv6]


def check_segments(segments, original, gso_size, tunnelled):
    """Every segment is right for scapy, and together they are the original."""
    whole = Ether(original)
    tcp, ip = whole[TCP], ip_of(whole)
    sent = b""
    for index, frame in enumerate(segments):
        assert checksums_right(frame)
        packet = Ether(frame)
        if tunnelled:
            check_outer(packet, index, segments)
            packet = packet[VXLAN].payload
        last = index == len(segments) - 1
        own, own_ip = packet[TCP], ip_of(packet)
        assert bytes(packet)[:14] == original[:14]
        assert own.seq == (tcp.seq + len(sent)) & 0xFFFFFFFF
        missing = set() if last else set("FP")
        missing |= set() if index == 0 else set("C")
        assert set(str(own.flags)) == set(str(tcp.flags)) - missing
        for field in ("sport", "dport", "ack", "window", "options", "dataofs", "reserved", "urgptr"):
            assert getattr(own, field) == getattr(tcp, field)
        if IP in packet:
            assert own_ip.id == (ip.id + index) & 0xFFFF
            assert (own_ip.tos, own_ip.ttl, own_ip.flags) == (ip.tos, ip.ttl, ip.flags)
        else:
            assert bytes(own_ip)[:4] + bytes(own_ip)[6:40] == bytes(ip)[:4] + bytes(ip)[6:40]
        data = payload_of(bytes(packet))
        assert len(data) == gso_size or (last and 0 < len(data) <= gso_size)
        sent += data
    assert sent == payload_of(original)


def check_outer(packet, index, segments):
    outer, udp, opaque = packet[IP], packet[UDP], packet[VXLAN]
    assert packet.dst == REMOTE_MAC
    assert (outer.src, outer.dst, outer.proto, str(outer.flags)) == (LOCAL_IP, REMOTE_IP, 17, "DF")
    assert (udp.dport, udp.chksum, opaque.vni) == (4789, 0, VNI)
    assert udp.len == outer.len - 20 == len(packet) - 34
    first = Ether(segments[0])
    assert udp.sport == first[UDP].sport >= 0xC000
    assert outer.id == (first[IP].id + index) & 0xFFFF
    assert (
        outer.tos
        == ip_of(packet[VXLAN].payload).fields.get("tos", ip_of(packet[VXLAN].payload).fields.get("tc")) & 3
    )


super_frames = st.fixed_dictionaries(
    {
        "version": st.sampled_from([4, 6]),
        "length": st.integers(1, 20000),
        "gso_size": st.integers(500, 1370),
        "seq": st.sampled_from([0, 1000, 2**32 - 700, 2**32 - 1]),
        "flags": st.sampled_from(["A", "PA", "FA", "FPA", "CA", "EA", "CEFPA"]),
        "timestamp": st.sampled_from([None, (123456, 7)]),
        "ip": st.booleans(),
        "pieces": st.integers(1, 9),
    }
)


@settings(max_examples=examples(60))
@given(
    case=super_frames, tunnelled=st.booleans(), by_reference=st.booleans(),
    ip_id=st.sampled_from([0, 7, 65533]), ecn=st.integers(0, 3),
)  # fmt: skip
def test_segments_are_right_for_scapy(rig, case, tunnelled, by_reference, ip_id, ecn):
    case = dict(case)
    gso_size, pieces = case.pop("gso_size"), case.pop("pieces")
    case["ip"] = {"id": ip_id, "tos": ecn, "flags": "DF" if case.pop("ip") else ""}
    if case["version"] == 6:
        case["ip"] = {"tc": ecn}
    frame = tcp_segment(**case)
    load(rig, frame, gso_size, by_reference, min(pieces, case["length"]))
    if case["length"] <= gso_size:
        rig.t["outgoing"]["csum"] = Csum.GOOD
    segments = rig.segment(0, rig.tunnel if tunnelled else NO_TUNNEL)
    assert len(segments) == -(-case["length"] // gso_size)
    check_segments(segments, frame, gso_size, tunnelled)
    rig.t["wire_buffers"][0] = -1
    rig.t["buffers"] = 0


def test_payload_that_stands_in_the_pool_is_not_copied(rig):
    at = int(rig.t["wires"][0]["tx_head"]) % layout.WIRE_SLOTS
    load(rig, tcp_segment(5000), 1000, by_reference=True)
    segments = rig.segment()
    assert (np.roll(kinds(rig), -at)[:5] == SlotKind.SPLIT).all()
    assert int(rig.t["buffers"][0]) == 5  # a reference for each segment
    check_segments(segments, tcp_segment(5000), 1000, tunnelled=False)
    load(rig, tcp_segment(5000), 1000)
    rig.segment()
    assert (np.roll(kinds(rig), -at)[5:10] == SlotKind.DATA).all()
    rig.t["wire_buffers"][0] = -1
    rig.t["buffers"] = 0


def test_extension_headers_are_copied_to_each_segment(rig):
    header = vm_ether() / IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrDestOpt(options=[])
    frame = bytes(header / TCP(seq=5, flags="PA") / Raw(payload(3000)))
    load(rig, frame, 1000)
    segments = rig.segment()
    assert all(checksums_right(segment) and IPv6ExtHdrDestOpt in Ether(segment) for segment in segments)
    assert b"".join(payload_of(segment) for segment in segments) == payload(3000)


def test_the_vlan_tag_is_copied_to_each_segment(rig):
    frame = bytes(vm_ether() / Dot1Q(vlan=7, prio=3) / ip_header(4) / TCP(flags="A") / Raw(payload(3000)))
    load(rig, frame, 1460)
    segments = rig.segment()
    assert [Ether(segment)[Dot1Q].vlan for segment in segments] == [7, 7, 7]
    assert all(checksums_right(segment) for segment in segments)


# Sizes against the MTU


@pytest.mark.parametrize(("size", "sent"), [(1460, 1), (1461, 0)])
def test_a_frame_over_the_mtu_is_counted(rig, size, sent):
    rig.counted()
    load(rig, tcp_segment(size), 0)
    assert len(rig.segment()) == sent
    assert rig.counted() == ({} if sent else {"mtu_exceeded": 1})


@pytest.mark.parametrize(("size", "sent"), [(1410, 3), (1411, 0)])
def test_segments_over_the_mtu_of_the_tunnel_are_counted(rig, size, sent):
    rig.counted()
    load(rig, tcp_segment(3 * size), size)
    segments = rig.segment(0, rig.tunnel)
    assert len(segments) == sent
    assert all(len(segment) <= 1514 for segment in segments)
    assert rig.counted() == ({} if sent else {"mtu_exceeded": 3})


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tunnelled", [False, True])
def test_udp_segments_are_datagrams(rig, version, tunnelled):
    ip = ip_header(version, **({"id": 5} if version == 4 else {}))
    frame = bytes(vm_ether() / ip / UDP(sport=1, dport=2) / Raw(payload(2999)))
    load(rig, frame, 1000)
    segments = rig.segment(0, rig.tunnel if tunnelled else NO_TUNNEL)
    assert all(checksums_right(segment) for segment in segments)
    if tunnelled:
        segments = [bytes(Ether(segment)[VXLAN].payload) for segment in segments]
    assert [len(payload_of(segment)) for segment in segments] == [1000, 1000, 999]
    assert b"".join(payload_of(segment) for segment in segments) == payload(2999)
    if version == 4:
        assert [Ether(segment)[IP].id for segment in segments] == [5, 6, 7]


def test_gso_size_of_a_frame_that_is_neither_tcp_nor_udp_is_ignored(rig):
    rig.counted()
    frame = bytes(vm_ether() / ip_header(4, proto=132) / Raw(payload(3000)))
    load(rig, frame, 1000)
    assert rig.segment() == []
    assert rig.counted() == {"mtu_exceeded": 1}


# One frame whose checksum is partial


def with_partial_checksum(frame):
    """As a VM's stack hands it over: the field has the pseudo-header's sum."""
    packet = Ether(frame)
    ip = ip_of(packet)
    l4 = bytes(packet[TCP] if TCP in packet else packet[UDP])
    proto, field = (6, 16) if TCP in packet else (17, 6)
    addresses = bytes(ip)[12:20] if IP in packet else bytes(ip)[8:40]
    pseudo = internet_sum(addresses + len(l4).to_bytes(4, "big") + proto.to_bytes(4, "big"))
    at = len(frame) - len(l4) + field
    return frame[:at] + pseudo.to_bytes(2, "big") + frame[at + 2 :]


@pytest.mark.parametrize("tunnelled", [False, True])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("length", [1, 2, 57, 1300])
def test_a_partial_checksum_is_completed(rig, tunnelled, version, kind, length):
    if kind == "tcp":
        frame = tcp_segment(length, version=version)
    else:
        frame = bytes(vm_ether() / ip_header(version) / UDP(sport=7, dport=9) / Raw(payload(length)))
    load(rig, with_partial_checksum(frame), 0)
    (sent,) = rig.segment(0, rig.tunnel if tunnelled else NO_TUNNEL)
    assert sent.endswith(frame)
    assert checksums_right(sent)


@pytest.mark.parametrize("version", [4, 6])
def test_a_udp_checksum_of_zero_is_sent_as_ffff(rig, version):
    body = vm_ether() / ip_header(version) / UDP(sport=7, dport=9) / Raw(b"\0\0ab")
    checksum = Ether(bytes(body))[UDP].chksum
    body[Raw].load = checksum.to_bytes(2, "big") + b"ab"  # now the sum is all ones
    frame = bytes(body)
    load(rig, with_partial_checksum(frame), 0)
    (sent,) = rig.segment()
    assert Ether(sent)[UDP].chksum == 0xFFFF


def test_a_finished_checksum_is_left_alone(rig):
    frame = tcp_segment(100, chksum=0x1234)
    rig.burst([frame], WIRE_PORT)
    rig.coalesce()
    rig.take(0)
    assert rig.segment() == [frame]


def test_no_segment_is_longer_than_a_data_area(rig):
    """A link header of any length: what it does not know, the engine counts as payload against the MTU."""
    rig.counted()
    for tags in (2, 3, 100, 125, 500, 5000):
        frame = bytes(vm_ether())[:12] + b"\x81\x00\x00\x01" * tags + b"\x08\x00" + bytes(1400)
        rig.burst([frame], WIRE_PORT, verify=False)
        rig.coalesce()
        assert rig.take(0) == frame
        sent = rig.segment()
        assert sent in ([], [frame])
        assert all(len(frame) <= rig.t["wires"][0]["data_size"] for frame in sent)
