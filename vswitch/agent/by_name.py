# SPDX-License-Identifier: Apache-2.0
"""`NAME.mgmt` and `NAME.snoop`: the UNIX sockets at which ovs-ofctl finds a switch that is given by name.

At the first a tool speaks OpenFlow to the switch, at the second it reads what switch and controllers say to
each other. Both are for the switch's owner only, as the control socket is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from vswitch.agent.control import answers
from vswitch.agent.switch import OpenFlowSwitch
from vswitch.agent.transport import READ_SIZE, Guests
from vswitch.agent.turns import Client
from vswitch.errors import ConfigError
from vswitch.openflow.connection import Connection

log = logging.getLogger(__name__)

GREETING_S = 5.0
"""Who snoops says hello within this time."""

SUFFIXES = ("mgmt", "snoop")


class _Bound(NamedTuple):
    """A socket's file, as it was when the socket was bound to it."""

    path: Path
    inode: int

    def remove(self) -> None:
        """Remove the file, unless somebody has put another in its place."""
        with contextlib.suppress(OSError):
            if self.path.stat().st_ino == self.inode:
                self.path.unlink()


class NamedSockets:
    """The two sockets of `switch` in `folder`.

    What another switch has there is left alone: this one then goes without, and says so.
    """

    def __init__(self, switch: OpenFlowSwitch, folder: Path, clock: Callable[[], int]) -> None:
        self.switch = switch
        self.folder = folder
        self.clock = clock
        self._guests = Guests(switch, clock)
        self._servers: list[asyncio.AbstractServer] = []
        self._bound: list[_Bound] = []
        self._snooping: set[asyncio.StreamWriter] = set()

    @property
    def paths(self) -> list[Path]:
        """Where the switch listens."""
        return [bound.path for bound in self._bound]

    async def start(self) -> None:
        """Raises ConfigError when there is no such folder."""
        if not self.folder.is_dir():
            raise ConfigError("ovs-rundir", f"there is no folder {self.folder}", "one that exists")
        for suffix, serve in zip(SUFFIXES, (self._manage, self._snoop), strict=True):
            path = self.folder / f"{self.switch.name}.{suffix}"
            try:
                listener = _listener(path)
            except OSError as error:
                log.warning("%s: does not listen at %s (%s)", self.switch.name, path, _reason(error))
                continue
            self._bound.append(_Bound(path, path.stat().st_ino))
            self._servers.append(await asyncio.start_unix_server(serve, sock=listener))

    def stop(self) -> None:
        for server in self._servers:
            server.close()
        for writer in self._snooping:
            writer.transport.abort()  # who does not read is not waited for
        for bound in self._bound:
            bound.remove()

    async def _manage(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._guests.serve(f"{self.switch.name}.mgmt", reader, writer)

    async def _snoop(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Greet who listens, and copy to it until it goes. It need not answer to anything."""
        connection, client = Connection(self.clock()), Client()
        self._snooping.add(writer)
        try:
            writer.write(connection.data_to_send())
            while connection.closed is None:
                timeout_s = None if connection.established else GREETING_S
                data = await asyncio.wait_for(reader.read(READ_SIZE), timeout_s)
                if not data:
                    break
                connection.take_in(data, self.clock())
                await self.switch.turns.take(client)
                for _message in connection.messages():  # nothing is to be asked here
                    if self.switch.turns.is_over(client):
                        await self.switch.turns.take(client)
                writer.write(connection.data_to_send())
                if connection.established and not self.switch.snoopers.add(writer):
                    log.warning("%s.snoop: nobody else can listen", self.switch.name)
                    break
                await writer.drain()
        except (OSError, asyncio.TimeoutError, asyncio.CancelledError) as error:
            log.debug("%s.snoop: connection ended (%s)", self.switch.name, error)
        finally:
            self._snooping.discard(writer)
            self.switch.snoopers.remove(writer)
            writer.close()


def _listener(path: Path) -> socket.socket:
    """A socket bound to `path`, in the place of one at which nobody answers. Raises OSError."""
    if answers(path):
        raise FileExistsError("another switch answers there")
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise FileExistsError("a file is there that is no socket")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        os.chmod(path, 0o600)  # nobody can have connected: it does not listen yet
    except OSError:
        listener.close()
        raise
    return listener


def _reason(error: OSError) -> str:
    return error.strerror.lower() if error.strerror else str(error)
