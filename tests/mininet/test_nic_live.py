# SPDX-License-Identifier: Apache-2.0
"""NICs and tunnel formats are set while traffic runs: by `vswitchctl`, as pages write it, and over REST.

One network for all: two servers with a VM each of two tenants, whose addresses are the same.
"""

from __future__ import annotations

import hashlib
import json
import random
import shlex
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mininet.net import Mininet

from tests.patience import PATIENCE_S
from topologies.controllers import Orchestrator
from topologies.lab import Lab
from topologies.links import TapLink, WireLink
from topologies.nodes import VM, VSwitch
from topologies.processes import poll_until
from vswitch import ctl
from vswitch.dataplane.ports.tap_device import inside_namespace, namespace_path
from vswitch.tunnel_formats import IP, SHIPPED

pytestmark = pytest.mark.root
VM_MTU = 1400  # every format leaves as much of the wire's 1500
MINE = {
    "outer_proto": 47, "opaque_len": 12, "id_offset": 0, "id_length": 4, "id_value": "0x200088b5",
    "flow_id_offset": 4, "flow_id_length": 4,
}  # fmt: skip
FORMATS = [name for name, row in SHIPPED.items() if row.inner != IP]
MEGABYTE = 1 << 20

COMMANDS = """
vswitchctl nic s1 uplink0 -l
vswitchctl nic s1 uplink0 -L combined 4
vswitchctl nic s1 uplink0 -x
vswitchctl nic s1 uplink0 -X equal 4
vswitchctl nic s1 uplink0 -X weight 1 2 3 4
vswitchctl nic s1 uplink0 -n
vswitchctl nic s1 uplink0 -N flow-type tcp4 dst-ip 10.0.0.2 dst-port 80 action 2
vswitchctl nic s1 uplink0 workers 0 1 1 0
vswitchctl nic s1 uplink0 -k
vswitchctl nic s1 uplink0 -K queue 1 lro on
vswitchctl nic s1 uplink0 -S
vswitchctl nic s1 uplink0 lro add queue 1 tcp '*' '*' '*' 110
vswitchctl nic s1 uplink0 -K lro rules
vswitchctl nic s1 uplink0 -K lro off
vswitchctl nic s1 uplink0 -K lro on
vswitchctl format add s1 ours outer_proto=17 opaque_len=16 id_offset=2 id_length=2 id_value=50000 \
flow_id_offset=10 flow_id_length=4 length_field=4
vswitchctl format list s1
"""


class Network:
    """vm1 (blue), vm3 (red) - s1 ==== s2 - vm2 (blue), vm4 (red); each switch has two workers."""

    def __init__(self) -> None:
        self.lab = lab = Lab()
        self.net = net = Mininet(controller=None)
        self.c0 = net.addController("c0", Orchestrator, lab=lab)
        self.s1, self.s2 = (
            net.addSwitch(name, cls=VSwitch, batch=True, lab=lab, workers=2) for name in ("s1", "s2")
        )
        net.addLink(self.s1, self.s2, cls=WireLink)
        self.vms = []
        for number, network in enumerate(("blue", "blue", "red", "red")):
            end = number % 2 + 1
            mac, ip = f"02:00:00:00:00:0{end}", f"10.0.0.{end}/24"
            vm = net.addHost(f"vm{number + 1}", cls=VM, lab=lab, network=network, ip=ip, mac=mac)
            net.addLink(vm, (self.s1, self.s2)[end - 1], cls=TapLink, mtu=VM_MTU)
            self.vms.append(vm)
        net.start()

    def dropped(self) -> dict[str, int]:
        """What ports and wire have lost, by port; what is on its way has time to arrive."""
        assert poll_until(lambda: not any(self._on_the_wire().values()), PATIENCE_S), self._on_the_wire()
        ports = [port for switch in (self.s1, self.s2) for port in switch.control("ports")]
        return {port["name"]: port["rx_dropped"] + port["tx_dropped"] for port in ports}

    def _on_the_wire(self) -> dict[str, int]:
        one, other = (switch.control("ports")[0] for switch in (self.s1, self.s2))
        return {
            "to s2": one["tx_packets"] - other["rx_packets"],
            "to s1": other["tx_packets"] - one["rx_packets"],
        }

    def await_load(self, switch: VSwitch) -> None:
        """Return when another 10 MB have come in from the wire."""
        begin = switch.control("ports")[0]["rx_bytes"]
        assert poll_until(lambda: switch.control("ports")[0]["rx_bytes"] > begin + 10 * MEGABYTE, 30)

    def merged(self) -> int:
        """Frames that s2's NIC has appended to others."""
        return sum(queue["merged"] for queue in self.s2.control("nic.stats", port=1))


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    made = Network()
    yield made
    made.net.stop()
    made.lab.close()


@pytest.fixture
def says(network: Network, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Any:
    """Runs a line of a shell on s1, as far as it is vswitchctl's; returns what it printed."""
    monkeypatch.setenv("VSWITCH_CTL", str(network.s1.control_path))

    def run(line: str) -> str:
        program, *words = shlex.split(line)
        assert program == "vswitchctl"
        status = ctl.main(words)
        printed = capsys.readouterr()
        assert (status, printed.err) == (0, "")
        return printed.out

    return run


@contextmanager
def load(sender: VM, receiver: VM, tmp_path: Path) -> Iterator[list[dict[str, Any]]]:
    """iperf3 from VM to VM, one transfer of 200 MB behind the other, while the block runs; yields their
    results, which are there after it."""
    results: list[dict[str, Any]] = []
    stop = tmp_path / "stop"
    script = f"while [ ! -e {stop} ]; do iperf3 -c {receiver.IP()} -n 200M -J; done"
    with (tmp_path / "iperf3.json").open("w+") as output:
        process = sender.popen(["sh", "-c", script], stdout=output, stderr=subprocess.STDOUT)
        try:
            yield results
        finally:
            stop.touch()
            process.wait(60)
        output.seek(0)
        text, decoder = output.read(), json.JSONDecoder()
    while text.strip():
        result, end = decoder.raw_decode(text.lstrip())
        results.append(result)
        text = text.lstrip()[end:]


def delivered(results: list[dict[str, Any]]) -> bool:
    """Whether there are transfers, and each came to its end. (What its server had not read by then is not in
    `sum_received`.)"""
    return bool(results) and all(
        "error" not in result and result["end"]["sum_sent"]["bytes"] >= 200 * MEGABYTE for result in results
    )


def test_the_commands_work_as_written_under_load(network, says, tmp_path):
    """Issue 4's words, each on a NIC that iperf3 keeps busy: nothing is dropped, and all arrives."""
    before = network.dropped()
    vm1, vm2 = network.vms[:2]
    with load(vm2, vm1, tmp_path) as results, ThreadPoolExecutor(1) as pool:
        beside = pool.submit(transfer, vm2, vm1, 8999, 1)
        printed = {}
        for line in COMMANDS.replace("\\\n", "").strip().splitlines():
            network.await_load(network.s1)
            printed[line] = says(line)
        shell = network.s1.cmd("vswitchctl nic s1 uplink0 -l")
        sent, received = beside.result()
    assert delivered(results)
    assert sent == received
    assert network.dropped() == before
    assert shell.split() == ["combined:", "4"]
    assert "combined: 1" in printed["vswitchctl nic s1 uplink0 -l"]
    nic = network.s1.control("nic.show", port=1)
    assert [nic["indirection"].count(queue) for queue in range(4)] == [12, 26, 38, 52]
    (kept,) = nic["filters"]
    assert (kept["match"], kept["queue"]) == ({"protocol": "tcp", "dst_ip": "10.0.0.2", "dst_port": 80}, 2)
    (rule,) = nic["rules"]
    assert (rule["match"], rule["queues"]) == ({"protocol": "tcp", "dst_port": 110}, [1])
    assert "rx_queue_0_frames: " in printed["vswitchctl nic s1 uplink0 -S"]
    assert "ours" in printed["vswitchctl format list s1"]


def test_rest_works_under_load(network, tmp_path):
    """The same from the controller: queues, filters, rules, a format; and it explains itself."""
    before = network.dropped()
    vm1, vm2 = network.vms[:2]
    nic = {
        "queues": 4,
        "rss": {"weights": [1, 2, 3, 4]},
        "filters": [{"protocol": "tcp", "dst_port": 5201, "queue": 2}],
        "lro": [{"queues": [2], "lro": "rules"}, {"queues": [0, 1], "lro": "off"}],
        "rules": [{"queues": [2], "protocol": "tcp", "dst_port": 5201}],
    }
    with load(vm1, vm2, tmp_path) as results:
        network.await_load(network.s2)
        network.c0.request("PUT", "/nic/s2", nic)
        network.c0.request("PUT", "/formats/mine", MINE)
        network.c0.await_rules(network.s2)
        merged = network.merged()
        assert poll_until(lambda: network.merged() > merged, PATIENCE_S)  # in queue 2, by the rule
        queue = network.s2.control("nic.stats", port=1)[2]
        explained = network.c0.request("GET", "/offload/explain")["s2"]
        for method, body in (("PATCH", {"rules": [], "filters": []}), ("DELETE", None)):
            network.await_load(network.s2)
            network.c0.request(method, "/nic/s2", body)
            network.c0.await_rules(network.s2)
    assert delivered(results)
    assert network.dropped() == before
    assert queue["merged"] > 0
    assert [entry["lro"] for entry in explained["queues"]] == ["off", "off", "rules", "on"]
    assert explained["rules"][0]["why"] == "set by hand in nic.s2.rules[0]"
    assert network.c0.request("GET", "/formats/mine")["id_value"] == 0x200088B5
    assert "mine" in network.s2.control("formats")


@pytest.mark.parametrize("name", [*FORMATS, "mine"])
def test_s1_2_two_tenants_with_the_same_connection(network, name):
    """Same addresses and ports at the same time, through every format that tells tenants apart."""
    intent = network.c0.intent()
    network.c0.set_intent(intent | {"formats": {"mine": MINE}, "tunnel": {"format": name}})
    port = 9000 + [*FORMATS, "mine"].index(name)
    merged = network.merged()
    vm1, vm2, vm3, vm4 = network.vms
    with ThreadPoolExecutor(2) as pool:
        transfers = [
            pool.submit(transfer, sender, receiver, port, seed)
            for seed, (sender, receiver) in enumerate([(vm1, vm2), (vm3, vm4)])
        ]
    for sent, received in (done.result() for done in transfers):
        assert sent == received
    assert network.merged() > merged


def transfer(sender: VM, receiver: VM, port: int, seed: int) -> tuple[str, str]:
    """Send 4 MB of seeded random bytes from and to this port; SHA-256 of what was sent and what arrived."""
    listener, connection = socket_in(receiver), socket_in(sender)
    for one in (listener, connection):
        one.settimeout(PATIENCE_S)
        one.bind(("", port))
    listener.listen()
    connection.connect((receiver.IP(), port))
    received, _ = listener.accept()
    sent, arrived = hashlib.sha256(), hashlib.sha256()

    def send() -> None:
        source = random.Random(seed)
        for _ in range(4):
            data = source.randbytes(MEGABYTE)
            sent.update(data)
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)

    sending = threading.Thread(target=send)
    sending.start()
    with listener, connection, received:
        received.settimeout(PATIENCE_S)
        while data := received.recv(1 << 16):
            arrived.update(data)
        sending.join()
    return sent.hexdigest(), arrived.hexdigest()


def socket_in(vm: VM) -> socket.socket:
    """A TCP socket of a VM's network namespace: it stays there, whoever uses it."""
    with inside_namespace(namespace_path(str(vm.pid))):
        return socket.socket()
