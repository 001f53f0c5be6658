# SPDX-License-Identifier: Apache-2.0
"""The small packets and flow-mods that loads are made of, judged by scapy and Open vSwitch's own parser."""

from __future__ import annotations

import socket
import struct
import subprocess
import threading
import time

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from experiments.blaster import FRAME_LEN, PORTS_PER_ADDRESS, TARGET_PORT, frames
from experiments.flow_mods import (
    ADD,
    BARRIER_REPLY,
    BARRIER_REQUEST,
    DELETE_STRICT,
    FLOW_MOD,
    IN_FLIGHT,
    flow_mod,
    header,
    run,
)
from experiments.flow_setup import WAITED, rules

MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")


@pytest.mark.parametrize("first", [0, 49_990, 123_456_789])
def test_each_frame_is_a_right_packet_of_another_flow(first):
    made = frames(20, first, *MACS, "10.0.0.2")
    packets = [Ether(bytes(frame)) for frame in made]
    assert {len(frame) for frame in made} == {FRAME_LEN}
    assert len({(packet[IP].src, packet[UDP].sport) for packet in packets}) == 20
    for packet in packets:
        assert (packet.src, packet.dst, packet[IP].dst, packet[UDP].dport) == (*MACS, "10.0.0.2", TARGET_PORT)
        assert packet[UDP].len == FRAME_LEN - 34
        sent, packet[IP].chksum = packet[IP].chksum, None
        assert Ether(bytes(packet))[IP].chksum == sent


def test_flows_go_on_at_the_next_address():
    last, first = (Ether(bytes(f)) for f in frames(2, PORTS_PER_ADDRESS - 1, *MACS, "10.0.0.2"))
    assert (last[IP].src, last[UDP].sport) == ("10.1.0.1", 1023 + PORTS_PER_ADDRESS)
    assert (first[IP].src, first[UDP].sport) == ("10.1.0.2", 1024)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (ADD, "ADD priority=1000,udp,nw_src=10.1.0.1,tp_src=1031 actions=output:2"),
        (DELETE_STRICT, "DEL_STRICT priority=1000,udp,nw_src=10.1.0.1,tp_src=1031 actions=drop"),
    ],
)
def test_flow_mods_are_what_open_vswitch_reads(command, said):
    result = subprocess.run(
        ["ovs-ofctl", "ofp-print", flow_mod(5, command, 7).hex()], capture_output=True, text=True, check=True
    )
    assert "(xid=0x5)" in result.stdout
    assert said in result.stdout


def slow_switch(listener: socket.socket, pause_s: float, batches: list[int]) -> None:
    """Answers each barrier after a pause; notes how many flow-mods came before it."""
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as stream:
        batch = 0
        while head := stream.read(8):
            _, kind, length, xid = struct.unpack("!BBHI", head)
            stream.read(length - 8)
            batch += kind == FLOW_MOD
            if kind == BARRIER_REQUEST:
                batches.append(batch)
                batch = 0
                time.sleep(pause_s)
                connection.sendall(header(BARRIER_REPLY, 8, xid))


def test_a_switch_that_is_behind_is_sent_what_it_answers_and_a_little_more():
    """However much was to be sent, so that the sender ends soon after its time."""
    batches: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        switch = threading.Thread(target=slow_switch, args=(listener, 0.05, batches))
        switch.start()
        outcome = run(listener.getsockname()[1], rate=20_000, seconds=0.5, flows=100)
        switch.join()
    assert outcome["flow_mods"] == sum(batches) < 10_000
    assert max(batches) <= 400  # of 20 ms, when it is behind
    assert outcome["waited"] > WAITED * outcome["seconds"]
    assert len(batches) <= 0.5 / 0.05 + IN_FLIGHT + 1


def test_rules_are_as_many_as_asked_for_and_right():
    made = rules(1000)
    assert len(made) == len(set(made)) == 1000
    for rule in made[::100]:
        subprocess.run(["ovs-ofctl", "-O", "OpenFlow13", "parse-flow", rule], check=True, capture_output=True)
