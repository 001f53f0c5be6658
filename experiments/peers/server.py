# SPDX-License-Identifier: Apache-2.0
"""Has a back end of the checkout that it runs in do what another checkout's harness asks (`peers/served.py`).

Its text is run by the other checkout's Python, with that one's `BackEnd` and `Servers`. A line of JSON for
each call, `[method, arguments]`, and for each answer, `[result, what went wrong]`. SIGTERM ends the back end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from importlib import import_module
from pathlib import Path

from experiments.peers.base import Servers, Variant


class Serving:
    """The calls that a harness makes, with arguments and results as JSON has them."""

    def __init__(self, module, name, first, second, run_dir):
        servers = Servers(frozenset(first), frozenset(second), Path(run_dir))
        self.back_end = getattr(import_module(module), name)(servers)

    def start(self):
        self.back_end.start()

    def use(self, variant):
        self.back_end.use(Variant(**variant))

    def prepare(self, config):
        self.back_end.prepare(config)

    def counters(self):
        return self.back_end.counters()

    def endpoints(self):
        return [
            (end.pid, end.ip, None if end.cpus is None else sorted(end.cpus), end.window)
            for end in self.back_end.endpoints()
        ]


def main():
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what else is printed is for the log
    serving = Serving(*json.loads(sys.argv[1]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        for line in sys.stdin:
            method, arguments = json.loads(line)
            try:
                result, problem = getattr(serving, method)(*arguments), ""
            except Exception as error:
                result, problem = None, str(error) or type(error).__name__
            answers.write(json.dumps([result, problem]) + "\n")
    finally:
        serving.back_end.stop()


if __name__ == "__main__":
    main()
