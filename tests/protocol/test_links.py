# SPDX-License-Identifier: Apache-2.0
"""What happens to interfaces is known at once: the agent on real ports, without its regular look at them."""

from __future__ import annotations

import os

import pytest

from tests.packet.lab import Namespace
from tests.protocol.live import Client, LiveAgent, eventually
from vswitch.agent import agent
from vswitch.config import parse_port
from vswitch.datapath import Datapath
from vswitch.openflow.constants import PortState
from vswitch.openflow.messages import BarrierReply, BarrierRequest, PortStatus

pytestmark = pytest.mark.root


@pytest.fixture
def spaces():
    """Two namespaces: the switch's, with the veth p0 and its peer q0, and a VM's."""
    made = [Namespace(f"lw{os.getpid()}{name}") for name in ("switch", "vm")]
    made[0].ip("link", "add", "p0", "type", "veth", "peer", "name", "q0")
    for name in ("p0", "q0"):
        made[0].ip("link", "set", name, "up")
    yield made
    for space in made:
        space.close()


@pytest.fixture
def live(spaces, monkeypatch):
    monkeypatch.setattr(agent, "TICK_S", 3600.0)
    here, vm = spaces
    with here.inside():
        datapath = Datapath(1, [parse_port("1=packet:p0"), parse_port(f"2=tap:t0@{vm.name}")])
    agent_thread = LiveAgent(datapath=datapath, listeners=["ptcp:0"])
    yield agent_thread
    agent_thread.close()
    datapath.close()


def test_what_happens_to_interfaces_is_known_at_once(spaces, live):
    here, vm = spaces
    client = Client.connect(live.port)
    client.say(BarrierRequest())
    client.hear(BarrierReply)

    def heard():
        """(port, its state) that the controller is told next."""
        desc = client.hear(PortStatus).port
        return desc.port_no, desc.state

    here.ip("link", "set", "q0", "down")
    assert heard() == (1, PortState.LINK_DOWN)
    here.ip("link", "set", "q0", "up")
    assert heard() == (1, PortState.LIVE)
    vm.ip("link", "set", "t0", "up")
    assert heard() == (2, PortState.LIVE)
    vm.ip("link", "set", "t0", "mtu", 1400)
    eventually(lambda: live.call(live.datapath.ports)[1].mtu == 1400, "the VM's MTU")
    here.ip("link", "set", "p0", "mtu", 1300)
    eventually(lambda: live.call(live.datapath.ports)[0].mtu == 1300, "the interface's MTU")
    shaping = "tbf rate 10mbit burst 15000 latency 12ms"
    here.run("tc", "qdisc", "add", "dev", "p0", "root", *shaping.split())
    assert client.hear(PortStatus).port.curr_speed == 10_000
    here.run("tc", "qdisc", "delete", "dev", "p0", "root")
    assert client.hear(PortStatus).port.curr_speed == 10_000_000
    here.ip("link", "delete", "p0")
    assert heard() == (1, PortState.LINK_DOWN)
    here.ip("link", "add", "p0", "type", "veth", "peer", "name", "q0")
    for name in ("p0", "q0"):
        here.ip("link", "set", name, "up")
    told = heard()
    if told == (1, PortState.LINK_DOWN):  # of another interface, with another address, which is not up yet
        told = heard()
    assert told == (1, PortState.LIVE)
    client.close()
