# SPDX-License-Identifier: Apache-2.0
"""`vswitchctl wire`: what a wire does with the frames that the switch sends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vswitch.cli.arguments import Arguments, Command, settings
from vswitch.cli.text import table

UNITS = {
    "bw": "Mbit/s",
    "loss": "%",
    "duplicate": "%",
    "reorder": "%",
    "max_queue_size": "frames",
    "ecn_threshold": "frames",
}
"""Of settings whose values do not name their unit themselves."""
NO_SETTINGS = ("port", "name")


def in_words(setting: str, value: Any) -> str:
    """A setting's value with its unit: `1.5 %`, `100 Mbit/s`, `5ms`."""
    number = f"{value:.10g}" if isinstance(value, float) else str(value)
    unit = UNITS.get(setting)
    return f"{number} {unit}" if unit else number


def sentence(changed: Mapping[str, Any]) -> str:
    """`loss is 1 %, delay is 5ms`."""
    return ", ".join(f"{setting} is {in_words(setting, value)}" for setting, value in changed.items())


def all_settings(values: Mapping[str, Any]) -> str:
    """A line for each setting."""
    return table(("setting", "value"), ((name, in_words(name, value)) for name, value in values.items()))


def _run(arguments: Arguments) -> dict[str, Any]:
    names, given = settings(WIRE, arguments.words)
    switch, port = WIRE.switch_and(names)
    for key in given:
        if not key or key in NO_SETTINGS:
            raise WIRE.wrong(f"{key!r} is no setting of a wire")
    call = arguments.switch(switch)
    if given:
        values = {key: _number(text) for key, text in given.items()}
        return call("wire.set", port=port, **values)
    return call("wire.show", port=port)


def _number(text: str) -> float | str:
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value.is_integer() else value


def _render(result: dict[str, Any], arguments: Arguments) -> str:
    values = {name: value for name, value in result.items() if name not in NO_SETTINGS}
    if any("=" in word for word in arguments.words):
        return f"{result['name']}: {sentence(values)}"
    return f"{result['name']}, for what this switch sends:\n{all_settings(values)}"


WIRE = Command(
    "wire",
    "[SWITCH] PORT [KEY=VALUE…]",
    "show or change a wire: bw, delay, jitter, loss, …",
    _run,
    _render,
    example="wire s1 2 loss=1 delay=5ms",
)
