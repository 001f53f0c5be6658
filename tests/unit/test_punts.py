# SPDX-License-Identifier: Apache-2.0
"""Ports share the way to the agent: punt slots, the ring, and masked entries that keep packets from both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.protocol.harness import TO_CONTROLLER, add, out
from tests.unit.servers import VNET, SocketTap
from tests.unit.vms import OTHER, RECEIVER, SENDER, Switch, packet
from vswitch import layout
from vswitch.layout import PUNTS, REPORTS


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Switch]:
    monkeypatch.setattr("vswitch.ports.TapDevice", SocketTap)
    switch = Switch()
    yield switch
    switch.close()


def send(switch: Switch, port: int, connection: int) -> None:
    """A VM sends the first packet of a connection."""
    port_row = switch.dp._ports[port]
    port_row.tap.vm.send(bytes(VNET.size) + packet(connection, 0))
    switch.dp.t["ports"][port_row.index]["ready"] = 1
    switch.step()


def held(switch: Switch, port: int) -> int:
    return int(switch.dp.t["ports"][switch.dp._ports[port].index]["punts"])


def test_a_flood_leaves_half_of_the_punt_slots_and_of_those_half_again(switch: Switch) -> None:
    """And what was held back is given back."""
    switch.says(add({}, TO_CONTROLLER))
    for number in range(PUNTS):
        send(switch, SENDER, number)
    assert held(switch, SENDER) == PUNTS // 2
    for number in range(PUNTS // 2):
        send(switch, RECEIVER, number)
    assert held(switch, RECEIVER) == PUNTS // 4
    assert switch.dp.counters()["punt_overflow"] == PUNTS // 2 + PUNTS // 4
    send(switch, OTHER, 0)
    assert held(switch, OTHER) == 1
    first = switch.dp.poll_punts(3)
    assert sorted(punt.key.in_port for punt in first) == [SENDER, RECEIVER, OTHER]
    for punt in first:
        switch.dp.discard(punt.packet, 0)
    switch.settle()
    assert [held(switch, port) for port in (SENDER, RECEIVER, OTHER)] == [0, 0, 0]
    assert switch.dp.t["free_punt_count"] == PUNTS


def test_a_port_that_is_held_back_punts_nothing_until_then(switch: Switch) -> None:
    switch.says(add({}, out(OTHER)))
    switch.dp.hold_back_punts(SENDER, switch.now_ns + 10_000)
    send(switch, SENDER, 0)
    send(switch, RECEIVER, 0)
    switch.settle()
    assert (switch.dp.counters()["punt_limited"], switch.of.slowpath.misses) == (1, 1)
    switch.now_ns += 10_000
    send(switch, SENDER, 1)
    switch.settle()
    assert (switch.dp.counters()["punt_limited"], switch.of.slowpath.misses) == (1, 2)


def test_reports_of_entries_that_end_leave_room_for_packets(switch: Switch) -> None:
    switch.says(add({}, out(OTHER)))
    for number in range(REPORTS + 50):
        send(switch, SENDER, number)
        switch.settle()
    switch.sweep()
    assert switch.dp.counters()["evicted_idle"] == REPORTS
    send(switch, RECEIVER, 0)
    switch.settle()
    assert switch.dp.counters()["punt_overflow"] == 0
    for _ in range(4):
        switch.sweep()
        switch.settle()
    assert len(switch.of.slowpath.flows) == 0


def test_what_no_rule_wants_is_dropped_under_a_mask_and_counted_exactly(switch: Switch) -> None:
    switch.says(add({"in_port": RECEIVER}, out(OTHER)))
    for number in range(50):
        send(switch, SENDER, number)
        switch.settle()
    assert switch.of.slowpath.misses == 1
    assert switch.dropped() == switch.counted() == 50
    (key,) = switch.dp.flow_stats()
    assert (key.in_port, key.l4_src, key.drop_mask) == (SENDER, 0, 1)
    switch.says(add({"in_port": SENDER}, out(OTHER)))
    send(switch, SENDER, 99)
    switch.settle()
    assert switch.counted() == 51
    assert switch.dropped() == 50


def test_masks_take_the_places_of_others(switch: Switch) -> None:
    """An entry under the mask that had a number before is none under the mask that has it now."""
    switch.says(add({"in_port": SENDER, "eth_type": 0x800, "ip_proto": 6}, out(OTHER)))
    send(switch, SENDER, 0)
    switch.settle()
    switch.says(add({"in_port": SENDER, "eth_type": 0x800, "ip_proto": 17, "udp_src": 1007}, out(OTHER)))
    for number in (0, 1, 7, 8, 7):
        send(switch, SENDER, number)
        switch.settle()
    assert len(switch.got(7, OTHER)) == 2
    assert switch.dropped() + 2 == switch.counted() == 6


def test_the_ring_has_a_row_for_each_slot() -> None:
    assert layout.PUNTS & (layout.PUNTS - 1) == 0
    assert layout.punt_dtype.itemsize * PUNTS < 1 << 17
