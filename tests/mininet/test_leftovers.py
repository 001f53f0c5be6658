# SPDX-License-Identifier: Apache-2.0
"""Nothing is left of a lab, however it ends, and nothing of another lab is touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mininet.mn_cli import MN, isolated
from tests.patience import PATIENCE_S
from topologies.lab import SHM_DIR, Lab
from topologies.processes import end, end_orphan, listening, poll_until, run, spawn, start_time
from topologies.registry import LABS_DIR, MADE, OWNER, pid_namespace, remove_leftovers

pytestmark = pytest.mark.root
SLEEP = ["sleep", "60"]


@pytest.fixture
def lab():
    made = Lab()
    yield made
    made.close()


def dead_lab(folder: Path, records: list[dict]) -> Path:
    """The run folder of a lab whose owner is gone."""
    folder.mkdir(parents=True)
    owner = subprocess.Popen(["true"])
    owner.wait()
    (folder / OWNER).write_text(
        json.dumps({"pid": owner.pid, "start_time": 1, "pid_namespace": pid_namespace()})
    )
    (folder / MADE).write_text("".join(json.dumps(record) + "\n" for record in records) + '{"pid": 1')
    return folder


@pytest.fixture
def sleeper():
    process = subprocess.Popen(SLEEP)
    yield process
    process.kill()
    process.wait()


def test_nothing_listens_in_a_process_that_has_ended():
    process = spawn(["true"])
    process.wait()
    assert not listening(process.pid, 80)


def test_what_a_dead_lab_made_is_removed(tmp_path, sleeper):
    wires = tmp_path / "wires"
    wires.mkdir()
    (wires / "w").touch()
    started = start_time(sleeper.pid)
    folder = dead_lab(
        tmp_path / "labs" / "1", [{"pid": sleeper.pid, "start_time": started}, {"directory": str(wires)}]
    )
    assert remove_leftovers(tmp_path / "labs") == ["1"]
    assert sleeper.wait(PATIENCE_S) == -signal.SIGTERM
    assert not wires.exists()
    assert not folder.exists()


def test_a_process_that_took_over_the_id_is_spared(tmp_path, sleeper):
    dead_lab(tmp_path / "labs" / "1", [{"pid": sleeper.pid, "start_time": start_time(sleeper.pid) - 1}])
    remove_leftovers(tmp_path / "labs")
    assert sleeper.poll() is None


def test_a_living_lab_is_spared(lab):
    assert lab.name not in remove_leftovers()
    assert lab.run_dir.exists()


def test_a_lab_of_another_pid_namespace_is_spared(tmp_path):
    folder = dead_lab(tmp_path / "labs" / "1", [])
    owner = json.loads((folder / OWNER).read_text())
    (folder / OWNER).write_text(json.dumps(owner | {"pid_namespace": 1}))
    assert remove_leftovers(tmp_path / "labs") == []


def test_a_lab_of_another_pid_namespace_may_have_the_same_id(lab):
    """As after a container was killed: the next one's processes have the same ids."""
    folder = LABS_DIR / f"{os.getpid()}"
    assert lab.name.startswith(folder.name)
    other = Lab()
    try:
        assert {lab.name, other.name} == {folder.name, f"{folder.name}-2"}
    finally:
        other.close()


def test_a_folder_of_somebody_else_is_spared(tmp_path):
    (tmp_path / "labs" / "mine").mkdir(parents=True)
    assert remove_leftovers(tmp_path / "labs") == []
    assert (tmp_path / "labs" / "mine").exists()


def test_a_stubborn_orphan_is_killed():
    script = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint(flush=True)\ntime.sleep(60)"
    stubborn = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert stubborn.stdout
    stubborn.stdout.readline()
    end_orphan(stubborn.pid, start_time(stubborn.pid) or 0, grace_s=0.2)
    assert stubborn.wait(PATIENCE_S) == -signal.SIGKILL


STARTS = {
    "spawned": f"spawn({SLEEP}); time.sleep(60)",
    "awaited": f"run({SLEEP})",
    "awaited in a namespace": f"run({SLEEP}, pid=os.getpid())",
    "awaited by another thread": f"threading.Thread(target=run, args=({SLEEP},)).start(); time.sleep(60)",
}
ENDINGS = [
    *((start, signal.SIGKILL) for start in STARTS),
    ("awaited", signal.SIGINT),  # which the terminal sends to us only: the child has a session of its own
    ("awaited", signal.SIGTERM),
]


@pytest.mark.parametrize(("start", "ending"), ENDINGS)
def test_a_child_dies_with_its_parent(start, ending):
    modules = "import os, threading, time\nfrom topologies.processes import run, spawn\n"
    parent = subprocess.Popen([sys.executable, "-c", modules + STARTS[start]], stderr=subprocess.DEVNULL)
    assert poll_until(lambda: sleeping_child(parent.pid), PATIENCE_S)
    child = sleeping_child(parent.pid)
    parent.send_signal(ending)
    assert parent.wait(PATIENCE_S) == -ending
    assert poll_until(lambda: start_time(child) is None, PATIENCE_S)


def sleeping_child(pid):
    """The id of a child of a process that has become SLEEP."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == pid and (entry / "cmdline").read_text() == "\0".join([*SLEEP, ""]):
                return int(entry.name)
        except OSError:
            continue  # ended meanwhile
    return None


def test_what_a_program_prints_and_its_status_are_told():
    result = run(["sh", "-c", "echo out; echo complaint >&2; exit 3"])
    assert (result.returncode, result.stdout, result.stderr) == (3, "out\n", "complaint\n")


def test_an_ended_child_is_gone():
    child = spawn(SLEEP)
    end(child)
    assert child.returncode == -signal.SIGTERM


def test_the_next_lab_removes_what_a_killed_one_left():
    script = (
        "import os\nfrom topologies.lab import Lab\nprint(Lab().name, flush=True)\nos.kill(os.getpid(), 9)"
    )
    name = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=False
    ).stdout.strip()
    assert (LABS_DIR / name).exists()
    Lab().close()
    assert not (LABS_DIR / name).exists()
    assert not (SHM_DIR / f"mn-offload-{name}").exists()


def test_a_folder_of_the_users_is_kept(tmp_path):
    lab = Lab(run_dir=tmp_path / "logs")
    (lab.run_dir / "s1.log").touch()
    lab.close()
    assert (tmp_path / "logs" / "s1.log").exists()
    assert not lab.wire_dir.exists()


def test_two_labs_in_one_process_are_apart(lab):
    other = Lab()
    try:
        assert lab.run_dir != other.run_dir
        assert lab.wire_dir != other.wire_dir
    finally:
        other.close()
    assert lab.run_dir.exists()


def test_mn_c_removes_leftovers():
    """The real `mn -c`, where it reaches this test's own lab only."""
    script = "import os\nfrom topologies.lab import Lab\nlab = Lab()\nos.kill(os.getpid(), 9)"
    steps = (
        f"mount -t tmpfs none /dev/shm && mkdir -p {LABS_DIR} && mount -t tmpfs none {LABS_DIR} || exit 1\n"
        f"{sys.executable} -c '{script}'\n"
        f"ls -d {LABS_DIR}/* {SHM_DIR}/*; echo then\n"
        f"{MN} --custom topologies/mn.py -c >/dev/null 2>&1; echo status $?\n"
        f"ls {LABS_DIR} {SHM_DIR}"
    )
    result = subprocess.run(
        isolated("sh", "-c", steps), capture_output=True, text=True, timeout=60, check=False
    )
    before, _, after = result.stdout.partition("then\n")
    assert str(LABS_DIR) in before
    assert str(SHM_DIR / "mn-offload") in before
    assert after.split() == ["status", "0", f"{SHM_DIR}:", f"{LABS_DIR}:"], result.stdout + result.stderr


def test_sigterm_ends_mn_and_its_lab():
    """As when a terminal or a CI job is closed."""
    script = (
        "import sys, time\nfrom topologies import mn\nfrom topologies.nodes import VM\n"
        "vm = VM('vm1')\nprint(vm.pid, vm.lab.run_dir, flush=True)\ntime.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    shell, run_dir = process.stdout.readline().split()
    process.terminate()
    assert process.wait(PATIENCE_S) == 128 + signal.SIGTERM
    assert poll_until(lambda: start_time(int(shell)) is None, PATIENCE_S)
    assert not os.path.exists(run_dir)
