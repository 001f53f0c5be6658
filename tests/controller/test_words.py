# SPDX-License-Identifier: Apache-2.0
"""A wrong word anywhere in an intent is refused: where it stands, the word, and the nearest that is known."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from ryu_apps.core.intent import from_object
from vswitch.errors import ConfigError

EVERYTHING = yaml.safe_load("""
virtual_networks: {blue: {vni: 42}}
servers:
  left: {dpid: 1, underlay_ip: 192.168.0.1, wires: {middle: 1}, uplink_port: 1}
  middle: {dpid: 2, underlay_ip: 192.168.0.2, wires: {left: 1, right: 2}}
  right: {dpid: 3, underlay_ip: 192.168.0.3, wires: {middle: 1}}
vms:
  web: {server: left, port: 3, network: blue, mac: "00:00:00:00:00:0a", ip: 10.0.0.1, role: terminating}
  router: {server: left, port: 4, network: blue, mac: "00:00:00:00:00:0b", ip: 10.0.0.2, role: forwarding,
           lro: true, vif_lro: false}
tunnel: {format: mine, packet_too_big: true}
formats:
  mine: {outer_proto: 47, opaque_len: 12, self_describing: false, id_offset: 0, id_length: 4,
         id_value: 0x200088b5, flow_id_offset: 4, flow_id_length: 4, inner: ethernet}
offload:
  gro: true
  overrides: [{server: left, port: 1, queue: 3, gro: false}]
nic:
  left:
    queues: 4
    workers: [0, 1]
    rss: {weights: [3, 1]}
    filters:
      - {protocol: tcp, dst_ip: 10.0.0.1, dst_port: 80, queue: 2, priority: 10}
      - {vm: web, queue: 1}
      - {network: blue, queue: 3}
    lro: [{queues: [1], lro: rules, kind: gro, completion_size: 32768}, {queues: [2], lro: false}]
    rules: [{queues: [1], protocol: tcp, src_port: 110, lro: true, priority: 7}]
proactive_reverse: true
""")
NAMES = ("virtual_networks", "servers", "vms", "formats")
"""The sections whose keys are names of the user's own choice."""


def misspelt(word: str) -> str:
    """As fingers do: the last letter twice and the one before left out; of a short word the last twice."""
    return word[:-2] + word[-1] * 2 if len(word) > 4 else word + word[-1]


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path to every key and every list's entry in the document."""
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        yield (*path, step)
        yield from places(inner, (*path, step))


def holder(document: Any, path: tuple[str | int, ...]) -> Any:
    """What holds the last step of a path."""
    for step in path[:-1]:
        document = document[step]
    return document


def written(path: tuple[str | int, ...]) -> str:
    """A path as errors write it."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def is_name(path: tuple[str | int, ...]) -> bool:
    return len(path) == 2 and path[0] in NAMES


KEYS = [path for path in places(EVERYTHING) if isinstance(path[-1], str) and not is_name(path)]
WORDS = [
    path
    for path in places(EVERYTHING)
    if path[-1] in ("server", "network", "vm", "role", "format", "inner", "protocol", "kind")
    or (path[-1] == "lro" and holder(EVERYTHING, path)["lro"] == "rules")
]  # fmt: skip
SCALARS = [
    path
    for path in places(EVERYTHING)
    if not isinstance(holder(EVERYTHING, path)[path[-1]], dict | list)
    and path[-1] not in ("mac", "ip", "underlay_ip", "dst_ip")
]


def refusal(document: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        from_object(document)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_document_is_right_and_has_every_kind_of_word() -> None:
    from_object(EVERYTHING)
    assert {path[0] for path in KEYS} == set(EVERYTHING)
    assert len(WORDS) > 10 and len(SCALARS) > 50


@pytest.mark.parametrize("path", KEYS, ids=written)
def test_a_misspelt_key(path: tuple[str | int, ...]) -> None:
    document, word = copy.deepcopy(EVERYTHING), misspelt(str(path[-1]))
    place = holder(document, path)
    place[word] = place.pop(path[-1])
    sentence = refusal(document)
    assert sentence.startswith(f"{written((*path[:-1], word))}: ")
    assert f", the nearest is {path[-1]!r}" in sentence


@pytest.mark.parametrize("path", WORDS, ids=written)
def test_a_misspelt_word_in_a_value(path: tuple[str | int, ...]) -> None:
    document = copy.deepcopy(EVERYTHING)
    place = holder(document, path)
    right = place[path[-1]]
    place[path[-1]] = misspelt(right)
    sentence = refusal(document)
    assert sentence.startswith(f"{written(path)}: ")
    assert f"{misspelt(right)!r}" in sentence and f", the nearest is {right!r}" in sentence


@pytest.mark.parametrize("path", SCALARS, ids=written)
def test_a_word_where_something_else_is_right(path: tuple[str | int, ...]) -> None:
    document = copy.deepcopy(EVERYTHING)
    holder(document, path)[path[-1]] = "nonsense"
    sentence = refusal(document)
    assert sentence.startswith(f"{written(path)}: ") and "'nonsense'" in sentence and "(allowed: " in sentence


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("offload.gro", "ture", "offload.gro: 'ture' is a text, the nearest is 'true' (allowed: true or fal"),
        ("vms.web.lro", "onn", "vms.web.lro: 'onn' is a text, the nearest is 'on' (allowed: true or false o"),
        ("vms.web.role", "Router", "vms.web.role: 'Router' is not known (allowed: forwarding, terminating)"),
        ("vms.web.role", "FORWARDING", "vms.web.role: 'FORWARDING' is not known, the nearest is 'forwarding"),
        ("vms.web.role", 7, "vms.web.role: 7 is a whole number (allowed: forwarding, terminating)"),
        ("tunnel.format", "VXLAN", "tunnel.format: there is no tunnel format 'VXLAN', the nearest is 'vxlan"),
        ("servers.left.wires", {"middel": 1}, "servers.left.wires.middel: there is no other server 'middel'"),
        ("servers.left.wires", {"middle": "x"}, "servers.left.wires.middle: 'x' is a text (allowed: a whole"),
        ("servers.left.wires", {1: 2}, "servers.left.wires.1: is a whole number, no name (allowed: a text, "),
        ("servers.left.dpid", 1 << 64, "servers.left.dpid: 18446744073709551616 is out of range (allowed: 1"),
        ("nic.left.rss", [1], "nic.left.rss: is a list (allowed: a mapping of names)"),
        ("nic.left.rss.weights", [1, "x"], "nic.left.rss.weights[1]: 'x' is a text (allowed: a whole number"),
        ("nic.left.rss.weights", 5, "nic.left.rss.weights: 5 is a whole number (allowed: a list or nothing)"),
        ("nic.left.filters", {"vm": "web"}, "nic.left.filters: is a mapping (allowed: a list)"),
        ("nic.left.filters", [3], "nic.left.filters[0]: 3 is a whole number (allowed: a mapping of names)"),
        ("formats.mine.self_describing", "flase", "formats.mine.self_describing: 'flase' is neither true no"),
        ("formats.mine", {"outer_prot": 47}, "formats.mine.outer_prot: is not known, the nearest is 'outer_"),
        ("nic", {"rihgt": {}}, "nic.rihgt: there is no server 'rihgt', the nearest is 'right' (allowed: lef"),
        ("vms.web", {"server": "left", 5: 1}, "vms.web.5: is not a known key (allowed: server, port, "),
    ],
)  # fmt: skip
def test_the_sentence(path: str, value: Any, sentence: str) -> None:
    document = copy.deepcopy(EVERYTHING)
    steps = tuple(path.split("."))
    holder(document, steps)[steps[-1]] = value
    with pytest.raises(ConfigError) as caught:
        from_object(document)
    assert str(caught.value).startswith(sentence)
