# SPDX-License-Identifier: Apache-2.0
"""ethtool's words for flows and numbers, made into what the control socket takes."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from vswitch.cli.arguments import UsageError
from vswitch.words import nearest, unknown

FLOW_TYPES = {
    **{f"{name}{version}": {"protocol": name} for name in ("tcp", "udp", "sctp") for version in "46"},
    "ip4": {},
    "ip6": {},
    "ether": {},
}
FLOW_FIELDS = {
    "src-ip": "src_ip",
    "dst-ip": "dst_ip",
    "src-port": "src_port",
    "dst-port": "dst_port",
    "dst": "dst_mac",
    "dst-mac": "dst_mac",
    "vni": "vni",
}
NUMBERS = {"src_port", "dst_port", "vni"}
FIVE_TUPLE = ("protocol", "src_ip", "dst_ip", "src_port", "dst_port")
RULE_KINDS = ("mac", "ip", "vni", "flow-type")
LOCATION = "loc: filters are numbered as they come; priority N says which is asked first"


def lro_rule(words: list[str]) -> dict[str, Any]:
    """The keys of an LroRuleAdd: `[queue Q[,Q…]] PROTO SRC DST SPORT DPORT | mac M | ip A | vni V, …`."""
    rule: dict[str, Any] = {}
    words = list(words)
    if words[0] == "queue" and len(words) > 1:
        if words[1] != "all":
            rule["queues"] = queues(words[1])
        words = words[2:]
    if words and words[-1] in ("on", "off"):
        rule["lro"] = words.pop() == "on"
    if len(words) > 2 and words[-2] == "priority":
        rule["priority"] = number(words[-1])
        words = words[:-2]
    match words:
        case ["mac", mac]:
            rule["match"] = {"dst_mac": mac}
        case ["ip", address]:
            rule["match"] = {"dst_ip": address}
        case ["vni", vni]:
            rule["match"] = {"vni": number(vni)}
        case ["flow-type", kind, *fields]:
            rule["match"], _ = flow(kind, fields, ())
        case [_, _, _, _, _]:
            given = {name: text for name, text in zip(FIVE_TUPLE, words, strict=True) if text != "*"}
            rule["match"] = {name: number(t) if name in NUMBERS else t for name, t in given.items()}
        case _:
            near = nearest(words[0], RULE_KINDS) if words and words[0] not in RULE_KINDS else ""
            found = f"{' '.join(words)!r} is no match{near}: " if words else ""
            raise UsageError(
                f"{found}a rule matches PROTOCOL SRC-IP DST-IP SRC-PORT DST-PORT (each may be '*'), mac MAC, "
                "ip ADDRESS, vni VNI, or flow-type TYPE FIELD VALUE…"
            )
    return rule


def flow(kind: str, words: Sequence[str], others: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """ethtool's description of a flow: (match, values of the words that are no fields but `others`).

    `m` ignores the set bits. Raises UsageError.
    """
    if kind not in FLOW_TYPES:
        raise UsageError(str(unknown("flow-type", "there is no", kind, FLOW_TYPES)))
    match_: dict[str, Any] = dict(FLOW_TYPES[kind])
    found: dict[str, str] = {}
    left = list(words)
    while left:
        name = left.pop(0)
        field = FLOW_FIELDS.get(name)
        if field is None and name not in others:
            known = (*FLOW_FIELDS, *others)
            raise UsageError(
                LOCATION if name == "loc" else str(unknown("flow-type", "there is no", name, known))
            )
        if not left:
            raise UsageError(f"{name} needs a value")
        text = left.pop(0)
        if (field or name) in (match_.keys() - FLOW_TYPES[kind].keys() if field else found):
            raise UsageError(f"{name} is given twice")
        if field is None:
            found[name] = text
            continue
        if len(left) > 1 and left[0] == "m":
            text = _masked(field, text, left[1])
            left = left[2:]
        _require_version(kind, field, text)
        match_[field] = number(text) if field in NUMBERS else text
    return match_, found


def _require_version(kind: str, field: str, text: str) -> None:
    """Raise UsageError for an address of the other IP version than the flow type's."""
    if field in ("src_ip", "dst_ip") and kind[-1] in "46" and (":" in text) != (kind[-1] == "6"):
        raise UsageError(f"{text} is no address of a flow-type {kind} (allowed: IPv{kind[-1]})")


def _masked(field: str, text: str, mask: str) -> str:
    """An address as a prefix. The mask's bits that are set are ignored, as ethtool's are."""
    try:
        if field not in ("src_ip", "dst_ip"):
            raise ValueError
        address, ignored = ipaddress.ip_address(text), int(ipaddress.ip_address(mask))
    except ValueError:
        raise UsageError(f"{mask} is no mask for {text}: only IP addresses have one") from None
    if ignored & (ignored + 1):
        raise UsageError(f"{mask} is no mask: it ignores bits, which must be the last ones, as in 0.0.0.255")
    return f"{address}/{address.max_prefixlen - ignored.bit_length()}"


def pairs(words: Sequence[str]) -> dict[str, str]:
    """Words in pairs of name and value; raises UsageError."""
    if len(words) % 2:
        raise UsageError(f"{words[-1]} needs a value")
    found: dict[str, str] = {}
    for name, value in zip(words[::2], words[1::2], strict=True):
        if name in found:
            raise UsageError(f"{name} is given twice")
        found[name] = value
    return found


def number(text: str) -> int:
    """A whole number, also as 0x10; raises UsageError."""
    try:
        return int(text, 0)
    except ValueError:
        raise UsageError(f"{text!r} is no number (allowed: a whole number, as 4 or 0x10)") from None


def queues(text: str) -> list[int]:
    """Numbers with commas between them."""
    return [number(part) for part in text.split(",")]
