# SPDX-License-Identifier: Apache-2.0
"""The mirror image of a flow, for the proactive reverse entry (S4.5)."""

from __future__ import annotations

from vswitch.agent.ports import PortTable
from vswitch.flow import FRAG_LATER, FlowKey, Output, Program, SetTunnel
from vswitch.openflow.oxm import ICMP, ICMPV6, IPV4, IPV6, TCP, UDP

_ICMP_REPLIES = {
    (IPV4, ICMP): {8: 0, 0: 8},
    (IPV6, ICMPV6): {128: 129, 129: 128},
}
"""By (Ethernet type, protocol): the type that answers an ICMP type, both ways."""

_MULTICAST_BIT = 1 << 40


def mirror_key(key: FlowKey, program: Program, ports: PortTable) -> FlowKey | None:
    """The key of the packets that answer a flow, or None when it has no such mirror image.

    Only unicast TCP, UDP and ICMP echo over IPv4 and IPv6, sent out of exactly one port, are mirrored.
    """
    outputs = [action.port for action in program if isinstance(action, Output)]
    if len(outputs) != 1 or outputs[0] not in ports:
        return None
    if (key.eth_dst | key.eth_src) & _MULTICAST_BIT or key.ip_frag == FRAG_LATER:
        return None
    l4 = _mirrored_l4(key)
    if l4 is None:
        return None
    tunnel_id = _tunnel_id_of(key, program) if ports.kind(outputs[0]) == "tunnel" else 0
    return key._replace(
        in_port=outputs[0],
        tunnel_id=tunnel_id,
        eth_dst=key.eth_src,
        eth_src=key.eth_dst,
        ip_src=key.ip_dst,
        ip_dst=key.ip_src,
        l4_src=l4[0],
        l4_dst=l4[1],
    )


def _mirrored_l4(key: FlowKey) -> tuple[int, int] | None:
    if key.eth_type not in (IPV4, IPV6):
        return None
    if key.ip_proto in (TCP, UDP):
        return key.l4_dst, key.l4_src
    reply = _ICMP_REPLIES.get((key.eth_type, key.ip_proto), {}).get(key.l4_src)
    return None if reply is None else (reply, key.l4_dst)


def _tunnel_id_of(key: FlowKey, program: Program) -> int:
    """The VNI that the program's one output leaves with."""
    tunnel_id = key.tunnel_id
    for action in program:
        if isinstance(action, SetTunnel):
            tunnel_id = action.tunnel_id
        elif isinstance(action, Output):
            break
    return tunnel_id
