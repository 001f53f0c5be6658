# SPDX-License-Identifier: Apache-2.0
"""OpenFlow over TCP: outgoing connections that are kept up, and listeners. Thin: the session decides."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from vswitch.agent.session import Session
from vswitch.agent.switch import OpenFlowSwitch
from vswitch.errors import ConfigError
from vswitch.openflow.connection import Connection

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
MIN_BACKOFF_S = 0.25
MAX_BACKOFF_S = 8.0
READ_SIZE = 1 << 16
DEFAULT_PORT = 6653
_ALLOWED = "tcp:ADDRESS[:PORT] to connect, ptcp:PORT[:ADDRESS] to listen"


class Target(NamedTuple):
    """Where to connect to, or to listen at."""

    text: str
    passive: bool
    host: str
    port: int


def parse_target(text: str, path: str) -> Target:
    """`tcp:127.0.0.1:6653`, `tcp:[::1]:6653`, `ptcp:6654`, `ptcp:6654:127.0.0.1`; raises ConfigError."""
    scheme, _, rest = text.partition(":")
    if scheme == "ptcp":
        port, _, host = rest.partition(":")
        return Target(text, True, host.strip("[]") or "127.0.0.1", _port(port, text, path))
    if scheme != "tcp" or not rest:
        raise ConfigError(path, f"{text!r} is not an OpenFlow target", _ALLOWED)
    if rest.startswith("["):
        host, _, port = rest[1:].partition("]")
        port = port.lstrip(":")
    else:
        host, _, port = rest.partition(":")
    return Target(text, False, host, _port(port or str(DEFAULT_PORT), text, path))


def _port(digits: str, text: str, path: str) -> int:
    if not digits.isdecimal() or not 0 <= int(digits) <= 0xFFFF:
        raise ConfigError(path, f"{text!r} has no valid TCP port", _ALLOWED)
    return int(digits)


@dataclass
class Controller:
    """A controller to stay connected to, as `show` reports it."""

    target: Target
    session: Session | None = None


async def keep_connected(switch: OpenFlowSwitch, controller: Controller, clock: Callable[[], int]) -> None:
    """Connect, serve the session, connect again; never returns. One log line for each change of state."""
    target = controller.target
    backoff_s = MIN_BACKOFF_S
    reported = ""
    while True:
        try:
            streams = await asyncio.wait_for(
                asyncio.open_connection(target.host, target.port), CONNECT_TIMEOUT_S
            )
        except (OSError, asyncio.TimeoutError) as error:
            problem = _phrase(error)
            if problem != reported:
                log.warning(
                    "controller %s: cannot connect (%s); trying again until it answers", target.text, problem
                )
                reported = problem
        else:
            log.info("controller %s: connected", target.text)
            controller.session, serving = start_session(switch, target.text, *streams, clock)
            reason = await serving
            if controller.session.connection.established:
                backoff_s = MIN_BACKOFF_S
            controller.session = None
            log.warning("controller %s: connection ended (%s); reconnecting", target.text, reason)
            reported = ""
        await asyncio.sleep(backoff_s)
        backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)


async def listen(switch: OpenFlowSwitch, target: Target, clock: Callable[[], int]) -> asyncio.Server:
    """Accept controllers and tools; raises ConfigError when the port cannot be had."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = writer.get_extra_info("peername")[:2]
        peer = f"{target.text} from {host}:{port}"
        log.info("listener %s: connected", peer)
        _session, serving = start_session(switch, peer, reader, writer, clock)
        log.info("listener %s: connection ended (%s)", peer, await serving)

    try:
        return await asyncio.start_server(accept, target.host, target.port)
    except OSError as error:
        raise ConfigError(
            "listen", f"cannot listen at {target.text} ({_phrase(error)})", "a free port"
        ) from error


def start_session(
    switch: OpenFlowSwitch,
    target: str,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    clock: Callable[[], int],
):
    """A session over these streams, and the awaitable that serves it and says why it ended."""

    def write(data: bytes) -> int:
        if data and not writer.is_closing():
            writer.write(data)
        return writer.transport.get_write_buffer_size()

    session = Session(target, Connection(clock()), write, writer.close)
    return session, _serve(switch, session, reader, writer, clock)


async def _serve(
    switch: OpenFlowSwitch,
    session: Session,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    clock: Callable[[], int],
) -> str:
    connection = session.connection
    switch.sessions.append(session)
    try:
        session.flush()
        while connection.closed is None:
            due_ns = connection.next_timer()
            assert due_ns is not None
            try:
                data = await asyncio.wait_for(reader.read(READ_SIZE), max(0, due_ns - clock()) / 1e9)
            except asyncio.TimeoutError:
                connection.handle_timer(clock())
                session.flush()
                continue
            if not data:
                return "the peer closed it"
            await switch.receive(session, data)
            await writer.drain()
        return connection.closed
    except (OSError, asyncio.IncompleteReadError) as error:
        return _phrase(error)
    except Exception:
        log.exception("%s: session ended by a bug", session.target)
        return "internal error"
    finally:
        switch.sessions.remove(session)
        with contextlib.suppress(OSError):
            writer.close()


def _phrase(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "no answer"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__
