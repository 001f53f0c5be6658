# SPDX-License-Identifier: Apache-2.0
"""`Orchestrator(tunnel=…)`: any format, and VMs whose MTU is what it leaves of the wires."""

from __future__ import annotations

import pytest

from ryu_apps.core import intent as intents
from tests.mininet.mn_cli import TWO_SERVERS, run_mn
from vswitch.tunnel_formats import SHIPPED

pytestmark = pytest.mark.root
MINE = "mine: {outer_proto: 47, opaque_len: 12, id_offset: 0, id_length: 4, id_value: 0x200088b5}\n"
# By hand: outer IPv4 20, then what the RFCs say of each, then inner Ethernet 14 if there is one.
OVERHEAD = {
    "vxlan": 20 + 8 + 8 + 14, "gre": 20 + 8 + 14, "mplsogre": 20 + 4 + 4 + 14, "mplsoudp": 20 + 8 + 4 + 14,
    "gre16": 20 + 16 + 14, "slots": 20 + 20 + 14,
}  # fmt: skip


@pytest.mark.parametrize("name", OVERHEAD)
def test_vms_get_the_mtu_that_the_format_leaves(overlay, name):
    network = overlay(controller={"tunnel": name}, wire={"mtu": 3000})
    network.net.build()
    network.lab.validate()
    intent = intents.from_object(network.lab.intent())
    assert intent.tunnel.format == name and name in SHIPPED
    assert network.vm1.tap.mtu == 3000 - OVERHEAD[name]
    assert f"mtu {3000 - OVERHEAD[name]} " in network.vm1.cmd("ip link show dev vm1-eth0")


def test_an_mtu_that_was_asked_for_stays(overlay):
    network = overlay(controller={"tunnel": "slots"}, tap={"mtu": 1300})
    network.net.build()
    network.lab.validate()
    assert network.vm1.tap.mtu == 1300
    assert "mtu 1300 " in network.vm1.cmd("ip link show dev vm1-eth0")


def test_a_format_of_the_users_own(overlay, tmp_path):
    """As `mn` takes it: from a file."""
    formats = tmp_path / "formats.yaml"
    formats.write_text(MINE.replace("}", ", flow_id_offset: 4, flow_id_length: 4}"))
    network = overlay(controller={"tunnel": "mine", "formats": str(formats)}).start()
    assert network.loss() == 0
    assert network.vm1.tap.mtu == 1500 - (20 + 12 + 14)
    tunnel = next(port for port in network.s1.control("ports") if port["kind"] == "tunnel")
    assert tunnel["tx_packets"] > 0 and "mine" in network.s1.control("formats")


def test_ip_in_ip_between_vms(overlay):
    """Which carries no ARP: the switches answer. And the connection passes, coalesced."""
    network = overlay(controller={"tunnel": "ipip"}).start()
    assert network.loss() == 0
    assert network.vm1.tap.mtu == 1480
    neighbour = network.vm1.cmd(f"ip neighbour show {network.vm2.IP()}")
    assert network.vm2.MAC() in neighbour
    assert '"error"' not in network.vm1.cmd(f"iperf3 -c {network.vm2.IP()} -n 100M -J")
    counts = network.s2.control("counters")["reasons"]
    assert counts["gro_merged"] > 0


def test_the_mn_line_with_another_format():
    line = ("--topo", "two_servers", "--switch", "vswitch", "--controller", "orchestrator,tunnel=gre")
    assert line[:4] == TWO_SERVERS[:4]
    result = run_mn(*line, "--test", "pingall")
    assert "0% dropped (2/2 received)" in result.stderr + result.stdout, result.stderr
