# SPDX-License-Identifier: Apache-2.0
"""What the worker's loop does for frames to leave wires in time: when it sleeps, when it looks on."""

from __future__ import annotations

import time

import pytest

from tests.packets import tcp_segment
from tests.unit.rig import Rig
from vswitch.dataplane import worker
from vswitch.dataplane.ports import wire
from vswitch.layout import CURSOR_UNORDERED, TIMESPEC_OFFSET, VNET_HEADER, Op

MS = 1_000_000
FRAME = tcp_segment(100)


@pytest.fixture(params=["in order", "unordered"])
def rig(request):
    """Two wires, whose other ends are the test."""
    with Rig(wires=2) as rig:
        if request.param == "unordered":
            rig.set_word(int(rig.t["wires"][1]["rx_cursors"]) + CURSOR_UNORDERED, 1)
            rig.received(1)
        yield rig


def looks_on(rig):
    """Whether the worker neither sleeps nor lets others run, behind a pass at `now_ns` that found nothing."""
    rig.received(1)  # takes what is due
    return bool(worker._is_due_soon(rig.mem, rig.t, rig.now_ns))


@pytest.mark.parametrize(
    ("due_in_ns", "waits"),
    [(1, True), (worker.EARLY_NS, True), (worker.EARLY_NS + 1, False), (5 * MS, False)],
)
def test_a_worker_looks_on_shortly_before_a_frame_is_due(rig, due_in_ns, waits):
    rig.put(FRAME, 1, release_ns=rig.now_ns + due_in_ns)
    assert looks_on(rig) is waits


def test_an_idle_worker_does_not_look_on(rig):
    assert not looks_on(rig)
    rig.put(FRAME, 1, release_ns=rig.now_ns)
    assert not looks_on(rig)  # it was taken


@pytest.mark.parametrize("release_ns", [0, 1])
def test_a_worker_does_not_look_on_for_what_others_hold_up(rig, release_ns):
    """As another worker whose inbox is full: it needs the core, perhaps."""
    rig.put(FRAME, 1, release_ns=release_ns)
    assert not worker._is_due_soon(rig.mem, rig.t, rig.now_ns)


def test_a_sleep_ends_before_the_frame_is_due(rig):
    due_ns = time.monotonic_ns() + 50 * MS
    rig.put(FRAME, 1, release_ns=due_ns)
    rig.received(1)
    rig.set_word(TIMESPEC_OFFSET, 0)
    before_ns = time.monotonic_ns()
    worker._sleep(rig.mem, rig.t, wire.NEVER)
    asked_ns = rig.word(TIMESPEC_OFFSET) * 1_000_000_000 + rig.word(TIMESPEC_OFFSET + 8)
    assert asked_ns <= max(0, due_ns - worker.EARLY_NS - before_ns)
    assert time.monotonic_ns() >= due_ns - worker.EARLY_NS


def test_what_became_due_goes_before_further_vms():
    """A pass that serves many VMs ends for it, and the next one begins with the VM whose turn it was."""
    with Rig(taps=3, wires=2) as rig:
        for index in (1, 2, 3):
            rig.route(tcp_segment(100, dport=index), index, (Op.OUTPUT, rig.wire_ports[0]))
        rig.route(FRAME, rig.wire_ports[1], (Op.OUTPUT, rig.wire_ports[0]))
        rig.counted()
        rig.now_ns = time.monotonic_ns() - 1000 * MS
        rig.put(FRAME, 1, release_ns=rig.now_ns + 1)

        def vms_send():
            for index, vm in enumerate(rig.vms, 1):
                vm.send(bytes(VNET_HEADER) + tcp_segment(100, dport=index))
                rig.t["ports"][index]["ready"] = 1

        def arrived():
            return [frame if frame == FRAME else int.from_bytes(frame[36:38], "big") for frame in rig.sent(0)]

        vms_send()
        rig.step()
        assert arrived() == [1]
        rig.now_ns += 1
        rig.step()
        assert arrived() == [FRAME, 2, 3]
        rig.put(FRAME, 1, release_ns=rig.now_ns + 1)
        vms_send()
        rig.step()
        assert arrived() == [2]
        rig.step()
        assert arrived() == [3]
