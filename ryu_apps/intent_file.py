# SPDX-License-Identifier: Apache-2.0
"""The file that an intent is read from."""

from __future__ import annotations

from pathlib import Path

from ryu_apps.core import intent as intents
from ryu_apps.core.intent import Intent
from vswitch.errors import VSwitchError


def read(path: str | Path) -> Intent:
    """The intent of a file; raises VSwitchError of one sentence that names the file."""
    try:
        return intents.from_yaml(Path(path).read_bytes())
    except OSError as error:
        raise VSwitchError(f"{path}: {error.strerror}") from None
    except VSwitchError as error:
        raise VSwitchError(f"{path}: {error}") from error
