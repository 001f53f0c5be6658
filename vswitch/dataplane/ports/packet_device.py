# SPDX-License-Identifier: Apache-2.0
"""Attaching to an interface of the switch's own network namespace through a packet socket (packet(7))."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import re
import socket
import struct

from vswitch import layout
from vswitch.dataplane.memory import Memory
from vswitch.dataplane.ports import features, packet, rtnetlink, speed
from vswitch.dataplane.ports.injector import Injector
from vswitch.errors import ConfigError

log = logging.getLogger(__name__)

SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP, PACKET_RX_RING, PACKET_STATISTICS, PACKET_COPY_THRESH = 1, 5, 6, 7
PACKET_VERSION, PACKET_RESERVE, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 10, 12, 15, 23
PACKET_MR_PROMISC = 1
TPACKET_V2 = 1
SO_ATTACH_FILTER, SO_DETACH_FILTER, SO_SNDBUFFORCE, SO_RCVBUFFORCE = 26, 27, 32, 33
ETH_P_ALL = 3
SIOCGIFFLAGS, SIOCGIFMTU, SIOCSIFMTU, SIOCGIFHWADDR, SIOCGIFINDEX = (
    0x8913, 0x8921, 0x8922, 0x8927, 0x8933,
)  # fmt: skip
IFF_UP, IFF_RUNNING = 0x1, 0x40
ARPHRD_ETHER = 1
BPF_RETURN_NOTHING = struct.pack("HBBI", 0x06, 0, 0, 0)  # struct sock_filter: BPF_RET of 0 bytes
UDP_GSO_SINCE = (6, 2)
"""Kernels that know VIRTIO_NET_HDR_GSO_UDP_L4."""

JOINS_DATAGRAMS = "rx-udp-gro-forwarding"
"""The feature of interfaces (Linux 5.12) by which GRO makes super-frames of UDP, too, so of UDP tunnels."""

RECEIVE_BUFFER = 8 << 20
"""Bytes of super-frames that wait for the switch; the kernel doubles it."""
SEND_BUFFER = 1 << 20
"""Bytes that wait in the interface's queue, where `tc` shapes it; the kernel doubles it."""
ROOM_NOTE = f"switch port with {layout.SHIM_ROOM} bytes of room for tags beside an MTU of "
BLOCK_SIZE = 1 << 16
ALIGNMENT_RESERVE = 6
"""Puts the IP header of an untagged frame on a cache line's quarter."""


class PacketDevice:
    """An interface as a port of the switch. The port stays when the interface is removed, renamed or moved,
    and meets the next of that name. `mac`: the interface's.

    mtu: what the interface is to be given; 0 leaves it. where: what an error names.

    Raises ConfigError when there is no such interface, or no right to use it.
    """

    def __init__(self, interface: str, mtu: int, where: str) -> None:
        self.interface = interface
        self.mac = ""
        self._index = 0
        self._refused = ""  # why the interface that has the name now is of no use, or that there is none
        self.injector: Injector | None = None
        self._injector_index = 0  # the interface that it was opened for, or in vain
        self._mtu = 0  # that frames are held to, and …
        self._room_mtu = 0  # … what the interface was given, so that it takes tags and shims beside
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        except PermissionError:
            raise ConfigError(where, f"no permission to use {interface}: run as root") from None
        self._kernel = rtnetlink.open_socket()
        try:
            self._prepare()
            self._attach(mtu)
        except OSError as error:
            self.close()
            raise ConfigError(where, _reason(interface, mtu, error)) from None
        except BaseException:
            self.close()
            raise
        self.fd = self._socket.fileno()

    def _prepare(self) -> None:
        """All options; the ring has to come last."""
        slots, size = layout.RING_SLOTS, layout.RING_SLOT_SIZE
        ring = struct.pack("IIII", BLOCK_SIZE, slots * size // BLOCK_SIZE, size, slots)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        for option, value in (
            (PACKET_VERSION, TPACKET_V2),
            (PACKET_VNET_HDR, 1),
            (PACKET_IGNORE_OUTGOING, 1),
            (PACKET_COPY_THRESH, 1),
            (PACKET_RESERVE, ALIGNMENT_RESERVE),
        ):
            self._socket.setsockopt(SOL_PACKET, option, value)
        self._socket.setsockopt(SOL_PACKET, PACKET_RX_RING, ring)

    def _attach(self, mtu: int) -> None:
        """The first meeting: unlike later ones, it may not fail."""
        self._look_at_address()
        if mtu:
            self._set_mtu(mtu)
        self._make_room(mtu or self._mtu_without_room())
        self._bind(self._find())

    def _look_at_address(self) -> None:
        """Learn the interface's MAC address; raises OSError when it is no Ethernet interface."""
        hardware = self._ask(SIOCGIFHWADDR)
        if struct.unpack_from("H", hardware)[0] != ARPHRD_ETHER:
            raise OSError(errno.EPROTOTYPE, "no Ethernet interface")
        self.mac = hardware[2:8].hex(":")

    def _make_room(self, mtu: int) -> None:
        """Have the interface take frames of this MTU with tags and shims beside, as a switch's port does."""
        self._mtu = self._room_mtu = mtu
        try:
            self._set_mtu(mtu + layout.SHIM_ROOM)
            self._room_mtu = mtu + layout.SHIM_ROOM
            there = rtnetlink.alias(self._kernel, self._find())
            if not there or there.startswith(ROOM_NOTE):
                rtnetlink.set_alias(self._kernel, self._find(), f"{ROOM_NOTE}{mtu}")
        except OSError as error:
            log.info("%s: no room for tags beside an MTU of %d: %s", self.interface, mtu, error.strerror)

    def _mtu_without_room(self) -> int:
        """The interface's MTU. A switch that was killed has left its room there, and a note that tells so."""
        mtu = self._asked_mtu()
        note = f"{ROOM_NOTE}{mtu - layout.SHIM_ROOM}"
        return mtu - layout.SHIM_ROOM if rtnetlink.alias(self._kernel, self._find()) == note else mtu

    def _asked_mtu(self) -> int:
        return struct.unpack_from("i", self._ask(SIOCGIFMTU))[0]

    def _set_mtu(self, mtu: int) -> None:
        fcntl.ioctl(self._socket, SIOCSIFMTU, struct.pack("16si20x", self.interface.encode(), mtu))

    def _find(self) -> int:
        """The number of the interface of our name."""
        return struct.unpack_from("i", self._ask(SIOCGIFINDEX))[0]

    def _bind(self, index: int) -> None:
        self._socket.bind((self.interface, ETH_P_ALL))
        membership = struct.pack("iHH8x", index, PACKET_MR_PROMISC, 0)
        self._socket.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, membership)
        self._index = index
        try:
            features.enable(self._socket, self.interface, JOINS_DATAGRAMS)
        except OSError as error:
            log.info("%s: UDP comes datagram by datagram: %s", self.interface, error.strerror)

    def map(self, memory: Memory, row) -> None:
        """Map the ring, and fill the socket's row."""
        row["fd"] = self.fd
        row["ring"] = memory.map_device(self.fd, layout.RING_SLOTS * layout.RING_SLOT_SIZE)
        row["udp_gso"] = _kernel_version() >= UDP_GSO_SINCE
        row["staging"] = memory.map_private(packet.STAGING_SIZE)

    def look(self) -> tuple[bool, int]:
        """Whether the interface is there, up and connected, and its MTU (0: it is gone).

        An MTU that somebody else gives it is what frames are held to from then on.
        """
        try:
            index = self._find()
            self._look_at_address()
            if index != self._index or not self._is_bound():
                self._meet(index)
            flags = struct.unpack_from("H", self._ask(SIOCGIFFLAGS))[0]
            mtu = self._asked_mtu()
            if mtu != self._room_mtu:
                self._make_room(mtu)
        except OSError as error:
            self._lose(_reason(self.interface, 0, error))
            return False, 0
        return flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING, self._mtu

    def _meet(self, index: int) -> None:
        """Be the port at the interface that has our name now."""
        deaf = not self._index
        self._bind(index)
        if deaf:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
        self._make_room(self._mtu_without_room())
        self._refused = ""
        log.info("%s: attached to the interface that is there now", self.interface)

    def _lose(self, reason: str) -> None:
        """Hear nothing of what had our name, and may be there under another one."""
        if self._index:
            nothing = ctypes.create_string_buffer(BPF_RETURN_NOTHING)
            program = struct.pack("HP", 1, ctypes.addressof(nothing))  # struct sock_fprog
            self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
        self._index = 0  # the next of that name may get its number, too
        if reason != self._refused:
            log.info("%s; its port is down", reason)
        self._refused = reason

    def _is_bound(self) -> bool:
        """Whether frames come from the interface: not if it was elsewhere since, even for a moment."""
        return self._socket.getsockname()[0] == self.interface

    @property
    def injector_is_outdated(self) -> bool:
        """Whether the interface is not the one any more that the injector is for, if there was one."""
        return self._injector_index not in (0, self._index)

    @property
    def may_have_injector(self) -> bool:
        """Whether none was opened for this interface, nor was it tried in vain."""
        return self._index not in (0, self._injector_index)

    def open_injector(self) -> int:
        """Have a way out for super-frames in tunnels over UDP; its descriptor, 0 if the kernel has none."""
        self._injector_index = self._index
        try:
            self.injector = Injector(self.interface)
        except OSError as error:
            log.info("%s: super-frames in UDP tunnels leave as datagrams: %s", self.interface, error)
            return 0
        return self.injector.fd

    def close_injector(self) -> None:
        """Forget the injector; the worker must not know of it any more."""
        if self.injector is not None:
            self.injector.close()
        self.injector = None
        self._injector_index = 0

    def speed_kbps(self) -> int:
        """The least of what its driver says and what its queueing discipline lets out; 0: neither says."""
        known = (
            speed.of_driver_kbps(self._socket, self.interface),
            speed.shaped_kbps(self._kernel, self._index),
        )
        return min(filter(None, known), default=0)

    def missed(self) -> int:
        """Frames that the kernel had no room for since the last call."""
        statistics = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        return struct.unpack("II", statistics)[1]

    def _ask(self, request: int) -> bytes:
        return fcntl.ioctl(self._socket, request, struct.pack("16s24x", self.interface.encode()))[16:]

    def close(self) -> None:
        """Let go of the interface, which has the MTU again that it had without us."""
        try:
            if self._asked_mtu() == self._room_mtu:
                self._set_mtu(self._mtu)
                if rtnetlink.alias(self._kernel, self._find()).startswith(ROOM_NOTE):
                    rtnetlink.set_alias(self._kernel, self._find(), "")
        except OSError:
            pass  # it is gone
        self.close_injector()
        self._socket.close()
        self._kernel.close()


def _kernel_version() -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])


def _reason(interface: str, mtu: int, error: OSError) -> str:
    if error.errno == errno.ENODEV:
        return f"there is no interface {interface} in the switch's network namespace"
    if error.errno == errno.EPROTOTYPE:
        return f"{interface} is no Ethernet interface"
    if error.errno == errno.EINVAL and mtu:
        return f"{interface} does not take the MTU {mtu}"
    if error.errno == errno.ENOMEM:
        return f"the kernel has no memory for the receive ring of {interface}"
    return f"cannot use {interface}: {error.strerror}"
