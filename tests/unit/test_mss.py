# SPDX-License-Identifier: Apache-2.0
"""S0.9: the MSS table, and what a forwarding VM sends cut to the MSS of its connection. In virtual time.

A router is at a TAP, a wire leads to its clients and servers. scapy writes options and reads segments.
"""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.packets import IP, TCP, Dot1Q, Ether, IPv6, Raw, checksums_right, payload, payload_of, tcp_segment
from tests.unit.rig import VNI, Rig, examples
from vswitch.dataplane import mss
from vswitch.dataplane.rewrite import SETTABLE
from vswitch.layout import MSS_ENTRIES, MSS_WAYS, PUNT_HEAD_OFFSET, Command, Op

ROUTER, OTHER, WIRE = 1, 2, 3
SECOND_NS = 1_000_000_000
CLIENT_ISN, SERVER_ISN = 900, 70_000
DATA_VALID = 2


@pytest.fixture
def rig():
    with Rig(taps=2, wires=1) as rig:
        rig.command(Command.FORWARDING, ROUTER, 1)
        yield rig


def segment(length=0, flags="A", back=False, version=4, sport=5001, **fields):
    """A segment from client to server, or `back`."""
    ends = {4: ("10.0.0.1", "10.0.0.2"), 6: ("fd00::1", "fd00::2")}[version]
    source, target = reversed(ends) if back else ends
    ports = {"sport": 80, "dport": sport} if back else {"sport": sport, "dport": 80}
    ip = {"src": source, "dst": target} | fields.pop("ip", {})
    return tcp_segment(length, flags=flags, version=version, ip=ip, **(ports | fields))


def syn(value=None, back=False, options=None, **fields):
    """A SYN, or `back` the SYN-ACK, with an MSS option or these."""
    if options is None:
        options = [] if value is None else [("MSS", value)]
    fields = {"seq": SERVER_ISN if back else CLIENT_ISN} | fields
    return segment(0, "SA" if back else "S", back, options=options, **fields)


def router_gets(rig, frame):
    """A frame arrives on the wire for the router."""
    rig.route(frame, WIRE, (Op.OUTPUT, ROUTER))
    rig.put(frame)
    rig.step()
    assert rig.vms[ROUTER - 1].recv(1 << 17)[12:] == frame


def router_sends(rig, frame, *program, flags=0, port=ROUTER, header=b""):
    """The router forwards a frame, without metadata; what stands on the wire then."""
    rig.route(frame, port, *(program or [(Op.OUTPUT, WIRE)]))
    rig.vms[port - 1].send((header or struct.pack("<BBHHHHH", flags, 0, 0, 0, 0, 0, 0)) + frame)
    rig.t["ports"][port]["ready"] = 1
    rig.step()
    return rig.sent()


def lengths(frames):
    return [len(payload_of(frame)) for frame in frames]


def assert_segments_of(frames, whole):
    """The frames are right by scapy, and their payload is that of the large packet."""
    assert all(checksums_right(frame) for frame in frames)
    assert b"".join(map(payload_of, frames)) == payload_of(whole)
    first = Ether(whole)[TCP].seq
    expected = itertools.accumulate(lengths(frames)[:-1], initial=first)
    assert [Ether(frame)[TCP].seq for frame in frames] == list(expected)


@pytest.mark.parametrize("version", [4, 6])
def test_s0_9_syn_and_syn_ack_rule_one_direction_each(rig, version):
    router_gets(rig, syn(1200, version=version))
    router_gets(rig, syn(700, back=True, version=version))
    there, back = segment(5000, version=version), segment(5000, back=True, version=version)
    sent = router_sends(rig, there)
    assert lengths(sent) == [700] * 7 + [100]
    assert_segments_of(sent, there)
    sent = router_sends(rig, back)
    assert lengths(sent) == [1200] * 4 + [200]
    assert_segments_of(sent, back)


def test_s0_9_a_syn_is_learnt_from_what_the_router_sends_too(rig):
    assert router_sends(rig, syn(800, back=True)) == [syn(800, back=True)]
    assert lengths(router_sends(rig, segment(2000))) == [800, 800, 400]


def test_s0_9_the_smaller_mss_counts_when_the_router_clamps_it(rig):
    router_gets(rig, syn(1400, back=True))
    router_sends(rig, syn(900, back=True))
    router_gets(rig, syn(1400, back=True))  # sent again
    assert lengths(router_sends(rig, segment(2000))) == [900, 900, 200]


def test_s0_9_a_syn_without_the_option_means_what_every_host_takes(rig):
    """RFC 9293, section 3.7.1: 536 bytes over IPv4, 1220 over IPv6."""
    router_gets(rig, syn(back=True))
    assert lengths(router_sends(rig, segment(1200))) == [536, 536, 128]
    router_gets(rig, syn(back=True, version=6))
    assert lengths(router_sends(rig, segment(2500, version=6))) == [1220, 1220, 60]


def test_s0_9_of_an_unknown_connection_only_what_is_too_long_for_the_path_is_cut(rig):
    assert router_sends(rig, segment(1200)) == [segment(1200)]
    sent = router_sends(rig, segment(2000))
    assert lengths(sent) == [536, 536, 536, 392]
    assert_segments_of(sent, segment(2000))
    assert lengths(router_sends(rig, segment(2000, version=6))) == [1220, 780]


def test_s0_9_options_of_tcp_take_room_of_the_mss(rig):
    """RFC 9293, section 3.7.1."""
    router_gets(rig, syn(1000, back=True))
    large = segment(3000, timestamp=(5, 6))
    sent = router_sends(rig, large)
    assert lengths(sent) == [988, 988, 988, 36]
    assert_segments_of(sent, large)


def test_s0_9_never_more_than_the_mtu_leaves(rig):
    router_gets(rig, syn(8960, back=True))
    sent = router_sends(rig, segment(4000))
    assert lengths(sent) == [1460, 1460, 1080]
    assert max(len(frame) for frame in sent) == 1500 + 14


def test_s0_9_through_a_tunnel_what_its_headers_leave(rig):
    router_gets(rig, syn(1460, back=True))
    tunnel = rig.add_tunnel()
    large = segment(4000)
    sent = router_sends(rig, large, (Op.SET_TUNNEL, VNI), (Op.OUTPUT, tunnel))
    assert [len(frame) for frame in sent] == [1514, 1514, 50 + 54 + 4000 - 2 * 1410]
    assert_segments_of([frame[50:] for frame in sent], large)


def test_s0_9_through_a_tunnel_by_way_of_the_agent_too(rig):
    """The first packet of a flow waits for the agent's decision in a punt slot."""
    router_gets(rig, syn(1460, back=True))
    tunnel = rig.add_tunnel()
    large = segment(4000)
    rig.vms[ROUTER - 1].send(bytes(12) + large)
    rig.t["ports"][ROUTER]["ready"] = 1
    rig.step()
    [punt] = rig.t["punts"][: rig.word(PUNT_HEAD_OFFSET)]
    rig.command(Command.EXECUTE, punt["slot"], *rig.program((Op.SET_TUNNEL, VNI), (Op.OUTPUT, tunnel)))
    rig.step()
    assert [len(frame) for frame in rig.sent()] == [1514, 1514, 50 + 54 + 4000 - 2 * 1410]


@pytest.mark.parametrize(
    "options",
    [
        [("MSS", 700), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)],
        [("NOP", None), ("WScale", 7), ("SAckOK", b""), ("Timestamp", (1, 0)), ("MSS", 700)],
        [("Timestamp", (1, 0)), ("MSS", 700), ("EOL", None)],
        [("NOP", None), ("NOP", None), ("NOP", None), ("MSS", 700), ("EOL", None)],
    ],
)
def test_s0_9_options_in_any_order(rig, options):
    router_gets(rig, syn(options=options, back=True))
    assert lengths(router_sends(rig, segment(1500))) == [700, 700, 100]


def with_options(frame, options):
    """A SYN whose options are these bytes."""
    packet = Ether(frame)
    packet[TCP].options = []
    packet[TCP].dataofs = 5 + len(options) // 4
    packet[TCP].chksum = packet[IP].chksum = packet[IP].len = None
    return bytes(packet / Raw(options))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (b"\x02\x04\x00\x00", 536),  # no bytes at all
        (b"\x02\x03\x02\x00", 536),  # a wrong length
        (b"\x02\x00\x02\xbc", 536),  # no length
        (b"\x02\x01\x02\xbc", 536),
        (b"\x01\x01\x02\x04", 536),  # behind the end
        (b"\x01\x01\x01\x02", 536),  # nor even a length
        (b"\x08\xff\x02\x04\x02\xbc\x01\x01", 536),  # another option that leaves the header
        (b"\x00\x00\x00\x00\x02\x04\x02\xbc", 536),  # behind the end of the options
        (b"\x1e\x02\x02\x04\x02\xbc\x01\x01", 700),  # unknown, but of a length
        (b"\x02\x04\x03\x20\x02\x04\x02\xbc", 700),  # two: the smaller one
        (b"\x02\x04\x02\xbc\x02\x04\x03\x20", 700),
    ],
)
def test_s0_9_malformed_options(rig, options, expected):
    router_gets(rig, with_options(syn(back=True), options))
    assert max(lengths(router_sends(rig, segment(1500)))) == expected


@given(options=st.integers(1, 10).flatmap(lambda words: st.binary(min_size=4 * words, max_size=4 * words)))
def test_s0_9_whatever_the_options_segments_stay_within_what_scapy_reads(options):
    """Every MSS that scapy finds in the options bounds the segments."""
    with Rig(taps=2, wires=1) as rig:
        rig.command(Command.FORWARDING, ROUTER, 1)
        frame = with_options(syn(back=True), options)
        at = len(frame) - 20 - len(options)
        rig.write(rig.burst_end - len(frame), frame)
        found = mss.mss_option(rig.mem, rig.burst_end - len(frame) + at)
        read = [v for k, v in Ether(frame)[TCP].options or [] if k == "MSS" and isinstance(v, int) and v]
        assert 0 <= found <= 65535
        assert found == 0 or found in {
            int.from_bytes(options[place : place + 2], "big") for place in range(len(options) - 1)
        }
        if read and found:
            assert found <= read[0]


def test_s0_9_a_tiny_mss_is_taken_for_48(rig):
    router_gets(rig, syn(1, back=True))
    assert lengths(router_sends(rig, segment(100))) == [48, 48, 4]


@pytest.mark.parametrize("length", [1, 535, 536, 537, 1459, 1460, 1461, 9000, 60000])
@pytest.mark.parametrize("value", [536, 1000, 1460])
def test_s0_9_no_segment_is_larger_than_the_mss(rig, value, length):
    router_gets(rig, syn(value, back=True))
    large = segment(length)
    sent = router_sends(rig, large)
    assert max(lengths(sent)) <= value
    assert len(sent) == -(-length // value)
    assert_segments_of(sent, large)


def test_s0_9_another_vm_gets_the_segment_size_as_metadata(rig):
    router_gets(rig, syn(700, back=True))
    router_sends(rig, segment(1500), (Op.OUTPUT, OTHER))
    got = rig.vms[OTHER - 1].recv(1 << 17)
    flags, kind, header_len, size, start, field, _ = struct.unpack_from("<BBHHHHH", got)
    assert (flags, kind, header_len, size, start, field) == (1, 1, 54, 700, 34, 16)


@pytest.mark.parametrize("known", [True, False])
def test_s0_9_a_super_frame_has_nothing_behind_its_ip_packet(rig, known):
    """Whoever segments it would take that for payload: it is not the payload that the wire got."""
    if known:
        router_gets(rig, syn(700, back=True))
    large = segment(2000)
    sent = router_sends(rig, large + b"trailer", (Op.OUTPUT, WIRE), (Op.OUTPUT, OTHER))
    assert_segments_of(sent, large)
    got = rig.vms[OTHER - 1].recv(1 << 17)
    assert struct.unpack_from("<BBHH", got) == (1, 1, 54, 700 if known else 536)
    assert len(got) == 12 + len(large) and payload_of(got[12:]) == payload_of(large)


def test_s0_9_what_the_agent_gets_of_segments_that_are_cut_again(rig):
    """A program that treats a super-frame's segments one by one goes on when one of them was cut again."""
    router_gets(rig, syn(1600, back=True))
    large = segment(5000)
    same_protocol = (Op.SET_FIELD, SETTABLE.index("ip_proto"), 0, 6)
    sent = router_sends(rig, large, same_protocol, (Op.OUTPUT, WIRE), (Op.CONTROLLER, 3))
    assert lengths(sent) == [1460, 140] * 3 + [200]
    assert_segments_of(sent, large)
    assert [frame for _, frame in rig.punted()] == sent


def test_s0_9_vlans_are_told_apart(rig):
    def tagged(frame, vid):
        packet = Ether(frame)
        header = Ether(src=packet.src, dst=packet.dst) / Dot1Q(vlan=vid, type=packet.type)
        return bytes(header / packet.payload)

    router_gets(rig, tagged(syn(700, back=True), 5))
    router_gets(rig, tagged(syn(900, back=True), 6))
    assert max(lengths(router_sends(rig, tagged(segment(1500), 5)))) == 700
    assert max(lengths(router_sends(rig, tagged(segment(1500), 6)))) == 900


def test_s0_9_ports_are_told_apart(rig):
    """Two networks may have the same addresses."""
    rig.command(Command.FORWARDING, OTHER, 1)
    router_gets(rig, syn(700, back=True))
    router_sends(rig, syn(900, back=True), port=OTHER)
    assert max(lengths(router_sends(rig, segment(1500)))) == 700
    assert max(lengths(router_sends(rig, segment(1500), port=OTHER))) == 900


def test_s0_9_only_forwarding_vms(rig):
    router_sends(rig, syn(700, back=True), port=OTHER)
    assert router_sends(rig, segment(1200), port=OTHER) == [segment(1200)]
    assert router_sends(rig, segment(2000), port=OTHER) == []
    assert rig.counted()["mtu_exceeded"] == 1


def test_s0_9_a_vm_that_no_longer_forwards_is_forgotten(rig):
    router_gets(rig, syn(700, back=True))
    rig.command(Command.FORWARDING, ROUTER, 0)
    assert router_sends(rig, segment(1200)) == [segment(1200)]
    rig.command(Command.FORWARDING, ROUTER, 1)
    assert router_sends(rig, segment(1200)) == [segment(1200)]


def test_s0_9_a_wrong_checksum_is_not_made_right(rig):
    router_gets(rig, syn(700, back=True))
    damaged = bytearray(segment(2000))
    damaged[-1] ^= 1
    assert router_sends(rig, bytes(damaged)) == []
    assert rig.counted()["mtu_exceeded"] == 1
    damaged = bytearray(segment(1200))
    damaged[-1] ^= 1
    assert router_sends(rig, bytes(damaged)) == [bytes(damaged)]


def test_s0_9_what_the_kernel_has_verified_is_segmented(rig):
    router_gets(rig, syn(700, back=True))
    sent = router_sends(rig, segment(2000), flags=DATA_VALID)
    assert_segments_of(sent, segment(2000))
    assert rig.counted()["mss_segmented"] == 1


def test_s0_9_fragments_and_other_protocols_pass_as_they_are(rig):
    router_gets(rig, syn(700, back=True))
    fragment = segment(1200, ip={"flags": "MF"})
    assert router_sends(rig, fragment) == [fragment]


@pytest.mark.parametrize("first", [False, True])
def test_s0_9_reset_ends_an_entry(rig, first):
    router_gets(rig, syn(700, back=True))
    router_gets(rig, segment(0, "R", back=first))
    assert router_sends(rig, segment(1200)) == [segment(1200)]


def test_s0_9_both_fins_end_an_entry_after_a_while(rig):
    router_gets(rig, syn(1000))
    router_gets(rig, syn(700, back=True))
    router_gets(rig, segment(0, "FA"))
    rig.now_ns += 100 * SECOND_NS
    assert len(router_sends(rig, segment(1200))) == 2  # half closed
    router_gets(rig, segment(0, "FA", back=True))
    rig.now_ns += 59 * SECOND_NS
    assert len(router_sends(rig, segment(1200))) == 2  # sent again
    rig.now_ns += 60 * SECOND_NS
    assert len(router_sends(rig, segment(1200))) == 1


def test_s0_9_idle_entries_end(rig):
    router_gets(rig, syn(1000))
    router_gets(rig, syn(700, back=True))
    for _ in range(3):
        rig.now_ns += mss.IDLE_NS - 1
        assert len(router_sends(rig, segment(1200))) == 2
    rig.now_ns += mss.IDLE_NS
    assert len(router_sends(rig, segment(1200))) == 1


def test_s0_9_half_open_entries_end_sooner(rig):
    router_gets(rig, syn(700, back=True))
    rig.now_ns += mss.HALF_OPEN_NS
    assert len(router_sends(rig, segment(1200))) == 1


def test_s0_9_a_new_connection_of_the_same_ports_counts_anew(rig):
    router_gets(rig, syn(1000))
    router_gets(rig, syn(700, back=True))
    router_gets(rig, syn(1000, seq=CLIENT_ISN + 1_000_000))
    router_gets(rig, syn(900, back=True, seq=5))
    assert max(lengths(router_sends(rig, segment(1500)))) == 900


def test_s0_9_a_full_table_is_counted_and_takes_new_ones_when_old_ones_end(rig):
    """A connection has MSS_WAYS places; all are taken by others here."""
    rig.t["mss"]["used"] = 1
    rig.t["mss"]["mss"] = 1000
    rig.t["mss"]["last_used_ns"] = rig.now_ns
    router_gets(rig, syn(700, back=True))
    assert rig.counted()["mss_table_full"] == 1
    assert lengths(router_sends(rig, segment(2000))) == [536, 536, 536, 392]
    rig.now_ns += mss.IDLE_NS
    router_gets(rig, syn(700, back=True))
    assert lengths(router_sends(rig, segment(1500))) == [700, 700, 100]
    assert "mss_table_full" not in rig.counted()


def test_s0_9_many_connections_each_with_its_own_mss(rig):
    values = {port: 600 + port % 700 for port in range(2000, 2000 + examples(600))}
    for port, value in values.items():
        router_gets(rig, syn(value, back=True, sport=port))
    assert int(rig.t["mss"]["used"].sum()) == len(values) <= MSS_ENTRIES // MSS_WAYS
    for port, value in values.items():
        assert max(lengths(router_sends(rig, segment(2000, sport=port)))) == value


@given(
    value=st.integers(48, 9000),
    length=st.integers(1, 30_000),
    version=st.sampled_from([4, 6]),
    stamped=st.booleans(),
)
def test_s0_9_segments_by_a_naive_twin(value, length, version, stamped):
    with Rig(taps=2, wires=1) as rig:
        rig.command(Command.FORWARDING, ROUTER, 1)
        router_gets(rig, syn(value, back=True, version=version))
        large = segment(length, version=version, timestamp=(1, 2) if stamped else None)
        sent = router_sends(rig, large)
        size = min(value - 12 * stamped, 1500 - (40 if version == 6 else 20) - 20 - 12 * stamped)
        whole, rest = divmod(length, size)
        assert lengths(sent) == [size] * whole + [rest] * bool(rest)
        assert b"".join(map(payload_of, sent)) == payload(length)
        assert all((IPv6 if version == 6 else IP) in Ether(frame) for frame in sent)
