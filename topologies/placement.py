# SPDX-License-Identifier: Apache-2.0
"""Which cores an emulated server has: its switch's workers and the processes of its VMs run there.

A packet's bytes are in the caches of the core that handled them last. So what belongs to a server shares its
cores, and servers share none as long as the machine has enough.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

PROCESSORS = Path("/sys/devices/system/cpu")


def physical_cores(processors: Path = PROCESSORS) -> list[tuple[int, ...]]:
    """The physical cores that we may use, each as the numbers of its hardware threads."""
    cores: dict[str, list[int]] = {}
    for number in sorted(os.sched_getaffinity(0)):
        cores.setdefault(_siblings(processors, number), []).append(number)
    return [tuple(threads) for threads in cores.values()]


def _siblings(processors: Path, number: int) -> str:
    """The hardware threads of one's physical core, in the kernel's words; itself where it does not tell."""
    try:
        return (processors / f"cpu{number}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(number)


def deal(
    workers: Sequence[int],
    machine: Sequence[tuple[int, ...]],
    servers: int = 0,
    taken: Mapping[int, int] | None = None,
) -> list[tuple[int, ...]]:
    """The cores of each server, in the order in which its workers take them.

    Each has the same number of physical cores, or with more servers than cores one hardware thread in turn;
    but no fewer than its switch has workers, if the machine has so many: then some are shared.

    workers: of each server's switch. machine: as physical_cores() gives it. servers: how many share the
    machine, by default these. taken: how many servers have a hardware thread already; the least taken are
    dealt first.
    """
    load = taken or {}
    share = len(machine) // max(servers, len(workers))
    if share:
        by_load = sorted(machine, key=lambda core: sum(load.get(thread, 0) for thread in core))
        blocks = [_threads(by_load[at : at + share]) for at in range(0, len(by_load), share)]
    else:
        blocks = [[thread] for thread in sorted(_threads(machine), key=lambda thread: load.get(thread, 0))]
    threads = [thread for block in blocks for thread in block]
    dealt = []
    for number, wanted in enumerate(workers):
        block = blocks[number % len(blocks)]
        first, count = threads.index(block[0]), max(len(block), min(wanted, len(threads)))
        dealt.append(tuple(threads[(first + n) % len(threads)] for n in range(count)))
    return dealt


def _threads(cores: Sequence[tuple[int, ...]]) -> list[int]:
    """The hardware threads of some cores: of each the first, then of each the second, and so on."""
    depth = max(len(core) for core in cores)
    return [core[level] for level in range(depth) for core in cores if level < len(core)]
