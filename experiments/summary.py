# SPDX-License-Identifier: Apache-2.0
"""From the samples of all rounds to rows and ratios: `summary.json`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.cpu import CpuUse
from experiments.iperf import Transfer
from experiments.plan import Case, Config, Plan
from experiments.stats import Estimate, median_interval, ratio_interval

METRICS: dict[str, Callable[[Sample], float]] = {
    "throughput_bps": lambda sample: sample.transfer.throughput_bps,
    "retransmits": lambda sample: float(sample.transfer.retransmits),
    "cpu_cores": lambda sample: sample.cpu.total,
}


@dataclass(frozen=True)
class Sample:
    """One measured run. `reasons`: why it is invalid; none when it is valid."""

    case: Case
    round: int
    attempt: int
    transfer: Transfer
    cpu: CpuUse
    counters: dict[str, int] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    @property
    def valid(self) -> bool:
        return not self.reasons


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
    for ratio in plan.ratios:
        estimate = ratio_interval(_by_round(rounds, ratio.numerator), _by_round(rounds, ratio.denominator))
        if estimate:
            ratios[ratio.label] = {
                **_numbers(estimate),
                "numerator": ratio.numerator,
                "denominator": ratio.denominator,
            }
    return {
        "experiment": experiment,
        "valid": not invalid,
        "invalid_reasons": invalid,
        "environment": environment,
        "options": options,
        "rows": rows,
        "ratios": ratios,
    }


def config_text(config: Config) -> str:
    """A configuration in one line, e.g. `vswitch vxlan gro=on 4 flows`."""
    gro = "on" if config["gro"] else "off"
    flows = "1 flow" if config["flows"] == 1 else f"{config['flows']} flows"
    return f"{config['switch']} {config['encap']} gro={gro} {flows}"


def _rows(case: Case, samples: list[Sample], variant: str | None) -> list[dict[str, Any]]:
    good = [sample for sample in samples if sample.valid]
    valid = bool(samples) and len(good) == len(samples)
    rows = []
    for metric, value_of in METRICS.items():
        values = [value_of(sample) for sample in good or samples]
        if values:
            row: dict[str, Any] = {
                "config": case.config,
                "metric": metric,
                **_numbers(median_interval(values)),
            }
            row |= {"valid": valid, "values": values}
            rows.append(row | ({"variant": variant} if variant else {}))
    return rows


def _numbers(estimate: Estimate) -> dict[str, float | int]:
    return {
        "median": estimate.median,
        "low": estimate.low,
        "high": estimate.high,
        "confidence": estimate.confidence,
        "runs": estimate.runs,
    }


def _by_round(rounds: Sequence[Sequence[Sample]], config: Config) -> list[float | None]:
    """The throughput of a configuration in each round; None where it has no valid run."""
    values: list[float | None] = []
    for samples in rounds:
        found = [sample for sample in samples if sample.case.config == config and sample.valid]
        values.append(found[-1].transfer.throughput_bps if found else None)
    return values
