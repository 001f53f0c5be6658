# SPDX-License-Identifier: Apache-2.0
"""Hearing of interfaces that come, go, go up or down, or change their MTU, as it happens (rtnetlink(7))."""

from __future__ import annotations

import errno
import os
import socket

RTMGRP_LINK = 1


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
            watch.bind((0, RTMGRP_LINK))
            self._sockets[namespace] = watch

    def drain(self) -> None:
        """Forget what was heard: the interfaces are about to be looked at."""
        for watch in self._sockets.values():
            try:
                while True:
                    watch.recv(1)
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # more happened than the socket could hold
                    raise

    def close(self) -> None:
        for watch in self._sockets.values():
            watch.close()
