# SPDX-License-Identifier: Apache-2.0
"""Who used the CPU: a run is ours, others' or the hypervisor's."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from experiments import cpu
from experiments.cpu import CpuSnapshot, ProcessTimes, descendants, parse_stat, use_between

HARNESS = 100
SECOND = cpu.TICKS_PER_SECOND


def machine(busy=0, interrupts=0, steal=0, **ticks):
    """Init, our harness (100) and its child (101), a stranger (200), and a kernel thread (3)."""
    own = {"init": 0, "harness": 0, "child": 0, "stranger": 0, "kthread": 0, "stranger_reaped": 0, **ticks}
    processes = {
        1: ProcessTimes(0, own["init"], 0),
        2: ProcessTimes(0, 0, 0),
        3: ProcessTimes(2, own["kthread"], 0),
        HARNESS: ProcessTimes(1, own["harness"], 0),
        101: ProcessTimes(HARNESS, own["child"], 0),
        200: ProcessTimes(1, own["stranger"], own["stranger_reaped"]),
    }
    return CpuSnapshot(processes, busy, interrupts, steal)


def test_our_own_tree_and_kernel_threads_are_not_others():
    after = machine(busy=2 * SECOND, harness=SECOND, child=SECOND, kthread=SECOND)
    use = use_between(machine(), after, 1.0, HARNESS)
    assert use.total == pytest.approx(2)
    assert use.disturbance == 0


def test_a_stranger_is_others():
    after = machine(busy=SECOND // 5, stranger=SECOND // 5)
    assert use_between(machine(), after, 1.0, HARNESS).others == pytest.approx(0.2)


def test_a_strangers_ended_children_count():
    """A compiler's many short processes are in their parent's account when they have ended."""
    after = machine(busy=SECOND, stranger_reaped=SECOND)
    assert use_between(machine(), after, 1.0, HARNESS).others == pytest.approx(1)


def test_what_no_process_shows_is_others_beyond_the_noise_of_sampling():
    hidden = use_between(machine(), machine(busy=SECOND), 1.0, HARNESS)
    assert hidden.others == pytest.approx(1 - cpu.HIDDEN_NOISE)
    assert use_between(machine(), machine(busy=int(0.04 * SECOND)), 1.0, HARNESS).others == 0


def test_stolen_time_is_told_apart():
    use = use_between(machine(), machine(steal=SECOND // 2), 1.0, HARNESS)
    assert (use.others, use.stolen) == (0, 0.5)
    assert use.disturbance == 0.5


def test_descendants_of_a_tree():
    assert descendants(machine(), HARNESS) == {HARNESS, 101}


def test_a_name_may_hold_anything():
    stat = "7 (a) b (c)) S 5 " + " ".join(str(n) for n in range(5, 53))
    fields = stat.rpartition(")")[2].split()
    assert parse_stat(stat) == ProcessTimes(
        5, int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    )


def test_a_real_child_that_burns_is_ours_and_not_others():
    before, began = cpu.snapshot(), time.monotonic()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"], check=True)
    after, elapsed = cpu.snapshot(), time.monotonic() - began
    assert use_between(before, after, elapsed, os.getpid()).total * elapsed > 0.4
    assert use_between(before, after, elapsed, root_pid=1 << 30).others * elapsed > 0.4
