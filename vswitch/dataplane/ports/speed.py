# SPDX-License-Identifier: Apache-2.0
"""How fast an interface sends: as its driver says (`ethtool`), and as a queueing discipline shapes it (`tc`).

Asked of the kernel by ethtool's ioctl (linux/ethtool.h) and by rtnetlink(7) (linux/pkt_sched.h). Of the
disciplines that shape, those are known that Mininet's TCLink sets at the root: htb, hfsc and tbf.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from vswitch.dataplane.ports import features

ETHTOOL_GSET = 0x1
_ETHTOOL_CMD = struct.Struct("IIIHBBBBBBIIHBBI8x")
_SPEED, _SPEED_HI = 3, 12
_UNKNOWN = (0, 0xFFFF, 0xFFFF_FFFF)

NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_GETQDISC, RTM_GETTCLASS = 38, 42
TC_H_ROOT = 0xFFFF_FFFF
_MINOR = 0xFFFF
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_HTB_PARMS, TCA_HTB_CEIL64 = 1, 7
TCA_HFSC_RSC, TCA_HFSC_FSC, TCA_HFSC_USC = 1, 2, 3
TCA_TBF_PARMS, TCA_TBF_RATE64 = 1, 4
_RATE_AT, _CEIL_AT = 8, 20
"""The 32-bit rate in tc_tbf_qopt's `rate`, and in tc_htb_opt's `ceil`; those that are larger have 64 bits of
their own, and this is all ones."""
_SLOPE_AT = 8
"""The slope of a tc_service_curve after its first part."""

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_TC = struct.Struct("=BxxxiIII")  # struct tcmsg: family, ifindex, handle, parent, info
_ATTRIBUTE = struct.Struct("=HH")
_ANSWER_SIZE = 1 << 16

_Attributes = dict[int, bytes]


class _Queueing(NamedTuple):
    """A discipline or a class of one."""

    parent: int
    kind: str
    options: _Attributes


def of_driver_kbps(asking: socket.socket, interface: str) -> int:
    """What the driver says, in the network namespace of the socket `asking`; 0: nothing."""
    try:
        answer = features.call(asking, interface, _ETHTOOL_CMD.pack(ETHTOOL_GSET, *[0] * 15))
    except OSError:
        return 0
    fields = _ETHTOOL_CMD.unpack(answer)
    mbps = fields[_SPEED] | fields[_SPEED_HI] << 16
    return 0 if mbps in _UNKNOWN else mbps * 1000


def netlink() -> socket.socket:
    """What shaped_kbps() asks, about the network namespace that the calling thread is in."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)


def shaped_kbps(kernel: socket.socket, ifindex: int) -> int:
    """What an interface's queueing discipline lets out; 0: it does not shape."""
    classes = _ask(kernel, RTM_GETTCLASS, ifindex)
    rate = _rate_at_the_top(classes)
    if not rate and any(kind == "tbf" for _parent, kind, _options in classes):  # whose class does not tell it
        # A request for one discipline is announced to all who listen, as if it had changed: ask for all.
        rate = _rate_at_the_top(_ask(kernel, RTM_GETQDISC, ifindex))
    return -(-rate * 8 // 1000)


def _rate_at_the_top(found: Iterable[_Queueing]) -> int:
    """Bytes a second of what is not inside others."""
    return sum(
        _RATES[kind](options) for parent, kind, options in found if _is_root(parent) and kind in _RATES
    )


def _is_root(parent: int) -> bool:
    """True for what is at the top, and for classes below the one that every hfsc has there, numbered 0."""
    return parent == TC_H_ROOT or not parent & _MINOR


def tbf_rate(options: _Attributes) -> int:
    """Bytes a second."""
    return _wide(options, TCA_TBF_RATE64) or _word(options, TCA_TBF_PARMS, _RATE_AT)


def htb_rate(options: _Attributes) -> int:
    """Bytes a second that a class may borrow up to."""
    return _wide(options, TCA_HTB_CEIL64) or _word(options, TCA_HTB_PARMS, _CEIL_AT)


def hfsc_rate(options: _Attributes) -> int:
    """Bytes a second of a class's upper limit, or else of what it is given."""
    curves = (TCA_HFSC_USC, TCA_HFSC_FSC, TCA_HFSC_RSC)
    return next((_word(options, curve, _SLOPE_AT) for curve in curves if curve in options), 0)


_RATES = {"htb": htb_rate, "hfsc": hfsc_rate, "tbf": tbf_rate}
"""Of the disciplines' classes; of tbf as such."""


def _word(options: _Attributes, attribute: int, offset: int) -> int:
    return int(struct.unpack_from("=I", options[attribute], offset)[0]) if attribute in options else 0


def _wide(options: _Attributes, attribute: int) -> int:
    return int(struct.unpack("=Q", options[attribute])[0]) if attribute in options else 0


def _ask(kernel: socket.socket, request: int, ifindex: int) -> list[_Queueing]:
    """The disciplines or classes of an interface."""
    body = _TC.pack(0, ifindex, 0, 0, 0)
    kernel.send(_HEADER.pack(_HEADER.size + len(body), request, NLM_F_REQUEST | NLM_F_DUMP, 0, 0) + body)
    found = []
    while True:
        for kind, message in _messages(kernel.recv(_ANSWER_SIZE)):
            if kind in (NLMSG_DONE, NLMSG_ERROR):  # the latter: the interface is gone
                return found
            _family, index, _handle, parent, _info = _TC.unpack_from(message)
            if index == ifindex:
                about = _attributes(message[_TC.size :])
                name = about[TCA_KIND].rstrip(b"\0").decode()
                found.append(_Queueing(parent, name, _attributes(about.get(TCA_OPTIONS, b""))))


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, body) of each netlink message."""
    while data:
        length, kind, *_ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : length]
        data = data[_aligned(length) :]


def _attributes(data: bytes) -> _Attributes:
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:  # options of a discipline that has no attributes, as those of pfifo_fast
            break
        found[kind] = data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3
