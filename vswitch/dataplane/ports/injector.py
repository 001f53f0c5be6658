# SPDX-License-Identifier: Apache-2.0
"""Sending super-frames that are in a tunnel over UDP out of an interface, whole.

A packet socket's virtio-net header has no word for the tunnel, and the kernel refuses what it then takes for
segments of the outer packet. A TAP's header has one (Linux 6.17, virtio 1.4): what is written to a TAP whose
incoming packets tc redirects to the interface leaves there as a host's own super-frames do.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import struct
import subprocess
from pathlib import Path

from vswitch.dataplane.ports.tap_device import (
    IFF_NO_PI,
    IFF_TAP,
    IFF_UP,
    IFF_VNET_HDR,
    TUN_F_CSUM,
    TUN_F_TSO4,
    TUN_F_TSO6,
    TUN_F_TSO_ECN,
    TUNSETIFF,
    TUNSETOFFLOAD,
    TUNSETVNETHDRSZ,
)
from vswitch.layout import TUNNEL_VNET_HEADER

log = logging.getLogger(__name__)

TUN_F_USO4, TUN_F_USO6, TUN_F_UDP_TUNNEL_GSO, TUN_F_UDP_TUNNEL_GSO_CSUM = 0x20, 0x40, 0x80, 0x100
OFFLOADS = (
    TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_USO4 | TUN_F_USO6
    | TUN_F_UDP_TUNNEL_GSO | TUN_F_UDP_TUNNEL_GSO_CSUM
)  # fmt: skip
SIOCSIFFLAGS = 0x8914
TC_TIMEOUT_S = 5.0


class Injector:
    """A TAP, gone with the process, whose incoming packets leave by `interface`. `fd`: written to.

    Raises OSError when the kernel, or tc, has not what it takes.
    """

    def __init__(self, interface: str) -> None:
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            request = struct.pack("16sH22x", b"inject%d", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
            name = fcntl.ioctl(self.fd, TUNSETIFF, request)[:16].rstrip(b"\0").decode()
            fcntl.ioctl(self.fd, TUNSETVNETHDRSZ, struct.pack("i", TUNNEL_VNET_HEADER))
            fcntl.ioctl(self.fd, TUNSETOFFLOAD, OFFLOADS)
            silence = Path("/proc/sys/net/ipv6/conf", name, "disable_ipv6")
            if silence.exists():
                silence.write_text("1")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                fcntl.ioctl(asking, SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), IFF_UP))
            _tc("qdisc", "add", "dev", name, "ingress")
            _tc(
                *("filter", "add", "dev", name, "parent", "ffff:", "protocol", "all", "u32"),
                *("match", "u32", "0", "0", "action", "mirred", "egress", "redirect", "dev", interface),
            )
        except BaseException:
            os.close(self.fd)
            raise

    def close(self) -> None:
        os.close(self.fd)


def _tc(*words: str) -> None:
    try:
        result = subprocess.run(["tc", *words], capture_output=True, text=True, timeout=TC_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise OSError(f"tc {words[0]} does not end") from None
    if result.returncode:
        raise OSError(f"tc {words[0]}: {result.stderr.strip()}")
