# SPDX-License-Identifier: Apache-2.0
"""One client of the REST interface cannot stall the others: what takes long is computed aside, and who says
nothing is disconnected."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ryu_apps.rest import MAX_BODY
from tests.controller.ryu_process import PYTHON, ROOT, RyuProcess, free_port, needs_ryu
from tests.patience import PATIENCE_S

pytestmark = needs_ryu
SERVERS, VMS_EACH = 200, 4
IMPATIENT = """
import sys
from ryu_apps import framework
framework.SILENCE_S = 0.5
framework.prepare(framework.installed())
from ryu_apps.framework import load
def application(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
load("lib.hub").WSGIServer(("127.0.0.1", int(sys.argv[1])), application).serve_forever()
"""


@pytest.fixture
def ryu(tmp_path: Path) -> Iterator[RyuProcess]:
    process = RyuProcess(tmp_path)
    yield process
    process.end()


def large_intent() -> dict[str, Any]:
    """An intent of many servers."""
    return {
        "virtual_networks": {f"n{number}": {"vni": number + 1} for number in range(SERVERS)},
        "servers": {
            f"s{number}": {
                "dpid": number + 1,
                "underlay_ip": f"10.0.{number}.1",
                "uplink_port": 1,
            }
            for number in range(SERVERS)
        },
        "vms": {
            f"vm{number}-{port}": {
                "server": f"s{number}",
                "port": port,
                "network": f"n{number}",
                "mac": f"02:00:00:00:{number:02x}:{port:02x}",
            }
            for number in range(SERVERS)
            for port in range(2, 2 + VMS_EACH)
        },
    }


def test_a_large_intent_delays_no_other_request(ryu: RyuProcess) -> None:
    """It takes seconds; others are answered meanwhile. (Loaded machines are slow: what counts is that none
    waits for the large one.)"""
    ryu.start()
    assert ryu.rest("GET", "/status")[0] == 200
    body = json.dumps(large_intent())
    assert len(body) < MAX_BODY
    answers: list[tuple[int, Any]] = []
    check = threading.Thread(target=lambda: answers.append(ryu.rest("POST", "/intent/check", body)))
    began = time.monotonic()
    check.start()
    longest, count = 0.0, 0
    while check.is_alive():
        asked = time.monotonic()
        assert ryu.rest("GET", "/formats")[0] == 200
        longest, count = max(longest, time.monotonic() - asked), count + 1
    assert answers[0][0] == 200, answers
    print(f"{count} requests, the longest took {longest:.3f} s of {time.monotonic() - began:.1f} s")
    assert count > 5 and longest < (time.monotonic() - began) / 2


def test_too_long_a_body_is_refused_unread(ryu: RyuProcess) -> None:
    ryu.start("--no-token", "--intent", ryu.file)
    assert ryu.rest("GET", "/status", authorization="")[0] == 200
    for length in (MAX_BODY + 1, 1 << 60):
        with socket.create_connection(("127.0.0.1", ryu.rest_port), PATIENCE_S) as client:
            client.sendall(f"PUT /intent HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode())
            assert b" 413 " in client.recv(1 << 16)


@pytest.mark.parametrize(
    "said",
    [b"", b"GET /", b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"],
    ids=["nothing", "line", "body"],
)
def test_who_says_nothing_more_is_disconnected(said: bytes) -> None:
    port = free_port()
    with subprocess.Popen(
        [PYTHON, "-c", IMPATIENT, str(port)], cwd=ROOT, stderr=subprocess.DEVNULL
    ) as server:
        try:
            client = None
            deadline = time.monotonic() + PATIENCE_S
            while client is None and time.monotonic() < deadline:
                try:
                    client = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
                except OSError:
                    time.sleep(0.05)
            assert client is not None
            with client:
                client.sendall(said)
                while client.recv(1 << 16):
                    pass  # an error page, perhaps
        finally:
            server.kill()
