# SPDX-License-Identifier: Apache-2.0
"""The Linux kernel's VXLAN over a veth pair that carries MTU-sized frames only.

The most that the kernel can do: the VM's stack and the tunnel share a namespace, so there is no bridge and no
second veth in the path. The wire is a veth with TSO, GSO and checksum offload off (each 1500-byte frame is
made and summed by its sender, as for a real NIC without offloads) and GRO on.

Among what is tried are small socket buffers. With the several MB to which the kernel lets them grow, bursts
overrun the veth's receive queue (256 frames), and what is sent has left the caches when it is received: with
all on one core a connection then runs at anything from 6 to 15 Gbit/s, by chance; with 256 KB steadily at 17.
"""

from __future__ import annotations

from itertools import product

from experiments.iperf import Endpoint
from experiments.peers.base import SMALL_WINDOW, VM_MTU, VNI, WIRE_MTU, BackEnd, Servers, Variant
from experiments.system import Namespace

PLACEMENTS = ("per server", "per server, RPS", "any core", "one core")
OUTER = ("192.168.0.1", "192.168.0.2")
INNER = ("10.0.0.1", "10.0.0.2")


class KernelVxlan(BackEnd):
    name = "kernel"
    programs = ("ip", "ethtool", "nsenter", "unshare")

    def __init__(self, servers: Servers) -> None:
        super().__init__(servers)
        self.namespaces: list[Namespace] = []
        self.variant = Variant()

    def start(self) -> None:
        for _ in OUTER:
            self.namespaces.append(Namespace())
        first, second = self.namespaces
        first.ip(f"link add wire0 type veth peer name wire0 netns {second.pid}")
        for namespace, own, other, vm in zip(self.namespaces, OUTER, reversed(OUTER), INNER, strict=True):
            namespace.ip(
                f"link set wire0 mtu {WIRE_MTU} up",
                f"addr add {own}/24 dev wire0",
                f"link add vm0 type vxlan id {VNI} dstport 4789 local {own} remote {other}",
                f"link set vm0 mtu {VM_MTU} up",
                f"addr add {vm}/24 dev vm0",
            )
            namespace.offload("wire0", "tx off tso off gso off gro on")
        self.use(self.variant)

    def stop(self) -> None:
        for namespace in self.namespaces:
            namespace.close()
        self.namespaces.clear()

    def variants(self) -> list[Variant]:
        single = self.servers.first == self.servers.second
        placements = ("any core",) if single else PLACEMENTS
        windows = ("", SMALL_WINDOW)
        return [Variant(*combination) for combination in product(placements, (True, False), windows)]

    def quick_variants(self) -> list[Variant]:
        """Those that were the fastest somewhere: with TSO, and small buffers where all is on one core."""
        return [
            variant
            for variant in self.variants()
            if variant.vm_tso and bool(variant.window) == (variant.placement in ("one core", "any core"))
        ]

    def use(self, variant: Variant) -> None:
        state = "on" if variant.vm_tso else "off"
        steer = variant.placement == "per server, RPS"
        for namespace, cores in zip(self.namespaces, (self.servers.first, self.servers.second), strict=True):
            namespace.offload("vm0", f"tso {state} gso {state}")
            mask = f"{sum(1 << core for core in cores):x}" if steer else "0"
            namespace.run("sh", "-c", f"echo {mask} > /sys/class/net/wire0/queues/rx-0/rps_cpus")
        self.variant = variant

    def endpoints(self) -> tuple[Endpoint, Endpoint]:
        first, second = {
            "any core": (None, None),
            "one core": (self.servers.first, self.servers.first),
        }.get(self.variant.placement, (self.servers.first, self.servers.second))
        client, server = self.namespaces
        window = self.variant.window
        return Endpoint(client.pid, INNER[0], first, window), Endpoint(server.pid, INNER[1], second)

    def counters(self) -> dict[str, int]:
        """What the receiving VM's stack counted as wrong (/proc/net/snmp)."""
        counts = {}
        for prefix, namespace in zip(("sender", "receiver"), self.namespaces, strict=True):
            rows = [line.split() for line in namespace.run("cat", "/proc/net/snmp").splitlines()]
            for names, values in zip(rows[::2], rows[1::2], strict=True):
                table = names[0].rstrip(":")
                if table in ("Tcp", "Udp"):
                    pairs = dict(zip(names[1:], values[1:], strict=True))
                    counts[f"{prefix}.{table.lower()}_checksum_error"] = int(pairs["InCsumErrors"])
        return counts
