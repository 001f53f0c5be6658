# SPDX-License-Identifier: Apache-2.0
"""Requests about the switch itself: features, configuration, ports, roles, Experimenter messages."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

from tests.protocol.harness import TO_CONTROLLER, Peer, add, delete, goto, group, m, metadata, out, write
from vswitch.agent.view import SwitchView
from vswitch.openflow import experimenter as ex
from vswitch.openflow import multipart as mp
from vswitch.openflow.actions import Group, Output
from vswitch.openflow.constants import (
    VERSION,
    BadAction,
    BadRequest,
    ErrorType,
    FlowModFlag,
    GroupType,
    MessageType,
    MultipartType,
    Port,
    PortConfig,
    PortFeature,
    PortModFailed,
    PortReason,
    PortState,
    Role,
    RoleRequestFailed,
    SwitchConfigFailed,
    TableFeaturesFailed,
)
from vswitch.openflow.errors import EXPERIMENTER_ID
from vswitch.openflow.flow_mod import FlowRemoved
from vswitch.openflow.groups import Bucket
from vswitch.openflow.instructions import ApplyActions
from vswitch.openflow.message import HEADER
from vswitch.openflow.oxm import Match
from vswitch.openflow.table_features import TableFeaturesRequest
from vswitch.tunnel_formats import SHIPPED


def test_features(switch):
    assert switch.asks(m.FeaturesRequest(xid=5)) == m.FeaturesReply(1, 256, 254, 0, 15, xid=5)


def test_description(switch):
    (desc,) = switch.stats(MultipartType.DESC)
    assert (desc.manufacturer, desc.software, desc.datapath) == ("mininet-offload", "0.1.0", "s1")


def test_configuration(switch):
    switch.says(m.SetConfig(0, 99))
    assert switch.asks(m.GetConfigRequest(xid=1)) == m.GetConfigReply(0, 99, xid=1)
    error = switch.asks(m.SetConfig(2, 99))
    assert (error.type, error.code) == (ErrorType.SWITCH_CONFIG_FAILED, SwitchConfigFailed.BAD_FLAGS)


def test_messages_that_are_not_for_a_switch(switch):
    error = switch.asks(m.BarrierReply(xid=3))
    assert (error.type, error.code, error.xid) == (ErrorType.BAD_REQUEST, BadRequest.BAD_TYPE, 3)


@pytest.mark.parametrize("size", [60, 65_000, 65_523, 65_524, 65_535])
def test_an_error_carries_the_request_as_far_as_it_fits(switch, size):
    """An error is a message, too: 12 bytes of it are its own."""
    request = m.PacketOut(77, (Output(0),), bytes(size - 40))
    encoded = request.encode()
    assert len(encoded) == size
    switch.says_bytes(encoded)
    (error,) = switch.hears()
    assert (error.type, error.code) == (ErrorType.BAD_ACTION, BadAction.BAD_OUT_PORT)
    assert error.data == encoded[:65_523]
    assert len(error.encode()) == min(size + 12, 65_535)


def test_tables_have_no_names(switch):
    parts = switch.says(mp.MultipartRequest(MultipartType.TABLE_FEATURES, TableFeaturesRequest()))
    assert {table.name for part in parts for table in part.items} == {""}


def test_table_features_can_be_read_but_not_changed(switch):
    parts = switch.says(mp.MultipartRequest(MultipartType.TABLE_FEATURES, TableFeaturesRequest()))
    tables = [table for part in parts for table in part.items]
    assert [table.table_id for table in tables] == list(range(254))
    change = TableFeaturesRequest(tables[0].encode())
    error = switch.asks(mp.MultipartRequest(MultipartType.TABLE_FEATURES, change))
    assert (error.type, error.code) == (ErrorType.TABLE_FEATURES_FAILED, TableFeaturesFailed.EPERM)


# --- ports -----------------------------------------------------------------------------------------------


def test_port_descriptions(switch, datapath):
    ports = switch.stats(MultipartType.PORT_DESC)
    assert [(p.port_no, p.name, p.state) for p in ports] == [
        (1, "tap1", PortState.LIVE),
        (2, "tap2", PortState.LIVE),
        (3, "tap3", PortState.LIVE),
        (Port.LOCAL, "s1", PortState.LINK_DOWN),
    ]
    assert ports[0].hw_addr == bytes.fromhex("024f00000101")


@pytest.mark.parametrize(
    ("known", "told", "rate"),
    [
        (0, 10_000_000, PortFeature.RATE_10GB_FD),
        (1, 1, PortFeature.RATE_OTHER),
        (10_000, 10_000, PortFeature.RATE_10MB_FD),
        (100_000, 100_000, PortFeature.RATE_100MB_FD),
        (1_000_000, 1_000_000, PortFeature.RATE_1GB_FD),
        (2_500_000, 2_500_000, PortFeature.RATE_OTHER),
        (40_000_000, 40_000_000, PortFeature.RATE_40GB_FD),
        (100_000_000, 100_000_000, PortFeature.RATE_100GB_FD),
        (1_000_000_000, 1_000_000_000, PortFeature.RATE_1TB_FD),
        (1 << 40, 0xFFFF_FFFF, PortFeature.RATE_OTHER),
    ],
)
def test_ports_say_how_fast_they_are(switch, datapath, known, told, rate):
    """Controllers hear of it when it changes, and of nothing else."""
    switch.says(add({}, out(Port.FLOOD)))
    before = switch.stats(MultipartType.PORT_DESC)[1]
    datapath.infos[2] = datapath.infos[2]._replace(speed_kbps=known)
    switch.of.refresh_ports()
    heard = switch.hears()
    after = switch.stats(MultipartType.PORT_DESC)[1]
    assert (after.curr, after.curr_speed, after.max_speed) == (rate | PortFeature.COPPER, told, told)
    assert heard == ([] if after == before else [m.PortStatus(PortReason.MODIFY, after, xid=heard[0].xid)])


# LOCAL


def local(switch):
    return switch.stats(MultipartType.PORT_DESC)[-1]


def test_local_is_a_port_that_is_down(switch, datapath):
    assert local(switch) == m.PortDesc(
        Port.LOCAL, bytes.fromhex("024c00000001"), "s1", PortConfig.PORT_DOWN, PortState.LINK_DOWN
    )
    (stats,) = switch.stats(MultipartType.PORT_STATS, mp.PortStatsRequest(Port.LOCAL))
    assert (stats.port_no, stats.tx_packets, stats.tx_dropped) == (Port.LOCAL, 0, 0)
    assert len(switch.stats(MultipartType.PORT_STATS, mp.PortStatsRequest(Port.ANY))) == 4


@pytest.mark.parametrize(
    "mods",
    [
        [add({}, out(Port.LOCAL, 2))],
        [add({}, write(Port.LOCAL), out(2))],
        [group(1, Bucket((Output(Port.LOCAL),))), add({}, ApplyActions((Group(1), Output(2))))],
    ],
    ids=["actions", "action set", "group"],
)
def test_what_is_sent_to_local_is_counted_there(switch, mods):
    assert switch.says(*mods) == []
    for _ in range(3):
        assert switch.receives(1) == [2]
    (stats,) = switch.stats(MultipartType.PORT_STATS, mp.PortStatsRequest(Port.LOCAL))
    assert (stats.tx_packets, stats.tx_dropped) == (0, 3)
    assert [flow.packet_count for flow in switch.stats()] == [3]


def test_a_packet_out_to_local_and_from_it(switch):
    assert switch.says(m.PacketOut(Port.CONTROLLER, (Output(Port.LOCAL), Output(2)), bytes(60))) == []
    assert switch.says(m.PacketOut(Port.LOCAL, (Output(Port.IN_PORT), Output(Port.FLOOD)), bytes(60))) == []
    assert [sent.port for sent in switch.datapath.take_sent()] == [2, 1, 2, 3]
    (stats,) = switch.stats(MultipartType.PORT_STATS, mp.PortStatsRequest(Port.LOCAL))
    assert stats.tx_dropped == 2


@pytest.mark.parametrize("reserved", [Port.FLOOD, Port.ALL, Port.NORMAL])
def test_floods_leave_local_out_whatever_it_is_configured_to(switch, reserved):
    switch.says(add({}, out(reserved)))
    (status,) = switch.says(m.PortMod(Port.LOCAL, local(switch).hw_addr, 0, PortConfig.PORT_DOWN))
    assert (status.port.config, status.port.state) == (PortConfig.NONE, PortState.LINK_DOWN)
    switch.of.refresh_ports()
    assert local(switch) == status.port
    assert switch.receives(1) == [2, 3]
    (stats,) = switch.stats(MultipartType.PORT_STATS, mp.PortStatsRequest(Port.LOCAL))
    assert stats.tx_dropped == 0


def test_local_is_not_live(switch):
    first, second = Bucket((Output(2),), watch_port=Port.LOCAL), Bucket((Output(3),), watch_port=3)
    rule = add({}, ApplyActions((Group(1),)))
    assert switch.says(group(1, first, second, kind=GroupType.FF), rule) == []
    assert switch.receives(1) == [3]


# Tunnels


@pytest.mark.parametrize("bits", [{}, {"metadata": 5}], ids=["first table", "second table"])
def test_a_tunnels_physical_port_is_its_uplink(switch, bits):
    """In matches and packet-ins (1.3.5, section 7.2.3.7), also after the tunnel moved, which changes nothing
    that controllers are told of it."""
    tunnel_port = TUNNEL.port_no
    match = {"in_port": tunnel_port, **bits}
    switch.says(
        experimenter(TUNNEL),
        add({}, metadata(5), goto(1)),
        add({**match, "in_phy_port": 2}, out(3, Port.CONTROLLER), table_id=1),
        add({**match, "in_phy_port": 1}, out(2), table_id=1),
        add({"in_port": 1}, out(Port.CONTROLLER), table_id=1),
    )
    switch.hears()
    for _ in range(2):
        assert switch.receives(tunnel_port) == [3]
    assert [heard.match for heard in switch.hears()] == [
        Match.of(in_port=tunnel_port, in_phy_port=2, metadata=5)
    ] * 2
    assert switch.says(experimenter(msgspec.structs.replace(TUNNEL, uplink_port=1))) == []
    for _ in range(2):
        assert switch.receives(tunnel_port) == [2]
    assert switch.says(delete({"in_port": tunnel_port}, table_id=1)) == []
    switch.says(add({**match, "in_phy_port": 1}, out(3), table_id=1))
    assert switch.receives(tunnel_port) == [3]
    switch.receives(1)
    (heard,) = switch.hears()
    assert heard.match == Match.of(in_port=1, metadata=5)


def test_port_status(switch, datapath):
    datapath.set_up(2, False)
    switch.of.refresh_ports()
    (status,) = switch.hears()
    assert (status.reason, status.port.port_no, status.port.state) == (
        PortReason.MODIFY,
        2,
        PortState.LINK_DOWN,
    )
    del datapath.infos[2]
    switch.of.refresh_ports()
    (status,) = switch.hears()
    assert (status.reason, status.port.port_no) == (PortReason.DELETE, 2)
    switch.of.refresh_ports()
    assert switch.hears() == []


def test_port_mod_errors(switch, datapath):
    def error(*args):
        answer = switch.asks(m.PortMod(*args))
        return answer.type, answer.code

    failed = ErrorType.PORT_MOD_FAILED
    mac = datapath.infos[1].mac
    assert error(77, mac, 0, 0) == (failed, PortModFailed.BAD_PORT)
    assert error(0xFFFFFFFC, mac, 0, 0) == (failed, PortModFailed.BAD_PORT)
    assert error(Port.LOCAL, mac, 0, 0) == (failed, PortModFailed.BAD_HW_ADDR)
    assert error(1, bytes(6), 0, 0) == (failed, PortModFailed.BAD_HW_ADDR)
    assert error(1, mac, 2, 2) == (failed, PortModFailed.BAD_CONFIG)
    assert error(1, mac, 0, 0, 1) == (failed, PortModFailed.BAD_ADVERTISE)


def test_statistics_of_a_port_that_is_not_there(switch):
    error = switch.asks(mp.MultipartRequest(MultipartType.PORT_STATS, mp.PortStatsRequest(9)))
    assert (error.type, error.code) == (ErrorType.BAD_REQUEST, BadRequest.BAD_PORT)


# --- the order of answers --------------------------------------------------------------------------------


def test_an_error_does_not_overtake_a_barrier(switch):
    """Although both messages came at once, and the malformed one can be told without looking at rules."""
    malformed = HEADER.pack(VERSION, MessageType.FEATURES_REQUEST, 12, 2) + bytes(4)
    switch.says_bytes(m.BarrierRequest(xid=1).encode() + malformed)
    assert [type(answer) for answer in switch.hears()] == [m.BarrierReply, m.Error]


def test_what_came_before_the_framing_was_lost_is_answered(switch):
    switch.says_bytes(m.BarrierRequest(xid=1).encode() + HEADER.pack(VERSION, 0, 3, 2))
    assert [type(answer) for answer in switch.hears()] == [m.BarrierReply, m.Error]
    assert switch.session.connection.closed


# --- roles -----------------------------------------------------------------------------------------------


def test_a_new_master_makes_the_old_one_a_slave(switch):
    other = Peer(switch.of)
    assert switch.asks(m.RoleRequest(Role.MASTER, 1)) == m.RoleReply(Role.MASTER, 1)
    assert other.asks(m.RoleRequest(Role.MASTER, 2)) == m.RoleReply(Role.MASTER, 2)
    assert switch.asks(m.RoleRequest(Role.NOCHANGE, 0)) == m.RoleReply(Role.SLAVE, 2)


def test_slave_may_look_but_not_touch(switch, datapath):
    switch.says(m.RoleRequest(Role.SLAVE, 1))
    forbidden = (
        add({}, out(1)),
        m.PacketOut(1, (), bytes(20)),
        m.PortMod(1, datapath.infos[1].mac, 0, 0),
        experimenter(ex.LroSet(1, 0, "on")),
    )
    for message in forbidden:
        error = switch.asks(message)
        assert (error.type, error.code) == (ErrorType.BAD_REQUEST, BadRequest.IS_SLAVE)
    assert switch.stats() == ()
    datapath.set_up(2, False)
    switch.of.refresh_ports()
    assert len(switch.hears()) == 1


def test_stale_generation(switch):
    switch.says(m.RoleRequest(Role.MASTER, 2**64 - 1))
    switch.says(m.RoleRequest(Role.MASTER, 3))
    for role in (Role.MASTER, Role.SLAVE):
        error = switch.asks(m.RoleRequest(role, 2))
        assert (error.type, error.code) == (ErrorType.ROLE_REQUEST_FAILED, RoleRequestFailed.STALE)
    assert switch.asks(m.RoleRequest(Role.EQUAL, 0)) == m.RoleReply(Role.EQUAL, 3)
    error = switch.asks(m.RoleRequest(9, 3))
    assert (error.type, error.code) == (ErrorType.ROLE_REQUEST_FAILED, RoleRequestFailed.BAD_ROLE)


def test_all_controllers_hear_of_removed_rules(switch):
    other = Peer(switch.of)
    switch.says(add({}, out(2), flags=1, hard_timeout=1))
    switch.of.clock.advance(1)
    asyncio.run(switch.of.expire_rules())
    assert [type(x) for x in other.hears()] == [type(x) for x in switch.hears()] == [FlowRemoved]


# --- Experimenter ----------------------------------------------------------------------------------------

TUNNEL = ex.TunnelAdd(
    1000, "vxlan0", "vxlan", "10.0.0.1", "10.0.0.2", "02:00:00:00:00:01", "02:00:00:00:00:02", 2
)


def experimenter(body):
    return m.Experimenter(EXPERIMENTER_ID, *ex.to_wire(body))


def test_proactive_reverse(switch, datapath):
    switch.says(add({"in_port": 1}, out(2)), add({"in_port": 2}, out(1)))
    assert switch.says(experimenter(ex.ProactiveReverseSet(False))) == []
    switch.receives(1)
    assert len(datapath.entries) == 1


def test_capabilities_tell_what_was_set(switch):
    switch.says(experimenter(ex.ProactiveReverseSet(False)))
    answer = switch.asks(experimenter(ex.CapabilitiesRequest()))
    told = ex.from_wire(answer.exp_type, answer.data)
    assert told.proactive_reverse is False


def test_tunnel_comes_and_goes_as_a_port(switch, datapath):
    (status,) = switch.says(experimenter(TUNNEL))
    assert (status.reason, status.port.port_no, status.port.name) == (PortReason.ADD, 1000, "vxlan0")
    assert switch.says(experimenter(TUNNEL)) == []
    (status,) = switch.says(experimenter(ex.TunnelDelete(1000)))
    assert status.reason == PortReason.DELETE


def test_capabilities(switch):
    answer = switch.asks(experimenter(ex.CapabilitiesRequest()))
    reply = ex.from_wire(answer.exp_type, answer.data)
    assert reply == ex.CapabilitiesReply("0.1.0", tuple(sorted(SHIPPED)), (1, 2, 3), 8, ())


def test_intent_revision(switch):
    switch.says(experimenter(ex.IntentRevision(7)))
    assert switch.of.extensions.intent_revision == 7


GOOD_TUNNEL = json.loads(ex.to_wire(TUNNEL)[1])
INVALID = {
    "no JSON": (1, b"{", "truncated"),
    "no UTF-8": (1, b"\xff\xfe", "JSON is malformed"),
    "wrong type": (1, b'{"port_no": 1, "queue": "0", "lro": "on"}', "Expected `int`"),
    "missing key": (1, b'{"port_no": 1, "queue": 0}', "missing required field `lro`"),
    "unknown key": (6, b'{"revision": 1, "x": 2}', "unknown field `x`"),
    "out of range": (6, b'{"revision": -1}', ">= 0"),
    "bad address": (2, json.dumps({**GOOD_TUNNEL, "local_ip": "10.0.0"}).encode(), "10.0.0"),
    "mixed versions": (2, json.dumps({**GOOD_TUNNEL, "local_ip": "::1"}).encode(), "IP versions"),
    "bad MAC": (2, json.dumps({**GOOD_TUNNEL, "local_mac": "02:00"}).encode(), "local_mac"),
    "long name": (2, json.dumps({**GOOD_TUNNEL, "name": "x" * 16}).encode(), "15"),
    "unknown format": (2, json.dumps({**GOOD_TUNNEL, "format": "stt"}).encode(), "'stt' is not known"),
    "no such port": (1, b'{"port_no": 9, "queue": 0, "lro": "on"}', "no NIC at port 9"),
    "no such tunnel": (3, b'{"port_no": 1000}', "no tunnel port 1000"),
}


@pytest.mark.parametrize(("exp_type", "data", "why"), INVALID.values(), ids=INVALID.keys())
def test_invalid_experimenter_bodies_are_answered_with_the_reason(switch, exp_type, data, why):
    error = switch.asks(m.Experimenter(EXPERIMENTER_ID, exp_type, data))
    assert (error.type, error.code) == (ErrorType.EXPERIMENTER, exp_type)
    assert error.data[:4] == EXPERIMENTER_ID.to_bytes(4, "big")
    assert why in error.data[4:].decode()


def test_a_reason_that_quotes_a_long_name_is_cut(switch):
    """The message that is refused may be as long as a message can be, and the reason says more."""
    body = b'{"name":"own","numbers":{"' + b"x" * 65_480 + b'":1}}'
    (answer,) = switch.says(m.Experimenter(EXPERIMENTER_ID, 8, body))
    assert (answer.type, answer.code) == (ErrorType.EXPERIMENTER, 8)
    assert answer.data.startswith(b"MNOFformats.own.xxx")


def test_unknown_experimenters(switch):
    error = switch.asks(m.Experimenter(1, 1, b""))
    assert (error.type, error.code) == (ErrorType.BAD_REQUEST, BadRequest.BAD_EXPERIMENTER)
    error = switch.asks(m.Experimenter(EXPERIMENTER_ID, 999, b""))
    assert (error.type, error.code) == (ErrorType.BAD_REQUEST, BadRequest.BAD_EXP_TYPE)
    reply = ex.CapabilitiesReply("1", (), (), 1, ())
    error = switch.asks(experimenter(reply))
    assert (error.type, error.code) == (ErrorType.BAD_REQUEST, BadRequest.BAD_EXP_TYPE)


def test_a_backlog_drops_packet_ins_first_and_then_all_that_nobody_asked_for(switch, datapath):
    """They are counted, also after the session; answers are not dropped."""
    dropped = {"packet_ins_dropped": 0, "notices_dropped": 0}
    reasons = SwitchView(switch.of, lambda: []).counters
    switch.says(add({}, TO_CONTROLLER, priority=0), add({"in_port": 2}, flags=FlowModFlag.SEND_FLOW_REM))
    for backlog, packet_ins, notices in ((4 << 20, 1, 2), (5 << 20, 0, 2), (17 << 20, 0, 0)):
        switch.session._write = lambda data, backlog=backlog: switch._to_controller(data) or backlog
        switch.session.flush()
        switch.receives(1)
        assert len(switch.hears()) == packet_ins
        datapath.set_up(3, not datapath.infos[3].up)
        switch.of.refresh_ports()
        assert len(switch.hears() + switch.says(delete({"in_port": 2}, strict=True))) == notices
        switch.says(add({"in_port": 2}, flags=FlowModFlag.SEND_FLOW_REM))
        dropped["packet_ins_dropped"] += 1 - packet_ins
        dropped["notices_dropped"] += 2 - notices
        assert dropped.items() <= reasons()["reasons"].items()
    assert switch.asks(m.BarrierRequest(xid=3)) == m.BarrierReply(xid=3)
    switch.of.end_session(switch.session)
    assert dropped.items() <= reasons()["reasons"].items()
