# SPDX-License-Identifier: Apache-2.0
"""The VM's side: partial checksums that are not ours to finish later, and virtio-net headers that lie."""

from __future__ import annotations

import socket
import struct

import pytest

from tests.packets import (
    IP,
    TCP,
    UDP,
    Ether,
    IPv6,
    Raw,
    checksums_right,
    ip_header,
    payload,
    tcp_segment,
    vm_ether,
    vxlan,
)
from tests.reference import internet_sum
from tests.unit.rig import Rig
from vswitch import layout
from vswitch.layout import Op

VM, WIRE = 1, 2
NEEDS_CSUM = 1


@pytest.fixture
def rig():
    with Rig(taps=1, wires=1) as rig:
        yield rig


def from_vm(rig, frame, flags=0, gso_type=0, gso_size=0, start=0, offset=0):
    """Let the VM send a frame that the flow table sends to the wire; what arrives there."""
    rig.route(frame, VM, (Op.OUTPUT, WIRE))
    rig.vms[0].send(struct.pack("<BBHHHHH", flags, gso_type, 0, gso_size, start, offset, 0) + frame)
    rig.t["ports"][VM]["ready"] = 1
    rig.step()
    return rig.sent()


def pseudo_sum(frame, l4, proto):
    """The sum of an IPv4 pseudo-header of the segment from `l4` on."""
    ip = l4 - 20
    return internet_sum(frame[ip + 12 : ip + 20] + struct.pack("!HH", proto, len(frame) - l4))


def test_a_frame_of_the_vm_goes_out_as_it_is(rig):
    assert from_vm(rig, tcp_segment(100)) == [tcp_segment(100)]


def test_a_vms_own_tunnel_gets_the_inner_checksum_that_it_asked_for(rig):
    """The VM encapsulates, and leaves the inner TCP checksum to its vNIC: csum_start is deep inside."""
    whole = vxlan(tcp_segment(101), source="10.9.0.1", target="10.9.0.2")
    l4 = len(whole) - 121
    partial = bytearray(whole)
    partial[l4 + 16 : l4 + 18] = pseudo_sum(whole, l4, 6).to_bytes(2, "big")
    assert from_vm(rig, bytes(partial), NEEDS_CSUM, start=l4, offset=16) == [whole]


def test_a_foreign_udp_checksum_of_zero_becomes_ffff(rig):
    inner = vm_ether() / ip_header(4) / UDP(sport=7, dport=9) / Raw(b"\0\0ab")
    inner[Raw].load = Ether(bytes(inner))[UDP].chksum.to_bytes(2, "big") + b"ab"
    whole = vxlan(bytes(inner), source="10.9.0.1", target="10.9.0.2")
    l4 = len(whole) - 12
    partial = bytearray(whole)
    partial[l4 + 6 : l4 + 8] = pseudo_sum(whole, l4, 17).to_bytes(2, "big")
    (sent,) = from_vm(rig, bytes(partial), NEEDS_CSUM, start=l4, offset=6)
    assert sent[l4 + 6 : l4 + 8] == b"\xff\xff"


def test_a_partial_checksum_behind_very_long_headers_is_completed(rig):
    segment = bytes(TCP(sport=5, dport=6, flags="A")) + payload(100)
    options = bytes([6, 74, 1, 4]) + bytes(596)
    header = bytes(vm_ether() / IPv6(src="fd00::1", dst="fd00::2", nh=60, plen=600 + len(segment)))
    whole = bytearray(header + options + segment)
    l4 = len(whole) - len(segment)
    pseudo = bytes(whole[22:54]) + struct.pack("!II", len(segment), 6)
    whole[l4 + 16 : l4 + 18] = internet_sum(pseudo).to_bytes(2, "big")
    (sent,) = from_vm(rig, bytes(whole), NEEDS_CSUM, start=l4, offset=16)
    assert internet_sum(pseudo + sent[l4:]) == 0xFFFF
    whole[l4 + 16 : l4 + 18] = sent[l4 + 16 : l4 + 18]
    assert sent == bytes(whole)


@pytest.mark.parametrize(("start", "offset"), [(65535, 65535), (200, 0), (34, 65500), (153, 0), (0, 65535)])
def test_a_checksum_place_outside_of_the_frame_is_ignored(rig, start, offset):
    assert from_vm(rig, tcp_segment(100), NEEDS_CSUM, start=start, offset=offset) == [tcp_segment(100)]


def test_segmentation_without_a_partial_checksum_is_not_asked_for(rig):
    """virtio 1.2, 5.1.6.2: a device may take a packet with gso_type but without NEEDS_CSUM as it is."""
    assert from_vm(rig, tcp_segment(1000), gso_type=1, gso_size=100) == [tcp_segment(1000)]


@pytest.mark.parametrize("flags", ["MF", ""])
def test_a_fragment_is_never_segmented(rig, flags):
    frame = tcp_segment(1000, ip={"flags": flags, "frag": 0 if flags else 9})
    assert from_vm(rig, frame, NEEDS_CSUM, 1, 100, start=65535) == [frame]


def test_a_segment_size_of_one_byte(rig):
    frame = bytearray(tcp_segment(40))
    frame[50:52] = pseudo_sum(frame, 34, 6).to_bytes(2, "big")
    sent = from_vm(rig, bytes(frame), NEEDS_CSUM, 1, 1, 34, 16)
    assert len(sent) == 40
    assert all(checksums_right(segment) and len(segment) == 55 for segment in sent)
    assert [Ether(segment)[IP].id for segment in sent] == list(range(40))


@pytest.mark.parametrize("tags", [3, 600, 10_000])
def test_a_tower_of_vlan_tags_harms_nothing(rig, tags):
    templates = slice(layout.PROTOTYPE_OFFSET, layout.CONTROL_SIZE)
    rig.mem[templates] = 0xA5
    frame = bytes(vm_ether())[:12] + b"\x81\x00\x00\x01" * tags + b"\x08\x00" + bytes(20)
    sent = from_vm(rig, frame)
    assert sent == ([frame] if len(frame) <= 1522 else [])
    assert (rig.mem[layout.TEMPLATES_OFFSET : layout.CONTROL_SIZE] == 0xA5).all()


def test_a_vm_that_does_not_read_is_counted_and_the_switch_goes_on(rig):
    rig.route(tcp_segment(100), WIRE, (Op.OUTPUT, VM))
    rig.counted()
    rig._sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    frame = tcp_segment(100, flags="PA")
    for _ in range(100):
        rig.put(frame)
    rig.step()
    refused = rig.counted()["tap_busy"]
    assert 0 < refused < 100
    taken = 0
    while taken < 100 - refused:
        assert rig.vms[0].recv(1000)[layout.VNET_HEADER :] == frame
        taken += 1
    rig.put(frame)
    rig.step()
    assert rig.vms[0].recv(1000)[layout.VNET_HEADER :] == frame
