# SPDX-License-Identifier: Apache-2.0
"""`vswitchctl format`: tunnel formats."""

from __future__ import annotations

from typing import Any

from vswitch.cli.arguments import Arguments, Command, settings
from vswitch.cli.text import table
from vswitch.words import nearest

ACTIONS = ("list", "add", "del")
COLUMNS = (
    "outer_proto",
    "opaque_len",
    "id_offset",
    "id_value",
    "flow_id_offset",
    "flow_id_length",
    "inner",
)


def _run(arguments: Arguments) -> Any:
    action, *words = arguments.words or [""]
    if action not in ACTIONS:
        known = f" (allowed: {', '.join(ACTIONS)})"
        raise FORMAT.wrong(f"there is no action {action!r}{nearest(action, ACTIONS)}{known}")
    names, numbers = settings(FORMAT, words)
    if numbers and action != "add":
        raise FORMAT.wrong(f"{action} takes no {next(iter(numbers))}=…")
    if action == "list":
        switch = FORMAT.names(names, 0, 1)
        return arguments.switch(switch[0] if switch else None)("formats")
    if not names:
        raise FORMAT.wrong(f"{action} needs the name of a format")
    switch_name, name = FORMAT.switch_and(names)
    call = arguments.switch(switch_name)
    if action == "del":
        return call("offload.set", message="FormatDelete", name=name)
    if not numbers:
        raise FORMAT.wrong(f"add needs the numbers of {name!r}")
    values = {key: _value(text) for key, text in numbers.items()}
    return call("offload.set", message="FormatAdd", name=name, numbers=values)


def _value(text: str) -> Any:
    """A value as YAML would read it; `check` is three numbers with commas."""
    if text in ("true", "false"):
        return text == "true"
    return text.split(",") if "," in text else text


def _render(result: dict[str, Any], _arguments: Arguments) -> str:
    if result.get("message") == "FormatAdd":
        return f"format {result['name']} added"
    if result.get("message") == "FormatDelete":
        return f"format {result['name']} deleted"
    rows = ([name, *(numbers[column] for column in COLUMNS)] for name, numbers in result.items())
    return table(("format", *COLUMNS), rows)


FORMAT = Command(
    "format",
    "list [SWITCH], add [SWITCH] NAME KEY=VALUE…, or del [SWITCH] NAME",
    "list, add or delete tunnel formats",
    _run,
    _render,
    example="format add s1 mine outer_proto=47 opaque_len=12 …",
)
