# SPDX-License-Identifier: Apache-2.0
"""What a meter remarks, later tables see: over the dataplane, whose meters only know how much passes."""

from __future__ import annotations

import pytest

from tests.packets import IP, TCP, Ether, IPv6, checksums_right, tcp_segment
from tests.protocol.harness import add, goto, meter, out
from tests.unit.rig import Rig
from tests.unit.servers import VNET, SocketTap
from tests.unit.vms import OTHER, RECEIVER, SECOND, SENDER, Switch
from vswitch import layout
from vswitch.dataplane.ports.vnet import GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM
from vswitch.layout import Op
from vswitch.openflow.constants import MeterBandType, MeterFlag
from vswitch.openflow.instructions import Meter
from vswitch.openflow.meters import Band

AF11, AF12, AF13 = 10, 12, 14
MSS = 100
FLAGS = MeterFlag.PKTPS | MeterFlag.BURST
ETH_TYPES = {4: 0x800, 6: 0x86DD}


def remark(number, burst, levels=1):
    """A meter that `burst` packets pass as they are."""
    return meter(number, Band(MeterBandType.DSCP_REMARK, 1, burst, levels), flags=FLAGS)


@pytest.fixture
def switch(monkeypatch):
    monkeypatch.setattr("vswitch.ports.TapDevice", SocketTap)
    switch = Switch()
    switch.now_ns += 1000 * SECOND  # buckets are full
    yield switch
    switch.close()


@pytest.mark.parametrize("version", [4, 6])
def test_packets_go_by_what_the_meter_made_of_them(switch, version):
    match = {"eth_type": ETH_TYPES[version]}
    switch.says(
        remark(1, burst=5),
        add({"in_port": 1}, Meter(1), goto(1)),
        add(match | {"ip_dscp": AF11}, out(RECEIVER), table_id=1, cookie=1),
        add(match | {"ip_dscp": AF12}, out(OTHER), table_id=1, cookie=2),
    )
    for _ in range(12):
        switch.send(0, AF11 << 2 | 1, version)
        switch.step()
    switch.settle()
    assert switch.got(0, RECEIVER, version) == list(range(5))
    assert switch.got(0, OTHER, version) == list(range(5, 12))
    counts = {stats.cookie: stats.packet_count for stats in switch.controller.stats()}
    assert counts == {0: 12, 1: 5, 2: 7}
    misses = switch.of.slowpath.misses
    for _ in range(3):
        switch.send(0, AF11 << 2, version)
        switch.step()
    switch.settle()
    assert switch.of.slowpath.misses == misses and switch.of.slowpath.uncacheable == 0


def test_a_second_meter_begins_where_the_first_ended(switch):
    """The first remarks from the 5th packet on, the second from the 3rd of those."""
    ip = {"eth_type": 0x800}
    switch.says(
        remark(1, burst=4),
        remark(2, burst=2),
        add({"in_port": 1}, Meter(1), goto(1)),
        add(ip | {"ip_dscp": AF12}, Meter(2), goto(2), table_id=1),
        add(ip | {"ip_dscp": AF12}, out(RECEIVER), table_id=2, cookie=1),
        add(ip | {"ip_dscp": AF13}, out(OTHER), table_id=2, cookie=2),
    )
    for _ in range(10):
        switch.send(0, AF11 << 2)
        switch.step()
        switch.answer()
    switch.settle()
    assert (switch.got(0, RECEIVER), switch.got(0, OTHER)) == ([4, 5], [6, 7, 8, 9])


def test_rules_change_while_remarked_packets_wait(switch):
    """Those that the new rules cannot go on with are dropped and counted; later ones go by the new rules."""
    ip = {"eth_type": 0x800}
    switch.says(
        remark(1, burst=1),
        add({"in_port": 1}, Meter(1), goto(1)),
        add(ip | {"ip_dscp": AF12}, out(OTHER), table_id=1),
    )
    for _ in range(3):
        switch.send(0, AF11 << 2)
        switch.step()
        switch.answer()
    switch.says(add({"in_port": 1}, out(RECEIVER)))
    switch.settle()
    switch.send(0, AF11 << 2)
    switch.settle()
    assert len(switch.got(0, RECEIVER)) + len(switch.got(0, OTHER)) + switch.dropped() == 4
    assert switch.got(0, RECEIVER)[-1] == 3
    assert not any(key.remarks for key in switch.dp.flow_stats())


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("fitting", range(6))
def test_the_segments_of_a_super_frame_go_their_ways(switch, version, fitting):
    match = {"eth_type": ETH_TYPES[version]}
    switch.says(
        remark(1, burst=max(fitting, 1)),
        add({"in_port": 1}, Meter(1), goto(1)),
        add(match | {"ip_dscp": AF11}, out(RECEIVER), table_id=1, cookie=1),
        add(match | {"ip_dscp": AF12}, out(OTHER), table_id=1, cookie=2),
    )
    tos = {"tos" if version == 4 else "tc": AF11 << 2}
    if fitting == 0:
        switch.send(0, AF11 << 2)  # takes the only token
        switch.step()
    frame = tcp_segment(5 * MSS, 1000, version=version, ip=tos)
    l4 = len(frame) - 5 * MSS - len(bytes(Ether(frame)[TCP])) + 5 * MSS
    kind = GSO_TCPV4 if version == 4 else GSO_TCPV6
    header = VNET.pack(NEEDS_CSUM, kind, l4 + 20, MSS, l4, 16, 0)
    switch.dp._ports[SENDER].tap.vm.send(header + frame)
    switch.dp.t["ports"][switch.dp._ports[SENDER].index]["ready"] = 1
    switch.settle()
    got = {}
    for port in (RECEIVER, OTHER):
        tap = switch.dp._ports[port].tap
        got[port] = []
        while True:
            try:
                packet = Ether(tap.vm.recv(1 << 17)[VNET.size :])
            except BlockingIOError:
                break
            if TCP in packet:
                got[port].append(packet)
    seqs = {port: [packet[TCP].seq for packet in packets] for port, packets in got.items()}
    expected = [1000 + MSS * number for number in range(5)]
    assert (seqs[RECEIVER], seqs[OTHER]) == (expected[:fitting], expected[fitting:])
    for packets in got.values():
        assert all(len(packet[TCP].payload) == MSS and checksums_right(bytes(packet)) for packet in packets)
    dscps = {(packet[IP].tos if IP in packet else packet[IPv6].tc) >> 2 for packet in got[OTHER]}
    assert dscps <= {AF12}


@pytest.mark.parametrize("dscp", [0, 8, 32])
def test_a_look_behind_a_meter_ends_where_no_meter_remarks(dscp):
    """An entry whose program looked it up again by a key that stays what it was would never end."""
    with Rig(taps=2, wires=0) as rig:
        frame = tcp_segment(100, ip={"tos": dscp << 2})
        rig.route(frame, 1, (Op.LOOK_UP_AGAIN, 0), (Op.OUTPUT, 2))
        rig.vms[0].send(bytes(layout.VNET_HEADER) + frame)
        rig.step()
        assert rig.counted() == {"no_rule": 1}
