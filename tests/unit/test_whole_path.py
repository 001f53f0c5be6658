# SPDX-License-Identifier: Apache-2.0
"""VM to VM through two switches and a wire: every packet arrives as it was sent, or is counted."""

from __future__ import annotations

import random

import pytest

from tests.packets import (
    ARP,
    ICMP,
    TCP,
    UDP,
    Ether,
    Raw,
    checksums_right,
    ip_header,
    payload,
    payload_of,
    tcp_segment,
    vm_ether,
)
from tests.reference import flow_of
from tests.unit.rig import INTERPRETED
from tests.unit.servers import TUNNEL_PORT, VM_PORT, VNI, WIRE_PORT, Pair, Server, SocketTap
from vswitch.dataplane.intrinsics import pointed
from vswitch.dataplane.ports import wire
from vswitch.flow import FlowKey, Output
from vswitch.layout import BUFFERS

MS = 1_000_000
ROUNDS = 12 if INTERPRETED else 60


@pytest.fixture
def make_pair(monkeypatch, tmp_path):
    monkeypatch.setattr("vswitch.ports.TapDevice", SocketTap)
    pairs = []

    def make(options="", tunnel=True):
        pairs.append(Pair(str(tmp_path / f"wire{len(pairs)}"), options, tunnel))
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.close()


class Traffic:
    """Random packets of one VM, and a note of what the other is to get."""

    def __init__(self, server, seed):
        self.server, self.rng = server, random.Random(seed)
        self.streams = {}
        self.single = []
        self.segments = 0

    def send_one(self):
        rng = self.rng
        kind = rng.choice(["tcp", "tcp", "tcp", "tcp", "udp", "icmp", "arp", "ack"])
        version = rng.choice([4, 6])
        if kind == "tcp":
            port = 4000 + rng.randrange(6)
            sent = self.streams.setdefault((version, port), bytearray())
            size = rng.choice([1, 100, 1398, 1399, 5000, 20_000 if not INTERPRETED else 3000])
            frame = tcp_segment(
                size, 1000 + len(sent), rng.choice(["A", "PA"]), version, sport=port, seed=len(sent) % 251
            )
            sent += payload(size, len(sent) % 251)
            room = 1450 - (len(frame) - size - 14)
            gso_size = room if size > room or rng.random() < 0.5 else 0
            self.server.send(frame, gso_size)
            self.segments += -(-size // gso_size) if gso_size else 1
            return
        self.segments += 1
        body = Raw(payload(rng.randrange(1, 1300), rng.randrange(256)))
        header = vm_ether() / ip_header(version)
        if kind == "udp":
            frame = bytes(header / UDP(sport=rng.randrange(65536), dport=9) / body)
        elif kind == "icmp":
            frame = bytes(vm_ether() / ip_header(4) / ICMP(seq=rng.randrange(99)) / body)
        elif kind == "arp":
            frame = bytes(vm_ether() / ARP(psrc="10.0.0.1", pdst="10.0.0.2"))
        else:
            frame = tcp_segment(0, 5, ack=rng.randrange(2**32), sport=7, version=version)
        self.single.append(frame)
        self.server.send(frame)

    def check_all(self, delivered):
        """Everything came, in order within each connection."""
        streams, single = {}, []
        for packet in delivered:
            packet.assert_consistent()
            scapy = Ether(packet.frame)
            if TCP in scapy and payload_of(packet.frame):
                version = 4 if "IP" in scapy else 6
                sent = streams.setdefault((version, scapy[TCP].sport), bytearray())
                assert scapy[TCP].seq == 1000 + len(sent)
                sent += payload_of(packet.frame)
            else:
                single.append(packet.frame)
        assert streams == self.streams
        assert sorted(single) == sorted(self.single)


@pytest.mark.parametrize("gro", [True, False], ids=["GRO", "no GRO"])
@pytest.mark.parametrize("tunnel", [True, False], ids=["VXLAN", "plain"])
def test_an_ideal_wire_delivers_everything_intact_both_ways(make_pair, gro, tunnel):
    pair = make_pair(tunnel=tunnel)
    for server in pair.servers:
        server.dp.nic(WIRE_PORT).set_lro(0, "on" if gro else "off")
    ways = [Traffic(server, seed) for seed, server in enumerate(pair.servers)]
    for _ in range(ROUNDS):
        for way in ways:
            for _ in range(way.rng.randrange(4)):
                way.send_one()
        pair.run()
    for way, receiver in zip(ways, reversed(pair.servers), strict=True):
        delivered = receiver.received()
        way.check_all(delivered)
        assert sum(packet.segments for packet in delivered) == way.segments
        if not gro:
            assert all(packet.gso_type == 0 for packet in delivered)
        else:
            assert any(packet.gso_type for packet in delivered)
    assert [server.dropped() for server in pair.servers] == [0, 0]


@pytest.mark.parametrize("gro", [True, False], ids=["GRO", "no GRO"])
@pytest.mark.parametrize(
    "options",
    [
        ",loss=10,seed=3",
        ",duplicate=20,delay=1ms",
        ",delay=1ms,jitter=500us,reorder=10",
        ",bw=100,max_queue_size=15",
        ",bw=400,delay=200us,jitter=100us,loss=5,duplicate=5,reorder=5,ecn_threshold=3,seed=8",
    ],
)
def test_every_packet_is_delivered_or_counted(make_pair, options, gro):
    pair = make_pair(options)
    sender, receiver = pair.servers
    receiver.dp.nic(WIRE_PORT).set_lro(0, "on" if gro else "off")
    way = Traffic(sender, 77)
    delivered = []
    for _ in range(ROUNDS // 2):
        for _ in range(way.rng.randrange(4)):
            way.send_one()
        pair.run(until_ns=MS // 2)
        delivered += receiver.received()
    pair.run(until_ns=20 * MS)
    delivered += receiver.received()
    for packet in delivered:
        packet.assert_consistent()
        scapy = Ether(packet.frame)
        if TCP in scapy and payload_of(packet.frame):
            version = 4 if "IP" in scapy else 6
            stream = way.streams[version, scapy[TCP].sport]
            at = scapy[TCP].seq - 1000
            assert payload_of(packet.frame) == stream[at : at + len(payload_of(packet.frame))]
    counters = sender.dp.counters()
    arrived = sum(packet.segments for packet in delivered)
    lost = sender.dropped() + receiver.dropped() - counters["wire_duplicated"]
    assert arrived == way.segments - lost
    assert arrived > 0


@pytest.mark.parametrize(
    ("options", "line_ns"),
    [(",bw=100", 80_000), (",bw=100,framing=tc", 80_000), (",bw=100,framing=ethernet", 81_920)],
)
def test_a_rate_is_of_frames_or_of_all_that_they_take_of_a_line(make_pair, options, line_ns):
    """80 ns for a byte: of 1000, or of 1024."""
    pair = make_pair(options, tunnel=False)
    sender, receiver = pair.servers
    for _ in range(2):  # both switches know the flow then
        sender.send(tcp_segment(946))
        pair.run(until_ns=MS)
    assert len(receiver.received()) == 2
    sender.send(tcp_segment(946))
    sender.step(pair.now_ns)
    receiver.step(pair.now_ns + line_ns - 1)
    assert receiver.received() == []
    receiver.step(pair.now_ns + line_ns)
    assert len(receiver.received()) == 1


def test_all_of_a_vms_buffers_are_free_when_traffic_has_ended(make_pair):
    pair = make_pair(",delay=1ms,jitter=1ms,duplicate=10,loss=10")
    for _ in range(5):
        for server in pair.servers:
            server.send(tcp_segment(9000), 1398)
        pair.run(until_ns=3 * MS)
    for server in pair.servers:
        wire.reclaim(pointed(server.dp.memory.array), server.dp.t, 0)
        assert server.dp.t["free_buffer_count"] == BUFFERS
        assert not server.dp.t["buffers"].any()


def test_a_packet_that_is_too_long_for_the_tunnel_is_counted(make_pair):
    pair = make_pair()
    sender, receiver = pair.servers
    sender.send(tcp_segment(1411))
    sender.send(tcp_segment(1410))
    pair.run()
    assert [len(packet.frame) for packet in receiver.received()] == [1464]
    assert sender.dp.counters()["mtu_exceeded"] == 1


def test_a_vms_packet_with_a_wrong_checksum_reaches_the_other_vm_as_it_is(make_pair):
    """Whether it is dropped is for the receiver's stack to decide; it must not look verified."""
    pair = make_pair()
    sender, receiver = pair.servers
    frame = tcp_segment(100, chksum=0x1234)
    sender.send(frame)
    pair.run()
    (packet,) = receiver.received()
    assert (packet.frame, packet.flags) == (frame, 0)
    assert receiver.dp.counters()["rx_bad_checksum"] == 1


def test_flow_statistics_count_packets_and_bytes_of_the_wire(make_pair):
    pair = make_pair()
    sender, receiver = pair.servers
    sender.send(tcp_segment(100), 1398)  # the miss
    pair.run()
    for index in range(3):
        sender.send(tcp_segment(4194, 1100 + 4194 * index), 1398)
        pair.run()
    key = receiver.dp.key_of(tcp_segment(100), TUNNEL_PORT, VNI)
    stats = receiver.dp.flow_stats([key])[key]
    assert stats.packets == 9
    assert stats.bytes == 3 * (4194 + 3 * 54)
    ports = {port.port_no: port.counters for port in receiver.dp.ports()}
    assert ports[TUNNEL_PORT].rx_packets == ports[WIRE_PORT].rx_packets == 10
    assert ports[VM_PORT].tx_packets == 4


def test_vms_that_share_addresses_in_two_virtual_networks_stay_apart(make_pair):
    """The same 5-tuple with another VNI is another flow, and here there is no rule for it."""
    pair = make_pair()
    sender, receiver = pair.servers
    sender.send(tcp_segment(100))
    pair.run()
    assert len(receiver.received()) == 1
    other = receiver.dp.key_of(tcp_segment(100), TUNNEL_PORT, VNI + 1)
    assert receiver.dp.flow_stats([other]) == {}
    assert isinstance(other, FlowKey)


def test_a_restarted_switch_takes_up_traffic_again(make_pair):
    pair = make_pair()
    sender, receiver = pair.servers
    sender.send(tcp_segment(5000), 1398)
    pair.run()
    assert receiver.received()
    sender.send(tcp_segment(5000), 1398)
    sender.step(pair.now_ns)  # on the wire, by reference, when the sender dies
    path = sender.dp._ports[WIRE_PORT].peer
    pair.servers.remove(sender)
    sender.dp.close()
    sender = Server(1, path)
    pair.servers.insert(0, sender)
    pair.meet()
    pair.run()
    assert receiver.dp.counters()["rx_stale_slot"] == 4
    receiver.received()
    sender.send(tcp_segment(5000, 99), 1398)
    pair.run()
    assert sum(len(payload_of(packet.frame)) for packet in receiver.received()) == 5000
    receiver.send(tcp_segment(3000, 5), 1398)
    pair.run()
    assert sum(len(payload_of(packet.frame)) for packet in sender.received()) == 3000


def test_a_switch_whose_peer_is_gone_counts_what_it_cannot_send(make_pair):
    pair = make_pair(tunnel=False)
    sender, receiver = pair.servers
    pair.servers.remove(receiver)
    receiver.dp.close()
    sender.dp.refresh_ports()
    sender.send(tcp_segment(100))
    pair.run()
    assert sender.dp.counters()["port_down"] == 1
    assert not {port.port_no: port.up for port in sender.dp.ports()}[WIRE_PORT]


def test_a_packet_out_is_sent_like_any_other(make_pair):
    pair = make_pair()
    sender, receiver = pair.servers
    frame = bytes(vm_ether() / ARP(psrc="10.0.0.1", pdst="10.0.0.2"))
    sender.dp.send(frame, (Output(VM_PORT), Output(WIRE_PORT)))
    pair.run()
    assert [packet.frame for packet in sender.received()] == [frame]
    assert [packet.frame for packet in receiver.received()] == [frame]


def test_a_packet_out_that_is_no_frame_is_counted(make_pair):
    pair = make_pair()
    pair.servers[0].dp.send(b"short", (Output(VM_PORT),))
    pair.run()
    assert pair.servers[0].dropped() == 1


def test_frames_between_two_vms_of_one_switch_keep_their_partial_checksum(make_pair):
    pair = make_pair()
    sender = pair.servers[0]
    frame = tcp_segment(6000)
    key = sender.dp.key_of(frame, VM_PORT)
    sender.dp.install(key, (Output(VM_PORT),))
    sender.send(frame, 1398)
    pair.run()
    (packet,) = sender.received()
    packet.assert_consistent()
    assert packet.gso_size == 1398
    assert flow_of(packet.frame) == flow_of(frame)
    assert not checksums_right(packet.frame)
