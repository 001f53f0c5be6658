# SPDX-License-Identifier: Apache-2.0
"""The rules, judged by what packets do: who reaches whom through the fake network."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ryu_apps.core.intent import Intent, from_object
from ryu_apps.core.lookup import Exit, outputs, receivers
from ryu_apps.core.rules import COOKIE, COOKIE_MASK, desired_state, desired_states, tunnel_port
from tests.controller.strategies import intents
from vswitch.errors import ConfigError
from vswitch.openflow.constants import Port
from vswitch.openflow.experimenter import LroRuleAdd, LroSet, PacketMatch, PacketTooBigSet, from_wire, to_wire
from vswitch.openflow.oxm import Match

BROADCAST = 0xFFFF_FFFF_FFFF


def mac(intent: Intent, vm: str) -> int:
    return int(intent.vms[vm].mac.replace(":", ""), 16)


def two_servers(**sections: object) -> Intent:
    return from_object(
        {
            "virtual_networks": {"blue": {"vni": 42}},
            "servers": {
                "s1": {"dpid": 1, "underlay_ip": "192.168.0.1", "uplink_port": 1},
                "s2": {"dpid": 2, "underlay_ip": "192.168.0.2", "uplink_port": 1},
            },
            "vms": {
                "vm1": {"server": "s1", "port": 2, "network": "blue", "mac": "00:00:00:00:00:01"},
                "vm2": {"server": "s2", "port": 2, "network": "blue", "mac": "00:00:00:00:00:02"},
                "vm3": {"server": "s1", "port": 3, "network": "blue", "mac": "00:00:00:00:00:03"},
            },
            **sections,
        }
    )


@given(intents())
def test_unicast_reaches_the_vm_of_the_same_network_once_and_no_other(intent: Intent) -> None:
    states = desired_states(intent)
    for sender, one in intent.vms.items():
        for receiver, other in intent.vms.items():
            if sender == receiver:
                continue
            in_same = one.network == other.network
            # An address may exist in the sender's network too: then that VM, and only it, is meant.
            namesake = [
                name
                for name, vm in intent.vms.items()
                if vm.network == one.network and vm.mac == other.mac and name != sender
            ]
            expected = [receiver] if in_same else namesake
            assert receivers(intent, states, sender, mac(intent, receiver)) == expected


@given(intents(), st.sampled_from([BROADCAST, 0x0100_5E00_0001, 0x3333_0000_0001]))
def test_flood_reaches_each_other_vm_of_the_network_exactly_once(intent: Intent, eth_dst: int) -> None:
    states = desired_states(intent)
    for sender, one in intent.vms.items():
        others = sorted(
            name for name, vm in intent.vms.items() if vm.network == one.network and name != sender
        )
        assert receivers(intent, states, sender, eth_dst) == others


@given(intents(), st.integers(0, 15))
def test_what_bridges_keep_to_themselves_reaches_nobody(intent: Intent, last: int) -> None:
    """IEEE 802.1Q, table 8-1: neither VMs beside the sender nor, through whatever tunnel, those elsewhere."""
    for name, state in desired_states(intent).items():
        for port in (*(vm.port for vm in intent.vms.values() if vm.server == name), *state.tunnels):
            for network in intent.virtual_networks.values():
                packet = {"in_port": port, "tunnel_id": network.vni}
                assert outputs(state, **packet, eth_dst=0x0180_C200_0000 | last) == []


@pytest.mark.parametrize("eth_dst", [0x0180_C200_0010, 0x0180_C200_0020, 0x0180_C1FF_FFFF, 0x0181_C200_0000])
def test_the_groups_beside_those_of_bridges_are_flooded(eth_dst: int) -> None:
    intent = two_servers()
    assert receivers(intent, desired_states(intent), "vm1", eth_dst) == ["vm2", "vm3"]


@given(intents())
def test_unknown_unicast_goes_nowhere(intent: Intent) -> None:
    states = desired_states(intent)
    for sender in intent.vms:
        assert receivers(intent, states, sender, 0x0200_0000_0099) == []


@given(intents())
def test_only_tunnels_and_vms_are_believed(intent: Intent) -> None:
    """A packet from the uplink itself, an unknown port, or a tunnel with a foreign VNI goes nowhere."""
    for name, state in desired_states(intent).items():
        for vm in intent.vms.values():
            eth_dst = int(vm.mac.replace(":", ""), 16)
            assert outputs(state, in_port=intent.servers[name].uplink_port or 0, eth_dst=eth_dst) == []
            assert outputs(state, in_port=999, eth_dst=eth_dst) == []
            for port in state.tunnels:
                assert outputs(state, in_port=port, tunnel_id=0, eth_dst=eth_dst) == []


@given(intents())
def test_no_packet_matches_two_rules_of_one_priority(intent: Intent) -> None:
    for state in desired_states(intent).values():
        for one, other in combinations(state.rules.values(), 2):
            if (one.table, one.priority) == (other.table, other.priority):
                assert not overlap(one.match, other.match), f"{one} and {other}"


def overlap(one: Match, other: Match) -> bool:
    """True when a packet can match both."""
    fields = {number: (value, mask) for number, value, mask in other.canonical}
    return all(
        (value ^ fields[number][0]) & mask & fields[number][1] == 0
        for number, value, mask in one.canonical
        if number in fields
    )


IP_VMS = {
    "vm1": {"server": "s1", "port": 2, "network": "blue", "mac": "00:00:00:00:00:01", "ip": "10.0.0.1"},
    "vm2": {"server": "s2", "port": 2, "network": "blue", "mac": "00:00:00:00:00:02", "ip": "10.0.0.2"},
    "vm3": {"server": "s1", "port": 3, "network": "blue", "mac": "00:00:00:00:00:03", "ip": "10.0.0.3"},
}
BARE = {"outer_proto": 253, "opaque_len": 4, "flow_id_offset": 0, "flow_id_length": 4, "inner": "ip"}
bare_ip = pytest.mark.parametrize(("format", "tunnel_id"), [("ipip", 0), ("bare", 42)])


def over_bare_ip(format: str, **sections: object) -> Intent:
    return two_servers(**{"vms": IP_VMS, "formats": {"bare": BARE}, "tunnel": {"format": format}, **sections})


@bare_ip
def test_bare_ip_reaches_the_vm_of_its_address(format: str, tunnel_id: int) -> None:
    """The frame that comes out of such a tunnel is addressed to the tunnel's end; it gets the VM's."""
    intent = over_bare_ip(format)
    s1, s2 = desired_states(intent).values()
    (to_s2,), (to_s1,) = s1.tunnels, s2.tunnels
    packet = {"eth_type": 0x0800, "ipv4_dst": 0x0A000002}
    assert outputs(s1, in_port=2, eth_dst=2, **packet) == [Exit(to_s2, tunnel_id)]
    tunnel_mac = int(s2.tunnels[to_s1].local_mac.replace(":", ""), 16)
    arrived = {"in_port": to_s1, "tunnel_id": tunnel_id, "eth_dst": tunnel_mac, "eth_type": 0x0800}
    assert outputs(s2, **arrived, ipv4_dst=0x0A000002) == [Exit(2, tunnel_id)]
    (rule,) = (r for r in s2.rules.values() if "eth_dst" in str(r.instructions) and "IN_PORT" not in str(r))
    assert "00:00:00:00:00:02" in str(rule.instructions)
    for address in (0x0A000001, 0x0A000003, 0x0A000009):
        assert outputs(s2, **arrived, ipv4_dst=address) == []


def test_a_router_reaches_vms_beside_those_that_bridge() -> None:
    """Bare IP that comes by a tunnel of frames, from who has our label for routes as well (vRouter)."""
    intent = two_servers(
        vms={**IP_VMS, "vm4": {**IP_VMS["vm2"], "ip": "fd00::4", "port": 4, "mac": "00:00:00:00:00:04"}},
        tunnel={"format": "mplsogre"},
    )
    _, s2 = desired_states(intent).values()
    (to_s1,) = s2.tunnels
    tunnel_mac = int(s2.tunnels[to_s1].local_mac.replace(":", ""), 16)
    arrived = {"in_port": to_s1, "tunnel_id": 42, "eth_type": 0x0800, "ipv4_dst": 0x0A000002}
    assert outputs(s2, **arrived, eth_dst=tunnel_mac) == [Exit(2, 42)]
    assert outputs(s2, **arrived, eth_dst=2) == [Exit(2, 42)]
    assert outputs(s2, **{**arrived, "ipv4_dst": 0x0A000009}, eth_dst=tunnel_mac) == []
    addressed = [rule for rule in s2.rules.values() if "eth_dst" in str(rule.instructions)]
    assert len(addressed) == 1 and "00:00:00:00:00:02" in str(addressed[0].instructions)


@bare_ip
def test_arp_for_vms_elsewhere_is_answered_and_floods_stay_here(format: str, tunnel_id: int) -> None:
    s1, _ = desired_states(over_bare_ip(format)).values()
    assert outputs(s1, in_port=2, eth_dst=0x0180_C200_000E, eth_type=0x88CC) == []
    request = {"in_port": 2, "eth_dst": BROADCAST, "eth_type": 0x0806, "arp_op": 1}
    assert outputs(s1, **request, arp_tpa=0x0A000002) == [Exit(Port.IN_PORT, 0)]
    assert outputs(s1, **request, arp_tpa=0x0A000003) == [Exit(3, 0)]
    assert outputs(s1, **{**request, "eth_dst": 2}, arp_tpa=0x0A000002) == [Exit(Port.IN_PORT, 0)]


@given(intents())
def test_all_our_rules_carry_our_cookie(intent: Intent) -> None:
    for state in desired_states(intent).values():
        assert all(rule.cookie & COOKIE_MASK == COOKIE for rule in state.rules.values())


@given(intents())
def test_tunnels_are_a_full_mesh_of_the_servers_that_share_a_network(intent: Intent) -> None:
    states = desired_states(intent)
    for one in intent.servers:
        for other in intent.servers:
            share = one != other and bool(intent.networks_of(one) & intent.networks_of(other))
            tunnel = states[one].tunnels.get(tunnel_port(intent, other))
            assert (tunnel is not None) == share
            if tunnel:
                back = states[other].tunnels[tunnel_port(intent, one)]
                assert back
                assert (tunnel.local_ip, tunnel.remote_ip) == (back.remote_ip, back.local_ip)
                assert (tunnel.local_mac, tunnel.remote_mac) == (back.remote_mac, back.local_mac)
                assert from_wire(*to_wire(tunnel)) == tunnel  # the switch accepts it


def test_tunnel_addresses_are_those_of_the_uplinks() -> None:
    (tunnel,) = desired_state(two_servers(), "s1").tunnels.values()
    assert tunnel
    assert tunnel.port_no == 1002
    assert (tunnel.local_ip, tunnel.remote_ip) == ("192.168.0.1", "192.168.0.2")
    assert (tunnel.local_mac, tunnel.remote_mac) == ("02:4f:00:00:01:01", "02:4f:00:00:02:01")
    assert tunnel.uplink_port == 1


def test_the_sender_floods_for_all_and_the_receiver_for_its_own() -> None:
    state = desired_state(two_servers(), "s1")
    assert outputs(state, in_port=2, eth_dst=BROADCAST) == [Exit(3, 0), Exit(1002, 42)]
    assert outputs(state, in_port=1002, tunnel_id=42, eth_dst=BROADCAST) == [Exit(2, 42), Exit(3, 42)]


def test_large_datapath_ids_still_give_small_tunnel_ports() -> None:
    intent = from_object(
        {"servers": {"a": {"dpid": 0xFFFF_FFFF_0000_0002}, "b": {"dpid": 5}, "c": {"dpid": 0x10000}}}
    )
    assert [tunnel_port(intent, name) for name in "abc"] == [1002, 1000, 1001]


def test_gro_is_off_where_it_is_overridden() -> None:
    offload = {"gro": True, "overrides": [{"server": "s1", "port": 1, "queue": 0, "gro": False}]}
    intent = two_servers(offload=offload)
    assert list(desired_state(intent, "s1").settings.values()) == [LroSet(1, 0, "off")]
    assert desired_state(intent, "s2").settings == {}


def test_senders_are_told_of_packets_too_big_unless_it_is_off() -> None:
    assert desired_state(two_servers(tunnel={"packet_too_big": True}), "s1").settings == {}
    off = two_servers(tunnel={"packet_too_big": False})
    for server in ("s1", "s2"):
        assert list(desired_state(off, server).settings.values()) == [PacketTooBigSet(False)]


def test_without_an_identifier_one_network_is_carried_between_two_servers() -> None:
    """Others may be where no tunnel is needed."""
    red = {"red": {"vni": 43}, "blue": {"vni": 42}}
    vms = {name: {**vm, "network": "red", "port": 9} for name, vm in IP_VMS.items()}
    over_bare_ip("ipip", virtual_networks=red, vms={**IP_VMS, "red1": vms["vm1"]})
    with pytest.raises(ConfigError) as caught:
        both = {**IP_VMS, "red1": vms["vm1"], "red2": vms["vm2"]}
        over_bare_ip("ipip", virtual_networks=red, vms=both)
    assert str(caught.value) == (
        "tunnel.format: ipip has no flow identifier, and so carries one virtual network between two servers, "
        "but blue and red have VMs on s1 and on s2 "
        "(allowed: bare, gre, gre16, mplsogre, mplsogre-ip, mplsoudp, mplsoudp-ip, slots, vxlan)"
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"ip": None},
            "vms.vm2.ip: is missing; ipip carries no Ethernet frames, so vm2 is found by its address",
        ),
        ({"ip": "fd00::2"}, "vms.vm2.ip: fd00::2 is IPv6; ipip carries no Ethernet frames"),
        (
            {"role": "forwarding"},
            "vms.vm2.role: ipip carries no Ethernet frames, so nobody on another server",
        ),
    ],
)
def test_what_bare_ip_needs_of_vms(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        over_bare_ip("ipip", vms={**IP_VMS, "vm2": {**IP_VMS["vm2"], **change}})
    assert str(caught.value).startswith(sentence)


def test_rules_for_a_vm_match_what_bare_ip_carries() -> None:
    """Neither MAC addresses nor, without identifier, virtual networks."""
    nic = {"s2": {"lro": [{"lro": "rules"}], "rules": [{"vm": "vm2"}]}}
    for format, vni in (("ipip", None), ("bare", 42)):
        settings = desired_state(over_bare_ip(format, nic=nic), "s2").settings.values()
        (rule,) = (setting for setting in settings if isinstance(setting, LroRuleAdd))
        assert rule.match == PacketMatch(dst_ip="10.0.0.2", vni=vni)
