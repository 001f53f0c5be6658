# SPDX-License-Identifier: Apache-2.0
"""The real Ryu process: what it says to a switch and over REST, on sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from ryu_apps.core.intent import from_object
from ryu_apps.core.rules import desired_state
from tests.controller.fake_switch import FakeSwitch
from tests.controller.ryu_process import INTENT, PYTHON, ROOT, RyuProcess, needs_ryu, revision
from vswitch.openflow import experimenter as ex
from vswitch.openflow import messages as m
from vswitch.openflow.constants import FlowModCommand
from vswitch.openflow.flow_mod import FlowMod
from vswitch.openflow.instructions import Instructions
from vswitch.openflow.oxm import Match

pytestmark = needs_ryu


@pytest.fixture
def ryu(tmp_path: Path) -> Iterator[RyuProcess]:
    process = RyuProcess(tmp_path)
    yield process
    process.end()


def wanted_rules(document: dict[str, Any], server: str) -> dict[tuple, tuple]:
    state = desired_state(from_object(document), server)
    return {key: (rule.cookie, rule.instructions.items) for key, rule in state.rules.items()}


def held_rules(switch: FakeSwitch) -> dict[tuple, tuple]:
    return {key: (rule.cookie, rule.instructions.items) for key, rule in switch.rules.items()}


def test_connect_change_and_come_back(ryu: RyuProcess) -> None:
    ryu.start()
    switch = FakeSwitch(1)

    # A new switch gets its tunnels, rules and GRO settings, and the revision last.
    with switch.connected(ryu.ofp_port):
        switch.wait_for(lambda s: s.revision == revision(INTENT))
        assert held_rules(switch) == wanted_rules(INTENT, "s1")
        assert set(switch.tunnels) == {1002}
        assert switch.settings == {}
        assert isinstance(switch.log[-1], ex.IntentRevision)
        assert isinstance(switch.log[-2], m.BarrierRequest)
        status = ryu.wait_for_status("s1", lambda s: s["synced"])
        assert status == {
            "dpid": 1, "connected": True, "synced": True, "revision": revision(INTENT), "errors": []
        }  # fmt: skip
        assert ryu.status("s2")["connected"] is False

        # A new intent changes only what differs.
        before = dict(switch.rules)
        larger = json.loads(json.dumps(INTENT))
        larger["vms"]["vm3"] = {"server": "s1", "port": 3, "network": "blue", "mac": "00:00:00:00:00:03"}
        switch.log.clear()
        code, answer = ryu.rest("PUT", "/intent", yaml.safe_dump(larger))
        assert (code, answer["revision"]) == (200, revision(larger))
        assert (list(answer["changes"]), list(answer["steps"])) == (["vms.vm3"], ["s1"])
        assert answer["not_connected"] == ["s2"]
        switch.wait_for(lambda s: s.revision == revision(larger))
        assert held_rules(switch) == wanted_rules(larger, "s1")
        assert len(switch.flow_mods()) == answer["steps"]["s1"]
        for message in switch.flow_mods():
            key = message.table_id, message.priority, message.match.canonical
            assert key not in before or before[key].instructions.items != message.instructions.items
        assert not any(isinstance(message, ex.TunnelAdd) for message in switch.log)

        # A wrong one is refused as a whole.
        switch.log.clear()
        larger["vms"]["vm3"]["port"] = 2
        code, answer = ryu.rest("PUT", "/intent", json.dumps(larger))
        assert code == 400
        assert answer == {
            "error": "vms.vm3.port: 2 (on s1) is also that of vms.vm1 (allowed: each only once)"
        }
        assert ryu.rest("GET", "/intent")[1]["vms"]["vm3"]["port"] == 3
        assert switch.flow_mods() == []
        ryu.rest("PUT", "/intent", yaml.safe_dump(INTENT))
        switch.wait_for(lambda s: s.revision == revision(INTENT))
    ryu.wait_for_status("s1", lambda s: not s["connected"])

    # The controller is killed; the switch comes back to the next one and is told nothing that it knows.
    ryu.kill()
    switch.log.clear()
    switch.revision = None
    ryu.start()
    with switch.connected(ryu.ofp_port):
        switch.wait_for(lambda s: s.revision == revision(INTENT))
        assert switch.flow_mods() == []
        assert held_rules(switch) == wanted_rules(INTENT, "s1")
    assert ryu.kill(signal.SIGTERM) == 0
    assert "Traceback" not in ryu.log.read_text()


def test_foreign_rules_stay_and_stale_ones_go(ryu: RyuProcess) -> None:
    ryu.start()
    switch = FakeSwitch(1)
    foreign = FlowMod(Match.of(in_port=9), Instructions.of(), cookie=0x1234)
    stale = FlowMod(Match.of(in_port=9), Instructions.of(), priority=7, cookie=0x4F01 << 48)
    for rule in (foreign, stale):
        switch.rules[rule.table_id, rule.priority, rule.match.canonical] = rule
    with switch.connected(ryu.ofp_port):
        switch.wait_for(lambda s: s.revision is not None)
    assert foreign in switch.rules.values()
    assert stale not in switch.rules.values()
    commands = [message.command for message in switch.flow_mods()]
    assert commands.count(FlowModCommand.DELETE_STRICT) == 1
    assert FlowModCommand.DELETE not in commands


def test_a_refused_rule_is_logged_and_shown(ryu: RyuProcess) -> None:
    ryu.start()
    switch = FakeSwitch(1)
    switch.refuse = lambda message: message.table_id == 3 and message.priority == 2000
    with switch.connected(ryu.ofp_port):
        status = ryu.wait_for_status("s1", lambda s: bool(s["errors"]))
        time.sleep(0.1)
        assert switch.revision is None
        assert status["synced"] is False
        (error,) = status["errors"]
        assert error.startswith(
            "FLOW_MOD_FAILED/TABLE_FULL, in answer to adding table 3 priority 2000 in_port=1002"
        )
        assert error in ryu.log.read_text()


def test_a_switch_that_the_intent_does_not_name_is_left_empty(ryu: RyuProcess) -> None:
    ryu.start()
    switch = FakeSwitch(0x99)
    with switch.connected(ryu.ofp_port):
        ryu.wait_for_status("s1", lambda s: not s["connected"])
        switch.wait_for(lambda s: s.revision is not None)
        assert ryu.status("dpid-99")["connected"] is True
    assert switch.rules == {}


def test_a_switch_of_another_make_is_reported(ryu: RyuProcess) -> None:
    ryu.start()
    with FakeSwitch(1, ours=False).connected(ryu.ofp_port):
        status = ryu.wait_for_status("s1", lambda s: bool(s["errors"]))
    assert status["errors"][1] == "the switch does not know the offload messages: it is not a VSwitch"


def lro_of(switch: FakeSwitch) -> list[str]:
    """What the switch was told about coalescing; nothing when it is to do as it does by itself."""
    return [setting.lro for setting in switch.settings.values() if isinstance(setting, ex.LroSet)]


def test_two_connections_with_one_datapath_id(ryu: RyuProcess) -> None:
    """The later connection counts; the end of the earlier one does not disturb it."""
    ryu.start()
    first, second = FakeSwitch(1), FakeSwitch(1)
    with ExitStack() as later:
        with first.connected(ryu.ofp_port):
            first.wait_for(lambda s: s.revision is not None)
            later.enter_context(second.connected(ryu.ofp_port))
            second.wait_for(lambda s: s.revision is not None)
        time.sleep(0.2)
        ryu.wait_for_status("s1", lambda s: s["synced"])
        code, _ = ryu.rest("PUT", "/intent", yaml.safe_dump({**INTENT, "offload": {"gro": False}}))
        assert code == 200
        second.wait_for(lambda s: lro_of(s) == ["off"])
    assert lro_of(first) == []


def test_check_needs_no_ports_and_tells_by_its_status(ryu: RyuProcess) -> None:
    done = ryu.run("--intent", str(ryu.file), "--check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{ryu.file}: valid: 1 virtual networks, 2 servers, 2 VMs, 22 rules\n"
    ryu.file.write_text("vms: {vm1: {sever: s1}}")
    done = ryu.run("--intent", str(ryu.file), "--check")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"ryu_apps: {ryu.file}: vms.vm1.sever: is not a known key, the nearest is 'server' "
        "(allowed: server, port, network, mac, ip, role, lro, vif_lro)\n"
    )
    done = ryu.run("--intent", "/nowhere.yaml", "--check")
    assert (done.returncode, done.stderr) == (1, "ryu_apps: /nowhere.yaml: No such file or directory\n")


def test_port_in_use_is_one_sentence(ryu: RyuProcess) -> None:
    with socket.create_server(("127.0.0.1", ryu.ofp_port)):
        done = ryu.run("--intent", str(ryu.file), "--ofp-port", str(ryu.ofp_port))
    assert done.returncode == 1
    assert done.stderr == (
        f"ryu_apps: cannot listen on 127.0.0.1 port {ryu.ofp_port} (--ofp-port): Address already in use\n"
    )


@pytest.mark.parametrize(
    ("app", "sentence"),
    [
        ("ryu.app.nothing", "there is no module ryu.app.nothing (--app ryu.app.nothing)"),
        ("./nothing.py", "there is no file ./nothing.py (--app)"),
        ("json", "json holds no application (--app)"),
    ],
)
def test_no_application_is_one_sentence(ryu: RyuProcess, app: str, sentence: str) -> None:
    done = ryu.run("--app", app, "--ofp-port", str(ryu.ofp_port), "--rest-port", str(ryu.rest_port))
    assert (done.returncode, done.stderr) == (1, f"ryu_apps: {sentence}\n")


def test_ctrl_c_while_the_framework_is_made_ready_ends_the_program() -> None:
    """eventlet swallows an exception while it patches, and with it a KeyboardInterrupt."""
    script = (
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from ryu_apps import framework\n"
        "framework.importlib.import_module = lambda name: os.kill(os.getpid(), signal.SIGINT)\n"
        "framework.prepare(framework.RYU)\n"
    )
    done = subprocess.run([PYTHON, "-c", script], cwd=ROOT, capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


def test_without_ryu_is_one_sentence(ryu: RyuProcess, tmp_path: Path) -> None:
    """In a Python that has the core's needs but no Ryu, as .venv has."""
    python = ROOT / ".venv/bin/python"
    if not python.exists():
        pytest.skip("the project's .venv is not there")
    done = subprocess.run(
        [python, "-m", "ryu_apps", "--intent", ryu.file, "--ofp-port", str(ryu.ofp_port),
         "--rest-port", str(ryu.rest_port)],
        cwd=ROOT, capture_output=True, text=True, timeout=30, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        "ryu_apps: neither Ryu nor os-ken is installed in this Python: use .venv-ryu/bin/python\n"
    )


@pytest.mark.skipif(
    not list(PYTHON.parents[1].glob("lib/*/site-packages/ryu")), reason="os-ken has no such one"
)
def test_stock_application_runs(ryu: RyuProcess) -> None:
    """Ryu's own learning switch installs its table-miss rule."""
    ryu.start("--app", "ryu.app.simple_switch_13")
    switch = FakeSwitch(5)
    with switch.connected(ryu.ofp_port):
        switch.wait_for(lambda s: len(s.rules) == 1)
    (rule,) = switch.rules.values()
    assert (rule.table_id, rule.priority, rule.match.fields) == (0, 0, ())
