# SPDX-License-Identifier: Apache-2.0
"""What the REST interface knows: each request with what it does, and its answer.

Each change is one of the intent: it is checked as a whole, and the switches get the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple

import yaml

from ryu_apps.core import checks, offload
from ryu_apps.core import intent as intents
from ryu_apps.core.changes import changes
from ryu_apps.core.controller import Controller, Outcome
from ryu_apps.core.intent import Intent
from ryu_apps.core.rules import desired_states
from ryu_apps.core.sections import NicPolicy
from vswitch.errors import ConfigError, VSwitchError
from vswitch.tunnel_formats import SHIPPED, format_numbers
from vswitch.words import nearest

Answer = tuple[HTTPStatus, dict[str, Any]]
Counters = Callable[[list[int]], dict[int, dict[str, Any]]]
"""What the switches of these datapath ids have counted; of one that does not answer `{"error": sentence}`."""

LOST_LINES = "curl -d @FILE takes the line breaks out of YAML: use --data-binary @FILE"


_ENDS = (yaml.BlockEndToken, yaml.StreamEndToken)
"""YAML's tokens that stand behind a comment."""


class NotThere(VSwitchError):
    """The name in a path is nobody's."""


class Unanswered(VSwitchError):
    """A switch is not connected, or does not answer."""


class Route(NamedTuple):
    """A request that is known.

    answer: takes the name in the path, and the body. says: what it does. body: what the body is; empty: none
    is taken.
    """

    answer: Callable[[str, bytes], Answer]
    says: str
    body: str = ""


class Resources:
    """The answers to all requests, which raise VSwitchError for what cannot be.

    read_intent: reads the intent file anew. counters: asks the switches. aside: calls a function that takes
    long, so that others are served meanwhile.
    """

    def __init__(
        self,
        controller: Controller,
        read_intent: Callable[[], Intent],
        counters: Counters,
        aside: Callable[..., Any] = lambda function, *arguments: function(*arguments),
    ) -> None:
        self._controller = controller
        self._aside = aside
        self._read_intent = read_intent
        self._counters = counters

    def routes(self) -> dict[tuple[str, str], Route]:
        """By method and path."""
        an_intent, a_section = "an intent, YAML or JSON", "the section, YAML or JSON"
        return {
            ("GET", "/"): Route(self._list, "this list"),
            ("GET", "/intent"): Route(self._get_intent, "the intent that holds"),
            ("PUT", "/intent"): Route(self._put_intent, "make an intent hold", an_intent),
            ("POST", "/intent/check"): Route(self._check_intent, "the same check, and no change", an_intent),
            ("POST", "/intent/reload"): Route(self._reload_intent, "make the edited intent file hold"),
            ("GET", "/status"): Route(self._get_status, "by switch: connected, synced, errors"),
            ("GET", "/counters"): Route(self._get_all_counters, "by switch: what it has counted"),
            ("GET", "/counters/{name}"): Route(self._get_counters, "what one switch has counted"),
            ("GET", "/offload/explain"): Route(self._explain, "who is coalesced in which queue, and why"),
            ("GET", "/formats"): Route(self._get_formats, "all tunnel formats"),
            ("GET", "/formats/{name}"): Route(self._get_format, "a tunnel format"),
            ("PUT", "/formats/{name}"): Route(self._put_format, "add a format, or change it", "its numbers"),
            ("DELETE", "/formats/{name}"): Route(self._delete_format, "remove a format"),
            ("GET", "/nic"): Route(self._get_nics, "by server: the section nic of the intent"),
            ("GET", "/nic/{name}"): Route(self._get_nic, "the section nic of a server"),
            ("PUT", "/nic/{name}"): Route(self._put_nic, "replace the section", a_section),
            ("PATCH", "/nic/{name}"): Route(self._patch_nic, "change keys of the section", "these keys"),
            ("DELETE", "/nic/{name}"): Route(self._delete_nic, "back to the defaults"),
        }

    def _list(self, _name: str, _: bytes) -> Answer:
        return HTTPStatus.OK, {
            f"{method} {path}": route.says + (f"; the body: {route.body}" if route.body else "")
            for (method, path), route in self.routes().items()
        }

    # The intent

    def _get_intent(self, _name: str, _: bytes) -> Answer:
        return HTTPStatus.OK, self._controller.intent.to_object()

    def _put_intent(self, _name: str, body: bytes) -> Answer:
        return self._set_intent(self._aside(_intent, body))

    def _check_intent(self, _name: str, body: bytes) -> Answer:
        intent = self._aside(_intent, body)
        return HTTPStatus.OK, {
            "revision": intent.revision(),
            "changes": changes(self._controller.intent, intent),
            **self._controller.unfit(intent),
        }

    def _reload_intent(self, _name: str, _: bytes) -> Answer:
        return self._set_intent(self._aside(self._read_intent))

    def _set_intent(self, intent: Intent) -> Answer:
        return _done(self._controller.set_intent(intent, self._aside(desired_states, intent)))

    # What there is

    def _get_status(self, _name: str, _: bytes) -> Answer:
        return HTTPStatus.OK, self._controller.status()

    def _get_all_counters(self, _name: str, _: bytes) -> Answer:
        switches = self._controller.switches()
        counted = self._counters(list(switches.values()))
        return HTTPStatus.OK, {name: counted[dpid] for name, dpid in switches.items()}

    def _get_counters(self, name: str, _: bytes) -> Answer:
        dpid = _there(self._controller.switches(), name, "switch")
        counted = self._counters([dpid])[dpid]
        if "error" in counted:
            raise Unanswered(f"{name}: {counted['error']}")
        return HTTPStatus.OK, counted

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

    def _get_nics(self, _name: str, _: bytes) -> Answer:
        document = self._controller.intent.to_object()
        return HTTPStatus.OK, {server: document["nic"].get(server, {}) for server in document["servers"]}

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
        changed = checks.mapping(f"nic.{name}", _given(body, f"nic.{name}", allowed))

        def patch(document: dict[str, Any]) -> None:
            _there(document["servers"], name, "server")
            checks.known_keys(f"nic.{name}", changed, NicPolicy.__struct_fields__)
            section = {**document["nic"].get(name, {}), **changed}
            document["nic"][name] = {key: value for key, value in section.items() if value is not None}

        return self._change(patch)

    def _delete_nic(self, name: str, _: bytes) -> Answer:
        def delete(document: dict[str, Any]) -> None:
            _there(document["servers"], name, "server")
            document["nic"].pop(name, None)

        return self._change(delete)

    def _change(self, change: Callable[[dict[str, Any]], None]) -> Answer:
        return _done(self._controller.change_intent(change))


def _done(outcome: Outcome) -> Answer:
    return HTTPStatus.OK, {
        "revision": outcome.revision,
        "changes": outcome.changes,
        "steps": outcome.steps,
        **outcome.unfit,
    }


def _there(entries: dict[str, Any], name: str, what: str) -> Any:
    if name not in entries:
        known = checks.listing(sorted(entries))
        raise NotThere(f"there is no {what} {name!r}{nearest(name, entries)} (there are: {known})")
    return entries[name]


def _intent(body: bytes) -> Intent:
    return intents.from_object(_given(body, "intent", "an intent; {} for one without servers"))


def _given(body: bytes, path: str, allowed: str) -> object:
    """The body's plain values. One that holds nothing, or null, is a client's mistake: an empty intent would
    take every rule away."""
    if _hides_in_a_comment(body):
        raise ConfigError(path, f"what follows # in the body's only line is a comment; {LOST_LINES}")
    try:
        document = intents.parsed(body)
    except ConfigError as error:
        if _is_block_in_one_line(body):
            raise ConfigError(error.path, f"{error.what}; {LOST_LINES}", error.allowed) from error
        raise
    if document is None:
        raise ConfigError(path, "the body is null" if body.strip() else "the body is empty", allowed)
    return document


def _is_block_in_one_line(body: bytes) -> bool:
    """Whether it has several keys in one line, and not in braces as JSON has them."""
    return b"\n" not in body and body.count(b":") > 1 and not body.lstrip().startswith((b"{", b"["))


def _hides_in_a_comment(body: bytes) -> bool:
    """Whether a body of one line ends with a comment that may have been the rest of a file."""
    if b"#" not in body or b"\n" in body:
        return False
    try:
        text = body.decode()
        content = (token for token in yaml.scan(text) if not isinstance(token, _ENDS))
        last = max(token.end_mark.index for token in content)
    except (yaml.YAMLError, UnicodeDecodeError):
        return False  # what parses it says what is wrong
    return ":" in text[last:]
