# SPDX-License-Identifier: Apache-2.0
"""Changes that action programs make to the headers of `t['outgoing']`."""

SETTABLE = (
    "eth_dst", "eth_src", "eth_type", "vlan_vid", "vlan_pcp", "ip_dscp", "ip_ecn", "ip_proto", "ipv4_src", "ipv4_dst",
    "tcp_src", "tcp_dst", "udp_src", "udp_dst", "sctp_src", "sctp_dst", "icmpv4_type", "icmpv4_code",
    "arp_op", "arp_spa", "arp_tpa", "arp_sha", "arp_tha", "ipv6_src", "ipv6_dst", "ipv6_flabel",
    "icmpv6_type", "icmpv6_code", "ipv6_nd_target", "ipv6_nd_sll", "ipv6_nd_tll",
    "mpls_label", "mpls_tc", "mpls_bos", "pbb_isid",
)  # fmt: skip
"""The fields that Op.SET_FIELD writes, by the names of their OXMs; its first argument is an index into this."""

FIELD_NUMBERS = {name: number for number, name in enumerate(SETTABLE)}
