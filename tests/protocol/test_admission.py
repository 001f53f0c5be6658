# SPDX-License-Identifier: Apache-2.0
"""What actions a rule may have with its match (1.3.5, sections 5.12 and 6.4)."""

from __future__ import annotations

import pytest

from tests.protocol.harness import add, m
from vswitch.agent import admission
from vswitch.openflow import actions as a
from vswitch.openflow.constants import BadAction, ErrorType, Port
from vswitch.openflow.instructions import ApplyActions, WriteActions
from vswitch.openflow.oxm import BY_NAME, FIELDS, Oxm

IP, IP6, ARP, MPLS, PBB = 0x800, 0x86DD, 0x806, 0x8847, 0x88E7


def put(name, value=1):
    return a.SetField(Oxm(BY_NAME[name], value))


def answer(switch, match, *actions, instruction=ApplyActions):
    """The error that answers the rule; None when it is accepted."""
    answers = switch.says(add(match, instruction(actions)))
    return answers[0] if answers else None


ACCEPTED = {
    "tagged": ({"vlan_vid": (0x1000, 0x1000)}, put("vlan_pcp")),
    "pushed tag": ({}, a.PushVlan(0x8100), put("vlan_vid", 0x1005), put("vlan_pcp")),
    "tag of any": ({}, put("vlan_vid", 0x1005), a.PopVlan()),
    "TCP": ({"eth_type": IP, "ip_proto": 6}, put("tcp_dst"), put("ipv4_src"), put("ip_dscp")),
    "protocol that was set": ({"eth_type": IP, "ip_proto": 6}, put("ip_proto", 17), put("udp_dst")),
    "popped MPLS": ({"eth_type": MPLS}, put("mpls_tc"), a.PopMpls(IP), put("ipv4_dst"), a.DecNwTtl()),
    "pushed MPLS": ({"eth_type": IP}, a.PushMpls(0x8847), put("mpls_label"), a.DecMplsTtl(), a.PopMpls(IP)),
    "PBB": ({"eth_type": IP}, a.PushPbb(PBB), put("pbb_isid"), put("eth_dst"), a.PopPbb()),
    "type that was set": ({"eth_type": IP}, put("eth_type", 0x8848), put("mpls_label")),
    "TTL of any": ({}, a.DecNwTtl(), a.SetNwTtl(3), a.SetMplsTtl(3), a.CopyTtlIn(), a.CopyTtlOut()),
    "ND": ({"eth_type": IP6, "ip_proto": 58, "icmpv6_type": 135}, put("ipv6_nd_target"), put("ipv6_nd_sll")),
    "queue": ({}, a.SetQueue(0), a.SetQueue(7)),
    "reserved ports": ({}, *(a.Output(port) for port in admission.OUTPUT_PORTS)),
    "tunnel": ({}, put("tunnel_id")),
}


@pytest.mark.parametrize("rule", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_accepted(switch, rule):
    assert answer(switch, *rule) is None


INCONSISTENT = {
    "PCP of any": ({}, put("vlan_pcp")),
    "tag of the untagged": ({"vlan_vid": 0}, put("vlan_vid", 0x1001)),
    "pop of the untagged": ({"vlan_vid": 0}, a.PopVlan()),
    "PCP after pop": ({"vlan_vid": 0x1005}, a.PopVlan(), put("vlan_pcp")),
    "address of any": ({}, put("ipv4_dst")),
    "address of ARP": ({"eth_type": ARP}, put("ipv4_dst")),
    "port of any protocol": ({"eth_type": IP}, put("tcp_dst")),
    "port of another protocol": ({"eth_type": IP, "ip_proto": 17}, put("tcp_dst")),
    "port after another protocol": ({"eth_type": IP, "ip_proto": 6}, put("ip_proto", 17), put("tcp_dst")),
    "address under MPLS": ({"eth_type": IP}, a.PushMpls(0x8847), put("ipv4_dst")),
    "label after pop": ({"eth_type": MPLS}, a.PopMpls(IP), put("mpls_label")),
    "TTL of ARP": ({"eth_type": ARP}, a.DecNwTtl()),
    "MPLS TTL of IP": ({"eth_type": IP}, a.SetMplsTtl(3)),
    "pop MPLS of IP": ({"eth_type": IP}, a.PopMpls(IP)),
    "pop PBB of IP": ({"eth_type": IP}, a.PopPbb()),
    "anything behind PBB": ({"eth_type": PBB}, a.PopPbb(), put("ipv4_dst")),
    "ND target of an echo": ({"eth_type": IP6, "ip_proto": 58, "icmpv6_type": 128}, put("ipv6_nd_target")),
}


@pytest.mark.parametrize("instruction", [ApplyActions, WriteActions])
@pytest.mark.parametrize("rule", INCONSISTENT.values(), ids=INCONSISTENT.keys())
def test_inconsistent(switch, rule, instruction):
    in_order = sum(isinstance(action, a.SetField) for action in rule[1:]) < 2
    if instruction is WriteActions and not (in_order and len(rule) == 2):
        pytest.skip("an action set has its own order")
    error = answer(switch, *rule, instruction=instruction)
    assert (error.type, error.code) == (ErrorType.BAD_ACTION, BadAction.MATCH_INCONSISTENT)


def test_an_action_set_runs_in_its_own_order(switch):
    """Written set-field first, pushed first."""
    assert answer(switch, {}, put("vlan_pcp"), a.PushVlan(0x8100), instruction=WriteActions) is None


def test_written_pops_are_checked_in_the_order_in_which_they_run(switch):
    """A label comes off before a service tag: behind it there may be one, in front of it there is none."""
    label_first = answer(switch, {"eth_type": MPLS}, a.PopMpls(PBB), a.PopPbb(), instruction=WriteActions)
    assert label_first is None
    tag_first = answer(switch, {"eth_type": PBB}, a.PopPbb(), a.PopMpls(IP), instruction=WriteActions)
    assert tag_first.code == BadAction.MATCH_INCONSISTENT


def test_written_actions_come_after_applied_ones(switch):
    mod = add({}, ApplyActions((a.PushVlan(0x8100),)), WriteActions((put("vlan_pcp"), a.Output(1))))
    assert switch.says(mod) == []


def test_a_rule_is_no_longer_than_its_statistics_can_be(switch):
    """A flow-mod has room for a few actions more than the item of a multipart reply."""
    mods = [add({"in_port": n}, ApplyActions((a.DecNwTtl(),) * n)) for n in (8000, 8176)]
    assert len(mods[-1].encode()) > 0xFFFF - 64
    (error,) = switch.says(*mods)
    assert (error.type, error.code) == (ErrorType.BAD_ACTION, BadAction.TOO_MANY)
    assert [rule.instructions for rule in switch.stats()] == [mods[0].instructions]


def test_a_packet_out_may_set_what_its_packet_may_have(switch):
    assert switch.says(m.PacketOut(Port.CONTROLLER, (put("ipv4_dst"),), bytes(60))) == []


def test_the_datapath_writes_what_can_be_set():
    rewrite = pytest.importorskip("vswitch.dataplane.rewrite")
    assert set(rewrite.SETTABLE) | {"tunnel_id"} == admission.SETTABLE


def test_settable_fields_are_fields():
    assert {field.name for field in FIELDS} >= admission.SETTABLE
