# SPDX-License-Identifier: Apache-2.0
"""What people type at a running controller: curl, an editor and kill -HUP."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.controller.fake_switch import FakeSwitch
from tests.controller.ryu_process import INTENT, RyuProcess, needs_ryu, revision
from tests.patience import PATIENCE_S

pytestmark = needs_ryu
GRO_OFF = {**INTENT, "offload": {"gro": False}}


@pytest.fixture
def ryu(tmp_path: Path) -> Iterator[RyuProcess]:
    process = RyuProcess(tmp_path)
    process.start()
    process.rest("GET", "/status")
    yield process
    process.end()


def waits_for(ryu: RyuProcess, line: str) -> None:
    """Return when the log has this."""
    deadline = time.monotonic() + PATIENCE_S
    while line not in ryu.log.read_text():
        assert time.monotonic() < deadline, ryu.log.read_text()
        time.sleep(0.02)


def hang_up(ryu: RyuProcess) -> None:
    assert ryu.process
    ryu.process.send_signal(signal.SIGHUP)


def test_hang_up_reads_the_edited_intent_again(ryu: RyuProcess) -> None:
    """The switch gets the difference; a mistake stands in the log, and what held holds on."""
    switch = FakeSwitch(1)
    with switch.connected(ryu.ofp_port):
        switch.wait_for(lambda s: s.revision == revision(INTENT))
        ryu.file.write_text(yaml.safe_dump(GRO_OFF))
        hang_up(ryu)
        switch.wait_for(lambda s: s.revision == revision(GRO_OFF))
        waits_for(ryu, "of the intent holds, changed: offload.gro: true -> false")
        ryu.file.write_text("vms: {vm1: {sever: s1}}")
        hang_up(ryu)
        waits_for(
            ryu, f"the intent stays as it is: {ryu.file}: vms.vm1.sever: is not a known key, the nearest "
        )
        assert switch.revision == revision(GRO_OFF)
        ryu.file.write_text(yaml.safe_dump(INTENT))
        for _ in range(20):  # a burst is one change
            hang_up(ryu)
        switch.wait_for(lambda s: s.revision == revision(INTENT))
    assert ryu.rest("GET", "/intent")[1]["offload"]["gro"] is True
    assert "Traceback" not in ryu.log.read_text()


def test_what_is_shown_at_start_and_what_is_asked_first(ryu: RyuProcess) -> None:
    assert f"REST at http://127.0.0.1:{ryu.rest_port}\n" in ryu.log.read_text()
    code, answer = ryu.rest("GET", "/")
    assert (code, answer["POST /intent/reload"]) == (200, "make the edited intent file hold")
    for path in ("/intnet", "/nic/s1/x", "/favicon.ico"):  # also what the web server has no route for
        code, answer = ryu.rest("GET", path)
        assert code == 404 and answer["error"].startswith(f"{path}: there is no such path")
    code, answer = ryu.rest("GET", "/status?verbose=1")
    assert (code, answer["error"]) == (400, "GET /status: there is no parameter 'verbose' (allowed: none)")
    ryu.file.write_text(yaml.safe_dump(GRO_OFF))
    code, answer = ryu.rest("POST", "/intent/reload")
    assert (code, answer["revision"], list(answer["changes"])) == (200, revision(GRO_OFF), ["offload.gro"])


def test_counters_come_from_the_switches(ryu: RyuProcess) -> None:
    """In as many parts as the switch sends; one that is silent, or of another make, is told of."""
    switch, foreign = FakeSwitch(1), FakeSwitch(2, ours=False)
    with switch.connected(ryu.ofp_port):
        switch.wait_for(lambda s: s.revision is not None)
        code, answer = ryu.rest("GET", "/counters")
        assert (code, answer["s2"]) == (200, {"error": "the switch is not connected"})
        assert answer["s1"] == {
            "reasons": {"no_rule": 3},
            "ports": {"port1": {"rx_packets": 1}, "port2": {"rx_packets": 2}},
            "queues": {"port1": [{"frames": 1}], "port2": [{"frames": 2}]},
        }
        with foreign.connected(ryu.ofp_port):
            before = ryu.wait_for_status("s2", lambda s: len(s["errors"]) == 3)
            code, answer = ryu.rest("GET", "/counters/s2")
            assert (code, answer) == (503, {"error": "s2: BAD_REQUEST/BAD_EXPERIMENTER"})
            assert ryu.status("s2") == before
        switch.silent = True
        code, answer = ryu.rest("GET", "/counters/s1")
        assert (code, answer) == (503, {"error": "s1: the switch did not answer within 2 s"})
        switch.silent = False
        assert ryu.rest("GET", "/counters/s1")[0] == 200
    assert "Traceback" not in ryu.log.read_text()


def curl(ryu: RyuProcess, *arguments: str) -> dict[str, Any]:
    token = f"Authorization: Bearer {ryu.token_file.read_text().strip()}"
    command = ["curl", "--silent", "--show-error", "--noproxy", "*", "-H", token, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_a_file_by_curl(ryu: RyuProcess) -> None:
    """As the page on REST says it, and as people type it from memory."""
    ryu.file.write_text("# what holds\n" + yaml.safe_dump(GRO_OFF))
    url = f"http://127.0.0.1:{ryu.rest_port}/intent"
    answer = curl(ryu, "-X", "PUT", url, "-d", f"@{ryu.file}")
    assert answer["error"].endswith("use --data-binary @FILE")
    answer = curl(ryu, "-X", "PUT", url, "--data-binary", f"@{ryu.file}")
    assert answer["revision"] == revision(GRO_OFF)
