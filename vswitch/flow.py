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
    vlan_tci: int  # outermost tag: PCP << 13 | VLAN_PRESENT | VID; 0 = untagged
    vlan_inner: int  # the tag behind it, in the same form
    eth_type: int  # behind the tags
    ip_proto: int  # ARP: the operation, 0 for those above 255
    ip_tos: int  # DSCP << 2 | ECN; of a cached flow, only the bits that some rule looks at
    ip_frag: int  # 0 no, 1 first, 3 later fragment
    ip_src: int  # IPv4 (32 bits), IPv6 (128 bits); ARP: sender; MPLS: label << 4 | TC << 1 | BoS
    ip_dst: int  # ARP: target; PBB: I-SID
    l4_src: int  # TCP, UDP, SCTP port; ICMP type
    l4_dst: int  # TCP, UDP, SCTP port; ICMP code
    # what meters have made of the packet: the drop precedence (RFC 2597), in two bits, for each time that a
    # program looked it up again; the fields before are those of its arrival. 0: it has just arrived
    remarks: int = 0
    # of an entry for all packets that agree with these fields under a drop mask: its number + 1; the fields
    # are masked then. 0: the entry is for the packets of this key alone
    drop_mask: int = 0


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
    """Punt the packet as it is now (PuntReason.ACTION); the agent makes the packet-in of these values."""

    max_len: int
    reason: int  # OFPR_*
    cookie: int
    table_id: int
    metadata: int = 0
    tunnel_id: int | None = None  # None: the one that the packet arrived with


@dataclass(frozen=True, slots=True)
class SetField:
    """Write a header field, by the name of its OXM; nothing happens when the packet has no such header.

    Checksums are kept right (those that were wrong stay wrong).
    """

    name: str
    value: int


@dataclass(frozen=True, slots=True)
class Push:
    """Put a VLAN tag, an MPLS label stack entry or a PBB I-TAG in front; `ethertype` tells which."""

    ethertype: int


@dataclass(frozen=True, slots=True)
class PopVlan:
    """Take the outermost VLAN tag away."""


@dataclass(frozen=True, slots=True)
class PopMpls:
    """Take the outermost MPLS label stack entry away; the packet's Ethernet type becomes `ethertype`."""

    ethertype: int


@dataclass(frozen=True, slots=True)
class PopPbb:
    """Take the outermost Ethernet header and I-TAG away."""


@dataclass(frozen=True, slots=True)
class SetTtl:
    """Write the TTL of the MPLS entry on top (`mpls`) or of the IP header."""

    ttl: int
    mpls: bool = False


@dataclass(frozen=True, slots=True)
class DecTtl:
    """Decrement the TTL of the MPLS entry on top (`mpls`) or of the IP header.

    A TTL that would become 0 ends the program: the packet is dropped, and punted as `invalid` says.
    """

    invalid: Controller
    mpls: bool = False


@dataclass(frozen=True, slots=True)
class CopyTtl:
    """Copy the TTL from the next-to-outermost to the outermost header that has one, or (`inwards`) back."""

    inwards: bool


@dataclass(frozen=True, slots=True)
class Meter:
    """Apply a meter: what exceeds it is dropped or remarked; the program ends for what is dropped."""

    meter_id: int


@dataclass(frozen=True, slots=True)
class LookUpAgain:
    """End the program, and go on by that of the flow's key with the packet's drop precedence as remark
    `number`."""

    number: int


@dataclass(frozen=True, slots=True)
class Save:
    """Remember the packet, for the Restore that follows; at most MAX_SAVED are remembered at a time."""


@dataclass(frozen=True, slots=True)
class Restore:
    """The packet is again what it was at the last Save that was not yet restored."""


MAX_REMARKS = 7
"""Times that a packet is looked up again."""
MAX_SAVED = 9
MAX_BANDS = 8
"""Bands of a meter."""

Action = (
    Output | SetTunnel | Controller | SetField | Push | PopVlan | PopMpls | PopPbb | SetTtl | DecTtl | CopyTtl
    | Meter | LookUpAgain | Save | Restore
)  # fmt: skip
Program = tuple[Action, ...]
"""Actions in the order in which they run; the empty program drops."""


class Band(NamedTuple):
    """One band of a meter: what exceeds `rate` with bursts of `burst` is dropped or remarked."""

    rate: int  # kbit/s, or packets/s
    burst: int  # kbit, or packets; 0: what the switch finds right
    prec_level: int = 0  # DSCP remark: drop precedences to add; 0: drop


class MeterConfig(NamedTuple):
    """A meter (1.3.5, section 5.7): of the bands that are exceeded, that of the highest rate applies."""

    in_packets: bool
    bands: tuple[Band, ...]


class MeterStats(NamedTuple):
    """Counters of one meter: what came in, and what each band took."""

    packets: int
    bytes: int
    bands: tuple[tuple[int, int], ...]  # (packets, bytes)


class PuntReason(enum.IntEnum):
    """Why the dataplane handed a packet to the agent."""

    MISS = 0  # no cached flow
    ACTION = 1  # the flow's program has a Controller action
    TOO_BIG = 3  # too big for the tunnel that the flow's program sends it to: dropped, this is a copy


class DropReason(enum.IntEnum):
    """Why the agent disposes of a held packet without forwarding it."""

    DELIVERED = 0  # not a drop: the controller has the copy
    TABLE_MISS = 1  # no rule matched, and the table has no table-miss rule
    RULE = 2  # the rules that matched do not forward it
    PORT_CONFIG = 3  # the port's configuration (port-mod) forbids it
    TOO_MANY_OPERATIONS = 4  # more than the switch does with one packet
    LIMITED = 5  # its port costs more than its share of the agent's time


class Punt(NamedTuple):
    """A packet that waits for the agent's decision."""

    reason: PuntReason
    key: FlowKey
    frame: bytes  # as a receiver sees it: decapsulated
    packet: int  # handle of the held packet; execute() or discard() it exactly once
    action: Controller | None = None  # with PuntReason.ACTION: the action that punted it
    packets: int = 1  # frames that came, which are more than one for an aggregate
    bytes: int = 0  # of those frames, each with its headers
    partial: bool = False  # the frame's L4 checksum is not complete yet (CHECKSUM_PARTIAL); execute() knows
    mtu: int = 0  # with PuntReason.TOO_BIG: bytes of the longest IP packet that the tunnel takes


class FlowStats(NamedTuple):
    """Counters of one cached flow since its entry was made; replacing its program does not reset them."""

    packets: int
    bytes: int
    last_used_ns: int  # CLOCK_MONOTONIC; 0 = never

    def plus(self, other: FlowStats) -> FlowStats:
        """What was counted here and there."""
        last_used_ns = max(self.last_used_ns, other.last_used_ns)
        return FlowStats(self.packets + other.packets, self.bytes + other.bytes, last_used_ns)


NEVER_USED = FlowStats(0, 0, 0)


class Ended(NamedTuple):
    """Final counters of a program that a key no longer has: its entry was removed, given another program, or
    ended by itself (idle, or no room for it).

    `stats` counts since the entry was made, as FlowStats does.
    """

    key: FlowKey
    stats: FlowStats
    replaced: bool  # False: the entry is gone
    by_itself: bool = False


class CapturedFrame(NamedTuple):
    """A frame that passed a port which is being captured."""

    port_no: int
    outbound: bool
    time_ns: int  # CLOCK_MONOTONIC
    length: int  # of the frame; `data` may be shorter
    data: bytes


class PortCounters(NamedTuple):
    """Frames and bytes as the medium carries them. What is equal to what: docs/reference/counters.md."""

    rx_packets: int = 0
    rx_bytes: int = 0
    rx_forwarded: int = 0
    rx_not_forwarded: int = 0
    rx_decapsulated: int = 0
    rx_held: int = 0
    rx_dropped: int = 0
    rx_errors: int = 0
    tx_requested: int = 0
    tx_packets: int = 0
    tx_bytes: int = 0
    tx_dropped: int = 0
    tx_errors: int = 0


class PortAccount(NamedTuple):
    """A port's counters, and the drops among them by reason: of frames that it received, and was to send."""

    counters: PortCounters
    receiving: dict[str, int]
    sending: dict[str, int]


class PortInfo(NamedTuple):
    """A port as OpenFlow and `vswitchctl` show it."""

    port_no: int
    name: str
    kind: str  # "tap", "wire", "packet", "tunnel", "local"
    mac: bytes
    mtu: int
    up: bool
    peer: str  # what is at the other end, for people
    counters: PortCounters
    speed_kbps: int = 0  # 0: nothing limits it that is known
    uplink: int = 0  # number of the port that a tunnel's packets come and go through
