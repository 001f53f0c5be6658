# SPDX-License-Identifier: Apache-2.0
"""Passive ports on loopback and control sockets are for root and the switch's own user, not for all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import socket
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.protocol.harness import add, out
from tests.protocol.live import Client, LiveAgent, eventually
from vswitch import ctl
from vswitch.agent import peer_user
from vswitch.agent.peer_user import Endpoint
from vswitch.openflow import messages as m
from vswitch.openflow.constants import ErrorType, HelloFailed

NOBODY = 65534
LIBC = ctypes.CDLL(None)
pytestmark = pytest.mark.root


@contextlib.contextmanager
def acting_as(user):
    """Sockets that this thread makes are this user's (setfsuid(2))."""
    LIBC.setfsuid(user)
    try:
        yield
    finally:
        LIBC.setfsuid(0)


@pytest.fixture(params=["ptcp:0", "ptcp:0:::1", "ptcp:0:0.0.0.0"])
def live(request):
    agent = LiveAgent(listeners=[request.param])
    agent.address = "::1" if "::" in request.param else "127.0.0.1"
    yield agent
    agent.close()


def connect(live, address=None):
    return Client(socket.create_connection((address or live.address, live.port), PATIENCE_S))


def rules(live):
    return live.call(lambda: len(list(live.agent.switch.tables)))


def test_root_is_served(live):
    client = connect(live)
    client.say(m.BarrierRequest(xid=7))
    assert client.hear() == m.BarrierReply(xid=7)
    client.close()


def test_another_user_is_told_so_and_changes_nothing(live):
    with acting_as(NOBODY):
        client = connect(live)
    with contextlib.suppress(ConnectionError):  # it may be refused before it has said all
        client.say(add({}, out(2)), m.BarrierRequest(xid=7))
    error = client.hear()
    assert (error.type, error.code) == (ErrorType.HELLO_FAILED, HelloFailed.EPERM)
    assert error.data == b"only root may use this port, and this is a program of user 65534"
    with contextlib.suppress(ConnectionError):
        assert client.sock.recv(100) == b""
    assert rules(live) == 0
    client.close()


def test_a_program_that_goes_at_once_is_not_taken_for_roots(live):
    """The kernel calls a socket root's that its program has closed."""

    def speak_and_go():
        """In the agent's thread, so that it is over when the agent hears of it."""
        with acting_as(NOBODY):
            client = connect(live)
        client.say(add({}, out(2)))
        client.close()

    live.call(speak_and_go)
    last = connect(live)  # is accepted later
    last.say(m.BarrierRequest(xid=7))
    last.hear()
    assert rules(live) == 0
    last.close()


def test_the_switchs_own_user_is_served(live, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    with acting_as(NOBODY):
        client = connect(live)
    client.say(m.BarrierRequest(xid=7))
    assert client.hear() == m.BarrierReply(xid=7)
    client.close()


@pytest.mark.parametrize("user", [0, NOBODY])
def test_an_ipv6_socket_that_speaks_ipv4_is_found(user):
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = Endpoint(*server.getsockname())
        with acting_as(user), socket.socket(socket.AF_INET6) as client:
            client.connect(("::ffff:127.0.0.1", ours.port))
            peer = Endpoint("127.0.0.1", client.getsockname()[1])
            assert peer_user.user_of(peer, ours) == user
            assert peer_user.user_of(ours, peer) is None  # nobody has accepted it
        assert peer_user.user_of(peer, ours) is None


def test_a_listener_at_the_peers_address_is_not_taken_for_the_peer():
    """Where no connection is, the kernel tells of who listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert peer_user.user_of(Endpoint(*server.getsockname()), Endpoint("127.0.0.1", 1)) is None


def test_elsewhere_the_network_is_trusted():
    assert peer_user.refusal(Endpoint("192.0.2.1", 6653), Endpoint("192.0.2.2", 4711)) is None


@pytest.mark.skipif(not shutil.which("ovs-ofctl"), reason="ovs-ofctl is not installed")
def test_ovs_ofctl_of_another_user_fails(live):
    target = f"tcp:[{live.address}]:{live.port}" if ":" in live.address else f"tcp:{live.address}:{live.port}"
    add_flow = ["ovs-ofctl", "-O", "OpenFlow13", "add-flow", target, "actions=drop"]
    assert subprocess.run(add_flow, capture_output=True, user=NOBODY, timeout=PATIENCE_S).returncode != 0
    assert rules(live) == 0
    assert subprocess.run(add_flow, capture_output=True, timeout=PATIENCE_S).returncode == 0
    eventually(lambda: rules(live) == 1, "root's rule is there")


@pytest.mark.parametrize(("folder_mode", "named"), [(0o755, "s1.ctl"), (0o700, "")])
def test_vswitchctl_of_another_user_says_whose_it_is(capsys, monkeypatch, folder_mode, named):
    monkeypatch.delenv("VSWITCH_CTL", raising=False)
    with tempfile.TemporaryDirectory() as folder:  # others may enter it, unlike tmp_path
        os.chmod(folder, 0o755)
        run_dir = Path(folder, "run")
        run_dir.mkdir()
        run_dir.chmod(folder_mode)
        agent = LiveAgent(control_path=run_dir / "s1.ctl")
        try:
            assert ctl.main(["-r", str(run_dir), "show"]) == 0
            capsys.readouterr()
            with acting_as(NOBODY):
                assert ctl.main(["-r", str(run_dir), "show"]) == 1
        finally:
            agent.close()
    whose = "is for its owner only: run this as the user whose switch it is, for a lab's with sudo"
    assert capsys.readouterr().err == f"vswitchctl: {run_dir / named} {whose}\n"


def test_programs_that_are_gone_before_they_are_accepted_do_no_harm(live):
    reset = struct.pack("ii", 1, 0)
    for _ in range(200):
        with socket.create_connection((live.address, live.port), PATIENCE_S) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    client = connect(live)
    client.say(m.BarrierRequest(xid=7))
    assert client.hear() == m.BarrierReply(xid=7)
    client.close()


def test_where_the_kernel_cannot_be_asked_nobody_is_served_and_the_switch_goes_on(live, monkeypatch):
    def out_of_descriptors(near, far):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(peer_user, "user_of", out_of_descriptors)
        client = connect(live)
        error = client.hear()
        assert (error.type, error.code) == (ErrorType.HELLO_FAILED, HelloFailed.EPERM)
        assert b"cannot be asked whose program this is ([Errno 24] Too many open files)" in error.data
        client.close()
    test_root_is_served(live)
