# SPDX-License-Identifier: Apache-2.0
"""Open files that one process hands to another."""

from __future__ import annotations

import os
import socket
import stat

import pytest

from vswitch.mailbox import MAX_KEPT, MAX_LABEL, Mailbox, mailbox_of, post


@pytest.fixture
def mailbox(tmp_path):
    opened = Mailbox(tmp_path / "s1.files")
    yield opened
    opened.close()


@pytest.fixture
def files():
    """Makes files; told apart by their inodes."""
    made = []

    def make():
        made.append(os.memfd_create("file"))
        return made[-1]

    yield make
    for descriptor in made:
        os.close(descriptor)


def inode(descriptor):
    return os.fstat(descriptor).st_ino


def opened_here():
    return len(os.listdir("/proc/self/fd"))


def test_the_last_file_of_a_label_is_taken_once(mailbox, files):
    first, second, other = files(), files(), files()
    for label, file in ((b"a", first), (b"b", other), (b"a", second)):
        assert post(mailbox.path, label, file)
    taken = mailbox.take(b"a")
    assert inode(taken) == inode(second)
    assert not os.get_inheritable(taken)
    assert mailbox.take(b"a") is None
    os.close(taken)
    taken = mailbox.take(b"b")
    assert inode(taken) == inode(other)
    os.close(taken)


def test_what_nobody_takes_is_closed(mailbox, files):
    before = opened_here()
    for number in range(3 * MAX_KEPT):
        file = os.memfd_create("file")
        assert post(mailbox.path, b"%d" % number, file)
        os.close(file)
        mailbox.collect()
    assert opened_here() == before + MAX_KEPT
    mailbox.close()
    assert opened_here() == before - 1


def test_what_is_no_letter_is_dropped(mailbox, files):
    """No file at all, or more than one."""
    before = opened_here()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(str(mailbox.path))
        sender.send(b"a")
        sender.send(b"")
        socket.send_fds(sender, [b"x" * 2 * MAX_LABEL], [files()])
        socket.send_fds(sender, [b"b"], [files(), files(), files()])
    mailbox.collect()
    assert mailbox.take(b"a") is None
    assert opened_here() - before - 4 <= 2
    assert post(mailbox.path, b"c", files())
    os.close(mailbox.take(b"c"))


def test_nobody_is_told_so(tmp_path, files):
    path = tmp_path / "s1.files"
    assert not post(path, b"a", files())
    assert not post(tmp_path / "nowhere" / "s1.files", b"a", files())
    Mailbox(path).close()
    assert not path.exists()
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    stale.bind(str(path))
    stale.close()
    assert not post(path, b"a", files())


def test_a_full_mailbox_does_not_hold_up_the_sender(mailbox, files):
    file = files()
    assert any(not post(mailbox.path, b"a", file) for _ in range(100_000))


def test_it_is_for_its_owner_only_and_takes_the_place_of_a_stale_one(tmp_path):
    path = tmp_path / "s1.files"
    first = Mailbox(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    second = Mailbox(path)
    second.close()
    first.close()


def test_another_file_is_not_removed(tmp_path):
    path = tmp_path / "s1.files"
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        Mailbox(path)
    assert path.read_text() == "precious"


def test_a_path_may_be_longer_than_an_address(tmp_path, files):
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    mailbox = Mailbox(folder / "s1.files")
    assert post(mailbox.path, b"a", files())
    os.close(mailbox.take(b"a"))
    mailbox.close()


def test_where_a_switch_has_its_own(tmp_path):
    assert mailbox_of(tmp_path / "s.1.ctl") == tmp_path / "s.1.files"
