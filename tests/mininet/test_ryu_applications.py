# SPDX-License-Identifier: Apache-2.0
"""Ryu's own applications, unmodified, with real hosts: each does what its documentation promises."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from mininet.net import Mininet
from mininet.node import Host

from tests.controller.ryu_process import needs_ryu
from tests.mininet import hosts
from tests.patience import PATIENCE_S
from topologies.controllers import Ryu
from topologies.lab import Lab
from topologies.nodes import VSwitch
from topologies.processes import poll_until

pytestmark = [pytest.mark.root, needs_ryu]
DPID = f"{1:016x}"
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Network:
    """Switches s1, s2 … in a line under Ryu with the given arguments, and hosts h1, h2 ….

    places: the number of the switch that each host hangs on. ring: the last switch has a link to the first.
    """

    def __init__(
        self, *arguments: str, switches: int = 1, places: Sequence[int] = (1, 1), ring: bool = False
    ) -> None:
        self.lab = Lab()
        self.net = Mininet(controller=None, autoSetMacs=True)
        self.ryu = self.net.addController(Ryu("c0", *arguments, lab=self.lab))
        self.switches = [
            self.net.addSwitch(f"s{number}", cls=VSwitch, lab=self.lab, batch=True)
            for number in range(1, switches + 1)
        ]
        self.hosts = [self.net.addHost(f"h{number}") for number in range(1, len(places) + 1)]
        self.h1, self.h2 = self.hosts[:2]
        for host, place in zip(self.hosts, places, strict=True):
            self.net.addLink(host, self.switches[place - 1])
        for first, second in zip(self.switches, self.switches[1:], strict=False):
            self.net.addLink(first, second)
        if ring:
            self.net.addLink(self.switches[-1], self.switches[0])
        self.net.start()
        assert poll_until(lambda: all(switch.connected() for switch in self.switches), PATIENCE_S, 0.1)

    def rest(self, method: str, path: str, body: Any = None) -> Any:
        """A request to Ryu's REST interface."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ryu.rest_port}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {self.ryu.token_file.read_text().strip()}"},
            method=method,
        )
        with DIRECT.open(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def await_rest(self, path: str, wanted: Callable[[Any], bool]) -> Any:
        """The answer to a GET, once it is as wanted."""
        answers: list[Any] = []

        def asked() -> bool:
            try:
                answers.append(self.rest("GET", path))
            except OSError:  # not there yet, or it does not know the switch
                return False
            return wanted(answers[-1])

        assert poll_until(asked, PATIENCE_S, 0.2), answers[-1:]
        return answers[-1]

    def await_rules(self, path: str = "/stats/flow/1") -> None:
        """Return when the switch has carried out what it was told before.

        Ryu answers a request to change something as soon as it is on its way to the switch. A question about
        rules goes the same way, and its answer comes after everything before it.
        """
        self.rest("GET", path)

    def pings(self, target: str = "10.0.0.2", count: int = 1, interval_s: float = 0.1) -> int:
        return hosts.pings(self.h1, target, count, interval_s)


@pytest.fixture
def network() -> Iterator[Callable[..., Network]]:
    made: list[Network] = []

    def make(*arguments: str, **options: Any) -> Network:
        made.append(Network(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.net.stop()
        one.lab.close()


def test_ofctl_rest(network):
    lab = network("ryu.app.ofctl_rest")
    lab.await_rest("/stats/switches", lambda switches: switches == [1])
    assert lab.rest("GET", "/stats/desc/1")["1"].keys() >= {"mfr_desc", "hw_desc", "sw_desc", "dp_desc"}
    for one, other in ((1, 2), (2, 1)):
        rule = {"match": {"in_port": one}, "actions": [{"type": "OUTPUT", "port": other}], "cookie": 5}
        lab.rest("POST", "/stats/flowentry/add", {"dpid": 1, "priority": 7, **rule})
    lab.await_rules()
    assert lab.pings(count=5) == 5
    (flow,) = lab.rest("POST", "/stats/flow/1", {"match": {"in_port": 1}})["1"]
    assert (flow["priority"], flow["cookie"], flow["actions"]) == (7, 5, ["OUTPUT:2"])
    assert flow["packet_count"] >= 5
    ports = {port["name"]: port for port in lab.rest("GET", "/stats/portdesc/1")["1"]}
    assert {name: port["port_no"] for name, port in ports.items()} == {
        "s1-eth1": 1,
        "s1-eth2": 2,
        "s1": "LOCAL",
    }
    assert {port["port_no"]: port["rx_packets"] >= 5 for port in lab.rest("GET", "/stats/port/1")["1"]} == {
        1: True,
        2: True,
        "LOCAL": False,
    }
    buckets = [{"weight": 0, "actions": [{"type": "OUTPUT", "port": 2}]}]
    lab.rest("POST", "/stats/groupentry/add", {"dpid": 1, "type": "ALL", "group_id": 3, "buckets": buckets})
    (group,) = lab.rest("GET", "/stats/groupdesc/1")["1"]
    assert (group["group_id"], group["type"]) == (3, "ALL")
    band = {"type": "DROP", "rate": 1000}
    meter = {"dpid": 1, "flags": "PKTPS", "meter_id": 2, "bands": [band]}
    lab.rest("POST", "/stats/meterentry/add", meter)
    (config,) = lab.rest("GET", "/stats/meterconfig/1")["1"]
    assert (config["meter_id"], config["flags"]) == (2, ["PKTPS"])
    tables = lab.rest("GET", "/stats/table/1")["1"]
    assert tables[0]["active_count"] == 2
    assert lab.rest("GET", "/stats/role/1")["1"][0]["role"] == "EQUAL"
    lab.rest("DELETE", "/stats/flowentry/clear/1")
    lab.await_rules()
    assert lab.pings() == 0


def test_rest_firewall(network):
    """As in the Ryu book: everything is blocked, then ping is permitted."""
    lab = network("ryu.app.rest_firewall")
    lab.await_rest("/firewall/module/status", lambda answer: bool(answer))
    lab.rest("PUT", f"/firewall/module/enable/{DPID}")
    assert lab.pings() == 0
    for source, target in (("10.0.0.1/32", "10.0.0.2/32"), ("10.0.0.2/32", "10.0.0.1/32")):
        rule = {"nw_src": source, "nw_dst": target, "nw_proto": "ICMP"}
        (answer,) = lab.rest("POST", f"/firewall/rules/{DPID}", rule)
        assert answer["command_result"][0]["result"] == "success"
    lab.await_rules(f"/firewall/rules/{DPID}")
    assert lab.pings(count=3) == 3
    server = hosts.start_server(lab.h2, "iperf3", "-s", port=hosts.IPERF3_PORT)
    assert '"error"' in lab.h1.cmd("iperf3 -c 10.0.0.2 -n 1 -J --connect-timeout 500")
    server.terminate()
    server.communicate(timeout=PATIENCE_S)
    (rules,) = lab.rest("GET", f"/firewall/rules/{DPID}")[0]["access_control_list"]
    assert {rule["nw_proto"] for rule in rules["rules"]} == {"ICMP"}


def test_rest_router(network):
    """Two subnets; the router's addresses are the switch's."""
    lab = network("ryu.app.rest_router")
    for host, subnet in ((lab.h1, 20), (lab.h2, 30)):
        host.setIP(f"172.16.{subnet}.10/24")
        host.cmd(f"ip route add default via 172.16.{subnet}.1")
    lab.await_rest(f"/router/{DPID}", lambda answer: bool(answer))
    for subnet in (20, 30):
        (answer,) = lab.rest("POST", f"/router/{DPID}", {"address": f"172.16.{subnet}.1/24"})
        assert answer["command_result"][0]["result"] == "success"
    assert poll_until(lambda: lab.pings("172.16.20.1"), PATIENCE_S)
    assert poll_until(lambda: lab.pings("172.16.30.10"), PATIENCE_S)
    assert "ttl=63" in lab.h1.cmd("ping -c 1 -W 1 172.16.30.10")


def test_rest_qos(network):
    """What of it is OpenFlow: meters, and rules that use them. (Its queues are Open vSwitch's database's.)"""
    lab = network("ryu.app.rest_qos", "ryu.app.rest_conf_switch", "ryu.app.ofctl_rest")
    lab.await_rest("/qos/rules/all", lambda answer: bool(answer))
    forward = {"dpid": 1, "table_id": 1, "actions": [{"type": "OUTPUT", "port": "NORMAL"}]}
    lab.rest("POST", "/stats/flowentry/add", forward)
    lab.await_rules()
    assert lab.pings(count=2) == 2
    meter = {"meter_id": "1", "flags": "PKTPS", "bands": [{"type": "DROP", "rate": "5"}]}
    (answer,) = lab.rest("POST", f"/qos/meter/{DPID}", meter)
    assert answer["command_result"][0]["result"] == "success"
    rule = {"match": {"nw_dst": "10.0.0.2", "nw_proto": "ICMP"}, "actions": {"meter": "1"}}
    (answer,) = lab.rest("POST", f"/qos/rules/{DPID}", rule)
    assert answer["command_result"][0]["result"] == "success"
    lab.await_rules()
    assert lab.pings(count=40, interval_s=0.05) < 30
    (stats,) = lab.rest("GET", "/stats/meter/1")["1"]
    assert stats["packet_in_count"] == 40


def test_rest_topology(network):
    """LLDP by packet-out and packet-in finds every link, both ways, and a cable that is cut."""
    lab = network("--observe-links", "ryu.app.rest_topology", "ryu.app.simple_switch_13", switches=3)
    links = lab.await_rest("/v1.0/topology/links", lambda links: len(links) == 4)
    ends = {(int(link["src"]["dpid"], 16), int(link["dst"]["dpid"], 16)) for link in links}
    assert ends == {(1, 2), (2, 1), (2, 3), (3, 2)}
    assert len(lab.rest("GET", "/v1.0/topology/switches")) == 3
    lab.net.configLinkStatus("s2", "s3", "down")
    lab.await_rest("/v1.0/topology/links", lambda links: len(links) == 2)
    assert lab.pings(count=2) >= 1


@pytest.mark.slow
def test_simple_switch_stp_13(network):
    """Ryu's spanning tree opens a ring at one port, mends it where a link is cut, and hosts reach each other.
    Its ports listen and learn for 15 s each."""
    lab = network("ryu.app.simple_switch_stp_13", switches=3, places=(1, 2, 3), ring=True)

    def blocked() -> list[str]:
        return [
            port["name"]
            for switch in lab.switches
            for port in switch.show()["ports"]
            if "NO_FWD" in port["config"] and port["up"]
        ]

    def all_reach_each_other() -> bool:
        return lab.net.pingAll(timeout="1") == 0

    assert poll_until(all_reach_each_other, 90, 1)
    assert len(blocked()) == 1
    assert blocked()[0][:2] in ("s2", "s3")  # s1 has the best priority: all its ports are designated
    lab.net.configLinkStatus("s1", "s3", "down")
    assert poll_until(all_reach_each_other, 90, 1)
    assert blocked() == []


def program(host: Host, name: str, *arguments: object) -> subprocess.Popen:
    """Run one of this folder's programs in a host, with pipes."""
    argv = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), *map(str, arguments)]
    return host.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_simple_switch_lacp_13(network):
    """Ports 1 and 2 are one link. Its partner, whose interfaces h1 and h2 play, is answered at each by one
    system, and traffic moves to the second when the first is silent."""
    lab = network("ryu.app.simple_switch_lacp_13", "ryu.app.ofctl_rest", places=(1, 1, 1))
    bond, other = "00:00:00:00:00:01", lab.hosts[2]
    lab.h2.setMAC(bond)  # of a bond, both interfaces have one address
    for host in (lab.h1, lab.h2):  # and what is no LACP goes through one of them
        host.cmd("sysctl -w net.ipv6.conf.all.disable_ipv6=1")
    partners = [program(host, "lacp_partner", host.defaultIntf(), bond, 21) for host in (lab.h1, lab.h2)]
    for number, partner in enumerate(partners, 1):
        answer = json.loads(partner.stdout.readline())
        assert answer == {
            "actor_system": "02:4c:00:00:00:01",
            "actor_port_number": number,
            "partner_system": bond,
            "partner_key": 21,
            "partner_port_number": 7,
        }
    slow = {"match": {"eth_type": 0x8809}}
    timeouts = [flow["idle_timeout"] for flow in lab.rest("POST", "/stats/flow/1", slow)["1"]]
    assert timeouts == [3, 3]
    assert hosts.pings(other, "10.0.0.1", 2) == 2
    to_bond = {"match": {"dl_dst": bond}}
    assert lab.rest("POST", "/stats/flow/1", to_bond)["1"][0]["actions"] == ["OUTPUT:1"]
    partners[0].communicate("")
    log = Path(lab.lab.run_dir, "c0.log")
    silent = "slave state changed port: 1 enabled: False"
    assert poll_until(lambda: silent in log.read_text(), PATIENCE_S, 0.1), log.read_text()
    lab.await_rules()
    lab.h1.cmd("ip address flush dev h1-eth0")
    lab.h2.setIP("10.0.0.1/8")
    lab.h2.cmd("ping -c 1 -W 1 10.0.0.3")
    assert hosts.pings(other, "10.0.0.1", 2) == 2
    assert lab.rest("POST", "/stats/flow/1", to_bond)["1"][0]["actions"] == ["OUTPUT:2"]
    assert "enabled: False" not in log.read_text().replace(silent, "")
    partners[1].communicate("")


def test_simple_switch_igmp_13(network):
    """The switch is the querier; what the server at port 2 sends to a group reaches its members alone."""
    lab = network("ryu.app.simple_switch_igmp_13", "ryu.app.ofctl_rest", places=(1, 1, 1))
    group, server, members = "239.1.1.1", lab.h2, {1: lab.h1, 3: lab.hosts[2]}
    for host in lab.hosts:
        host.cmd("sysctl -w net.ipv4.conf.all.force_igmp_version=2")  # Ryu knows no other

    def await_members(*ports: int) -> None:
        def outputs(rules: dict[str, Any]) -> set[str]:
            to_group = [rule for rule in rules["1"] if rule["match"].get("nw_dst") == group]
            return {
                action for rule in to_group if rule["match"]["in_port"] == 2 for action in rule["actions"]
            }

        wanted = {f"OUTPUT:{port}" for port in ports}
        lab.await_rest("/stats/flow/1", lambda rules: outputs(rules) == wanted)

    def seen() -> dict[int, list[str]]:
        """What each port gets of three datagrams to the group."""
        watching = {
            number: program(host, "multicast", "see", host.defaultIntf()) for number, host in members.items()
        }
        for watch in watching.values():
            assert watch.stdout.readline() == "ready\n"
        program(server, "multicast", "send", group, server.IP(), "10.255.255.255", 3).communicate()
        return {
            number: json.loads(watch.communicate(timeout=PATIENCE_S)[0]) for number, watch in watching.items()
        }

    everything = ["0", "1", "2"]
    joined = {1: program(lab.h1, "multicast", "join", group, lab.h1.IP())}
    await_members(1)
    assert seen() == {1: everything, 3: []}
    joined[3] = program(members[3], "multicast", "join", group, members[3].IP())
    await_members(1, 3)
    assert seen() == {1: everything, 3: everything}
    joined[1].communicate("")
    await_members(3)
    assert seen() == {1: [], 3: everything}
    joined[3].communicate("")
    assert "Traceback" not in Path(lab.lab.run_dir, "c0.log").read_text()
