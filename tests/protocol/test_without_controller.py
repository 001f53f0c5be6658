# SPDX-License-Identifier: Apache-2.0
"""What a switch does without a controller: fail modes, and the ports of a spanning tree."""

from __future__ import annotations

from scapy.layers.l2 import LLC, STP, Dot3

from tests.protocol.fake_datapath import tap
from tests.protocol.frames import udp
from tests.protocol.harness import FakeSwitch, add, out
from vswitch.agent.bpdu import ConfigBpdu, decode_frame
from vswitch.agent.standalone import STANDALONE_AFTER_NS
from vswitch.config import StpSettings
from vswitch.flow import DropReason
from vswitch.openflow import actions as of
from vswitch.openflow.constants import Port, PortConfig
from vswitch.openflow.instructions import ApplyActions
from vswitch.openflow.messages import PacketOut, PortMod

SECOND_NS = 1_000_000_000
TO_B, TO_A = udp(), udp(reverse=True)


def let_pass(switch, clock, seconds):
    """As the agent does, but in steps of a second."""
    for _ in range(seconds):
        clock.advance(1)
        switch.of.tick()


# --- fail modes ------------------------------------------------------------------------------------------


def test_secure_keeps_the_rules_and_drops_the_rest(switch, clock):
    switch.says(add({"in_port": 1}, out(2)))
    let_pass(switch, clock, 60)
    assert switch.receives(1) == [2]
    assert switch.receives(2) == []


def test_standalone_without_controllers_is_a_learning_switch_at_once(switch):
    """By a rule that tools see, and may delete, as Open vSwitch's."""
    switch.of.forward_without_controller(has_controllers=False)
    assert switch.receives(1, TO_B) == [2, 3]
    assert switch.receives(2, TO_A) == [1]
    assert switch.receives(1, TO_B) == [2]
    (rule,) = switch.stats()
    assert (rule.priority, rule.table_id, rule.packet_count) == (0, 0, 3)
    assert rule.instructions.items == (ApplyActions((of.Output(Port.NORMAL),)),)


def test_standalone_waits_for_a_controller_that_is_to_come(switch, clock):
    switch.of.forward_without_controller(has_controllers=True)
    let_pass(switch, clock, STANDALONE_AFTER_NS // SECOND_NS - 1)
    assert switch.receives(1, TO_B) == []
    let_pass(switch, clock, 1)
    assert switch.receives(1, TO_B) == [2, 3]
    assert not switch.stats()


def test_standalone_overrides_rules_and_ends_with_the_controllers_first_message(switch, clock):
    switch.says(add({"in_port": 1}, out(3)))
    assert switch.receives(1, TO_B) == [3]
    switch.of.forward_without_controller(has_controllers=True)
    let_pass(switch, clock, 15)
    assert switch.receives(2, TO_A) == [1, 3]
    assert switch.receives(1, TO_B) == [2]  # also what was cached
    switch.session.primary = True
    switch.stats()
    assert switch.receives(1, TO_B) == [3]
    let_pass(switch, clock, 60)
    assert switch.receives(1, TO_B) == [3]


def test_standalone_comes_back_when_the_controller_is_away_for_long(switch, clock):
    switch.of.forward_without_controller(has_controllers=True)
    switch.session.primary = True
    let_pass(switch, clock, 60)
    assert switch.receives(1, TO_B) == []
    switch.of.end_session(switch.session)
    let_pass(switch, clock, 14)
    assert switch.receives(1, TO_B) == []
    let_pass(switch, clock, 1)
    assert switch.receives(1, TO_B) == [2, 3]


def test_a_tool_is_no_controller(switch, clock):
    """What only looks, as ovs-ofctl at the passive port, does not end the mode."""
    switch.of.forward_without_controller(has_controllers=True)
    let_pass(switch, clock, 15)
    switch.stats()
    assert switch.receives(1, TO_B) == [2, 3]


# --- spanning tree ---------------------------------------------------------------------------------------


def bridge(datapath, clock, *rules):
    """A switch with a spanning tree; rules are NORMAL unless others are given."""
    switch = FakeSwitch(datapath, clock)
    switch.says(*(rules or [add({}, ApplyActions((of.Output(Port.NORMAL),)), priority=0)]))
    switch.of.run_spanning_tree(StpSettings())
    return switch


def better_root(port=1, cost=0, root=0, bridge=9):
    """What a bridge with a better root says at a port: as scapy writes it."""
    stp = STP(
        rootid=root, rootmac="00:00:00:00:00:00", pathcost=cost, bridgeid=0x8000,
        bridgemac=f"00:00:00:00:00:{bridge:02x}", portid=0x8000 | port, age=0, maxage=20, hellotime=2,
        fwddelay=15,
    )  # fmt: skip
    return bytes(Dot3(dst="01:80:c2:00:00:00", src="02:00:00:00:00:99") / LLC() / stp)


def bpdus(switch):
    """(port, BPDU) of what the switch has sent; all it sent must be such."""
    sent = [(s.port, decode_frame(s.frame)) for s in switch.datapath.take_sent()]
    assert all(isinstance(bpdu, ConfigBpdu) for _port, bpdu in sent)
    return sent


def test_ports_say_hello_and_forward_after_two_delays(datapath, clock):
    switch = bridge(datapath, clock)
    assert sorted(port for port, _ in bpdus(switch)) == [1, 2, 3]
    let_pass(switch, clock, 14)
    assert switch.receives(1, TO_B) == []
    assert datapath.discarded[-1] == DropReason.PORT_CONFIG
    let_pass(switch, clock, 15)
    assert switch.receives(1, TO_B) == []
    let_pass(switch, clock, 1)
    assert switch.receives(1, TO_B) == [2, 3]
    bpdus(switch)
    let_pass(switch, clock, 2)
    assert sorted(port for port, _ in bpdus(switch)) == [1, 2, 3]


def test_a_second_way_to_the_root_is_blocked(datapath, clock):
    switch = bridge(datapath, clock)
    for _ in range(30):
        let_pass(switch, clock, 1)
        for port in (1, 2):
            switch.receives(port, better_root(port))
    assert switch.receives(3, TO_B) == [1]
    assert switch.receives(2, TO_A) == []
    described = switch.of.bridge.describe()
    assert (described["root"], described["root_port"]) == ("0000.000000000000", 1)
    assert described["ports"] == {
        "tap1": {"role": "root", "state": "forwarding"},
        "tap2": {"role": "blocked", "state": "blocking"},
        "tap3": {"role": "designated", "state": "forwarding"},
    }


def test_a_blocked_port_sends_nothing_that_rules_say_either(datapath, clock):
    """As Open vSwitch's: output to it, to all, and packet-outs."""
    switch = bridge(datapath, clock, add({"in_port": 3}, out(1, 2)))
    for _ in range(30):
        let_pass(switch, clock, 1)
        for port in (1, 2):
            switch.receives(port, better_root(port))
    assert switch.receives(3, TO_B) == [1]
    switch.says(PacketOut(in_port=Port.CONTROLLER, actions=(of.Output(2), of.Output(3)), data=TO_B))
    assert [sent.port for sent in datapath.take_sent()] == [3]


def test_the_blocked_port_takes_over_when_the_root_port_loses_its_link(datapath, clock):
    switch = bridge(datapath, clock)
    for _ in range(30):
        let_pass(switch, clock, 1)
        for port in (1, 2):
            switch.receives(port, better_root(port))
    assert switch.receives(3, TO_B) == [1]
    datapath.set_up(1, up=False)
    switch.of.look_at_links()
    for _ in range(30):
        let_pass(switch, clock, 1)
        switch.receives(2, better_root(2))
    assert switch.receives(3, TO_B) == [2]


def test_a_port_that_is_configured_down_is_none_of_the_tree(datapath, clock):
    switch = bridge(datapath, clock)
    let_pass(switch, clock, 30)
    switch.says(PortMod(2, datapath.infos[2].mac, PortConfig.PORT_DOWN, PortConfig.PORT_DOWN))
    assert switch.of.bridge.tree.role(2) == "disabled"
    switch.says(PortMod(2, datapath.infos[2].mac, PortConfig.NONE, PortConfig.PORT_DOWN))
    assert switch.of.bridge.tree.role(2) == "designated"
    assert switch.receives(1, TO_B) == [3]


def test_a_port_that_is_gone_is_none_of_the_tree_and_a_tunnel_never_was(datapath, clock):
    datapath.infos[1000] = tap(1000, kind="tunnel")
    switch = bridge(datapath, clock)
    assert sorted(port for port, _ in bpdus(switch)) == [1, 2, 3]
    let_pass(switch, clock, 30)
    assert switch.receives(1, TO_B) == [2, 3, 1000]
    del datapath.infos[2]
    switch.of.refresh_ports()
    assert switch.of.bridge.tree.role(2) == "disabled"


def test_bpdus_are_neither_forwarded_nor_cached_nor_told(datapath, clock):
    """Also after a frame *from* the group address, whose mirror image a BPDU is."""
    switch = bridge(datapath, clock, add({}, out(1, Port.CONTROLLER)), add({"in_port": 2}, out(1)))
    let_pass(switch, clock, 30)
    bpdus(switch)
    mirror = bytes(Dot3(dst="02:00:00:00:00:99", src="01:80:c2:00:00:00") / LLC() / STP())
    switch.says(add({"in_port": 1}, out(2)))
    switch.receives(2, mirror)
    switch.hears()
    before = len(switch.slowpath.flows)
    for _ in range(3):
        clock.advance(1)
        switch.receives(1, better_root(1))
        assert switch.hears() == []
    assert len(switch.slowpath.flows) == before
    assert switch.of.bridge.tree.root_port == 1
    assert datapath.held == 0


def test_a_topology_change_makes_addresses_be_learned_anew(datapath, clock):
    """Whoever was behind the port that is gone may be behind any other now."""
    datapath.infos[4] = tap(4)
    switch = bridge(datapath, clock)
    let_pass(switch, clock, 90)
    switch.receives(2, TO_A)
    assert switch.receives(1, TO_B) == [2]
    datapath.set_up(3, up=False)
    switch.of.look_at_links()
    assert switch.receives(1, TO_B) == [2, 4]
    switch.receives(2, TO_A)
    assert switch.receives(1, TO_B) == [2]
    datapath.set_up(3, up=True)
    switch.of.look_at_links()
    let_pass(switch, clock, 30)
    assert switch.receives(1, TO_B) == [2, 3, 4]
    switch.of.slowpath.macs.learn(0, 0xAB, 4, clock())
    let_pass(switch, clock, 21)  # until the change is over, addresses age in a forward delay
    switch.of.slowpath.retire_ended()
    assert switch.of.slowpath.macs.port_of(0, 0xAB) is None
