# SPDX-License-Identifier: Apache-2.0
"""Who used the CPU during a run: us, others, or the hypervisor. Others make a run invalid.

The kernel's per-process times are exact (they come from the scheduler's run time), the totals of /proc/stat
are sampled at each tick. So others are counted process by process: everything but our own process tree and
kernel threads, which work for whoever sends packets. The time of a process that ended is in its parent's
account. Processes outside our PID namespace are not visible; they show as time that is in /proc/stat and in
no process.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
KTHREADD = 2
HIDDEN_NOISE = 0.05  # of a core: what the sampling of /proc/stat can be wrong by


class ProcessTimes(NamedTuple):
    parent: int
    own_ticks: int  # user + system
    reaped_ticks: int  # of the children that ended and were waited for


@dataclass(frozen=True)
class CpuSnapshot:
    """The CPU time of everything so far, in ticks."""

    processes: dict[int, ProcessTimes]
    busy: int  # user + nice + system
    interrupts: int  # irq + softirq
    steal: int


@dataclass(frozen=True)
class CpuUse:
    """CPU used between two snapshots, in cores (CPU seconds per second)."""

    total: float
    others: float
    stolen: float

    @property
    def disturbance(self) -> float:
        """What the run did not get though it might have wanted it."""
        return self.others + self.stolen


def snapshot(proc: Path = Path("/proc")) -> CpuSnapshot:
    """Read the CPU times of all processes and of the machine."""
    processes = {}
    for entry in os.scandir(proc):
        if entry.name.isdigit():
            try:
                stat = (Path(entry.path) / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                continue
            processes[int(entry.name)] = parse_stat(stat)
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, (proc / "stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return CpuSnapshot(processes, user + nice + system, irq + softirq, steal)


def parse_stat(stat: str) -> ProcessTimes:
    """Parent and times from /proc/PID/stat; the process's name may hold spaces and parentheses (proc(5))."""
    fields = stat.rpartition(")")[2].split()
    parent, utime, stime, cutime, cstime = (int(fields[i]) for i in (1, 11, 12, 13, 14))
    return ProcessTimes(parent, utime + stime, cutime + cstime)


def use_between(before: CpuSnapshot, after: CpuSnapshot, elapsed_s: float, root_pid: int) -> CpuUse:
    """CPU use in the `elapsed_s` seconds between two snapshots; ours is the process tree under `root_pid`."""
    ours = descendants(before, root_pid) | descendants(after, root_pid)
    second = TICKS_PER_SECOND * elapsed_s

    def foreign_ticks(state: CpuSnapshot) -> int:
        return sum(
            times.own_ticks + times.reaped_ticks
            for pid, times in state.processes.items()
            if pid not in ours and not is_kernel_thread(pid, times)
        )

    def visible_ticks(state: CpuSnapshot) -> int:
        return sum(times.own_ticks + times.reaped_ticks for times in state.processes.values())

    busy = after.busy - before.busy + after.interrupts - before.interrupts
    others = max(0, foreign_ticks(after) - foreign_ticks(before)) / second
    # Soft interrupts are in a process's time when they interrupt it, so only what exceeds both is surely
    # hidden.
    unseen = after.busy - before.busy - (visible_ticks(after) - visible_ticks(before))
    hidden = max(0.0, unseen / second - HIDDEN_NOISE)
    return CpuUse(busy / second, others + hidden, (after.steal - before.steal) / second)


def is_kernel_thread(pid: int, times: ProcessTimes) -> bool:
    return pid == KTHREADD or times.parent == KTHREADD


def descendants(state: CpuSnapshot, root_pid: int) -> set[int]:
    """`root_pid` and all processes under it."""
    children: dict[int, list[int]] = {}
    for pid, times in state.processes.items():
        children.setdefault(times.parent, []).append(pid)
    found, queue = set(), [root_pid]
    while queue:
        pid = queue.pop()
        found.add(pid)
        queue.extend(children.get(pid, []))
    return found
