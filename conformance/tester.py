# SPDX-License-Identifier: Apache-2.0
"""`python -m conformance.tester PLAN.json`, in `.venv-ryu`: Ryu's tester on the tests of a plan.

PLAN.json is what `conformance.run` wrote: the tests, the port to listen on, and the file that gets one JSON
line for each finished test.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from ryu_apps import framework

PLAN_VARIABLE = "CONFORMANCE_PLAN"


def mend_sctp() -> None:
    """Ryu's CRC32c of SCTP takes `str(bytes)` on Python 3, "b'…'" and all (faucetsdn/ryu PR 210).

    No switch can pass the tests that change an SCTP port while the tester expects that sum.
    """
    sctp = framework.load("lib.packet.sctp").sctp
    checksum = sctp._checksum
    sctp._checksum = lambda self, data: checksum(self, bytes(data).decode("latin-1"))


def main(plan: str) -> None:
    """Run until all tests are done."""
    os.environ[PLAN_VARIABLE] = plan
    host, port = json.loads(Path(plan).read_text())["listen"]
    framework.prepare(framework.RYU)
    mend_sctp()
    framework.run(framework.RYU, ["conformance.tester_app"], host, port, rest_port=0)


if __name__ == "__main__":
    main(sys.argv[1])
