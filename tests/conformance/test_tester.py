# SPDX-License-Identifier: Apache-2.0
"""The runner on real switches: a part of the suite on ours, and on Open vSwitch what is known of it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from scapy.layers.sctp import SCTP, SCTPChunkData

from conformance.rig import ROOT
from tests.controller.ryu_process import PYTHON, needs_ryu


def conformance(out, *arguments, timeout_s=110):
    result = subprocess.run(
        [sys.executable, "-m", "conformance", "--out", str(out), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert result.returncode in (0, 3), result.stdout + result.stderr
    return result, json.loads((out / "results.json").read_text())


RATES = ("group/", "meter/")


@needs_ryu
@pytest.mark.root
@pytest.mark.slow
def test_a_part_of_the_suite(tmp_path):
    """Some tests of all kinds; the whole is `make conformance`.

    Rates are not judged: they need a machine that does nothing else.
    """
    result, document = conformance(tmp_path / "out", "--sample", "60", "--throughput-seconds", "5")
    assert (result.returncode, document["shortfalls"]) == (0, []), result.stdout
    failed = [test for test in document["tests"] if not test["passed"] and not test["file"].startswith(RATES)]
    assert not failed, (tmp_path / "out" / "failures.txt").read_text()


@needs_ryu
@pytest.mark.root
def test_the_anchor(tmp_path):
    """Open vSwitch does output and has no PBB: the tester's own reasons get through."""
    result, document = conformance(
        tmp_path / "out", "--target", "ovs", "action/00_OUTPUT", "action/27_POP_PBB"
    )
    assert result.returncode == 0
    assert document["counts"]["action"] == {"passed": 3, "tests": 6}
    reasons = {test["reason"] for test in document["tests"] if not test["passed"]}
    assert reasons == {"Failed to add flows: OFPErrorMsg[type=0x02, code=0x00]"}
    assert "3 / 6" in result.stdout


@needs_ryu
def test_ryus_sctp_checksum_is_mended():
    """Ryu's encoder, mended, and scapy agree on the CRC32c of a packet."""
    script = (
        "from ryu_apps import framework\nframework.prepare('ryu')\n"
        "from conformance.tester import mend_sctp\nmend_sctp()\n"
        "from ryu.lib.packet import sctp\n"
        "chunk = sctp.chunk_data(begin=1, end=1, tsn=7, sid=1, seq=2, payload_id=3, payload_data=b'abcd')\n"
        "print(sctp.sctp(6000, 7000, 9, 0, [chunk]).serialize(None, None).hex())"
    )
    result = subprocess.run([PYTHON, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    sent = bytes.fromhex(result.stdout)
    decoded = SCTP(sent)
    assert SCTPChunkData in decoded
    decoded.chksum = None
    assert bytes(decoded) == sent
