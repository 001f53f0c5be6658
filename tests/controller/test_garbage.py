# SPDX-License-Identifier: Apache-2.0
"""Peers that send the controller what is no OpenFlow: a line in its log, and other switches never notice."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.controller.fake_switch import FakeSwitch
from tests.controller.ryu_process import RyuProcess, needs_ryu
from tests.patience import PATIENCE_S
from vswitch.openflow import experimenter as ex
from vswitch.openflow import messages as m

pytestmark = needs_ryu
DPID = 0x99
EXPERIMENTER, MULTIPART_REPLY = 4, 19


def message(kind: int, body: bytes = b"", version: int = 4, length: int | None = None) -> bytes:
    return struct.pack("!BBHI", version, kind, 8 + len(body) if length is None else length, 7) + body


HELLO = m.Hello().encode()
KNOWN = HELLO + m.FeaturesReply(DPID, 0, 254, 0, 7, xid=1).encode()
"""What a switch says first; then any message is looked at."""


def garbage(source: random.Random) -> Iterator[bytes]:
    """No OpenFlow at all; no switch's messages; headers that lie; and each kind with a body of chance."""
    yield from (b"GET / HTTP/1.1\r\n\r\n", bytes(100), source.randbytes(4000), KNOWN + source.randbytes(3000))
    yield from (message(0, version=version) for version in (0, 1, 5, 255))
    yield message(0, length=3) + bytes(8)
    yield from (message(0, body) for body in (b"\0\1\0\4", b"\0\1\0\3\0\0\0\0", b"\0\1\xff\xff"))
    yield from (HELLO + message(6, bytes(size)) for size in (0, 3))
    for kind in range(40):
        yield from (KNOWN + message(kind, source.randbytes(size)) for size in (0, 24, 300))
        yield KNOWN + message(kind, version=1)
    for number in range(32):
        ours = struct.pack("!II", ex.EXPERIMENTER_ID, number)
        yield from (KNOWN + message(EXPERIMENTER, ours + source.randbytes(size)) for size in (0, 1, 30))
    for number in (*range(16), 0xFFFF):
        part = struct.pack("!HHI", number, 0, 0)
        yield from (KNOWN + message(MULTIPART_REPLY, part + source.randbytes(size)) for size in (0, 3, 100))


ENDLESS = {
    "hello": message(0, b"\0\1\0\0"),
    "table features": KNOWN + message(MULTIPART_REPLY, struct.pack("!HHI", 12, 0, 0) + bytes(64)),
    "group descriptions": KNOWN + message(MULTIPART_REPLY, struct.pack("!HHI", 7, 0, 0) + bytes(64)),
    "meter configurations": KNOWN + message(MULTIPART_REPLY, struct.pack("!HHI", 10, 0, 0) + bytes(64)),
    "queue configurations": KNOWN + message(23, bytes(8) + bytes(64)),
}
"""Lists whose first element says that it has no length."""


def send(ryu: RyuProcess, data: bytes) -> None:
    """From a connection of its own; returns when the controller has ended it, or has read all of it."""
    with socket.create_connection(("127.0.0.1", ryu.ofp_port), timeout=PATIENCE_S) as peer:
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
        try:
            while peer.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass  # it did not read the rest


@pytest.fixture(scope="module", params=["overlay", "ryu.app.simple_switch_13"])
def ryu(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RyuProcess]:
    process = RyuProcess(tmp_path_factory.mktemp("ryu"))
    process.start(*(() if request.param == "overlay" else ("--app", request.param)))
    assert still_serves(process)
    yield process
    process.end()


def still_serves(ryu: RyuProcess) -> bool:
    switch = FakeSwitch(1)
    with switch.connected(ryu.ofp_port):
        switch.wait_for(lambda s: any(isinstance(message, m.FeaturesRequest) for message in s.log))
    return True


def test_garbage_is_a_line_each(ryu: RyuProcess) -> None:
    for data in garbage(random.Random(1)):
        send(ryu, data)
    assert still_serves(ryu)
    log = ryu.log.read_text()
    assert "Traceback" not in log
    assert "port" in log and "sent what is no OpenFlow message of a switch (OFPUnknownVersion: " in log
    assert "sent a message that cannot be read, and is left out: " in log
    assert max(map(len, log.splitlines())) < 400


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_list_without_an_end_does_not_stop_the_controller(ryu: RyuProcess, kind: str) -> None:
    send(ryu, ENDLESS[kind])
    assert still_serves(ryu)
    assert "Traceback" not in ryu.log.read_text()
