# SPDX-License-Identifier: Apache-2.0
"""Multipart requests that come in several messages (1.3.5, section 7.3.5: OFPMPF_REQ_MORE)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vswitch.openflow.constants import BadRequest
from vswitch.openflow.errors import OpenFlowError

MAX_REQUEST_BYTES = 1 << 20
"""Of all unfinished requests of a session."""

MAX_REQUESTS = 16
"""Unfinished requests of a session, and refused ones of which the rest is to come."""


@dataclass(slots=True)
class _Unfinished:
    """body: None when the request was refused. first: the message that began it."""

    body: bytearray | None
    first: bytes


class RequestParts:
    """Joins the requests of one session, by their transaction ids.

    When they are more than there is room for, the one that got no part for the longest time gives way:
    `give_up` is called with the error that it deserves, its first message, and its id. Otherwise a request
    that is never finished would be in the way of all others.
    """

    def __init__(self, give_up: Callable[[OpenFlowError, bytes, int], None]) -> None:
        self._give_up = give_up
        self._unfinished: dict[int, _Unfinished] = {}  # the one that waits longest first

    def join(self, xid: int, frame: bytes, part: bytes, more: bool) -> bytes | None:
        """The body of the request as a whole, when `part`, which came in `frame`, is its last.

        None: the rest is to come, or the request was refused. Raises OpenFlowError when it is too long.
        """
        request = self._unfinished.pop(xid, None)
        if request is None:
            if not more:
                return part
            request = _Unfinished(bytearray(), frame)
        if request.body is not None:
            request.body += part
            if not more:
                return bytes(request.body)
        if more:
            self._unfinished[xid] = request
            self._make_room(xid)
        return None

    def _make_room(self, newest: int) -> None:
        while len(self._unfinished) > MAX_REQUESTS:
            xid = next(iter(self._unfinished))
            self._refuse(xid)
            del self._unfinished[xid]
        for xid, request in list(self._unfinished.items()):
            if self._size() <= MAX_REQUEST_BYTES:
                return
            if xid == newest:
                request.body = None
                raise _overflow()
            self._refuse(xid)

    def _refuse(self, xid: int) -> None:
        """Give a request up; what still comes of it is no request of its own."""
        request = self._unfinished[xid]
        if request.body is not None:
            request.body = None
            self._give_up(_overflow(), request.first, xid)

    def _size(self) -> int:
        return sum(len(request.body) for request in self._unfinished.values() if request.body is not None)


def _overflow() -> OpenFlowError:
    text = f"more than {MAX_REQUEST_BYTES} bytes or {MAX_REQUESTS} requests unfinished"
    return OpenFlowError(BadRequest.MULTIPART_BUFFER_OVERFLOW, text)
