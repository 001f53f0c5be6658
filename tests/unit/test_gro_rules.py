# SPDX-License-Identifier: Apache-2.0
"""Each line of "What GRO must and must not merge" (SEEDS.md): frames in, payload lengths out."""

from __future__ import annotations

import struct

import pytest

from tests.packets import (
    IP,
    TCP,
    Dot1AD,
    Dot1Q,
    Ether,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    Raw,
    payload,
    payload_of,
    tcp_segment,
    tcp_stream,
    vm_ether,
    vxlan,
)
from tests.reference import internet_sum
from tests.unit.rig import Rig
from vswitch.layout import Lro

WIRE = 1


@pytest.fixture(scope="module")
def rig():
    with Rig(wires=1) as rig:
        rig.add_tunnel()
        yield rig


@pytest.fixture(params=["plain", "vxlan"])
def lengths(rig, request):
    """Payload lengths that a burst of VM frames is delivered as."""

    def deliver(frames):
        carried = frames if request.param == "plain" else [vxlan(frame) for frame in frames]
        rig.burst(carried, WIRE)
        groups = rig.coalesce()
        return [sum(int(rig.t["packets"][row]["payload_len"]) for row in group) for group in groups]

    return deliver


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def version(request):
    return request.param


def pair(version, first=None, second=None, lengths=(100, 100)):
    """Two consecutive segments that differ by the given arguments of `tcp_segment`."""
    return [
        tcp_segment(lengths[0], 1000, version=version, **(first or {})),
        tcp_segment(lengths[1], 1000 + lengths[0], version=version, seed=1, **(second or {})),
    ]


def test_segments_in_order_are_merged(lengths, version):
    assert lengths(pair(version)) == [200]


def test_a_shorter_segment_ends_the_aggregate(lengths, version):
    assert lengths(pair(version, lengths=(100, 50))) == [150]
    frames = [*pair(version, lengths=(100, 50)), tcp_segment(50, 1150, version=version)]
    assert lengths(frames) == [150, 50]


def test_a_longer_segment_is_not_merged(lengths, version):
    assert lengths(pair(version, lengths=(50, 100))) == [50, 100]


def test_pure_acks_are_not_merged(lengths, version):
    acks = [tcp_segment(0, 1000, version=version, ack=ack) for ack in (7, 8, 8, 8)]
    assert lengths(acks) == [0, 0, 0, 0]


def test_a_pure_ack_between_segments_keeps_its_place(lengths, version):
    first, second = pair(version)
    assert lengths([first, tcp_segment(0, 1100, version=version), second]) == [100, 0, 100]


def test_psh_ends_the_aggregate(lengths, version):
    frames = [*pair(version, second={"flags": "PA"}), *tcp_stream(2, seq=1200, version=version)]
    assert lengths(frames) == [200, 200]


def test_psh_on_the_first_segment_ends_it(lengths, version):
    assert lengths(pair(version, first={"flags": "PA"})) == [100, 100]


@pytest.mark.parametrize("flags", ["SA", "RA", "UA", "CA"])
def test_syn_rst_urg_and_cwr_are_not_merged_and_end_the_aggregate(lengths, version, flags):
    first, second = pair(version, second={"flags": flags})
    third = tcp_segment(100, 1200, version=version)
    assert lengths([first, second, third]) == [100, 100, 100]
    assert lengths([second, third]) == [100, 100]


def test_fin_is_merged_as_the_last(lengths, version):
    assert lengths(pair(version, second={"flags": "FA"})) == [200]
    assert lengths(pair(version, first={"flags": "FA"})) == [100, 100]


def test_a_changed_ece_flag_is_not_merged(lengths, version):
    assert lengths(pair(version, second={"flags": "EA"})) == [100, 100]
    assert lengths(pair(version, first={"flags": "EA"}, second={"flags": "EA"})) == [200]


def test_a_changed_reserved_flag_is_not_merged(lengths, version):
    assert lengths(pair(version, second={"reserved": 1})) == [100, 100]


def test_a_wrong_checksum_is_not_merged(lengths, version):
    assert lengths(pair(version, second={"chksum": 0x1234})) == [100, 100]
    assert lengths(pair(version, first={"chksum": 0x1234})) == [100, 100]


def test_a_wrong_ipv4_header_checksum_is_not_merged(lengths, rig):
    """Nothing above Ethernet is believed of such a frame; the receiver's stack will drop it."""
    good, _ = pair(4)
    bad = Ether(tcp_segment(100, 1100))
    bad[IP].chksum = 0x1234
    rig.burst([good, bytes(bad)], WIRE)
    assert len(rig.coalesce()) == 2


@pytest.mark.parametrize("seq", [1050, 1000, 1101, 1099, 900])
def test_a_wrong_sequence_is_not_merged(lengths, version, seq):
    first, _ = pair(version)
    assert lengths([first, tcp_segment(100, seq, version=version)]) == [100, 100]


def test_the_sequence_number_may_wrap(lengths, version):
    assert lengths(tcp_stream(4, seq=2**32 - 150, version=version)) == [400]


def test_a_timestamp_that_changes_ends_the_aggregate(lengths, version):
    stamps = [(10, 5), (10, 5), (11, 5), (11, 5), (11, 6)]
    frames = [
        tcp_segment(100, 1000 + 100 * index, version=version, timestamp=stamp)
        for index, stamp in enumerate(stamps)
    ]
    assert lengths(frames) == [200, 200, 100]


def test_a_timestamp_that_appears_is_not_merged(lengths, version):
    assert lengths(pair(version, second={"timestamp": (10, 5)})) == [100, 100]


@pytest.mark.parametrize(
    "options",
    [
        [("SAck", (1, 2))],
        [("NOP", None), ("NOP", None), ("SAck", (1, 2))],
        [("Timestamp", (10, 5)), ("NOP", None), ("NOP", None)],
        [("NOP", None)] * 4,
        [("MSS", 1000)],
    ],
)
def test_other_tcp_options_are_not_merged(lengths, version, options):
    frames = pair(version, first={"options": options}, second={"options": options})
    assert lengths(frames) == [100, 100]


@pytest.mark.parametrize("field", [{"ack": 8}, {"window": 501}])
def test_a_changed_acknowledgement_or_window_is_not_merged(lengths, version, field):
    assert lengths(pair(version, second=field)) == [100, 100]


@pytest.mark.parametrize("change", [{"tos": 1}, {"tos": 2}, {"tos": 0x20}, {"ttl": 63}, {"flags": ""}])
def test_different_ecn_tos_ttl_or_df_is_not_merged_ipv4(lengths, change):
    assert lengths(pair(4, second={"ip": change})) == [100, 100]
    assert lengths(pair(4, first={"ip": change})) == [100, 100]


@pytest.mark.parametrize("change", [{"tc": 1}, {"tc": 0x20}, {"hlim": 63}, {"fl": 5}])
def test_different_class_hop_limit_or_flow_label_is_not_merged_ipv6(lengths, change):
    assert lengths(pair(6, second={"ip": change})) == [100, 100]
    assert lengths(pair(6, first={"ip": change}, second={"ip": change})) == [200]


def test_ip_options_are_not_merged(lengths):
    ip = {"options": [b"\x01\x01\x01\x00"]}
    frames = []
    for index in range(2):
        frame = vm_ether() / IP(src="10.0.0.1", dst="10.0.0.2", flags="DF", options=[]) / TCP(
            sport=1, dport=2, seq=1000 + 100 * index, flags="A"
        ) / Raw(payload(100))  # fmt: skip
        frame[IP].options = ip["options"]
        frames.append(bytes(frame))
    assert lengths(frames) == [100, 100]


@pytest.mark.parametrize("fragment", [{"flags": "MF"}, {"flags": "", "frag": 100}])
def test_fragments_are_not_merged_ipv4(lengths, fragment):
    first, second = pair(4, second={"ip": fragment})
    assert len(lengths([first, second, tcp_segment(100, 1200)])) == 3


def test_fragments_are_not_merged_ipv6(lengths):
    frames = []
    for index in range(2):
        header = vm_ether() / IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrFragment(m=1, id=9)
        frames.append(bytes(header / TCP(seq=1000 + 100 * index, flags="A") / Raw(payload(100))))
    assert len(lengths(frames)) == 2


@pytest.mark.parametrize(
    ("flags", "ids", "merged"),
    [
        ("DF", [0, 0, 0], [300]),
        ("DF", [5, 9, 3], [300]),
        ("", [5, 6, 7], [300]),
        ("", [65534, 65535, 0], [300]),
        ("", [5, 5, 5], [100, 100, 100]),
        ("", [5, 6, 8], [200, 100]),
        ("", [5, 4, 3], [100, 100, 100]),
    ],
)
def test_the_ip_id_counts_up_unless_df_is_set(lengths, flags, ids, merged):
    frames = [
        tcp_segment(100, 1000 + 100 * index, ip={"flags": flags, "id": ip_id})
        for index, ip_id in enumerate(ids)
    ]
    assert lengths(frames) == merged


def ipv6_with_options(seq, data):
    header = vm_ether() / IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrDestOpt(options=[])
    frame = bytearray(bytes(header / TCP(seq=seq, flags="A") / Raw(payload(100))))
    frame[14 + 40 + 2 : 14 + 40 + 8] = b"\x01\x04" + data
    return bytes(frame)


def test_equal_extension_headers_are_merged(lengths):
    assert lengths([ipv6_with_options(1000, b"same"), ipv6_with_options(1100, b"same")]) == [200]


def test_different_extension_headers_are_not_merged(lengths):
    assert lengths([ipv6_with_options(1000, b"this"), ipv6_with_options(1100, b"that")]) == [100, 100]
    assert lengths([ipv6_with_options(1000, b"this"), tcp_segment(100, 1100, version=6)]) == [100, 100]


@pytest.mark.parametrize(("ip_version", "header"), [(4, 40), (6, 60)])
def test_an_aggregate_stays_under_the_longest_ip_packet(lengths, ip_version, header):
    size = 1400
    most = (65535 - header) // size * size
    delivered = lengths(tcp_stream(60, size, version=ip_version))
    assert delivered == [most, 60 * size - most]


def test_what_is_behind_the_packet_is_left_out_of_aggregates_only(rig):
    frames = [tcp_segment(3, 1000) + b"\xee" * 3, tcp_segment(3, 1003, seed=1) + b"\xee" * 3]
    (delivered,) = rig.deliver(frames, WIRE)
    assert delivered[54:] == payload(3) + payload(3, 1)
    (alone,) = rig.deliver([frames[0]], WIRE)
    assert alone == frames[0]


def test_the_merged_packet_has_the_last_segments_psh_and_fin(rig):
    frames = [tcp_segment(100, 1000), tcp_segment(100, 1100, flags="FPA", seed=1)]
    (delivered,) = rig.deliver(frames, WIRE)
    assert str(Ether(delivered)[TCP].flags) == "FPA"
    assert payload_of(delivered) == payload(100) + payload(100, 1)


def tagged(frame, *tags):
    packet = Ether(frame)
    inner = packet.payload
    head = Ether(src=packet.src, dst=packet.dst)
    for tag in tags:
        head = head / tag
    return bytes(head / inner)


def test_equal_vlan_tags_are_merged(lengths):
    assert lengths([tagged(frame, Dot1Q(vlan=5)) for frame in pair(4)]) == [200]


def test_different_vlans_are_not_merged(lengths):
    first, second = pair(4)
    assert lengths([tagged(first, Dot1Q(vlan=5)), tagged(second, Dot1Q(vlan=6))]) == [100, 100]
    assert lengths([tagged(first, Dot1Q(vlan=5)), second]) == [100, 100]
    assert lengths([tagged(first, Dot1Q(vlan=5)), tagged(second, Dot1Q(vlan=5, prio=1))]) == [100, 100]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((Dot1AD(vlan=5), Dot1Q(vlan=1)), (Dot1AD(vlan=5), Dot1Q(vlan=2))),
        ((Dot1Q(vlan=5),), (Dot1Q(vlan=5, id=1),)),
    ],
    ids=["customers of one service tag", "drop eligible"],
)
def test_any_difference_of_the_tags_is_not_merged(lengths, one, other):
    first, second = pair(4)
    assert lengths([tagged(first, *one), tagged(second, *other)]) == [100, 100]


@pytest.mark.parametrize("field", [{"src": "00:00:00:00:00:09"}, {"dst": "00:00:00:00:00:09"}])
def test_different_mac_addresses_are_not_merged(lengths, field):
    first, second = pair(4)
    other = Ether(second)
    for name, value in field.items():
        setattr(other, name, value)
    assert lengths([first, bytes(other)]) == [100, 100]


def test_nothing_is_merged_where_gro_is_off(rig):
    rig.set_lro(WIRE, Lro.OFF)
    try:
        assert len(rig.deliver(tcp_stream(5), WIRE)) == 5
    finally:
        rig.set_lro(WIRE, Lro.ON)


def checksum_of(frame, l4_length):
    """The TCP checksum of an IPv6 frame whose last `l4_length` bytes are the segment."""
    pseudo = bytes(frame[22:54]) + struct.pack("!II", l4_length, 6)
    return struct.pack("!H", ~internet_sum(pseudo + bytes(frame[-l4_length:])) & 0xFFFF)


@pytest.mark.parametrize("size", [456, 600, 1000])
def test_headers_longer_than_the_engine_rewrites_are_not_merged(rig, size):
    frames = []
    for index in range(3):
        header = vm_ether() / IPv6(src="fd00::1", dst="fd00::2", nh=60, plen=8 + size + 120)
        tcp = bytearray(bytes(TCP(seq=1000 + 100 * index, flags="A")))
        extension = bytes([6, size // 8, 1, size + 4 & 0xFF]) + bytes(size + 4)
        body = bytes(tcp) + payload(100)
        frame = bytearray(bytes(header) + extension + body)
        frame[len(frame) - 104 : len(frame) - 102] = checksum_of(frame, len(body))
        frames.append(bytes(frame))
    assert rig.deliver(frames, WIRE) == frames
