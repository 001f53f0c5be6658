# SPDX-License-Identifier: Apache-2.0
"""What a peer sends that is no OpenFlow: a line in the log, and the end of its connection or of the message.

Ryu and os-ken log a traceback for each. And they never come back from a list whose element says that it has
no length, a twelve-byte HELLO for one: every switch of the controller would be without it from then on.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

PARSE_LIMIT_S = 0.5
"""Processor time for one message. It has at most 64 KB, which take a tenth of it."""


class Endless(Exception):
    """A message that is still not read after PARSE_LIMIT_S."""


def guard(framework: str) -> None:
    """Install the guards in the framework; after its green threads are in place."""
    importlib.import_module(f"{framework}.base.app_manager")  # which has to come before the other
    controller = importlib.import_module(f"{framework}.controller.controller")
    parser = importlib.import_module(f"{framework}.ofproto.ofproto_parser")
    controller.datapath_connection_factory = functools.partial(_serve, controller)
    signal.signal(signal.SIGVTALRM, _interrupt)
    parser.msg = _limited(parser.msg)
    parser.LOG.addFilter(_in_one_line)


def _serve(controller: Any, connection: Any, address: tuple[Any, ...]) -> None:
    """Serve one connection to its end. What is raised here comes from its messages: applications run in
    threads of their own."""
    with contextlib.closing(controller.Datapath(connection, address)) as datapath:
        try:
            datapath.serve()
        except Exception as error:
            controller.LOG.error(
                "%s sent what is no OpenFlow message of a switch (%s): its connection is closed",
                _peer(address),
                _sentence(error),
            )


def _limited(parse: Callable[..., Any]) -> Callable[..., Any]:
    """`parse`, which raises Endless when it takes too long."""

    def msg(datapath: Any, *arguments: Any) -> Any:
        with _Limit(_peer(datapath.address)) as limit:
            message = parse(datapath, *arguments)
        if limit.exceeded:  # the framework swallows what its parsers raise
            raise Endless("a list in it has no end")
        return message

    return msg


class _Limit:
    """At most PARSE_LIMIT_S of processor time to read a message of a peer. Nothing in the block may wait: one
    timer serves all."""

    current: _Limit | None = None

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.exceeded = False

    def __enter__(self) -> _Limit:
        _Limit.current = self
        signal.setitimer(signal.ITIMER_VIRTUAL, PARSE_LIMIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        _Limit.current = None


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    if _Limit.current:
        _Limit.current.exceeded = True
        raise Endless("it took too long")


def _in_one_line(record: logging.LogRecord) -> bool:
    """The parser's record of what it could not read, without the traceback and the dump of the message."""
    if record.exc_info and record.exc_info[1] and _Limit.current:
        record.msg = "%s sent a message that cannot be read, and is left out: %s"
        record.args = (_Limit.current.peer, _sentence(record.exc_info[1]))
        record.exc_info = None
    return True


def _peer(address: tuple[Any, ...]) -> str:
    return f"{address[0]} port {address[1]}"


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")
