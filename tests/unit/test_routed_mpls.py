# SPDX-License-Identifier: Apache-2.0
"""MPLS in GRE (RFC 4023) and in UDP (RFC 7510) that carries Ethernet frames or, as routers send it, bare IP.

scapy builds what a peer such as vRouter sends, which has labels of both kinds at one address.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scapy.layers.l2 import GRE, LLC, SNAP

from tests.packets import (
    ARP,
    ICMP,
    IP,
    MPLS,
    TCP,
    UDP,
    Dot1AD,
    Dot1Q,
    Ether,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrFragment,
    Raw,
    checksums_right,
    ip_header,
    payload,
    payload_of,
    tcp_segment,
    tcp_stream,
)
from tests.reference import internet_sum
from tests.unit.rig import LOCAL_IP, LOCAL_MAC, REMOTE_IP, REMOTE_MAC, Rig, examples
from tests.unit.test_tso import load
from vswitch.dataplane import parse
from vswitch.dataplane.compiled import compiled
from vswitch.dataplane.ports import wire
from vswitch.layout import Counter, Csum, SlotKind

WIRE, LABEL = 1, 42
CARRIERS = {
    "mplsogre": (47, GRE(proto=0x8847)),
    "mplsoudp": (17, UDP(sport=50000, dport=6635, chksum=0)),
}
carriers = pytest.mark.parametrize("name", CARRIERS)


def sent(name, inner, **label):
    """What a peer sends: `inner` behind one label."""
    proto, carrier = CARRIERS[name]
    outer = Ether(src=REMOTE_MAC, dst=LOCAL_MAC) / IP(src=REMOTE_IP, dst=LOCAL_IP, proto=proto, flags="DF")
    fields = {"label": LABEL, "s": 1, "ttl": 63} | label
    return bytes(outer / carrier / MPLS(**fields) / Raw(bytes(inner)))


def given_ethernet(inner):
    """A bare IP packet as it is handed on."""
    return bytes(Ether(src=REMOTE_MAC, dst=LOCAL_MAC, type=0x800 if inner.version == 4 else 0x86DD) / inner)


@pytest.fixture(scope="module")
def rigs():
    """Switches by the formats of their tunnels to the peer."""
    formats = [(name,) for name in CARRIERS] + [(f"{name}-ip",) for name in CARRIERS]
    formats += [(name, f"{name}-ip") for name in CARRIERS]
    made = {}
    for names in formats:
        rig = made[names] = Rig(wires=1)
        rig.ports = {name: rig.add_tunnel(format=name) for name in names}
    yield made
    for rig in made.values():
        rig.close()


def in_port(rig, frame):
    """The tunnel that delivers a frame."""
    assert rig.burst([frame], WIRE) == [parse.FORWARD]
    return int(rig.t["packets"][0]["in_port"])


PACKETS = {
    "tcp": ip_header(4) / TCP(flags="A") / Raw(payload(100)),
    "tcp, IPv6": ip_header(6) / TCP(flags="A") / Raw(payload(100)),
    "udp": ip_header(4) / UDP(sport=1, dport=2) / Raw(payload(7)),
    "udp, IPv6": ip_header(6) / UDP(sport=1, dport=2) / Raw(payload(7)),
    "ping": ip_header(4) / ICMP() / Raw(payload(56)),
    "ping, IPv6": ip_header(6) / ICMPv6EchoRequest(data=payload(56)),
    "no payload": ip_header(4) / TCP(flags="S"),
    "shorter than a frame": IP(src="10.0.0.1", dst="10.0.0.2", proto=59),
    "first fragment": ip_header(4, flags="MF", id=7, proto=17) / Raw(payload(80)),
    "last fragment": ip_header(4, flags=0, frag=10, id=7, proto=17) / Raw(payload(80)),
    "fragment, IPv6": ip_header(6) / IPv6ExtHdrFragment(offset=10, m=0, id=7, nh=17) / Raw(payload(80)),
    "options": ip_header(4, options=b"\x94\x04\x00\x00") / UDP(sport=1, dport=2),
    "source that reads as a type": ip_header(4, src="8.0.69.0") / UDP(sport=1, dport=2) / Raw(payload(60)),
    "source that reads as ARP": ip_header(6, src="2001:db8:806:1::1") / UDP() / Raw(payload(60)),
    "source that reads as a tag": ip_header(6, src="2001:db8:8100:1:800:4500::") / UDP() / Raw(payload(60)),
    "addresses that read as tags": IP(src="129.0.0.1", dst="129.0.0.2", proto=59),
    "addresses that read as ARP in a VLAN": IP(src="129.0.0.1", dst="8.6.0.1", proto=59),
    "addresses that read as IP in a VLAN": IP(src="129.0.0.1", dst="8.0.69.0", proto=59),
    "IPv6 in IPv6": ip_header(6) / IPv6(src="fd01::1", dst="fd01::2") / UDP() / Raw(payload(60)),
}
packets = pytest.mark.parametrize("inner", PACKETS.values(), ids=PACKETS)


@carriers
@packets
@pytest.mark.parametrize("rows", ["both", "ethernet", "ip"])
def test_a_routers_packets_come_out_as_they_are(rigs, name, inner, rows):
    """By a tunnel of the format that carries bare IP, if there is one, else by that of frames."""
    routed = f"{name}-ip"
    rig = rigs[{"both": (name, routed), "ethernet": (name,), "ip": (routed,)}[rows]]
    (packet,) = rig.deliver([sent(name, inner)], WIRE)
    row = rig.t["packets"][0]
    assert int(row["in_port"]) == rig.ports[name if rows == "ethernet" else routed]
    assert int(row["tunnel_id"]) == LABEL
    assert packet == given_ethernet(inner)


@compiled
def received(mem, t, row):
    return parse.parse_received(mem, t, row)


@carriers
@packets
@pytest.mark.parametrize("rows", ["both", "ethernet"])
def test_wherever_the_wires_other_end_cut_the_frame(rigs, name, inner, rows):
    """A frame is a head and a rest: a switch on the way may have understood fewer of its headers."""
    routed = f"{name}-ip"
    rig = rigs[{"both": (name, routed), "ethernet": (name,)}[rows]]
    bare = rig.ports[routed if rows == "both" else name], 0x800 if inner.version == 4 else 0x86DD
    ethernet = rig.ports[name], 0x806
    bridged = sent(name, Ether(dst="60:00:00:00:00:02") / ARP(op=2, psrc="10.0.0.1"))
    for frame, expected in ((sent(name, inner), bare), (bridged, ethernet)):
        for cut in range(14, min(len(frame), 130)):
            rig.put(frame, kind=SlotKind.SPLIT, split_at=cut)
            wire.receive(rig.mem, rig.t, 0)
            row = rig.t["packets"][0]
            verdict = int(received(rig.mem, rig.t, row))
            found = int(row["in_port"]), int(row["eth_type"])
            assert (verdict, found) == (parse.FORWARD, expected), cut
            wire.release(rig.mem, rig.t, 0)


@carriers
def test_what_a_router_pads_comes_out(rigs, name):
    """A VM's short frame may have had padding behind the packet."""
    inner = PACKETS["no payload"]
    (packet,) = rigs[name,].deliver([sent(name, bytes(inner) + bytes(6))], WIRE)
    assert packet[: 14 + len(inner)] == given_ethernet(inner)


def checksum_of(header):
    """The checksum of an IPv4 header that has zeros for it."""
    return (0xFFFF - internet_sum(header)).to_bytes(2, "big")


def addressed_as_ip(frame, version):
    """The frame with addresses that read as the beginning of an IP header of its own length."""
    if version == 6:
        return bytes([0x60, 0, 0, 0]) + (len(frame) - 40).to_bytes(2, "big") + frame[6:]
    start = bytes([0x45, 0]) + len(frame).to_bytes(2, "big") + frame[4:10]
    return start + checksum_of(start + bytes(2) + frame[12:20]) + frame[12:]


FRAMES = {
    "arp": ARP(op=2, psrc="10.0.0.1", pdst="10.0.0.2"),
    "tcp": ip_header(4) / TCP(flags="A") / Raw(payload(100)),
    "tcp, IPv6": ip_header(6) / TCP(flags="A") / Raw(payload(100)),
    "ping": ip_header(4) / ICMP() / Raw(payload(56)),
    "fragment": ip_header(4, flags=0, frag=10, id=7, proto=17) / Raw(payload(80)),
    "in a VLAN": Dot1Q(vlan=7) / ip_header(4) / UDP() / Raw(payload(40)),
    "arp in a VLAN": Dot1Q(vlan=7) / ARP(op=1, pdst="10.0.0.2"),
    "in two VLANs": Dot1AD(vlan=7) / Dot1Q(vlan=8) / ip_header(6) / UDP() / Raw(payload(40)),
}
frames = pytest.mark.parametrize("body", FRAMES.values(), ids=FRAMES)


@carriers
@frames
@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("version", [4, 6])
def test_frames_are_no_ip_whatever_their_addresses(rigs, name, body, both, version):
    """Also those whose first bytes would do as an IP header: length and, of IPv4, checksum included."""
    rig = rigs[(name, f"{name}-ip") if both else (name,)]
    frame = addressed_as_ip(bytes(Ether(src="06:11:22:33:44:55", dst="00:00:00:00:00:02") / body), version)
    (packet,) = rig.deliver([sent(name, frame)], WIRE)
    assert int(rig.t["packets"][0]["in_port"]) == rig.ports[name]
    assert packet == frame


@carriers
@settings(max_examples=examples(300), deadline=None)
@given(
    first=st.sampled_from([*range(0x40, 0x50), *range(0x60, 0x70)]),
    rest=st.binary(min_size=11, max_size=11),
    body=st.sampled_from(
        [
            *(b"\x08\x06" + bytes(body) for body in (FRAMES["arp"],)),
            *(b"\x08\x00" + bytes(body) for body in (FRAMES["tcp"], FRAMES["ping"])),
            b"\x86\xdd" + bytes(FRAMES["tcp, IPv6"]),
            b"\x88\xcc" + payload(60),
            bytes([0, 38]) + bytes(LLC() / SNAP() / Raw(payload(30))),
        ]
    ),
)
@example(first=0x60, rest=bytes(4) + b"\x02" + bytes(6), body=b"\x08\x06" + bytes(FRAMES["arp"]))
def test_any_address_of_a_frame_does(rigs, name, first, rest, body):
    frame = bytes([first]) + rest + body
    length = (frame[4] << 8 | frame[5]) + 40
    if first >= 0x60 and length == len(frame) and body[:2] not in (b"\x08\x06", b"\x08\x00", b"\x86\xdd"):
        return  # of what nobody knows, nobody can tell
    (packet,) = rigs[name,].deliver([sent(name, frame)], WIRE)
    assert packet == frame


def ipv4_start(ihl, total, right=True):
    """20 bytes that read as an IPv4 header of this length, and as an Ethernet header of no known type."""
    start = bytes([0x40 | ihl // 4, 0]) + total.to_bytes(2, "big") + bytes(6)
    rest = bytes(2) + payload(6, seed=9)
    checksum = checksum_of(start + bytes(2) + rest)
    return start + (checksum if right else bytes(2)) + rest


@carriers
@pytest.mark.parametrize(
    "frame",
    [
        bytes(Ether(dst="60:00:00:00:00:02", src="06:00:00:00:00:01", type=0x88CC) / Raw(payload(60))),
        ipv4_start(20, 80, right=False) + payload(60),
        ipv4_start(20, 81) + payload(60),
        ipv4_start(20, 19) + payload(60),
        ipv4_start(16, 80) + payload(60),
    ],
    ids=["another length", "wrong checksum", "too long", "too short", "short header"],
)
def test_a_header_that_does_not_hold_is_none(rigs, name, frame):
    (packet,) = rigs[name,].deliver([sent(name, frame)], WIRE)
    assert packet == frame


@carriers
def test_bytes_behind_the_outer_packet_do_not_count(rigs, name):
    inner = PACKETS["udp, IPv6"]
    (packet,) = rigs[name,].deliver([sent(name, inner) + b"trailer"], WIRE)
    assert packet[: 14 + len(inner)] == given_ethernet(inner)


@carriers
@settings(max_examples=examples(200), deadline=None)
@given(inner=st.binary(max_size=90), says=st.integers(0, 200))
@example(inner=b"\x45\0\0\x14" + bytes(12), says=100)
@example(inner=b"\x4f\0\0\x50" + bytes(20), says=100)
@example(inner=b"\x60\0\0\0\0\x3c" + bytes(14), says=100)
@example(inner=b"\x60" + bytes(11), says=40)
def test_no_bytes_are_read_behind_the_end(rigs, name, inner, says):
    """The frame ends the rig's array: a read behind it is an error where accesses are checked."""
    frame = Ether(sent(name, inner))
    frame[IP].len = 28 + len(CARRIERS[name][1]) + says - 4
    del frame[IP].chksum
    for rig in rigs.values():
        rig.burst([bytes(frame)], WIRE)


@carriers
def test_what_says_bare_ip_takes_nothing_else(rigs, name):
    rig = rigs[f"{name}-ip",]
    assert rig.burst([sent(name, Ether() / ARP())], WIRE) == [Counter.NOT_IP]


@carriers
@pytest.mark.parametrize("version", [4, 6])
def test_routed_and_bridged_segments_of_one_peer_are_coalesced_apart(rigs, name, version):
    bridged = tcp_stream(4, 1000, version=version)
    routed = [Ether(frame).payload for frame in tcp_stream(4, 1000, version=version)]
    mixed = [sent(name, one) for pair in zip(bridged, routed, strict=True) for one in pair]
    rig = rigs[name,]
    first, second = rig.deliver(mixed, WIRE)
    assert first[:14] == bridged[0][:14] and second[:12] == given_ethernet(routed[0])[:12]
    assert payload_of(first) == payload_of(second) == b"".join(map(payload_of, bridged))
    assert [int(group["count"]) for group in rig.t["groups"][:2]] == [4, 4]


@carriers
@pytest.mark.parametrize("version", [4, 6])
def test_segments_are_sent_as_a_router_reads_them(rigs, name, version):
    """Byte for byte what scapy builds of the segments, without a byte between label and IP."""
    rig = rigs[f"{name}-ip",]
    load(rig, tcp_segment(2500, version=version), 1000)
    rig.t["outgoing"]["csum"], rig.t["outgoing"]["tunnel_id"] = Csum.PARTIAL, LABEL
    frames = rig.segment(0, rig.ports[f"{name}-ip"])
    assert len(frames) == 3
    for frame in frames:
        outer = Ether(frame)
        proto, carrier = CARRIERS[name]
        at = 34 + len(carrier) + 4
        inner = (IP if version == 4 else IPv6)(frame[at:])
        assert checksums_right(bytes(Ether() / inner)) and inner.version == version
        again = Ether(src=LOCAL_MAC, dst=REMOTE_MAC) / IP(
            src=LOCAL_IP, dst=REMOTE_IP, proto=proto, flags="DF", id=outer[IP].id
        )
        carrier = carrier.copy()
        if name == "mplsoudp":
            carrier.sport = outer[UDP].sport
        assert bytes(again / carrier / MPLS(label=LABEL, s=1, ttl=64) / inner) == frame
