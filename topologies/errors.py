# SPDX-License-Identifier: Apache-2.0
"""The error that a lab raises on purpose; `str(error)` is one sentence for the user."""

from __future__ import annotations

from vswitch.errors import VSwitchError

_mn_runs = False


class LabError(VSwitchError):
    """The network cannot be built or started as asked; the sentence says what is wrong and what is right."""


def speak_mn() -> None:
    """From now on hints are in the words of `mn`'s command line and prompt, not of Python."""
    global _mn_runs
    _mn_runs = True


def in_terms_of(python: str, mn: str) -> str:
    """The hint that the caller can follow: a user of Mininet's API, or of `mn`."""
    return mn if _mn_runs else python
