# SPDX-License-Identifier: Apache-2.0
"""Before a switch is ready, its agent has done what its first packets will have it do."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from ryu_apps.core.intent import from_object
from ryu_apps.core.rules import desired_state
from tests.protocol.fake_datapath import FakeClock, FakeDatapath, tap
from tests.protocol.frames import arp_request, ping
from tests.protocol.harness import FakeSwitch, add, out
from vswitch import rehearsal
from vswitch.dataplane.memory import RESERVED
from vswitch.openflow import messages as m
from vswitch.openflow.actions import Output
from vswitch.openflow.constants import MAX_LEN_NO_BUFFER, Port
from vswitch.openflow.flow_mod import FlowMod
from vswitch.openflow.instructions import ApplyActions
from vswitch.rehearsal import rehearse

AGENT = Path(rehearsal.__file__).parent
PARTS = (AGENT / "agent", AGENT / "openflow")
ELSEWHERE = {("connection.py", "receive"), ("slowpath.py", "_next_ending"), ("slowpath.py", "_credit")}
"""What runs at the controller's end here, and on a worker's answers, when the packet has gone."""

MACS = ("00:00:00:00:00:0a", "00:00:00:00:00:0b")


def executed(action):
    """The functions of the agent that run in `action`."""
    found = set()

    def note(frame, event, _arg):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.parent in PARTS and not frame.f_code.co_name.startswith("<"):
            found.add((path.name, frame.f_code.co_name))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(before)
    return found


@pytest.fixture(scope="module", autouse=True)
def few_rounds():
    """All are alike."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rehearsal, "ROUNDS", 2)
        yield


@pytest.fixture(scope="module")
def rehearsed(few_rounds):
    return executed(rehearse)


def switch(*rules):
    clock = FakeClock()
    made = FakeSwitch(FakeDatapath(clock, infos={n: tap(n) for n in (1, 2)}), clock)
    made.says(*rules)
    return made


@pytest.fixture
def orchestrated():
    intent = from_object(
        {
            "virtual_networks": {"blue": {"vni": 42}},
            "servers": {
                name: {"dpid": number, "underlay_ip": f"192.168.0.{number}", "uplink_port": 1}
                for number, name in ((1, "s1"), (2, "s2"))
            },
            "vms": {
                f"vm{n}": {
                    "server": f"s{n}",
                    "port": 2,
                    "network": "blue",
                    "mac": MACS[n - 1],
                    "ip": f"10.0.0.{n}",
                }
                for n in (1, 2)
            },
        }
    )
    made = switch(
        *(
            FlowMod(rule.match, rule.instructions, rule.table, priority=rule.priority, cookie=rule.cookie)
            for rule in desired_state(intent, "s1").rules.values()
        )
    )
    made.datapath.infos[1] = tap(1, kind="wire")
    made.datapath.infos[1002] = tap(1002, kind="tunnel")
    made.of.refresh_ports()
    return made


def test_first_packets_of_an_overlay_run_nothing_for_the_first_time(orchestrated, rehearsed):
    assert orchestrated.receives(2, arp_request()) == [(1002, 42)]
    new = executed(
        lambda: (
            orchestrated.receives(1002, ping(reverse=True), tunnel_id=42),
            orchestrated.receives(2, ping()),
            orchestrated.receives(2, arp_request()),
        )
    )
    assert orchestrated.slowpath.misses >= 2
    assert new - rehearsed == set()


def test_first_packets_of_a_learning_switch_run_nothing_for_the_first_time(rehearsed):
    normal = switch(add(None, out(Port.NORMAL), priority=0))
    new = executed(lambda: (normal.receives(1, arp_request()), normal.receives(2, ping(reverse=True))))
    assert normal.slowpath.misses == 2
    assert new - rehearsed == set()


def test_first_packets_for_a_learning_controller_run_nothing_for_the_first_time(rehearsed):
    to_controller = ApplyActions((Output(Port.CONTROLLER, MAX_LEN_NO_BUFFER),))
    asking = switch(add(None, to_controller, priority=0))

    def learn():
        asking.receives(1, arp_request())
        (question,) = asking.hears()
        asking.says(m.PacketOut(1, (Output(Port.FLOOD),), question.data))
        asking.receives(2, ping(reverse=True))
        (answer,) = asking.hears()
        asking.says(add({"in_port": 2, "eth_dst": 0x0A}, out(1)), m.PacketOut(2, (Output(1),), answer.data))
        asking.receives(1, ping())

    new = executed(learn)
    assert asking.slowpath.misses == 3
    assert new - rehearsed - ELSEWHERE == set()


def test_packets_of_a_rehearsal_are_forwarded_by_programs_that_are_cached():
    stage = rehearsal.Stage(dpid=1)
    try:
        performance = rehearsal.Rehearsal(stage)
        asyncio.run(performance.run())
    finally:
        stage.close()
    slowpath = performance.switch.slowpath
    assert slowpath.misses == len(slowpath.flows) == 12 * rehearsal.ROUNDS
    assert slowpath.uncacheable == 0
    assert all(flow.translation.program for flow in slowpath.flows.values())
    assert sum(flow.proactive for flow in slowpath.flows.values()) == 2 * rehearsal.ROUNDS


def test_nothing_is_left_of_a_rehearsal():
    rehearse()
    before, mapped = len(os.listdir("/proc/self/fd")), mapped_bytes()
    for _ in range(3):
        rehearse()
    assert len(os.listdir("/proc/self/fd")) == before
    assert mapped_bytes() - mapped < RESERVED


def mapped_bytes():
    """Addresses that are in use."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
