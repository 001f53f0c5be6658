# SPDX-License-Identifier: Apache-2.0
"""For all tests: `root` tests are skipped for other users, and nothing of ours may outlive the session."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.patience import PATIENCE_S

MARK = "MININET_OFFLOAD_TEST_SESSION"
"""Every process that a test starts inherits this environment variable, however it is started."""

# The same examples each time, so that a test that fails has its change to blame; at night, new ones.
settings.register_profile(
    "default",
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "nightly", parent=settings.get_profile("default"), derandomize=False, max_examples=2000
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="needs root: network namespaces and TAP devices")
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(skip)


def pytest_sessionstart(session: pytest.Session) -> None:
    if _distributes(session.config):
        return
    os.environ[MARK] = secrets.token_hex(8)
    session.config.stash[_BEFORE] = _belongings()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Where processes of pytest-xdist run the tests, each looks at its own; this one tells what they told."""
    stash = session.config.stash
    if not _distributes(session.config):
        stash[_LEFT] = _left_behind(stash[_BEFORE])
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[_LEFT_BEHIND] = stash[_LEFT]
    if stash.get(_LEFT, []) and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object | None) -> None:
    """A process of pytest-xdist has ended, and tells what its tests left behind."""
    stash = node.config.stash
    stash[_LEFT] = [*stash.get(_LEFT, []), *getattr(node, "workeroutput", {}).get(_LEFT_BEHIND, [])]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for what in config.stash.get(_LEFT, []):
        terminalreporter.write_line(f"ERROR the tests left behind: {what}", red=True)


def _distributes(config: pytest.Config) -> bool:
    """Is this the process that gives tests to those of pytest-xdist?"""
    return not hasattr(config, "workerinput") and config.getoption("dist", "no") != "no"


_BEFORE = pytest.StashKey[set[str]]()
_LEFT = pytest.StashKey[list[str]]()
_LEFT_BEHIND = "left_behind"


def _left_behind(before: set[str]) -> list[str]:
    """What was not there before; processes get a moment to end."""
    deadline = time.monotonic() + PATIENCE_S
    while (left := sorted(_belongings() - before)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def _belongings() -> set[str]:
    """Processes of this session, and what a lab makes: namespaces, interfaces, wires, run folders."""
    found = {f"process {pid} ({_command(pid)})" for pid in _processes()}
    for kind, pattern in (
        ("namespace", "/run/netns/*"),
        ("interface", "/sys/class/net/*"),
        ("wire", "/dev/shm/mn-*"),
        ("run folder", "/run/mininet-offload/*"),
    ):
        folder, _, name = pattern.rpartition("/")
        found |= {f"{kind} {path}" for path in Path(folder).glob(name)}
    return found


def _processes() -> list[int]:
    """Other processes that carry this session's mark."""
    mark = f"{MARK}={os.environ[MARK]}".encode()
    marked = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if int(entry.name) != os.getpid() and mark in (entry / "environ").read_bytes().split(b"\0"):
                marked.append(int(entry.name))
        except OSError:
            continue  # ended meanwhile, or not ours to read
    return marked


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "ended"
