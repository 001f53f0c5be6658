# SPDX-License-Identifier: Apache-2.0
"""The soak of `make soak`, for half a minute."""

from __future__ import annotations

import pytest

from tests.soak.soak import cycle_labs, soak

pytestmark = pytest.mark.root


def test_labs_come_and_go_without_a_trace():
    cycle_labs(2)


def test_nothing_is_lost_and_nothing_grows_under_mixed_traffic_changes_and_restarts():
    """The third round has the restart, the fourth what comes after it."""
    soak(seconds=0, rounds=4, round_s=3)
