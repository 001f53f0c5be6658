# SPDX-License-Identifier: Apache-2.0
"""Tells of processes of a lab that end though nobody ended them: at the prompt, and in their logs."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

from mininet.log import error

from topologies.processes import how_it_ended
from vswitch.config import LOG_FORMAT

CAUSES = {
    -signal.SIGBUS: "memory that it had mapped is gone",
    -signal.SIGKILL: "by somebody, or by the kernel when memory ran out: see dmesg",
}
"""What may be behind an end that a process itself can say nothing of, by return code."""


@dataclass(frozen=True)
class Watched:
    """name: as in `s1`. log: the file that the news is added to, if any. advice: what to do, as a phrase."""

    name: str
    process: subprocess.Popen
    log: Path | None
    advice: str


class Watch:
    """The processes of a lab that are to go on. One thread waits for the end of any of them."""

    def __init__(self) -> None:
        self._watched: dict[int, Watched] = {}  # by pidfd
        self._lock = threading.Lock()
        self._ends = select.epoll()
        self._closing = os.eventfd(0, os.EFD_CLOEXEC)
        self._ends.register(self._closing, select.EPOLLIN)
        self._thread: threading.Thread | None = None

    def add(self, watched: Watched) -> None:
        """From now on tell when this process ends."""
        try:
            fd = os.pidfd_open(watched.process.pid)
        except ProcessLookupError:  # it has, and somebody knows its status already
            tell(watched)
            return
        with self._lock:
            self._watched[fd] = watched
            self._ends.register(fd, select.EPOLLIN)
        if self._thread is None:
            self._thread = threading.Thread(target=self._wait, name="watch", daemon=True)
            self._thread.start()

    def forget(self, process: subprocess.Popen) -> None:
        """Its end will be no news."""
        with self._lock:
            for fd in [fd for fd, watched in self._watched.items() if watched.process is process]:
                self._remove(fd)

    def close(self) -> None:
        """Forget all."""
        with self._lock:
            for fd in list(self._watched):
                self._remove(fd)
        if self._thread is not None:
            os.eventfd_write(self._closing, 1)
            self._thread.join()
            self._thread = None
        self._ends.close()
        os.close(self._closing)

    def _remove(self, fd: int) -> Watched:
        self._ends.unregister(fd)
        os.close(fd)
        return self._watched.pop(fd)

    def _wait(self) -> None:
        while True:
            for fd, _events in self._ends.poll():
                if fd == self._closing:
                    return
                with self._lock:
                    # forgotten a moment ago, and its number given to another
                    if fd not in self._watched or not select.select([fd], [], [], 0)[0]:
                        continue
                    ended = self._remove(fd)
                tell(ended)


def tell(watched: Watched) -> None:
    """Say how a process ended, at the prompt and in its log."""
    status = watched.process.wait()
    news = f"{watched.name} {how_it_ended(status)}"
    if status in CAUSES:
        news += f" ({CAUSES[status]})"
    where = f"; its log is {watched.log}" if watched.log else ""
    error(f"\n*** {news}{where}; {watched.advice}\n")
    if watched.log:
        record = logging.makeLogRecord({"name": __name__, "levelname": "ERROR", "msg": news})
        with contextlib.suppress(OSError), watched.log.open("a") as log:  # a full disk: it was said above
            log.write(logging.Formatter(LOG_FORMAT).format(record) + "\n")
