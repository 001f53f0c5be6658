# SPDX-License-Identifier: Apache-2.0
"""Several workers: a port's frames go to the workers of their queues, and back what they cannot do (S0.4)."""

from __future__ import annotations

import os
import random
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.accounts import imbalance
from tests.packets import IP, MPLS, TCP, Ether, payload_of, tcp_segment
from tests.patience import PATIENCE_S
from tests.unit.rig import INTERPRETED, examples
from tests.unit.servers import TUNNEL_PORT, VM_PORT, VNI, WIRE_PORT, Pair, Server, SocketTap
from vswitch import layout
from vswitch.config import parse_port
from vswitch.datapath import Datapath
from vswitch.dataplane import commands
from vswitch.dataplane import worker as loop
from vswitch.dataplane.intrinsics import pointed
from vswitch.dataplane.memory import Memory
from vswitch.errors import ConfigError, VSwitchError
from vswitch.flow import (
    Controller,
    DecTtl,
    DropReason,
    FlowKey,
    Meter,
    MeterConfig,
    Output,
    PopMpls,
    SetTunnel,
)
from vswitch.nic import Match

MSS = 1000
SEGMENTS = 5
WORKERS = 3
MS = 1_000_000


@pytest.fixture
def make_pair(monkeypatch, tmp_path):
    """Makes two switches with this number of workers, whose NICs have a queue for each."""
    monkeypatch.setattr("vswitch.ports.TapDevice", SocketTap)
    pairs = []

    def make(workers: int = WORKERS, tunnel: bool = True) -> Pair:
        pair = Pair(str(tmp_path / f"wire{len(pairs)}"), tunnel=tunnel, workers=workers)
        pairs.append(pair)
        pair.servers[1].dp.nic(WIRE_PORT).set_queue_count(WORKERS)
        return pair

    yield make
    for pair in pairs:
        pair.close()


@pytest.fixture
def pair(make_pair):
    return make_pair()


def send(pair: Pair, seq: int, dport: int = 80, flags: str = "A", run: bool = True) -> bytes:
    frame = tcp_segment(MSS * SEGMENTS, seq, dport=dport, seed=seq + dport, flags=flags)
    pair.servers[0].send(frame, gso_size=MSS)
    if run:
        pair.run()
    return payload_of(frame)


def got(pair: Pair) -> bytes:
    return b"".join(payload_of(packet.frame) for packet in pair.servers[1].received())


def delivered_by(pair: Pair) -> list[int]:
    """Packets that each worker of server 2 has given to the VM."""
    dp = pair.servers[1].dp
    return dp.tables["ports"]["tx_packets"][:, dp._ports[VM_PORT].index].tolist()


def delivered_since(pair: Pair, before: list[int]) -> list[int]:
    """What has come to delivered_by() since it was `before`."""
    return [new - old for new, old in zip(delivered_by(pair), before, strict=True)]


def tunnel_flow(dp: Datapath) -> FlowKey:
    """The key of the one flow that came through the tunnel."""
    (key,) = [key for key in dp.flow_stats() if key.in_port == TUNNEL_PORT]
    return key


def only(pair: Pair, queue: int) -> None:
    """Everything that server 2 receives goes through one queue."""
    pair.servers[1].dp.nic(WIRE_PORT).set_indirection([queue] * layout.RSS_ENTRIES)
    pair.run()


def step(pair: Pair, worker: int) -> None:
    """One pass of one worker of server 2."""
    pair.servers[1].step_worker(worker, pair.now_ns)


@contextmanager
def stepping(server: Server, now_ns: int) -> Iterator[None]:
    """The server's workers run in a thread of their own, so that the agent may wait for them."""
    done = threading.Event()

    def run() -> None:
        while not done.is_set():
            server.step(now_ns)
            time.sleep(0.0005)

    thread = threading.Thread(target=run)
    server.dp._commands._alive = thread.is_alive
    thread.start()
    yield
    done.set()
    thread.join()


def test_s0_4_queues_have_workers_in_turn_and_what_is_set(pair):
    nic = pair.servers[1].dp.nic(WIRE_PORT)
    nic.set_queue_count(8)
    assert [queue.worker for queue in nic.settings()] == [0, 1, 2, 0, 1, 2, 0, 1]
    nic.set_worker(7, 2)
    nic.set_queue_count(7)
    nic.set_queue_count(8)
    assert nic.settings()[7].worker == 1
    nic.set_worker(None, 0)
    assert {queue.worker for queue in nic.settings()} == {0}
    with pytest.raises(ConfigError, match="worker: 3 is out of range"):
        nic.set_worker(0, WORKERS)
    with pytest.raises(ConfigError, match="a VM's port"):
        pair.servers[1].dp.nic(VM_PORT).set_worker(0, 0)


@pytest.mark.parametrize("queue", range(WORKERS))
def test_s0_4_a_queues_worker_coalesces_and_delivers(pair, queue):
    only(pair, queue)
    send(pair, 1000)  # the miss, which worker 0 has to tell the agent
    got(pair)
    before = delivered_by(pair)
    sent = send(pair, 1000 + MSS * SEGMENTS)
    assert got(pair) == sent
    assert delivered_since(pair, before) == [int(worker == queue) for worker in range(WORKERS)]
    dp = pair.servers[1].dp
    stats = dp.nic(WIRE_PORT).stats()[queue]
    assert (stats.frames, stats.aggregates) == (2 * SEGMENTS, 2)
    assert dp.flow_stats()[tunnel_flow(dp)].packets == SEGMENTS
    assert dp.counters()["gro_aggregates"] == 2
    (vm,) = [port for port in dp.ports() if port.port_no == VM_PORT]
    assert vm.counters.tx_packets == 2


def test_s0_4_a_connection_stays_on_its_worker(pair):
    """Whatever others do; the bytes arrive in order."""
    order = random.Random(4)
    seqs = dict.fromkeys(range(80, 92), 1000)
    expected = defaultdict(bytes)
    arrived = defaultdict(bytes)
    workers = defaultdict(set)
    for _ in range(100):
        dport = order.choice(list(seqs))
        before = delivered_by(pair)
        known = seqs[dport] > 1000
        expected[dport] += send(pair, seqs[dport], dport)
        seqs[dport] += MSS * SEGMENTS
        if known:
            workers[dport] |= {worker for worker, count in enumerate(delivered_since(pair, before)) if count}
        for packet in pair.servers[1].received():
            arrived[Ether(packet.frame)[TCP].dport] += payload_of(packet.frame)
    assert arrived == expected
    assert all(len(those) == 1 for those in workers.values())
    assert set().union(*workers.values()) == set(range(WORKERS))
    assert pair.servers[1].dropped() == 0


@settings(max_examples=examples(12))
@given(seed=st.integers(0, 2**32 - 1), workers=st.integers(2, 4), queues=st.integers(1, 8))
def test_several_workers_deliver_what_one_delivers(seed, workers, queues):
    """Each connection's bytes are the same, in order; workers run at any time, settings change in between."""
    results = []
    for count in (1, workers):
        order = random.Random(seed)
        with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            patch.setattr("vswitch.ports.TapDevice", SocketTap)
            pair = Pair(f"{folder}/wire", workers=count)
            nic = pair.servers[1].dp.nic(WIRE_PORT)
            nic.set_queue_count(queues)
            seqs = dict.fromkeys(range(80, 86), 1000)
            arrived = defaultdict(bytes)
            for _ in range(25):
                for _ in range(order.randrange(1, 5)):
                    dport, segments = order.choice(list(seqs)), order.randrange(1, 8)
                    frame = tcp_segment(MSS * segments, seqs[dport], dport=dport, seed=seqs[dport])
                    seqs[dport] += MSS * segments
                    pair.servers[0].send(frame, gso_size=MSS)
                pair.servers[0].step(pair.now_ns)
                if order.random() < 0.3:
                    nic.set_lro(order.randrange(queues), order.choice(("on", "off")))
                if order.random() < 0.3:
                    target = order.randrange(queues)
                    nic.set_worker(target, order.randrange(workers) % count)
                for _ in range(order.randrange(8)):
                    step(pair, order.randrange(workers) % count)
                    if order.random() < 0.1:
                        pair.servers[1].answer_misses()
                pair.run()
                for packet in pair.servers[1].received():
                    packet.assert_consistent()
                    arrived[Ether(packet.frame)[TCP].dport] += payload_of(packet.frame)
            results.append((arrived, pair.servers[1].dropped()))
            assert not imbalance(pair.servers[1].dp.tables).any()
            assert not pair.servers[1].dp.t["ports"]["rx_held"].any()
            pair.close()
    assert results[0] == results[1]


def test_slots_are_kept_until_their_worker_is_done(pair):
    only(pair, 1)
    send(pair, 1000)
    got(pair)
    sent = send(pair, 1000 + MSS * SEGMENTS, run=False)
    pair.servers[0].step(pair.now_ns)
    wire = pair.servers[1].dp.t["wires"][0]
    words = pair.servers[1].dp.memory.words(int(wire["rx_cursors"]), layout.CURSOR_PAGE // 8)
    held_from = int(words[layout.CURSOR_TAIL // 8])
    for _ in range(5):
        step(pair, 0)
    assert words[layout.CURSOR_TAIL // 8] == held_from
    assert got(pair) == b""
    step(pair, 1)
    assert got(pair) == sent
    step(pair, 0)
    assert words[layout.CURSOR_TAIL // 8] == words[layout.CURSOR_HEAD // 8] == held_from + SEGMENTS


def test_a_worker_that_lags_makes_the_wire_wait_and_loses_nothing(pair):
    only(pair, 1)
    send(pair, 1000)
    got(pair)
    sent = b""
    for number in range(1, 400):
        sent += send(pair, 1000 + number * MSS * SEGMENTS, run=False)
        pair.servers[0].step(pair.now_ns)
        step(pair, 0)
    dp = pair.servers[1].dp
    assert dp.counters()["worker_busy"] > 0
    assert int(dp.t["handed"][1]) <= layout.INBOX + 2 * SEGMENTS
    pair.run()
    assert got(pair) == sent
    assert pair.servers[1].dropped() == 0


def test_another_worker_gets_a_queue_when_the_last_one_is_done_with_it(pair):
    """So that no frame overtakes another of its connection."""
    nic = pair.servers[1].dp.nic(WIRE_PORT)
    only(pair, 1)
    send(pair, 1000)
    got(pair)
    first = send(pair, 1000 + MSS * SEGMENTS, run=False)
    pair.servers[0].step(pair.now_ns)
    step(pair, 0)  # hands them to worker 1
    nic.set_worker(1, 2)
    second = send(pair, 1000 + 2 * MSS * SEGMENTS, run=False)
    pair.servers[0].step(pair.now_ns)
    for _ in range(5):
        step(pair, 0)
        step(pair, 2)
    assert got(pair) == b""
    step(pair, 1)
    pair.run()
    assert got(pair) == first + second
    assert delivered_by(pair)[2] == 1


def test_frames_in_hand_outlive_the_death_of_their_sender(pair):
    """Their bytes lie in the memory of a process that is gone, and whose successor has come."""
    only(pair, 1)
    send(pair, 1000)
    got(pair)
    sent = send(pair, 1000 + MSS * SEGMENTS, run=False)
    sender, receiver = pair.servers
    sender.step(pair.now_ns)
    step(pair, 0)
    sender.dp.close()
    path = receiver.dp._ports[WIRE_PORT].peer
    pair.servers[0] = type(sender)(1, path)
    for _ in range(3):
        for server in pair.servers:
            server.dp.refresh_ports()
        pair.servers[0].step(pair.now_ns)
        step(pair, 0)
    assert got(pair) == b""
    step(pair, 1)
    assert got(pair) == sent
    pair.meet()
    pair.run()
    assert send(pair, 99) == got(pair)


PROGRAMS = {
    "to a tunnel": (SetTunnel(VNI + 1), Output(TUNNEL_PORT)),
    "to a wire": (Output(WIRE_PORT),),
    "to a VM and a wire": (Output(VM_PORT), Output(WIRE_PORT)),
    "to the controller": (Controller(0xFFFF, 0, 0, 0),),
    "through a meter": (Meter(1), Output(VM_PORT)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_a_worker_cannot_do_worker_0_does(pair, name):
    """And counts once."""
    dp = pair.servers[1].dp
    only(pair, 2)
    send(pair, 1000)
    got(pair)
    key = tunnel_flow(dp)
    dp.set_meter(1, MeterConfig(True, ()))
    dp.install(key, PROGRAMS[name])
    pair.run()
    before = dp.flow_stats([key])[key]
    wire = next(port for port in dp.ports() if port.port_no == WIRE_PORT).counters.tx_packets
    sent = send(pair, 1000 + MSS * SEGMENTS, run=False)
    for _ in range(3):
        pair.servers[0].step(pair.now_ns)
        pair.servers[1].step(pair.now_ns)
    punts = dp.poll_punts()
    after = dp.flow_stats([key])[key]
    assert after.packets - before.packets == SEGMENTS
    assert after.bytes - before.bytes == len(sent) + SEGMENTS * 54
    assert len(punts) == (SEGMENTS if "controller" in name else 0)
    assert got(pair) == (sent if "VM" in name or "meter" in name else b"")
    on_wire = next(port for port in dp.ports() if port.port_no == WIRE_PORT).counters.tx_packets - wire
    assert on_wire == (SEGMENTS if "wire" in name or "tunnel" in name else 0)
    if name == "through a meter":
        assert dp.meter_stats(1).packets == SEGMENTS


def test_replaced_and_removed_flows_tell_what_all_workers_counted(pair):
    dp = pair.servers[1].dp
    only(pair, 0)
    send(pair, 1000)
    key = tunnel_flow(dp)
    for queue in range(WORKERS):
        only(pair, queue)
        send(pair, 1000 + (1 + queue) * MSS * SEGMENTS)
    assert dp.flow_stats([key])[key].packets == WORKERS * SEGMENTS
    dp.ended()
    dp.install(key, ())
    dp.remove(key)
    pair.run()
    replaced, removed = dp.ended()
    assert (replaced.key, replaced.replaced) == (removed.key, not removed.replaced) == (key, True)
    assert replaced.stats == removed.stats
    assert removed.stats.packets == WORKERS * SEGMENTS
    assert dp.flow_stats([key]) == {}
    assert not any(dp.tables["flow_count"][1:])


def test_s0_9_connections_of_forwarding_vms_are_known_to_the_worker_that_reads_them(pair):
    dp = pair.servers[1].dp
    only(pair, 1)
    send(pair, 1000)
    dp.set_forwarding(VM_PORT, True)
    pair.run()
    before = delivered_by(pair)
    syn = tcp_segment(0, 1, "S", options=[("MSS", 1234)])
    pair.servers[0].send(syn)
    pair.run()
    assert [int(entry["mss"].max()) for entry in dp.t["mss"] if entry["used"]] == [1234]
    send(pair, 1000 + MSS * SEGMENTS)
    assert delivered_since(pair, before) == [1, 1, 0]


def test_a_drivers_queue_is_served_by_worker_0(pair):
    nic = pair.servers[1].dp.nic(WIRE_PORT)
    handle = nic.open_queue(1)
    only(pair, 1)
    sent = send(pair, 1000)
    (packet,) = handle.poll()
    assert payload_of(packet.frame) == sent
    assert not any(pair.servers[1].dp.t["handed"])


def test_a_filters_frames_go_to_its_queues_worker(pair):
    nic = pair.servers[1].dp.nic(WIRE_PORT)
    only(pair, 0)
    nic.add_filter(Match(protocol="tcp", dst_port=81), 2)
    for dport in (80, 81):
        send(pair, 1000, dport)
        send(pair, 1000 + MSS * SEGMENTS, dport)
    assert delivered_by(pair) == [3, 0, 1]


def test_two_wires_do_not_fill_an_inbox_beyond_its_room(monkeypatch, tmp_path):
    monkeypatch.setattr("vswitch.ports.TapDevice", SocketTap)
    wires = [f"{tmp_path}/w{number}" for number in (0, 1)]
    ports = ["1=tap:vm9", *(f"{2 + number}=wire:{wire}" for number, wire in enumerate(wires))]
    receiver = Datapath(9, [parse_port(port) for port in ports], 2)
    senders = [Server(number, wire, tunnel=False) for number, wire in enumerate(wires, 1)]

    def step_receiver(*which):
        for worker in which:
            loop.step(pointed(receiver.memory.views[worker]), receiver.tables, worker, 1)

    for _ in range(4):
        receiver.refresh_ports()
        step_receiver(0, 1)
        for sender in senders:
            sender.dp.refresh_ports()
            sender.step(1)
    sent = []
    for number, sender in enumerate(senders):
        receiver.nic(2 + number).set_worker(0, 1)
        frame = tcp_segment(10, dport=80 + number)
        receiver.install(receiver.key_of(frame, 2 + number), (Output(1),))
        sender.dp.install(sender.dp.key_of(frame, VM_PORT), (Output(WIRE_PORT),))
    for _ in range(4):
        step_receiver(0, 1)
    for count in range(4 * layout.BURST):
        for number, sender in enumerate(senders):
            if number == 0 or count >= 3 * layout.BURST:
                sent.append(tcp_segment(10, 1000 * len(sent), dport=80 + number))
                sender.send(sent[-1])
                sender.step(1)
        if count % layout.BURST == layout.BURST - 1:
            step_receiver(0)
    got = []
    for _ in range(50):
        step_receiver(0, 1)
        while True:
            try:
                got.append(receiver._ports[1].tap.vm.recv(1 << 17)[12:])
            except BlockingIOError:
                break
    assert sorted(got) == sorted(sent)
    for dp in (receiver, *(sender.dp for sender in senders)):
        dp.close()


def test_a_packet_port_gets_its_slots_back_while_a_wire_keeps_the_worker_busy(pair):
    dp = pair.servers[1].dp
    only(pair, 1)
    send(pair, 1000)
    t = dp.t
    socket, ring = t["sockets"][0], dp.memory.map_private(layout.RING_SLOTS * layout.RING_SLOT_SIZE)
    t["socket_count"] = 1
    t["ports"][9]["up"], t["ports"][9]["number"] = 1, 99
    socket["port"], socket["fd"], socket["ring"] = 9, -1, ring
    t["nics"][9, 0]["queue_count"] = 1
    frame = tcp_segment(10, 5)
    brought = 0
    for number in range(1, 4 * layout.RING_SLOTS // layout.BURST):
        send(pair, 1000 + number * MSS * SEGMENTS, run=False)
        pair.servers[0].step(pair.now_ns)
        for _ in range(layout.BURST):
            slot = dp.memory.words(ring + brought % layout.RING_SLOTS * layout.RING_SLOT_SIZE, 4).view("u4")
            if slot[0]:
                break
            dp.memory.write(ring + brought % layout.RING_SLOTS * layout.RING_SLOT_SIZE + 80, frame)
            slot[1], slot[2], slot[6] = len(frame), len(frame), 80
            slot[0] = 1
            brought += 1
        step(pair, 0)
        step(pair, 1)
        for punt in dp.poll_punts():
            dp.discard(punt.packet, DropReason.RULE)
    assert brought > 3 * layout.RING_SLOTS - layout.BURST
    assert socket["taken"] - socket["tail"] <= 2 * layout.BURST
    t["socket_count"] = 0


def test_a_packet_ports_buffers_come_back_when_the_pool_is_empty(pair):
    dp = pair.servers[1].dp
    t = dp.t
    t["socket_count"] = 1
    t["ports"][9]["up"] = 0
    socket = t["sockets"][0]
    socket["port"], socket["fd"] = 9, -1
    socket["ring"] = dp.memory.map_private(layout.RING_SLOTS * layout.RING_SLOT_SIZE)
    others = t["free_buffer_count"] - layout.LARGE_BURST
    t["free_buffer_count"] = 0
    socket["taken"] = socket["large_count"] = layout.LARGE_BURST
    t["large_buffers"][0] = t["free_buffers"][: layout.LARGE_BURST]
    t["large_numbers"][0] = range(layout.LARGE_BURST)
    t["buffers"][t["large_buffers"][0]] = 1
    step(pair, 0)
    assert t["free_buffer_count"] == layout.LARGE_BURST
    t["free_buffer_count"] += others
    t["socket_count"] = 0


def test_the_first_packet_of_a_flow_is_not_overtaken_by_those_that_find_it_installed(pair):
    only(pair, 1)
    sender, receiver = pair.servers
    first = send(pair, 1000, run=False)
    sender.step(pair.now_ns)
    sender.answer_misses()
    sender.step(pair.now_ns)
    for worker in (0, 1, 0):  # handed over, handed back as a miss, punted
        step(pair, worker)
    second = send(pair, 1000 + MSS * SEGMENTS, run=False)
    sender.step(pair.now_ns)
    step(pair, 0)  # into the worker's inbox
    assert receiver.answer_misses() == 1
    for _ in range(3):
        step(pair, 1)
    pair.run()
    assert got(pair) == first + second


def test_what_was_handed_back_is_not_overtaken_when_its_flow_can_be_delivered_directly(pair, monkeypatch):
    only(pair, 1)
    send(pair, 1000)
    got(pair)
    sender, receiver = pair.servers
    dp = receiver.dp
    key = tunnel_flow(dp)
    dp.set_meter(1, MeterConfig(True, ()))
    dp.install(key, (Meter(1), Output(VM_PORT)))
    pair.run()
    sent = b""
    for number in (1, 2):
        sent += send(pair, 1000 + number * MSS * SEGMENTS, run=False)
        sender.step(pair.now_ns)
        step(pair, 0)
        if number == 1:
            step(pair, 1)  # which hands the first back
            monkeypatch.setattr("vswitch.dataplane.workers.take_back", lambda *arguments: 0)
    dp.install(key, (Output(VM_PORT),))
    for worker in (0, 1, 1, 1):
        step(pair, worker)
    monkeypatch.undo()
    monkeypatch.setattr("vswitch.ports.TapDevice", SocketTap)
    pair.run()
    assert got(pair) == sent


@pytest.mark.parametrize("change", ["none", "install", "remove"])
def test_an_idle_flow_ends_for_all_workers_and_its_counters_are_told_once(pair, change):
    """Whatever the agent does before it hears of that."""
    dp = pair.servers[1].dp
    only(pair, 0)
    send(pair, 1000)
    key = tunnel_flow(dp)
    dp.install(key, (Output(VM_PORT),), idle_timeout_s=1)
    for queue in (0, 1):
        only(pair, queue)
        send(pair, 1000 + (1 + queue) * MSS * SEGMENTS)
    assert [ended.key for ended in dp.ended()] == [key]
    pair.now_ns += 2 * 10**9
    dp.t["now_ns"] = pair.now_ns
    for _ in range(3):
        commands.sweep(pointed(dp.memory.array), dp.tables)
    if change == "install":
        dp.install(key, (Output(VM_PORT), Output(VM_PORT)))
    elif change == "remove":
        dp.remove(key)
    pair.run()
    with stepping(pair.servers[1], pair.now_ns):
        ended = dp.ended()
    by_commands = 0 if change == "none" else 1
    by_themselves = 0 if change == "remove" else 1
    assert [end.by_itself for end in ended] == [False] * by_commands + [True] * by_themselves
    assert {(end.key, end.stats.packets) for end in ended} == {(key, 2 * SEGMENTS)}
    assert dp.flow_stats([key]) == {}
    assert not any(dp.tables["flow_count"][1:])


@pytest.mark.parametrize("workers", [1, 2])
def test_flows_that_are_handed_back_are_coalesced_in_front_of_their_vm(make_pair, workers):
    pair = make_pair(workers)
    dp = pair.servers[1].dp
    nic = dp.nic(WIRE_PORT)
    nic.set_lro(None, "off")
    dp.nic(VM_PORT).set_lro(0, "on")
    only(pair, 1)
    send(pair, 1000)
    got(pair)
    key = tunnel_flow(dp)
    dp.install(key, (DecTtl(Controller(128, 0, 0, 0)), Output(VM_PORT)))
    pair.run()
    send(pair, 1000 + MSS * SEGMENTS)
    assert [packet.segments for packet in pair.servers[1].received()] == [SEGMENTS]


def test_a_syn_that_comes_from_behind_an_mpls_header_is_seen_by_worker_0(make_pair):
    pair = make_pair(tunnel=False)
    sender, receiver = (server.dp for server in pair.servers)
    only(pair, 1)
    receiver.set_forwarding(VM_PORT, True)
    syn = Ether(tcp_segment(0, 1, "S", options=[("MSS", 1234)]))
    frame = bytes(Ether(src=syn.src, dst=syn.dst, type=0x8847) / MPLS(label=5, s=1, ttl=9) / syn[IP])
    receiver.install(receiver.key_of(frame, WIRE_PORT), (PopMpls(0x0800), Output(VM_PORT)))
    sender.install(sender.key_of(frame, VM_PORT), (Output(WIRE_PORT),))
    pair.run()
    pair.servers[0].send(frame)
    pair.run()
    assert len(pair.servers[1].received()) == 1
    assert [int(t["mss"]["used"].sum()) for t in receiver.tables] == [1, 0, 0]


def test_a_worker_that_died_hangs_nobody(monkeypatch):
    real = loop.run

    def run(mem, tables, number):
        if number == 1 and not stopping:
            raise IndexError("as a defect would")
        real(mem, tables, number)

    stopping = []
    monkeypatch.setattr(loop, "run", run)
    monkeypatch.setattr(threading, "excepthook", lambda details: None)
    dp = Datapath(9, [], 2)
    dp.start()
    dp.install(dp.key_of(bytes(60), 1), ())
    dp._commands.wait(dp._commands.given)
    stopping.append(True)
    dp.close()


def test_a_memory_that_cannot_be_had_leaves_nothing_open(monkeypatch):
    real, calls = Memory._mmap, []

    def second_fails(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise VSwitchError("cannot map")
        return real(*arguments)

    monkeypatch.setattr(Memory, "_mmap", staticmethod(second_fails))
    before = os.listdir("/proc/self/fd"), _address_space()
    with pytest.raises(VSwitchError, match="cannot map"):
        Datapath(9, [], 3)
    assert (os.listdir("/proc/self/fd"), _address_space()) == before


def _address_space() -> int:
    """Of this process, in units of 32 GB."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * 4096 >> 35


@pytest.mark.skipif(INTERPRETED, reason="the workers run in threads of their own, as fast as compiled code")
def test_a_flow_that_any_worker_uses_is_not_idle(make_pair):
    """And when it ends, its counters are those of all."""
    pair = make_pair(workers=2)
    dp = pair.servers[1].dp
    only(pair, 1)
    send(pair, 1000)
    key = tunnel_flow(dp)
    dp.install(key, (Output(VM_PORT),), idle_timeout_s=3)
    for server in pair.servers:
        server.dp.start()
    seq = 1000
    busy_until = time.monotonic() + 5
    while time.monotonic() < busy_until:
        seq += MSS * SEGMENTS
        pair.servers[0].hand_over(tcp_segment(MSS * SEGMENTS, seq), gso_size=MSS)
        time.sleep(0.05)
        pair.servers[1].received()
        dp.poll_punts()
        assert not any(end.by_itself for end in dp.ended())
    counted = dp.flow_stats([key])[key].packets
    assert counted > 20 * SEGMENTS
    deadline = time.monotonic() + PATIENCE_S
    ended = []
    while not ended and time.monotonic() < deadline:
        time.sleep(0.05)
        dp.poll_punts()
        ended = dp.ended()
    assert [(end.key, end.stats.packets) for end in ended] == [(key, counted)]
    assert dp.flow_stats([key]) == {}
