# SPDX-License-Identifier: Apache-2.0
"""From the samples of all rounds to rows and ratios: `summary.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

from experiments.cpu import CpuUse
from experiments.metrics import Measurement
from experiments.plan import Case, Config, Plan, Spread, config_text
from experiments.stats import Estimate, median_interval, quotients


@dataclass(frozen=True)
class Sample:
    """One measured run. `reasons`: why it is invalid; none when it is valid."""

    case: Case
    round: int
    attempt: int
    measured: Measurement
    cpu: CpuUse
    counters: dict[str, int] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    @property
    def valid(self) -> bool:
        return not self.reasons

    @property
    def values(self) -> dict[str, float]:
        """What was measured, by metric."""
        return {**self.measured.values, "cpu_cores": self.cpu.total}


def summarise(
    experiment: str,
    environment: dict[str, Any],
    options: dict[str, Any],
    plan: Plan,
    rounds: Sequence[Sequence[Sample]],
    variants: dict[str, str],
) -> dict[str, Any]:
    """The summary of a whole experiment.

    rounds: per round the last attempt at each case. Only valid runs enter medians and ratios; a row that lost
    a run is invalid, and so is the experiment. A row without any valid run shows what was measured all the
    same. variants: how each configuration was run, by the text of its config.
    """
    rows, invalid = [], []
    for case in plan.cases:
        samples = [sample for samples in rounds for sample in samples if sample.case is case]
        rows += _rows(case, samples, variants.get(config_text(case.config)))
        bad = [sample for sample in samples if not sample.valid]
        if bad:
            reason = "; ".join(bad[-1].reasons)
            invalid.append(f"{config_text(case.config)}: {len(bad)} of {len(samples)} runs invalid: {reason}")
        if not samples:
            invalid.append(f"{config_text(case.config)}: no run was completed")
    ratios = {}
    for asked in plan.ratios:
        ratio = asked.ratio(partial(_median, rounds)) if isinstance(asked, Spread) else asked
        above, below = ratio.metrics or (None, None)
        pairs = quotients(
            _by_round(rounds, ratio.numerator, above), _by_round(rounds, ratio.denominator, below)
        )
        if pairs:
            estimate = median_interval(pairs)
            ratios[ratio.label] = {
                **_numbers(estimate),
                **ratio.bars(estimate.median, max(pairs)),
                "numerator": ratio.numerator,
                "denominator": ratio.denominator,
            }
    return {
        "experiment": experiment,
        "valid": not invalid,
        "invalid_reasons": invalid,
        "environment": environment,
        "options": options,
        "baseline": plan.baseline,
        "rows": rows,
        "ratios": ratios,
    }


def _rows(case: Case, samples: list[Sample], variant: str | None) -> list[dict[str, Any]]:
    good = [sample for sample in samples if sample.valid]
    valid = bool(samples) and len(good) == len(samples)
    rows = []
    for metric in samples[0].values if samples else ():
        values = [sample.values[metric] for sample in good or samples]
        row: dict[str, Any] = {"config": case.config, "metric": metric, **_numbers(median_interval(values))}
        row |= {"valid": valid, "values": values}
        if metric == samples[0].measured.about:
            row |= _offered(good or samples)
        rows.append(row | ({"variant": variant} if variant else {}))
    return rows


def _offered(samples: list[Sample]) -> dict[str, float]:
    """What was offered; nothing for loads that offer what is taken."""
    offers = [sample.measured.offered for sample in samples if sample.measured.offered is not None]
    return {"offered": median(offers)} if offers else {}


def _numbers(estimate: Estimate) -> dict[str, float | int]:
    return {
        "median": estimate.median,
        "low": estimate.low,
        "high": estimate.high,
        "confidence": estimate.confidence,
        "runs": estimate.runs,
    }


def _median(rounds: Sequence[Sequence[Sample]], config: Config) -> float:
    """The median of what a configuration is about; 0 where it has no valid run."""
    values = [value for value in _by_round(rounds, config) if value is not None]
    return median(values) if values else 0.0


def _by_round(
    rounds: Sequence[Sequence[Sample]], config: Config, metric: str | None = None
) -> list[float | None]:
    """What a configuration measured in each round, by default its first metric; None where it has no valid
    run.
    """
    values: list[float | None] = []
    for samples in rounds:
        found = [sample for sample in samples if sample.case.config == config and sample.valid]
        if not found:
            values.append(None)
        else:
            values.append(found[-1].values[metric] if metric else found[-1].measured.primary)
    return values
