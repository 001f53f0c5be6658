# SPDX-License-Identifier: Apache-2.0
"""The real Ryu process and the real agent: an intent becomes what packets do, and outlives the controller."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from tests.controller.ryu_process import INTENT, RyuProcess, needs_ryu, revision
from tests.protocol.fake_datapath import Sent
from tests.protocol.live import LiveAgent, eventually

pytestmark = needs_ryu

VM1, VM2, VM3 = "00:00:00:00:00:01", "00:00:00:00:00:02", "00:00:00:00:00:03"


def frame(eth_dst: str) -> bytes:
    return bytes(
        Ether(src=VM1, dst=eth_dst) / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(dport=5001) / b"hello"
    )


TO_VM2 = frame(VM2)
TO_ALL = frame("ff:ff:ff:ff:ff:ff")


@pytest.fixture
def ryu(tmp_path: Path) -> Iterator[RyuProcess]:
    process = RyuProcess(tmp_path)
    process.start()
    yield process
    process.end()


@pytest.fixture
def live(ryu: RyuProcess) -> Iterator[LiveAgent]:
    agent = LiveAgent(controllers=[f"tcp:127.0.0.1:{ryu.ofp_port}"])
    agent.datapath.infos[1] = agent.datapath.infos[1]._replace(kind="wire", name="uplink0")
    yield agent
    agent.close()


def holds(live: LiveAgent, document: dict) -> None:
    extensions = live.agent.switch.extensions
    eventually(lambda: extensions.intent_revision == revision(document), "the revision of the intent")


def goes(live: LiveAgent, port: int, frame: bytes) -> list[Sent]:
    """Where a frame that arrives on `port` leaves, the first time (slow path)."""
    live.call(live.datapath.take_sent)
    live.receive(port, frame)
    eventually(lambda: not live.datapath.held, "the packet is disposed of")
    return live.call(live.datapath.take_sent)


def test_packets_follow_the_intent(ryu: RyuProcess, live: LiveAgent) -> None:
    holds(live, INTENT)
    assert goes(live, 2, TO_VM2) == [Sent(1002, TO_VM2, 42)]
    assert goes(live, 2, TO_ALL) == [Sent(1002, TO_ALL, 42)]
    assert goes(live, 3, TO_VM2) == []
    assert live.datapath.lro(1) == "on"

    larger = copy.deepcopy(INTENT)
    larger["vms"]["vm3"] = {"server": "s1", "port": 3, "network": "blue", "mac": VM3}
    larger["offload"] = {"gro": False}
    assert ryu.rest("PUT", "/intent", yaml.safe_dump(larger))[0] == 200
    holds(live, larger)
    assert goes(live, 2, TO_ALL) == [Sent(3, TO_ALL), Sent(1002, TO_ALL, 42)]
    assert goes(live, 3, TO_VM2) == [Sent(1002, TO_VM2, 42)]
    assert live.datapath.lro(1) == "off"


def test_a_killed_controller_stops_nothing_and_its_successor_disturbs_nothing(
    ryu: RyuProcess, live: LiveAgent
) -> None:
    holds(live, INTENT)
    goes(live, 2, TO_VM2)
    flows, installs = set(live.datapath.entries), live.datapath.installs
    ryu.end()
    assert goes(live, 2, TO_VM2) == [Sent(1002, TO_VM2, 42)]
    live.agent.switch.extensions.intent_revision = None
    ryu.start()
    holds(live, INTENT)
    assert set(live.datapath.entries) == flows
    assert live.datapath.installs == installs
    assert goes(live, 2, TO_VM2) == [Sent(1002, TO_VM2, 42)]
