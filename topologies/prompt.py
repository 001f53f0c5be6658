# SPDX-License-Identifier: Apache-2.0
"""`mn`'s prompt."""

from __future__ import annotations

from typing import Any

from mininet.cli import CLI
from mininet.log import error

from topologies.prompt_intent import IntentCommand
from topologies.prompt_links import TAKE_NAMES, LinkCommands
from vswitch.errors import VSwitchError
from vswitch.words import nearest


class LabCLI(IntentCommand, LinkCommands, CLI):
    """Mininet's CLI for labs. An error of the user's is one sentence, and the prompt is back."""

    def onecmd(self, line: str) -> Any:
        try:
            return super().onecmd(line)
        except VSwitchError as problem:
            error(f"*** Error: {problem}\n")
            return None

    def default(self, line: str) -> None:
        """A command for a node. Mininet puts addresses for the names of nodes, but where names are meant."""
        first, words, _ = self.parseline(line)
        if first not in self.mn:
            commands = [name.removeprefix("do_") for name in self.get_names() if name.startswith("do_")]
            near = nearest(first or line, [*commands, *self.mn])
            error(f"*** Unknown command: {line}{near}\n")
        elif words.split()[:1] and words.split()[0] in TAKE_NAMES:
            node = self.mn[first]
            node.sendCmd(words)
            self.waitForNode(node)
        else:
            super().default(line)
            self.say_what_is_no_device(words)

    def do_sh(self, line: str) -> None:
        """Run an external shell command
        Usage: sh [cmd args]"""
        super().do_sh(line)
        self.say_what_is_no_device(line)
