# SPDX-License-Identifier: Apache-2.0
"""Answers of rtnetlink(7), laid out as the kernel lays them out."""

from __future__ import annotations

import socket
import struct

import pytest

from vswitch.dataplane.ports import rtnetlink

IFLA_IFNAME = 3


def attribute(kind: int, value: bytes) -> bytes:
    data = struct.pack("=HH", 4 + len(value), kind) + value
    return data + bytes(-len(data) % 4)


@pytest.mark.parametrize(
    ("value", "alias"),
    [(b"uplink\0", "uplink"), ("größer\0".encode(), "größer"), (b"\xff\xfe\0", "\ufffd" * 2)],
)
def test_an_alias_may_be_any_bytes(value, alias):
    body = struct.pack("=BxHiII", 0, 1, 7, 0, 0) + attribute(IFLA_IFNAME, b"eth0\0") + attribute(20, value)
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, kernel:
        kernel.send(struct.pack("=IHHII", 16 + len(body), 16, 0, 0, 0) + body)
        assert rtnetlink.alias(ours, 7) == alias
