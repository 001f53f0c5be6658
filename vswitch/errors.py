# SPDX-License-Identifier: Apache-2.0
"""The errors that the switch raises on purpose. Bad packets are counted, not raised."""

from __future__ import annotations


class VSwitchError(Exception):
    """Base of every error that is meant for a person: `str(error)` is one sentence."""


class ConfigError(VSwitchError):
    """A wrong value in a configuration, an option, or a request.

    path: where the value stands, e.g. `port[2].wire.loss` or `vms.vm1.ip`.
    what: what is wrong with it, as a phrase: `120 is out of range`.
    allowed: what would be right, as a phrase: `a percentage from 0 to 100`; may be empty.
    """

    def __init__(self, path: str, what: str, allowed: str = "") -> None:
        self.path = path
        self.what = what
        self.allowed = allowed
        super().__init__(path, what, allowed)

    def __str__(self) -> str:
        sentence = f"{self.path}: {self.what}"
        return f"{sentence} (allowed: {self.allowed})" if self.allowed else sentence
