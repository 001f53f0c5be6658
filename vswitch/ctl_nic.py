# SPDX-License-Identifier: Apache-2.0
"""`vswitchctl nic` and `vswitchctl format`: ethtool's words to requests at the control socket."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Any

from vswitch.errors import VSwitchError

Call = Callable[..., Any]
"""A request to one switch: method, then parameters by name."""

USAGE = (
    "nic takes [SWITCH] PORT -l | -L combined N | -x | -X equal N|weight W…|hkey KEY|default | -n | -N … | "
    "-k | -K … | -S | lro add|list|del … | workers N…|default"
)
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
LRO_CHOICES = {"lro": ("on", "off", "rules", "default"), "kind": ("gro", "lro")}
PLAIN_WORDS = {"lro", "workers"}
"""What ethtool has no option for."""
NUMBERS = {"src_port", "dst_port", "vni"}
FIVE_TUPLE = ("protocol", "src_ip", "dst_ip", "src_port", "dst_port")


class WordsError(VSwitchError):
    """Words that mean nothing here."""


def split(words: Sequence[str]) -> tuple[str | None, str, list[str]]:
    """(switch or None, port, what to do) of the words after `nic`. Raises WordsError."""
    verbs = (n for n, word in enumerate(words) if word.startswith("-") or word in PLAIN_WORDS)
    place = next(verbs, len(words))
    if place not in (1, 2) or place == len(words):
        raise WordsError(USAGE)
    return words[0] if place == 2 else None, words[place - 1], list(words[place:])


def run(call: Call, port: str, words: list[str]) -> Any:
    """Do what the words say with a NIC; the result is what is to be shown. Raises WordsError."""
    what, *rest = words
    if what in _SHOWS and not rest:
        return {"show": what, **call("nic.show", port=port)}
    if what == "-S" and not rest:
        return {"show": what, "stats": call("nic.stats", port=port)}
    change = _CHANGES.get(what)
    if change is None:
        raise WordsError(USAGE)
    return change(call, port, rest)


# ---- changes ----


def _combined(call: Call, port: str, words: list[str]) -> Any:
    match words:
        case ["combined", count]:
            return call("offload.set", message="NicQueuesSet", port=port, count=number(count))
    raise WordsError("-L takes combined N, as in: nic s1 uplink0 -L combined 4")


def _spread(call: Call, port: str, words: list[str]) -> Any:
    match words:
        case ["equal", count]:
            return _shown("-x", call("nic.spread", port=port, equal=number(count)))
        case ["weight", *weights] if weights:
            return _shown("-x", call("nic.spread", port=port, weights=[number(text) for text in weights]))
        case ["hkey", key]:
            return _shown("-x", call("nic.spread", port=port, hash_key=key))
        case ["default"]:
            return _shown("-x", call("nic.spread", port=port, default=True))
    raise WordsError("-X takes equal N, weight W…, hkey KEY or default, as in: nic s1 uplink0 -X equal 4")


def _filter(call: Call, port: str, words: list[str]) -> Any:
    match words:
        case ["delete", filter_id]:
            return call("nic.delete", port=port, filter=number(filter_id))
        case ["flow-type", kind, *fields]:
            match_, others = flow(kind, fields)
            if set(others) - {"action", "priority", "queue"} or len(others.keys() & {"action", "queue"}) != 1:
                raise WordsError("a filter ends in: action QUEUE, and may have: priority N")
            queue = number(others.get("action", others.get("queue", "")))
            priority = number(others.get("priority", "0"))
            return call(
                "offload.set", message="NicFilterAdd", port=port, match=match_, queue=queue, priority=priority
            )
    raise WordsError(
        "-N takes flow-type TYPE FIELD VALUE… action QUEUE, or delete ID, as in: "
        "nic s1 uplink0 -N flow-type tcp4 dst-ip 10.0.0.2 dst-port 80 action 2"
    )


def _set_lro(call: Call, port: str, words: list[str]) -> Any:
    given = pairs(words)
    if not given or set(given) - {"queue", "lro", "kind", "size"} or given.keys() == {"queue"}:
        raise WordsError("-K takes [queue Q] lro on|off|rules [kind gro|lro] [size BYTES]")
    for name, choices in LRO_CHOICES.items():
        if given.get(name, choices[0]) not in choices:
            raise WordsError(f"{name}: {given[name]!r} is not known (allowed: {', '.join(choices)})")
    chosen = given.get("queue")
    wanted = None if chosen is None else _queues(chosen)
    nic = call("nic.show", port=port)
    absent = sorted(set(wanted or ()) - set(range(nic["queue_count"])))
    if absent:
        raise WordsError(
            f"queue: {nic['name']} has no queue {absent[0]} (allowed: 0 to {nic['queue_count'] - 1})"
        )
    for settings in nic["queues"]:
        if wanted is None or settings["queue"] in wanted:
            call(
                "offload.set",
                message="LroSet",
                port=port,
                queue=settings["queue"],
                lro=given.get("lro", settings["lro"]),
                kind=given.get("kind", settings["lro_kind"]),
                completion_size=number(given.get("size", str(settings["completion_size"]))),
            )
    return _shown("-k", call("nic.show", port=port))


def _set_workers(call: Call, port: str, words: list[str]) -> Any:
    if not words:
        raise WordsError("workers takes one for each queue, or default, as in: nic s1 uplink0 workers 0 1")
    workers = [] if words == ["default"] else [number(word) for word in words]
    call("offload.set", message="NicWorkersSet", port=port, workers=workers)
    return _shown("-k", call("nic.show", port=port))


def _rules(call: Call, port: str, words: list[str]) -> Any:
    match words:
        case ["list"]:
            return _shown("lro", call("nic.show", port=port))
        case ["del" | "delete", rule_id]:
            return call("nic.delete", port=port, rule=number(rule_id))
        case ["add", *rest] if rest:
            return call("offload.set", message="LroRuleAdd", port=port, **lro_rule(rest))
    raise WordsError(
        "lro takes add [queue Q[,Q…]] MATCH [priority N] [off], list, or del ID, as in: "
        "nic s1 uplink0 lro add queue 1 tcp '*' '*' '*' 110"
    )


_CHANGES: dict[str, Callable[[Call, str, list[str]], Any]] = {
    "-L": _combined,
    "-X": _spread,
    "-N": _filter,
    "-K": _set_lro,
    "lro": _rules,
    "workers": _set_workers,
}
_SHOWS = ("-l", "-x", "-n", "-k")


def lro_rule(words: list[str]) -> dict[str, Any]:
    """The keys of an LroRuleAdd: `[queue Q[,Q…]] PROTO SRC DST SPORT DPORT | mac M | ip A | vni V, …`."""
    rule: dict[str, Any] = {}
    words = list(words)
    if words[0] == "queue" and len(words) > 1:
        if words[1] != "all":
            rule["queues"] = _queues(words[1])
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
        case [_, _, _, _, _]:
            given = {name: text for name, text in zip(FIVE_TUPLE, words, strict=True) if text != "*"}
            rule["match"] = {name: number(t) if name in NUMBERS else t for name, t in given.items()}
        case ["flow-type", kind, *fields]:
            rule["match"], others = flow(kind, fields)
            if others:
                raise WordsError(f"{next(iter(others))} is no field of a rule")
        case _:
            raise WordsError(
                "a rule matches PROTOCOL SRC-IP DST-IP SRC-PORT DST-PORT (each may be '*'), mac MAC, "
                "ip ADDRESS, vni VNI, or flow-type TYPE FIELD VALUE…"
            )
    return rule


def flow(kind: str, words: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """ethtool's description of a flow: (match, words that are no fields of it). `m` ignores the set bits."""
    if kind not in FLOW_TYPES:
        raise WordsError(f"there is no flow-type {kind} (there are: {', '.join(FLOW_TYPES)})")
    match_: dict[str, Any] = dict(FLOW_TYPES[kind])
    others: dict[str, str] = {}
    words = list(words)
    while words:
        if len(words) < 2:
            raise WordsError(f"{words[0]} needs a value")
        name, text = words.pop(0), words.pop(0)
        field = FLOW_FIELDS.get(name)
        if field is None:
            others[name] = text
            continue
        if len(words) > 1 and words[0] == "m":
            text = _masked(field, text, words[1])
            words = words[2:]
        _require_version(kind, field, text)
        match_[field] = number(text) if field in NUMBERS else text
    return match_, others


def _require_version(kind: str, field: str, text: str) -> None:
    """Raise WordsError for an address of the other IP version than the flow type's."""
    if field in ("src_ip", "dst_ip") and kind[-1] in "46" and (":" in text) != (kind[-1] == "6"):
        raise WordsError(f"{text} is no address of a flow-type {kind} (allowed: IPv{kind[-1]})")


def _masked(field: str, text: str, mask: str) -> str:
    """An address as a prefix. The mask's bits that are set are ignored, as ethtool's are."""
    try:
        if field not in ("src_ip", "dst_ip"):
            raise ValueError
        address, ignored = ipaddress.ip_address(text), int(ipaddress.ip_address(mask))
    except ValueError:
        raise WordsError(f"{mask} is no mask for {text}: only IP addresses have one") from None
    if ignored & (ignored + 1):
        raise WordsError(f"{mask} is no mask: it ignores bits, which must be the last ones, as in 0.0.0.255")
    return f"{address}/{address.max_prefixlen - ignored.bit_length()}"


def pairs(words: list[str]) -> dict[str, str]:
    """Words in pairs of name and value."""
    if len(words) % 2:
        raise WordsError(f"{words[-1]} needs a value")
    return dict(zip(words[::2], words[1::2], strict=True))


def number(text: str) -> int:
    """A whole number, also as 0x10."""
    try:
        return int(text, 0)
    except ValueError:
        raise WordsError(f"{text!r} is no number (allowed: a whole number, as 4 or 0x10)") from None


def _queues(text: str) -> list[int]:
    return [number(part) for part in text.split(",")]


def _shown(what: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {"show": what, **settings}


# ---- formats ----


def run_format(call: Call, action: str, name: str | None, numbers: list[str]) -> Any:
    """`format add NAME KEY=VALUE…`, `format del NAME`, `format list`."""
    if action == "list":
        return call("formats")
    if name is None:
        raise WordsError(f"format {action} needs the name of a format")
    if action == "del":
        return call("offload.set", message="FormatDelete", name=name)
    if not numbers or any("=" not in text for text in numbers):
        raise WordsError("format add takes [SWITCH] NAME KEY=VALUE…, as in: format add mine outer_proto=47 …")
    values = {key: _value(text) for key, text in (pair.split("=", 1) for pair in numbers)}
    return call("offload.set", message="FormatAdd", name=name, numbers=values)


def _value(text: str) -> Any:
    """A value as YAML would read it; `check` is three numbers with commas."""
    if text in ("true", "false"):
        return text == "true"
    return text.split(",") if "," in text else text
