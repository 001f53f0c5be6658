# SPDX-License-Identifier: Apache-2.0
"""Checks of single values of the intent; each raises a ConfigError of one sentence."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable
from typing import Any

from vswitch.errors import ConfigError
from vswitch.words import nearest

_KINDS = {
    dict: "a mapping",
    list: "a list",
    tuple: "a list",
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def kind(value: object) -> str:
    if value is None:
        return "empty"
    return _KINDS.get(type(value), "none of YAML's plain values")


def what_it_is(value: object) -> str:
    """A value that is of the wrong kind, as the predicate of a sentence: `'two' is a text`."""
    named = isinstance(value, str | int | float) and not isinstance(value, bool)
    return f"{value!r} is {kind(value)}" if named else f"is {kind(value)}"


def listing(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def underlay_ip(path: str, text: str) -> str:
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        raise ConfigError(
            path, f"{text!r} is not an address", "an IPv4 address such as 192.168.0.1"
        ) from None
    if address.is_multicast or address.is_unspecified or address == ipaddress.IPv4Address("255.255.255.255"):
        raise ConfigError(path, f"{text} is not the address of one server", "a unicast IPv4 address")
    return str(address)


def ip(path: str, text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ConfigError(
            path, f"{text!r} is not an address", "an IPv4 or IPv6 address without prefix length"
        ) from None
    if address.is_multicast or address.is_unspecified:
        raise ConfigError(path, f"{text} is not the address of one VM", "a unicast address")
    return str(address)


def mac(path: str, text: str) -> str:
    address = text.lower().replace("-", ":")
    if not _MAC.fullmatch(address):
        raise ConfigError(path, f"{text!r} is not a MAC address", "six bytes such as 00:00:00:00:00:01")
    if int(address[:2], 16) & 1 or address == "00:00:00:00:00:00":
        raise ConfigError(path, f"{text} is not the address of one vNIC", "a unicast MAC address")
    return address


def in_range(path: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(path, f"{value} is out of range", f"{low} to {high}")


def unique(values: Iterable[tuple[str, object, str]]) -> None:
    """values: (path, identity, what to call it). The first one that was there before is an error."""
    seen: dict[object, str] = {}
    for path, identity, label in values:
        if identity in seen:
            raise ConfigError(path, f"{label} is also that of {seen[identity]}", "each only once")
        seen[identity] = path.rpartition(".")[0]


def known(path: str, name: str, names: Collection[str], what: str) -> None:
    if name not in names:
        names = sorted(names)
        raise ConfigError(path, f"there is no {what} {name!r}{nearest(name, names)}", listing(names))


def known_keys(path: str, given: Iterable[object], keys: Iterable[str]) -> None:
    """path: of the mapping; empty for the whole document."""
    keys = tuple(keys)
    for key in given:
        if key not in keys:
            where = f"{path}.{key}" if path else str(key)
            raise ConfigError(where, f"is not a known key{nearest(str(key), keys)}", listing(keys))


def one_of(path: str, word: object, words: Iterable[str], more: str = "") -> None:
    """more: what else would be right, as a phrase."""
    words = tuple(words)
    if word not in words:
        instead = nearest(word, words) if isinstance(word, str) else ""
        raise ConfigError(path, f"{word!r} is not known{instead}", listing(words) + more)


def name_in_text(path: str, name: object) -> str:
    """YAML reads names such as 1, on and no as something else."""
    if not isinstance(name, str):
        raise ConfigError(f"{path}.{name}", f"is {kind(name)}, no name", "a text, in quotes")
    return name


def mapping(path: str, value: object) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise ConfigError(path, what_it_is(value), "a mapping of names")
    return value
