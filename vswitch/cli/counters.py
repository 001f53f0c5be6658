# SPDX-License-Identifier: Apache-2.0
"""`vswitchctl counters`: what was counted, and what has changed since."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from time import monotonic, sleep, strftime
from typing import Any

from vswitch.cli.arguments import Arguments, Command, Option, UsageError
from vswitch.cli.client import Call
from vswitch.cli.text import seconds, table

INTERVAL_S = 1.0
NOTHING: dict[str, Any] = {"reasons": {}, "ports": {}, "drops": {}}
Counted = Mapping[str, Any]
"""`reasons`: counters by name; `ports`: by port name, counters by name; `drops`: by port name and direction,
drops by reason."""


def _run(arguments: Arguments) -> dict[str, Any]:
    """All counters, and those of the last look. Who asks for JSON, a program mostly, does not look."""
    return _switch(arguments)("counters", look="--json" not in arguments)


def _watch(arguments: Arguments) -> Iterator[dict[str, Any]]:
    """All counters, then what changes in each interval."""
    interval_s = arguments.number("--watch", INTERVAL_S)
    if not 0.1 <= interval_s <= 3600:
        raise UsageError(f"--watch: {interval_s:g} s is out of range (allowed: 0.1 to 3600)")
    call = _switch(arguments)
    before, last_s = call("counters"), monotonic()
    yield before
    while True:
        sleep(interval_s)
        now, now_s = call("counters"), monotonic()
        yield {"time": strftime("%H:%M:%S"), "seconds": now_s - last_s, **difference(now, before)}
        before, last_s = now, now_s


def _switch(arguments: Arguments) -> Call:
    switch = COUNTERS.names(arguments.words, 0, 1)
    return arguments.switch(switch[0] if switch else None)


def difference(now: Counted, before: Counted) -> dict[str, Any]:
    """What has changed, in the form of what was counted. A port that is new has changed by all it counted."""
    return {
        "reasons": _difference(now["reasons"], before["reasons"]),
        "ports": {
            name: changed
            for name, counters in now["ports"].items()
            if (changed := _difference(counters, before["ports"].get(name, {})))
        },
        "drops": {
            name: changed
            for name, drops in now["drops"].items()
            if (changed := _difference_of_drops(drops, before["drops"].get(name, {})))
        },
    }


def _difference(now: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    changes = {name: value - before.get(name, 0) for name, value in now.items()}
    return {name: change for name, change in changes.items() if change}


def _difference_of_drops(
    now: Mapping[str, Mapping[str, int]], before: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """Of one port: by direction and reason."""
    changes = {direction: _difference(drops, before.get(direction, {})) for direction, drops in now.items()}
    return {direction: changed for direction, changed in changes.items() if changed}


def _render(result: dict[str, Any], arguments: Arguments) -> str:
    if "seconds" in result:
        changed = _tables(result) or "nothing has changed"
        return f"{result['time']}, in {seconds(result['seconds'])}:\n{changed}\n"
    shown: Counted = result if "--all" in arguments else difference(result, NOTHING)
    text = _tables(shown) or "nothing was counted yet (--all shows the zeros)"
    last = result.get("last")
    if last is None:
        return text
    when = f"{seconds(last['seconds'])} ago"
    changed = _tables(difference(result, last))
    since = (
        f"since the last look, {when}:\n{changed}" if changed else f"no change since the last look, {when}"
    )
    return f"{text}\n\n{since}"


def _tables(counted: Counted) -> str:
    """Reasons, ports and their drops as tables; of ports, the columns that any has."""
    parts = []
    if counted["reasons"]:
        parts.append(table(("reason", "packets"), sorted(counted["reasons"].items())))
    if counted["ports"]:
        columns = _in_order(counters for counters in counted["ports"].values())
        rows = ([name, *(c.get(column, 0) for column in columns)] for name, c in counted["ports"].items())
        parts.append(table(("port", *columns), rows))
    drops = [
        [name, direction, reason, packets]
        for name, directions in counted["drops"].items()
        for direction, reasons in directions.items()
        for reason, packets in sorted(reasons.items())
    ]
    if drops:
        parts.append(table(("port", "dropped on", "reason", "packets"), drops))
    return "\n\n".join(parts)


def _in_order(counters: Iterable[Mapping[str, int]]) -> list[str]:
    """The names of all counters, received before sent."""
    return sorted({name for each in counters for name in each})


COUNTERS = Command(
    "counters",
    "[SWITCH]",
    "packets by reason and by port, and what has changed since the last look",
    _run,
    _render,
    options=(
        Option("--all", "also what is zero"),
        Option(
            "--watch",
            "go on with what changes in each interval, until Ctrl-C",
            value="SECONDS",
            may_lack=True,
        ),
    ),
    watch=_watch,
)
