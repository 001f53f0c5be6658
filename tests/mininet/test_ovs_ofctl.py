# SPDX-License-Identifier: Apache-2.0
"""`ovs-ofctl` on a running switch: what it says is what real hosts then see, and what it reads is right."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator

import pytest
from mininet.net import Mininet

from tests.mininet import hosts
from tests.patience import PATIENCE_S
from topologies.lab import Lab
from topologies.nodes import VSwitch
from topologies.processes import end, poll_until, spawn

pytestmark = pytest.mark.root
FORWARD = "priority=1,actions=NORMAL"


class Network:
    """Two plain hosts on a switch without a controller, and `ovs-ofctl` on the switch's passive port."""

    def __init__(self) -> None:
        self.lab = Lab()
        self.net = Mininet(controller=None, autoSetMacs=True, listenPort=26754)
        self.switch = self.net.addSwitch("s1", cls=VSwitch, lab=self.lab)
        self.h1, self.h2 = (self.net.addHost(name) for name in ("h1", "h2"))
        for host in (self.h1, self.h2):
            hosts.silence(host)  # packets are counted to the last one
            self.net.addLink(host, self.switch)
        self.net.start()
        self.net.staticArp()

    @property
    def target(self) -> str:
        return f"tcp:127.0.0.1:{self.switch.listenPort}"

    def ofctl(self, command: str, *arguments: str, fails: bool = False) -> str:
        argv = ["ovs-ofctl", "-O", "OpenFlow13", command, self.target, *arguments]
        result = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
        assert bool(result.returncode) == fails, result.stdout + result.stderr
        return result.stdout + result.stderr

    def reset(self) -> None:
        self.ofctl("del-flows")
        self.ofctl("del-groups")
        self.ofctl("del-meters")

    def pings(self, count: int = 1, interval_s: float = 0.1) -> int:
        """How many of so many pings are answered."""
        return hosts.pings(self.h1, self.h2.IP(), count, interval_s)


@pytest.fixture(scope="module")
def running() -> Iterator[Network]:
    network = Network()
    yield network
    network.net.stop()
    network.lab.close()


@pytest.fixture
def network(running: Network) -> Network:
    running.reset()
    return running


def test_show(network):
    shown = network.ofctl("show")
    assert "dpid:0000000000000001" in shown
    assert "n_tables:254" in shown
    assert re.search(r"^ 1\(s1-eth1\): addr:", shown, re.MULTILINE)
    assert re.search(r"^ 2\(s1-eth2\): addr:", shown, re.MULTILINE)


def test_add_modify_and_delete_flows(network):
    assert network.pings() == 0
    network.ofctl("add-flow", f"cookie=7,{FORWARD}")
    assert network.pings(3) == 3
    network.ofctl("add-flow", "priority=9,icmp,nw_src=10.0.0.1,actions=drop")
    assert network.pings() == 0
    network.ofctl("mod-flows", "icmp,nw_src=10.0.0.1,actions=NORMAL")
    assert network.pings() == 1
    network.ofctl("del-flows", "icmp")
    flows = network.ofctl("dump-flows")
    assert "cookie=0x7" in flows
    assert "nw_src" not in flows


def test_counters_are_exact(network):
    network.ofctl("add-flow", f"cookie=1,{FORWARD}")
    network.ofctl("add-flow", "cookie=2,priority=5,icmp,in_port=1,icmp_type=8,actions=output:2")
    assert network.pings(10) == 10
    flows = network.ofctl("dump-flows", "icmp")
    assert re.search(r"cookie=0x2,.* n_packets=10, n_bytes=980,", flows), flows
    aggregate = network.ofctl("dump-aggregate", "icmp")
    assert "packet_count=10 byte_count=980 flow_count=1" in aggregate
    assert network.ofctl("dump-tables").count("table ") >= 1


def test_idle_and_hard_timeouts(network):
    network.ofctl("add-flow", f"hard_timeout=4,{FORWARD}")
    assert network.pings() == 1
    assert poll_until(lambda: "NORMAL" not in network.ofctl("dump-flows"), PATIENCE_S, 0.2)
    assert network.pings() == 0


def test_groups(network):
    network.ofctl("add-group", "group_id=4,type=all,bucket=output:2,bucket=output:in_port")
    network.ofctl("add-flow", "priority=5,in_port=1,actions=group:4")
    network.ofctl("add-flow", "priority=5,in_port=2,actions=output:1")
    assert network.pings(2) == 2
    assert "group_id=4,type=all,bucket=" in network.ofctl("dump-groups")
    stats = network.ofctl("dump-group-stats", "group_id=4")
    assert re.search(r"group_id=4,.*packet_count=2,", stats), stats
    network.ofctl("mod-group", "group_id=4,type=all,bucket=output:in_port")
    assert network.pings() == 0
    network.ofctl("del-groups", "group_id=4")
    assert "group:4" not in network.ofctl("dump-flows")


def test_meters(network):
    network.ofctl("add-meter", "meter=3,pktps,bands=type=drop rate=5")
    network.ofctl("add-flow", "priority=5,in_port=1,actions=meter:3,output:2")
    network.ofctl("add-flow", "priority=5,in_port=2,actions=output:1")
    assert network.pings(40, 0.05) < 30
    assert "meter=3 pktps bands=" in network.ofctl("dump-meters")
    stats = network.ofctl("meter-stats")
    assert re.search(r"meter:3 flow_count:1 packet_in_count:40 ", stats), stats


def test_header_rewriting(network):
    """A made-up address of h2 is translated there and back."""
    network.h1.cmd("arp -s 10.0.0.99 00:00:00:00:00:02")
    network.ofctl("add-flow", "priority=9,ip,in_port=1,nw_dst=10.0.0.99,actions=mod_nw_dst:10.0.0.2,output:2")
    network.ofctl("add-flow", "priority=9,ip,in_port=2,actions=mod_nw_src:10.0.0.99,output:1")
    assert "1 received" in network.h1.cmd("ping -c 1 -W 1 10.0.0.99")


def test_ports(network):
    network.ofctl("add-flow", FORWARD)
    before = _port(network.ofctl("dump-ports", "1"))
    assert network.pings(10) == 10
    after = _port(network.ofctl("dump-ports", "1"))
    assert after["rx"] - before["rx"] >= 10
    assert after["tx"] - before["tx"] >= 10
    network.ofctl("mod-port", "s1-eth1", "no-forward")
    assert "NO_FWD" in network.ofctl("dump-ports-desc")
    assert network.pings() == 0
    network.ofctl("mod-port", "1", "forward")
    assert network.pings() == 1


def _port(text: str) -> dict[str, int]:
    return {kind: int(count) for kind, count in re.findall(r"(rx|tx) pkts=(\d+)", text)}


def test_monitor_and_packet_out(network, tmp_path):
    """A frame that the tool sends reaches the host; one that a rule sends to the controller, the tool."""
    network.ofctl("add-flow", "priority=5,icmp,in_port=1,actions=CONTROLLER:65535")
    log = tmp_path / "monitor"
    with log.open("w") as output:
        argv = ["ovs-ofctl", "-O", "OpenFlow13", "monitor", network.target, "65534"]
        # it makes a socket in the folder of Open vSwitch's service, which need not be there
        environment = {**os.environ, "OVS_RUNDIR": str(tmp_path)}
        monitor = spawn(argv, stdout=output, stderr=subprocess.STDOUT, env=environment)

    def packet_in_seen() -> bool:
        network.pings()  # again: the first may come before the tool has connected
        return "icmp_type=8" in log.read_text()

    try:
        assert poll_until(packet_in_seen, PATIENCE_S, 0.1), log.read_text()
    finally:
        end(monitor)
    assert "(via action)" in log.read_text()
    frame = "00000000000200000000000188b5" + "00" * 46
    capture = network.h2.popen(["tcpdump", "-c", "1", "-ni", "h2-eth0", "ether", "proto", "0x88b5"])
    assert any(b"listening on" in line for line in capture.stderr)
    network.ofctl("packet-out", f"in_port=1, packet={frame}, actions=output:2")
    captured, _ = capture.communicate(timeout=PATIENCE_S)
    assert b"0x88b5" in captured


def test_what_cannot_be_is_refused(network):
    assert "OFPBAC_BAD_OUT_PORT" in network.ofctl("add-flow", "actions=TABLE", fails=True)
    assert "OFPBAC_BAD_OUT_GROUP" in network.ofctl("add-flow", "actions=group:77", fails=True)
    assert "OFPMMFC_UNKNOWN_METER" in network.ofctl(
        "mod-meter", "meter=9,pktps,bands=type=drop rate=5", fails=True
    )
