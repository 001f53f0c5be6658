# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.flow_mods PORT`: sends flow-mods to a switch at a rate, and times them.

Every flow-mod adds or deletes the rule of one flow of `experiments.blaster`, in turn, so each changes what
becomes of packets that are on their way: from the rule of all to one of its own, and back. Both output to the
same port. The messages are made here, by OpenFlow 1.3.5, not by the switch's own code.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import sys
import time

from experiments.blaster import FIRST_ADDRESS, FIRST_PORT
from experiments.errors import ExperimentError

VERSION = 4
HELLO, ERROR, ECHO_REQUEST, ECHO_REPLY, FLOW_MOD, BARRIER_REQUEST, BARRIER_REPLY = 0, 1, 2, 3, 14, 20, 21
ADD, DELETE_STRICT = 0, 4
NO_BUFFER = PORT_ANY = GROUP_ANY = 0xFFFFFFFF
PRIORITY = 1000
OUT_PORT = 2
BATCH_S = 0.01  # flow-mods between two barriers are those of 10 ms
IN_FLIGHT = 8  # barriers that may be unanswered
PATIENCE_S = 10.0


def header(kind: int, length: int, xid: int) -> bytes:
    return struct.pack("!BBHI", VERSION, kind, length, xid)


def flow_mod(xid: int, command: int, flow: int) -> bytes:
    """Add or delete the rule of a flow: its source address and port, output to `OUT_PORT` (A.3.4.1)."""
    fields = struct.pack("!HBBH", 0x8000, 5 << 1, 2, 0x0800)  # OXM: eth_type
    fields += struct.pack("!HBBB", 0x8000, 10 << 1, 1, 17)  # ip_proto
    fields += struct.pack("!HBBI", 0x8000, 11 << 1, 4, int(FIRST_ADDRESS))  # ipv4_src
    fields += struct.pack("!HBBH", 0x8000, 15 << 1, 2, FIRST_PORT + flow)  # udp_src
    match = struct.pack("!HH", 1, 4 + len(fields)) + fields
    match += bytes(-len(match) % 8)
    output = struct.pack("!HHIH6x", 0, 16, OUT_PORT, 0)
    instructions = struct.pack("!HH4x", 4, 8 + len(output)) + output if command == ADD else b""
    body = struct.pack("!QQBBHHHIIIH2x", 0, 0, 0, command, 0, 0, PRIORITY, NO_BUFFER, PORT_ANY, GROUP_ANY, 0)
    body += match + instructions
    return header(FLOW_MOD, 8 + len(body), xid) + body


class Session:
    """A connection that sends flow-mods and barriers, and counts what is answered."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.barriers = self.replies = self.errors = 0
        self.waited_s = 0.0  # because the switch was behind
        self.socket.sendall(header(HELLO, 8, 0))

    def send(self, messages: bytes) -> None:
        """Send messages and a barrier; waits while too many barriers are unanswered."""
        self.barriers += 1
        self.socket.sendall(messages + header(BARRIER_REQUEST, 8, self.barriers))
        began = time.monotonic()
        while self.barriers - self.replies >= IN_FLIGHT:
            self.read()
        self.waited_s += time.monotonic() - began

    def finish(self) -> None:
        """Return when all barriers are answered."""
        while self.replies < self.barriers:
            self.read()

    def read(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise ExperimentError("the switch ended the OpenFlow connection")
        self.received += data
        while len(self.received) >= 8:
            _, kind, length, xid = struct.unpack("!BBHI", self.received[:8])
            if len(self.received) < length:
                return
            message, self.received = self.received[:length], self.received[length:]
            self.replies += kind == BARRIER_REPLY
            self.errors += kind == ERROR
            if kind == ECHO_REQUEST:
                self.socket.sendall(header(ECHO_REPLY, length, xid) + message[8:])


def run(port: int, rate: int, seconds: float, flows: int) -> dict[str, float]:
    """Send `rate` flow-mods a second for `seconds`, or as many as the switch answers; a round adds the rules
    of all flows, the next deletes them."""
    session = Session(port)
    most = max(1, int(2 * BATCH_S * rate))  # to one barrier, also of a switch that is behind
    sent, began = 0, time.monotonic()
    while (now := time.monotonic() - began) < seconds:
        due = int((now + BATCH_S) * rate) - sent
        if due > 0:
            batch = range(sent, sent + min(due, most))
            session.send(
                b"".join(
                    flow_mod(number, DELETE_STRICT if number // flows % 2 else ADD, number % flows)
                    for number in batch
                )
            )
            sent = batch.stop
        time.sleep(max(0.0, sent / rate - (time.monotonic() - began)))
    session.finish()
    took = time.monotonic() - began
    return {"flow_mods": sent, "seconds": took, "errors": session.errors, "waited": session.waited_s}


def main(arguments: list[str] | None = None) -> int:
    """Print the outcome as JSON."""
    parser = argparse.ArgumentParser(prog="experiments.flow_mods", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--rate", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--flows", type=int, required=True)
    options = parser.parse_args(arguments)
    print(json.dumps(run(options.port, options.rate, options.seconds, options.flows)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
