# SPDX-License-Identifier: Apache-2.0
"""Plain hosts in namespaces of their own, on veths to packet ports of a switch that runs in this process.

The switch's agent is a thread here that answers every miss by a table: input port to program.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

from tests.patience import PATIENCE_S
from vswitch.agent.packet_too_big import packet_too_big
from vswitch.config import parse_port
from vswitch.datapath import Datapath
from vswitch.dataplane.ports.tap_device import inside_namespace, namespace_path
from vswitch.flow import DropReason, FlowKey, Output, PortInfo, Program, Punt, PuntReason

REFRESH_S = 0.05


def run(*command: object, check: bool = True) -> str:
    """Run a command; its output. A failure shows what it said."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


class Namespace:
    """A network namespace, and what runs in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        run("ip", "netns", "add", name)
        self.ip("link", "set", "lo", "up")
        self._processes: list[subprocess.Popen[str]] = []

    def ip(self, *words: object, check: bool = True) -> str:
        return run("ip", "-n", self.name, *words, check=check)

    def run(self, *command: object, check: bool = True) -> str:
        return run("ip", "netns", "exec", self.name, *command, check=check)

    def start(self, *command: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.name, *(str(word) for word in command)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self._processes.append(process)
        return process

    def inside(self) -> contextlib.AbstractContextManager[None]:
        """This thread is in the namespace for a while; sockets that it makes then stay there."""
        return inside_namespace(namespace_path(self.name))

    def close(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        run("ip", "netns", "delete", self.name)


class Switch:
    """A switch with packet ports; `routes`: what it does with what comes in at a port."""

    def __init__(self, namespace: Namespace, ports: list[str], dpid: int = 1, cpu: int | None = None) -> None:
        self.routes: dict[int, Program] = {}
        self.missed: list[FlowKey] = []
        with namespace.inside():
            self.dp = Datapath(dpid, [parse_port(port) for port in ports], cpus=() if cpu is None else (cpu,))
        self._stop = threading.Event()
        self.lock = threading.Lock()
        self._agent = threading.Thread(target=self._answer)

    def start(self) -> None:
        self.dp.start()
        self._agent.start()

    def _answer(self) -> None:
        next_look = 0.0
        while not self._stop.is_set():
            with self.lock:
                for punt in self.dp.poll_punts():
                    if punt.reason == PuntReason.TOO_BIG:
                        self._tell_sender(punt)
                        continue
                    self.missed.append(punt.key)
                    program = self.routes.get(punt.key.in_port, ())
                    self.dp.install(punt.key._replace(ip_tos=0), program)
                    self.dp.execute(punt.packet, program)
                if time.monotonic() > next_look:
                    self.dp.refresh_ports()
                    next_look = time.monotonic() + REFRESH_S
            time.sleep(0.0005)

    def _tell_sender(self, punt: Punt) -> None:
        """As the agent does, whose own way of sending needs its tables."""
        self.dp.discard(punt.packet, DropReason.DELIVERED)
        error = packet_too_big(punt.key, punt.frame, punt.mtu)
        assert error
        self.dp.send(error, (Output(punt.key.in_port),))

    def port(self, number: int) -> PortInfo:
        with self.lock:
            return next(port for port in self.dp.ports() if port.port_no == number)

    def worker_seconds(self) -> float:
        """Processor time of the dataplane's thread."""
        ident = self.dp._threads[0].ident
        assert ident is not None
        return time.clock_gettime(time.pthread_getcpuclockid(ident))

    def counted(self) -> dict[str, int]:
        """What was counted, but for zeros."""
        return {name: count for name, count in self.dp.counters().items() if count}

    def close(self) -> None:
        self._stop.set()
        if self._agent.is_alive():
            self._agent.join()
        self.dp.close()


def ethernet_off(namespace: Namespace, interface: str) -> None:
    """Every offload that a host can switch off."""
    words = ["rx", "tx", "sg", "tso", "gso", "gro", "ufo", "lro", "txvlan", "rxvlan", "tx-udp-segmentation"]
    for word in words:
        namespace.run("ethtool", "-K", interface, word, "off", check=False)


@contextlib.contextmanager
def two_hosts(prefix: str = "", cpu: int | None = None) -> Iterator[tuple[Namespace, Switch, Namespace]]:
    """h1 (10.0.0.1, eth0) and h2 (10.0.0.2, eth0), on ports 1 (`s1`) and 2 (`s2`) of a switch."""
    prefix = prefix or f"pk{os.getpid()}"
    with contextlib.ExitStack() as stack:
        spaces = []
        for name in ("h1", "sw", "h2"):
            spaces.append(Namespace(f"{prefix}{name}"))
            stack.callback(spaces[-1].close)
        h1, middle, h2 = spaces
        for number, host in enumerate((h1, h2), 1):
            add_host(middle, host, number)
        switch = Switch(middle, ["1=packet:s1", "2=packet:s2"], cpu=cpu)
        stack.callback(switch.close)
        switch.routes = {1: (Output(2),), 2: (Output(1),)}
        switch.start()
        yield h1, switch, h2


def add_host(middle: Namespace, host: Namespace, number: int) -> None:
    """A veth between `s<number>` at the switch and `eth0` at the host."""
    middle.ip("link", "add", f"s{number}", "type", "veth", "peer", "name", "eth0", "netns", host.name)
    middle.run("sysctl", "-qw", f"net.ipv6.conf.s{number}.disable_ipv6=1")
    middle.ip("link", "set", f"s{number}", "up")
    host.ip("link", "set", "eth0", "address", f"02:00:00:00:00:{number:02x}")
    host.ip("addr", "add", f"10.0.0.{number}/24", "dev", "eth0")
    host.ip("addr", "add", f"fd00::{number}/64", "dev", "eth0", "nodad")
    host.ip("link", "set", "eth0", "up")


def ping(host: Namespace, address: str, count: int = 3, wait_s: float = 2) -> bool:
    """Whether all echo requests are answered; ICMP from a raw socket, since not every machine has ping.

    wait_s: for an answer. Short where the answer is not certain, and whoever asks asks again.
    """
    with host.inside():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        proto, request, reply = (58, 128, 129) if ":" in address else (1, 8, 0)
        raw = socket.socket(family, socket.SOCK_RAW, proto)
    with raw:
        raw.settimeout(wait_s)
        for number in range(count):
            body = bytes([request, 0, 0, 0, 0x77, 0x77, 0, number]) + bytes(range(48))
            if family == socket.AF_INET:
                total = sum(int.from_bytes(body[i : i + 2], "big") for i in range(0, len(body), 2))
                total = (total & 0xFFFF) + (total >> 16)
                body = body[:2] + (~total & 0xFFFF).to_bytes(2, "big") + body[4:]
            raw.sendto(body, (address, 0))
            deadline = time.monotonic() + wait_s
            while True:
                try:
                    answer = raw.recv(2000)
                except TimeoutError:
                    return False
                answer = answer[20:] if family == socket.AF_INET else answer
                if answer[0] == reply and answer[4:] == body[4:]:
                    break
                if time.monotonic() > deadline:
                    return False
    return True


def iperf(client: Namespace, server: Namespace, address: str, *options: object, seconds: float = 2) -> dict:
    """One iperf3 run; its JSON report."""
    listening = server.start("iperf3", "-s", "-1", "-B", address)
    deadline = time.monotonic() + PATIENCE_S
    while f"{address}:5201" not in server.run("ss", "-ltnH").replace("[", "").replace("]", ""):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    report = client.run("iperf3", "-c", address, "-t", seconds, "-J", *options, check=False)
    listening.wait(PATIENCE_S)
    result = json.loads(report)
    assert "error" not in result, result.get("error")
    return result


def gbps(report: dict) -> float:
    return report["end"]["sum_received"]["bits_per_second"] / 1e9
