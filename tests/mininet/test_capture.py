# SPDX-License-Identifier: Apache-2.0
"""What is on the wire, and what passes other ports, judged by Wireshark's decoders."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mininet.net import Mininet

from tests.mininet.conftest import Overlay
from tests.patience import PATIENCE_S
from topologies.nodes import VSwitch
from topologies.processes import poll_until
from vswitch.ctl import CtlError

pytestmark = pytest.mark.root
CHECKS = [word for name in ("ip", "tcp", "udp") for word in ("-o", f"{name}.check_checksum:TRUE")]


def tshark(file, *arguments):
    command = ["tshark", "-r", str(file), *CHECKS, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()


def transfer(network, *options):
    """A second of iperf3 from VM to VM; its server may be busy with the end of the one before."""
    command = " ".join(["iperf3", "-c", network.vm2.IP(), "-t", "1", *options])
    assert poll_until(lambda: "receiver" in network.vm1.cmd(command), PATIENCE_S)


def echoes(file):
    """(ICMP type, direction at the port: 1 came in, 2 went out) of each ping's packet."""
    fields = [word for name in ("icmp.type", "frame.packet_flags_direction") for word in ("-e", name)]
    lines = [line.split() for line in tshark(file, "-Y", "icmp", "-T", "fields", *fields)]
    return [(int(kind), int(direction, 16)) for kind, direction in lines]


def passed(switch, port):
    """Frames that a port has received and sent."""
    (info,) = (info for info in switch.control("ports") if info["port"] == port)
    return info["rx_packets"] + info["tx_packets"]


VSWITCHCTL = str(Path(sys.executable).with_name("vswitchctl"))
needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
ECHO, REPLY = 8, 0
CAME_IN, WENT_OUT = 1, 2


@needs_tshark
def test_tshark_sees_standard_vxlan_and_nothing_wrong(overlay, tmp_path):
    network = overlay().start()
    file = tmp_path / "wire.pcapng"
    network.s1.control("capture.start", port=1, file=str(file), seconds=100)
    assert network.loss() == 0
    transfer(network, "-b", "50M")
    transfer(network, "-u", "-b", "10M")
    written = network.s1.control("capture.stop", port=1)["frames"]
    assert written == len(tshark(file)) > 1000
    assert written == len(tshark(file, "-Y", "udp.dstport == 4789 && vxlan.vni == 42"))
    bad = " || ".join(f"{name}.checksum.status == 0" for name in ("ip", "tcp", "udp"))
    assert tshark(file, "-Y", f"_ws.malformed || {bad}") == []
    assert tshark(file, "-Y", "frame.len > 1514") == []
    assert "capture_missed" not in {k for k, v in network.s1.control("counters")["reasons"].items() if v}


def test_a_capture_ends_with_its_switch_and_refuses_nonsense(overlay, tmp_path):
    network = overlay().start()
    file = tmp_path / "wire.pcapng"
    (tunnel,) = (port["name"] for port in network.s1.control("ports") if port["kind"] == "tunnel")
    for port, path, sentence in (
        ("LOCAL", file, "s1 is LOCAL (allowed: a wire, packet or TAP port)"),
        (tunnel, file, f"{tunnel} is a tunnel (allowed: a wire, packet or TAP port)"),
        (7, file, "there is no port 7"),
        (1, tmp_path / "missing" / "file", "No such file or directory"),
    ):
        answer = network.s1.cmd(f"vswitchctl capture {port} -w {path} -t 1")
        assert sentence in answer
        assert "Traceback" not in answer
    with pytest.raises(CtlError, match="cannot write"):
        network.s1.control("capture.start", port=1, file="/\ud800")
    network.s1.control("capture.start", port=1, file=str(file), seconds=60)
    assert "capture 1 --stop" in network.s1.cmd(f"vswitchctl capture 1 -w {file}")
    assert f"frames written to {file}" in network.s1.cmd("vswitchctl capture 1 --stop")
    network.s1.control("capture.start", port=1, file=str(file), seconds=60)
    assert network.loss() == 0
    network.s1.end_process()
    assert len(tshark(file)) > 4


@pytest.fixture(scope="module")
def network():
    """Two servers with a VM each."""
    made = Overlay().start()
    assert made.loss() == 0
    yield made
    made.stop()


@needs_tshark
def test_tshark_sees_what_a_vm_sends_and_gets(network, tmp_path):
    """Every frame that the port counts, with its direction; checksums that the VM's kernel has left to its
    NIC are those that the packet would have."""
    file = tmp_path / "vm.pcapng"
    least = passed(network.s1, 2)
    network.s1.control("capture.start", port="s1-eth2", file=str(file), seconds=100)
    after_start = passed(network.s1, 2)
    network.vm1.cmd(f"ping -c 3 -i 0.2 {network.vm2.IP()}")
    transfer(network, "-b", "20M", "-l", "1000")
    transfer(network, "-u", "-b", "2M")
    before_stop = passed(network.s1, 2)
    result = network.s1.control("capture.stop", port=2)
    most = passed(network.s1, 2)
    assert result == {
        "port": 2, "name": "vm1-eth0", "file": str(file), "frames": len(tshark(file)), "missed": 0,
    }  # fmt: skip
    assert before_stop - after_start <= result["frames"] <= most - least
    assert echoes(file) == [(ECHO, CAME_IN), (REPLY, WENT_OUT)] * 3
    bad = " || ".join(f"{name}.checksum.status == 0" for name in ("ip", "tcp", "udp"))
    assert tshark(file, "-Y", f"_ws.malformed || {bad}") == []
    assert len(tshark(file, "-Y", "tcp.checksum.status == 1 && ip.src == 10.0.0.1")) > 10


@needs_tshark
def test_a_capture_of_a_vm_hears_nothing_before_and_after(network, tmp_path):
    ping = f"ping -c 1 {network.vm2.IP()}"
    for name in ("first", "second"):
        assert "1 received" in network.vm1.cmd(ping)
        file = tmp_path / name
        network.s1.control("capture.start", port=2, file=str(file), seconds=100)
        assert "1 received" in network.vm1.cmd(ping)
        network.s1.control("capture.stop", port=2)
        assert echoes(file) == [(ECHO, CAME_IN), (REPLY, WENT_OUT)]
    with pytest.raises(CtlError, match="cannot write"):
        network.s1.control("capture.start", port=2, file="/nonexistent/file")


@needs_tshark
def test_a_capture_at_the_command_line(network, tmp_path):
    """It says what it does, and at the end what it has done; Ctrl-C ends it early."""
    file = tmp_path / "vm.pcapng"
    words = ["capture", "s1", "s1-eth2", "-w", str(file)]
    capture = network.s1.popen(
        [VSWITCHCTL, "-r", str(network.lab.run_dir), *words],
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background ignores it
    )
    assert capture.stderr.readline() == f"capturing vm1-eth0 to {file}, for 60 s or until Ctrl-C\n"
    assert "1 received" in network.vm1.cmd(f"ping -c 1 {network.vm2.IP()}")
    capture.send_signal(signal.SIGINT)
    printed, _ = capture.communicate(timeout=PATIENCE_S)
    assert capture.returncode == 0
    assert printed == f"vm1-eth0: {len(tshark(file))} frames written to {file}\n"
    assert set(echoes(file)) == {(ECHO, CAME_IN), (REPLY, WENT_OUT)}
    assert json.loads(network.s1.cmd("vswitchctl capture 1 --stop --json"))["file"] is None
    assert "nothing was being captured" in network.s1.cmd("vswitchctl capture 1 --stop")


@needs_tshark
def test_a_capture_of_a_plain_link(tmp_path):
    """A packet port, whose interface lies beside the switch."""
    net = Mininet(controller=None)
    file = tmp_path / "plain.pcapng"
    try:
        switch = net.addSwitch("s1", cls=VSwitch, failMode="standalone")
        for name in ("h1", "h2"):
            net.addLink(net.addHost(name), switch)
        net.start()
        h1, h2 = net.hosts
        assert poll_until(lambda: "1 received" in h1.cmd(f"ping -c 1 {h2.IP()}"), PATIENCE_S)
        switch.control("capture.start", port=1, file=str(file), seconds=100)
        assert "2 received" in h1.cmd(f"ping -c 2 -i 0.2 {h2.IP()}")
        switch.control("capture.stop", port=1)
        assert echoes(file) == [(ECHO, CAME_IN), (REPLY, WENT_OUT)] * 2
    finally:
        net.stop()
