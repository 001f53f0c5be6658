# SPDX-License-Identifier: Apache-2.0
"""The Ryu application: the stock tester `ryu.tests.switch.tester`, told which tests to run, and made to
survive.

The stock one dies of an unexpected message (an assertion in its thread) and then hangs; here that is a failed
test. What a test does and when it passes is Ryu's alone.
"""

from __future__ import annotations

import json
import os
import struct
import time
from pathlib import Path
from typing import Any

from ryu.lib import hub
from ryu.tests.switch import tester

from conformance.tester import PLAN_VARIABLE


class Sender(tester.OpenFlowSw):
    """Encodes a frame that is sent again and again once.

    The stock one encodes it for each packet-out, and then sends less than the fastest tests of rates say.
    """

    _last: Any = None

    def send_msg(self, msg: Any) -> int:
        xid: int = super().send_msg(msg)
        self._last = msg
        return xid

    def send_packet_out(self, data: bytes) -> int:
        last = self._last
        if getattr(last, "data", None) is not data or last.datapath is not self.dp:
            return super().send_packet_out(data)
        last.xid = None
        self.dp.set_xid(last)
        struct.pack_into("!I", last.buf, 4, last.xid)
        self.dp.send(bytes(last.buf))
        return last.xid


class PlannedTester(tester.OfTester):
    """Runs the plan's tests in turn and writes a line for each; ends the process after the last."""

    def __init__(self) -> None:
        self.plan: dict[str, Any] = json.loads(Path(os.environ[PLAN_VARIABLE]).read_text())
        self.reason = ""
        super().__init__()
        self.tester_sw: Any = Sender(tester.DummyDatapath(), self.logger)

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

    def _send_packet_thread(self, arg: dict[str, Any]) -> None:
        """One tick of the load: as many packets as the time since the last tick is worth.

        The stock one takes every tick to come in time, and so sends up to a tenth less than the test says: as
        much as a measured rate may differ.
        """
        now = time.monotonic()
        tick = tester.CONTINUOUS_THREAD_INTVL
        rate = arg.setdefault("rate", arg["packet_counter_inc"] / tick)
        arg["packet_counter_inc"] = rate * (now - arg.get("last", now - tick))
        arg["last"] = now
        super()._send_packet_thread(arg)

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
