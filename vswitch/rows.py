# SPDX-License-Identifier: Apache-2.0
"""Rows of the dataplane's tables that the agent gives out."""

from __future__ import annotations

from collections.abc import Container


def first_free(places: range, used: Container[int]) -> int | None:
    """The first place that nothing has; None when all are taken."""
    return next((place for place in places if place not in used), None)
