# SPDX-License-Identifier: Apache-2.0
"""What the harness asks of a back end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.checkout import Checkout
from experiments.iperf import Endpoint

WIRE_MTU = 1500
VM_MTU = 1450  # the wire's, less outer IPv4 (20), UDP (8), VXLAN (8) and inner Ethernet (14)
VNI = 42
SMALL_WINDOW = "256K"  # what is in flight stays in the cores' caches


@dataclass(frozen=True)
class Servers:
    """The cores of the two emulated servers, and a directory for a back end's files and logs."""

    first: frozenset[int]
    second: frozenset[int]
    run_dir: Path


@dataclass(frozen=True)
class Variant:
    """A way to run a back end.

    placement: `per server`: what belongs to a server runs on its cores; `per server, RPS`: and receive packet
    steering moves the receiver's protocol work to its cores; `any core`: left to the scheduler; `one core`:
    all on the first server's cores.
    window: size of the sockets' buffers; empty: the kernel finds one.
    """

    placement: str = "per server"
    vm_tso: bool = True
    window: str = ""

    def __str__(self) -> str:
        window = f", socket buffers of {self.window}" if self.window else ""
        return f"placement {self.placement}, VM's TSO {'on' if self.vm_tso else 'off'}{window}"


class BackEnd:
    """Two servers with a VM each, a wire that carries MTU-sized frames, and an overlay between the VMs."""

    name = ""
    programs: tuple[str, ...] = ()  # that must be installed

    def __init__(self, servers: Servers) -> None:
        self.servers = servers

    @classmethod
    def of(cls, checkout: Checkout) -> type[BackEnd] | None:
        """The same back end with the switch of another checkout; None where it has no switch of ours, or
        cannot have another."""
        return None

    def start(self) -> None:
        """Build it and return when traffic passes.

        What was built is removed by `stop`, also after a failure.
        """
        raise NotImplementedError

    def stop(self) -> None:
        """Remove everything that `start` made. May be called at any time, more than once."""
        raise NotImplementedError

    def prepare(self, config: dict[str, Any]) -> None:
        """Bring it into the state that a row's `config` asks for."""

    def variants(self) -> list[Variant]:
        """Ways to run it, of which a user would pick the fastest; the harness does so."""
        return [Variant()]

    def quick_variants(self) -> list[Variant]:
        """Those of them that a quick run tries."""
        return self.variants()

    def use(self, variant: Variant) -> None:
        """Switch to a variant; takes effect for connections made afterwards."""

    def endpoints(self) -> tuple[Endpoint, Endpoint]:
        """The VM on the first server, which sends, and the VM on the second."""
        raise NotImplementedError

    def counters(self) -> dict[str, int]:
        """Counters that only grow, by name."""
        return {}
