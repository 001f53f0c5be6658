# SPDX-License-Identifier: Apache-2.0
"""REST: what there is, what a change changed, counters, and one sentence for every wrong word."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings

from ryu_apps import intent_file
from ryu_apps.core.changes import changes, sentences
from ryu_apps.core.controller import Controller
from ryu_apps.core.intent import Intent, from_object, from_yaml
from ryu_apps.rest import RestApi
from tests.controller.rest import asks, rest_api
from tests.controller.ryu_process import INTENT
from tests.controller.strategies import intents
from vswitch.errors import VSwitchError

YAML = """\
virtual_networks:
  blue: {vni: 42}
servers:
  s1: {dpid: 1, underlay_ip: 192.168.0.1, uplink_port: 1}
  s2: {dpid: 2, underlay_ip: 192.168.0.2, uplink_port: 1}
vms:
  vm1: {server: s1, port: 2, network: blue, mac: "00:00:00:00:00:01", ip: 10.0.0.1}
  vm2: {server: s2, port: 2, network: blue, mac: "00:00:00:00:00:02", ip: 10.0.0.2}
"""
HINT = "; curl -d @FILE takes the line breaks out of YAML: use --data-binary @FILE"


@pytest.fixture
def controller() -> Controller:
    return Controller(from_object(INTENT))


@pytest.fixture
def api(controller: Controller) -> RestApi:
    return rest_api(controller)


def with_vms(**vms: Any) -> dict[str, Any]:
    """The intent with other VMs."""
    return {**INTENT, "vms": {name: vm for name, vm in {**INTENT["vms"], **vms}.items() if vm}}


DEFAULTS = {"role": "terminating", "lro": None, "vif_lro": False}
OVERRIDE = {"server": "s1", "port": 1, "gro": False, "queue": 0}
VM3 = {"server": "s1", "port": 3, "network": "blue", "mac": "00:00:00:00:00:03"}


# --- what there is ---


def test_the_list_has_every_request_with_a_line_and_each_is_answered(api: RestApi) -> None:
    status, listed = asks(api, "GET", "/")
    assert status == 200
    assert {"GET /", "PUT /intent", "POST /intent/reload", "GET /nic", "GET /counters"} <= set(listed)
    assert listed["PUT /intent"] == "make an intent hold; the body: an intent, YAML or JSON"
    for request, line in listed.items():
        assert line and "\n" not in line
        method, path = request.split()
        status, answer = asks(api, method, path.replace("{name}", "s1"))
        assert "no such path" not in str(answer) and "no method" not in str(answer)


def test_what_every_server_has_for_a_nic(api: RestApi) -> None:
    assert asks(api, "PUT", "/nic/s1", {"queues": 2})[0] == 200
    status, nics = asks(api, "GET", "/nic")
    assert (status, set(nics), nics["s1"]["queues"], nics["s2"]) == (200, {"s1", "s2"}, 2, {})


# --- what a change changed ---


@pytest.mark.parametrize(
    ("intent", "expected", "lines"),
    [
        (INTENT, {}, []),
        (
            {**INTENT, "offload": {"gro": False}},
            {"offload.gro": {"old": True, "new": False}},
            ["offload.gro: true -> false"],
        ),
        (
            with_vms(vm1={**INTENT["vms"]["vm1"], "port": 9, "ip": None}),
            {"vms.vm1.port": {"old": 2, "new": 9}, "vms.vm1.ip": {"old": "10.0.0.1", "new": None}},
            ["vms.vm1.port: 2 -> 9", 'vms.vm1.ip: "10.0.0.1" -> null'],
        ),
        (
            with_vms(vm2=None),
            {"vms.vm2": {"old": {**INTENT["vms"]["vm2"], **DEFAULTS}}},
            ["vms.vm2: removed"],
        ),
        (
            with_vms(vm3=VM3),
            {"vms.vm3": {"new": {**VM3, "ip": None, **DEFAULTS}}},
            ["vms.vm3: added"],
        ),
        (
            {**INTENT, "offload": {"overrides": [OVERRIDE]}},
            {"offload.overrides": {"old": [], "new": [OVERRIDE]}},
            ['offload.overrides: [] -> [{"server": "s1", "port": 1, "gro": false, "queue": 0}]'],
        ),
    ],
    ids=["nothing", "a value", "two values", "an entry that went", "an entry that came", "a list"],
)  # fmt: skip
def test_an_answer_says_what_changed(
    api: RestApi, intent: dict[str, Any], expected: dict[str, Any], lines: list[str]
) -> None:
    nobody = {"not_connected": ["s1", "s2"]}
    answer = {"revision": from_object(intent).revision(), "changes": expected, **nobody}
    assert asks(api, "POST", "/intent/check", intent) == (200, answer)
    assert asks(api, "PUT", "/intent", intent) == (200, {**answer, "steps": {}})
    assert sentences(expected) == lines
    assert asks(api, "PUT", "/intent", intent)[1]["changes"] == {}


def test_a_long_list_is_a_short_line() -> None:
    (line,) = sentences({"nic.s1.rss.indirection": {"old": None, "new": [0, 1] * 64}})
    assert line.startswith("nic.s1.rss.indirection: null -> [0, 1, ") and line.endswith("…")
    assert len(line) < 110


@settings(max_examples=40)
@given(intents(), intents())
def test_the_changes_lead_from_one_intent_to_the_other(old: Intent, new: Intent) -> None:
    document = old.to_object()
    for path, change in changes(old, new).items():
        assert set(change) <= {"old", "new"}
        *folders, last = path.split(".")
        place = document
        for folder in folders:
            place = place[folder]
        assert place.pop(last, None) == change.get("old")
        if "new" in change:
            place[last] = change["new"]
    assert document == new.to_object()


@pytest.mark.parametrize(
    ("method", "path", "body", "changed"),
    [
        ("PUT", "/nic/s1", {"queues": 2}, {"nic.s1"}),
        ("PATCH", "/nic/s1", {"queues": 2}, {"nic.s1"}),
        ("DELETE", "/nic/s1", None, set()),
        ("PUT", "/formats/mine", {"outer_proto": 99, "opaque_len": 0}, {"formats.mine"}),
    ],
)
def test_so_does_every_other_request_that_changes_something(
    api: RestApi, method: str, path: str, body: Any, changed: set[str]
) -> None:
    status, answer = asks(api, method, path, body)
    assert (status, set(answer["changes"]), answer["steps"]) == (200, changed, {})


# --- the intent file ---


def test_an_edited_file_is_read_again_on_request(controller: Controller, tmp_path: Path) -> None:
    file = tmp_path / "intent.yaml"
    api = rest_api(controller, lambda: intent_file.read(file))
    file.write_text(YAML + "offload: {gro: false}\n")
    status, answer = asks(api, "POST", "/intent/reload")
    assert (status, answer["changes"]) == (200, {"offload.gro": {"old": True, "new": False}})
    for text, problem in (
        (YAML + "offload: {gor: false}\n", "offload.gor: is not a known key, the nearest is 'gro' ("),
        ("vms: [", "intent: line 1, column 7: "),
        (None, "No such file or directory"),
    ):
        file.unlink() if text is None else file.write_text(text)
        status, answer = asks(api, "POST", "/intent/reload")
        assert status == 400 and answer["error"].startswith(f"{file}: {problem}")
        assert controller.intent.offload.gro is False


# --- counters ---


def test_counters_of_all_switches_and_of_one(controller: Controller) -> None:
    counted = {1: {"reasons": {"no_rule": 3}, "ports": {}, "queues": {}}, 2: {"error": "it is not connected"}}
    asked = []

    def ask(dpids: list[int]) -> dict[int, Any]:
        asked.append(dpids)
        return {dpid: counted[dpid] for dpid in dpids}

    api = rest_api(controller, counters=ask)
    assert asks(api, "GET", "/counters") == (200, {"s1": counted[1], "s2": counted[2]})
    assert asks(api, "GET", "/counters/s1") == (200, counted[1])
    assert asks(api, "GET", "/counters/s2") == (503, {"error": "s2: it is not connected"})
    assert asks(api, "GET", "/counters/s3") == (
        404,
        {"error": "there is no switch 's3' (there are: s1, s2)"},
    )
    assert asked == [[1, 2], [1], [2]]  # all at once


# --- wrong words ---


@pytest.mark.parametrize(
    ("method", "path", "query", "status", "sentence"),
    [
        ("GET", "/intnet", "", 404, "/intnet: there is no such path, the nearest is '/intent' (allowed: /, "),
        ("GET", "/intent/", "", 404, "/intent/: there is no such path, the nearest is '/intent' ("),
        ("POST", "/intent/realod", "", 404, "/intent/realod: there is no such path, the nearest is '/intent"),
        ("GET", "/nics/s1", "", 404, "/nics/s1: there is no such path, the nearest is '/nic/s1' ("),
        ("GET", "/Status", "", 404, "/Status: there is no such path, the nearest is '/status' ("),
        ("GET", "/xyzzy", "", 404, "/xyzzy: there is no such path (allowed: /, /intent, "),
        ("GET", "/nic/s1/queues", "", 404, "/nic/s1/queues: there is no such path"),
        ("GET", "/nic/s11", "", 404, "there is no server 's11', the nearest is 's1' (there are: s1, s2)"),
        ("PTU", "/intent", "", 405, "/intent: there is no method 'PTU', the nearest is 'PUT' (allowed: GET,"),
        ("get", "/intent", "", 405, "/intent: there is no method 'get', the nearest is 'GET' (allowed: GET,"),
        ("DELETE", "/", "", 405, "/: there is no method 'DELETE' (allowed: GET)"),
        ("GET", "/status", "verbose=1", 400, "GET /status: there is no parameter 'verbose' (allowed: none)"),
        ("GET", "/nic/s1", "x", 400, "GET /nic/s1: there is no parameter 'x' (allowed: none)"),
        ("PUT", "/intent", "dry%20run=1", 400, "PUT /intent: there is no parameter 'dry run' (allowed: no"),
    ],
)  # fmt: skip
def test_a_wrong_word_in_a_request(
    api: RestApi, method: str, path: str, query: str, status: int, sentence: str
) -> None:
    code, answer = api.answer(method, path, b"", query)
    assert (code.value, answer["error"][: len(sentence)]) == (status, sentence)


@pytest.mark.parametrize("request_", ["GET /status", "DELETE /nic/s1", "POST /intent/reload"])
def test_a_body_that_nobody_would_read(api: RestApi, request_: str) -> None:
    status, answer = api.answer(*request_.split(), body=b'{"gro": false}')
    assert (status.value, answer) == (400, {"error": f"{request_}: takes no body"})


def test_a_client_sees_status_and_json(api: RestApi) -> None:
    seen: list[Any] = []
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/status",
        "QUERY_STRING": "verbose=1",
        "wsgi.input": io.BytesIO(),
    }
    (body,) = api(environ, lambda status, headers: seen.append((status, dict(headers))))
    assert seen == [
        ("400 Bad Request", {"Content-Type": "application/json", "Content-Length": str(len(body))})
    ]
    assert json.loads(body) == {"error": "GET /status: there is no parameter 'verbose' (allowed: none)"}


# --- line breaks ---


def stripped(text: str) -> bytes:
    """As `curl -d @FILE` sends a file: without line breaks."""
    return re.sub(r"[\r\n]", "", text).encode()


@pytest.mark.parametrize(
    "text",
    [
        YAML,
        YAML.replace("\n", "\r\n"),
        "offload:\n  gro: false\n",
        "proactive_reverse: true\noffload: {gro: false}\n",
        "virtual_networks: {}\nservers: {}\n",
        "---\n" + YAML,
        "# what the lab is to do\n" + YAML,
        "servers: {}   # none yet\n" + YAML.partition("vms")[0],
        YAML.replace("vms:", "vms:  # two of them"),
        "offload:\n- server: s1\n  port: 1\n",
    ],
)
def test_yaml_that_lost_its_line_breaks_is_refused_with_the_remedy(api: RestApi, text: str) -> None:
    before = asks(api, "GET", "/intent")
    for method, path in (("PUT", "/intent"), ("POST", "/intent/check"), ("PUT", "/nic/s1")):
        status, answer = api.answer(method, path, stripped(text))
        assert status == 400 and HINT in answer["error"], answer
    assert asks(api, "GET", "/intent") == before


@pytest.mark.parametrize(
    "body",
    [
        YAML,
        YAML.replace("\n", "\r\n"),
        json.dumps(yaml.safe_load(YAML)),
        stripped(json.dumps(yaml.safe_load(YAML), indent=2)).decode(),
        "# a comment\n" + YAML + "# and another\n",
        "virtual_networks: {'blue # 1': {vni: 1}}".replace(" # ", "_"),
        '{"offload": {"gro": false}} # off',
    ],
)
def test_what_has_them_or_needs_none_is_taken(api: RestApi, body: str) -> None:
    status, answer = api.answer("PUT", "/intent", body.encode())
    assert status == 200, answer
    assert asks(api, "GET", "/intent")[1] == json.loads(json.dumps(from_yaml(body).to_object()))


@pytest.mark.parametrize(
    "body", [b"vms: [", b'{"vms": {"a": {"b": [}}', b"[a: 1, b: 2, c", b"a: b\nc: [d: e: f"]
)
def test_another_mistake_is_not_blamed_on_curl(api: RestApi, body: bytes) -> None:
    status, answer = api.answer("PUT", "/intent", body)
    assert status == 400 and "curl" not in answer["error"]


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(VSwitchError, match=f"^{tmp_path}: Is a directory$"):
        intent_file.read(tmp_path)
