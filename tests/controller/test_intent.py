# SPDX-License-Identifier: Apache-2.0
"""The intent file: what is right, and one sentence for everything that is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ryu_apps.core.intent import Intent, from_object, from_yaml
from tests.controller.strategies import intents
from vswitch.errors import ConfigError

VALID = """
virtual_networks: {blue: {vni: 42}, red: {vni: 43}}
servers:
  s1: {dpid: 1, underlay_ip: 192.168.0.1, uplink_port: 1}
  s2: {dpid: 0x2, underlay_ip: 192.168.0.2, uplink_port: 1}
vms:
  vm1: {server: s1, port: 2, network: blue, mac: 00:00:00:00:00:01, ip: 10.0.0.1}
  vm2: {server: s2, port: 2, network: blue, mac: "00-00-00-00-00-0A", ip: 10.0.0.2}
  vm3: {server: s2, port: 3, network: red, mac: 00:00:00:00:00:01, ip: 10.0.0.1}
tunnel: {format: vxlan}
offload: {gro: true, overrides: [{server: s1, port: 1, queue: 0, gro: false}]}
"""


def test_valid_file() -> None:
    intent = from_yaml(VALID)
    assert intent.virtual_networks["blue"].vni == 42
    assert intent.servers["s2"].dpid == 2
    assert intent.vms["vm1"].mac == "00:00:00:00:00:01"
    assert intent.vms["vm2"].mac == "00:00:00:00:00:0a"
    assert intent.offload.overrides[0].gro is False
    assert intent.networks_of("s2") == {"blue", "red"}


def test_empty_file_wants_nothing() -> None:
    assert from_yaml("") == Intent()


@given(intents())
def test_survives_yaml(intent: Intent) -> None:
    text = yaml.safe_dump(intent.to_object())
    again = from_yaml(text.encode())
    assert again == intent
    assert again.revision() == intent.revision()


def test_revision_tells_intents_apart() -> None:
    assert from_yaml(VALID).revision() != from_yaml(VALID.replace("vni: 42", "vni: 44")).revision()


def changed(path: str, value: Any) -> dict[str, Any]:
    """The valid intent with one value changed (or added); `...` removes it."""
    document = yaml.safe_load(VALID.replace("mac: 00:00:00:00:00:01", 'mac: "00:00:00:00:00:01"'))
    *folders, last = path.split(".")
    place = document
    for folder in folders:
        place = place[int(folder) if isinstance(place, list) else folder]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        # wrong type
        ("vms", [1], "vms: is a list (allowed: a mapping of names)"),
        ("vms.vm1", 7, "vms.vm1: 7 is a whole number (allowed: a mapping of names)"),
        ("vms.vm1.port", "two", "vms.vm1.port: 'two' is a text (allowed: a whole number)"),
        ("vms.vm1.port", True, "vms.vm1.port: is true or false (allowed: a whole number)"),
        ("vms.vm1.mac", 1, "vms.vm1.mac: 1 is a whole number (allowed: a text)"),
        ("vms.vm1.server", None, "vms.vm1.server: is empty (allowed: a text)"),
        ("virtual_networks.blue.vni", 4.5, "virtual_networks.blue.vni: 4.5 is a number (allowed: a whole n"),
        ("offload.gro", "on", "offload.gro: 'on' is a text (allowed: true or false)"),
        ("offload.overrides", {}, "offload.overrides: is a mapping (allowed: a list)"),
        ("tunnel.packet_too_big", "no", "tunnel.packet_too_big: 'no' is a text (allowed: true or false)"),
        ("proactive_reverse", 1, "proactive_reverse: 1 is a whole number (allowed: true or false)"),
        # unknown and missing keys
        ("vm", {}, "vm: is not a known key, the nearest is 'vms' (allowed: virtual_networks, servers, vms, "),
        ("vms.vm1.vlan", 3, "vms.vm1.vlan: is not a known key (allowed: server, port, network, mac, ip, r"),
        ("tunnel.mode", 3, "tunnel.mode: is not a known key (allowed: format, packet_too_big)"),
        ("offload.overrides.0.lro", 1, "offload.overrides[0].lro: is not a known key, the nearest is 'gro' "),
        ("servers.s1.dpid", ..., "servers.s1.dpid: is missing (allowed: a value must be given)"),
        ("vms.vm1.network", ..., "vms.vm1.network: is missing (allowed: a value must be given)"),
        ("vms.no name", {}, "vms.no name: is not a name (allowed: letters, digits, and _ . - after the firs"),
        # ranges
        ("virtual_networks.blue.vni", 0, "virtual_networks.blue.vni: 0 is out of range (allowed: 1 to 16777"),
        ("virtual_networks.blue.vni", 1 << 24, "virtual_networks.blue.vni: 16777216 is out of range (allowe"),
        ("servers.s1.dpid", 0, "servers.s1.dpid: 0 is out of range (allowed: 1 to 18446744073709551615)"),
        ("servers.s1.uplink_port", 1000, "servers.s1.uplink_port: 1000 is out of range (allowed: 1 to 999)"),
        ("vms.vm1.port", 0, "vms.vm1.port: 0 is out of range (allowed: 1 to 999)"),
        ("offload.overrides.0.queue", -1, "offload.overrides[0].queue: s1 has no queue -1 (allowed: 0)"),
        # names that nothing has
        ("vms.vm1.server", "s9", "vms.vm1.server: there is no server 's9' (allowed: s1, s2)"),
        ("vms.vm1.network", "green", "vms.vm1.network: there is no virtual network 'green' (allowed: blue"),
        ("offload.overrides.0.server", "s9", "offload.overrides[0].server: there is no server 's9' (allowed"),
        ("offload.overrides.0.port", 9, "offload.overrides[0].port: s1 has no wire at port 9 (allowed: 1)"),
        ("tunnel.format", "geneve", "tunnel.format: there is no tunnel format 'geneve' (allowed: gre, g"),
        # what may exist only once
        ("virtual_networks.red.vni", 42, "virtual_networks.red.vni: 42 is also that of virtual_networks.blu"),
        ("servers.s2.dpid", 1, "servers.s2.dpid: 0x1 is also that of servers.s1 (allowed: each only once)"),
        ("servers.s2.underlay_ip", "192.168.0.1", "servers.s2.underlay_ip: 192.168.0.1 is also that of serv"),
        ("vms.vm2.mac", "00:00:00:00:00:01", "vms.vm2.mac: 00:00:00:00:00:01 (in blue) is also that of vms."),
        ("vms.vm2.ip", "10.0.0.1", "vms.vm2.ip: 10.0.0.1 (in blue) is also that of vms.vm1 (allowed: each o"),
        ("vms.vm3.port", 2, "vms.vm3.port: 2 (on s2) is also that of vms.vm2 (allowed: each only once)"),
        ("vms.vm1.port", 1, "vms.vm1.port: 1 (on s1) is also that of servers.s1 (allowed: each only once)"),
        # addresses
        ("vms.vm1.mac", "00:00:00:00:01", "vms.vm1.mac: '00:00:00:00:01' is not a MAC address (allowed: six"),
        ("vms.vm1.mac", "01:00:5e:00:00:01", "vms.vm1.mac: 01:00:5e:00:00:01 is not the address of one vNIC"),
        ("vms.vm1.ip", "10.0.0.300", "vms.vm1.ip: '10.0.0.300' is not an address (allowed: an IPv4 or IPv6"),
        ("vms.vm1.ip", "10.0.0.1/24", "vms.vm1.ip: '10.0.0.1/24' is not an address (allowed: an IPv4 or IPv"),
        ("vms.vm1.ip", "224.0.0.1", "vms.vm1.ip: 224.0.0.1 is not the address of one VM (allowed: a unicast"),
        ("servers.s1.underlay_ip", "fe80::1", "servers.s1.underlay_ip: 'fe80::1' is not an address (allowed"),
        ("servers.s1.underlay_ip", "0.0.0.0", "servers.s1.underlay_ip: 0.0.0.0 is not the address of one se"),
        # servers that share a network must reach each other
        ("servers.s1.underlay_ip", ..., "servers.s1.underlay_ip: is missing, and virtual network blue has V"),
        ("servers.s2.uplink_port", ..., "servers.s2.uplink_port: is missing, and virtual network blue has V"),
    ],
)  # fmt: skip
def test_mistake_is_one_sentence(path: str, value: Any, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_object(changed(path, value))
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("vms: {vm1: 1, vm1: 2}", "intent: line 1, column 15: vm1 is given twice (allowed: YAML or JSON)"),
        ("vms: [", "intent: line 1, column 7: "),
        ("{[1]: 2}", "intent: line 1, column 2: a key is not a name"),
        ("a\x00b", "intent: "),
        (b"\xff\xfe\xff", "intent: "),
        ("[" * 5000, "intent: is nested too deeply (allowed: YAML or JSON)"),
        ("vms: " + "9" * 5000, "intent: a number has too many digits (allowed: at most 4300)"),
        ("servers: {1: {dpid: 1}}", "servers.1: is a whole number, no name (allowed: a text, in quotes)"),
        ("servers: {on: {dpid: 1}}", "servers.True: is true or false, no name (allowed: a text, in quotes)"),
        ("- 1", "intent: is a list (allowed: a mapping of names)"),
        ("!!python/object:os.system {}", "intent: line 1, column 1: could not determine a constructor"),
    ],
)
def test_unreadable_document(text: str | bytes, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_yaml(text)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["vms", "servers", "vm1", "s1", "dpid", "offload", "overrides"]), inner
            )
        ),
        max_leaves=12,
    )
)
def test_any_document_is_valid_or_a_config_error(document: Any) -> None:
    try:
        from_object(document)
    except ConfigError as error:
        assert str(error)


def test_one_server_needs_no_underlay() -> None:
    intent = from_yaml(
        "{virtual_networks: {b: {vni: 1}}, servers: {s1: {dpid: 1}}, "
        "vms: {v: {server: s1, port: 1, network: b, mac: 00:00:00:00:00:01}}}"
    )
    assert intent.vms["v"].ip is None
