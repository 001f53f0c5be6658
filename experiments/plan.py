# SPDX-License-Identifier: Apache-2.0
"""What an experiment file declares: its question, its options, and the runs and ratios that answer it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from experiments.metrics import Workload
from experiments.options import Option
from experiments.peers.base import BackEnd

Config = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One configuration to measure. `config` is its name in the results: plain values only."""

    config: Config
    back_end: str
    load: Workload


@dataclass(frozen=True)
class Ratio:
    """What `numerator` measures first over what `denominator` does, from the runs of the same round.

    at_least, at_most: what the median is meant to be, where there is such a bar.
    """

    label: str
    numerator: Config
    denominator: Config
    at_least: float | None = None
    at_most: float | None = None

    def bars(self, median: float) -> dict[str, float | bool]:
        """The bars, and whether a median meets them; nothing where there is none."""
        bars = {"at_least": self.at_least, "at_most": self.at_most}
        given: dict[str, float | bool] = {name: bar for name, bar in bars.items() if bar is not None}
        if given:
            given["met"] = (self.at_least or 0) <= median <= (self.at_most or float("inf"))
        return given


@dataclass(frozen=True)
class Plan:
    """Everything to be run.

    baseline: the switch that the table compares the others with. programs: what the loads need installed.
    """

    back_ends: tuple[type[BackEnd], ...]
    cases: tuple[Case, ...]
    ratios: tuple[Ratio, ...]
    baseline: str
    programs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """An experiment: `plan` turns option values into what is to be run; `title` heads table and plot."""

    name: str
    question: str
    title: str
    options: dict[str, Option]
    plan: Callable[[dict[str, Any]], Plan]


def config_text(config: Config) -> str:
    """A configuration in one line, e.g. `vswitch vxlan gro=on 4 flows`."""
    return " ".join(_word(key, value) for key, value in config.items())


def _word(key: str, value: Any) -> str:
    if key == "flows":
        return flows_text(value)
    if isinstance(value, bool):
        return f"{key}={'on' if value else 'off'}"
    return str(value)


def flows_text(flows: int) -> str:
    return f"{flows} flow" if flows == 1 else f"{flows} flows"
