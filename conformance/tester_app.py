# SPDX-License-Identifier: Apache-2.0
"""The Ryu application: the stock tester `ryu.tests.switch.tester`, told which tests to run, and made to
survive.

The stock one dies of an unexpected message (an assertion in its thread) and then hangs; here that is a failed
test. What a test does and when it passes is Ryu's alone.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ryu.lib import hub
from ryu.tests.switch import tester

from conformance.tester import PLAN_VARIABLE

# The load generator's tick. Ryu's 10 ms is too short for a green thread: it then sends 5 to 8 % less than the
# test says, of the 10 % by which a measured rate may differ.
tester.CONTINUOUS_THREAD_INTVL = 0.05


class PlannedTester(tester.OfTester):
    """Runs the plan's tests in turn and writes a line for each; ends the process after the last."""

    def __init__(self) -> None:
        self.plan: dict[str, Any] = json.loads(Path(os.environ[PLAN_VARIABLE]).read_text())
        self.reason = ""
        super().__init__()

    def _test_sequential_execute(self, test_dir: str) -> None:
        files: dict[str, Any] = {}
        with Path(self.plan["results"]).open("w") as results:
            for number, (path, index) in enumerate(self.plan["tests"]):
                if path not in files:
                    files = {path: tester.TestFile(path, self.logger)}
                passed = self._run(files[path], index)
                results.write(json.dumps({"number": number, "passed": passed, "reason": self.reason}) + "\n")
                results.flush()
                hub.sleep(0)
        self._test_end("--- Test end ---")

    def _run(self, file: Any, index: int) -> bool:
        test = file.tests[index]
        self._shorten(test)
        self.reason = ""
        try:
            passed = self._test_execute(test, file.description) == tester.TEST_OK
        except hub.TaskExit:
            raise
        except Exception as error:
            self.logger.exception("the tester met something that it does not expect")
            self.reason = self.reason or f"the tester met something that it does not expect: {error!r}"
            passed = False
        self.waiter = None
        return passed

    def _shorten(self, test: Any) -> None:
        """Give rate tests the plan's length, if it has one."""
        seconds = self.plan["throughput_seconds"]
        for step in test.tests:
            if seconds and tester.KEY_PACKETS in step:
                step[tester.KEY_PACKETS][tester.KEY_DURATION_TIME] = seconds

    def _test(self, state: int, *args: Any) -> Any:
        try:
            return super()._test(state, *args)
        except tester.TestMessageBase as error:
            self.reason = str(error)
            raise
        except AssertionError as error:
            received = ", ".join(str(message) for message in self.rcv_msgs)
            self.reason = f"the tester did not expect this answer: {received or error!r}"
            raise
