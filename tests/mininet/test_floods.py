# SPDX-License-Identifier: Apache-2.0
"""A VM that sends 10,000 frames a second which nobody knows takes nothing from its neighbours."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest
from mininet.net import Mininet

from tests.mininet import hosts
from tests.patience import PATIENCE_S
from tests.protocol.harness import add, m, out
from tests.protocol.live import Client
from topologies.controllers import Ryu
from topologies.lab import Lab
from topologies.links import TapLink
from topologies.nodes import VM, VSwitch
from topologies.processes import poll_until

pytestmark = pytest.mark.root
FRAMES = 20_000
PINGS = 60
FLOOD = f"""
import random, socket, time
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind(("vm1-eth0", 0))
draw = random.Random(1).randbytes
ipv4 = bytes.fromhex("08004500002e00000000401100000a0000010a0000020007000700100000")
frames = [b"\\2" + draw(5) + b"\\2" + draw(5) + ipv4 + draw(20) for _ in range({FRAMES})]
while True:
    for number, frame in enumerate(frames):
        out.send(frame)
        if number % 20 == 19:
            time.sleep(0.002)
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    lab = Lab()
    yield lab
    lab.close()


@pytest.fixture(params=["standalone", "table misses to a controller", "no rule"])
def network(request: pytest.FixtureRequest, lab: Lab) -> Iterator[Mininet]:
    """Three VMs at one switch."""
    net = Mininet(controller=None, autoSetMacs=True, autoStaticArp=True)
    mode = {"failMode": "standalone"} if request.param == "standalone" else {}
    switch = net.addSwitch("s1", cls=VSwitch, lab=lab, **mode)
    for number in (1, 2, 3):
        net.addLink(net.addHost(f"vm{number}", cls=VM, lab=lab), switch, cls=TapLink)
    if request.param == "table misses to a controller":
        net.addController(Ryu("c0", lab=lab))
    net.start()
    if request.param == "no rule":
        path = next(path for path in switch.show()["listens_by_name_at"] if path.endswith(".mgmt"))
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            client = Client(connection)
            client.say(*[add({"eth_dst": number}, out(number)) for number in (2, 3)], m.BarrierRequest())
            client.hear(m.BarrierReply)
    assert poll_until(lambda: hosts.pings(net["vm2"], net["vm3"].IP()), PATIENCE_S)
    yield net
    net.stop()


def received(switch: VSwitch, port_no: int) -> int:
    return next(port["rx_packets"] for port in switch.control("ports") if port["port"] == port_no)


def test_neighbours_of_a_flood_lose_nothing(network: Mininet) -> None:
    """Not a packet of theirs, first ones of connections among them."""
    vm1, vm2, vm3 = (network[name] for name in ("vm1", "vm2", "vm3"))
    flood = vm1.popen([sys.executable, "-c", FLOOD])
    try:
        assert poll_until(lambda: received(network["s1"], 1) > 3000, PATIENCE_S)
        assert hosts.pings(vm2, vm3.IP(), PINGS, 0.02) == PINGS
        for number in range(PINGS):  # each a flow of its own
            output = vm2.cmd(f"ping -c 1 -W 2 -Q {number} -e {number + 1} {vm3.IP()}")
            assert "1 received" in output, output
    finally:
        flood.kill()
        flood.wait()
    counters = network["s1"].control("counters")["reasons"]
    assert counters["punt_limited"] + counters["no_rule"] > 0
