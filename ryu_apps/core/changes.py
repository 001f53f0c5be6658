# SPDX-License-Identifier: Apache-2.0
"""How two intents differ, by path. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ryu_apps.core.intent import Intent

MAX_VALUE = 70
"""Characters of a value in a sentence."""

Changes = dict[str, dict[str, Any]]
"""By path, as `vms.vm1.port`: the value as `old` and as `new`. What came has no `old`, what went no `new`."""


def changes(old: Intent, new: Intent) -> Changes:
    """Entries that came or went are one change each, and so is a list with another content."""
    return dict(_differences("", old.to_object(), new.to_object()))


def sentences(changes: Changes) -> list[str]:
    """A line for each change, as people read it."""
    return [f"{path}: {_sentence(change)}" for path, change in changes.items()]


def _differences(path: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for key in {**old, **new}:
        place = f"{path}.{key}" if path else key
        if key not in old:
            yield place, {"new": new[key]}
        elif key not in new:
            yield place, {"old": old[key]}
        elif old[key] == new[key]:
            continue
        elif isinstance(old[key], dict) and isinstance(new[key], dict):
            yield from _differences(place, old[key], new[key])
        else:
            yield place, {"old": old[key], "new": new[key]}


def _sentence(change: dict[str, Any]) -> str:
    if "old" not in change:
        return "added"
    if "new" not in change:
        return "removed"
    return f"{_short(change['old'])} -> {_short(change['new'])}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}…"
