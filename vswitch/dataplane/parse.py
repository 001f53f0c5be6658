# SPDX-License-Identifier: Apache-2.0
"""From bytes to a packet row: Ethernet, VLAN, a tunnel by its format row, IPv4, IPv6, TCP, UDP, ICMP, ARP.

This is the only place where lengths are judged. After `parse`, every header that a row names lies inside the
frame's contiguous head. The payload begins in the head, or at its end, and goes on in the rest: who sent the
frame through a wire may have understood more of its headers than we do, or less.
"""

from vswitch.dataplane import checksum
from vswitch.dataplane.carried import TELLING, ip_holds, is_bare_ip
from vswitch.dataplane.checksum import PROTO_TCP, PROTO_UDP
from vswitch.dataplane.compiled import compiled, inlined
from vswitch.dataplane.ethernet import (
    ETH_ARP,
    ETH_HEADER,
    ETH_IPV4,
    ETH_IPV6,
    ETH_QINQ,
    ETH_VLAN,
    VLAN_TAG,
)
from vswitch.dataplane.formats import find_tunnel, flow_id, opaque_length, open_gap, synthesise_ethernet
from vswitch.dataplane.hashing import mix
from vswitch.dataplane.intrinsics import copy, load8, load16, load32, load64
from vswitch.layout import (
    MAX_EXTENSION_HEADERS,
    MAX_VLAN_TAGS,
    SLOT_HEAD_MAX,
    Counter,
    Csum,
    TcpOptions,
)

IPV4_HEADER = 20
PROTO_ICMP, PROTO_GRE, PROTO_ICMPV6, PROTO_SCTP = 1, 47, 58, 132
VLAN_PRESENT = 0x1000
FRAG_FIRST, FRAG_LATER = 1, 3
ECN_MASK, ECN_CE, ECN_ECT0, ECN_ECT1 = 3, 3, 2, 1
LONGEST_HEADER = 64
"""With so many bytes of the head left, it was not for lack of bytes that the parser found no other header."""

FORWARD = -1
"""Verdict of `parse`: go on; any other is the counter of the reason for the drop."""


@compiled
def parse(mem, t, packet, verify):
    """Fill `packet` from its bytes; FORWARD, or the counter of the reason to drop it.

    packet: a row with `offset`, `length`, `head_length`, `ext`, `port`, `csum` set.
    verify: whether L4 checksums are to be verified (frames from a wire; a VM's are its own stack's word).
    """
    if packet["head_length"] < ETH_HEADER:
        return Counter.RX_TOO_SHORT.value
    packet["in_port"] = packet["port"]
    packet["tunnel_id"] = 0
    packet["opaque_len"] = 0
    packet["outer_ecn"] = -1
    packet["outer_df"] = 0
    packet["l2"] = packet["offset"]
    if t["tunnel_count"] > 0 and verify:
        verdict = _decapsulate(mem, t, packet)
        if verdict != FORWARD:
            return verdict
    return _parse_frame(mem, packet, verify)


@inlined
def parse_received(mem, t, packet):
    """As `parse`, of a frame that a wire or packet port received, wherever its head ends."""
    verdict = parse(mem, t, packet, True)
    if _is_cut_short(packet, verdict) and _pull_up(mem, packet):
        verdict = parse(mem, t, packet, True)
    return verdict


@compiled
def _is_cut_short(packet, verdict):
    """Whether the parser may have found no more headers since the head ends in one."""
    if packet["head_length"] == packet["length"]:
        return False
    if verdict != FORWARD:
        return verdict == Counter.RX_TOO_SHORT.value
    left = packet["offset"] + packet["head_length"] - packet["payload"]
    ends_with_tcp = left == 0 and packet["ip_proto"] == PROTO_TCP and packet["payload"] > packet["l4"]
    return left < LONGEST_HEADER and not ends_with_tcp


@compiled
def _may_be_pulled_up(packet):
    """Whether the head can go on with bytes of the rest, in the wire's slot. `ext` is 0 where it is alone."""
    return packet["head_length"] < min(SLOT_HEAD_MAX, packet["length"]) and packet["ext"] != 0


@compiled
def _pull_up(mem, packet):
    """Have the head go on with bytes of the rest, as far as the wire's slot has room; False: it has none."""
    if not _may_be_pulled_up(packet):
        return False
    packet["csum"] = Csum.UNKNOWN.value
    count = min(SLOT_HEAD_MAX, packet["length"]) - packet["head_length"]
    copy(mem, packet["offset"] + packet["head_length"], packet["ext"], count)
    packet["head_length"] += count
    packet["ext"] += count
    return True


@compiled
def _decapsulate(mem, t, packet):
    """Step over the outer headers of a packet that one of our tunnels delivers."""
    l3 = packet["offset"] + ETH_HEADER
    end = packet["offset"] + packet["head_length"]
    if l3 + 20 > end or load16(mem, l3 - 2) != ETH_IPV4 or load8(mem, l3) >> 4 != 4:
        return FORWARD
    ihl = (load8(mem, l3) & 15) * 4
    opaque = l3 + ihl
    if ihl < 20 or opaque > end:
        return FORWARD
    port = find_tunnel(mem, t, l3, opaque, end)
    if port == -1:
        return FORWARD
    if not checksum.ipv4_header_right(mem, l3, ihl):
        return Counter.RX_BAD_OUTER_CHECKSUM.value
    if port < 0:
        return Counter.RX_UNKNOWN_TUNNEL.value
    if load16(mem, l3 + 6) & 0x3FFF:
        return Counter.RX_OUTER_FRAGMENT.value
    total = load16(mem, l3 + 2)
    row = t["formats"][t["ports"][port]["format"]]
    opaque_len = opaque_length(mem, row, opaque, end)
    inner = opaque + opaque_len
    inner_ip = row["inner_ip"] != 0
    if row["told_by_content"]:
        if inner + TELLING > end and _may_be_pulled_up(packet):
            return Counter.RX_TOO_SHORT.value  # to tell what is inside
        if row["inner_auto"]:
            inner_ip = is_bare_ip(mem, inner, end, l3 + total - inner)
    least = IPV4_HEADER if inner_ip else ETH_HEADER
    if ETH_HEADER + total > packet["length"] or inner + least > min(end, l3 + total):
        return Counter.RX_TOO_SHORT.value
    packet["length"] = ETH_HEADER + total
    if packet["head_length"] > packet["length"]:
        packet["head_length"] = packet["length"]
    known = packet["csum"] != Csum.UNKNOWN.value  # by the kernel that sent it
    if row["outer_proto"] == PROTO_UDP and load16(mem, opaque + 6) != 0 and not known:
        head = min(end - opaque, total - ihl)
        rest = total - ihl - head
        if not checksum.l4_right(mem, l3, 4, PROTO_UDP, opaque, head, packet["ext"], rest):
            return Counter.RX_BAD_OUTER_CHECKSUM.value
    # what the sender's kernel said of a checksum is of the inner one only if that is where it is
    inner_partial = packet["csum"] == Csum.PARTIAL.value and packet["csum_start"] > inner - packet["offset"]
    if not inner_partial:
        packet["csum"] = Csum.UNKNOWN.value
    packet["in_port"] = port
    packet["tunnel_id"] = flow_id(mem, row, opaque)
    packet["opaque"] = opaque
    packet["opaque_len"] = opaque_len
    packet["length_field"] = row["length_field"]
    packet["outer_is_udp"] = 1 if row["outer_proto"] == PROTO_UDP else 0
    packet["outer_ecn"] = load8(mem, l3 + 1) & ECN_MASK
    packet["outer_df"] = load16(mem, l3 + 6) & 0x4000
    packet["l2"] = inner
    if not inner_ip:
        return FORWARD
    if _may_be_pulled_up(packet) and not _ends_with_tcp(mem, inner, end, l3 + total - inner):
        return Counter.RX_TOO_SHORT.value  # the outer headers, which are written over, are to be parsed again
    return _give_ethernet(mem, t, packet, load8(mem, l3 + 9))


@compiled
def _ends_with_tcp(mem, l3, end, length):
    """Whether the `length` bytes at `l3` are an IP packet whose TCP header, a sound one, ends the head."""
    if not ip_holds(mem, l3, end, length):
        return False
    is_ipv4 = load8(mem, l3) >> 4 == 4
    l4 = l3 + (load8(mem, l3) & 15) * 4 if is_ipv4 else l3 + 40
    stop = l3 + load16(mem, l3 + 2) if is_ipv4 else l3 + length
    if is_ipv4 and load16(mem, l3 + 6) & 0x3FFF:
        return False
    if l4 + 20 > end or load8(mem, l3 + (9 if is_ipv4 else 6)) != PROTO_TCP:
        return False
    header = (load8(mem, l4 + 12) >> 4) * 4
    return header >= 20 and l4 + header == end and end <= stop


@compiled
def _give_ethernet(mem, t, packet, proto):
    """Put an Ethernet header in front of the IP packet at `l2`, over outer headers that were read.

    The opaque field is moved out of its way: frames of one flow are compared by it.
    """
    port = t["ports"][packet["in_port"]]
    row = t["formats"][port["format"]]
    version = load8(mem, packet["l2"]) >> 4
    expected = row["outer_proto"] if version == 4 else row["outer_proto6"]
    if (version != 4 and version != 6) or proto != expected:
        return Counter.NOT_IP.value
    packet["opaque"] = open_gap(mem, packet["opaque"], packet["opaque_len"])
    packet["l2"] -= ETH_HEADER
    synthesise_ethernet(mem, packet["l2"], port["template"], ETH_IPV4 if version == 4 else ETH_IPV6)
    return FORWARD


@compiled
def _parse_frame(mem, packet, verify):
    """The headers from `l2` on. What is malformed above Ethernet stays an unparsed payload."""
    end = packet["offset"] + packet["head_length"]
    l3 = packet["l2"] + ETH_HEADER
    eth_type = load16(mem, l3 - 2)
    vlan_tci = 0
    vlan_inner = 0
    for _ in range(MAX_VLAN_TAGS):
        if not (eth_type == ETH_VLAN or eth_type == ETH_QINQ) or l3 + VLAN_TAG > end:
            break
        tci = (load16(mem, l3) & 0xEFFF) | VLAN_PRESENT
        if vlan_tci == 0:
            vlan_tci = tci
        else:
            vlan_inner = tci
        eth_type = load16(mem, l3 + 2)
        l3 += VLAN_TAG
    packet["eth_type"] = eth_type
    packet["vlan_tci"] = vlan_tci
    packet["vlan_inner"] = vlan_inner
    packet["l3"] = l3
    packet["ecn_changed"] = 0
    rest = packet["length"] - (l3 - packet["offset"])
    known = False
    if eth_type == ETH_IPV4:
        known = _parse_ipv4(mem, packet, l3, end, rest)
    elif eth_type == ETH_IPV6:
        known = _parse_ipv6(mem, packet, l3, end, rest)
    if not known:
        is_arp = eth_type == ETH_ARP and l3 + 28 <= end
        _leave_unparsed(packet, l3, rest, load16(mem, l3 + 6) if is_arp else 0)
    packet["hash"] = _flow_hash(mem, packet)
    packet["gso_l4"] = 0
    if packet["outer_ecn"] >= 0 and packet["ip_version"]:
        inner = packet["tos"] & ECN_MASK
        ecn = decapsulated_ecn(packet["outer_ecn"], inner)
        if ecn < 0:
            return Counter.RX_ECN_INCOMPATIBLE.value
        if ecn != inner:
            packet["tos"] = (packet["tos"] & ~ECN_MASK) | ecn
            packet["ecn_changed"] = 1
    if verify and packet["csum"] != Csum.PARTIAL.value:
        packet["csum"] = _verify_l4(mem, packet)
    return FORWARD


@compiled
def _leave_unparsed(packet, l3, rest, operation):
    """There is no IP packet at `l3`: the `rest` bytes there are payload. operation: of ARP, or 0."""
    packet["l4"] = l3
    packet["ip_version"] = 0
    packet["ip_proto"] = operation
    packet["tos"] = 0
    packet["ttl"] = 0
    packet["ip_id"] = 0
    packet["df"] = 0
    packet["frag"] = 0
    packet["ip_options"] = 0
    packet["payload"] = l3
    packet["payload_len"] = rest


@compiled
def decapsulated_ecn(outer, inner):
    """The inner packet's ECN field after its tunnel; -1: it is to be dropped (RFC 6040 section 4.2)."""
    if outer == ECN_CE:
        return ECN_CE if inner else -1
    if outer == ECN_ECT1 and inner == ECN_ECT0:
        return ECN_ECT1
    return inner


@compiled
def _parse_ipv4(mem, packet, l3, end, rest):
    if l3 + 20 > end:
        return False
    first = load8(mem, l3)
    ihl = (first & 15) * 4
    total = load16(mem, l3 + 2)
    if first >> 4 != 4 or ihl < 20 or l3 + ihl > end or total < ihl or total > rest:
        return False
    if not checksum.ipv4_header_right(mem, l3, ihl):
        return False
    packet["ip_version"] = 4
    packet["tos"] = load8(mem, l3 + 1)
    packet["ip_id"] = load16(mem, l3 + 4)
    fragment = load16(mem, l3 + 6)
    packet["df"] = fragment & 0x4000
    packet["frag"] = FRAG_LATER if fragment & 0x1FFF else FRAG_FIRST if fragment & 0x2000 else 0
    packet["ttl"] = load8(mem, l3 + 8)
    packet["ip_proto"] = load8(mem, l3 + 9)
    packet["ip_options"] = ihl - 20
    _parse_l4(mem, packet, l3 + ihl, end, total - ihl)
    return True


@compiled
def _parse_ipv6(mem, packet, l3, end, rest):
    if l3 + 40 > end or load8(mem, l3) >> 4 != 6:
        return False
    length = load16(mem, l3 + 4)
    if 40 + length > rest:
        return False
    packet["ip_version"] = 6
    packet["ip_id"] = 0
    packet["df"] = 0
    packet["frag"] = 0
    packet["ip_options"] = 0
    packet["tos"] = (load16(mem, l3) >> 4) & 0xFF
    packet["ttl"] = load8(mem, l3 + 7)
    proto = load8(mem, l3 + 6)
    l4 = l3 + 40
    stop = min(end, l4 + length)
    for _ in range(MAX_EXTENSION_HEADERS):
        is_fragment = proto == 44
        if not (proto == 0 or proto == 43 or proto == 60 or is_fragment) or l4 + 8 > stop:
            break
        size = 8 if is_fragment else 8 + load8(mem, l4 + 1) * 8
        if l4 + size > stop:
            break
        if is_fragment:
            place = load16(mem, l4 + 2)
            if place & 0xFFF9:
                packet["frag"] = FRAG_LATER if place & 0xFFF8 else FRAG_FIRST
        proto = load8(mem, l4)
        l4 += size
        if packet["frag"] == FRAG_LATER:
            break
    packet["ip_proto"] = proto
    _parse_l4(mem, packet, l4, end, length - (l4 - l3 - 40))
    return True


@compiled
def _parse_l4(mem, packet, l4, end, length):
    """`length`: bytes of the IP payload from `l4` on."""
    packet["l4"] = l4
    packet["payload"] = l4
    packet["payload_len"] = length
    packet["tcp_flags"] = 0
    proto = packet["ip_proto"]
    if packet["frag"]:
        return
    if proto == PROTO_TCP:
        if length < 20 or l4 + 20 > end:
            return
        header = (load8(mem, l4 + 12) >> 4) * 4
        if header < 20 or header > length or l4 + header > end:
            return
        packet["seq"] = load32(mem, l4 + 4)
        packet["ack"] = load32(mem, l4 + 8)
        packet["tcp_flags"] = load16(mem, l4 + 12) & 0x0FFF
        packet["tcp_window"] = load16(mem, l4 + 14)
        packet["tcp_options"] = TcpOptions.NONE.value
        if header == 32 and load32(mem, l4 + 20) == 0x0101080A:
            packet["tcp_options"] = TcpOptions.TIMESTAMP.value
            packet["timestamp"] = load64(mem, l4 + 24)
        elif header > 20:
            packet["tcp_options"] = TcpOptions.OTHER.value
        packet["payload"] = l4 + header
        packet["payload_len"] = length - header
    elif proto == PROTO_UDP:
        if length < 8 or l4 + 8 > end or load16(mem, l4 + 4) != length:
            return
        packet["payload"] = l4 + 8
        packet["payload_len"] = length - 8


@compiled
def l4_ports(mem, packet):
    """Ports of TCP, UDP and SCTP, or type and code of ICMP, as (source, destination); else zeros.

    A first fragment has them; a later one has none.
    """
    if packet["ip_version"] == 0 or packet["frag"] == FRAG_LATER:
        return 0, 0
    l4 = packet["l4"]
    if l4 + 4 > packet["offset"] + packet["head_length"]:
        return 0, 0
    proto = packet["ip_proto"]
    if proto == PROTO_TCP or proto == PROTO_UDP or proto == PROTO_SCTP:
        return load16(mem, l4), load16(mem, l4 + 2)
    if proto == PROTO_ICMP or proto == PROTO_ICMPV6:
        return load8(mem, l4), load8(mem, l4 + 1)
    return 0, 0


@compiled
def _flow_hash(mem, packet):
    """Hash of virtual network, addresses, protocol and ports; of the MAC addresses where there is no IP.

    All fragments of a datagram have one hash: that of what each of them tells. These are not the ports nor,
    where extension headers follow IPv6's fragment header, the protocol.
    """
    proto = 0 if packet["frag"] else packet["ip_proto"]
    state = mix(0x1D8E4E27C47D124F, (packet["tunnel_id"] << 8) | proto)
    l3 = packet["l3"]
    if packet["ip_version"] == 4:
        state = mix(state, load64(mem, l3 + 12))
    elif packet["ip_version"] == 6:
        for word in range(4):
            state = mix(state, load64(mem, l3 + 8 + 8 * word))
    else:
        return mix(mix(state, load64(mem, packet["l2"])), load32(mem, packet["l2"] + 8))
    if packet["frag"]:
        return state
    source, destination = l4_ports(mem, packet)
    return mix(state, (source << 16) | destination)


@compiled
def _verify_l4(mem, packet):
    """The state of the TCP or UDP checksum, as Csum; UNKNOWN where no sound TCP or UDP header was found."""
    proto = packet["ip_proto"]
    l4 = packet["l4"]
    if packet["ip_version"] == 0 or packet["frag"]:
        return Csum.UNKNOWN.value
    if packet["payload"] - l4 < 8 or not (proto == PROTO_TCP or proto == PROTO_UDP):
        return Csum.UNKNOWN.value
    if packet["csum"] == Csum.GOOD.value:
        return Csum.GOOD.value  # by the kernel that received it
    if proto == PROTO_UDP and load16(mem, l4 + 6) == 0:
        return Csum.UNKNOWN.value
    length = packet["payload"] - l4 + packet["payload_len"]
    head = min(packet["offset"] + packet["head_length"] - l4, length)
    right = checksum.l4_right(
        mem, packet["l3"], packet["ip_version"], proto, l4, head, packet["ext"], length - head
    )
    return Csum.GOOD.value if right else Csum.BAD.value
