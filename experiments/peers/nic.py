# SPDX-License-Identifier: Apache-2.0
"""The overlay by the switch; the NIC of the receiving server is set as a user does it: by a new intent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

from experiments.checkout import Checkout
from experiments.errors import ExperimentError
from experiments.peers.base import BackEnd
from experiments.peers.vswitch import VSwitchCompared
from topologies.processes import poll_until
from vswitch.errors import VSwitchError

Policy = dict[str, Any]
"""A server's entry of the intent's section `nic` (docs/reference/intent.md)."""

SENDER, RECEIVER = "s1", "s2"
CHANGE_PAUSE_S = 0.02  # between two changes on live traffic
QUIET_S = 2.0  # within which what is on the wire arrives


class VSwitchNic(VSwitchCompared):
    """Two servers, joined by a wire that drops nothing by its settings."""

    @classmethod
    def of(cls, checkout: Checkout) -> type[BackEnd] | None:
        return None  # its loads ask more of it than a harness does

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.policy: Policy = {}

    def prepare(self, config: dict[str, Any]) -> None:
        """Nothing: each load sets the NIC that it needs."""

    def set_nic(self, policy: Policy) -> None:
        """Set the receiver's NIC; returns when it is in force."""
        assert self.lab and self.lab.orchestrator
        if policy != self.policy:
            intent = self.lab.orchestrator.intent()
            self.lab.orchestrator.set_intent(intent | {"nic": {RECEIVER: policy}})
            self.policy = policy

    @contextmanager
    def changing(self, policies: Sequence[Policy]) -> Iterator[list[Policy]]:
        """Set these policies in turn, over and over, while the block runs; yields those that were set.

        Raises ExperimentError when one was refused.
        """
        stop, done, failures = Event(), list[Policy](), list[Exception]()

        def change() -> None:
            try:
                while not stop.wait(CHANGE_PAUSE_S):
                    self.set_nic(policies[len(done) % len(policies)])
                    done.append(self.policy)
            except (VSwitchError, OSError) as error:
                failures.append(error)

        changer = Thread(target=change)
        changer.start()
        try:
            yield done
        finally:
            stop.set()
            changer.join()
        if failures:
            raise ExperimentError(f"a change on live traffic failed: {failures[0]}")

    def queue(self, number: int) -> dict[str, int]:
        """What a receive queue of the receiver has counted: frames, merged, …"""
        switch = self._switch(RECEIVER)
        stats = switch.control("nic.stats", port=switch.uplink_port())
        return next(queue for queue in stats if queue["queue"] == number)

    def lost(self) -> int:
        """Frames that a port has dropped, and those that were sent into the wire and not taken from it.

        What is on its way does not count: it has time to arrive.
        """
        poll_until(lambda: self._on_the_wire() == 0, QUIET_S)
        dropped = (
            port["rx_dropped"] + port["tx_dropped"]
            for name in (SENDER, RECEIVER)
            for port in self._switch(name).control("ports")
        )
        return sum(dropped) + self._on_the_wire()

    def _on_the_wire(self) -> int:
        """Frames that were sent into the wire, either way, and not taken from it."""
        uplinks = [self._uplink(name) for name in (SENDER, RECEIVER)]
        return sum(uplink["tx_packets"] - uplink["rx_packets"] for uplink in uplinks)

    def _uplink(self, name: str) -> dict[str, Any]:
        switch = self._switch(name)
        return next(port for port in switch.control("ports") if port["port"] == switch.uplink_port())
