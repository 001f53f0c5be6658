# SPDX-License-Identifier: Apache-2.0
"""The wire in virtual time: rate, delay, jitter, loss, duplication, reordering, queue, ECN."""

from __future__ import annotations

import os
import statistics
import time

import pytest

from tests.packets import IP, Dot1Q, Ether, IPv6, checksums_right, payload_of, tcp_segment
from tests.unit.rig import INTERPRETED, Rig
from vswitch import layout
from vswitch.dataplane.ports import wire

MS = 1_000_000
CHANCE = 1 << 32
MANY = 400 if INTERPRETED else 3000
FRAME = tcp_segment(946)  # 1000 bytes


@pytest.fixture
def rig():
    """One wire, both of whose ends are ours: what is sent by wire 0 is received by wire 1."""
    with Rig(wires=2, joined=True) as rig:
        yield rig


def times(rig):
    """Release times, relative to now, of what was sent."""
    return [release - rig.now_ns for release, _ in rig.sent_with_times()]


def numbered(number, **fields):
    return tcp_segment(4, number, **fields)


def numbers(frames):
    return [Ether(frame).seq for frame in frames]


def test_an_ideal_wire_delivers_at_once(rig):
    rig.send(FRAME)
    assert rig.received(1) == [FRAME]
    assert rig.received(1) == []


def test_delay_holds_a_frame_for_exactly_its_time(rig):
    rig.set_wire(delay_ns=5 * MS)
    rig.send(FRAME)
    rig.now_ns += 5 * MS - 1
    assert rig.received(1) == []
    rig.now_ns += 1
    assert rig.received(1) == [FRAME]


def test_delay_begins_when_the_frame_came_not_when_the_pass_began(rig):
    """A worker lost its processor in between."""
    rig.set_wire(delay_ns=5 * MS)
    rig.t["clocked"] = 1
    rig.now_ns = time.monotonic_ns()
    time.sleep(0.02)
    rig.send(FRAME)
    assert 25 * MS <= times(rig)[0] <= time.monotonic_ns() - rig.now_ns + 5 * MS


def test_rate_spaces_frames_by_their_length(rig):
    rig.set_wire(rate=125e6)  # 1 Gbit/s: 8 us for 1000 bytes
    rig.send(FRAME, count=3)
    rig.send(tcp_segment(446), count=1)
    assert times(rig) == [8_000, 16_000, 24_000, 28_000]


def test_an_idle_line_saves_no_time_up(rig):
    rig.set_wire(rate=125e6)
    rig.send(FRAME)
    rig.now_ns += 50 * MS
    rig.send(FRAME)
    assert times(rig)[-1] == 8_000


@pytest.mark.parametrize(("rate", "spacing"), [(125e6, 8_000), (125e4, 800_000), (0, 0)])
def test_a_new_rate_is_that_of_the_frames_that_wait_for_their_turn(rig, rate, spacing):
    """So those that come next do not wait behind a queue that leaves at a rate of the past."""
    rig.set_wire(rate=125e5, delay_ns=3 * MS)
    rig.send(FRAME, count=10)
    rig.now_ns += 80_000
    rig.set_wire(rate=rate)
    rig.send(FRAME)
    delays = [3 * MS] * 9 + [0]
    expected = [3 * MS] + [delay + spacing * turn for turn, delay in enumerate(delays, 1)]
    if rate == 0:
        expected[-1] = -rig.now_ns  # a wire without settings knows no times
    assert times(rig) == expected


def test_a_receiver_that_sleeps_hears_of_a_new_rate(rig):
    rig.set_wire(rate=125.0)
    rig.send(FRAME)
    sender = rig.t["wires"][0]
    awake, kicks = os.pipe2(os.O_NONBLOCK)
    sender["kick_fd"] = kicks
    wire.fall_asleep(rig.mem, rig.t, 1)
    rig.set_wire(rate=125e6)
    assert os.read(awake, 10)
    assert wire.next_due_ns(rig.mem, rig.t, 1) == rig.now_ns + 8_000
    for fd in (awake, kicks):
        os.close(fd)


def test_the_queue_limit_holds_after_a_new_rate(rig):
    rig.set_wire(rate=125e6, queue_limit=10)
    rig.send(FRAME, count=10)
    rig.set_wire(rate=125e5, queue_limit=10)
    rig.send(FRAME)
    assert rig.counted() == {"wire_queue": 1}


@pytest.mark.parametrize(
    ("length", "line_bytes"), [(1000, 1024), (60, 84), (59, 84), (42, 84), (61, 85), (1514, 1538)]
)
def test_an_ethernet_line_has_more_to_carry_than_frames(rig, length, line_bytes):
    """IEEE 802.3: padding to 60 bytes, check sequence, preamble, gap. 1 Gbit/s: 8 ns for a byte."""
    frame = FRAME[:14] + bytes(length - 14)
    line = {"least_length": layout.MIN_ETHERNET_FRAME, "added_length": layout.ETHERNET_FRAMING}
    rig.set_wire(rate=125e6, **line)
    rig.send(frame, count=2)
    assert times(rig) == [line_bytes * 8, 2 * line_bytes * 8]
    rig.set_wire(rate=125e5, **line)  # those that wait take their turns anew
    assert wire.next_due_ns(rig.mem, rig.t, 1) == rig.now_ns + line_bytes * 80


def test_rate_and_delay_add_up(rig):
    rig.set_wire(rate=125e6, delay_ns=MS)
    rig.send(FRAME, count=2)
    assert times(rig) == [MS + 8_000, MS + 16_000]


def test_the_long_run_rate_is_exact(rig):
    rig.set_wire(rate=1_234_567.0)
    rig.send(FRAME, count=MANY)
    assert times(rig)[-1] == pytest.approx(MANY * 1000 / 1_234_567 * 1e9, rel=1e-6)


def test_jitter_is_uniform_about_the_delay(rig):
    rig.set_wire(delay_ns=10 * MS, jitter_ns=4 * MS, random=7)
    rig.send(FRAME, count=MANY)
    delays = times(rig)
    assert 6 * MS <= min(delays) < 6.3 * MS
    assert 13.7 * MS < max(delays) <= 14 * MS
    assert statistics.fmean(delays) == pytest.approx(10 * MS, rel=0.04)
    assert statistics.pstdev(delays) == pytest.approx(4 * MS / 3**0.5, rel=0.08)


def test_the_longest_jitter_is_uniform_too(rig):
    rig.set_wire(delay_ns=60_000 * MS, jitter_ns=60_000 * MS, random=7)
    rig.send(FRAME, count=MANY)
    delays = times(rig)
    assert 0 <= min(delays) < 2000 * MS
    assert 118_000 * MS < max(delays) <= 120_000 * MS
    assert statistics.fmean(delays) == pytest.approx(60_000 * MS, rel=0.08)


def test_jitter_over_the_delay_never_sends_into_the_past(rig):
    rig.set_wire(delay_ns=MS, jitter_ns=5 * MS)
    rig.send(FRAME, count=200)
    assert min(times(rig)) == 0


def test_loss_is_as_often_as_told_and_counted(rig):
    rig.set_wire(loss=CHANCE // 10, random=3)
    rig.send(FRAME, count=MANY)
    arrived = len(rig.sent())
    lost = rig.counted()["wire_loss"]
    assert arrived + lost == MANY
    assert lost == pytest.approx(MANY / 10, rel=0.2)


@pytest.mark.parametrize(("loss", "arrived"), [(0, 50), (CHANCE, 0)])
def test_loss_of_nothing_and_of_everything(rig, loss, arrived):
    rig.set_wire(loss=loss, delay_ns=1)
    rig.send(FRAME, count=50)
    assert len(rig.sent()) == arrived


def test_the_same_seed_loses_the_same_frames(rig):
    def run(seed):
        rig.set_wire(loss=CHANCE // 3, random=seed)
        for number in range(60):
            rig.send(numbered(number))
        return numbers(rig.sent())

    first = run(11)
    assert run(11) == first
    assert run(12) != first


def test_duplicates_follow_their_original_and_are_counted(rig):
    rig.set_wire(duplicate=CHANCE // 4, random=5)
    for number in range(200):
        rig.send(numbered(number))
    arrived = numbers(rig.sent())
    counted = rig.counted()["wire_duplicated"]
    assert sorted(set(arrived)) == list(range(200))
    assert arrived == sorted(arrived)
    assert len(arrived) - 200 == counted
    assert counted == pytest.approx(50, rel=0.4)


def test_everything_twice(rig):
    rig.set_wire(duplicate=CHANCE)
    rig.send(FRAME, count=3)
    assert rig.received(1) == [FRAME] * 6


def test_reordered_frames_overtake_those_that_are_delayed(rig):
    rig.set_wire(delay_ns=10 * MS, reorder=CHANCE // 4, random=9)
    for number in range(100):
        rig.send(numbered(number))
    early = numbers(rig.received(1))
    assert len(early) == rig.counted()["wire_reordered"]
    assert 10 < len(early) < 45
    rig.now_ns += 10 * MS
    late = numbers(rig.received(1))
    assert sorted(early + late) == list(range(100))
    assert early == sorted(early)
    assert late == sorted(late)


def test_jitter_reorders_by_release_time(rig):
    rig.set_wire(delay_ns=10 * MS, jitter_ns=10 * MS, random=9)
    for number in range(100):
        rig.send(numbered(number))
        rig.now_ns += MS // 10
    row = rig.t["wires"][0]
    sent = [(release, Ether(frame).seq) for release, frame in peek(rig, row)]
    arrived = []
    for _ in range(400):
        arrived += numbers(rig.received(1))
        rig.now_ns += MS // 10
    assert arrived == [number for _, number in sorted(sent)]
    assert arrived != sorted(arrived)


def peek(rig, row):
    """What stands on the wire, without giving the slots back."""
    before = rig.word(int(row["tx_cursors"]) + 128)
    frames = rig.sent_with_times()
    rig.set_word(int(row["tx_cursors"]) + 128, before)
    return frames


def test_settings_may_go_back_and_forth_while_frames_are_on_the_way(rig):
    sent = 0
    arrived = []
    for settings in (
        {"delay_ns": 3 * MS, "jitter_ns": 3 * MS},
        {},
        {"reorder": CHANCE // 2, "delay_ns": MS},
        {},
    ) * 3:
        rig.set_wire(**settings)
        for _ in range(20):
            rig.send(numbered(sent))
            sent += 1
        arrived += numbers(rig.received(1))
        rig.now_ns += MS
    for _ in range(10):
        rig.now_ns += MS
        arrived += numbers(rig.received(1))
    assert sorted(arrived) == list(range(sent))


def test_the_queue_limit_counts_frames_whose_turn_has_not_come(rig):
    rig.set_wire(rate=125e6, queue_limit=10)
    rig.send(FRAME, count=15)
    assert len(rig.sent()) == 10
    assert rig.counted() == {"wire_queue": 5}
    rig.now_ns += 3 * 8_000
    rig.send(FRAME, count=5)
    assert rig.counted() == {"wire_queue": 2}


@pytest.mark.parametrize("more", [{"jitter_ns": 40_000}, {"reorder": CHANCE // 2}], ids=str)
def test_the_queue_limit_does_not_depend_on_delay_and_jitter(rig, more):
    rig.set_wire(rate=125e6, queue_limit=10, delay_ns=50_000, **more)
    rig.send(FRAME, count=15)
    assert rig.counted()["wire_queue"] == 5


def test_delay_alone_fills_no_queue(rig):
    rig.set_wire(delay_ns=MS, queue_limit=1)
    rig.send(FRAME, count=20)
    assert len(rig.sent()) == 20


@pytest.mark.parametrize(
    ("version", "ecn", "marked"), [(4, 1, 3), (4, 2, 3), (6, 1, 3), (6, 2, 3), (4, 3, 3)]
)
def test_frames_that_join_a_long_queue_are_marked(rig, version, ecn, marked):
    rig.set_wire(rate=125e6, ecn_threshold=2)
    field = "tos" if version == 4 else "tc"
    rig.send(tcp_segment(946, version=version, ip={field: 0xB8 | ecn}), count=4)
    frames = rig.sent()
    layer = IP if version == 4 else IPv6
    assert [getattr(Ether(frame)[layer], field) & 3 for frame in frames] == [ecn, ecn, marked, marked]
    assert all(getattr(Ether(frame)[layer], field) >> 2 == 0x2E for frame in frames)
    assert all(checksums_right(frame) for frame in frames)
    assert rig.counted().get("wire_marked", 0) == (0 if ecn == 3 else 2)


def test_frames_without_ecn_are_not_marked(rig):
    rig.set_wire(rate=125e6, ecn_threshold=1)
    rig.send(FRAME, count=4)
    assert rig.sent() == [FRAME] * 4
    assert rig.counted() == {}


def test_a_tagged_frame_is_marked_too(rig):
    rig.set_wire(rate=125e6, ecn_threshold=1)
    frame = Ether(tcp_segment(100, ip={"tos": 2}))
    tagged = bytes(Ether(src=frame.src, dst=frame.dst) / Dot1Q(vlan=5) / frame.payload)
    rig.send(tagged, count=3)
    assert [Ether(frame)[IP].tos for frame in rig.sent()] == [2, 3, 3]


def test_late_delivery_is_counted(rig):
    rig.set_wire(delay_ns=MS)
    rig.send(FRAME)
    rig.now_ns += 3 * MS
    assert rig.received(1) == [FRAME]
    late = {"wire_inexact": 1, "wire_late": 1, "wire_lateness_ns": 2 * MS}
    assert rig.counted() == {"wire_timed": 1, **late}


@pytest.mark.parametrize(
    "settings",
    [{"delay_ns": MS}, {"rate": 1e6}, {"delay_ns": MS, "jitter_ns": MS}],
    ids=str,
)
@pytest.mark.parametrize(
    ("late_ns", "names"),
    [
        (0, []),
        (50_000, []),
        (50_001, ["wire_inexact"]),
        (MS, ["wire_inexact"]),
        (MS + 1, ["wire_inexact", "wire_late"]),
    ],
)
def test_by_how_much_a_frame_leaves_late_is_counted(rig, settings, late_ns, names):
    """So that the median is known to be over 50 us when more than half of the frames are inexact."""
    rig.set_wire(**settings)
    rig.send(FRAME)
    ((release_ns, _),) = peek(rig, rig.t["wires"][0])
    rig.now_ns = release_ns + late_ns
    assert rig.received(1) == [FRAME]
    late = {"wire_lateness_ns": late_ns} if late_ns else {}
    assert rig.counted() == {"wire_timed": 1, **late, **dict.fromkeys(names, 1)}


@pytest.mark.parametrize(
    "settings", [{}, {"loss": 1}, {"duplicate": 1}, {"reorder": 1}, {"ecn_threshold": 1}], ids=str
)
def test_frames_of_a_wire_without_rate_and_delay_have_no_time_to_miss(rig, settings):
    rig.set_wire(**settings)
    rig.send(FRAME)
    rig.now_ns += 5 * MS
    assert rig.received(1) == [FRAME]
    assert rig.counted() == {}


def test_what_becomes_due_during_a_pass_leaves_in_it(rig):
    """A frame waits for the stages in front of its wire only, not for the next pass."""
    rig.t["clocked"] = 1
    rig.now_ns = time.monotonic_ns()
    rig.set_wire(delay_ns=20 * MS)
    rig.send(FRAME)
    rig.now_ns = time.monotonic_ns()
    time.sleep(0.021)
    assert rig.received(1) == [FRAME]
    counted = rig.counted()
    assert counted["wire_timed"] == 1
    assert counted["wire_lateness_ns"] > 0


def test_the_payload_survives_every_impairment_at_once(rig):
    rig.set_wire(
        rate=1e8, delay_ns=MS, jitter_ns=MS // 2, loss=CHANCE // 20, duplicate=CHANCE // 20,
        reorder=CHANCE // 20, random=4,
    )  # fmt: skip
    sent = {}
    for number in range(150):
        frame = tcp_segment(10 + number * 7, number * 10_000, seed=number)
        sent[number * 10_000] = frame
        rig.send(frame)
    arrived = []
    for _ in range(60):
        rig.now_ns += MS // 10
        arrived += rig.received(1)
    assert all(frame == sent[Ether(frame).seq] for frame in arrived)
    assert sum(len(payload_of(frame)) > 0 for frame in arrived) == len(arrived)
    counted = rig.counted()
    assert len(arrived) == 150 - counted["wire_loss"] + counted["wire_duplicated"]


def test_settings_after_billions_of_frames_are_taken_over_at_once(rig):
    """A wire without impairments keeps no account of a queue, and has none."""
    row = rig.t["wires"][0]
    number = 2**40
    row["tx_head"] = row["tx_clean"] = row["tx_published"] = number
    row["queue_head"] = 0
    rig.set_wire(rate=125e6, queue_limit=2)
    rig.send(FRAME, count=3)
    assert rig.counted() == {"wire_queue": 1}
