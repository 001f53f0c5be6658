# SPDX-License-Identifier: Apache-2.0
"""Bridge protocol data units of the spanning tree (IEEE 802.1D-1998, clause 9), as bytes and back."""

from __future__ import annotations

import struct
from typing import NamedTuple, Union

STP_ADDRESS = 0x0180_C200_0000
"""The destination of all BPDUs: the Bridge Group Address (table 7-9)."""

_ETHERNET = struct.Struct("!6s6sH")
_MIN_FRAME = 60
_LLC = b"\x42\x42\x03"
_HEADER = struct.Struct("!HBB")
_CONFIG = struct.Struct("!HBBBQIQHHHHH")
_CONFIG_TYPE, _TCN_TYPE = 0x00, 0x80
_TOPOLOGY_CHANGE, _TOPOLOGY_CHANGE_ACK = 0x01, 0x80
_UNITS_PER_S = 256
SECOND_NS = 1_000_000_000


class ConfigBpdu(NamedTuple):
    """What a designated port says: who is the root, how far it is, and the timers that hold (9.3.1)."""

    root_id: int
    root_path_cost: int
    bridge_id: int
    port_id: int
    message_age_ns: int
    max_age_ns: int
    hello_time_ns: int
    forward_delay_ns: int
    topology_change: bool = False
    topology_change_ack: bool = False


class TcnBpdu(NamedTuple):
    """A topology change, told towards the root (9.3.2)."""


Bpdu = Union[ConfigBpdu, TcnBpdu]


def encode_frame(bpdu: Bpdu, source: bytes) -> bytes:
    """The Ethernet frame that carries `bpdu`, from the port with the address `source`."""
    payload = _LLC + _encode(bpdu)
    frame = _ETHERNET.pack(STP_ADDRESS.to_bytes(6, "big"), source, len(payload)) + payload
    return frame.ljust(_MIN_FRAME, b"\0")


def decode_frame(frame: bytes) -> Bpdu | None:
    """The BPDU in an Ethernet frame; None if it is none of this protocol, or not whole.

    What follows those fields is left unread, and a later version's BPDU is read as one of this (9.3.4).
    """
    length = int.from_bytes(frame[12:14], "big")
    payload = frame[_ETHERNET.size : _ETHERNET.size + length]
    if length >= 0x600 or len(payload) < length or payload[: len(_LLC)] != _LLC:
        return None
    data = payload[len(_LLC) :]
    if len(data) < _HEADER.size:
        return None
    protocol, _version, kind = _HEADER.unpack_from(data)
    if protocol == 0 and kind == _TCN_TYPE:
        return TcnBpdu()
    if protocol != 0 or kind != _CONFIG_TYPE or len(data) < _CONFIG.size:
        return None
    _, _, _, flags, root, cost, bridge, port, *times = _CONFIG.unpack_from(data)
    age, max_age, hello, delay = (time * SECOND_NS // _UNITS_PER_S for time in times)
    if age >= max_age:  # it is too old to be believed
        return None
    changed, acknowledged = bool(flags & _TOPOLOGY_CHANGE), bool(flags & _TOPOLOGY_CHANGE_ACK)
    return ConfigBpdu(root, cost, bridge, port, age, max_age, hello, delay, changed, acknowledged)


def _encode(bpdu: Bpdu) -> bytes:
    if isinstance(bpdu, TcnBpdu):
        return _HEADER.pack(0, 0, _TCN_TYPE)
    flags = _TOPOLOGY_CHANGE * bpdu.topology_change | _TOPOLOGY_CHANGE_ACK * bpdu.topology_change_ack
    times = (bpdu.message_age_ns, bpdu.max_age_ns, bpdu.hello_time_ns, bpdu.forward_delay_ns)
    return _CONFIG.pack(
        0,
        0,
        _CONFIG_TYPE,
        flags,
        bpdu.root_id,
        bpdu.root_path_cost,
        bpdu.bridge_id,
        bpdu.port_id,
        *(min(time * _UNITS_PER_S // SECOND_NS, 0xFFFF) for time in times),
    )
