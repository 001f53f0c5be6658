# SPDX-License-Identifier: Apache-2.0
"""`vswitchctl nic` and `gro`: a port's receive side, in ethtool's words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vswitch.cli import nic_text
from vswitch.cli.arguments import EVERYWHERE, Arguments, Command, Option, UsageError, is_number
from vswitch.cli.client import Call
from vswitch.cli.ethtool import ALIASES, COALESCING, ELSEWHERE, FEATURES_ELSEWHERE
from vswitch.cli.nic_words import flow, lro_rule, number, pairs, queues
from vswitch.words import nearest, unknown

USAGE = (
    "[SWITCH] PORT -l | -L combined N | -x | -X equal N|weight W…|hkey KEY|default | -n | -N … | "
    "-k | -K … | -S | -i | lro add|list|del … | workers N…|default"
)
LRO_SETTINGS = ("on", "off", "rules", "default")
LRO_CHOICES = {"lro": LRO_SETTINGS, "gro": LRO_SETTINGS, "kind": ("gro", "lro")}
OWN_WORDS = ("lro", "workers")
"""What ethtool has no option for."""


def split(words: Sequence[str]) -> tuple[str | None, str, str, list[str]]:
    """(switch or None, port, what to do, its words) of the words behind `nic`; raises UsageError."""
    verbs = (n for n, word in enumerate(words) if word.startswith("-") or word in OWN_WORDS)
    place = next(verbs, len(words))
    if place == 0 and words:
        raise NIC.wrong(f"the port stands before {words[0]}")
    if place == len(words):
        wrong = f"{words[-1]!r} is nothing that a NIC does" if len(words) > 1 else "words are missing"
        raise NIC.wrong(wrong + (nearest(words[-1], _VERBS) if len(words) > 1 else ""))
    if place > 2:
        raise NIC.wrong(f"{words[2]!r} is one word too many before {words[place]}")
    return words[0] if place == 2 else None, words[place - 1], words[place], list(words[place + 1 :])


def _run(arguments: Arguments) -> Any:
    for word in arguments.words:
        if word.startswith("-") and not is_number(word) and word not in _DASHED:
            known = (*_DASHED, *(name for option in (*NIC.options, *EVERYWHERE) for name in option.names))
            raise NIC.wrong(f"a NIC has no option {word!r}{nearest(word, known)}")
    switch, port, what, words = split(arguments.words)
    what = ALIASES.get(what, what)
    call = arguments.switch(switch)
    if "--all" in arguments and what != "-S":
        raise UsageError(f"--all goes with -S, not with {what}")
    if what in ELSEWHERE:
        raise UsageError(f"{what}: {ELSEWHERE[what]}")
    if what in _SHOWS:
        if words:
            raise UsageError(f"{what} takes no word, and {words[0]!r} is given")
        return {"show": what, **_SHOWS[what](call, port)}
    return _CHANGES[what](call, port, words)


def _show(call: Call, port: str) -> dict[str, Any]:
    return call("nic.show", port=port)


def _statistics(call: Call, port: str) -> dict[str, Any]:
    return {"stats": call("nic.stats", port=port)}


def _driver(call: Call, port: str) -> dict[str, Any]:
    number = call("nic.show", port=port)["port_no"]
    switch = call("show")
    (info,) = (info for info in switch["ports"] if info["port"] == number)
    return {"driver": f"vswitch-{info['kind']}", "version": switch["version"], "bus-info": info["peer"]}


def _shown(what: str, call: Call, port: str) -> dict[str, Any]:
    """What -l, -x … show, after a change."""
    return {"show": what, **_show(call, port)}


def _combined(call: Call, port: str, words: list[str]) -> Any:
    match words:
        case ["combined", count]:
            return call("offload.set", message="NicQueuesSet", port=port, count=number(count))
        case ["rx" | "tx" | "other", *_]:
            raise UsageError(f"-L {words[0]}: a queue here receives and sends: -L combined N")
    raise UsageError(_wrong("-L", words, ("combined",), "combined N", "nic s1 uplink0 -L combined 4"))


def _spread(call: Call, port: str, words: list[str]) -> Any:
    match words:
        case ["equal", count]:
            call("nic.spread", port=port, equal=number(count))
        case ["weight", *weights] if weights:
            call("nic.spread", port=port, weights=[number(text) for text in weights])
        case ["hkey", key]:
            call("nic.spread", port=port, hash_key=key)
        case ["default"]:
            call("nic.spread", port=port, default=True)
        case _:
            known = ("equal", "weight", "hkey", "default")
            takes = "equal N, weight W…, hkey KEY or default"
            raise UsageError(_wrong("-X", words, known, takes, "nic s1 uplink0 -X equal 4"))
    return _shown("-x", call, port)


def _filter(call: Call, port: str, words: list[str]) -> Any:
    match words:
        case ["delete", filter_id]:
            return call("nic.delete", port=port, filter=number(filter_id))
        case ["flow-type", kind, *fields]:
            match_, others = flow(kind, fields, ("action", "queue", "priority"))
            if len(others.keys() & {"action", "queue"}) != 1:
                raise UsageError("a filter ends in: action QUEUE, and may have: priority N")
            queue = number(others.get("action", others.get("queue", "")))
            if queue == -1:  # ethtool's for: drop
                raise UsageError("action -1: a filter chooses a queue; what is to be dropped, a rule says")
            priority = number(others.get("priority", "0"))
            return call(
                "offload.set", message="NicFilterAdd", port=port, match=match_, queue=queue, priority=priority
            )
        case ["rx-flow-hash", *_]:
            raise UsageError(
                "-N rx-flow-hash: the hash is of addresses and ports, always: -X hkey sets its key"
            )
    takes = "flow-type TYPE FIELD VALUE… action QUEUE, or delete ID"
    example = "nic s1 uplink0 -N flow-type tcp4 dst-ip 10.0.0.2 dst-port 80 action 2"
    raise UsageError(_wrong("-N", words, ("flow-type", "delete"), takes, example))


def _set_lro(call: Call, port: str, words: list[str]) -> Any:
    given = _lro_settings(pairs([COALESCING.get(word, word) for word in words]))
    nic = call("nic.show", port=port)
    chosen = given.get("queue")
    wanted = range(nic["queue_count"]) if chosen is None else queues(chosen)
    absent = sorted(set(wanted) - set(range(nic["queue_count"])))
    if absent:
        raise UsageError(
            f"queue: {nic['name']} has no queue {absent[0]} (allowed: 0 to {nic['queue_count'] - 1})"
        )
    for now in nic["queues"]:
        if now["queue"] in wanted:
            call(
                "offload.set",
                message="LroSet",
                port=port,
                queue=now["queue"],
                lro=given.get("lro", now["lro"]),
                kind=given.get("kind", now["lro_kind"]),
                completion_size=number(given.get("size", str(now["completion_size"]))),
            )
    return _shown("-k", call, port)


def _lro_settings(given: dict[str, str]) -> dict[str, str]:
    """What -K is to set; `gro SETTING` is short for `lro SETTING kind gro`. Raises UsageError."""
    takes = "[queue Q] lro|gro on|off|rules|default [kind gro|lro] [size BYTES]"
    known = ("queue", "lro", "gro", "kind", "size")
    for name in given:
        if name in FEATURES_ELSEWHERE:
            raise UsageError(f"-K {name}: {FEATURES_ELSEWHERE[name]}")
        if name not in known:
            raise UsageError(_wrong("-K", [name], known, takes))
        if given[name] not in LRO_CHOICES.get(name, given.values()):
            raise UsageError(str(unknown(f"-K {name}", "there is no", given[name], LRO_CHOICES[name])))
    if not given.keys() - {"queue"}:
        raise UsageError(_wrong("-K", [], known, takes))
    if "gro" not in given:
        return given
    if "lro" in given:
        raise UsageError("-K: gro and lro are one setting here, of which kind tells: lro on kind gro|lro")
    setting = given.pop("gro")
    return {"lro": setting, **({} if setting == "off" else {"kind": "gro"}), **given}


def _set_workers(call: Call, port: str, words: list[str]) -> Any:
    if not words:
        raise UsageError("workers takes one for each queue, or default, as in: nic s1 uplink0 workers 0 1")
    workers = [] if words == ["default"] else [number(word) for word in words]
    call("offload.set", message="NicWorkersSet", port=port, workers=workers)
    return _shown("-k", call, port)


def _rules(call: Call, port: str, words: list[str]) -> Any:
    match words:
        case ["list"]:
            return _shown("lro", call, port)
        case ["del" | "delete", rule_id]:
            return call("nic.delete", port=port, rule=number(rule_id))
        case ["add", *rest] if rest:
            return call("offload.set", message="LroRuleAdd", port=port, **lro_rule(rest))
    takes = "add [queue Q[,Q…]] MATCH [priority N] [off], list, or del ID"
    example = "nic s1 uplink0 lro add queue 1 tcp '*' '*' '*' 110"
    raise UsageError(_wrong("lro", words, ("add", "list", "del", "delete"), takes, example))


def _wrong(what: str, words: list[str], known: Sequence[str], takes: str, example: str = "") -> str:
    """What is wrong with the words behind `what`: the first is not known, or those behind it do not fit."""
    as_in = f", as in: {example}" if example else ""
    found = f"there is no {words[0]!r}{nearest(words[0], known)}: " if words and words[0] not in known else ""
    return f"{found}{what} takes {takes}{as_in}"


_SHOWS: dict[str, Callable[[Call, str], dict[str, Any]]] = {
    **dict.fromkeys(("-l", "-x", "-n", "-k"), _show),
    "-S": _statistics,
    "-i": _driver,
}
_CHANGES: dict[str, Callable[[Call, str, list[str]], Any]] = {
    "-L": _combined,
    "-X": _spread,
    "-N": _filter,
    "-K": _set_lro,
    "lro": _rules,
    "workers": _set_workers,
}
_VERBS = (*_SHOWS, *_CHANGES)
_DASHED = [word for word in (*_VERBS, *ALIASES, *ELSEWHERE) if word not in OWN_WORDS]

NIC = Command(
    "nic",
    USAGE,
    "queues, filters, coalescing of a port, in ethtool's words",
    _run,
    nic_text.render,
    options=(Option("--all", "with -S: also the reasons that never occurred"),),
    own_dashes=True,
)


def _gro(arguments: Arguments) -> Any:
    words = GRO.names(arguments.words, 2, 3)
    if words[-1] not in ("on", "off"):
        raise GRO.wrong(f"{words[-1]!r} is neither on nor off")
    switch, port = GRO.switch_and(words[:-1])
    queue = number(arguments.options.get("--queue") or "0")
    return arguments.switch(switch)("offload.set", message="LroSet", port=port, queue=queue, lro=words[-1])


GRO = Command(
    "gro",
    "[SWITCH] PORT on|off [-q QUEUE]",
    "turn receive coalescing of a queue on or off",
    _gro,
    nic_text.render,
    example="gro s1 2 off",
    options=(Option("--queue", "receive queue (default 0)", "-q", "QUEUE"),),
)
