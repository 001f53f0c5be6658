# SPDX-License-Identifier: Apache-2.0
"""Tables and plots from a run folder's `summary.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from experiments.errors import ExperimentError
from experiments.plan import Experiment, flows_text

NAMES = {"vswitch": "vswitch", "kernel": "Linux kernel", "ovs-userspace": "OVS userspace"}
COLUMNS = (
    "Switch",
    "GRO",
    "Flows",
    "Gbit/s",
    "interval",
    "ratio to kernel",
    "retransmits",
    "CPU cores",
    "runs",
)
# Colour-blind safe: Okabe and Ito (2008).
COLOURS = {
    ("vswitch", True): "#0072B2",
    ("vswitch", False): "#56B4E9",
    ("kernel", True): "#E69F00",
    ("ovs-userspace", False): "#009E73",
}
TABLE_WIDTH = 116
ESSENTIAL_COLUMNS = 6  # that are shown where a terminal is narrower than the table


def load_summary(folder: Path) -> dict[str, Any]:
    """The summary of a run folder; raises when there is none."""
    path = folder / "summary.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ExperimentError(f"{path} does not exist: give the folder of a finished run") from None
    except json.JSONDecodeError as error:
        raise ExperimentError(f"{path} is not valid JSON: {error}") from None


def write_report(summary: dict[str, Any], experiment: Experiment, folder: Path, console: Console) -> None:
    """Write table.txt, table.md, plot.png and plot.svg, and show the table."""
    rows = table_rows(summary)
    with (folder / "table.txt").open("w") as file:
        Console(file=file, width=TABLE_WIDTH).print(rich_table(summary, rows, experiment.title))
    if not console.is_terminal:
        console.width = TABLE_WIDTH
    shown = len(COLUMNS) if console.width >= TABLE_WIDTH else ESSENTIAL_COLUMNS
    (folder / "table.md").write_text(markdown_table(rows))
    plot(summary, experiment.title, folder)
    console.print(rich_table(summary, rows, experiment.title, shown))


def table_rows(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    """The cells of the table, a line per configuration, in the order of the plan."""
    by_metric = {
        metric: [row for row in summary["rows"] if row["metric"] == metric]
        for metric in ("throughput_bps", "retransmits", "cpu_cores")
    }
    return [
        _cells(rate, retransmits, cpu, summary["ratios"])
        for rate, retransmits, cpu in zip(*by_metric.values(), strict=True)
    ]


def _cells(
    rate: dict[str, Any], retransmits: dict[str, Any], cpu: dict[str, Any], ratios: dict[str, Any]
) -> tuple[str, ...]:
    config = rate["config"]
    return (
        NAMES.get(config["switch"], config["switch"]),
        "on" if config["gro"] else "off",
        str(config["flows"]),
        f"{rate['median'] / 1e9:.2f}",
        f"{rate['low'] / 1e9:.2f} - {rate['high'] / 1e9:.2f}",
        _ratio_to_kernel(config, ratios),
        f"{retransmits['median']:.0f}",
        f"{cpu['median']:.2f}",
        str(rate["runs"]) if rate["valid"] else f"{rate['runs']} INVALID",
    )


def _ratio_to_kernel(config: dict[str, Any], ratios: dict[str, Any]) -> str:
    if config["switch"] == "kernel":
        return "1"
    for ratio in ratios.values():
        if ratio["numerator"] == config and ratio["denominator"]["switch"] == "kernel":
            return f"{ratio['median']:.2f} ({ratio['low']:.2f} - {ratio['high']:.2f})"
    return ""


def rich_table(
    summary: dict[str, Any], rows: list[tuple[str, ...]], title: str, shown: int = len(COLUMNS)
) -> Table:
    """The table for a terminal or a text file, its first `shown` columns."""
    table = Table(
        title=title, box=box.SIMPLE_HEAD, padding=(0, 1), caption=caption(summary), title_style="bold"
    )
    for index, column in enumerate(COLUMNS[:shown]):
        table.add_column(column, justify="left" if index < 2 else "right", no_wrap=True)
    flows = None
    for row in rows:
        if flows not in (None, row[2]):
            table.add_section()
        flows = row[2]
        table.add_row(*row[:shown], style="" if "INVALID" not in row[-1] else "red")
    return table


def markdown_table(rows: list[tuple[str, ...]]) -> str:
    lines = [COLUMNS, tuple("---" if i < 2 else "--:" for i in range(len(COLUMNS))), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def caption(summary: dict[str, Any]) -> str:
    """How to read the numbers, and where they were measured."""
    machine = summary["environment"]
    confidences = {row["confidence"] for row in summary["rows"]} or {0.0}
    confidence = min(confidences)
    spread = f"Medians with {confidence:.0%} intervals" if confidence else "Single runs"
    return (
        f"{spread}; ratios of runs side by side. "
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}."
    )


def plot(summary: dict[str, Any], title: str, folder: Path) -> None:
    """Throughput as horizontal bars, a panel per number of flows, with every run and the interval drawn."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in summary["rows"] if row["metric"] == "throughput_bps"]
    counts = sorted({row["config"]["flows"] for row in rows})
    if not counts:
        raise ExperimentError("there is nothing to plot: no run was completed")
    style: Any = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.fonttype": "none",
    }
    with pyplot.rc_context(style):
        top = max(row["high"] for row in rows) / 1e9
        most = max(sum(row["config"]["flows"] == flows for row in rows) for flows in counts)
        figure, axes = pyplot.subplots(
            1, len(counts), sharex=True, sharey=True, squeeze=False, layout="constrained",
            figsize=(3.4 * len(counts) + 1.4, 0.42 * most + 1.5),
        )  # fmt: skip
        for axis, flows in zip(axes[0], counts, strict=True):
            _panel(axis, [row for row in rows if row["config"]["flows"] == flows], flows, top)
        axes[0][0].invert_yaxis()
        figure.suptitle(title, fontsize=10, fontweight="bold")
        figure.supxlabel(caption(summary), fontsize=6.5, color="0.35")
        for suffix in ("png", "svg"):
            figure.savefig(folder / f"plot.{suffix}", dpi=200)
        pyplot.close(figure)


def _panel(axis: Any, rows: list[dict[str, Any]], flows: int, top: float) -> None:
    labels = []
    for position, row in enumerate(rows):
        config = row["config"]
        name = NAMES.get(config["switch"], config["switch"])
        labels.append(f"{name}, GRO {'on' if config['gro'] else 'off'}")
        median, low, high = (row[key] / 1e9 for key in ("median", "low", "high"))
        colour = COLOURS.get((config["switch"], config["gro"]), "0.6")
        axis.barh(position, median, height=0.62, color=colour, alpha=1 if row["valid"] else 0.35)
        axis.errorbar(
            median, position, xerr=[[median - low], [high - median]], color="0.1", capsize=3, linewidth=1.2
        )
        axis.plot(
            [value / 1e9 for value in row["values"]], [position] * len(row["values"]),
            "o", markersize=2.6, color="white", markeredgecolor="0.1", markeredgewidth=0.6,
        )  # fmt: skip
        text = f"{median:.1f}" if row["valid"] else f"{median:.1f} (invalid)"
        axis.text(high + 0.025 * top, position, text, va="center", fontsize=8.5)
    axis.set_yticks(range(len(labels)), labels)
    axis.tick_params(axis="y", length=0)
    axis.set_title(flows_text(flows), fontsize=9)
    axis.set_xlabel("Throughput (Gbit/s)")
    axis.set_xlim(0, 1.2 * top)
    axis.grid(axis="x", color="0.88", linewidth=0.6)
    axis.set_axisbelow(True)
