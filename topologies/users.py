# SPDX-License-Identifier: Apache-2.0
"""Whom the processes of a lab run as that need no root, and files that are not for all users to read.

Why each keeps what it keeps: docs/explanation/privileges.md.
"""

from __future__ import annotations

import contextlib
import grp
import itertools
import os
import pwd
from collections.abc import Iterable
from pathlib import Path
from typing import IO, NamedTuple

from topologies.errors import LabError
from vswitch.privileges import Capability, readable

NOBODYS_IDS = range(61184, 65520)
"""Where no account is: systemd(8) gives numbers from here to services while they run, as we do to labs."""

FOLDER_MODE, FILE_MODE = 0o750, 0o640


class User(NamedTuple):
    """A user, its main group, and the others that it is in."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


def free_group(labs_dir: Path) -> int:
    """The number of a group that nobody is in: no account, nor another lab, whose folder would have it."""
    start = os.getpid() % len(NOBODYS_IDS)
    taken = set()
    for folder in labs_dir.glob("*/"):
        with contextlib.suppress(FileNotFoundError):  # its lab ends
            taken.add(folder.stat().st_gid)
    for number in itertools.chain(NOBODYS_IDS[start:], NOBODYS_IDS[:start]):
        if number not in taken and not _has_account(number):
            return number
    raise LabError(f"no group is free: all of {NOBODYS_IDS.start} to {NOBODYS_IDS.stop - 1} are in use")


def _has_account(number: int) -> bool:
    for look_up in (pwd.getpwuid, grp.getgrgid):
        with contextlib.suppress(KeyError):
            look_up(number)
            return True
    return False


def controllers_user(where: str, wanted: str | int | None, group: int) -> User:
    """Whom a controller runs as, in the group of its lab: the user that is asked for, or else who called
    sudo, whose files it may then read, or else a user that no account has. Raises LabError."""
    if wanted is not None:
        account = _account(where, str(wanted))
        return User(account.pw_uid, group, (account.pw_gid,))
    caller, callers_group = (os.environ.get(name, "") for name in ("SUDO_UID", "SUDO_GID"))
    if caller.isdecimal() and callers_group.isdecimal() and int(caller):
        return User(int(caller), group, (int(callers_group),))
    return User(group, group)


def _account(where: str, name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        raise LabError(f"{where}: there is no user {name!r}") from None


def needed_to_read(paths: Iterable[Path], user: User) -> set[Capability]:
    """What a user needs to read files and folders: nothing, unless some are closed to it."""
    groups = {user.gid, *user.groups}
    closed = any(not readable(path, user.uid, groups) for path in paths)
    return {Capability.DAC_READ_SEARCH} if closed else set()


def make_folder(path: Path, group: int) -> None:
    """Make a run folder, which users outside its group cannot enter; one that is there stays as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(FOLDER_MODE)
    except FileExistsError:
        return
    path.chmod(FOLDER_MODE)  # whatever the umask
    os.chown(path, -1, group)


def create(path: Path, mode: str = "w") -> IO[str]:
    """Open a file of a run folder to write to it; it is made if it is missing."""
    return open(path, mode, opener=_private)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, FILE_MODE)
