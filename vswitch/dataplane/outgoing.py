# SPDX-License-Identifier: Apache-2.0
"""The packet that an action program works on: writable headers in the scratch, payload by reference.

A group of frames becomes one packet here: its headers are copied once and made right for the whole, its
payload stays where it was received, as ranges of `mem`.
"""

from numba import njit

from vswitch.dataplane import checksum
from vswitch.dataplane.gro import PROTO_TCP
from vswitch.dataplane.intrinsics import copy, load8, load16, store8, store16
from vswitch.layout import HEADER_MAX, HEADER_OFFSET, Csum


@njit(cache=True)
def take_group(mem, t, group):
    """Make `t['outgoing']` and `t['ranges']` the packet that `group` stands for."""
    first = t["packets"][group["first"]]
    out = t["outgoing"]
    header_end = first["payload"]
    if first["head_length"] < first["length"]:
        header_end = first["offset"] + first["head_length"]
    out["header"] = HEADER_OFFSET
    out["header_len"] = header_end - first["l2"]
    out["l3"] = first["l3"] - first["l2"]
    out["l4"] = first["l4"] - first["l2"]
    out["ip_version"] = first["ip_version"]
    out["ip_proto"] = first["ip_proto"]
    out["frag"] = first["frag"]
    out["tos"] = first["tos"]
    out["payload_len"] = group["payload_len"]
    out["gso_size"] = group["gso_size"] if group["count"] > 1 else first["gso_size"]
    out["csum"] = first["csum"]
    out["in_port"] = first["in_port"]
    out["tunnel_id"] = first["tunnel_id"]
    out["hash"] = first["hash"]
    out["buffer"] = first["buffer"]
    out["frames"] = group["count"]
    out["range_count"] = 0
    if out["header_len"] > HEADER_MAX:
        _shorten_headers(t, first)
        _add_range(t, first["l3"], out["payload_len"])
    else:
        index = group["first"]
        while index >= 0:
            packet = t["packets"][index]
            _add_range(t, packet["payload"], packet["payload_len"])
            index = packet["next"]
    copy(mem, HEADER_OFFSET, first["l2"], out["header_len"])
    if group["count"] > 1:
        _complete_headers(mem, out, group["flags"])
    if first["ecn_changed"]:
        set_tos(mem, out, first["tos"])
    out["bytes"] = out["header_len"] + out["payload_len"]


@njit(cache=True)
def _shorten_headers(t, first):
    """Headers longer than the scratch pass as payload behind Ethernet."""
    out = t["outgoing"]
    out["payload_len"] += out["header_len"] - out["l3"]
    out["header_len"] = out["l3"]
    out["l4"] = out["l3"]
    out["ip_version"] = 0


@njit(cache=True)
def _add_range(t, offset, length):
    """Payload continues at mem[offset:offset+length]; what adjoins the last range extends it."""
    if length == 0:
        return
    out = t["outgoing"]
    count = out["range_count"]
    if count > 0 and t["ranges"][count - 1]["offset"] + t["ranges"][count - 1]["length"] == offset:
        t["ranges"][count - 1]["length"] += length
        return
    t["ranges"][count]["offset"] = offset
    t["ranges"][count]["length"] = length
    out["range_count"] = count + 1


@njit(cache=True)
def _complete_headers(mem, out, flags):
    """Lengths, flags and checksums of an aggregate; its TCP checksum is left to the receiver (partial)."""
    l3 = out["header"] + out["l3"]
    l4 = out["header"] + out["l4"]
    length = out["header_len"] - out["l3"] + out["payload_len"]
    if out["ip_version"] == 4:
        store16(mem, l3 + 2, length)
        store16(mem, l3 + 10, 0)
        store16(mem, l3 + 10, checksum.finish(checksum.sum_header(mem, l3, out["l4"] - out["l3"])))
    else:
        store16(mem, l3 + 4, length - 40)
    store8(mem, l4 + 13, flags & 0xFF)
    l4_length = length - (out["l4"] - out["l3"])
    store16(
        mem,
        l4 + 16,
        checksum.fold(checksum.pseudo_header(mem, l3, out["ip_version"], PROTO_TCP, l4_length)),
    )
    out["csum"] = Csum.PARTIAL.value


@njit(cache=True)
def set_tos(mem, out, tos):
    """Write the TOS or traffic class, and make IPv4's header checksum right for it (RFC 1624)."""
    l3 = out["header"] + out["l3"]
    if out["ip_version"] == 4:
        before = load16(mem, l3)
        store8(mem, l3 + 1, tos)
        store16(
            mem,
            l3 + 10,
            checksum.finish((~load16(mem, l3 + 10) & 0xFFFF) + (~before & 0xFFFF) + load16(mem, l3)),
        )
    elif out["ip_version"] == 6:
        store16(mem, l3, (load8(mem, l3) >> 4 << 12) | (tos << 4) | (load8(mem, l3 + 1) & 15))
