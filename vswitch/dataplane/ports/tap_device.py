# SPDX-License-Identifier: Apache-2.0
"""Attaching to a TAP device in a network namespace."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vswitch.errors import ConfigError
from vswitch.layout import VNET_HEADER

TUNSETIFF, TUNSETPERSIST, TUNSETOFFLOAD, TUNSETVNETHDRSZ = 0x400454CA, 0x400454CB, 0x400454D0, 0x400454D8
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE = 0x0002, 0x1000, 0x4000, 0x0100
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN = 1, 2, 4, 8
SIOCGIFFLAGS, SIOCGIFMTU, SIOCGIFTXQLEN, SIOCSIFTXQLEN = 0x8913, 0x8921, 0x8942, 0x8943
KERNEL_QUEUE_LEN = 1000
QUEUE_LEN = 10_000
"""Packets that wait in a TAP for the switch. A real vNIC whose ring is full makes its VM wait; a TAP drops,
and a socket does not know what it has in there (`tun_net_xmit` takes packets off its account). The kernel's
1,000 are too few for four connections with buffers of 16 MB."""
IFF_UP = 1
CLONE_NEWNET = 0x40000000


def namespace_path(name: str) -> str:
    """Path of a namespace that is given as a pid, a name of `ip netns`, or a path; empty: our own."""
    if not name:
        return "/proc/self/ns/net"
    if name.isdigit():
        return f"/proc/{name}/ns/net"
    return name if "/" in name else f"/var/run/netns/{name}"


@contextmanager
def inside_namespace(path: str) -> Iterator[None]:
    """This thread is in another network namespace for a while."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as ours, open(path) as theirs:
        if libc.setns(theirs.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        try:
            yield
        finally:
            libc.setns(ours.fileno(), CLONE_NEWNET)


class TapDevice:
    """A VM's TAP: `fd` reads and writes frames with a virtio-net header.

    A device that is missing is made, and goes with the switch until keep(). Raises ConfigError when the
    namespace or device cannot be had.
    """

    def __init__(self, interface: str, namespace: str, where: str) -> None:
        self.interface = interface
        path = namespace_path(namespace)
        if not Path(path).exists():
            raise ConfigError(where, f"there is no network namespace {namespace}")
        try:
            with inside_namespace(path):
                self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                self.fd = self._attach()
            self._lengthen_queue()
        except FileNotFoundError:
            raise ConfigError(where, "there is no /dev/net/tun", "a kernel with TUN/TAP") from None
        except OSError as error:
            raise ConfigError(where, _reason(interface, error)) from None

    def _attach(self) -> int:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE
            fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", self.interface.encode(), flags))
            fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER))
            fcntl.ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _lengthen_queue(self) -> None:
        """Give the device a queue of `QUEUE_LEN`, unless somebody has set another than the kernel does."""
        if self._ask(SIOCGIFTXQLEN, "i") == KERNEL_QUEUE_LEN:
            request = struct.pack("16si20x", self.interface.encode(), QUEUE_LEN)
            fcntl.ioctl(self._socket, SIOCSIFTXQLEN, request)

    def keep(self) -> None:
        """The device outlives the switch from now on."""
        fcntl.ioctl(self.fd, TUNSETPERSIST, 1)

    def up(self) -> bool:
        """Whether the interface is there and administratively up."""
        flags = self._ask(SIOCGIFFLAGS, "H")
        return flags is not None and bool(flags & IFF_UP)

    def mtu(self) -> int:
        """The interface's MTU; 0 when it is gone."""
        return self._ask(SIOCGIFMTU, "i") or 0

    def _ask(self, request: int, form: str) -> int | None:
        try:
            answer = fcntl.ioctl(self._socket, request, struct.pack("16s24x", self.interface.encode()))
        except OSError:
            return None
        return struct.unpack_from(form, answer, 16)[0]

    def close(self) -> None:
        os.close(self.fd)
        self._socket.close()


def _reason(interface: str, error: OSError) -> str:
    if error.errno == errno.EBUSY:
        return f"the TAP {interface} is in use by another program"
    if error.errno == errno.EINVAL:
        return f"{interface} exists, but not as a multi-queue TAP with virtio-net headers"
    if error.errno == errno.EPERM:
        return f"no permission to use the TAP {interface}: run as root"
    return f"cannot use the TAP {interface}: {error.strerror}"
