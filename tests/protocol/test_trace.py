# SPDX-License-Identifier: Apache-2.0
"""`vswitchctl trace`: the words of ovs-ofctl, the frame that they mean, the explanation."""

from __future__ import annotations

import subprocess

import pytest
from scapy.layers.l2 import Ether

from tests.protocol.frames import tcp
from tests.protocol.harness import add, goto, group, out
from tests.protocol.test_pipeline import tunnel
from vswitch.agent import pipeline
from vswitch.agent.trace import build_frame, parse_flow
from vswitch.agent.view import SwitchView
from vswitch.cli.trace import render_trace
from vswitch.errors import ConfigError
from vswitch.openflow.actions import DecNwTtl, Group, Output, SetField
from vswitch.openflow.constants import Port
from vswitch.openflow.groups import Bucket
from vswitch.openflow.instructions import ApplyActions, WriteActions
from vswitch.openflow.oxm import BY_NAME, Oxm

SAME = {
    "in_port=1,eth_type=0x800,ip_proto=6,ipv4_dst=10.0.0.2": "in_port=1,tcp,nw_dst=10.0.0.2",
    "eth_dst=0x0b,eth_type=0x806,arp_tpa=10.0.0.2": "dl_dst=00:00:00:00:00:0b,arp,nw_dst=10.0.0.2",
    "eth_type=0x86dd,ip_proto=58,icmpv6_type=135": "icmp6,icmp_type=135",
    "vlan_vid=0x5,vlan_pcp=3,eth_type=0x800,ip_dscp=46": "dl_vlan=5,dl_vlan_pcp=3,ip,nw_tos=0xb8",
    "eth_type=0x86dd,ip_proto=17,ipv6_src=fd00::1,udp_src=53": "udp6,ipv6_src=fd00::1,tp_src=53",
    "eth_type=0x800,ip_proto=6,tcp_dst=80": "tcp,tp_dst=80",
    "tunnel_id=0x2a": "tun_id=42",
}


@pytest.fixture
def view(switch):
    return SwitchView(switch.of, lambda: [])


@pytest.mark.parametrize(("oxm", "ovs"), SAME.items())
def test_both_vocabularies(oxm, ovs, view):
    assert parse_flow(oxm, view.port_number) == parse_flow(ovs, view.port_number) != {}


WRONG = ["in_port=77", "nosuch=1", "fish", "ipv4_dst=300.0.0.1", "ip_dscp=64", "eth_type=x", "nw_tos=256"]


@pytest.mark.parametrize("text", WRONG)
def test_wrong_words_are_told_in_a_sentence(text, view):
    with pytest.raises(ConfigError, match=r"\w+"):
        view.trace(text)
    with pytest.raises(ConfigError):
        view.trace("in_port=1", frame="0")
    with pytest.raises(ConfigError):
        view.trace("in_port=1", frame="00")


def test_the_frame_that_is_meant():
    frame = Ether(
        build_frame(
            parse_flow("dl_src=00:00:00:00:00:0a,dl_vlan=5,tcp,nw_src=10.0.0.1,tp_dst=80,nw_tos=184", int)
        )
    )
    assert (frame.vlan, frame["IP"].src, frame["TCP"].dport, frame["IP"].tos) == (5, "10.0.0.1", 80, 184)
    checksum = frame["IP"].chksum
    del frame["IP"].chksum
    assert Ether(bytes(frame))["IP"].chksum == checksum


def test_explanation(switch, datapath, view):
    tunnel(datapath)
    rewrite = SetField(Oxm(BY_NAME["eth_dst"], 0x0C))
    switch.says(
        add({"in_port": 1}, goto(1), cookie=7),
        add({"eth_type": 0x800}, ApplyActions((DecNwTtl(), rewrite)), WriteActions((Output(2),)), table_id=1),
    )
    result = view.trace("in_port=1,tcp,nw_dst=10.0.0.2,tp_dst=80")
    text = render_trace(result)
    assert "table 0: in_port=1, priority 32768, cookie 0x7" in text
    assert "table 1: eth_type=0x800" in text
    assert result["program"] == ["dec_nw_ttl", "set_field:eth_dst=00:00:00:00:00:0c", "output:2"]
    assert result["cacheable"] and "cached for this flow" in text
    assert result["depends_on"] == ["in_port/0xffffffff", "eth_type/0xffff"]
    assert not datapath.entries and switch.stats()[0].packet_count == 0


def test_what_is_not_cached_says_why(switch, view):
    switch.says(add({"eth_type": 0x806, "arp_sha": 0x0A}, out(2)))
    result = view.trace("in_port=1,arp,arp_sha=00:00:00:00:00:0a")
    assert result["program"] == ["output:2"]
    assert result["uncacheable"] == "arp_sha is not in the flow key"
    assert "not cached" in render_trace(result)
    assert view.trace("in_port=1,tcp")["drop"] == "table_miss"


def test_a_packet_that_is_too_much(switch, view, monkeypatch):
    monkeypatch.setattr(pipeline, "MAX_OPERATIONS", 5)
    switch.says(group(1, *[Bucket((Output(2),))] * 3), add({}, ApplyActions((Group(1),))))
    result = view.trace("in_port=1,tcp")
    assert (result["program"], result["drop"], result["cacheable"]) == ([], "too_many_operations", True)
    text = render_trace(result)
    assert "more than 5 operations: the packet is dropped" in text
    assert "result: dropped (too_many_operations)" in text


def test_a_frame_in_hexadecimal(switch, view):
    switch.says(add({"eth_type": 0x800, "ip_proto": 6, "tcp_dst": 80}, out(Port.IN_PORT)))
    assert view.trace("in_port=3", frame=tcp().hex())["program"] == ["output:3"]


def test_names_are_those_of_ovs_ofctl(view):
    """ovs-ofctl itself understands the flows that the tests above use."""
    for flow in SAME.values():
        command = ["ovs-ofctl", "-O", "OpenFlow13", "parse-flow", f"{flow},actions=drop"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("there is no ovs-ofctl")
        assert answer.returncode == 0, answer.stderr
