# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C that is never lost, and that does not stop a clean-up half-way."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

LEAVE = (KeyboardInterrupt, SystemExit)
AGAIN_S = 0.01
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)


def raise_again_what_is_ignored() -> None:
    """A KeyboardInterrupt or SystemExit of a signal's handler ends the program, however often it takes.

    Python runs handlers between any two steps, also where it can only ignore an exception: in what is called
    around a fork, in `__del__`, when a weak reference ends. What is raised there is told to
    `sys.unraisablehook`, and would be forgotten; here it is raised again a moment later.
    """
    hook = sys.unraisablehook

    def ignored(problem: sys.UnraisableHookArgs) -> None:
        failure = problem.exc_value
        if not isinstance(failure, LEAVE):
            hook(problem)
            return

        def again(_number: int, _frame: FrameType | None) -> None:
            raise failure

        signal.signal(signal.SIGALRM, again)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)

    sys.unraisablehook = ignored


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt, surely."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    hook = sys.unraisablehook
    handlers = {number: signal.signal(number, interrupt) for number in NUMBERS}
    raise_again_what_is_ignored()
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """None of these signals interrupts the removal of what was built."""
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in NUMBERS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
