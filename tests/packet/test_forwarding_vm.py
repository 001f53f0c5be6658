# SPDX-License-Identifier: Apache-2.0
"""S0.9, S0.10: a Linux router as a forwarding VM, behind a NIC that delivers aggregates without metadata.

    client, server --- s1 ===== s2 === router (a namespace with two TAPs, MTU 9000)
                         (wire)

The client and the server are sockets in the test, on the first switch's TAPs; both switches are stepped here.
The kernel's router is real: what it does with a large packet is what it says.
"""

from __future__ import annotations

import os
import time

import pytest

from tests.packet.lab import Namespace
from tests.packets import IP, TCP, Ether, IPv6, Raw, checksums_right, payload, payload_of
from tests.unit.servers import VNET, SocketTap
from vswitch import datapath
from vswitch.config import parse_port
from vswitch.dataplane import worker
from vswitch.dataplane.intrinsics import pointed
from vswitch.flow import Output

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]

CLIENT, SERVER, WIRE = 1, 2, 3
MACS = {"client": "02:00:00:00:00:01", "server": "02:00:00:00:00:02"}
ROUTER_MACS = {CLIENT: "02:00:00:00:01:01", SERVER: "02:00:00:00:01:02"}
ADDRESSES = {4: ("10.1.0.1", "10.2.0.1"), 6: ("fd01::1", "fd02::1")}
JUMBO, SEGMENT, COUNT = 9000, 1000, 24
NAMESPACE = f"vs-router-{os.getpid()}"


@pytest.fixture(scope="module")
def router():
    """A Linux router between 10.1.0.0/24, fd01::/64 at its TAP r1 and 10.2.0.0/24, fd02::/64 at r2."""
    namespace = Namespace(NAMESPACE)
    try:
        namespace.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        for port, host in ((CLIENT, "client"), (SERVER, "server")):
            name = f"r{port}"
            namespace.ip("tuntap", "add", "dev", name, "mode", "tap", "multi_queue", "vnet_hdr")
            namespace.ip("link", "set", name, "address", ROUTER_MACS[port], "mtu", JUMBO, "up")
            namespace.ip("addr", "add", f"10.{port}.0.254/24", "dev", name)
            namespace.ip("-6", "addr", "add", f"fd0{port}::254/64", "dev", name, "nodad")
            for address in (f"10.{port}.0.1", f"fd0{port}::1"):
                namespace.ip("neigh", "add", address, "lladdr", MACS[host], "dev", name)
        yield namespace
    finally:
        namespace.close()


class Network:
    """The two switches, joined by a wire; every miss is answered by where its MAC address is."""

    def __init__(self, wire: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("vswitch.ports.TapDevice", SocketTap)
            self.first = datapath.Datapath(
                1, [parse_port(f"{CLIENT}=tap:c"), parse_port(f"{SERVER}=tap:s"), self._wire(wire)]
            )
        taps = [parse_port(f"{port}=tap:r{port}@{NAMESPACE}") for port in (CLIENT, SERVER)]
        self.second = datapath.Datapath(2, [*taps, self._wire(wire)])
        self.switches = (self.first, self.second)
        self.vms = {port: self.first._ports[port].tap.vm for port in (CLIENT, SERVER)}
        self.now_ns = 10**9
        for _ in range(3):
            for switch in self.switches:
                switch.refresh_ports()
                self.step(switch)

    @staticmethod
    def _wire(path: str):
        return parse_port(f"{WIRE}=wire:{path}")

    def close(self) -> None:
        for switch in self.switches:
            switch.close()

    def step(self, switch: datapath.Datapath) -> int:
        self.now_ns += 100_000
        switch.t["ports"]["ready"] = 1  # as the worker's poll would tell it
        return int(worker.step(pointed(switch.memory.array), switch.tables, 0, self.now_ns))

    def run(self) -> None:
        """Until nothing moves any more, the router's kernel included."""
        quiet = 0
        while quiet < 5:
            worked = sum(self.step(switch) + self._answer(switch) for switch in self.switches)
            quiet = 0 if worked else quiet + 1
            if not worked:
                time.sleep(0.002)

    def _answer(self, switch: datapath.Datapath) -> int:
        punts = switch.poll_punts()
        here = {mac: port for port, mac in ROUTER_MACS.items()}
        if switch is self.first:
            here = {MACS["client"]: CLIENT, MACS["server"]: SERVER}
        for punt in punts:
            mac = ":".join(f"{byte:02x}" for byte in punt.key.eth_dst.to_bytes(6, "big"))
            known = mac in MACS.values() or mac in ROUTER_MACS.values()
            program = (Output(here.get(mac, WIRE)),) if known else ()
            switch.install(punt.key._replace(ip_tos=0), program)
            switch.execute(punt.packet, program)
        return len(punts)

    def send(self, port: int, frames: list[bytes]) -> None:
        for frame in frames:
            self.vms[port].send(bytes(VNET.size) + frame)

    def received(self, port: int) -> list[bytes]:
        frames = []
        while True:
            try:
                frames.append(self.vms[port].recv(1 << 17)[VNET.size :])
            except BlockingIOError:
                return [frame for frame in frames if TCP in Ether(frame)]


@pytest.fixture
def network(router, tmp_path, monkeypatch):
    network = Network(str(tmp_path / "wire"), monkeypatch)
    nic = network.second.nic(WIRE)
    nic.set_lro_kind(None, "lro")
    nic.set_completion_size(None, JUMBO)
    network.first.nic(WIRE).set_lro(None, "off")  # what the server gets is what stood on the wire
    yield network
    network.close()


def frame(version: int, flags: str, length: int = 0, seq: int = 0, back: bool = False, options=()) -> bytes:
    client, server = ADDRESSES[version]
    port, host = (SERVER, "server") if back else (CLIENT, "client")
    source, target = (server, client) if back else (client, server)
    layer = IP(src=source, dst=target, flags="DF") if version == 4 else IPv6(src=source, dst=target)
    sport, dport = (80, 5001) if back else (5001, 80)
    tcp = TCP(sport=sport, dport=dport, seq=seq, ack=1, flags=flags, options=list(options))
    packet = Ether(src=MACS[host], dst=ROUTER_MACS[port]) / layer / tcp
    return bytes(packet / Raw(payload(length, seed=seq % 251)) if length else packet)


def connect(network: Network, version: int, client_mss: int, server_mss: int) -> None:
    """SYN and SYN-ACK, through the router."""
    network.send(CLIENT, [frame(version, "S", options=[("MSS", client_mss)])])
    network.run()
    assert len(network.received(SERVER)) == 1
    network.send(SERVER, [frame(version, "SA", back=True, options=[("MSS", server_mss)])])
    network.run()
    assert len(network.received(CLIENT)) == 1


def stream(version: int, length: int = SEGMENT, back: bool = False) -> list[bytes]:
    return [frame(version, "A", length, 1 + number * length, back) for number in range(COUNT)]


@pytest.mark.parametrize("version", [4, 6])
def test_s0_9_lro_and_snooped_mss_bring_every_byte_in_segments_of_the_mss(network, version):
    for port in (CLIENT, SERVER):
        network.second.set_forwarding(port, True)
    connect(network, version, 1400, SEGMENT)
    sent = stream(version)
    network.send(CLIENT, sent)
    network.run()
    got = network.received(SERVER)
    assert [payload_of(one) for one in got] == [payload_of(one) for one in sent]
    assert all(checksums_right(one) for one in got)
    counters = network.second.counters()
    assert counters["gro_aggregates"] > 0 and counters["mss_segmented"] == counters["gro_aggregates"]
    assert counters["mtu_exceeded"] == 0


@pytest.mark.parametrize("back", [False, True])
def test_s0_9_each_direction_has_its_own_mss(network, back):
    for port in (CLIENT, SERVER):
        network.second.set_forwarding(port, True)
    connect(network, 4, 900, 1100)
    sent = stream(4, 900 if back else 1100, back)
    network.send(SERVER if back else CLIENT, sent)
    network.run()
    got = network.received(CLIENT if back else SERVER)
    assert max(len(payload_of(one)) for one in got) == (900 if back else 1100)
    assert b"".join(map(payload_of, got)) == b"".join(map(payload_of, sent))


def test_s0_10_naive_lro_loses_what_it_aggregated(network):
    connect(network, 4, 1400, SEGMENT)
    network.send(CLIENT, stream(4))
    network.run()
    got = network.received(SERVER)
    counters = network.second.counters()
    assert counters["gro_aggregates"] > 0 and counters["mtu_exceeded"] == counters["gro_aggregates"]
    assert len(got) == COUNT - counters["gro_merged"] - counters["gro_aggregates"]


def test_s0_10_without_lro_each_segment_passes_alone(network):
    network.second.nic(WIRE).set_lro(None, "off")
    connect(network, 4, 1400, SEGMENT)
    sent = stream(4)
    network.send(CLIENT, sent)
    network.run()
    assert [payload_of(one) for one in network.received(SERVER)] == [payload_of(one) for one in sent]
    counters = network.second.counters()
    assert counters["gro_aggregates"] == counters["mss_segmented"] == counters["mtu_exceeded"] == 0
