# SPDX-License-Identifier: Apache-2.0
"""The test bed: a private network namespace with the tester switch, the target, and three cables between.

controller 127.0.0.1:6653 <-- target  (datapath 1; ports 1, 2, 3 are tg1, tg2, tg3)
                          <-- tester  (datapath 2; ports 1, 2, 3 are ts1, ts2, ts3): Open vSwitch
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from conformance.errors import ConformanceError
from experiments.peers.ovs import Instance
from experiments.system import Namespace
from topologies.processes import end, poll_until, spawn
from vswitch import ctl

ROOT = Path(__file__).resolve().parent.parent
CONTROLLER = ("127.0.0.1", 6653)
PORTS = (1, 2, 3)
MTU = 9000  # some rate tests send frames of more than 1500 bytes
READY_TIMEOUT_S = 120.0  # a first start compiles the dataplane
NO_OFFLOADS = "tx off rx off tso off gso off gro off txvlan off rxvlan off"
PROGRAMS: tuple[str, ...] = ("ip", "ethtool", "sysctl", "nsenter", "unshare")
PROGRAMS += ("ovsdb-server", "ovsdb-tool", "ovs-vswitchd", "ovs-vsctl")


class Target:
    """A switch under test. `start` connects it to the controller, with tg1, tg2, tg3 as its ports 1, 2, 3."""

    name = ""

    def start(self, rig: Rig) -> None:
        raise NotImplementedError

    def check(self) -> None:
        """Raise when it has ended."""

    def stop(self) -> None:
        """End it; after a failed start, too."""


class OurSwitch(Target):
    """`python -m vswitch` with packet ports."""

    name = "vswitch"

    def __init__(self) -> None:
        self.process: subprocess.Popen | None = None
        self.run_dir = Path()

    def start(self, rig: Rig) -> None:
        self.run_dir = rig.run_dir
        argv = [sys.executable, "-m", "vswitch", "--name", "target", "--dpid", "1"]
        argv += ["--controller", "tcp:{}:{}".format(*CONTROLLER), "--run-dir", str(rig.run_dir)]
        for number in PORTS:
            argv += ["--port", f"{number}=packet:tg{number}"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with self._output.open("w") as output:
            self.process = spawn(
                argv,
                pid=rig.namespace.pid,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        if not poll_until(self._ready, READY_TIMEOUT_S, 0.1):
            raise ConformanceError(
                f"the switch was not ready within {READY_TIMEOUT_S:g} s; {self._last_words()}"
            )

    def check(self) -> None:
        if self.process is None or self.process.poll() is not None:
            raise ConformanceError(f"the switch has ended; {self._last_words()}")

    def stop(self) -> None:
        if self.process:
            end(self.process)

    def _ready(self) -> bool:
        self.check()
        try:
            return ctl.call(self.run_dir / "target.ctl", "show")["state"] == "ready"
        except ctl.CtlError:
            return False

    @property
    def _output(self) -> Path:
        return self.run_dir / "target.out"

    def _last_words(self) -> str:
        lines = self._output.read_text(errors="replace").strip().splitlines()
        return f"its last words: {lines[-1].strip()}" if lines else f"its log is {self.run_dir}/target.log"


class OpenVSwitch(Target):
    """The anchor: a bridge with Open vSwitch's userspace datapath."""

    name = "ovs"

    def start(self, rig: Rig) -> None:
        add_bridge(rig.open_vswitch, "target", "1", "tg")


TARGETS: dict[str, type[Target]] = {kind.name: kind for kind in (OurSwitch, OpenVSwitch)}


class Rig:
    """The test bed for one run; use as a context manager. Logs are left in `run_dir`."""

    def __init__(self, target: Target, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.target = target
        self.namespace = Namespace()
        self.open_vswitch = Instance(self.namespace, frozenset(os.sched_getaffinity(0)), run_dir / "ovs")

    def __enter__(self) -> Rig:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _build(self) -> None:
        # neighbour discovery and multicast reports on the cables would be counted as the tests' packets
        self.namespace.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        self.namespace.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        for number in PORTS:
            self.namespace.ip(f"link add tg{number} type veth peer name ts{number}")
            for device in (f"tg{number}", f"ts{number}"):
                self.namespace.offload(device, NO_OFFLOADS)
                self.namespace.ip(f"link set {device} mtu {MTU} up")
        self.open_vswitch.start()
        # Open vSwitch goes on by cached flows for up to half a second after the barrier reply: no cache, then
        self.open_vswitch.configure("set Open_vSwitch . other_config:flow-limit=0")
        add_bridge(self.open_vswitch, "tester", "2", "ts")
        self.target.start(self)

    def close(self) -> None:
        self.target.stop()
        self.open_vswitch.stop()
        self.namespace.close()


def add_bridge(instance: Instance, name: str, dpid: str, prefix: str) -> None:
    """A userspace bridge with three ports that obeys the controller alone."""
    settings = (
        f"datapath_type=netdev fail_mode=secure protocols=OpenFlow13 other_config:datapath-id={dpid:0>16}"
    )
    ports = [
        command
        for number in PORTS
        for command in (
            f"add-port {name} {prefix}{number}",
            f"set interface {prefix}{number} ofport_request={number}",
        )
    ]
    instance.configure(
        f"add-br {name}",
        f"set bridge {name} {settings}",
        *ports,
        "set-controller {} tcp:{}:{}".format(name, *CONTROLLER),
        f"set controller {name} connection_mode=out-of-band max_backoff=1000 inactivity_probe=60000",
    )
