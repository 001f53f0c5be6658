# SPDX-License-Identifier: Apache-2.0
"""The pipeline: what leaves where, for given rules and frames."""

from __future__ import annotations

import pytest

from tests.protocol.fake_datapath import tap
from tests.protocol.frames import arp_request, later_fragment, ping, tagged, tcp, udp
from tests.protocol.harness import TO_CONTROLLER, add, goto, group, m, metadata, out, set_tunnel, write
from vswitch.flow import DropReason
from vswitch.openflow.actions import DecNwTtl, Group, Output, SetField, SetNwTtl
from vswitch.openflow.constants import (
    BadAction,
    BadRequest,
    ErrorType,
    PacketInReason,
    Port,
    PortConfig,
)
from vswitch.openflow.groups import Bucket
from vswitch.openflow.instructions import ApplyActions, ClearActions, WriteActions
from vswitch.openflow.oxm import BY_NAME, Match, Oxm


def to_controller_bucket():
    return Bucket((Output(Port.CONTROLLER),))


def tunnel(datapath, port_no=1000):
    datapath.infos[port_no] = tap(port_no)._replace(kind="tunnel")


def test_no_rule_drops(switch, datapath):
    assert switch.receives(1) == []
    assert datapath.discarded == [DropReason.TABLE_MISS]


def test_rule_without_instructions_drops(switch, datapath):
    switch.says(add({}))
    assert switch.receives(1) == []
    assert datapath.discarded == [DropReason.RULE]


def test_highest_priority_wins(switch):
    switch.says(add({}, out(2), priority=1), add({"in_port": 1}, out(3), priority=2))
    assert switch.receives(1) == [3]
    assert switch.receives(3) == [2]


MATCHES = {
    "eth_dst": ({"eth_dst": 0x0B}, {"eth_dst": 0x0A}, udp()),
    "eth_src masked": ({"eth_src": (0x0A, 0x0F)}, {"eth_src": (0x01, 0x0F)}, udp()),
    "ipv4": ({"eth_type": 0x800, "ipv4_src": 0x0A000001}, {"eth_type": 0x800, "ipv4_src": 1}, udp()),
    "prefix": (
        {"eth_type": 0x800, "ipv4_dst": (0x0A000000, 0xFF000000)},
        {"eth_type": 0x800, "ipv4_dst": (0x0B000000, 0xFF000000)},
        udp(),
    ),
    "tcp": (
        {"eth_type": 0x800, "ip_proto": 6, "tcp_dst": 80},
        {"eth_type": 0x800, "ip_proto": 17, "udp_dst": 80},
        tcp(),
    ),
    "tcp over ipv6": (
        {"eth_type": 0x86DD, "ip_proto": 6, "tcp_dst": 80},
        {"eth_type": 0x800, "ip_proto": 6, "tcp_dst": 80},
        tcp(v6=True),
    ),
    "ipv6 prefix": (
        {"eth_type": 0x86DD, "ipv6_dst": (0xFD << 120, 0xFF << 120)},
        {"eth_type": 0x86DD, "ipv6_dst": (0xFE << 120, 0xFF << 120)},
        tcp(v6=True),
    ),
    "icmp": (
        {"eth_type": 0x800, "ip_proto": 1, "icmpv4_type": 8, "icmpv4_code": 0},
        {"eth_type": 0x800, "ip_proto": 1, "icmpv4_type": 0},
        ping(),
    ),
    "icmpv6": (
        {"eth_type": 0x86DD, "ip_proto": 58, "icmpv6_type": 128},
        {"eth_type": 0x86DD, "ip_proto": 58, "icmpv6_type": 129},
        ping(v6=True),
    ),
    "arp": (
        {"eth_type": 0x806, "arp_op": 1, "arp_spa": 0x0A000001, "arp_tpa": 0x0A000002},
        {"eth_type": 0x806, "arp_op": 2},
        arp_request(),
    ),
    "vlan": ({"vlan_vid": 0x1005, "vlan_pcp": 3}, {"vlan_vid": 0x1005, "vlan_pcp": 4}, tagged()),
    "any vlan": ({"vlan_vid": (0x1000, 0x1000)}, {"vlan_vid": 0}, tagged()),
    "no vlan": ({"vlan_vid": 0}, {"vlan_vid": (0x1000, 0x1000)}, udp()),
    "dscp": ({"eth_type": 0x800, "ip_dscp": 46}, {"eth_type": 0x800, "ip_dscp": 45}, tcp(tos=46 << 2 | 1)),
    "ecn": ({"eth_type": 0x800, "ip_ecn": 1}, {"eth_type": 0x800, "ip_ecn": 0}, tcp(tos=46 << 2 | 1)),
    "later fragment has no ports": (
        {"eth_type": 0x800, "ip_proto": 17},
        {"eth_type": 0x800, "ip_proto": 17, "udp_src": 0},
        later_fragment(),
    ),
}


@pytest.mark.parametrize(("hit", "miss", "frame"), MATCHES.values(), ids=MATCHES.keys())
def test_match_fields(switch, hit, miss, frame):
    switch.says(add(hit, out(2), priority=1), add(miss, out(3), priority=2))
    assert switch.receives(1, frame) == [2]


def test_goto_and_metadata(switch):
    switch.says(
        add({"in_port": 1}, metadata(42, 0xFFFFFFFF), goto(1)),
        add({"metadata": 42}, metadata(7 << 32, 0xFF << 32), goto(9), table_id=1),
        add({"metadata": 7 << 32 | 42}, out(2), table_id=9),
        add({"metadata": (42, 0xFFFFFFFF)}, out(3), table_id=9, priority=1),
    )
    assert switch.receives(1) == [2]


def test_miss_in_a_later_table_drops_but_applied_actions_stand(switch):
    switch.says(add({}, out(2), write(3), goto(5)))
    assert switch.receives(1) == [2]


def test_write_actions_run_at_the_end_once(switch):
    switch.says(add({}, write(2), goto(1)), add({}, write(3), table_id=1))
    assert switch.receives(1) == [3]


def test_clear_actions(switch):
    switch.says(add({}, write(2), goto(1)), add({}, ClearActions(), table_id=1))
    assert switch.receives(1) == []


def test_clear_comes_before_write_whatever_the_order(switch):
    switch.says(add({}, write(2), goto(1)), add({}, write(3), ClearActions(), table_id=1))
    assert switch.receives(1) == [3]


def test_apply_comes_before_goto_whatever_the_order(switch):
    switch.says(
        add({}, goto(1), ApplyActions((set_tunnel(9),))),
        add({"tunnel_id": 9}, out(2), table_id=1),
    )
    assert switch.receives(1) == [2]


def test_set_tunnel_holds_for_the_outputs_that_follow(switch, datapath):
    tunnel(datapath, 1000)
    tunnel(datapath, 1001)
    switch.of.refresh_ports()
    actions = ApplyActions((set_tunnel(42), Output(1000), set_tunnel(43), Output(1001), Output(2)))
    switch.says(add({"in_port": 1}, actions))
    assert switch.receives(1) == [(1000, 42), (1001, 43), 2]


def test_set_tunnel_in_the_action_set_comes_before_output(switch, datapath):
    tunnel(datapath)
    switch.of.refresh_ports()
    switch.says(add({}, WriteActions((Output(1000), set_tunnel(42)))))
    assert switch.receives(1) == [(1000, 42)]


def test_tunnel_id_of_arrival_is_matched_and_kept(switch, datapath):
    tunnel(datapath, 1000)
    tunnel(datapath, 1001)
    switch.of.refresh_ports()
    switch.says(add({"in_port": 1000, "tunnel_id": 42}, out(1001)), add({"tunnel_id": 0}, out(2)))
    assert switch.receives(1000, tunnel_id=42) == [(1001, 42)]
    assert switch.receives(1000, tunnel_id=43) == []


# --- reserved ports --------------------------------------------------------------------------------------


def test_output_to_the_port_of_arrival_needs_in_port(switch):
    switch.says(add({"eth_type": 0x800}, out(1, 2)), add({"eth_type": 0x806}, out(Port.IN_PORT)))
    assert switch.receives(1) == [2]
    assert switch.receives(1, arp_request()) == [1]


@pytest.mark.parametrize("port", [Port.FLOOD, Port.ALL])
def test_flood(switch, port):
    switch.says(add({}, out(port)))
    assert switch.receives(2) == [1, 3]


def test_unknown_port_drops(switch):
    switch.says(add({}, out(77, 2)))
    assert switch.receives(1) == [2]


def test_controller_gets_the_packet_and_why(switch):
    switch.says(add({}, TO_CONTROLLER, priority=0, cookie=9))
    switch.receives(1)
    (packet_in,) = switch.hears()
    assert (packet_in.reason, packet_in.cookie, packet_in.table_id) == (PacketInReason.NO_MATCH, 9, 0)
    assert packet_in.match == Match.of(in_port=1)
    assert (packet_in.data, packet_in.total_len) == (udp(), len(udp()))


def test_controller_of_a_later_table_sees_metadata_and_tunnel(switch):
    limited = ApplyActions((Output(Port.CONTROLLER, 20), Output(2)))
    switch.says(add({}, metadata(5), goto(3)), add({}, limited, table_id=3))
    assert switch.receives(1, tunnel_id=8) == [2]
    (packet_in,) = switch.hears()
    assert packet_in.match == Match.of(in_port=1, metadata=5, tunnel_id=8)
    assert (packet_in.reason, packet_in.table_id) == (PacketInReason.ACTION, 3)
    assert packet_in.data == udp()[:20] and packet_in.total_len == len(udp())
    assert switch.receives(1, tunnel_id=8) == [2]
    (again,) = switch.hears()
    assert again.data == packet_in.data and again.match == packet_in.match


# --- port configuration ----------------------------------------------------------------------------------


def configure(switch, port, config, mask=None):
    mac = switch.datapath.infos[port].mac
    return switch.says(m.PortMod(port, mac, config, config if mask is None else mask))


def test_port_that_does_not_receive(switch, datapath):
    switch.says(add({}, out(2)))
    assert switch.receives(1) == [2]
    (status,) = configure(switch, 1, PortConfig.NO_RECV)
    assert status.port.config == PortConfig.NO_RECV
    assert switch.receives(1) == []
    assert switch.receives(3) == [2]


def test_port_that_does_not_forward(switch):
    switch.says(add({"in_port": 1}, out(2, 3)), add({"in_port": 3}, out(Port.FLOOD)))
    configure(switch, 2, PortConfig.NO_FWD)
    assert switch.receives(1) == [3]
    assert switch.receives(3) == [1]


MISSES = {
    "miss": [add({}, TO_CONTROLLER, priority=0)],
    "miss of a later table": [add({}, goto(1)), add({}, TO_CONTROLLER, priority=0, table_id=1)],
    "miss, by its action set": [add({}, write(Port.CONTROLLER), priority=0)],
}
ON_PURPOSE = {
    "rule": [add({}, TO_CONTROLLER)],
    "rule of priority 0": [add({"in_port": 1}, TO_CONTROLLER, priority=0)],
    "rule for all of priority 1": [add({}, TO_CONTROLLER, priority=1)],
    "action set": [add({}, write(Port.CONTROLLER))],
    "rule behind a miss": [add({}, goto(1), priority=0), add({}, TO_CONTROLLER, table_id=1)],
    "group": [group(1, to_controller_bucket()), add({}, ApplyActions((Group(1),)))],
    "group, by the action set": [group(1, to_controller_bucket()), add({}, WriteActions((Group(1),)))],
    "group of a miss": [group(1, to_controller_bucket()), add({}, ApplyActions((Group(1),)), priority=0)],
}


@pytest.mark.parametrize(
    ("mods", "heard"),
    [*((mods, 0) for mods in MISSES.values()), *((mods, 2) for mods in ON_PURPOSE.values())],
    ids=[*MISSES, *ON_PURPOSE],
)
def test_a_port_without_packet_ins_sends_none_of_misses_alone(switch, mods, heard):
    """OFPPC_NO_PACKET_IN (1.3.5, section 7.2.1): what a rule sends on purpose goes on, as Ryu's stplib needs.
    The first packet takes the slow path, the second need not."""
    assert switch.says(*mods) == []
    configure(switch, 1, PortConfig.NO_PACKET_IN)
    for _ in range(2):
        switch.receives(1)
    assert len(switch.hears()) == heard
    configure(switch, 1, PortConfig.NONE, PortConfig.NO_PACKET_IN)
    switch.receives(1)
    assert len(switch.hears()) == 1


def test_a_port_without_packet_ins_tells_of_invalid_ttls(switch):
    expire = ApplyActions((SetNwTtl(1), DecNwTtl(), Output(2)))
    switch.says(m.SetAsync((0b111, 0), (0, 0), (0, 0)), add({}, expire))
    configure(switch, 1, PortConfig.NO_PACKET_IN)
    for _ in range(2):
        switch.receives(1)
    assert [heard.reason for heard in switch.hears()] == [PacketInReason.INVALID_TTL] * 2


@pytest.mark.parametrize(("action", "heard"), [(Port.CONTROLLER, 1), (Port.TABLE, 0)])
def test_a_packet_out_from_a_port_without_packet_ins(switch, action, heard):
    switch.says(add({}, TO_CONTROLLER, priority=0))
    configure(switch, 1, PortConfig.NO_PACKET_IN)
    assert len(switch.says(m.PacketOut(1, (Output(action),), udp()))) == heard


# --- packet-out ------------------------------------------------------------------------------------------


def packet_out(switch, *actions, in_port=Port.CONTROLLER, data=None, **fields):
    switch.datapath.take_sent()
    heard = switch.says(m.PacketOut(in_port, actions, udp() if data is None else data, **fields))
    return [(s.port, s.tunnel_id) if s.tunnel_id else s.port for s in switch.datapath.take_sent()], heard


def test_packet_out(switch):
    assert packet_out(switch, Output(2), Output(3))[0] == [2, 3]
    assert packet_out(switch, Output(Port.FLOOD), in_port=2)[0] == [1, 3]
    assert packet_out(switch, Output(Port.IN_PORT), in_port=2)[0] == [2]
    assert packet_out(switch)[0] == []


def test_packet_out_through_the_tables(switch):
    switch.says(add({"in_port": 3}, out(1)))
    assert packet_out(switch, Output(Port.TABLE), in_port=3)[0] == [1]
    assert switch.stats()[0].packet_count == 1
    assert packet_out(switch, Output(Port.TABLE), in_port=2)[0] == []


def test_a_packet_in_tells_the_tunnel_id_that_was_set(switch):
    """As it tells the metadata: the pipeline fields as they are when the packet is sent (section 7.4.1)."""
    switch.says(add({}, ApplyActions((set_tunnel(9), Output(Port.CONTROLLER)))))
    for _ in range(2):
        switch.receives(1)
    assert [str(heard.match) for heard in switch.hears()] == ["in_port=1,tunnel_id=0x9"] * 2


def test_packet_out_to_the_controller_comes_back(switch):
    _sent, (packet_in,) = packet_out(switch, Output(Port.CONTROLLER), in_port=2)
    assert (packet_in.reason, packet_in.data) == (PacketInReason.ACTION, udp())


def test_refused_packet_outs(switch):
    def error(*actions, **fields):
        sent, (answer,) = packet_out(switch, *actions, **fields)
        assert sent == []
        return answer.type, answer.code

    of_metadata = SetField(Oxm(BY_NAME["metadata"], 1))
    assert error(Output(1), buffer_id=3) == (ErrorType.BAD_REQUEST, BadRequest.BUFFER_UNKNOWN)
    assert error(Output(1), in_port=Port.FLOOD) == (ErrorType.BAD_REQUEST, BadRequest.BAD_PORT)
    assert error(Output(1), data=b"short") == (ErrorType.BAD_REQUEST, BadRequest.BAD_PACKET)
    assert error(Output(1), of_metadata) == (ErrorType.BAD_ACTION, BadAction.BAD_SET_TYPE)
    assert error(Output(0)) == (ErrorType.BAD_ACTION, BadAction.BAD_OUT_PORT)
