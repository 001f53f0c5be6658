# SPDX-License-Identifier: Apache-2.0
"""The control socket: one JSON object a line, `{"method": …, "params": {…}}` to `{"result": …}` or
`{"error": "one sentence"}`. `vswitchctl` speaks it; so may scripts."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vswitch.errors import ConfigError, VSwitchError

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 1 << 20

Method = Callable[..., Any]


class ControlServer:
    """Serves `methods`, whose parameters are those of the request, at the UNIX socket `path`."""

    def __init__(self, path: Path, methods: dict[str, Method]) -> None:
        self.path = path
        self.methods = methods
        self._server: asyncio.AbstractServer | None = None
        self._clients: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Raises ConfigError when the socket cannot be had, or another switch answers at it."""
        if _answers(self.path):
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
            for client in self._clients:
                client.close()
            self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        try:
            while line := await reader.readline():
                writer.write(json.dumps(self.answer(line)).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError) as error:
            log.debug("control connection ended: %s", error)
        finally:
            self._clients.discard(writer)
            writer.close()

    def answer(self, line: bytes) -> dict[str, Any]:
        """The answer to one request."""
        try:
            request = json.loads(line)
        except ValueError as error:
            return {"error": f"the request is not JSON: {error}"}
        if not isinstance(request, dict) or not isinstance(request.get("params", {}), dict):
            return {"error": 'a request is {"method": NAME, "params": {…}}'}
        name = request.get("method")
        method = self.methods.get(name) if isinstance(name, str) else None
        if method is None:
            return {"error": f"there is no method {name!r} (there are: {', '.join(sorted(self.methods))})"}
        params = request.get("params", {})
        try:
            inspect.signature(method).bind(**params)
        except TypeError as error:
            return {"error": f"{name}: {error}"}
        try:
            return {"result": method(**params)}
        except VSwitchError as error:
            return {"error": str(error)}


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
