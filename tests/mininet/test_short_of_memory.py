# SPDX-License-Identifier: Apache-2.0
"""A lab where /dev/shm or the run folder's disk is small: it takes what it needs, or says what lacks."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.mininet.mn_cli import ROOT, MnCli, prepared, run_mn
from vswitch.wire_memory import wire_size

pytestmark = pytest.mark.root
OURS = ("--switch", "vswitch", "--controller", "orchestrator")
ALL_FREE = "67.1 MB of 67.1 MB are free"
SMALL_SHM = "mount -t tmpfs -o size=64m none /dev/shm"  # Docker's default
SMALL_RUN = "mount -t tmpfs -o size=64k none /run"

MADE = """
import sys
from mininet.log import setLogLevel
from mininet.net import Mininet
from topologies.lab import Lab
from topologies.links import WireLink
from topologies.nodes import VSwitch
from vswitch.errors import VSwitchError
setLogLevel("info")
net = Mininet(controller=None)
s1, s2 = (net.addSwitch(name, cls=VSwitch) for name in ("s1", "s2"))
for _ in range(int(sys.argv[1])):
    net.addLink(s1, s2, cls=WireLink, mtu=int(sys.argv[2]))
try:
    s1.lab.validate()
    for wire in s1.lab.wires:
        state = wire.path.stat()
        print(f"size {state.st_size} of which {512 * state.st_blocks}")
    first = s1.lab.wires[0]
    (first.path.parent / f"{first.path.name}.a").touch()
    net.delLink(first)
    left = sum(path.exists() for path in first.path.parent.glob(f"{first.path.name}*")), len(s1.lab.wires)
    net.addLink(s1, s2, port1=1, port2=1, cls=WireLink, mtu=int(sys.argv[2]))
    print("again", left, first.path.stat().st_size)
    for _ in range(int(sys.argv[3])):
        net.addLink(s1, s2, cls=WireLink)
except VSwitchError as error:
    print(f"Error: {error}")
print("files", sorted(path.name for path in s1.lab.wire_dir.iterdir()) == [], len(s1.lab.wires))
Lab.close_current()
"""


def made(wires: int, mtu: int = 1500, later: int = 0) -> list[str]:
    """What a lab with that many wires says where /dev/shm is small; no switch is started."""
    script = [sys.executable, "-c", MADE, str(wires), str(mtu), str(later)]
    result = subprocess.run(
        prepared(SMALL_SHM, *script), cwd=ROOT, capture_output=True, text=True, check=True
    )
    return (result.stderr + result.stdout).splitlines()


@pytest.mark.parametrize(
    ("wires", "mtu", "slots"), [(2, 1500, 4096), (3, 1500, 2048), (17, 1500, 1024), (3, 9000, 1024)]
)
def test_wires_have_the_slots_that_there_is_memory_for(wires, mtu, slots):
    told = "\n".join(made(wires, mtu))
    size = wire_size(mtu, slots)
    assert told.count(f"size {size} of which {-(-size // 4096) * 4096}") == wires
    taken = f"{wires * size / 1e6:.1f} MB"
    assert f"({wires} wires take {taken} of /dev/shm, where {ALL_FREE}, with {slots} slots each)" in told


def test_a_wire_that_is_removed_gives_its_memory_back():
    told = made(1)
    assert f"again (0, 0) {wire_size(1500, 4096)}" in told


def test_wires_that_do_not_fit_are_refused_together():
    assert made(20)[-2:] == [
        "Error: /dev/shm is too small: 20 wires take 76.3 MB even with the fewest slots, 1024 each, and "
        f"{ALL_FREE}: give it more (mount -o remount,size=1G /dev/shm; docker run --shm-size=1g), or "
        "take fewer wires or a smaller mtu",
        "files True 20",
    ]


def test_a_wire_that_comes_later_and_does_not_fit_is_refused_alone():
    told = made(17, later=1)
    assert told[-2].startswith(
        "Error: /dev/shm is too small: 1 wire takes 3.8 MB even with the fewest slots, 1024, "
    )
    assert told[-1] == "files False 17"


def test_switches_outlive_a_full_dev_shm():
    """What is mapped is there, whatever others take; before, the first frames killed the switches."""
    with MnCli("--topo", "servers,servers=3,shape=ring", *OURS, first=SMALL_SHM) as mn:
        assert f"(3 wires take 22.8 MB of /dev/shm, where {ALL_FREE}, with 2048 slots each)" in mn.greeting
        assert "No space left on device" in mn.enter("sh cat /dev/zero > /dev/shm/full")
        assert "*** Results: 0% dropped (6/6 received)" in mn.enter("pingall")
        assert "receiver" in mn.enter("vm1 iperf3 -c vm2 -t 1 -P 4")
        assert "was killed" not in mn.leave()


def test_a_full_disk_of_the_run_folder():
    result = run_mn("--topo", "two_servers", *OURS, first=SMALL_RUN)
    assert result.returncode == 1
    assert "*** Error: the run folder /run/mininet-offload/" in result.stderr
    assert " needs 3.0 MB for logs, and 0.1 MB of 0.1 MB are free on its disk: " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("size", "cache", "sentence"),
    [
        ("64k", "", "vswitch: run-dir: cannot write /run/s1.pid: No space left on device\n"),
        (
            "64k",
            "/run/cache",
            "vswitch: cannot keep the compiled dataplane in /run/cache: No space left on device; free some "
            "of its disk, or set NUMBA_CACHE_DIR to another folder\n",
        ),
    ],
)
def test_a_full_disk_of_a_switch_that_no_lab_starts(size, cache, sentence):
    first = f"mount -t tmpfs -o size={size} none /run && {{ cat /dev/zero > /run/full 2> /dev/null; true; }}"
    set_cache = (f"NUMBA_CACHE_DIR={cache}",) if cache else ()
    switch = (sys.executable, "-m", "vswitch", "--name", "s1", "--dpid", "1", "--run-dir", "/run")
    result = subprocess.run(
        prepared(first, "env", *set_cache, *switch), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stderr == (
        f"vswitch: cannot write /run/s1.log: [Errno 28] No space left on device\n{sentence}"
    )
