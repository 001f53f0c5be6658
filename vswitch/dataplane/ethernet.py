# SPDX-License-Identifier: Apache-2.0
"""Ethernet's header and the types of what is behind it."""

ETH_HEADER = 14
VLAN_TAG, MPLS_ENTRY, PBB_TAG = 4, 4, 4
ETH_IPV4, ETH_ARP, ETH_VLAN, ETH_QINQ, ETH_IPV6 = 0x0800, 0x0806, 0x8100, 0x88A8, 0x86DD
ETH_MPLS, ETH_MPLS_MULTICAST, ETH_PBB = 0x8847, 0x8848, 0x88E7
