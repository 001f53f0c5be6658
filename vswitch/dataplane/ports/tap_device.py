# SPDX-License-Identifier: Apache-2.0
"""Attaching to a TAP device in a network namespace."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from vswitch.errors import ConfigError
from vswitch.layout import VNET_HEADER

log = logging.getLogger(__name__)

TUNSETIFF, TUNSETPERSIST, TUNSETOFFLOAD, TUNGETIFF, TUNSETVNETHDRSZ = (
    0x400454CA, 0x400454CB, 0x400454D0, 0x800454D2, 0x400454D8,
)  # fmt: skip
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE = 0x0002, 0x1000, 0x4000, 0x0100
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN = 1, 2, 4, 8
SIOCGIFFLAGS, SIOCGIFMTU, SIOCGIFINDEX, SIOCGIFTXQLEN, SIOCSIFTXQLEN = (
    0x8913, 0x8921, 0x8933, 0x8942, 0x8943,
)  # fmt: skip
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

    A device that is missing is made, and goes with the switch until keep(). The TAP is whatever has the name
    in the namespace: when it is removed, renamed or moved, `fd` belongs to nothing until look() meets the
    next of that name. Its number stays, so that the worker need not know.

    Raises ConfigError when the namespace or device cannot be had.
    """

    def __init__(self, interface: str, namespace: str, where: str) -> None:
        self.interface = interface
        self._index = 0  # of the interface that `fd` belongs to
        self._refused = ""  # why the interface that has the name now is of no use
        try:
            self._namespace = os.open(namespace_path(namespace), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ConfigError(where, f"there is no network namespace {namespace}") from None
        with ExitStack() as opened:
            opened.callback(os.close, self._namespace)
            try:
                with self._inside():
                    self._socket = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                self.fd = self._open()
                opened.callback(os.close, self.fd)
                self._attach()
            except FileNotFoundError:
                raise ConfigError(where, "there is no /dev/net/tun", "a kernel with TUN/TAP") from None
            except OSError as error:
                raise ConfigError(where, _reason(interface, error)) from None
            self._opened = opened.pop_all()

    def _inside(self) -> AbstractContextManager[None]:
        return inside_namespace(f"/proc/self/fd/{self._namespace}")

    def _open(self) -> int:
        """A descriptor that may become a queue of a TAP in the namespace."""
        with self._inside():
            return os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def _attach(self) -> None:
        """Make `fd` a queue of the interface of our name. Raises OSError."""
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
        try:
            self._belong_to(flags | IFF_MULTI_QUEUE)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._belong_to(flags)  # one that was made with a single queue, which is `ip tuntap`'s default
        fcntl.ioctl(self.fd, TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER))
        fcntl.ioctl(self.fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN)
        self._index = self._find()
        self._lengthen_queue()

    def _belong_to(self, flags: int) -> None:
        fcntl.ioctl(self.fd, TUNSETIFF, struct.pack("16sH22x", self.interface.encode(), flags))

    def _lengthen_queue(self) -> None:
        """Give the device a queue of `QUEUE_LEN`, unless somebody has set another than the kernel does."""
        if self._ask(SIOCGIFTXQLEN, "i") == KERNEL_QUEUE_LEN:
            request = struct.pack("16si20x", self.interface.encode(), QUEUE_LEN)
            try:
                fcntl.ioctl(self._socket, SIOCSIFTXQLEN, request)
            except PermissionError:  # it is there and carries, with more loss under load
                log.info("%s: no permission to give it a queue of %d packets", self.interface, QUEUE_LEN)

    def keep(self) -> None:
        """The device outlives the switch from now on."""
        fcntl.ioctl(self.fd, TUNSETPERSIST, 1)

    def look(self) -> tuple[bool, int]:
        """Whether the interface is there, ours and administratively up, and its MTU (0: it is gone)."""
        index = self._find()
        if index != self._index or (index and not self._attached()):
            self._meet(index)
        flags = self._ask(SIOCGIFFLAGS, "H") or 0
        return bool(self._index and flags & IFF_UP), self._ask(SIOCGIFMTU, "i") or 0

    def _meet(self, index: int) -> None:
        """Leave the interface that `fd` belongs to, and take the one that has our name now, if one has."""
        if self._index:
            log.info("%s: the interface is gone, and the port down", self.interface)
        self._index = 0
        try:
            if self._attached():  # to one that has another name now, or is elsewhere
                self._detach()
            if not index:
                return
            self._attach()
            if self._index != index:  # it went meanwhile, and the kernel has made another one
                self._index = 0
                self._detach()
                return
        except OSError as error:
            reason = _reason(self.interface, error)
            if reason != self._refused:
                log.warning("%s; its port stays down", reason)
            self._refused = reason
            return
        self._refused = ""
        log.info("%s: attached to the interface that is there now", self.interface)

    def _attached(self) -> bool:
        """Whether `fd` belongs to an interface, whatever its name, wherever it is."""
        try:
            fcntl.ioctl(self.fd, TUNGETIFF, bytes(40))
        except OSError:
            return False
        return True

    def _detach(self) -> None:
        """Have `fd` belong to nothing, as an interface's end leaves it."""
        fresh = self._open()
        os.dup2(fresh, self.fd, inheritable=False)
        os.close(fresh)

    def _find(self) -> int:
        """The number of the interface that has our name; 0: there is none."""
        return self._ask(SIOCGIFINDEX, "i") or 0

    def _ask(self, request: int, form: str) -> int | None:
        try:
            answer = fcntl.ioctl(self._socket, request, struct.pack("16s24x", self.interface.encode()))
        except OSError:
            return None
        return struct.unpack_from(form, answer, 16)[0]

    def close(self) -> None:
        self._opened.close()


def _reason(interface: str, error: OSError) -> str:
    if error.errno == errno.EBUSY:
        return f"the TAP {interface} is in use by another program"
    if error.errno == errno.EINVAL:
        return f"{interface} exists, but is no TAP"
    if error.errno == errno.EPERM:
        return f"no permission to use the TAP {interface}: run as root"
    return f"cannot use the TAP {interface}: {error.strerror}"
