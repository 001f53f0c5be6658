# SPDX-License-Identifier: Apache-2.0
"""What passes an interface of the kernel, for captures: a packet socket, as tcpdump's (packet(7))."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress

from vswitch.errors import ConfigError
from vswitch.flow import CapturedFrame

SO_ATTACH_FILTER, SO_DETACH_FILTER, SO_RCVBUFFORCE, SO_TIMESTAMPNS = 26, 27, 33, 35
SOL_PACKET, PACKET_AUXDATA, PACKET_STATISTICS, PACKET_VNET_HDR = 263, 8, 6, 15
ETH_P_ALL = 3
PACKET_OUTGOING = 4
RECEIVE_BUFFER = 8 << 20
"""Bytes, with what the kernel needs beside each frame: some 10,000 small frames, or 100 of 64 KB."""
SNAP_LEN = 2048
"""Bytes that are kept of each frame: as many as of a wire's."""
BURST = 256
"""Frames that one look takes at most, so that the agent has time for others."""

VNET_HEADER = struct.Struct("=BBHHHH")
NEEDS_CSUM = 1
AUXDATA = struct.Struct("=IIIHHHH")
TP_STATUS_VLAN_VALID, TP_STATUS_VLAN_TPID_VALID = 0x10, 0x40
ETH_P_8021Q = 0x8100
INTERNET_CHECKSUMS = (6, 16)
"""Where UDP's and TCP's checksums stand; SCTP's is none of this kind."""
TIMESPEC = struct.Struct("=qq")
ADDRESSES = 12
"""Bytes of an Ethernet frame before its first tag."""
_NOTHING = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))  # BPF_RET | BPF_K, 0 bytes
_HEAR_NOTHING = struct.pack("HP", 1, ctypes.addressof(_NOTHING))
_CONTROL_SPACE = socket.CMSG_SPACE(AUXDATA.size) + socket.CMSG_SPACE(TIMESPEC.size)


class Sniffer:
    """The frames of one interface, while it is on.

    The socket is opened here, in the network namespace that the calling thread is in; it hears nothing until
    start(), which needs no privilege any more. outgoing_is_outbound: what the kernel sends through the
    interface is what the port sends; else it is what the port receives, as of a VM's TAP.
    """

    def __init__(self, interface: str, port_no: int, outgoing_is_outbound: bool) -> None:
        self.interface = interface
        self.port_no = port_no
        self.missed = 0
        self._outgoing_is_outbound = outgoing_is_outbound
        self.pending = False  # whether frames() may have any
        self._on = self._filtered = False
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        with suppress(PermissionError):  # the buffer is smaller then
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        for option in (PACKET_AUXDATA, PACKET_VNET_HDR):
            self._socket.setsockopt(SOL_PACKET, option, 1)

    def start(self) -> None:
        """Hear of the frames from now on; raises ConfigError when the interface is gone."""
        self._hear_nothing(False)
        try:
            self._socket.bind((self.interface, ETH_P_ALL))
        except OSError as error:
            raise ConfigError("port", f"{self.interface} cannot be captured: {error.strerror}") from None
        self._on = self.pending = True

    def stop(self) -> None:
        """Hear of no more; what was heard of can be had still."""
        self._hear_nothing(True)
        with suppress(OSError):  # the interface is gone, and its frames with it
            self._socket.bind((self.interface, 0))
        self._on = False

    def _hear_nothing(self, nothing: bool) -> None:
        """By a filter: older kernels do not take a protocol back."""
        if nothing:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, _HEAR_NOTHING)
        elif self._filtered:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
        self._filtered = nothing

    def frames(self) -> Iterator[CapturedFrame]:
        """Frames since the last call, at most BURST while it is on."""
        number = 0
        while not self._on or number < BURST:
            number += 1
            try:
                frame = self._receive()
            except BlockingIOError:
                self.pending = self._on
                break
            except OSError as error:
                if error.errno not in (errno.ENETDOWN, errno.EINVAL):
                    raise
                self.missed += error.errno == errno.EINVAL  # a frame of a kind that no header describes
            else:
                yield frame
        _packets, drops = struct.unpack("II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        self.missed += drops

    def _receive(self) -> CapturedFrame:
        # MSG_TRUNC: the result is the frame's own length
        data = bytearray(VNET_HEADER.size + SNAP_LEN)
        length, control, _flags, address = self._socket.recvmsg_into([data], _CONTROL_SPACE, socket.MSG_TRUNC)
        length -= VNET_HEADER.size
        frame = data[VNET_HEADER.size : VNET_HEADER.size + length]
        if len(frame) == length:  # of a frame that is not all here, no checksum can be told
            _complete_checksum(frame, *VNET_HEADER.unpack_from(data))
        time_ns = time.monotonic_ns()
        for level, kind, value in control:
            if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
                seconds, nanoseconds = TIMESPEC.unpack(value)
                time_ns += seconds * 1_000_000_000 + nanoseconds - time.time_ns()
            elif (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
                tag = _tag(value)
                frame[ADDRESSES:ADDRESSES] = tag
                length += len(tag)
        outbound = (address[2] == PACKET_OUTGOING) == self._outgoing_is_outbound
        return CapturedFrame(self.port_no, outbound, time_ns, length, bytes(frame[:SNAP_LEN]))

    def close(self) -> None:
        self._socket.close()


def _complete_checksum(
    frame: bytearray, flags: int, _gso: int, _header: int, _size: int, start: int, offset: int
) -> None:
    """Write the checksum that the kernel has left to the device: at `offset` behind `start`, of all behind
    `start`, where the sum of the pseudo-header stands."""
    if not flags & NEEDS_CSUM or offset not in INTERNET_CHECKSUMS or start + offset + 2 > len(frame):
        return
    # 0x10000 is 1 modulo 0xFFFF: a number's remainder is the sum of its digits of 16 bits, carries added
    covered = bytes(frame[start:]) + bytes((len(frame) - start) % 2)
    checksum = 0xFFFF - int.from_bytes(covered, "big") % 0xFFFF
    struct.pack_into("!H", frame, start + offset, checksum)


def _tag(auxdata: bytes) -> bytes:
    """The VLAN tag that the kernel has taken out of a frame; empty when there is none."""
    status, _length, _kept, _mac, _net, tci, tpid = AUXDATA.unpack(auxdata)
    if not status & TP_STATUS_VLAN_VALID:
        return b""
    return struct.pack("!HH", tpid if status & TP_STATUS_VLAN_TPID_VALID else ETH_P_8021Q, tci)
