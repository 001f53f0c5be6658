# SPDX-License-Identifier: Apache-2.0
"""The memory of wires: how much each takes, how many slots there is room for, and taking it.

Whoever touches a mapped page that the file system has no room for dies (SIGBUS). So all of a wire's memory is
taken when its file is made: by a lab for its wires together, or by the switch that comes first.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from vswitch import layout

ENDS = "ab"
"""Of the two switches on a wire; beside its file stand a FIFO and a mailbox for each."""
HEADER = struct.Struct("<QQQQ")  # magic, slots of each direction, bytes of a data area, MTU
SLOTS = (layout.WIRE_SLOTS, layout.WIRE_SLOTS // 2, layout.MIN_WIRE_SLOTS)
"""How many slots a wire may have in each direction."""


def data_size(mtu: int) -> int:
    """Bytes of a slot's data area on a wire of this MTU: a frame with tags and shims, in cache lines."""
    return -(-(mtu + 14 + layout.SHIM_ROOM) // 64) * 64


def wire_size(mtu: int, slots: int) -> int:
    """Bytes of a wire's file."""
    return 3 * layout.CURSOR_PAGE + 2 * slots * (layout.SLOT_SIZE + data_size(mtu))


def allocate(fd: int, mtu: int, slots: int) -> None:
    """Make an empty file a wire's. Raises OSError, and leaves it empty, when there is no room for it."""
    os.posix_fallocate(fd, 0, wire_size(mtu, slots))
    os.pwrite(fd, HEADER.pack(layout.WIRE_MAGIC, slots, data_size(mtu), mtu), 0)


def free_bytes(place: Path | int) -> int:
    """What is free on the file system of a path or descriptor."""
    room = os.statvfs(place)
    return room.f_bavail * room.f_frsize if room.f_blocks else sys.maxsize  # a tmpfs without a limit


def slots_to_try(mtus: Collection[int], free: int) -> Iterator[int]:
    """Slots for new wires of these MTUs: the most with which half of the free memory stays free for others,
    then fewer."""
    for slots in SLOTS:
        if slots == SLOTS[-1] or 2 * sum(wire_size(mtu, slots) for mtu in mtus) <= free:
            yield slots


def make_wires(mtus: Mapping[Path, int]) -> int:
    """Make the files of wires, by path and MTU, in one folder; how many slots they have.

    Raises OSError, and then there is none of them: ENOSPC when not even the fewest slots fit.
    """
    free = free_bytes(next(iter(mtus)).parent)
    for slots in slots_to_try(mtus.values(), free):
        made: list[Path] = []
        try:
            for path, mtu in mtus.items():
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                made.append(path)
                try:
                    allocate(fd, mtu, slots)
                finally:
                    os.close(fd)
            return slots
        except OSError as error:
            for path in made:
                path.unlink()
            if error.errno != errno.ENOSPC or slots == SLOTS[-1]:
                raise
    raise AssertionError("slots_to_try() ends with the fewest")


def least(mtus: Collection[int]) -> str:
    """What wires of these MTUs take at least, in words."""
    need = megabytes(sum(wire_size(mtu, SLOTS[-1]) for mtu in mtus))
    return f"{need} even with the fewest slots, {SLOTS[-1]}{' each' * (len(mtus) > 1)}"


def has(place: Path | int) -> str:
    """What is free on a file system, and of how much."""
    room = os.statvfs(place)
    return f"{megabytes(free_bytes(place))} of {megabytes(room.f_blocks * room.f_frsize)} are free"


def megabytes(size: int) -> str:
    """As people read it."""
    return f"{size / 1e6:,.1f} MB"
