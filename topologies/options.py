# SPDX-License-Identifier: Apache-2.0
"""Options by name: Mininet hands on any word to any class, and a typing error would be silent."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping

from topologies.errors import LabError
from vswitch.words import nearest

NODE_WORDS = frozenset(
    {"inNamespace", "privateDirs", "waitExited", "ip", "mac", "defaultRoute", "lo", "isSwitch"}
)
"""What Mininet itself reads of every node's options, or puts among them."""

_NOT_OPTIONS = {"self", "name", "lab", "batch"}


def options_of(kind: type) -> set[str]:
    """The options that a class of ours, or one made of it, takes by name."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        parameter.name
        for base in kind.__mro__
        if "__init__" in vars(base) and not base.__module__.startswith(("mininet.", "builtins"))
        for parameter in inspect.signature(vars(base)["__init__"]).parameters.values()
        if parameter.kind in named and parameter.name not in _NOT_OPTIONS
    }


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
    raise LabError(f"{where} must be on or off, not {value!r}")
