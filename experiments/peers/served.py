# SPDX-License-Identifier: Apache-2.0
"""A back end of another checkout: its own topology, switches, controller and rules, from its own code.

It runs in a process of the other checkout's Python (`server.py`), in a namespace of its own, where neither
interfaces nor ports can clash with ours.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.checkout import Checkout
from experiments.errors import ExperimentError
from experiments.iperf import Endpoint
from experiments.peers.base import BackEnd, Servers, Variant
from experiments.plan import OTHER
from experiments.system import Namespace
from topologies.processes import end, spawn

SERVER = Path(__file__).with_name("server.py")
STOPPING_S = 10.0


class Served(BackEnd):
    """checkout: the one that it is of. kind: our back end of the same module and name."""

    checkout: Checkout
    kind: type[BackEnd]

    def __init__(self, servers: Servers) -> None:
        super().__init__(servers)
        self.namespace: Namespace | None = None
        self.process: subprocess.Popen | None = None
        self.run_dir = servers.run_dir / OTHER  # in which the back end has a folder of its name

    def start(self) -> None:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.namespace = Namespace()
        arguments = [self.kind.__module__, self.kind.__name__]
        cores = [sorted(self.servers.first), sorted(self.servers.second)]
        with self._log.open("w") as log:
            self.process = spawn(
                [
                    str(self.checkout.python),
                    "-c",
                    SERVER.read_text(),
                    json.dumps([*arguments, *cores, str(self.run_dir)]),
                ],
                pid=self.namespace.pid,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.checkout.environment(),
                cwd=self.checkout.root,
            )
        self._call("start")

    def stop(self) -> None:
        process, self.process = self.process, None
        if process:
            end(process, STOPPING_S)
            for pipe in (process.stdin, process.stdout):
                assert pipe
                pipe.close()
        if self.namespace:
            self.namespace.close()
            self.namespace = None

    def variants(self) -> list[Variant]:
        return self.kind(self.servers).variants()

    def quick_variants(self) -> list[Variant]:
        return self.kind(self.servers).quick_variants()

    def use(self, variant: Variant) -> None:
        self._call("use", asdict(variant))

    def prepare(self, config: dict[str, Any]) -> None:
        self._call("prepare", config)

    def endpoints(self) -> tuple[Endpoint, Endpoint]:
        first, second = (
            Endpoint(pid, ip, None if cpus is None else frozenset(cpus), window)
            for pid, ip, cpus, window in self._call("endpoints")
        )
        return first, second

    def counters(self) -> dict[str, int]:
        return self._call("counters")

    def _call(self, method: str, *arguments: Any) -> Any:
        process = self.process
        assert process and process.stdin and process.stdout
        try:
            process.stdin.write(json.dumps([method, arguments]).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            raise ExperimentError(f"the back end of {self.checkout.root} ended: {self._last_words()}")
        result, problem = json.loads(line)
        if problem:
            raise ExperimentError(f"in {self.checkout.root}: {problem}")
        return result

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else f"it said nothing; its folder is {self.run_dir}"

    @property
    def _log(self) -> Path:
        return self.run_dir / f"{self.kind.name}.log"


def served_by(checkout: Checkout, kind: type[BackEnd]) -> type[BackEnd]:
    """The back end of that checkout which has our `kind`'s module and name."""
    return type(
        kind.__name__, (Served,),
        {"name": f"{OTHER}-{kind.name}", "programs": kind.programs, "checkout": checkout, "kind": kind},
    )  # fmt: skip
