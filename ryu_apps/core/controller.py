# SPDX-License-Identifier: Apache-2.0
"""All switches together: the intent that holds, a session for each connected switch, what /status shows.
Sans-IO."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ryu_apps.core.intent import Intent, from_object
from ryu_apps.core.rules import SwitchState, desired_states
from ryu_apps.core.session import Message, State, SwitchSession

Send = Callable[[list[Message]], None]
"""Queues messages for one switch; returns at once."""


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

    def set_intent(self, intent: Intent) -> int:
        """Make `intent` hold on all connected switches, by the difference only; its revision."""
        with self._lock:
            self._take(intent)
            for dpid, (session, send) in self._connections.items():
                send(session.update(self._desired(dpid), self._revision))
            return self._revision

    def change_intent(self, change: Callable[[dict[str, Any]], None]) -> int:
        """Change the intent that holds, as plain mappings, and make the outcome hold; its revision.

        Nobody else's change comes between. Raises ConfigError.
        """
        with self._lock:
            document = self._intent.to_object()
            change(document)
            return self.set_intent(from_object(document))

    def name(self, dpid: int) -> str:
        """What the log calls a switch."""
        return self._intent.server_of(dpid) or f"{dpid:#x} (no server of the intent)"

    def status(self) -> dict[str, Any]:
        """For GET /status: every server of the intent, and every other switch that is connected."""
        with self._lock:
            switches = {
                name: self._switch_status(server.dpid) for name, server in self._intent.servers.items()
            }
            known = {server.dpid for server in self._intent.servers.values()}
            for dpid in self._connections.keys() - known:
                switches[f"dpid-{dpid:x}"] = self._switch_status(dpid)
            return {"revision": self._revision, "switches": switches}

    def _take(self, intent: Intent) -> None:
        self._states = desired_states(intent)
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
