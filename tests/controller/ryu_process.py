# SPDX-License-Identifier: Apache-2.0
"""The controller as a process of its own, for tests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ryu_apps.core.intent import from_object
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("MININET_OFFLOAD_RYU_PYTHON", ROOT / ".venv-ryu/bin/python"))
"""MININET_OFFLOAD_RYU_PYTHON: another environment to try, e.g. with os-ken."""

needs_ryu = pytest.mark.skipif(
    not PYTHON.exists(), reason="the controller's .venv-ryu is not there: make setup"
)

INTENT: dict[str, Any] = {
    "virtual_networks": {"blue": {"vni": 42}},
    "servers": {
        "s1": {"dpid": 1, "underlay_ip": "192.168.0.1", "uplink_port": 1},
        "s2": {"dpid": 2, "underlay_ip": "192.168.0.2", "uplink_port": 1},
    },
    "vms": {
        "vm1": {"server": "s1", "port": 2, "network": "blue", "mac": "00:00:00:00:00:01", "ip": "10.0.0.1"},
        "vm2": {"server": "s2", "port": 2, "network": "blue", "mac": "00:00:00:00:00:02", "ip": "10.0.0.2"},
    },
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RyuProcess:
    """`python -m ryu_apps` in the controller's own environment."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "intent.yaml"
        self.file.write_text(yaml.safe_dump(INTENT))
        self.log = folder / "ryu.log"
        self.token_file = folder / "ryu.token"
        self.ofp_port, self.rest_port = free_port(), free_port()
        self.process: subprocess.Popen | None = None

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess:
        return subprocess.run(
            [PYTHON, "-m", "ryu_apps", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            **options,
        )

    def start(self, *arguments: str) -> None:
        ports = ["--ofp-port", str(self.ofp_port), "--rest-port", str(self.rest_port)]
        token = [] if "--no-token" in arguments else ["--token-file", self.token_file]
        command = [PYTHON, "-m", "ryu_apps", *(arguments or ("--intent", self.file)), *ports, *token]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        assert self.process
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def end(self) -> None:
        """Kill it if it still runs."""
        if not self._ended():
            self.kill()

    def rest(
        self, method: str, path: str, body: str = "", authorization: str | None = None
    ) -> tuple[int, dict[str, Any]]:
        """A request, with the token unless another header is given; an empty one leaves it out."""
        self._await_rest()
        shown = f"Bearer {self.token_file.read_text().strip()}" if authorization is None else authorization
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.rest_port}{path}",
            body.encode() or None,
            {"Authorization": shown} if shown else {},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def _await_rest(self) -> None:
        """Return when the controller takes requests: it serves OpenFlow a little before."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.rest_port)):
                    return
            except ConnectionRefusedError:
                assert not self._ended() and time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.02)

    def _ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def status(self, switch: str) -> dict[str, Any]:
        return self.rest("GET", "/status")[1]["switches"][switch]

    def wait_for_status(self, switch: str, what: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        while not what(status := self.status(switch)):
            assert time.monotonic() < deadline, f"{status}\n{self.log.read_text()}"
            time.sleep(0.02)
        return status


def revision(document: dict[str, Any]) -> int:
    return from_object(document).revision()
