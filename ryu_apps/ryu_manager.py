# SPDX-License-Identifier: Apache-2.0
"""`.venv-ryu/bin/python -m ryu_apps.ryu_manager [--token-file FILE] ARGUMENT …`: Ryu 4.34's `ryu-manager`,
mended for a current Python; with a file, REST is for those only who show the token in it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ryu_apps import access, framework
from vswitch.errors import VSwitchError


def main() -> int:
    """Run the applications of the command line until the process is ended."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--token-file", metavar="FILE", type=Path)
    options, arguments = parser.parse_known_args()
    framework.prepare(framework.RYU)
    if options.token_file:
        try:
            framework.require_token(access.token(options.token_file))
        except VSwitchError as error:
            print(f"ryu_manager: {error}", file=sys.stderr)
            return 1
    from ryu.cmd.manager import main as manager  # only now: what it imports needs prepare()

    manager(args=arguments, prog="ryu-manager")
    return 0


if __name__ == "__main__":
    sys.exit(main())
