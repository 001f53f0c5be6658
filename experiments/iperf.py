# SPDX-License-Identifier: Apache-2.0
"""TCP by iperf3 between two endpoints, each a network namespace and a set of cores."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any

from experiments.errors import ExperimentError
from experiments.metrics import Measurement
from experiments.system import run_in, wait_until
from topologies.processes import end, listening, spawn

if TYPE_CHECKING:
    from experiments.peers.base import BackEnd

PORT = 5301  # not iperf3's own 5201, where a VM's server may listen
INTERVAL_S = 0.25  # of iperf3's reports: the warm-up is a multiple of it
MARGIN_S = 10.0  # for connecting and exchanging results


@dataclass(frozen=True)
class Endpoint:
    """One end of a measurement. `pid`: a process in its network namespace; `cpus`: None for any core.

    window: size of its socket's buffers as iperf3 takes it, e.g. 256K; by default the kernel finds one.
    """

    pid: int
    ip: str
    cpus: frozenset[int] | None
    window: str = ""


@dataclass(frozen=True)
class Load:
    """How to load the path: `flows` TCP connections for `seconds`, the first `warmup_s` not counted."""

    flows: int
    seconds: int
    warmup_s: float = 0.5
    congestion: str = "cubic"

    def run(self, back_end: BackEnd) -> Measurement:
        return transfer(*back_end.endpoints(), self)

    def shortened(self, seconds: int) -> Load:
        return replace(self, seconds=seconds, warmup_s=INTERVAL_S)


def transfer(client: Endpoint, server: Endpoint, load: Load) -> Measurement:
    """Send from `client` to `server` and return what arrived."""
    (measured,) = transfers([(client, server, load)])
    return measured


def transfers(wanted: Sequence[tuple[Endpoint, Endpoint, Load]]) -> list[Measurement]:
    """Send from client to server, all at the same time, each to a server namespace of its own.

    The servers are started for this run and end with it. iperf3's own warm-up option takes whole seconds
    only, so the warm-up is left out of the sum of the receiver's intervals here.
    """
    with ExitStack() as stack:
        for _, server, _ in wanted:
            _listen(server, stack)
        for client, _, load in wanted:
            if load.congestion != "bbr":
                _start_unpaced(client)
        running = []
        for client, server, load in wanted:
            output = stack.enter_context(tempfile.TemporaryFile())
            process = _client(client, server, load, output)
            stack.callback(end, process)
            running.append((process, output, load))
        return [parse(_printed(process, output, load), load) for process, output, load in running]


def _listen(server: Endpoint, stack: ExitStack) -> None:
    """Start the server of one transfer; returns when it takes the connection."""
    argv = ["iperf3", "-s", "-1", "-J", "-i", f"{INTERVAL_S:g}", "-p", str(PORT)]
    listener = spawn(argv, pid=server.pid, cpus=server.cpus)
    stack.callback(end, listener)
    wait_until(
        lambda: listening(server.pid, PORT) or listener.poll() is not None,
        5,
        "the iperf3 server did not start",
    )
    if listener.poll() is not None:
        raise ExperimentError(f"the iperf3 server ended at once: TCP port {PORT} may be in use in the VM")


def _start_unpaced(client: Endpoint) -> None:
    """Let the sockets of the client's namespace start with Reno, which iperf3 then replaces.

    iperf3 sets the congestion control of connections that exist already. One that started with BBR, the
    default of some kernels, keeps pacing by a timer for each super-frame, under any other algorithm too: it
    costs a third of the sender's core. A namespace's default may be Reno only (TCP_CONG_NON_RESTRICTED).
    """
    run_in(client.pid, "sh", "-c", "echo reno > /proc/sys/net/ipv4/tcp_congestion_control")


def _client(client: Endpoint, server: Endpoint, load: Load, output: IO[bytes]) -> subprocess.Popen:
    """Start the client of one transfer, which prints to `output`."""
    argv = ["iperf3", "-c", server.ip, "-p", str(PORT), "-t", str(load.seconds), "-P", str(load.flows)]
    argv += ["-C", load.congestion, "-i", f"{INTERVAL_S:g}", "-J", "--get-server-output"]
    argv += ["--connect-timeout", "3000", *(["-w", client.window] if client.window else [])]
    return spawn(argv, pid=client.pid, cpus=client.cpus, stdout=output, stderr=subprocess.STDOUT)


def _printed(process: subprocess.Popen, output: IO[bytes], load: Load) -> dict[str, Any]:
    """Wait for a client's end, and return what it printed."""
    try:
        process.wait(load.seconds + MARGIN_S)
    except subprocess.TimeoutExpired:
        raise ExperimentError(
            f"iperf3 did not end {MARGIN_S:g} s after its time: no traffic passes"
        ) from None
    output.seek(0)
    text = output.read().decode(errors="replace")
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise ExperimentError(f"iperf3 failed: {text.strip()[-300:] or 'it printed nothing'}") from None


def parse(raw: dict[str, Any], load: Load) -> Measurement:
    """The receiver's intervals after the warm-up, summed; retransmissions are the sender's."""
    if "error" in raw:
        raise ExperimentError(f"iperf3 failed: {raw['error']}")
    received = _after(raw["server_output_json"]["intervals"], load.warmup_s)
    sent = _after(raw["intervals"], load.warmup_s)
    seconds = sum(interval["seconds"] for interval in received)
    if not seconds:
        raise ExperimentError(f"iperf3 reported nothing after the warm-up of {load.warmup_s:g} s")
    values = {
        "throughput_bps": 8 * sum(interval["bytes"] for interval in received) / seconds,
        "retransmits": sum(interval.get("retransmits", 0) for interval in sent),
    }
    return Measurement(values, raw)


def _after(intervals: list[dict[str, Any]], warmup_s: float) -> list[dict[str, Any]]:
    """The sums of the intervals that begin after the warm-up; the last one may be a short rest, which counts
    too.
    """
    sums = [interval["sum"] for interval in intervals]
    return [total for total in sums if total["start"] >= warmup_s - INTERVAL_S / 10]
