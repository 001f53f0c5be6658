# SPDX-License-Identifier: Apache-2.0
"""Mininet's own tests, with our switch in place of Open vSwitch: some of those that need nothing else.

Those of its examples are in Debian's package; the others are in its sources only, of which the variable
MININET_OFFLOAD_MININET_SOURCE tells where they are.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.controller.ryu_process import needs_ryu
from tests.mininet.mn_cli import ROOT, isolated

pytestmark = [pytest.mark.root, needs_ryu]
IN_PLACE_OF_OVS = Path(__file__).with_name("in_place_of_ovs.py")
VARIABLE = "MININET_OFFLOAD_MININET_SOURCE"
EXAMPLES = Path("/usr/share/doc/mininet/examples/test")
SOURCE = Path(os.environ.get(VARIABLE, "/nowhere")) / "mininet" / "test"

OF_EXAMPLES = {
    "test_emptynet.py": ["testEmptyNet"],
    "test_linuxrouter.py": ["testLinuxRouter.testPingall"],
    "test_multilink.py": ["testMultiLink"],
    "test_multitest.py": ["testMultiTest"],
}
OF_SOURCE = {
    "test_nets.py": ["testSingleSwitchOVSKernel", "testLinearOVSKernel"],
    "test_switchdpidassignment.py": ["TestSwitchDpidAssignmentOVS"],
    "test_walkthrough.py": [
        f"testWalkthrough.{name}"
        for name in (
            "testBasic",
            "testConnectivity",
            "testTopoChange",
            "testStaticMAC",
            "testPythonInterpreter",
            "testLink",
        )
    ],
}


@pytest.fixture
def programs(tmp_path) -> Path:
    """A folder with the programs that Mininet's tests start."""
    for name, words in (("python", ""), ("mn", " mn")):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{IN_PLACE_OF_OVS}"{words} "$@"\n')
        program.chmod(0o755)
    return tmp_path


def run(programs: Path, file: Path, tests: list[str]) -> None:
    """Run some tests of a file where they may end and remove what they like: they do, by name."""
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
    }
    result = subprocess.run(
        isolated("python", str(file), *tests),
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^Ran [1-9]\d* tests? in .*\n\nOK$", result.stderr, re.MULTILINE), result.stderr


@pytest.mark.skipif(not EXAMPLES.exists(), reason=f"Debian's mininet has left out {EXAMPLES}")
@pytest.mark.parametrize("file", OF_EXAMPLES)
def test_examples(programs, file):
    run(programs, EXAMPLES / file, OF_EXAMPLES[file])


@pytest.mark.slow
@pytest.mark.skipif(not SOURCE.exists(), reason=f"{VARIABLE} names no folder with Mininet's sources")
@pytest.mark.parametrize("file", OF_SOURCE)
def test_source(programs, file):
    run(programs, SOURCE / file, OF_SOURCE[file])
