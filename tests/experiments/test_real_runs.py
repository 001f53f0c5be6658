# SPDX-License-Identifier: Apache-2.0
"""Short real runs: the summary is complete, and whatever ends a run, nothing of it is left.

How fast anything is, is not tested here: the machine may be busy with other tests (`other_cpu=1024`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.errors import ExperimentError
from experiments.peers.ovs import Instance
from experiments.system import ROOT, Namespace
from tests.patience import PATIENCE_S
from topologies.processes import poll_until
from topologies.registry import remove_leftovers

pytestmark = pytest.mark.root
MARK = "MININET_OFFLOAD_TEST_RUN"
SHORT = ("runs=1", "seconds=1", "warmup=0.25", "flows=1", "other_cpu=1024", "--quick")


def command(out, *arguments, name="overlay-gro", short=SHORT):
    return [sys.executable, "-m", "experiments", "run", name, *short, *arguments, "--out", str(out)]


def started(out, mark, *arguments):
    """A run in the background whose processes all carry `mark` in their environment."""
    return subprocess.Popen(
        command(out, *arguments),
        env={**os.environ, MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def marked(mark):
    """The processes that carry a mark."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def run_to_end(out, *arguments, timeout_s=90, **options):
    result = subprocess.run(
        command(out, *arguments, **options), capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads((out / "summary.json").read_text()), result.stdout


def test_the_peers_alone(tmp_path):
    summary, printed = run_to_end(tmp_path / "out", "switches=kernel,ovs-userspace")
    assert summary["valid"]
    rates = {
        row["config"]["switch"]: row["median"] for row in summary["rows"] if row["metric"] == "throughput_bps"
    }
    assert rates["kernel"] > rates["ovs-userspace"] > 1e6
    assert {"kernel", "cpu", "cores", "iperf3", "ovs", "git_commit", "time"} <= summary["environment"].keys()
    assert str(tmp_path / "out" / "plot.png") in printed
    assert not marked("")


@pytest.mark.slow
def test_all_back_ends(tmp_path):
    summary, _ = run_to_end(tmp_path / "out")
    assert summary["ratios"].keys() >= {
        "gro on / off, vxlan, 1 flow",
        "vswitch / kernel, vxlan, 1 flow",
        "vswitch / ovs-userspace, vxlan, 1 flow",
    }
    assert (tmp_path / "out" / "logs" / "vswitch" / "s1.log").exists()
    raw = json.loads((tmp_path / "out" / "raw" / "vswitch-vxlan-memory-gro-on-1-flow-1-1.json").read_text())
    assert any(name.startswith("s1.") for name in raw["counters_after"])


def medians(summary, metric):
    return {
        (row["config"]["switch"], row["config"]["load"]): row["median"]
        for row in summary["rows"]
        if row["metric"] == metric
    }


def test_a_relative_run_folder(tmp_path):
    """Open vSwitch's programs run where the working directory is another."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        command("out", "switches=ovs-userspace"), cwd=tmp_path, env=environment,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "out" / "summary.json").exists()
    assert "run folder: out" in result.stdout


@pytest.mark.parametrize("program", ["ovsdb-server", "ovs-vswitchd"])
def test_the_last_words_of_a_program_that_ends_are_told(tmp_path, program):
    namespace = Namespace()
    instance = Instance(namespace, frozenset({0}), tmp_path / "ovs")
    (tmp_path / "ovs" / f"{program}.ctl").mkdir(parents=True)
    try:
        with pytest.raises(ExperimentError, match=rf"^{program} ended at once: .*control socket"):
            instance.start()
    finally:
        instance.stop()
        namespace.close()


@pytest.mark.slow
def test_l2_forwarding(tmp_path):
    short = ("runs=1", "seconds=1", "warmup=0.25", "other_cpu=1024", "--quick")
    summary, _ = run_to_end(tmp_path / "out", "switches=vswitch,bridge", name="l2-forwarding", short=short)
    assert summary["ratios"].keys() == {
        "vswitch / bridge, TCP",
        "vswitch / bridge, host VXLAN",
        "vswitch / bridge, UDP 64 bytes",
    }
    assert summary["ratios"]["vswitch / bridge, host VXLAN"]["at_least"] == 0.7
    assert medians(summary, "throughput_bps")["bridge", "host VXLAN"] > 1e7
    assert medians(summary, "throughput_bps")["vswitch", "TCP"] > 1e7
    assert medians(summary, "packets_per_second")["vswitch", "UDP 64 bytes"] > 1e3


@pytest.mark.slow
def test_flow_setup(tmp_path):
    """All flows are cached, and no packet is lost when rules change."""
    short = ("runs=1", "seconds=1", "rules=50", "new_flows=500", "cached_flows=500", "flow_mods=500")
    summary, _ = run_to_end(tmp_path / "out", "other_cpu=1024", "--quick", name="flow-setup", short=short)
    assert medians(summary, "cached_flows")["vswitch", "cached flows"] == 500
    assert medians(summary, "packets_lost")["vswitch", "flow-mods"] == 0
    assert medians(summary, "flows_per_second")["vswitch", "new flows"] > 100
    assert min(medians(summary, "flow_mods_per_second").values()) > 100


@pytest.mark.parametrize("delay_s", [0.3, 0.9, 1.6, 3.0, 5.0])
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_a_run_nothing_is_left(tmp_path, delay_s, kind):
    mark = f"{delay_s}-{kind}-{os.getpid()}"
    run = started(tmp_path / "out", mark, "runs=100")
    time.sleep(delay_s)
    run.send_signal(kind)
    printed, _ = run.communicate(timeout=PATIENCE_S)
    if kind != signal.SIGKILL and run.returncode not in (
        -signal.SIGINT,
        -signal.SIGTERM,
    ):  # before Python was up
        assert run.returncode == 130, printed
        assert "Traceback" not in printed
    assert poll_until(lambda: not marked(mark), PATIENCE_S), marked(mark)
    if kind == signal.SIGKILL:
        remove_leftovers()  # as the next lab does
    else:
        assert not list(Path("/dev/shm").glob(f"mn-offload-{run.pid}*"))
        assert not list(Path("/run/mininet-offload").glob(f"{run.pid}*"))
