# SPDX-License-Identifier: Apache-2.0
"""Packet ports on real veths, between hosts that are Linux's own stack."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading
import time

import pytest

from tests.packet.lab import (
    Namespace,
    Switch,
    add_host,
    ethernet_off,
    gbps,
    iperf,
    ping,
    two_hosts,
)
from tests.patience import PATIENCE_S
from vswitch.config import parse_port
from vswitch.datapath import Datapath
from vswitch.dataplane.ports.packet_device import ETH_P_ALL, SOL_PACKET
from vswitch.errors import ConfigError
from vswitch.flow import Output, SetTunnel

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]

PACKET_AUXDATA = 8
LOSSES = {
    "rx_bad_descriptor",
    "rx_too_short",
    "packet_error",
    "mtu_exceeded",
    "rx_bad_checksum",
    "unknown_port",
}
LEAST_GBPS = 0.1
"""Of any way that is whole; one that loses or repeats gives less."""


@pytest.fixture
def lab():
    with two_hosts() as hosts:
        _wait(lambda: hosts[1].port(1).up and hosts[1].port(2).up)
        yield hosts


def _wait(condition, seconds: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _transfer(source: Namespace, target: Namespace, address: str, size: int) -> tuple[str, str]:
    """Send random bytes by TCP; the digests of what was sent and of what arrived."""
    data = os.urandom(size)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with target.inside():
        listener = socket.create_server((address, 0), family=family)
    arrived = hashlib.sha256()

    def take() -> None:
        connection, _ = listener.accept()
        with connection:
            while piece := connection.recv(1 << 16):
                arrived.update(piece)

    taker = threading.Thread(target=take)
    taker.start()
    with source.inside():
        sender = socket.socket(family)
    with sender, listener:
        sender.settimeout(PATIENCE_S)
        sender.connect((address, listener.getsockname()[1]))
        sender.sendall(data)
        sender.close()
        taker.join(20)
    return hashlib.sha256(data).hexdigest(), arrived.hexdigest()


def _lost(switch: Switch) -> dict[str, int]:
    return {name: count for name, count in switch.counted().items() if name in LOSSES}


@pytest.mark.parametrize("offloads", [True, False], ids=["default offloads", "no offloads"])
def test_hosts_reach_each_other(lab, offloads):
    h1, switch, h2 = lab
    if not offloads:
        ethernet_off(h1, "eth0")
        ethernet_off(h2, "eth0")
    assert ping(h1, "10.0.0.2")
    assert ping(h2, "fd00::1")
    for source, target, address in (
        (h1, h2, "10.0.0.2"),
        (h2, h1, "10.0.0.1"),
        (h1, h2, "fd00::2"),
    ):
        sent, arrived = _transfer(source, target, address, 20 << 20)
        assert sent == arrived
    for option in ((), ("-R",), ("-P", "4")):
        assert gbps(iperf(h1, h2, "10.0.0.2", *option, seconds=1)) > LEAST_GBPS
    assert _lost(switch) == {}
    assert _kernel_errors(h1) == _kernel_errors(h2) == {}


def _kernel_errors(host: Namespace) -> dict[str, int]:
    """What the host's stack found wrong with what it got."""
    lines = [line.split() for line in host.run("nstat", "-az").splitlines()[1:]]
    wrong = ("InErrs", "CsumErrors", "InHdrErrors", "InTruncatedPkts", "InErrors")
    return {line[0]: int(line[1]) for line in lines if line[0].endswith(wrong) and int(line[1])}


def test_one_side_with_and_one_without_offloads(lab):
    h1, switch, h2 = lab
    ethernet_off(h2, "eth0")
    for source, target, address in ((h1, h2, "10.0.0.2"), (h2, h1, "10.0.0.1")):
        sent, arrived = _transfer(source, target, address, 20 << 20)
        assert sent == arrived
    assert _lost(switch) == {}


@pytest.mark.parametrize("tpid", [0x8100, 0x88A8])
@pytest.mark.parametrize("length", [100, 1480])
def test_tagged_frames(lab, tpid, length):
    """The kernel hands a tag over beside the frame, in either direction; nothing of it may get lost."""
    h1, switch, h2 = lab
    with h1.inside():
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with h2.inside():
        receiver = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    with sender, receiver:
        sender.bind(("eth0", 0))
        receiver.bind(("eth0", ETH_P_ALL))
        receiver.settimeout(PATIENCE_S)
        receiver.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        addresses = bytes.fromhex("020000000002 020000000001")
        inner = struct.pack("!HH", 0x8100, 7) + b"\x88\xb5" + bytes(range(250)) * 6
        sender.send(addresses + struct.pack("!HH", tpid, 3 << 13 | 5) + inner[:length])
        while True:
            frame, control, _, _ = receiver.recvmsg(2000, 100)
            if frame[:12] == addresses:
                break
        _, _, _, _, _, tci, got_tpid = struct.unpack("IIIHHHH", control[0][2])
        assert (got_tpid, tci) == (tpid, 3 << 13 | 5)
        assert frame[12:] == inner[:length]
    keys = [key for key in switch.missed if key.eth_type == 0x88B5]
    assert [(key.vlan_tci, key.vlan_inner) for key in keys] == [(0x7005, 0x1007)]


def test_large_udp_datagrams_by_udp_gso(lab):
    """A host's UDP GSO (udp(7), UDP_SEGMENT) passes as one frame, and arrives as datagrams."""
    h1, switch, h2 = lab
    with h2.inside():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with h1.inside():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver, sender:
        receiver.bind(("10.0.0.2", 0))
        receiver.settimeout(PATIENCE_S)
        sender.setsockopt(socket.IPPROTO_UDP, 103, 1000)
        data = os.urandom(9500)
        sender.sendto(data, receiver.getsockname())
        datagrams = [receiver.recv(65535) for _ in range(10)]
        assert b"".join(datagrams) == data
        assert {len(datagram) for datagram in datagrams} == {1000, 500}
    _wait(lambda: switch.port(2).counters.tx_bytes > 9500)
    assert _lost(switch) == {}


def test_tcpdump_sees_what_passes(lab):
    h1, _switch, _h2 = lab
    prefix = h1.name[:-2]
    switch_side = ["ip", "netns", "exec", f"{prefix}sw"]
    tcpdump = h1.start(*switch_side, "tcpdump", "-lni", "s2", "-c", 2, "icmp")
    for line in tcpdump.stdout:
        if "listening" in line:
            break
    assert ping(h1, "10.0.0.2", 1)
    seen = tcpdump.communicate(timeout=PATIENCE_S)[0]
    assert "10.0.0.1 > 10.0.0.2: ICMP echo request" in seen
    assert "10.0.0.2 > 10.0.0.1: ICMP echo reply" in seen


def test_an_interface_goes_down_and_comes_back(lab):
    h1, switch, h2 = lab
    assert ping(h1, "10.0.0.2")
    h2.ip("link", "set", "eth0", "down")
    _wait(lambda: not switch.port(2).up)
    h1.ip("neigh", "replace", "10.0.0.2", "lladdr", "02:00:00:00:00:02", "dev", "eth0")
    assert not ping(h1, "10.0.0.2", 1)
    assert switch.counted()["port_down"] > 0
    h2.ip("link", "set", "eth0", "up")
    _wait(lambda: switch.port(2).up)
    assert ping(h1, "10.0.0.2")


def test_an_interface_is_deleted_and_made_again(lab):
    h1, switch, h2 = lab
    assert ping(h1, "10.0.0.2")
    middle = Namespace.__new__(Namespace)
    middle.name = f"{h1.name[:-2]}sw"
    middle.ip("link", "delete", "s2")
    _wait(lambda: not switch.port(2).up)
    before = switch.worker_seconds()
    time.sleep(1)
    assert switch.worker_seconds() - before < 0.1  # an error that waits at the socket does not keep it busy
    add_host(middle, h2, 2)
    _wait(lambda: switch.port(2).up)
    assert ping(h1, "10.0.0.2")
    sent, arrived = _transfer(h1, h2, "10.0.0.2", 5 << 20)
    assert sent == arrived


def test_the_mtu_follows_the_interface(lab):
    h1, switch, h2 = lab
    middle = f"{h1.name[:-2]}sw"
    assert switch.port(2).mtu == 1500
    h1.run("ip", "-n", middle, "link", "set", "s2", "mtu", 1400)
    _wait(lambda: switch.port(2).mtu == 1400)
    assert ping(h1, "10.0.0.2")
    with h1.inside():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        sender.sendto(bytes(1450), ("10.0.0.2", 9))
    _wait(lambda: switch.counted().get("mtu_exceeded", 0) == 1)
    for host in (h1, h2):
        host.ip("link", "set", "eth0", "mtu", 9000)
    for name in ("s1", "s2"):
        h1.run("ip", "-n", middle, "link", "set", name, "mtu", 9000)
    _wait(lambda: switch.port(2).mtu == 9000)
    for host in (h1, h2):
        ethernet_off(host, "eth0")
    sent, arrived = _transfer(h1, h2, "10.0.0.2", 20 << 20)
    assert sent == arrived
    assert switch.counted()["mtu_exceeded"] == 1


def test_a_flood_of_small_datagrams_is_forwarded_or_counted(lab):
    h1, switch, h2 = lab
    assert ping(h1, "10.0.0.2")
    before = switch.port(1).counters, switch.port(2).counters
    report = iperf(h1, h2, "10.0.0.2", "-u", "-b", "0", "-l", "18", seconds=1)
    sent = report["end"]["sum"]["packets"]

    def missed() -> int:
        return switch.port(1).counters.rx_dropped - before[0].rx_dropped

    def forwarded() -> int:
        return switch.port(2).counters.tx_packets - before[1].tx_packets

    _wait(lambda: forwarded() + switch.port(2).counters.tx_dropped + missed() >= sent)
    assert forwarded() > 2000
    assert switch.counted().get("rx_ring_full", 0) >= missed()


def test_idle_ports_cost_next_to_nothing(lab):
    h1, switch, _h2 = lab
    assert ping(h1, "10.0.0.2")
    before = switch.worker_seconds()
    time.sleep(2)
    assert switch.worker_seconds() - before < 0.1


# The kernel's VXLAN as peer


@pytest.fixture(params=["super-frames", "frames"])
def overlay(request, lab):
    """h1 has the kernel's VXLAN, whose other end is the switch's port 1; h2 is a plain host behind it."""
    h1, switch, h2 = lab
    ours, theirs = switch.port(1).mac.hex(":"), "02:00:00:00:00:01"
    h1.ip("addr", "flush", "dev", "eth0")
    h1.ip("addr", "add", "192.168.7.1/24", "dev", "eth0")
    h1.ip("neigh", "add", "192.168.7.2", "lladdr", ours, "dev", "eth0")
    h1.ip(
        "link", "add", "vx0", "type", "vxlan", "id", 42, "local", "192.168.7.1", "remote", "192.168.7.2",
        "dstport", 4789, "dev", "eth0",
    )  # fmt: skip
    h1.ip("link", "set", "vx0", "up")
    h1.ip("addr", "add", "10.0.0.1/24", "dev", "vx0")
    h1.ip("addr", "add", "fd00::1/64", "dev", "vx0", "nodad")
    h2.ip("link", "set", "eth0", "mtu", 1450)
    if request.param == "frames":
        ethernet_off(h1, "eth0")
    with switch.lock:
        switch.dp.add_tunnel(1001, "t", "vxlan", "192.168.7.2", "192.168.7.1", ours, theirs, 1)
    switch.routes = {1: (), 1001: (Output(2),), 2: (SetTunnel(42), Output(1001))}
    return h1, switch, h2


def test_the_kernels_vxlan_device_is_a_peer(overlay):
    h1, switch, h2 = overlay
    assert ping(h1, "10.0.0.2")
    assert ping(h2, "fd00::1")
    for source, target, address in (
        (h1, h2, "10.0.0.2"),
        (h2, h1, "10.0.0.1"),
        (h2, h1, "fd00::1"),
        (h1, h2, "fd00::2"),
    ):
        sent, arrived = _transfer(source, target, address, 20 << 20)
        assert sent == arrived
    for option in ((), ("-R",)):
        assert gbps(iperf(h1, h2, "10.0.0.2", *option, seconds=1)) > LEAST_GBPS
    assert switch.port(1001).mtu == 1450
    assert _lost(switch) == {}
    assert _kernel_errors(h1) == _kernel_errors(h2) == {}


def _find_path_mtu(h1, h2, switch):
    """Hosts that send what does not fit into the tunnel learn what does."""
    for host in (h1, h2):
        host.ip("link", "set", "eth0", "mtu", 1500)
    for address in ("10.0.0.2", "fd00::2"):
        sent, arrived = _transfer(h1, h2, address, 20 << 20)
        assert sent == arrived
        assert "mtu 1450" in h1.ip("route", "get", address)
    assert switch.counted()["mtu_exceeded"] > 0


def test_two_switches_over_a_veth():
    """The shared-memory wire replaced by a veth between two packet ports."""
    prefix = f"pk{os.getpid()}"
    spaces: list[Namespace] = []
    switches: list[Switch] = []
    try:
        for name in ("h1", "s1", "s2", "h2"):
            spaces.append(Namespace(prefix + name))
        h1, left, right, h2 = spaces
        left.ip("link", "add", "uplink", "type", "veth", "peer", "name", "uplink", "netns", right.name)
        for number, (space, host) in enumerate(((left, h1), (right, h2)), 1):
            space.ip("link", "set", "uplink", "up")
            add_host(space, host, number)
            host.ip("link", "set", "eth0", "mtu", 1450)
            switches.append(Switch(space, ["1=packet:uplink", f"2=packet:s{number}"], number))
        macs = [switch.port(1).mac.hex(":") for switch in switches]
        for number, switch in enumerate(switches):
            ips = ["192.168.7.1", "192.168.7.2"]
            switch.dp.add_tunnel(
                1001, "t", "vxlan", ips[number], ips[1 - number], macs[number], macs[1 - number], 1
            )
            switch.routes = {1: (), 1001: (Output(2),), 2: (SetTunnel(42), Output(1001))}
            switch.start()
        _wait(lambda: all(switch.port(1001).up and switch.port(2).up for switch in switches))
        assert ping(h1, "10.0.0.2")
        for space in (left, right):  # by the switch: a tunnel's frames are joined where the interface has GRO
            assert "rx-udp-gro-forwarding: on" in space.run("ethtool", "-k", "uplink")
        for offloads in ("all", "none", "GRO"):
            for space in (left, right):
                if offloads == "none":
                    ethernet_off(space, "uplink")
                elif offloads == "GRO":
                    space.run("ethtool", "-K", "uplink", "gro", "on")
            for source, target, address in ((h1, h2, "10.0.0.2"), (h2, h1, "fd00::1")):
                sent, arrived = _transfer(source, target, address, 20 << 20)
                assert sent == arrived
            assert gbps(iperf(h1, h2, "10.0.0.2", seconds=1)) > LEAST_GBPS
        assert [_lost(switch) for switch in switches] == [{}, {}]
        _find_path_mtu(h1, h2, switches[0])
    finally:
        for switch in switches:
            switch.close()
        for space in spaces:
            space.close()


@pytest.mark.parametrize(
    ("port", "sentence"),
    [
        ("1=packet:nowhere", "port 1: there is no interface nowhere in the switch's network namespace"),
        ("1=packet:lo", "port 1: lo is no Ethernet interface"),
    ],
)
def test_an_interface_that_cannot_be_had_is_a_sentence(port, sentence):
    with pytest.raises(ConfigError) as caught:
        Datapath(1, [parse_port(port)])
    assert str(caught.value) == sentence


def test_the_mtu_option_sets_the_interfaces():
    space = Namespace(f"pk{os.getpid()}m")
    try:
        space.ip("link", "add", "sw0", "type", "veth", "peer", "name", "sw1")
        with space.inside():
            datapath = Datapath(1, [parse_port("1=packet:sw0,mtu=1400")])
            datapath.close()
            with pytest.raises(ConfigError):
                Datapath(1, [parse_port("1=packet:sw0,mtu=1400"), parse_port("2=packet:sw2")])
        assert "mtu 1400" in space.ip("link", "show", "sw0")
    finally:
        space.close()
