# SPDX-License-Identifier: Apache-2.0
"""Keeping one connected switch as it should be. Sans-IO: what it said comes in, messages to send come out.

DISCOVERING --capabilities, settings and rules known--> APPLYING --barrier reply--> SYNCED
                                                           ^________update()___________|
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Union

from ryu_apps.core.plan import AddRule, DeleteRule, Step, Undo, apply, plan
from ryu_apps.core.ports import Claims, missing
from ryu_apps.core.rules import Rule, SwitchState
from vswitch.openflow.experimenter import (
    CapabilitiesReply,
    CapabilitiesRequest,
    FormatAdd,
    IntentRevision,
    Setting,
    SettingsReply,
    SettingsRequest,
)


@dataclass(frozen=True)
class RulesRequest:
    """Ask for all rules with our cookies."""


@dataclass(frozen=True)
class Barrier:
    """Ask to be told when everything before it is done; its reply stands for this revision."""

    revision: int


Message = Union[Step, CapabilitiesRequest, SettingsRequest, RulesRequest, Barrier, IntentRevision]


class State(enum.Enum):
    DISCOVERING = "discovering"  # what the switch holds is not known yet
    APPLYING = "applying"  # the steps are sent, the barrier reply is awaited
    SYNCED = "synced"  # the switch holds what it should


class SwitchSession:
    """From the connection of a switch to its end.

    desired: what the switch is to hold for `revision` of the intent.
    errors: sentences, since the last change of the intent; with one, the revision is not reported as held.
    """

    def __init__(self, desired: SwitchState, revision: int) -> None:
        self.desired = desired
        self.revision = revision
        self.synced_revision: int | None = None
        self.state = State.DISCOVERING
        self.errors: list[str] = []
        self._held = SwitchState()  # what the switch has, as far as we know
        self._before = SwitchState()  # the same, before the last steps
        self._capabilities: CapabilitiesReply | None = None
        self._rules_known = False
        self._settings_known = False

    def start(self) -> list[Message]:
        return [CapabilitiesRequest(), SettingsRequest(), RulesRequest()]

    def capabilities(self, reply: CapabilitiesReply) -> list[Message]:
        self._capabilities = reply
        self._held = replace(
            self._held,
            tunnels=dict.fromkeys(reply.tunnels),
            proactive_reverse=reply.proactive_reverse,
        )
        return self._discovered()

    def settings(self, reply: SettingsReply) -> list[Message]:
        """A part of the answer to SettingsRequest. The next is asked for, if there is one."""
        messages = reply.messages()
        self._held.settings.update({setting.key: setting for setting in messages})
        if reply.more:
            return [SettingsRequest(reply.first + len(messages))]
        self._settings_known = True
        return self._discovered()

    def rules(self, rules: Iterable[Rule], more: bool) -> list[Message]:
        """A part of the answer to RulesRequest; more: others follow."""
        self._held.rules.update({rule.key: rule for rule in rules})
        self._rules_known = not more
        return self._discovered()

    def update(self, desired: SwitchState, revision: int) -> list[Message]:
        """The intent changed."""
        self.desired, self.revision, self.errors = desired, revision, []
        return [] if self.state is State.DISCOVERING else self._apply()

    def barrier_reply(self, barrier: Barrier) -> list[Message]:
        if barrier.revision != self.revision or self.errors:
            return []  # of an intent that has changed since, or with rules missing
        self.state = State.SYNCED
        self.synced_revision = self.revision
        return [IntentRevision(self.revision)]

    def missing(self, claimed: Claims) -> list[str]:
        """A sentence for each of these ports that the switch has not, once it has told its ports."""
        return missing(claimed, self._capabilities.ports) if self._capabilities else []

    def refused(self, message: Message | None, reason: str) -> None:
        """The switch answered `message` (None: it is not known which) with an error."""
        self.errors.append(f"{reason}, in answer to {describe(message)}")
        if isinstance(message, CapabilitiesRequest):
            self.errors.append("the switch does not know the offload messages: it is not a VSwitch")
        elif isinstance(message, AddRule):
            _take_back(message.rule, message.rule.key, self._held.rules, self._before.rules)
        elif isinstance(message, Setting):
            _take_back(message, message.key, self._held.settings, self._before.settings)
        elif isinstance(message, Undo):
            self._held.settings[message.setting.key] = message.setting
        self.synced_revision = None

    def _discovered(self) -> list[Message]:
        known = self._capabilities is not None and self._settings_known and self._rules_known
        if not known or self.state is not State.DISCOVERING:
            return []
        return self._apply()

    def _apply(self) -> list[Message]:
        steps = plan(self._held, self.desired)
        self._before, self._held = self._held, apply(self._held, steps)
        self.state = State.APPLYING
        self.synced_revision = None
        self.errors += self.missing(self.desired.claims)
        self._check_formats()
        return [*steps, Barrier(self.revision)]

    def _check_formats(self) -> None:
        assert self._capabilities is not None  # _apply comes after it
        formats = {tunnel.format for tunnel in self.desired.tunnels.values() if tunnel}
        added = {setting.name for setting in self.desired.settings.values() if isinstance(setting, FormatAdd)}
        for unknown in sorted(formats - set(self._capabilities.formats) - added):
            known = ", ".join(self._capabilities.formats) or "none"
            self.errors.append(f"the switch has no tunnel format {unknown!r} (it has: {known})")


def _take_back(refused: Any, key: Any, held: dict[Any, Any], before: dict[Any, Any]) -> None:
    """A refused message changed nothing: what it was to replace is still there, to be taken away one day."""
    if held.get(key) == refused:
        del held[key]
        if key in before:
            held[key] = before[key]


def describe(message: Message | None) -> str:
    """A message as the log and /status show it."""
    if isinstance(message, AddRule):
        return f"adding {message.rule}"
    if isinstance(message, DeleteRule):
        return f"deleting {message.rule}"
    if isinstance(message, Undo):
        return str(message.setting.undo())
    return "an unknown message" if message is None else str(message)
