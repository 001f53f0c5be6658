# SPDX-License-Identifier: Apache-2.0
"""What `vswitchctl nic` and `gro` print, from the control socket's answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vswitch.cli.arguments import Arguments
from vswitch.cli.text import table


def render(result: dict[str, Any], arguments: Arguments) -> str:
    """The part of a NIC's description that was asked for, or what was done."""
    if result.get("show") == "-S":
        return _statistics(result["stats"], "--all" in arguments)
    if "show" in result:
        return _SHOWN[result["show"]](result)
    return _done(result)


def _done(result: dict[str, Any]) -> str:
    name = result["name"]
    match result.get("message"):
        case "NicQueuesSet":
            return f"{name} has {_count(result['count'], 'receive queue')}"
        case "NicFilterAdd":
            return _added("filter", result)
        case "LroRuleAdd":
            return _added("rule", result)
        case "LroSet":
            return f"{name}: coalescing of queue {result['queue']} is {result['lro']}"
    return f"{name}: {result['kind']} {result['deleted']} deleted"


def _added(kind: str, result: dict[str, Any]) -> str:
    number, before = result["number"], result["before"]
    if number == before:
        return f"{result['name']}: {kind} {number} is there already"
    instead = f" in place of {kind} {before}" if before is not None else ""
    return f"{result['name']}: {kind} {number} added{instead}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _queues(nic: dict[str, Any]) -> str:
    return f"combined: {nic['queue_count']}"


def _spread(nic: dict[str, Any]) -> str:
    entries = nic["indirection"]
    lines = [
        f"{start:5}: " + " ".join(f"{queue:3}" for queue in entries[start : start + 16])
        for start in range(0, len(entries), 16)
    ]
    key = ":".join(nic["key"][n : n + 2] for n in range(0, len(nic["key"]), 2))
    return "\n".join(["RX flow hash indirection table:", *lines, f"RSS hash key: {key}"])


def _filters(nic: dict[str, Any]) -> str:
    rows = ([f["id"], f["priority"], f["queue"], _match(f["match"])] for f in nic["filters"])
    return table(("filter", "priority", "queue", "match"), rows, empty=f"{nic['name']} has no filters")


def _lro(nic: dict[str, Any]) -> str:
    columns = ("queue", "lro", "lro_kind", "completion_size", "worker")
    return table(columns, ([queue[column] for column in columns] for queue in nic["queues"]))


def _rules(nic: dict[str, Any]) -> str:
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
    return table(
        ("rule", "priority", "queues", "lro", "match"), rows, empty=f"{nic['name']} has no LRO rules"
    )


def _statistics(queues: list[dict[str, Any]], all_reasons: bool) -> str:
    """As ethtool -S: a name and a number a line; reasons that never occurred are left out by default."""
    lines = []
    for queue in queues:
        number = queue["queue"]
        lines += [
            f"rx_queue_{number}_{name}: {value}"
            for name, value in queue.items()
            if name not in ("queue", "reasons")
        ]
        lines += [
            f"rx_queue_{number}_not_merged_{reason}: {count}"
            for reason, count in queue["reasons"].items()
            if count or all_reasons
        ]
    return "\n".join(lines)


def _driver(result: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {result[name]}" for name in ("driver", "version", "bus-info"))


def _match(match: dict[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in match.items())


_SHOWN: dict[str, Callable[[dict[str, Any]], str]] = {
    "-l": _queues,
    "-x": _spread,
    "-n": _filters,
    "-k": _lro,
    "lro": _rules,
    "-i": _driver,
}
