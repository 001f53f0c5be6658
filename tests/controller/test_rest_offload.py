# SPDX-License-Identifier: Apache-2.0
"""REST: tunnel formats, NICs, and why something is coalesced. Each change is one of the intent."""

from __future__ import annotations

from typing import Any

import pytest

from ryu_apps.core.controller import Controller
from ryu_apps.core.intent import from_object
from ryu_apps.rest import RestApi
from tests.controller.rest import asks, rest_api
from tests.controller.test_offload import NEW, changed
from vswitch.openflow.experimenter import FormatAdd, FormatDelete, LroSet, SettingsReply


@pytest.fixture
def controller() -> Controller:
    return Controller(from_object(changed(nic=...)))


@pytest.fixture
def api(controller: Controller) -> RestApi:
    return rest_api(controller)


def test_s1_6_a_format_comes_and_goes(api: RestApi) -> None:
    assert asks(api, "PUT", "/formats/mine", NEW)[0] == 200
    assert asks(api, "GET", "/formats/mine")[1]["id_value"] == 0x200088B5
    assert {"mine", "vxlan", "gre"} <= set(asks(api, "GET", "/formats")[1])
    assert asks(api, "DELETE", "/formats/mine")[0] == 200
    assert asks(api, "GET", "/formats/mine")[0] == 404


def test_a_connected_switch_is_told_at_once_and_only_that(controller: Controller, api: RestApi) -> None:
    sent: list[Any] = []
    session = controller.connected(1, sent.extend)
    controller.handle(1, session, lambda s: s.settings(SettingsReply(0, ())))
    controller.handle(1, session, lambda s: s.rules([], False))
    from tests.controller.test_session import CAPABILITIES

    controller.handle(1, session, lambda s: s.capabilities(CAPABILITIES))
    sent.clear()
    asks(api, "PUT", "/formats/mine", NEW)
    assert isinstance(sent[0], FormatAdd) and len(sent) == 2  # and a barrier
    sent.clear()
    asks(api, "DELETE", "/formats/mine")
    assert sent[0].setting.undo() == FormatDelete("mine") and len(sent) == 2
    sent.clear()
    asks(api, "PATCH", "/nic/s1", {"lro": [{"lro": "off"}]})
    assert sent[0] == LroSet(1, 0, "off") and len(sent) == 2


def test_a_nic_by_put_patch_and_delete(api: RestApi) -> None:
    assert asks(api, "GET", "/nic/s1") == (200, {})
    assert asks(api, "PUT", "/nic/s1", {"queues": 4, "lro": [{"queues": [1], "lro": "rules"}]})[0] == 200
    assert asks(api, "PATCH", "/nic/s1", {"rules": [{"queues": [1], "vm": "web"}]})[0] == 200
    nic = asks(api, "GET", "/nic/s1")[1]
    assert (nic["queues"], nic["lro"][0]["lro"], nic["rules"][0]["vm"]) == (4, "rules", "web")
    assert asks(api, "PATCH", "/nic/s1", {"rules": None})[0] == 200
    assert asks(api, "GET", "/nic/s1")[1]["rules"] == []
    assert asks(api, "DELETE", "/nic/s1")[0] == 200
    assert asks(api, "GET", "/nic/s1") == (200, {})


def test_s0_8_the_derivation_explains_itself(api: RestApi) -> None:
    status, explained = asks(api, "GET", "/offload/explain")
    assert status == 200
    assert explained["s1"]["vms"]["web"] == {
        "role": "terminating",
        "lro": True,
        "why": "all connections to s1 end there: no VM on it forwards",
    }


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "sentence"),
    [
        ("PUT", "/formats/vxlan", NEW, 400, "formats.vxlan: is a shipped format"),
        ("PUT", "/formats/mine", [1], 400, "formats.mine: is a list (allowed: a mapping of names)"),
        ("PUT", "/formats/mine", {"outer_proto": 47}, 400, "formats.mine.opaque_len: is missing"),
        ("DELETE", "/formats/gre", None, 400, "formats.gre: is a shipped format, which stays"),
        ("DELETE", "/formats/mine", None, 404, "there is no format 'mine' (there are: none)"),
        (
            "GET",
            "/formats/vxlna",
            None,
            404,
            "there is no format 'vxlna', the nearest is 'vxlan' (there are: ",
        ),
        (
            "PUT",
            "/formats/mine",
            {"outer_prot": 1},
            400,
            "formats.mine.outer_prot: is not known, the nearest ",
        ),
        ("GET", "/nic/s9", None, 404, "there is no server 's9' (there are: s1, s2)"),
        ("PATCH", "/nic/s1", {"queues": 9}, 400, "nic.s1.queues: 9 is out of range (allowed: 1 to 8)"),
        ("PATCH", "/nic/s1", 5, 400, "nic.s1: 5 is a whole number (allowed: a mapping of names)"),
        ("PUT", "/nic/s1", {"rules": [{"vm": "far"}]}, 400, "nic.s1.rules[0].vm: far is on s2, not on s1"),
        ("PATCH", "/nic/s1", {"nix": None}, 400, "nic.s1.nix: is not a known key (allowed: queues, "),
        (
            "PATCH",
            "/nic/s1",
            {"qeues": 2},
            400,
            "nic.s1.qeues: is not a known key, the nearest is 'queues' (",
        ),
        ("PUT", "/nic/s1", {"rss": {"eqal": 2}}, 400, "nic.s1.rss.eqal: is not a known key, the nearest is "),
        (
            "POST",
            "/nic/s1",
            None,
            405,
            "/nic/s1: there is no method 'POST' (allowed: GET, PUT, PATCH, DELETE)",
        ),
    ],
)
def test_mistakes_change_nothing(
    api: RestApi, method: str, path: str, body: Any, status: int, sentence: str
) -> None:
    before = asks(api, "GET", "/intent")
    answer = asks(api, method, path, body)
    assert answer[0] == status
    assert answer[1]["error"].startswith(sentence)
    assert asks(api, "GET", "/intent") == before


EMPTY_INTENT = "intent: the body is {} (allowed: an intent; {{}} for one without servers)"


@pytest.mark.parametrize("body", [b"", b"  ", b"null", b" null", b"~", b"# nothing", b"---"])
@pytest.mark.parametrize(
    ("method", "path", "sentence"),
    [
        ("PUT", "/intent", EMPTY_INTENT),
        ("POST", "/intent/check", EMPTY_INTENT),
        (
            "PUT",
            "/nic/s1",
            "nic.s1: the body is {} (allowed: the section; DELETE /nic/s1 goes back to the defaults)",
        ),
        (
            "PATCH",
            "/nic/s1",
            "nic.s1: the body is {} (allowed: the keys to change; DELETE /nic/s1 goes back to the defaults)",
        ),
        ("PUT", "/formats/mine", "formats.mine: the body is {} (allowed: the format's numbers)"),
    ],
)
def test_a_body_that_holds_nothing_changes_nothing(
    api: RestApi, method: str, path: str, sentence: str, body: bytes
) -> None:
    assert asks(api, "PUT", "/nic/s1", {"queues": 4})[0] == 200
    before = asks(api, "GET", "/intent")
    status, answer = api.answer(method, path, body)
    assert (status, answer["error"]) == (400, sentence.format("null" if body.strip() else "empty"))
    assert asks(api, "GET", "/intent") == before


def test_a_format_in_use_stays(api: RestApi) -> None:
    asks(api, "PUT", "/formats/mine", NEW)
    intent = asks(api, "GET", "/intent")[1] | {"tunnel": {"format": "mine"}}
    assert asks(api, "PUT", "/intent", intent)[0] == 200
    status, answer = asks(api, "DELETE", "/formats/mine")
    assert status == 400 and answer["error"].startswith("tunnel.format: there is no tunnel format 'mine'")


def test_a_put_without_a_body_takes_no_rule_away(controller: Controller, api: RestApi) -> None:
    before = controller.intent
    status, answer = asks(api, "PUT", "/intent")
    assert status == 400
    assert answer["error"] == "intent: the body is empty (allowed: an intent; {} for one without servers)"
    assert controller.intent == before
