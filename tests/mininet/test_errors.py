# SPDX-License-Identifier: Apache-2.0
"""What a user can get wrong in a lab: one sentence each, before anything is started, and nothing is left."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from mininet.net import Mininet
from mininet.node import Node, Switch

from tests.mininet.mn_cli import MN, TWO_SERVERS, MnCli, isolated, run_mn
from topologies import controllers, lab, nodes
from topologies.controllers import Orchestrator
from topologies.errors import LabError
from topologies.lab import Lab
from topologies.links import TapLink, WireLink
from topologies.nodes import VM, VSwitch
from topologies.processes import spawn
from topologies.topos import TwoServers
from vswitch import saved

pytestmark = pytest.mark.root


def test_mtu_too_large_for_the_wire(overlay):
    network = overlay(tap={"mtu": 1451})
    with pytest.raises(LabError) as error:
        network.start()
    assert str(error.value) == (
        "vm1: an MTU of 1451 does not fit the wire s1-eth1<->s2-eth1 of MTU 1500: "
        "at most 1450 does, as vxlan adds 50 bytes; only a VM whose role is forwarding may have more"
    )


def test_s0_9_a_forwarding_vm_may_have_a_larger_mtu(overlay):
    """Here both are routers, so that nothing is left to refuse."""
    network = overlay(vm={"role": "forwarding"}, tap={"mtu": 9000})
    network.net.build()
    network.lab.validate()


def test_every_vnic_must_fit_the_wire(overlay):
    network = overlay()
    network.net.addLink(network.vm2, network.s2, cls=TapLink, mtu=9000)
    network.net.build()
    with pytest.raises(LabError, match=r"^vm2-eth1: an MTU of 9000 does not fit the wire s1-eth1<->s2-eth1 "):
        network.lab.validate()


def test_an_unknown_role(net):
    with pytest.raises(LabError, match=r"^vm1: a VM's role is terminating or forwarding, not 'router'$"):
        net.addHost("vm1", cls=VM, role="router")


def test_a_larger_wire_takes_a_larger_mtu(overlay):
    network = overlay(wire={"mtu": 9000}, tap={"mtu": 8950})
    network.net.build()
    network.lab.validate()


@pytest.mark.parametrize(
    ("vm", "sentence"),
    [
        (
            {"mac": "00:00:00:00:00:01"},
            "vm1 and vm2 in network blue have the same MAC address 00:00:00:00:00:01",
        ),
        ({"ip": "10.0.0.7/8"}, "vm1 and vm2 in network blue have the same IP address 10.0.0.7"),
    ],
)
def test_duplicate_addresses(overlay, vm, sentence):
    network = overlay(vm=vm)
    network.net.build()
    with pytest.raises(LabError, match=f"^{sentence}$"):
        network.start()


def test_tenants_may_overlap(net):
    """The same addresses in two virtual networks are what an overlay is for."""
    switch = net.addSwitch("s1", cls=VSwitch)
    for name, network in (("vm1", "blue"), ("vm2", "red")):
        vm = net.addHost(name, cls=VM, network=network, ip="10.0.0.1/8", mac="00:00:00:00:00:01")
        net.addLink(vm, switch, cls=TapLink)
    net.addController("c0", Orchestrator)
    net.build()
    switch.lab.validate()
    assert switch.lab.intent()["virtual_networks"] == {"blue": {"vni": 42}, "red": {"vni": 43}}


def test_one_network_has_one_number(net):
    switch = net.addSwitch("s1", cls=VSwitch)
    net.addController("c0", Orchestrator)
    for name, vni in (("vm1", 7), ("vm2", 8)):
        net.addLink(net.addHost(name, cls=VM, vni=vni), switch, cls=TapLink)
    net.build()
    with pytest.raises(LabError, match=r"^vm2: network blue has VNI 7, not 8$"):
        switch.lab.intent()


def test_a_name_over_the_interface_limit(net):
    vm = net.addHost("averylongname", cls=VM)
    with pytest.raises(
        LabError, match=r"^averylongname-eth0 has 18 characters, and an interface's name at most 15"
    ):
        net.addLink(vm, net.addSwitch("s1", cls=VSwitch), cls=TapLink)


def test_links_know_what_they_join(net):
    s1, vm1 = net.addSwitch("s1", cls=VSwitch), net.addHost("vm1", cls=VM)
    with pytest.raises(LabError, match=r"^vm1-s1: a WireLink joins two VSwitches"):
        net.addLink(vm1, s1, cls=WireLink)
    with pytest.raises(LabError, match=r"^s1-s2: a TapLink joins a VM and a VSwitch"):
        net.addLink(s1, net.addSwitch("s2", cls=VSwitch), cls=TapLink)


def test_a_vm_is_on_one_server(net):
    s1, s2, vm1 = *(net.addSwitch(name, cls=VSwitch) for name in ("s1", "s2")), net.addHost("vm1", cls=VM)
    net.addLink(vm1, s1, cls=TapLink)
    with pytest.raises(LabError, match=r"^vm1 has a TapLink to s1 already: all of a VM's are to one server$"):
        net.addLink(vm1, s2, cls=TapLink)


def test_a_vm_with_two_vnics_is_two_entries_of_the_intent(net):
    """Each in a network and with addresses of its own; the VM's own are those of the first."""
    s1 = net.addSwitch("s1", cls=VSwitch)
    vm = net.addHost("vm1", cls=VM, role="forwarding", vni=7, ip="10.1.0.1/24", mac="00:00:00:00:00:01")
    net.addLink(vm, s1, cls=TapLink)
    red = {"network": "red", "ip": "10.2.0.1/24", "addr1": "00:00:00:00:00:02"}
    net.addLink(vm, s1, cls=TapLink, **red)
    net.addController("c0", Orchestrator)
    net.build()
    vm.lab.validate()
    intent = vm.lab.intent()
    common = {"server": "s1", "role": "forwarding"}
    assert intent["vms"] == {
        "vm1": {**common, "port": 1, "network": "blue", "mac": "00:00:00:00:00:01", "ip": "10.1.0.1"},
        "vm1-eth1": {**common, "port": 2, "network": "red", "mac": "00:00:00:00:00:02", "ip": "10.2.0.1"},
    }
    assert intent["virtual_networks"] == {"blue": {"vni": 7}, "red": {"vni": 42}}
    assert "10.2.0.1/24" in vm.cmd("ip -o addr show dev vm1-eth1")
    assert vm.cmd("cat /proc/sys/net/ipv4/ip_forward").strip() == "1"


def test_two_vnics_of_one_network_have_different_addresses(net):
    s1, vm1 = net.addSwitch("s1", cls=VSwitch), net.addHost("vm1", cls=VM, ip="10.0.0.1/8")
    for _ in range(2):
        net.addLink(vm1, s1, cls=TapLink, ip="10.0.0.1/8")
    net.build()
    with pytest.raises(
        LabError, match=r"^vm1 and vm1-eth1 in network blue have the same IP address 10\.0\.0\.1$"
    ):
        s1.lab.validate()


def test_an_unknown_wire_setting(net):
    switches = [net.addSwitch(name, cls=VSwitch) for name in ("s1", "s2")]
    with pytest.raises(
        LabError,
        match=r"^s1-eth1-s2-eth1: a wire has no setting 'speed', the nearest is 'seed' \(allowed: bw, ",
    ):
        net.addLink(*switches, cls=WireLink, speed=10)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"loss": 200}, "loss: 200 is out of range (allowed: a number from 0 to 100, in percent)"),
        ({"delay": "5mss"}, "delay: '5mss' is no duration"),
        ({"params1": {"bw": -1}}, "bw: -1 is out of range"),
    ],
)
def test_a_value_that_a_wire_cannot_have(net, setting, sentence):
    """When the link is made, not when the switch starts; and when it is changed, of neither direction."""
    switches = [net.addSwitch(name, cls=VSwitch) for name in ("s1", "s2")]
    with pytest.raises(LabError) as error:
        net.addLink(*switches, cls=WireLink, **setting)
    assert str(error.value).startswith(f"s1-eth1-s2-eth1.{sentence}")
    assert not switches[0].switch_ports()
    wire = net.addLink(*switches, cls=WireLink, loss=1)
    with pytest.raises(LabError):
        wire.set(**setting.get("params1", setting))
    assert wire.intf1.settings == wire.intf2.settings == {"loss": 1}


def test_an_impossible_mtu(net):
    switches = [net.addSwitch(name, cls=VSwitch) for name in ("s1", "s2")]
    with pytest.raises(LabError, match=r"an MTU of 70000 is out of range: it is from 68 to 9216$"):
        net.addLink(*switches, cls=WireLink, mtu=70000)


def test_equal_datapath_ids(net):
    net.addSwitch("s1", cls=VSwitch)
    with pytest.raises(LabError, match=r"^s1 and t1 have the same datapath id 1$"):
        net.addSwitch("t1", cls=VSwitch)


def test_two_networks_in_one_lab(net):
    net.addSwitch("s1", cls=VSwitch)
    other = Mininet(controller=None)
    with pytest.raises(LabError, match=r"^there is a node s1 in this lab already: .* lab=Lab\(\)"):
        other.addSwitch("s1", cls=VSwitch)


def test_a_controllers_port_in_use(net):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        port = listener.getsockname()[1]
        with pytest.raises(LabError, match=f"^TCP port {port} of 127.0.0.1 is in use: "):
            net.addController("c0", Orchestrator, port=port)
        with pytest.raises(LabError, match=f"^TCP port {port} of 127.0.0.1 is in use: "):
            net.addController("c0", Orchestrator, rest_port=port)


def test_a_missing_intent_file(net):
    with pytest.raises(LabError, match=r"^c0: cannot read /nowhere/intent\.yaml: No such file or directory$"):
        net.addController("c0", Orchestrator, intent="/nowhere/intent.yaml")


def test_an_intent_that_the_controller_would_refuse(net, tmp_path):
    intent = tmp_path / "intent.yaml"
    intent.write_text("virtual_networks: {blue: {vni: 99999999}}\n")
    with pytest.raises(LabError, match=r"^c0: virtual_networks\.blue\.vni: 99999999 is out of range"):
        net.addController("c0", Orchestrator, intent=str(intent))


# What an Orchestrator's rules cannot serve


def plain_hosts(net, switch):
    for name in ("h1", "h2"):
        net.addLink(net.addHost(name), switch)


def vms_at_plain_links(net, switch):
    for name in ("vm1", "vm2"):
        net.addLink(net.addHost(name, cls=VM), switch)


def a_vm_without_a_link(net, _switch):
    net.addHost("vm1", cls=VM)


def another_kind_of_switch(net, switch):
    net.addLink(net.addSwitch("b2", cls=Switch), switch)


@pytest.mark.parametrize(
    ("build", "whom"),
    [
        (plain_hosts, ": h1, h2 would reach nobody"),
        (vms_at_plain_links, ": vm1, vm2 would reach nobody"),
        (a_vm_without_a_link, ": vm1 would reach nobody"),
        (another_kind_of_switch, ": b2 would reach nobody"),
        (lambda net, switch: None, ""),
    ],
)
def test_an_orchestrator_without_vms(net, build, whom):
    """It is refused before anything runs."""
    c0 = net.addController("c0", Orchestrator)
    build(net, net.addSwitch("s1", cls=VSwitch))
    net.build()
    with pytest.raises(LabError) as error:
        c0.start()
    assert str(error.value) == (
        f"c0: an Orchestrator's rules serve VMs at TapLinks, and there is none{whom}; "
        "make hosts with cls=VM, join them by cls=TapLink, or take the controller Ryu"
    )
    assert c0.process is None


def test_an_orchestrator_over_a_topology_of_mininets():
    result = run_mn("--topo", "single,2", *TWO_SERVERS[2:], "--test", "pingall")
    assert result.returncode == 1
    assert (
        "*** Error: c0: an Orchestrator's rules serve VMs at TapLinks, and there is none: h1, h2 would reach "
        "nobody; take a topology that has VMs (--topo two_servers), or --controller ryu\n"
    ) in result.stderr
    assert "pingall" not in result.stdout


@pytest.mark.parametrize(
    ("build", "whom"),
    [
        (plain_hosts, "h1, h2"),
        (vms_at_plain_links, "vm1, vm2"),
        (another_kind_of_switch, "b2"),
        (lambda net, switch: net.addLink(net.addSwitch("s2", cls=VSwitch), switch), None),
    ],
)
def test_an_orchestrator_over_vms_and_others_says_whom_it_does_not_serve(net, monkeypatch, build, whom):
    told = []
    monkeypatch.setattr(lab, "warn", told.append)
    net.addController("c0", Orchestrator)
    switch = net.addSwitch("s1", cls=VSwitch)
    net.addLink(net.addHost("vm9", cls=VM), switch, cls=TapLink)
    build(net, switch)
    net.build()
    switch.lab.validate()
    sentence = f"(c0: its rules serve VMs at TapLinks: {whom} will reach nobody) "
    assert [text for text in told if "c0" in text] == ([sentence] if whom else [])


INTENT = """
virtual_networks: {{blue: {{vni: 42}}}}
servers: {{s1: {{dpid: {dpid}, underlay_ip: 192.168.0.1, uplink_port: {uplink}}}}}
vms: {{vm1: {{server: s1, port: {port}, network: blue, mac: "00:00:00:00:00:01"}}}}
"""


@pytest.mark.parametrize(
    ("uplink", "port", "sentence"),
    [
        (1, 77, r"vms\.vm1\.port: s1 has no port 77 \(it has: 1, 2\)"),
        (88, 2, r"servers\.s1\.uplink_port: s1 has no port 88 \(it has: 1, 2\)"),
    ],
)
def test_an_intent_file_that_names_another_port(overlay, tmp_path, uplink, port, sentence):
    intent = tmp_path / "intent.yaml"
    intent.write_text(INTENT.format(dpid=1, uplink=uplink, port=port))
    network = overlay(controller={"intent": str(intent)})
    with pytest.raises(LabError, match=f"^c0: {intent}: {sentence}$"):
        network.start()
    assert network.s1.process is None


def test_an_intent_file_of_other_switches(overlay, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(lab, "warn", told.append)
    intent = tmp_path / "intent.yaml"
    intent.write_text(INTENT.format(dpid=9, uplink=1, port=2))
    network = overlay(controller={"intent": str(intent)})
    network.net.build()
    network.lab.validate()
    assert [text for text in told if "c0" in text] == [
        f"(c0: {intent} names no server of s1's datapath id: it will forward nothing) ",
        f"(c0: {intent} names no server of s2's datapath id: it will forward nothing) ",
        f"(c0: {intent}: servers.s1: this network has no switch of its datapath id) ",
    ]


def test_an_intent_that_names_a_port_that_is_not_there_while_the_lab_runs(overlay):
    network = overlay().start()
    intent = network.c0.intent()
    intent["vms"]["vm1"]["port"] = 77
    sentence = "vms.vm1.port: s1 has no port 77 (it has: 1, 2)"
    assert network.c0.request("PUT", "/intent", intent)["errors"] == {"s1": [sentence]}
    assert network.c0.status()["switches"]["s1"]["errors"] == [sentence]
    with pytest.raises(
        LabError, match=r"^s1 does not hold the controller's intent: vms\.vm1\.port: s1 has no "
    ):
        network.c0.set_intent(intent)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tunnel": "geneve"}, r"tunnel\.format: there is no tunnel format 'geneve' \(allowed: .*vxlan\)"),
        (
            {"formats": {"mine": {"outer_proto": 6, "opaque_len": 4}}},
            r"formats\.mine\.outer_proto: 6 is plain TCP",
        ),
        ({"formats": "/nowhere/formats.yaml"}, r"cannot read /nowhere/formats\.yaml: No such file"),
    ],
)
def test_an_impossible_tunnel_format(net, options, sentence):
    with pytest.raises(LabError, match=f"^c0: {sentence}"):
        net.addController("c0", Orchestrator, **options)


def test_the_controllers_python_is_missing(overlay, monkeypatch):
    monkeypatch.setenv(controllers.PYTHON_VARIABLE, "/nowhere/python")
    with pytest.raises(
        LabError, match=r"^the controller's Python /nowhere/python does not exist: run `make setup`"
    ):
        overlay().start()


@pytest.mark.parametrize("program", lab.PROGRAMS)
def test_a_missing_program(monkeypatch, program):
    which = shutil.which
    monkeypatch.setattr(lab.shutil, "which", lambda name: None if name == program else which(name))
    with pytest.raises(LabError, match=f"^{program} not found: install it, on Debian with: apt-get install "):
        Lab()


def test_not_root(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match=r"run this as root, e.g. with sudo$"):
        Lab()


def test_mn_prints_the_sentence_and_nothing_else_of_it():
    result = run_mn(*TWO_SERVERS[:1], "two_servers,mtu=40", *TWO_SERVERS[2:])
    assert result.returncode == 1
    assert "*** Error: s1-eth1-s2-eth1: an MTU of 40 is out of range" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert "Cleaning up" not in result.stdout + result.stderr


def test_an_interface_of_another_network():
    """Plain links lie in the root namespace, as with Mininet's own switches."""
    mn = f"{MN} --custom topologies/mn.py --topo single,2 --switch vswitch --test none"
    line = isolated("sh", "-c", f"ip link add s1-eth1 type veth peer name other && exec {mn}")
    result = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 1
    assert "File exists: another network has an interface of this name: end that one" in result.stderr
    assert "Cleaning up" not in result.stdout + result.stderr


def test_a_run_folder_with_the_settings_of_an_earlier_network(net, tmp_path):
    """The switch of that name then is not this one."""
    earlier = tmp_path / "s1.settings"
    earlier.write_text("{}")
    with contextlib.closing(Lab(run_dir=tmp_path)) as made:
        argv = net.addSwitch("s1", cls=VSwitch, lab=made)._argv()
        settings = Path(argv[argv.index("--settings") + 1])
        assert settings != earlier and not settings.exists()


def test_a_link_that_gets_the_name_of_another_is_as_it_is_made(net, monkeypatch):
    """What was set of the one before is not its own."""
    s1, s2 = (net.addSwitch(name, cls=VSwitch) for name in ("s1", "s2"))
    first = net.addLink(s1, s2, port1=1, port2=1, cls=WireLink)
    vnic = net.addLink(net.addHost("vm1", cls=VM), s1, port2=2, cls=TapLink)
    path = s1._settings_path
    saved.write(path, saved.Saved(wires={"s1-eth1": {"loss": 9}}, forwarding=["vm1-eth0", "vm2-eth0"]))
    for link in (first, vnic):
        net.delLink(link)
    net.addLink(s1, s2, port1=1, port2=1, cls=WireLink, loss=3)
    monkeypatch.setattr(nodes, "spawn", lambda *_, **__: spawn(["sleep", "60"]))
    s1._spawn()
    assert saved.read(path) == saved.Saved(forwarding=["vm2-eth0"])


def test_a_run_folder_as_a_text(tmp_path):
    with contextlib.closing(Lab(run_dir=str(tmp_path / "run"))) as made:
        assert made.run_dir == tmp_path / "run"


def test_switches_in_namespaces_of_their_own():
    result = run_mn("--topo", "single,2", *TWO_SERVERS[2:4], "--innamespace")
    assert result.returncode == 1
    assert "*** Error: s1-eth1: s1 is in a namespace of its own, where no plain link" in result.stderr
    assert "can end: leave out --innamespace\n" in result.stderr
    assert "Cleaning up" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"port": 99999}, "99999 is no TCP port"),
        ({"rest_port": "x"}, "x is no TCP port"),
        ({"user": "nobody-at-all"}, "c0: there is no user 'nobody-at-all'"),
        ({"token": "maybe"}, "c0: token must be on or off, not 'maybe'"),
        ({"ip": "192.0.2.1"}, "nothing can listen at 192.0.2.1: "),
        (
            {"tunel": "gre"},
            "c0: Orchestrator has no option 'tunel', the nearest is 'tunnel' \\(allowed: formats, gro, ",
        ),
    ],
)
def test_an_impossible_option_of_the_controller(net, options, sentence):
    with pytest.raises(LabError, match=f"^{sentence}"):
        net.addController("c0", Orchestrator, **options)


@pytest.mark.parametrize(
    ("topo", "sentence"),
    [
        ("two_servers,vms=0", "two_servers: vms=0: a server has from 1 to 100 VMs"),
        ("two_servers,colour=red", "two_servers: there is no parameter 'colour' (allowed: bw, delay, "),
        ("forwarding_vm,ends=-1", "forwarding_vm: ends=-1: a server has from 0 to 100 of them"),
    ],
)
def test_a_wrong_parameter_of_the_topology(topo, sentence):
    result = run_mn("--topo", topo, *TWO_SERVERS[2:])
    assert (result.returncode, sentence in result.stderr) == (1, True), result.stderr


def test_the_topology_without_our_switch():
    with pytest.raises(
        LabError, match=r"^s1-s2: a WireLink joins two VSwitches: make both with cls=VSwitch$"
    ):
        Mininet(topo=TwoServers(), switch=Switch, controller=None)
    Lab.close_current()
    for node in Node.outToNode.values():
        if node.shell:
            node.terminate()


def test_hints_to_who_uses_mn_are_in_its_words():
    script = (
        "from mininet.net import Mininet\nfrom mininet.node import Switch\n"
        "from topologies import mn\nfrom topologies.topos import TwoServers\n"
        "Mininet(topo=TwoServers(), switch=Switch, controller=None)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "s1-s2: a WireLink joins two VSwitches: start mn with --switch vswitch\n" in result.stderr
    with MnCli("--topo", "single,2", "--switch", "vswitch") as mn:
        answer = mn.enter("py s1.attach('s1-eth9')")
        mn.leave()
    assert answer.strip() == (
        "s1-eth9: the ports of s1 are fixed while it runs: make all links before it starts, "
        "or start it anew with py s1.restart()"
    )


def test_a_script_that_ends_with_an_error_leaves_nothing():
    """Without `finally: net.stop()`: the lab ends with its process."""
    script = (
        "from mininet.net import Mininet\n"
        "from topologies.nodes import VM, VSwitch\nfrom topologies.links import TapLink\n"
        "net = Mininet(controller=None)\n"
        "net.addLink(net.addHost('vm1', cls=VM), net.addSwitch('s1', cls=VSwitch), cls=TapLink)\n"
        "print(net['s1'].lab.run_dir, net['s1'].lab.wire_dir)\nnet.build()\n1 / 0\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "ZeroDivisionError" in result.stderr
    assert not any(os.path.exists(path) for path in result.stdout.split())
