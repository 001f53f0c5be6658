# SPDX-License-Identifier: Apache-2.0
"""All switches together: the intent that holds, a session for each connected switch, what /status shows.
Sans-IO."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ryu_apps.core.changes import Changes, changes
from ryu_apps.core.intent import Intent, from_object
from ryu_apps.core.ports import claims
from ryu_apps.core.rules import SwitchState, desired_states
from ryu_apps.core.session import Barrier, Message, State, SwitchSession

Send = Callable[[list[Message]], None]
"""Queues messages for one switch; returns at once."""


@dataclass(frozen=True)
class Outcome:
    """What became of a new intent.

    revision: its own. changes: how it differs from the one before.
    steps: by name of a connected switch, how many rules, tunnels and settings it was told of.
    unfit: what of it does not fit the switches, as Controller.unfit tells.
    """

    revision: int
    changes: Changes
    steps: dict[str, int]
    unfit: dict[str, Any]


class Controller:
    """Its methods may be called from several threads; they do not wait for anything."""

    def __init__(self, intent: Intent) -> None:
        self._lock = threading.RLock()
        self._connections: dict[int, tuple[SwitchSession, Send]] = {}
        self._take(intent)

    @property
    def intent(self) -> Intent:
        return self._intent

    def connected(self, dpid: int, send: Send) -> SwitchSession:
        """A switch finished its handshake. It replaces an earlier connection with this datapath id."""
        with self._lock:
            session = SwitchSession(self._desired(dpid), self._revision)
            self._connections[dpid] = session, send
            send(session.start())
            return session

    def disconnected(self, dpid: int, session: SwitchSession) -> None:
        with self._lock:
            if self._session(dpid) is session:
                del self._connections[dpid]

    def handle(
        self, dpid: int, session: SwitchSession, event: Callable[[SwitchSession], list[Message]]
    ) -> None:
        """Give a session what its switch said, and send what follows from it."""
        with self._lock:
            if self._session(dpid) is session:
                self._connections[dpid][1](event(session))

    def set_intent(self, intent: Intent, states: dict[str, SwitchState] | None = None) -> Outcome:
        """Make `intent` hold on all connected switches, by the difference only. states: its desired states,
        if they are known already."""
        with self._lock:
            before = self._intent
            self._take(intent, states)
            steps = {}
            for dpid, (session, send) in self._connections.items():
                messages = session.update(self._desired(dpid), self._revision)
                send(messages)
                steps[self._short_name(dpid)] = sum(not isinstance(step, Barrier) for step in messages)
            return Outcome(self._revision, changes(before, intent), steps, self.unfit(intent))

    def change_intent(self, change: Callable[[dict[str, Any]], None]) -> Outcome:
        """Change the intent that holds, as plain mappings, and make the result hold.

        Nobody else's change comes between. Raises ConfigError.
        """
        with self._lock:
            document = self._intent.to_object()
            change(document)
            return self.set_intent(from_object(document))

    def unfit(self, intent: Intent) -> dict[str, Any]:
        """What of an intent does not fit the switches that are connected: by `errors`, for each server,
        sentences; by `not_connected` the servers of which nobody can tell. What is empty is left out."""
        with self._lock:
            sessions = {name: self._session(server.dpid) for name, server in intent.servers.items()}
            errors = {
                name: session.missing(claims(intent, name)) for name, session in sessions.items() if session
            }
        absent = [name for name, session in sessions.items() if session is None]
        found = {"errors": {name: told for name, told in errors.items() if told}, "not_connected": absent}
        return {key: value for key, value in found.items() if value}

    def name(self, dpid: int) -> str:
        """What the log calls a switch."""
        return self._intent.server_of(dpid) or f"{dpid:#x} (no server of the intent)"

    def switches(self) -> dict[str, int]:
        """Datapath ids by name: of every server of the intent, and of every other switch that is
        connected."""
        with self._lock:
            servers = {name: server.dpid for name, server in self._intent.servers.items()}
            others = sorted(self._connections.keys() - set(servers.values()))
            return servers | {self._short_name(dpid): dpid for dpid in others}

    def status(self) -> dict[str, Any]:
        """For GET /status: the state of `switches`."""
        with self._lock:
            switches = {name: self._switch_status(dpid) for name, dpid in self.switches().items()}
            return {"revision": self._revision, "switches": switches}

    def _short_name(self, dpid: int) -> str:
        return self._intent.server_of(dpid) or f"dpid-{dpid:x}"

    def _take(self, intent: Intent, states: dict[str, SwitchState] | None = None) -> None:
        self._states = desired_states(intent) if states is None else states
        self._intent = intent
        self._revision = intent.revision()

    def _session(self, dpid: int) -> SwitchSession | None:
        return self._connections[dpid][0] if dpid in self._connections else None

    def _desired(self, dpid: int) -> SwitchState:
        """A switch that is not in the intent is to hold nothing of ours."""
        name = self._intent.server_of(dpid)
        return SwitchState() if name is None else self._states[name]

    def _switch_status(self, dpid: int) -> dict[str, Any]:
        session = self._session(dpid)
        return {
            "dpid": dpid,
            "connected": session is not None,
            "synced": session is not None and session.state is State.SYNCED and not session.errors,
            "revision": session.synced_revision if session else None,
            "errors": list(session.errors) if session else [],
        }
