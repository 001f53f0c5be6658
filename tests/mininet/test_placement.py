# SPDX-License-Identifier: Apache-2.0
"""Where the processes of a lab run, what their connections start with, and that this is told."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
from mininet.log import lg
from mininet.node import Host

from topologies.compiling import compile_dataplane
from topologies.errors import LabError
from topologies.lab import Lab
from topologies.links import TapLink, WireLink
from topologies.nodes import VM, VSwitch
from topologies.placement import deal, physical_cores
from vswitch import code_cache
from vswitch.config import cores_in_words

pytestmark = pytest.mark.root

HERE = tuple(sorted(os.sched_getaffinity(0)))
ALLOWED = "grep Cpus_allowed_list /proc/self/status"
ALGORITHM = (
    f"{sys.executable} -c 'import socket; s = socket.socket(); "
    "print(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(bytes(1)).decode())'"
)


@pytest.fixture
def said(monkeypatch):
    """What Mininet's log prints from now on."""
    printed = io.StringIO()
    for handler in lg.handlers:
        monkeypatch.setattr(handler, "stream", printed)
    return printed


def two_servers(net, s1=None, s2=None, **vm):
    """Two servers with a VM each, joined by a wire; what the switches and VMs are given."""
    switches = [net.addSwitch(f"s{n}", cls=VSwitch, **(given or {})) for n, given in ((1, s1), (2, s2))]
    net.addLink(*switches, cls=WireLink)
    for number, server in enumerate(switches, start=1):
        net.addLink(net.addHost(f"vm{number}", cls=VM, **vm), server, cls=TapLink)
    return switches


def allowed(status):
    """The cores of a line of /proc/PID/status."""
    ranges = (part.partition("-") for part in status.split()[-1].split(","))
    return tuple(core for low, _, high in ranges for core in range(int(low), int(high or low) + 1))


def test_servers_have_their_cores_and_their_vms_run_there(net):
    switches = two_servers(net)
    net.build()
    early = int(net["vm1"].cmd("sleep 60 & echo $!").split()[-1])
    net.start()
    for switch, vm, cores in zip(
        switches, (net["vm1"], net["vm2"]), deal([1, 1], physical_cores()), strict=True
    ):
        assert switch.show()["worker_cores"] == [[cores[0]]]
        assert f"1 worker(s) on core {cores[0]}," in switch.cmd("vswitchctl show")
        log = Path(switch.lab.run_dir / f"{switch.name}.log").read_text()
        assert f"worker 0 is on core {cores[0]}" in log
        ours = tuple(sorted(cores))
        assert os.sched_getaffinity(vm.pid) == os.sched_getaffinity(vm.process.pid) == set(cores)
        assert allowed(vm.cmd(ALLOWED)) == allowed(vm.pexec(ALLOWED.split())[0]) == ours
    assert os.sched_getaffinity(early) == set(switches[0].cores)
    switches[0].restart()
    assert switches[0].show()["worker_cores"] == [[switches[0].cores[0]]]


def test_cores_that_are_given_hold_for_the_workers_and_the_vms(net):
    s1, s2 = two_servers(net, {"cpu": HERE[-1], "workers": 2}, {"cpu": "any"})
    net.start()
    assert s1.show()["worker_cores"] == [[HERE[-1]]] * 2
    assert allowed(net["vm1"].cmd(ALLOWED)) == HERE[-1:]
    assert s2.show()["worker_cores"] == [list(HERE)]
    assert f"1 worker(s) on {cores_in_words(HERE)}," in s2.cmd("vswitchctl show")
    assert allowed(net["vm2"].cmd(ALLOWED)) == HERE


def test_labs_side_by_side_share_the_cores(net):
    if len(HERE) < 2:
        pytest.skip("there is one core only")
    dealt = []
    for number in (1, 2):
        lab = Lab()
        switches = [net.addSwitch(f"s{number}{n}", cls=VSwitch, lab=lab, cpu=None) for n in (1, 2)]
        lab.deal_cores()
        dealt.append([switch.cores for switch in switches])
    assert sorted(dealt[0]) == sorted(dealt[1])  # of two labs with two servers each
    lab = Lab()
    third = net.addSwitch("s31", cls=VSwitch, lab=lab, cpu=HERE[0])
    lab.deal_cores()
    assert third.cores == HERE[:1]


def machines_default():
    """What a plain host's connections start with."""
    host = Host("h1")
    try:
        return host.cmd(ALGORITHM).strip()
    finally:
        host.terminate()


def test_connections_start_with_cubic_whatever_the_machine_does(net, said):
    vm = net.addHost("vm1", cls=VM, iperf3=False)
    net.addHost("vm2", cls=VM, iperf3=False)
    net.build()
    began = vm.cmd(ALGORITHM).strip()
    restricted = "cubic" not in Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control").read_text().split()
    if began == "cubic":
        assert "start with" not in said.getvalue()
    else:  # the tests run in a network namespace that is not the machine's own
        assert (began, restricted) == ("reno", True)
        assert (
            said.getvalue().count("(VMs start with reno: the kernel leaves cubic to the machine's own") == 1
        )


@pytest.mark.parametrize("congestion", ["reno", None])
def test_the_algorithm_is_a_parameter(net, congestion):
    vm = net.addHost("vm1", cls=VM, iperf3=False, congestion=congestion)
    net.build()
    assert vm.cmd(ALGORITHM).strip() == (congestion or machines_default())


@pytest.mark.parametrize("congestion", ["nonesuch", "", "x; reboot", 5, "a" * 16])
def test_an_algorithm_that_the_kernel_does_not_have(net, congestion):
    with pytest.raises(LabError) as error:
        net.addHost("vm1", cls=VM, iperf3=False, congestion=congestion)
        net.build()
    known = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    assert str(error.value) == f"vm1: congestion={congestion!r}: this kernel has {', '.join(sorted(known))}"


def test_a_switch_is_prepared_for_its_first_packets(net):
    """Its agent has rehearsed them before it is ready, and none waits for 2 MB of memory to be cleared."""
    switch = net.addSwitch("s1", cls=VSwitch)
    net.start()
    _, rehearsed, rest = (
        Path(switch.lab.run_dir / "s1.log").read_text().partition("first packets are rehearsed")
    )
    assert rehearsed
    assert "s1: ready" in rest
    status = Path(f"/proc/{switch.process.pid}/status").read_text()
    if "THP_enabled" not in status:
        pytest.skip("this kernel does not tell")
    assert "THP_enabled:\t0" in status
    assert "AnonHugePages:         0 kB" in Path(f"/proc/{switch.process.pid}/smaps_rollup").read_text()


COMPILER = """
import sys, time
for word in ("compiling:", " 5 %", " 10 %"):
    print(word, end="", flush=True)
    time.sleep(0.1)
"""


@pytest.fixture
def uncompiled(tmp_path, monkeypatch):
    """Nothing is compiled yet; gives what is to compile it, and the environment for that."""
    monkeypatch.setenv(code_cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv("NUMBA_DISABLE_JIT", raising=False)
    monkeypatch.chdir(tmp_path)  # where `python -m` looks first
    package = tmp_path / "vswitch"
    package.mkdir()
    (package / "__init__.py").touch()
    return package / "compile.py", {**os.environ, "PYTHONPATH": str(tmp_path)}


def test_how_far_compiling_is_is_shown_as_it_comes(uncompiled, said):
    compiler, environment = uncompiled
    compiler.write_text(COMPILER)
    compile_dataplane(environment)
    assert said.getvalue() == "\ncompiling: 5 % 10 %"


def test_a_compiler_that_fails_is_told_by_its_last_words(uncompiled):
    compiler, environment = uncompiled
    compiler.write_text(COMPILER + "\nprint()\nraise SystemExit('no room on the disk')")
    with pytest.raises(LabError, match=r"^the dataplane cannot be compiled: no room on the disk$"):
        compile_dataplane(environment)


def test_a_switch_has_its_dataplane_compiled_before_it_starts(net, uncompiled):
    uncompiled[0].write_text("raise SystemExit('it was asked to')")
    net.addSwitch("s1", cls=VSwitch)
    with pytest.raises(LabError, match="it was asked to"):
        net.start()


def test_what_is_compiled_is_not_compiled_again(uncompiled):
    compiler, environment = uncompiled
    compiler.write_text("raise SystemExit('it was asked to')")
    code_cache.current_directory().mkdir()
    (code_cache.current_directory() / code_cache.MARKER).touch()
    compile_dataplane(environment)
    (code_cache.current_directory() / code_cache.MARKER).unlink()
    with pytest.raises(LabError, match="it was asked to"):
        compile_dataplane(environment)
