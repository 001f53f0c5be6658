# SPDX-License-Identifier: Apache-2.0
"""`python -m vswitch.compile`: compile the dataplane ahead of the first switch's start."""

from __future__ import annotations

import argparse
import sys
import threading
import time

from vswitch.code_cache import is_complete
from vswitch.datapath import Datapath
from vswitch.dataplane.compiled import compiled_part
from vswitch.errors import VSwitchError

LOOK_S = 0.5
STEP = 5  # percent


def main() -> int:
    """Fill the cache directory."""
    argparse.ArgumentParser(prog="python -m vswitch.compile", description=__doc__).parse_args()
    if is_complete():
        return 0
    print("compiling the dataplane, which takes up to a minute the first time:", end="", flush=True)
    started = time.monotonic()
    done = threading.Event()
    reporter = threading.Thread(target=_report, args=(done,))
    reporter.start()
    datapath = Datapath(dpid=1)
    try:
        datapath.start()
    except VSwitchError as error:
        print(f"\nvswitch.compile: {error}", file=sys.stderr)
        return 1
    finally:
        done.set()
        reporter.join()
        datapath.close()
    print(f" done in {time.monotonic() - started:.0f} s")
    return 0


def _report(done: threading.Event) -> None:
    """Print how far it is, from time to time, until `done`."""
    told = 0
    while not done.wait(LOOK_S):
        percent = int(100 * compiled_part()) // STEP * STEP
        if percent > told:
            print(f" {percent} %", end="", flush=True)
            told = percent


if __name__ == "__main__":
    sys.exit(main())
