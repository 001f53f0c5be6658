# SPDX-License-Identifier: Apache-2.0
"""`vswitchctl`, the program; and for scripts `call`, its client of the control socket."""

from __future__ import annotations

import sys

from vswitch.cli.client import CtlError, call, find_socket
from vswitch.cli.main import main

__all__ = ["CtlError", "call", "find_socket", "main"]

if __name__ == "__main__":
    sys.exit(main())
