# SPDX-License-Identifier: Apache-2.0
"""Labs that come and go, and one that goes on and on: `make soak`.

The lab carries TCP, UDP of many flows, pings and garbage, while its tunnels change their format, its wire its
loss and delay, and its switches are started anew. After each round, every frame has to be accounted for by
port and direction (docs/reference/counters.md), by what the VMs' kernels have counted, too, and memory,
descriptors, processes and devices have to be what they were.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from mininet.net import Mininet

from tests.accounts import unaccounted
from tests.fuzz.fuzz_receive import corpus
from tests.patience import PATIENCE_S
from topologies.controllers import Orchestrator
from topologies.lab import SHM_DIR, Lab
from topologies.links import TapLink, WireLink
from topologies.nodes import VM, VSwitch
from topologies.processes import poll_until
from topologies.registry import LABS_DIR

SLACK_KB = 24 << 10
"""What the memory of a process may grow by once it has been through two rounds: its caches have limits, its
tables were touched."""
SLACK_DESCRIPTORS = 2
"""Beside those that it had when it settled: a switch has one to its neighbour at times. A leak grows on."""
SETTLED_ROUNDS = 2
GARBAGE_FRAMES = 500
LEAST_FRAMES = 100
FORMATS = ("vxlan", "gre")
WIRES = (
    {"loss": 0, "delay": 0},
    {"loss": 2, "delay": 1},
    {"loss": 0, "delay": 0, "duplicate": 5},
    {"duplicate": 0},
)

SENDS_GARBAGE = """
import socket, sys, time
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind((sys.argv[1], 0))
frames = [bytes.fromhex(line) for line in open(sys.argv[2])]
end = time.monotonic() + float(sys.argv[3])
while time.monotonic() < end:
    for frame in frames:
        try:
            out.send(frame)
        except OSError:
            pass  # too long for the interface, or it has no room
        time.sleep(0.001)
"""
SENDS_MANY_FLOWS = """
import socket, sys, time
flows = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(500)]
for number, flow in enumerate(flows):
    flow.bind(("", 20000 + number))
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    for flow in flows:
        flow.sendto(b"x" * 100, (sys.argv[1], 9))
        time.sleep(0.0005)
"""


class Use(NamedTuple):
    """What a process takes of the machine."""

    rss_kb: int
    descriptors: int
    threads: int

    def grown(self) -> Use:
        """What it may become."""
        return Use(self.rss_kb + SLACK_KB, self.descriptors + SLACK_DESCRIPTORS, self.threads)

    def within(self, allowed: Use) -> bool:
        return all(mine <= most for mine, most in zip(self, allowed, strict=True))


class Network:
    """Two servers, a VM each that the traffic is between, and one that sends garbage."""

    def __init__(self) -> None:
        self.lab = Lab()
        self.net = net = Mininet(controller=None)
        self.c0 = net.addController("c0", Orchestrator, lab=self.lab)
        self.switches = [net.addSwitch(name, cls=VSwitch, lab=self.lab, batch=True) for name in ("s1", "s2")]
        self.wire = net.addLink(*self.switches, cls=WireLink)
        self.vms = [net.addHost(name, cls=VM, lab=self.lab) for name in ("vm1", "vm2", "vm3")]
        for vm, switch in zip(self.vms, (*self.switches, self.switches[0]), strict=True):
            net.addLink(vm, switch, cls=TapLink)

    def start(self) -> Network:
        self.net.start()
        return self

    def stop(self) -> None:
        self.net.stop()
        self.lab.close()


@contextmanager
def network() -> Iterator[Network]:
    made = Network()
    try:
        yield made.start()
    finally:
        made.stop()


class Balance:
    """The equations of a network, whose counters begin where they were at the last call of begin()."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.begin()

    def begin(self) -> None:
        """What was restarted has counted from zero; what is on its way arrives before."""
        assert poll_until(lambda: not self.missing(), PATIENCE_S, 0.2), self.missing()
        self.before = self._between()

    def check(self, between: bool) -> None:
        """Every frame is accounted for within the switches; with `between`, by their neighbours as well."""
        assert poll_until(lambda: not self.missing(), PATIENCE_S, 0.2), self.missing()
        if between:
            assert poll_until(lambda: not self.lost_between(), PATIENCE_S, 0.2), self.lost_between()

    def missing(self) -> dict[str, Any]:
        """What the ports of the switches do not account for, or hold."""
        found: dict[str, Any] = {}
        for switch in self.network.switches:
            counters = switch.control("counters")
            found |= {f"{switch.name} {port}": numbers for port, numbers in unaccounted(counters).items()}
            held = {port: row["rx_held"] for port, row in counters["ports"].items() if row["rx_held"]}
            found |= {f"{switch.name} {port} holds": frames for port, frames in held.items()}
        return found

    def frames(self) -> list[int]:
        """What each switch has received since it was started."""
        counters = [switch.control("counters")["ports"].values() for switch in self.network.switches]
        return [sum(port["rx_packets"] for port in ports) for ports in counters]

    def lost_between(self) -> dict[str, int]:
        """Frames that one end has counted as sent, and the other not as received."""
        now = self._between()
        change = {name: now[name] - before for name, before in self.before.items()}
        return {name: frames for name, frames in change.items() if frames}

    def _between(self) -> dict[str, int]:
        """Of each link and direction, frames sent less frames received."""
        switches = self.network.switches
        counters = [switch.control("counters") for switch in switches]
        wires = [switch.ports_by_number()[switch.uplink_port()].name for switch in switches]
        ends = [counted["ports"][wire] for counted, wire in zip(counters, wires, strict=True)]
        lost = {}
        for one, other in ((0, 1), (1, 0)):
            sent = ends[one]["tx_packets"] + counters[one]["reasons"]["wire_duplicated"]
            lost[f"{wires[one]} to {wires[other]}"] = sent - ends[other]["rx_packets"]
        for vm in self.network.vms:
            port = counters[switches.index(vm.server)]["ports"][f"{vm.name}-eth0"]
            lost[f"{vm.name} to its switch"] = _kernel(vm, "tx_packets") - port["rx_packets"]
            lost[f"its switch to {vm.name}"] = port["tx_packets"] - _kernel(vm, "rx_packets")
        return lost


def _kernel(vm: VM, counter: str) -> int:
    """What the VM's kernel has counted at its interface."""
    return int(vm.cmd(f"cat /sys/class/net/{vm.name}-eth0/statistics/{counter}"))


class Flat:
    """Whether processes take what they took before."""

    def __init__(self) -> None:
        self.settled: dict[int, Use] = {}
        self.rounds: dict[int, int] = {}

    def check(self, pids: dict[str, int]) -> str:
        """Raises when one of the processes has grown; a line of what they take."""
        said = []
        for name, pid in pids.items():
            self.rounds[pid] = self.rounds.get(pid, 0) + 1
            if self.rounds[pid] <= SETTLED_ROUNDS:
                self.settled[pid] = use_of(pid)
            allowed = self.settled[pid].grown()
            assert poll_until(lambda: use_of(pid).within(allowed), PATIENCE_S), (  # noqa: B023
                f"{name} has grown from {self.settled[pid]} to {use_of(pid)}"
            )
            now = use_of(pid)
            said.append(f"{name} {now.rss_kb >> 10} MB {now.descriptors} fds")
        return ", ".join(said)


def use_of(pid: int) -> Use:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return Use(int(status["VmRSS"].split()[0]), descriptors, int(status["Threads"]))


def belongings() -> set[str]:
    """What labs make: processes of ours, namespaces, interfaces, wires, run folders."""
    patterns = ("/run/netns/*", "/sys/class/net/*", f"{SHM_DIR}/mn-*", f"{LABS_DIR}/*")
    found = {str(path) for pattern in patterns for path in Path("/").glob(pattern.lstrip("/"))}
    return found | {f"process {pid}" for pid in _children(os.getpid())}


def _children(pid: int) -> list[int]:
    """The processes that a process has started, and so on."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            found += [child, *_children(child)]
    return found


def cycle_labs(cycles: int, tell: Callable[[str], None] = print) -> None:
    """Start and stop a small lab, again and again; nothing is left of it, and this process does not grow."""
    flat, before = Flat(), belongings()
    own = {"this process": os.getpid()}
    for number in range(1, cycles + 1):
        with network() as lab:
            assert "1 received" in lab.vms[0].cmd(f"ping -c 1 -W 5 {lab.vms[1].IP()}")
        assert poll_until(lambda: belongings() <= before, PATIENCE_S), belongings() - before
        said = flat.check(own)
        if number % 10 == 0 or number == cycles:
            tell(f"{number} labs have come and gone: {said}")


def soak(
    seconds: float, rounds: int, round_s: float, seed: int = 1, tell: Callable[[str], None] = print
) -> None:
    """Rounds of traffic, changes and restarts: so many of them, and for so long."""
    draw, end = random.Random(seed), time.monotonic() + seconds
    with network() as lab:
        garbage = lab.lab.run_dir / "garbage"
        garbage.write_text("\n".join(frame.hex() for frame in _garbage(draw)))
        flat, balance, devices = Flat(), Balance(lab), _devices(lab)
        for number in count(1):
            with _traffic(lab, garbage, round_s):
                restarted = _change(lab, draw, number)
            lab.wire.set(loss=0, delay=0, duplicate=0)
            balance.check(between=not restarted)
            frames = balance.frames()
            assert restarted or min(frames) > LEAST_FRAMES, f"there was hardly any traffic: {frames}"
            if restarted:
                balance.begin()
            pids = {node.name: node.process.pid for node in (*lab.switches, lab.c0)}
            said = flat.check(pids | {"this process": os.getpid()})
            assert _devices(lab) == devices, (devices, _devices(lab))
            what = f", {restarted} restarted" if restarted else ""
            tell(f"round {number}{what}: all of {sum(frames)} frames are accounted for; {said}")
            if number >= rounds and time.monotonic() > end:
                return


def _garbage(draw: random.Random) -> list[bytes]:
    """Frames of every kind, most of them damaged or cut, and noise."""
    frames = corpus()
    made = []
    for _ in range(GARBAGE_FRAMES):
        frame = bytearray(draw.choice(frames))
        for _ in range(draw.randrange(4)):
            frame[draw.randrange(len(frame))] = draw.randrange(256)
        frame = frame[: draw.choice([len(frame), draw.randrange(14, len(frame) + 1)])]
        made.append(bytes(frame) if draw.randrange(10) else draw.randbytes(draw.randrange(14, 1400)))
    return made


def _devices(lab: Network) -> list[str]:
    """The interfaces of the VMs and of where the switches are."""
    return sorted(
        line for node in (*lab.vms, lab.switches[0]) for line in node.cmd("ls /sys/class/net").split()
    )


@contextmanager
def _traffic(lab: Network, garbage: Path, seconds: float) -> Iterator[None]:
    """TCP, UDP of many flows, pings and garbage for so long, and until what is done meanwhile is done."""
    one, other, loud = lab.vms
    programs = [
        one.popen(["iperf3", "-c", other.IP(), "-t", f"{seconds:g}", "-b", "300M"]),
        one.popen(["ping", "-i", "0.02", "-w", f"{seconds:g}", other.IP()]),
        other.popen([sys.executable, "-c", SENDS_MANY_FLOWS, one.IP(), f"{seconds:g}"]),
        loud.popen([sys.executable, "-c", SENDS_GARBAGE, f"{loud.name}-eth0", str(garbage), f"{seconds:g}"]),
    ]
    try:
        yield
        for program in programs:
            program.communicate(timeout=seconds + PATIENCE_S)
    finally:
        for program in programs:
            program.kill()
            program.wait()


def _change(lab: Network, draw: random.Random, number: int) -> str:
    """Change rules, tunnels, the wire and a NIC under the traffic; the switch that was restarted, if any."""
    lab.wire.set(**draw.choice(WIRES))
    lab.c0.set_intent(lab.c0.intent() | {"tunnel": {"format": FORMATS[number % len(FORMATS)]}})
    nic = {"s1": {"lro": [{"lro": draw.choice(["on", "off"])}]}}
    lab.c0.set_intent(lab.c0.intent() | {"nic": nic})
    if number % 3:
        return ""
    switch = draw.choice(lab.switches)
    switch.restart()
    lab.c0.await_rules(switch)
    return switch.name


def main() -> int:
    parser = argparse.ArgumentParser(description="Start and stop labs, then have one carry traffic for long.")
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    try:
        cycle_labs(options.cycles)
        if options.minutes:
            soak(60 * options.minutes, rounds=1, round_s=10, seed=options.seed)
    except (AssertionError, subprocess.SubprocessError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
