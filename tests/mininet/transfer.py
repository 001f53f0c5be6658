# SPDX-License-Identifier: Apache-2.0
"""Run in a VM: sends seeded random bytes over TCP, or receives them; prints their SHA-256.

`transfer.py receive PORT` | `transfer.py send IP PORT BYTES SEED`
"""

from __future__ import annotations

import hashlib
import random
import socket
import sys

CHUNK = 1 << 16


def receive(port: str) -> str:
    digest = hashlib.sha256()
    with socket.create_server(("", int(port))) as listener:
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(CHUNK):
                digest.update(data)
            connection.sendall(digest.hexdigest().encode())
    return digest.hexdigest()


def send(address: str, port: str, size: str, seed: str) -> str:
    """Returns what the receiver answers; the sender's own digest is on a second line."""
    source, digest = random.Random(int(seed)), hashlib.sha256()
    with socket.create_connection((address, int(port)), timeout=60) as connection:
        for begin in range(0, int(size), CHUNK):
            data = source.randbytes(min(CHUNK, int(size) - begin))
            digest.update(data)
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(CHUNK).decode()
    return f"{answer}\n{digest.hexdigest()}"


if __name__ == "__main__":
    print({"receive": receive, "send": send}[sys.argv[1]](*sys.argv[2:]))
