# SPDX-License-Identifier: Apache-2.0
"""`run NAME --against CHECKOUT`: the switch of another checkout as one more back end of the same runs.

What is measured with our switch is measured with the other one right before or after, in each round: it is
their ratio that is to be told, and single figures vary by more than what it is about.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rich.console import Console

from experiments.checkout import Checkout
from experiments.errors import ExperimentError
from experiments.peers.base import BackEnd
from experiments.plan import OTHER, Case, Config, Experiment, Plan, Ratio, config_text
from experiments.stats import Estimate, not_slower, verdict

RUNS = 11  # of a pair each, by default


def against(experiment: Experiment, checkout: Checkout) -> Experiment:
    """The experiment with every configuration of our switch measured with the checkout's, too."""
    runs = experiment.options["runs"]
    more = replace(runs, default=max(runs.default, RUNS), quick=RUNS)

    def plan(options: dict[str, Any]) -> Plan:
        checkout.compile()
        return with_other(experiment, experiment.plan(options), checkout)

    return replace(experiment, options={**experiment.options, "runs": more}, plan=plan)


def with_other(experiment: Experiment, plan: Plan, checkout: Checkout) -> Plan:
    """The plan with the other switch's back ends, cases, and ratios to them."""
    others: dict[str, type[BackEnd]] = {}
    for kind in plan.back_ends:
        other = kind.of(checkout)
        if other:
            others[kind.name] = other
    if not others:
        raise ExperimentError(f"{experiment.name} has nothing that --against could compare")
    cases, ratios = [], []
    for case in plan.cases:
        if case.back_end not in others:
            cases.append(case)
            continue
        block = case.side_by_side or config_text(case.config)
        other_config = {**case.config, "switch": OTHER}
        cases.append(replace(case, side_by_side=block))
        cases.append(Case(other_config, others[case.back_end].name, case.load, block))
        ratios.append(Ratio(label(case.config), case.config, other_config))
    peers = {case.config["switch"] for case in plan.cases if case.back_end not in others}
    return replace(
        plan,
        back_ends=(*plan.back_ends, *others.values()),
        cases=tuple(cases),
        ratios=(*plan.ratios, *ratios),
        baseline=plan.baseline if plan.baseline in peers else OTHER,
        against=checkout.commit(),
    )


def label(config: Config) -> str:
    rest = {key: value for key, value in config.items() if key != "switch"}
    return f"{config['switch']} / {OTHER}, {config_text(rest)}"


def comparisons(summary: dict[str, Any]) -> dict[str, Estimate]:
    """How fast our switch is, as a multiple of the other one's speed, by ratio; empty without --against."""
    return {
        name: Estimate(*(ratio[key] for key in Estimate._fields))
        for name, ratio in summary["ratios"].items()
        if ratio["denominator"]["switch"] == OTHER
    }


def report(summary: dict[str, Any], console: Console) -> bool:
    """Print what the ratios to the other switch say; whether nothing is slower here."""
    compared = comparisons(summary)
    for name, speed in compared.items():
        console.print(
            f"{name}: {speed.median:.3f} ({speed.low:.3f} - {speed.high:.3f}), {verdict(speed)}",
            markup=False,
            soft_wrap=True,
        )
    return not_slower(compared.values())
