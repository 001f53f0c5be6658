# SPDX-License-Identifier: Apache-2.0
"""The error that the runner raises on purpose; `str(error)` is one sentence for the user."""

from __future__ import annotations

from vswitch.errors import VSwitchError


class ConformanceError(VSwitchError):
    """The tests cannot run, or cannot go on; the sentence says why and what would help."""
