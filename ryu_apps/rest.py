# SPDX-License-Identifier: Apache-2.0
"""The REST interface as a WSGI application.

GET  /intent        the intent that holds, as JSON
PUT  /intent        YAML or JSON: make it hold; answers {"revision"}, or 400 with {"error"}
POST /intent/check  the same check without the change
GET  /status        {"revision", "switches": {name: {dpid, connected, synced, revision, errors}}}
GET  /offload/explain  who is coalesced in which queue, and why
GET  /formats, GET, PUT, DELETE /formats/NAME   tunnel formats
GET, PUT, PATCH, DELETE /nic/SERVER   the section `nic` of a server

Each change is one of the intent: it is checked as a whole, and the switches get the difference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from ryu_apps.core import checks, offload
from ryu_apps.core import intent as intents
from ryu_apps.core.controller import Controller
from ryu_apps.core.intent import Intent
from ryu_apps.core.sections import NicPolicy
from vswitch.errors import ConfigError, VSwitchError
from vswitch.tunnel_formats import SHIPPED, format_numbers

MAX_BODY = 16 << 20
Answer = tuple[HTTPStatus, dict[str, Any]]


class RestApi:
    """paths: what the server must route here."""

    paths = (
        "/intent", "/intent/check", "/status", "/offload/explain",
        "/formats", "/formats/{name}", "/nic/{name}",
    )  # fmt: skip

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._routes: dict[tuple[str, str], Callable[[str, bytes], Answer]] = {
            ("GET", "/intent"): self._get_intent,
            ("PUT", "/intent"): self._put_intent,
            ("POST", "/intent/check"): self._check_intent,
            ("GET", "/status"): self._get_status,
            ("GET", "/offload/explain"): self._explain,
            ("GET", "/formats"): self._get_formats,
            ("GET", "/formats/{name}"): self._get_format,
            ("PUT", "/formats/{name}"): self._put_format,
            ("DELETE", "/formats/{name}"): self._delete_format,
            ("GET", "/nic/{name}"): self._get_nic,
            ("PUT", "/nic/{name}"): self._put_nic,
            ("PATCH", "/nic/{name}"): self._patch_nic,
            ("DELETE", "/nic/{name}"): self._delete_nic,
        }

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        status, answer = self.answer(environ["REQUEST_METHOD"], environ.get("PATH_INFO", ""), _body(environ))
        body = json.dumps(answer, indent=2).encode() + b"\n"
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response(f"{status.value} {status.phrase}", headers)
        return [body]

    def answer(self, method: str, path: str, body: bytes | None) -> Answer:
        """The status and the JSON object that answer a request; body: None when it is too long."""
        pattern, name = self._pattern(path)
        route = self._routes.get((method, pattern))
        if route is None:
            allowed = [known for known, known_path in self._routes if known_path == pattern]
            if allowed:
                return HTTPStatus.METHOD_NOT_ALLOWED, {"error": f"{path} knows only {', '.join(allowed)}"}
            return HTTPStatus.NOT_FOUND, {"error": f"there is no {path}, only {', '.join(self.paths)}"}
        if body is None:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": f"the body is longer than {MAX_BODY} bytes"}
        try:
            return route(name, body)
        except NotThere as error:
            return HTTPStatus.NOT_FOUND, {"error": str(error)}
        except VSwitchError as error:
            return HTTPStatus.BAD_REQUEST, {"error": str(error)}

    def _pattern(self, path: str) -> tuple[str, str]:
        """Which of `paths` it is, and the name in it."""
        folder, _, name = path.rpartition("/")
        pattern = f"{folder}/{{name}}"
        return (pattern, name) if name and pattern in self.paths else (path, "")

    def _get_intent(self, _name: str, _: bytes) -> Answer:
        return HTTPStatus.OK, self._controller.intent.to_object()

    def _put_intent(self, _name: str, body: bytes) -> Answer:
        return HTTPStatus.OK, {"revision": self._controller.set_intent(_intent(body))}

    def _check_intent(self, _name: str, body: bytes) -> Answer:
        return HTTPStatus.OK, {"revision": _intent(body).revision()}

    def _get_status(self, _name: str, _: bytes) -> Answer:
        return HTTPStatus.OK, self._controller.status()

    def _explain(self, _name: str, _: bytes) -> Answer:
        return HTTPStatus.OK, offload.explain(self._controller.intent)

    # Tunnel formats

    def _get_formats(self, _name: str, _: bytes) -> Answer:
        rows = self._controller.intent.format_rows()
        return HTTPStatus.OK, {name: format_numbers(row) for name, row in sorted(rows.items())}

    def _get_format(self, name: str, _: bytes) -> Answer:
        return HTTPStatus.OK, format_numbers(_there(self._controller.intent.format_rows(), name, "format"))

    def _put_format(self, name: str, body: bytes) -> Answer:
        numbers = _given(body, f"formats.{name}", "the format's numbers")
        return self._change(lambda document: document["formats"].__setitem__(name, numbers))

    def _delete_format(self, name: str, _: bytes) -> Answer:
        def delete(document: dict[str, Any]) -> None:
            if name in SHIPPED:
                raise ConfigError(f"formats.{name}", "is a shipped format, which stays")
            _there(document["formats"], name, "format")
            del document["formats"][name]

        return self._change(delete)

    # NICs

    def _get_nic(self, name: str, _: bytes) -> Answer:
        document = self._controller.intent.to_object()
        _there(document["servers"], name, "server")
        return HTTPStatus.OK, document["nic"].get(name, {})

    def _put_nic(self, name: str, body: bytes) -> Answer:
        policy = _given(body, f"nic.{name}", f"the section; DELETE /nic/{name} goes back to the defaults")

        def put(document: dict[str, Any]) -> None:
            _there(document["servers"], name, "server")
            document["nic"][name] = policy

        return self._change(put)

    def _patch_nic(self, name: str, body: bytes) -> Answer:
        """What the body names takes the place of what was there; null goes back to the default."""
        allowed = f"the keys to change; DELETE /nic/{name} goes back to the defaults"
        changes = checks.mapping(f"nic.{name}", _given(body, f"nic.{name}", allowed))
        known = NicPolicy.__struct_fields__

        def patch(document: dict[str, Any]) -> None:
            _there(document["servers"], name, "server")
            for key in changes:
                if key not in known:
                    raise ConfigError(f"nic.{name}.{key}", "is not a known key", checks.listing(known))
            section = {**document["nic"].get(name, {}), **changes}
            document["nic"][name] = {key: value for key, value in section.items() if value is not None}

        return self._change(patch)

    def _delete_nic(self, name: str, _: bytes) -> Answer:
        def delete(document: dict[str, Any]) -> None:
            _there(document["servers"], name, "server")
            document["nic"].pop(name, None)

        return self._change(delete)

    def _change(self, change: Callable[[dict[str, Any]], None]) -> Answer:
        return HTTPStatus.OK, {"revision": self._controller.change_intent(change)}


class NotThere(VSwitchError):
    """The name in a path is nobody's."""


def _there(entries: dict[str, Any], name: str, what: str) -> Any:
    if name not in entries:
        raise NotThere(f"there is no {what} {name!r} (there are: {checks.listing(sorted(entries))})")
    return entries[name]


def _given(body: bytes, path: str, allowed: str) -> object:
    """The body's plain values. One that holds nothing, or null, is a client's mistake: an empty intent would
    take every rule away."""
    document = intents.parsed(body)
    if document is None:
        raise ConfigError(path, "the body is null" if body.strip() else "the body is empty", allowed)
    return document


def _intent(body: bytes) -> Intent:
    return intents.from_object(_given(body, "intent", "an intent; {} for one without servers"))


def _body(environ: dict[str, Any]) -> bytes | None:
    length = int(environ.get("CONTENT_LENGTH") or 0)
    return environ["wsgi.input"].read(length) if length <= MAX_BODY else None
