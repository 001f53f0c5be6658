# SPDX-License-Identifier: Apache-2.0
"""The packet port without root: the test plays the kernel, with a ring in memory and a socket pair."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import pytest

from tests.packets import (
    IP,
    TCP,
    UDP,
    VXLAN,
    Dot1AD,
    Dot1Q,
    Ether,
    IPv6,
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
from tests.reference import internet_sum
from tests.unit.rig import LOCAL_IP, REMOTE_IP, VNI, Rig
from vswitch import layout
from vswitch.dataplane.ports import packet
from vswitch.dataplane.ports.tap import POOL_HEADROOM
from vswitch.dataplane.ports.vnet import (
    DATA_VALID,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    NEEDS_CSUM,
)
from vswitch.layout import Counter, Op, PortKind

OUTSIDE, INSIDE = 1, 2
VNET = struct.Struct("<BBHHHH")
MAC_OFFSET = 82
USER, COPY, VLAN_VALID, TPID_VALID = 1, 2, 0x10, 0x40


@dataclass
class Sent:
    """One message that the kernel got."""

    flags: int
    gso_type: int
    header_length: int
    gso_size: int
    csum_start: int
    csum_offset: int
    frame: bytes

    def completed(self) -> bytes:
        """The frame after the kernel, or the receiver, has completed the checksum."""
        if not self.flags & NEEDS_CSUM:
            return self.frame
        value = ~internet_sum(self.frame[self.csum_start :]) & 0xFFFF
        at = self.csum_start + self.csum_offset
        return self.frame[:at] + (value or 0xFFFF).to_bytes(2, "big") + self.frame[at + 2 :]


class PacketRig(Rig):
    """A rig whose ports 1 and 2 are packet ports; `kernels` are the other ends of their sockets."""

    def __init__(self, wires: int = 0, mtu: int = 1500) -> None:
        super().__init__(taps=2, wires=wires, mtu=mtu)
        self.kernels = self.vms
        self._written = [0, 0]

    def _add_tap(self, index: int) -> None:
        super()._add_tap(index)
        self.t["tap_count"] = 0
        port = self.t["ports"][index]
        port["kind"], port["socket"], port["mtu"] = PortKind.PACKET, index - 1, self.mtu
        row = self.t["sockets"][index - 1]
        row["port"], row["fd"] = index, port["fd"]
        row["ring"] = self._take(layout.RING_SLOTS * layout.RING_SLOT_SIZE)
        row["staging"] = self._take(packet.STAGING_SIZE)
        self.t["socket_count"] = index

    def tunnel_through(self, index: int) -> int:
        self.wire_ports = [index]
        return self.add_tunnel()

    def arrives(
        self, frame: bytes, port: int = OUTSIDE, vnet: bytes = bytes(10), tag: tuple[int, int] | None = None,
        queued: bool = True,
    ) -> None:  # fmt: skip
        """The kernel puts a frame into the ring, as tpacket_rcv() does."""
        place = port - 1
        number = self._written[place]
        slot = int(self.t["sockets"][place]["ring"]) + number % layout.RING_SLOTS * layout.RING_SLOT_SIZE
        assert self.word(slot) & USER == 0, "the ring is full"
        room = layout.RING_SLOT_SIZE - MAC_OFFSET
        status = USER
        if len(frame) > room and queued:
            status |= COPY
            self.kernels[place].send(vnet + frame)
        if tag:
            status |= VLAN_VALID | TPID_VALID
        tpid, tci = tag or (0, 0)
        self.write(slot + MAC_OFFSET - 10, vnet + frame[:room])
        header = struct.pack(
            "<IIHHIIHH", len(frame), min(len(frame), room), MAC_OFFSET, MAC_OFFSET + 14, 0, 0, tci, tpid
        )
        self.write(slot + 4, header)
        self.write(slot, struct.pack("<I", status))
        self._written[place] = number + 1

    def got(self, port: int = INSIDE) -> list[Sent]:
        """What was sent out of a port since the last call."""
        messages = []
        while True:
            try:
                data = self.kernels[port - 1].recv(1 << 17)
            except BlockingIOError:
                return messages
            messages.append(Sent(*VNET.unpack_from(data), data[VNET.size :]))

    def frames(self, port: int = INSIDE) -> list[bytes]:
        return [sent.frame for sent in self.got(port)]


@pytest.fixture
def rig():
    with PacketRig() as rig:
        rig.counted()
        yield rig


def partial(frame: bytes) -> tuple[bytes, int, int]:
    """A frame whose outermost TCP or UDP checksum is left to be completed; where it is."""
    whole = Ether(frame)
    l4 = whole[TCP] if TCP in whole else whole[UDP]
    start = len(frame) - len(bytes(l4))
    proto, offset = (6, 16) if TCP in whole else (17, 6)
    ip = bytes(whole.payload if not isinstance(whole.payload, Dot1Q) else whole.payload.payload)
    addresses = ip[12:20] if IP in whole else ip[8:40]
    pseudo = internet_sum(addresses + struct.pack("!II", len(frame) - start, proto))
    at = start + offset
    return frame[:at] + pseudo.to_bytes(2, "big") + frame[at + 2 :], start, offset


def super_frame(length: int, gso_size: int, kind: int = GSO_TCPV4, frame: bytes | None = None):
    """A super-frame as a host's kernel sends it, and its virtio-net header."""
    frame, start, offset = partial(frame or tcp_segment(length, flags="PA"))
    header = start + (20 if offset == 16 else 8)
    return frame, VNET.pack(NEEDS_CSUM, kind, header, gso_size, start, offset)


def between_ports(rig, frame):
    rig.route(frame, OUTSIDE, (Op.OUTPUT, INSIDE))


@pytest.mark.parametrize("length", [0, 1, 5, 6])
def test_a_frame_that_is_too_short_for_ethernet_is_padded(rig, length):
    frame = tcp_segment(length)
    between_ports(rig, frame)
    before = int(rig.t["ports"][INSIDE]["tx_bytes"])
    for _ in range(2):
        rig.arrives(frame + b"\xaa" * 3)
        rig.step()
        assert rig.frames() == [(frame + b"\xaa" * 3).ljust(60, b"\0")]
    assert rig.t["ports"][INSIDE]["tx_bytes"] - before == 2 * max(60, len(frame) + 3)


@pytest.mark.parametrize("shim", [0x8100, 0x88A8, 0x8847])
@pytest.mark.parametrize("fit", [True, False])
def test_tags_beside_the_mtu_have_room_but_not_without_end(shim, fit):
    """A frame of a full MTU passes with 64 bytes of tags, on wires and packet ports; more are counted."""
    pushes = layout.SHIM_ROOM // 4 + (0 if fit else 1)
    with PacketRig(wires=1) as rig:
        frame = tcp_segment(1460)
        outputs = (Op.OUTPUT, INSIDE), (Op.OUTPUT, rig.wire_ports[0])
        rig.route(frame, OUTSIDE, *[(Op.PUSH, shim)] * pushes, *outputs)
        rig.arrives(frame)
        rig.step()
        sent = rig.frames() + rig.sent()
        assert [len(each) - len(frame) for each in sent] == ([layout.SHIM_ROOM] * 2 if fit else [])
        assert all(each[-1500:] == frame[-1500:] for each in sent)
        assert rig.counted() == ({} if fit else {"mtu_exceeded": 2})


def test_a_super_frame_behind_an_mpls_label_is_cut(rig):
    frame, header = super_frame(8000, 1400)
    rig.route(frame, OUTSIDE, (Op.PUSH, 0x8847), (Op.OUTPUT, INSIDE))
    rig.arrives(frame, vnet=header)
    rig.step()
    sent = rig.got()
    assert [message.gso_type for message in sent] == [0] * 6
    inner = [message.completed()[:12] + b"\x08\x00" + message.completed()[18:] for message in sent]
    assert all(checksums_right(frame) for frame in inner)
    assert b"".join(payload_of(frame) for frame in inner) == payload(8000)


@pytest.mark.parametrize("length", [6, 100, 880, 900, 1460])
def test_a_frame_passes_as_it_is(rig, length):
    frame = tcp_segment(length)
    between_ports(rig, frame)
    rig.arrives(frame)
    rig.step()
    assert rig.frames() == [frame]


def test_the_order_stays_and_slots_are_given_back(rig):
    between_ports(rig, tcp_segment(100))
    for turn in range(3 * layout.RING_SLOTS // 500):
        frames = [tcp_segment(100, seq, flags="PA") for seq in range(turn, turn + 500)]
        for frame in frames:
            rig.arrives(frame)
        assert rig.step() == layout.BURST
        assert rig.step() == 500 - layout.BURST
        assert rig.frames() == frames
    assert rig.t["sockets"][0]["tail"] == rig._written[0]


def test_what_the_kernel_verified_is_not_verified_again(rig):
    """Nor is a checksum that the sender left to be completed; others are, and a wrong one is passed on."""
    frame = tcp_segment(100)
    wrong = frame[:-1] + b"\xff"
    between_ports(rig, frame)
    for header, bad in ((bytes(10), 1), (VNET.pack(DATA_VALID, 0, 0, 0, 0, 0), 0)):
        rig.arrives(wrong, vnet=header)
        rig.step()
        assert rig.counted().get("rx_bad_checksum", 0) == bad
        assert rig.frames() == [wrong]


@pytest.mark.parametrize("words", [0, 4, 15])
def test_what_the_kernel_verified_of_an_unsound_header_is_no_segment(rig, words):
    """GRO of a veth vouches for the checksum before it looks at the header's length."""
    sound = tcp_stream(2, 20)
    unsound = [frame[:46] + bytes([words << 4]) + frame[47:] for frame in tcp_stream(2, 0, dport=81)]
    for frames in (sound, unsound):
        between_ports(rig, frames[0])
        for frame in frames:
            rig.arrives(frame, vnet=VNET.pack(DATA_VALID, 0, 0, 0, 0, 0))
        rig.step()
    assert [len(payload_of(frame)) for frame in rig.frames()[:1]] == [40]
    assert rig.counted()["gro_merged"] == 1


def test_a_partial_checksum_stays_partial(rig):
    frame, start, offset = partial(tcp_segment(100))
    between_ports(rig, frame)
    rig.arrives(frame, vnet=VNET.pack(NEEDS_CSUM, 0, 0, 0, start, offset))
    rig.step()
    (sent,) = rig.got()
    assert (sent.flags, sent.csum_start, sent.csum_offset, sent.gso_type) == (NEEDS_CSUM, start, offset, 0)
    assert sent.frame == frame
    assert sent.completed() == tcp_segment(100)


@pytest.mark.parametrize("tpid", [0x8100, 0x88A8])
@pytest.mark.parametrize("needs_csum", [False, True])
def test_the_kernel_takes_the_vlan_tag_out_and_the_port_puts_it_back(rig, tpid, needs_csum):
    plain = tcp_segment(100)
    tag = (Dot1Q if tpid == 0x8100 else Dot1AD)(vlan=7, prio=3)
    tagged = (
        bytes(Ether(plain[:12] + b"\0\0") / tag)[:12] + struct.pack("!HH", tpid, 3 << 13 | 7) + plain[12:]
    )
    between_ports(rig, tagged)
    if needs_csum:
        frame, start, offset = partial(plain)
        rig.arrives(frame, vnet=VNET.pack(NEEDS_CSUM, 0, 0, 0, start, offset), tag=(tpid, 3 << 13 | 7))
    else:
        rig.arrives(plain, tag=(tpid, 3 << 13 | 7))
    rig.step()
    (sent,) = rig.got()
    assert sent.completed() == tagged
    assert sent.csum_start == (start + 4 if needs_csum else 0)


def test_a_super_frame_passes_as_it_is(rig):
    frame, header = super_frame(64000, 1448)
    between_ports(rig, frame)
    rig.arrives(frame, vnet=header)
    rig.step()
    (sent,) = rig.got()
    assert sent.frame == frame
    assert VNET.pack(*list(vars(sent).values())[:6]) == header
    rig.assert_pool_whole()


def test_a_udp_super_frame_passes_as_it_is(rig):
    udp = bytes(vm_ether() / ip_header(4) / UDP(sport=1, dport=2) / Raw(payload(8000)))
    frame, header = super_frame(0, 1000, GSO_UDP_L4, udp)
    between_ports(rig, frame)
    rig.arrives(frame, vnet=header)
    rig.step()
    (sent,) = rig.got()
    assert (sent.gso_type, sent.gso_size, sent.frame) == (GSO_UDP_L4, 1000, frame)


def test_small_frames_keep_their_place_among_super_frames(rig):
    expected = []
    between_ports(rig, tcp_segment(100))
    for seq in range(40):
        small = tcp_segment(100, seq, flags="PA")
        large, header = super_frame(0, 1448, frame=tcp_segment(5000, seq, flags="PA"))
        rig.arrives(small)
        rig.arrives(large, vnet=header)
        expected += [small, large]
    while rig.step():
        pass
    assert rig.frames() == expected
    rig.assert_pool_whole()


def test_a_super_frame_that_the_kernel_could_not_queue_is_counted(rig):
    frame, header = super_frame(64000, 1448)
    rig.arrives(frame, vnet=header, queued=False)
    small = tcp_segment(100)
    between_ports(rig, small)
    rig.arrives(small)
    rig.step()
    assert rig.frames() == [small]
    assert rig.counted() == {"rx_ring_full": 1}
    assert rig.t["rx_drops"][OUTSIDE, Counter.RX_RING_FULL] == 1


def test_super_frames_wait_for_a_wire_whose_receiver_takes_nothing_yet():
    with PacketRig(wires=1) as rig:
        frame, header = super_frame(60_000, 1000)
        for port in (OUTSIDE, INSIDE):
            rig.route(frame, port, (Op.OUTPUT, rig.wire_ports[0]))
        rig.counted()
        counted = {}
        while "tx_backpressure" not in counted:
            for port in (OUTSIDE, INSIDE):
                for _ in range(layout.LARGE_BURST):
                    rig.arrives(frame, port, header)
            rig.step()
            counted = rig.counted()
            assert "wire_full" not in counted


def test_segments_over_the_mtu_of_the_port_are_counted(rig):
    rig.t["ports"][INSIDE]["mtu"] = 1400
    frame, header = super_frame(64000, 1448)
    between_ports(rig, frame)
    rig.arrives(frame, vnet=header)
    rig.arrives(tcp_segment(1361, flags="PA"))
    rig.arrives(tcp_segment(1360, flags="PA"))
    rig.step()
    assert rig.frames() == [tcp_segment(1360, flags="PA")]
    assert rig.counted() == {"mtu_exceeded": 2}


def test_a_tag_does_not_count_as_part_of_the_mtu(rig):
    frame = bytes(vm_ether() / Dot1Q(vlan=5) / ip_header(4) / TCP() / Raw(payload(1460)))
    between_ports(rig, frame)
    rig.arrives(frame)
    rig.step()
    assert rig.frames() == [frame]


def test_frames_of_one_connection_become_one(rig):
    frames = tcp_stream(20, 1448, timestamp=(1, 2))
    between_ports(rig, frames[0])
    for frame in frames:
        rig.arrives(frame)
    rig.step()
    (sent,) = rig.got()
    assert sent.gso_size == 1448
    assert payload_of(sent.completed()) == b"".join(payload_of(frame) for frame in frames)
    assert checksums_right(sent.completed())


def test_frames_with_partial_checksums_become_one(rig):
    frames = tcp_stream(20, 1448)
    between_ports(rig, frames[0])
    for frame in frames:
        unfinished, start, offset = partial(frame)
        rig.arrives(unfinished, vnet=VNET.pack(NEEDS_CSUM, 0, 0, 0, start, offset))
    rig.step()
    (sent,) = rig.got()
    assert payload_of(sent.completed()) == b"".join(payload_of(frame) for frame in frames)
    assert checksums_right(sent.completed())


def test_a_busy_interface_is_counted_and_the_switch_goes_on(rig):
    between_ports(rig, tcp_segment(100))
    rig._sockets[2].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    frame = tcp_segment(100, flags="PA")
    for _ in range(200):
        rig.arrives(frame)
    rig.step()
    busy = rig.counted()["packet_busy"]
    assert 0 < busy < 200
    assert rig.frames() == [frame] * (200 - busy)
    port = rig.t["ports"][INSIDE]
    assert (port["tx_packets"], rig.t["tx_drops"][INSIDE, Counter.PACKET_BUSY]) == (200 - busy, busy)
    assert port["tx_bytes"] == (200 - busy) * len(frame)
    rig.arrives(frame)
    rig.step()
    assert rig.frames() == [frame]


def test_an_interface_that_is_gone_is_counted(rig):
    between_ports(rig, tcp_segment(100))
    rig.kernels[INSIDE - 1].close()
    for _ in range(3):
        rig.arrives(tcp_segment(100, flags="PA"))
    rig.step()
    assert rig.counted() == {"packet_error": 3}
    assert rig.t["tx_drops"][INSIDE, Counter.PACKET_ERROR] == 3


def test_without_a_free_buffer_a_super_frame_waits(rig):
    frame, header = super_frame(64000, 1448)
    between_ports(rig, frame)
    free, rig.t["free_buffer_count"] = int(rig.t["free_buffer_count"]), 0
    rig.arrives(frame, vnet=header)
    assert packet.receive(rig.mem, rig.t, 0) == 0
    rig.t["free_buffer_count"] = free
    assert rig.step() == 1
    assert rig.frames() == [frame]


# Tunnels


@pytest.fixture(params=[False, True], ids=["sendmmsg", "udp gso"])
def uplink(request):
    """Port 1 is the uplink of a tunnel, port 2 a plain host."""
    with PacketRig() as rig:
        rig.tunnel = rig.tunnel_through(OUTSIDE)
        rig.t["sockets"][0]["udp_gso"] = request.param
        rig.counted()
        yield rig


def segmented(sent: Sent) -> list[bytes]:
    """The frames that the kernel makes of a message (udp(7), UDP_SEGMENT)."""
    if not sent.gso_type:
        return [sent.completed()]
    assert (sent.gso_type, sent.csum_start, sent.csum_offset) == (GSO_UDP_L4, 34, 6)
    assert sent.header_length == 42
    assert len(sent.frame) - 42 <= 64 * sent.gso_size
    frames = []
    for at in range(42, len(sent.frame), sent.gso_size):
        packet = Ether(sent.frame[:42] + sent.frame[at : at + sent.gso_size])
        for layer in (packet[IP], packet[UDP]):
            del layer.len, layer.chksum
        frames.append(bytes(packet))
    whole = Ether(sent.completed())
    assert (whole[IP].len, whole[UDP].len) == (len(sent.frame) - 14, len(sent.frame) - 34)
    assert checksums_right(sent.completed()[:42]) or whole[IP].chksum
    return frames


@pytest.mark.parametrize("length", [100, 1350, 1399, 20_000, 65_000])
@pytest.mark.parametrize("gso_size", [1398, 300])
def test_a_tunnels_segments_are_frames_of_their_own(uplink, length, gso_size):
    original = tcp_segment(length, flags="PA")
    frame, header = super_frame(0, gso_size, frame=original)
    if length <= gso_size:
        header = header[:1] + bytes(5) + header[6:]
    elif length < 1900:
        return  # no kernel sends it
    uplink.route(frame, INSIDE, (Op.SET_TUNNEL, VNI), (Op.OUTPUT, uplink.tunnel))
    uplink.arrives(frame, INSIDE, header)
    uplink.step()
    data = b""
    for sent in uplink.got(OUTSIDE):
        for outer in segmented(sent):
            assert len(outer) <= 1514
            packet = Ether(outer)
            assert (packet[IP].src, packet[IP].dst, packet[UDP].dport) == (LOCAL_IP, REMOTE_IP, 4789)
            assert packet[VXLAN].vni == VNI
            inner = bytes(packet[VXLAN].payload)
            assert checksums_right(outer)
            assert Ether(inner)[TCP].seq == 1000 + len(data)
            data += payload_of(inner)
    assert data == payload_of(original)
    assert uplink.counted() == {}


def test_a_kernels_frames_of_a_tunnel_are_taken_out_of_it(uplink):
    """The kernel's VXLAN leaves the inner checksum partial: what it says of it holds for the inner header."""
    frames = [vxlan(frame) for frame in tcp_stream(10, 1398)]
    uplink.route(frames[0], OUTSIDE, (Op.OUTPUT, INSIDE))
    for frame in frames:
        inner, start, offset = partial(frame[50:])
        header = VNET.pack(NEEDS_CSUM, 0, 0, 0, 50 + start, offset)
        uplink.arrives(frame[:50] + inner, vnet=header)
    uplink.step()
    (sent,) = uplink.got()
    assert payload_of(sent.completed()) == b"".join(payload_of(frame[50:]) for frame in frames)
    assert checksums_right(sent.completed())


def test_a_kernels_super_frame_of_a_tunnel_is_taken_out_of_it(uplink):
    original = tcp_segment(20_000, flags="PA")
    inner, start, offset = partial(original)
    frame = vxlan(original)[:50] + inner
    uplink.route(frame, OUTSIDE, (Op.OUTPUT, INSIDE))
    header = VNET.pack(NEEDS_CSUM, GSO_TCPV4, 50 + start + 20, 1398, 50 + start, offset)
    uplink.arrives(frame, vnet=header)
    uplink.step()
    (sent,) = uplink.got()
    assert (sent.gso_size, sent.csum_start, sent.frame) == (1398, start, inner)
    assert sent.completed() == original


def test_the_inner_checksum_is_verified_though_the_outer_one_is_vouched_for(uplink):
    right = vxlan(tcp_segment(100), udp_checksum=None)
    uplink.route(right, OUTSIDE, (Op.OUTPUT, INSIDE))
    wrong = right[:-1] + bytes([right[-1] ^ 1])
    for header in (VNET.pack(DATA_VALID, 0, 0, 0, 0, 0), VNET.pack(NEEDS_CSUM, 0, 0, 0, 34, 6)):
        uplink.arrives(wrong, vnet=header)
        uplink.step()
        assert uplink.counted() == {"rx_bad_checksum": 1}
        assert len(uplink.got()) == 1


@pytest.mark.parametrize(("length", "messages_sent"), [(64_000, 2), (3000, 1), (1900, 1), (1500, 1)])
def test_what_one_switch_sends_as_datagrams_another_takes_apart(length, messages_sent):
    """From the sender's message to the receiver's ring, as a veth carries it with its offloads on. Two
    segments may fit into a slot: then nothing waits at the socket."""
    original = tcp_segment(length, flags="PA")
    frame, header = super_frame(0, 1398, frame=original)
    with PacketRig() as sender, PacketRig() as receiver:
        out, back = sender.tunnel_through(OUTSIDE), receiver.tunnel_through(OUTSIDE)
        receiver.t["ports"][back]["local_ip"], receiver.t["ports"][back]["remote_ip"] = (
            sender.t["ports"][out]["remote_ip"], sender.t["ports"][out]["local_ip"],
        )  # fmt: skip
        sender.t["sockets"][0]["udp_gso"] = 1
        sender.route(frame, INSIDE, (Op.SET_TUNNEL, VNI), (Op.OUTPUT, out))
        sender.arrives(frame, INSIDE, header)
        sender.step()
        messages = sender.got(OUTSIDE)
        assert len(messages) == messages_sent
        receiver.counted()
        receiver.route(segmented(messages[0])[0], OUTSIDE, (Op.OUTPUT, INSIDE))
        for sent in messages:
            receiver.arrives(sent.frame, vnet=VNET.pack(*list(vars(sent).values())[:6]))
        receiver.step()
        (delivered,) = receiver.got()
        assert delivered.gso_size == 1398
        assert payload_of(delivered.completed()) == payload_of(original)
        assert checksums_right(delivered.completed())
        assert {k: v for k, v in receiver.counted().items() if not k.startswith("gro")} == {}
        receiver.assert_pool_whole()


@pytest.mark.parametrize(("length", "size"), [(60_000, 100), (65_000, 300), (1700, 4)])
def test_a_datagram_of_more_frames_than_fit_is_counted(uplink, length, size):
    """No kernel makes such, but whoever has the other end's packet socket may; those behind it are served."""
    frame = vxlan(tcp_segment(length))
    after = tcp_segment(100)
    uplink.route(after, OUTSIDE, (Op.OUTPUT, INSIDE))
    pool = int(uplink.t["pool"])
    uplink.arrives(frame, vnet=VNET.pack(NEEDS_CSUM, GSO_UDP_L4, 42, size, 34, 6))
    uplink.arrives(after)
    uplink.step()
    assert uplink.frames() == [after]
    assert uplink.counted() == {"rx_bad_descriptor": 1}
    assert uplink.t["rx_drops"][OUTSIDE, Counter.RX_BAD_DESCRIPTOR] == 1
    assert not any(uplink.read(pool, layout.BUFFERS * layout.BUFFER_SIZE))
    with pytest.raises(BlockingIOError):
        uplink._sockets[0].recv(1)


def test_a_datagram_for_others_stays_whole(uplink):
    """UDP GSO of a host that happens to look like a tunnel's: only those of our tunnels are taken apart."""
    udp = bytes(vm_ether() / ip_header(4) / UDP(sport=1, dport=4789) / Raw(payload(8000)))
    frame, header = super_frame(0, 1000, GSO_UDP_L4, udp)
    uplink.route(frame, OUTSIDE, (Op.OUTPUT, INSIDE))
    uplink.arrives(frame, vnet=header)
    uplink.step()
    (sent,) = uplink.got()
    assert (sent.gso_type, sent.frame) == (GSO_UDP_L4, frame)


# Frames that are longer than a slot


def test_jumbo_frames_are_coalesced_as_small_ones_are():
    """In one turn there are more of them than pool buffers for such frames."""
    with PacketRig(mtu=9000) as rig:
        frames = tcp_stream(63, 8940)
        between_ports(rig, frames[0])
        for frame in frames:
            rig.arrives(frame)
        while rig.step():
            pass
        sent = rig.got()
        assert [len(message.frame) for message in sent] == [54 + 7 * 8940] * 9
        data = b"".join(payload_of(message.completed()) for message in sent)
        assert data == b"".join(map(payload_of, frames))
        assert rig.counted() == {"gro_merged": 54, "gro_aggregates": 9}
        rig.assert_pool_whole()


@pytest.mark.parametrize("size", [2000, 4000, 8900])
def test_a_turn_takes_as_many_long_frames_as_its_buffers_have_room_for(size):
    with PacketRig(mtu=9000) as rig:
        frames = [tcp_segment(size, seq, flags="PA") for seq in range(200)]
        between_ports(rig, frames[0])
        for frame in frames:
            rig.arrives(frame)
        most = 0
        while rig.step():
            most = max(most, len(rig.got()))
        each = (size + 54 + 10 + 63 & ~63) + POOL_HEADROOM
        assert most == min(200, layout.LARGE_BURST * ((layout.BUFFER_SIZE - 192) // each))
        rig.assert_pool_whole()


@pytest.mark.parametrize(("version", "header"), [(4, 54), (6, 74)])
def test_an_aggregate_is_no_longer_than_the_kernel_takes_in_one_piece(version, header):
    """Its interfaces take 65,535 bytes with the Ethernet header (GSO_LEGACY_MAX_SIZE)."""
    with PacketRig(mtu=9000) as rig:
        size = (65535 - header) // 8
        frames = [*tcp_stream(8, size, version=version), tcp_segment(100, 1000 + 8 * size, version=version)]
        between_ports(rig, frames[0])
        for frame in frames:
            rig.arrives(frame)
        while rig.step():
            pass
        lengths = [len(message.frame) for message in rig.got()]
        last = 100 + header
        assert lengths == [8 * size + header, last] and lengths[0] <= 65535 < lengths[0] + 8


def big_frame(version: int, length: int, gso_size: int, jumbo: bool = False, flags: str = "FPA") -> tuple:
    """A super-frame of more than 64 KB as a kernel sends it (BIG TCP), and its virtio-net header."""
    ip = IP(src="10.0.0.1", dst="10.0.0.2", id=65000, flags="DF", proto=6, len=0, chksum=0)
    if version == 6:
        ip = IPv6(src="fd00::1", dst="fd00::2", plen=0, nh=0 if jumbo else 6)
    headers = bytes(vm_ether() / ip)
    if jumbo:
        headers += struct.pack("!BBHI", 6, 0, 0xC204, length + 28)
    tcp = bytes(TCP(sport=5001, dport=80, seq=0xFFFFF000, ack=7, window=500, flags=flags, chksum=0))
    kind = GSO_TCPV4 if version == 4 else GSO_TCPV6
    vnet = VNET.pack(NEEDS_CSUM, kind, len(headers) + 20, gso_size, len(headers), 16)
    return headers + tcp + payload(length), vnet


@pytest.mark.parametrize("tag", [None, (0x8100, 5)])
@pytest.mark.parametrize("length", [65_536, 131_000, 185_000, 524_000])
@pytest.mark.parametrize(("version", "jumbo"), [(4, False), (6, False), (6, True)])
def test_a_frame_of_more_than_64_kilobytes_is_taken_in_parts(rig, version, jumbo, length, tag):
    frame, header = big_frame(version, length, 1400, jumbo)
    first = tcp_segment(10, version=version, sport=5001)
    if tag:
        first = first[:12] + struct.pack("!HH", *tag) + first[12:]
    between_ports(rig, first)
    rig.arrives(frame, vnet=header, tag=tag)
    rig.step()
    sent = rig.got()
    data = b""
    for number, message in enumerate(sent):
        assert len(message.frame) <= 65_535
        assert message.gso_size == 1400 or len(message.frame) < 1500
        whole = message.completed()
        packet = Ether(whole)
        assert checksums_right(whole)
        assert packet[TCP].seq == (0xFFFFF000 + len(data)) & 0xFFFFFFFF
        assert str(packet[TCP].flags) == ("FPA" if number == len(sent) - 1 else "A")
        if version == 4:
            assert packet[IP].id == (65000 + len(data) // 1400) & 0xFFFF
        data += payload_of(whole)
        assert (number == len(sent) - 1) or len(data) % 1400 == 0
    assert data == payload(length)
    assert rig.counted() == {}
    rig.step()
    rig.assert_pool_whole()


def test_wires_give_their_buffers_back_for_a_frame_in_many_parts():
    """Nobody else asks for those that the receiver has released, as long as some are free."""
    with PacketRig(wires=1) as rig:
        t = rig.t
        row = t["wires"][0]
        while t["free_buffer_count"] > 9:
            t["free_buffer_count"] -= 1
            buffer = t["free_buffers"][t["free_buffer_count"]]
            t["buffers"][buffer] = 1
            t["wire_buffers"][0, int(row["tx_head"])] = buffer
            row["tx_head"] += 1
        row["tx_published"] = row["tx_head"]
        rig.set_word(int(row["tx_cursors"]) + layout.CURSOR_TAIL, int(row["tx_head"]))
        frame, header = big_frame(4, 520_000, 13_200)
        between_ports(rig, tcp_segment(10, sport=5001))
        rig.t["ports"]["mtu"] = 14_000
        rig.arrives(frame, vnet=header)
        rig.step()
        sent = rig.got()
        assert len(sent) == 10
        assert b"".join(payload_of(message.frame) for message in sent) == payload(520_000)
        rig.assert_pool_whole()


def test_of_the_parts_the_first_tells_of_a_smaller_window_and_the_last_of_the_end(rig):
    frame, header = big_frame(4, 150_000, 1400, flags="CFPA")
    between_ports(rig, tcp_segment(10, sport=5001))
    rig.arrives(frame, vnet=header)
    rig.step()
    assert [str(Ether(message.frame)[TCP].flags) for message in rig.got()] == ["AC", "A", "FPA"]


@pytest.mark.parametrize("change", ["kind", "size", "start", "header", "tunnel"])
def test_a_long_frame_that_cannot_be_cut_is_counted_and_the_next_passes(rig, change):
    frame, vnet = big_frame(4, 100_000, 1448)
    fields = list(VNET.unpack(vnet))
    if change == "kind":
        fields[1] = GSO_UDP_L4
    elif change == "size":
        fields[3] = 0
    elif change == "start":
        fields[4] = 3000
    elif change == "tunnel":
        outer = bytes(vm_ether() / IP(proto=4, len=0))
        frame, fields[4] = outer + frame[14:], fields[4] + 20
    else:
        frame = frame[:14] + b"\x46" + frame[15:]
    small = tcp_segment(100)
    between_ports(rig, small)
    rig.arrives(frame, vnet=VNET.pack(*fields))
    rig.arrives(small)
    rig.step()
    assert rig.frames() == [small]
    assert rig.counted() == {"rx_bad_descriptor": 1}


@pytest.mark.parametrize("length", [0, 100, 1400])
def test_ipv6_without_a_payload_length_is_forwarded_untouched(rig, length):
    frame, _ = big_frame(6, length, 0)
    between_ports(rig, frame)
    rig.arrives(frame)
    rig.step()
    assert rig.frames() == [frame]


@pytest.mark.parametrize("seed", range(10))
def test_each_long_frame_has_bytes_of_its_own_in_a_buffer_that_is_held(uplink, seed):
    """Whatever comes in which order: long frames that share a buffer, super-frames, parts, a tunnel's."""
    random = Random(seed)
    outer = [vxlan(frame) for frame in tcp_stream(10, 1300)]
    series = outer[0][:42] + b"".join(frame[42:] for frame in outer)
    kinds = [
        [(tcp_segment(length, sport=5001), bytes(10)) for length in (100, 2500, 8000, 20_000)],
        [super_frame(60_000, 1400), super_frame(3000, 1000), big_frame(4, 150_000, 1400)],
        [(series, VNET.pack(NEEDS_CSUM, GSO_UDP_L4, 42, len(outer[0]) - 42, 34, 6))],
    ]
    for _turn in range(8):
        arrived = [random.choice(random.choice(kinds)) for _ in range(random.randint(1, 12))]
        for frame, vnet in arrived:
            uplink.arrives(frame, vnet=vnet)
        t = uplink.t
        while count := packet.receive(uplink.mem, t, OUTSIDE - 1):
            rows = sorted((int(row["offset"]), int(row["length"])) for row in t["packets"][:count])
            assert all(at + length <= then for (at, length), (then, _) in pairwise(rows))
            places = [(at - int(t["pool"])) // layout.BUFFER_SIZE for at, _ in rows]
            assert all(t["buffers"][place] for place in places if 0 <= place < layout.BUFFERS)
            packet.release(uplink.mem, t, OUTSIDE - 1)
        uplink.assert_pool_whole()


def test_of_segments_that_fill_a_datagram_each_leaves_alone():
    """An MTU beyond the longest super-frame of datagrams."""
    with PacketRig(mtu=65535) as rig:
        tunnel = rig.tunnel_through(INSIDE)
        rig.t["sockets"]["udp_gso"] = 1
        frame, header = super_frame(65_470, 65_440)
        rig.route(frame, OUTSIDE, (Op.SET_TUNNEL, VNI), (Op.OUTPUT, tunnel))
        rig.arrives(frame, vnet=header)
        rig.step()
        sent = rig.got()
        assert [message.gso_type for message in sent] == [0, 0]
        assert b"".join(payload_of(bytes(Ether(m.frame)[VXLAN].payload)) for m in sent) == payload(65_470)
