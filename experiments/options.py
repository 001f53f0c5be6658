# SPDX-License-Identifier: Apache-2.0
"""`key=value` options of an experiment: declared once, parsed, checked, and shown by `list`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.errors import ExperimentError
from topologies.placement import deal, physical_cores


@dataclass(frozen=True)
class Option:
    """An option: how to read its text (`parse` raises ValueError with what is allowed) and its defaults."""

    parse: Callable[[str], Any]
    default: Any
    quick: Any
    help: str


def parse_options(declared: dict[str, Option], arguments: Sequence[str], quick: bool) -> dict[str, Any]:
    """The values of all declared options; the defaults of a quick run when `quick`."""
    values = {key: option.quick if quick else option.default for key, option in declared.items()}
    for argument in arguments:
        key, separator, text = argument.partition("=")
        if not separator:
            raise ExperimentError(f"{argument!r} is not an option: write key=value, e.g. runs=7")
        if key not in declared:
            raise ExperimentError(f"unknown option {key!r}: the options are {', '.join(declared)}")
        try:
            values[key] = declared[key].parse(text)
        except ValueError as error:
            raise ExperimentError(f"{argument}: {error}") from None
    return values


def integer(low: int, high: int) -> Callable[[str], int]:
    """A parser for a whole number in a range."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return parse


def number(low: float, high: float) -> Callable[[str], float]:
    """A parser for a number in a range."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise ValueError(f"must be a number from {low:g} to {high:g}")
        return value

    return parse


def choice(*allowed: str) -> Callable[[str], str]:
    """A parser for one of some words."""

    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return text

    return parse


def several(parse_one: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    """A parser for a comma-separated list without duplicates."""

    def parse(text: str) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(parse_one(part) for part in text.split(",")))

    return parse


def server_cores(text: str) -> tuple[frozenset[int], frozenset[int]]:
    """The cores of the two servers: `0,1`, or with several cores each `0+1,2+3`."""
    available = os.sched_getaffinity(0)
    try:
        first, second = (frozenset(int(core) for core in part.split("+")) for part in text.split(","))
    except ValueError:
        raise ValueError("must give the cores of both servers, as in 0,1 or 0+1,2+3") from None
    missing = sorted((first | second) - available)
    if missing:
        raise ValueError(f"core {missing[0]} is not available here: there are {format_cores(available)}")
    return first, second


def default_cores() -> tuple[frozenset[int], frozenset[int]]:
    """Those that a lab deals to two servers; a machine with one core has both on it."""
    first, second = deal([1, 1], physical_cores())
    return frozenset(first), frozenset(second)


def format_cores(cores: set[int] | frozenset[int]) -> str:
    return "+".join(str(core) for core in sorted(cores))


LENGTH = {
    "seconds": Option(integer(1, 3600), 3, 1, "length of a run"),
    "warmup": Option(number(0, 60), 0.5, 0.25, "seconds at the start of a run that do not count"),
}
"""Options of experiments whose runs begin with a warm-up; see `check_length`."""

TCP_RUNS = {
    "congestion": Option(choice("cubic", "reno", "bbr"), "cubic", "cubic", "TCP congestion control"),
    "cores": Option(server_cores, default_cores(), default_cores(), "cores of each server: 0,1 or 0+1,2+3"),
    "other_cpu": Option(number(0, 1024), 0.05, 0.05, "cores that others may use before a run is invalid"),
    "seed": Option(integer(0, 2**31), 1, 1, "of the order of the runs"),
}
"""Options of experiments that measure TCP from one server to the other."""


def check_length(options: dict[str, Any]) -> None:
    """Raise ExperimentError for a warm-up that is no shorter than the run."""
    if options["warmup"] >= options["seconds"]:
        raise ExperimentError("warmup must be shorter than seconds: nothing would be measured")
