# SPDX-License-Identifier: Apache-2.0
"""One address range for all packet bytes: what stages name by an offset in `mem`.

Each worker has a view of it: a range of its own in which the same regions stand at the same offsets, but for
the control region, whose place is taken by the worker's own.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from vswitch.errors import VSwitchError

RESERVED = 1 << 36
"""Bytes of address space; what is not mapped costs nothing."""
PROT_NONE = 0
MAP_FIXED, MAP_NORESERVE = 0x10, 0x4000

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
]
_FAILED = ctypes.c_void_p(-1).value


class Memory:
    """A reserved address range, into which regions are mapped one behind the other, seen from `views`.

    views: the whole range as bytes, as each worker sees it; only mapped regions may be touched. array: the
    first of them.
    """

    def __init__(self, views: int = 1) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        self._bases: list[int] = []
        try:
            for _ in range(views):
                self._bases.append(self._mmap(None, RESERVED, PROT_NONE, flags, -1))
        except VSwitchError:
            self.close()
            raise
        self.views = tuple(
            np.ctypeslib.as_array((ctypes.c_uint8 * RESERVED).from_address(base)) for base in self._bases
        )
        self.array = self.views[0]
        self._next = 0

    def map_private(self, size: int) -> int:
        """Zeroed memory of this process alone; its offset."""
        if len(self.views) == 1:
            return self._map(self._take(size), size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
        with _memory_file() as fd:
            return self.map_file(fd, size)

    def map_each(self, size: int) -> tuple[int, int]:
        """Zeroed memory for each view, of which it sees its own at the first of the offsets that are
        returned, and all, one behind the other, at the second. `size`: a multiple of the page size."""
        with _memory_file() as fd:
            own = self._take(size)
            all_of_them = self.map_file(fd, size * len(self.views))
            for number, base in enumerate(self._bases):
                self._map_at(base + own, size, mmap.MAP_SHARED, fd, number * size)
            return own, all_of_them

    def map_file(self, fd: int, size: int) -> int:
        """The first `size` bytes of a file, shared with whoever maps it too; the offset.

        The file has them all from then on: whoever touches a page without memory behind it dies (SIGBUS).
        """
        offset = self._take(size)
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            raise VSwitchError(f"cannot map {size} bytes of memory: {error.strerror}") from None
        return self._map(offset, size, mmap.MAP_SHARED, fd)

    def map_device(self, fd: int, size: int) -> int:
        """Memory of the kernel's, as a packet socket's ring; the offset."""
        return self._map(self._take(size), size, mmap.MAP_SHARED, fd)

    def unmap(self, offset: int, size: int) -> None:
        """Give a region's memory back; its addresses are not used again."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED
        for base in self._bases:
            self._mmap(base + offset, _pages(size), PROT_NONE, flags, -1)

    def words(self, offset: int, count: int = 1) -> np.ndarray:
        """`count` int64 at `offset`, as a view."""
        return self.array[offset : offset + 8 * count].view(np.int64)

    def write(self, offset: int, data: bytes) -> None:
        self.array[offset : offset + len(data)] = np.frombuffer(data, np.uint8)

    def read(self, offset: int, length: int) -> bytes:
        return self.array[offset : offset + length].tobytes()

    def close(self) -> None:
        """Unmap everything; no view may be used any more."""
        for base in self._bases:
            _LIBC.munmap(ctypes.c_void_p(base), ctypes.c_size_t(RESERVED))

    def _map(self, offset: int, size: int, flags: int, fd: int) -> int:
        for base in self._bases:
            self._map_at(base + offset, size, flags, fd)
        return offset

    def _take(self, size: int) -> int:
        """The next addresses for a region; behind the range are other people's mappings."""
        offset = self._next
        if _pages(size) > RESERVED - offset:
            raise VSwitchError(f"cannot map {size} bytes of memory: {RESERVED - offset} addresses are left")
        self._next += _pages(size)
        return offset

    def _map_at(self, address: int, size: int, flags: int, fd: int, start: int = 0) -> None:
        self._mmap(address, _pages(size), mmap.PROT_READ | mmap.PROT_WRITE, flags | MAP_FIXED, fd, start)

    @staticmethod
    def _mmap(address: int | None, size: int, protection: int, flags: int, fd: int, start: int = 0) -> int:
        result = _LIBC.mmap(address, size, protection, flags, fd, start)
        if result == _FAILED:
            number = ctypes.get_errno()
            raise VSwitchError(f"cannot map {size} bytes of memory: {os.strerror(number)}")
        return result


@contextmanager
def _memory_file() -> Iterator[int]:
    """An empty file in memory, to be mapped: its descriptor."""
    fd = os.memfd_create("vswitch", os.MFD_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
