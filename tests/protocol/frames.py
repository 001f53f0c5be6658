# SPDX-License-Identifier: Apache-2.0
"""Frames made by scapy, between the hosts A and B."""

from __future__ import annotations

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether

MAC_A, MAC_B = "00:00:00:00:00:0a", "00:00:00:00:00:0b"
IP_A, IP_B = "10.0.0.1", "10.0.0.2"
IP6_A, IP6_B = "fd00::1", "fd00::2"


def ethernet(reverse=False):
    return Ether(src=MAC_B, dst=MAC_A) if reverse else Ether(src=MAC_A, dst=MAC_B)


def ipv4(reverse=False, **fields):
    return IP(src=IP_B, dst=IP_A, **fields) if reverse else IP(src=IP_A, dst=IP_B, **fields)


def ipv6(reverse=False, **fields):
    return IPv6(src=IP6_B, dst=IP6_A, **fields) if reverse else IPv6(src=IP6_A, dst=IP6_B, **fields)


def udp(reverse=False, sport=1000, dport=2000, size=10):
    if reverse:
        sport, dport = dport, sport
    return bytes(ethernet(reverse) / ipv4(reverse) / UDP(sport=sport, dport=dport) / bytes(size))


def tcp(reverse=False, sport=1000, dport=80, v6=False, tos=0):
    if reverse:
        sport, dport = dport, sport
    ip = ipv6(reverse, tc=tos) if v6 else ipv4(reverse, tos=tos)
    return bytes(ethernet(reverse) / ip / TCP(sport=sport, dport=dport))


def ping(reverse=False, v6=False):
    if v6:
        return bytes(
            ethernet(reverse) / ipv6(reverse) / (ICMPv6EchoReply() if reverse else ICMPv6EchoRequest())
        )
    return bytes(ethernet(reverse) / ipv4(reverse) / ICMP(type=0 if reverse else 8))


def tagged(vid=5, pcp=3):
    return bytes(ethernet() / Dot1Q(vlan=vid, prio=pcp) / ipv4() / UDP())


def later_fragment():
    return bytes(ethernet() / ipv4(frag=10, proto=17) / bytes(40))


def arp_request():
    return bytes(Ether(src=MAC_A, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, psrc=IP_A, pdst=IP_B, hwsrc=MAC_A))
