# SPDX-License-Identifier: Apache-2.0
"""The fuzzer: a short run with every test, ten million frames nightly (`make fuzz`)."""

from __future__ import annotations

import pytest

from tests.fuzz.fuzz_receive import Fuzzer
from tests.unit.rig import INTERPRETED

NIGHTLY_FRAMES = 10_000_000
SECONDS = 3 if INTERPRETED else 15


def test_nonsense_is_survived_and_accounted_for():
    fuzzer = Fuzzer()
    fuzzer.run_round()
    fuzzer.run(seconds=SECONDS)
    reasons = {"rx_too_short", "rx_bad_descriptor", "rx_stale_slot", "rx_bad_outer_checksum", "gro_merged"}
    assert reasons <= set(fuzzer.accounted)
    assert INTERPRETED or {"no_such_header", "invalid_ttl", "meter_drop"} <= set(fuzzer.accounted)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_ten_million_frames_of_nonsense():
    fuzzer = Fuzzer(seed=10**9)
    fuzzer.run(frames=NIGHTLY_FRAMES)
    assert fuzzer.frames >= NIGHTLY_FRAMES
