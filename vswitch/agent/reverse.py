# SPDX-License-Identifier: Apache-2.0
"""The mirror image of a flow, for the proactive reverse entry (S4.5)."""

from __future__ import annotations

from vswitch.agent.fields import PLACES
from vswitch.agent.normal import is_multicast
from vswitch.agent.ports import PortTable
from vswitch.flow import FRAG_LATER, DecTtl, FlowKey, Meter, Output, Program, SetField, SetTtl, SetTunnel
from vswitch.openflow.oxm import ICMP, ICMPV6, IPV4, IPV6, TCP, UDP

_ICMP_REPLIES = {
    (IPV4, ICMP): {8: 0, 0: 8},
    (IPV6, ICMPV6): {128: 129, 129: 128},
}
"""By (Ethernet type, protocol): the type that answers an ICMP type, both ways."""

_REWRITTEN = frozenset(
    (
        "eth_dst", "eth_src", "ipv4_src", "ipv4_dst", "ipv6_src", "ipv6_dst", "tcp_src", "tcp_dst", "udp_src",
        "udp_dst",
    )
)  # fmt: skip
"""Fields that may be rewritten on a flow's way: its answers come to the new values."""

_PLAIN = (SetTtl, DecTtl, Meter)


def mirror_key(key: FlowKey, program: Program, ports: PortTable) -> FlowKey | None:
    """The key of the packets that answer a flow, or None when it has no such mirror image.

    Only unicast TCP, UDP and ICMP echo over IPv4 and IPv6, sent out of exactly one port, are mirrored.
    """
    if key.ip_frag == FRAG_LATER or key.eth_type not in (IPV4, IPV6):
        return None
    left = _as_it_leaves(key, program)
    if left is None:
        return None
    key, out_port, tunnel_id = left
    if out_port not in ports or is_multicast(key.eth_dst | key.eth_src):
        return None
    l4 = _mirrored_l4(key)
    if l4 is None:
        return None
    return FlowKey(
        out_port,
        tunnel_id if ports.kind(out_port) == "tunnel" else 0,
        key.eth_src,
        key.eth_dst,
        key.vlan_tci,
        key.vlan_inner,
        key.eth_type,
        key.ip_proto,
        key.ip_tos,
        key.ip_frag,
        key.ip_dst,
        key.ip_src,
        *l4,
    )


def _as_it_leaves(key: FlowKey, program: Program) -> tuple[FlowKey, int, int] | None:
    """The key as the program's one output sends it, the port, the tunnel id; None: there is no such thing."""
    tunnel_id, out_port = key.tunnel_id, 0
    fields: list[int] | None = None
    for action in program:
        if isinstance(action, Output):
            if out_port:
                return None
            out_port = action.port
        elif isinstance(action, SetTunnel):
            if not out_port:
                tunnel_id = action.tunnel_id
        elif isinstance(action, SetField) and action.name in _REWRITTEN:
            if not out_port:
                fields = fields or list(key)
                fields[PLACES[action.name].slot] = action.value
        elif not isinstance(action, _PLAIN):
            return None
    if not out_port:
        return None
    return (key if fields is None else FlowKey(*fields)), out_port, tunnel_id


def _mirrored_l4(key: FlowKey) -> tuple[int, int] | None:
    if key.ip_proto in (TCP, UDP):
        return key.l4_dst, key.l4_src
    reply = _ICMP_REPLIES.get((key.eth_type, key.ip_proto), {}).get(key.l4_src)
    return None if reply is None else (reply, key.l4_dst)
