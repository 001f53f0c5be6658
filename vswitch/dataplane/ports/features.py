# SPDX-License-Identifier: Apache-2.0
"""An interface's features, as `ethtool -k` shows and `ethtool -K` sets them (ioctls of linux/ethtool.h)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import socket
import struct

SIOCETHTOOL = 0x8946
ETHTOOL_GSTRINGS, ETHTOOL_GSSET_INFO, ETHTOOL_SFEATURES = 0x1B, 0x37, 0x3B
ETH_SS_FEATURES = 4
NAME_LEN = 32
WORD_BITS = 32


def enable(asking: socket.socket, interface: str, feature: str) -> None:
    """Switch a feature of an interface on, in the network namespace of the socket `asking`.

    Raises OSError: EOPNOTSUPP when the kernel does not know the feature, else what the kernel answers.
    """
    names = _names(asking, interface)
    if feature not in names:
        raise OSError(errno.EOPNOTSUPP, f"{interface} has no feature {feature}")
    place = names.index(feature)
    words = [(0, 0)] * -(-len(names) // WORD_BITS)
    bit = 1 << place % WORD_BITS
    words[place // WORD_BITS] = (bit, bit)  # what is to change, and what to
    wanted = struct.pack("II", ETHTOOL_SFEATURES, len(words)) + b"".join(struct.pack("II", *w) for w in words)
    call(asking, interface, wanted)


def _names(asking: socket.socket, interface: str) -> list[str]:
    """The names of all features, in the order of their bits."""
    answer = call(asking, interface, struct.pack("IIQI", ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0))
    (count,) = struct.unpack_from("I", answer, 16)
    room = struct.pack("III", ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count) + bytes(count * NAME_LEN)
    strings = call(asking, interface, room)[12:]
    places = range(0, count * NAME_LEN, NAME_LEN)
    return [strings[place : place + NAME_LEN].partition(b"\0")[0].decode() for place in places]


def call(asking: socket.socket, interface: str, data: bytes) -> bytes:
    """Ask by ethtool's ioctl, which answers in the place of what it was given."""
    buffer = ctypes.create_string_buffer(data, len(data))
    request = struct.pack("16sP16x", interface.encode(), ctypes.addressof(buffer))
    fcntl.ioctl(asking, SIOCETHTOOL, request)
    return buffer.raw
