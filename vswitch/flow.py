# SPDX-License-Identifier: Apache-2.0
"""What the two planes tell each other: flow keys, action programs, punts, ports, statistics.

Plain Python without NumPy or Numba, so that the agent and its tests run without the compiled dataplane.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

VLAN_PRESENT = 0x1000
"""Set in `FlowKey.vlan_tci` of a tagged frame (the place of the DEI bit), as OFPVID_PRESENT."""

FRAG_FIRST = 1
FRAG_LATER = 3
"""Values of `FlowKey.ip_frag`; bit 0: part of a fragmented datagram, bit 1: carries no L4 header."""


class FlowKey(NamedTuple):
    """The exact-match key of a cached flow. A field that the frame does not have is 0."""

    in_port: int
    tunnel_id: int  # VNI that the packet arrived with; 0 when it came through no tunnel
    eth_dst: int
    eth_src: int
    vlan_tci: int  # PCP << 13 | VLAN_PRESENT | VID; 0 = untagged
    eth_type: int
    ip_proto: int  # ARP: the operation
    ip_tos: int  # all eight bits: DSCP << 2 | ECN
    ip_frag: int  # 0 no, 1 first, 3 later fragment
    ip_src: int  # IPv4 (32 bits) or IPv6 (128 bits) by eth_type; ARP: sender
    ip_dst: int  # ARP: target
    l4_src: int  # TCP, UDP, SCTP port; ICMP type
    l4_dst: int  # TCP, UDP, SCTP port; ICMP code


@dataclass(frozen=True, slots=True)
class Output:
    """Send the packet out of `port`; a number that no port has, drops."""

    port: int


@dataclass(frozen=True, slots=True)
class SetTunnel:
    """The VNI for the outputs to tunnel ports that follow."""

    tunnel_id: int


@dataclass(frozen=True, slots=True)
class Controller:
    """Punt a copy of the packet (PuntReason.ACTION); the agent makes the packet-in of these values."""

    max_len: int
    reason: int  # OFPR_*
    cookie: int
    table_id: int


Action = Output | SetTunnel | Controller
Program = tuple[Action, ...]
"""Actions in the order in which they run; the empty program drops."""


class PuntReason(enum.IntEnum):
    """Why the dataplane handed a packet to the agent."""

    MISS = 0  # no cached flow
    ACTION = 1  # the flow's program has a Controller action


class DropReason(enum.IntEnum):
    """Why the agent disposes of a held packet without forwarding it."""

    DELIVERED = 0  # not a drop: the controller has the copy
    TABLE_MISS = 1  # no rule matched, and the table has no table-miss rule
    RULE = 2  # the rules that matched do not forward it
    PORT_CONFIG = 3  # the port's configuration (port-mod) forbids it


class Punt(NamedTuple):
    """A packet that waits for the agent's decision."""

    reason: PuntReason
    key: FlowKey
    frame: bytes  # as a receiver sees it: decapsulated
    packet: int  # handle of the held packet; execute() or discard() it exactly once


class FlowStats(NamedTuple):
    """Counters of one cached flow since its entry was made; replacing its program does not reset them."""

    packets: int
    bytes: int
    last_used_ns: int  # CLOCK_MONOTONIC; 0 = never


class CapturedFrame(NamedTuple):
    """A frame that passed a port which is being captured."""

    port_no: int
    outbound: bool
    time_ns: int  # CLOCK_MONOTONIC
    length: int  # of the frame; `data` may be shorter
    data: bytes


class PortCounters(NamedTuple):
    """Frames and bytes as the medium carries them."""

    rx_packets: int = 0
    rx_bytes: int = 0
    rx_dropped: int = 0
    rx_errors: int = 0
    tx_packets: int = 0
    tx_bytes: int = 0
    tx_dropped: int = 0
    tx_errors: int = 0


class PortInfo(NamedTuple):
    """A port as OpenFlow and `vswitchctl` show it."""

    port_no: int
    name: str
    kind: str  # "tap", "wire", "tunnel"
    mac: bytes
    mtu: int
    up: bool
    peer: str  # what is at the other end, for people
    counters: PortCounters
