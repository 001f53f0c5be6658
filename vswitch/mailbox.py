# SPDX-License-Identifier: Apache-2.0
"""Handing open files from one process to another (SCM_RIGHTS, unix(7)).

Who may open a file need not be who uses it: a switch without privileges is given what it cannot open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_LABEL = 4096
MAX_KEPT = 8


class Mailbox:
    """A UNIX socket at which open files arrive, each with a label of up to MAX_LABEL bytes; for our own user
    only. It takes the place of one that an earlier process has left.

    most: files that wait to be taken; of more, the oldest are closed. Raises OSError.
    """

    def __init__(self, path: Path, most: int = MAX_KEPT) -> None:
        self.path = path
        self._most = most
        self._kept: dict[bytes, int] = {}
        if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
            raise FileExistsError(errno.EEXIST, "a file is there that is no socket", str(path))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            path.unlink(missing_ok=True)
            with _reached(path) as address:
                self._socket.bind(address)
            path.chmod(0o600)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Readable while something waits."""
        return self._socket.fileno()

    def collect(self) -> None:
        """Take in what waits."""
        while True:
            try:
                label, descriptors, _flags, _sender = socket.recv_fds(self._socket, MAX_LABEL, 1)
            except BlockingIOError:
                return
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
                self.discard(label)
                self._kept[label] = descriptor
            while len(self._kept) > self._most:
                os.close(self._kept.pop(next(iter(self._kept))))

    def take(self, label: bytes) -> int | None:
        """The last file that came with this label, which is the caller's to close; None: none has come."""
        self.collect()
        return self._kept.pop(label, None)

    def discard(self, label: bytes) -> None:
        """Close the file that came with this label, if one has."""
        if (descriptor := self._kept.pop(label, None)) is not None:
            os.close(descriptor)

    def close(self) -> None:
        self._socket.close()
        while self._kept:
            os.close(self._kept.popitem()[1])
        with contextlib.suppress(OSError):
            self.path.unlink()


def mailbox_of(control_path: Path) -> Path:
    """Of a switch, where it is given the files that clients of its control socket have opened for it."""
    return control_path.with_suffix(".files")


def label_of(file: str) -> bytes:
    """The label of a file that is handed over by its path."""
    return file.encode(errors="surrogatepass")


def post(path: Path, label: bytes, descriptor: int) -> bool:
    """Hand an open file to whoever has its mailbox at `path`; False: nobody has, or it is full."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        try:
            with _reached(path) as address:
                sender.connect(address)
            socket.send_fds(sender, [label], [descriptor])
        except OSError:
            return False
        return True


@contextmanager
def _reached(path: Path) -> Iterator[str]:
    """An address for a path that may be longer than an address can be."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
