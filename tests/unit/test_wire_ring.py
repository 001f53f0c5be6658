# SPDX-License-Identifier: Apache-2.0
"""The wire's ring: wrap-around, full ring, buffers' references, restarts and peers that write nonsense."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.packets import Ether, tcp_segment, tcp_stream, vxlan
from tests.unit.rig import INTERPRETED, Rig, examples
from vswitch import layout
from vswitch.dataplane.ports import wire
from vswitch.layout import CURSOR_HEAD, CURSOR_TAIL, MIN_WIRE_SLOTS, WIRE_SLOTS, Counter, Op, SlotKind

MS = 1_000_000
CHANCE = 1 << 32
FRAME = tcp_segment(100)
VNET = bytes([1, 1, 66, 0]) + struct.pack(
    "<HHHH", 1000, 34, 16, 0
)  # a partial checksum, TCPv4, gso_size 1000


@pytest.fixture(params=[WIRE_SLOTS, MIN_WIRE_SLOTS])
def joined(request):
    """Both ends of a wire, with the most slots and with the fewest."""
    with Rig(wires=2, joined=True, slots=request.param) as rig:
        yield rig


@pytest.fixture
def peer():
    """A wire whose other end is the test."""
    with Rig(wires=1) as rig:
        yield rig


def start_at(rig, number):
    """Let both ends of a joined wire have exchanged `number` slots."""
    sender, receiver = rig.t["wires"][0], rig.t["wires"][1]
    for field in ("tx_head", "tx_clean", "tx_published", "queue_head"):
        sender[field] = number
    receiver["rx_tail"] = receiver["taken"] = number
    for cursor in (CURSOR_HEAD, CURSOR_TAIL):
        rig.set_word(int(sender["tx_cursors"]) + cursor, number)


@pytest.mark.parametrize("unordered", [False, True])
@pytest.mark.parametrize("start", [WIRE_SLOTS - 5, 2**40 * WIRE_SLOTS - 3])
def test_slots_are_used_again_after_the_rings_end(joined, start, unordered):
    start_at(joined, start)
    if unordered:
        joined.set_wire(reorder=CHANCE // 3)
    for turn in range(4):
        for number in range(10):
            joined.send(tcp_segment(10, turn * 100 + number))
        arrived = [Ether(frame).seq for frame in joined.received(1)]
        assert sorted(arrived) == [turn * 100 + number for number in range(10)]


def test_a_full_ring_is_counted_and_nothing_on_it_is_harmed(joined):
    start_at(joined, joined.slots - 4)
    joined.send(FRAME, count=joined.slots + 3)
    assert joined.counted() == {"wire_full": 3}
    arrived = 0
    while frames := joined.received(1):
        assert len(frames) <= layout.BURST
        assert set(frames) == {FRAME}
        arrived += len(frames)
    assert arrived == joined.slots
    joined.send(FRAME)
    assert joined.received(1) == [FRAME]


def test_slots_are_given_back_in_order_though_delivered_out_of_order(joined):
    joined.set_wire(delay_ns=MS, reorder=CHANCE // 2, random=1)
    joined.send(FRAME, count=20)
    tail = int(joined.t["wires"][1]["rx_cursors"]) + CURSOR_TAIL
    releases = [release for release, _ in joined.sent_with_times()]
    joined.set_word(tail, 0)
    early = [release == joined.now_ns for release in releases]
    assert len(joined.received(1)) == sum(early)
    assert joined.word(tail) == early.index(False)
    joined.now_ns += MS
    joined.received(1)
    assert joined.word(tail) == 20


# References to pool buffers


@settings(max_examples=examples(25))
@given(
    seed=st.integers(1, 2**31 - 2),
    delay=st.sampled_from([0, MS]),
    chances=st.tuples(*[st.sampled_from([0, 0, CHANCE // 5, CHANCE])] * 2),
    rate=st.sampled_from([0, 1e8]),
    queue_limit=st.sampled_from([0, 20]),
    slots=st.sampled_from([WIRE_SLOTS, MIN_WIRE_SLOTS]),
)
def test_every_buffer_is_free_again_after_any_run(seed, delay, chances, rate, queue_limit, slots):
    """A VM sends super-frames through a wire with impairments; the other end takes and releases them."""
    rng = random.Random(seed)
    with Rig(taps=1, wires=2, joined=True, slots=slots) as rig:
        frame = b"".join(tcp_stream(1, 5000))
        rig.route(frame, 1, (Op.OUTPUT, rig.wire_ports[0]))
        loss, duplicate = chances
        rig.set_wire(
            rate=rate, delay_ns=delay, jitter_ns=rng.choice([0, delay]), loss=loss, duplicate=duplicate,
            reorder=rng.choice([0, CHANCE // 4]), queue_limit=queue_limit, random=seed,
        )  # fmt: skip
        rig.t["wire_count"] = 1  # wire 1 is the test's
        for _ in range(6 if INTERPRETED else 20):
            for _ in range(rng.randrange(3)):
                rig.vms[0].send(VNET + frame)
            rig.step()
            if rng.random() < 0.5:
                rig.received(1)
            rig.now_ns += MS // 4
        for _ in range(60):
            rig.now_ns += MS
            if not rig.received(1):
                break
        rig.step()
        rig.received(1)
        wire.reclaim(rig.mem, rig.t, 0)
        rig.assert_pool_whole()


def test_a_buffer_is_held_until_the_receiver_has_released_its_slots():
    with Rig(taps=1, wires=2, joined=True) as rig:
        frame = tcp_segment(5000)
        rig.route(frame, 1, (Op.OUTPUT, rig.wire_ports[0]))
        rig.t["wire_count"] = 1
        rig.vms[0].send(VNET + frame)
        rig.step()
        wire.reclaim(rig.mem, rig.t, 0)
        assert rig.buffers_in_use() == 1
        assert len(rig.received(1)) == 5
        wire.reclaim(rig.mem, rig.t, 0)
        rig.assert_pool_whole()


# Restarts


def test_slots_of_the_peers_earlier_life_are_dropped_where_they_refer_to_its_pool(peer):
    frame = tcp_segment(1000)
    peer.put(frame, kind=SlotKind.SPLIT, split_at=54, epoch=1)
    peer.put(frame, kind=SlotKind.SPLIT, split_at=54, epoch=2)
    peer.put(FRAME, epoch=1)
    peer.t["wires"][0]["peer_epoch"] = 2
    assert peer.received() == [frame, FRAME]
    assert peer.counted() == {"rx_stale_slot": 1}
    assert peer.t["rx_drops"][1, Counter.RX_STALE_SLOT] == 1


# A peer that writes nonsense


@pytest.mark.parametrize(
    "change",
    [
        {"kind": 3},
        {"kind": 65535},
        {"length": 225},
        {"kind": SlotKind.DATA, "length": 1601},
        {"kind": SlotKind.DATA, "length": 2**32 - 1},
        {"kind": SlotKind.SPLIT, "length": 100, "head": 101},
        {"kind": SlotKind.SPLIT, "length": 1000, "head": 225},
        {"kind": SlotKind.SPLIT, "length": 1000, "head": 54, "ext": -1},
        {
            "kind": SlotKind.SPLIT,
            "length": 1000,
            "head": 54,
            "ext": layout.BUFFERS * layout.BUFFER_SIZE - 945,
        },
        {"kind": SlotKind.SPLIT, "length": 2**32 - 1, "head": 54, "ext": 0},
        {"kind": SlotKind.SPLIT, "length": 1000, "head": 54, "ext": 2**63 - 1},
    ],
    ids=str,
)
def test_a_descriptor_that_cannot_be_is_counted(peer, change):
    values = {"kind": 0, "length": 154, "head": 154, "ext": 0} | change
    peer.put(FRAME)
    slot = int(peer.t["wires"][0]["rx_slots"])
    peer.write(slot + 8, struct.pack("<IHHqI", *(values[k] for k in ("length", "head", "kind", "ext")), 1))
    peer.put(FRAME)
    assert peer.received() == [FRAME]
    assert peer.counted() == {"rx_bad_descriptor": 1}
    assert peer.t["rx_drops"][1, Counter.RX_BAD_DESCRIPTOR] == 1


@settings(max_examples=examples(60))
@given(data=st.data())
def test_random_descriptors_never_crash(data):
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    peer = random_peer()
    slot = int(peer.t["wires"][0]["rx_slots"])
    head = peer.word(int(peer.t["wires"][0]["rx_cursors"]) + CURSOR_HEAD)
    for _ in range(16):
        peer.put(vxlan(FRAME) if rng.random() < 0.5 else FRAME)
    for number in range(head, head + 16):
        at = slot + number % WIRE_SLOTS * layout.SLOT_SIZE
        values = [rng.choice([0, 14, 54, 100, 224, 225, 2048, rng.randrange(2**32)])]
        values += [
            rng.choice([0, 14, 33, 54, 224, 225, rng.randrange(2**16)]),
            rng.choice([0, 1, 2, 2, 2, 3]),
        ]
        values += [rng.choice([0, 1, -1, rng.randrange(-(2**63), 2**63), rng.randrange(layout.BUFFER_SIZE)])]
        peer.write(at + 8, struct.pack("<IHHqI", *values, rng.choice([1, 1, 1, 0, 77])))
        if rng.random() < 0.2:
            peer.write(at + 32, rng.randbytes(224))
    before = int(peer.t["ports"][1]["rx_packets"])
    peer.step()
    assert int(peer.t["ports"][1]["rx_packets"]) - before >= 16


_random_peer: list[Rig] = []


def random_peer():
    """One rig for all examples: its flow table is empty, so what is parsed is punted, and that overflows."""
    if not _random_peer:
        rig = Rig(wires=1)
        rig.add_tunnel()
        _random_peer.append(rig)
    return _random_peer[0]


@pytest.mark.parametrize("tail", [10, 2**62, -1])
def test_a_tail_beyond_what_was_sent_gives_nothing_back(peer, tail):
    peer.send(FRAME, count=3)
    peer.set_word(int(peer.t["wires"][0]["tx_cursors"]) + CURSOR_TAIL, tail)
    wire.reclaim(peer.mem, peer.t, 0)
    assert peer.t["wires"][0]["tx_clean"] <= 3
    peer.send(FRAME, count=3)
    assert peer.t["wires"][0]["tx_head"] == 6


@pytest.mark.parametrize("slots", [WIRE_SLOTS, MIN_WIRE_SLOTS])
@pytest.mark.parametrize("unordered", [0, 1])
@pytest.mark.parametrize("head", [2**62, -5])
def test_a_head_beyond_the_ring_reads_no_more_than_the_ring(peer, head, unordered, slots):
    row = peer.t["wires"][0]
    row["slots"] = slots
    peer.set_word(int(row["rx_cursors"]) + CURSOR_HEAD, head)
    peer.set_word(int(row["rx_cursors"]) + layout.CURSOR_UNORDERED, unordered)
    heap_end = np.array(peer.t["wire_heap"][1, :4])
    for _ in range(3):
        peer.received()
    assert row["heap_size"] <= slots
    assert (peer.t["wire_heap"][1, :4] == heap_end).all()


@pytest.mark.parametrize("slots", [WIRE_SLOTS, MIN_WIRE_SLOTS])
@pytest.mark.parametrize(("vms", "mss"), [(1, 1000), (1, 100), (3, 1000)])
def test_super_frames_wait_for_a_receiver_that_takes_nothing_yet(vms, mss, slots):
    """However many VMs send, and into however many segments each frame is cut: an ideal wire drops none."""
    with Rig(taps=vms, wires=1, slots=slots) as rig:
        frame = tcp_segment(60_000, flags="PA")
        header = VNET[:4] + struct.pack("<HHHH", mss, 34, 16, 0)
        for index in range(1, vms + 1):
            rig.route(frame, index, (Op.OUTPUT, rig.wire_ports[0]))
        rig.counted()
        counted = {}
        while "tx_backpressure" not in counted:
            for index, vm in enumerate(rig.vms, 1):
                rig.t["ports"][index]["ready"] = 1
                for _ in range(layout.TAP_BURST):
                    vm.send(header + frame)
            rig.step()
            counted = rig.counted()
            assert "wire_full" not in counted


# A receiver that lives but takes nothing, as a process that is stopped


@pytest.fixture
def neighbours():
    """A VM's switch with two wires: nobody takes from the first, the test takes from the second."""
    with Rig(taps=1, wires=2) as rig:
        for port, target in ((7001, rig.wire_ports[0]), (7002, rig.wire_ports[1])):
            rig.route(tcp_segment(3000, dport=port, flags="PA"), 1, (Op.OUTPUT, target))
        rig.counted()
        yield rig


def vm_sends(rig, port, count=1, length=3000):
    for _ in range(count):
        frame = tcp_segment(length, dport=port, flags="PA")
        rig.vms[0].send(VNET + frame)
    rig.t["ports"][1]["ready"] = 1


def fill_the_first(rig, length=3000):
    for _ in range(WIRE_SLOTS):
        vm_sends(rig, 7001, 4, length)
        rig.step()
        if rig.counted().get("tx_backpressure"):
            return
    raise AssertionError("the wire never filled up")


@pytest.mark.parametrize("length", [60_000, 3000])
def test_a_receiver_that_stopped_holds_its_neighbours_vms_for_a_moment_only(neighbours, length):
    rig = neighbours
    fill_the_first(rig, length)
    vm_sends(rig, 7002)
    rig.now_ns += wire.STALL_NS - 1
    rig.step()
    assert rig.sent(1) == []
    assert rig.counted() == {"tx_backpressure": 1}
    rig.now_ns += 1
    for _ in range(8):
        rig.step()
    assert len(rig.sent(1)) == 3
    assert "tx_backpressure" not in rig.counted()
    for _ in range(wire.ROOM // 2):
        vm_sends(rig, 7001, 1, length)
        vm_sends(rig, 7002)
        rig.step()
        assert len(rig.sent(1)) == 3
    counted = rig.counted()
    assert set(counted) == {"wire_stalled"}
    assert rig.t["free_buffer_count"] > 0


def test_a_receiver_that_goes_on_is_waited_for_again(neighbours):
    rig = neighbours
    fill_the_first(rig)
    rig.now_ns += wire.STALL_NS
    rig.step()
    taken = len(rig.sent(0))
    assert taken > WIRE_SLOTS - 2 * wire.ROOM
    rig.counted()
    rig.step()
    assert rig.counted() == {}
    fill_the_first(rig)
    rig.now_ns += wire.STALL_NS - 1
    rig.step()
    assert rig.counted() == {"tx_backpressure": 1}


def test_a_slow_receiver_is_not_one_that_stopped(neighbours):
    rig = neighbours
    fill_the_first(rig)
    cursor = int(rig.t["wires"][0]["tx_cursors"]) + CURSOR_TAIL
    for _ in range(20):
        rig.now_ns += wire.STALL_NS - 1
        rig.set_word(cursor, rig.word(cursor) + 1)
        for _ in range(4):
            vm_sends(rig, 7001)
            rig.step()
        assert set(rig.counted()) <= {"tx_backpressure"}
