# SPDX-License-Identifier: Apache-2.0
"""The mirror image of a flow, for the proactive reverse entry (S4.5)."""

from __future__ import annotations

from typing import NamedTuple

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
_IP_TYPES = (IPV4, IPV6)
_WITH_PORTS = (TCP, UDP)


class Mirror(NamedTuple):
    """What a program tells of the answers to its flows' packets."""

    out_port: int  # where they come from
    tunnel: bool  # through a tunnel
    tunnel_id: int | None  # which; None: the flow's own
    rewritten: tuple[tuple[int, int], ...]  # (index into the key, value) of the packet as it leaves

    def key(self, key: FlowKey) -> FlowKey | None:
        """The key of the packets that answer a flow, or None when it has no such mirror image.

        Only unicast TCP, UDP and ICMP echo over IPv4 and IPv6 are mirrored, as they arrive.
        """
        if key.ip_frag == FRAG_LATER or key.eth_type not in _IP_TYPES or key.remarks:
            return None
        if self.rewritten:
            fields = list(key)
            for index, value in self.rewritten:
                fields[index] = value
            key = FlowKey(*fields)
        if is_multicast(key.eth_dst | key.eth_src):
            return None
        if key.ip_proto in _WITH_PORTS:
            l4_src, l4_dst = key.l4_dst, key.l4_src
        else:
            reply = _ICMP_REPLIES.get((key.eth_type, key.ip_proto), {}).get(key.l4_src)
            if reply is None:
                return None
            l4_src, l4_dst = reply, key.l4_dst
        tunnel_id = 0
        if self.tunnel:
            tunnel_id = key.tunnel_id if self.tunnel_id is None else self.tunnel_id
        return FlowKey(
            self.out_port,
            tunnel_id,
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
            l4_src,
            l4_dst,
        )


def mirror_of(program: Program, ports: PortTable) -> Mirror | None:
    """For programs that send packets out of exactly one port; None for others."""
    tunnel_id: int | None = None
    out_port = 0
    rewritten: dict[int, int] = {}
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
                rewritten[PLACES[action.name].slot] = action.value
        elif not isinstance(action, _PLAIN):
            return None
    if not out_port or out_port not in ports:
        return None
    return Mirror(out_port, ports.kind(out_port) == "tunnel", tunnel_id, tuple(rewritten.items()))
