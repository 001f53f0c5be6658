# SPDX-License-Identifier: Apache-2.0
"""What users of Mininet write: options that are not known are refused by name, Mininet's own words work."""

from __future__ import annotations

import subprocess

import pytest
from mininet.link import Link, TCIntf
from mininet.net import Mininet
from mininet.topo import Topo

from tests.mininet.mn_cli import MN, isolated, run_mn
from topologies.controllers import Orchestrator, Ryu
from topologies.errors import LabError
from topologies.lab import Lab
from topologies.links import TapLink, WireLink
from topologies.net import LabNet
from topologies.nodes import VM, VSwitch

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda n: n.addSwitch("s1", cls=VSwitch, wrkers=2),
            "s1: VSwitch has no option 'wrkers', the nearest is 'workers' (allowed: cpu, datapath, ",
        ),
        (
            lambda n: n.addSwitch("s1", cls=VSwitch, failmode="secure"),
            "s1: VSwitch has no option 'failmode', the nearest is 'failMode' (",
        ),
        (
            lambda n: n.addSwitch("s1", cls=VSwitch, colour="red"),
            "s1: VSwitch has no option 'colour' (allowed: ",
        ),
        (
            lambda n: n.addHost("vm1", cls=VM, netwrok="red"),
            "vm1: VM has no option 'netwrok', the nearest is 'network' (",
        ),
        (
            lambda n: n.addHost("vm1", cls=VM, cores=1),
            "vm1: a VM has no cores: it runs on its server's cores, which are the switch's cpu=…",
        ),
        (
            lambda n: n.addController("c0", Orchestrator, tunel="gre"),
            "c0: Orchestrator has no option 'tunel', the nearest is 'tunnel' (",
        ),
        (lambda n: n.addController("c0", Ryu, prt=1), "c0: Ryu has no option 'prt', the nearest is 'port' ("),
        (
            lambda n: n.addSwitch("s1", cls=VSwitch, failMode="open"),
            "s1: failMode is secure or standalone, not 'open'",
        ),
        (
            lambda n: n.addSwitch("s1", cls=VSwitch, stp=1),
            "s1: stp is for a switch without a controller: it needs failMode='standalone'",
        ),
        (
            lambda n: n.addSwitch("s1", cls=VSwitch, failMode="standalone", stp="max_age=5"),
            "s1: stp.max_age: '5' is out of range",
        ),
        (
            lambda n: n.addSwitch("s1", cls=VSwitch, failMode="standalone", stp="maybe"),
            "s1: stp must be on or off, not 'maybe'",
        ),
        (
            lambda n: n.addSwitch("s1", cls=VSwitch, protocols="OpenFlow10"),
            "s1: it speaks OpenFlow13, and protocols='OpenFlow10' leaves that out",
        ),
        (
            lambda n: n.addSwitch("s1", cls=VSwitch, datapath="kernel"),
            "s1: its datapath is a process, datapath='user', and cannot be 'kernel'",
        ),
        (
            lambda n: n.addSwitch("s1", cls=VSwitch, inband=True),
            "s1: controllers are out of band: leave out inband",
        ),
        (
            lambda n: n.addSwitch("s1", cls=VSwitch, cpu=4096),
            "s1: cpu=4096: give a core, several as in '0+1',",
        ),
        (lambda n: n.addSwitch("s1", cls=VSwitch, workers=9), "s1: workers=9: a switch has from 1 to 8"),
        (lambda n: n.addSwitch("s1", cls=VSwitch, max_backoff="x"), "s1: 'x' is no time to reconnect in"),
        (
            lambda n: n.addSwitch("s1", cls=VSwitch, max_backoff=1, reconnectms=1),
            "s1: max_backoff and reconnectms say the same",
        ),
        (
            lambda n: n.addSwitch("s1", cls=VSwitch, opts="'"),
            's1: opts="\'" cannot be split into words: No closing quotation',
        ),
        (lambda n: n.addSwitch("s1", cls=VSwitch, dpid="xyz"), "s1: 'xyz' is no datapath id"),
        (
            lambda n: n.addSwitch("left", cls=VSwitch),
            "left: a switch has a number in its name, or is given a datapath id",
        ),
    ],
)
def test_options_of_nodes_that_cannot_be(net, make, sentence):
    with pytest.raises(LabError) as error:
        make(net)
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"bw": 10},
            "vm1-s1: a TapLink has no bw: a vNIC is not shaped, the wire between the servers is, as in "
            "WireLink(bw=…)",
        ),
        ({"delay": "5ms"}, "vm1-s1: a TapLink has no delay: "),
        (
            {"netwrok": "red"},
            "vm1-s1: a TapLink has no option 'netwrok', the nearest is 'network' (allowed: ip, mtu, network, "
            "vni)",
        ),
        ({"use_htb": True}, "vm1-s1: a TapLink has no option 'use_htb' (allowed: "),
        (
            {"params1": {"colour": 1}},
            "vm1-s1: a TapLink's end at its VM has no option 'colour' (allowed: ip, mtu, network, vni)",
        ),
        (
            {"params2": {"mtu": 1400}},
            "vm1-s1: a TapLink's end at its switch has no option 'mtu' (allowed: none)",
        ),
        ({"intf": TCIntf}, "vm1-s1: a TapLink has ends of its own: leave out intf=TCIntf"),
    ],
)
def test_options_of_a_tap_link_that_cannot_be(net, options, sentence):
    vm, switch = net.addHost("vm1", cls=VM), net.addSwitch("s1", cls=VSwitch)
    with pytest.raises(LabError) as error:
        net.addLink(vm, switch, cls=TapLink, **options)
    assert str(error.value).startswith(sentence)


def test_options_of_a_wire_that_cannot_be(net):
    s1, s2 = (net.addSwitch(name, cls=VSwitch) for name in ("s1", "s2"))
    wire = "s1-eth1-s2-eth1: a wire has no setting "
    for options, sentence in [
        ({"dealy": 1}, wire + "'dealy', the nearest is 'delay' (allowed: bw, delay, "),
        ({"params1": {"los": 1}}, wire + "'los', the nearest is 'loss' ("),
        ({"intf": TCIntf}, "s1-s2: a WireLink has ends of its own: leave out intf=TCIntf"),
    ]:
        with pytest.raises(LabError) as error:
            net.addLink(s1, s2, port1=1, port2=1, cls=WireLink, **options)
        assert str(error.value).startswith(sentence)
    link = net.addLink(s1, s2, cls=WireLink)
    with pytest.raises(LabError, match=r"^s1-eth\d: a wire has no setting 'bww', the nearest is 'bw' \("):
        link.intf1.config(bww=1)
    with pytest.raises(LabError, match=r": a wire's MTU is given when it is made, for both of its ends$"):
        link.set(mtu=9000)


def test_a_vnic_is_not_shaped_later_either(net):
    vm, switch = net.addHost("vm1", cls=VM), net.addSwitch("s1", cls=VSwitch)
    link = net.addLink(vm, switch, cls=TapLink)
    with pytest.raises(LabError, match=r"^vm1-eth0: a TapLink has no bw: a vNIC is not shaped"):
        link.intf1.config(bw=10)


class Words(Topo):
    """With the words that Mininet has for nodes and links."""

    def build(self):
        switch = self.addSwitch(
            "s1",
            dpid="00:00:00:00:00:00:00:0a",
            protocols="OpenFlow10,OpenFlow13",
            datapath="user",
            inband=False,
            reconnectms=500,
            failMode="standalone",
            opts="--no-proactive-reverse",
        )
        for number in (1, 2):
            vm = self.addHost(
                f"vm{number}",
                ip=f"10.1.0.{number}/24",
                mac=f"00:00:00:00:01:0{number}",
                defaultRoute="via 10.1.0.254",
                privateDirs=[],
                inNamespace=True,
                cls=VM,
            )
            self.addLink(vm, switch, cls=TapLink, params1={"mtu": 1400}, addr2="02:00:00:00:00:01")


def test_mininets_own_words_work():
    net = Mininet(topo=Words(), switch=VSwitch, controller=None)
    try:
        net.start()
        vm1, s1 = net["vm1"], net["s1"]
        assert net.pingAll(timeout="2") == 0
        assert s1.show()["dpid"] == "000000000000000a"
        assert "default via 10.1.0.254" in vm1.cmd("ip route")
        assert "mtu 1400" in vm1.cmd("ip link show dev vm1-eth0")
        assert (vm1.IP(), vm1.MAC()) == ("10.1.0.1", "00:00:00:00:01:01")
        command = s1.cmd(f"tr '\\0' ' ' < /proc/{s1.process.pid}/cmdline")
        assert "--max-backoff 0.5 " in command and "--no-proactive-reverse" in command
    finally:
        net.stop()
        Lab.close_current()


@pytest.mark.parametrize("cls", [Link, TapLink, WireLink])
@pytest.mark.parametrize("ports", [{}, {"port1": 1, "port2": 2}])
def test_a_link_from_a_switch_to_itself(net, cls, ports):
    s1 = net.addSwitch("s1", cls=VSwitch)
    for _ in range(2):  # nothing of the first is in the way of the second
        with pytest.raises(LabError) as error:
            net.addLink(s1, s1, cls=cls, **ports)
        assert str(error.value) == "s1-s1: both ends of this link are at s1: a link joins two different nodes"
        assert s1.ports_by_number() == {}
    net.addLink(net.addHost("h1"), s1)
    assert list(s1.ports_by_number()) == [1]


def test_a_link_from_a_host_to_itself_in_our_network():
    """As a topology has it, where Mininet gives both ends one name."""

    class Loop(Topo):
        def build(self):
            switch = self.addSwitch("s1")
            self.addLink(switch, switch)

    with pytest.raises(SystemExit):
        LabNet(topo=Loop(), switch=VSwitch, controller=None)
    assert Lab._current is None or Lab._current.closed


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--switch", "vswitch,workes=2"), "s1: VSwitch has no option 'workes', the nearest is 'workers' ("),
        (("--switch", "vswich"), "vswich: there is no 'vswich', the nearest is 'vswitch' ("),
        (("--switch", "vswitch,workers=x"), "s1: workers='x': a switch has from 1 to 8"),
        (("--switch", "vswitch,dpid=xyz"), "s1: 'xyz' is no datapath id"),
        (("--switch", "vswitch,opts=--colour"), "unrecognized arguments: --colour"),
        (("--switch", "vswitch", "--host", "vm,netwrok=red"), "h1: VM has no option 'netwrok'"),
        (
            ("--switch", "vswitch", "--topo", "two_servers", "--host", "vm,network=red"),
            "--host vm,network=red: the topology itself says what each host is",
        ),
        (("--switch", "vswitch", "--host", "vmm"), "vmm: there is no 'vmm', the nearest is 'vm' ("),
        (("--switch", "vswitch", "--link", "tcc"), "tcc: there is no 'tcc', the nearest is 'tc' ("),
        (
            ("--switch", "vswitch", "--controller", "orchestrater"),
            "there is no 'orchestrater', the nearest is 'orchestrator'",
        ),
        (
            ("--switch", "vswitch", "--controller", "orchestrator,tunel=gre"),
            ": Orchestrator has no option 'tunel'",
        ),
        (
            ("--switch", "vswitch", "--test", "pingal"),
            "--test: there is no 'pingal', the nearest is 'pingall' (",
        ),
        (
            ("--switch", "vswitch", "--topo", "two_server"),
            "--topo: there is no 'two_server', the nearest is 'two_servers' (",
        ),
        (
            ("--switch", "vswitch", "--topo", "two_servers,vmss=2"),
            "two_servers: there is no parameter 'vmss', the nearest is 'vms' (",
        ),
        (("--switch", "vswitch", "--topo", "servers,shape=star"), "servers: shape=star: it is line or ring"),
        (
            ("--switch", "vswitch", "--topo", "single,2,3,4"),
            "--topo single,2,3,4: SingleSwitchTopo.build() takes from 1 to 2",
        ),
    ],
)
def test_a_typing_error_ends_mn_with_one_sentence(options, sentence):
    """At once, with a status that tells, and with nothing left in the folders of labs and sockets."""
    mn = f"{MN} --custom topologies/mn.py --topo single,2 --controller none --test none".split()
    left = "ls -A /run/mininet-offload /run/openvswitch /dev/shm"
    fresh = (
        "for f in /run/mininet-offload /run/openvswitch /dev/shm; do mkdir -p $f; mount -t tmpfs n $f; done"
    )
    line = isolated("sh", "-c", f'{fresh}; "$@" </dev/null; echo "status $?"; {left}', "sh", *mn, *options)
    result = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    (error,) = [text for text in result.stderr.splitlines() if text.startswith("*** Error: ")]
    assert sentence in error
    assert "Traceback" not in result.stderr
    status, *folders = result.stdout[result.stdout.index("status") :].split()[1:]
    assert status == "1"
    assert folders == ["/dev/shm:", "/run/mininet-offload:", "/run/openvswitch:"]


def test_a_test_is_not_begun_with_a_parameter_that_it_does_not_have():
    result = run_mn("--topo", "single,2", "--switch", "vswitch", "--test", "iperf3,secons=1")
    assert result.returncode == 1
    assert "--test: iperf3 has no parameter 'secons', the nearest is 'seconds' (" in result.stderr


def test_a_controller_that_is_not_there_is_not_awaited_forever():
    result = run_mn(
        "--topo", "single,2", "--switch", "vswitch", "--controller", "remote,port=7777", "--test", "pingall"
    )
    assert result.returncode == 1
    assert "*** Error: s1: no controller answers within 20 s: start one where --controller says" in (
        result.stderr
    )
