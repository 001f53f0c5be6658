# SPDX-License-Identifier: Apache-2.0
"""The REST interface as a WSGI application.

GET  /intent        the intent that holds, as JSON
PUT  /intent        YAML or JSON: make it hold; answers {"revision"}, or 400 with {"error"}
POST /intent/check  the same check without the change
GET  /status        {"revision", "switches": {name: {dpid, connected, synced, revision, errors}}}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from ryu_apps.core import intent as intents
from ryu_apps.core.controller import Controller
from vswitch.errors import VSwitchError

MAX_BODY = 16 << 20
Answer = tuple[HTTPStatus, dict[str, Any]]


class RestApi:
    """paths: what the server must route here."""

    paths = ("/intent", "/intent/check", "/status")

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._routes: dict[tuple[str, str], Callable[[bytes], Answer]] = {
            ("GET", "/intent"): self._get_intent,
            ("PUT", "/intent"): self._put_intent,
            ("POST", "/intent/check"): self._check_intent,
            ("GET", "/status"): self._get_status,
        }

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        status, answer = self.answer(environ["REQUEST_METHOD"], environ.get("PATH_INFO", ""), _body(environ))
        body = json.dumps(answer, indent=2).encode() + b"\n"
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response(f"{status.value} {status.phrase}", headers)
        return [body]

    def answer(self, method: str, path: str, body: bytes | None) -> Answer:
        """The status and the JSON object that answer a request; body: None when it is too long."""
        route = self._routes.get((method, path))
        if route is None:
            allowed = [known for known, known_path in self._routes if known_path == path]
            if allowed:
                return HTTPStatus.METHOD_NOT_ALLOWED, {"error": f"{path} knows only {', '.join(allowed)}"}
            return HTTPStatus.NOT_FOUND, {"error": f"there is no {path}, only {', '.join(self.paths)}"}
        if body is None:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": f"the body is longer than {MAX_BODY} bytes"}
        try:
            return route(body)
        except VSwitchError as error:
            return HTTPStatus.BAD_REQUEST, {"error": str(error)}

    def _get_intent(self, _: bytes) -> Answer:
        return HTTPStatus.OK, self._controller.intent.to_object()

    def _put_intent(self, body: bytes) -> Answer:
        return HTTPStatus.OK, {"revision": self._controller.set_intent(intents.from_yaml(body))}

    def _check_intent(self, body: bytes) -> Answer:
        return HTTPStatus.OK, {"revision": intents.from_yaml(body).revision()}

    def _get_status(self, _: bytes) -> Answer:
        return HTTPStatus.OK, self._controller.status()


def _body(environ: dict[str, Any]) -> bytes | None:
    length = int(environ.get("CONTENT_LENGTH") or 0)
    return environ["wsgi.input"].read(length) if length <= MAX_BODY else None
