# SPDX-License-Identifier: Apache-2.0
"""What an experiment file declares: its question, its options, and the runs and ratios that answer it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from experiments.iperf import Load
from experiments.options import Option
from experiments.peers.base import BackEnd

Config = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One configuration to measure. `config` is its name in the results: plain values only."""

    config: Config
    back_end: str
    load: Load


@dataclass(frozen=True)
class Ratio:
    """`numerator`'s throughput over `denominator`'s, from the runs of the same round."""

    label: str
    numerator: Config
    denominator: Config


@dataclass(frozen=True)
class Plan:
    """Everything to be run. `baseline`: the switch that the table's last column compares with."""

    back_ends: tuple[type[BackEnd], ...]
    cases: tuple[Case, ...]
    ratios: tuple[Ratio, ...]
    baseline: str


@dataclass(frozen=True)
class Experiment:
    """An experiment: `plan` turns option values into what is to be run; `title` heads table and plot."""

    name: str
    question: str
    title: str
    options: dict[str, Option]
    plan: Callable[[dict[str, Any]], Plan]


def flows_text(flows: int) -> str:
    return f"{flows} flow" if flows == 1 else f"{flows} flows"
