# SPDX-License-Identifier: Apache-2.0
"""The agent's side of the table of tunnel formats: which row is whose, and what may enter and leave it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vswitch.dataplane.ethernet import ETH_IPV4
from vswitch.dataplane.formats import fill_row
from vswitch.errors import ConfigError
from vswitch.rows import first_free
from vswitch.tunnel_formats import SHIPPED, Format, are_twins, check_format


class FormatTable:
    """The formats of one switch, the shipped ones and those that were added (S1.6).

    rows: the dataplane's. A row is written before a tunnel of its format is added, and changed only when no
    tunnel is of its format, so the worker never sees a part of it; but for `has_twin`, which means nothing
    until there is a tunnel of the twin, too.
    """

    def __init__(self, rows: Any) -> None:
        self._rows = rows
        self._formats: dict[str, Format] = {}
        self._places: dict[str, int] = {}
        for format in SHIPPED.values():
            self._enter(format)

    def __getitem__(self, name: str) -> Format:
        """Raises ConfigError when there is none of this name."""
        if name not in self._formats:
            raise ConfigError("format", f"{name!r} is not known", ", ".join(sorted(self._formats)))
        return self._formats[name]

    def all(self) -> dict[str, Format]:
        """The formats by name, in its order."""
        return dict(sorted(self._formats.items()))

    def place(self, name: str) -> int:
        """The number of the row of a format."""
        return self._places[name]

    def set(self, name: str, numbers: Format, tunnels: Sequence[str]) -> None:
        """Add a format or change its numbers; `tunnels`: names of those that use it. Raises ConfigError."""
        format = replace(numbers, name=name)
        if self._formats.get(name) == format:
            return
        where = f"formats.{name}"
        if name in SHIPPED:
            raise ConfigError(where, f"{name} is a built-in format, and stays as it is", "another name")
        check_format(format, (other for other in self._formats.values() if other.name != name))
        self._refuse_if_used(where, tunnels)
        if name not in self._formats and len(self._formats) == len(self._rows):
            raise ConfigError(where, "there are too many formats", f"at most {len(self._rows)}")
        self._enter(format)

    def delete(self, name: str, tunnels: Sequence[str]) -> None:
        """Forget a format; `tunnels`: names of those that use it. Raises ConfigError."""
        where = f"formats.{name}"
        if name not in self._formats:
            raise ConfigError(where, "is not known", ", ".join(sorted(self._formats.keys() - SHIPPED.keys())))
        if name in SHIPPED:
            raise ConfigError(where, f"{name} is a built-in format, and stays")
        self._refuse_if_used(where, tunnels)
        del self._formats[name], self._places[name]
        self._note_twins()

    @staticmethod
    def _refuse_if_used(where: str, tunnels: Sequence[str]) -> None:
        if tunnels:
            raise ConfigError(where, f"is used by {', '.join(sorted(tunnels))}: remove these tunnels first")

    def _enter(self, format: Format) -> None:
        used = {place for name, place in self._places.items() if name != format.name}
        place = first_free(range(len(self._rows)), used)
        assert place is not None
        fill_row(self._rows[place], format)
        self._formats[format.name], self._places[format.name] = format, place
        self._note_twins()

    def _note_twins(self) -> None:
        for name, format in self._formats.items():
            has_twin = any(are_twins(format, other) for other in self._formats.values())
            row = self._rows[self._places[name]]
            row["has_twin"] = has_twin
            row["told_by_content"] = has_twin or row["inner_auto"]


def outer_headers(
    format: Format, local_ip: int, remote_ip: int, local_mac: bytes, remote_mac: bytes
) -> bytes:
    """A tunnel's outer headers, lengths and identification zero; they do not fragment (RFC 7348 4.3)."""
    ethernet = remote_mac + local_mac + struct.pack("!H", ETH_IPV4)
    proto = format.outer_proto
    ip = struct.pack("!BBHHHBBHII", 0x45, 0, 0, 0, 0x4000, 64, proto, 0, local_ip, remote_ip)
    return ethernet + ip + format.opaque()
