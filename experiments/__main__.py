# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments`: see `command.py`."""

import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while importing: Python may ignore an exception then
    from experiments.command import main

    sys.exit(main())
