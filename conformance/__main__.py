# SPDX-License-Identifier: Apache-2.0
"""`python -m conformance`: see `command.py`."""

import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while importing: Python may ignore an exception then
    from conformance.command import main

    sys.exit(main())
