# SPDX-License-Identifier: Apache-2.0
"""What a switch does without a controller: `secure`, go on by the rules that it has, or `standalone`, be a
learning switch until a controller is back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vswitch.openflow.actions import Output
from vswitch.openflow.constants import Port
from vswitch.openflow.flow_mod import FlowMod
from vswitch.openflow.instructions import ApplyActions, Instructions
from vswitch.openflow.oxm import Match

if TYPE_CHECKING:
    from vswitch.agent.switch import OpenFlowSwitch

STANDALONE_AFTER_NS = 15_000_000_000
"""How long all controllers must be out of touch: three of Open vSwitch's probe intervals, as there."""


class Standalone:
    """The mode `standalone` of `switch`. Its rules stay as they are while they do not count."""

    def __init__(self, switch: OpenFlowSwitch, has_controllers: bool) -> None:
        self.switch = switch
        self.has_controllers = has_controllers
        self._in_touch_ns = switch.clock()
        if not has_controllers:  # nobody will come: a rule that tools see, change and delete as any other
            forward = ApplyActions((Output(Port.NORMAL),))
            rule = FlowMod(match=Match.of(), instructions=Instructions.of(forward), priority=0)
            changes, _removals = switch.tables.apply(rule, switch.clock())
            switch.slowpath.rules_changed(changes)

    @property
    def acting(self) -> bool:
        """Whether the switch forwards by itself now."""
        return self.switch.slowpath.standalone or not self.has_controllers

    def look(self) -> None:
        """Look whether a controller is there; to be called every now and then."""
        now_ns = self.switch.clock()
        if not self.has_controllers:
            return
        if any(session.primary and session.connection.established for session in self.switch.sessions):
            self._in_touch_ns = now_ns
        elif now_ns - self._in_touch_ns >= STANDALONE_AFTER_NS and not self.switch.slowpath.standalone:
            self.switch.slowpath.standalone = True
            self.switch.slowpath.revalidate()

    def heard(self) -> None:
        """A controller says something: from its first message on, its rules count."""
        self.switch.slowpath.standalone = False
