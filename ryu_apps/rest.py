# SPDX-License-Identifier: Apache-2.0
"""The REST interface as a WSGI application: which request it is, and the answer as JSON. What can be asked,
and how it is answered: `ryu_apps.resources`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from ryu_apps.core import checks
from ryu_apps.resources import Answer, NotThere, Resources, Unanswered
from vswitch.errors import ConfigError, VSwitchError
from vswitch.words import nearest

MAX_BODY = 4 << 20
"""Bytes: three times an intent of 1,000 servers with ten VMs each."""


class RestApi:
    """paths: what the server must route here."""

    def __init__(self, resources: Resources) -> None:
        self._routes = resources.routes()
        self.paths = tuple(dict.fromkeys(path for _, path in self._routes))

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        status, answer = self.answer(
            environ["REQUEST_METHOD"],
            environ.get("PATH_INFO", ""),
            _body(environ),
            environ.get("QUERY_STRING", ""),
        )
        body = json.dumps(answer, indent=2).encode() + b"\n"
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response(f"{status.value} {status.phrase}", headers)
        return [body]

    def answer(self, method: str, path: str, body: bytes | None, query: str = "") -> Answer:
        """The status and the JSON object that answer a request; body: None when it is too long."""
        pattern, name = self._pattern(path)
        route = self._routes.get((method, pattern))
        if route is None:
            return self._no_route(method, path, pattern)
        if body is None:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": f"the body is longer than {MAX_BODY} bytes"}
        try:
            _require_nothing(f"{method} {path}", query, b"" if route.body else body)
            return route.answer(name, body)
        except NotThere as error:
            return HTTPStatus.NOT_FOUND, {"error": str(error)}
        except Unanswered as error:
            return HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(error)}
        except VSwitchError as error:
            return HTTPStatus.BAD_REQUEST, {"error": str(error)}

    def _no_route(self, method: str, path: str, pattern: str) -> Answer:
        allowed = [known for known, known_path in self._routes if known_path == pattern]
        if allowed:
            what = f"there is no method {method!r}{nearest(method, allowed)}"
            return HTTPStatus.METHOD_NOT_ALLOWED, {
                "error": str(ConfigError(path, what, checks.listing(allowed)))
            }
        name = path.rpartition("/")[2]
        like_it = [known for known in self.paths if known.count("/") == path.rstrip("/").count("/")]
        instead = nearest(path, [known.replace("{name}", name) for known in like_it])
        what = f"there is no such path{instead}"
        return HTTPStatus.NOT_FOUND, {"error": str(ConfigError(path, what, checks.listing(self.paths)))}

    def _pattern(self, path: str) -> tuple[str, str]:
        """Which of `paths` it is, and the name in it."""
        folder, _, name = path.rpartition("/")
        pattern = f"{folder}/{{name}}"
        if name and path not in self.paths and pattern in self.paths:
            return pattern, name
        return path, ""


def _require_nothing(request: str, query: str, body: bytes) -> None:
    """Raise ConfigError for what nobody would read: parameters, or a body where none is taken."""
    for parameter, _ in parse_qsl(query, keep_blank_values=True):
        raise ConfigError(request, f"there is no parameter {parameter!r}", "none")
    if body.strip():
        raise ConfigError(request, "takes no body")


def _body(environ: dict[str, Any]) -> bytes | None:
    length = environ.get("CONTENT_LENGTH") or "0"
    return environ["wsgi.input"].read(int(length)) if length.isdecimal() and int(length) <= MAX_BODY else None
