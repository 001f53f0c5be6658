# SPDX-License-Identifier: Apache-2.0
"""FAUCET, a controller of real networks, unmodified: VLANs, access lists, routing, stacking, groups.

It has a virtual environment of its own, .venv-faucet (`make faucet`).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mininet.net import Mininet
from mininet.node import Host, RemoteController

from tests.mininet import hosts
from topologies.lab import Lab
from topologies.links import WireLink
from topologies.nodes import VSwitch
from topologies.processes import end, listening, poll_until

ROOT = Path(__file__).resolve().parents[2]
MANAGER = ROOT / ".venv-faucet" / "bin" / "osken-manager"
PATIENCE_S = 20.0  # stacked ports forward when LLDP has told what is at their other ends
OPEN, CLOSED = 5001, 5002  # TCP ports

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not MANAGER.exists(), reason="FAUCET's .venv-faucet is not there: make faucet"),
]

OFFICE, GUEST = 100, 200
VLANS = {
    name: {"vid": vid, "faucet_mac": f"0e:00:00:00:00:{vid:02x}", "faucet_vips": [f"10.0.{vid}.254/24"]}
    for name, vid in {"office": OFFICE, "guest": GUEST}.items()
}
ACLS = {
    "no_closed_port": [
        {"rule": {"eth_type": 0x0800, "ip_proto": 6, "tcp_dst": CLOSED, "actions": {"allow": 0}}},
        {"rule": {"actions": {"allow": 1}}},
    ]
}


def beacons() -> dict[str, int]:
    """LLDP, by which stacked switches find each other; to each its own, as FAUCET writes into it."""
    return {"send_interval": 1, "max_per_interval": 10}


def access(vlan: str) -> dict[str, Any]:
    return {"native_vlan": vlan, "acls_in": ["no_closed_port"]}


STACKED = {
    "s1": {
        "dp_id": 1,
        "stack": {"priority": 1},
        "lldp_beacon": beacons(),
        "interfaces": {
            1: access("office"),
            3: {"stack": {"dp": "s2", "port": 3}},
            4: {"stack": {"dp": "s2", "port": 4}},
        },
    },
    "s2": {
        "dp_id": 2,
        "lldp_beacon": beacons(),
        "interfaces": {
            1: access("office"),
            2: access("guest"),
            3: {"stack": {"dp": "s1", "port": 3}},
            4: {"stack": {"dp": "s1", "port": 4}},
        },
    },
}
GROUPS = {
    "s1": {
        "dp_id": 1,
        "group_table": True,
        "interfaces": {1: access("office"), 2: access("office"), 3: access("guest")},
    }
}
PLACES = {
    "stacked": {"h1": "s1:1", "h2": "s2:1", "g1": "s2:2"},
    "groups": {"h1": "s1:1", "h2": "s1:2", "g1": "s1:3"},
}


class Faucet:
    """The controller's process; ends with the lab."""

    def __init__(self, folder: Path, dps: dict[str, Any], port: int) -> None:
        configuration = {"vlans": VLANS, "acls": ACLS, "dps": dps}
        configuration["routers"] = {"between": {"vlans": ["office", "guest"]}}
        (folder / "faucet.yaml").write_text(yaml.safe_dump(configuration))
        self.log = folder / "faucet.log"
        environment = {
            **os.environ,
            "FAUCET_CONFIG": str(folder / "faucet.yaml"),
            "FAUCET_LOG": str(self.log),
            "FAUCET_EXCEPTION_LOG": str(folder / "exceptions.log"),
            "FAUCET_PROMETHEUS_ADDR": "127.0.0.1",
        }
        listen = ["--ofp-listen-host", "127.0.0.1", "--ofp-tcp-listen-port", str(port)]
        with (folder / "faucet.out").open("w") as output:
            self.process = subprocess.Popen(
                [MANAGER, *listen, "faucet.faucet"], env=environment, stdout=output, stderr=output
            )
        assert poll_until(lambda: listening(self.process.pid, port), PATIENCE_S), (
            folder / "faucet.out"
        ).read_text()


class Listening(RemoteController):
    """Where it listens. Mininet's own check needs telnet, and sends the controller a line of text."""

    def checkListening(self) -> None:
        pass


@pytest.fixture(params=["stacked", "groups"])
def net(request, tmp_path) -> Iterator[Mininet]:
    """h1 and h2 in the office's VLAN, g1 in the guests'; on two switches with two cables, or on one."""
    lab = Lab()
    net = Mininet(controller=None)
    stacked = request.param == "stacked"
    faucet = None
    try:
        port = lab.reserve_port()
        faucet = Faucet(tmp_path, STACKED if stacked else GROUPS, port)
        net.addController("c0", Listening, ip="127.0.0.1", port=port)
        for name in STACKED if stacked else GROUPS:
            net.addSwitch(name, cls=VSwitch, lab=lab, listenPort=6660)
        for name, place in PLACES[request.param].items():
            switch, number = place.split(":")
            host = net.addHost(name, ip=None)
            net.addLink(host, net[switch], port2=int(number))
        if stacked:
            net.addLink("s1", "s2", port1=3, port2=3, cls=WireLink)
            net.addLink("s1", "s2", port1=4, port2=4)
        net.build()
        for number, (name, vid) in enumerate({"h1": OFFICE, "h2": OFFICE, "g1": GUEST}.items(), 1):
            net[name].setIP(f"10.0.{vid}.{number}/24")
            net[name].cmd(f"ip route add default via 10.0.{vid}.254")
        net.start()
        yield net
        assert not (tmp_path / "exceptions.log").read_text()
    finally:
        net.stop()
        for controller in net.controllers:
            controller.terminate()
        lab.close()
        if faucet:
            end(faucet.process)


def reach(source: Host, target: str) -> bool:
    return poll_until(lambda: hosts.pings(source, target), PATIENCE_S)


def connects(source: Host, target: Host, port: int) -> bool:
    """Whether a TCP connection is made."""
    server = hosts.start_server(target, "iperf3", "-s", "-p", str(port), port=port)
    try:
        return "open" in source.cmd(f"timeout 2 bash -c 'exec 3<>/dev/tcp/{target.IP()}/{port} && echo open'")
    finally:
        end(server)


def test_a_network_by_faucet(net):
    h1, h2, g1 = (net[name] for name in ("h1", "h2", "g1"))
    assert reach(h1, h2.IP()), "two hosts of a VLAN"
    assert reach(h1, f"10.0.{OFFICE}.254"), "the VLAN's router"
    assert reach(g1, h1.IP()) and reach(h2, g1.IP()), "between VLANs, through the router"
    g1.cmd(f"ip address add 10.0.{OFFICE}.99/24 dev g1-eth0")
    assert "100% packet loss" in g1.cmd(f"ping -I 10.0.{OFFICE}.99 -c 2 -i 0.2 -W 1 10.0.{OFFICE}.2"), (
        "ARP stays"
    )
    assert connects(h1, h2, OPEN)
    assert not connects(h1, h2, CLOSED), "the access list"
    if "s2" in net:
        wire = next(link for link in net.links if isinstance(link, WireLink))
        wire.intf1.ifconfig("down")
        assert reach(h1, h2.IP()), "the stack's other cable"
    else:
        assert "type=all" in net["s1"].dpctl("dump-groups")
