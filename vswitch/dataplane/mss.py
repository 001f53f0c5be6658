# SPDX-License-Identifier: Apache-2.0
"""Segmentation of what a forwarding VM sends, to the MSS that was snooped from SYN and SYN-ACK (S0.9).

A classic LRO NIC hands a forwarding VM large packets that carry no word of their segments, and the VM's
router passes them on as they are. Here they get a segment size again, from the MSS that the connection's
receiver announced, so that the NIC segments them (TSO) and nobody fragments.

The table has an entry for each connection and port of a forwarding VM that it passes: the MSS of both
directions. It is set-associative: a connection's entry stands in one of MSS_WAYS places. An entry ends by
RST, some time after both FINs, or idle. Time is `t['now_ns']`; an entry whose time is over is a free place.
"""

from vswitch.dataplane import checksum
from vswitch.dataplane.checksum import PROTO_TCP
from vswitch.dataplane.compiled import compiled
from vswitch.dataplane.ethernet import ETH_HEADER, ETH_QINQ, ETH_VLAN
from vswitch.dataplane.gro import FIN, RST, SYN
from vswitch.dataplane.hashing import mix
from vswitch.dataplane.intrinsics import load8, load16, load32, load_be64, store16
from vswitch.dataplane.outgoing import link_header, lose_trailer, sum_l4
from vswitch.dataplane.ports.vnet import is_super_frame
from vswitch.dataplane.tso import NO_TUNNEL
from vswitch.layout import HEADER_MAX, MSS_ENTRIES, MSS_WAYS, MSS_WORDS, Counter, Csum

LEAST_MSS = 48
"""Smaller ones are taken for this, as Linux does (tcp_min_snd_mss), and leave …"""
LEAST_SEGMENT = 8
"""… bytes of payload, beside 40 of options."""
IDLE_NS = 7440 * 1_000_000_000
"""How long an established connection may be silent (RFC 5382, REQ-5) …"""
HALF_OPEN_NS = 240 * 1_000_000_000
"""… one of which only one SYN was seen …"""
CLOSED_NS = 60 * 1_000_000_000
"""… and one with both FINs, whose last segments may still be sent again."""
NOT_FOUND = -1
NOT_FORWARDED = 0

OPTION_END, OPTION_NOP, OPTION_MSS = 0, 1, 2
TCP_HEADER = 20


# What a forwarding VM's port passes


@compiled
def from_vm(mem, t, packet):
    """Learn from a frame that a forwarding VM sends, and give it a segment size if it is longer than its MSS.

    packet: a parsed row. Sets `t['forwarded_mss']` for `fit_to_path`.
    """
    t["forwarded_mss"] = NOT_FORWARDED
    l4, payload = packet["l4"], packet["payload"]
    is_tcp = packet["ip_version"] != 0 and packet["ip_proto"] == PROTO_TCP and packet["frag"] == 0
    if not is_tcp or payload < l4 + TCP_HEADER or payload - packet["l2"] > HEADER_MAX:
        return
    port, l2, l3, version = packet["port"], packet["l2"], packet["l3"], packet["ip_version"]
    observe(mem, t, port, l2, l3, l4, version)
    place, direction = find(mem, t, port, l2, l3, l4, version)
    mss = 0
    if place != NOT_FOUND:
        t["mss"][place]["last_used_ns"] = t["now_ns"]
        mss = t["mss"][place]["mss"][direction]
    options = payload - l4 - TCP_HEADER
    if version == 4:
        options += packet["ip_options"]
    else:
        options += l4 - l3 - 40
    t["forwarded_mss"] = segment_size(mss if mss else default_mss(version), options)
    if mss == 0 or packet["gso_size"] or packet["payload_len"] <= t["forwarded_mss"]:
        return
    header_len = payload - l4
    if packet["csum"] != Csum.PARTIAL.value:
        right = packet["csum"] == Csum.GOOD.value or checksum.l4_right(
            mem, l3, version, PROTO_TCP, l4, header_len, payload, packet["payload_len"]
        )
        if not right:
            return  # new checksums would hide that it is damaged
        _make_partial(mem, l3, l4, version, header_len + packet["payload_len"])
        packet["csum"] = Csum.PARTIAL.value
    packet["gso_size"] = t["forwarded_mss"]
    t["counters"][Counter.MSS_SEGMENTED.value] += 1


@compiled
def to_vm(mem, t, index):
    """Learn from the packet `t['outgoing']` that goes to the forwarding VM at port `index`."""
    out = t["outgoing"]
    l4 = out["l4"]
    if out["ip_version"] == 0 or out["ip_proto"] != PROTO_TCP or out["frag"]:
        return
    at = out["header"]
    if l4 + TCP_HEADER > out["header_len"] or l4 + _header_length(mem, at + l4) > out["header_len"]:
        return
    observe(mem, t, index, at, at + out["l3"], at + l4, out["ip_version"])


@compiled
def fit_to_path(mem, t, index, tunnel):
    """Let what a forwarding VM sent leave by port `index` in frames of its MTU, however long it is.

    tunnel: index of the tunnel port whose headers go in front, or NO_TUNNEL.
    """
    out = t["outgoing"]
    port = t["ports"][index]
    if out["ip_version"] == 0 or out["ip_proto"] != PROTO_TCP or out["frag"]:
        return
    if out["header_len"] < out["l4"] + TCP_HEADER:
        return
    room = port["mtu"] - out["header_len"]
    if tunnel == NO_TUNNEL:
        room += link_header(mem, t)
    else:
        room += ETH_HEADER - t["ports"][tunnel]["template_len"]
        if t["formats"][t["ports"][tunnel]["format"]]["inner_ip"]:
            room += out["l3"]
    is_super = is_super_frame(out)
    size = out["gso_size"] if is_super else out["payload_len"]
    if size <= room or room < LEAST_SEGMENT:
        return
    if out["csum"] != Csum.PARTIAL.value:
        if out["csum"] != Csum.GOOD.value and not _checksum_right(mem, t):
            return
        at = out["header"]
        length = out["header_len"] - out["l4"] + out["payload_len"]
        _make_partial(mem, at + out["l3"], at + out["l4"], out["ip_version"], length)
        out["csum"] = Csum.PARTIAL.value
    lose_trailer(t)
    out["gso_size"] = min(size if is_super else t["forwarded_mss"], room)
    if not is_super:
        t["counters"][Counter.MSS_SEGMENTED.value] += 1


@compiled
def default_mss(version):
    """What every host takes (RFC 9293, section 3.7.1): for a SYN without the option, unknown connections."""
    return 536 if version == 4 else 1220


@compiled
def segment_size(mss, options):
    """Payload bytes of a segment with so many bytes of IP and TCP options (RFC 9293, section 3.7.1)."""
    return max(max(mss, LEAST_MSS) - options, LEAST_SEGMENT)


@compiled
def _make_partial(mem, l3, l4, version, length):
    """Leave a TCP segment's checksum, which is right, to whoever segments it."""
    pseudo_sum = checksum.pseudo_header(mem, l3, version, PROTO_TCP, length)
    store16(mem, l4 + checksum.l4_field(PROTO_TCP), checksum.fold(pseudo_sum))


@compiled
def _checksum_right(mem, t):
    """Whether the outgoing packet's TCP checksum, a whole one, is right."""
    out = t["outgoing"]
    length = out["header_len"] - out["l4"] + out["payload_len"]
    total = checksum.pseudo_header(mem, out["header"] + out["l3"], out["ip_version"], PROTO_TCP, length)
    return checksum.fold(total + sum_l4(mem, t)) == 0xFFFF


# The table


@compiled
def observe(mem, t, port, l2, l3, l4, version):
    """Take what a TCP segment's flags and options say into the table; its whole header lies in `mem`."""
    flags = load8(mem, l4 + 13)
    if flags & (SYN | FIN | RST) == 0:
        return
    place, direction = find(mem, t, port, l2, l3, l4, version)
    if flags & RST:
        if place != NOT_FOUND:
            t["mss"][place]["used"] = 0
        return
    if flags & SYN:
        if place == NOT_FOUND:
            place = _free_place(t)
            if place == NOT_FOUND:
                t["counters"][Counter.MSS_TABLE_FULL.value] += 1
                return
            _begin(t, place, port)
        mss = mss_option(mem, l4)
        _learn(t["mss"][place], 1 - direction, load32(mem, l4 + 4), mss if mss else default_mss(version))
    if place != NOT_FOUND:
        entry = t["mss"][place]
        entry["last_used_ns"] = t["now_ns"]
        if flags & FIN:
            entry["fins"] |= 1 << direction


@compiled
def _learn(entry, direction, isn, mss):
    """The receiver of `direction` takes segments of `mss` bytes.

    A SYN that passes twice, or is sent again, has the same sequence number: the smallest MSS counts then,
    which a router between may have put there. Another number begins another connection.
    """
    if entry["fins"] or (entry["mss"][direction] and entry["isn"][direction] != isn):
        entry["fins"] = 0
        entry["mss"][0] = 0
        entry["mss"][1] = 0
    if entry["mss"][direction] == 0 or mss < entry["mss"][direction]:
        entry["mss"][direction] = mss
    entry["isn"][direction] = isn


@compiled
def mss_option(mem, l4):
    """The smallest MSS that the options of the TCP header at `l4` announce, or 0.

    Malformed options end the search, or are passed over where their length can be believed.
    """
    at = l4 + TCP_HEADER
    end = l4 + _header_length(mem, l4)
    mss = 0
    while at < end:
        kind = load8(mem, at)
        if kind == OPTION_END:
            break
        if kind == OPTION_NOP:
            at += 1
            continue
        if at + 2 > end:
            break
        length = load8(mem, at + 1)
        if length < 2 or at + length > end:
            break
        if kind == OPTION_MSS and length == 4:
            value = load16(mem, at + 2)
            if value and (mss == 0 or value < mss):
                mss = value
        at += length
    return mss


@compiled
def _header_length(mem, l4):
    return (load8(mem, l4 + 12) >> 4) * 4


@compiled
def find(mem, t, port, l2, l3, l4, version):
    """(place of the connection's entry or NOT_FOUND, direction 0 or 1 of this segment); fills `mss_key`."""
    direction = _make_key(mem, t, port, l2, l3, l4, version)
    first = _first_place(t)
    for place in range(first, first + MSS_WAYS):
        entry = t["mss"][place]
        if _is_alive(t, entry) and _has_key(t, entry):
            return place, direction
    return NOT_FOUND, direction


@compiled
def _make_key(mem, t, port, l2, l3, l4, version):
    """Write port, VLAN and both ends, the lower one first, into `mss_key`; the direction: 1 if swapped.

    Words: L4 ports | VLAN << 32 | version << 44 | port << 48, then two of each address.
    """
    key = t["mss_key"]
    source, destination = load16(mem, l4), load16(mem, l4 + 2)
    if version == 4:
        high_a, low_a, high_b, low_b = 0, load32(mem, l3 + 12), 0, load32(mem, l3 + 16)
    else:
        high_a, low_a = load_be64(mem, l3 + 8), load_be64(mem, l3 + 16)
        high_b, low_b = load_be64(mem, l3 + 24), load_be64(mem, l3 + 32)
    swapped = high_a > high_b
    if high_a == high_b:
        swapped = low_a > low_b or (low_a == low_b and source > destination)
    if swapped:
        high_a, low_a, high_b, low_b = high_b, low_b, high_a, low_a
        source, destination = destination, source
    eth_type = load16(mem, l2 + ETH_HEADER - 2)
    vlan = 0
    if eth_type == ETH_VLAN or eth_type == ETH_QINQ:
        vlan = load16(mem, l2 + ETH_HEADER) & 0xFFF
    key[0] = (port << 48) | (version << 44) | (vlan << 32) | (source << 16) | destination
    key[1], key[2], key[3], key[4] = high_a, low_a, high_b, low_b
    return 1 if swapped else 0


@compiled
def _first_place(t):
    """The first of the MSS_WAYS places of the connection whose key is `mss_key`."""
    state = 0x1D8E4E27C47D124F
    for word in range(MSS_WORDS):
        state = mix(state, t["mss_key"][word])
    return (state & (MSS_ENTRIES // MSS_WAYS - 1)) * MSS_WAYS


@compiled
def _free_place(t):
    first = _first_place(t)
    for place in range(first, first + MSS_WAYS):
        if not _is_alive(t, t["mss"][place]):
            return place
    return NOT_FOUND


@compiled
def _begin(t, place, port):
    entry = t["mss"][place]
    entry["used"] = 1
    entry["port"] = port
    entry["fins"] = 0
    for word in range(MSS_WORDS):
        entry["key"][word] = t["mss_key"][word]
    for direction in range(2):
        entry["mss"][direction] = 0
        entry["isn"][direction] = 0


@compiled
def _has_key(t, entry):
    for word in range(MSS_WORDS):
        if entry["key"][word] != t["mss_key"][word]:
            return False
    return True


@compiled
def _is_alive(t, entry):
    if not entry["used"]:
        return False
    lifetime = IDLE_NS
    if entry["fins"] == 3:
        lifetime = CLOSED_NS
    elif entry["mss"][0] == 0 or entry["mss"][1] == 0:
        lifetime = HALF_OPEN_NS
    return t["now_ns"] - entry["last_used_ns"] < lifetime


@compiled
def forget_port(t, port):
    """Connections that pass this port are unknown again: from now on nobody looks at their SYNs."""
    for place in range(MSS_ENTRIES):
        if t["mss"][place]["port"] == port:
            t["mss"][place]["used"] = 0
