# SPDX-License-Identifier: Apache-2.0
"""Several workers: a port's frames go to the workers of their queues, and back what they cannot do (S0.4)."""

from __future__ import annotations

import random
import time
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.packets import TCP, Ether, payload_of, tcp_segment
from tests.unit.rig import INTERPRETED, examples
from tests.unit.servers import TUNNEL_PORT, VM_PORT, VNI, WIRE_PORT, Pair, SocketTap
from vswitch import layout
from vswitch.errors import ConfigError
from vswitch.flow import Controller, Meter, MeterConfig, Output, SetTunnel
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


def only(pair: Pair, queue: int) -> None:
    """Everything that server 2 receives goes through one queue."""
    pair.servers[1].dp.nic(WIRE_PORT).set_indirection([queue] * layout.RSS_ENTRIES)
    pair.run()


def step(pair: Pair, worker: int) -> None:
    """One pass of one worker of server 2."""
    from vswitch.dataplane import worker as loop

    dp = pair.servers[1].dp
    loop.step(dp.memory.views[worker], dp.tables, worker, pair.now_ns)


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
    after = delivered_by(pair)
    assert [new - old for new, old in zip(after, before, strict=True)] == [
        int(worker == queue) for worker in range(WORKERS)
    ]
    dp = pair.servers[1].dp
    stats = dp.nic(WIRE_PORT).stats()[queue]
    assert (stats.frames, stats.aggregates) == (2 * SEGMENTS, 2)
    (flow,) = [flow for key, flow in dp.flow_stats().items() if key.in_port == TUNNEL_PORT]
    assert flow.packets == SEGMENTS
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
            after = delivered_by(pair)
            workers[dport] |= {worker for worker in range(WORKERS) if after[worker] != before[worker]}
        for packet in pair.servers[1].received():
            arrived[Ether(packet.frame)[TCP].dport] += payload_of(packet.frame)
    assert arrived == expected
    assert all(len(those) == 1 for those in workers.values())
    assert set().union(*workers.values()) == set(range(WORKERS))
    assert pair.servers[1].dropped() == 0


@settings(max_examples=examples(60))
@given(seed=st.integers(0, 2**32 - 1), workers=st.integers(2, 4), queues=st.integers(1, 8))
def test_several_workers_deliver_what_one_delivers(seed, workers, queues):
    """Each connection's packets are the same, in the same order; rules change in between."""
    import tempfile

    results = []
    for count in (1, workers):
        order = random.Random(seed)
        with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            patch.setattr("vswitch.ports.TapDevice", SocketTap)
            pair = Pair(f"{folder}/wire", workers=count)
            nic = pair.servers[1].dp.nic(WIRE_PORT)
            nic.set_queue_count(queues)
            seqs = dict.fromkeys(range(80, 86), 1000)
            arrived = defaultdict(list)
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
                pair.run()
                for packet in pair.servers[1].received():
                    packet.assert_consistent()
                    arrived[Ether(packet.frame)[TCP].dport].append(payload_of(packet.frame))
            flows = {key: (s.packets, s.bytes) for key, s in pair.servers[1].dp.flow_stats().items()}
            results.append((arrived, flows, pair.servers[1].dropped()))
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
    (key,) = [key for key in dp.flow_stats() if key.in_port == TUNNEL_PORT]
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
    (key,) = [key for key in dp.flow_stats() if key.in_port == TUNNEL_PORT]
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
    assert [new - old for new, old in zip(delivered_by(pair), before, strict=True)] == [1, 1, 0]


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


@pytest.mark.skipif(INTERPRETED, reason="the workers run in threads of their own, as fast as compiled code")
def test_a_flow_that_any_worker_uses_is_not_idle(make_pair):
    """And when it ends, its counters are those of all."""
    pair = make_pair(workers=2)
    dp = pair.servers[1].dp
    only(pair, 1)
    send(pair, 1000)
    (key,) = [key for key in dp.flow_stats() if key.in_port == TUNNEL_PORT]
    dp.install(key, (Output(VM_PORT),), idle_timeout_s=1.5)
    for server in pair.servers:
        server.dp.start()
    seq = 1000
    busy_until = time.monotonic() + 4
    while time.monotonic() < busy_until:
        seq += MSS * SEGMENTS
        pair.servers[0].hand_over(tcp_segment(MSS * SEGMENTS, seq), gso_size=MSS)
        time.sleep(0.05)
        pair.servers[1].received()
        dp.poll_punts()
        assert dp.evicted() == []
    counted = dp.flow_stats([key])[key].packets
    assert counted > 20 * SEGMENTS
    deadline = time.monotonic() + 10
    ended = []
    while not ended and time.monotonic() < deadline:
        time.sleep(0.05)
        dp.poll_punts()
        ended = dp.evicted()
    assert [(ended_key, stats.packets) for ended_key, stats in ended] == [(key, counted)]
    assert dp.flow_stats([key]) == {}
