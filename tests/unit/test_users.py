# SPDX-License-Identifier: Apache-2.0
"""Whom a lab's controllers run as, and whose its files are."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

import pytest

from topologies import users
from topologies.errors import LabError
from topologies.users import NOBODYS_IDS, User
from vswitch.privileges import Capability

GROUP = 61200


@pytest.fixture(autouse=True)
def root_has_logged_in(monkeypatch):
    for name in ("SUDO_UID", "SUDO_GID"):
        monkeypatch.delenv(name, raising=False)


def controllers_user(wanted=None):
    return users.controllers_user("c0", wanted, GROUP)


def test_without_sudo_it_is_nobody_with_an_account():
    assert controllers_user() == User(GROUP, GROUP)


def test_with_sudo_it_is_the_caller(monkeypatch):
    monkeypatch.setenv("SUDO_UID", "1000")
    monkeypatch.setenv("SUDO_GID", "100")
    assert controllers_user() == User(1000, GROUP, (100,))


@pytest.mark.parametrize("caller", [("0", "0"), ("", ""), ("-1", "5"), ("1000", ""), ("a", "b")])
def test_sudo_by_root_or_nonsense_is_as_without(monkeypatch, caller):
    monkeypatch.setenv("SUDO_UID", caller[0])
    monkeypatch.setenv("SUDO_GID", caller[1])
    assert controllers_user() == User(GROUP, GROUP)


@pytest.mark.parametrize("wanted", ["nobody", str(pwd.getpwnam("nobody").pw_uid), "root", 0])
def test_another_may_be_asked_for(monkeypatch, wanted):
    monkeypatch.setenv("SUDO_UID", "1000")
    monkeypatch.setenv("SUDO_GID", "100")
    account = pwd.getpwnam("root" if wanted in ("root", 0) else "nobody")
    assert controllers_user(wanted) == User(account.pw_uid, GROUP, (account.pw_gid,))


@pytest.mark.parametrize("wanted", ["nobody-at-all", "", 4_000_000_000, "-1"])
def test_who_is_not_there_is_refused(wanted):
    with pytest.raises(LabError, match=f"^c0: there is no user '{wanted}'$"):
        controllers_user(wanted)


@pytest.mark.root
def test_a_labs_group_is_no_accounts_and_no_other_labs(tmp_path, monkeypatch):
    first = users.free_group(tmp_path)
    assert first in NOBODYS_IDS
    with pytest.raises(KeyError):
        grp.getgrgid(first)
    users.make_folder(tmp_path / "lab", first)
    second = users.free_group(tmp_path)
    assert second != first
    monkeypatch.setattr(pwd, "getpwuid", lambda number: number)
    with pytest.raises(LabError, match="no group is free"):
        users.free_group(tmp_path)


@pytest.mark.root
@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_modes_do_not_follow_the_umask_to_the_world(tmp_path, umask):
    before = os.umask(umask)
    try:
        folder = tmp_path / "labs" / "lab"
        users.make_folder(folder, GROUP)
        with users.create(folder / "file") as file:
            file.write("text")
    finally:
        os.umask(before)
    assert (stat.S_IMODE(folder.stat().st_mode), folder.stat().st_gid) == (0o750, GROUP)
    assert not stat.S_IMODE((folder / "file").stat().st_mode) & ~0o640
    with users.create(folder / "file", "a") as file:
        file.write("more")
    assert (folder / "file").read_text() == "textmore"


def test_a_folder_that_is_there_stays_as_it_is(tmp_path):
    tmp_path.chmod(0o711)
    users.make_folder(tmp_path, GROUP)
    assert (stat.S_IMODE(tmp_path.stat().st_mode), tmp_path.stat().st_gid) == (0o711, os.getegid())


@pytest.mark.root
def test_a_user_needs_nothing_to_read_what_is_open_to_it(tmp_path):
    file = tmp_path / "file"
    file.write_text("text")
    user = User(GROUP, GROUP)
    assert users.needed_to_read([Path("/"), Path("/etc/passwd")], user) == set()
    assert users.needed_to_read([Path("/"), file], user) == {Capability.DAC_READ_SEARCH}  # tmp_path is 0700
    assert users.needed_to_read([file], User(0, 0)) == set()
