# SPDX-License-Identifier: Apache-2.0
"""`.venv-ryu/bin/python -m ryu_apps.ryu_manager ARGUMENT …`: Ryu 4.34's `ryu-manager`, mended for a current
Python.
"""

from __future__ import annotations

import sys

from ryu_apps import framework


def main() -> None:
    """Run the applications of the command line until the process is ended."""
    framework.prepare(framework.RYU)
    from ryu.cmd.manager import main as manager  # only now: what it imports needs prepare()

    manager(args=sys.argv[1:], prog="ryu-manager")


if __name__ == "__main__":
    main()
