# SPDX-License-Identifier: Apache-2.0
"""Two states of the switch compared: what is paired, what the ratios say, that the other's own code runs."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from experiments import bench_against, flow_setup, l2_forwarding, lro_rules
from experiments.against import against, label, with_other
from experiments.against import report as report_of_run
from experiments.bench_against import PAIRS, compare, figures, report, speeds
from experiments.checkout import Checkout
from experiments.command import find, main
from experiments.errors import ExperimentError
from experiments.harness import shuffled
from experiments.options import parse_options
from experiments.progress import Reporter
from experiments.stats import Estimate, median_interval, not_slower, verdict
from experiments.system import ROOT
from vswitch import code_cache

HERE = Checkout.here()


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A checkout that needs no compiling, as its modules of the switch are ours. Its bench finds all twice as
    fast, its switch says so at its start, and its overlay has a counter of that name."""
    root = tmp_path_factory.mktemp("checkout")
    for package in ("experiments", "topologies", "ryu_apps"):
        shutil.copytree(ROOT / package, root / package)
    (root / "vswitch").mkdir()
    (root / "vswitch" / "datapath.py").touch()
    (root / "vswitch" / "__init__.py").write_text(
        f"import sys\n__path__ = [{str(ROOT / 'vswitch')!r}]\nprint('a copy', file=sys.stderr, flush=True)\n"
    )
    append(
        root / "experiments" / "bench.py",
        "of_the_original = measure",
        "def measure(bench):",
        "    return [(name, ns / 2) for name, ns in of_the_original(bench)]",
    )
    append(
        root / "experiments" / "peers" / "vswitch.py",
        "of_the_original = VSwitchOverlay.counters",
        "VSwitchOverlay.counters = lambda self: {**of_the_original(self), 'a copy': 1}",
    )
    return root


def append(path: Path, *lines: str) -> None:
    path.write_text("\n".join((path.read_text(), *lines, "")))


# What ratios say


@pytest.mark.parametrize(
    ("median", "low", "high", "said"),
    [
        (1.0, 0.99, 1.01, "as fast"),
        (0.96, 0.9, 1.0, "as fast"),  # the interval contains 1
        (0.97, 0.96, 0.98, "as fast"),
        (0.969, 0.96, 0.98, "slower"),
        (0.5, 0.4, 0.999, "slower"),
        (1.02, 1.01, 1.03, "as fast"),
        (1.04, 1.01, 1.05, "faster"),
        (1.04, 1.0, 1.05, "as fast"),
    ],
)
def test_slower_is_by_more_than_three_percent_and_in_the_whole_interval(median, low, high, said):
    speed = Estimate(median, low, high, 0.988, 11)
    assert verdict(speed) == said
    assert not_slower([speed]) == (said != "slower")


def test_of_too_few_runs_nothing_is_said():
    """Five reach 94 %."""
    speed = median_interval([0.5] * 5)
    assert verdict(speed) == "too few runs to tell"
    assert not not_slower([speed])
    assert verdict(median_interval([0.5] * PAIRS)) == "slower"


# The bench


def test_a_stage_that_is_slower_is_told_and_so_is_what_only_one_has(capsys):
    here = {"parse": 20.0, "coalesce": 10.0, "+ forward": 0.0, "new": 1.0}
    there = {"parse": 10.0, "coalesce": 10.0, "+ forward": 1.0, "old": 1.0}
    assert not report([(here, there)] * PAIRS, Console(highlight=False))
    printed = capsys.readouterr().out
    assert "slower here than there: parse\n" in printed
    assert "only here: new\n" in printed and "only there: old\n" in printed
    rows = {line.split("  ")[1].strip(): line.split() for line in printed.splitlines() if "0.5" in line}
    assert rows["parse"][1:4] == ["20.0", "10.0", "0.500"]
    assert report([(there, here)] * PAIRS, Console(highlight=False))
    assert "no stage is slower here than there" in capsys.readouterr().out


def test_a_difference_that_came_out_as_nothing_is_no_pair():
    pairs = [({"+ a": 1.0}, {"+ a": 2.0}), ({"+ a": 0.0}, {"+ a": 2.0}), ({"+ a": 1.0}, {"+ a": -0.1})]
    assert speeds(pairs) == {"+ a": median_interval([2.0])}


def test_nothing_in_common_is_an_error():
    with pytest.raises(ExperimentError, match="no stage in common"):
        report([({"a": 1.0}, {"b": 1.0})] * PAIRS, Console(quiet=True))


def test_both_are_measured_in_turn(monkeypatch):
    """And each once before, which compiles."""
    there = Checkout(Path("/there"), HERE.python)
    order = []

    def measured(checkout):
        order.append("here" if checkout == HERE else "there")
        return {"a": 1.0 if checkout == HERE else 2.0}

    monkeypatch.setattr(bench_against, "figures", measured)
    taken = compare(HERE, there, 3, Reporter(Console(quiet=True)))
    assert taken == [({"a": 1.0}, {"a": 2.0})] * 3
    assert order == ["here", "there", "here", "there", "there", "here", "here", "there"]


def test_each_checkout_is_measured_by_its_own_code(copy):
    pairs = compare(HERE, Checkout.at(copy), 1, Reporter(Console(quiet=True)))
    (speed,) = (
        estimate for stage, estimate in speeds(pairs).items() if stage.startswith("receive + coalesce")
    )
    assert 0.3 < speed.median < 0.8, "the copy says that it is twice as fast"


def test_a_bench_that_does_not_run(copy, tmp_path):
    for package in ("vswitch", "experiments"):
        (tmp_path / package).mkdir()
    (tmp_path / "experiments" / "bench.py").write_text("raise ImportError('no such stage')\n")
    (tmp_path / "vswitch" / "datapath.py").touch()
    sentence = rf"^the bench of {tmp_path} does not run: ImportError: no such stage$"
    with pytest.raises(ExperimentError, match=sentence):
        figures(Checkout.at(tmp_path))


# The command line


@pytest.mark.parametrize("command", [["bench"], ["run", "l2-forwarding"]])
def test_no_checkout(command, capsys, tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        assert main([*command, "--against", str(path)]) == 1
        sentence = (
            f"experiments: --against: {path} is no checkout of this project: it has no vswitch/datapath.py\n"
        )
        assert capsys.readouterr().err == sentence


def test_a_virtual_environment_whose_python_is_gone(capsys, copy):
    python = copy / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to("/nowhere/python3")
    try:
        assert main(["bench", "--against", str(copy)]) == 1
        assert "is gone: run `make setup` there\n" in capsys.readouterr().err
        python.unlink()
        python.symlink_to(sys.executable)
        assert Checkout.at(copy).python == python
    finally:
        shutil.rmtree(copy / ".venv")


@pytest.mark.parametrize(("factor", "status"), [(1.0, 0), (1.1, 3)])
def test_exit_status_of_bench(copy, capsys, monkeypatch, factor, status):
    monkeypatch.setattr(bench_against, "figures", lambda one: {"a": factor if one == HERE else 1.0})
    assert main(["bench", "--against", str(copy)]) == status
    assert ("slower here than there: a\n" in capsys.readouterr().out) == (status == 3)


def test_compiled_code_is_not_shared(copy, monkeypatch):
    """What names our directory of it is not what the user has set."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(code_cache.cache_directory()))
    assert "NUMBA_CACHE_DIR" not in Checkout.at(copy).environment()
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/elsewhere")
    assert Checkout.at(copy).environment()["NUMBA_CACHE_DIR"] == "/elsewhere"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--pairs", "10", "--against", "."], "--pairs must be at least 11: fewer tell too little"),
        (["--pairs", "20"], "--pairs is of bench --against CHECKOUT"),
    ],
)
def test_pairs(arguments, sentence, capsys):
    assert main(["bench", *arguments]) == 1
    assert capsys.readouterr().err == f"experiments: {sentence}\n"


def test_a_checkout_that_does_not_compile(capsys, monkeypatch, tmp_path):
    for package in ("vswitch", "experiments"):
        (tmp_path / package).mkdir()
    (tmp_path / "experiments" / "bench.py").touch()
    (tmp_path / "vswitch" / "datapath.py").touch()
    (tmp_path / "vswitch" / "compile.py").write_text("raise SystemExit('no such type')")
    assert main(["run", "l2-forwarding", "--against", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == f"experiments: --against: {tmp_path} does not compile: no such type\n"


# Experiments


def compared_plan(experiment, *arguments):
    values = parse_options(experiment.options, arguments, quick=True)
    return with_other(experiment, experiment.plan(values), HERE)


@pytest.mark.parametrize("name", ["overlay-gro", "l2-forwarding", "flow-setup"])
def test_each_configuration_of_ours_is_measured_beside_the_others(name):
    plan = compared_plan(find(name))
    ours = [case for case in plan.cases if case.config["switch"] == "vswitch"]
    ratios = {ratio.label: (ratio.numerator, ratio.denominator) for ratio in plan.ratios}
    order = shuffled(plan.cases, random.Random(1))
    for case in ours:
        other = {**case.config, "switch": "other"}
        (pair,) = (one for one in plan.cases if one.config == other)
        assert pair.load is case.load and pair.back_end == f"other-{case.back_end}"
        assert ratios[label(case.config)] == (case.config, other)
        assert abs(order.index(case) - order.index(pair)) == 1
    assert len(plan.cases) > 2 * len(ours)  # and the peers, once each
    assert {case.back_end for case in plan.cases} == {kind.name for kind in plan.back_ends}


@pytest.mark.parametrize("quick", [True, False])
def test_there_are_enough_runs_to_tell(quick):
    compared = against(l2_forwarding.EXPERIMENT, HERE)
    assert parse_options(compared.options, [], quick)["runs"] == PAIRS
    assert parse_options(compared.options, ["runs=2"], quick)["runs"] == 2


@pytest.mark.parametrize(("speed", "as_fast"), [(1.0, True), (0.9, False)])
def test_what_is_slower_in_a_run_is_told(capsys, speed, as_fast):
    names = Estimate(speed, speed, speed, 0.988, 11)._asdict()
    ratios = {
        "vswitch / other, TCP": {**names, "denominator": {"switch": "other"}},
        "vswitch / bridge, TCP": {**names, "median": 0.1, "denominator": {"switch": "bridge"}},
    }
    assert report_of_run({"ratios": ratios}, Console(highlight=False)) == as_fast
    said = "as fast" if as_fast else "slower"
    assert (
        capsys.readouterr().out == f"vswitch / other, TCP: {speed:.3f} ({speed:.3f} - {speed:.3f}), {said}\n"
    )


def test_without_peers_the_other_checkout_is_the_baseline():
    plan = compared_plan(l2_forwarding.EXPERIMENT, "switches=vswitch")
    assert plan.baseline == "other"
    assert compared_plan(flow_setup.EXPERIMENT).baseline == "ovs-userspace"


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ExperimentError, match=r"^lro-rules has nothing that --against could compare$"):
        compared_plan(lro_rules.EXPERIMENT)
    with pytest.raises(ExperimentError, match=r"^l2-forwarding has nothing that --against could compare$"):
        compared_plan(l2_forwarding.EXPERIMENT, "switches=bridge")


def run(copy, out, *arguments):
    """A short run that compares with the copy; too short to tell what is slower."""
    result = subprocess.run(
        [
            *(sys.executable, "-m", "experiments", "run", *arguments, "--quick", "runs=1", "seconds=1"),
            *("other_cpu=1024", "--against", copy, "--out", out),
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 3, result.stdout + result.stderr
    assert ", too few runs to tell" in result.stdout
    summary = json.loads((out / "summary.json").read_text())
    assert summary["valid"] and summary["environment"]["against"] == str(copy)
    return summary


@pytest.mark.root
@pytest.mark.slow
def test_plain_hosts_at_the_switches_of_two_checkouts(copy, tmp_path):
    summary = run(copy, tmp_path / "out", "l2-forwarding", "switches=vswitch")
    assert {"vswitch / other, TCP", "vswitch / other, UDP 64 bytes"} <= summary["ratios"].keys()
    logs = {path.parent.name: path.read_text() for path in (tmp_path / "out" / "logs").glob("*/s1.out")}
    assert "a copy" in logs["other-vswitch"] and "a copy" not in logs["vswitch"]


@pytest.mark.root
@pytest.mark.slow
def test_two_overlays(copy, tmp_path):
    """Its own topology, controller and rules, too. Over veths whose names are those of ours."""
    summary = run(
        copy, tmp_path / "out", "overlay-gro", "switches=vswitch", "flows=1", "wire=veth", "warmup=0.25"
    )
    assert sum(name.startswith("vswitch / other, ") for name in summary["ratios"]) == 4
    raw = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out" / "raw").glob("*-1-1.json")}
    for name, record in raw.items():
        assert ("a copy" in record["counters_after"]) == name.startswith("other-"), name
