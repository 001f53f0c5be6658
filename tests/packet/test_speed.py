# SPDX-License-Identifier: Apache-2.0
"""How fast packet ports say that they are: by their drivers and by what `tc` set, as it happens."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.packet.lab import Namespace, Switch
from tests.patience import PATIENCE_S
from topologies.processes import poll_until
from vswitch.dataplane.ports import rtnetlink, speed

VETH_KBPS = 10_000_000
"""What veth's driver says."""

SHAPED = {
    # what Mininet's TCLink sets, and what else people set with the same disciplines: tc's words, kbit/s
    "htb": (["qdisc add dev {} root handle 5:0 htb default 1",
             "class add dev {} parent 5:0 classid 5:1 htb rate 10mbit burst 15k"], 10_000),
    "htb, fractions": (["qdisc add dev {} root handle 5:0 htb default 1",
                        "class add dev {} parent 5:0 classid 5:1 htb rate 2500kbit"], 2500),
    "htb, classes inside": (["qdisc add dev {} root handle 5:0 htb default 1",
                             "class add dev {} parent 5:0 classid 5:1 htb rate 10mbit",
                             "class add dev {} parent 5:1 classid 5:2 htb rate 5mbit ceil 8mbit"], 10_000),
    "htb, side by side": (["qdisc add dev {} root handle 5:0 htb default 1",
                           "class add dev {} parent 5:0 classid 5:1 htb rate 10mbit",
                           "class add dev {} parent 5:0 classid 5:2 htb rate 1mbit ceil 20mbit"], 30_000),
    "htb, beyond the driver": (["qdisc add dev {} root handle 5:0 htb default 1",
                                 "class add dev {} parent 5:0 classid 5:1 htb rate 50gbit"], VETH_KBPS),
    "htb without classes": (["qdisc add dev {} root handle 5:0 htb"], VETH_KBPS),
    "tbf": (["qdisc add dev {} root handle 5: tbf rate 10mbit burst 15000 latency 12ms"], 10_000),
    "tbf in htb": (["qdisc add dev {} root handle 5:0 htb default 1",
                    "class add dev {} parent 5:0 classid 5:1 htb rate 10mbit",
                    "qdisc add dev {} parent 5:1 handle 6: tbf rate 1mbit burst 15000 latency 12ms"], 10_000),
    "pfifo": (["qdisc add dev {} root handle 5: pfifo limit 10"], VETH_KBPS),
}  # fmt: skip


@contextmanager
def namespace() -> Iterator[Namespace]:
    space = Namespace("spd")
    space.ip("link", "add", "p0", "type", "veth", "peer", "name", "q0")
    space.ip("link", "add", "p1", "type", "veth", "peer", "name", "q1")
    try:
        yield space
    finally:
        space.close()


@pytest.fixture(scope="module")
def space() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


@pytest.fixture
def switch(space: Namespace) -> Iterator[Switch]:
    switch = Switch(space, ["1=packet:p0", "2=packet:p1"])
    yield switch
    switch.dp.close()


def tc(space: Namespace, words: str) -> None:
    space.run("tc", *words.split())


def speed_of(switch: Switch, number: int) -> Callable[[], int]:
    def look() -> int:
        switch.dp.refresh_ports()
        return switch.port(number).speed_kbps

    return look


@pytest.mark.root
@pytest.mark.parametrize(("commands", "kbps"), SHAPED.values(), ids=SHAPED.keys())
def test_a_port_is_as_fast_as_its_interface_is_shaped(space, switch, commands, kbps):
    """Live, and of one port only; also by a switch that starts later."""
    look, other = speed_of(switch, 1), speed_of(switch, 2)
    assert look() == other() == VETH_KBPS
    for command in commands:
        tc(space, command.format("p0"))
    try:
        assert poll_until(lambda: look() == kbps, PATIENCE_S, 0.01), look()
        assert other() == VETH_KBPS
        late = Switch(space, ["1=packet:p0"])
        assert late.port(1).speed_kbps == kbps
        late.dp.close()
    finally:
        tc(space, "qdisc del dev p0 root")
    assert poll_until(lambda: look() == VETH_KBPS, PATIENCE_S, 0.01), look()


@pytest.mark.root
@pytest.mark.parametrize("discipline", ["htb", "tbf"])
def test_rates_beyond_32_bits(space, discipline):
    """As the kernel tells them, whatever the interface's driver says; and of that interface alone."""
    if discipline == "htb":
        tc(space, "qdisc add dev p0 root handle 5:0 htb default 1")
        tc(space, "class add dev p0 parent 5:0 classid 5:1 htb rate 50gbit")
    else:
        for interface, rate in (("p0", "50gbit"), ("p1", "5gbit")):
            tc(space, f"qdisc add dev {interface} root handle 5: tbf rate {rate} burst 15000 latency 12ms")
    try:
        with space.inside(), rtnetlink.open_socket() as kernel:
            assert speed.shaped_kbps(kernel, socket.if_nametoindex("p0")) == 50_000_000
    finally:
        for interface in ("p0", "p1"):
            space.run("tc", "qdisc", "del", "dev", interface, "root", check=False)


@pytest.mark.root
def test_an_interface_that_is_made_again_is_looked_at_again(space, switch):
    look = speed_of(switch, 1)
    tc(space, "qdisc add dev p0 root handle 5: tbf rate 10mbit burst 15000 latency 12ms")
    assert poll_until(lambda: look() == 10_000, PATIENCE_S, 0.01)
    space.ip("link", "delete", "p0")
    space.ip("link", "add", "p0", "type", "veth", "peer", "name", "q0")
    assert poll_until(lambda: look() == VETH_KBPS, PATIENCE_S, 0.01), look()


@pytest.mark.root
def test_looking_at_interfaces_is_nothing_that_happens_to_them(space, switch):
    """Else each look would ask for another, for ever."""
    tc(space, "qdisc add dev p0 root handle 5: tbf rate 10mbit burst 15000 latency 12ms")
    try:
        look = speed_of(switch, 1)
        assert poll_until(lambda: look() == 10_000, PATIENCE_S, 0.01)
        switch.dp._ports.links.drain()
        device = switch.dp._ports[1].device
        assert device is not None and device.speed_kbps() == 10_000
        assert not switch.dp._ports.links.drain()
    finally:
        tc(space, "qdisc del dev p0 root")


# hfsc, which not every kernel has: in netlink's words, after linux/rtnetlink.h and linux/pkt_sched.h


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data.ljust(-(-len(data) // 4) * 4, b"\0")


def netlink_message(kind: int, body: bytes = b"") -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 0, 0) + body


def hfsc_class(handle: int, parent: int, curves: dict[int, tuple[int, int, int]]) -> bytes:
    """RTM_NEWTCLASS of interface 3. curves: struct tc_service_curve (m1, d, m2) by its attribute."""
    options = b"".join(attribute(kind, struct.pack("=III", *curve)) for kind, curve in curves.items())
    tcmsg = struct.pack("=BxxxiIII", 0, 3, handle, parent, 0)
    return netlink_message(40, tcmsg + attribute(1, b"hfsc\0") + attribute(2, options))


TEN_MBIT, ONE_MBIT = 1_250_000, 125_000
CURVES = {
    "upper limit": ({1: (0, 0, TEN_MBIT), 2: (0, 0, TEN_MBIT), 3: (0, 0, ONE_MBIT)}, 1000),
    "fair share": ({1: (0, 0, ONE_MBIT), 2: (9, 9, TEN_MBIT)}, 10_000),
    "real time": ({1: (9, 9, TEN_MBIT)}, 10_000),
}


@pytest.mark.parametrize(("curves", "kbps"), CURVES.values(), ids=CURVES.keys())
def test_hfsc(curves, kbps):
    """The class of all packets, 5:0, has no curve; those below it are the top, and others inside them."""
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, kernel:
        kernel.send(
            hfsc_class(0x5_0000, 0xFFFF_FFFF, {})
            + hfsc_class(0x5_0001, 0x5_0000, curves)
            + hfsc_class(0x5_0002, 0x5_0001, {1: (0, 0, ONE_MBIT)})
        )
        kernel.send(netlink_message(3, bytes(4)))
        assert speed.shaped_kbps(ours, 3) == kbps
