# SPDX-License-Identifier: Apache-2.0
"""What the processes of a lab may do while they run, as the kernel tells of it, and that it is enough."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from mininet.link import Link

from tests.patience import PATIENCE_S
from topologies.processes import poll_until
from topologies.registry import LABS_DIR, MADE
from topologies.users import NOBODYS_IDS
from vswitch.privileges import Capability

pytestmark = pytest.mark.root
NOBODY = 65534
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
NET_ADMIN = {Capability.NET_ADMIN}
HOST_IP = "10.0.0.9"


@pytest.fixture(scope="module")
def network(module_overlay):
    """Two servers with a VM each; the first has a plain host, too."""
    network = module_overlay()
    host = network.net.addHost("h9", ip=f"{HOST_IP}/8")
    network.net.addLink(host, network.s1, cls=Link)
    return network.start()


def tasks(process):
    """Capabilities of each thread by their sets, as numbers, with NoNewPrivs; the main thread first."""
    found = []
    for task in sorted(Path(f"/proc/{process.pid}/task").iterdir(), key=lambda path: int(path.name)):
        lines = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
        masks = {name: int(lines[name], 16) for name in SETS}
        sets = {name: {bit for bit in range(64) if mask >> bit & 1} for name, mask in masks.items()}
        assert lines["NoNewPrivs"].strip() == "1", (task, lines["Name"])
        found.append(sets)
    return found


def only(kept):
    """All sets of a thread of root's that has kept these."""
    return {"CapInh": set(), "CapPrm": kept, "CapEff": kept, "CapBnd": kept, "CapAmb": set()}


def test_a_switch_keeps_nothing_in_any_thread(network):
    assert len(tasks(network.s2.process)) > 1
    assert all(sets == only(set()) for sets in tasks(network.s2.process))


def test_with_interfaces_of_the_kernel_its_main_thread_may_configure_them(network):
    main, *workers = tasks(network.s1.process)
    assert main == only(NET_ADMIN)
    assert workers and all(sets == only(set()) for sets in workers)


def test_the_controller_is_nobody_in_a_group_of_the_labs_own(network):
    status = Path(f"/proc/{network.c0.process.pid}/status").read_text()
    lines = {key: value.split() for key, _, value in (line.partition(":") for line in status.splitlines())}
    assert lines["Uid"] == [str(network.c0.runs_as.uid)] * 4 != ["0"] * 4
    assert lines["Gid"] == [str(network.lab.group)] * 4
    assert network.lab.group in NOBODYS_IDS
    may_read = {Capability.DAC_READ_SEARCH}  # where the project's folder is closed to it
    for sets in tasks(network.c0.process):
        assert set().union(*sets.values()) <= may_read


def test_an_iperf3_server_may_only_set_its_congestion_control(network):
    assert Path(f"/proc/{network.vm1.process.pid}/comm").read_text() == "iperf3\n"
    assert all(sets == only(NET_ADMIN) for sets in tasks(network.vm1.process))


def test_no_process_of_the_lab_is_missing_here(network):
    lines = (LABS_DIR / network.lab.name / MADE).read_text().splitlines()
    recorded = {record["pid"] for record in map(json.loads, lines) if "pid" in record}
    alive = {pid for pid in recorded if Path(f"/proc/{pid}").exists()}
    parts = (network.c0, network.s1, network.s2, network.vm1, network.vm2)
    assert alive == {part.process.pid for part in parts}


def test_the_labs_files_are_for_nobody_else(network):
    folders = {network.lab.run_dir: 0o750, network.lab.wire_dir: 0o700}
    for folder, mode in folders.items():
        assert stat.S_IMODE(folder.stat().st_mode) == mode
        files = list(folder.iterdir())
        assert files
        for file in files:
            assert not stat.S_IMODE(file.stat().st_mode) & ~0o640, file
    assert network.lab.run_dir.stat().st_gid == network.lab.group
    assert stat.S_IMODE(network.c0.token_file.stat().st_mode) == 0o600
    look = subprocess.run(["ls", network.lab.run_dir], capture_output=True, user=NOBODY)
    assert look.returncode != 0


def test_it_forwards(network):
    assert network.net.ping([network.vm1, network.vm2], timeout="2") == 0
    assert "receiver" in network.vm1.cmd(f"iperf3 -c {network.vm2.IP()} -n 10M")


def up(network):
    return all(port["up"] for switch in (network.s1, network.s2) for port in switch.control("ports")
               if port["kind"] in ("wire", "tap", "packet", "tunnel"))  # fmt: skip


@pytest.mark.parametrize("name", ["s1", "s2"])
def test_a_switch_that_is_started_anew_meets_the_one_that_has_given_all_up(network, name):
    switch = network.net[name]
    switch.process.send_signal(signal.SIGKILL)
    switch.process.wait()
    switch.restart()
    assert poll_until(lambda: up(network), PATIENCE_S)
    assert network.net.ping([network.vm1, network.vm2], timeout="2") == 0
    assert tasks(switch.process)[0] == only(NET_ADMIN if name == "s1" else set())


def test_a_tap_that_is_made_anew_carries_again(network):
    vm, tap = network.vm2, network.vm2.tap
    name, address = tap.name, f"{tap.IP()}/{tap.prefixLen}"
    make = (
        f"ip tuntap add {name} mode tap multi_queue vnet_hdr; "
        f"ip link set {name} address {tap.MAC()} mtu {tap.mtu} up; ip addr replace {address} dev {name}"
    )
    for away in (f"ip link delete {name}", f"ip link set {name} down; ip link set {name} name old"):
        vm.cmd(away)
        assert poll_until(lambda: not up(network), PATIENCE_S)
        assert vm.cmd(make) == ""
        assert poll_until(lambda: up(network), PATIENCE_S)
        assert network.net.ping([network.vm1, vm], timeout="2") == 0
    assert all(sets == only(set()) for sets in tasks(network.s2.process))


def test_an_interface_is_configured_while_the_switch_runs(network):
    """What an interface of the kernel needs when it comes back: its MTU, with room for tags."""
    network.net["h9"].cmd("ip link set dev h9-eth0 mtu 1400")
    network.s1.cmd("ip link set dev s1-eth3 mtu 1400")
    mtu = Path("/sys/class/net/s1-eth3/mtu")
    assert poll_until(lambda: mtu.read_text() == "1464\n", PATIENCE_S)


def test_a_capture_is_written_where_only_the_caller_of_vswitchctl_may(network, tmp_path):
    """Root without privileges may not write to another user's folder."""
    os.chown(tmp_path, NOBODY, NOBODY)
    tmp_path.chmod(0o700)
    file = tmp_path / "wire.pcapng"
    file.write_bytes(b"old" * 100_000)
    answer = network.s1.cmd(f"vswitchctl capture 1 -w {file} -t 0.5")
    assert "Traceback" not in answer and "cannot" not in answer
    assert file.read_bytes()[:4] == bytes.fromhex("0a0d0d0a")
    assert b"old" not in file.read_bytes()
    refused = tmp_path / "refused.pcapng"
    assert "there is no port 77" in network.s1.cmd(f"vswitchctl capture 77 -w {refused} -t 0.5")
    assert not refused.exists()


def test_a_process_of_another_user_ends_with_the_lab():
    """A change of the user takes the signal for that away, if it comes after it was asked for."""
    script = (
        "from topologies.processes import spawn\n"
        "from topologies.users import User\n"
        f"print(spawn(['sleep', '1000'], user=User({NOBODY}, {NOBODY})).pid, flush=True)\n"
        "input()\n"
    )
    lab = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child = Path(f"/proc/{int(lab.stdout.readline())}")
    assert child.stat().st_uid == NOBODY
    lab.kill()
    lab.communicate()
    assert poll_until(lambda: not child.exists(), PATIENCE_S)
