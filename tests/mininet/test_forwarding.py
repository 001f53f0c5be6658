# SPDX-License-Identifier: Apache-2.0
"""A forwarding VM in a lab: a Linux router, whose server's NIC coalesces for it, or does not (S0.8-S0.10)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from mininet.net import Mininet

from tests.mininet.mn_cli import run_mn
from tests.patience import PATIENCE_S
from topologies.controllers import Orchestrator
from topologies.lab import Lab
from topologies.nodes import VSwitch
from topologies.processes import listening, poll_until
from topologies.topos import ForwardingVm

pytestmark = pytest.mark.root
TRANSFER = str(Path(__file__).with_name("transfer.py"))
MEGABYTE = 1 << 20
UPLINK, ROUTER_QUEUE, ON_QUEUE, OFF_QUEUE = 1, 0, 1, 2
QUEUES = {"router": ROUTER_QUEUE, "router-eth1": ROUTER_QUEUE, "end1": ON_QUEUE, "end2": OFF_QUEUE}
PORT, IPERF3_PORT = 9000, 5201


@pytest.fixture(scope="module")
def net():
    network = Mininet(topo=ForwardingVm(ends=2), switch=VSwitch, controller=Orchestrator)
    network.start()
    yield network
    network.stop()
    Lab.close_current()


def set_nic(net, router, lro):
    """Give each VM of s2 a queue; `router` is the VM's role and `lro` what is set by hand for its queue."""
    controller = net["s2"].lab.orchestrator
    intent = controller.intent()
    for name in ("router", "router-eth1"):
        intent["vms"][name] = {**intent["vms"][name], "role": router}
    by_hand = [{"queues": [ON_QUEUE], "lro": "on"}, {"queues": [OFF_QUEUE], "lro": "off"}, *lro]
    filters = [{"vm": vm, "queue": queue} for vm, queue in QUEUES.items()]
    controller.set_intent({**intent, "nic": {"s2": {"queues": 3, "filters": filters, "lro": by_hand}}})


CLASSIC = {"queues": [ROUTER_QUEUE], "lro": "on", "kind": "lro", "completion_size": 9000}


def counters(net):
    counts = dict(net["s2"].control("counters")["reasons"])
    for queue in net["s2"].control("nic.stats", port=UPLINK):
        counts[f"merged{queue['queue']}"] = queue["merged"]
    return counts


def transfer(net, source, *targets, size=4 * MEGABYTE):
    """Send a file to each of some VMs at the same time; whether all arrived as they were sent."""
    receivers = [net[name].popen([sys.executable, TRANSFER, "receive", str(PORT)]) for name in targets]
    assert poll_until(lambda: all(listening(process.pid, PORT) for process in receivers), PATIENCE_S)
    senders = [
        net[source].popen([sys.executable, TRANSFER, "send", net[name].IP(), str(PORT), str(size), str(seed)])
        for seed, name in enumerate(targets)
    ]
    try:
        for process in senders:
            output, error = process.communicate(timeout=PATIENCE_S)
            received, sent = output.decode().split() or (error.decode(), "")
            assert received == sent
    finally:
        for process in (*senders, *receivers):
            process.kill()
            process.wait()


def grown(net, action):
    before = counters(net)
    action()
    return {name: count - before[name] for name, count in counters(net).items()}


def test_the_mn_line():
    result = run_mn(
        "--topo", "forwarding_vm", "--switch", "vswitch", "--controller", "orchestrator", "--test", "pingall"
    )
    assert "0% dropped (12/12 received)" in result.stderr + result.stdout, result.stderr
    assert result.returncode == 0


def test_s0_8_what_a_vm_forwards_is_not_coalesced_and_what_ends_beside_it_is(net):
    """As the roles say, without a word by hand."""
    assert net.ping([net["client"], net["server"]], timeout="2") == 0
    count = grown(net, lambda: transfer(net, "client", "server"))
    assert (count["gro_merged"], count["mtu_exceeded"], count["mss_segmented"]) == (0, 0, 0)
    assert grown(net, lambda: transfer(net, "client", "end1"))["gro_merged"] > 0


def test_s0_10_large_packets_through_the_router_beside_vms_with_lro_on_and_off(net):
    """All at the same time; every queue as it is set, and every byte right."""
    set_nic(net, "forwarding", [CLASSIC])
    count = grown(net, lambda: transfer(net, "client", "server", "end1", "end2"))
    assert count[f"merged{ROUTER_QUEUE}"] > 0 and count["mss_segmented"] > 0
    assert count["mtu_exceeded"] == 0
    assert count[f"merged{ON_QUEUE}"] > 0
    assert count[f"merged{OFF_QUEUE}"] == 0


def test_s0_10_naive_lro_loses_what_it_merged_and_others_do_not_notice(net):
    set_nic(net, "terminating", [CLASSIC])
    assert poll_until(lambda: listening(net["server"].pid, IPERF3_PORT), PATIENCE_S)
    stalled = net["client"].popen(["iperf3", "-c", net["server"].IP(), "-t", "30"], stdout=subprocess.DEVNULL)
    try:
        assert poll_until(lambda: counters(net)["mtu_exceeded"] > 0, PATIENCE_S)
        count = grown(net, lambda: transfer(net, "client", "end1", "end2"))
    finally:
        stalled.kill()
        stalled.wait()
    assert count["mss_segmented"] == 0
    assert count[f"merged{ON_QUEUE}"] > 0
    assert count[f"merged{OFF_QUEUE}"] == 0
