# SPDX-License-Identifier: Apache-2.0
"""The error that a lab raises on purpose; `str(error)` is one sentence for the user."""

from __future__ import annotations

from vswitch.errors import VSwitchError


class LabError(VSwitchError):
    """The network cannot be built or started as asked; the sentence says what is wrong and what is right."""
