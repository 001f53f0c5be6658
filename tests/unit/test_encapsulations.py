# SPDX-License-Identifier: Apache-2.0
"""Every tunnel format, both ways: scapy and tshark read what we send, and what they could send comes back."""

from __future__ import annotations

import shutil
import struct
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.l2 import GRE
from scapy.utils import wrpcap

from tests.packets import (
    ARP,
    IP,
    MPLS,
    TCP,
    UDP,
    VXLAN,
    Dot1Q,
    Ether,
    Raw,
    ip_header,
    payload,
    payload_of,
    tcp_segment,
    tcp_stream,
    vm_ether,
)
from tests.reference import merged
from tests.unit.rig import LOCAL_IP, LOCAL_MAC, REMOTE_IP, REMOTE_MAC, Rig, examples
from tests.unit.test_gro_reversal import bursts, undo
from tests.unit.test_tso import check_segments, load
from vswitch.dataplane import parse
from vswitch.layout import Counter, Csum
from vswitch.tunnel_formats import IP as BARE_IP
from vswitch.tunnel_formats import SHIPPED, Format

WIRE = 1
OUTER = 34
"""Outer Ethernet and IPv4."""
USER_FORMATS = (
    Format(
        "told", outer_proto=253, opaque_len=9, self_describing=True, id_offset=1, id_length=2,
        id_value=0x4D4E, flow_id_offset=3, flow_id_length=5,
    ),
    Format(
        "bare", outer_proto=254, opaque_len=7, id_offset=6, id_length=1, id_value=9, flow_id_offset=1,
        flow_id_length=3, flow_id_shift=7, length_field=4, inner="ip", template=b"\xaa\xbb\xcc\x7e\0\0\0",
    ),
    Format(
        "datagram", outer_proto=17, opaque_len=14, id_offset=2, id_length=2, id_value=50001,
        flow_id_offset=9, flow_id_length=4, length_field=4, entropy_offset=0, check=(13, 0xF0, 0x50),
        inner="ip",
    ),
)  # fmt: skip
FORMATS = SHIPPED | {format.name: format for format in USER_FORMATS}
IN_ETHERNET = [name for name, format in FORMATS.items() if format.inner != BARE_IP]
IN_IP = [name for name, format in FORMATS.items() if format.inner == BARE_IP]


TWINS = {"mplsogre-ip": "mplsogre", "mplsoudp-ip": "mplsoudp"}
"""Formats of bare IP, and those that carry Ethernet frames behind the same headers."""


def vni_of(name):
    """A virtual network that uses the identifier's width."""
    return 0x5A5A_A5A5_5A5A_A5A5 & ((1 << FORMATS[name].flow_id_bits) - 1)


class Two(Rig):
    """A switch with a tunnel of each format out of its wire, and one back from the same other end."""

    def __init__(self):
        super().__init__(wires=1, mtu=1500)
        for format in USER_FORMATS:
            self.formats.set(format.name, format, [])
        self.out, self.back = {}, {}
        for name in FORMATS:
            self.out[name] = self.add_tunnel(format=name)
            self.back[name] = self.add_tunnel(local=REMOTE_IP, remote=LOCAL_IP, format=name)

    def encapsulate(self, frame, name, vni=None, gso_size=0):
        """The frames that the tunnel of this format makes of one from a VM."""
        load(self, frame, gso_size)
        out = self.t["outgoing"]
        out["csum"] = Csum.PARTIAL if 0 < gso_size < out["payload_len"] else Csum.GOOD
        out["tunnel_id"] = vni_of(name) if vni is None else vni
        return self.segment(0, self.out[name])


@pytest.fixture(scope="module")
def rig():
    with Two() as rig:
        yield rig


def inner_of(frame, name, original):
    """What a format carries, with the Ethernet header of the original if it carries none."""
    carried = frame[OUTER + FORMATS[name].opaque_len :]
    return carried if name in IN_ETHERNET else original[:14] + carried


def delivered_form(frame, name):
    """A VM's frame as the far end hands it on."""
    if name in IN_ETHERNET:
        return frame
    end = bytes.fromhex(f"{LOCAL_MAC}{REMOTE_MAC}".replace(":", ""))
    return end + frame[12:]


def check_outer_ip(frames, name):
    """Lengths, identifications and header checksums of outer IPv4."""
    numbers = []
    for frame in frames:
        outer = Ether(frame)
        assert (outer.dst, outer.src, outer[IP].src, outer[IP].dst) == (
            REMOTE_MAC, LOCAL_MAC, LOCAL_IP, REMOTE_IP,
        )  # fmt: skip
        assert outer[IP].len == len(frame) - 14
        header = IP(frame[14:34])
        del header.chksum
        assert bytes(header)[:20] == frame[14:34]
        assert (outer[IP].flags, outer[IP].proto) == ("DF", FORMATS[name].outer_proto)
        numbers.append(outer[IP].id)
    assert [(number - numbers[0]) & 0xFFFF for number in numbers] == list(range(len(frames)))


def check_opaque(frame, name, vni):
    """The opaque field, read by scapy where it knows the format, else by the numbers of its documentation."""
    packet = Ether(frame)
    opaque = frame[OUTER : OUTER + FORMATS[name].opaque_len]
    if FORMATS[name].outer_proto == 17:
        udp = packet[UDP]
        assert (udp.len, udp.chksum, udp.sport >> 14) == (len(frame) - OUTER, 0, 3)
    if name == "vxlan":
        assert (packet[UDP].dport, packet[VXLAN].vni, packet[VXLAN].flags) == (4789, vni, "Instance")
    elif name == "gre":
        gre = packet[GRE]
        assert (gre.key_present, gre.key, gre.proto) == (1, vni, 0x6558)
        assert (gre.chksum_present, gre.seqnum_present, gre.routing_present, gre.version) == (0, 0, 0, 0)
    elif name == "gre16":
        assert opaque == bytes.fromhex("6000 6558 0000 0000 0000") + struct.pack("!H4x", vni)
    elif name.startswith("mpls"):
        in_udp = name.startswith("mplsoudp")
        assert packet[UDP].dport == 6635 if in_udp else opaque[:4] == bytes.fromhex("0000 8847")
        label = MPLS(opaque[-4:])
        assert (label.label, label.cos, label.s, label.ttl) == (vni, 0, 1, 64)
    elif name == "slots":
        assert packet[UDP].dport == 49152
        assert opaque[8:] == struct.pack("!4xI4x", vni)
    elif name == "told":
        assert opaque == b"\x09\x4d\x4e" + vni.to_bytes(5, "big")[-5:] + b"\0"
    elif name == "bare":
        length = len(frame) - OUTER
        assert opaque == b"\xaa" + (vni << 7 | 0x7E).to_bytes(3, "big") + struct.pack("!HB", length, 9)
    elif name == "datagram":
        assert opaque[2:4] == (50001).to_bytes(2, "big")
        assert opaque[8:] == b"\0" + struct.pack("!IB", vni, 0x50)
    else:
        assert (name, opaque) == ("ipip", b"")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("version", [4, 6])
@settings(max_examples=examples(15), deadline=None)
@given(length=st.integers(1, 20000), gso_size=st.integers(100, 1350), flags=st.sampled_from(["A", "FPEC"]))
def test_s1_3_segments_of_every_format(rig, name, version, length, gso_size, flags):
    """Inner headers by the rules of TSO, opaque bytes identical, outer lengths and identifications right."""
    original = tcp_segment(length, 2**32 - 500, flags, version)
    frames = rig.encapsulate(original, name, gso_size=gso_size)
    inner = [inner_of(frame, name, original) for frame in frames]
    check_segments(inner, original, gso_size, tunnelled=False)
    if version == 6 and FORMATS[name].outer_proto6:
        assert {Ether(frame)[IP].proto for frame in frames} == {FORMATS[name].outer_proto6}
        return
    check_outer_ip(frames, name)
    for frame in frames:
        check_opaque(frame, name, vni_of(name))
    field = FORMATS[name].length_field
    varying = range(field, field + 2) if field >= 0 else ()
    opaque = [frame[OUTER : OUTER + FORMATS[name].opaque_len] for frame in frames]
    fixed = {bytes(byte for place, byte in enumerate(one) if place not in varying) for one in opaque}
    assert len(fixed) == 1


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=examples(15), deadline=None)
@given(frames=bursts())
def test_s1_4_what_every_format_carries_is_coalesced(rig, name, frames):
    """The groups are those of plain frames, and segmenting them gives the frames back."""
    if name in IN_IP:
        frames = [frame for frame in frames if Ether(frame).type in (0x800, 0x86DD)]
    carried = [one for frame in frames for one in rig.encapsulate(frame, name)]
    assert rig.burst(carried, WIRE) == [parse.FORWARD] * len(frames)
    packets = rig.t["packets"][: len(frames)]
    assert set(packets["tunnel_id"].tolist()) <= {vni_of(name)}
    assert set(packets["in_port"].tolist()) <= {rig.back[name]}
    groups = rig.coalesce()
    assert groups == merged(frames)
    for number, members in enumerate(groups):
        delivered = rig.take(number)
        originals = [delivered_form(frames[member], name) for member in members]
        assert payload_of(delivered) == b"".join(map(payload_of, originals))
        again = [inner_of(frame, name, delivered) for frame in rig.segment(0, rig.out[name])]
        if len(members) > 1:
            again, originals = list(map(undo, again)), list(map(undo, originals))
        assert again == originals


@pytest.mark.parametrize("name", [name for name in FORMATS if FORMATS[name].flow_id_bits])
@settings(max_examples=examples(15), deadline=None)
@given(data=st.data())
def test_s1_2_tenants_with_equal_connections_are_never_merged(rig, name, data):
    """Any two identifiers that a format can carry, any interleaving."""
    most = (1 << FORMATS[name].flow_id_bits) - 1
    tenants = data.draw(st.lists(st.integers(0, most), min_size=2, max_size=2, unique=True))
    order = data.draw(st.lists(st.integers(0, 1), min_size=1, max_size=20))
    streams = [iter(tcp_stream(20, 20)), iter(tcp_stream(20, 20))]
    frames = [one for who in order for one in rig.encapsulate(next(streams[who]), name, tenants[who])]
    rig.burst(frames, WIRE)
    groups = [group for group in ([i for i, who in enumerate(order) if who == tenant] for tenant in (0, 1))]
    assert sorted(rig.coalesce()) == sorted(group for group in groups if group)


def test_s1_2_tenants_of_a_format_without_identifier_have_tunnels_of_their_own(rig):
    other = rig.add_tunnel(local=REMOTE_IP, remote="192.168.0.9", format="ipip")
    frames = []
    for segment in tcp_stream(4):
        (one,) = rig.encapsulate(segment, "ipip")
        twin = Ether(one)
        twin[IP].src = "192.168.0.9"
        del twin[IP].chksum
        frames += [one, bytes(twin)]
    rig.burst(frames, WIRE)
    assert rig.t["packets"][:2]["in_port"].tolist() == [rig.back["ipip"], other]
    assert rig.coalesce() == [[0, 2, 4, 6], [1, 3, 5, 7]]


@pytest.mark.parametrize("name", FORMATS)
def test_s1_2_formatted_and_plain_frames_are_never_merged(rig, name):
    plain = [delivered_form(frame, name) for frame in tcp_stream(4)]
    carried = [rig.encapsulate(frame, name)[0] for frame in tcp_stream(4)]
    rig.burst([plain[0], carried[1], plain[1], carried[2]], WIRE)
    assert rig.coalesce() == [[0, 2], [1, 3]]


@pytest.mark.parametrize("name", [name for name in FORMATS if FORMATS[name].opaque_len])
def test_s1_4_frames_whose_opaque_fields_differ_are_not_coalesced(rig, name):
    """Any byte that no receiver reads, or that makes it another flow."""
    format = FORMATS[name]
    one, other = (rig.encapsulate(frame, name)[0] for frame in tcp_stream(2))
    ignored = set(range(format.length_field, format.length_field + 2)) if format.length_field >= 0 else set()
    if format.outer_proto == 17:
        ignored |= {6, 7}
    for place in set(range(format.opaque_len)) - set(format.fixed_bits()) - ignored:
        if format.self_describing and place == 0:
            continue
        changed = bytearray(other)
        changed[OUTER + place] ^= 0x10
        assert rig.burst([one, bytes(changed)], WIRE) == [parse.FORWARD] * 2
        assert rig.coalesce() == [[0], [1]], place


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("flags", "verdict"), [("MF", "rx_outer_fragment"), ("", "")])
def test_s1_4_outer_flags_restrict_too(rig, name, flags, verdict):
    one, other = (rig.encapsulate(frame, name)[0] for frame in tcp_stream(2))
    changed = bytearray(other)
    header = IP(other[14:34], flags=flags)
    header.flags = flags
    del header.chksum
    changed[14:34] = bytes(header)[:20]
    verdicts = rig.burst([one, bytes(changed)], WIRE)
    assert (verdicts[1] == parse.FORWARD) == (verdict == "")
    assert rig.coalesce() == ([[0], [1]] if verdict == "" else [[0]])


@pytest.mark.parametrize("name", FORMATS)
def test_s1_1_no_format_is_taken_for_another(rig, name):
    (frame,) = rig.encapsulate(tcp_segment(100), name)
    rig.burst([frame], WIRE)
    assert int(rig.t["packets"][0]["in_port"]) == rig.back[name]


@pytest.mark.parametrize("name", [name for name in FORMATS if FORMATS[name].opaque_len])
def test_s1_1_a_changed_identifier_is_no_packet_of_the_format(rig, name):
    (frame,) = rig.encapsulate(tcp_segment(100), name)
    for place, (mask, _) in FORMATS[name].fixed_bits().items():
        for bit in (1 << number for number in range(8)):
            changed = bytearray(frame)
            changed[OUTER + place] ^= bit & mask
            verdicts = rig.burst([bytes(changed)], WIRE)
            same = verdicts == [parse.FORWARD] and int(rig.t["packets"][0]["in_port"]) == rig.back[name]
            assert same == (not bit & mask)


@pytest.mark.parametrize("name", FORMATS)
def test_cut_frames_of_every_format_are_dropped_or_plain(rig, name):
    """The frame ends the rig's array: a read behind it is an error where accesses are checked."""
    (frame,) = rig.encapsulate(tcp_segment(10), name)
    for length in range(14, len(frame)):
        (verdict,) = rig.burst([frame[:length]], WIRE)
        assert verdict != parse.FORWARD or int(rig.t["packets"][0]["in_port"]) == WIRE


@pytest.mark.parametrize("length", range(256))
def test_s1_1_the_first_byte_tells_the_length(rig, length):
    (frame,) = rig.encapsulate(tcp_segment(100), "told", 7)
    header, opaque, inner = frame[:OUTER], frame[OUTER : OUTER + 9], frame[OUTER + 9 :]
    opaque = (bytes([length]) + opaque[1:8] + bytes(247))[:length]
    longer = IP(header[14:], len=20 + len(opaque) + len(inner))
    longer.len = 20 + len(opaque) + len(inner)
    del longer.chksum
    frame = header[:14] + bytes(longer)[:20] + opaque + inner
    rig.burst([frame], WIRE)
    packet = rig.t["packets"][0]
    if length < 8:
        assert int(packet["in_port"]) == WIRE
        return
    assert (int(packet["in_port"]), int(packet["tunnel_id"])) == (rig.back["told"], 7)
    rig.coalesce()
    assert rig.take(0) == inner == tcp_segment(100)


@pytest.mark.parametrize("name", FORMATS)
def test_an_identifier_that_does_not_fit_is_counted_not_cut(rig, name):
    """A packet must never show up in another tenant's network."""
    rig.counted()
    too_large = 1 << FORMATS[name].flow_id_bits
    for vni in (too_large, -1):
        assert rig.encapsulate(tcp_segment(10), name, vni) == []
    assert rig.counted() == {"tunnel_id_too_large": 2}
    assert len(rig.encapsulate(tcp_segment(10), name, too_large - 1)) == 1


@pytest.mark.parametrize("name", FORMATS)
def test_the_mtu_counts_the_outer_headers(rig, name):
    rig.counted()
    room = 1500 - 20 - FORMATS[name].opaque_len - (0 if name in IN_IP else 14) - 40
    (frame,) = rig.encapsulate(tcp_segment(room), name)
    assert len(frame) == 1514
    assert rig.encapsulate(tcp_segment(room + 1), name) == []
    assert rig.counted() == {"mtu_exceeded": 1}


# Inner IP


@pytest.mark.parametrize("name", IN_IP)
def test_what_is_no_ip_is_not_carried_without_ethernet(rig, name):
    rig.counted()
    for frame in (bytes(vm_ether() / ARP()), bytes(Ether(type=0x8847) / MPLS(label=3, s=1) / ip_header(4))):
        assert rig.encapsulate(frame, name) == []
    assert rig.counted() == {"not_ip": 2}


@pytest.mark.parametrize("name", IN_IP)
def test_a_packet_in_a_vlan_is_carried_without_it(rig, name):
    body = ip_header(4) / TCP(flags="A") / Raw(payload(30))
    (frame,) = rig.encapsulate(bytes(vm_ether() / Dot1Q(vlan=7) / body), name)
    assert frame[OUTER + FORMATS[name].opaque_len :] == bytes(vm_ether() / body)[14:]
    out = rig.t["outgoing"]
    assert (int(out["l3"]), int(out["bytes"])) == (18, 18 + 70)  # for the program's next output


@pytest.mark.parametrize("name", IN_IP)
@pytest.mark.parametrize("first", [0x05, 0x55, 0x75])
def test_carried_bytes_that_are_no_ip_are_dropped_or_the_twins(rig, name, first):
    (frame,) = rig.encapsulate(tcp_segment(100), name)
    changed = bytearray(frame)
    changed[OUTER + FORMATS[name].opaque_len] = first
    if name in TWINS:
        assert rig.burst([bytes(changed)], WIRE) == [parse.FORWARD]
        assert int(rig.t["packets"][0]["in_port"]) == rig.back[TWINS[name]]
    else:
        assert rig.burst([bytes(changed)], WIRE) == [Counter.NOT_IP]


@pytest.mark.parametrize(("proto", "version"), [(4, 6), (41, 4)])
def test_ipip_carries_each_version_under_its_protocol(rig, proto, version):
    inner = ip_header(version) / TCP(flags="A") / Raw(payload(30))
    frame = Ether(src=LOCAL_MAC, dst=REMOTE_MAC) / IP(src=LOCAL_IP, dst=REMOTE_IP, proto=proto) / Raw(inner)
    assert rig.burst([bytes(frame)], WIRE) == [40]


@pytest.mark.parametrize("name", IN_IP)
@pytest.mark.parametrize("version", [4, 6])
def test_a_packet_without_ethernet_gets_one(rig, name, version):
    original = tcp_segment(100, version=version)
    (frame,) = rig.encapsulate(original, name)
    (packet,) = rig.deliver([frame], WIRE)
    assert (Ether(packet).dst, Ether(packet).src) == (LOCAL_MAC, REMOTE_MAC)
    assert packet[12:] == original[12:]


# tshark


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@pytest.mark.parametrize("name", SHIPPED)
def test_s1_3_tshark_reads_the_segments_of_every_standard_format(rig, name, tmp_path):
    original = tcp_segment(5000)
    file = tmp_path / "segments.pcap"
    wrpcap(str(file), [Ether(frame) for frame in rig.encapsulate(original, name, gso_size=1000)])
    vni = vni_of(name)
    found = {
        "vxlan": ("vxlan.vni", f"{vni}"),
        "gre": ("gre.key", f"0x{vni:08x}"),
        "gre16": ("gre.key", f"0x{vni:08x}"),
        "mplsogre": ("mpls.label", f"{vni}"),
        "mplsoudp": ("mpls.label", f"{vni}"),
        "mplsogre-ip": ("mpls.label", f"{vni}"),
        "mplsoudp-ip": ("mpls.label", f"{vni}"),
        "slots": ("udp.dstport", "49152"),
        "ipip": ("ip.proto", "4,6"),
    }
    field, value = found[name]
    options = [
        "-o",
        "ip.check_checksum:TRUE",
        "-o",
        "tcp.check_checksum:TRUE",
        "-o",
        "udp.check_checksum:TRUE",
    ]
    if name in TWINS.values():
        options += ["-d", f"mpls.label=={vni},pwethnocw"]
    if name == "slots":
        options += ["-d", "udp.port==49152,data"]
    fields = [field, "tcp.len", "tcp.checksum.status", "ip.checksum.status", "_ws.malformed"]
    words = [word for one in fields for word in ("-e", one)]
    command = ["tshark", "-r", str(file), *options, "-T", "fields", "-E", "separator=;", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line.split(";") for line in done.stdout.splitlines()]
    expected = [value, "1000", "1", "1,1", ""] if name != "slots" else [value, "", "", "1", ""]
    assert rows == [expected] * 5
