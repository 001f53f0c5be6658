# SPDX-License-Identifier: Apache-2.0
"""What tests have hosts do."""

from __future__ import annotations

import re
import subprocess

from mininet.node import Host

from tests.patience import PATIENCE_S
from topologies.processes import listening, poll_until

IPERF3_PORT = 5201


def silence(host: Host) -> None:
    """Have the host's kernel send nothing that nobody asked for: an interface of its gets no IPv6."""
    host.cmd("sysctl -qw net.ipv6.conf.default.disable_ipv6=1")


def pings(host: Host, target: str, count: int = 1, interval_s: float = 0.1) -> int:
    """How many of so many pings are answered; when some were, late answers are awaited for `interval_s`."""
    output = host.cmd(f"ping -c {count} -i {interval_s:g} -W 1 {target}")
    return int(re.search(r"(\d+) received", output)[1])


def start_server(host: Host, *argv: str, port: int) -> subprocess.Popen:
    """Run a program in the host; returns when it listens on the TCP port."""
    server = host.popen(list(argv))
    assert poll_until(lambda: listening(server.pid, port), PATIENCE_S)
    return server
