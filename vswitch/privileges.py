# SPDX-License-Identifier: Apache-2.0
"""What the kernel lets a process do (capabilities(7)), and giving it up for good.

Capabilities are a thread's: threads and programs that it starts afterwards have no more than it has then.
Why each process of a lab keeps what it keeps: docs/explanation/privileges.md.
"""

from __future__ import annotations

import ctypes
import enum
import os
import stat
import struct
from collections.abc import Collection, Iterable
from pathlib import Path

PR_SET_KEEPCAPS, PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 8, 23, 24, 38, 47
PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_CLEAR_ALL = 2, 4
_VERSION_3 = 0x20080522
_WORDS = struct.Struct(
    "=6I"
)  # effective, permitted, inheritable: the low 32 bits of each, then the high ones
_LIBC = ctypes.CDLL(None, use_errno=True)


class Capability(enum.IntEnum):
    """Those that a process of a lab may keep (linux/capability.h)."""

    DAC_READ_SEARCH = 2
    NET_ADMIN = 12


def forbid_gaining() -> None:
    """No program that this thread starts gets more rights than the thread has, setuid or not."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def keep_only(kept: Collection[Capability] = ()) -> None:
    """This thread has no other capabilities from now on, nor can it get them back."""
    _narrow_bounding_set(kept)
    mask = _mask(kept) & _permitted()
    _set(mask, mask, 0)


def become(user: int, group: int, groups: Iterable[int], kept: Collection[Capability] = ()) -> None:
    """Make this process another user's, with no other capabilities than these; for root, between fork and
    exec. The program that is then executed has them, too."""
    _narrow_bounding_set(kept)
    _prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups(list(groups))
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    mask = _mask(kept)
    _set(mask, mask, mask)
    for capability in kept:
        _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)
    forbid_gaining()


def readable(path: Path, user: int, groups: Collection[int]) -> bool:
    """Whether a user without capabilities can read a file, or list a folder."""
    path = path.resolve()
    return _permits(path, user, groups, stat.S_IROTH) and all(
        _permits(folder, user, groups, stat.S_IXOTH) for folder in path.parents
    )


def _permits(path: Path, user: int, groups: Collection[int], wanted: int) -> bool:
    """wanted: a permission, as the bit of it that others have."""
    status = path.stat()
    shift = 6 if status.st_uid == user else 3 if status.st_gid in groups else 0
    return bool(status.st_mode & wanted << shift)


def _narrow_bounding_set(kept: Collection[Capability]) -> None:
    """Take from the thread what programs that it executes could get. To take it needs CAP_SETPCAP; who lacks
    that, as every thread after the first call here, has forbid_gaining() to the same end."""
    capability = 0
    while (there := _LIBC.prctl(PR_CAPBSET_READ, capability, 0, 0, 0)) >= 0:
        if there and capability not in kept:
            _LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
        capability += 1
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)


def _mask(capabilities: Iterable[Capability]) -> int:
    return sum(1 << capability for capability in capabilities)


def _permitted() -> int:
    words = ctypes.create_string_buffer(_WORDS.size)
    _check(_LIBC.capget(struct.pack("=Ii", _VERSION_3, 0), words))
    _, low, _, _, high, _ = _WORDS.unpack(words.raw)
    return int(high) << 32 | int(low)


def _set(effective: int, permitted: int, inheritable: int) -> None:
    masks = (effective, permitted, inheritable)
    words = _WORDS.pack(*(mask & 0xFFFF_FFFF for mask in masks), *(mask >> 32 for mask in masks))
    _check(_LIBC.capset(struct.pack("=Ii", _VERSION_3, 0), words))


def _prctl(option: int, *arguments: int) -> None:
    words = (ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4])
    _check(_LIBC.prctl(option, *words))


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
