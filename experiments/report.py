# SPDX-License-Identifier: Apache-2.0
"""Tables and plots from a run folder's `summary.json`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from experiments.errors import ExperimentError
from experiments.metrics import METRICS
from experiments.plan import OTHER, Experiment, config_text, flows_text

NAMES = {
    "vswitch": "vswitch",
    "kernel": "Linux kernel",
    "bridge": "Linux bridge",
    "ovs-userspace": "OVS userspace",
    OTHER: "other checkout",
}
HEADINGS = {
    "switch": "Switch",
    "encap": "Format",
    "gro": "GRO",
    "tso": "TSO",
    "lro": "LRO",
    "router": "Router",
    "flows": "Flows",
    "wire": "Wire",
    "load": "Load",
}
# Colour-blind safe: Okabe and Ito (2008).
COLOURS = {
    "vswitch": "#0072B2",
    "kernel": "#E69F00",
    "bridge": "#E69F00",
    "ovs-userspace": "#009E73",
    OTHER: "#CC79A7",
}
LIGHT = {"#0072B2": "#56B4E9"}  # the same switch without GRO
KEYS = {"experiment", "valid", "invalid_reasons", "environment", "baseline", "rows", "ratios"}
OFFERED = 0.99  # of what is offered: who takes so much is limited by the offer
TABLE_WIDTH = 120  # of a table that needs no more
UNLIMITED = 1000
ALWAYS_SHOWN = {"switch", "gro", "flows", "wire"}


@dataclass(frozen=True)
class Layout:
    """The columns of a summary's table: the configuration's keys, and then the metrics'.

    baseline: the switch that the others are compared with; empty when there are no others.
    """

    keys: tuple[str, ...]
    primary: tuple[str, ...]  # a metric for each kind of row
    others: tuple[str, ...]
    baseline: str

    @property
    def columns(self) -> tuple[str, ...]:
        others = tuple(METRICS[name].heading for name in self.others)
        return (*self.foremost, *others, "runs")

    @property
    def foremost(self) -> tuple[str, ...]:
        """The columns that also a terminal shows that is narrower than the table."""
        heads = tuple(HEADINGS.get(key, key) for key in self.keys)
        primary = METRICS[self.primary[0]].heading if len(self.primary) == 1 else "measured"
        ratio = (f"ratio to {self.baseline.partition('-')[0]}",) if self.baseline else ()
        return (*heads, primary, "interval", *ratio)


def layout(summary: dict[str, Any]) -> Layout:
    """What the table shows, from what the rows have; of the configuration, what is not the same in all."""
    configs = _configs(summary)
    keys = [
        key
        for key in (configs[0] if configs else {})
        if key in ALWAYS_SHOWN or len({str(config[key]) for config in configs}) > 1
    ]
    groups = list(_by_config(summary))
    primary = tuple(dict.fromkeys(group[0]["metric"] for group in groups))
    others = tuple(dict.fromkeys(row["metric"] for group in groups for row in group[1:]))
    switches = {config["switch"] for config in configs}
    baseline = summary["baseline"] if len(switches) > 1 and summary["baseline"] in switches else ""
    return Layout(tuple(keys), primary, tuple(name for name in others if name not in primary), baseline)


def _by_config(summary: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """The rows of each configuration; its first metric is what it is about."""
    for _, rows in itertools.groupby(summary["rows"], key=lambda row: config_text(row["config"])):
        yield list(rows)


def load_summary(folder: Path) -> dict[str, Any]:
    """The summary of a run folder; raises when there is none."""
    path = folder / "summary.json"
    try:
        summary = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise ExperimentError(f"{path} does not exist: give the folder of a finished run") from None
    except OSError as error:
        raise ExperimentError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # no JSON, or no text
        raise ExperimentError(f"{path} is not valid JSON: {error}") from None
    missing = KEYS - summary.keys() if isinstance(summary, dict) else KEYS
    if missing:
        raise ExperimentError(
            f"{path} is no summary of a run, it lacks {', '.join(sorted(missing))}: "
            "give the folder of a finished run"
        )
    return summary


def write_report(summary: dict[str, Any], experiment: Experiment, folder: Path, console: Console) -> None:
    """Write table.txt, table.md, plot.png and plot.svg, and show the table."""
    rows = table_rows(summary)
    whole = rich_table(summary, rows, experiment.title)
    width = max(TABLE_WIDTH, console.measure(whole, options=console.options.update(width=UNLIMITED)).maximum)
    with (folder / "table.txt").open("w") as file:
        Console(file=file, width=width).print(whole)
    if not console.is_terminal:
        console.width = width
    narrow = len(layout(summary).foremost)
    (folder / "table.md").write_text(markdown_table(summary, rows))
    plot(summary, experiment.title, folder)
    fits = console.width >= width
    console.print(whole if fits else rich_table(summary, rows, experiment.title, narrow))


def table_rows(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    """The cells of the table, a line per configuration, in the order of the plan."""
    columns = layout(summary)
    return [_cells(rows, columns, summary) for rows in _by_config(summary)]


def _cells(rows: list[dict[str, Any]], columns: Layout, summary: dict[str, Any]) -> tuple[str, ...]:
    first, config = rows[0], rows[0]["config"]
    by_metric = {row["metric"]: row for row in rows}
    unit = f" {METRICS[first['metric']].heading}" if len(columns.primary) > 1 else ""
    others = (
        METRICS[name].text(by_metric[name]["median"]) if name in by_metric else "" for name in columns.others
    )
    return (
        *(_cell(key, config.get(key, "")) for key in columns.keys),
        _measured(first, unit),
        _interval(first),
        *((_ratio_to_baseline(config, columns.baseline, summary),) if columns.baseline else ()),
        *others,
        str(first["runs"]) if first["valid"] else f"{first['runs']} INVALID",
    )


def takes_all(row: dict[str, Any]) -> bool:
    """True if the value is what was offered: what the switch could do may be more."""
    return row["median"] >= OFFERED * row.get("offered", float("inf"))


def _measured(row: dict[str, Any], unit: str = "") -> str:
    value = METRICS[row["metric"]].text(row["median"]) + unit
    return f"≥ {value}, offered" if takes_all(row) else value


def _interval(row: dict[str, Any]) -> str:
    """Nothing for a single run, which has none."""
    metric = METRICS[row["metric"]]
    return f"{metric.text(row['low'])} - {metric.text(row['high'])}" if row["runs"] > 1 else ""


def _cell(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return NAMES.get(value, value) if key == "switch" else str(value)


def _ratio_to_baseline(config: dict[str, Any], baseline: str, summary: dict[str, Any]) -> str:
    if config["switch"] == baseline:
        return "1"
    for ratio in summary["ratios"].values():
        if ratio["numerator"] == config and ratio["denominator"]["switch"] == baseline:
            return _ratio(ratio, summary)
    return ""


def _ratio(ratio: dict[str, Any], summary: dict[str, Any]) -> str:
    """The ratio: a bound where one of the two took all that it was offered, and nothing where both did."""
    limited = [rows[0]["config"] for rows in _by_config(summary) if takes_all(rows[0])]
    above, below = (ratio[part] in limited for part in ("numerator", "denominator"))
    if above and below:
        return "both offered"
    sign = "≥ " if above else "≤ " if below else ""
    interval = f" ({ratio['low']:.2f} - {ratio['high']:.2f})" if ratio["runs"] > 1 else ""
    return f"{sign}{ratio['median']:.2f}{interval}"


def rich_table(
    summary: dict[str, Any], rows: list[tuple[str, ...]], title: str, shown: int | None = None
) -> Table:
    """The table for a terminal or a text file, its first `shown` columns."""
    table = Table(
        title=title,
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        collapse_padding=True,
        caption=caption(summary),
        title_style="bold",
    )
    columns = layout(summary)
    for index, column in enumerate(columns.columns[:shown]):
        table.add_column(column, justify="left" if index < len(columns.keys) else "right", no_wrap=True)
    section = None
    for row, config in zip(rows, _configs(summary), strict=True):
        if section not in (None, _section(config)):
            table.add_section()
        section = _section(config)
        table.add_row(*row[:shown], style="" if "INVALID" not in row[-1] else "red")
    return table


def markdown_table(summary: dict[str, Any], rows: list[tuple[str, ...]]) -> str:
    columns = layout(summary)
    rule = tuple("---" if index < len(columns.keys) else "--:" for index in range(len(columns.columns)))
    return "".join("| " + " | ".join(line) + " |\n" for line in (columns.columns, rule, *rows))


def _configs(summary: dict[str, Any]) -> list[dict[str, Any]]:
    return [rows[0]["config"] for rows in _by_config(summary)]


def _section(config: dict[str, Any]) -> str:
    """What heads the rows that are compared with one another."""
    words = [config["load"]] if "load" in config else []
    return ", ".join([*words, *([flows_text(config["flows"])] if "flows" in config else [])])


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
    """Horizontal bars, a panel per load and number of flows, with every run and the interval drawn."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    heading, named = _plot_keys(summary)
    panels: dict[str, list[dict[str, Any]]] = {}
    for rows in _by_config(summary):
        words = [_label(rows[0]["config"], heading), _section(rows[0]["config"])]
        panels.setdefault(", ".join(word for word in words if word), []).append(rows[0])
    if not panels:
        raise ExperimentError("there is nothing to plot: no run was completed")
    style: Any = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.fonttype": "none",
    }
    alike = len({rows[0]["metric"] for rows in panels.values()}) == 1
    with pyplot.rc_context(style):
        most = max(len(rows) for rows in panels.values())
        figure, axes = pyplot.subplots(
            1, len(panels), sharex=alike, sharey=alike, squeeze=False, layout="constrained",
            figsize=(3.4 * len(panels) + 1.4, 0.42 * most + 1.5),
        )  # fmt: skip
        tops = {name: max(row["high"] for row in rows) for name, rows in panels.items()}
        for axis, (name, rows) in zip(axes[0], panels.items(), strict=True):
            labels = [_label(row["config"], named) for row in rows]
            _panel(axis, rows, labels, name, max(tops.values()) if alike else tops[name])
        for axis in axes[0][:1] if alike else axes[0]:
            axis.invert_yaxis()
        figure.suptitle(title, fontsize=10, fontweight="bold")
        figure.supxlabel(caption(summary), fontsize=6.5, color="0.35")
        for suffix in ("png", "svg"):
            figure.savefig(folder / f"plot.{suffix}", dpi=200)
        pyplot.close(figure)


def _panel(axis: Any, rows: list[dict[str, Any]], labels: list[str], name: str, top: float) -> None:
    metric = METRICS[rows[0]["metric"]]
    for position, row in enumerate(rows):
        median, low, high = (row[key] / metric.unit for key in ("median", "low", "high"))
        axis.barh(position, median, height=0.62, color=_colour(row), alpha=1 if row["valid"] else 0.35)
        if row["runs"] > 1:
            spread = [[median - low], [high - median]]
            axis.errorbar(median, position, xerr=spread, color="0.1", capsize=3, linewidth=1.2)
        axis.plot(
            [value / metric.unit for value in row["values"]], [position] * len(row["values"]),
            "o", markersize=2.6, color="white", markeredgecolor="0.1", markeredgewidth=0.6,
        )  # fmt: skip
        text = _measured(row) + ("" if row["valid"] else " (invalid)")
        axis.text(high + 0.025 * top / metric.unit, position, text, va="center", fontsize=8.5)
    axis.set_yticks(range(len(rows)), labels)
    axis.tick_params(axis="y", length=0)
    axis.set_title(name, fontsize=9)
    axis.set_xlabel(metric.heading)
    axis.set_xlim(0, 1.2 * top / metric.unit)
    axis.grid(axis="x", color="0.88", linewidth=0.6)
    axis.set_axisbelow(True)


def _plot_keys(summary: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The keys that head a panel, beside load and flows, and those that name its bars.

    Tunnel formats are compared with each other: they are the bars, and a panel is for a way to treat them.
    """
    named = _naming_keys(summary)
    if "encap" in named:
        return [key for key in named if key != "encap"], ["encap"]
    return [], named


def _naming_keys(summary: dict[str, Any]) -> list[str]:
    """The keys that tell a panel's bars apart: those of the table without the panel's own, and without the
    switch and the wire where there is only one."""
    several = {
        key for key in ("switch", "wire") if len({config.get(key) for config in _configs(summary)}) > 1
    }
    keys = [key for key in layout(summary).keys if key not in ("load", "flows")]
    return [key for key in keys if key not in ("switch", "wire") or key in several] or ["switch"]


def _label(config: dict[str, Any], keys: list[str]) -> str:
    """A bar's name: `vswitch, memory, GRO on`."""
    words = []
    for key in keys:
        if key in config:
            word = _cell(key, config[key])
            words.append(f"{HEADINGS.get(key, key)} {word}" if isinstance(config[key], bool) else word)
    return ", ".join(words)


def _colour(row: dict[str, Any]) -> str:
    colour = COLOURS.get(row["config"]["switch"], "#999999")
    return colour if row["config"].get("gro", True) else LIGHT.get(colour, colour)
