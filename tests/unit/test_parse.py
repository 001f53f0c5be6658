# SPDX-License-Identifier: Apache-2.0
"""Parsing: scapy builds, we read, and every field of the row is what scapy says."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    Raw,
    payload,
    payload_of,
    tcp_segment,
    vm_ether,
    vxlan,
)
from tests.reference import flow_key, l4_checksum_right
from tests.unit.rig import VNI, Rig, examples
from vswitch.dataplane import flow_table, parse
from vswitch.flow import FlowKey
from vswitch.keys import MASK64, key_from, key_words
from vswitch.layout import Counter, Csum, TcpOptions

WIRE = 1
bytes_6 = st.binary(min_size=6, max_size=6)
port_numbers = st.integers(0, 65535)


@pytest.fixture(scope="module")
def rig():
    with Rig(wires=1) as rig:
        rig.tunnel = rig.add_tunnel()
        yield rig


def mac(raw: bytes) -> str:
    return ":".join(f"{byte:02x}" for byte in raw)


@st.composite
def links(draw):
    packet = Ether(src=mac(draw(bytes_6)), dst=mac(draw(bytes_6)))
    tag = {"vlan": draw(st.integers(0, 4095)), "prio": draw(st.integers(0, 7)), "id": draw(st.integers(0, 1))}
    kind = draw(st.sampled_from(["none", "vlan", "qinq"]))
    if kind == "vlan":
        packet = packet / Dot1Q(**tag)
    if kind == "qinq":
        packet = packet / Dot1AD(**tag) / Dot1Q(vlan=draw(st.integers(0, 4095)))
    return packet


@st.composite
def transports(draw, unfragmented=True):
    kinds = ["tcp", "udp", "icmp", "other"] if unfragmented else ["tcp", "udp", "other"]
    kind = draw(st.sampled_from(kinds))
    body = Raw(payload(draw(st.integers(1, 60)), draw(st.integers(0, 255))))
    if kind == "tcp":
        options = draw(
            st.sampled_from(
                [
                    [],
                    [("NOP", None), ("NOP", None), ("Timestamp", (12345, 678))],
                    [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 2)), ("NOP", None), ("WScale", 7)],
                    [("NOP", None), ("NOP", None), ("SAck", (100, 200))],
                ]
            )
        )
        return TCP(
            sport=draw(port_numbers), dport=draw(port_numbers), seq=draw(st.integers(0, 2**32 - 1)),
            ack=draw(st.integers(0, 2**32 - 1)), flags=draw(st.integers(0, 511)), options=options,
            window=draw(port_numbers), **draw(wrong_checksums),
        ) / body  # fmt: skip
    if kind == "udp":
        return UDP(sport=draw(port_numbers), dport=draw(port_numbers), **draw(wrong_checksums)) / body
    return ICMP(type=8, code=draw(st.integers(0, 255))) / body if kind == "icmp" else body


wrong_checksums = st.sampled_from([{}, {}, {}, {"chksum": 0x1234}, {"chksum": 0}])


@st.composite
def ipv4_packets(draw):
    fragment = draw(st.sampled_from([{}, {}, {}, {"flags": "MF"}, {"frag": 185}, {"frag": 8, "flags": "MF"}]))
    fields = {"flags": draw(st.sampled_from(["", "DF"]))} | fragment
    options = draw(
        st.sampled_from([[], [], [], [b"\x01\x01\x01\x00"], [b"\x94\x04\x00\x00\x01\x01\x01\x00"]])
    )
    source, target = draw(st.binary(min_size=4, max_size=4)), draw(st.binary(min_size=4, max_size=4))
    ip = IP(
        src=".".join(map(str, source)), dst=".".join(map(str, target)), tos=draw(st.integers(0, 255)),
        ttl=draw(st.integers(0, 255)), id=draw(port_numbers), **fields,
    )  # fmt: skip
    if options:
        ip.options = options
    body = draw(transports())
    if isinstance(body, Raw):
        ip.proto = draw(st.sampled_from([47, 50, 253]))
    return ip / body


@st.composite
def ipv6_packets(draw):
    packet = IPv6(
        src=str_v6(draw(st.binary(min_size=16, max_size=16))),
        dst=str_v6(draw(st.binary(min_size=16, max_size=16))),
        tc=draw(st.integers(0, 255)), fl=draw(st.integers(0, 2**20 - 1)), hlim=draw(st.integers(0, 255)),
    )  # fmt: skip
    if draw(st.booleans()):
        packet = packet / IPv6ExtHdrHopByHop(options=[])
    if draw(st.booleans()):
        packet = packet / IPv6ExtHdrDestOpt(options=[])
    if draw(st.integers(0, 3)) == 0:
        packet = packet / IPv6ExtHdrFragment(
            offset=draw(st.sampled_from([0, 0, 185])), m=draw(st.integers(0, 1)), id=draw(port_numbers)
        )
    body = draw(transports(unfragmented=False))
    if isinstance(body, Raw):
        packet.lastlayer().nh = 253
    return packet / body


def str_v6(raw: bytes) -> str:
    return str(ipaddress.IPv6Address(raw))


arps = st.builds(
    lambda op, source, target: ARP(op=op, psrc=".".join(map(str, source)), pdst=".".join(map(str, target))),
    st.integers(1, 9),
    st.binary(min_size=4, max_size=4),
    st.binary(min_size=4, max_size=4),
)
frames = st.builds(
    lambda link, rest: bytes(link / rest), links(), st.one_of(ipv4_packets(), ipv6_packets(), arps)
)


def parsed(rig, frame, verify=True):
    assert rig.burst([frame], WIRE, verify=verify) == [parse.FORWARD]
    return rig.t["packets"][0]


def key_of(rig, frame):
    parsed(rig, frame)
    flow_table.make_key(rig.mem, rig.t, rig.t["packets"][0])
    return key_from([int(word) & MASK64 for word in rig.t["key"]])


def check_fields(row, frame):
    packet = Ether(frame)
    at = row["l2"]
    ip = packet.getlayer(IP) or packet.getlayer(IPv6)
    if ip is None:
        assert row["ip_version"] == 0
        return
    assert row["l3"] - at == len(frame) - len(bytes(ip))
    if isinstance(ip, IP):
        assert (row["ip_version"], row["tos"], row["ttl"], row["ip_id"]) == (4, ip.tos, ip.ttl, ip.id)
        assert bool(row["df"]) == ("DF" in ip.flags)
        assert row["ip_options"] == ip.ihl * 4 - 20
        assert row["l4"] - row["l3"] == ip.ihl * 4
    else:
        assert (row["ip_version"], row["tos"], row["ttl"]) == (6, ip.tc, ip.hlim)
    if row["frag"] == 0 and TCP in packet:
        tcp = packet[TCP]
        assert (row["seq"], row["ack"], row["tcp_window"]) == (tcp.seq, tcp.ack, tcp.window)
        assert row["tcp_flags"] == int(tcp.flags) | tcp.reserved << 9
        assert row["payload"] - row["l4"] == tcp.dataofs * 4
        names = [name for name, _ in tcp.options]
        expected = TcpOptions.OTHER
        if names in ([], ["NOP", "NOP", "Timestamp"]):
            expected = TcpOptions.TIMESTAMP if names else TcpOptions.NONE
        assert row["tcp_options"] == expected
    if row["frag"] == 0 and (TCP in packet or UDP in packet):
        assert row["payload_len"] == len(payload_of(frame))


def check_checksum(row, frame):
    right = l4_checksum_right(frame) if row["frag"] == 0 else None
    assert row["csum"] == {None: Csum.UNKNOWN, True: Csum.GOOD, False: Csum.BAD}[right]


@settings(max_examples=examples(250))
@given(frame=frames)
def test_a_frame_is_read_as_scapy_reads_it(rig, frame):
    row = parsed(rig, frame)
    check_fields(row, frame)
    check_checksum(row, frame)
    assert key_of(rig, frame) == flow_key(frame, in_port=WIRE)


@settings(max_examples=examples(150))
@given(frame=frames, vni=st.integers(0, 2**24 - 1), outer_checksum=st.sampled_from([0, None]))
def test_a_frame_in_a_tunnel_is_read_as_the_frame_itself(rig, frame, vni, outer_checksum):
    row = parsed(rig, vxlan(frame, vni, udp_checksum=outer_checksum))
    assert (row["in_port"], row["tunnel_id"]) == (rig.tunnel, vni)
    check_fields(row, frame)
    check_checksum(row, frame)
    carried = vxlan(frame, vni, udp_checksum=outer_checksum)
    number = int(rig.t["ports"][rig.tunnel]["number"])
    assert key_of(rig, carried) == flow_key(frame, in_port=number, tunnel_id=vni)


def test_checksums_of_a_vms_frames_are_not_verified(rig):
    row = parsed(rig, tcp_segment(chksum=0x1234), verify=False)
    assert row["csum"] == Csum.UNKNOWN


def test_a_later_ipv6_fragments_bytes_are_no_extension_header(rig):
    fragment = IPv6ExtHdrFragment(offset=100, nh=60)
    frame = bytes(vm_ether() / IPv6(src="fd00::1", dst="fd00::2") / fragment / Raw(b"\x06\x00" + bytes(30)))
    key = key_of(rig, frame)
    assert (key.ip_proto, key.ip_frag, key.l4_src) == (60, 3, 0)


@pytest.mark.parametrize("tags", [3, 10, 124, 300])
def test_tags_beyond_the_second_are_payload(rig, tags):
    frame = bytes(vm_ether())[:12] + b"\x81\x00\x00\x01" * tags + b"\x08\x00" + bytes(60)
    row = parsed(rig, frame)
    assert (row["eth_type"], row["ip_version"], row["l3"] - row["l2"]) == (0x8100, 0, 22)


# What is malformed


def verdict(rig, frame):
    (verdict,) = rig.burst([frame], WIRE)
    return verdict


@pytest.mark.parametrize("length", range(1, 14))
def test_less_than_an_ethernet_header_is_too_short(rig, length):
    assert verdict(rig, bytes(length)) == Counter.RX_TOO_SHORT


@settings(max_examples=examples(100))
@given(frame=frames, data=st.data())
def test_a_cut_frame_is_read_within_its_bytes(rig, frame, data):
    """Whatever is missing, no access leaves the frame (the rig's array ends with it), and the rest passes."""
    frame = frame[: data.draw(st.integers(14, len(frame)))]
    row = parsed(rig, frame)
    end = rig.burst_end
    assert row["l2"] < row["l3"] <= end
    assert row["payload"] + row["payload_len"] <= end
    flow_table.make_key(rig.mem, rig.t, rig.t["packets"][0])
    rig.coalesce()
    assert frame.startswith(rig.take(0))


@settings(max_examples=examples(100))
@given(frame=frames, data=st.data())
def test_a_cut_tunnel_packet_is_dropped_or_plain(rig, frame, data):
    frame = vxlan(frame)
    frame = frame[: data.draw(st.integers(14, len(frame) - 1))]
    result = verdict(rig, frame)
    if result == parse.FORWARD:
        assert rig.t["packets"][0]["in_port"] == WIRE
        assert len(frame) < 50  # its headers up to the VNI are not all there
    else:
        assert result == Counter.RX_TOO_SHORT


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"source": "192.168.0.9"}, Counter.RX_UNKNOWN_TUNNEL),
        ({"flags": "MF"}, Counter.RX_OUTER_FRAGMENT),
        ({"frag": 100}, Counter.RX_OUTER_FRAGMENT),
        ({"chksum": 0x1234}, Counter.RX_BAD_OUTER_CHECKSUM),
        ({"udp_checksum": 0x1234}, Counter.RX_BAD_OUTER_CHECKSUM),
        ({"len": 40}, Counter.RX_TOO_SHORT),
        ({"len": 1400}, Counter.RX_TOO_SHORT),
        ({"target": "192.168.0.7"}, parse.FORWARD),
    ],
    ids=str,
)
def test_a_tunnel_packet_that_we_cannot_take_is_counted_by_its_reason(rig, change, reason):
    assert verdict(rig, vxlan(tcp_segment(), **change)) == reason


def test_vxlan_without_a_valid_vni_is_not_ours(rig):
    frame = bytearray(vxlan(tcp_segment()))
    frame[42] = 0
    assert verdict(rig, bytes(frame)) == parse.FORWARD
    assert rig.t["packets"][0]["in_port"] == WIRE


def test_padding_behind_the_outer_packet_is_no_part_of_it(rig):
    row = parsed(rig, vxlan(tcp_segment(2)) + b"\xee" * 4)
    assert row["payload_len"] == 2


RFC_6040 = {  # section 4.2: (inner, outer) -> what the receiver gets; None: dropped
    (0, 0): 0, (0, 1): 0, (0, 2): 0, (0, 3): None,
    (1, 0): 1, (1, 1): 1, (1, 2): 1, (1, 3): 3,
    (2, 0): 2, (2, 1): 1, (2, 2): 2, (2, 3): 3,
    (3, 0): 3, (3, 1): 3, (3, 2): 3, (3, 3): 3,
}  # fmt: skip


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("inner", "outer"), RFC_6040, ids=str)
def test_ecn_after_the_tunnel(rig, version, inner, outer):
    field = "tos" if version == 4 else "tc"
    frame = tcp_segment(version=version, ip={field: 0xB8 | inner})
    expected = RFC_6040[inner, outer]
    result = verdict(rig, vxlan(frame, tos=outer))
    if expected is None:
        assert result == Counter.RX_ECN_INCOMPATIBLE
        return
    assert result == parse.FORWARD
    rig.coalesce()
    assert rig.take(0) == tcp_segment(version=version, ip={field: 0xB8 | expected})


def test_ecn_of_a_frame_that_is_no_ip_packet(rig):
    frame = bytes(vm_ether() / ARP())
    rig.burst([vxlan(frame, tos=3)], WIRE)
    rig.coalesce()
    assert rig.take(0) == frame


# Keys

keys = st.builds(
    FlowKey,
    in_port=port_numbers, tunnel_id=st.integers(0, 2**32 - 1), eth_dst=st.integers(0, 2**48 - 1),
    eth_src=st.integers(0, 2**48 - 1), vlan_tci=port_numbers, vlan_inner=port_numbers, eth_type=port_numbers,
    ip_proto=st.integers(0, 255),
    ip_tos=st.integers(0, 255), ip_frag=st.integers(0, 3), ip_src=st.integers(0, 2**128 - 1),
    ip_dst=st.integers(0, 2**128 - 1), l4_src=port_numbers, l4_dst=port_numbers,
)  # fmt: skip


@pytest.mark.parametrize("tags", [0, 1, 2], ids=lambda tags: f"{tags} tags")
@pytest.mark.parametrize(
    "behind", [MPLS(label=100, cos=3, s=0, ttl=9) / MPLS(label=2), bytes.fromhex("20abcdef")]
)
@pytest.mark.parametrize("eth_type", [0x8847, 0x8848, 0x88E7], ids=hex)
def test_the_key_names_the_outermost_label_or_service(rig, eth_type, behind, tags):
    packet = vm_ether()
    for number in range(tags):
        packet /= Dot1AD(vlan=5 + number, prio=number + 1)
    packet.lastlayer().type = eth_type
    frame = bytes(packet / Raw(bytes(behind)))
    assert key_of(rig, frame)._replace(in_port=0) == flow_key(frame)
    short = frame[: len(frame) - len(bytes(behind)) + 3]
    assert key_of(rig, short)._replace(in_port=0) == flow_key(short)


@given(key=keys)
def test_a_key_survives_packing(key):
    assert key_from(key_words(key)) == key


@given(one=keys, other=keys)
def test_different_keys_have_different_words(one, other):
    assert (key_words(one) == key_words(other)) == (one == other)


def test_the_virtual_network_is_part_of_the_key(rig):
    frame = tcp_segment()
    one, other = key_of(rig, vxlan(frame, VNI)), key_of(rig, vxlan(frame, VNI + 1))
    assert one._replace(tunnel_id=0) == other._replace(tunnel_id=0)
    assert one != other
