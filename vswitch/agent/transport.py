# SPDX-License-Identifier: Apache-2.0
"""OpenFlow over TCP and TLS: connections that are kept up, and listeners. Thin: the session decides."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from vswitch.agent.peer_user import Endpoint, refusal
from vswitch.agent.session import Session
from vswitch.agent.switch import OpenFlowSwitch
from vswitch.errors import ConfigError
from vswitch.openflow.connection import Connection

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
MIN_BACKOFF_S = 0.25
DEFAULT_MAX_BACKOFF_S = 1.0
"""Between two attempts to connect, at most: a lab's controller that starts again has its switches at once."""

STALLED_S = 10.0
"""A peer that takes nothing for so long of what waits for it counts as dead, as a silent one does."""

FAREWELL_S = 0.5
REFUSAL_NEWS_NS = 10_000_000_000
"""After as long a time, that somebody was refused is news again."""

MAX_GUESTS = 64
"""Sessions of one listener."""

READ_SIZE = 1 << 16
SIOCOUTQ = 0x5411
DEFAULT_PORT = 6653
_ACTIVE, _PASSIVE = ("tcp", "ssl"), ("ptcp", "pssl")
_ALLOWED = "tcp:ADDRESS[:PORT] or ssl:ADDRESS[:PORT] to connect, ptcp:PORT[:ADDRESS] or pssl:… to listen"


class Target(NamedTuple):
    """Where to connect to, or to listen at."""

    text: str
    passive: bool
    secure: bool  # TLS
    host: str
    port: int


class TlsFiles(NamedTuple):
    """Files in PEM form: what the switch proves itself with, and the authority that vouches for its peers."""

    private_key: str
    certificate: str
    ca_cert: str


def parse_target(text: str, path: str) -> Target:
    """`tcp:127.0.0.1:6653`, `ssl:[::1]:6653`, `ptcp:6654`, `pssl:6654:127.0.0.1`; raises ConfigError."""
    scheme, _, rest = text.partition(":")
    secure = scheme.endswith("ssl")
    if scheme in _PASSIVE:
        port, _, host = rest.partition(":")
        host = _host(host.strip("[]") or "127.0.0.1", text, path)
        return Target(text, True, secure, host, _port(port, text, path))
    if scheme not in _ACTIVE or not rest:
        raise ConfigError(path, f"{text!r} is not an OpenFlow target", _ALLOWED)
    if rest.startswith("["):
        host, _, port = rest[1:].partition("]")
        port = port.lstrip(":")
    else:
        host, _, port = rest.partition(":")
    return Target(text, False, secure, _host(host, text, path), _port(port or str(DEFAULT_PORT), text, path))


def _host(host: str, text: str, path: str) -> str:
    try:
        host.encode("idna")  # as the resolver will
    except UnicodeError as error:
        raise ConfigError(path, f"{text!r} names no host that can be", _ALLOWED) from error
    return host


def _port(digits: str, text: str, path: str) -> int:
    if not digits.isdecimal() or not 0 <= int(digits) <= 0xFFFF:
        raise ConfigError(path, f"{text!r} has no valid TCP port", _ALLOWED)
    return int(digits)


def tls_context(target: Target, files: TlsFiles | None) -> ssl.SSLContext | None:
    """How to speak TLS to the target; None for plain TCP. Both ends prove themselves to the authority; the
    name in the peer's certificate may be any, since controllers are addressed by number.

    Raises ConfigError when a file is missing or wrong.
    """
    if not target.secure:
        return None
    if files is None:
        raise ConfigError(
            "tls", f"{target.text} needs keys", "--private-key, --certificate and --ca-cert with it"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if target.passive else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    for option, path in (
        ("private-key", files.private_key),
        ("certificate", files.certificate),
        ("ca-cert", files.ca_cert),
    ):
        if not os.access(path, os.R_OK):
            raise ConfigError(option, f"{path} cannot be read", "a PEM file")
    try:
        context.load_verify_locations(files.ca_cert)
    except ssl.SSLError as error:
        raise ConfigError("ca-cert", f"{files.ca_cert} is no certificate ({_phrase(error)})") from error
    try:
        context.load_cert_chain(files.certificate, files.private_key)
    except ssl.SSLError as error:
        what = f"{files.certificate} and {files.private_key} are no certificate and its key"
        raise ConfigError("certificate", f"{what} ({_phrase(error)})") from error
    return context


@dataclass
class Controller:
    """A controller to stay connected to, as `show` reports it."""

    target: Target
    tls: ssl.SSLContext | None = None
    max_backoff_s: float = DEFAULT_MAX_BACKOFF_S
    session: Session | None = None


async def keep_connected(switch: OpenFlowSwitch, controller: Controller, clock: Callable[[], int]) -> None:
    """Connect, serve the session, connect again; never returns. One log line for each change of state."""
    target = controller.target
    first_s = backoff_s = min(MIN_BACKOFF_S, controller.max_backoff_s)
    reported = ""
    while True:
        try:
            streams = await asyncio.wait_for(
                asyncio.open_connection(target.host, target.port, ssl=controller.tls), CONNECT_TIMEOUT_S
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
            controller.session, serving = start_session(switch, target.text, *streams, clock, primary=True)
            reason = await serving
            if controller.session.connection.established:
                backoff_s = first_s
            controller.session = None
            log.warning("controller %s: connection ended (%s); reconnecting", target.text, reason)
            reported = ""
        await asyncio.sleep(backoff_s)
        backoff_s = min(2 * backoff_s, controller.max_backoff_s)


async def listen(
    switch: OpenFlowSwitch, target: Target, tls: ssl.SSLContext | None, clock: Callable[[], int]
) -> asyncio.Server:
    """Accept controllers and tools; raises ConfigError when the port cannot be had.

    Without TLS, by which peers prove themselves, the loopback interface is for root only.
    """

    quiet_until_ns = clock()

    guests = Guests(switch, clock)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal quiet_until_ns
        ends = [writer.get_extra_info(name) for name in ("sockname", "peername")]
        if None in ends:  # it has gone meanwhile
            writer.close()
            return
        ours, far = (Endpoint(*end[:2]) for end in ends)
        peer = f"{target.text} from {far.host}:{far.port}"
        problem = None if target.secure else refusal(ours, far)
        if problem:
            if clock() >= quiet_until_ns:
                log.warning("listener %s: refused (%s)", peer, problem)
                quiet_until_ns = clock() + REFUSAL_NEWS_NS
            await _turn_away(reader, writer, problem)
            return
        await guests.serve(peer, reader, writer)

    try:
        handshake_s = None if tls is None else CONNECT_TIMEOUT_S
        return await asyncio.start_server(
            accept, target.host, target.port, ssl=tls, ssl_handshake_timeout=handshake_s
        )
    except OSError as error:
        raise ConfigError(
            "listen", f"cannot listen at {target.text} ({_phrase(error)})", "a free port"
        ) from error


async def _turn_away(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, problem: str) -> None:
    """Tell a peer why it may not speak here. It hears that only if what it says meanwhile is read."""
    connection = Connection(0)
    connection.turn_away(problem)
    with contextlib.suppress(OSError, asyncio.TimeoutError, asyncio.CancelledError):
        writer.write(connection.data_to_send())
        writer.write_eof()
        await asyncio.wait_for(reader.read(READ_SIZE), FAREWELL_S)
        await asyncio.wait_for(reader.read(READ_SIZE), FAREWELL_S)
    writer.close()


class Guests:
    """The sessions that one listener has accepted, no more than MAX_GUESTS: for one more, one that has not
    said hello yet makes room."""

    def __init__(self, switch: OpenFlowSwitch, clock: Callable[[], int]) -> None:
        self._switch = switch
        self._clock = clock
        self._writers: dict[Session, asyncio.StreamWriter] = {}  # the longest there first

    async def serve(self, peer: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve who has connected, until the connection ends."""
        if not self._has_room():
            log.info("listener %s: refused, %d others are connected", peer, MAX_GUESTS)
            writer.close()
            return
        log.info("listener %s: connected", peer)
        session, serving = start_session(self._switch, peer, reader, writer, self._clock)
        self._writers[session] = writer
        try:
            log.info("listener %s: connection ended (%s)", peer, await serving)
        except asyncio.CancelledError:
            pass  # at the end; asyncio would tell of it as of a bug
        finally:
            self._writers.pop(session, None)

    def _has_room(self) -> bool:
        if len(self._writers) < MAX_GUESTS:
            return True
        for session, writer in self._writers.items():
            if not session.connection.established:
                session.connection.close("it has said no hello, and others wait")
                writer.transport.abort()
                del self._writers[session]
                return True
        return False


def start_session(
    switch: OpenFlowSwitch,
    target: str,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    clock: Callable[[], int],
    primary: bool = False,
):
    """A session over these streams, and the awaitable that serves it and says why it ended.

    primary: with a controller that the switch connects to by itself; what is said there can be snooped.
    """

    def write(data: bytes) -> int:
        if data and writer.is_closing():
            session.connection.close("the connection is lost")  # nobody to answer what is left
        elif data:
            writer.write(data)
        return writer.transport.get_write_buffer_size()

    async def drained() -> None:
        try:
            if not await _drained(session, writer):
                session.connection.close("the peer takes nothing")
                writer.transport.abort()
        except OSError as error:
            session.connection.close(_phrase(error))
        session.connection.attend(clock())

    connection = Connection(clock(), observer=switch.snoopers.copy if primary else None)
    session = Session(target, connection, write, writer.close, drained, primary)
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
            await session.drained()
        return connection.closed
    except (OSError, asyncio.IncompleteReadError) as error:
        return _phrase(error)
    except Exception:
        log.exception("%s: session ended by a bug", session.target)
        return "internal error"
    finally:
        switch.end_session(session)
        with contextlib.suppress(OSError):
            writer.close()


async def _drained(session: Session, writer: asyncio.StreamWriter) -> bool:
    """Wait until the peer has taken most of what it was sent; False when it takes nothing any more.

    Meanwhile nobody reads from it, so that its silence tells nothing.
    """
    while True:
        session.flush()
        before = session.taken, _unacknowledged(writer)
        try:
            await asyncio.wait_for(writer.drain(), STALLED_S)
        except asyncio.TimeoutError:
            session.flush()
            if (session.taken, _unacknowledged(writer)) == before:
                return False
        else:
            return True


def _unacknowledged(writer: asyncio.StreamWriter) -> int:
    """Bytes in the kernel that the peer has not acknowledged; 0 once the connection is closed.

    The kernel takes more from us a megabyte at a time, long after a slow peer has begun to read.
    """
    if writer.is_closing():
        return 0
    answer = fcntl.ioctl(writer.get_extra_info("socket").fileno(), SIOCOUTQ, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


def _phrase(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "no answer"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__
