# SPDX-License-Identifier: Apache-2.0
"""Processes and network namespaces of an experiment. Every one of them ends with it, whatever ends it.

Children get the signal SIGKILL when the harness dies, even of SIGKILL, and namespaces have no name: the
kernel removes a namespace and its devices with its last process. So nothing needs to be found again to be
removed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from experiments.errors import ExperimentError
from topologies.processes import end, poll_until, run, spawn

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "iperf3": "iperf3",
    "ip": "iproute2",
    "ethtool": "ethtool",
    "mnexec": "mininet",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "ovs-vswitchd": "openvswitch-switch",
    "ovsdb-server": "openvswitch-switch",
    "ovsdb-tool": "openvswitch-switch",
    "ovs-vsctl": "openvswitch-switch",
    "ovs-ofctl": "openvswitch-common",
    "ping": "iputils-ping",
}


def project_environment() -> dict[str, str]:
    """The environment for a Python of ours in a namespace, where the working directory is another."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def require_root() -> None:
    """Raise when not root: namespaces and devices need it."""
    if os.geteuid() != 0:
        raise ExperimentError(
            "experiments make network namespaces and devices: run this as root, e.g. with sudo"
        )


def require_programs(names: Iterable[str]) -> None:
    """Raise when a program that the experiment calls is not installed, and say which package has it."""
    missing = sorted({name for name in names if not shutil.which(name)})
    if missing:
        packages = " ".join(sorted({PACKAGES[name] for name in missing}))
        raise ExperimentError(
            f"{', '.join(missing)} not found: install it, on Debian with: apt-get install {packages}"
        )


def wait_until(condition: Callable[[], object], timeout_s: float, failure: str) -> None:
    """Return when `condition()` is true; raise `ExperimentError(failure)` after `timeout_s`."""
    if not poll_until(condition, timeout_s):
        raise ExperimentError(failure)


def run_in(pid: int, *argv: str) -> str:
    """Run a command in the network and mount namespaces of process `pid` and return what it printed.

    Raises ExperimentError with what it complained about when it fails.
    """
    result = run(argv, pid=pid)
    if result.returncode:
        raise ExperimentError(f"{' '.join(argv)}: {result.stderr.strip() or result.stdout.strip()}")
    return result.stdout


class Namespace:
    """A network namespace without a name (with its own /sys), held by a sleeping process `pid`."""

    def __init__(self) -> None:
        script = "mount -t sysfs none /sys && ip link set lo up && echo ready && exec sleep infinity"
        self.holder = spawn(
            ["unshare", "--net", "--mount", "sh", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.pid = self.holder.pid
        assert self.holder.stdout and self.holder.stderr
        if self.holder.stdout.readline() != b"ready\n":
            reason = self.holder.stderr.read().decode().strip()
            raise ExperimentError(f"cannot make a network namespace: {reason}")

    def run(self, *argv: str) -> str:
        """Run a command in the namespace and return what it printed, as `run_in`."""
        return run_in(self.pid, *argv)

    def ip(self, *commands: str) -> None:
        """Run several `ip` commands, e.g. `"link set lo up"`, in one process."""
        script = "set -e\n" + "\n".join(f"ip {command}" for command in commands)
        self.run("sh", "-c", script)

    def offload(self, device: str, settings: str) -> None:
        """Change a device's offloads: `settings` as for `ethtool -K`, e.g. `"tso off gro on"`."""
        self.run("ethtool", "-K", device, *settings.split())

    def close(self) -> None:
        end(self.holder)
