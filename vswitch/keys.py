# SPDX-License-Identifier: Apache-2.0
"""Flow keys as the dataplane has them: KEY_WORDS words, laid out by flow_table.make_key."""

from __future__ import annotations

from collections.abc import Iterable

from vswitch.flow import FlowKey

MASK64 = (1 << 64) - 1


def key_words(key: FlowKey) -> tuple[int, ...]:
    """The words of a key, each from 0 to 2^64 - 1."""
    return (
        key.in_port | key.l4_src << 16 | key.l4_dst << 32 | key.remarks << 48,
        key.tunnel_id,
        key.eth_dst << 8 | key.ip_proto,
        key.eth_src << 8 | key.ip_tos,
        key.drop_mask << 56 | key.vlan_inner << 40 | key.eth_type << 24 | key.vlan_tci << 8 | key.ip_frag,
        key.ip_src >> 64,
        key.ip_src & MASK64,
        key.ip_dst >> 64,
        key.ip_dst & MASK64,
    )


def key_from(words: Iterable[int]) -> FlowKey:
    """The key that has these words."""
    ports, tunnel_id, dst, src, kind, src_high, src_low, dst_high, dst_low = words
    return FlowKey(
        ports & 0xFFFF,  # in_port
        tunnel_id,
        dst >> 8,  # eth_dst
        src >> 8,  # eth_src
        kind >> 8 & 0xFFFF,  # vlan_tci
        kind >> 40 & 0xFFFF,  # vlan_inner
        kind >> 24 & 0xFFFF,  # eth_type
        dst & 0xFF,  # ip_proto
        src & 0xFF,  # ip_tos
        kind & 0xFF,  # ip_frag
        src_high << 64 | src_low,  # ip_src
        dst_high << 64 | dst_low,  # ip_dst
        ports >> 16 & 0xFFFF,  # l4_src
        ports >> 32 & 0xFFFF,  # l4_dst
        ports >> 48,  # remarks
        kind >> 56,  # drop_mask
    )


EVERY_BIT = key_from((MASK64,) * 9)._replace(drop_mask=0)
"""The bits that the fields of a packet's key have room for."""
