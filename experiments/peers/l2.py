# SPDX-License-Identifier: Apache-2.0
"""Two hosts on one switch, over veth: by this switch, Open vSwitch's userspace datapath, the kernel's bridge.

    h1 eth0 --- p1 switch p2 --- eth0 h2

Each is wired as Mininet wires plain hosts, and has one rule: forward by learned MAC address. Beside its eth0
each host has a VXLAN device of its kernel, to the other: a tunnel of which the switch knows nothing. The
offloads of the hosts' interfaces are the kernel's defaults, except for Open vSwitch, whose userspace datapath
passes on neither partial checksums nor super-frames.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from experiments.checkout import Checkout
from experiments.errors import ExperimentError
from experiments.iperf import Endpoint
from experiments.packets import SINK
from experiments.peers.base import SMALL_WINDOW, VM_MTU, VNI, BackEnd, Servers, Variant
from experiments.peers.ovs import NO_OFFLOADS, Instance
from experiments.plan import OTHER
from experiments.system import Namespace, wait_until
from topologies.processes import end, spawn
from vswitch import ctl

OPENFLOW_PORT = 6654
READY_TIMEOUT_S = 90.0  # a first start compiles the dataplane
PASSES_TIMEOUT_S = 10.0
# Which cores h1, the switch and h2 get: those of the first "server", of the second, or any.
PLACEMENTS = {
    "hosts apart": ("first", "any", "second"),
    "switch with the receiver": ("first", "second", "second"),
    "switch with the sender": ("first", "first", "second"),
    "one core": ("first", "first", "first"),
    "any core": ("any", "any", "any"),
}


class Bed(BackEnd):
    """The hosts, the cables, and where everything runs; a subclass makes the switch of it."""

    INTERFACE = "eth0"
    MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
    ADDRESSES = ("10.0.0.1", "10.0.0.2")
    TUNNEL = "vxlan0"
    INNER = ("192.168.0.1", "192.168.0.2")
    PORTS = ("p1", "p2")
    placements: tuple[str, ...] = tuple(PLACEMENTS)
    quick_placement = "switch with the receiver"
    programs: tuple[str, ...] = ("ip", "ethtool", "nsenter", "unshare", "ping", "sysctl")

    def __init__(self, servers: Servers) -> None:
        super().__init__(servers)
        self.hosts: list[Namespace] = []
        self.hypervisor: Namespace | None = None
        self.sink: subprocess.Popen | None = None
        self.variant = Variant(self.quick_placement)

    # The switch

    def join(self, switch: Namespace) -> None:
        """Make `PORTS` in the switch's namespace one network that forwards by MAC address."""
        raise NotImplementedError

    def part(self) -> None:
        """Undo `join`, whatever became of it."""

    def processes(self) -> Sequence[subprocess.Popen]:
        """What the switch consists of, if it has processes of its own."""
        return ()

    # Life

    def start(self) -> None:
        self.hypervisor = switch = Namespace()
        for port, mac, address in zip(self.PORTS, self.MACS, self.ADDRESSES, strict=True):
            host = Namespace()
            self.hosts.append(host)
            for namespace in (host, switch):
                namespace.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
            switch.ip(f"link add {port} type veth peer name {self.INTERFACE} netns {host.pid}")
            switch.ip(f"link set {port} up")
            host.ip(
                f"link set {self.INTERFACE} address {mac} up",
                f"addr add {address}/8 dev {self.INTERFACE}",
            )
        for host, other in zip(self.hosts, (1, 0), strict=True):
            host.ip(f"neigh add {self.ADDRESSES[other]} lladdr {self.MACS[other]} dev {self.INTERFACE}")
            self._add_tunnel(host, other)
        # the load's source addresses are nobody's, and their packets are to be taken all the same
        self.hosts[1].run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0")
        self.join(switch)
        self.sink = spawn([sys.executable, "-c", SINK], pid=self.hosts[1].pid, stdout=subprocess.PIPE)
        assert self.sink.stdout
        self.sink.stdout.readline()
        wait_until(
            self._passes, PASSES_TIMEOUT_S, f"{self.name} passes no traffic: see {self.servers.run_dir}"
        )

    def _add_tunnel(self, host: Namespace, other: int) -> None:
        """A host's own VXLAN to the other one, as `ip` makes it: with outer checksums."""
        local, remote = self.ADDRESSES[1 - other], self.ADDRESSES[other]
        host.ip(
            f"link add {self.TUNNEL} type vxlan id {VNI} dstport 4789 local {local} remote {remote}",
            f"link set {self.TUNNEL} mtu {VM_MTU} up",
            f"addr add {self.INNER[1 - other]}/24 dev {self.TUNNEL}",
        )

    def stop(self) -> None:
        if self.sink:
            end(self.sink)
            assert self.sink.stdout
            self.sink.stdout.close()
            self.sink = None
        self.part()
        for namespace in (*self.hosts, *([self.hypervisor] if self.hypervisor else [])):
            namespace.close()
        self.hosts.clear()
        self.hypervisor = None

    def _passes(self) -> bool:
        try:
            self.hosts[0].run("ping", "-c", "1", "-W", "1", self.ADDRESSES[1])
        except ExperimentError:
            return False
        return True

    # Where it runs

    def variants(self) -> list[Variant]:
        single = self.servers.first == self.servers.second
        placements = ("one core",) if single else self.placements
        return [
            Variant(placement, window=window) for placement, window in product(placements, ("", SMALL_WINDOW))
        ]

    def quick_variants(self) -> list[Variant]:
        quick = "one core" if self.servers.first == self.servers.second else self.quick_placement
        return [Variant(quick), Variant(quick, window=SMALL_WINDOW)]

    def use(self, variant: Variant) -> None:
        self.variant = variant
        for process in self.processes():
            for thread in os.listdir(f"/proc/{process.pid}/task"):
                os.sched_setaffinity(int(thread), self._cores()[1])

    def endpoints(self) -> tuple[Endpoint, Endpoint]:
        first, _, second = self._cores()
        return (
            Endpoint(self.hosts[0].pid, self.ADDRESSES[0], first, self.variant.window),
            Endpoint(self.hosts[1].pid, self.ADDRESSES[1], second),
        )

    def tunnel_endpoints(self) -> tuple[Endpoint, Endpoint]:
        """The same ends, inside the hosts' own tunnel."""
        first, second = self.endpoints()
        return replace(first, ip=self.INNER[0]), replace(second, ip=self.INNER[1])

    def _cores(self) -> list[frozenset[int]]:
        first, second = self.servers.first, self.servers.second
        cores = {"first": first, "second": second, "any": first | second}
        return [cores[where] for where in PLACEMENTS[self.variant.placement]]

    def counters(self) -> dict[str, int]:
        """What the hosts' stacks counted as wrong."""
        counts = {}
        for name, host in zip(("sender", "receiver"), self.hosts, strict=True):
            rows = [line.split() for line in Path(f"/proc/{host.pid}/net/snmp").read_text().splitlines()]
            for names, values in zip(rows[::2], rows[1::2], strict=True):
                if names[0] in ("Tcp:", "Udp:"):
                    pairs = dict(zip(names[1:], values[1:], strict=True))
                    counts[f"{name}.{names[0].lower()}checksum_error"] = int(pairs["InCsumErrors"])
        return counts

    def memory_bytes(self) -> int:
        """Resident memory of the switch's processes."""
        total = 0
        for process in self.processes():
            status = Path(f"/proc/{process.pid}/status").read_text()
            (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
            total += int(line.split()[1]) * 1024
        return total


class OpenFlowBed(Bed):
    """A bed whose switch takes rules on a TCP port of its namespace."""

    programs = (*Bed.programs, "ovs-ofctl")

    def ofctl(self, command: str, *arguments: str) -> str:
        """Run `ovs-ofctl` on the switch."""
        assert self.hypervisor
        target = f"tcp:127.0.0.1:{OPENFLOW_PORT}"
        return self.hypervisor.run("ovs-ofctl", "-O", "OpenFlow13", command, target, *arguments)


class BridgeBed(Bed):
    name = "bridge"
    placements = ("hosts apart", "one core", "any core")
    quick_placement = "one core"

    def join(self, switch: Namespace) -> None:
        switch.ip("link add br0 type bridge", "link set br0 up")
        for port in self.PORTS:
            switch.ip(f"link set {port} master br0")


class VSwitchBed(OpenFlowBed):
    """checkout: the one whose switch it is."""

    name = "vswitch"
    checkout = Checkout.here()

    @classmethod
    def of(cls, checkout: Checkout) -> type[BackEnd]:
        return type(cls.__name__, (cls,), {"name": f"{OTHER}-{cls.name}", "checkout": checkout})

    def __init__(self, servers: Servers) -> None:
        super().__init__(servers)
        self.process: subprocess.Popen | None = None
        self.run_dir = servers.run_dir / self.name

    def join(self, switch: Namespace) -> None:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        argv = [str(self.checkout.python), "-m", "vswitch", "--name", "s1", "--dpid", "1"]
        argv += ["--run-dir", str(self.run_dir)]
        argv += ["--listen", f"ptcp:{OPENFLOW_PORT}"]
        for number, port in enumerate(self.PORTS, start=1):
            argv += ["--port", f"{number}=packet:{port}"]
        with (self.run_dir / "s1.out").open("w") as output:
            self.process = spawn(
                argv,
                pid=switch.pid,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.checkout.environment(),
            )
        wait_until(self._ready, READY_TIMEOUT_S, f"the switch was not ready: see {self.run_dir}")
        self.ofctl("add-flow", "priority=0,actions=NORMAL")

    def _ready(self) -> bool:
        assert self.process
        if self.process.poll() is not None:
            lines = (self.run_dir / "s1.out").read_text().strip().splitlines()
            raise ExperimentError(f"the switch ended while it was starting: {lines[-1] if lines else ''}")
        try:
            return self._control("show")["state"] == "ready"
        except ctl.CtlError:
            return False

    def _control(self, method: str) -> dict:
        return ctl.call(self.run_dir / "s1.ctl", method)

    def part(self) -> None:
        if self.process:
            end(self.process)
            self.process = None

    def processes(self) -> Sequence[subprocess.Popen]:
        return [self.process] if self.process else []

    def counters(self) -> dict[str, int]:
        reasons = self._control("counters")["reasons"]
        return super().counters() | {f"s1.{reason}": count for reason, count in reasons.items()}


class OvsBed(OpenFlowBed):
    name = "ovs-userspace"
    programs = (*OpenFlowBed.programs, "ovsdb-server", "ovsdb-tool", "ovs-vswitchd", "ovs-vsctl")

    def __init__(self, servers: Servers) -> None:
        super().__init__(servers)
        self.instance: Instance | None = None

    def join(self, switch: Namespace) -> None:
        cores = self.servers.first | self.servers.second
        self.instance = Instance(switch, cores, self.servers.run_dir / self.name)
        self.instance.start()
        for host, port in zip(self.hosts, self.PORTS, strict=True):
            host.offload(self.INTERFACE, NO_OFFLOADS)
            switch.offload(port, f"{NO_OFFLOADS} gro off")
        self.instance.configure(
            "add-br br0",
            "set bridge br0 datapath_type=netdev fail_mode=secure protocols=OpenFlow13",
            *(
                f"add-port br0 {port} -- set interface {port} ofport_request={number}"
                for number, port in enumerate(self.PORTS, start=1)
            ),
            f"set-controller br0 ptcp:{OPENFLOW_PORT}:127.0.0.1",
        )
        self.ofctl("add-flow", "priority=0,actions=NORMAL")

    def part(self) -> None:
        if self.instance:
            self.instance.stop()
            self.instance = None

    def processes(self) -> Sequence[subprocess.Popen]:
        return self.instance.processes if self.instance else []
