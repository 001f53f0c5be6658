# SPDX-License-Identifier: Apache-2.0
"""The switch in place of Mininet's own: plain hosts on plain links, stock Ryu applications, mn's options."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from mininet.link import TCLink
from mininet.net import Mininet

from tests.controller.ryu_process import needs_ryu
from tests.mininet import hosts
from tests.mininet.mn_cli import MnCli, run_mn
from tests.patience import PATIENCE_S
from topologies.controllers import Ryu
from topologies.errors import LabError
from topologies.lab import Lab
from topologies.links import TapLink, WireLink
from topologies.nodes import VM, VSwitch
from topologies.processes import poll_until
from topologies.registry import LABS_DIR

pytestmark = [pytest.mark.root, needs_ryu]
STOCK = ("--switch", "vswitch", "--controller", "ryu,ryu.app.simple_switch_13")


@pytest.fixture
def single() -> Iterator[Callable[..., Mininet]]:
    """Makes networks of one switch s1 with hosts h1 and h2, started, under a learning switch by Ryu."""
    made: list[tuple[Mininet, Lab]] = []

    def make(prefix: str = "", **link: object) -> Mininet:
        lab = Lab()
        net = Mininet(controller=None)
        made.append((net, lab))
        net.addController("c0", Ryu, lab=lab)
        switch = net.addSwitch(f"{prefix}s1", cls=VSwitch, dpid="1", lab=lab)
        for number in (1, 2):
            net.addLink(net.addHost(f"{prefix}h{number}"), switch, **link)
        net.start()
        assert poll_until(switch.connected, PATIENCE_S)
        return net

    yield make
    for net, lab in made:
        net.stop()
        lab.close()


def test_a_tree_of_plain_hosts():
    """The line of the README."""
    result = run_mn("--topo", "tree,depth=2,fanout=3", *STOCK, "--test", "pingall", timeout_s=110)
    assert "0% dropped (72/72 received)" in result.stdout + result.stderr, result.stdout + result.stderr
    assert result.returncode == 0


@pytest.mark.skipif(shutil.which("iperf") is None, reason="iperf is not installed")
def test_mn_s_own_iperf_ends_and_without_a_controller_there_is_a_learning_switch():
    result = run_mn(
        "--topo", "single,2", "--switch", "vswitch", "--test", "iperf,seconds=1+iperfudp,seconds=1"
    )
    tcp, udp = re.findall(r"Results: \[(.*)\]", result.stdout + result.stderr)
    assert len(re.findall(r"'[\d.]+ [MG]bits/sec'", tcp)) == 2, tcp
    assert len(re.findall(r"'[\d.]+ Mbits/sec'", udp)) == 2 and udp.startswith("'10M'"), udp
    assert result.returncode == 0


def test_mn_with_shaped_links():
    """`--link tc`: the kernel shapes both ends, packets of a super-frame included. And mn's other words."""
    with MnCli("--topo", "single,2", "--link", "tc,bw=100", *STOCK) as mn:
        assert "0% dropped (2/2 received)" in mn.enter("pingall")
        mn.enter("h2 iperf3 -s -1 -D; until ss -tln | grep -q :5201; do sleep 0.05; done")
        report = json.loads(mn.enter("h1 iperf3 -c 10.0.0.2 -t 2 -J"))
        assert 60e6 < report["end"]["sum_received"]["bits_per_second"] < 105e6
        assert "actions=CONTROLLER" in mn.enter("dpctl dump-flows")
        assert "h1-eth0" in mn.enter("net")
        mn.enter("link s1 h1 down")
        assert "100% packet loss" in mn.enter("h2 ping -c 1 -W 1 h1")
        mn.enter("link s1 h1 up")
        assert poll_until(lambda: ", 0% packet loss" in mn.enter("h2 ping -c 1 -W 1 h1"), PATIENCE_S)
        mn.leave()
        assert mn.process.returncode == 0


def test_super_frames_and_partial_checksums_arrive_whole(single):
    """Both hosts keep the offloads that they have by default."""
    net = single()
    h1, h2 = net.hosts
    server = hosts.start_server(h2, "iperf3", "-s", "-1", port=hosts.IPERF3_PORT)
    report = json.loads(h1.cmd(f"iperf3 -c {h2.IP()} -n 500M -J"))
    server.wait(PATIENCE_S)
    assert report["end"]["sum_received"]["bytes"] >= 500_000_000
    for host in net.hosts:
        errors = host.cmd("nstat -az TcpInCsumErrors | tail -1").split()
        assert errors[1] == "0"
    assert "tcp-segmentation-offload: on" in h1.cmd("ethtool -k h1-eth0")


def test_plain_hosts_and_vms_on_one_switch():
    lab = Lab()
    net = Mininet(controller=None)
    try:
        net.addController("c0", Ryu, lab=lab)
        switch = net.addSwitch("s1", cls=VSwitch, lab=lab)
        net.addLink(net.addHost("h1", ip="10.0.0.1/8"), switch, cls=TCLink)
        vm = net.addHost("vm1", cls=VM, lab=lab, ip="10.0.0.2/8", iperf3=False)
        net.addLink(vm, switch, cls=TapLink)
        net.start()
        assert poll_until(switch.connected, PATIENCE_S)
        assert net.pingAll(timeout="3") == 0
    finally:
        net.stop()
        lab.close()


def test_two_networks_side_by_side(single):
    """Both want Ryu's usual ports, and the second is given others."""
    first, second = single(), single("t")
    assert first.controllers[0].port != second.controllers[0].port
    assert first.controllers[0].rest_port != second.controllers[0].rest_port
    assert (first.pingAll(timeout="3"), second.pingAll(timeout="3")) == (0, 0)


def test_ports_are_fixed_while_the_switch_runs(single):
    net = single()
    switch = net["s1"]
    for method in (switch.attach, switch.detach):
        with pytest.raises(
            LabError, match=r"^s1-eth3: the ports of s1 are fixed while it runs: .* with s1\.restart\(\)$"
        ):
            method("s1-eth3")
    h3 = net.addHost("h3", ip="10.0.0.3/8")
    net.addLink(h3, switch)
    h3.configDefault()
    switch.restart()
    assert poll_until(switch.connected, PATIENCE_S)
    assert net.pingAll(timeout="3") == 0


def test_the_kernel_keeps_off_the_switchs_interfaces(single):
    """It would answer ARP for the machine's own addresses, and route between the ports."""
    net = single()
    h1 = net["h1"]
    switch = net["s1"]
    address = "198.51.100.7"
    subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
    try:
        h1.cmd(f"ip route add {address} dev h1-eth0")
        assert "100% packet loss" in h1.cmd(f"ping -c 1 -W 1 {address}")
    finally:
        subprocess.run(["ip", "address", "delete", f"{address}/32", "dev", "lo"], check=True)
    assert "inet6" not in switch.cmd("ip address show dev s1-eth1")


def test_an_unknown_application():
    result = run_mn("--topo", "single,2", "--switch", "vswitch", "--controller", "ryu,ryu.app.nothing")
    assert result.returncode == 1
    assert re.search(r"\*\*\* Error: c0 ended while it was starting: .*ryu\.app\.nothing", result.stderr)
    assert "Traceback" not in result.stdout + result.stderr


def test_no_plain_link_into_a_namespace():
    lab = Lab()
    net = Mininet(controller=None)
    try:
        net.addLink(net.addHost("h1"), net.addSwitch("s1", cls=VSwitch, inNamespace=True, lab=lab))
        with pytest.raises(
            LabError, match=r"^s1-eth1: s1 is in a namespace of its own, .* out inNamespace=True$"
        ):
            net.start()
    finally:
        net.stop()
        lab.close()


SCRIPT = """
import os, sys
from mininet.net import Mininet
from topologies.nodes import VSwitch
net = Mininet(controller=None)
net.addLink(net.addSwitch("a1", cls=VSwitch), net.addSwitch("a2", cls=VSwitch))
print(net["a1"].lab.name, flush=True)
os.kill(os.getpid(), int(sys.argv[1])) if len(sys.argv) > 1 else 1 / 0
"""


@pytest.mark.parametrize("signal", ["", "9"])
def test_cables_between_switches_are_removed_whatever_ends_a_script(signal):
    """They lie in the root namespace, and end with no process."""
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, *signal.split()], capture_output=True, text=True, check=False
    )
    assert ("a1-eth1" in dict(map(reversed, socket.if_nameindex()))) == bool(signal)
    assert (LABS_DIR / result.stdout.strip()).exists() == bool(signal)
    Lab().close()
    assert "a1-eth1" not in {name for _, name in socket.if_nameindex()}


def test_an_interface_that_took_over_the_name_is_spared():
    """A later network may have one of the same name."""
    name = subprocess.run(
        [sys.executable, "-c", SCRIPT, "9"], stdout=subprocess.PIPE, text=True, check=False
    ).stdout.strip()
    os.system("ip link delete a1-eth1")
    subprocess.run(["ip", "link", "add", "a1-eth1", "type", "veth", "peer", "name", "a2-eth1"], check=True)
    try:
        Lab().close()
        assert not (LABS_DIR / name).exists()
        assert "a1-eth1" in {name for _, name in socket.if_nameindex()}
    finally:
        subprocess.run(["ip", "link", "delete", "a1-eth1"], check=True)


def test_ports_are_as_fast_as_their_links():
    """By TCLink's and WireLink's bw, also when these change."""
    lab = Lab()
    net = Mininet(controller=None, listenPort=26760)

    def speeds(switch: VSwitch) -> list[tuple[str, str, str]]:
        """(features, speed now, at most) of each port but LOCAL, by number."""
        shown = re.sub(r"(?s)\n LOCAL.*?(?=\n \d|$)", "", switch.dpctl("dump-ports-desc"))
        return re.findall(r"current: +(\S+) COPPER\s+speed: (\S+ \S+) now, (\S+ \S+) max", shown)

    def speed(features: str, both: str) -> tuple[str, str, str]:
        return features, both, both

    fast, slow = speed("10GB-FD", "10000 Mbps"), speed("OTHER", "2 Mbps")
    try:
        s1, s2 = (net.addSwitch(name, cls=VSwitch, lab=lab) for name in ("s1", "s2"))
        h1, h2, h3 = (net.addHost(name) for name in ("h1", "h2", "h3"))
        net.addLink(h1, s1)
        htb = net.addLink(h2, s1, cls=TCLink, bw=10)
        net.addLink(h3, s1, cls=TCLink, bw=2.5, use_tbf=True)
        wire = net.addLink(s1, s2, cls=WireLink, bw=1000)
        net.start()
        assert speeds(s1) == [fast, speed("10MB-FD", "10 Mbps"), slow, speed("1GB-FD", "1000 Mbps")]
        assert speeds(s2) == [speed("1GB-FD", "1000 Mbps")]
        htb.intf2.config(bw=100)
        wire.intf1.config(bw=25)
        changed = [fast, speed("100MB-FD", "100 Mbps"), slow, speed("OTHER", "25 Mbps")]
        assert poll_until(lambda: speeds(s1) == changed, PATIENCE_S, 0.1), speeds(s1)
        assert speeds(s2) == [speed("1GB-FD", "1000 Mbps")]
        wire.set(bw=0)
        assert poll_until(lambda: speeds(s1)[3] == speeds(s2)[0] == fast, PATIENCE_S, 0.1)
    finally:
        net.stop()
        lab.close()
