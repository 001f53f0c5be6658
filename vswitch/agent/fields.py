# SPDX-License-Identifier: Apache-2.0
"""Where a match's fields are found in what the pipeline looks up: a FlowKey followed by the metadata."""

from __future__ import annotations

from vswitch.flow import FRAG_LATER, FlowKey
from vswitch.openflow.constants import BadMatch
from vswitch.openflow.errors import OpenFlowError
from vswitch.openflow.oxm import Match

Fields = tuple[int, ...]
"""The values of a FlowKey in its order, then the metadata."""

Masks = tuple[tuple[int, int], ...]
"""(index into Fields, mask), by index: what a rule looks at."""

METADATA = len(FlowKey._fields)
IN_PORT = FlowKey._fields.index("in_port")
TUNNEL_ID = FlowKey._fields.index("tunnel_id")

_LOCATIONS: dict[str, tuple[str, int]] = {
    # match field: (field of the flow key, shift)
    "in_port": ("in_port", 0),
    "tunnel_id": ("tunnel_id", 0),
    "eth_dst": ("eth_dst", 0),
    "eth_src": ("eth_src", 0),
    "eth_type": ("eth_type", 0),
    "vlan_vid": ("vlan_tci", 0),
    "vlan_pcp": ("vlan_tci", 13),
    "ip_dscp": ("ip_tos", 2),
    "ip_ecn": ("ip_tos", 0),
    "ip_proto": ("ip_proto", 0),
    "ipv4_src": ("ip_src", 0),
    "ipv4_dst": ("ip_dst", 0),
    "ipv6_src": ("ip_src", 0),
    "ipv6_dst": ("ip_dst", 0),
    "tcp_src": ("l4_src", 0),
    "tcp_dst": ("l4_dst", 0),
    "udp_src": ("l4_src", 0),
    "udp_dst": ("l4_dst", 0),
    "sctp_src": ("l4_src", 0),
    "sctp_dst": ("l4_dst", 0),
    "icmpv4_type": ("l4_src", 0),
    "icmpv4_code": ("l4_dst", 0),
    "icmpv6_type": ("l4_src", 0),
    "icmpv6_code": ("l4_dst", 0),
    "arp_op": ("ip_proto", 0),
    "arp_spa": ("ip_src", 0),
    "arp_tpa": ("ip_dst", 0),
}

_INDEXES = {
    name: (FlowKey._fields.index(key_field), shift) for name, (key_field, shift) in _LOCATIONS.items()
} | {"metadata": (METADATA, 0)}
_IP_FRAG = FlowKey._fields.index("ip_frag")
_L4 = frozenset((FlowKey._fields.index("l4_src"), FlowKey._fields.index("l4_dst")))
_LATER_FRAGMENT = FRAG_LATER & ~1

MATCHABLE = frozenset(_INDEXES)
"""The match fields that the switch supports; rules on others are refused with OFPBMC_BAD_FIELD."""


def compile_match(match: Match) -> tuple[Masks, Fields]:
    """The masks of `match`, and the values that Fields must have under them.

    A match on an L4 field does not match later fragments, which have no L4 header.
    Raises OpenFlowError(BAD_FIELD) for a field that is not in MATCHABLE.
    """
    masks: dict[int, int] = {}
    values: dict[int, int] = {}
    for oxm in match:
        if oxm.field.name not in _INDEXES:
            raise OpenFlowError(BadMatch.BAD_FIELD, f"{oxm.field.name} is not supported")
        if oxm.effective_mask == 0:
            continue
        index, shift = _INDEXES[oxm.field.name]
        masks[index] = masks.get(index, 0) | oxm.effective_mask << shift
        values[index] = values.get(index, 0) | oxm.value << shift
    if _L4 & masks.keys():
        masks[_IP_FRAG] = _LATER_FRAGMENT
        values[_IP_FRAG] = 0
    indexes = sorted(masks)
    return tuple((index, masks[index]) for index in indexes), tuple(values[index] for index in indexes)
