# SPDX-License-Identifier: Apache-2.0
"""What the overlay owes its VMs beside their frames: it keeps bridges' own to itself, and tells path MTUs."""

from __future__ import annotations

import re
import sys

import pytest

from tests.mininet.hosts import IPERF3_PORT
from tests.patience import PATIENCE_S
from topologies.links import TapLink
from topologies.nodes import VM
from topologies.processes import listening, poll_until

pytestmark = pytest.mark.root
GROUPS = [f"01:80:c2:00:00:{last:02x}" for last in range(16)]
BESIDE, ALL = "01:80:c2:00:00:10", "ff:ff:ff:ff:ff:ff"
TYPE = 0x88B5
TOO_BIG = ("mtu_exceeded", "packet_too_big_sent", "packet_too_big_suppressed")
SEND = f"""
import socket, sys
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind((sys.argv[1], 0))
source = open(f"/sys/class/net/{{sys.argv[1]}}/address").read().strip()
for group in sys.argv[2:]:
    out.send(bytes.fromhex((group + source).replace(":", "")) + bytes.fromhex("{TYPE:04x}") + group.encode())
"""
HEAR = f"""
import socket, sys
heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons({TYPE}))
heard.bind((sys.argv[1], {TYPE}))
print("ready", flush=True)
while True:
    group = heard.recv(2000)[14:].split(b"\\0")[0].decode()
    print(group, flush=True)
    if group == sys.argv[2]:
        break
"""


def test_frames_of_bridges_are_not_relayed(overlay):
    """Neither to the VM beside the sender nor across; the group behind theirs, and broadcasts, are."""
    network = overlay()
    beside = network.net.addHost("vm3", cls=VM, lab=network.lab)
    network.net.addLink(beside, network.s1, cls=TapLink)
    network.start()
    assert network.loss() == 0
    hearers = []
    for host in (beside, network.vm2):
        host.cmd(f"ip link set dev {host.name}-eth0 promisc on")
        hearer = host.popen([sys.executable, "-c", HEAR, f"{host.name}-eth0", ALL])
        assert hearer.stdout.readline() == b"ready\n"
        hearers.append(hearer)
    sender = network.vm1.popen([sys.executable, "-c", SEND, "vm1-eth0", *GROUPS, BESIDE, ALL])
    assert sender.wait(PATIENCE_S) == 0
    for hearer in hearers:
        output, _ = hearer.communicate(timeout=PATIENCE_S)
        assert output.decode().split() == [BESIDE, ALL]


@pytest.fixture
def large(overlay):
    """Two VMs whose MTU is the wire's, as guests come that nobody configured."""

    def make(**controller):
        network = overlay(controller=controller).start()
        for number, vm in enumerate((network.vm1, network.vm2), 1):
            vm.cmd(f"ip link set dev {vm.name}-eth0 mtu 1500")
            vm.cmd(f"ip address add fd00::{number}/64 dev {vm.name}-eth0 nodad")
            vm.cmd("sysctl -qw net.ipv4.tcp_mtu_probing=0")
        assert network.loss() == 0
        return network, {4: network.vm2.IP(), 6: "fd00::2"}

    return make


def counted(switch, *names):
    reasons = switch.control("counters")["reasons"]
    return [reasons[name] for name in names]


def path_mtu(vm, address):
    """What the VM's stack knows of the way to an address; None: nothing but its device's MTU."""
    found = re.search(r"mtu (\d+)", vm.cmd(f"ip route get {address}"))
    return found and int(found[1])


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("tunnel", "mtu"), [("vxlan", 1450), ("gre", 1458), ("mplsogre", 1458)])
def test_tcp_learns_the_path_mtu(large, version, tunnel, mtu):
    network, addresses = large(tunnel=tunnel)
    assert poll_until(lambda: listening(network.vm2.pid, IPERF3_PORT), PATIENCE_S)
    report = network.vm1.cmd(f"iperf3 -{version} -c {addresses[version]} -n 20M -J")
    assert '"error"' not in report, report
    assert path_mtu(network.vm1, addresses[version]) == mtu
    dropped, told, suppressed = counted(network.s1, *TOO_BIG)
    assert 0 < told <= dropped - suppressed  # of a super-frame, whose frames are all dropped, it is told once


@pytest.mark.parametrize("version", [4, 6])
def test_ping_is_told(large, version):
    """The first of them by the slow path, the later ones by the cached flow."""
    network, addresses = large()
    headers = 28 if version == 4 else 48
    said = {4: "Frag needed and DF set (mtu = 1450)", 6: "Packet too big: mtu=1450"}[version]
    fits, too_long = 1450 - headers, 1451 - headers
    ping = f"ping -{version} -M do -c 1 -W 2 {addresses[version]}"
    assert "1 received" in network.vm1.cmd(f"{ping} -s {fits}")
    assert said in network.vm1.cmd(f"{ping} -s {too_long}")
    assert "mtu=1450" in network.vm1.cmd(f"{ping} -s {too_long}").replace("mtu: ", "mtu=")  # by its own stack
    assert counted(network.s1, "packet_too_big_sent") == [1]


@pytest.mark.parametrize(("version", "length"), [(4, 1472), (4, 4000), (6, 4000)])
def test_a_sender_that_lets_fragment_fragments_itself(large, version, length):
    """Once it is told: the request's sender first, then that of the answer."""
    network, addresses = large()
    mode = "dont" if version == 4 else "want"
    ping = f"ping -{version} -M {mode} -c 1 -W 1 -s {length} {addresses[version]}"
    back = {4: network.vm1.IP(), 6: "fd00::1"}[version]
    for vm, target in ((network.vm1, addresses[version]), (network.vm2, back)):
        assert "0 received" in network.vm1.cmd(ping)
        assert poll_until(lambda vm=vm, target=target: path_mtu(vm, target) == 1450, PATIENCE_S)
    assert "1 received" in network.vm1.cmd(ping)


def test_it_can_be_turned_off_and_on_by_intent(large):
    network, addresses = large(packet_too_big=False)
    ping = f"ping -M do -c 1 -W 0.5 -s 1472 {addresses[4]}"
    assert "Frag needed" not in network.vm1.cmd(ping)
    assert path_mtu(network.vm1, addresses[4]) is None
    assert counted(network.s1, *TOO_BIG) == [1, 0, 0]
    intent = network.c0.intent()
    intent["tunnel"]["packet_too_big"] = True
    network.c0.set_intent(intent)
    assert "Frag needed" in network.vm1.cmd(ping.replace("-W 0.5", "-W 5"))
