# SPDX-License-Identifier: Apache-2.0
"""Whose program is at the other end of a TCP connection within this machine.

A port of the loopback interface is open to every user. The kernel tells whose a socket is (sock_diag(7)), as
SO_PEERCRED does of UNIX sockets.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from typing import NamedTuple

ROOT = 0
NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY = 4, 20
NLM_F_REQUEST = 1
NLMSG_ERROR = 2
TCP_LISTEN = 10
ANSWER_SIZE = 1 << 13

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST = struct.Struct("=BBBxI")  # struct inet_diag_req_v2 …
_SOCKET = struct.Struct(
    "!HH16s16s4s8s"
)  # … with struct inet_diag_sockid: ports, addresses, interface, cookie
_ANY_INTERFACE, _NO_COOKIE = bytes(4), b"\xff" * 8
_ANSWER = struct.Struct("=BBxx48x4x4x4xII")  # struct inet_diag_msg: family, state, …, uid, inode


class Endpoint(NamedTuple):
    """An address and port of a TCP socket."""

    host: str
    port: int


def refusal(ours: Endpoint, peer: Endpoint) -> str | None:
    """Why the program at `peer` may not use a listener that it reached at `ours`; None: it may.

    On the loopback interface only root's and our own user's may; elsewhere it is the network that is trusted.
    """
    if not ipaddress.ip_address(ours.host).is_loopback:
        return None
    try:
        user = user_of(peer, ours)
    except OSError as error:
        return f"only root may use this port, and the kernel cannot be asked whose program this is ({error})"
    if user in (ROOT, os.geteuid()):
        return None
    whose = (
        "the program has gone, or the kernel cannot tell whose it is (it lacks tcp_diag)"
        if user is None
        else f"this is a program of user {user}"
    )
    return f"only root may use this port, and {whose}"


def user_of(near: Endpoint, far: Endpoint) -> int | None:
    """The user who owns the socket at `near` of a connection to `far`; None: no program has it (any more).

    A socket that its program has closed counts as root's to the kernel, and has no inode.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as kernel:
        kernel.send(_request(near, far))
        answer = kernel.recv(ANSWER_SIZE)
    if _HEADER.unpack_from(answer)[1] == NLMSG_ERROR:
        return None
    _family, state, user, inode = _ANSWER.unpack_from(answer, _HEADER.size)
    return int(user) if inode and state != TCP_LISTEN else None


def _request(near: Endpoint, far: Endpoint) -> bytes:
    """For the one connection. (To list all takes the kernel 40 ms, where it has room for many.)"""
    addresses = [ipaddress.ip_address(end.host) for end in (near, far)]
    family = socket.AF_INET6 if addresses[0].version == 6 else socket.AF_INET
    source, destination = (address.packed.ljust(16, b"\0") for address in addresses)
    wanted = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0xFFFF_FFFF)
    wanted += _SOCKET.pack(near.port, far.port, source, destination, _ANY_INTERFACE, _NO_COOKIE)
    return _HEADER.pack(_HEADER.size + len(wanted), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 0, 0) + wanted
