# SPDX-License-Identifier: Apache-2.0
"""`vswitchctl trace`: a packet's way through the tables, explained."""

from __future__ import annotations

from typing import Any

from vswitch.cli.arguments import Arguments, Command, Option


def _run(arguments: Arguments) -> Any:
    words = arguments.words
    if len(words) not in (1, 2):
        raise TRACE.wrong(f"{words[2]!r} is one word too many" if words else "the fields are missing")
    switch = words[0] if len(words) == 2 else None
    frame = arguments.options.get("--frame", "")
    return arguments.switch(switch)("trace", flow=words[-1], frame=frame)


def render_trace(result: dict[str, Any]) -> str:
    """The packet, each step, and what becomes of it."""
    lines = ["packet: " + ", ".join(f"{name} {value}" for name, value in result["packet"].items())]
    for step in result["steps"]:
        indent = "" if step["kind"] == "table" else "    " * (step["depth"] + 1)
        lines.append(f"{indent}{step['text']}")
    lines.append("result: " + (", ".join(result["program"]) or f"dropped ({result['drop']})"))
    if result["cacheable"]:
        lines.append(f"cached for this flow; depends on {', '.join(result['depends_on'])}")
    else:
        lines.append(f"not cached, each packet takes the slow path: {result['uncacheable']}")
    return "\n".join(lines)


TRACE = Command(
    "trace",
    "[SWITCH] FIELDS [--frame HEX]",
    "explain a packet's way through the tables",
    _run,
    lambda result, _arguments: render_trace(result),
    example="trace s1 in_port=1,tcp,nw_dst=10.0.0.2",
    options=(Option("--frame", "the frame; FIELDS then give its in_port", value="HEX"),),
)
