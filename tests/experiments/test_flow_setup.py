# SPDX-License-Identifier: Apache-2.0
"""When the cache counts as filled: with a bed that loses packets as a slow path does."""

from __future__ import annotations

import pytest

from experiments import flow_setup
from experiments.flow_setup import CachedFlows


class SlowSwitch:
    """Learns `pace` flows of a round, and drops the packets of the others that it does not know."""

    def __init__(self, pace, tells=True):
        self.pace = pace
        self.tells = tells
        self.known = self.misses = self.overflow = self.delivered = 0

    def counters(self):
        counted = {"s1.slow_path_misses": self.misses, "s1.punt_overflow": self.overflow}
        return counted if self.tells else {}

    def take(self, flows):
        learnt = min(self.pace, flows - self.known)
        self.misses += learnt
        self.overflow += flows - self.known - learnt
        self.known += learnt
        self.delivered += self.known


@pytest.fixture(autouse=True)
def rounds(monkeypatch):
    """No packets: a round is what the switch makes of it."""
    monkeypatch.setattr(CachedFlows, "_pass", lambda load, bed: bed.take(load.flows))
    monkeypatch.setattr(flow_setup, "delivered", lambda bed: bed.delivered)


def fill(switch, flows=100):
    return CachedFlows(flows, 1)._fill(switch)


def test_rounds_are_sent_until_one_needs_no_slow_path():
    values, raw = fill(SlowSwitch(pace=40))
    assert values == {"cached_flows": 100}
    assert (raw["rounds"], raw["lost_punts"], raw["arrived_of_the_last_round"]) == (4, 60 + 20, 100)


def test_a_switch_that_does_not_tell_has_to_deliver_all():
    values, raw = fill(SlowSwitch(pace=60, tells=False))
    assert values == {}
    assert raw["rounds"] == 2


def test_a_switch_that_cannot_learn_all_has_two_minutes(monkeypatch):
    times = iter(range(0, 10_000, 50))
    monkeypatch.setattr(flow_setup.time, "monotonic", lambda: next(times))
    switch = SlowSwitch(pace=0)
    switch.known = 90
    values, raw = fill(switch)
    assert values == {"cached_flows": 90}
    assert raw["rounds"] == 2
