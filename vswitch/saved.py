# SPDX-License-Identifier: Apache-2.0
"""The file in which a switch writes down what is set while it runs, and from which its next start takes it.

Light: a lab edits the file of a switch that is down, and needs no dataplane for that.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from vswitch.errors import ConfigError
from vswitch.openflow.experimenter import Kept


class Saved(msgspec.Struct, forbid_unknown_fields=True):
    """Settings by the names of ports and formats.

    wires: all settings of the wires of which one was set, in the words of the command line. nics: those that
    are not as at a start (`vswitch.nic.SavedNic`). forwarding: ports whose VMs forward. formats: those that
    were added. of_controllers: what controllers set and did not take back, which they ask for.
    """

    wires: dict[str, dict[str, Any]] = {}
    nics: dict[str, msgspec.Raw] = {}
    forwarding: list[str] = []
    formats: dict[str, dict[str, Any]] = {}
    of_controllers: list[Kept] = []


def read(path: Path) -> Saved:
    """What the file says; nothing, if there is none. Raises ConfigError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Saved)
    except FileNotFoundError:
        return Saved()
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError("settings", f"{path} is no file of a switch's settings ({error})") from None


def write(path: Path, saved: Saved) -> None:
    """Put all of it in the place of what the file says, or nothing. Raises OSError."""
    fresh = path.with_name(f"{path.name}.new")
    with open(fresh, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(msgspec.json.format(msgspec.json.encode(saved)) + b"\n")
    os.replace(fresh, path)


def change_wire(path: Path, name: str, words: dict[str, Any]) -> None:
    """Somebody changes settings of a wire while its switch is down: the file does not contradict them."""
    saved = read(path)
    if name in saved.wires:
        saved.wires[name] |= words
        write(path, saved)


def forget_ports(path: Path, names: Iterable[str]) -> None:
    """Ports of these names are gone; others may get the names."""
    if not path.exists():
        return
    saved = read(path)
    for name in names:
        saved.wires.pop(name, None)
        saved.nics.pop(name, None)
        saved.forwarding = [kept for kept in saved.forwarding if kept != name]
    write(path, saved)
