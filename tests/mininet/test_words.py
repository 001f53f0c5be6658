# SPDX-License-Identifier: Apache-2.0
"""Words of `mn`'s command line that nobody knows, also those that Mininet's own classes would swallow."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from types import SimpleNamespace

import pytest
from mininet.net import Mininet
from mininet.topo import Topo

from tests.mininet.mn_cli import MN
from topologies import net as lab_net
from topologies.checks import iperf3
from topologies.errors import LabError
from topologies.lab import Lab
from topologies.nodes import VSwitch
from topologies.options import parameters_of_topology
from topologies.topos import TOPOLOGIES


class Anything(Topo):
    """A user's topology that takes any word."""

    def build(self, **options):
        self.options = options


class Own(Topo):
    """A user's topology with a constructor."""

    def __init__(self, racks=2):
        self.racks = racks
        super().__init__()


@pytest.fixture(scope="module")
def mn():
    """Mininet's program as a module, for its tables."""
    loader = SourceFileLoader("mn_program", str(MN))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("mn_program", loader))
    loader.exec_module(module)
    module.TOPOS.update(TOPOLOGIES, anything=Anything, own=Own, made=lambda: Own())
    module.TESTS["iperf3"] = lab_net.reported(iperf3)
    return module


def call(mn, option, words):
    """What `mn` calls for an option."""
    if option == "--topo":
        return lab_net.build_topo(mn.TOPOS, words)
    if option == "--test":
        return lab_net.check_tests(SimpleNamespace(test=[words]))
    tables = {"--switch": mn.SWITCHES, "--host": mn.HOSTS, "--controller": mn.CONTROLLERS, "--link": mn.LINKS}
    return lab_net.custom_class(tables[option], words)


@pytest.mark.parametrize(
    ("option", "words", "sentence"),
    [
        ("--topo", "two_servers,vm=3", "two_servers: there is no parameter 'vm', the nearest is 'vms' ("),
        ("--topo", "two_servers,dealy=3", "two_servers: there is no parameter 'dealy', the nearest is 'dela"),
        ("--topo", "servers,servrs=3", "servers: there is no parameter 'servrs', the nearest is 'servers' ("),
        ("--topo", "forwarding_vm,end=2", "forwarding_vm: there is no parameter 'end', the nearest is 'ends"),
        ("--topo", "two_servers,vms=2,vms=3", "--topo two_servers,vms=2,vms=3: vms is given twice"),
        ("--topo", "single,kk=3", "single: there is no parameter 'kk', the nearest is 'k' (allowed: k)"),
        ("--topo", "linear,nn=3", "linear: there is no parameter 'nn', the nearest is 'n' (allowed: k, n)"),
        ("--topo", "tree,dpth=2", "tree: there is no parameter 'dpth', the nearest is 'depth' (allowed: dep"),
        ("--topo", "torus,3,3,m=2", "torus: there is no parameter 'm' (allowed: n, x, y)"),
        ("--topo", "own,raks=3", "own: there is no parameter 'raks', the nearest is 'racks' (allowed: racks"),
        ("--topo", "made,racks=3", "made: there is no parameter 'racks' (allowed: none)"),
        ("--topo", "two_servers,1,2,3", "--topo two_servers,1,2,3: TwoServers.build() takes from 1 to 3 "),
        ("--link", "tc,bww=10", "tc,bww=10: tc has no option 'bww', the nearest is 'bw' (allowed: addr1, "),
        ("--link", "default,bw=10", "default,bw=10: default has no option 'bw' (allowed: addr1, "),
        ("--link", "tc,bw=1,bw=2", "tc,bw=1,bw=2: bw is given twice"),
        ("--host", "cfs,cpuu=.5", "cfs,cpuu=.5: cfs has no option 'cpuu', the nearest is 'cpu' (allowed: co"),
        ("--host", "proc,foo=5", "proc,foo=5: proc has no option 'foo' (allowed: defaultRoute, "),
        ("--controller", "remote,prt=7", "remote,prt=7: remote has no option 'prt', the nearest is 'port' ("),
        ("--switch", "ovs,failmod=secure", "ovs,failmod=secure: ovs has no option 'failmod', the nearest is"),
        ("--switch", "lxbr,stpp=1", "lxbr,stpp=1: lxbr has no option 'stpp', the nearest is 'stp' ("),
        ("--test", "pingall,timout=3", "--test: pingall has no parameter 'timout', the nearest is 'timeout'"),
        ("--test", "iperfudp,sec=3", "--test: iperfudp has no parameter 'sec', the nearest is 'seconds' ("),
        ("--test", "iperf,secs=3", "--test: iperf has no parameter 'secs', the nearest is 'seconds' ("),
        ("--test", "iperf3,secons=1", "--test: iperf3 has no parameter 'secons', the nearest is 'seconds' ("),
        ("--test", "none,net=1", "--test: none has no parameter 'net' (allowed: none)"),
        ("--test", "pingall+iprf", "--test: there is no 'iprf', the nearest is 'iperf' ("),
        ("--test", "iperf,port=1,port=2", "--test iperf,port=1,port=2: port is given twice"),
    ],
)  # fmt: skip
def test_a_word_that_nobody_knows(mn, monkeypatch, option, words, sentence):
    said = []
    monkeypatch.setattr(lab_net, "error", said.append)
    monkeypatch.setitem(sys.modules, "__main__", mn)
    with pytest.raises(SystemExit) as end:
        call(mn, option, words)
    (line,) = said
    assert end.value.code == 1
    assert line.strip().removeprefix("*** Error: ")[: len(sentence)] == sentence


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--topo", "minimal"),
        ("--topo", "linear,k=2,n=1"),
        ("--topo", "tree,depth=1,fanout=2"),
        ("--topo", "torus,3,3,n=1"),
        ("--topo", "anything,colour=red"),
        ("--topo", "own,racks=3"),
        ("--link", "tc,bw=10,delay=5ms,use_tbf=1"),
        ("--link", "tc,disable_gro=1,use_htb=1"),
        ("--host", "cfs,cpu=.5,period_us=1000"),
        ("--host", "proc,privateDirs=x"),
        ("--controller", "remote,ip=127.0.0.1,port=7"),
        ("--controller", "none"),
        ("--switch", "ovs,failMode=standalone,stp=1,dpid=1"),
        ("--switch", "ovsbr,stp=1"),
        ("--test", "pingall,timeout=3+iperf,seconds=1+iperfudp,seconds=1,udpBw=1M+none"),
        ("--test", "build"),
        ("--test", "iperf3,seconds=1,flows=2"),
        ("--test", "PINGPAIR"),
    ],
)
def test_words_that_mininet_knows(mn, monkeypatch, option, words):
    monkeypatch.setitem(sys.modules, "__main__", mn)
    call(mn, option, words)


def test_a_topology_that_takes_any_word_is_asked_nothing():
    assert parameters_of_topology(Anything) is None


@pytest.mark.root
@pytest.mark.parametrize(
    ("cls", "options", "sentence"),
    [
        ({}, {"mtuu": 9000}, "s1-eth1: its link has no option 'mtuu' (allowed: "),
        ({}, {"bw": 10}, "s1-eth1: a plain link has no bw: make it with cls=TCLink"),
        ({"cls": "tc"}, {"dealy": "1ms"}, "s1-eth1: its link has no option 'dealy', the nearest is 'delay' "),
        ({}, {"params2": {"iip": 1}}, "s1-eth1: its link has no option 'iip', the nearest is 'ip' ("),
    ],
)
def test_a_plain_link_does_not_swallow_a_word(mn, cls, options, sentence):
    """Mininet's would: it is told when the network starts."""
    net = Mininet(controller=None, switch=VSwitch)
    try:
        net.addLink(
            net.addHost("h1"), net.addSwitch("s1"), **{key: mn.LINKS[v] for key, v in cls.items()}, **options
        )
        with pytest.raises(LabError) as error:
            net.start()
        assert str(error.value).startswith(sentence)
    finally:
        net.stop()
        Lab.close_current()
