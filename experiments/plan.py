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
OTHER = "other"
"""In place of `vswitch`: the switch of another checkout, which this one is compared with."""


@dataclass(frozen=True)
class Case:
    """One configuration to measure.

    config: its name in the results, plain values only. side_by_side: cases of one such name are measured one
    after the other in each round, since a ratio of them is to be told exactly; the others anywhere in it.
    """

    config: Config
    back_end: str
    load: Workload
    side_by_side: str = ""


@dataclass(frozen=True)
class Ratio:
    """What `numerator` measures over what `denominator` does, from the runs of the same round.

    at_least, at_most: what the median is meant to be, where there is such a bar; an `at_most` of 0 holds for
    every run. metrics: of numerator and denominator; by default what each is about, its first.
    """

    label: str
    numerator: Config
    denominator: Config
    at_least: float | None = None
    at_most: float | None = None
    metrics: tuple[str, str] | None = None

    def bars(self, median: float, highest: float) -> dict[str, float | bool]:
        """The bars, and whether the runs' median and highest ratio meet them; nothing where there is none."""
        bars = {"at_least": self.at_least, "at_most": self.at_most}
        given: dict[str, float | bool] = {name: bar for name, bar in bars.items() if bar is not None}
        if given:
            most = float("inf") if self.at_most is None else self.at_most
            given["met"] = (self.at_least or 0) <= median <= most and (most > 0 or highest <= 0)
        return given


@dataclass(frozen=True)
class Spread:
    """The slowest of some configurations over the fastest of them, by their medians; as a `Ratio`."""

    label: str
    among: tuple[Config, ...]
    at_least: float

    def ratio(self, median_of: Callable[[Config], float]) -> Ratio:
        slowest, fastest = min(self.among, key=median_of), max(self.among, key=median_of)
        return Ratio(self.label, slowest, fastest, at_least=self.at_least)


@dataclass(frozen=True)
class Plan:
    """Everything to be run.

    baseline: the switch that the table compares the others with. programs: what the loads need installed.
    against: the commit of the checkout that this one is compared with, if it is.
    """

    back_ends: tuple[type[BackEnd], ...]
    cases: tuple[Case, ...]
    ratios: tuple[Ratio | Spread, ...]
    baseline: str
    programs: tuple[str, ...] = ()
    against: str = ""


@dataclass(frozen=True)
class Experiment:
    """An experiment: `plan` turns option values into what is to be run; `title` heads table and plot.

    file: where it is, if it is none of the shipped ones; the harness fills it in.
    """

    name: str
    question: str
    title: str
    options: dict[str, Option]
    plan: Callable[[dict[str, Any]], Plan]
    file: str = ""


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
