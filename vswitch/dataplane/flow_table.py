# SPDX-License-Identifier: Apache-2.0
"""The exact-match flow table: open addressing with linear probing, bounded, one writer.

A key is KEY_WORDS words; `vswitch.datapath` packs and unpacks them as this file does.
"""

from vswitch.dataplane.compiled import compiled
from vswitch.dataplane.ethernet import ETH_ARP, ETH_MPLS, ETH_MPLS_MULTICAST, ETH_PBB
from vswitch.dataplane.hashing import mix
from vswitch.dataplane.intrinsics import assign, load16, load32, load_be64, pointer_to
from vswitch.dataplane.parse import FORWARD, l4_ports, parse
from vswitch.layout import (
    FLOW_EMPTY,
    FLOW_USED,
    FLOWS,
    FLOWS_LIMIT,
    KEY_KIND,
    KEY_TOS,
    KEY_WORDS,
    MASK_SHIFT,
)

NOT_FOUND = -1


@compiled
def make_key(mem, t, packet):
    """Write the packet's key into `t['key']`.

    Words: in_port, L4 source << 16, L4 destination << 32 | tunnel_id | proto, eth_dst << 8 |
    tos, eth_src << 8 | frag, VLAN TCI << 8, eth_type << 24, inner VLAN TCI << 40 | source (two words) |
    destination (two words). MPLS: label, TC and BoS in the source's low word; PBB: I-SID in the
    destination's. Of the TOS, what no rule looks at is 0.
    """
    key = t["key"]
    l2, l3 = packet["l2"], packet["l3"]
    source, destination = l4_ports(mem, packet)
    key[0] = t["ports"][packet["in_port"]]["number"] | (source << 16) | (destination << 32)
    key[1] = packet["tunnel_id"]
    key[2] = (load32(mem, l2) << 24) | (load16(mem, l2 + 4) << 8) | (packet["ip_proto"] & 0xFF)
    tos = packet["tos"] & t["tos_mask"]
    key[KEY_TOS] = (load32(mem, l2 + 6) << 24) | (load16(mem, l2 + 10) << 8) | tos
    eth_type = packet["eth_type"]
    key[4] = (eth_type << 24) | (packet["vlan_inner"] << 40) | (packet["vlan_tci"] << 8) | packet["frag"]
    for word in range(5, KEY_WORDS):
        key[word] = 0
    if packet["ip_version"] == 4:
        key[6] = load32(mem, l3 + 12)
        key[8] = load32(mem, l3 + 16)
    elif packet["ip_version"] == 6:
        key[5] = load_be64(mem, l3 + 8)
        key[6] = load_be64(mem, l3 + 16)
        key[7] = load_be64(mem, l3 + 24)
        key[8] = load_be64(mem, l3 + 32)
    elif eth_type == ETH_ARP:
        if packet["ip_proto"] > 0xFF:
            key[2] &= ~0xFF
        if l3 + 28 <= packet["offset"] + packet["head_length"]:
            key[6] = load32(mem, l3 + 14)
            key[8] = load32(mem, l3 + 24)
    elif l3 + 4 <= packet["offset"] + packet["head_length"]:
        if eth_type == ETH_MPLS or eth_type == ETH_MPLS_MULTICAST:
            key[6] = load32(mem, l3) >> 8
        elif eth_type == ETH_PBB:
            key[8] = load32(mem, l3) & 0xFFFFFF


@compiled
def make_key_of_frame(mem_array, t, offset, length):
    """Write the key of the frame at mem[offset:offset+length] into `t['key']`; False: it is no frame.

    For the agent, on tables of its own: row 0 of `t['packets']` is used.
    """
    mem = pointer_to(mem_array)
    packet = t["packets"][0]
    packet["offset"] = offset
    packet["length"] = length
    packet["head_length"] = length
    packet["ext"] = 0
    packet["port"] = 0
    if parse(mem, t, packet, False) != FORWARD:
        return False
    make_key(mem, t, packet)
    return True


@compiled
def hash_key(key):
    """Hash of a key's words."""
    state = 0x2545F4914F6CDD1D
    for word in range(KEY_WORDS):
        state = mix(state, key[word])
    return state


@compiled
def find(t, key):
    """Index of the entry for `key`, or NOT_FOUND."""
    hashed = hash_key(key)
    place = hashed & (FLOWS - 1)
    while True:
        flow = t["flows"][place]
        if flow["state"] == FLOW_EMPTY:
            return NOT_FOUND
        if flow["hash"] == hashed and _same_key(flow["key"], key):
            return place
        place = (place + 1) & (FLOWS - 1)


@compiled
def find_drop(t):
    """Index of an entry for all packets that agree with `t['key']` under a drop mask, or NOT_FOUND."""
    for number in range(t["drop_mask_count"]):
        mask = t["drop_masks"][number]
        for word in range(KEY_WORDS):
            t["masked_key"][word] = t["key"][word] & mask[word]
        t["masked_key"][KEY_KIND] |= (number + 1) << MASK_SHIFT
        place = find(t, t["masked_key"])
        if place != NOT_FOUND:
            return place
    return NOT_FOUND


@compiled
def _same_key(one, other):
    for word in range(KEY_WORDS):
        if one[word] != other[word]:
            return False
    return True


@compiled
def install(t, key, program, program_len, idle_timeout_ns):
    """Add an entry, or replace the program of the one that is there; False when the table is full."""
    place = find(t, key)
    if place == NOT_FOUND:
        if t["flow_count"] >= FLOWS_LIMIT:
            return False
        hashed = hash_key(key)
        place = hashed & (FLOWS - 1)
        while t["flows"][place]["state"] == FLOW_USED:
            place = (place + 1) & (FLOWS - 1)
        flow = t["flows"][place]
        flow["hash"] = hashed
        for word in range(KEY_WORDS):
            flow["key"][word] = key[word]
        flow["packets"] = 0
        flow["bytes"] = 0
        flow["last_used_ns"] = 0
        flow["installed_ns"] = t["now_ns"]
        flow["state"] = FLOW_USED
        t["flow_bits"][place >> 5] |= 1 << (place & 31)
        t["flow_count"] += 1
    flow = t["flows"][place]
    flow["program"] = program
    flow["program_len"] = program_len
    flow["idle_timeout_ns"] = idle_timeout_ns
    return True


@compiled
def remove(t, place):
    """Remove the entry at `place`; those behind it that it kept from their places move up.

    So no deleted entries are left over that searches would have to step across (Knuth, The Art of Computer
    Programming, volume 3, section 6.4, algorithm R).
    """
    t["flow_count"] -= 1
    hole = place
    place = (place + 1) & (FLOWS - 1)
    while t["flows"][place]["state"] == FLOW_USED:
        home = t["flows"][place]["hash"] & (FLOWS - 1)
        if (place - home) & (FLOWS - 1) >= (place - hole) & (FLOWS - 1):
            t["flow_moves"] += 1
            assign(t["flows"][hole], t["flows"][place])
            hole = place
        place = (place + 1) & (FLOWS - 1)
    t["flows"][hole]["state"] = FLOW_EMPTY
    t["flow_bits"][hole >> 5] &= ~(1 << (hole & 31))


@compiled
def program_length(flow):
    """Operations of an entry's program, whoever can run it."""
    return max(flow["program_len"], ~flow["program_len"])


@compiled
def is_idle(t, flow):
    """Whether an entry has outlived its idle time-out."""
    if flow["state"] != FLOW_USED or flow["idle_timeout_ns"] == 0:
        return False
    last_ns = max(flow["last_used_ns"], flow["installed_ns"])
    return t["now_ns"] - last_ns >= flow["idle_timeout_ns"]
