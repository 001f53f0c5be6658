# SPDX-License-Identifier: Apache-2.0
"""Real hosts on switches without a controller: fail modes, and a ring with a spanning tree."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mininet.net import Mininet
from mininet.node import RemoteController

from tests.mininet import hosts
from tests.mininet.mn_cli import MnCli, run_mn
from topologies.lab import OVS_RUNDIR, OVS_RUNDIR_VARIABLE, Lab
from topologies.links import WireLink
from topologies.nodes import VSwitch
from topologies.processes import poll_until, run
from topologies.registry import remove_leftovers

pytestmark = pytest.mark.root
STANDALONE = ("--switch", "vswitch,failMode=standalone", "--controller", "none")
FAST_STP = "hello_time=1,max_age=6,forward_delay=4"
TWO_DELAYS_S = 8


@pytest.fixture
def make() -> Iterator[Callable[..., Mininet]]:
    """Makes networks of switches with a host each, joined as `edges` tell, that are not started yet."""
    made: list[tuple[Mininet, Lab]] = []

    def network(switches=1, edges=(), link=None, hosts_each=1, **options) -> Mininet:
        lab = Lab()
        net = Mininet(controller=None, autoSetMacs=True)
        made.append((net, lab))
        for number in range(1, switches + 1):
            switch = net.addSwitch(f"s{number}", cls=VSwitch, lab=lab, batch=True, **options)
            for place in range(hosts_each):
                net.addLink(net.addHost(f"h{number}{place}"), switch)
        for one, other in edges:
            net.addLink(net[f"s{one}"], net[f"s{other}"], cls=link)
        return net

    yield network
    for net, lab in made:
        net.stop()
        lab.close()


# --- fail modes ------------------------------------------------------------------------------------------


def test_standalone_in_mn():
    result = run_mn("--topo", "linear,3", *STANDALONE, "--test", "pingall")
    assert " 0% dropped (6/6 received)" in result.stdout + result.stderr, result.stdout + result.stderr


def test_secure_in_mn_drops_and_does_not_hang():
    result = run_mn("--topo", "single,2", "--switch", "vswitch", "--controller", "none", "--test", "pingall")
    assert "100% dropped (0/2 received)" in result.stdout + result.stderr


def test_standalone_takes_over_from_a_controller_that_is_away(make):
    """After three probe intervals; the controller's rules count again when it is back."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    net = make(hosts_each=2, failMode="standalone")
    c0 = net.addController("c0", RemoteController, ip="127.0.0.1", port=port)
    net.start()
    c0.terminate()  # its shell, which Mininet forgets
    h1, h2 = net["h10"], net["h11"]
    assert hosts.pings(h1, h2.IP()) == 0
    assert poll_until(lambda: net["s1"].show()["standalone"], 20)
    assert poll_until(lambda: hosts.pings(h1, h2.IP()), 5)
    with socket.create_server(("127.0.0.1", port)) as server:
        server.settimeout(5)
        connection, _ = server.accept()
        with connection:
            connection.sendall(bytes.fromhex("04000008000000010405000800000002"))  # hello, features request
            assert poll_until(lambda: not net["s1"].show()["standalone"], 5)
            assert hosts.pings(h1, h2.IP()) == 0


# --- spanning tree ---------------------------------------------------------------------------------------


def states(net: Mininet) -> dict[str, str]:
    """Of all ports in spanning trees, by name."""
    found = {}
    for switch in net.switches:
        for name, port in switch.show()["spanning_tree"]["ports"].items():
            found[name] = port["state"]
    return found


@pytest.mark.parametrize("link", [None, WireLink])
def test_a_ring_of_three(make, link):
    """Without the protocol a broadcast would go round for ever; with it one port blocks, and another when a
    link is cut."""
    net = make(3, [(1, 2), (2, 3), (3, 1)], link, failMode="standalone", stp=FAST_STP)
    net.start()
    assert poll_until(lambda: list(states(net).values()).count("forwarding") == 8, 3 * TWO_DELAYS_S)
    assert [name for name, state in states(net).items() if state == "blocking"] == ["s3-eth2"]
    assert net.pingAll(timeout="2") == 0
    assert net["s3"].show()["spanning_tree"]["root"] == "8000.000000000001"
    shown = net["s3"].cmd("vswitchctl show")
    assert "standalone: it forwards as a learning switch" in shown
    assert "root 8000.000000000001; s3-eth1 designated forwarding, s3-eth2 blocked blocking," in shown
    assert broadcasts_seen(net) == 1
    net.configLinkStatus("s1", "s2", "down")
    assert poll_until(lambda: states(net)["s3-eth2"] == "forwarding", 3 * TWO_DELAYS_S)
    assert poll_until(lambda: hosts.pings(net["h10"], net["h20"].IP()), 10)
    assert net.pingAll(timeout="2") == 0


def broadcasts_seen(net: Mininet) -> int:
    """How many copies of one broadcast a host gets."""
    capture = net["h20"].popen(["tcpdump", "-nli", "h20-eth0", "ether proto 0x88b5 or ether proto 0x88b6"])
    assert any(b"listening on" in line for line in capture.stderr)
    for ethertype in ("88b5", "88b6"):  # the second is the last that is waited for
        frame = f"ffffffffffff{net['h10'].MAC().replace(':', '')}{ethertype}" + "00" * 46
        net["h10"].cmd(
            "python3 -c 'import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); "
            f's.bind(("h10-eth0", 0)); s.send(bytes.fromhex("{frame}"))\''
        )
    seen = 0
    for line in capture.stdout:
        if b"0x88b6" in line:
            break
        seen += b"0x88b5" in line
    capture.terminate()
    capture.wait()
    return seen


def test_linux_and_the_switch_agree_on_a_tree(make):
    """A Linux bridge joined to the switch by two cables: it blocks what the standard says."""
    net = make(1, failMode="standalone", stp=FAST_STP)
    s1 = net["s1"]
    run(["ip", "link", "add", "br0", "type", "bridge", "stp_state", "1", "priority", "61440"])
    try:
        run(["ip", "link", "set", "br0", "type", "bridge", "forward_delay", "400", "max_age", "600"])
        for number in (2, 3):
            run(["ip", "link", "add", f"s1-eth{number}", "type", "veth", "peer", "name", f"br0-p{number}"])
            net_intf(s1, f"s1-eth{number}", number)
            for command in (["master", "br0"], ["up"]):
                run(["ip", "link", "set", f"br0-p{number}", *command])
        run(["ip", "link", "set", "br0", "up"])
        net.start()
        assert poll_until(lambda: linux_states() == {"br0-p2": "3", "br0-p3": "4"}, 4 * TWO_DELAYS_S, 0.2)
        root = Path("/sys/class/net/br0/bridge/root_id").read_text().strip()
        assert root == s1.show()["spanning_tree"]["root"]
        assert poll_until(lambda: states(net)["s1-eth2"] == "forwarding", TWO_DELAYS_S)
    finally:
        run(["ip", "link", "delete", "br0"])


def net_intf(switch: VSwitch, name: str, port: int) -> None:
    """An interface that is there becomes a port, as in Mininet's `hwintf.py`."""
    from mininet.link import Intf

    Intf(name, node=switch, port=port)


def linux_states() -> dict[str, str]:
    """3 is forwarding, 4 blocking."""
    return {
        path.parent.parent.name: path.read_text().strip()
        for path in Path("/sys/class/net").glob("br0-p*/brport/state")
    }


# --- found by name ---------------------------------------------------------------------------------------


def test_tools_at_the_prompt_find_switches_by_name():
    with MnCli("--topo", "linear,2", *STANDALONE) as mn:
        assert "priority=0 actions=NORMAL" in mn.enter("sh ovs-ofctl -O OpenFlow13 dump-flows s1")
        assert "dpid:0000000000000002" in mn.enter("sh ovs-ofctl -O OpenFlow13 show s2")
        mn.enter("sh ovs-ofctl -O OpenFlow13 add-flow s1 priority=9,ip,actions=drop")
        assert "priority=9,ip actions=drop" in mn.enter("dpctl dump-flows")
        mn.leave()


def test_dpctl_without_a_passive_port():
    with MnCli("--topo", "single,2", *STANDALONE, "--nolistenport") as mn:
        assert "actions=NORMAL" in mn.enter("dpctl dump-flows")
        mn.leave()


def test_the_folder_is_that_of_the_environment(make, monkeypatch, tmp_path):
    folder = tmp_path / "ovs"
    monkeypatch.setenv(OVS_RUNDIR_VARIABLE, str(folder))
    net = make(failMode="standalone")
    net.start()
    assert sorted(path.name for path in folder.iterdir()) == ["s1.mgmt", "s1.snoop"]
    os.kill(net["s1"].process.pid, signal.SIGKILL)
    net["s1"].process.wait()
    net["s1"].restart()
    assert "NORMAL" in net["s1"].cmd("ovs-ofctl -O OpenFlow13 dump-flows s1")
    os.kill(net["s1"].process.pid, signal.SIGKILL)
    net["s1"].process.wait()
    net["s1"].lab.close()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("where", "advice"),
    [({}, "give this one another, or a listenPort"), ({"listenPort": 6700}, "use tcp:127.0.0.1:67")],
)
def test_a_switch_of_open_vswitch_with_the_same_name_is_left_alone(
    make, monkeypatch, tmp_path, where, advice
):
    monkeypatch.setenv(OVS_RUNDIR_VARIABLE, str(tmp_path))
    said = []
    monkeypatch.setattr("topologies.nodes.warn", said.append)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as other:
        other.bind(str(tmp_path / "s1.mgmt"))
        other.listen()
        net = make(failMode="standalone", **where)
        net.start()
        net["s1"].stop()
        assert (tmp_path / "s1.mgmt").exists()
    assert len(said) == 1
    assert f"s1: ovs-ofctl finds another switch by this name in {tmp_path}: {advice}" in said[0]


def test_what_a_killed_lab_left_is_removed(tmp_path):
    script = (
        "import os\nfrom mininet.net import Mininet\nfrom topologies.nodes import VSwitch\n"
        "net = Mininet(controller=None)\ns1 = net.addSwitch('s1', cls=VSwitch)\nnet.start()\n"
        "os.kill(s1.process.pid, 9)\nprint(s1.lab.run_dir, flush=True)\nos.kill(os.getpid(), 9)"
    )
    folder = tmp_path / "ovs"
    environment = {**os.environ, OVS_RUNDIR_VARIABLE: str(folder)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=False, capture_output=True)
    assert (folder / "s1.mgmt").exists()
    remove_leftovers()
    assert not folder.exists()


def test_the_default_folder_is_open_vswitchs():
    assert OVS_RUNDIR == "/var/run/openvswitch"


# --- interfaces ------------------------------------------------------------------------------------------


def test_interfaces_are_silent_from_add_link_on(make):
    """The kernel sends nothing of its own there: no neighbour discovery, no router solicitation."""
    net = make(hosts_each=0)
    h1 = net.addHost("h1")
    net.addLink(h1, net["s1"])
    h1.cmd("ip link set dev h1-eth0 up")
    assert Path("/proc/sys/net/ipv6/conf/s1-eth1/disable_ipv6").read_text().strip() == "1"
    # the host's own address is no longer tentative: the other end's would have been asked for by now
    assert poll_until(lambda: "fe80" in h1.cmd("ip -6 addr show dev h1-eth0 -tentative"), 10, 0.1)
    assert h1.cmd("cat /sys/class/net/h1-eth0/statistics/rx_packets").strip() == "0"
