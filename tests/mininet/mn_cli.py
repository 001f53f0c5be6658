# SPDX-License-Identifier: Apache-2.0
"""Drives `mn` as a user at its prompt does, in namespaces of its own.

`mn` can end processes and remove files by name, on the whole machine: what it can reach in these tests is its
own PID, network and mount namespace, in which /tmp is read-only.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path

from tests.patience import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
MN = Path(sys.executable).parent / "mn"
PROMPT = "mininet> "
ISOLATE = (
    "mount --bind /tmp /tmp && mount -o remount,bind,ro /tmp && ip link set lo up && "
    'cd "$0" && TMPDIR=/run exec "$@"'
)
TWO_SERVERS = ("--topo", "two_servers", "--switch", "vswitch", "--controller", "orchestrator")


def isolated(*argv: str) -> list[str]:
    """A command line that runs `argv` where it can reach nothing of the machine's."""
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--mount", "--net"]
    return [*unshare, "sh", "-c", ISOLATE, str(ROOT), *argv]


def prepared(first: str, *argv: str) -> list[str]:
    """As `isolated`, after a shell's line."""
    return isolated("sh", "-c", f'{first} && exec "$@"', "sh", *argv)


class MnCli:
    """`mn` with our custom file and the given options; `enter` sends a line and returns what it printed.

    first: a shell's line that is to prepare its namespaces.
    """

    def __init__(self, *options: str, first: str = "true") -> None:
        self.process = subprocess.Popen(
            prepared(first, str(MN), "--custom", "topologies/mn.py", *options),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.greeting = self._until_prompt(90)

    def __enter__(self) -> MnCli:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def enter(self, line: str, timeout_s: float = 30) -> str:
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()
        return self._until_prompt(timeout_s)

    def leave(self) -> str:
        """`exit`; returns the rest of the output."""
        rest = self.enter("exit")
        self.process.wait(PATIENCE_S)
        return rest

    def _until_prompt(self, timeout_s: float) -> str:
        """Output up to the next prompt, or to the end."""
        assert self.process.stdout
        output, deadline = "", time.monotonic() + timeout_s
        while not output.endswith(PROMPT):
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"mn gave no prompt within {timeout_s:g} s: {output[-2000:]}")
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                break
            output += data.decode(errors="replace")
        return output.removesuffix(PROMPT)


def run_mn(*options: str, timeout_s: float = 60, first: str = "true") -> subprocess.CompletedProcess:
    """Run `mn` to its end without input. first: as of MnCli."""
    return subprocess.run(
        prepared(first, str(MN), "--custom", "topologies/mn.py", *options),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
