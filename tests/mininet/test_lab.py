# SPDX-License-Identifier: Apache-2.0
"""Whole labs: what a user does at `mn`'s prompt or through Mininet's API, with real stacks at both ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.mininet import hosts
from tests.mininet.mn_cli import MN, TWO_SERVERS, MnCli, isolated, run_mn
from tests.patience import PATIENCE_S
from topologies import nodes
from topologies.lab import SHM_DIR
from topologies.processes import poll_until
from topologies.registry import LABS_DIR
from vswitch.errors import VSwitchError

pytestmark = pytest.mark.root
TRANSFER = str(Path(__file__).with_name("transfer.py"))
MEGABYTE = 1 << 20


def ping(source, target, count=1, wait_s=2):
    """Round-trip times in ms of the pings that were answered."""
    output = source.cmd(f"ping -c {count} -i 0.2 -W {wait_s} {target.IP()}")
    return [float(rtt) for rtt in re.findall(r"time=([\d.]+) ms", output)]


def carried(switch):
    """Bytes that came in from the wire."""
    return next(port["rx_bytes"] for port in switch.control("ports") if port["kind"] == "wire")


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    process.wait(PATIENCE_S)


@pytest.mark.smoke
def test_the_mn_line():
    """The line of the README, its first commands, and leaving."""
    with MnCli(*TWO_SERVERS) as mn:
        assert "Error" not in mn.greeting.replace("*** Error setting resource limits", "")
        assert re.search(r"s1 \(core.* \d+, with vm1\) s2 \(core.* \d+, with vm2\) ", mn.greeting)
        assert "0% packet loss" in mn.enter("vm1 ping -c 1 vm2")
        assert "*** Results: 0% dropped (2/2 received)" in mn.enter("pingall")
        assert "receiver" in mn.enter("vm1 iperf3 -c vm2 -t 1")
        shown = mn.enter("s1 vswitchctl show")
        assert "s1" in shown
        assert "vm1-eth0" in shown
        assert "vm1-eth0" in mn.enter("s1 vswitchctl --json show")
        assert '"s2"' in mn.enter("s2 vswitchctl --json show")
        run_dir = mn.enter("s1 echo $VSWITCH_RUN_DIR").strip()
        pids = mn.enter("s1 cat $VSWITCH_RUN_DIR/s1.pid $VSWITCH_RUN_DIR/s2.pid").split()
        assert len(pids) == 2
        mn.leave()
        assert mn.process.returncode == 0
    assert not Path(run_dir).exists()
    assert not (SHM_DIR / f"mn-offload-{Path(run_dir).name}").exists()


def test_more_vms_by_mn_itself():
    result = run_mn("--topo", "two_servers,vms=3", *TWO_SERVERS[2:], "--test", "pingall")
    assert "0% dropped (30/30 received)" in result.stderr + result.stdout, result.stderr
    assert result.returncode == 0


TEN_LINES = """
from mininet.net import Mininet
from topologies.controllers import Orchestrator
from topologies.links import TapLink, WireLink
from topologies.nodes import VM, VSwitch
net = Mininet(switch=VSwitch, host=VM, controller=Orchestrator, autoSetMacs=True, listenPort=16654)
net.addController("c0")
s1, s2, vm1, vm2 = net.addSwitch("s1"), net.addSwitch("s2"), net.addHost("vm1"), net.addHost("vm2")
net.addLink(s1, s2, cls=WireLink, bw=1000, delay="1ms")
net.addLink(vm1, s1, cls=TapLink)
net.addLink(vm2, s2, cls=TapLink)
net.start()
print("lost", net.pingAll())
net.stop()
"""


def ten_lines():
    return subprocess.Popen(
        [sys.executable, "-c", TEN_LINES], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.smoke
def test_ten_lines_of_python():
    printed, errors = ten_lines().communicate(timeout=90)
    assert printed.strip().endswith("lost 0.0"), printed + errors
    assert "Traceback" not in errors


def test_three_labs_started_at_the_same_moment():
    """They want the same port and the same names, and get along."""
    for lab in [ten_lines() for _ in range(3)]:
        printed, errors = lab.communicate(timeout=120)
        assert printed.strip().endswith("lost 0.0"), printed + errors


def test_the_controller_may_die(overlay):
    """kill -9 of the controller: what flows goes on, also for flows that begin only now."""
    network = overlay().start()
    assert network.loss() == 0
    stream = network.vm1.popen(f"iperf3 -c {network.vm2.IP()} -t 3 -J")
    assert poll_until(lambda: carried(network.s2) > MEGABYTE, PATIENCE_S)
    kill(network.c0.process)
    output, _ = stream.communicate(timeout=PATIENCE_S)
    assert stream.returncode == 0, output.decode()
    assert b'"error"' not in output
    assert network.loss() == 0
    assert ping(network.vm2, network.vm1)


def test_a_switch_may_die(overlay):
    """kill -9 of a switch, restarted by hand: traffic resumes, and the network is not rebuilt."""
    network = overlay().start()
    assert network.loss() == 0
    shell, address = network.vm2.pid, network.vm2.MAC()
    kill(network.s2.process)
    assert not ping(network.vm1, network.vm2, wait_s=1)
    network.s2.restart()
    assert poll_until(lambda: ping(network.vm1, network.vm2), PATIENCE_S)
    assert network.loss() == 0
    assert (network.vm2.pid, network.vm2.MAC()) == (shell, address)


def test_both_switches_may_die(overlay):
    network = overlay().start()
    for switch in (network.s1, network.s2):
        kill(switch.process)
    for switch in (network.s1, network.s2):
        switch.restart()
    assert poll_until(lambda: network.loss() == 0, PATIENCE_S)


@pytest.mark.parametrize("gro", [True, False], ids=["gro", "no-gro"])
def test_files_arrive_intact_through_a_bad_wire(overlay, gro):
    """Both ways at once, under 1 % loss, reordering and duplication."""
    network = overlay(
        wire={"loss": 1, "reorder": 1, "duplicate": 1, "delay": "1ms", "seed": 7}, controller={"gro": gro}
    ).start()
    pairs = [(network.vm1, network.vm2, 1), (network.vm2, network.vm1, 2)]
    receivers = [
        hosts.start_server(target, sys.executable, TRANSFER, "receive", "9000", port=9000)
        for _, target, _ in pairs
    ]
    senders = [
        source.popen([sys.executable, TRANSFER, "send", target.IP(), "9000", str(8 * MEGABYTE), str(seed)])
        for source, target, seed in pairs
    ]
    for process in senders:
        output, error = process.communicate(timeout=90)
        received, sent = output.decode().split() or (error.decode(), "")
        assert received == sent
    for process in receivers:
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0


def test_wires_are_settable_while_they_carry(overlay):
    network = overlay().start()
    assert min(ping(network.vm1, network.vm2, 3)) < 100
    network.wire.set(delay="100ms")
    assert 200 <= min(ping(network.vm1, network.vm2, 3)) < 300
    network.wire.intf1.config(delay=0)
    assert 100 <= min(ping(network.vm1, network.vm2, 3)) < 200


def test_a_wires_delay_is_exact(overlay):
    """The median of what it is late is below 50 us; at some time, since the machine may be busy."""
    network = overlay().start()

    def is_exact() -> bool:
        before = timed_and_inexact(network)
        assert len(ping(network.vm1, network.vm2, 10)) == 10
        timed, inexact = (now - then for now, then in zip(timed_and_inexact(network), before, strict=True))
        assert timed >= 20
        return inexact < timed / 2

    for delay in ("1ms", "5ms"):
        network.wire.set(delay=delay)
        assert poll_until(is_exact, PATIENCE_S)


def timed_and_inexact(network):
    """Frames that had a time to leave a wire, and those that missed it by more than 50 us."""
    counters = [switch.control("counters")["reasons"] for switch in (network.s1, network.s2)]
    return [sum(reasons[name] for reasons in counters) for name in ("wire_timed", "wire_inexact")]


def wires_up(network):
    ports = [port for switch in (network.s1, network.s2) for port in switch.control("ports")]
    return {port["up"] for port in ports if port["kind"] == "wire"}


def test_a_link_goes_down_and_up(overlay):
    network = overlay().start()
    assert ping(network.vm1, network.vm2)
    network.net.configLinkStatus("s1", "s2", "down")
    assert wires_up(network) == {False}
    assert not ping(network.vm1, network.vm2, wait_s=1)
    network.net.configLinkStatus("s1", "s2", "up")
    assert wires_up(network) == {True}
    assert ping(network.vm1, network.vm2)


def test_a_cable_that_is_cut_at_one_end_stays_so_when_the_switch_there_restarts(overlay):
    network = overlay().start()
    network.s1.intf("s1-eth1").ifconfig("down")
    assert wires_up(network) == {False}
    kill(network.s1.process)
    network.s1.restart()
    assert wires_up(network) == {False}
    network.s1.intf("s1-eth1").ifconfig("up")
    assert poll_until(lambda: network.loss() == 0, PATIENCE_S)


def ctl(switch, *words):
    """What `vswitchctl` prints in the switch's shell."""
    return switch.cmd("vswitchctl", *words)


def settings(switch):
    shows = [("-l",), ("-x",), ("-n",), ("-k",), ("lro", "list")]
    return [
        *(ctl(switch, "nic", "s1-eth1", *what) for what in shows),
        ctl(switch, "nic", "vm1-eth0", "-k"),
        ctl(switch, "wire", "s1-eth1"),
        ctl(switch, "format", "list"),
    ]


def test_a_restart_keeps_what_was_set_by_hand(overlay, monkeypatch):
    """Also over the intent's own settings, and though the switch is killed."""
    network = overlay(controller={"gro": False})
    network.s1.workers = 2
    network.start()
    for words in (
        "nic s1-eth1 -L combined 3",
        "nic s1-eth1 -X weight 1 2 1",
        "nic s1-eth1 -N flow-type tcp4 dst-port 80 action 2",
        "nic s1-eth1 -N flow-type ip4 dst-ip 10.0.0.1 action 1",
        "nic s1-eth1 -N delete 1",
        "nic s1-eth1 -K queue 1 lro rules",
        "nic s1-eth1 workers 1 1 0",
        "nic s1-eth1 lro add queue 1 tcp '*' '*' '*' 110",
        "nic vm1-eth0 -K lro on",
        "wire s1-eth1 delay=30ms",
        "format add mine outer_proto=17 opaque_len=20 id_offset=2 id_length=2 id_value=9999 length_field=4",
    ):
        assert "vswitchctl:" not in ctl(network.s1, words)
    before = settings(network.s1)
    kill(network.s1.process)
    network.wire.set(delay="60ms")  # what was said last, while the switch was down
    with pytest.raises(VSwitchError, match=r"loss: 200 is out of range"):
        network.wire.set(loss=200)
    network.s1.restart()
    assert settings(network.s1) == [text.replace("30ms", "60ms") for text in before]
    assert network.loss() == 0
    assert min(ping(network.vm1, network.vm2, 3)) >= 60
    told = []
    monkeypatch.setattr(nodes, "warn", told.append)
    network.s1.workers = 1
    network.s1.restart()
    sentence = "s1-eth1 is not set as it was before: worker: 1 is out of range (allowed: 0 to 0)"
    assert told == [f"(s1: {sentence}) "]


def test_a_vnic_is_made_anew(overlay):
    """As whoever works in the VM does it; without a restart."""
    network = overlay().start()
    assert network.loss() == 0
    vm, mac, address = network.vm1, network.vm1.MAC(), network.vm1.IP()

    def is_up():
        return next(port["up"] for port in network.s1.control("ports") if port["name"] == "vm1-eth0")

    vm.cmd("ip link delete vm1-eth0")
    assert poll_until(lambda: not is_up(), PATIENCE_S)
    vm.cmd(
        "ip tuntap add dev vm1-eth0 mode tap && "
        f"ip link set vm1-eth0 address {mac} mtu 1450 up && ip address add {address}/8 dev vm1-eth0"
    )
    assert poll_until(is_up, PATIENCE_S)
    assert network.loss() == 0
    assert "receiver" in network.vm2.cmd(f"iperf3 -c {address} -t 1")


def test_a_fast_wire_is_not_capped(overlay):
    """Mininet's own links ignore a rate above 1000 Mbit/s."""
    network = overlay(wire={"bw": 1500}).start()
    assert network.loss() == 0
    port = next(port for port in network.s1.show()["ports"] if port["kind"] == "wire")
    assert port["mtu"] == 1500


def test_gro_is_switched_by_the_controller(overlay):
    network = overlay().start()
    intent = network.c0.intent()
    before = network.s1.show()["intent_revision"]
    network.c0.set_intent({**intent, "offload": {"gro": False}})
    assert network.s1.show()["intent_revision"] != before
    assert network.loss() == 0


def test_the_vm_keeps_ipv6_and_its_kernel_offloads(overlay):
    network = overlay().start()
    interface = network.vm1.cmd("ip -6 addr show dev vm1-eth0")
    assert "fe80::" in interface
    assert "mtu 1450" in interface


def test_two_labs_side_by_side(overlay):
    """One in this process, one by `mn`, with the same names of nodes."""
    first = overlay().start()
    with MnCli(*TWO_SERVERS) as mn:
        assert "0% dropped" in mn.enter("pingall")
        assert first.loss() == 0
        mn.leave()
    assert first.loss() == 0


def test_two_labs_in_one_process(overlay):
    first, second = overlay().start(), overlay().start()
    assert (first.loss(), second.loss()) == (0, 0)
    first.stop()
    assert second.loss() == 0


def test_the_passive_port_moves_when_it_is_taken(overlay):
    first, second = overlay(), overlay()
    first.s1.listenPort = second.s1.listenPort = 26654
    first.start()
    second.start()
    assert first.s1.listenPort == 26654 != second.s1.listenPort


def test_a_setting_that_the_switch_refuses(overlay):
    """Its own sentence reaches the user."""
    from topologies.errors import LabError

    network = overlay()
    network.s1.ports_by_number()[1].settings["loss"] = 200
    with pytest.raises(LabError, match=r"s1 ended while it was starting; its last words: vswitch: .*loss"):
        network.start()


@pytest.mark.parametrize("delay_s", [0.5, 1.0, 1.5, 2.0, 3.0])
def test_ctrl_c_while_mn_starts(delay_s):
    """At any moment: `mn` ends, and nothing is left."""
    before = set(SHM_DIR.iterdir()) | set(LABS_DIR.glob("*"))
    process = subprocess.Popen(
        isolated(str(MN), "--custom", "topologies/mn.py", *TWO_SERVERS),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(delay_s)
    os.killpg(process.pid, signal.SIGINT)
    assert process.stdin
    process.stdin.close()  # it may be at its prompt already
    process.wait(30)
    assert not (set(SHM_DIR.glob("mn-*")) | set(LABS_DIR.glob("*"))) - before
