# SPDX-License-Identifier: Apache-2.0
"""The control socket: one JSON object a line, `{"method": …, "params": {…}}` to `{"result": …}` or
`{"error": "one sentence"}`. `vswitchctl` speaks it; so may scripts."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from vswitch.agent.turns import Client, Turns
from vswitch.errors import ConfigError, VSwitchError
from vswitch.words import nearest, unknown

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 1 << 20
MAX_CLIENTS = 32
"""Connections; for one more, the one that has asked nothing for the longest time makes room."""

IDLE_S = 30.0
"""A connection that asks nothing for so long is closed."""

STALLED_S = 10.0
"""And one that takes nothing of its answer."""

PIECE_BYTES = 1 << 14
"""A long answer is made, and written, in such pieces."""

Method = Callable[..., Any]
T = TypeVar("T")


class ControlServer:
    """Serves `methods`, whose parameters are those of the request, at the UNIX socket `path`.

    What a method returns as an iterator is answered as a list, whose items are made as they are read; where
    it gives None, others may run. Clients take `turns`.
    """

    def __init__(self, path: Path, methods: dict[str, Method], turns: Turns) -> None:
        self.path = path
        self.turns = turns
        self.methods = {name: (method, _parameters(method)) for name, method in methods.items()}
        self._server: asyncio.AbstractServer | None = None
        self._clients: dict[
            asyncio.StreamWriter, None
        ] = {}  # who has asked nothing for the longest time first

    async def start(self) -> None:
        """Raises ConfigError when the socket cannot be had, or another switch answers at it."""
        if answers(self.path):
            raise ConfigError("run_dir", f"another switch runs with the control socket {self.path}")
        try:
            self.path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(
                self._serve, str(self.path), limit=MAX_REQUEST_BYTES
            )
            os.chmod(self.path, 0o600)
        except OSError as error:
            raise ConfigError("run_dir", f"cannot make the control socket {self.path} ({error})") from error

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for client in list(self._clients):
                client.close()
            with contextlib.suppress(PermissionError):  # in another user's folder, when we are but root
                self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Client()
        if len(self._clients) >= MAX_CLIENTS:
            self._close(next(iter(self._clients)))
        try:
            while True:
                self._clients.pop(writer, None)
                self._clients[writer] = None
                line = await self._unless_late(reader.readline(), writer, IDLE_S)
                if not line or writer not in self._clients:
                    break
                await self.turns.take(client)
                for piece in _pieces(self.answer(line)):
                    writer.write(piece)
                    if self.turns.is_over(client):
                        await self._unless_late(writer.drain(), writer, STALLED_S)
                        await self.turns.take(client)
        except (OSError, ValueError, asyncio.CancelledError) as error:
            log.debug("control connection ended: %s", error)
        finally:
            self._clients.pop(writer, None)
            writer.close()

    async def _unless_late(self, event: Awaitable[T], writer: asyncio.StreamWriter, seconds: float) -> T:
        """What `event` gives; a connection at which it does not come within so many seconds is closed."""
        alarm = asyncio.get_running_loop().call_later(seconds, self._close, writer)
        try:
            return await event
        finally:
            alarm.cancel()

    def _close(self, writer: asyncio.StreamWriter) -> None:
        """End a connection, for another or since it is idle."""
        self._clients.pop(writer, None)
        writer.transport.abort()

    def answer(self, line: bytes) -> dict[str, Any]:
        """The answer to one request; its result may be an iterator of a list's items."""
        try:
            request = json.loads(line)
        except RecursionError:
            return {"error": "the request is nested too deeply"}
        except ValueError as error:
            return {"error": f"the request is not JSON: {error}"}
        if not isinstance(request, dict) or not isinstance(request.get("params", {}), dict):
            return {"error": 'a request is {"method": NAME, "params": {…}}'}
        name = request.get("method")
        if not isinstance(name, str) or name not in self.methods:
            known = ", ".join(sorted(self.methods))
            near = nearest(str(name), self.methods)
            return {"error": f"there is no method {name!r}{near} (there are: {known})"}
        method, parameters = self.methods[name]
        params = request.get("params", {})
        try:
            _require_parameters(name, method, params)
            inspect.signature(method).bind(**params)
            msgspec.convert(params, parameters)
        except ConfigError as error:
            return {"error": str(error)}
        except TypeError as error:
            return {"error": f"{name}: {error}"}
        except msgspec.ValidationError as error:
            place, problem = place_and_problem(error, "the parameters")
            return {"error": f"{name}: {place}: {problem}"}
        try:
            return {"result": method(**params)}
        except VSwitchError as error:
            return {"error": str(error)}


def _pieces(answer: dict[str, Any]) -> Iterator[bytes]:
    """An answer as a line of JSON; nothing, where others may run."""
    items = answer.get("result")
    if not isinstance(items, Iterator):
        yield json.dumps(answer).encode() + b"\n"
        return
    piece, separator = bytearray(b'{"result": ['), b""
    for item in items:
        if item is None:
            yield b""
            continue
        piece += separator + json.dumps(item).encode()
        separator = b", "
        if len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece) + b"]}\n"


def place_and_problem(error: msgspec.ValidationError, whole: str) -> tuple[str, str]:
    """What does not fit its type, and how: `port`, `expected int | str, got array`. whole: the place when it
    is no part that does not fit."""
    problem, _, place = str(error).replace("`", "").partition(" - at $.")
    return place or whole, problem[:1].lower() + problem[1:]


def _parameters(method: Method) -> type:
    """A type whose fields are the annotated parameters of a method."""
    parameters = inspect.signature(method, eval_str=True).parameters.values()
    named = [(p.name, p.annotation, None) for p in parameters if p.kind is not p.VAR_KEYWORD]
    return msgspec.defstruct("Parameters", named)


def _require_parameters(name: str, method: Method, given: Iterable[str]) -> None:
    """Raise ConfigError for a parameter that the method does not have."""
    parameters = inspect.signature(method).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for word in given:
        if word not in parameters:
            raise unknown(name, "there is no parameter", word, parameters)


def answers(path: Path) -> bool:
    """Whether somebody listens at the UNIX socket `path`."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
