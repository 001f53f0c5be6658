# SPDX-License-Identifier: Apache-2.0
"""Hosts and VMs that tunnel by themselves: offloads that concern headers which our parser does not look for.

scapy builds the packets, and says which checksums and lengths are right.
"""

from __future__ import annotations

import contextlib
import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.packets import (
    IP,
    MPLS,
    SCTP,
    TCP,
    UDP,
    VXLAN,
    Dot1AD,
    Dot1AH,
    Dot1Q,
    Ether,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    Raw,
    SCTPChunkData,
    checksums_right,
    payload,
    vm_ether,
    vxlan,
)
from tests.reference import internet_sum
from tests.unit.programs import programs
from tests.unit.rig import CHECKED, INTERPRETED, LOCAL_IP, REMOTE_IP, STORE, Rig, examples
from tests.unit.test_packet import INSIDE, OUTSIDE, VNET, PacketRig, Sent
from vswitch import layout
from vswitch.dataplane import actions, flow_table
from vswitch.dataplane.ports import wire
from vswitch.dataplane.ports.vnet import GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, settle_offload
from vswitch.dataplane.rewrite import SETTABLE
from vswitch.layout import Csum, Op, SlotKind

OUTER4 = {"src": "172.16.0.1", "dst": "172.16.0.2", "id": 7}
OUTER6 = {"src": "fd01::1", "dst": "fd01::2"}
INNER_ETHER = bytes(Ether(src="0a:00:00:00:00:01", dst="0a:00:00:00:00:02", type=0x0800))[:12]


def gre(checksum: bool, proto: int = 0x0800) -> bytes:
    return struct.pack("!HH", 0x8000 if checksum else 0, proto) + (b"\0\0\0\0" if checksum else b"")


def outer(kind: str, length: int, inner_version: int) -> bytes:
    """The headers of a tunnel in front of an inner IP packet of this version and `length` bytes."""
    ether = INNER_ETHER + (b"\x08\x00" if inner_version == 4 else b"\x86\xdd")
    bare = 0x0800 if inner_version == 4 else 0x86DD
    udp = UDP(sport=40000, dport=4789, chksum=0)
    checked = UDP(sport=40000, dport=4789)
    vni = VXLAN(vni=9, flags="Instance")
    builders = {
        "vxlan": lambda: vm_ether() / IP(**OUTER4) / udp / vni / Raw(ether),
        "vxlan-checksum": lambda: vm_ether() / IP(**OUTER4) / checked / vni / Raw(ether),
        "vxlan-ipv6": lambda: vm_ether() / IPv6(**OUTER6) / checked / vni / Raw(ether),
        "fou": lambda: vm_ether() / IP(**OUTER4) / UDP(sport=5555, dport=5555, chksum=0),
        "odd": lambda: vm_ether() / IP(**OUTER4) / UDP(sport=5555, dport=6666) / Raw(b"\x03odd"[:3]),
        "gre": lambda: vm_ether() / IP(**OUTER4, proto=47) / Raw(gre(False, bare)),
        "gre-checksum": lambda: vm_ether() / IP(**OUTER4, proto=47) / Raw(gre(True, bare)),
        "ipip": lambda: vm_ether() / IP(**OUTER4, proto=4 if inner_version == 4 else 41),
        "ip6ip": lambda: vm_ether() / IPv6(**OUTER6, nh=4 if inner_version == 4 else 41),
        "tagged": lambda: tagged(3, bare),
        "mpls": lambda: vm_ether() / MPLS(label=7, s=0) / MPLS(label=8, s=1),
        "pbb": lambda: vm_ether() / Dot1AH(isid=5) / Raw(ether),
    }
    packet = builders[kind]()
    packet = packet / Raw(bytes(length))
    return bytes(packet)[: len(bytes(packet)) - length]


def tagged(count: int, bare: int):
    """Ethernet with so many VLAN tags in front of what is of type `bare`."""
    packet = vm_ether()
    for number in range(count):
        packet = packet / Dot1Q(vlan=number + 1)
    packet.lastlayer().type = bare
    return packet


KINDS = [
    "vxlan", "vxlan-checksum", "vxlan-ipv6", "fou", "odd", "gre", "gre-checksum", "ipip", "ip6ip", "tagged",
    "mpls", "pbb",
]  # fmt: skip
INNERS = ["tcp4", "tcp4-options", "tcp6", "tcp6-extensions", "udp4", "udp6"]


def inner_packet(kind: str, length: int):
    """An IP packet, its scapy L4 layer's class, its virtio-net kind."""
    version = 6 if "6" in kind else 4
    ip = IP(src="10.9.0.1", dst="10.9.0.2", id=100, flags="DF")
    if version == 6:
        ip = IPv6(src="fd09::1", dst="fd09::2")
    if kind == "tcp6-extensions":
        ip = ip / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt()
    if kind.startswith("udp"):
        return ip / UDP(sport=1, dport=2) / Raw(payload(length)), UDP, GSO_UDP_L4, version
    options = [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))] if kind == "tcp4-options" else []
    tcp = TCP(sport=1, dport=2, seq=1000, flags="PA", options=options)
    return ip / tcp / Raw(payload(length)), TCP, GSO_TCPV4 if version == 4 else GSO_TCPV6, version


def super_frame(kind: str, inner: str, length: int, gso_size: int):
    """A frame as the kernel of a host that tunnels sends it, and its virtio-net header."""
    packet, layer, gso, version = inner_packet(inner, length)
    whole = bytes(packet)
    headers = outer(kind, len(whole), version)
    l4 = len(whole) - len(bytes(packet[layer]))
    field = l4 + (16 if layer is TCP else 6)
    addresses = whole[12:20] if version == 4 else whole[8:40]
    proto = 6 if layer is TCP else 17
    pseudo = internet_sum(addresses + struct.pack("!II", len(whole) - l4, proto))
    whole = whole[:field] + pseudo.to_bytes(2, "big") + whole[field + 2 :]
    start = len(headers) + l4
    frame = headers + whole
    if not 0 < gso_size < length:
        frame = with_tunnel_checksum(headers + bytes(packet))[: len(headers)] + whole
    header_len = len(frame) - length
    many = 0 < gso_size < length
    vnet = VNET.pack(NEEDS_CSUM, gso if many else 0, header_len, gso_size if many else 0, start, field - l4)
    return frame, vnet


def reference_segments(kind: str, inner: str, length: int, gso_size: int) -> list[bytes]:
    """What a host that segments by itself would send, but for checksums of tunnels; built by scapy."""
    frames = []
    done = 0
    while done < length:
        own = min(gso_size or length, length - done)
        packet, layer, _, version = inner_packet(inner, length)
        number = done // (gso_size or length)
        packet[layer].remove_payload()
        packet = packet / Raw(payload(length)[done : done + own])
        if version == 4:
            packet[IP].id = 100 + number
        if layer is TCP:
            packet[TCP].seq = 1000 + done
            packet[TCP].flags = "PA" if done + own == length else "A"
        headers = bytearray(outer(kind, len(bytes(packet)), version))
        if headers[12:14] == b"\x08\x00":  # the outer IPv4 header counts, too
            ident = struct.unpack_from("!H", headers, 18)[0] + number
            struct.pack_into("!HH", headers, 18, ident, 0)
            headers[24:26] = b"\0\0"
            headers[24:26] = (~internet_sum(bytes(headers[14:34])) & 0xFFFF).to_bytes(2, "big")
        frames.append(with_tunnel_checksum(bytes(headers) + bytes(packet)))
        done += own
    return frames


def with_tunnel_checksum(frame: bytes) -> bytes:
    """The frame with the right checksum in its outermost UDP or GRE header, if it has one there."""
    if frame[12:14] == b"\x08\x00":
        l4, proto, addresses = 34, frame[23], frame[26:34]
    elif frame[12:14] == b"\x86\xdd":
        l4, proto, addresses = 54, frame[20], frame[22:54]
    else:
        return frame
    pseudo = b""
    if proto == 17 and frame[l4 + 6 : l4 + 8] != b"\0\0":
        field, pseudo = l4 + 6, addresses + struct.pack("!II", len(frame) - l4, 17)
    elif proto == 47 and frame[l4] & 0x80:
        field = l4 + 4
    else:
        return frame
    frame = frame[:field] + b"\0\0" + frame[field + 2 :]
    value = ~internet_sum(pseudo + frame[l4:]) & 0xFFFF
    return frame[:field] + (value or 0xFFFF).to_bytes(2, "big") + frame[field + 2 :]


@pytest.fixture
def rig():
    with PacketRig(wires=1) as rig:
        rig.counted()
        yield rig


@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_super_frame_goes_to_a_packet_port_as_the_kernel_takes_it(rig, kind, inner):
    """Of tunnels over UDP as a super-frame of datagrams, of others as single frames; tags it knows."""
    frame, vnet = super_frame(kind, inner, 40_000, 1300)
    rig.t["sockets"]["udp_gso"] = 1
    rig.route(frame, OUTSIDE, (Op.OUTPUT, INSIDE))
    rig.arrives(frame, OUTSIDE, vnet)
    rig.step()
    sent = rig.got()
    wanted = reference_segments(kind, inner, 40_000, 1300)
    if kind == "tagged":
        assert [message.frame for message in sent] == [frame]
        assert VNET.pack(*[getattr(sent[0], name) for name in sent[0].__dataclass_fields__][:-1]) == vnet
    elif kind in ("vxlan", "vxlan-checksum", "vxlan-ipv6", "fou", "odd"):
        assert [message.gso_type for message in sent] == [GSO_UDP_L4]
        assert without_udp_checksum(datagrams(sent[0])) == without_udp_checksum(wanted)
    else:
        assert [message.completed() for message in sent] == wanted
    assert rig.counted() == {}


@pytest.mark.parametrize("inner", ["tcp4", "udp6"])
@pytest.mark.parametrize("kind", ["vxlan", "vxlan-ipv6", "gre", "ipip"])
@pytest.mark.parametrize("shim", [0x8847, 0x88E7])
def test_behind_a_shim_of_ours_no_kernel_is_given_it_whole(rig, injected, shim, kind, inner):
    """Not every kernel can segment what stands behind MPLS or PBB."""
    frame, vnet = super_frame(kind, inner, 5_000, 1300)
    rig.t["sockets"]["udp_gso"] = 1
    rig.route(frame, OUTSIDE, (Op.PUSH, shim), (Op.OUTPUT, INSIDE))
    rig.arrives(frame, OUTSIDE, vnet)
    rig.step()
    wanted = reference_segments(kind, inner, 5_000, 1300)
    sent = rig.got()
    assert [message.gso_type for message in sent] == [0] * 4
    ip = 14 + (4 if shim == 0x8847 else 18)
    assert [message.completed()[ip:] for message in sent] == [segment[14:] for segment in wanted]


@pytest.fixture
def injected(rig):
    """The other end of an injector of the port INSIDE."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    theirs.setblocking(False)
    rig.command(layout.Command.INJECTOR, INSIDE - 1, ours.fileno())
    with ours, theirs:
        yield theirs


TUNNEL_VNET = struct.Struct("<BBHHHHHIHHHH")
UDP_TUNNEL_IPV4, UDP_TUNNEL_IPV6, UDP_TUNNEL_CSUM = 0x20, 0x40, 0x8


@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_injector_takes_what_is_in_a_tunnel_over_udp_whole(rig, injected, kind, inner):
    """The header (virtio 1.4, section 5.1.6) tells both offsets, the address family, and of a checksum."""
    frame, vnet = super_frame(kind, inner, 40_000, 1300)
    rig.route(frame, OUTSIDE, (Op.OUTPUT, INSIDE))
    rig.arrives(frame, OUTSIDE, vnet)
    rig.step()
    if kind not in ("vxlan", "vxlan-checksum", "vxlan-ipv6", "fou", "odd"):
        assert rig.got()
        with pytest.raises(BlockingIOError):
            injected.recv(1)
        return
    data = injected.recv(1 << 17)
    assert data[24:] == frame
    flags, gso, *rest = VNET.unpack(vnet)
    outer_l4 = 54 if kind == "vxlan-ipv6" else 34
    gso |= UDP_TUNNEL_IPV6 if kind == "vxlan-ipv6" else UDP_TUNNEL_IPV4
    flags |= 0 if frame[outer_l4 + 6 : outer_l4 + 8] == b"\0\0" else UDP_TUNNEL_CSUM
    inner_l3 = rest[2] - (20 if "4" in inner else 40) - (16 if "extensions" in inner else 0)
    assert TUNNEL_VNET.unpack(data[:24]) == (flags, gso, *rest, 0, 0, 0, 0, outer_l4, inner_l3)
    assert (rig.got(), int(rig.t["ports"][INSIDE]["tx_packets"])) == ([], 1)
    assert rig.counted() == {}


def test_what_an_injector_refuses_leaves_as_datagrams(rig, injected):
    injected.close()
    frame, vnet = super_frame("vxlan", "tcp4", 40_000, 1300)
    rig.t["sockets"]["udp_gso"] = 1
    rig.route(frame, OUTSIDE, (Op.OUTPUT, INSIDE))
    rig.arrives(frame, OUTSIDE, vnet)
    rig.step()
    assert [sent.gso_type for sent in rig.got()] == [GSO_UDP_L4]


def test_an_injector_is_asked_for_once_there_is_something_for_it(rig):
    assert rig.t["sockets"]["injector_wanted"].sum() == 0
    for kind, wanted in (("gre", 0), ("vxlan", 1)):
        frame, vnet = super_frame(kind, "tcp4", 5_000, 1300)
        rig.route(frame, OUTSIDE, (Op.OUTPUT, INSIDE))
        rig.arrives(frame, OUTSIDE, vnet)
        rig.step()
        assert rig.t["sockets"]["injector_wanted"].tolist()[:2] == [0, wanted]


def datagrams(sent: Sent) -> list[bytes]:
    """What the kernel makes of a super-frame of datagrams: each with the headers up to UDP's, made right."""
    header_len, l3 = sent.csum_start + 8, 14
    frames = []
    for number, at in enumerate(range(header_len, len(sent.frame), sent.gso_size)):
        body = sent.frame[at : at + sent.gso_size]
        frame = bytearray(sent.frame[:header_len] + body)
        struct.pack_into("!H", frame, sent.csum_start + 4, 8 + len(body))
        if frame[12:14] == b"\x08\x00":
            ident = struct.unpack_from("!H", frame, l3 + 4)[0] + number
            struct.pack_into("!HH", frame, l3 + 2, len(frame) - l3, ident)
            frame[l3 + 10 : l3 + 12] = b"\0\0"
            value = ~internet_sum(bytes(frame[l3 : l3 + 20])) & 0xFFFF
            frame[l3 + 10 : l3 + 12] = value.to_bytes(2, "big")
        else:
            struct.pack_into("!H", frame, l3 + 4, len(frame) - l3 - 40)
        frames.append(bytes(frame))
    return frames


def without_udp_checksum(frames: list[bytes]) -> list[bytes]:
    """The outer one, which the kernel completes."""
    starts = [34 if frame[12:14] == b"\x08\x00" else 54 for frame in frames]
    return [frame[: l4 + 6] + frame[l4 + 8 :] for frame, l4 in zip(frames, starts, strict=True)]


@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_vm_gets_a_super_frame_whole_unless_it_is_in_a_tunnel_over_udp(kind, inner):
    frame, vnet = super_frame(kind, inner, 20_000, 1300)
    with Rig(taps=2, wires=0) as rig:
        rig.route(frame, 1, (Op.OUTPUT, 2))
        rig.vms[0].send(vnet + b"\0\0" + frame)
        rig.step()
        got = []
        with contextlib.suppress(BlockingIOError):
            while True:
                got.append(rig.vms[1].recv(1 << 17))
        if kind in ("vxlan", "vxlan-checksum", "vxlan-ipv6", "fou", "odd"):
            completed = [Sent(*VNET.unpack_from(data), data[12:]).completed() for data in got]
            assert completed == reference_segments(kind, inner, 20_000, 1300)
        else:
            assert got == [vnet + b"\0\0" + frame]
        rig.assert_pool_whole()


@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("length", "gso_size"), [(5000, 1300), (1301, 1300), (40, 0)])
def test_it_is_segmented_for_a_wire(rig, kind, inner, length, gso_size):
    frame, vnet = super_frame(kind, inner, length, gso_size)
    wire_port = rig.wire_ports[0]
    rig.route(frame, OUTSIDE, (Op.OUTPUT, wire_port))
    rig.arrives(frame, OUTSIDE, vnet)
    rig.step()
    assert rig.sent() == reference_segments(kind, inner, length, gso_size)
    assert rig.counted() == {}


@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_through_a_tunnel_of_ours(rig, kind, inner):
    frame, vnet = super_frame(kind, inner, 5000, 1200)
    tunnel = rig.add_tunnel()
    rig.route(frame, OUTSIDE, (Op.SET_TUNNEL, 42), (Op.OUTPUT, tunnel))
    rig.arrives(frame, OUTSIDE, vnet)
    rig.step()
    inside = [bytes(Ether(sent)[VXLAN].payload) for sent in rig.sent()]
    assert inside == reference_segments(kind, inner, 5000, 1200)
    assert rig.counted() == {}


@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("tagged", "mpls", "pbb")])
def test_of_one_too_big_for_a_tunnel_of_ours_the_first_segment_is_reported(rig, kind, inner):
    """Its sender is told by the packet that its own tunnel sent."""
    frame, vnet = super_frame(kind, inner, 5000, 1440)
    tunnel = rig.add_tunnel()
    rig.route(frame, OUTSIDE, (Op.SET_TUNNEL, 42), (Op.OUTPUT, tunnel))
    rig.arrives(frame, OUTSIDE, vnet)
    rig.step()
    assert rig.sent() == []
    ((_, reported),) = rig.punted()
    assert reported == reference_segments(kind, inner, 5000, 1440)[0]
    assert rig.counted() == {"mtu_exceeded": 4}


@pytest.mark.parametrize("kind", ["vxlan", "vxlan-ipv6", "ipip", "mpls"])
def test_a_program_that_rewrites_the_outer_headers_leaves_the_inner_ones_right(rig, kind):
    frame, vnet = super_frame(kind, "tcp4", 5000, 1300)
    rig.route(frame, OUTSIDE, (Op.PUSH, 0x8100), (Op.OUTPUT, rig.wire_ports[0]))
    rig.arrives(frame, OUTSIDE, vnet)
    rig.step()
    untagged = [sent[:12] + sent[16:] for sent in rig.sent()]
    assert untagged == reference_segments(kind, "tcp4", 5000, 1300)


RIG = Rig(wires=1, mtu=9000)


def outcome(frame, vnet, program):
    """What a program sends out of port 1, and what it punts, in no order."""
    RIG.burst([frame], 1, verify=False)
    row = RIG.t["packets"][0]
    flags, _, _, row["gso_size"], row["csum_start"], row["csum_offset"] = VNET.unpack(vnet)
    row["csum"] = Csum.PARTIAL if flags else Csum.UNKNOWN
    settle_offload(RIG.mem, row)
    RIG.coalesce()
    RIG.take(0)
    flow_table.make_key(RIG.mem, RIG.t, row)
    at, length = RIG.store.place(program)
    actions.run_program(RIG.mem, RIG.t, STORE + at, length, 1, 1)
    wire.flush(RIG.mem, RIG.t, 0)
    return sorted(RIG.sent()), sorted(RIG.punted())


@settings(max_examples=examples(200))
@given(
    kind=st.sampled_from([kind for kind in KINDS if kind != "tagged"]),
    inner=st.sampled_from(INNERS),
    lengths=st.sampled_from([(500, 100), (201, 200), (90, 0)]),
    program=programs(),
)
def test_a_program_makes_of_one_what_it_makes_of_its_segments(kind, inner, lengths, program):
    expected = [], []
    for segment in reference_segments(kind, inner, *lengths):
        for total, part in zip(expected, outcome(segment, bytes(10), program), strict=True):
            total += part
    assert outcome(*super_frame(kind, inner, *lengths), program) == tuple(map(sorted, expected))


@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("kind", ["vxlan", "vxlan-checksum", "fou", "odd"])
@pytest.mark.parametrize(("length", "gso_size"), [(5000, 1300), (300, 0)])
def test_addresses_of_a_tunnel_over_udp_may_change(rig, injected, kind, inner, length, gso_size):
    """Its checksum is right then if it had one, and stays away if it had none (RFC 768, RFC 6935)."""
    frame, vnet = super_frame(kind, inner, length, gso_size)
    address = (Op.SET_FIELD, SETTABLE.index("ipv4_dst"), 0, 0xC0A80101)
    rig.route(frame, OUTSIDE, address, (Op.OUTPUT, rig.wire_ports[0]), (Op.OUTPUT, INSIDE))
    rig.arrives(frame, OUTSIDE, vnet)
    rig.step()
    wanted = []
    for segment in reference_segments(kind, inner, length, gso_size):
        header = IP(segment[14:34]).copy()
        header.dst, header.chksum = "192.168.1.1", None
        wanted.append(with_tunnel_checksum(segment[:14] + bytes(header)[:20] + segment[34:]))
    assert rig.sent() == wanted
    if gso_size:
        data = injected.recv(1 << 17)
        assert bool(data[0] & UDP_TUNNEL_CSUM) == (frame[40:42] != b"\0\0") == (data[64:66] != b"\0\0")


def test_a_packet_in_of_one_is_its_segments(rig):
    frame, vnet = super_frame("vxlan-checksum", "tcp4", 3000, 1300)
    rig.route(frame, OUTSIDE, (Op.CONTROLLER, 5))
    rig.arrives(frame, OUTSIDE, vnet)
    rig.step()
    assert [sent for _, sent in rig.punted()] == reference_segments("vxlan-checksum", "tcp4", 3000, 1300)


def test_a_missed_one_is_sent_on_as_a_super_frame(rig):
    frame, vnet = super_frame("vxlan", "tcp4", 3000, 1300)
    rig.arrives(frame, OUTSIDE, vnet)
    rig.step()
    row = rig.t["punts"][0]
    offset, length = rig.program((Op.OUTPUT, INSIDE))
    rig.command(layout.Command.EXECUTE, int(row["slot"]), offset, length)
    assert len(rig.got()) == 3
    (info,) = rig.t["held"][[int(row["slot"])]]
    assert (info["length"], info["gso_size"]) == (len(frame), 1300)
    assert info["csum_start"] == 14 + 20 + 16 + 14 + 20


@pytest.mark.parametrize("pops", [1, 2, 3])
def test_tags_are_popped_from_a_super_frame(rig, pops):
    frame, vnet = super_frame("tagged", "tcp4", 3000, 1300)
    rig.route(frame, OUTSIDE, *[(Op.POP_VLAN,)] * pops, (Op.OUTPUT, rig.wire_ports[0]))
    rig.arrives(frame, OUTSIDE, vnet)
    rig.step()
    wanted = reference_segments("tagged", "tcp4", 3000, 1300)
    assert rig.sent() == [segment[:12] + segment[12 + 4 * pops :] for segment in wanted]


# SCTP


def crc32c(data: bytes) -> int:
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ 0x82F63B78 if state & 1 else state >> 1
    return state ^ 0xFFFFFFFF


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tunnelled", [False, True])
@pytest.mark.parametrize("length", [1, 4, 1000])
def test_a_partial_checksum_of_sctp_becomes_a_crc(rig, version, tunnelled, length):
    ip = IP(src="10.9.0.1", dst="10.9.0.2", proto=132)
    if version == 6:
        ip = IPv6(src="fd09::1", dst="fd09::2", nh=132)
    packet = bytes(ip / SCTP(sport=1, dport=2) / SCTPChunkData(data=payload(length)))
    headers = bytes(vm_ether())[:12] + (b"\x08\x00" if version == 4 else b"\x86\xdd")
    if tunnelled:
        headers = outer("vxlan", len(packet), version)
    l4 = len(headers) + (20 if version == 4 else 40)
    right = headers + packet
    without = right[l4 : l4 + 8] + bytes(4) + right[l4 + 12 :]
    assert struct.unpack_from("<I", right, l4 + 8)[0] == crc32c(without)
    partial = right[: l4 + 8] + b"\x12\x34\x56\x78" + right[l4 + 12 :]
    rig.route(right, OUTSIDE, (Op.OUTPUT, INSIDE))
    rig.arrives(partial, OUTSIDE, VNET.pack(NEEDS_CSUM, 0, 0, 0, l4, 8))
    rig.step()
    (sent,) = rig.got()
    assert (sent.frame[: len(right)], sent.flags) == (right, 0)


@pytest.mark.parametrize(
    ("packet", "start", "offset"),
    [
        (IP(src="1.1.1.1", dst="2.2.2.2", proto=200) / Raw(payload(200)), 40, 10),
        (IP(src="1.1.1.1", dst="2.2.2.2") / UDP() / Raw(payload(200)), 34, 8),
        (IP(src="1.1.1.1", dst="2.2.2.2", flags="MF") / UDP() / Raw(payload(200)), 34, 6),
    ],
    ids=["unknown", "where SCTP has its", "fragment"],
)
def test_any_other_partial_checksum_is_completed_as_linux_does(rig, packet, start, offset):
    frame = bytes(vm_ether() / packet)
    rig.route(frame, OUTSIDE, (Op.OUTPUT, INSIDE))
    rig.arrives(frame, OUTSIDE, VNET.pack(NEEDS_CSUM, 0, 0, 0, start, offset))
    rig.step()
    (sent,) = rig.got()
    value = ~internet_sum(frame[start:]) & 0xFFFF
    at = start + offset
    assert (sent.frame, sent.flags) == (frame[:at] + value.to_bytes(2, "big") + frame[at + 2 :], 0)


@pytest.mark.parametrize("tags", [0, 3])
@pytest.mark.parametrize("proto", [17, 47])
@pytest.mark.parametrize("extensions", [1, 30, 512])
def test_no_header_is_taken_for_one_inside_of_itself(rig, extensions, proto, tags):
    """A hostile sender points at an IPv4 header made of the IPv6 addresses, in front of long extensions.

    It is no super-frame then. Tags hide the IPv6 header, until some are popped; it is cut by what was found.
    """
    long = 8 * extensions
    chain = bytes([60, 255]) + bytes(2046)
    last = long % 2048 or 2048
    chain = chain * ((long - last) // 2048) + bytes([proto, last // 8 - 1]) + bytes(last - 2)
    body = chain + struct.pack("!HHHH", 0x8000, 2, 8 + 3000, 7) + payload(3000)
    addresses = bytearray(12) + IP(src="1.2.3.4", dst="5.6.7.8", proto=17, len=20 + len(body)).build()[:20]
    headers = bytes(tagged(tags, 0x86DD))
    frame = headers + struct.pack("!IHBB", 6 << 28, len(body), 60, 64) + addresses + body
    start = len(headers) + 40
    vnet = VNET.pack(NEEDS_CSUM, GSO_UDP_L4, start + 8, 1000, start, 6)
    rig.t["sockets"]["udp_gso"] = 1
    for pops in range(tags + 1):
        outputs = (Op.OUTPUT, rig.wire_ports[0]), (Op.OUTPUT, INSIDE)
        rig.route(frame, OUTSIDE, *[(Op.POP_VLAN,)] * pops, *outputs)
        templates = rig.read(layout.TEMPLATES_OFFSET, layout.SERIES_OFFSET - layout.TEMPLATES_OFFSET)
        rig.arrives(frame, OUTSIDE, vnet)
        rig.step()
        assert rig.counted() == ({} if tags else {"mtu_exceeded": 2})
        assert templates == rig.read(layout.TEMPLATES_OFFSET, len(templates))
        headers_left = start - 4 * pops + 8
        cut = frame[start + 8 :] if tags else b""
        for sent in (rig.sent(), rig.frames()):
            assert b"".join(segment[headers_left:] for segment in sent) == cut


@pytest.mark.parametrize("start", [0, 13, 14, 33, 35, 60, 200, 65000])
@pytest.mark.parametrize("offset", [0, 6, 8, 16, 65000])
@pytest.mark.parametrize("kind", [0, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4])
def test_a_hostile_header_does_no_harm(rig, start, offset, kind):
    frame, _ = super_frame("vxlan", "tcp4", 150, 0)
    rig.route(frame, OUTSIDE, (Op.OUTPUT, INSIDE))
    rig.arrives(frame, OUTSIDE, VNET.pack(NEEDS_CSUM, kind, 0, 20, start, offset))
    rig.step()
    assert all(len(sent.frame) == len(frame) for sent in rig.got())
    assert sum(rig.counted().values()) <= 1


# Wires: a frame is a head and a rest

SPLITS = range(1, layout.SLOT_HEAD_MAX + 1, 17 if INTERPRETED or CHECKED else 1)


@pytest.mark.parametrize("inner", ["tcp4", "udp6"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_wire_carries_what_its_ends_understand_differently(kind, inner):
    """Wherever its head ends, a frame is delivered as it is."""
    (frame,) = reference_segments(kind, inner, 400, 0)
    with Rig(taps=1, wires=1) as rig:
        rig.route(frame, rig.wire_ports[0], (Op.OUTPUT, 1))
        for split_at in SPLITS:
            rig.put(frame, 0, SlotKind.SPLIT, split_at)
            rig.step()
            assert rig.vms[0].recv(1 << 16)[layout.VNET_HEADER :] == frame
        assert rig.counted() == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_in_transit_is_passed_from_wire_to_wire(kind):
    (frame,) = reference_segments(kind, "tcp4", 1200, 0)
    with Rig(wires=2) as rig:
        rig.route(frame, rig.wire_ports[0], (Op.OUTPUT, rig.wire_ports[1]))
        for split_at in SPLITS:
            rig.put(frame, 0, SlotKind.SPLIT, split_at)
            rig.step()
            assert rig.sent(1) == [frame]
        assert rig.counted() == {}


@pytest.mark.parametrize("split_at", [1, 14, 30, 42, 50, 90, 104, 116, 150, 224])
def test_a_tunnel_ends_behind_any_head(split_at):
    (inner,) = reference_segments("tagged", "tcp4", 400, 0)
    with Rig(taps=1, wires=1) as rig:
        rig.add_tunnel()
        frame = vxlan(inner)
        rig.route(frame, rig.wire_ports[0], (Op.OUTPUT, 1))
        rig.put(frame, 0, SlotKind.SPLIT, split_at)
        rig.step()
        assert rig.vms[0].recv(1 << 16)[layout.VNET_HEADER :] == inner
        assert rig.counted() == {}


@pytest.mark.parametrize("damaged", [None, "checksum", "length", "fragment", "no header", "long header"])
@pytest.mark.parametrize("inner", ["tcp4", "tcp4-options", "tcp6"])
def test_where_the_head_ends_makes_no_difference_to_what_a_tunnel_of_bare_ip_carries(inner, damaged):
    """A sound TCP header ends most heads: what only looks like one there is payload as it is in one piece."""
    packet, _, _, version = inner_packet(inner, 200)
    if damaged in ("checksum", "length", "fragment") and version == 4:
        changed = {"checksum": {"chksum": 1}, "length": {"len": 1000}, "fragment": {"flags": "MF"}}
        packet = IP(src=packet.src, dst=packet.dst, **changed[damaged]) / packet.payload
    elif damaged == "length":
        packet.plen = 1000
    elif damaged in ("no header", "long header"):
        packet[TCP].dataofs = 4 if damaged == "no header" else 15
    body = bytes(packet)
    frame = bytes(vm_ether() / IP(src=REMOTE_IP, dst=LOCAL_IP, proto=4 if version == 4 else 41) / Raw(body))
    ends = 34 + (20 if version == 4 else 40)
    with Rig(wires=1) as rig:
        rig.add_tunnel(format="ipip")
        rig.put(frame, 0, SlotKind.DATA)
        rig.step()
        whole = rig.punted(), rig.t["punts"][0]["key"].tolist()
        assert whole[0][0][1][14:] == body
        for number, split_at in enumerate(ends + 4 * dataofs for dataofs in range(4, 16)):
            rig.put(frame, 0, SlotKind.SPLIT, split_at)
            rig.step()
            assert (rig.punted(), rig.t["punts"][number + 1]["key"].tolist()) == whole, split_at
        assert rig.counted() == {}


@pytest.mark.parametrize("port", ["packet", "wire"])
@pytest.mark.parametrize("trailer", [b"\0", b"odd", b"a longer one, even"])
@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("kind", [None, "vxlan-checksum", "gre"])
def test_no_trailer_gets_into_a_checksum(rig, kind, inner, trailer, port):
    """Linux would sum it up with the packet that is left to it: so nothing is left to it."""
    if kind is None:
        packet, layer, _, version = inner_packet(inner, 300)
        right = bytes(vm_ether())[:12] + (b"\x08\x00" if version == 4 else b"\x86\xdd") + bytes(packet)
        start = len(right) - len(bytes(packet[layer]))
        at = start + (16 if layer is TCP else 6)
        addresses = right[26:34] if version == 4 else right[22:54]
        pseudo = internet_sum(addresses + struct.pack("!II", len(right) - start, 6 if layer is TCP else 17))
        frame = right[:at] + pseudo.to_bytes(2, "big") + right[at + 2 :]
        vnet = VNET.pack(NEEDS_CSUM, 0, 0, 0, start, at - start)
    else:
        (right,) = reference_segments(kind, inner, 300, 0)
        frame, vnet = super_frame(kind, inner, 300, 0)
    rig.route(frame, OUTSIDE, (Op.OUTPUT, INSIDE if port == "packet" else rig.wire_ports[0]))
    rig.arrives(frame + trailer, OUTSIDE, vnet)
    rig.step()
    sent = [message.completed() for message in rig.got()] if port == "packet" else rig.sent()
    assert sent == [right + trailer]


@pytest.mark.parametrize("ethertype", [0x8100, 0x88A8])
def test_a_trailer_stays_on_single_frames(rig, ethertype):
    frame = bytes(vm_ether() / Dot1AD(vlan=3, type=0x0800)) + bytes(
        IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2) / Raw(payload(30))
    )
    assert checksums_right(frame)
    for port in (INSIDE, rig.wire_ports[0]):
        rig.route(frame, OUTSIDE, (Op.OUTPUT, port))
        rig.arrives(frame + b"trailer of any length", OUTSIDE)
        rig.step()
    (sent,) = rig.got()
    assert sent.frame == frame + b"trailer of any length"
    assert rig.sent() == [frame + b"trailer of any length"]
