# SPDX-License-Identifier: Apache-2.0
"""What is on the wire, judged by Wireshark's decoders."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from vswitch.ctl import CtlError

pytestmark = pytest.mark.root
CHECKS = [word for name in ("ip", "tcp", "udp") for word in ("-o", f"{name}.check_checksum:TRUE")]


def tshark(file, *arguments):
    command = ["tshark", "-r", str(file), *CHECKS, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_tshark_sees_standard_vxlan_and_nothing_wrong(overlay, tmp_path):
    network = overlay().start()
    file = tmp_path / "wire.pcapng"
    network.s1.control("capture.start", port=1, file=str(file), seconds=100)
    assert network.loss() == 0
    assert "receiver" in network.vm1.cmd(f"iperf3 -c {network.vm2.IP()} -b 50M -t 1")
    assert "receiver" in network.vm1.cmd(f"iperf3 -u -c {network.vm2.IP()} -b 10M -t 1")
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
    for port, path, sentence in (
        (2, file, "is no wire"),
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
    assert "frames=" in network.s1.cmd("vswitchctl capture 1 --stop")
    network.s1.control("capture.start", port=1, file=str(file), seconds=60)
    assert network.loss() == 0
    network.s1.end_process()
    assert len(tshark(file)) > 4
