# SPDX-License-Identifier: Apache-2.0
"""Words that nobody knows: they are refused by name, with the nearest word that is known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from vswitch.errors import ConfigError


def nearest(word: str, known: Iterable[str]) -> str:
    """`, the nearest is 'loss'`, to follow what is said of `word`; empty when nothing is near.

    Capitals make no difference, and a word that is meant to be continued is near to its continuation.
    """
    by_lower = {each.lower(): each for each in known}
    found = difflib.get_close_matches(word.lower(), by_lower, 1)
    if not found and len(word) > 1:
        found = [each for each in by_lower if each.startswith(word.lower())][:1]
    return f", the nearest is {by_lower[found[0]]!r}" if found else ""


def unknown(path: str, what: str, word: str, known: Iterable[str]) -> ConfigError:
    """The error that `what` has no such word, as in `unknown("s1", "a wire has no setting", "los", …)`."""
    known = list(known)
    return ConfigError(path, f"{what} {word!r}{nearest(word, known)}", ", ".join(known) or "none")
