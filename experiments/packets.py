# SPDX-License-Identifier: Apache-2.0
"""Small packets per second: the load of `experiments.blaster`, counted by the receiver's IP stack."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.blaster import TARGET_PORT
from experiments.errors import ExperimentError
from experiments.metrics import Measurement
from experiments.system import project_environment, run_in
from topologies.processes import end, spawn

if TYPE_CHECKING:
    from experiments.peers.base import BackEnd
    from experiments.peers.l2 import Bed

ROOT = Path(__file__).resolve().parent.parent
SETTLE_S = 0.3  # for the last packets on the way
SINK = (
    "import socket, time\nsink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    f"sink.bind(('', {TARGET_PORT}))\nprint('ready', flush=True)\ntime.sleep(1e6)"
)


@dataclass(frozen=True)
class PacketLoad:
    """UDP in 64-byte frames for `seconds`, as fast as the sender can, not counting the first `warmup_s`."""

    seconds: float
    warmup_s: float = 0.25

    def run(self, back_end: BackEnd) -> Measurement:
        bed = as_bed(back_end)
        client, _ = bed.endpoints()
        # the kernel is to cut large datagrams before they reach the interface
        run_in(client.pid, "ethtool", "-K", bed.INTERFACE, "tx-udp-segmentation", "off")
        start = delivered(bed)
        with blast(bed, seconds=self.warmup_s + self.seconds + 0.25, flood=True) as sender:
            time.sleep(self.warmup_s)
            before, began = delivered(bed), time.monotonic()
            time.sleep(self.seconds)
            after, ended = delivered(bed), time.monotonic()
            sent = sender.result()
        time.sleep(SETTLE_S)
        rate = (after - before) / (ended - began)
        raw = {"received": after - before, **sent}
        return Measurement(
            {"packets_per_second": rate}, raw, offered=offered(rate, delivered(bed) - start, sent["sent"])
        )

    def shortened(self, seconds: int) -> PacketLoad:
        return replace(self, seconds=seconds / 2)


class Sender:
    """A blaster that runs."""

    def __init__(self, process: subprocess.Popen, patience_s: float) -> None:
        self.process = process
        self.patience_s = patience_s

    def result(self) -> dict[str, Any]:
        """What it has sent, once it has ended."""
        try:
            output, _ = self.process.communicate(timeout=self.patience_s)
        except subprocess.TimeoutExpired:
            raise ExperimentError("the sender of small packets did not end in time") from None
        if self.process.returncode:
            raise ExperimentError("the sender of small packets failed: see what it printed above")
        return json.loads(output)


@contextmanager
def blast(bed: Bed, seconds: float, flood: bool = False, **options: float) -> Iterator[Sender]:
    """A blaster that has just begun to send from the bed's first host, for at most `seconds`."""
    client, server = bed.endpoints()
    argv = [sys.executable, "-m", "experiments.blaster", bed.INTERFACE, *bed.MACS, server.ip]
    argv += [f"--{name}={value}" for name, value in {"seconds": seconds, **options}.items()]
    argv += ["--flood"] if flood else []
    process = spawn(argv, pid=client.pid, cpus=client.cpus, stdout=subprocess.PIPE, env=project_environment())
    assert process.stdout
    try:
        if process.stdout.readline() != b"ready\n":
            raise ExperimentError("the sender of small packets did not start")
        yield Sender(process, seconds + 10)
    finally:
        end(process)
        process.stdout.close()


def offered(rate: float, arrived: int, sent: int) -> float:
    """The rate that was offered, from the rate that was delivered and the share of packets that arrived."""
    return rate * sent / arrived if arrived else float(sent)


def delivered(bed: Bed) -> int:
    """IPv4 packets that the stack of the bed's second host has taken in: it gets nothing but the load's."""
    _, server = bed.endpoints()
    rows = [line.split() for line in Path(f"/proc/{server.pid}/net/snmp").read_text().splitlines()]
    names, values = (row for row in rows if row[0] == "Ip:")
    return int(values[names.index("InDelivers")])


def as_bed(back_end: BackEnd) -> Bed:
    """The back end as the one with two hosts and a switch that packet loads need."""
    from experiments.peers.l2 import Bed

    assert isinstance(back_end, Bed)
    return back_end
