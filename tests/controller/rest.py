# SPDX-License-Identifier: Apache-2.0
"""The REST interface without a server and switches, for tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ryu_apps.core.controller import Controller
from ryu_apps.core.intent import Intent
from ryu_apps.resources import Counters, Resources
from ryu_apps.rest import RestApi


def rest_api(
    controller: Controller, read_intent: Callable[[], Intent] = Intent, counters: Counters = lambda dpids: {}
) -> RestApi:
    return RestApi(Resources(controller, read_intent, counters))


def asks(api: RestApi, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """The status and the answer, as a client sees it."""
    status, answer = api.answer(method, path, b"" if body is None else json.dumps(body).encode())
    return status.value, json.loads(json.dumps(answer))
