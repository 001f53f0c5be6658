# SPDX-License-Identifier: Apache-2.0
"""Text that people read in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]], empty: str = "") -> str:
    """Rows as aligned columns; numbers to the right. empty: what is said when there are none."""
    cells = [[("" if cell is None else str(cell)) for cell in row] for row in rows]
    if not cells and empty:
        return empty
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    numeric = [
        all(c.replace(".", "", 1).isdigit() or not c for c in column) for column in zip(*cells, strict=True)
    ]
    lines = []
    for row in [list(headings), *cells]:
        aligned = [
            cell.rjust(width) if cells and numeric[n] else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)


def seconds(value: float) -> str:
    """A time span: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if value < 10:
        return f"{value:.1f} s".replace(".0 ", " ")
    minutes, rest = divmod(round(value), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
