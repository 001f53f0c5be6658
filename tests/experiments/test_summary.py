# SPDX-License-Identifier: Apache-2.0
"""summary.json: the contract that scripts rely on (schema, keys, validity)."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from experiments import flow_setup
from experiments.cpu import CpuUse
from experiments.metrics import Measurement
from experiments.report import markdown_table, plot, table_rows
from experiments.summary import Sample, summarise
from tests.experiments.samples import ENVIRONMENT, overlay_plan, rounds, sample


def summary_of(plan, samples, variants=None):
    summary = summarise("overlay-gro", ENVIRONMENT, {"runs": 5}, plan, samples, variants or {})
    return json.loads(json.dumps(summary))  # it must be plain JSON


def row_of(summary, **config):
    (row,) = [
        row
        for row in summary["rows"]
        if row["metric"] == "throughput_bps" and config.items() <= row["config"].items()
    ]
    return row


def test_the_contract():
    plan = overlay_plan()
    summary = summary_of(plan, rounds(plan))
    assert summary["experiment"] == "overlay-gro"
    assert (summary["valid"], summary["invalid_reasons"]) == (True, [])
    assert summary["environment"] == ENVIRONMENT
    row = row_of(summary, switch="vswitch", gro=True, flows=1)
    assert row["config"] == {
        "switch": "vswitch",
        "encap": "vxlan",
        "wire": "memory",
        "gro": True,
        "flows": 1,
    }
    assert (row["median"], row["low"], row["high"]) == pytest.approx((15e9, 12e9, 18e9))
    assert (row["runs"], row["valid"], row["confidence"]) == (5, True, 0.9375)
    assert {row["metric"] for row in summary["rows"]} == {"throughput_bps", "retransmits", "cpu_cores"}


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("gro on / off, vxlan, 1 flow", 3),
        ("vswitch / kernel, vxlan, 1 flow", 1.5),
        ("vswitch / ovs-userspace, vxlan, 1 flow", 15),
        ("vswitch / kernel, vxlan, 4 flows", 1.5),
    ],
)
def test_ratios_by_name(label, expected):
    plan = overlay_plan()
    ratio = summary_of(plan, rounds(plan))["ratios"][label]
    assert (ratio["median"], ratio["low"], ratio["high"]) == pytest.approx((expected,) * 3)


def test_an_invalid_run_is_out_of_the_numbers_and_makes_the_experiment_invalid():
    plan = overlay_plan(runs=3)
    samples = rounds(plan, (1.0, 1.0, 1.0))
    case = plan.cases[0]
    samples[1][0] = sample(case, 1, speed=0.1, reasons=("others used 0.50 of a core (allowed: 0.05)",))
    summary = summary_of(plan, samples)
    assert not summary["valid"]
    assert summary["invalid_reasons"] == [
        "vswitch vxlan memory gro=on 1 flow: 1 of 3 runs invalid: others used 0.50 of a core (allowed: 0.05)"
    ]
    row = row_of(summary, switch="vswitch", gro=True, flows=1)
    assert (row["runs"], row["valid"], row["low"]) == (2, False, 15e9)
    assert row_of(summary, switch="kernel", flows=1)["valid"]
    assert summary["ratios"]["gro on / off, vxlan, 1 flow"]["runs"] == 2


def test_a_row_without_valid_runs_shows_what_was_measured():
    plan = overlay_plan(switches=("kernel",), flows=(1,))
    summary = summary_of(plan, [[sample(plan.cases[0], 0, reasons=("late",))]])
    row = row_of(summary, switch="kernel")
    assert (row["runs"], row["valid"], row["median"]) == (1, False, 10e9)


def test_the_plan_has_only_the_chosen_switches():
    plan = overlay_plan(switches=("kernel", "ovs-userspace"), flows=(2,))
    assert [case.config["switch"] for case in plan.cases] == ["kernel", "ovs-userspace"]
    assert [ratio.label for ratio in plan.ratios] == ["ovs-userspace / kernel, vxlan, 2 flows"]


def test_both_wires_in_one_plan():
    plan = overlay_plan(wire="veth", flows=(1,))
    ours = [case for case in plan.cases if case.config["switch"] == "vswitch"]
    assert [(case.config["wire"], case.back_end) for case in ours[::2]] == [
        ("memory", "vswitch"),
        ("veth", "vswitch-veth"),
    ]
    ratios = summary_of(plan, rounds(plan))["ratios"]
    for label, wire in (("vxlan, 1 flow", "memory"), ("vxlan, veth, 1 flow", "veth")):
        ratio = ratios[f"vswitch / kernel, {label}"]
        assert (ratio["numerator"]["wire"], ratio["denominator"]["wire"]) == (wire, "veth")


def test_the_table_compares_with_the_kernel():
    plan = overlay_plan(flows=(1,))
    summary = summary_of(plan, rounds(plan))
    rows = table_rows(summary)
    assert rows[0] == (
        "vswitch", "memory", "on", "1", "15.00", "12.00 - 18.00", "1.50 (1.50 - 1.50)", "0", "1.50", "5",
    )  # fmt: skip
    assert rows[2][6] == "1"
    assert markdown_table(summary, rows).count("\n") == len(rows) + 2


def test_a_table_of_one_switch_compares_with_nothing():
    plan = overlay_plan(switches=("vswitch",))
    summary = summary_of(plan, rounds(plan))
    heading = markdown_table(summary, table_rows(summary)).splitlines()[0]
    assert "ratio" not in heading and "cores" in heading


def test_the_table_marks_invalid_rows():
    plan = overlay_plan(switches=("kernel",), flows=(1,))
    rows = table_rows(summary_of(plan, [[sample(plan.cases[0], 0, reasons=("late",))]]))
    assert rows[0][-1] == "1 INVALID"


SWITCHES = ("vswitch", "ovs-userspace")


def flow_summary(*runs: tuple[float, float], offered: float | None = 20_000):
    """Of runs of both switches, which set up so many flows a second."""
    plan = flow_setup.plan({key: option.default for key, option in flow_setup.OPTIONS.items()})
    plan = replace(plan, cases=plan.cases[:2], ratios=plan.ratios[:1])
    assert [case.back_end for case in plan.cases] == list(SWITCHES)
    made = [
        [
            Sample(case, n, 0, Measurement({"flows_per_second": rate}, {}, offered), CpuUse(1, 0, 0))
            for case, rate in zip(plan.cases, rates, strict=True)
        ]
        for n, rates in enumerate(runs)
    ]
    return summarise("flow-setup", ENVIRONMENT, {}, plan, made, {})


@pytest.mark.parametrize(
    ("rates", "measured", "ratio"),
    [
        ((19_998, 19_999), ("≥ 19,998, offered", "≥ 19,999, offered"), "both offered"),
        ((19_800, 10_000), ("≥ 19,800, offered", "10,000"), "≥ 1.98"),
        ((19_799, 19_800), ("19,799", "≥ 19,800, offered"), "≤ 1.00"),
        ((15_000, 10_000), ("15,000", "10,000"), "1.50"),
    ],
)
def test_a_value_that_is_the_offered_load_is_marked(tmp_path, rates, measured, ratio):
    """In the table, in ratios with it, and in the plot; single runs have no interval."""
    summary = flow_summary(rates)
    rows = table_rows(summary)
    assert [row[1:4] for row in rows] == [(measured[0], "", ratio), (measured[1], "", "1")]
    plot(summary, "a title", tmp_path)
    drawn = (tmp_path / "plot.svg").read_text()
    assert all(f">{text}<" in drawn for text in measured)


def test_several_runs_have_an_interval_and_the_median_of_what_was_offered():
    summary = flow_summary((19_990, 9_000), (19_980, 10_000), (11_000, 8_000))
    first, second = table_rows(summary)
    assert first[1:4] == ("≥ 19,980, offered", "11,000 - 19,990", "≥ 2.00 (1.38 - 2.22)")
    assert second[1:4] == ("9,000", "8,000 - 10,000", "1")
    assert [row.get("offered") for row in summary["rows"]] == [20_000, None, 20_000, None]


def test_a_load_that_offers_what_is_taken_is_never_marked():
    summary = flow_summary((20_000, 20_000), offered=None)
    assert [row[1] for row in table_rows(summary)] == ["20,000", "20,000"]


def test_plots_are_written_in_both_formats(tmp_path):
    plan = overlay_plan()
    plot(summary_of(plan, rounds(plan)), "a title", tmp_path)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "a title" in (tmp_path / "plot.svg").read_text()
