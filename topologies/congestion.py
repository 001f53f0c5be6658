# SPDX-License-Identifier: Apache-2.0
"""TCP congestion control of a VM: what its connections start with, whatever the machine's default is.

Linux has a default for each network namespace. Other namespaces than the machine's own may set it only to an
algorithm that is allowed to everybody; the machine's default and Reno always are.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mininet.node import Node

from topologies.errors import LabError

SYSCTL = Path("/proc/sys/net/ipv4")
DEFAULT, ALLOWED, AVAILABLE = (
    SYSCTL / name
    for name in (
        "tcp_congestion_control",
        "tcp_allowed_congestion_control",
        "tcp_available_congestion_control",
    )
)
CUBIC, RENO = "cubic", "reno"


def require_name(node: str, name: str) -> str:
    """Raise LabError for what cannot name an algorithm."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]{1,15}", name):
        raise LabError(f"{node}: congestion={name!r}: {_known()}")
    return name


def start_connections_with(node: Node, name: str) -> str:
    """Have connections of a node start with this algorithm, from the next socket on; returns what they do.

    That is Reno in place of CUBIC where the kernel does not let the node's namespace have that: neither
    paces. Raises LabError when another algorithm cannot be had.
    """
    if _set(node, name):
        return name
    with _allowed_to_everybody(name):
        if _set(node, name):
            return name
    if name == CUBIC and _set(node, RENO):
        return RENO
    if name in AVAILABLE.read_text().split():
        raise LabError(
            f"{node}: congestion={name!r} is not allowed outside of the machine's own network namespace: "
            f"start the lab there, or give {', '.join(sorted(ALLOWED.read_text().split()))}"
        )
    raise LabError(f"{node}: congestion={name!r}: {_known()}")


def _known() -> str:
    return f"this kernel has {', '.join(sorted(AVAILABLE.read_text().split()))}"


def _set(node: Node, name: str) -> bool:
    """Set a node's default; the kernel loads the module of an algorithm that it does not have yet."""
    return node.cmd(f"echo {name} 2>/dev/null >{DEFAULT}; cat {DEFAULT}").split()[-1:] == [name]


@contextmanager
def _allowed_to_everybody(name: str) -> Iterator[None]:
    """Within, the kernel allows an algorithm to all namespaces, if we, in the machine's own, may say so."""
    try:
        file = ALLOWED.open("r+")
    except OSError:
        yield
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)  # another lab would put back what it found
        before = ALLOWED.read_text()
        try:
            ALLOWED.write_text(f"{before.strip()} {name}\n")
        except OSError:  # there is no such algorithm
            yield
            return
        try:
            yield
        finally:
            ALLOWED.write_text(before)
