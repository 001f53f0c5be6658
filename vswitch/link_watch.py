# SPDX-License-Identifier: Apache-2.0
"""Hearing of interfaces as something happens to them: they come, go, go up or down, or change their MTU or
queueing discipline (rtnetlink(7))."""

from __future__ import annotations

import errno
import os
import socket

RTMGRP_LINK, RTMGRP_TC = 0x1, 0x8


class LinkWatch:
    """A netlink socket in each network namespace that ports live in."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}  # by the namespace's inode

    @property
    def fds(self) -> list[int]:
        """Each is readable when an interface of its namespace has changed."""
        return [watch.fileno() for watch in self._sockets.values()]

    def watch_here(self) -> None:
        """Watch the network namespace that the calling thread is in."""
        namespace = os.stat("/proc/thread-self/ns/net").st_ino
        if namespace not in self._sockets:
            watch = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
            )
            watch.bind((0, RTMGRP_LINK | RTMGRP_TC))
            self._sockets[namespace] = watch

    def drain(self) -> bool:
        """Forget what was heard: the interfaces are about to be looked at. True if there was anything."""
        heard = False
        for watch in self._sockets.values():
            try:
                while True:
                    watch.recv(1)
                    heard = True
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # more happened than the socket could hold
                    raise
                heard = True
        return heard

    def close(self) -> None:
        for watch in self._sockets.values():
            watch.close()
