# SPDX-License-Identifier: Apache-2.0
"""When a run does not count, and the sentence that says why."""

from __future__ import annotations

import pytest

from experiments.cpu import CpuUse
from experiments.validity import reasons_against

LIMIT = 0.05
QUIET = CpuUse(total=2.0, others=0.02, stolen=0.0)


def test_a_quiet_run_is_valid():
    assert reasons_against(QUIET, {"s1.wire_late": 0, "s1.rx_bad_checksum": 0, "s1.no_rule": 7}, LIMIT) == []


def test_others_at_work():
    use = CpuUse(total=2.0, others=0.2, stolen=0.0)
    assert reasons_against(use, {}, LIMIT) == ["others used 0.20 of a core (allowed: 0.05)"]
    assert reasons_against(use, {}, other_cpu_limit=0.5) == []


def test_a_busy_hypervisor():
    (reason,) = reasons_against(CpuUse(total=1.0, others=0.01, stolen=0.1), {}, LIMIT)
    assert "0.10 stolen by the hypervisor" in reason


def test_late_frames():
    assert reasons_against(QUIET, {"s2.wire_late": 3}, LIMIT) == [
        "the wire released 3 frames late (s2.wire_late)"
    ]


@pytest.mark.parametrize(("inexact", "valid"), [(50, True), (51, False)])
def test_a_median_of_lateness_over_50_us(inexact, valid):
    counters = {"s1.wire_timed": 0, "s1.wire_inexact": 0, "s2.wire_timed": 100, "s2.wire_inexact": inexact}
    assert reasons_against(QUIET, counters, LIMIT) == (
        [] if valid else ["of 100 frames, 51 left the wire more than 50 us late (s2.wire_inexact)"]
    )


def test_wrong_checksums():
    (reason,) = reasons_against(QUIET, {"receiver.tcp_checksum_error": 1}, LIMIT)
    assert reason == "1 packets had a wrong checksum (receiver.tcp_checksum_error)"


def test_every_flaw_has_its_sentence():
    noisy = CpuUse(total=2.0, others=1.0, stolen=0.0)
    assert len(reasons_against(noisy, {"s1.wire_late": 1, "s1.rx_bad_checksum": 1}, LIMIT)) == 3
