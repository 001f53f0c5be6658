# SPDX-License-Identifier: Apache-2.0
"""VXLAN by Open vSwitch's userspace datapath (`datapath_type=netdev`), without DPDK.

Each server is an `ovs-vswitchd` with its own database, in its own network namespace and directories: nothing
of the machine's Open vSwitch service is used. Checksum and segmentation offloads are off at the veth ends,
because this datapath passes on neither partial checksums nor super-frames. Standard set-up, Open vSwitch's
document "Userspace VXLAN": a bridge `phy` holds the underlay port and address, a bridge `int` the VM and the
tunnel.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from experiments.errors import ExperimentError
from experiments.iperf import Endpoint
from experiments.peers.base import VM_MTU, VNI, WIRE_MTU, BackEnd, Servers, Variant
from experiments.system import Namespace, wait_until
from topologies.processes import end, run, spawn

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
OUTER = ("192.168.0.1", "192.168.0.2")
INNER = ("10.0.0.1", "10.0.0.2")
PLACEMENTS = ("per server", "any core")
NO_OFFLOADS = "tx off tso off gso off"


class Instance:
    """One server: ovsdb-server and ovs-vswitchd in `namespace`, on `cores`, with all files in `directory`."""

    def __init__(self, namespace: Namespace, cores: frozenset[int], directory: Path) -> None:
        self.namespace = namespace
        self.cores = cores
        self.directory = directory
        self.processes: list[subprocess.Popen] = []

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._call("ovsdb-tool", "create", str(self.directory / "conf.db"), str(SCHEMA))
        self._spawn("ovsdb-server", str(self.directory / "conf.db"), f"--remote=punix:{self._socket}")
        self._call("ovs-vsctl", f"--db=unix:{self._socket}", "--no-wait", "init")
        self._spawn("ovs-vswitchd", f"unix:{self._socket}")

    def configure(self, *commands: str) -> None:
        """Run `ovs-vsctl` commands as one transaction and wait until ovs-vswitchd has done them."""
        words = " -- ".join(commands).split()
        self._call("ovs-vsctl", f"--db=unix:{self._socket}", "--timeout=10", *words)

    def place(self, cores: frozenset[int]) -> None:
        """Move the running processes, with all their threads, to `cores`."""
        for process in self.processes:
            for thread in os.listdir(f"/proc/{process.pid}/task"):
                os.sched_setaffinity(int(thread), cores)

    def stop(self) -> None:
        for process in reversed(self.processes):
            end(process)
        self.processes.clear()

    @property
    def _socket(self) -> Path:
        return self.directory / "db.sock"

    def _environment(self) -> dict[str, str]:
        directory = str(self.directory)
        return {**os.environ, "OVS_RUNDIR": directory, "OVS_LOGDIR": directory, "OVS_DBDIR": directory}

    def _spawn(self, program: str, *arguments: str) -> None:
        """Returns when the program serves its control socket, which it makes after all others."""
        control = self.directory / f"{program}.ctl"
        argv = [program, *arguments, f"--pidfile={self.directory / program}.pid", "-vconsole:off"]
        argv += [f"--log-file={self.directory / program}.log", f"--unixctl={control}"]
        with self._output(program).open("w") as output:
            process = spawn(
                argv,
                pid=self.namespace.pid,
                cpus=self.cores,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment(),
            )
        self.processes.append(process)
        self._await(control.is_socket, program)

    def _call(self, *argv: str) -> None:
        result = run(argv, env=self._environment())
        if result.returncode:
            raise ExperimentError(f"{argv[0]} failed: {result.stderr.strip() or result.stdout.strip()}")

    def _await(self, condition: Any, program: str) -> None:
        ended = self.processes[-1]
        wait_until(lambda: condition() or ended.poll() is not None, 10, f"{program} did not start")
        if ended.poll() is not None:
            raise ExperimentError(f"{program} ended at once: {self._last_words(program)}")

    def _output(self, program: str) -> Path:
        """Where what it prints goes; its log is beside it."""
        return self.directory / f"{program}.out"

    def _last_words(self, program: str) -> str:
        """The last line that a program printed, or else logged."""
        for path in (self._output(program), self.directory / f"{program}.log"):
            if path.exists() and (lines := path.read_text(errors="replace").strip().splitlines()):
                return lines[-1].strip()
        return f"it said nothing; its folder is {self.directory}"


class OvsUserspace(BackEnd):
    name = "ovs-userspace"
    programs = (
        "ip",
        "ethtool",
        "nsenter",
        "unshare",
        "ping",
        "ovsdb-server",
        "ovsdb-tool",
        "ovs-vswitchd",
        "ovs-vsctl",
    )

    def __init__(self, servers: Servers) -> None:
        super().__init__(servers)
        self.vms: list[Namespace] = []
        self.hypervisors: list[Namespace] = []
        self.instances: list[Instance] = []
        self.variant = Variant()

    def start(self) -> None:
        for _ in OUTER:
            self.vms.append(Namespace())
            self.hypervisors.append(Namespace())
        first, second = self.hypervisors
        first.ip(f"link add wire0 type veth peer name wire0 netns {second.pid}")
        cores = (self.servers.first, self.servers.second)
        for index, (vm, hypervisor) in enumerate(zip(self.vms, self.hypervisors, strict=True)):
            self._cable(vm, hypervisor, INNER[index])
            directory = self.servers.run_dir / f"ovs{index + 1}"
            self.instances.append(Instance(hypervisor, cores[index], directory))
            self.instances[-1].start()
        for index in range(2):
            self._overlay(index)
        self._await_traffic()

    def stop(self) -> None:
        for instance in self.instances:
            instance.stop()
        for namespace in self.vms + self.hypervisors:
            namespace.close()
        for collection in (self.instances, self.vms, self.hypervisors):
            collection.clear()

    def variants(self) -> list[Variant]:
        single = self.servers.first == self.servers.second
        return [Variant(placement) for placement in PLACEMENTS[: 1 if single else None]]

    def quick_variants(self) -> list[Variant]:
        return [Variant()]

    def use(self, variant: Variant) -> None:
        for instance in self.instances:
            instance.place(instance.cores if variant.placement == "per server" else self._all_cores)
        self.variant = variant

    def endpoints(self) -> tuple[Endpoint, Endpoint]:
        pinned = self.variant.placement == "per server"
        first, second = self.vms
        return (
            Endpoint(first.pid, INNER[0], self.servers.first if pinned else self._all_cores),
            Endpoint(second.pid, INNER[1], self.servers.second if pinned else self._all_cores),
        )

    @property
    def _all_cores(self) -> frozenset[int]:
        return self.servers.first | self.servers.second

    def _cable(self, vm: Namespace, hypervisor: Namespace, address: str) -> None:
        """A VM's vNIC: a veth pair without the offloads that the datapath cannot carry."""
        hypervisor.ip(
            f"link add vm0 type veth peer name eth0 netns {vm.pid}",
            "link set vm0 up",
            f"link set wire0 mtu {WIRE_MTU} up",
        )
        vm.ip(f"link set eth0 mtu {VM_MTU} up", f"addr add {address}/24 dev eth0")
        vm.offload("eth0", f"{NO_OFFLOADS} gro on")
        hypervisor.offload("vm0", f"{NO_OFFLOADS} gro off")
        hypervisor.offload("wire0", f"{NO_OFFLOADS} gro off")

    def _overlay(self, index: int) -> None:
        instance, hypervisor = self.instances[index], self.hypervisors[index]
        remote = OUTER[1 - index]
        instance.configure("add-br phy", "set bridge phy datapath_type=netdev", "add-port phy wire0")
        hypervisor.ip(f"addr add {OUTER[index]}/24 dev phy", "link set phy up")
        instance.configure(
            "add-br int",
            "set bridge int datapath_type=netdev",
            "add-port int vm0",
            "add-port int vxlan0",
            f"set interface vxlan0 type=vxlan options:remote_ip={remote} options:key={VNI}",
        )

    def _await_traffic(self) -> None:
        def passes() -> bool:
            try:
                self.vms[0].run("ping", "-c", "1", "-W", "1", INNER[1])
            except ExperimentError:
                return False
            return True

        wait_until(passes, 10, f"Open vSwitch passes no traffic; its logs are in {self.servers.run_dir}")
