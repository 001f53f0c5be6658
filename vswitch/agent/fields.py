# SPDX-License-Identifier: Apache-2.0
"""Where a match's fields are found in what the pipeline looks up: `Packet.values`, a vector of numbers.

The vector starts with the FlowKey; then come the pipeline's own fields; then what no key has.
"""

from __future__ import annotations

from typing import NamedTuple

from vswitch.flow import FRAG_LATER, FlowKey
from vswitch.openflow.constants import BadMatch
from vswitch.openflow.errors import OpenFlowError
from vswitch.openflow.oxm import BY_NAME, Match

Fields = tuple[int, ...]
"""Values at some indexes of the vector; which, Masks say."""

Masks = tuple[tuple[int, int], ...]
"""(index into the vector, mask), by index: what a rule looks at."""

_KEY = FlowKey._fields
KEY_FIELDS = len(_KEY)
IN_PORT, TUNNEL_ID = _KEY.index("in_port"), _KEY.index("tunnel_id")
ETH_DST, ETH_SRC, ETH_TYPE = _KEY.index("eth_dst"), _KEY.index("eth_src"), _KEY.index("eth_type")
VLAN_TCI, VLAN_INNER = _KEY.index("vlan_tci"), _KEY.index("vlan_inner")
IP_PROTO, IP_TOS, IP_FRAG = _KEY.index("ip_proto"), _KEY.index("ip_tos"), _KEY.index("ip_frag")
IP_SRC, IP_DST = _KEY.index("ip_src"), _KEY.index("ip_dst")
L4_SRC, L4_DST = _KEY.index("l4_src"), _KEY.index("l4_dst")
REMARKS = _KEY.index("remarks")
METADATA = KEY_FIELDS
IN_PHY_PORT = KEY_FIELDS + 1

OUTSIDE = KEY_FIELDS + 2
"""From this index on: what is read from the frame itself, since no key has it."""

ARP_OP, ARP_SHA, ARP_THA, IPV6_FLABEL, ND_TARGET, ND_SLL, ND_TLL, EXTHDR = range(OUTSIDE, OUTSIDE + 8)
FIELD_COUNT = OUTSIDE + 8

NAMES = (*_KEY, "metadata", "in_phy_port", "arp_op", "arp_sha", "arp_tha", "ipv6_flabel", "ipv6_nd_target",
         "ipv6_nd_sll", "ipv6_nd_tll", "ipv6_exthdr")  # fmt: skip
"""What people call the fields of the vector."""


class Place(NamedTuple):
    """Where a match field stands: its lowest bit is bit `shift` of the vector's `slot`."""

    slot: int
    shift: int
    bits: int

    @property
    def mask(self) -> int:
        return ((1 << self.bits) - 1) << self.shift


_INDEXES = {
    # match field: (index, shift)
    "in_port": (IN_PORT, 0),
    "in_phy_port": (IN_PHY_PORT, 0),
    "metadata": (METADATA, 0),
    "tunnel_id": (TUNNEL_ID, 0),
    "eth_dst": (ETH_DST, 0),
    "eth_src": (ETH_SRC, 0),
    "eth_type": (ETH_TYPE, 0),
    "vlan_vid": (VLAN_TCI, 0),
    "vlan_pcp": (VLAN_TCI, 13),
    "ip_dscp": (IP_TOS, 2),
    "ip_ecn": (IP_TOS, 0),
    "ip_proto": (IP_PROTO, 0),
    "ipv4_src": (IP_SRC, 0),
    "ipv4_dst": (IP_DST, 0),
    "ipv6_src": (IP_SRC, 0),
    "ipv6_dst": (IP_DST, 0),
    "ipv6_flabel": (IPV6_FLABEL, 0),
    "ipv6_nd_target": (ND_TARGET, 0),
    "ipv6_nd_sll": (ND_SLL, 0),
    "ipv6_nd_tll": (ND_TLL, 0),
    "ipv6_exthdr": (EXTHDR, 0),
    "tcp_src": (L4_SRC, 0),
    "tcp_dst": (L4_DST, 0),
    "udp_src": (L4_SRC, 0),
    "udp_dst": (L4_DST, 0),
    "sctp_src": (L4_SRC, 0),
    "sctp_dst": (L4_DST, 0),
    "icmpv4_type": (L4_SRC, 0),
    "icmpv4_code": (L4_DST, 0),
    "icmpv6_type": (L4_SRC, 0),
    "icmpv6_code": (L4_DST, 0),
    "arp_op": (IP_PROTO, 0),
    "arp_spa": (IP_SRC, 0),
    "arp_tpa": (IP_DST, 0),
    "arp_sha": (ARP_SHA, 0),
    "arp_tha": (ARP_THA, 0),
    "mpls_label": (IP_SRC, 4),
    "mpls_tc": (IP_SRC, 1),
    "mpls_bos": (IP_SRC, 0),
    "pbb_isid": (IP_DST, 0),
}
PLACES = {name: Place(index, shift, BY_NAME[name].bits) for name, (index, shift) in _INDEXES.items()}

MATCHABLE = frozenset(PLACES)
"""The match fields that the switch supports; rules on others are refused with OFPBMC_BAD_FIELD."""

MAX_KEY_ARP_OP = 0xFF
"""The key has an ARP operation up to this; 0 in the key stands for 0 and for those above."""

_L4 = frozenset((L4_SRC, L4_DST))
_LATER_FRAGMENT = FRAG_LATER & ~1


def compile_match(match: Match) -> tuple[Masks, Fields]:
    """The masks of `match`, and the values that the vector must have under them.

    A match on an L4 field does not match later fragments, which have no L4 header.
    Raises OpenFlowError(BAD_FIELD) for a field that is not in MATCHABLE.
    """
    masks: dict[int, int] = {}
    values: dict[int, int] = {}
    for oxm in match:
        field, value, _mask = oxm
        place = PLACES.get(field.name)
        if place is None:
            raise OpenFlowError(BadMatch.BAD_FIELD, f"{field.name} is not supported")
        mask = oxm.effective_mask
        if mask == 0:
            continue
        index, shift, _bits = place
        if index == IP_PROTO and field.name == "arp_op" and not 0 < value <= MAX_KEY_ARP_OP:
            masks[ARP_OP], values[ARP_OP] = 0xFFFF, value
            value = 0
        masks[index] = masks.get(index, 0) | mask << shift
        values[index] = values.get(index, 0) | value << shift
    if _L4 & masks.keys():
        masks[IP_FRAG] = _LATER_FRAGMENT
        values[IP_FRAG] = 0
    indexes = sorted(masks)
    return tuple((index, masks[index]) for index in indexes), tuple(values[index] for index in indexes)
