# SPDX-License-Identifier: Apache-2.0
"""The agent's commands, as the worker applies them: in order, round the ring, and what each does."""

from __future__ import annotations

import pytest

from tests.packets import ARP, tcp_segment, vm_ether
from tests.unit.rig import INTERPRETED, VNI
from tests.unit.servers import TUNNEL_PORT, VM_PORT, WIRE_PORT, Server, SocketTap
from vswitch import layout
from vswitch.datapath import Datapath
from vswitch.dataplane import commands
from vswitch.dataplane.intrinsics import pointed
from vswitch.errors import ConfigError
from vswitch.flow import (
    Band,
    Controller,
    DropReason,
    Meter,
    MeterConfig,
    Output,
    PortCounters,
    PuntReason,
    SetTunnel,
)
from vswitch.openflow.constants import Port

FRAME = tcp_segment(100)
NOW_NS = 10**9
PUNT = (Controller(128, 0, 0, 0),)


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setattr("vswitch.ports.TapDevice", SocketTap)
    server = Server(1, str(tmp_path / "wire"))
    server.step(NOW_NS)
    yield server
    server.dp.close()


@pytest.fixture
def dp(server):
    return server.dp


def test_commands_are_applied_in_order_and_round_the_ring(server, dp):
    """More commands than the ring has places, the last of which decides."""
    key = dp.key_of(FRAME, VM_PORT)
    for turn in range(3 if INTERPRETED else 40):
        for _ in range(120):
            dp.install(key, ())
            dp.remove(key)
        dp.install(key, ())
        server.step(NOW_NS + turn)
        assert list(dp.flow_stats()) == [key]
        dp.remove(key)
    server.step(NOW_NS)
    assert dp.flow_stats() == {}
    assert INTERPRETED or dp._commands.given > 2 * layout.COMMANDS


def test_a_pass_applies_no_more_than_its_share(server, dp):
    key = dp.key_of(FRAME, VM_PORT)
    for _ in range(commands.COMMAND_BURST + 5):
        dp.install(key, ())
    assert server.step(NOW_NS) == commands.COMMAND_BURST
    assert server.step(NOW_NS) == 5


def test_a_miss_is_held_until_the_agent_disposes_of_it(server, dp):
    for disposal in ("execute", "discard"):
        server.send(FRAME)
        server.step(NOW_NS)
        (punt,) = dp.poll_punts()
        assert (punt.reason, punt.frame) == (PuntReason.MISS, FRAME)
        assert punt.key == dp.key_of(FRAME, VM_PORT)
        assert dp.t["free_punt_count"] == layout.PUNTS - 1
        if disposal == "execute":
            dp.execute(punt.packet, (Output(VM_PORT),))
        else:
            dp.discard(punt.packet, DropReason.TABLE_MISS)
        server.step(NOW_NS)
        assert dp.t["free_punt_count"] == layout.PUNTS
    assert [packet.frame for packet in server.received()] == [FRAME]
    assert dp.counters()["table_miss"] == 1


@pytest.mark.parametrize(
    ("reason", "counter"),
    [
        (DropReason.RULE, "no_rule"),
        (DropReason.PORT_CONFIG, "port_config"),
        (DropReason.TOO_MANY_OPERATIONS, "too_many_operations"),
        (DropReason.DELIVERED, None),
    ],
)
def test_why_a_held_packet_was_discarded_is_counted(server, dp, reason, counter):
    server.send(FRAME)
    server.step(NOW_NS)
    before = dp.counters()
    dp.discard(dp.poll_punts()[0].packet, reason)
    server.step(NOW_NS)
    after = dp.counters()
    assert {name for name in after if after[name] != before[name]} == ({counter} if counter else set())


def test_an_action_punts_a_copy_and_the_packet_goes_on(server, dp):
    dp.install(dp.key_of(FRAME, VM_PORT), (*PUNT, Output(VM_PORT)))
    server.send(FRAME)
    server.step(NOW_NS)
    assert [(punt.reason, punt.frame) for punt in dp.poll_punts()] == [(PuntReason.ACTION, FRAME)]
    assert [packet.frame for packet in server.received()] == [FRAME]


def test_punts_that_find_no_slot_are_counted(server, dp):
    dp.t["free_punt_count"] = 1
    for _ in range(3):
        server.send(FRAME)
        server.step(NOW_NS)
    assert dp.counters()["punt_overflow"] == 2
    assert len(dp.poll_punts()) == 1


def test_polling_takes_no_more_than_the_limit_and_is_told_of_the_rest(server, dp):
    for _ in range(5):
        server.send(FRAME)
        server.step(NOW_NS)
    assert len(dp.poll_punts(limit=3)) == 3
    assert len(dp.poll_punts(limit=3)) == 2
    assert dp.poll_punts() == []


def test_more_packet_outs_than_injection_slots(server, dp):
    arp = bytes(vm_ether() / ARP())
    for _ in range(3):
        for _ in range(layout.INJECTIONS):
            dp.send(arp, (Output(VM_PORT),))
        server.step(NOW_NS)
    assert [packet.frame for packet in server.received()] == [arp] * (3 * layout.INJECTIONS)


def test_the_empty_program_drops_and_counts(server, dp):
    dp.install(dp.key_of(FRAME, VM_PORT), ())
    server.send(FRAME)
    server.step(NOW_NS)
    assert (dp.counters()["no_rule"], dp.poll_punts(), server.received()) == (1, [], [])


def test_an_idle_entry_ends_and_its_last_counters_are_reported(server, dp):
    key = dp.key_of(FRAME, VM_PORT)
    dp.install(key, (Output(VM_PORT),), idle_timeout_s=1)
    server.send(FRAME)
    server.step(NOW_NS)

    def sweep_all(now_ns):
        dp.t["now_ns"] = now_ns
        assert commands.sweep(pointed(dp.memory.array), dp.tables) == commands.SWEEP_PERIOD_NS

    sweep_all(NOW_NS + 999_999_999)
    assert list(dp.flow_stats()) == [key]
    sweep_all(NOW_NS + 1_000_000_000)
    assert dp.flow_stats() == {}
    assert dp.poll_punts() == []
    ((ended, stats, _replaced, by_itself),) = dp.ended()
    assert by_itself
    assert (ended, stats.packets, stats.bytes, stats.last_used_ns) == (key, 1, len(FRAME), NOW_NS)
    assert dp.ended() == []
    assert dp.counters()["evicted_idle"] == 1


def test_a_removed_tunnels_place_does_not_inherit_its_flows(server, dp):
    """The next tunnel gets the same row of the port table, but not the packets of the one before."""
    program = (SetTunnel(VNI), Output(TUNNEL_PORT))
    dp.install(dp.key_of(FRAME, VM_PORT), program)
    server.step(NOW_NS)
    dp.remove_tunnel(TUNNEL_PORT)
    ends = ("192.168.0.1", "192.168.0.9", "02:4f:00:00:01:02", "02:4f:00:00:09:02")
    dp.add_tunnel(TUNNEL_PORT + 1, "vxlan1", "vxlan", *ends, WIRE_PORT)
    server.step(NOW_NS)
    server.send(FRAME)
    server.step(NOW_NS)
    assert dp.counters()["unknown_port"] == 1


BAD_TUNNELS = [
    (
        {"format": "geneve"},
        "format: 'geneve' is not known (allowed: gre, gre16, ipip, mplsogre, mplsogre-ip, mplsoudp, "
        "mplsoudp-ip, slots, vxlan)",
    ),
    ({"port_no": WIRE_PORT}, "port_no: the port 2 exists already (allowed: an unused number)"),
    ({"port_no": 65536}, "port_no: 65536 is no port number (allowed: 1 to 65535)"),
    ({"uplink_port": VM_PORT}, "uplink_port: vm1 is a tap (allowed: a wire or packet port)"),
    ({"uplink_port": 77}, "port: there is no port 77 (allowed: 1 (vm1), 2 (wire2), 1000 (vxlan0))"),
    ({"remote_ip": "10.0.0"}, "remote_ip: '10.0.0' is no IPv4 address (allowed: four numbers, as 192.0.2.1)"),
    ({"local_mac": "02:00"}, "local_mac: '02:00' is no MAC address (allowed: as 02:00:00:00:00:01)"),
]


@pytest.mark.parametrize(("change", "sentence"), BAD_TUNNELS, ids=lambda value: str(value)[:30])
def test_a_tunnel_that_cannot_be_is_refused_with_a_sentence(dp, change, sentence):
    values = {
        "port_no": 1001, "name": "x", "format": "vxlan", "local_ip": "10.0.0.1", "remote_ip": "10.0.0.2",
        "local_mac": "02:00:00:00:00:01", "remote_mac": "02:00:00:00:00:02", "uplink_port": WIRE_PORT,
    }  # fmt: skip
    before = dp.ports()
    with pytest.raises(ConfigError) as error:
        dp.add_tunnel(**(values | change))
    assert str(error.value) == sentence
    assert dp.ports() == before


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda dp: dp.set_wire(VM_PORT, loss=1), "port: vm1 is no wire (allowed: a wire port)"),
        (lambda dp: dp.nic(WIRE_PORT).set_lro(1, "on"), "queue: wire2 has no queue 1 (allowed: 0)"),
        (
            lambda dp: dp.nic(TUNNEL_PORT),
            "port_no: vxlan0 is a tunnel (allowed: a wire, packet or TAP port)",
        ),
        (lambda dp: dp.remove_tunnel(WIRE_PORT), "port_no: wire2 is no tunnel (allowed: a tunnel port)"),
        (
            lambda dp: dp.set_wire(WIRE_PORT, loss=101),
            "wire2.loss: 101 is out of range (allowed: a number from 0 to 100, in percent)",
        ),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_with_a_sentence(dp, call, sentence):
    with pytest.raises(ConfigError) as error:
        call(dp)
    assert str(error.value) == sentence


# Meters


def test_a_modified_meter_goes_on_counting_and_its_bands_begin_anew(server, dp):
    """One that was deleted and made again counts from 0, although it gets the same row."""

    def send(count):
        for _ in range(count):
            server.send(FRAME)
            server.step(NOW_NS)

    def counted():
        server.step(NOW_NS)
        packets, length, bands = dp.meter_stats(7)
        assert length == packets * len(FRAME)
        return packets, [band_packets for band_packets, _bytes in bands]

    dp.set_meter(7, MeterConfig(True, (Band(1, 1),)))
    dp.install(dp.key_of(FRAME, VM_PORT), (Meter(7), Output(VM_PORT)))
    send(5)
    assert counted() == (5, [4])
    dp.set_meter(7, MeterConfig(True, (Band(1, 1), Band(9, 1, 1))))
    assert counted() == (5, [0, 0])
    send(3)
    assert counted() == (8, [0, 2])
    dp.remove_meter(7)
    dp.set_meter(7, MeterConfig(True, (Band(1, 1),)))
    assert counted() == (0, [0])


# OFPP_LOCAL


def test_local_is_down_and_counts_what_is_sent_there(server, dp):
    dp.install(dp.key_of(FRAME, VM_PORT), (Output(Port.LOCAL), Output(VM_PORT)))
    for _ in range(3):
        server.send(FRAME)
        server.step(NOW_NS)
    local = dp.ports()[-1]
    assert (local.port_no, local.name, local.kind, local.up) == (Port.LOCAL, "local", "local", False)
    assert local.mac == bytes.fromhex("024c00000001")
    assert local.counters == PortCounters(tx_requested=3, tx_dropped=3)
    assert (dp.counters()["port_down"], dp.counters()["unknown_port"]) == (3, 0)
    assert len(server.received()) == 3


def test_local_has_the_name_of_its_switch_and_is_nobodys_uplink():
    dp = Datapath(0xAB_1234_5678, name="s1")
    (local,) = dp.ports()
    assert (local.name, local.mac) == ("s1", bytes.fromhex("024c12345678"))
    with pytest.raises(ConfigError, match="s1 is a local"):
        dp.add_tunnel(
            1000, "v", "vxlan", "10.0.0.1", "10.0.0.2", "02:00:00:00:00:01", "02:00:00:00:00:02", Port.LOCAL
        )
    for call in (dp.nic, dp.wire_settings, dp.remove_tunnel):
        with pytest.raises(ConfigError):
            call(Port.LOCAL)
    assert not dp.refresh_ports()
    dp.close()


def test_as_many_ports_as_there_are_rows_beside_locals(dp):
    macs = "02:4f:00:00:01:02", "02:4f:00:00:02:02"

    def add(number):
        dp.add_tunnel(number, f"t{number}", "vxlan", "10.0.0.1", f"10.0.1.{number % 256}", *macs, WIRE_PORT)

    others = len(dp.ports()) - 1
    for number in range(2000, 2000 + layout.LOCAL_INDEX - 1 - others):
        add(number)
    with pytest.raises(ConfigError, match=r"too many ports \(allowed: at most 254\)"):
        add(3000)
    assert local_of(dp).mac == bytes.fromhex("024c00000001")


def local_of(dp):
    return next(info for info in dp.ports() if info.kind == "local")


# Speeds


def test_a_wires_speed_is_its_bandwidth_and_a_tunnels_that_of_its_uplink(server, dp):
    def speeds():
        return {info.port_no: info.speed_kbps for info in dp.ports()}

    assert speeds() == {VM_PORT: 0, WIRE_PORT: 0, TUNNEL_PORT: 0, Port.LOCAL: 0}
    assert not dp.refresh_ports()
    for bw, kbps in ((10, 10_000), (2.5, 2500), (0.0001, 1), (10_000, 10_000_000), (0, 0)):
        dp.set_wire(WIRE_PORT, bw=bw)
        assert dp.refresh_ports()
        assert speeds() == {VM_PORT: 0, WIRE_PORT: kbps, TUNNEL_PORT: kbps, Port.LOCAL: 0}
        assert not dp.refresh_ports()


def test_a_tunnel_tells_its_uplink(dp):
    uplinks = {info.port_no: info.uplink for info in dp.ports()}
    assert uplinks == {VM_PORT: 0, WIRE_PORT: 0, TUNNEL_PORT: WIRE_PORT, Port.LOCAL: 0}
