# SPDX-License-Identifier: Apache-2.0
"""A VM's TAP as the switch finds it in a namespace, and leaves it."""

from __future__ import annotations

import json
import os

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


@pytest.mark.parametrize(("before", "after"), [(1000, QUEUE_LEN), (50, 50), (20000, 20000)])
def test_a_queue_that_somebody_has_set_stays(vm, before, after):
    """1000 is what the kernel gives."""
    vm.ip("tuntap", "add", "dev", "tap0", "mode", "tap", "multi_queue", "vnet_hdr")
    vm.ip("link", "set", "tap0", "txqueuelen", before)
    device = TapDevice("tap0", vm.name, "here")
    device.close()
    assert queue_length(vm) == after
