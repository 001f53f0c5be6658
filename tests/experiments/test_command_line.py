# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments`: a sentence for each thing that a user can get wrong, and the right exit status."""

from __future__ import annotations

import errno
import json
import os

import pytest
from rich.console import Console

from experiments import system
from experiments.command import main, tell
from experiments.errors import ExperimentError
from experiments.options import parse_options, server_cores
from experiments.overlay_gro import EXPERIMENT
from experiments.summary import summarise
from experiments.system import require_programs
from tests.experiments.samples import ENVIRONMENT, overlay_plan, sample


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nope"], "unknown experiment 'nope': there is overlay-gro"),
        (["overlay-gro", "speed=1"], "unknown option 'speed': the options are runs, "),
        (["overlay-gro", "runs"], "'runs' is not an option: write key=value"),
        (["overlay-gro", "runs=0"], "runs=0: must be a whole number from 1 to 1000"),
        (["overlay-gro", "runs=x"], "runs=x: must be a whole number"),
        (["overlay-gro", "flows=1,200"], "flows=1,200: must be a whole number from 1 to 128"),
        (["overlay-gro", "cores=0"], "cores=0: must give the cores of both servers"),
        (["overlay-gro", "cores=0,4096"], "cores=0,4096: core 4096 is not available here"),
        (["overlay-gro", "switches=hub"], "switches=hub: must be one of vswitch, kernel, ovs-userspace"),
        (["overlay-gro", "other_cpu=-1"], "other_cpu=-1: must be a number from 0"),
        (["overlay-gro", "seconds=1", "warmup=1"], "warmup must be shorter than seconds"),
    ],
)
def test_a_wrong_word_is_one_sentence(arguments, sentence, capsys, tmp_path):
    assert main(["run", *arguments, "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"experiments: {sentence}")
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["bench", "list"])
def test_a_command_without_options_takes_none(command, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([command, "--speed"])
    assert "unrecognized arguments: --speed" in capsys.readouterr().err


def test_not_root(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["run", "overlay-gro", "--out", str(tmp_path / "out")]) == 1
    assert "run this as root, e.g. with sudo" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_program_says_what_to_install(monkeypatch):
    monkeypatch.setattr(system.shutil, "which", lambda name: None)
    with pytest.raises(ExperimentError, match=r"iperf3, mnexec not found: .*apt-get install iperf3 mininet$"):
        require_programs(["iperf3", "mnexec"])


def test_a_folder_with_something_else_is_refused(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(system.shutil, "which", lambda name: name)
    (tmp_path / "thesis.tex").write_text("…")
    assert main(["run", "overlay-gro", "--out", str(tmp_path)]) == 1
    assert "is not empty and holds no earlier run" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "summary.json does not exist: give the folder of a finished run"),
        (b"{", "summary.json is not valid JSON"),
        (b"\xff", "summary.json is not valid JSON"),
        (b"[]", "summary.json is no summary of a run, it lacks baseline, environment, experiment, "),
        (b'{"experiment": "overlay-gro"}', "is no summary of a run, it lacks baseline, environment, invalid"),
    ],
)
def test_report_of_nothing(capsys, tmp_path, text, sentence):
    if text is not None:
        (tmp_path / "summary.json").write_bytes(text)
    assert main(["report", str(tmp_path)]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(("reasons", "status"), [((), 0), (("the wire released 7 frames late",), 3)])
def test_report_says_whether_the_run_counts_as_run_did(capsys, tmp_path, reasons, status):
    plan = overlay_plan(switches=("kernel",), flows=(1,))
    samples = [[sample(plan.cases[0], number, reasons=reasons)] for number in range(2)]
    summary = summarise("overlay-gro", ENVIRONMENT, {}, plan, samples, {})
    assert tell(summary, EXPERIMENT, tmp_path, Console()) == status
    as_run = capsys.readouterr().out
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert main(["report", str(tmp_path)]) == status
    assert capsys.readouterr().out == as_run
    lines = [line for line in as_run.splitlines() if line.startswith("INVALID: ")]
    assert lines == [
        f"INVALID: kernel vxlan veth gro=on 1 flow: 2 of 2 runs invalid: {reason}" for reason in reasons
    ]


def test_usage_errors_are_status_2():
    for arguments in (["frobnicate"], ["run"], ["run", "overlay-gro", "--fast"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2


def test_list_names_every_option(capsys):
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    assert "overlay-gro: " in printed
    assert all(f"    {key} " in printed for key in EXPERIMENT.options)


def test_quick_has_defaults_of_its_own():
    quick, full = (parse_options(EXPERIMENT.options, ["flows=2"], quick) for quick in (True, False))
    assert quick["runs"] < full["runs"]
    assert quick["flows"] == full["flows"] == (2,)


def test_several_cores_per_server():
    core = min(os.sched_getaffinity(0))
    assert server_cores(f"{core},{core}") == (frozenset({core}), frozenset({core}))


def test_a_full_disk_is_one_sentence(capsys, monkeypatch):
    def full(options):
        raise OSError(errno.ENOSPC, "No space left on device", "runs/first/raw/1.json")

    monkeypatch.setattr("experiments.command.report_command", full)
    assert main(["report", "runs/first"]) == 1
    assert capsys.readouterr().err == "experiments: no room left on the disk of runs/first/raw/1.json\n"
