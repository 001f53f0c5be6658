# SPDX-License-Identifier: Apache-2.0
"""No client of the agent can stall the others, whatever it asks, and however little it reads.

How long others wait is told in the processor time of the agent's thread: how much else the machine does does
not matter.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import socket
import threading
import time
from contextlib import suppress

import pytest

from tests.patience import PATIENCE_S
from tests.protocol.frames import udp
from tests.protocol.harness import TO_CONTROLLER, add, m, out
from tests.protocol.live import Client, LiveAgent, eventually
from vswitch.agent import control, transport
from vswitch.agent.turns import SLICE_NS, Turns
from vswitch.agent.turns import Client as TurnTaker
from vswitch.ctl import call
from vswitch.openflow import multipart as mp
from vswitch.openflow.actions import Output
from vswitch.openflow.constants import MultipartType
from vswitch.openflow.oxm import Match

RULES = 1500
GREEDY = 6
FLOOD_S = 0.4
LONGEST_NS = 50_000_000
"""A turn takes some milliseconds; the answers to all rules at once would take hundreds."""

ALL_RULES = mp.MultipartRequest(MultipartType.FLOW, mp.FlowFilter(Match.of()), xid=5)

# --- turns -----------------------------------------------------------------------------------------------


class Loop:
    """Clients that work in virtual time."""

    def __init__(self):
        self.now_ns = 0
        self.turns = Turns(lambda: self.now_ns)
        self.had = {}

    async def work(self, name, total_ns, step_ns=500_000):
        client = TurnTaker()
        self.had.setdefault(name, 0)
        await self.turns.take(client)
        while self.had[name] < total_ns:
            self.now_ns += step_ns
            self.had[name] += step_ns
            if self.turns.is_over(client):
                await self.turns.take(client)


def test_greedy_clients_share_the_time():
    async def run():
        loop = Loop()
        tasks = [asyncio.create_task(loop.work(name, 10**9, 100_000 * (name + 1))) for name in range(5)]
        while loop.now_ns < 10**9:
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        return loop.had

    had = asyncio.run(run())
    assert max(had.values()) - min(had.values()) <= 2 * SLICE_NS


@pytest.mark.parametrize("greedy", [1, 10, 300])
def test_who_asks_for_little_is_served_next(greedy):
    async def run():
        loop = Loop()
        tasks = [asyncio.create_task(loop.work(name, 10**12)) for name in range(greedy)]
        while loop.now_ns < 2 * greedy * SLICE_NS:
            await asyncio.sleep(0)
        waits = []
        for visit in range(20):
            began_ns = loop.now_ns
            await loop.work(f"visitor {visit}", 100_000, 100_000)
            waits.append(loop.now_ns - began_ns)
            for _ in range(random.randrange(5)):
                await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        return waits

    assert max(asyncio.run(run())) <= 3 * SLICE_NS


def test_a_stream_of_visitors_leaves_half_of_the_time():
    async def run():
        loop = Loop()
        greedy = asyncio.create_task(loop.work("greedy", 10**12))
        visits = [asyncio.create_task(loop.work(name, SLICE_NS // 2)) for name in range(200)]
        await asyncio.wait(visits)
        greedy.cancel()
        return loop

    loop = asyncio.run(run())
    assert loop.had["greedy"] >= loop.now_ns / 2


def test_a_client_that_goes_while_it_waits_is_in_nobodys_way():
    async def run():
        loop = Loop()
        tasks = [asyncio.create_task(loop.work(name, 10**12)) for name in range(3)]
        for _ in range(10):
            await asyncio.sleep(0)
        for task in tasks[1:]:
            task.cancel()
        await loop.work("last", 10 * SLICE_NS)
        tasks[0].cancel()
        return loop

    loop = asyncio.run(run())
    asyncio.run(loop.work("in another loop", 10 * SLICE_NS))
    assert loop.had["in another loop"] == 10 * SLICE_NS


# --- the agent -------------------------------------------------------------------------------------------


@pytest.fixture
def live(tmp_path):
    agent = LiveAgent(listeners=["ptcp:0"], control_path=tmp_path / "s1.ctl", ovs_rundir=tmp_path)
    agent.folder = tmp_path
    yield agent
    agent.close()


@pytest.fixture
def controller(live):
    client = Client.connect(live.port)
    client.say(*[add({"eth_dst": number}, out(2), table_id=3) for number in range(RULES)])
    client.say(add({}, TO_CONTROLLER, priority=0), m.BarrierRequest(xid=1))
    client.hear(m.BarrierReply)
    yield client
    client.close()


class Flood:
    """Clients that say the same over and over, and read or do not."""

    def __init__(self):
        self.over = False
        self.sockets = []
        self.threads = []

    def add(self, sock, data, reads):
        self.sockets.append(sock)
        sock.settimeout(0.1)
        self._run(self._say, sock, data)
        if reads:
            self._run(self._read, sock)

    def _run(self, act, *args):
        thread = threading.Thread(target=act, args=args)
        thread.start()
        self.threads.append(thread)

    def _say(self, sock, data):
        with suppress(OSError):
            while not self.over:
                with suppress(TimeoutError, socket.timeout):
                    sock.sendall(data)

    def _read(self, sock):
        with suppress(OSError):
            while not self.over:
                with suppress(TimeoutError, socket.timeout):
                    if not sock.recv(1 << 16):
                        return

    def end(self):
        self.over = True
        for thread in self.threads:
            thread.join(PATIENCE_S)
        for sock in self.sockets:
            sock.close()


def openflow(*messages, reads=True, path=None):
    """Sessions that say these messages."""

    def begin(live, flood):
        for _ in range(GREEDY):
            if path is None:
                sock = socket.create_connection(("127.0.0.1", live.port))
            else:
                sock = socket.socket(socket.AF_UNIX)
                sock.connect(str(live.folder / path))
            client = Client(sock)
            for message in messages:
                client.connection.send(message)
            flood.add(sock, client.connection.data_to_send(), reads)

    return begin


def controls(method, reads=True):
    """Connections to the control socket that ask for this."""

    def begin(live, flood):
        for _ in range(GREEDY):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(live.folder / "s1.ctl"))
            flood.add(sock, json.dumps({"method": method}).encode() + b"\n", reads)

    return begin


FLOODS = {
    "statistics that are not read": openflow(*[ALL_RULES] * 10, reads=False),
    "statistics that are read": openflow(*[ALL_RULES] * 10),
    "echoes": openflow(*[m.EchoRequest(b"", xid=3)] * 5000),
    "echoes that are not read": openflow(*[m.EchoRequest(bytes(1000), xid=3)] * 500, reads=False),
    "features": openflow(*[m.FeaturesRequest()] * 3000),
    "barriers": openflow(*[m.BarrierRequest()] * 3000),
    "packet-outs": openflow(*[m.PacketOut(1, (Output(2),), udp())] * 500),
    "rules": openflow(*[add({"eth_src": number}, out(2), table_id=4) for number in range(500)]),
    "refused": openflow(*[add({}, out(2), table_id=255)] * 1000),
    "by name": openflow(*[ALL_RULES] * 10, path="s1.mgmt"),
    "snooping": openflow(*[m.EchoRequest(b"", xid=3)] * 5000, path="s1.snoop"),
    "rules by control": controls("rules"),
    "rules by control that are not read": controls("rules", reads=False),
    "flows by control": controls("flows"),
    "show by control": controls("show"),
}


@pytest.fixture(autouse=True)
def no_collection():
    """The test program's own objects are many."""
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


async def beats(gaps):
    """Note how much processor time others take between two turns of this."""
    while True:
        before_ns = time.thread_time_ns()
        await asyncio.sleep(0)
        gaps.append(time.thread_time_ns() - before_ns)


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_delays_neither_the_operator_nor_packet_ins(live, controller, kind):
    live.datapath.send = lambda *_: None  # a fake one would keep it
    flood, gaps = Flood(), []
    heart = asyncio.run_coroutine_threadsafe(beats(gaps), live._loop)
    try:
        FLOODS[kind](live, flood)
        ends = time.monotonic() + FLOOD_S
        number = 0
        while time.monotonic() < ends:
            assert call(live.folder / "s1.ctl", "show")["name"] == "s1"
            number += 1
            live.receive(1, udp(sport=number))
            while int.from_bytes(controller.hear(m.PacketIn).data[34:36], "big") != number:
                pass
    finally:
        heart.cancel()
        flood.end()
    assert max(gaps) < LONGEST_NS


def test_idle_connections_do_not_shut_out_the_operator(live):
    idle = []
    for _ in range(4 * control.MAX_CLIENTS):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(live.folder / "s1.ctl"))
        sock.sendall(b'{"method')
        idle.append(sock)
    assert call(live.folder / "s1.ctl", "show")["name"] == "s1"
    idle[0].settimeout(PATIENCE_S)
    with suppress(ConnectionResetError):
        assert idle[0].recv(1) == b""
    for sock in idle:
        sock.close()


def test_who_asks_nothing_is_disconnected_and_who_asks_is_not(live, monkeypatch):
    monkeypatch.setattr(control, "IDLE_S", 0.5)
    with socket.socket(socket.AF_UNIX) as idle, socket.socket(socket.AF_UNIX) as asking:
        for sock in (idle, asking):
            sock.settimeout(PATIENCE_S)
            sock.connect(str(live.folder / "s1.ctl"))
        idle.sendall(b'{"method": "sh')
        answers = asking.makefile("rb")
        ended = threading.Event()

        def wait():
            with suppress(ConnectionResetError):
                assert idle.recv(1) == b""
            ended.set()

        threading.Thread(target=wait).start()
        while not ended.wait(0.05):
            asking.sendall(b'{"method": "show"}\n')
            assert json.loads(answers.readline())["result"]["name"] == "s1"
        answers.close()


def test_sessions_that_say_no_hello_make_room(live, controller, monkeypatch):
    monkeypatch.setattr(transport, "MAX_GUESTS", 5)
    silent = [socket.create_connection(("127.0.0.1", live.port)) for _ in range(20)]
    clients = [Client.connect(live.port) for _ in range(4)]
    for number, client in enumerate([controller, *clients]):
        client.say(m.BarrierRequest(xid=number))
        assert client.hear(m.BarrierReply).xid == number
    refused = socket.create_connection(("127.0.0.1", live.port))
    refused.settimeout(PATIENCE_S)
    with suppress(ConnectionResetError):
        assert refused.recv(1) == b""
    clients.pop().close()
    eventually(lambda: len(live.agent.switch.sessions) == 4, "one has gone")
    clients.append(Client.connect(live.port))
    clients[-1].say(m.BarrierRequest(xid=9))
    assert clients[-1].hear(m.BarrierReply).xid == 9
    for sock in (*silent, refused, *(client.sock for client in clients)):
        sock.close()
