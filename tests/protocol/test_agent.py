# SPDX-License-Identifier: Apache-2.0
"""The whole agent on real sockets: controllers, tools, control socket."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import socket
import subprocess
import sys
import time

import pytest

from tests.patience import PATIENCE_S
from tests.protocol.frames import udp
from tests.protocol.harness import TO_CONTROLLER, add, delete, m, out
from tests.protocol.live import Client, LiveAgent, eventually
from vswitch import ctl
from vswitch.agent.agent import Agent
from vswitch.agent.session import MAX_UNSENT_BYTES
from vswitch.errors import ConfigError
from vswitch.openflow import multipart as mp
from vswitch.openflow.actions import Output
from vswitch.openflow.connection import Connection
from vswitch.openflow.constants import MultipartType, Port
from vswitch.openflow.oxm import Match
from vswitch.openflow.table_features import TableFeaturesRequest


@pytest.fixture
def live(tmp_path):
    agent = LiveAgent(listeners=["ptcp:0"], control_path=tmp_path / "s1.ctl")
    yield agent
    agent.close()


@pytest.fixture
def client(live):
    client = Client.connect(live.port)
    yield client
    client.close()


# --- a session -------------------------------------------------------------------------------------------


def test_packet_in_flow_mod_packet_out(live, client):
    client.say(add({}, TO_CONTROLLER, priority=0), m.BarrierRequest(xid=1))
    assert client.hear() == m.BarrierReply(xid=1)
    live.receive(1, udp())
    packet_in = client.hear(m.PacketIn)
    assert (packet_in.match, packet_in.data) == (Match.of(in_port=1), udp())
    client.say(
        add({"in_port": 1}, out(2)), m.PacketOut(1, (Output(2),), packet_in.data), m.BarrierRequest(xid=2)
    )
    assert client.hear() == m.BarrierReply(xid=2)
    assert [s.port for s in live.datapath.take_sent()] == [2]
    live.receive(1, udp())
    assert [s.port for s in live.datapath.take_sent()] == [2]


def test_thousands_of_flow_mods_then_statistics(client):
    for n in range(3000):
        client.say(add({"eth_dst": n + 1}, out(2)))
    client.say(mp.MultipartRequest(MultipartType.FLOW, mp.FlowFilter(Match.of()), xid=9))
    rules = []
    while True:
        part = client.hear(mp.MultipartReply)
        rules += part.items
        if not part.flags:
            break
    assert sorted(rule.match.get("eth_dst").value for rule in rules) == list(range(1, 3001))


def test_link_change_is_announced(live, client):
    client.say(m.BarrierRequest())
    client.hear(m.BarrierReply)
    live.call(live.datapath.set_up, 3, False)
    status = client.hear(m.PortStatus)
    assert (status.port.port_no, status.reason) == (3, 2)


def test_rule_expires_by_the_clock(client):
    client.say(add({}, out(2), hard_timeout=1, flags=1))
    assert client.hear().hard_timeout == 1


def test_hostile_clients_hurt_only_themselves(live, client):
    generator = random.Random(1)
    samples = [add({"in_port": 1}, out(2)).encode(), m.PacketOut(1, (Output(2),), udp()).encode()]
    for _ in range(60):
        hostile = Client.connect(live.port)
        data = bytearray(generator.choice(samples) * 3)
        for _ in range(generator.randrange(8)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        hostile.sock.sendall(bytes(data))
        hostile.reset() if generator.random() < 0.5 else hostile.close()
    client.say(m.BarrierRequest(xid=4))
    assert client.hear(m.BarrierReply) == m.BarrierReply(xid=4)
    eventually(lambda: len(live.agent.switch.sessions) == 1, "the hostile sessions have ended")


def test_running_out_of_descriptors_ends_nothing(live, client, caplog):
    """Those who are connected are served; who comes waits until there are descriptors again."""
    client.say(m.BarrierRequest(xid=3))
    client.hear(m.BarrierReply)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(os.listdir("/proc/self/fd"))
    crowd = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 20, hard))
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                crowd.append(socket.create_connection(("127.0.0.1", live.port)))
        client.say(m.BarrierRequest(xid=4))
        assert client.hear(m.BarrierReply) == m.BarrierReply(xid=4)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for sock in crowd:
            sock.close()
    late = Client.connect(live.port)
    late.say(m.BarrierRequest(xid=5))
    assert late.hear(m.BarrierReply) == m.BarrierReply(xid=5)
    late.close()
    assert caplog.text.count("connections have to wait") == 1


# --- outgoing connections --------------------------------------------------------------------------------


def test_controller_gone_and_back(tmp_path, caplog):
    """Fail-secure: rules and flows stay; the switch says what happens and reconnects."""
    caplog.set_level("INFO")
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    server.close()
    live = LiveAgent(controllers=[f"tcp:127.0.0.1:{port}"])
    try:
        eventually(lambda: "cannot connect (connection refused)" in caplog.text, "the refusal is logged")
        with socket.create_server(("127.0.0.1", port)) as server:
            first = Client(server.accept()[0])
            first.say(add({"in_port": 1}, out(2)), m.BarrierRequest())
            first.hear(m.BarrierReply)
            first.reset()
            eventually(lambda: "connection ended" in caplog.text, "the end is logged")
            live.receive(1, udp())
            eventually(lambda: [s.port for s in live.datapath.take_sent()] == [2], "traffic goes on")
            second = Client(server.accept()[0])
            second.say(mp.MultipartRequest(MultipartType.FLOW, mp.FlowFilter(Match.of())))
            assert len(second.hear(mp.MultipartReply).items) == 1
            second.close()
        assert caplog.text.count("cannot connect (connection refused)") == 1
    finally:
        live.close()


def test_silent_peer_is_given_up(monkeypatch):
    from vswitch.openflow import connection

    monkeypatch.setattr(connection.Connection.__init__, "__defaults__", (100_000_000,))
    live = LiveAgent(listeners=["ptcp:0"])
    try:
        with socket.create_connection(("127.0.0.1", live.port)) as peer:
            peer.settimeout(PATIENCE_S)
            while peer.recv(1000):
                pass
        eventually(lambda: not live.agent.switch.sessions, "the session has ended")
    finally:
        live.close()


FEATURES = mp.MultipartRequest(MultipartType.TABLE_FEATURES, TableFeaturesRequest(), xid=7)
"""A request of 16 bytes, whose answer is more than ten thousand times as long."""


def test_a_peer_that_asks_but_does_not_read_is_given_up(live, monkeypatch):
    monkeypatch.setattr("vswitch.agent.transport.STALLED_S", 1.0)
    sessions = live.agent.switch.sessions
    asleep = Client.connect(live.port)
    session = eventually(lambda: list(sessions), "it is connected")[0]
    asleep.say(*[FEATURES] * 50)
    eventually(lambda: not sessions, "the session has ended")
    assert session.connection.closed == "the peer takes nothing"  # not for an echo that it did not answer
    asleep.close()


def test_a_peer_that_reads_slowly_is_not_given_up(live, monkeypatch):
    """The kernel takes more from the switch when it has much room again, which takes seconds then."""
    monkeypatch.setattr("vswitch.agent.transport.STALLED_S", 3.0)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        sock.connect(("127.0.0.1", live.port))
        slow = Client(sock)
        slow.say(*[FEATURES] * 50)
        for _ in range(40):
            time.sleep(0.1)
            assert sock.recv(1 << 15)
        assert len(live.agent.switch.sessions) == 1


def test_who_asks_for_much_and_does_not_read_gets_no_memory_and_delays_nobody(live, client, monkeypatch):
    """Thousands of requests fit into what is read at a time."""
    monkeypatch.setattr("vswitch.agent.transport.STALLED_S", 3.0)
    client.say(m.BarrierRequest(xid=3))
    client.hear(m.BarrierReply)
    greedy = Client.connect(live.port)
    eventually(lambda: len(live.agent.switch.sessions) == 2, "both are connected")
    session = live.agent.switch.sessions[-1]
    greedy.say(add({"in_port": 1}, out(2)), *[FEATURES] * 4000, add({"in_port": 3}, out(2)))
    eventually(lambda: session.unsent_bytes > MAX_UNSENT_BYTES, "enough waits to be read")
    most = 0
    for xid in range(20):
        asked = time.monotonic()
        client.say(m.BarrierRequest(xid=xid))
        assert client.hear(m.BarrierReply) == m.BarrierReply(xid=xid)
        assert time.monotonic() - asked < 2
        most = max(most, session.unsent_bytes)
        time.sleep(0.02)
    assert most < 4 * MAX_UNSENT_BYTES
    live.receive(1, udp())
    eventually(lambda: [sent.port for sent in live.datapath.take_sent()] == [2], "the first rule holds")
    eventually(lambda: session not in live.agent.switch.sessions, "the session has ended")
    assert session.connection.closed == "the peer takes nothing"
    assert [str(rule.match) for rule in live.agent.switch.tables] == ["in_port=1"]
    greedy.close()


def test_who_reads_late_gets_all_in_order(live, monkeypatch):
    """Later than a silent peer is given up: nobody listens to it meanwhile."""
    monkeypatch.setattr(Connection.__init__, "__defaults__", (500_000_000,))
    client = Client.connect(live.port)
    client.say(*[FEATURES, m.BarrierRequest(xid=8)] * 40, add({}, out(2), table_id=255), FEATURES)
    time.sleep(1.5)
    answers = []
    while len(answers) < 82:
        answer = client.hear()
        client.say()  # what it answers to echo requests
        if not getattr(answer, "flags", 0):
            answers.append(type(answer))
    assert answers == [mp.MultipartReply, m.BarrierReply] * 40 + [m.Error, mp.MultipartReply]
    client.say(m.BarrierRequest(xid=9))
    assert client.hear(m.BarrierReply).xid == 9
    client.close()


@pytest.mark.parametrize("end", ["close", "reset"])
def test_what_is_left_of_a_session_ends_with_it(live, end):
    greedy = Client.connect(live.port)
    session = eventually(lambda: live.agent.switch.sessions, "it is connected")[0]
    greedy.say(*[FEATURES] * 1000, add({"in_port": 3}, out(2)))
    eventually(lambda: session.unsent_bytes > MAX_UNSENT_BYTES, "enough waits to be read")
    getattr(greedy, end)()
    eventually(lambda: not live.agent.switch.sessions, "the session has ended")
    assert list(live.agent.switch.tables) == []


# --- configuration errors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"controllers": ["sctp:127.0.0.1"]},
        {"controllers": ["pssl:6653"]},
        {"controllers": ["tcp:127.0.0.1:x"]},
        {"controllers": ["tcp:127.0.0.1:99999"]},
        {"controllers": ["ptcp:6654"]},
        {"controllers": ["tcp:controller..lab:6653"]},
        {"listeners": ["tcp:127.0.0.1:6654"]},
        {"listeners": ["ptcp:"]},
        {"listeners": [f"ptcp:6654:{'x' * 64}"]},
    ],
    ids=str,
)
def test_wrong_targets(datapath, options):
    with pytest.raises(ConfigError) as caught:
        Agent(datapath, "s1", 1, **options)
    assert caught.value.path in ("controller[0]", "listen[0]")
    assert "tcp:" in caught.value.allowed


def test_port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        agent = LiveAgent(listeners=[f"ptcp:{port}"])
        with pytest.raises(ConfigError, match=f"cannot listen at ptcp:{port} .*address already in use"):
            agent.close()


def test_second_switch_at_the_same_control_socket(live, tmp_path):
    second = LiveAgent(control_path=tmp_path / "s1.ctl")
    with pytest.raises(ConfigError, match="another switch runs"):
        second.close()


def test_control_socket_of_a_killed_switch_is_taken_over(tmp_path):
    path = tmp_path / "s1.ctl"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    live = LiveAgent(control_path=path)
    assert ctl.call(path, "show")["state"] == "ready"
    live.close()
    assert not path.exists()


# --- control socket and vswitchctl -----------------------------------------------------------------------


def run_ctl(capsys, *argv):
    status = ctl.main(argv)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def environment(live, tmp_path, monkeypatch):
    monkeypatch.setenv("VSWITCH_CTL", str(tmp_path / "s1.ctl"))
    monkeypatch.delenv("VSWITCH_RUN_DIR", raising=False)


def test_show(live, client, environment, capsys):
    client.say(m.BarrierRequest())
    client.hear()
    status, text, _ = run_ctl(capsys, "--json", "show")
    shown = json.loads(text)
    assert status == 0
    assert (shown["name"], shown["dpid"], shown["state"], shown["pid"]) == (
        "s1",
        "0" * 15 + "1",
        "ready",
        os.getpid(),
    )
    assert [port["name"] for port in shown["ports"]] == ["tap1", "tap2", "tap3", "s1"]
    (controller,) = shown["controllers"]
    assert controller["connected"] and controller["role"] == "equal"
    assert shown["intent_revision"] is None
    status, text, _ = run_ctl(capsys, "show", "s1")
    assert status == 0 and "s1: ready" in text and "tap2" in text
    assert re.search(r"^LOCAL +s1 +local +02:4c:00:00:00:01 +1500 +down ", text, re.MULTILINE)


def test_local_is_shown_by_its_name(live, client, environment, capsys):
    client.say(add({}, out(Port.LOCAL)), m.BarrierRequest())
    client.hear(m.BarrierReply)
    traced = json.loads(run_ctl(capsys, "--json", "trace", "in_port=1")[1])
    assert traced["program"] == ["output:LOCAL"]


def test_flows_rules_counters(live, client, environment, capsys):
    client.say(add({"in_port": 1}, out(2), cookie=0x77), add({"in_port": 2}, out(1)), m.BarrierRequest())
    client.hear(m.BarrierReply)
    live.receive(1, udp())
    live.receive(3, udp())
    eventually(lambda: len(live.datapath.entries) == 3, "the flows are installed")
    flows = {f["key"]["in_port"]: f for f in json.loads(run_ctl(capsys, "--json", "flow")[1])}
    assert flows[1]["actions"] == ["output:2"] and flows[1]["key"]["ip_src"] == "10.0.0.1"
    assert flows[2]["proactive"] and not flows[1]["proactive"]
    assert flows[3]["actions"] == ["drop"]
    for words in ("flow", "flow s1", "flow -l", "flow -l s1", "flow s1 --list"):
        assert "in_port=1" in run_ctl(capsys, *words.split())[1]
    rules = json.loads(run_ctl(capsys, "--json", "rules")[1])
    assert {"table": 0, "match": "in_port=1", "cookie": "0x77", "packets": 1}.items() <= rules[0].items()
    assert "in_port=2" in run_ctl(capsys, "rules")[1]
    counters = json.loads(run_ctl(capsys, "--json", "counters")[1])
    assert counters["reasons"]["table_miss"] == 1
    assert counters["ports"]["tap1"]["rx_packets"] == 1
    assert run_ctl(capsys, "port")[0] == 0


def test_trace(live, client, environment, capsys):
    client.say(add({"in_port": 1}, out(2), cookie=0x77), m.BarrierRequest())
    client.hear(m.BarrierReply)
    status, text, _ = run_ctl(capsys, "trace", "s1", "in_port=1,eth_type=0x800")
    assert status == 0 and "in_port=1" in text and "output:2" in text


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (b"{", "not JSON"),
        (b"[1]", "a request is"),
        (b'{"method": "dance"}', "there is no method 'dance'"),
        (b'{"method": "wire.sho"}', "there is no method 'wire.sho', the nearest is 'wire.show'"),
        (b'{"method": "show", "params": {"x": 1}}', "show: there is no parameter 'x' (allowed: none)"),
        (b'{"method": "wire.show", "params": {"prot": 1}}', "no parameter 'prot', the nearest is 'port'"),
        (b'{"method": "wire.show"}', "wire.show: missing a required argument: 'port'"),
        (
            b'{"method": "offload.set", "params": {"message": "Dance", "port": 1}}',
            "nothing is set by 'Dance'",
        ),
        (
            b'{"method": "wire.set", "params": {"port": [1], "loss": 1}}',
            "port: expected int | str, got",
        ),
        (b'{"method": "trace", "params": {"flow": 5}}', "trace: flow: expected str, got int"),
        (b'{"method": "trace", "params": {"flow": "in_port=1", "frame": 5}}', "trace: frame: expected str"),
        (b'{"method": "nic.spread", "params": {"port": 1, "weights": [1, "a"]}}', "weights[1]: expected int"),
        (b'{"method": "nic.delete", "params": {"port": 1}}', "takes one of filter, rule"),
        (
            b'{"method": "capture.start", "params": {"port": 1, "file": "x.pcap"}}',
            "is not an absolute path",
        ),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"method": "offload.set", "params": {"message": "LroSet", "port": 1, "lro": 1}}', "lro: expected"),
        (b'{"method": "nic.spread", "params": {"port": 1, "equal": "x"}}', "nic.spread: equal: expected int"),
        (b'{"method": "nic.spread", "params": {"port": 1}}', "nic.spread: takes one of"),
    ],
)
def test_malformed_control_requests(live, tmp_path, request_, sentence):
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(PATIENCE_S)
        control.connect(str(tmp_path / "s1.ctl"))
        control.sendall(request_ + b"\n")
        answer = json.loads(control.makefile().readline())
        assert sentence in answer["error"]
        control.sendall(b'{"method": "show"}\n')
        assert json.loads(control.makefile().readline())["result"]["name"] == "s1"


def test_stop(live, environment, capsys):
    assert run_ctl(capsys, "stop")[0] == 0
    eventually(lambda: not live._thread.is_alive(), "the agent has ended")


def test_module_runs_as_a_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "vswitch.ctl", "-r", str(tmp_path), "show"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == f"vswitchctl: no switch is running (looked in {tmp_path})\n"


def test_delete_of_everything_leaves_nothing(live, client):
    client.say(add({}, out(2)), m.BarrierRequest())
    client.hear(m.BarrierReply)
    live.receive(1, udp())
    client.say(delete(table_id=255), m.BarrierRequest())
    client.hear(m.BarrierReply)
    assert list(live.agent.switch.tables) == []
