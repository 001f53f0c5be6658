# SPDX-License-Identifier: Apache-2.0
"""Medians, their intervals, and ratios of interleaved runs."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.stats import coverage, median_interval, quotients

SAMPLES = st.lists(st.floats(min_value=0, max_value=1e12), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("n", "k", "expected"),
    [(5, 1, 0.9375), (6, 1, 0.96875), (9, 2, 0.9609375), (10, 2, 0.978515625), (1, 1, 0.0)],
)
def test_coverage_is_the_tabulated_one(n, k, expected):
    """Values of the usual table for the confidence interval of a median (David and Nagaraja, section 7.1)."""
    assert coverage(n, k) == pytest.approx(expected)


def test_five_runs_give_their_range_and_say_so():
    estimate = median_interval([3, 1, 2, 5, 4])
    assert estimate == (3, 1, 5, 0.9375, 5)


def test_more_runs_narrow_the_interval():
    assert median_interval(list(range(1, 10)))[:3] == (5, 2, 8)


@given(SAMPLES)
def test_interval_holds_the_median_and_keeps_its_promise(samples):
    estimate = median_interval(samples)
    assert min(samples) <= estimate.low <= estimate.median <= estimate.high <= max(samples)
    assert estimate.confidence >= 0.95 or (estimate.low, estimate.high) == (min(samples), max(samples))


def test_the_interval_covers_the_true_median_as_often_as_it_says():
    source = random.Random(1)
    hits = trials = 0
    for _ in range(2000):
        estimate = median_interval([source.expovariate(1) for _ in range(9)])
        hits += estimate.low <= 0.6931 <= estimate.high
        trials += 1
    assert hits / trials == pytest.approx(estimate.confidence, abs=0.02)


def test_no_samples_is_a_bug():
    with pytest.raises(ValueError):
        median_interval([])


def test_ratios_are_of_the_same_round():
    """A machine that doubles its speed between rounds changes no ratio."""
    assert quotients([10, 20, 40], [5, 10, 20]) == [2, 2, 2]


def test_a_pair_with_a_missing_run_is_left_out():
    assert quotients([10, None, 30, 40], [5, 10, None, 10]) == [2, 4]
    assert quotients([None], [1.0]) == []


def test_rounds_must_match():
    with pytest.raises(ValueError):
        quotients([1.0], [1.0, 2.0])
