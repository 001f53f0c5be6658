# SPDX-License-Identifier: Apache-2.0
"""How an indirection table spreads flows over receive queues (S0.2). Plain Python, for controllers too."""

from __future__ import annotations

from collections.abc import Sequence


def equal_table(count: int, entries: int) -> tuple[int, ...]:
    """The first `count` queues in turn."""
    return tuple(entry % count for entry in range(entries))


def weighted_table(weights: Sequence[int], entries: int) -> tuple[int, ...]:
    """To each queue its share of the entries, one queue behind the other; rounded as ethtool -X weight does.

    weights: of the queues, at least one above 0.
    """
    table: list[int] = []
    total, so_far = sum(weights), 0
    for queue, weight in enumerate(weights):
        so_far += weight
        table += [queue] * (entries * so_far // total - len(table))
    return tuple(table)
