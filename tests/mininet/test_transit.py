# SPDX-License-Identifier: Apache-2.0
"""An overlay over more than two servers: those between forward the packets of the others' tunnels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from mininet.net import Mininet

from tests.mininet import hosts
from tests.mininet.mn_cli import run_mn
from topologies.controllers import Orchestrator
from topologies.errors import LabError
from topologies.lab import Lab
from topologies.links import TapLink, WireLink
from topologies.nodes import VM, VSwitch
from topologies.processes import poll_until

pytestmark = pytest.mark.root
LINE = [(1, 2), (2, 3)]
RING = [(1, 2), (2, 3), (3, 4), (4, 1)]
TREE = [(1, 2), (1, 3), (2, 4), (2, 5)]


@pytest.fixture
def servers() -> Iterator[Callable[..., Mininet]]:
    """Makes networks of servers with a VM each (but those of `without`), joined as `edges` tell."""
    made: list[tuple[Mininet, Lab]] = []

    def make(edges, link=WireLink, without=(), tunnel="vxlan", **options) -> Mininet:
        lab = Lab()
        net = Mininet(controller=None, autoSetMacs=True)
        made.append((net, lab))
        net.addController("c0", Orchestrator, lab=lab, tunnel=tunnel)
        count = max(max(edge) for edge in edges)
        for number in range(1, count + 1):
            net.addSwitch(f"s{number}", cls=VSwitch, lab=lab, batch=True)
        for one, other in edges:
            net.addLink(net[f"s{one}"], net[f"s{other}"], cls=link, **options)
        for number in sorted({*range(1, count + 1)} - set(without)):
            vm = net.addHost(f"vm{number}", cls=VM, lab=lab, network="blue")
            net.addLink(vm, net[f"s{number}"], cls=TapLink)
        return net

    yield make
    for net, lab in made:
        net.stop()
        lab.close()


@pytest.mark.parametrize(
    "words",
    ["servers=3,shape=line", "servers=4,shape=ring", "servers=4,shape=line,vms=2,mtu=9000,delay=1ms"],
)
def test_the_topology_of_mn(words):
    result = run_mn(
        "--topo", f"servers,{words}", "--switch", "vswitch", "--controller", "orchestrator",
        "--test", "pingall", timeout_s=100,
    )  # fmt: skip
    assert " 0% dropped" in result.stdout + result.stderr, result.stdout + result.stderr
    assert result.returncode == 0


def test_tcp_through_a_server_that_forwards():
    """Super-frames of tunnels pass it whole."""
    result = run_mn(
        "--topo", "servers,servers=3", "--switch", "vswitch", "--controller", "orchestrator",
        "--test", "iperf3,seconds=2", timeout_s=100,
    )  # fmt: skip
    rate = re.search(r"vm1 to vm3, 1 flow: ([\d.]+) Gbit/s", result.stdout + result.stderr)
    assert rate and float(rate[1]) > 0.1, result.stdout + result.stderr


@pytest.mark.parametrize("tunnel", ["vxlan", "gre", "ipip"])
def test_a_tree_with_a_server_that_only_forwards(servers, tunnel):
    net = servers(TREE, without=(1,), tunnel=tunnel)
    net.start()
    assert net.pingAll(timeout="2") == 0


def test_servers_on_plain_links(servers):
    net = servers(LINE, link=None)
    net.start()
    assert net.pingAll(timeout="2") == 0


def test_a_cut_wire_is_missed_by_those_who_use_it_until_it_is_mended(servers):
    """Nothing is sent another way: that takes a router."""
    net = servers(RING)
    net.start()
    vm1, vm2, vm4 = net["vm1"], net["vm2"], net["vm4"]
    assert net.pingAll(timeout="2") == 0
    net.configLinkStatus("s1", "s2", "down")
    assert hosts.pings(vm1, vm2.IP()) == 0
    assert hosts.pings(vm1, vm4.IP()) == 1
    net.configLinkStatus("s1", "s2", "up")
    assert poll_until(lambda: hosts.pings(vm1, vm2.IP()), 10)
    assert net.pingAll(timeout="2") == 0


def test_an_mtu_must_fit_every_wire_on_the_way(servers):
    net = servers([(1, 2)])
    net.addSwitch("s3", cls=VSwitch, lab=net["s1"].lab, batch=True)
    net.addLink(net["s2"], net["s3"], cls=WireLink, mtu=1300)
    net.addLink(net.addHost("vm3", cls=VM, lab=net["s1"].lab), net["s3"], cls=TapLink)
    net.start()
    assert net["vm1"].tap.mtu == 1250
    assert "1 received" in net["vm1"].cmd(f"ping -c 1 -W 2 -M do -s 1222 {net['vm3'].IP()}")


def test_servers_that_no_link_joins(servers):
    net = servers([(1, 2), (3, 4)])
    net.build()
    with pytest.raises(
        LabError,
        match=r"^vm1 and vm3 are in network blue, and no links lead from s1 to s3: join them by WireLinks, "
        r"directly or through other servers$",
    ):
        net.start()


def test_servers_of_different_networks_need_no_link(servers):
    net = servers([(1, 2)])
    net.addSwitch("s3", cls=VSwitch, lab=net["s1"].lab, batch=True)
    net.addLink(net.addHost("vm3", cls=VM, lab=net["s1"].lab, network="red"), net["s3"], cls=TapLink)
    net.build()
    net["s1"].lab.validate()


def test_the_intent_of_two_servers_is_as_simple_as_it_was(servers):
    net = servers([(1, 2)])
    net.build()
    assert net["s1"].lab.intent()["servers"]["s1"] == {
        "dpid": 1, "underlay_ip": "192.168.0.1", "uplink_port": 1,
    }  # fmt: skip
