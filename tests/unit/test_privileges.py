# SPDX-License-Identifier: Apache-2.0
"""Giving up capabilities, as the kernel tells of it (/proc/PID/status), and who can read what without any."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

from vswitch import privileges
from vswitch.privileges import Capability

pytestmark = pytest.mark.root

NOBODY, GROUP, OTHER_GROUP = 65534, 61200, 61201
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def status_of(text):
    """The capability sets, as sets of numbers, and NoNewPrivs."""
    lines = dict(line.split(":", 1) for line in text.splitlines())
    masks = {name: int(lines[name], 16) for name in SETS}
    sets = {name: {bit for bit in range(64) if mask >> bit & 1} for name, mask in masks.items()}
    return {**sets, "NoNewPrivs": int(lines["NoNewPrivs"])}


def in_thread(function):
    """What a thread's status is after a function; capabilities are a thread's."""
    heard = []

    def run():
        function()
        heard.append(status_of(Path("/proc/thread-self/status").read_text()))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return heard[0]


def without_sets(kept):
    return {"CapInh": set(), "CapPrm": kept, "CapEff": kept, "CapBnd": kept, "CapAmb": set()}


@pytest.mark.parametrize("kept", [set(), {Capability.NET_ADMIN}, set(Capability)])
def test_a_thread_keeps_only_what_it_is_told_to(kept):
    before = status_of(Path("/proc/thread-self/status").read_text())
    assert in_thread(lambda: privileges.keep_only(kept)) == {**without_sets(kept), "NoNewPrivs": 0}
    assert status_of(Path("/proc/thread-self/status").read_text()) == before


def test_what_is_given_up_does_not_come_back():
    def try_again():
        privileges.keep_only({Capability.NET_ADMIN})
        privileges.keep_only()
        privileges.keep_only({Capability.NET_ADMIN, Capability.DAC_READ_SEARCH})

    assert in_thread(try_again)["CapPrm"] == set()


def test_a_program_of_root_gets_nothing_back():
    def run():
        privileges.forbid_gaining()
        privileges.keep_only({Capability.NET_ADMIN})
        texts.append(subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout)

    texts = []
    assert in_thread(run)["NoNewPrivs"] == 1
    assert status_of(texts[0]) == {**without_sets({Capability.NET_ADMIN}), "NoNewPrivs": 1}


def test_without_the_right_to_narrow_the_bounding_set_a_program_gets_nothing_either():
    def run():
        privileges.forbid_gaining()
        privileges._set(0, 0, 0)
        privileges.keep_only()
        texts.append(subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout)

    texts = []
    in_thread(run)
    status = status_of(texts[0])
    assert status["CapBnd"] and not status["CapPrm"] and not status["CapEff"]


def as_user(argv, user=NOBODY, group=GROUP, groups=(OTHER_GROUP,), kept=()):
    return subprocess.run(
        argv, preexec_fn=lambda: privileges.become(user, group, groups, kept), capture_output=True, text=True
    )


@pytest.mark.parametrize("kept", [(), (Capability.DAC_READ_SEARCH,)])
def test_a_program_becomes_another_users(kept):
    text = as_user(["cat", "/proc/self/status"], kept=kept).stdout
    assert status_of(text) == {**{name: set(kept) for name in SETS}, "NoNewPrivs": 1}
    lines = dict(line.split(":", 1) for line in text.splitlines())
    assert lines["Uid"].split() == [str(NOBODY)] * 4
    assert lines["Gid"].split() == [str(GROUP)] * 4
    assert lines["Groups"].split() == [str(OTHER_GROUP)]


@pytest.fixture
def folder():
    """One that others may enter, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        yield Path(path).resolve()


def test_the_right_to_read_all_lets_read_and_nothing_else(folder):
    secret = folder / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    may_read = (Capability.DAC_READ_SEARCH,)
    assert as_user(["cat", secret]).returncode != 0
    assert as_user(["cat", secret], kept=may_read).stdout == "secret"
    assert as_user(["sh", "-c", f"echo x > {secret}"], kept=may_read).returncode != 0


@pytest.mark.parametrize("owner", [(0, 0), (NOBODY, 0), (0, GROUP), (0, OTHER_GROUP)])
@pytest.mark.parametrize("folder_mode", [0o700, 0o710, 0o701, 0o077, 0o755])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o604, 0o044])
def test_who_can_read_is_told_as_the_kernel_does(folder, owner, folder_mode, mode):
    inner = folder / "inner"
    inner.mkdir()
    file = inner / "file"
    file.write_text("text")
    link = folder / "link"
    link.symlink_to(file)
    for path, path_mode in ((file, mode), (inner, folder_mode)):
        os.chown(path, *owner)
        path.chmod(path_mode)
    expected = _read_by_nobody(file)
    assert privileges.readable(file, NOBODY, {GROUP, OTHER_GROUP}) is expected
    assert privileges.readable(link, NOBODY, {GROUP, OTHER_GROUP}) is expected


def _read_by_nobody(file):
    """Whether a child without privileges reads it; without exec, since there are many."""
    child = os.fork()
    if not child:
        try:
            privileges.become(NOBODY, GROUP, [OTHER_GROUP])
            os.close(os.open(file, os.O_RDONLY))
            os._exit(0)
        except OSError:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
