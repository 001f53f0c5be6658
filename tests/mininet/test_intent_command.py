# SPDX-License-Identifier: Apache-2.0
"""`intent` at `mn`'s prompt: what holds, and an edited file read again; what REST says of real switches."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from tests.mininet.mn_cli import TWO_SERVERS, MnCli
from topologies.errors import LabError
from topologies.prompt_intent import IntentCommand

pytestmark = pytest.mark.root


def test_the_intent_at_the_prompt():
    with MnCli(*TWO_SERVERS) as mn:
        (rest,) = re.findall(
            r"c0 .*\(REST: (http://127\.0\.0\.1:\d+), token in /run/\S+/c0\.token\)", mn.greeting
        )
        shown = mn.enter("intent")
        (file,) = re.findall(r"^file +(/run/mininet-offload/\d+/intent\.yaml)$", shown, re.MULTILINE)
        (revision,) = re.findall(r"^revision +(\d+)$", shown, re.MULTILINE)
        assert f"REST      {rest}/intent\n" in shown
        assert shown.endswith("s1        holds it\ns2        holds it\n")

        mn.enter(f"sh sed -i 's/gro: true/gro: false/' {file}")
        reloaded = mn.enter("intent reload")
        assert re.fullmatch(rf"revision (\d+) of {file}:\n  offload\.gro: true -> false\n", reloaded)
        assert f"revision  {revision}\n" not in mn.enter("intent")
        assert "off" in mn.enter("s2 vswitchctl nic uplink0 -k")
        assert mn.enter("intent reload").endswith("  nothing changed\n")

        mn.enter(f"sh sed -i 's/gro: false/gor: true/' {file}")
        assert mn.enter("intent reload") == (
            f"*** Error: c0: the intent stays as it is: {file}: offload.gor: is not a known key, "
            "the nearest is 'gro' (allowed: gro, overrides)\n"
        )
        assert mn.enter("intent relaod") == (
            "*** Error: intent: there is no 'relaod', the nearest is 'reload' (allowed: reload)\n"
        )
        assert (
            mn.enter("intent reload now") == "*** Error: intent reload: there is no 'now' (allowed: none)\n"
        )

        assert " 0% packet loss" in mn.enter("vm1 ping -c 2 -i 0.2 vm2")
        counted = mn.enter("py sorted(c0.request('GET', '/counters')['s1']['ports'])")
        assert "'s1-eth1'" in counted and "'vm1-eth0'" in counted
        frames = mn.enter("py c0.request('GET', '/counters/s2')['queues']['s2-eth1'][0]['frames']")
        assert int(frames) >= 2
        assert "slow_path_misses" in mn.enter("py c0.request('GET', '/counters/s1')['reasons']")
        mn.leave()


def test_a_lab_without_an_orchestrator_has_no_intent():
    prompt = IntentCommand()
    prompt.mn = SimpleNamespace(controllers=[])
    with pytest.raises(
        LabError, match=r"^intent: this lab has no Orchestrator: start mn with --controller orchestrator$"
    ):
        prompt.do_intent("")
