# SPDX-License-Identifier: Apache-2.0
"""A bucket for each connection of an encapsulated burst, delivered by size, or when the burst ends (S1.5)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.packets import tcp_segment
from tests.unit.rig import examples
from tests.unit.test_encapsulations import FORMATS, WIRE, Two

LENGTH = 100
HEADERS = 40  # of IPv4 and TCP without options


@pytest.fixture(scope="module")
def rig():
    with Two() as rig:
        yield rig


def burst(rig, name, order):
    """Encapsulated segments, each the next one of the connection that `order` says."""
    sent = dict.fromkeys(order, 0)
    frames = []
    for connection in order:
        frame = tcp_segment(LENGTH, 1000 + LENGTH * sent[connection], sport=5000 + connection)
        sent[connection] += 1
        frames += rig.encapsulate(frame, name)
    return frames


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=examples(10), deadline=None)
@given(order=st.lists(st.integers(0, 30), min_size=1, max_size=100))
def test_s1_5_each_connection_has_a_bucket(rig, name, order):
    """However they are mixed."""
    rig.burst(burst(rig, name, order), WIRE)
    expected = [[n for n, other in enumerate(order) if other == connection] for connection in set(order)]
    assert sorted(rig.coalesce()) == sorted(expected)


@pytest.mark.parametrize("name", FORMATS)
def test_s1_5_a_bucket_is_delivered_at_a_size(rig, name):
    """That of the inner packet; the other connection's is not touched by it."""
    sizes = rig.t["nics"][WIRE, rig.t["nic_rows"][WIRE]]["completion_size"]
    before = sizes[0]
    sizes[0] = HEADERS + 3 * LENGTH
    try:
        rig.burst(burst(rig, name, [0, 0, 1, 0, 0, 0, 1]), WIRE)
        assert sorted(rig.coalesce()) == [[0, 1, 3], [2, 6], [4, 5]]
    finally:
        sizes[0] = before


@pytest.mark.parametrize("name", FORMATS)
def test_s1_5_no_bucket_waits_longer_than_its_burst(rig, name):
    """The time after which it is delivered: what comes in the next burst finds no bucket."""
    frames = burst(rig, name, [0, 1, 0, 1])
    rig.burst(frames[:2], WIRE)
    assert rig.coalesce() == [[0], [1]]
    rig.burst(frames[2:], WIRE)
    assert rig.coalesce() == [[0], [1]]
