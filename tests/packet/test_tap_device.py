# SPDX-License-Identifier: Apache-2.0
"""A VM's TAP as the switch finds it in a namespace, and leaves it."""

from __future__ import annotations

import errno
import json
import os
from contextlib import closing

import pytest

from tests.packet.lab import Namespace
from vswitch.config import parse_port
from vswitch.datapath import Datapath
from vswitch.dataplane.ports.tap_device import QUEUE_LEN, TapDevice
from vswitch.errors import ConfigError

pytestmark = pytest.mark.root


@pytest.fixture
def vm():
    space = Namespace(f"td{os.getpid()}")
    try:
        yield space
    finally:
        space.close()


def queue_length(space: Namespace) -> int:
    (link,) = json.loads(space.ip("-j", "link", "show", "tap0"))
    return link["txqlen"]


def test_a_tap_that_is_made_has_a_queue_that_four_large_windows_do_not_overflow(vm):
    device = TapDevice("tap0", vm.name, "here")
    device.keep()
    device.close()
    assert queue_length(vm) == QUEUE_LEN
    assert 4 * (16 << 20) // QUEUE_LEN < 8192  # far less than a super-frame each


def test_a_tap_that_is_made_is_gone_when_the_start_fails(vm):
    ports = [parse_port(f"{number}=tap:tap{number}@{vm.name}") for number in (1, 2)]
    with pytest.raises(ConfigError):
        Datapath(1, [*ports, ports[0]])
    assert [link["ifname"] for link in json.loads(vm.ip("-j", "link"))] == ["lo"]


@pytest.fixture
def elsewhere():
    space = Namespace(f"te{os.getpid()}")
    try:
        yield space
    finally:
        space.close()


def is_attached(device: TapDevice) -> bool:
    """Whether frames of some VM could come: a descriptor of nothing is in a bad state."""
    try:
        os.read(device.fd, 1)
    except BlockingIOError:
        return True
    except OSError as error:
        assert error.errno == errno.EBADFD
    return False


def test_an_interface_that_gets_the_number_of_the_one_before(vm, elsewhere):
    """It is another one all the same."""
    for space in (elsewhere, vm):  # each has the first number that is free there
        space.ip("tuntap", "add", "dev", "tap0", "mode", "tap")
    with closing(TapDevice("tap0", vm.name, "here")) as device:
        before = device._index
        vm.ip("link", "delete", "tap0")
        elsewhere.ip("link", "set", "tap0", "netns", vm.name)
        device.look()
        assert device._index == before
        assert is_attached(device)


def test_none_is_made_in_the_place_of_one_that_goes_while_it_is_met(vm, monkeypatch):
    """The kernel would make it when asked for a queue of it, in the way of whoever makes the next one."""
    vm.ip("tuntap", "add", "dev", "tap0", "mode", "tap")
    with closing(TapDevice("tap0", vm.name, "here")) as device:
        vm.ip("link", "delete", "tap0")
        device.look()
        seen = iter([device._index + 77])
        find = device._find
        monkeypatch.setattr(device, "_find", lambda: next(seen, None) or find())
        assert device.look() == (False, 0)
        assert [link["ifname"] for link in json.loads(vm.ip("-j", "link"))] == ["lo"]
        vm.ip("tuntap", "add", "dev", "tap0", "mode", "tap")
        device.look()
        assert is_attached(device)


def test_why_an_interface_is_no_port_is_said_once(vm, caplog):
    vm.ip("tuntap", "add", "dev", "tap0", "mode", "tap")
    with closing(TapDevice("tap0", vm.name, "here")) as device:
        vm.ip("link", "delete", "tap0")
        vm.ip("link", "add", "tap0", "type", "veth", "peer", "name", "other")
        vm.ip("link", "set", "tap0", "up")
        assert [device.look() for _ in range(3)] == [(False, 1500)] * 3
    assert caplog.messages == ["tap0 exists, but is no TAP; its port stays down"]


@pytest.mark.parametrize(("before", "after"), [(1000, QUEUE_LEN), (50, 50), (20000, 20000)])
def test_a_queue_that_somebody_has_set_stays(vm, before, after):
    """1000 is what the kernel gives."""
    vm.ip("tuntap", "add", "dev", "tap0", "mode", "tap", "multi_queue", "vnet_hdr")
    vm.ip("link", "set", "tap0", "txqueuelen", before)
    device = TapDevice("tap0", vm.name, "here")
    device.close()
    assert queue_length(vm) == after
