# SPDX-License-Identifier: Apache-2.0
"""Packets that do not fit into a tunnel: dropped, and handed to the agent with the MTU for their senders."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from tests.packets import (
    ARP,
    IP,
    MPLS,
    Dot1AD,
    Dot1Q,
    Ether,
    Raw,
    checksums_right,
    ip_header,
    payload,
    payload_of,
    tcp_segment,
    vm_ether,
)
from tests.unit.rig import VNI, Rig
from vswitch import layout
from vswitch.flow import Output, PopVlan, SetField, SetTunnel
from vswitch.layout import Command, Csum, PuntKind
from vswitch.tunnel_formats import SHIPPED, overhead

VM, OTHER_VM, WIRE = 1, 2, 3


@pytest.fixture
def rig():
    with Rig(taps=2, wires=1) as rig:
        yield rig


def reports(rig):
    """(MTU, frame) of the packets that the agent is to tell the senders of."""
    head, tail = rig.word(layout.PUNT_HEAD_OFFSET), rig.word(layout.PUNT_TAIL_OFFSET)
    rows = rig.t["punts"][np.arange(tail, head) % layout.PUNTS]
    assert all(row["kind"] == PuntKind.TOO_BIG and row["action"] == 0 for row in rows)
    return [(int(row["mtu"]), frame) for row, (_, frame) in zip(rows, rig.punted(), strict=True)]


def to(tunnel):
    return SetTunnel(VNI), Output(tunnel)


def ip_packet(version, length):
    """A frame with an IP packet of so many bytes, no TCP and no UDP."""
    header = ip_header(version, **({"proto": 99} if version == 4 else {"nh": 99}))
    return bytes(vm_ether() / header / Raw(payload(length - len(header))))


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("version", [4, 6])
def test_the_mtu_is_what_the_format_leaves_of_the_wires(rig, name, version):
    tunnel = rig.add_tunnel(format=name)
    program = Output(tunnel) if not SHIPPED[name].flow_id_bits else None
    program = (program,) if program else to(tunnel)
    room = 1500 - overhead(SHIPPED[name])
    rig.run(ip_packet(version, room), program)
    assert len(rig.sent()) == 1 and reports(rig) == []
    frame = ip_packet(version, room + 1)
    rig.counted()
    rig.run(frame, program)
    assert rig.sent() == [] and reports(rig) == [(room, frame)]
    assert rig.counted() == {"mtu_exceeded": 1}


@pytest.mark.parametrize(("tags", "length"), [([Dot1Q(vlan=7)], 4), ([Dot1AD(vlan=7), Dot1Q(vlan=8)], 8)])
def test_tags_take_room(rig, tags, length):
    tunnel = rig.add_tunnel()
    frame = vm_ether()
    for tag in tags:
        frame /= tag
    rig.run(bytes(frame / ip_packet_of(1450 - length)), to(tunnel))
    assert len(rig.sent()) == 1 and reports(rig) == []
    too_big = bytes(frame / ip_packet_of(1451 - length))
    rig.run(too_big, to(tunnel))
    assert reports(rig) == [(1450 - length, too_big)]


def ip_packet_of(length):
    return IP(ip_packet(4, length)[14:])


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("by", [1, 100])
def test_of_a_super_frame_the_first_segment_is_reported_whole(rig, version, by):
    tunnel = rig.add_tunnel()
    mss = 1450 - (40 if version == 4 else 60)
    frame = tcp_segment(20000, version=version)
    rig.run(frame, to(tunnel), csum=Csum.PARTIAL, gso_size=mss)
    assert rig.sent() and reports(rig) == []
    rig.counted()
    assert payload_of(rig.run(frame, to(tunnel), csum=Csum.PARTIAL, gso_size=mss + by)) == payload_of(frame)
    ((mtu, segment),) = reports(rig)
    assert mtu == 1450 and rig.counted() == {"mtu_exceeded": -(-20000 // (mss + by))}
    assert payload_of(segment) == payload_of(frame)[: mss + by] and checksums_right(segment)
    assert Ether(segment).dst == Ether(frame).dst


def test_what_follows_in_the_program_is_not_touched(rig):
    """A flood: one tunnel is too small, the packet goes to a VM as it is."""
    tunnel = rig.add_tunnel()
    frame = tcp_segment(20000)
    rig.run(frame, (*to(tunnel), Output(OTHER_VM)), csum=Csum.PARTIAL, gso_size=1460)
    assert payload_of(rig.vms[OTHER_VM - 1].recv(1 << 17)[layout.VNET_HEADER :]) == payload_of(frame)
    assert len(reports(rig)) == 1


def test_segments_that_are_treated_one_by_one_are_reported_one_by_one(rig):
    """Each is dropped by the tunnel and reported; what follows in the program gets every one of them."""
    tunnel = rig.add_tunnel()
    frame = tcp_segment(20000)
    one_by_one = SetField("ip_proto", 6)
    rig.run(frame, (one_by_one, *to(tunnel), Output(OTHER_VM)), csum=Csum.PARTIAL, gso_size=1460)
    got = b"".join(payload_of(segment) for segment in received(rig.vms[OTHER_VM - 1]))
    assert got == payload_of(frame)
    told = reports(rig)
    assert [mtu for mtu, _ in told] == [1450] * 13  # the 14th fits
    assert b"".join(payload_of(segment) for _, segment in told) == payload_of(frame)[: 13 * 1460]
    assert rig.counted() == {"mtu_exceeded": 13}


def received(vm):
    """The frames that wait for a VM, without their virtio-net headers."""
    frames = []
    with contextlib.suppress(BlockingIOError):
        while True:
            frames.append(vm.recv(1 << 17)[layout.VNET_HEADER :])
    return frames


def test_rules_may_have_changed_the_packet(rig):
    tunnel = rig.add_tunnel()
    frame = bytes(vm_ether() / Dot1Q(vlan=7) / ip_packet_of(1451))
    rig.run(frame, (PopVlan(), SetField("eth_dst", 5), *to(tunnel)))
    ((mtu, reported),) = reports(rig)
    assert (mtu, Ether(reported).dst, reported[14:]) == (1450, "00:00:00:00:00:05", frame[18:])


@pytest.mark.parametrize(
    "frame",
    [
        bytes(vm_ether() / ARP() / Raw(payload(1500))),
        bytes(Ether(type=0x88B5) / Raw(payload(1500))),
        bytes(Ether(type=0x8847) / MPLS(s=1) / ip_packet_of(1480)),
        bytes(vm_ether() / ip_packet_of(1500))[:-20],
    ],
    ids=["arp", "unknown", "mpls", "malformed"],
)
def test_what_is_no_ip_is_dropped_only(rig, frame):
    rig.run(frame, to(rig.add_tunnel()))
    assert reports(rig) == [] and rig.counted() == {"mtu_exceeded": 1}


def test_a_bridge_says_nothing_of_its_links(rig):
    rig.run(ip_packet(4, 1501), (Output(WIRE),))
    assert reports(rig) == [] and rig.counted() == {"mtu_exceeded": 1}


def test_what_is_dropped_for_another_reason_is_not_too_big(rig):
    tunnel = rig.add_tunnel()
    rig.run(ip_packet(4, 1450), (SetTunnel(1 << 24), Output(tunnel)))
    assert reports(rig) == [] and rig.counted() == {"tunnel_id_too_large": 1}


def test_nobody_is_told_of_the_agents_own(rig):
    rig.run(ip_packet(4, 1451), to(rig.add_tunnel()), port=0)
    assert reports(rig) == []


def test_reports_are_limited_for_each_port(rig):
    """A flood costs little, and keeps nobody behind another port from being told."""
    tunnel = rig.add_tunnel()
    frame = ip_packet(4, 1451)
    for _ in range(50):
        rig.run(frame, to(tunnel))
    assert len(reports(rig)) == layout.TOO_BIG_BURST
    assert rig.counted() == {"mtu_exceeded": 50, "packet_too_big_suppressed": 50 - layout.TOO_BIG_BURST}
    rig.run(frame, to(tunnel), port=OTHER_VM)
    assert len(reports(rig)) == 1
    rig.now_ns += layout.TOO_BIG_INTERVAL_NS - 1
    rig.run(frame, to(tunnel))
    assert reports(rig) == []
    rig.now_ns += 1
    for _ in range(2):
        rig.run(frame, to(tunnel))
    assert len(reports(rig)) == 1
    rig.now_ns += 3600 * 10**9
    for _ in range(50):
        rig.run(frame, to(tunnel))
    assert len(reports(rig)) == layout.TOO_BIG_BURST


@pytest.mark.parametrize("what", ["slots", "ring"])
def test_without_room_for_a_report_the_packet_is_counted_once(rig, what):
    tunnel = rig.add_tunnel()
    if what == "slots":
        rig.t["free_punt_count"] = 0
    else:
        rig.set_word(layout.PUNT_TAIL_OFFSET, rig.word(layout.PUNT_HEAD_OFFSET) - layout.PUNTS)
    rig.run(ip_packet(4, 1451), to(tunnel))
    assert rig.counted() == {"mtu_exceeded": 1, "packet_too_big_suppressed": 1}


def test_reports_can_be_turned_off_and_on(rig):
    tunnel = rig.add_tunnel()
    rig.command(Command.TOO_BIG_REPORTS, 0)
    for _ in range(50):
        rig.run(ip_packet(4, 1451), to(tunnel))
    assert reports(rig) == [] and rig.counted() == {"mtu_exceeded": 50}
    rig.command(Command.TOO_BIG_REPORTS, 1)
    rig.run(ip_packet(4, 1451), to(tunnel))
    assert len(reports(rig)) == 1


def test_a_held_packet_is_reported_too(rig):
    """The first packet of a flow, which the agent sends on."""
    tunnel = rig.add_tunnel()
    frame = ip_packet(4, 1451)
    assert rig.burst([frame], VM) == [-1]
    rig.coalesce()
    rig.forward_all()
    program, length = rig.program((layout.Op.SET_TUNNEL, VNI), (layout.Op.OUTPUT, tunnel))
    slot = int(rig.t["punts"][0]["slot"])
    rig.set_word(layout.PUNT_TAIL_OFFSET, 1)
    rig.command(Command.EXECUTE, slot, program, length)
    row = rig.t["punts"][1]
    assert (int(row["kind"]), int(row["mtu"])) == (PuntKind.TOO_BIG, 1450)
    at = int(rig.t["punt_memory"]) + int(row["slot"]) * layout.PUNT_SLOT_SIZE
    assert rig.read(at, int(row["length"])) == frame
    assert np.array_equal(row["key"], rig.t["punts"][0]["key"])


def test_a_report_leaves_the_other_segments_that_a_program_treats_one_by_one(rig):
    """A program that sets a protocol treats a super-frame's segments apart; each is too big for a tunnel."""
    tunnel = rig.add_tunnel()
    frame = tcp_segment(4350, flags="PA")
    program = SetField("ip_proto", 6), SetTunnel(VNI), Output(tunnel), Output(WIRE)
    rig.run(frame, program, csum=Csum.PARTIAL, gso_size=1450)
    sent = rig.sent()
    assert [Ether(segment)["TCP"].seq for segment in sent] == [1000, 2450, 3900]
    assert b"".join(map(payload_of, sent)) == payload_of(frame)
    assert all(map(checksums_right, sent))
    assert [mtu for mtu, _ in reports(rig)] == [1450] * 3
