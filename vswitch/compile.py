# SPDX-License-Identifier: Apache-2.0
"""`python -m vswitch.compile`: compile the dataplane ahead of the first switch's start."""

from __future__ import annotations

import argparse
import sys
import time

from vswitch.datapath import Datapath, is_compiled


def main() -> int:
    """Fill the cache directory."""
    argparse.ArgumentParser(prog="python -m vswitch.compile", description=__doc__).parse_args()
    if is_compiled():
        return 0
    print("compiling the dataplane, which takes up to a minute the first time", flush=True)
    started = time.monotonic()
    datapath = Datapath(dpid=1)
    try:
        datapath.start()
    finally:
        datapath.close()
    print(f"compiled in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
