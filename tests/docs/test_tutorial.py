# SPDX-License-Identifier: Apache-2.0
"""The tutorial's steps, in turn, as a reader takes them; and the program of the page that it leads to."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, fences, page
from tests.mininet.mn_cli import MnCli, run_mn

TUTORIAL = page("tutorial/first-experiment")
TAKEN_BY_OTHERS = ["make setup", "sudo .venv/bin/python -m vswitch.compile"]
"""The first step: `make test` takes it."""
INVALID = 3  # the machine may be busy with other tests
SAVED = re.compile(r"Save this as\s`(\w+\.py)`[^:]*:\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMPT = "mininet> "


def commands(text: str) -> list[str]:
    return [line for block in fences(text, "bash") for line in block.splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the files that the tutorial has its reader save."""
    files = dict(SAVED.findall(TUTORIAL))
    assert list(files) == ["my_topo.py", "my_experiment.py"]
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def mn_options(command: str, folder: Path) -> list[str]:
    """The options of a line of `mn`, whose own files are in the folder; mn_cli.py adds our custom file."""
    words = shlex.split(command)
    assert words[:4] == ["sudo", ".venv/bin/mn", "--custom", words[3]]
    ours, *files = words[3].split(",")
    assert ours == "topologies/mn.py"
    return [*(word for file in files for word in ("--custom", str(folder / file))), *words[4:]]


def run(command: str, folder: Path, *more: str) -> str:
    """Run a command of `experiments` where the reader's files are; what it printed."""
    words = shlex.split(command)
    assert words[:4] == ["sudo", ".venv/bin/python", "-m", "experiments"]
    result = subprocess.run(
        [str(ROOT / words[1]), *words[2:], *more],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    printed = result.stdout + result.stderr
    assert result.returncode == 0 or (result.returncode == INVALID and "INVALID: " in printed), printed
    return printed


@pytest.mark.root
@pytest.mark.slow
def test_every_step_of_the_tutorial(folder: Path):
    setup, compiling, pingall, prompt, measure, report, listing, _variation = commands(TUTORIAL)
    assert [setup, compiling] == TAKEN_BY_OTHERS
    pings = run_mn(*mn_options(pingall, folder))
    assert pings.returncode == 0 and "0% dropped" in pings.stdout + pings.stderr
    (dialogue,) = fences(TUTORIAL, "console")
    with MnCli(*mn_options(prompt, folder)) as mn:
        *lines, leave = [line.removeprefix(PROMPT) for line in dialogue.splitlines()]
        answers = [mn.enter(line) for line in lines]
        assert leave == "exit"
        mn.leave()
    pinged, transferred, shown, counted = answers
    assert " 0% packet loss" in pinged and min(map(float, re.findall(r"time=([\d.]+)", pinged))) >= 10
    assert "receiver" in transferred and "branch1" not in shown and "office1-eth0" in shown
    assert "rx_forwarded" in counted
    run(measure, folder, "runs=1", "other_cpu=1024")
    results = folder / "results" / "line-queue"
    assert all((results / name).stat().st_size for name in ("table.md", "plot.png", "summary.json"))
    table = (results / "table.md").read_text()
    assert "| queue |" in table and {"30", "3000"} <= set(re.findall(r"\d+", table))
    for name in ("table.md", "plot.png"):
        (results / name).unlink()
    run(report, folder)
    assert (results / "table.md").read_text() == table and (results / "plot.png").stat().st_size
    assert "    queues " in run(listing, folder)


@pytest.mark.root
@pytest.mark.slow
def test_the_experiment_of_the_how_to(tmp_path: Path):
    (program,) = fences(page("how-to/write-an-experiment"), "python")
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "mine.py").write_text(program)
    measure = "sudo .venv/bin/python -m experiments run path/to/mine.py --quick --out DIR"
    assert "round-trips" not in run(measure, tmp_path, "runs=1", "other_cpu=1024")
    rows = (tmp_path / "DIR" / "table.md").read_text().splitlines()[2:]
    _without, with_delay = (float(row.split("|")[3]) for row in rows)
    assert with_delay >= 10
