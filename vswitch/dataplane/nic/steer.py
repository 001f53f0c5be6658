# SPDX-License-Identifier: Apache-2.0
"""Queue assignment (S0.2): the first filter that takes a frame, else RSS over its flow.

The headers are those of the inner packet, where a tunnel of ours brought it. The hash is Toeplitz's
(Krawczyk, LFSR-based Hashing and Authentication, 1994) as NICs use it for receive-side scaling: over source
and destination address, and the ports of TCP, UDP and SCTP. Fragments have no ports, so that all of a
datagram's go one way, and what is no IP has the hash 0.
"""

from vswitch.dataplane import flow_table
from vswitch.dataplane.compiled import compiled
from vswitch.dataplane.gro import same_flow
from vswitch.dataplane.intrinsics import load8
from vswitch.dataplane.nic.match import NO_MATCH, first_filter
from vswitch.dataplane.parse import PROTO_SCTP, PROTO_TCP, PROTO_UDP, l4_ports
from vswitch.layout import RSS_ENTRIES


@compiled
def steer(mem, t, nic):
    """Give each frame of the burst, all of one port, its receive queue."""
    for index in range(t["packet_count"]):
        packet = t["packets"][index]
        if index > 0 and _alike(mem, t["packets"][index - 1], packet):
            packet["queue"] = t["packets"][index - 1]["queue"]
        else:
            packet["queue"] = queue_of(mem, t, nic, packet)


@compiled
def queue_of(mem, t, nic, packet):
    """The receive queue of a parsed frame."""
    if nic["filter_count"] > 0:
        flow_table.make_key(mem, t, packet)
        place = first_filter(nic, packet, t["key"])
        if place != NO_MATCH:
            return nic["filters"][place]["queue"]
    return nic["indirection"][rss_hash(mem, nic, packet) & (RSS_ENTRIES - 1)]


@compiled
def rss_hash(mem, nic, packet):
    """The Toeplitz hash of a parsed frame, 32 bits."""
    if packet["ip_version"] == 0:
        return 0
    length = 8 if packet["ip_version"] == 4 else 32
    start = packet["l3"] + (12 if packet["ip_version"] == 4 else 8)
    hashed = 0
    for index in range(length):
        hashed ^= _toeplitz(nic, index, load8(mem, start + index))
    proto = packet["ip_proto"]
    if packet["frag"] == 0 and (proto == PROTO_TCP or proto == PROTO_UDP or proto == PROTO_SCTP):
        source, destination = l4_ports(mem, packet)
        hashed ^= _toeplitz(nic, length, source >> 8) ^ _toeplitz(nic, length + 1, source & 0xFF)
        hashed ^= _toeplitz(nic, length + 2, destination >> 8)
        hashed ^= _toeplitz(nic, length + 3, destination & 0xFF)
    return hashed


@compiled
def _toeplitz(nic, index, byte):
    """What the byte at `index` of the input adds to the hash."""
    return nic["toeplitz"][2 * index, byte >> 4] ^ nic["toeplitz"][2 * index + 1, byte & 15]


@compiled
def _alike(mem, one, other):
    """Whether no filter and no hash can tell two frames apart."""
    return one["frag"] == other["frag"] and same_flow(mem, one, other)
