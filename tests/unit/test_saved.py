# SPDX-License-Identifier: Apache-2.0
"""What is set while a switch runs, its next start finds: through the control socket as `vswitchctl` asks, and
by controllers' messages. The switch dies between two of the agent's turns: nothing is saved when it ends."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from tests.protocol.live import LiveAgent, eventually
from tests.unit.servers import SocketTap
from vswitch import saved
from vswitch.agent.agent import Agent
from vswitch.agent.view import SETTABLE_BY_HAND
from vswitch.config import parse_port
from vswitch.datapath import Datapath
from vswitch.errors import ConfigError, VSwitchError
from vswitch.openflow import experimenter as ex
from vswitch.openflow.messages import Experimenter, PortMod

WIRE, VM = 1, 2
NUMBERS = {
    "outer_proto": 17,
    "opaque_len": 20,
    "id_offset": 2,
    "id_length": 2,
    "id_value": 9999,
    "length_field": 4,
}
WEB = {"protocol": "tcp", "dst_ip": "10.0.0.2", "dst_port": 80}
ALL = {"vni": 42}

Request = tuple[str, dict[str, Any]]


class Life:
    """A switch from a start to its end, with a wire and a VM."""

    def __init__(self, folder: Path, workers: int = 1, wire: str = "") -> None:
        ports = [parse_port(f"{WIRE}=wire:{folder / 'wire'},name=uplink{wire}"), parse_port(f"{VM}=tap:vm1")]
        self.dp = Datapath(1, ports, workers)
        try:
            self.agent = Agent(
                self.dp, "s1", 1, control_path=folder / "s1.ctl", settings_path=folder / "s1.settings"
            )
        except BaseException:
            self.dp.close()
            raise

    def asks(self, method: str, **params: Any) -> Any:
        answer = self.agent._control.answer(json.dumps({"method": method, "params": params}).encode())
        return answer["result"] if "result" in answer else answer["error"]

    def controller_says(self, body: ex.Setting) -> None:
        self.agent.switch.extensions.handle(Experimenter(ex.EXPERIMENTER_ID, *ex.to_wire(body)), False)
        self.agent._saved.save_changes()  # as in the agent's next turn

    def settings(self) -> dict[str, Any]:
        """Everything that is set, as one looks at it, and as the workers read it."""
        shown = {port: self.asks("nic.show", port=port) for port in (WIRE, VM)}
        nics = [self.dp.nic(port) for port in shown]
        return {
            "wire": self.asks("wire.show", port=WIRE),
            "wire row": self.dp.t["wire_settings"][0].tobytes(),
            "nics": {port: {k: v for k, v in nic.items() if k != "stats"} for port, nic in shown.items()},
            "nic rows": [row_of(self.dp.t["nics"][nic._port.index, nic._row]) for nic in nics],
            "formats": self.asks("formats"),
            "forwarding": self.agent.switch.extensions.forwarding,
            "of controllers": list(self.agent.switch.extensions.settings.values()),
        }

    def ends(self) -> None:
        self.dp.close()


def row_of(nic: Any) -> dict[str, Any]:
    """What the workers read of a NIC."""
    used = {"filters": int(nic["filter_count"]), "rules": int(nic["rule_count"])}
    return {
        name: nic[name][: used.get(name)].tobytes() if nic[name].ndim else nic[name].item()
        for name in nic.dtype.names
    }


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Starts the switch, again once the life before has ended."""
    monkeypatch.setattr("vswitch.ports.TapDevice", SocketTap)
    lives: list[Life] = []

    def start(**options: Any) -> Life:
        if lives:
            lives.pop().ends()
        lives.append(Life(tmp_path, **options))
        return lives[-1]

    yield start
    for life in lives:
        life.ends()


def offload(message: str, **body: Any) -> Request:
    return "offload.set", {"message": message, **body}


def as_message(message: str, port: int | None = None, **body: Any) -> Any:
    """What `offload.set` would carry out, as a controller says it."""
    return msgspec.convert(body if port is None else {**body, "port_no": port}, SETTABLE_BY_HAND[message])


QUEUES = offload("NicQueuesSet", port=WIRE, count=4)
CHANGES: dict[str, list[Request]] = {
    "wire": [("wire.set", {"port": WIRE, "loss": 1, "delay": "5ms", "jitter": "10us", "bw": 100, "seed": 7,
                           "reorder": 2, "duplicate": 0.5, "max_queue_size": 20, "ecn_threshold": 5})],
    "wire, link": [("wire.set", {"port": WIRE, "link": "down"})],
    "wire, as it was": [("wire.set", {"port": WIRE, "loss": 1}), ("wire.set", {"port": WIRE, "loss": 0})],
    "NicQueuesSet": [QUEUES],
    "NicRssSet": [QUEUES, offload("NicRssSet", port=WIRE, hash_key="ab" * 40, indirection=[3, 1] * 64)],
    "NicWorkersSet": [QUEUES, offload("NicWorkersSet", port=WIRE, workers=[1, 1, 0, 1])],
    "nic.spread": [QUEUES, ("nic.spread", {"port": WIRE, "weights": [3, 1]}),
                   ("nic.spread", {"port": WIRE, "hash_key": "cd" * 40})],
    "nic.spread, over all of them": [QUEUES, ("nic.spread", {"port": WIRE, "equal": 4})],
    "LroSet": [QUEUES, offload("LroSet", port=WIRE, queue=2, lro="rules", kind="lro", completion_size=9000)],
    "LroSet in front of a VM": [offload("LroSet", port=VM, queue=0, lro="on")],
    "NicFilterAdd": [QUEUES, offload("NicFilterAdd", port=WIRE, match=WEB, queue=3, priority=9)],
    "NicFilterDelete": [QUEUES, offload("NicFilterAdd", port=WIRE, match=WEB, queue=3),
                        offload("NicFilterAdd", port=WIRE, match=ALL, queue=2),
                        offload("NicFilterDelete", port=WIRE, match=WEB)],
    "LroRuleAdd": [QUEUES, offload("LroRuleAdd", port=WIRE, match=ALL),
                   offload("LroRuleAdd", port=WIRE, match=WEB, queues=[1, 2], lro=False, priority=3)],
    "LroRuleDelete": [offload("LroRuleAdd", port=WIRE, match=WEB),
                      offload("LroRuleAdd", port=WIRE, match=ALL),
                      offload("LroRuleDelete", port=WIRE, match=WEB)],
    "LroRuleAdd in front of a VM": [offload("LroRuleAdd", port=VM, match=WEB, lro=False)],
    "nic.delete": [offload("LroRuleAdd", port=WIRE, match=WEB), offload("LroRuleAdd", port=WIRE, match=ALL),
                   ("nic.delete", {"port": WIRE, "rule": 1})],
    "FormatAdd": [offload("FormatAdd", name="mine", numbers=NUMBERS)],
    "FormatDelete": [offload("FormatAdd", name="mine", numbers=NUMBERS),
                     offload("FormatDelete", name="mine")],
    "RoleSet": [offload("RoleSet", port=VM, role="forwarding")],
    "RoleSet, as it was": [offload("RoleSet", port=VM, role="forwarding"),
                           offload("RoleSet", port=VM, role="terminating")],
}  # fmt: skip
READS = {
    "show",
    "ports",
    "counters",
    "flows",
    "rules",
    "trace",
    "wire.show",
    "nic.show",
    "nic.stats",
    "formats",
}
ENDS_WITH_THE_PROCESS = {"capture.start", "capture.stop", "stop"}


def test_each_method_of_the_control_socket_is_tried_here(live):
    """A new one that sets something belongs into CHANGES."""
    tried = {request[0] for requests in CHANGES.values() for request in requests}
    assert set(live().agent._methods()) == tried | READS | ENDS_WITH_THE_PROCESS
    assert set(SETTABLE_BY_HAND) <= CHANGES.keys()


@pytest.mark.parametrize("what", CHANGES)
def test_a_restart_finds_what_was_set(live, what):
    life = live(workers=2)
    for method, params in CHANGES[what]:
        assert isinstance(life.asks(method, **params), dict)
    before = life.settings()
    again = live(workers=2)
    assert again.settings() == before
    assert again.asks("show")["not_restored"] == []


def test_a_switch_of_which_nothing_was_set_is_as_it_is_told_to_be(live, tmp_path):
    live().asks("wire.show", port=WIRE)
    assert not (tmp_path / "s1.settings").exists()
    live().asks(QUEUES[0], **QUEUES[1])  # which says nothing of the wire
    assert live(wire=",loss=3").asks("wire.show", port=WIRE)["loss"] == 3
    assert (tmp_path / "s1.settings").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_set_in_whatever_order(live, seed):
    """Also what is refused meanwhile, and by controllers."""
    random = Random(seed)
    life = live(workers=2)
    requests = [request for requests in CHANGES.values() for request in requests]
    for _ in range(20):
        method, params = random.choice(requests)
        if method == "offload.set" and random.random() < 0.3:
            with contextlib.suppress(VSwitchError):
                life.controller_says(as_message(**params))
        else:
            life.asks(method, **params)
    before = life.settings()
    again = live(workers=2)
    assert again.settings() == before
    assert live(workers=2).settings() == before  # and the one after it
    # filters and rules are told by their numbers: none is given again
    assert again.dp.nic(WIRE)._last_id >= life.dp.nic(WIRE)._last_id


def test_what_controllers_set_is_told_to_the_next_one(live, tmp_path, monkeypatch):
    """So that it sends the difference only, and what was set by hand since stays."""
    too_big: list[bool] = []
    monkeypatch.setattr(Datapath, "set_packet_too_big", lambda _self, enabled: too_big.append(enabled))
    life = live()
    settings = [ex.NicQueuesSet(WIRE, 2), ex.LroSet(WIRE, 1, "off"), ex.PacketTooBigSet(False)]
    for setting in settings:
        life.controller_says(setting)
    assert life.asks("offload.set", message="LroSet", port=WIRE, queue=1, lro="rules")
    path = tmp_path / "s1.settings"
    file = path.stat().st_ino
    life.agent._saved.save_changes()
    assert path.stat().st_ino == file  # nothing to save: it is not written every turn
    again = live()
    assert list(again.agent.switch.extensions.settings.values()) == settings
    assert too_big == [False, False]  # in force
    assert [queue["lro"] for queue in again.asks("nic.show", port=WIRE)["queues"]] == ["on", "rules"]
    again.controller_says(ex.PacketTooBigSet(True))
    assert list(live().agent.switch.extensions.settings.values()) == settings[:2]


def test_what_openflow_carries_is_not_kept(live):
    """It is for whoever set it to set it again, as with any switch that is switched off."""
    life = live()
    life.asks("wire.set", port=WIRE, loss=1)
    ports = life.agent.switch.ports
    ports.refresh(life.dp.ports(), 0)
    ports.modify(PortMod(VM, ports.infos[VM].mac, 1, 1, 0))
    assert ports.config(VM) == 1
    again = live().agent.switch
    assert again.ports.config(VM) == 0


def test_what_does_not_fit_any_more_is_said(live):
    life = live(workers=2)
    for setting in (ex.NicQueuesSet(WIRE, 4), ex.LroSet(VM, 0, "rules")):
        life.controller_says(setting)
    life.asks("offload.set", message="NicWorkersSet", port=WIRE, workers=[1])
    life.asks("offload.set", message="LroSet", port=VM, queue=0, lro="on")
    again = live(workers=1)
    assert again.asks("show")["not_restored"] == [
        "uplink is not set as it was before: worker: 1 is out of range (allowed: 0 to 0)"
    ]
    assert again.asks("nic.show", port=WIRE)["queue_count"] == 1
    assert again.asks("nic.show", port=VM)["queues"][0]["lro"] == "on"
    # a controller that asks finds that there is one queue, and says again that there are to be four
    assert list(again.agent.switch.extensions.settings.values()) == [ex.LroSet(VM, 0, "rules")]


def test_queues_that_nobody_gave_workers_go_to_those_that_there_are(live):
    life = live(workers=1)
    life.asks(QUEUES[0], **QUEUES[1])
    queues = live(workers=2).asks("nic.show", port=WIRE)["queues"]
    assert [queue["worker"] for queue in queues] == [0, 1, 0, 1]


def test_what_controllers_set_is_saved_in_the_agents_next_turn(live, tmp_path):
    life, path = live(), tmp_path / "s1.settings"
    running = LiveAgent(datapath=life.dp, settings_path=path)
    handle = running.agent.switch.extensions.handle
    try:
        running.call(handle, Experimenter(ex.EXPERIMENTER_ID, *ex.to_wire(ex.NicQueuesSet(WIRE, 2))), False)
        eventually(path.exists, "the settings are saved")
        running.call(handle, Experimenter(ex.EXPERIMENTER_ID, *ex.to_wire(ex.NicQueuesSet(WIRE, 3))), False)
    finally:
        running.close()
    assert live().asks("nic.show", port=WIRE)["queue_count"] == 3  # also what it had no turn for any more


@pytest.mark.parametrize("text", ["", "{", "[]", '{"wirse": {}}', '{"nics": 5}', "\xff"])
def test_a_file_of_something_else_is_refused(live, tmp_path, text):
    (tmp_path / "s1.settings").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"^settings: .*s1\.settings is no file of a switch's settings"):
        live()


@pytest.mark.parametrize("nic", ["5", "{}", '{"queues": [], "key": "", "last_id": 0}'])
def test_a_part_of_something_else_is_told(live, tmp_path, nic):
    (tmp_path / "s1.settings").write_text(f'{{"nics": {{"uplink": {nic}}}}}')
    (problem,) = live().asks("show")["not_restored"]
    assert problem.startswith("uplink is not set as it was before: ")


def test_a_change_holds_though_it_cannot_be_saved(live, tmp_path, caplog):
    life = live()
    (tmp_path / "s1.settings.new").mkdir()
    assert life.asks("wire.set", port=WIRE, loss=4)["loss"] == 4
    assert life.asks("wire.show", port=WIRE)["loss"] == 4
    assert "s1: a restart will not know of the last settings" in caplog.text


def test_a_wire_is_set_while_its_switch_is_down(live, tmp_path):
    """What is said last holds."""
    path = tmp_path / "s1.settings"
    saved.change_wire(path, "uplink", {"loss": 2})
    assert not path.exists()  # nothing was set: the command line will say it
    live().asks("wire.set", port=WIRE, loss=1, delay="5ms")
    saved.change_wire(path, "uplink", {"loss": 3, "link": "down"})
    shown = live(wire=",loss=3").asks("wire.show", port=WIRE)
    assert (shown["loss"], shown["delay"], shown["link"]) == (3, "5ms", "down")


def test_another_port_of_the_same_name_is_as_it_is_told_to_be(live, tmp_path):
    for request, params in (QUEUES, *CHANGES["wire"], *CHANGES["RoleSet"]):
        live().asks(request, **params)
    saved.forget_ports(tmp_path / "s1.settings", ["uplink", "vm1", "never-there"])
    again = live(wire=",loss=9")
    assert again.asks("wire.show", port=WIRE)["loss"] == 9
    assert again.asks("nic.show", port=WIRE)["queue_count"] == 1
    assert again.agent.switch.extensions.forwarding == set()
