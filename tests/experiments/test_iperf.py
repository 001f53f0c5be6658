# SPDX-License-Identifier: Apache-2.0
"""What is read from iperf3's JSON: the receiver's intervals after the warm-up, and retransmissions."""

from __future__ import annotations

import pytest

from experiments.errors import ExperimentError
from experiments.iperf import Load, parse


def interval(start, seconds, size, retransmits=None):
    total = {"start": start, "end": start + seconds, "seconds": seconds, "bytes": size}
    return {"sum": total | ({} if retransmits is None else {"retransmits": retransmits})}


def report(received, sent):
    return {"intervals": sent, "server_output_json": {"intervals": received}}


def test_the_warm_up_does_not_count():
    received = [interval(0, 0.25, 1), interval(0.250013, 0.25, 1000), interval(0.500012, 0.25, 3000)]
    sent = [interval(0, 0.25, 9, 50), interval(0.250001, 0.25, 9, 2), interval(0.5, 0.25, 9, 1)]
    moved = parse(report(received, sent), Load(1, 1, warmup_s=0.25))
    assert moved.values == {"throughput_bps": pytest.approx(8 * 4000 / 0.5), "retransmits": 3}


def test_a_start_just_before_the_end_of_the_warm_up_counts():
    moved = parse(report([interval(0.2498, 0.25, 100)], []), Load(1, 1, warmup_s=0.25))
    assert moved.primary == pytest.approx(3200)


def test_an_error_of_iperf3_is_told():
    with pytest.raises(ExperimentError, match="iperf3 failed: unable to connect"):
        parse({"error": "unable to connect"}, Load(1, 1))


def test_nothing_after_the_warm_up():
    with pytest.raises(ExperimentError, match="nothing after the warm-up of 2 s"):
        parse(report([interval(0, 0.25, 1)], []), Load(1, 1, warmup_s=2))
