# SPDX-License-Identifier: Apache-2.0
"""Servers that are not neighbours: the outer packets of tunnels, followed from switch to switch."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ryu_apps.core import offload
from ryu_apps.core.intent import Intent, from_object
from ryu_apps.core.lookup import outputs, receivers
from ryu_apps.core.rules import SwitchState, desired_states, tunnel_port
from ryu_apps.core.underlay import next_hops, path
from vswitch.errors import ConfigError
from vswitch.openflow.experimenter import LroSet
from vswitch.openflow.spec import port_mac

BROADCAST = 0xFFFF_FFFF_FFFF
LINE = [(0, 1), (1, 2)]
RING = [(0, 1), (1, 2), (2, 3), (3, 0)]
TREE = [(0, 1), (0, 2), (1, 3), (1, 4), (2, 5)]


def wired(edges: list[tuple[int, int]], without_vm: tuple[int, ...] = (), **sections: Any) -> Intent:
    """Servers s0, s1 … with a wire for each edge and a VM each, all in one network."""
    count = 1 + max(max(edge) for edge in edges)
    servers: dict[str, Any] = {
        f"s{n}": {"dpid": n + 1, "underlay_ip": f"192.168.0.{n + 1}", "wires": {}} for n in range(count)
    }
    for edge in edges:
        for one, other in (edge, edge[::-1]):
            wires = servers[f"s{one}"]["wires"]
            wires[f"s{other}"] = len(wires) + 1
    vms = {
        f"vm{n}": {
            "server": f"s{n}",
            "port": 100,
            "network": "blue",
            "mac": f"00:00:00:00:00:{n + 1:02x}",
            "ip": f"10.0.0.{n + 1}",
        }
        for n in range(count)
        if n not in without_vm
    }
    return from_object(
        {"virtual_networks": {"blue": {"vni": 42}}, "servers": servers, "vms": vms, **sections}
    )


def follow(
    intent: Intent, source: str, destination: str, states: dict[str, SwitchState] | None = None
) -> list[str]:
    """The servers that an outer packet passes, by the tunnel's uplink and then by the rules alone."""
    states = states or desired_states(intent)
    tunnel = states[source].tunnels[tunnel_port(intent, destination)]
    assert tunnel is not None
    assert tunnel.remote_ip == intent.servers[destination].underlay_ip
    server, port, way = source, tunnel.uplink_port, [source]
    while True:
        neighbour = next(name for name, wire in intent.servers[server].wires.items() if wire == port)
        in_port = intent.servers[neighbour].wires[server]
        server = neighbour
        way.append(server)
        assert len(way) <= len(intent.servers), f"it goes round: {way}"
        if server == destination:
            return way
        outer = {"eth_type": 0x0800, "ipv4_dst": int_address(tunnel.remote_ip)}
        (exit,) = outputs(states[server], in_port=in_port, eth_dst=0, **outer)
        port = exit.port


def int_address(text: str) -> int:
    return int.from_bytes(bytes(map(int, text.split("."))), "big")


@st.composite
def graphs(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Connected ones, of up to eight servers: a random tree, and some edges more."""
    count = draw(st.integers(2, 8))
    tree = [(draw(st.integers(0, n - 1)), n) for n in range(1, count)]
    others = [edge for edge in combinations(range(count), 2) if edge not in tree]
    return tree + (draw(st.lists(st.sampled_from(others), unique=True, max_size=6)) if others else [])


def distances(edges: list[tuple[int, int]], source: int) -> dict[int, int]:
    """By relaxing every edge until nothing changes."""
    found = {source: 0}
    for _ in edges:
        for one, other in [*edges, *(edge[::-1] for edge in edges)]:
            if one in found:
                found[other] = min(found.get(other, 99), found[one] + 1)
    return found


@given(graphs())
def test_each_tunnel_takes_a_shortest_way_and_ends_where_it_should(edges: list[tuple[int, int]]) -> None:
    intent = wired(edges)
    states = desired_states(intent)
    for number, source in enumerate(intent.servers):
        shortest = distances(edges, number)
        for place, destination in enumerate(intent.servers):
            if source != destination:
                way = follow(intent, source, destination, states)
                assert len(way) - 1 == shortest[place]
                assert len(set(way)) == len(way)


@given(graphs())
def test_the_overlay_is_as_if_all_were_neighbours(edges: list[tuple[int, int]]) -> None:
    intent = wired(edges)
    states = desired_states(intent)
    for sender in intent.vms:
        others = sorted(intent.vms.keys() - {sender})
        assert receivers(intent, states, sender, BROADCAST) == others
        for receiver in others:
            eth_dst = int(intent.vms[receiver].mac.replace(":", ""), 16)
            assert receivers(intent, states, sender, eth_dst) == [receiver]


@pytest.mark.parametrize(
    ("edges", "way"),
    [
        (LINE, ["s0", "s1", "s2"]),
        (RING, ["s0", "s1", "s2"]),
        (TREE, ["s3", "s1", "s0", "s2", "s5"]),
    ],
)
def test_ways(edges: list[tuple[int, int]], way: list[str]) -> None:
    assert follow(wired(edges), way[0], way[-1]) == way


def test_a_server_without_vms_forwards_too() -> None:
    intent = wired(LINE, without_vm=(1,))
    assert follow(intent, "s0", "s2") == ["s0", "s1", "s2"]
    assert desired_states(intent)["s1"].tunnels == {}


def test_both_ends_know_each_other_by_one_address_whatever_the_wire() -> None:
    intent = wired(RING)
    states = desired_states(intent)
    for name, server in intent.servers.items():
        own = port_mac(server.dpid, 1)
        assert {tunnel.local_mac for tunnel in states[name].tunnels.values() if tunnel} == {own}
        for other in intent.servers.keys() - {name}:
            tunnel = states[other].tunnels[tunnel_port(intent, name)]
            assert tunnel and tunnel.remote_mac == own


def test_vms_do_not_reach_the_underlay() -> None:
    """What a VM sends to a server's underlay address, or its switch's hardware address, goes nowhere."""
    intent = wired(LINE)
    state = desired_states(intent)["s1"]
    for last in (1, 3):
        outer = {"eth_type": 0x0800, "ipv4_dst": int_address(f"192.168.0.{last}")}
        assert outputs(state, in_port=100, eth_dst=0x024F00000101, **outer) == []


def test_what_is_for_no_server_stays_out_of_the_underlay() -> None:
    state = desired_states(wired(LINE))["s1"]
    assert outputs(state, in_port=1, eth_dst=0, eth_type=0x0800, ipv4_dst=int_address("192.168.0.9")) == []
    assert outputs(state, in_port=1, eth_dst=BROADCAST, eth_type=0x0806) == []


def test_neighbours_need_no_rules_of_the_underlay() -> None:
    """A server at the end of the line forwards for nobody."""
    intent = wired(LINE)
    assert not [rule for rule in desired_states(intent)["s0"].rules.values() if rule.table == 4]


def test_settings_are_those_of_every_wire() -> None:
    intent = wired(LINE, offload={"gro": False}, nic={"s1": {"queues": 2}})
    settings = desired_states(intent)["s1"].settings.values()
    assert {(s.port_no, s.queue) for s in settings if isinstance(s, LroSet)} == {
        (port, queue) for port in (1, 2) for queue in (0, 1)
    }
    shown = offload.explain(intent)["s1"]["queues"]
    assert [(entry["port_no"], entry["queue"], entry["lro"]) for entry in shown] == [
        (1, 0, "off"), (1, 1, "off"), (2, 0, "off"), (2, 1, "off"),
    ]  # fmt: skip


def test_an_override_is_of_one_wire() -> None:
    override = {"server": "s1", "port": 2, "gro": False}
    settings = desired_states(wired(LINE, offload={"overrides": [override]}))["s1"].settings.values()
    assert [s.port_no for s in settings if isinstance(s, LroSet)] == [2]


@pytest.mark.parametrize(
    ("server", "change", "sentence"),
    [
        ("s0", {"wires": {"s9": 1}}, "servers.s0.wires.s9: there is no other server 's9' (allowed: s1, s2)"),
        ("s0", {"wires": {"s0": 1}}, "servers.s0.wires.s0: there is no other server 's0' (allowed: s1, s2)"),
        ("s0", {"wires": {"s1": 1000}}, "servers.s0.wires.s1: 1000 is out of range (allowed: 1 to 999)"),
        (
            "s0",
            {"wires": {"s1": 1, "s2": 2}},
            "servers.s0.wires.s2: s2 has no wire to s0 (allowed: servers.s2.wires.s0 as well)",
        ),
        (
            "s1",
            {"wires": {"s0": 1, "s2": 1}},
            "servers.s1.wires.s2: 1 (on s1) is also that of servers.s1.wires",
        ),
        ("s0", {"wires": {"s1": 100}}, "vms.vm0.port: 100 (on s0) is also that of servers.s0.wires"),
        ("s0", {"uplink_port": 7}, "servers.s0.uplink_port: 7 is the port of no wire (allowed: 1)"),
        ("s0", {"wires": {"s1": "x"}}, "servers.s0.wires.s1: 'x' is a text (allowed: a whole number)"),
    ],
)
def test_wires_that_cannot_be(server: str, change: dict[str, Any], sentence: str) -> None:
    document = wired(LINE).to_object()
    for entry in document["servers"].values():
        entry["uplink_port"] = None
    document["servers"][server].update(change)
    with pytest.raises(ConfigError) as error:
        from_object(document)
    assert str(error.value) == sentence or str(error.value).startswith(sentence + " ")


def test_servers_that_nothing_joins() -> None:
    with pytest.raises(ConfigError) as error:
        wired([(0, 1), (2, 3)])
    assert str(error.value) == (
        "servers.s0.wires: do not lead to s2, and virtual network blue has VMs on both "
        "(allowed: wires by which all servers of a network reach each other)"
    )


@given(graphs())
def test_ways_are_made_of_next_hops(edges: list[tuple[int, int]]) -> None:
    neighbours = wired(edges).neighbours()
    for destination in neighbours:
        hops = next_hops(neighbours, destination)
        for source in hops:
            way = path(neighbours, source, destination)
            assert all(hops[one] == other for one, other in pairwise(way))
    assert path({"a": ["b"], "b": ["a"], "c": []}, "a", "c") == []
    assert path({"a": []}, "a", "a") == ["a"]
