# SPDX-License-Identifier: Apache-2.0
"""Medians with distribution-free confidence intervals, and ratios of interleaved runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import comb
from statistics import median
from typing import NamedTuple

CONFIDENCE = 0.95
SLOWER, AS_FAST, FASTER = "slower", "as fast", "faster"
NOT_SLOWER = 0.97  # what the median ratio of two states is to be at least


class Estimate(NamedTuple):
    """A median and an interval for it.

    `confidence`: the probability that the interval covers the true median.
    """

    median: float
    low: float
    high: float
    confidence: float
    runs: int


def median_interval(samples: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Median with the order-statistic interval: the narrowest pair of symmetric order statistics that covers
    it.

    The number of samples below the true median is binomial(n, 1/2) for any distribution, so the interval from
    the k-th smallest to the k-th largest sample misses it with probability 2 P(Bin(n, 1/2) < k). Few samples
    cannot reach 95 % (five reach 93.75 %): then the interval is the whole range and `confidence` tells its
    real coverage. Source: David and Nagaraja, Order Statistics, 3rd ed., section 7.1.
    """
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    n = len(ordered)
    k = 1
    while k < n // 2 and coverage(n, k + 1) >= confidence:
        k += 1
    return Estimate(median(ordered), ordered[k - 1], ordered[n - k], coverage(n, k), n)


def coverage(n: int, k: int) -> float:
    """Probability that the interval from the k-th smallest to the k-th largest of `n` samples covers the
    median.
    """
    return max(0.0, 1.0 - 2.0 * sum(comb(n, i) for i in range(k)) / 2.0**n)


def quotients(numerators: Sequence[float | None], denominators: Sequence[float | None]) -> list[float]:
    """The ratios of the runs that stood side by side in the same round, without pairs that lack a run."""
    return [a / b for a, b in zip(numerators, denominators, strict=True) if a is not None and b]


def verdict(speed: Estimate) -> str:
    """What an estimate of the speed of one state, as a multiple of another's, says of the first.

    It is slower, or faster, when the median says so by more than 3 % and the whole interval agrees.
    """
    if speed.confidence < CONFIDENCE:
        return "too few runs to tell"
    if speed.median < NOT_SLOWER and speed.high < 1:
        return SLOWER
    if speed.median > 1 / NOT_SLOWER and speed.low > 1:
        return FASTER
    return AS_FAST


def not_slower(speeds: Iterable[Estimate]) -> bool:
    """Whether all of them are known to be as fast, or faster."""
    return all(verdict(speed) in (AS_FAST, FASTER) for speed in speeds)
