# SPDX-License-Identifier: Apache-2.0
"""One OpenFlow connection without I/O: framing, version negotiation, keep-alive. Serves either end.

    connection = Connection(now_ns)
    transport.write(connection.data_to_send())          # the hello
    connection.take_in(data, now_ns)
    for message in connection.messages():               # only well-formed ones of an open session, or None
        ...
    transport.write(connection.data_to_send())

Malformed messages are answered with the OFPT_ERROR they deserve and skipped; the connection ends only when
the framing is lost, the versions do not meet, or the peer is silent. `closed` then says why.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from vswitch.openflow import (
    flow_mod,  # noqa: F401  (registers its messages)
    messages,
    multipart,  # noqa: F401  (registers its messages, and those of groups, meters and queues)
)
from vswitch.openflow.constants import (
    ERROR_DATA_LENGTH,
    VERSION,
    BadRequest,
    ErrorType,
    HelloFailed,
    MessageType,
)
from vswitch.openflow.errors import EXPERIMENTER_ID, ExperimenterError, OpenFlowError
from vswitch.openflow.message import HEADER, Message, decode_message

ECHO_INTERVAL_NS = 5_000_000_000
"""Silence after which the peer is probed; after as much again the connection counts as dead."""

MAX_REASON_LENGTH = 1000
"""Characters of the reason in an Experimenter error: it may quote what came, and grow by that."""


def error_reply(error: OpenFlowError | ExperimenterError, frame: bytes, xid: int) -> messages.Error:
    """The OFPT_ERROR for the message in `frame`."""
    if isinstance(error, ExperimenterError):
        data = struct.pack("!I", EXPERIMENTER_ID) + error.text[:MAX_REASON_LENGTH].encode()
        return messages.Error(ErrorType.EXPERIMENTER, error.exp_type, data, xid=xid)
    data = frame[:ERROR_DATA_LENGTH] if error.data is None else error.data
    return messages.Error(error.type, error.code, data, xid=xid)


class Connection:
    """See the module's docstring. Times are in nanoseconds of any one monotonic clock.

    observer: called with every message after the hellos, sent or received, whole.
    """

    def __init__(
        self,
        now_ns: int,
        echo_interval_ns: int = ECHO_INTERVAL_NS,
        *,
        observer: Callable[[bytes], None] | None = None,
    ) -> None:
        self.established = False
        self.closed: str | None = None
        self.queued_bytes = 0  # of what data_to_send() will give
        self._buffer = bytearray()
        self._output: list[bytes] = []
        self._next_xid = 1
        self._echo_interval_ns = echo_interval_ns
        self._last_heard_ns = now_ns
        self._probed = False
        self._observer = observer
        self.send(messages.Hello(xid=self.next_xid()))

    def next_xid(self) -> int:
        """A transaction id for a message that is not a reply."""
        xid = self._next_xid
        self._next_xid = xid % 0xFFFFFFFF + 1
        return xid

    def send(self, message: Message) -> None:
        """Queue `message`; nothing is queued once the connection has closed."""
        if self.closed is None:
            data = message.encode()
            self._output.append(data)
            self.queued_bytes += len(data)
            self._observe(data)

    def _observe(self, data: bytes) -> None:
        if self._observer is not None and self.established:
            self._observer(data)

    def refuse(self, error: OpenFlowError | ExperimenterError, request: Message) -> None:
        """Answer `request`, which was received and well-formed, with an OFPT_ERROR."""
        self.send(error_reply(error, request.received, request.xid))

    def data_to_send(self) -> bytes:
        data = b"".join(self._output)
        self._output.clear()
        self.queued_bytes = 0
        return data

    def receive(self, data: bytes, now_ns: int) -> list[Message]:
        """The messages that `data` completes. Hellos and echoes are dealt with here."""
        self.take_in(data, now_ns)
        return [message for message in self.messages() if message is not None]

    def take_in(self, data: bytes, now_ns: int) -> None:
        """Note that `data` came; messages() tells what it completes."""
        if self.closed is None:
            self._last_heard_ns = now_ns
            self._probed = False
            self._buffer += data

    def messages(self) -> Iterator[Message | None]:
        """The messages that are complete; None for each that was dealt with here. Each is looked at when its
        turn comes, so that what is answered to those before, is answered before: a barrier ahead of the error
        of what follows it."""
        offset = 0
        while self.closed is None and len(self._buffer) - offset >= HEADER.size:
            length = HEADER.unpack_from(self._buffer, offset)[2]
            if length < HEADER.size:
                self._end_of_framing(bytes(self._buffer[offset : offset + HEADER.size]), length)
                break
            if len(self._buffer) - offset < length:
                break
            frame = bytes(self._buffer[offset : offset + length])
            self._observe(frame)
            message = self._message(frame)
            offset += length
            yield message
        del self._buffer[:offset]

    def attend(self, now_ns: int) -> None:
        """Nobody listened to the peer for a while: its silence tells something from now on only."""
        self._last_heard_ns = now_ns

    def next_timer(self) -> int | None:
        """When handle_timer() is due."""
        if self.closed is not None:
            return None
        return self._last_heard_ns + self._echo_interval_ns * (2 if self._probed else 1)

    def handle_timer(self, now_ns: int) -> None:
        """Probe a silent peer, or give it up."""
        due_ns = self.next_timer()
        if due_ns is None or now_ns < due_ns:
            return
        if self._probed or not self.established:
            self.close("the peer is silent")
            return
        self.send(messages.EchoRequest(xid=self.next_xid()))
        self._probed = True

    def close(self, reason: str) -> None:
        """End the connection after what is queued; `reason` is a phrase for the log."""
        if self.closed is None:
            self.closed = reason

    def _message(self, frame: bytes) -> Message | None:
        """The message in `frame` if it is for the user; whatever else has to happen, happens."""
        version, message_type, _length, xid = HEADER.unpack_from(frame)
        if not self.established:
            self._greet(frame, version, message_type, xid)
            return None
        try:
            if version != VERSION:
                raise OpenFlowError(BadRequest.BAD_VERSION, f"version {version}")
            message = decode_message(frame)
        except (OpenFlowError, ExperimenterError) as error:
            if message_type != MessageType.ERROR:
                self.send(error_reply(error, frame, xid))
            return None
        if isinstance(message, messages.EchoRequest):
            self.send(messages.EchoReply(message.data, xid=xid))
            return None
        if isinstance(message, (messages.EchoReply, messages.Hello)):
            return None
        return message

    def _greet(self, frame: bytes, version: int, message_type: int, xid: int) -> None:
        """The peer's first message: a hello with a version that both speak, or the end (section 6.3.1)."""
        if message_type == MessageType.ERROR and version == VERSION:
            self.close(f"the peer refused the connection ({self._refusal(frame)})")
            return
        if message_type == MessageType.HELLO:
            try:
                versions = messages.Hello.parse(frame[HEADER.size :], xid).versions
            except OpenFlowError:
                versions = None
            if VERSION in versions if versions is not None else version >= VERSION:
                self.established = True
                return
            problem = f"OpenFlow {VERSION:#x} is spoken here, the peer's hello said {version:#x}"
        else:
            problem = f"message type {message_type} came before a hello"
        error = OpenFlowError(HelloFailed.INCOMPATIBLE, data=problem.encode())
        self.send(error_reply(error, frame, xid))
        self.close(problem)

    def turn_away(self, problem: str) -> None:
        """Tell a peer that may not speak here so, and end the connection (section 6.3.1)."""
        data = problem.encode()
        self.send(messages.Error(ErrorType.HELLO_FAILED, HelloFailed.EPERM, data, xid=0))
        self.close(problem)

    @staticmethod
    def _refusal(frame: bytes) -> str:
        try:
            return str(decode_message(frame))
        except OpenFlowError:
            return "malformed error"

    def _end_of_framing(self, header: bytes, length: int) -> None:
        error = OpenFlowError(BadRequest.BAD_LEN, f"header with length {length}")
        self.send(error_reply(error, header, HEADER.unpack(header)[3]))
        self.close(f"the peer sent a header with length {length}")
