# SPDX-License-Identifier: Apache-2.0
"""Made-up runs of an experiment, for tests without a network."""

from __future__ import annotations

from typing import Any

from experiments.cpu import CpuUse
from experiments.iperf import Load
from experiments.metrics import Measurement
from experiments.overlay_gro import EXPERIMENT, plan
from experiments.plan import Case, Plan
from experiments.summary import Sample

ENVIRONMENT = {"cpu": "a CPU", "cores": 2, "kernel": "6.18", "seed": 1}
RATES = {
    ("vswitch", True): 15e9,
    ("vswitch", False): 5e9,
    ("kernel", True): 10e9,
    ("ovs-userspace", False): 1e9,
}


def options(**changes: Any) -> dict[str, Any]:
    """The default options of overlay-gro with some changed."""
    return {key: option.default for key, option in EXPERIMENT.options.items()} | changes


def overlay_plan(**changes: Any) -> Plan:
    return plan(options(**changes))


def transfer(rate_bps: float, retransmits: int = 0) -> Measurement:
    return Measurement({"throughput_bps": rate_bps, "retransmits": retransmits}, {"made": "up"})


def sample(case: Case, number: int, speed: float = 1.0, reasons: tuple[str, ...] = ()) -> Sample:
    rate = RATES[case.config["switch"], case.config["gro"]] * speed
    return Sample(case, number, 0, transfer(rate), CpuUse(1.5, 0.0, 0.0), {}, list(reasons))


def rounds(plan: Plan, speeds: tuple[float, ...] = (1.0, 1.1, 0.9, 1.2, 0.8)) -> list[list[Sample]]:
    """Rounds in which the whole machine runs at different speeds."""
    return [[sample(case, n, speed) for case in plan.cases] for n, speed in enumerate(speeds)]


__all__ = ["ENVIRONMENT", "Load", "options", "overlay_plan", "rounds", "sample", "transfer"]
