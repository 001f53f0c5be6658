# SPDX-License-Identifier: Apache-2.0
"""An agent over a FakeDatapath in a thread of its own, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time

from tests.patience import PATIENCE_S
from tests.protocol.fake_datapath import FakeDatapath, tap
from vswitch.agent.agent import Agent
from vswitch.openflow.connection import Connection


def eventually(predicate, what, timeout_s=PATIENCE_S):
    """Wait until `predicate()` is true and return its value."""
    deadline = time.monotonic() + timeout_s
    while not (value := predicate()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.01)
    return value


class LiveAgent:
    """Runs from construction to close(). `call` runs a function in the agent's thread.

    wire: number of a port that is a wire; the others are TAPs. datapath: another than a FakeDatapath.
    """

    def __init__(self, wire=None, datapath=None, **options):
        self.datapath = FakeDatapath(time.monotonic_ns) if datapath is None else datapath
        if wire is not None:
            self.datapath.infos[wire] = tap(wire, kind="wire")
        self.agent = Agent(self.datapath, "s1", 1, **options)
        self.failure = None
        self._loop = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        eventually(lambda: self.agent.state == "ready" or self.failure, "the agent is ready")

    def _run(self):
        async def main():
            self._loop = asyncio.get_running_loop()
            await self.agent.run()

        try:
            asyncio.run(main())
        except Exception as error:
            self.failure = error

    def call(self, function, *args):
        future = asyncio.run_coroutine_threadsafe(_as_coroutine(function, *args), self._loop)
        return future.result(timeout=10)

    def receive(self, port, frame):
        self.call(self.datapath.receive, port, frame)

    @property
    def port(self):
        return self.agent.listening_ports[0]

    def close(self):
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.agent.stop)
        self._thread.join(timeout=10)
        assert not self._thread.is_alive()
        if self.failure is not None:
            raise self.failure


async def _as_coroutine(function, *args):
    return function(*args)


class Client:
    """A controller on a real socket."""

    def __init__(self, sock):
        self.sock = sock
        self.sock.settimeout(PATIENCE_S)
        self.connection = Connection(0)
        self.inbox = []
        self.say()

    @classmethod
    def connect(cls, port):
        return cls(socket.create_connection(("127.0.0.1", port)))

    def say(self, *messages):
        for message in messages:
            self.connection.send(message)
        self.sock.sendall(self.connection.data_to_send())

    def hear(self, kind=None):
        """The next message (of class `kind`)."""
        while True:
            for position, message in enumerate(self.inbox):
                if kind is None or isinstance(message, kind):
                    return self.inbox.pop(position)
            data = self.sock.recv(65536)
            assert data, f"the switch closed the connection; still waiting: {self.inbox}"
            self.inbox += self.connection.receive(data, 0)

    def reset(self):
        """Close with a reset, as a crashed peer does."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self):
        self.sock.close()
