# SPDX-License-Identifier: Apache-2.0
"""Signals that come where Python ignores exceptions."""

import signal
import subprocess
import sys
import textwrap
import time

import pytest

from tests.patience import PATIENCE_S
from topologies.interrupts import interruptible, uninterrupted


class LeavesSlowly:
    """Its `__del__` takes as long as there is no interrupt, and Python ignores what is raised in it."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        signal.raise_signal(self.number)
        time.sleep(PATIENCE_S)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("times", [1, 3])
def test_an_interrupt_that_python_ignores_comes_again(number, times):
    hook, handler = sys.unraisablehook, signal.getsignal(number)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), interruptible():
        for _ in range(times):
            LeavesSlowly(number)
        time.sleep(PATIENCE_S)
    assert time.monotonic() - began < PATIENCE_S
    assert sys.unraisablehook is hook
    assert signal.getsignal(number) is handler
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_other_ignored_exceptions_are_told_as_before(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    class Fails:
        def __del__(self):
            raise ValueError("of the object")

    with interruptible():
        Fails()
    assert [problem.exc_type for problem in told] == [ValueError]


def test_nothing_interrupts_what_may_not_be():
    with interruptible(), uninterrupted():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(number)
    with pytest.raises(KeyboardInterrupt), interruptible():
        with uninterrupted():
            pass
        signal.raise_signal(signal.SIGTERM)


def test_the_exit_of_a_handler_keeps_its_status():
    """As `mn` installs it: SIGTERM raises SystemExit, here in a callback after a fork."""
    program = """
        import os, signal, sys, time
        from topologies.interrupts import raise_again_what_is_ignored
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        raise_again_what_is_ignored()
        os.register_at_fork(after_in_parent=lambda: signal.raise_signal(signal.SIGTERM))
        if os.fork() == 0:
            os._exit(0)
        time.sleep(60)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], timeout=PATIENCE_S, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (128 + signal.SIGTERM, "")


@pytest.mark.parametrize("program", ["experiments", "conformance"])
def test_while_a_program_imports_it_ends_at_once(program):
    """Whatever Python would do with an exception there: what it imports first raises the signal."""
    hostile = f"""
        import runpy, signal, sys

        class Finder:
            def find_spec(self, name, path=None, target=None):
                if name.startswith("{program}.command"):
                    signal.raise_signal(signal.SIGINT)

        sys.meta_path.insert(0, Finder())
        runpy.run_module("{program}", run_name="__main__")
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(hostile)], timeout=PATIENCE_S, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (-signal.SIGINT, "")
