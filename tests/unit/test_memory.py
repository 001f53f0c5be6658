# SPDX-License-Identifier: Apache-2.0
"""One address range for all packet bytes: regions, sharing, giving back."""

from __future__ import annotations

import os
import resource

import numpy as np
import pytest

from vswitch.dataplane.memory import RESERVED, Memory
from vswitch.errors import VSwitchError


@pytest.fixture
def memory():
    memory = Memory()
    yield memory
    memory.close()


@pytest.fixture
def fd():
    fd = os.memfd_create("test")
    os.ftruncate(fd, 10_000)
    yield fd
    os.close(fd)


def test_regions_are_zeroed_and_do_not_overlap(memory):
    one, other = memory.map_private(5000), memory.map_private(1)
    assert (one, other) == (0, 8192)
    assert not memory.array[:8193].any()
    memory.write(one + 4990, bytes(range(1, 11)))
    assert memory.read(one + 4990, 10) == bytes(range(1, 11))
    assert not memory.array[other : other + 4096].any()


def test_a_file_is_shared_by_all_who_map_it(memory, fd):
    second = Memory()
    one, other = memory.map_file(fd, 10_000), second.map_file(fd, 10_000)
    memory.write(one + 9990, b"both see it")
    assert second.read(other + 9990, 10) == b"both see i"
    assert os.pread(fd, 10, 9990) == b"both see i"
    second.close()


def test_words_are_views(memory):
    at = memory.map_private(4096)
    words = memory.words(at + 64, 2)
    words[1] = -2
    assert memory.read(at + 72, 8) == np.int64(-2).tobytes()
    assert memory.words(at + 72)[0] == -2


def test_addresses_of_an_unmapped_region_are_not_used_again(memory, fd):
    one = memory.map_file(fd, 10_000)
    memory.unmap(one, 10_000)
    assert memory.map_private(4096) > one


def test_nothing_is_mapped_behind_the_range(memory, fd):
    """As the pool of a wire's other end would be that is larger than a pool."""
    os.ftruncate(fd, RESERVED)
    one = memory.map_private(4096)
    with pytest.raises(VSwitchError, match="addresses are left"):
        memory.map_file(fd, RESERVED)
    assert memory.map_private(4096) == one + 4096


def test_what_cannot_be_mapped_is_one_sentence(memory):
    with pytest.raises(VSwitchError, match=r"^cannot map 100 bytes of memory: Bad file descriptor$"):
        memory.map_file(-1, 100)
    with pytest.raises(VSwitchError, match=r"^cannot map 4096 bytes of memory: Bad file descriptor$"):
        memory.map_device(-1, 100)


def test_a_file_that_is_mapped_has_all_of_its_memory(memory, fd):
    """So nobody who touches it dies for want of some (SIGBUS)."""
    os.ftruncate(fd, 0)
    memory.map_file(fd, 100_000)
    assert os.fstat(fd).st_blocks * 512 >= 100_000


def test_what_several_views_share_has_all_of_its_memory(monkeypatch):
    real, copies = os.memfd_create, []

    def memfd_create(*arguments):
        fd = real(*arguments)
        copies.append(os.dup(fd))
        return fd

    monkeypatch.setattr(os, "memfd_create", memfd_create)
    memory = Memory(3)
    memory.map_private(100_000)
    memory.map_each(1 << 20)
    assert [os.fstat(copy).st_blocks * 512 for copy in copies] == [25 * 4096, 3 << 20]
    for copy in copies:
        os.close(copy)
    memory.close()


def test_memory_that_there_is_not_is_told_before_it_is_touched(memory, fd):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(VSwitchError, match=r"^cannot map 100000 bytes of memory: File too large$"):
            memory.map_file(fd, 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
