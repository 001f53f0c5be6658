# SPDX-License-Identifier: Apache-2.0
"""Attaching to a wire: its file, its FIFOs, who holds which end, whether the other end is alive, and the
exchange of the two ends' packet memory, which are handed over as open files."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

from vswitch import layout
from vswitch.dataplane.memory import Memory
from vswitch.errors import ConfigError
from vswitch.mailbox import Mailbox, post
from vswitch.wire_memory import (
    ENDS,
    HEADER,
    SLOTS,
    allocate,
    data_size,
    free_bytes,
    has,
    least,
    slots_to_try,
    wire_size,
)

INIT_LOCK = 2
"""Bytes of the file that are locked: 0 and 1 by the holder of end a and b, 2 while the file is made."""
F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW = 36, 37, 38
EPOCH = struct.Struct("=q")


class WireEnd:
    """One end of a wire. It stays held until close() or the end of the process.

    path: the wire's file, made when it is missing; `path`.a and `path`.b are the FIFOs that wake the ends,
    `path`.a.pool and `path`.b.pool the mailboxes at which they are given each other's pool.
    end: "a", "b", or "" for whichever is free. where: what an error names. slots: of each direction, as many
    as whoever made the file had memory for.

    Raises ConfigError when the end is held by another, the file is another wire's or no wire, or there is no
    memory for it.
    """

    def __init__(self, path: str, mtu: int, end: str, where: str) -> None:
        self.path = Path(path)
        self.where = where
        self.data_size = data_size(mtu)
        try:
            self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(where, f"cannot open the wire {path}: {error.strerror}") from None
        try:
            self.slots = self._prepare(mtu)
            self.size = wire_size(mtu, self.slots)
            self.side = self._take(end)
            self.wake_fd = self._fifo(self.side)
            self.kick_fd = self._fifo(1 - self.side)
            self._mailbox = self._make_mailbox()
        except BaseException:
            os.close(self.fd)
            raise

    def _prepare(self, mtu: int) -> int:
        """Make the file, if nobody has; the slots that it has."""
        if not self._lock(INIT_LOCK, wait=True):
            raise ConfigError(self.where, f"{self.path} cannot be locked")
        try:
            if os.fstat(self.fd).st_size == 0:
                return self._make(mtu, slots_to_try([mtu], free_bytes(self.fd)))
            found = os.pread(self.fd, HEADER.size, 0).ljust(HEADER.size)
            magic, slots, size, found_mtu = HEADER.unpack(found)
            if magic != layout.WIRE_MAGIC or slots not in SLOTS or size != data_size(found_mtu):
                raise ConfigError(self.where, f"{self.path} is a file, but not a wire's", "an unused path")
            if found_mtu != mtu:
                raise ConfigError(
                    self.where, f"the other end gave the wire the MTU {found_mtu}", "the same MTU"
                )
            return self._make(mtu, [slots])
        finally:
            self._lock(INIT_LOCK, kind=fcntl.F_UNLCK)

    def _make(self, mtu: int, choices: Iterable[int]) -> int:
        """See that the file has all of its memory, with the first number of slots that there is room for."""
        for slots in choices:
            try:
                allocate(self.fd, mtu, slots)
                return slots
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise ConfigError(self.where, f"cannot make {self.path}: {error.strerror}") from None
        raise ConfigError(
            self.where,
            f"the wire {self.path} takes {least([mtu])}, and {has(self.fd)} there",
            "more memory there, a smaller mtu, or another path",
        )

    def _take(self, end: str) -> int:
        for side in [ENDS.index(end)] if end else [0, 1]:
            if self._lock(side):
                return side
        which = f"end {end} of the wire" if end else "both ends of the wire"
        raise ConfigError(self.where, f"{which} {self.path} {'is' if end else 'are'} held by another switch")

    def _lock(self, byte: int, kind: int = fcntl.F_WRLCK, wait: bool = False) -> bool:
        request = struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0)
        try:
            fcntl.fcntl(self.fd, F_OFD_SETLKW if wait else F_OFD_SETLK, request)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _fifo(self, side: int) -> int:
        path = f"{self.path}.{ENDS[side]}"
        try:
            os.mkfifo(path, 0o600)
        except FileExistsError:
            if not stat.S_ISFIFO(os.stat(path).st_mode):
                raise ConfigError(self.where, f"{path} is a file, but not a FIFO", "an unused path") from None
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def _make_mailbox(self) -> Mailbox:
        path = self._mailbox_path(self.side)
        try:
            return Mailbox(path, most=1)
        except OSError as error:
            raise ConfigError(self.where, f"cannot make {path}: {error.strerror}", "an unused path") from None

    def _mailbox_path(self, side: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{ENDS[side]}.pool")

    @property
    def mail_fd(self) -> int:
        """Readable when the other end may have given us its pool."""
        return self._mailbox.fileno()

    def peer_alive(self) -> bool:
        """Whether a process holds the other end."""
        request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 1 - self.side, 1, 0)
        answer = fcntl.fcntl(self.fd, F_OFD_GETLK, request)
        return struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK

    def map(self, memory: Memory, row, pool_fd: int) -> None:
        """Map the wire and fill the wire's row; offer our pool to the other end."""
        base = memory.map_file(self.fd, self.size)
        self.cursors = [base + layout.CURSOR_PAGE * (1 + side) for side in (0, 1)]
        slots = base + 3 * layout.CURSOR_PAGE
        slots_size = self.slots * layout.SLOT_SIZE
        data = slots + 2 * slots_size
        sending, receiving = self.side, 1 - self.side
        row["kick_fd"], row["wake_fd"] = self.kick_fd, self.wake_fd
        row["slots"], row["data_size"] = self.slots, self.data_size
        row["tx_cursors"], row["rx_cursors"] = self.cursors[sending], self.cursors[receiving]
        row["tx_slots"], row["rx_slots"] = slots + sending * slots_size, slots + receiving * slots_size
        data_bytes = self.slots * self.data_size
        row["tx_data"], row["rx_data"] = data + sending * data_bytes, data + receiving * data_bytes
        self._tx = memory.words(self.cursors[sending], layout.CURSOR_PAGE // 8)
        self._rx = memory.words(self.cursors[receiving], layout.CURSOR_PAGE // 8)
        # what was on the wire when an earlier holder of this end died is lost with it
        head = int(self._rx[layout.CURSOR_HEAD // 8])
        self._rx[layout.CURSOR_TAIL // 8] = head
        row["rx_tail"] = row["taken"] = row["done"] = row["marked"] = head
        for name in ("tx_head", "tx_published", "queue_head"):
            row[name] = self._tx[layout.CURSOR_HEAD // 8]
        row["tx_clean"] = self._tx[layout.CURSOR_TAIL // 8]
        row["epoch"] = self.epoch = (int(self._tx[layout.CURSOR_EPOCH // 8]) + 1) & 0x7FFFFFFF
        self._tx[layout.CURSOR_CUT // 8] = 0
        self._tx[layout.CURSOR_EPOCH // 8] = self.epoch
        self._pool_fd = pool_fd
        self._offered_to = self._taken_of = -1  # lives of the other end
        self.exchange_pools()

    def cut(self, cut: bool) -> None:
        """Cut the cable at our end, or mend it there."""
        self._tx[layout.CURSOR_CUT // 8] = int(cut)

    def is_cut(self) -> bool:
        """Whether the cable is cut at either end."""
        return bool(self._tx[layout.CURSOR_CUT // 8] or self._rx[layout.CURSOR_CUT // 8])

    def peer_epoch(self) -> int:
        """The life number of the other end, 0 before its first."""
        return int(self._rx[layout.CURSOR_EPOCH // 8])

    def exchange_pools(self) -> None:
        """Take in what has come, and hand our pool to each new life of the other end."""
        self._mailbox.collect()
        self._mailbox.discard(EPOCH.pack(self._taken_of))  # once more: it would outlive its owner here
        epoch = self.peer_epoch()
        if epoch != self._offered_to:
            theirs = self._mailbox_path(1 - self.side)
            if post(theirs, EPOCH.pack(self.epoch), self._pool_fd):
                self._offered_to = epoch

    def take_peer_pool(self, epoch: int) -> tuple[int, int] | None:
        """Descriptor and size of the pool of the other end's life `epoch`; None while it has not come."""
        descriptor = self._mailbox.take(EPOCH.pack(epoch))
        if descriptor is None:
            return None
        self._taken_of = epoch
        return descriptor, os.fstat(descriptor).st_size

    def confirm_peer_pool(self, epoch: int) -> None:
        """Tell the other end that the pool of its life `epoch` is mapped here."""
        self._rx[layout.CURSOR_MAPPED // 8] = epoch

    def our_pool_is_mapped(self) -> bool:
        """Whether the other end can read what we send by reference."""
        return int(self._tx[layout.CURSOR_MAPPED // 8]) == self.epoch

    def close(self) -> None:
        """Let go of the end, and release the descriptors; the mapping is the memory's to unmap."""
        self._mailbox.close()
        self._lock(self.side, kind=fcntl.F_UNLCK)
        for fd in (self.fd, self.wake_fd, self.kick_fd):
            os.close(fd)
