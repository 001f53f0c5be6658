# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the protocol tests: a Ryu to ask, and a switch without I/O."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.protocol.fake_datapath import FakeClock, FakeDatapath
from tests.protocol.harness import FakeSwitch

ROOT = Path(__file__).parents[2]
RYU_PYTHONS = (os.environ.get("VSWITCH_RYU_PYTHON"), ROOT / ".venv-ryu/bin/python")


@pytest.fixture(scope="session")
def ryu_python():
    """The interpreter that has Ryu."""
    for candidate in RYU_PYTHONS:
        if candidate and Path(candidate).exists():
            return str(candidate)
    pytest.skip("no Ryu: neither $VSWITCH_RYU_PYTHON nor .venv-ryu is there")


class RyuOracle:
    def __init__(self, python):
        script = Path(__file__).with_name("ryu_oracle.py")
        self._process = subprocess.Popen(
            [python, "-W", "ignore", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def build(self, expression):
        """The bytes of a message that Ryu makes; its xid is 0x01020304."""
        return bytes.fromhex(self._ask(build=expression)["hex"])

    def parse(self, data):
        """(class name, fields) of what Ryu reads in `data`."""
        ((name, fields),) = self._ask(parse=data.hex())["json"].items()
        return name, fields

    def close(self):
        self._process.stdin.close()
        self._process.wait(PATIENCE_S)
        self._process.stdout.close()

    def _ask(self, **request):
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer


@pytest.fixture(scope="session")
def ryu(ryu_python):
    oracle = RyuOracle(ryu_python)
    yield oracle
    oracle.close()


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def datapath(clock):
    datapath = FakeDatapath(clock)
    yield datapath
    assert datapath.held == 0, "a punted packet was neither executed nor discarded"
    os.close(datapath.punt_fd)


@pytest.fixture
def switch(datapath, clock):
    return FakeSwitch(datapath, clock)
