# SPDX-License-Identifier: Apache-2.0
"""How functions are compiled, and how rows of tables are copied."""

from __future__ import annotations

import numpy as np
import pytest
from numba import types

from tests.unit.rig import INTERPRETED
from vswitch import layout
from vswitch.dataplane.compiled import compiled
from vswitch.dataplane.intrinsics import assign


@compiled
def _twice(number):
    return 2 * number


@compiled
def _copy_row(rows, target, source):
    assign(rows[target], rows[source])


@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")
def test_a_literal_argument_is_no_reason_to_compile_once_more():
    assert _twice(1) == 2
    _twice.get_call_template([types.literal(3)], {})  # as the compiler of a caller asks
    assert _twice.signatures == [(types.int64,)]


@pytest.mark.parametrize("name", ["packet", "group", "outgoing", "flow"])
def test_a_row_is_copied_whole_and_no_other_is_touched(name):
    rows = np.zeros(4, getattr(layout, f"{name}_dtype"))
    size = rows.itemsize
    rows.view(np.uint8)[size : 2 * size] = np.random.default_rng(1).integers(1, 255, size)
    _copy_row(rows, 2, 1)
    assert rows[2] == rows[1]
    assert rows[2] != rows[0]
    assert rows[3] == rows[0]
