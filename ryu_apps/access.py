# SPDX-License-Identifier: Apache-2.0
"""Who may use REST: whoever shows the token (RFC 6750), which stands in a file that only its owner reads.

A port of the loopback interface is open to every user of the machine, and REST rewrites the network.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

from vswitch.errors import VSwitchError

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
TOKEN_BYTES = 32
PATTERN = r"[A-Za-z0-9._~+/-]{16,}=*"
"""What RFC 6750 lets a token consist of, and no less than nobody guesses."""

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Token(NamedTuple):
    """What a request must show, and the file in which it stands."""

    value: str
    file: Path


def default_file(rest_port: int) -> Path:
    """Where the token of a controller stands that was given no file."""
    return Path.home() / ".mininet-offload" / f"rest-{rest_port}.token"


def token(file: Path) -> Token:
    """The token in `file`, which is made with a new one if it is missing; raises VSwitchError."""
    file = file.absolute()
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            make(file)
        text = _read(file)
    except OSError as error:
        raise VSwitchError(f"cannot use the token file {file}: {error.strerror}") from None
    if not re.fullmatch(PATTERN, text):
        raise VSwitchError(
            f"{file} holds no token, which is one word of 16 letters and digits or more: write one there, or "
            "remove the file, and a new one is made"
        )
    return Token(text, file)


def make(file: Path) -> None:
    """Write a new token to a new file. Raises OSError, FileExistsError for one."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w") as opened:
        opened.write(f"{secrets.token_urlsafe(TOKEN_BYTES)}\n")


def _read(file: Path) -> str:
    with file.open(errors="replace") as opened:
        mode = os.fstat(opened.fileno()).st_mode
        if stat.S_ISREG(mode) and mode & _OTHERS:
            raise VSwitchError(f"others than its owner may use the token file {file}: chmod 600 {file}")
        return opened.read().strip()


def guarded(application: Wsgi, token: Token | None) -> Wsgi:
    """`application` for those only who show the token; for everybody when there is none."""
    if token is None:
        return application
    expected = token.value.encode()

    def guard(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        scheme, _, shown = environ.get("HTTP_AUTHORIZATION", "").strip().partition(" ")
        bearer = scheme.lower() == "bearer"
        if bearer and hmac.compare_digest(shown.strip().encode("latin-1", "replace"), expected):
            return application(environ, start_response)
        problem = "the token is not the one" if bearer else "say `Authorization: Bearer TOKEN` with the token"
        body = json.dumps({"error": f"{problem} that stands in {token.file}"}, indent=2).encode() + b"\n"
        status = HTTPStatus.UNAUTHORIZED
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("WWW-Authenticate", "Bearer"),
        ]
        start_response(f"{status.value} {status.phrase}", headers)
        return [body]

    return guard
