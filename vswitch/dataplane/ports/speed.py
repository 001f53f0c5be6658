# SPDX-License-Identifier: Apache-2.0
"""How fast an interface sends: as its driver says (`ethtool`), and as a queueing discipline shapes it (`tc`).

Asked of the kernel by ethtool's ioctl (linux/ethtool.h) and by rtnetlink(7) (linux/pkt_sched.h). Of the
disciplines that shape, those are known that Mininet's TCLink sets at the root: htb, hfsc and tbf.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

from vswitch.dataplane.ports import features, rtnetlink

ETHTOOL_GSET = 0x1
_ETHTOOL_CMD = struct.Struct("IIIHBBBBBBIIHBBI8x")
_SPEED, _SPEED_HI = 3, 12
_UNKNOWN = (0, 0xFFFF, 0xFFFF_FFFF)

NLM_F_DUMP = 0x300
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

_TC = struct.Struct("=BxxxiIII")  # struct tcmsg: family, ifindex, handle, parent, info

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
    kernel.send(rtnetlink.request(request, NLM_F_DUMP, body))
    found = []
    while True:
        for kind, message in rtnetlink.messages(kernel.recv(rtnetlink.ANSWER_SIZE)):
            if kind in (rtnetlink.NLMSG_DONE, rtnetlink.NLMSG_ERROR):  # the latter: the interface is gone
                return found
            _family, index, _handle, parent, _info = _TC.unpack_from(message)
            if index == ifindex:
                about = rtnetlink.attributes(message[_TC.size :])
                name = about[TCA_KIND].rstrip(b"\0").decode()
                found.append(_Queueing(parent, name, rtnetlink.attributes(about.get(TCA_OPTIONS, b""))))
