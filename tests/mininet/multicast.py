# SPDX-License-Identifier: Apache-2.0
"""Run in a host: joins a multicast group, sends to it, or tells what of it reaches an interface.

`multicast.py join GROUP INTERFACE_IP` | `multicast.py send GROUP INTERFACE_IP BROADCAST COUNT` |
`multicast.py see INTERFACE`

`join` stays a member until its input ends. `see` says `ready`, and prints as JSON the datagrams that come,
whoever is a member, until one says END, which `send` sends to all when it is done.
"""

from __future__ import annotations

import json
import socket
import sys

PORT = 5000
END = "end"
ETH_P_IP = 0x0800
UDP_PAYLOAD = 14 + 20 + 8


def join(group: str, interface_ip: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as member:
        membership = socket.inet_aton(group) + socket.inet_aton(interface_ip)
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        sys.stdin.read()


def send(group: str, interface_ip: str, broadcast: str, count: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface_ip))
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for number in range(int(count)):
            sender.sendto(str(number).encode(), (group, PORT))
        sender.sendto(END.encode(), (broadcast, PORT))


def see(interface: str) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP)) as tap:
        tap.bind((interface, ETH_P_IP))
        print("ready", flush=True)
        seen: list[str] = []
        while END not in seen:
            frame = tap.recv(2048)
            if frame[23] == socket.IPPROTO_UDP and frame[36:38] == PORT.to_bytes(2, "big"):
                length = int.from_bytes(frame[38:40], "big") - 8
                seen.append(frame[UDP_PAYLOAD : UDP_PAYLOAD + length].decode())
        print(json.dumps(seen[:-1]))


if __name__ == "__main__":
    {"join": join, "send": send, "see": see}[sys.argv[1]](*sys.argv[2:])
