# SPDX-License-Identifier: Apache-2.0
"""How `mn` behaves with a lab: errors are one sentence, and what is removed afterwards is only this lab."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import mininet.clean
from mininet.log import error
from mininet.net import Mininet

from topologies.errors import LabError
from topologies.lab import Lab
from topologies.nodes import VSwitch
from topologies.registry import remove_leftovers
from vswitch.errors import VSwitchError


class LabNet(Mininet):
    """Mininet's network, whose errors of the user's end `mn` with one sentence and exit status 1."""

    def build(self) -> None:
        with user_errors():
            super().build()

    def start(self) -> None:
        """Start all; switches start at the same time (`VSwitch.batchStartup` waits for them)."""
        for switch in self.switches:
            if isinstance(switch, VSwitch):
                switch.batch = True
        with user_errors():
            super().start()


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn an error that is meant for the user into a sentence and the end of the program."""
    try:
        yield
    except VSwitchError as problem:
        error(f"\n*** Error: {problem}\n")
        Lab.close_current()
        sys.exit(1)


def reported(topology: Callable[..., Any]) -> Callable[..., Any]:
    """A topology for `mn`'s table whose errors are reported likewise."""

    def build(*args: Any, **params: Any) -> Any:
        with user_errors():
            try:
                return topology(*args, **params)
            except TypeError as problem:  # a parameter that it does not have
                raise LabError(f"--topo: {problem}") from None

    build.__name__ = topology.__name__
    return build


def clean_up() -> None:
    """What `mn` calls for `-c`, and after an exception or Ctrl-C.

    `-c` removes whatever any Mininet left behind, as always, and what labs left behind. After an error only
    this lab is removed: Mininet's own clean-up would end every other lab on the machine.
    """
    if {"-c", "--clean"} & set(sys.argv):
        mininet.clean.cleanup()
    else:
        Lab.close_current()


def install() -> None:
    """Let `mn -c` remove leftovers of labs, and let SIGTERM and SIGHUP end a lab properly."""
    mininet.clean.addCleanupCallback(remove_leftovers)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
