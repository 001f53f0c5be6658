# SPDX-License-Identifier: Apache-2.0
"""The kernel's own test of GRO (tools/testing/selftests/net/gro.c) on ours: through packet ports, and a wire.

Its sender is behind one packet port and its receiver behind another, which prints the packets that it got and
those that it was to get. The kernels of both hosts, and those at the switch's ends of their links, coalesce
nothing themselves.

The program is built from Debian's package linux-source, which nothing here installs: it has 140 MB.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mininet.net import Mininet
from mininet.node import Host

from topologies.lab import Lab
from topologies.links import WireLink
from topologies.nodes import VSwitch
from topologies.processes import poll_until

pytestmark = pytest.mark.root
SOURCES = sorted(path for path in Path("/usr/src").glob("linux-source-*.tar.*") if path.is_file())
PROGRAM, HEADER = (f"tools/testing/selftests/{name}" for name in ("net/gro.c", "kselftest.h"))
AWAKE = "unsigned sleep(unsigned s) { return 0; }\nint usleep(unsigned us) { return 0; }\n"
"""The program's pauses end a burst for who coalesces by time. What it sends is one burst here."""

MACS = ("--smac", "aa:00:00:00:00:01", "--dmac", "aa:00:00:00:00:02")
TRIES = 3  # as the kernel's gro.sh
MTU = 9000  # for segments of 4036 bytes
SEGMENT, SEGMENTS = 4036, 16
REMAINDER = {"ipv4": 919, "ipv6": 899}  # of 65,535 bytes of packet

DIFFERENCES = {
    "large": (
        "the kernel cuts up again what a packet socket sends of 65,522 to 65,535 bytes, so no aggregate is "
        "as long as that: of an IP packet's 65,535 bytes the last segment stays alone"
    )
}
"""Tests of the program in which the switch differs by intent, and why; see `expected_difference`."""


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """The kernel's program, built."""
    if not SOURCES:
        pytest.skip("the package linux-source is not installed: no /usr/src/linux-source-*.tar.*")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (cc)")
    folder = tmp_path_factory.mktemp("selftests")
    unpack(SOURCES[-1], folder)
    (folder / "awake.c").write_text(AWAKE)
    built = subprocess.run(
        [compiler, "-w", "-o", folder / "gro", folder / PROGRAM, folder / "awake.c"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder / "gro"


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the two files, reading no further than needed."""
    missing = {PROGRAM, HEADER}
    with tarfile.open(archive, "r|*") as tar:
        for member in tar:
            path = member.name.partition("/")[2]
            if path in missing:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                assert source is not None
                (folder / path).write_bytes(source.read())
                missing.remove(path)
            if not missing:
                return
    pytest.skip(f"{archive} has no {', '.join(sorted(missing))}")


@dataclass
class Way:
    """From host to host. `judged`: the switch whose GRO is tried, at its port `port`."""

    net: Mininet
    sender: Host
    receiver: Host
    judged: VSwitch
    port: int

    def try_once(self, program: Path, *arguments: str) -> subprocess.CompletedProcess:
        """Have the sender's frames wait at the judged switch, all of them, for one burst.

        So nothing depends on how fast sender and switch are: while the switch is stopped, the frames go to
        its ring.
        """
        arrived = self.received(self.net["s1"], 1)
        before, sent_before = self.received(self.judged, self.port), self.sent()
        os.kill(self.judged.process.pid, signal.SIGSTOP)
        try:
            sending = self.sender.popen([program, *arguments, *MACS, "--iface", "h1-eth0"])
            complaint = sending.communicate(timeout=10)[1]
            assert sending.returncode == 0, complaint
            frames = self.sent() - sent_before
            if self.judged is not self.net["s1"]:
                assert poll_until(lambda: self.received(self.net["s1"], 1) >= arrived + frames, 5)
            receiving = self.receiver.popen(
                [program, *arguments, *MACS, "--verbose", "--rx", "--iface", "h2-eth0"],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            assert poll_until(self._listens, 5)
        finally:
            os.kill(self.judged.process.pid, signal.SIGCONT)
        printed, _ = receiving.communicate(timeout=10)
        assert poll_until(lambda: self.received(self.judged, self.port) >= before + frames, 5)
        return subprocess.CompletedProcess(arguments, receiving.returncode, printed)

    def sent(self) -> int:
        """Frames that the sender's interface has sent."""
        return int(self.sender.cmd("cat /sys/class/net/h1-eth0/statistics/tx_packets"))

    @staticmethod
    def received(switch: VSwitch, number: int) -> int:
        """Frames that a switch has taken in at a port."""
        return next(port["rx_packets"] for port in switch.control("ports") if port["port"] == number)

    def _listens(self) -> bool:
        """Whether the receiver has its packet socket."""
        return len(Path(f"/proc/{self.receiver.pid}/net/packet").read_text().splitlines()) > 1


@pytest.fixture(scope="module", params=["packet ports", "wire"])
def way(request) -> Iterator[Way]:
    """h1 - s1 - h2, or h1 - s1 - s2 - h2 where s2 coalesces what comes by the wire, frame by frame."""
    lab = Lab()
    net = Mininet(controller=None)
    try:
        wired = request.param == "wire"
        switches = [
            net.addSwitch(f"s{n}", cls=VSwitch, lab=lab, listenPort=6650 + n) for n in range(1, 2 + wired)
        ]
        first, last = switches[0], switches[-1]
        h1, h2 = (net.addHost(name, ip=None) for name in ("h1", "h2"))
        links = [net.addLink(h1, first, port2=1), net.addLink(h2, last, port2=3)]
        if wired:
            net.addLink(first, last, port1=2, port2=2, cls=WireLink, mtu=MTU)
        for link in links:
            for intf in (link.intf1, link.intf2):
                intf.cmd(f"sysctl -qw net.ipv6.conf.{intf.name}.disable_ipv6=1")
                intf.cmd(f"ip link set {intf.name} mtu {MTU}")
                intf.cmd(f"ethtool -K {intf.name} gro off")
        h1.cmd("ethtool -K h1-eth0 tso off gso off")
        net.start()
        for switch in switches:
            ports = sorted(switch.ports_by_number())
            for here, there in (ports, reversed(ports)):
                switch.dpctl("add-flow", f"in_port={here},actions=output:{there}")
        judged_port = 2 if wired else 1
        if wired:
            first.control("offload.set", message="LroSet", port=1, queue=0, lro="off")
        (queue,) = last.control("nic.show", port=judged_port)["queues"]
        assert (queue["lro"], queue["lro_kind"]) == ("on", "gro")
        yield Way(net, h1, h2, last, judged_port)
    finally:
        net.stop()
        lab.close()


def received(printed: str) -> list[int]:
    """The payload of the packets of the last check that the receiver has printed."""
    *_, packets = re.findall(r"^Received \{(.*)\}", printed, re.MULTILINE)
    return [int(length) for length in re.sub(r"\[.*?\]", " ", packets).split()]


def expected_difference(test: str, family: str) -> list[int] | None:
    """The packets of the check in which a test is to end; None where it is to pass."""
    remainder = REMAINDER[family]
    return [SEGMENTS * SEGMENT, remainder, remainder] if test in DIFFERENCES else None


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("test", ["data", "ack", "flags", "tcp", "ip", "large"])
def test_the_kernels_own_test_of_gro(program, way, test, family):
    """The first try also teaches the switch the flows: the first packet of each leaves the burst for the slow
    path."""
    wanted = expected_difference(test, family)
    for _ in range(TRIES):
        result = way.try_once(program, f"--{family}", "--test", test)
        if wanted is None and result.returncode == 0:
            return
        if wanted is not None and received(result.stdout) == wanted:
            return
    pytest.fail(f"{DIFFERENCES.get(test, 'it is to pass')}, but: {result.stdout}")
