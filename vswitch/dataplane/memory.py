# SPDX-License-Identifier: Apache-2.0
"""One address range for all packet bytes: what stages name by an offset in `mem`."""

from __future__ import annotations

import ctypes
import mmap
import os

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
    """A reserved address range, into which regions are mapped one behind the other.

    array: the whole range as bytes; only mapped regions may be touched.
    """

    def __init__(self) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        self._base = self._mmap(None, RESERVED, PROT_NONE, flags, -1)
        self.array = np.ctypeslib.as_array((ctypes.c_uint8 * RESERVED).from_address(self._base))
        self._next = 0

    def map_private(self, size: int) -> int:
        """Zeroed memory of this process alone; its offset."""
        return self._map(size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)

    def map_file(self, fd: int, size: int) -> int:
        """The first `size` bytes of a file, shared with whoever maps it too; the offset."""
        return self._map(size, mmap.MAP_SHARED, fd)

    def unmap(self, offset: int, size: int) -> None:
        """Give a region's memory back; its addresses are not used again."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED
        self._mmap(self._base + offset, _pages(size), PROT_NONE, flags, -1)

    def words(self, offset: int, count: int = 1) -> np.ndarray:
        """`count` int64 at `offset`, as a view."""
        return self.array[offset : offset + 8 * count].view(np.int64)

    def write(self, offset: int, data: bytes) -> None:
        self.array[offset : offset + len(data)] = np.frombuffer(data, np.uint8)

    def read(self, offset: int, length: int) -> bytes:
        return self.array[offset : offset + length].tobytes()

    def close(self) -> None:
        """Unmap everything; `array` must not be used any more."""
        _LIBC.munmap(ctypes.c_void_p(self._base), ctypes.c_size_t(RESERVED))

    def _map(self, size: int, flags: int, fd: int) -> int:
        offset = self._next
        self._next += _pages(size)
        self._mmap(self._base + offset, _pages(size), mmap.PROT_READ | mmap.PROT_WRITE, flags | MAP_FIXED, fd)
        return offset

    @staticmethod
    def _mmap(address: int | None, size: int, protection: int, flags: int, fd: int) -> int:
        result = _LIBC.mmap(address, size, protection, flags, fd, 0)
        if result == _FAILED:
            number = ctypes.get_errno()
            raise VSwitchError(f"cannot map {size} bytes of memory: {os.strerror(number)}")
        return result


def _pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
