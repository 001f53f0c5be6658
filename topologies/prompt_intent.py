# SPDX-License-Identifier: Apache-2.0
"""The command `intent` of `mn`'s prompt: what the lab's Orchestrator wants, and its file read again."""

from __future__ import annotations

from mininet.log import output
from mininet.net import Mininet

from ryu_apps.core.changes import sentences
from topologies.controllers import Orchestrator
from topologies.errors import LabError
from topologies.options import require_known


class IntentCommand:
    """A part of the prompt."""

    mn: Mininet

    def do_intent(self, line: str) -> None:
        """Show the intent of the lab: its file, where REST has it, and which switches hold it; or have the
        file, after it was edited, hold as it is now.
        Usage: intent [reload]"""
        words = line.split()
        require_known("intent", "there is no", words[:1], ("reload",))
        require_known("intent reload", "there is no", words[1:], ())
        orchestrator = self._orchestrator()
        if not words:
            _show(orchestrator)
            return
        answer = orchestrator.reload()
        changed = sentences(answer["changes"]) or ["nothing changed"]
        output(f"revision {answer['revision']} of {orchestrator.intent_file}:\n")
        output("".join(f"  {sentence}\n" for sentence in changed))

    def _orchestrator(self) -> Orchestrator:
        for controller in self.mn.controllers:
            if isinstance(controller, Orchestrator):
                return controller
        raise LabError("intent: this lab has no Orchestrator: start mn with --controller orchestrator")


def _show(orchestrator: Orchestrator) -> None:
    status = orchestrator.status()
    output(f"file      {orchestrator.intent_file}\n")
    output(f"REST      {orchestrator.rest_url}/intent\n")
    if orchestrator.token_file:
        output(f"token     {orchestrator.token_file}\n")
    output(f"revision  {status['revision']}\n")
    for name, switch in status["switches"].items():
        errors = "; ".join(switch["errors"])
        where = "does not hold it yet" if switch["connected"] else "is not there"
        held = "holds it" if switch["synced"] else where
        output(f"{name:9} {errors or held}\n")
