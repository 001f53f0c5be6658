# SPDX-License-Identifier: Apache-2.0
"""What becomes of a port whose device is removed, renamed, moved, replaced or set down while the switch runs.

It is down until there is one of its name that can be used, and then carries again. Never is it up and dead.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from tests.packet.lab import Namespace, Switch, add_host, ping
from tests.patience import PATIENCE_S
from vswitch.flow import Output
from vswitch.layout import SHIM_ROOM

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]

VM_PORT, HOST_PORT = 1, 2
VM_MAC = "02:00:00:00:00:01"


class Site(NamedTuple):
    """A VM (10.0.0.1, `tap0`) and a host (10.0.0.2) on a switch that runs in `middle`; `other`: elsewhere."""

    vm: Namespace
    host: Namespace
    middle: Namespace
    other: Namespace
    switch: Switch

    def carries(self) -> bool:
        return ping(self.vm, "10.0.0.2", 1, 0.3) and ping(self.host, "10.0.0.1", 1, 0.3)

    def is_up(self, port: int) -> bool:
        return self.switch.port(port).up


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        spaces = [Namespace(f"dv{os.getpid()}{name}") for name in ("vm", "host", "mid", "far")]
        for space in spaces:
            stack.callback(space.close)
        vm, host, middle, other = spaces
        make_tap(vm, "multi_queue", "vnet_hdr")
        add_host(middle, host, HOST_PORT)
        switch = Switch(middle, [f"{VM_PORT}=tap:tap0@{vm.name}", f"{HOST_PORT}=packet:s2"])
        stack.callback(switch.close)
        switch.routes = {VM_PORT: (Output(HOST_PORT),), HOST_PORT: (Output(VM_PORT),)}
        switch.start()
        yield Site(vm, host, middle, other, switch)


def make_tap(vm: Namespace, *flags: str) -> None:
    vm.ip("tuntap", "add", "dev", "tap0", "mode", "tap", *flags)
    configure_tap(vm)


def configure_tap(vm: Namespace) -> None:
    vm.ip("link", "set", "tap0", "address", VM_MAC, "up")
    vm.ip("addr", "replace", "10.0.0.1/24", "dev", "tap0")


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


Act = Callable[[Site], object]


def tap(*words: str) -> Act:
    return lambda site: site.vm.ip(*words)


def veth(*words: str) -> Act:
    return lambda site: site.middle.ip(*words)


def tap_comes_back(site: Site) -> None:
    site.other.ip("link", "set", "tap0", "netns", site.vm.name)
    configure_tap(site.vm)


def veth_comes_back(site: Site) -> None:
    site.other.ip("link", "set", "s2", "netns", site.middle.name)
    site.middle.ip("link", "set", "s2", "up")


def veth_is_remade(site: Site) -> None:
    add_host(site.middle, site.host, HOST_PORT)


def another_kind(space: str) -> Act:
    """Something else gets the name."""

    def replace(site: Site) -> None:
        if space == "vm":
            site.vm.ip("link", "delete", "tap0")
            site.vm.ip("link", "add", "tap0", "type", "veth", "peer", "name", "tap0peer")
            site.vm.ip("link", "set", "tap0", "up")
            site.vm.ip("link", "set", "tap0peer", "up")
        else:
            site.middle.ip("link", "delete", "s2")
            site.middle.ip("tuntap", "add", "dev", "s2", "mode", "tun")
            site.middle.ip("link", "set", "s2", "up")

    return replace


def the_right_kind(space: str) -> Act:
    def replace(site: Site) -> None:
        if space == "vm":
            site.vm.ip("link", "delete", "tap0")
            make_tap(site.vm)
        else:
            site.middle.ip("link", "delete", "s2")
            veth_is_remade(site)

    return replace


TROUBLES: dict[str, tuple[int, Act, Act]] = {
    "tap removed, made by its recipe": (
        VM_PORT, tap("link", "delete", "tap0"), lambda s: make_tap(s.vm, "multi_queue", "vnet_hdr"),
    ),
    "tap removed, made with one queue": (VM_PORT, tap("link", "delete", "tap0"), lambda s: make_tap(s.vm)),
    "tap renamed": (VM_PORT, tap("link", "set", "tap0", "name", "away"),
                    tap("link", "set", "away", "name", "tap0")),
    "tap moved": (VM_PORT, lambda s: s.vm.ip("link", "set", "tap0", "netns", s.other.name), tap_comes_back),
    "tap down": (VM_PORT, tap("link", "set", "tap0", "down"), lambda s: configure_tap(s.vm)),
    "tap replaced": (VM_PORT, another_kind("vm"), the_right_kind("vm")),
    "veth removed": (HOST_PORT, veth("link", "delete", "s2"), veth_is_remade),
    "veth renamed": (HOST_PORT, veth("link", "set", "s2", "name", "away"),
                     veth("link", "set", "away", "name", "s2")),
    "veth moved": (HOST_PORT, lambda s: s.middle.ip("link", "set", "s2", "netns", s.other.name),
                   veth_comes_back),
    "veth down": (HOST_PORT, veth("link", "set", "s2", "down"), veth("link", "set", "s2", "up")),
    "veth replaced": (HOST_PORT, another_kind("middle"), the_right_kind("middle")),
}  # fmt: skip


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_port_goes_down_with_its_device_and_comes_up_with_the_next(site, trouble):
    port, harm, heal = TROUBLES[trouble]
    wait(lambda: site.carries())
    harm(site)
    wait(lambda: not site.is_up(port))
    before = site.switch.worker_seconds()
    time.sleep(0.2)
    assert site.switch.worker_seconds() - before < 0.1  # what is not there does not keep the worker busy
    assert not site.is_up(port)
    heal(site)
    wait(lambda: site.is_up(port))
    wait(lambda: site.carries())


@pytest.mark.parametrize(
    "trouble", ["tap removed, made by its recipe", "tap moved", "tap renamed", "veth removed", "veth moved"]
)
def test_a_change_that_is_over_before_anybody_looks(site, trouble):
    """The switch looks 20 times a second here: it finds the next device in the place of the first."""
    port, harm, heal = TROUBLES[trouble]
    wait(lambda: site.carries())
    with site.switch.lock:
        harm(site)
        heal(site)
    wait(lambda: site.is_up(port) and site.carries())


@pytest.mark.parametrize(("name", "port"), [("tap0", VM_PORT), ("s2", HOST_PORT)])
def test_nothing_comes_in_by_a_device_that_has_another_name_now(site, name, port):
    """Neither at once nor, by way of a socket's ring, when the name is back."""
    space, sender, target = (
        (site.vm, site.vm, "10.0.0.2") if port == VM_PORT else (site.middle, site.host, "10.0.0.1")
    )
    wait(lambda: site.carries())
    space.ip("link", "set", name, "name", "away")
    wait(lambda: not site.is_up(port))
    before = site.switch.port(port).counters.rx_packets
    with sender.inside():
        out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with out:
        for _ in range(50):
            with contextlib.suppress(OSError):  # a TAP without a switch has no carrier
                out.sendto(b"stale", (target, 9))
    space.ip("link", "set", "away", "name", name)
    wait(lambda: site.is_up(port))
    assert site.switch.port(port).counters.rx_packets - before < 25  # neighbours may have been asked for
    wait(lambda: site.carries())


def test_the_mtu_of_an_interface_that_is_made_anew_is_what_frames_are_held_to(site):
    """Also when it is just what the one before it had, with the room for tags."""
    room = site.switch.port(HOST_PORT).mtu + SHIM_ROOM
    site.middle.ip("link", "delete", "s2")
    wait(lambda: not site.is_up(HOST_PORT))
    site.middle.ip(
        *("link", "add", "s2", "mtu", room, "type", "veth", "peer", "name", "eth0", "netns", site.host.name)
    )
    wait(lambda: site.switch.port(HOST_PORT).mtu == room)
    site.middle.ip("link", "delete", "s2")
    veth_is_remade(site)
    wait(lambda: site.is_up(HOST_PORT) and site.switch.port(HOST_PORT).mtu == room - SHIM_ROOM)


def test_a_port_has_the_address_of_the_interface_that_is_there(site):
    """Controllers hear of it as of any change of a port."""
    site.middle.ip("link", "set", "s2", "address", "02:00:00:00:77:01")
    wait(lambda: site.switch.port(HOST_PORT).mac.hex(":") == "02:00:00:00:77:01")
    site.middle.ip("link", "delete", "s2")
    wait(lambda: not site.is_up(HOST_PORT))
    veth_is_remade(site)
    site.middle.ip("link", "set", "s2", "address", "02:00:00:00:77:02")
    wait(lambda: site.switch.port(HOST_PORT).mac.hex(":") == "02:00:00:00:77:02")
    wait(lambda: site.carries())
