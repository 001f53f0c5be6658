# SPDX-License-Identifier: Apache-2.0
"""What `vswitchctl nic` and `vswitchctl format list` print, from the control socket's answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Table = Callable[..., str]
"""Headings and rows as aligned columns: `vswitch.ctl.table`."""


def render_nic(result: dict[str, Any], table: Table) -> str:
    """The part of a NIC's description that was asked for."""
    return _RENDER[result["show"]](result, table)


def render_formats(result: dict[str, dict[str, Any]], table: Table) -> str:
    columns = (
        "outer_proto",
        "opaque_len",
        "id_offset",
        "id_value",
        "flow_id_offset",
        "flow_id_length",
        "inner",
    )
    return table(("format", *columns), ([name, *(f[c] for c in columns)] for name, f in result.items()))


def _queues(nic: dict[str, Any], table: Table) -> str:
    return f"combined: {nic['queue_count']}"


def _spread(nic: dict[str, Any], table: Table) -> str:
    entries = nic["indirection"]
    lines = [
        f"{start:5}: " + " ".join(f"{queue:3}" for queue in entries[start : start + 16])
        for start in range(0, len(entries), 16)
    ]
    key = ":".join(nic["key"][n : n + 2] for n in range(0, len(nic["key"]), 2))
    return "\n".join(["RX flow hash indirection table:", *lines, f"RSS hash key: {key}"])


def _filters(nic: dict[str, Any], table: Table) -> str:
    rows = ([f["id"], f["priority"], f["queue"], _match(f["match"])] for f in nic["filters"])
    return table(("filter", "priority", "queue", "match"), rows)


def _lro(nic: dict[str, Any], table: Table) -> str:
    columns = ("queue", "lro", "lro_kind", "completion_size", "worker")
    return table(columns, ([queue[column] for column in columns] for queue in nic["queues"]))


def _rules(nic: dict[str, Any], table: Table) -> str:
    rows = (
        [
            rule["id"],
            rule["priority"],
            "all" if rule["queues"] is None else ",".join(map(str, rule["queues"])),
            "on" if rule["lro"] else "off",
            _match(rule["match"]),
        ]
        for rule in nic["rules"]
    )
    return table(("rule", "priority", "queues", "lro", "match"), rows)


def _statistics(result: dict[str, Any], table: Table) -> str:
    """As ethtool -S: a name and a number a line; reasons that never occurred are left out."""
    lines = []
    for queue in result["stats"]:
        number = queue["queue"]
        lines += [
            f"rx_queue_{number}_{name}: {value}"
            for name, value in queue.items()
            if name not in ("queue", "reasons")
        ]
        lines += [
            f"rx_queue_{number}_not_merged_{reason}: {count}"
            for reason, count in queue["reasons"].items()
            if count
        ]
    return "\n".join(lines)


def _match(match: dict[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in match.items())


_RENDER: dict[str, Callable[[dict[str, Any], Table], str]] = {
    "-l": _queues,
    "-x": _spread,
    "-n": _filters,
    "-k": _lro,
    "lro": _rules,
    "-S": _statistics,
}
