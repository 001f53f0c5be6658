# SPDX-License-Identifier: Apache-2.0
"""REST is for those who show the token, whatever they ask for; the token's file is for its owner only."""

from __future__ import annotations

import http.client
import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ryu_apps import access
from tests.controller.ryu_process import PYTHON, ROOT, RyuProcess, needs_ryu
from vswitch.errors import VSwitchError

SECRET = "correct-horse-battery-staple"


def asks(application: access.Wsgi, authorization: str | None) -> tuple[str, dict[str, str], Any]:
    """Status, headers and body of the answer."""
    heard: list[Any] = []
    environ = {} if authorization is None else {"HTTP_AUTHORIZATION": authorization}
    body = b"".join(application(environ, lambda status, headers: heard.extend((status, dict(headers)))))
    return heard[0], heard[1], json.loads(body)


def network(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """What is guarded."""
    start_response("200 OK", [("Content-Type", "application/json")])
    return [b'"the network"']


@pytest.fixture
def guarded(tmp_path: Path) -> access.Wsgi:
    return access.guarded(network, access.Token(SECRET, tmp_path / "c0.token"))


@pytest.mark.parametrize("authorization", [f"Bearer {SECRET}", f"bearer {SECRET}", f" Bearer  {SECRET} "])
def test_who_shows_the_token_is_served(guarded: access.Wsgi, authorization: str) -> None:
    assert asks(guarded, authorization)[::2] == ("200 OK", "the network")


@pytest.mark.parametrize(
    "authorization",
    [
        None, "", "Bearer", "Bearer ", SECRET, f"Basic {SECRET}", f"Bearer {SECRET[1:]}", f"Bearer {SECRET}x",
        f"Bearer {SECRET.upper()}", f"Bearer {SECRET} {SECRET}", "Bearer \u00e9\u20ac", f"Bearer\t{SECRET}",
    ],
)  # fmt: skip
def test_who_does_not_is_told_what_to_show(guarded: access.Wsgi, tmp_path: Path, authorization: str) -> None:
    status, headers, answer = asks(guarded, authorization)
    assert (status, headers["WWW-Authenticate"]) == ("401 Unauthorized", "Bearer")
    assert answer["error"].endswith(f"that stands in {tmp_path}/c0.token")
    assert SECRET not in str(answer)


def test_without_a_token_everybody_is_served() -> None:
    assert access.guarded(network, None) is network


def test_a_missing_file_is_made_for_its_owner_only(tmp_path: Path) -> None:
    made, other = (access.token(tmp_path / "of mine" / name) for name in ("a.token", "b.token"))
    assert stat.S_IMODE(made.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.file.parent.stat().st_mode) == 0o700
    assert len(made.value) >= 43 and made.value != other.value
    assert access.token(made.file) == made  # the next start goes on with it


def test_umask_does_not_open_it(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        made = access.token(tmp_path / "a.token")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(made.file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "text", ["", "\n", "short", f"two {SECRET}", f"{SECRET}\n{SECRET}", "é" * 20, "=" * 20]
)
def test_a_file_without_a_token_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.token"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(VSwitchError, match=f"{file} holds no token, .* remove the file"):
        access.token(file)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "a.token"
    file.write_text(SECRET)
    file.chmod(mode)
    with pytest.raises(VSwitchError, match=f"others than its owner may use .*: chmod 600 {file}"):
        access.token(file)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(VSwitchError, match=f"cannot use the token file {tmp_path}: Is a directory"):
        access.token(tmp_path)


@pytest.fixture
def ryu(tmp_path: Path) -> Any:
    process = RyuProcess(tmp_path)
    yield process
    process.end()


@needs_ryu
@pytest.mark.parametrize(
    "applications", [("--app", "ryu.app.ofctl_rest"), ("--intent", "FILE", "--app", "ryu.app.ofctl_rest")]
)
def test_every_path_of_the_controller_wants_the_token(ryu: RyuProcess, applications: tuple[str, ...]) -> None:
    """The overlay's, those of stock applications, and those that there are not."""
    if not list(PYTHON.parents[1].glob("lib/*/site-packages/ryu")):
        pytest.skip("os-ken has no such application")
    ryu.start(*(str(ryu.file) if word == "FILE" else word for word in applications))
    for method, path in (("GET", "/status"), ("PUT", "/intent"), ("GET", "/stats/switches"),
                         ("POST", "/stats/flowentry/add"), ("GET", "/nothing")):  # fmt: skip
        for shown in ("", "Bearer wrong"):
            code, answer = ryu.rest(method, path, "{}" * (method != "GET"), authorization=shown)
            assert (code, list(answer)) == (401, ["error"]), path
            assert str(ryu.token_file) in answer["error"]
    assert ryu.rest("GET", "/stats/switches")[0] == 200


@needs_ryu
def test_no_token(ryu: RyuProcess) -> None:
    ryu.start("--intent", str(ryu.file), "--no-token")
    assert ryu.rest("GET", "/status", authorization="")[0] == 200
    assert not ryu.token_file.exists()


@needs_ryu
def test_a_refused_body_does_not_disturb_the_next_request(ryu: RyuProcess) -> None:
    """On one connection: what was not read of the first is not taken for the second."""
    ryu.start()
    ryu.rest("GET", "/status")
    connection = http.client.HTTPConnection("127.0.0.1", ryu.rest_port, timeout=30)
    connection.request("PUT", "/intent", b"GET /status HTTP/1.1\r\n\r\n" * 5000)
    refused = connection.getresponse()
    assert (refused.status, list(json.loads(refused.read()))) == (401, ["error"])
    connection.request(
        "GET", "/status", headers={"Authorization": f"Bearer {access.token(ryu.token_file).value}"}
    )
    assert connection.getresponse().status == 200
    connection.close()


@needs_ryu
def test_the_file_by_default_is_told_and_is_in_the_home_folder(ryu: RyuProcess, tmp_path: Path) -> None:
    ports = ["--ofp-port", str(ryu.ofp_port), "--rest-port", str(ryu.rest_port)]
    with ryu.log.open("wb") as log:
        ryu.process = subprocess.Popen(
            [PYTHON, "-m", "ryu_apps", "--intent", ryu.file, *ports],
            cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "HOME": str(tmp_path)},
        )  # fmt: skip
    ryu.token_file = tmp_path / ".mininet-offload" / f"rest-{ryu.rest_port}.token"
    assert ryu.rest("GET", "/status")[0] == 200
    assert f"ryu_apps: REST requests need the token in {ryu.token_file}\n" in ryu.log.read_text()
