# SPDX-License-Identifier: Apache-2.0
"""An experiment in a file of the user's own: it is found, checked, and reported on like a shipped one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from experiments.command import main
from experiments.errors import ExperimentError
from experiments.metrics import Measurement
from experiments.own import load
from experiments.summary import summarise
from tests.experiments.samples import ENVIRONMENT, sample

MINE = """
from experiments.options import TCP_RUNS, Option, integer
from experiments.peers.base import BackEnd
from experiments.plan import Case, Experiment, Plan, Ratio
from helper import LABEL

class Mine(BackEnd):
    name = "mine"

ONE, OTHER = ({"switch": "vswitch", "gro": True, "queue": queue} for queue in (1, 2))
CASES = (Case(ONE, "mine", None), Case(OTHER, "mine", None))
RATIOS = (Ratio(LABEL, ONE, OTHER),)

def plan(options):
    return Plan((Mine,), CASES, RATIOS, "vswitch")

OPTIONS = {"runs": Option(integer(1, 9), 3, 1, "how often"), **TCP_RUNS}
EXPERIMENT = Experiment("my-queue", "How long?", "Queues", OPTIONS, plan)
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A file that imports another one beside it."""
    (tmp_path / "helper.py").write_text('LABEL = "one / other"')
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def test_it_is_found_by_its_path_from_anywhere(mine, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path.parent)
    relative = f"{tmp_path.name}/mine.py"
    assert main(["list", relative]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("my-queue: How long?\n    runs ") and "overlay-gro" not in printed
    experiment = load(Path(relative), ())
    assert experiment.file == str(mine)
    assert experiment.plan({}).ratios[0].label == "one / other"


def test_its_report_can_be_written_again(mine, tmp_path, capsys):
    experiment = load(mine, ())
    plan = experiment.plan({})
    samples = [[sample(case, number) for case in plan.cases] for number in range(2)]
    summary = summarise(experiment.name, ENVIRONMENT, {}, plan, samples, {}) | {"file": str(mine)}
    out = tmp_path / "out"
    out.mkdir()
    (out / "summary.json").write_text(json.dumps(summary))
    assert main(["report", str(out)]) == 0
    assert "Queues" in capsys.readouterr().out and (out / "plot.png").stat().st_size
    mine.unlink()
    assert main(["report", str(out)]) == 1
    assert f"{mine} does not exist" in capsys.readouterr().err


BREAKS = '    name = "mine"\n    def start(self):\n        1 / 0\n    def stop(self):\n        pass\n'
WRONG = {
    "no such file": (None, "", "does not exist, or is no file"),
    "syntax": ("def plan(options):", "def plan(options:", "mine.py, line 14: '(' was never closed"),
    "import": ("from helper import LABEL", "import nothing_there", "line 5: ModuleNotFoundError: No module"),
    "raises": ("ONE, OTHER =", "ONE, OTHER = 1 / 0,", "line 10: ZeroDivisionError: division by zero"),
    "raises elsewhere": ("Ratio(LABEL", "Ratio(1, 2, 3, 4, 5, 6, 7, 8", "line 12: TypeError: "),
    "ends": ("OPTIONS =", "raise SystemExit(0)\nOPTIONS =", "line 17: SystemExit: 0"),
    "in the plan": ("CASES, RATIOS,", "CASES, NOTHING,", "line 15: NameError: name 'NOTHING' is not defined"),
    "in the back end": ('    name = "mine"\n', BREAKS, "line 10: ZeroDivisionError: division by zero"),
    "no experiment": ("EXPERIMENT =", "MINE =", "defines no EXPERIMENT of the class experiments.plan.Exp"),
    "another kind": ("= Experiment(", "= dict(a=1) or (", "defines no EXPERIMENT of the class"),
    "a shipped one's name": ('"my-queue"', '"overlay-gro"', "the experiment's name 'overlay-gro' is taken"),
    "no name of a folder": ('"my-queue"', '"../mine"', "the experiment's name '../mine' is taken or no name"),
    "options of the harness": (", **TCP_RUNS", "", "lacks the options seed, cores, other_cpu (experiments"),
    "no cases": ("CASES = (", "CASES = () and (", "the plan has no cases: nothing would be measured"),
    "no such back end": ('Case(OTHER, "mine"', 'Case(OTHER, "m"', "for the back end 'm', which the plan"),
    "no switch": ('"switch"', '"sw"', "the case vswitch gro=on 1 does not say its switch (as 'switch': "),
    "twice the same": ("(1, 2)", "(1, 1)", "there are two cases of the configuration vswitch gro=on 1"),
    "a ratio of nothing": ("LABEL, ONE", "LABEL, {}", "the ratio 'one / other' is of , which no case"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_sentence(mine, name, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    before, after, sentence = WRONG[name]
    if before is None:
        mine.unlink()
    else:
        assert before in MINE
        mine.write_text(MINE.replace(before, after))
    assert main(["run", str(mine), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"experiments: {mine}") and sentence in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out" / "summary.json").exists()


def test_a_path_that_is_no_python_file(tmp_path, capsys):
    (tmp_path / "mine").write_text("")
    assert main(["run", str(tmp_path / "mine")]) == 1
    assert "is no Python file: its name has to end with .py" in capsys.readouterr().err


def test_a_metric_that_nobody_has_said_how_to_show():
    with pytest.raises(
        ExperimentError, match=r"there is no metric 'latency': say in experiments\.metrics\.METRICS"
    ):
        Measurement({"latency": 1.0}, {})
