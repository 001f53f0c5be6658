# SPDX-License-Identifier: Apache-2.0
"""Ports and switches that an intent names and that are not there: told wherever somebody looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings

from ryu_apps.__main__ import main
from ryu_apps.core.controller import Controller
from ryu_apps.core.intent import Intent, from_object
from ryu_apps.core.ports import claims, missing, unfit
from ryu_apps.core.rules import desired_state
from ryu_apps.core.session import Barrier
from tests.controller.rest import asks, rest_api
from tests.controller.strategies import intents
from tests.protocol.live import LiveAgent
from vswitch.openflow import spec
from vswitch.openflow.actions import Output
from vswitch.openflow.constants import Port
from vswitch.openflow.experimenter import CapabilitiesReply, IntentRevision, SettingsReply
from vswitch.openflow.instructions import ApplyActions


def document(**changes: Any) -> dict[str, Any]:
    """A VM on each of two servers. changes: of a server or VM, by its name."""
    servers = {f"s{n}": {"dpid": n, "underlay_ip": f"192.168.0.{n}", "uplink_port": 1} for n in (1, 2)}
    vms = {
        f"vm{n}": {"server": f"s{n}", "port": 2, "network": "blue", "mac": f"00:00:00:00:00:0{n}"}
        for n in (1, 2)
    }
    for name, change in changes.items():
        (servers if name in servers else vms)[name] |= change
    return {"virtual_networks": {"blue": {"vni": 42}}, "servers": servers, "vms": vms}


WIRES = {
    "s1": {"uplink_port": None, "wires": {"s2": 88}},
    "s2": {"uplink_port": None, "wires": {"s1": 1}},
}
MISFITS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a VM's": ({"vm1": {"port": 77}}, ["vms.vm1.port: s1 has no port 77 (it has: 1, 2, 3)"]),
    "an uplink": (
        {"s1": {"uplink_port": 88}},
        ["servers.s1.uplink_port: s1 has no port 88 (it has: 1, 2, 3)"],
    ),
    "a wire": (WIRES, ["servers.s1.wires.s2: s1 has no port 88 (it has: 1, 2, 3)"]),
    "two": (
        {"vm1": {"port": 77}, "s1": {"uplink_port": 88}},
        [
            "vms.vm1.port: s1 has no port 77 (it has: 1, 2, 3)",
            "servers.s1.uplink_port: s1 has no port 88 (it has: 1, 2, 3)",
        ],
    ),
    "none": ({}, []),
}
TUNNEL = spec.TUNNEL_PORT_BASE + 2


def connect(controller: Controller, ports: tuple[int, ...], dpid: int = 1) -> list[Any]:
    """A switch comes, says what it has, and answers every barrier; what it was sent."""
    sent: list[Any] = []
    session = controller.connected(dpid, sent.extend)
    capabilities = CapabilitiesReply("1", ("vxlan",), (*ports, TUNNEL), 1, (TUNNEL,))
    controller.handle(dpid, session, lambda s: s.settings(SettingsReply(0, ())))
    controller.handle(dpid, session, lambda s: s.rules([], False))
    controller.handle(dpid, session, lambda s: s.capabilities(capabilities))
    barrier = next(message for message in sent if isinstance(message, Barrier))
    controller.handle(dpid, session, lambda s: s.barrier_reply(barrier))
    return sent


@pytest.mark.parametrize("what", MISFITS)
def test_status_tells_and_the_revision_is_not_held(what: str) -> None:
    changes, sentences = MISFITS[what]
    controller = Controller(from_object(document(**changes)))
    sent = connect(controller, (1, 2, 3))
    status = controller.status()["switches"]["s1"]
    assert status["errors"] == sentences
    assert status["synced"] is not bool(sentences)
    assert any(isinstance(message, IntentRevision) for message in sent) is not bool(sentences)


@pytest.mark.parametrize("what", MISFITS)
@pytest.mark.parametrize(("method", "path"), [("PUT", "/intent"), ("POST", "/intent/check")])
def test_rest_answers_it(what: str, method: str, path: str) -> None:
    changes, sentences = MISFITS[what]
    controller = Controller(from_object(document()))
    connect(controller, (1, 2, 3))
    wanted = document(**changes)
    status, answer = asks(rest_api(controller), method, path, wanted)
    assert (status, answer["revision"]) == (200, from_object(wanted).revision())
    assert answer.get("errors", {}) == ({"s1": sentences} if sentences else {})
    assert answer["not_connected"] == ["s2"]
    held = sentences if method == "PUT" else []
    assert controller.status()["switches"]["s1"]["errors"] == held


def test_every_change_by_rest_answers_it() -> None:
    """Also one that has nothing to do with ports: the intent as a whole does not hold."""
    controller = Controller(from_object(document(vm1={"port": 77})))
    connect(controller, (1, 2))
    connect(controller, (1, 2), dpid=2)
    _, answer = asks(rest_api(controller), "PATCH", "/nic/s1", {"queues": 2})
    assert answer["errors"] == {"s1": ["vms.vm1.port: s1 has no port 77 (it has: 1, 2)"]}
    assert "not_connected" not in answer


def test_a_switch_that_comes_back_with_the_port_holds_the_intent() -> None:
    controller = Controller(from_object(document(vm1={"port": 77})))
    connect(controller, (1, 2))
    connect(controller, (1, 2, 77))
    status = controller.status()["switches"]["s1"]
    assert (status["errors"], status["synced"]) == ([], True)


@settings(max_examples=30)
@given(intents())
def test_whatever_port_a_switch_is_told_of_is_claimed(intent: Intent) -> None:
    for name in intent.servers:
        state = desired_state(intent, name)
        told = {rule.match.get("in_port").value for rule in state.rules.values() if rule.match.get("in_port")}
        for rule in state.rules.values():
            for instruction in rule.instructions:
                if isinstance(instruction, ApplyActions):
                    told |= {action.port for action in instruction.actions if isinstance(action, Output)}
        told |= {tunnel.uplink_port for tunnel in state.tunnels.values() if tunnel}
        told |= {s.port_no for s in state.settings.values() if hasattr(s, "port_no")}
        told = {port for port in told if port < spec.TUNNEL_PORT_BASE}
        assert told <= claims(intent, name).keys() | {Port.IN_PORT}
        assert missing(claims(intent, name), told | set(claims(intent, name))) == []


def test_a_switch_that_does_not_exist() -> None:
    intent = from_object(document(s2={"dpid": 0xAB}, vm1={"port": 77}))
    assert unfit(intent, {1: {1, 2}, 3: {1}}, "in run") == [
        "vms.vm1.port: s1 has no port 77 (it has: 1, 2)",
        "servers.s2.dpid: there is no switch with the datapath id ab in run (there are: 1, 3)",
    ]


# --check --run-dir


@pytest.fixture
def run_dir(tmp_path: Path):
    """A switch of the datapath id 1 with the ports 1, 2 and 3 runs there."""
    agent = LiveAgent(control_path=tmp_path / "s1.ctl")
    yield tmp_path
    agent.close()


def check(folder: Path, intent: dict[str, Any], *options: str) -> int:
    file = folder / "intent.yaml"
    file.write_text(yaml.safe_dump(intent))
    return main(["--check", "--intent", str(file), *options])


def only_s1(**changes: Any) -> dict[str, Any]:
    intent = document(**changes)
    del intent["servers"]["s2"], intent["vms"]["vm2"]
    return intent


def test_a_check_against_running_switches(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    against = ("--run-dir", str(run_dir))
    assert check(run_dir, only_s1(), *against) == 0
    assert "valid: 1 virtual networks" in capsys.readouterr().out
    assert check(run_dir, only_s1(vm1={"port": 77})) == 0  # nobody said where they run
    capsys.readouterr()
    assert check(run_dir, document(vm1={"port": 77}), *against) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"ryu_apps: {run_dir}/intent.yaml: vms.vm1.port: s1 has no port 77 (it has: 1, 2, 3)",
        f"{run_dir}/intent.yaml: servers.s2.dpid: there is no switch with the datapath id 2 in {run_dir} "
        "(there are: 1)",
    ]


def test_a_check_against_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path, only_s1(), "--run-dir", str(tmp_path / "nowhere")) == 1
    assert capsys.readouterr().err == f"ryu_apps: no switch is running (looked in {tmp_path}/nowhere)\n"
    (tmp_path / "s1.ctl").touch()
    assert check(tmp_path, only_s1(), "--run-dir", str(tmp_path)) == 1
    assert capsys.readouterr().err.startswith(f"ryu_apps: no switch answers at {tmp_path}/s1.ctl (")
    with pytest.raises(SystemExit, match="2"):
        main(["--intent", "x", "--run-dir", str(tmp_path)])
    assert "--run-dir is for --check" in capsys.readouterr().err
