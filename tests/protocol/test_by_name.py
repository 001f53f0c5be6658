# SPDX-License-Identifier: Apache-2.0
"""The sockets at which ovs-ofctl finds a switch by its name, with ovs-ofctl itself, and reconnecting."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import time

import pytest

from tests.protocol.frames import udp
from tests.protocol.harness import TO_CONTROLLER, add
from tests.protocol.live import Client, LiveAgent, eventually
from vswitch.agent import snoopers
from vswitch.errors import ConfigError
from vswitch.openflow import messages as m
from vswitch.openflow.connection import Connection

needs_ofctl = pytest.mark.skipif(not shutil.which("ovs-ofctl"), reason="ovs-ofctl is not installed")


@pytest.fixture
def rundir(tmp_path):
    folder = tmp_path / "ovs"
    folder.mkdir()
    return folder


@pytest.fixture
def controller():
    """A controller's listening socket."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        yield server


@pytest.fixture
def start(rundir, controller):
    """Starts an agent that has the controller."""
    agents = []

    def run(**options):
        options.setdefault("ovs_rundir", rundir)
        target = f"tcp:127.0.0.1:{controller.getsockname()[1]}"
        agents.append(LiveAgent(controllers=[target], **options))
        return agents[-1]

    yield run
    for agent in agents:
        agent.close()


def ofctl(rundir, *words):
    argv = ["ovs-ofctl", "-O", "OpenFlow13", *words]
    return subprocess.Popen(
        argv,
        env={**os.environ, "OVS_RUNDIR": str(rundir)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@needs_ofctl
def test_ovs_ofctl_finds_the_switch_by_its_name(start, rundir):
    start()
    for words, expected in [
        (["add-flow", "s1", "priority=7,actions=output:2"], ""),
        (["dump-flows", "s1"], "priority=7 actions=output:2"),
        (["show", "s1"], "dpid:0000000000000001"),
    ]:
        tool = ofctl(rundir, *words)
        printed, _ = tool.communicate(timeout=10)
        assert tool.returncode == 0 and expected in printed, printed


def test_hellos_are_not_told_to_who_snoops():
    """Each connection has its own."""
    seen = []
    connection = Connection(0, observer=seen.append)
    connection.receive(m.Hello().encode(), 0)
    connection.receive(m.EchoRequest(xid=1).encode(), 0)
    assert seen == [m.EchoRequest(xid=1).encode(), m.EchoReply(xid=1).encode()]


@needs_ofctl
def test_ovs_ofctl_snoops_what_switch_and_controllers_say(start, rundir, controller):
    agent = start()
    client = Client(controller.accept()[0])
    tool = ofctl(rundir, "snoop", "s1")
    eventually(lambda: agent.agent.switch.snoopers._writers, "somebody snoops")
    client.say(add({}, TO_CONTROLLER), m.BarrierRequest(xid=5))
    client.hear(m.BarrierReply)
    agent.receive(1, udp())
    client.hear(m.PacketIn)
    client.say(m.EchoRequest(b"the end", xid=9))
    printed = ""
    while "the end" not in printed:
        line = tool.stdout.readline()
        assert line, printed
        printed += line
        if "OFPT_ECHO_REPLY" in line:
            break
    tool.kill()
    tool.communicate()
    for kind in ("FLOW_MOD", "BARRIER_REQUEST", "BARRIER_REPLY", "PACKET_IN", "ECHO_REQUEST"):
        assert f"OFPT_{kind} (OF1.3)" in printed, printed
    client.close()


def test_who_snoops_and_does_not_read_loses_and_is_counted(start, rundir, controller, monkeypatch):
    monkeypatch.setattr(snoopers, "MAX_BACKLOG", 4096)
    agent = start()
    client = Client(controller.accept()[0])
    with socket.socket(socket.AF_UNIX) as lazy:
        lazy.connect(str(rundir / "s1.snoop"))
        lazy.sendall(m.Hello().encode())
        eventually(lambda: agent.agent.switch.snoopers._writers, "somebody snoops")
        for n in range(2000):
            client.say(m.EchoRequest(bytes(1000), xid=n))
            if n % 100 == 99:
                client.say(m.BarrierRequest())
                client.hear(m.BarrierReply)
        assert agent.call(agent.agent.switch.dropped)["snoop_messages_dropped"] > 0
        lazy.settimeout(10)
        data = b""
        while len(data) < 20_000:
            data += lazy.recv(65536)
    position = 0  # what came is of whole messages
    while position + 8 <= len(data):
        assert data[position] == 4
        position += int.from_bytes(data[position + 2 : position + 4], "big")
    client.close()


def test_a_few_may_snoop_at_once(start, rundir, controller):
    agent = start()
    Client(controller.accept()[0])
    listening = []
    for _ in range(snoopers.MAX_SNOOPERS + 1):
        listening.append(socket.socket(socket.AF_UNIX))
        listening[-1].connect(str(rundir / "s1.snoop"))
        listening[-1].settimeout(10)
        listening[-1].sendall(m.Hello().encode())
        listening[-1].recv(100)
    assert listening[-1].recv(100) == b""
    listening[0].close()
    eventually(lambda: len(agent.agent.switch.snoopers._writers) < snoopers.MAX_SNOOPERS, "one has gone")
    for sock in listening:
        sock.close()


def test_the_sockets_are_the_owners_and_go_with_the_switch(start, rundir):
    agent = start()
    assert sorted(path.name for path in rundir.iterdir()) == ["s1.mgmt", "s1.snoop"]
    for path in rundir.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    agent.close()
    assert list(rundir.iterdir()) == []


def test_what_a_killed_switch_left_is_replaced(start, rundir):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(rundir / "s1.mgmt"))
    agent = start()
    assert agent.agent._named.paths == [rundir / "s1.mgmt", rundir / "s1.snoop"]
    with socket.socket(socket.AF_UNIX) as tool:
        tool.connect(str(rundir / "s1.mgmt"))


def test_another_switchs_sockets_are_left_alone(start, rundir, caplog):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(rundir / "s1.mgmt"))
        other.listen()
        (rundir / "s1.snoop").write_text("mine")
        agent = start()
        assert agent.agent._named.paths == []
        assert "does not listen at" in caplog.text and "another switch answers there" in caplog.text
        agent.close()
        with socket.socket(socket.AF_UNIX) as tool:
            tool.connect(str(rundir / "s1.mgmt"))
    assert (rundir / "s1.snoop").read_text() == "mine"


def test_a_socket_that_somebody_replaced_is_left_alone(start, rundir):
    agent = start()
    (rundir / "s1.mgmt").unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(rundir / "s1.mgmt"))
        agent.close()
        assert (rundir / "s1.mgmt").exists()


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"^ovs-rundir: there is no folder .*/nowhere"):
        LiveAgent(ovs_rundir=tmp_path / "nowhere").close()


def test_a_controller_that_comes_back_has_its_switch_within_a_second(start, controller):
    """However long it was away: the time between two attempts does not grow beyond it."""
    start(ovs_rundir=None)
    address = controller.getsockname()
    Client(controller.accept()[0]).reset()
    controller.close()
    time.sleep(3)  # attempts that are refused, the time between them grows
    with socket.create_server(address) as again:
        again.settimeout(10)
        begun = time.monotonic()
        again.accept()[0].close()
        assert time.monotonic() - begun < 1.5  # a second, and what a busy machine adds


def test_the_longest_time_between_attempts_can_be_set(start, controller):
    agent = start(ovs_rundir=None, max_backoff_s=0.05)
    for _ in range(5):
        controller.accept()[0].close()
    assert agent.agent._controllers[0].max_backoff_s == 0.05
