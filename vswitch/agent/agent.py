# SPDX-License-Identifier: Apache-2.0
"""The agent: one asyncio loop that owns a datapath and runs everything slow of a switch."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

from vswitch.agent.by_name import NamedSockets
from vswitch.agent.capture import Captures
from vswitch.agent.control import ControlServer
from vswitch.agent.datapath import Datapath
from vswitch.agent.saved import SavedSettings
from vswitch.agent.session import Session
from vswitch.agent.switch import OpenFlowSwitch
from vswitch.agent.tables import SECOND_NS
from vswitch.agent.transport import (
    DEFAULT_MAX_BACKOFF_S,
    Controller,
    Target,
    TlsFiles,
    keep_connected,
    listen,
    parse_target,
    tls_context,
)
from vswitch.agent.view import SwitchView
from vswitch.config import StpSettings
from vswitch.errors import ConfigError
from vswitch.mailbox import Mailbox, label_of, mailbox_of

log = logging.getLogger(__name__)

TICK_S = 0.2
"""How often ended flow entries, rules' time-outs and what ports do not tell by themselves are looked at."""

CROWDED_NS = 10 * SECOND_NS
"""After as long a time, that connections cannot be accepted is news again."""


class Agent:
    """A switch's slow half.

    datapath: the fast half, started.
    controllers: OpenFlow targets to stay connected to (`tcp:127.0.0.1:6653`, `ssl:…`).
    listeners: OpenFlow targets to accept at (`ptcp:6654`, `pssl:…`).
    control_path: the control socket; None for none.
    proactive_reverse: install the mirror image of a new flow together with it (S4.5).
    tls: keys and certificates for `ssl:` and `pssl:` targets.
    max_backoff_s: the longest time between two attempts to connect to a controller.
    ovs_rundir: where ovs-ofctl is to find the switch by its name; None: nowhere.
    standalone: be a learning switch while no controller is there.
    stp: run the spanning tree protocol, with these settings.
    settings_path: the file that has what is set at run time; what it says is set at once. None: none.

    Raises ConfigError for a malformed target, and for files of `tls` and `settings_path` that cannot be used.
    """

    def __init__(
        self,
        datapath: Datapath,
        name: str,
        dpid: int,
        controllers: Sequence[str] = (),
        listeners: Sequence[str] = (),
        control_path: str | os.PathLike[str] | None = None,
        proactive_reverse: bool = True,
        clock: Callable[[], int] = time.monotonic_ns,
        tls: TlsFiles | None = None,
        max_backoff_s: float = DEFAULT_MAX_BACKOFF_S,
        ovs_rundir: str | os.PathLike[str] | None = None,
        standalone: bool = False,
        stp: StpSettings | None = None,
        settings_path: str | os.PathLike[str] | None = None,
    ) -> None:
        self.datapath = datapath
        self.clock = clock
        self.state = "starting"
        self.switch = OpenFlowSwitch(datapath, name, dpid, clock, proactive_reverse)
        self._saved = None if settings_path is None else SavedSettings(self.switch, Path(settings_path))
        self._not_restored = [] if self._saved is None else self._saved.restore()
        self._captures = Captures(datapath)
        active = [self._active(text, f"controller[{n}]") for n, text in enumerate(controllers)]
        passive = [self._passive(text, f"listen[{n}]") for n, text in enumerate(listeners)]
        self._controllers = [Controller(t, tls_context(t, tls), max_backoff_s) for t in active]
        self._standalone = standalone
        self._stp = stp
        self._listen_at = [(target, tls_context(target, tls)) for target in passive]
        self._control = (
            None
            if control_path is None
            else ControlServer(Path(control_path), self._methods(), self.switch.turns)
        )
        self._mailbox: Mailbox | None = None
        self._named = None if ovs_rundir is None else NamedSockets(self.switch, Path(ovs_rundir), clock)
        self._servers: list[asyncio.Server] = []
        self._started_ns = clock()
        self._crowded_ns = self._started_ns - CROWDED_NS
        self._failure: BaseException | None = None
        self._stopping: asyncio.Event | None = None

    async def run(
        self, stop_signals: Iterable[signal.Signals] = (), settle: Callable[[], None] = lambda: None
    ) -> None:
        """Run until stop() or one of `stop_signals`.

        settle: called when everything is open, before the first request is read.

        Raises ConfigError when a listener or the control socket cannot be had; an error in the agent itself
        ends it and is raised.
        """
        loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        loop.set_exception_handler(self._loop_failed)
        tasks: list[asyncio.Task[None]] = []
        try:
            for target, context in self._listen_at:
                self._servers.append(await listen(self.switch, target, context, self.clock))
            if self._named is not None:
                await self._named.start()
            if self._control is not None:
                await self._control.start()
                self._mailbox = _mailbox(self._control.path)
            for number in stop_signals:
                loop.add_signal_handler(number, self.stop)
            loop.add_reader(self.datapath.punt_fd, self._punts_wait)
            for fd in self.datapath.link_fds:
                loop.add_reader(fd, self.switch.look_at_links)
            if self._standalone:
                self.switch.forward_without_controller(has_controllers=bool(self._controllers))
            if self._stp is not None:
                self.switch.run_spanning_tree(self._stp)
            settle()
            tasks = [self._task(self._tick()), self._task(self._captures.run())]
            tasks += [self._task(keep_connected(self.switch, c, self.clock)) for c in self._controllers]
            self.state = "ready"
            log.info("%s: ready", self.switch.name)
            await self._stopping.wait()
        finally:
            self.state = "stopping"
            for fd in (self.datapath.punt_fd, *self.datapath.link_fds):
                loop.remove_reader(fd)
            await self._close(tasks)
        if self._failure is not None:
            raise self._failure
        log.info("%s: stopped", self.switch.name)

    def stop(self) -> None:
        """End run(); to be called in the loop's thread."""
        if self._stopping is not None:
            self._stopping.set()

    @property
    def listening_ports(self) -> list[int]:
        """The TCP ports of the listeners, in order; useful with `ptcp:0`."""
        return [server.sockets[0].getsockname()[1] for server in self._servers]

    # --- events ------------------------------------------------------------------------------------------

    def _punts_wait(self) -> None:
        self.switch.slowpath.handle_punts()  # not all; others may run in between

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.switch.look_at_links()
            self.switch.slowpath.retire_ended()
            self.switch.tick()
            if self._saved is not None:
                self._saved.save_changes()
            await self.switch.expire_rules()

    # --- control socket ----------------------------------------------------------------------------------

    def _methods(self) -> dict[str, Callable[..., Any]]:
        view = SwitchView(self.switch, self._describe_controllers)

        def start_capture(port: int | str, file: str, seconds: float = 60) -> dict[str, Any]:
            port_no = view.port_number(port)
            handed = None if self._mailbox is None else self._mailbox.take(label_of(file))
            self._captures.start(port_no, file, seconds, handed)
            return {**view.named(port_no), "file": file}

        def stop_capture(port: int | str) -> dict[str, Any]:
            port_no = view.port_number(port)
            return {**view.named(port_no), **self._captures.stop(port_no)}

        return {
            "show": lambda: {**self._describe(), **view.show()},
            "ports": view.ports,
            "counters": view.counters,
            "flows": view.flows,
            "rules": view.rules,
            "trace": view.trace,
            "wire.set": self._saving(view.set_wire),
            "wire.show": view.wire,
            "offload.set": self._saving(view.set_offload),
            "nic.show": view.nic,
            "nic.stats": view.nic_statistics,
            "nic.spread": self._saving(view.spread),
            "nic.delete": self._saving(view.delete_from_nic),
            "formats": view.formats,
            "capture.start": start_capture,
            "capture.stop": stop_capture,
            "stop": self.stop,
        }

    def _saving(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The method, after which what it has set outlives the process."""
        saved = self._saved
        if saved is None:
            return method

        @functools.wraps(method)
        def set_and_save(**params: Any) -> Any:
            result = method(**params)
            saved.save()
            return result

        return set_and_save

    def _describe(self) -> dict[str, Any]:
        uptime = round((self.clock() - self._started_ns) / SECOND_NS, 3)
        sockets = [] if self._named is None else [str(path) for path in self._named.paths]
        return {
            "state": self.state,
            "pid": os.getpid(),
            "uptime": uptime,
            "listens_by_name_at": sockets,
            "not_restored": self._not_restored,
        }

    def _describe_controllers(self) -> list[dict[str, Any]]:
        own = [c.session for c in self._controllers if c.session is not None]
        described = [_describe_session(c.target.text, c.session) for c in self._controllers]
        others = [session for session in self.switch.sessions if session not in own]
        return described + [_describe_session(session.target, session) for session in others]

    # --- start and end -----------------------------------------------------------------------------------

    @staticmethod
    def _active(text: str, path: str) -> Target:
        target = parse_target(text, path)
        if target.passive:
            raise ConfigError(path, f"{text!r} is a listener", "tcp:ADDRESS[:PORT] or ssl:ADDRESS[:PORT]")
        return target

    @staticmethod
    def _passive(text: str, path: str) -> Target:
        target = parse_target(text, path)
        if not target.passive:
            raise ConfigError(path, f"{text!r} is no listener", "ptcp:PORT[:ADDRESS] or pssl:PORT[:ADDRESS]")
        return target

    def _task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._fail({"exception": task.exception()})

    def _loop_failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "socket" in context and isinstance(context.get("exception"), OSError):
            # a listener has no descriptor left for who connects; asyncio tries again every second
            last_ns, self._crowded_ns = self._crowded_ns, self.clock()
            if self._crowded_ns - last_ns >= CROWDED_NS:
                log.warning("%s: connections have to wait (%s)", self.switch.name, context["exception"])
        else:
            self._fail(context)

    def _fail(self, context: dict[str, Any]) -> None:
        """A bug in a callback or task: end the switch with it."""
        failure = context.get("exception") or RuntimeError(context.get("message", "unknown failure"))
        log.error("%s: internal error", self.switch.name, exc_info=failure)
        if self._failure is None:
            self._failure = failure
        self.stop()

    async def _close(self, tasks: list[asyncio.Task[None]]) -> None:
        self._captures.close()
        if self._saved is not None:
            self._saved.save_changes()
        if self._control is not None:
            self._control.stop()
        if self._mailbox is not None:
            self._mailbox.close()
        if self._named is not None:
            self._named.stop()
        for server in self._servers:
            server.close()
        for session in list(self.switch.sessions):
            session.close()
        pending = set(tasks)
        while pending:
            for (
                task
            ) in pending:  # again: before Python 3.12 wait_for() loses a cancellation that meets its result
                task.cancel()
            _done, pending = await asyncio.wait(pending, timeout=0.1)


def _mailbox(control_path: Path) -> Mailbox:
    """Where clients of a control socket hand over the files that captures are written to; raises
    ConfigError."""
    path = mailbox_of(control_path)
    try:
        return Mailbox(path)
    except OSError as error:
        raise ConfigError("run_dir", f"cannot make the socket {path} ({error.strerror})") from error


def _describe_session(target: str, session: Session | None) -> dict[str, Any]:
    connected = session is not None and session.connection.established
    return {
        "target": target,
        "connected": connected,
        "role": session.role.name.lower() if session is not None and connected else None,
    }
