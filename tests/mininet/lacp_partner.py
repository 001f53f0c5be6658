# SPDX-License-Identifier: Apache-2.0
"""Run in a host: is the LACP partner behind one interface, as Linux's bonding driver would be (IEEE 802.1AX).

`lacp_partner.py INTERFACE SYSTEM KEY`: asks for the short time-out, sends a LACPDU each second until its
input ends, and prints of each answer, as a line of JSON: the system and port that answer, and the system, key
and port that they take for their partner. It also ends when nobody answers for PATIENCE periods.
"""

from __future__ import annotations

import json
import select
import socket
import sys

from scapy.contrib.lacp import LACP, SlowProtocol
from scapy.layers.l2 import Ether

SLOW_PROTOCOLS, MULTICAST = 0x8809, "01:80:c2:00:00:02"
LACP_SUBTYPE = 1
ACTIVE, SHORT_TIMEOUT, AGGREGATION = 1, 2, 4
PERIOD_S = 1.0
PATIENCE = 10
PORT = 7


def main(interface: str, system: str, key: str) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(SLOW_PROTOCOLS)) as wire:
        wire.bind((interface, SLOW_PROTOCOLS))
        address = wire.getsockname()[4].hex(":")
        request = (
            Ether(src=address, dst=MULTICAST)
            / SlowProtocol(subtype=LACP_SUBTYPE)
            / LACP(
                actor_system=system,
                actor_key=int(key),
                actor_port_number=PORT,
                actor_state=ACTIVE | SHORT_TIMEOUT | AGGREGATION,
                partner_system="00:00:00:00:00:00",
            )
        )
        unanswered = 0
        while unanswered < PATIENCE:
            wire.send(bytes(request))
            unanswered += 1
            readable = [wire]
            while readable:
                readable, _, _ = select.select([wire, sys.stdin], [], [], PERIOD_S)
                if sys.stdin in readable:
                    return
                if readable:
                    frame = Ether(wire.recv(2048))
                    if LACP in frame and frame.src != address:
                        unanswered = 0
                        report(frame[LACP])


def report(answer: LACP) -> None:
    fields = ("actor_system", "actor_port_number", "partner_system", "partner_key", "partner_port_number")
    print(json.dumps({field: getattr(answer, field) for field in fields}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
