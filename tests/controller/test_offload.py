# SPDX-License-Identifier: Apache-2.0
"""From NICs, roles and formats in the intent to what a switch is told, and why."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from hypothesis import given

from ryu_apps.core import offload
from ryu_apps.core.intent import Intent, from_object, from_yaml
from ryu_apps.core.rules import desired_state
from tests.controller.strategies import intents
from vswitch.errors import ConfigError
from vswitch.openflow.experimenter import (
    FormatAdd,
    LroRuleAdd,
    LroSet,
    NicFilterAdd,
    NicQueuesSet,
    NicRssSet,
    NicWorkersSet,
    PacketMatch,
    RoleSet,
    Setting,
    from_wire,
    to_wire,
)

BASE = yaml.safe_load("""
virtual_networks: {blue: {vni: 42}, red: {vni: 43}}
servers:
  s1: {dpid: 1, underlay_ip: 192.168.0.1, uplink_port: 1}
  s2: {dpid: 2, underlay_ip: 192.168.0.2, uplink_port: 1}
vms:
  web: {server: s1, port: 2, network: blue, mac: "00:00:00:00:00:0a", ip: 10.0.0.1}
  router: {server: s1, port: 3, network: blue, mac: "00:00:00:00:00:0b", ip: 10.0.0.2}
  far: {server: s2, port: 2, network: blue, mac: "00:00:00:00:00:0c", ip: 10.0.0.3}
  other: {server: s1, port: 4, network: red, mac: "00:00:00:00:00:0a", ip: 10.0.0.1}
nic:
  s1:
    queues: 4
    rss: {weights: [3, 1]}
    filters:
      - {protocol: tcp, dst_ip: 10.0.0.1, dst_port: 80, queue: 2, priority: 10}
      - {vm: web, queue: 1}
      - {network: red, queue: 3}
    lro:
      - {queues: [1], lro: rules, completion_size: 32768}
      - {queues: [2, 3], lro: off}
    rules:
      - {queues: [1], protocol: tcp, dst_port: 110}
""")

WEB = PacketMatch(dst_mac="00:00:00:00:00:0a", vni=42)
ROUTER_ITSELF = PacketMatch(dst_mac="00:00:00:00:00:0b", dst_ip="10.0.0.2", vni=42)


def changed(**values: Any) -> dict[str, Any]:
    """BASE with values at paths, whose parts are joined by `__`; `...` removes one."""
    document = copy.deepcopy(BASE)
    for path, value in values.items():
        *folders, last = path.split("__")
        place: Any = document
        for folder in folders:
            place = place[int(folder)] if isinstance(place, list) else place.setdefault(folder, {})
        if value is ...:
            del place[last]
        elif isinstance(place, list):
            place[int(last)] = value
        else:
            place[last] = value
    return document


def told(intent: Intent, server: str = "s1", kind: type = Setting) -> list[Setting]:
    """What the switch of a server is told, of one kind."""
    return [
        setting for setting in desired_state(intent, server).settings.values() if isinstance(setting, kind)
    ]


# --- NIC: S0.1 to S0.3, S0.7 -------------------------------------------------------------------------------


def test_s0_2_queues_rss_and_filters() -> None:
    intent = from_object(BASE)
    (queues,) = told(intent, kind=NicQueuesSet)
    assert queues == NicQueuesSet(1, 4)
    (rss,) = told(intent, kind=NicRssSet)
    assert isinstance(rss, NicRssSet)
    assert rss.indirection == (0,) * 96 + (1,) * 32
    assert told(intent, kind=NicFilterAdd) == [
        NicFilterAdd(1, PacketMatch(protocol="tcp", dst_ip="10.0.0.1", dst_port=80), 2, 10),
        NicFilterAdd(1, WEB, 1),
        NicFilterAdd(1, PacketMatch(vni=43), 3),
    ]


def test_s0_4_workers_of_queues() -> None:
    intent = from_object(BASE | {"nic": {"s1": {"queues": 4, "workers": [0, 1]}}})
    assert told(intent, kind=NicWorkersSet) == [NicWorkersSet(1, (0, 1))]


def test_s0_1_s0_3_s0_7_lro_by_queue_and_rule() -> None:
    intent = from_object(BASE)
    assert told(intent, kind=LroSet) == [
        LroSet(1, 1, "rules", "gro", 32768),
        LroSet(1, 2, "off"),
        LroSet(1, 3, "off"),
    ]
    assert told(intent, kind=LroRuleAdd) == [
        LroRuleAdd(1, PacketMatch(protocol="tcp", dst_port=110), (1,), True, 100)
    ]
    assert told(intent, "s2") == []


def test_yaml_reads_on_and_off_as_truth_values() -> None:
    text = "servers: {s1: {dpid: 1, uplink_port: 1}}\nnic: {s1: {queues: 3, lro: [{queues: [1], lro: off}, "
    intent = from_yaml(text + "{queues: [0], lro: on}, {queues: [2], lro: 'off'}]}}")
    assert told(intent) == [NicQueuesSet(1, 3), LroSet(1, 1, "off"), LroSet(1, 2, "off")]


@given(intents())
def test_what_is_told_can_be_sent_and_names_only_queues_that_are_there(intent: Intent) -> None:
    for server in intent.servers:
        count = intent.queue_count(server)
        for setting in told(intent, server):
            assert from_wire(*to_wire(setting)) == setting
            if isinstance(setting, LroRuleAdd):
                assert all(queue < count for queue in setting.queues)
            if isinstance(setting, (LroSet, NicFilterAdd)):
                assert setting.queue < count


# --- roles: S0.8 -------------------------------------------------------------------------------------------


def test_s0_8_all_terminate_so_all_is_coalesced() -> None:
    intent = from_object(changed(nic=...))
    assert told(intent) == []
    explained = offload.explain(intent)["s1"]
    assert explained["queues"][0]["lro"] == "on"
    assert explained["queues"][0]["why"] == "all connections to s1 end there: no VM on it forwards"


def test_s0_8_on_for_what_ends_here_off_for_what_is_forwarded() -> None:
    intent = from_object(changed(nic=..., vms__router__role="forwarding"))
    assert told(intent, kind=LroSet) == [LroSet(1, 0, "rules")]
    assert told(intent, kind=LroRuleAdd) == [
        LroRuleAdd(1, PacketMatch(dst_mac="00:00:00:00:00:0a", vni=43)),
        LroRuleAdd(1, ROUTER_ITSELF),
        LroRuleAdd(1, WEB),
    ]
    assert told(intent, kind=RoleSet) == [RoleSet(3, "forwarding")]
    assert told(intent, "s2") == []


def test_s0_8_hand_set_wins_over_derived() -> None:
    """A VM's, a queue's, and a rule's: rules by hand come before the derived ones."""
    intent = from_object(changed(vms__router__role="forwarding", vms__web__lro=False, vms__router__lro=True))
    rules = told(intent, kind=LroRuleAdd)
    router = PacketMatch(dst_mac="00:00:00:00:00:0b", vni=42)
    assert LroRuleAdd(1, WEB, (0,), False, 100) in rules
    assert LroRuleAdd(1, router, (0,), True, 100) in rules
    priorities = [rule.priority for rule in rules if isinstance(rule, LroRuleAdd)]
    assert priorities == sorted(priorities, reverse=True)
    assert [s.lro for s in told(intent, kind=LroSet) if isinstance(s, LroSet)] == [
        "rules",
        "rules",
        "off",
        "off",
    ]


def test_s0_8_derived_rules_leave_hand_set_queues_alone() -> None:
    intent = from_object(changed(vms__router__role="forwarding"))
    by_hand, *derived = told(intent, kind=LroRuleAdd)
    assert isinstance(by_hand, LroRuleAdd) and by_hand.queues == (1,)
    assert derived and all(isinstance(rule, LroRuleAdd) and rule.queues == (0,) for rule in derived)


def test_gro_off_for_all_derives_nothing() -> None:
    intent = from_object(changed(nic=..., vms__router__role="forwarding", offload={"gro": False}))
    assert told(intent, kind=LroSet) == [LroSet(1, 0, "off")]
    assert told(intent, kind=LroRuleAdd) == []


def test_s0_5_in_front_of_a_vm() -> None:
    assert told(from_object(changed(nic=..., vms__web__vif_lro=True))) == [LroSet(2, 0, "on")]


def test_the_derivation_explains_itself() -> None:
    explained = offload.explain(from_object(changed(vms__router__role="forwarding", vms__web__lro=False)))[
        "s1"
    ]
    assert [queue["why"] for queue in explained["queues"]] == [
        "not all VMs on s1 are alike: router, web",
        "set by hand in nic.s1.lro[0]",
        "set by hand in nic.s1.lro[1]",
        "set by hand in nic.s1.lro[1]",
    ]
    assert [rule["why"] for rule in explained["rules"]] == [
        "set by hand in nic.s1.rules[0]",
        "set by hand in vms.web.lro",
        "other is terminating: connections to it end on s1",
        "router forwards, but connections to its own address 10.0.0.2 end on s1",
    ]
    assert explained["vms"]["router"] == {
        "role": "forwarding",
        "lro": False,
        "why": "router forwards: what it gets would have to be cut again",
    }
    assert explained["vms"]["web"]["lro"] is False


@given(intents())
def test_s0_8_what_a_vm_forwards_is_coalesced_only_by_hand(intent: Intent) -> None:
    """The first rule that matches decides; packets to others' addresses through a VM's MAC address."""
    for server in intent.servers:
        rules = [rule for rule in told(intent, server, LroRuleAdd) if isinstance(rule, LroRuleAdd)]
        ordered = sorted(rules, key=lambda rule: -rule.priority)
        for vm in intent.vms.values():
            if vm.server != server:
                continue
            vni = intent.virtual_networks[vm.network].vni
            by_mac = [r for r in ordered if r.match == PacketMatch(dst_mac=vm.mac, vni=vni)]
            if by_mac:
                assert by_mac[0].lro is (vm.lro if vm.lro is not None else vm.role == "terminating")


# --- tunnel formats: S1 --------------------------------------------------------------------------------

NEW = {"outer_proto": 47, "opaque_len": 12, "id_offset": 0, "id_length": 4, "id_value": "0x200088b5",
       "flow_id_offset": 4, "flow_id_length": 4}  # fmt: skip


def test_s1_6_a_users_format_is_told_to_all_and_used() -> None:
    intent = from_object(changed(formats={"mine": NEW}, tunnel={"format": "mine"}))
    (added,) = told(intent, "s2", FormatAdd)
    assert isinstance(added, FormatAdd) and added.numbers["id_value"] == 0x200088B5
    assert {t.format for t in desired_state(intent, "s1").tunnels.values() if t} == {"mine"}


@pytest.mark.parametrize("name", ["vxlan", "gre", "mplsogre", "mplsoudp", "gre16", "slots"])
def test_s1_6_shipped_formats_need_no_numbers(name: str) -> None:
    intent = from_object(changed(tunnel={"format": name}))
    assert {t.format for t in desired_state(intent, "s1").tunnels.values() if t} == {name}
    assert told(intent, "s2") == []


# --- mistakes ------------------------------------------------------------------------------------------

FILTERS, RULES = "nic__s1__filters", "nic__s1__rules"


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("nic__s9", {}, "nic.s9: there is no server 's9' (allowed: s1, s2)"),
        ("nic__s1__queues", 9, "nic.s1.queues: 9 is out of range (allowed: 1 to 8)"),
        ("nic__s1__colour", 9, "nic.s1.colour: is not a known key (allowed: queues, workers, rss"),
        # unknown queues
        (f"{FILTERS}__0__queue", 4, "nic.s1.filters[0].queue: s1 has no queue 4 (allowed: 0 to 3)"),
        (f"{RULES}__0__queues", [0, 7], "nic.s1.rules[0].queues: s1 has no queue 7 (allowed: 0 to 3)"),
        ("nic__s1__lro__0__queues", [4], "nic.s1.lro[0].queues: s1 has no queue 4 (allowed: 0 to 3)"),
        ("nic__s1__lro__0__queues", [2], "nic.s1.lro[1].queues: queue 2 is in lro[0] too (allowed: once)"),
        ("nic__s1__lro__0__lro", "maybe", "nic.s1.lro[0].lro: 'maybe' is not known (allowed: on, off, rule"),
        ("nic__s1__lro__0__completion_size", 100, "nic.s1.lro[0].completion_size: 100 is out of range"),
        # the table
        ("nic__s1__rss__equal", 2, "nic.s1.rss.weights: equal says it already (allowed: one of them)"),
        ("nic__s1__rss__weights", [0, 0], "nic.s1.rss.weights: 0 is out of range (allowed: 1 to 128)"),
        ("nic__s1__rss__weights", [1] * 5, "nic.s1.rss.weights: has 5 weights (allowed: one for each of 4 "),
        ("nic__s1__rss__hash_key", "abc", "nic.s1.rss.hash_key: is no key (allowed: 40 bytes in hexadecimal"),
        ("nic__s1__rss", {"indirection": [0]}, "nic.s1.rss.indirection: has 1 entries (allowed: 128)"),
        # overlapping filters
        (f"{FILTERS}__1", {"dst_mac": "00:00:00:00:00:0A", "queue": 1}, None),
        (f"{FILTERS}__1", {"network": "red", "queue": 1},
         "nic.s1.filters[2]: overlaps filters[1], which has the same kind and priority (allowed: another p"),
        (f"{FILTERS}__1", {"protocol": "tcp", "dst_ip": "10.0.0.0/24", "queue": 1, "priority": 10},
         "nic.s1.filters[1]: overlaps filters[0], which has the same kind and priority"),
        (f"{FILTERS}__1", {"protocol": "tcp", "dst_ip": "10.0.1.0/24", "queue": 1, "priority": 10}, None),
        (f"{FILTERS}__1", {"protocol": "tcp", "dst_ip": "10.0.0.0/24", "queue": 1, "priority": 11}, None),
        # bad masks and addresses
        (f"{FILTERS}__0__dst_ip", "10.0.0.1/8",
         "nic.s1.filters[0].dst_ip: 10.0.0.1/8 has bits behind its mask (allowed: 10.0.0.0/8)"),
        (f"{FILTERS}__0__dst_ip", "10.0.0.0/33", "nic.s1.filters[0].dst_ip: '10.0.0.0/33' is no address"),
        (f"{FILTERS}__0__src_ip", "fe80::1", "nic.s1.filters[0].dst_ip: is of another IP version than src_"),
        (f"{FILTERS}__0__protocol", "icmp", "nic.s1.filters[0].dst_port: a port needs a protocol (allowed:"),
        (f"{FILTERS}__0__protocol", "carrier", "nic.s1.filters[0].protocol: 'carrier' is not known"),
        (f"{FILTERS}__0__dst_port", 70000, "nic.s1.filters[0].dst_port: 70000 is out of range"),
        (f"{RULES}__0", {}, "nic.s1.rules[0]: says of no packet anything"),
        (f"{RULES}__0__network", "green", "nic.s1.rules[0].network: there is no virtual network 'green'"),
        # a rule for a VM that is not here
        (f"{RULES}__0", {"vm": "far"}, "nic.s1.rules[0].vm: far is on s2, not on s1 (allowed: other, route"),
        (f"{RULES}__0", {"vm": "gone"}, "nic.s1.rules[0].vm: there is no VM 'gone' (allowed: far, other, r"),
        (f"{FILTERS}__1", {"dst_mac": "00:00:00:00:00:0C", "queue": 1}, "nic.s1.filters[1].dst_mac: far is"),
        (f"{RULES}__0", {"dst_ip": "10.0.0.3"}, "nic.s1.rules[0].dst_ip: far is on s2, not on s1"),
        (f"{RULES}__0", {"vm": "web", "network": "blue"}, "nic.s1.rules[0].network: vm tells the network a"),
        # roles and formats
        ("vms__web__role", "sleeping", "vms.web.role: "),
        ("formats__vxlan", NEW, "formats.vxlan: is a shipped format (allowed: another name)"),
        ("formats__mine", 3, "formats.mine: 3 is a whole number (allowed: a mapping of names)"),
        ("formats__mine", {"outer_proto": 47}, "formats.mine.opaque_len: is missing"),
        ("formats__mine", {**NEW, "colour": 1}, "formats.mine.colour: is not known"),
        ("formats__mine", {**NEW, "flow_id_offset": 10}, "formats.mine.flow_id_offset: bytes 10 to 13 leave"),
        ("formats__mine", {**NEW, "id_value": 0x2000_6558},
         "formats.mine.id_value: a packet of protocol 47 could be of mine and of gre"),
        ("tunnel", {"format": "ipip"}, "nic.s1.filters[2].network: ipip has no flow identifier, so packets"),
        ("virtual_networks__blue__vni", 1 << 23, None),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(path: str, value: Any, sentence: str | None) -> None:
    document = changed(**{path: value})
    if sentence is None:
        from_object(document)
        return
    with pytest.raises(ConfigError) as caught:
        from_object(document)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_an_identifier_must_fit_the_format() -> None:
    document = changed(tunnel={"format": "mplsogre"}, virtual_networks__red__vni=1 << 20)
    with pytest.raises(ConfigError, match=r"red.vni: 1048576 does not fit into the 20 bits of mplsogre"):
        from_object(document)
