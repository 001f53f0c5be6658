# SPDX-License-Identifier: Apache-2.0
"""Attaching to a wire: file and FIFOs, who holds which end, restarts, and what is refused."""

from __future__ import annotations

import errno
import os
import select
import stat
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vswitch import layout, wire_memory
from vswitch.dataplane.memory import Memory
from vswitch.dataplane.ports import wire_file
from vswitch.dataplane.ports.wire_file import EPOCH, WireEnd
from vswitch.errors import ConfigError
from vswitch.mailbox import post
from vswitch.wire_memory import data_size, make_wires, slots_to_try, wire_size


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "wire")


@pytest.fixture
def attach(path):
    ends = []

    def make(end="", mtu=1500, path=path):
        ends.append(WireEnd(path, mtu, end, "port 2"))
        return ends[-1]

    yield make
    for end in ends:
        try:
            end.close()
        except OSError:
            pass  # closed by the test


def mapped(end, pool_fd=-1):
    memory = Memory()
    row = np.zeros(1, layout.wire_dtype)[0]
    end.map(memory, row, pool_fd)
    return row


def test_whoever_comes_takes_a_free_end(attach):
    assert [attach().side, attach().side] == [0, 1]


def test_an_end_may_be_asked_for(attach):
    assert [attach("b").side, attach("a").side] == [1, 0]


def test_a_third_switch_is_refused(attach, path):
    attach(), attach()
    with pytest.raises(ConfigError) as error:
        attach()
    assert str(error.value) == f"port 2: both ends of the wire {path} are held by another switch"


def test_an_end_that_is_held_is_refused(attach, path):
    attach("a")
    with pytest.raises(ConfigError) as error:
        attach("a")
    assert str(error.value) == f"port 2: end a of the wire {path} is held by another switch"
    assert attach().side == 1


def test_the_other_end_gave_another_mtu(attach):
    attach(mtu=1500)
    with pytest.raises(ConfigError) as error:
        attach(mtu=9000)
    assert str(error.value) == "port 2: the other end gave the wire the MTU 1500 (allowed: the same MTU)"


@pytest.mark.parametrize("content", [b"x", b"something else entirely, and longer than the header is" * 9])
def test_a_file_that_is_no_wire_is_left_alone(attach, path, content):
    with open(path, "wb") as file:
        file.write(content)
    with pytest.raises(ConfigError) as error:
        attach()
    assert str(error.value) == f"port 2: {path} is a file, but not a wire's (allowed: an unused path)"
    with open(path, "rb") as file:
        assert file.read() == content


def test_a_fifos_path_that_is_another_file_is_refused(attach, path):
    with open(f"{path}.a", "w"):
        pass
    with pytest.raises(ConfigError) as error:
        attach()
    assert str(error.value) == f"port 2: {path}.a is a file, but not a FIFO (allowed: an unused path)"
    os.unlink(f"{path}.a")
    assert attach().side == 0


def test_a_path_that_cannot_be_opened(attach, tmp_path):
    with pytest.raises(ConfigError) as error:
        attach(path=str(tmp_path / "missing" / "wire"))
    assert str(error.value).startswith("port 2: cannot open the wire ")
    assert str(error.value).endswith("No such file or directory")


def test_fifos_wake_the_other_end(attach, path):
    one, other = attach(), attach()
    assert all(stat.S_ISFIFO(os.stat(f"{path}.{end}").st_mode) for end in "ab")
    os.write(one.kick_fd, b"!")
    assert os.read(other.wake_fd, 9) == b"!"
    with pytest.raises(BlockingIOError):
        os.read(one.wake_fd, 9)


def test_an_end_is_free_again_when_its_holder_closes_it(attach):
    one, other = attach("a"), attach("b")
    assert one.peer_alive()
    other.close()
    assert not one.peer_alive()
    assert attach("b").peer_alive()


def test_each_life_of_an_end_has_its_own_number(attach):
    one, other = attach("a"), attach("b")
    mapped(one)
    mapped(other)
    assert (one.epoch, other.peer_epoch()) == (1, 1)
    one.close()
    again = attach("a", mtu=1500)
    mapped(again)
    assert (again.epoch, other.peer_epoch()) == (2, 2)


def test_the_wire_is_made_again_when_its_file_was_removed(attach, path):
    attach("a").close()
    for name in (path, f"{path}.a", f"{path}.b"):
        os.unlink(name)
    assert attach("a").side == 0
    assert os.path.getsize(path) == wire_size(1500, layout.WIRE_SLOTS)


def test_what_we_send_is_what_the_other_receives(attach):
    one, other = mapped(attach("a")), mapped(attach("b"))
    base = one["tx_cursors"] - layout.CURSOR_PAGE
    places = [name for name in layout.wire_dtype.names if name[:3] in ("tx_", "rx_")]
    for kind in ("cursors", "slots", "data"):
        assert {f"tx_{kind}", f"rx_{kind}"} <= set(places)
        assert one[f"tx_{kind}"] - base == other[f"rx_{kind}"] - (other["rx_cursors"] - layout.CURSOR_PAGE)
        assert one[f"rx_{kind}"] != one[f"tx_{kind}"]


@pytest.fixture
def pools():
    """Makes memory that may be handed over."""
    made = []

    def make(size):
        made.append(os.memfd_create("pool"))
        os.ftruncate(made[-1], size)
        return made[-1]

    yield make
    for fd in made:
        os.close(fd)


def taken(end):
    """Size and inode of the pool that the other end's life of now has given us."""
    end.exchange_pools()
    found = end.take_peer_pool(end.peer_epoch())
    if found is None:
        return None
    fd, size = found
    inode = os.fstat(fd).st_ino
    os.close(fd)
    return size, inode


@pytest.mark.parametrize("first", ["a", "b"])
def test_each_end_is_given_the_others_pool(attach, pools, first):
    """Whichever comes first: neither opens it by itself, which needs as many privileges as its owner has."""
    one, other = attach(first), attach()
    pool, others_pool = pools(8192), pools(4096)
    mapped(one, pool)
    mapped(other, others_pool)
    assert taken(other) == (8192, os.fstat(pool).st_ino)
    assert taken(one) == (4096, os.fstat(others_pool).st_ino)
    assert taken(one) is None  # once
    assert not one.our_pool_is_mapped()
    other.confirm_peer_pool(other.peer_epoch())
    assert one.our_pool_is_mapped()


def test_an_end_that_comes_back_gets_and_gives_pools_anew(attach, pools):
    one, other = attach("a"), attach("b")
    mapped(one, pools(8192)), mapped(other, pools(4096))
    assert (taken(one)[0], taken(other)[0]) == (4096, 8192)
    other.close()
    one.exchange_pools()  # to nobody
    again = attach("b")
    mapped(again, pools(12288))
    assert taken(one)[0] == 12288
    assert taken(again)[0] == 8192


def test_a_pool_of_another_life_is_not_taken(attach, pools):
    """It came before the end went and came back, or its owner has written of its new life too late."""
    one, other = attach("a"), attach("b")
    mapped(one, pools(8192)), mapped(other, pools(4096))
    other.close()
    again = attach("b")
    epoch = one.peer_epoch()
    mapped(again, pools(12288))
    assert one.take_peer_pool(epoch + 2) is None
    assert taken(one)[0] == 12288


def test_mail_wakes_and_is_taken_in_at_each_look(attach, pools):
    """Also while nobody wants it: a descriptor that stays readable would keep the agent awake."""
    one, other = attach("a"), attach("b")
    mapped(one, pools(8192))
    one.exchange_pools()
    assert not select.select([one.mail_fd], [], [], 0)[0]
    mapped(other, pools(4096))
    assert select.select([one.mail_fd], [], [], 0)[0]
    one.exchange_pools()
    assert not select.select([one.mail_fd], [], [], 0)[0]
    for end in (other, one, other, one):
        end.exchange_pools()
    for end in (one, other):
        assert not select.select([end.mail_fd], [], [], 0)[0]  # each has what it needs, and gets no more


def test_no_pool_is_kept_beyond_its_owner(attach, pools):
    """Neither one that came twice, nor that of a life which ended before it was looked at."""
    one, other = attach("a"), attach("b")
    mapped(one, pools(8192)), mapped(other, pools(4096))
    pool = pools(4096)
    assert taken(one)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        assert post(one._mailbox_path(0), EPOCH.pack(other.epoch), pool)
        one.exchange_pools()
        assert len(os.listdir("/proc/self/fd")) == before
    for life in range(1, 4):
        assert post(one._mailbox_path(0), EPOCH.pack(other.epoch + life), pool)
        one.exchange_pools()
        assert len(os.listdir("/proc/self/fd")) == before + 1


# Memory


@pytest.fixture
def room(monkeypatch):
    """Makes the file system one that has so many bytes free."""

    def make(free: int) -> None:
        real = os.posix_fallocate

        def fallocate(fd: int, offset: int, length: int) -> None:
            if length > free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(fd, offset, length)

        monkeypatch.setattr(os, "posix_fallocate", fallocate)
        monkeypatch.setattr(wire_memory, "free_bytes", lambda place: free)
        monkeypatch.setattr(wire_file, "free_bytes", lambda place: free)

    return make


def test_a_wires_file_has_all_of_its_memory(attach, path):
    attach()
    state = os.stat(path)
    assert state.st_blocks * 512 >= state.st_size == wire_size(1500, layout.WIRE_SLOTS)


@pytest.mark.parametrize("slots", [4096, 2048, 1024])
def test_a_wire_leaves_half_of_the_memory_to_others_where_it_can(attach, room, slots):
    room(2 * wire_size(1500, slots))
    one, other = attach("a"), attach("b")
    assert (one.slots, other.slots) == (slots, slots)
    rows = mapped(one), mapped(other)
    assert [row["slots"] for row in rows] == [slots, slots]


def test_the_fewest_slots_may_take_all_there_is(attach, room):
    room(wire_size(1500, 1024))
    assert attach().slots == 1024


def test_whoever_comes_second_takes_the_slots_that_there_are(attach, room, path):
    assert attach("a").slots == 4096
    room(wire_size(1500, 4096))
    assert attach("b").slots == 4096


def test_a_wire_without_memory_is_refused(attach, room, path):
    room(wire_size(1500, 1024) - 1)
    with pytest.raises(ConfigError) as error:
        attach()
    assert str(error.value).startswith(
        f"port 2: the wire {path} takes 3.8 MB even with the fewest slots, 1024, and "
    )
    assert str(error.value).endswith(
        "are free there (allowed: more memory there, a smaller mtu, or another path)"
    )
    assert os.path.getsize(path) == 0


def test_a_hole_in_a_wires_file_is_filled(attach, path):
    """As in the file of somebody who only set its size."""
    attach("a").close()
    with open(path, "r+b") as file:
        file.truncate(layout.CURSOR_PAGE)
        file.truncate(wire_size(1500, layout.WIRE_SLOTS))
    attach("a")
    assert os.stat(path).st_blocks * 512 >= wire_size(1500, layout.WIRE_SLOTS)


@pytest.mark.parametrize("slots", [0, 1, 512, 1000, 4095, 8192, 2**63])
def test_a_file_with_impossible_slots_is_no_wire(attach, path, slots):
    attach("a").close()
    with open(path, "r+b") as file:
        file.write(struct.pack("<QQ", layout.WIRE_MAGIC, slots))
    with pytest.raises(ConfigError, match="is a file, but not a wire's"):
        attach("a")


@settings(max_examples=30)
@given(
    mtus=st.lists(st.sampled_from([68, 1500, 9216]), min_size=1, max_size=20), free=st.integers(0, 1 << 30)
)
def test_more_slots_are_taken_as_long_as_half_stays_free(mtus, free):
    choices = list(slots_to_try(mtus, free))
    assert choices == sorted(choices, reverse=True)
    assert choices[-1] == layout.MIN_WIRE_SLOTS
    for slots in choices[:-1]:
        assert sum(wire_size(mtu, slots) for mtu in mtus) <= free / 2


def test_wires_that_are_made_together_are_made_all_or_none(tmp_path):
    paths = [tmp_path / name for name in ("one", "two", "three")]
    paths[2].touch()
    with pytest.raises(FileExistsError):
        make_wires(dict.fromkeys(paths, 1500))
    assert list(tmp_path.iterdir()) == [paths[2]]


@pytest.mark.parametrize("mtu", [68, 1500, 2026, 2027, 9000, 9216])
def test_a_data_area_has_room_for_tags_and_shims(mtu):
    assert data_size(mtu) >= mtu + 14 + layout.SHIM_ROOM
    assert data_size(mtu) % 64 == 0
