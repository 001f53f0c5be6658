# SPDX-License-Identifier: Apache-2.0
"""What a run measures: the metrics' names in `summary.json`, and how tables show them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from experiments.errors import ExperimentError

if TYPE_CHECKING:
    from experiments.peers.base import BackEnd


@dataclass(frozen=True)
class Metric:
    """How a metric is shown: its values divided by `unit`, with so many decimals, under `heading`."""

    heading: str
    unit: float = 1.0
    decimals: int = 0

    def text(self, value: float) -> str:
        return f"{value / self.unit:,.{self.decimals}f}"


METRICS = {
    "throughput_bps": Metric("Gbit/s", 1e9, 2),
    "packets_per_second": Metric("kpps", 1e3, 0),
    "flows_per_second": Metric("flows/s"),
    "flow_mods_per_second": Metric("mods/s"),
    "packets_cut_to_mss": Metric("cut"),
    "packets_too_large": Metric("too large"),
    "to_lro_on_bps": Metric("LRO VM", 1e9, 2),
    "to_lro_off_bps": Metric("plain VM", 1e9, 2),
    "frames_per_packet": Metric("frames/packet", 1.0, 1),
    "packets_lost": Metric("lost"),
    "changes": Metric("changes"),
    "retransmits": Metric("retransmits"),
    "cached_flows": Metric("cached"),
    "memory_bytes": Metric("MB", 1e6, 0),
    "cpu_cores": Metric("cores", 1.0, 2),
}


@dataclass(frozen=True)
class Measurement:
    """What one run measured. The first of `values` is what the run is about; `raw` goes to the run folder.

    offered: what that value is if the switch takes all that it is offered; None for a load like TCP, which
    offers what is taken.
    """

    values: dict[str, float]
    raw: dict[str, Any]
    offered: float | None = None

    def __post_init__(self) -> None:
        for name in self.values:
            if name not in METRICS:
                raise ExperimentError(
                    f"there is no metric {name!r}: say in experiments.metrics.METRICS how it is shown"
                )

    @property
    def about(self) -> str:
        """The metric that the run is about."""
        return next(iter(self.values))

    @property
    def primary(self) -> float:
        return self.values[self.about]

    def __str__(self) -> str:
        """The primary value as tables show it, with its unit."""
        metric = METRICS[self.about]
        return f"{metric.text(self.primary)} {metric.heading}"


class Workload(Protocol):
    """What a case does to its back end."""

    def run(self, back_end: BackEnd) -> Measurement:
        """Do it once and return what was measured; the same metrics each time, the most important first."""

    def shortened(self, seconds: int) -> Workload:
        """The same for so many seconds, to compare variants of a back end by its primary metric."""
