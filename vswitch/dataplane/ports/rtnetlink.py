# SPDX-License-Identifier: Apache-2.0
"""Messages of rtnetlink(7), and an interface's alias, which `ip link` shows."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

NLM_F_REQUEST, NLM_F_ACK = 0x1, 0x4
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_GETLINK, RTM_SETLINK = 18, 19
IFLA_IFALIAS = 20
ANSWER_SIZE = 1 << 16

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_ATTRIBUTE = struct.Struct("=HH")
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_ERROR = struct.Struct("=i")


def open_socket() -> socket.socket:
    """Asks about the network namespace that the calling thread is in."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)


def alias(kernel: socket.socket, ifindex: int) -> str:
    """An interface's alias; empty: it has none, or there is no such interface."""
    kernel.send(request(RTM_GETLINK, 0, _LINK.pack(0, 0, ifindex, 0, 0)))
    for kind, message in messages(kernel.recv(ANSWER_SIZE)):
        if kind != NLMSG_ERROR:
            return (
                attributes(message[_LINK.size :])
                .get(IFLA_IFALIAS, b"")
                .rstrip(b"\0")
                .decode(errors="replace")
            )
    return ""


def set_alias(kernel: socket.socket, ifindex: int, text: str) -> None:
    """Give an interface an alias; none where `text` is empty. Raises OSError."""
    value = text.encode()
    attribute = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), IFLA_IFALIAS) + value
    body = _LINK.pack(0, 0, ifindex, 0, 0) + attribute + bytes(-len(attribute) % 4)
    kernel.send(request(RTM_SETLINK, NLM_F_ACK, body))
    for kind, message in messages(kernel.recv(ANSWER_SIZE)):
        if kind == NLMSG_ERROR:
            (number,) = _ERROR.unpack_from(message)
            if number:
                raise OSError(-number, "the kernel gives it no alias")


def request(kind: int, flags: int, body: bytes) -> bytes:
    """A message that asks the kernel."""
    return _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | flags, 0, 0) + body


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, body) of each netlink message."""
    while data:
        length, kind, *_ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : length]
        data = data[_aligned(length) :]


def attributes(data: bytes) -> dict[int, bytes]:
    """The values of attributes by their types."""
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:  # options of a discipline that has no attributes, as those of pfifo_fast
            break
        found[kind] = data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3
