# SPDX-License-Identifier: Apache-2.0
"""Indirection tables, by ethtool's own loop (`fill_indir_table` in ethtool.c) as the oracle."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vswitch.indirection import equal_table, weighted_table


def ethtool_weight(weights, entries):
    table, queue, partial = [], -1, 0
    for entry in range(entries):
        while entry >= entries * partial // sum(weights):
            queue += 1
            partial += weights[queue]
        table.append(queue)
    return tuple(table)


@given(st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=8).filter(any))
def test_s0_2_weights_are_met_as_ethtool_does(weights):
    assert weighted_table(weights, 128) == ethtool_weight(weights, 128)


def test_s0_2_equal_is_in_turn():
    assert equal_table(3, 8) == (0, 1, 2, 0, 1, 2, 0, 1)
