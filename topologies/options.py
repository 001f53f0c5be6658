# SPDX-License-Identifier: Apache-2.0
"""Options by name: Mininet hands on any word to any class, and a typing error would be silent."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from mininet.link import Intf, Link, TCIntf, TCLink
from mininet.topo import Topo

from topologies.errors import LabError
from vswitch.words import nearest

NODE_WORDS = frozenset(
    {"inNamespace", "privateDirs", "waitExited", "ip", "mac", "defaultRoute", "lo", "isSwitch"}
)
"""What Mininet itself reads of every node's options, or puts among them."""

READ_BY_KEY = NODE_WORDS | {"period_us", "disable_gro", "use_htb"}
"""What Mininet's classes look up among the options that they take by no name; `use_htb`, which its examples
give, is what it does anyway."""

TOPO_WORDS = ("hopts", "sopts", "lopts")
"""What every topology of Mininet takes."""

_NOT_OPTIONS = {"self", "name", "lab", "batch", "node", "link", "node1", "node2"}
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def options_of(kind: type) -> set[str]:
    """The options that a class of ours, or one made of it, takes by name."""
    ours = [base for base in kind.__mro__[:-1] if not is_mininets(base) and "__init__" in vars(base)]
    return {name for base in ours for name in named(vars(base)["__init__"])} - _NOT_OPTIONS


def options_of_mininets(kind: type) -> set[str]:
    """The options that a class of Mininet's own takes by name; a link hands most to its interfaces."""
    bases = kind.__mro__[:-1]
    if issubclass(kind, Link):
        bases += (TCIntf if issubclass(kind, TCLink) else Intf).__mro__[:-1]
    methods = (vars(base)[name] for base in bases for name in ("__init__", "config") if name in vars(base))
    return {name for method in methods for name in named(method)} - _NOT_OPTIONS


def parameters_of_topology(topo: Any) -> set[str] | None:
    """What a topology takes by name; None when it takes any word. Mininet's own swallow what they do not
    know."""
    build = topo.build if getattr(topo, "__init__", None) is Topo.__init__ else topo
    takes_any = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(build).parameters.values())
    return None if takes_any and not is_mininets(build) else {*named(build)} - _NOT_OPTIONS


def named(function: Callable[..., Any]) -> list[str]:
    """The names of a function's parameters."""
    return [p.name for p in inspect.signature(function).parameters.values() if p.kind in _NAMED]


def is_mininets(thing: Any) -> bool:
    """Whether a class or function is Mininet's."""
    return getattr(thing, "__module__", "").startswith("mininet.")


def require_once(where: str, words: str) -> None:
    """Raise LabError when `NAME,key=value,…` gives a key twice: Mininet would take the last."""
    keys = list(_keys(words))
    for key in keys:
        if keys.count(key) > 1:
            raise LabError(f"{where}: {key} is given twice")


def _keys(words: str) -> Iterator[str]:
    for word in words.split(",")[1:]:
        key, equals, _ = word.partition("=")
        if equals:
            yield key


def require_known(
    where: str,
    what: str,
    given: Iterable[str],
    known: Iterable[str],
    hints: Mapping[str, str] | None = None,
    mininets: Collection[str] = (),
) -> None:
    """Raise LabError for the first word that is not known, with the nearest that is.

    where, what: whose words they are, as in `s1` and `VSwitch has no option`. hints: sentences for words
    that others of Mininet's classes have, and what to do instead. mininets: words that are known, too, and
    need not be listed.
    """
    known = sorted(known)
    for word in given:
        if word not in known and word not in mininets:
            if hints and word in hints:
                raise LabError(f"{where}: {hints[word]}")
            instead = nearest(word, [*known, *mininets])
            raise LabError(f"{where}: {what} {word!r}{instead} (allowed: {', '.join(known) or 'none'})")


def boolean(where: str, value: bool | str | int) -> bool:
    """A truth value as `mn` hands it over: on, off, true, false, yes, no, 1, 0."""
    word = str(value).lower()
    if word in ("on", "true", "yes", "1"):
        return True
    if word in ("off", "false", "no", "0"):
        return False
    raise LabError(f"{where} must be on or off, not {value!r}{nearest(word, ('on', 'off'))}")
