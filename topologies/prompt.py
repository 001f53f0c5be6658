# SPDX-License-Identifier: Apache-2.0
"""`mn`'s prompt."""

from __future__ import annotations

from typing import Any

from mininet.cli import CLI
from mininet.log import error

from topologies.prompt_intent import IntentCommand
from vswitch.errors import VSwitchError


class LabCLI(IntentCommand, CLI):
    """Mininet's CLI for labs. An error of the user's is one sentence, and the prompt is back."""

    def onecmd(self, line: str) -> Any:
        try:
            return super().onecmd(line)
        except VSwitchError as problem:
            error(f"*** Error: {problem}\n")
            return None
