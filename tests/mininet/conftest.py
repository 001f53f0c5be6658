# SPDX-License-Identifier: Apache-2.0
"""Networks for the tests, always taken down again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mininet.net import Mininet

from topologies.controllers import Orchestrator
from topologies.lab import Lab
from topologies.links import TapLink, WireLink
from topologies.nodes import VM, VSwitch


class Overlay:
    """Two servers with a VM each, as a user builds them with Mininet's API; `wire` is its WireLink."""

    def __init__(
        self,
        wire: dict[str, Any] | None = None,
        vm: dict[str, Any] | None = None,
        tap: dict[str, Any] | None = None,
        controller: dict[str, Any] | None = None,
    ) -> None:
        self.lab = Lab()
        self.net = net = Mininet(controller=None)
        options: dict[str, Any] = {"lab": self.lab}
        self.c0 = net.addController("c0", Orchestrator, **options, **(controller or {}))
        self.s1, self.s2 = (net.addSwitch(name, cls=VSwitch, batch=True, **options) for name in ("s1", "s2"))
        self.wire = net.addLink(self.s1, self.s2, cls=WireLink, **(wire or {}))
        self.vm1, self.vm2 = (net.addHost(name, cls=VM, **options, **(vm or {})) for name in ("vm1", "vm2"))
        for host, switch in ((self.vm1, self.s1), (self.vm2, self.s2)):
            net.addLink(host, switch, cls=TapLink, **(tap or {}))

    def start(self) -> Overlay:
        self.net.start()
        return self

    def loss(self) -> float:
        """Percentage of pings lost between all VMs."""
        return self.net.pingAll(timeout="2")

    def stop(self) -> None:
        self.net.stop()
        self.lab.close()


@pytest.fixture
def net() -> Iterator[Mininet]:
    """A network of Mininet's for a test to build, without a controller, that is taken down afterwards."""
    network = Mininet(controller=None)
    yield network
    network.stop()
    Lab.close_current()


def _overlays() -> Iterator[Callable[..., Overlay]]:
    """Makes networks that are not started yet, and stops them afterwards."""
    made: list[Overlay] = []

    def make(**options: Any) -> Overlay:
        made.append(Overlay(**options))
        return made[-1]

    yield make
    for network in made:
        network.stop()
    Lab.close_current()


overlay = pytest.fixture(_overlays, name="overlay")
module_overlay = pytest.fixture(_overlays, scope="module", name="module_overlay")
"""For tests that share one network."""
