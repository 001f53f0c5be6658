# SPDX-License-Identifier: Apache-2.0
"""What passes through switches that know nothing of it: tunnels of hosts and VMs, pushed headers, BIG TCP."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest
from mininet.net import Mininet

from tests.mininet import hosts
from tests.patience import PATIENCE_S
from topologies.lab import Lab
from topologies.links import TapLink, WireLink
from topologies.nodes import VM, VSwitch
from topologies.processes import poll_until

pytestmark = pytest.mark.root

LEAST_BPS = 100e6
"""What a broken way gives is below 30 Mbit/s; what a whole one gives is in the Gbit/s."""
SLOW_PATH_BPS = 5e6
"""A rule that looks behind a second tag takes each packet through the agent."""
DROPS = ("rx_bad_descriptor", "mtu_exceeded", "rx_too_short", "rx_bad_checksum")


class Line:
    """h1 - s1 - s2 - h2: the switches are joined by a wire or a plain link, and know what they are told."""

    def __init__(self, between: str, ends: str = "plain") -> None:
        self.lab = Lab()
        self.net = net = Mininet(controller=None, listenPort=6654)
        self.s1, self.s2 = (
            net.addSwitch(name, cls=VSwitch, lab=self.lab, batch=True) for name in ("s1", "s2")
        )
        kind = {"cls": VM, "lab": self.lab, "iperf3": False} if ends == "tap" else {}
        self.h1, self.h2 = (net.addHost(name, **kind) for name in ("h1", "h2"))
        for host, switch in ((self.h1, self.s1), (self.h2, self.s2)):
            net.addLink(host, switch, **({"cls": TapLink} if ends == "tap" else {}))
        net.addLink(self.s1, self.s2, **({"cls": WireLink} if between == "wire" else {}))
        net.start()

    def rule(self, switch: VSwitch, text: str) -> None:
        output = switch.dpctl("add-flow", text)
        assert not output.strip(), output

    def stop(self) -> None:
        self.net.stop()
        self.lab.close()


@pytest.fixture
def line() -> Iterator:
    made = []

    def make(*words: str) -> Line:
        made.append(Line(*words))
        return made[-1]

    yield make
    for network in made:
        network.stop()
    Lab.close_current()


def transfer(sender, receiver, target: str) -> float:
    """Bits per second of one second of TCP."""
    server = hosts.start_server(receiver, "iperf3", "-s", "-1", port=hosts.IPERF3_PORT)
    report = json.loads(sender.cmd(f"iperf3 -c {target} -t 1 -J"))
    assert "error" not in report, report["error"]
    server.wait(PATIENCE_S)
    return report["end"]["sum_received"]["bits_per_second"]


def expect_no_drops(*switches: VSwitch) -> None:
    for switch in switches:
        reasons = switch.control("counters")["reasons"]
        assert {name: reasons[name] for name in DROPS} == dict.fromkeys(DROPS, 0), switch.name


def join_by_learning(network: Line) -> None:
    for switch in (network.s1, network.s2):
        network.rule(switch, "actions=normal")


TUNNELS = {
    "vxlan": "vxlan id 7 {local} {remote} dstport 4789 noudpcsum",
    "vxlan-checksum": "vxlan id 7 {local} {remote} dstport 4789 udpcsum",
    "vxlan-ipv6": "vxlan id 7 {local} {remote} dstport 4789",
}


def tunnel(host, number: int, kind: str) -> None:
    """Give a host a tunnel of its own, as Docker's overlays and EVPN fabrics have them."""
    other = 3 - number
    if kind.endswith("ipv6"):
        host.cmd(f"ip address add fd77::{number}/64 dev {host.defaultIntf()} nodad")
        ends = {"local": f"local fd77::{number}", "remote": f"remote fd77::{other}"}
    else:
        ends = {"local": f"local 10.0.0.{number}", "remote": f"remote 10.0.0.{other}"}
    output = host.cmd(f"ip link add own type {TUNNELS[kind].format(**ends)} dev {host.defaultIntf()}")
    assert not output.strip(), output
    host.cmd(f"ip address add 10.9.0.{number}/24 dev own; ip link set own up")


@pytest.mark.parametrize("kind", TUNNELS)
@pytest.mark.parametrize("between", ["wire", "link"])
def test_a_hosts_own_tunnel(line, between, kind):
    network = line(between)
    join_by_learning(network)
    for number, host in enumerate(network.net.hosts, 1):
        tunnel(host, number, kind)
    assert hosts.pings(network.h1, "10.9.0.2", 3) >= 2
    assert transfer(network.h1, network.h2, "10.9.0.2") > LEAST_BPS
    expect_no_drops(network.s1, network.s2)


def test_an_injector_comes_and_goes_with_its_port(line):
    """Also with an interface that is removed and made anew under the switch."""
    network = line("link")
    join_by_learning(network)
    for number, host in enumerate(network.net.hosts, 1):
        tunnel(host, number, "vxlan")
    assert injectors() == 0
    assert transfer(network.h1, network.h2, "10.9.0.2") > LEAST_BPS
    if injectors() == 0:
        pytest.skip("this kernel's TAPs know nothing of tunnels over UDP (Linux 6.17)")
    before = injectors()
    subprocess.run(["ip", "link", "del", "s1-eth2"], check=True)
    link = "ip link add s1-eth2 type veth peer name s2-eth2; ip link set s1-eth2 up; ip link set s2-eth2 up"
    subprocess.run(["sh", "-ec", link], check=True)
    assert poll_until(lambda: all(port["up"] for port in network.s1.control("ports")[:2]), PATIENCE_S)
    assert poll_until(lambda: hosts.pings(network.h1, "10.9.0.2") == 1, PATIENCE_S)
    assert transfer(network.h1, network.h2, "10.9.0.2") > LEAST_BPS
    assert injectors() == before
    for switch in (network.s1, network.s2):
        switch.end_process()
    assert injectors() == 0


def injectors() -> int:
    links = json.loads(subprocess.check_output(["ip", "-j", "link", "show"]))
    return sum(link["ifname"].startswith("inject") for link in links)


def test_a_vms_own_tunnel(line):
    network = line("wire", "tap")
    join_by_learning(network)
    for number, host in enumerate(network.net.hosts, 1):
        tunnel(host, number, "vxlan")
    assert transfer(network.h1, network.h2, "10.9.0.2") > LEAST_BPS
    expect_no_drops(network.s1, network.s2)


TAGGED = "vlan_tci=0x1000/0x1000"
PUSHED = {
    "mpls": ["ip,actions=push_mpls:0x8847", "mpls,actions=pop_mpls:0x0800"],
    "two-mpls": [
        "ip,actions=push_mpls:0x8847,push_mpls:0x8847",
        "mpls,actions=pop_mpls:0x8847,pop_mpls:0x0800",
    ],
    "service-tag": ["ip,actions=push_vlan:0x88a8", f"{TAGGED},actions=pop_vlan"],
    "three-tags": ["ip,actions=push_vlan:0x88a8,push_vlan:0x8100", f"{TAGGED},actions=pop_vlan"],
}
"""What is pushed in front of IP, and how it is popped."""


@pytest.mark.parametrize("pushed", PUSHED)
@pytest.mark.parametrize("between", ["wire", "link"])
def test_headers_that_switches_push_between_them(line, between, pushed):
    """Full-sized frames of hosts whose MTU is 1500 have room for them on the way."""
    network = line(between)
    push, pop = PUSHED[pushed]
    for switch in (network.s1, network.s2):
        network.rule(switch, "priority=9,arp,in_port=1,actions=output:2")
        network.rule(switch, "priority=9,arp,in_port=2,actions=output:1")
        if pushed == "three-tags":  # ovs-ofctl lets one rule push two
            network.rule(switch, f"in_port=1,{push},goto_table:1")
            network.rule(switch, f"table=1,{TAGGED},in_port=1,actions=push_vlan:0x8100,output:2")
            network.rule(switch, f"in_port=2,{pop},goto_table:1")
            network.rule(switch, f"table=1,{TAGGED},in_port=2,actions=pop_vlan,goto_table:2")
            network.rule(switch, f"table=2,{TAGGED},in_port=2,actions=pop_vlan,output:1")
        else:
            network.rule(switch, f"in_port=1,{push},output:2")
            network.rule(switch, f"in_port=2,{pop},output:1")
    assert hosts.pings(network.h1, "10.0.0.2 -s 1472 -M do", 3) >= 2
    least = LEAST_BPS if pushed != "three-tags" else SLOW_PATH_BPS
    assert transfer(network.h1, network.h2, "10.0.0.2") > least
    expect_no_drops(network.s1, network.s2)


def test_super_frames_of_more_than_64_kilobytes(line):
    network = line("link")
    join_by_learning(network)
    for number, host in enumerate(network.net.hosts, 1):
        host.cmd(f"ip address add fd77::{number}/64 dev {host.defaultIntf()} nodad")
        output = host.cmd(f"ip link set {host.defaultIntf()} gso_max_size 200000 gro_max_size 200000")
        if output.strip():
            pytest.skip(f"no BIG TCP here: {output}")
    assert transfer(network.h1, network.h2, "fd77::2") > LEAST_BPS
    expect_no_drops(network.s1, network.s2)


def test_jumbo_frames_are_coalesced_by_the_switch(line):
    """An MTU that a user gives the interfaces while the network runs holds at once."""
    network = line("link")
    join_by_learning(network)
    for host in network.net.hosts:
        interface = host.defaultIntf()
        host.cmd(f"ip link set {interface} mtu 9000; ethtool -K {interface} tso off gso off")
    for switch in (network.s1, network.s2):
        for interface in (f"{switch}-eth1", f"{switch}-eth2"):
            subprocess.run(["ip", "link", "set", interface, "mtu", "9000"], check=True)
    assert hosts.pings(network.h1, "10.0.0.2 -s 8972 -M do", 5) >= 3
    network.s1.control("offload.set", message="LroSet", port=1, queue=0, lro="on")
    assert transfer(network.h1, network.h2, "10.0.0.2") > LEAST_BPS
    reasons = network.s1.control("counters")["reasons"]
    assert reasons["gro_merged"] > 3 * reasons["gro_aggregates"] > 0
    expect_no_drops(network.s1, network.s2)


def test_an_interface_gets_its_mtu_back():
    lab = Lab()
    net = Mininet(controller=None)
    try:
        switch = net.addSwitch("s1", cls=VSwitch, lab=lab)
        net.addLink(net.addHost("h1"), switch)
        net.start()

        def mtu() -> int:
            return json.loads(subprocess.check_output(["ip", "-j", "link", "show", "s1-eth1"]))[0]["mtu"]

        assert mtu() == 1500 + 64
        switch.process.kill()
        switch.restart()
        assert mtu() == 1500 + 64
        (port,) = (port for port in switch.control("ports") if port["name"] == "s1-eth1")
        assert port["mtu"] == 1500
        switch.end_process()
        assert mtu() == 1500
    finally:
        net.stop()
        lab.close()
