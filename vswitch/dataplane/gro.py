# SPDX-License-Identifier: Apache-2.0
"""Generic receive offload: frames of one TCP flow become one large packet (S4.3, S1.4, S0.7).

`coalesce` sorts a burst into groups, one for each packet that will be delivered, in the order of their first
frames. No byte is copied: a group is a chain of packet rows. A frame that cannot join its flow's open group
starts a new one behind it, so a flow's order is kept. Segmenting a group gives back the frames that made it.
Whether a flow is coalesced at all is asked when a group begins, once per flow and burst: `nic.lro.decide`.
"""

from vswitch.dataplane.checksum import PROTO_TCP
from vswitch.dataplane.compiled import compiled
from vswitch.dataplane.formats import same_opaque
from vswitch.dataplane.intrinsics import load8, load16, load32, load64
from vswitch.dataplane.nic.lro import decide
from vswitch.dataplane.parse import l4_ports
from vswitch.dataplane.seq import seq_add
from vswitch.layout import (
    GRO_BUCKETS,
    HEADER_MAX,
    MAX_FRAME_LEN,
    Counter,
    Csum,
    GroupLro,
    Lro,
    Merge,
    TcpOptions,
)

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = 1, 2, 4, 8, 16, 32, 64, 128
NEVER_MERGED = SYN | RST | URG | CWR
ENDS_AGGREGATE = FIN | PSH
LONGEST_TCP_HEADER = 60
NO_PACKET = -1


@compiled
def coalesce(mem, t):
    """Sort the burst `t['packets'][:packet_count]`, all of one port, into `t['groups'][:group_count]`."""
    t["gro_stamp"] += 1
    t["group_count"] = 0
    port = t["packets"][0]["port"]
    nic = t["nics"][port, t["nic_rows"][port]]
    queue = -1
    wanted = False
    frames, length = 0, 0
    for index in range(t["packet_count"]):
        packet = t["packets"][index]
        packet["next"] = NO_PACKET
        if packet["queue"] != queue:
            if frames > 0:
                _count_received(t, port, queue, frames, length)
            frames, length = 0, 0
            queue = packet["queue"]
            wanted = nic["lro"][queue] != Lro.OFF.value or t["vif_count"] > 0
        frames += 1
        length += packet["length"]
        if not wanted:
            t["nic_queues"][port, queue]["reasons"][Merge.DISABLED.value] += 1
            _start_group(t, index)
            continue
        verdict = unfitness(packet)
        bucket = packet["hash"] & (GRO_BUCKETS - 1)
        number = t["buckets"][bucket, 1] if t["buckets"][bucket, 0] == t["gro_stamp"] else -1
        while number >= 0 and not same_flow(mem, t["packets"][t["groups"][number]["first"]], packet):
            number = t["groups"][number]["next"]
        if number >= 0 and verdict == Merge.YES.value:
            group = t["groups"][number]
            verdict = merge_verdict(mem, t["packets"][group["first"]], group, packet)
            if verdict == Merge.YES.value:
                _join(t, group, index)
                continue
        verdict = _begin(mem, t, nic, index, bucket, number, verdict)
        t["counters"][Counter.GRO_FIRST.value + verdict] += 1
        t["nic_queues"][port, queue]["reasons"][verdict] += 1
    if frames > 0:
        _count_received(t, port, queue, frames, length)
    _count_aggregates(t, port)


@compiled
def single(t):
    """As `coalesce` for the one packet of a VM's burst, which has passed no receive queue."""
    t["packets"][0]["next"] = NO_PACKET
    t["group_count"] = 0
    _start_group(t, 0)


@compiled
def _begin(mem, t, nic, index, bucket, number, verdict):
    """Have a frame begin a group, behind group `number` of its flow if that is not -1; why it joined none.

    verdict: why it did not join that group, or Merge.YES if there is none and it is fit for an aggregate.
    """
    packet = t["packets"][index]
    fit = verdict == Merge.YES.value or (number >= 0 and unfitness(packet) == Merge.YES.value)
    lro = t["groups"][number]["lro"] if number >= 0 else GroupLro.UNDECIDED.value
    if lro == GroupLro.DENIED.value:
        _start_group(t, index)
        return verdict
    newer = t["groups"][_start_flow_group(t, index, bucket, number, fit)]
    if lro == GroupLro.ALLOWED.value:
        _same_decision(newer, t["groups"][number])
    elif fit:
        decide(mem, t, nic, newer, packet)
        if newer["lro"] == GroupLro.DENIED.value:
            denied_by_queue = nic["lro"][packet["queue"]] == Lro.OFF.value
            newer["closed"] = 1
            newer["denial"] = Merge.DISABLED.value if denied_by_queue else Merge.NO_RULE.value
            return newer["denial"]
    return Merge.NEW_FLOW.value if verdict == Merge.YES.value else verdict


@compiled
def _count_received(t, port, queue, frames, length):
    counts = t["nic_queues"][port, queue]
    counts["frames"] += frames
    counts["bytes"] += length


@compiled
def _count_aggregates(t, port):
    """Count what was coalesced, where it was: in the queue that it came through, or in front of its VM."""
    for number in range(t["group_count"]):
        group = t["groups"][number]
        if group["lro"] != GroupLro.ALLOWED.value:
            continue
        counts = t["nic_queues"][group["port"], group["queue"]]
        if group["count"] > 1:
            counts["merged"] += group["count"] - 1
            counts["aggregates"] += 1
            t["counters"][Counter.GRO_MERGED.value] += group["count"] - 1
            t["counters"][Counter.GRO_AGGREGATES.value] += 1
        if group["port"] != port:
            index = group["first"]
            while index >= 0:
                counts["frames"] += 1
                counts["bytes"] += t["packets"][index]["length"]
                index = t["packets"][index]["next"]


@compiled
def _same_decision(group, older):
    group["lro"] = older["lro"]
    group["completion_size"] = older["completion_size"]
    group["plain"] = older["plain"]
    group["port"] = older["port"]
    group["queue"] = older["queue"]


@compiled
def unfitness(packet):
    """Why a frame can be part of no aggregate whatever came before it, or Merge.YES."""
    if packet["ip_version"] == 0 or packet["ip_proto"] != PROTO_TCP:
        return Merge.NOT_TCP.value
    if packet["frag"]:
        return Merge.FRAGMENT.value
    if packet["ip_options"]:
        return Merge.IP_OPTIONS.value
    is_own_partial = packet["csum"] == Csum.PARTIAL.value and packet["gso_l4"] == 0
    if packet["csum"] != Csum.GOOD.value and not is_own_partial:
        return Merge.BAD_CHECKSUM.value
    if packet["gso_size"]:
        return Merge.TOO_LONG.value  # is an aggregate already
    if packet["tcp_flags"] & NEVER_MERGED:
        return Merge.FLAGS.value
    if packet["payload_len"] == 0:
        return Merge.NO_PAYLOAD.value
    if packet["tcp_options"] == TcpOptions.OTHER.value:
        return Merge.TCP_OPTIONS.value
    if packet["l4"] - packet["l2"] + LONGEST_TCP_HEADER > HEADER_MAX:
        return Merge.EXTENSION_HEADERS.value
    return Merge.YES.value


@compiled
def same_flow(mem, one, other):
    """Whether two frames belong to one connection of one virtual network (the 6-tuple of S1.2)."""
    if one["hash"] != other["hash"] or one["ip_version"] != other["ip_version"]:
        return False
    if one["tunnel_id"] != other["tunnel_id"] or one["in_port"] != other["in_port"]:
        return False
    if one["ip_proto"] != other["ip_proto"] or one["ip_version"] == 0:
        return False
    link_header = one["l3"] - one["l2"]
    if link_header != other["l3"] - other["l2"]:
        return False
    for index in range(12, link_header, 2):
        if load16(mem, one["l2"] + index) != load16(mem, other["l2"] + index):
            return False
    if load64(mem, one["l2"]) != load64(mem, other["l2"]) or load32(mem, one["l2"] + 8) != load32(
        mem, other["l2"] + 8
    ):
        return False
    if one["ip_version"] == 4:
        if load64(mem, one["l3"] + 12) != load64(mem, other["l3"] + 12):
            return False
    else:
        for word in range(4):
            if load64(mem, one["l3"] + 8 + 8 * word) != load64(mem, other["l3"] + 8 + 8 * word):
                return False
    return l4_ports(mem, one) == l4_ports(mem, other)


@compiled
def merge_verdict(mem, first, group, packet):
    """Why `packet`, fit in itself and of the group's flow, cannot join it, or Merge.YES. Pure."""
    if group["closed"]:
        return Merge.CLOSED.value if group["denial"] == Merge.YES.value else group["denial"]
    if packet["seq"] != group["next_seq"]:
        return Merge.OUT_OF_ORDER.value
    if packet["payload_len"] > group["gso_size"]:
        return Merge.LARGER_SEGMENT.value
    if (packet["tcp_flags"] ^ first["tcp_flags"]) & ~ENDS_AGGREGATE:
        return Merge.FLAGS.value
    if packet["ack"] != first["ack"] or packet["tcp_window"] != first["tcp_window"]:
        return Merge.ACK_OR_WINDOW.value
    if load16(mem, packet["l4"] + 18) != load16(mem, first["l4"] + 18):
        return Merge.FLAGS.value
    if packet["tcp_options"] != first["tcp_options"]:
        return Merge.TCP_OPTIONS.value
    if packet["tcp_options"] == TcpOptions.TIMESTAMP.value and packet["timestamp"] != first["timestamp"]:
        return Merge.TIMESTAMP.value
    if packet["tos"] != first["tos"]:
        return Merge.TOS.value
    if packet["ttl"] != first["ttl"]:
        return Merge.TTL.value
    if packet["ip_version"] == 4:
        if load16(mem, packet["l3"] + 6) != load16(mem, first["l3"] + 6):
            return Merge.DF.value
        if packet["df"] == 0 and packet["ip_id"] != (group["ip_id"] + 1) & 0xFFFF:
            return Merge.IP_ID.value
    elif not same_ipv6_headers(mem, first, packet):
        return Merge.EXTENSION_HEADERS.value
    payload_len = group["payload_len"] + packet["payload_len"]
    if first["payload"] - first["l3"] + payload_len > group["completion_size"]:
        return Merge.TOO_LONG.value
    if first["payload"] - first["l2"] + payload_len > MAX_FRAME_LEN:
        return Merge.TOO_LONG.value
    if not _same_outer_header(mem, first, packet):
        return Merge.OUTER_HEADER.value
    return Merge.YES.value


@compiled
def same_ipv6_headers(mem, one, other):
    """Whether flow label, next header and extension headers are equal."""
    length = one["l4"] - one["l3"]
    if length != other["l4"] - other["l3"] or load32(mem, one["l3"]) != load32(mem, other["l3"]):
        return False
    if load8(mem, one["l3"] + 6) != load8(mem, other["l3"] + 6):
        return False
    for index in range(40, length, 8):
        if load64(mem, one["l3"] + index) != load64(mem, other["l3"] + index):
            return False
    return True


@compiled
def _same_outer_header(mem, first, packet):
    if packet["opaque_len"] != first["opaque_len"] or packet["outer_df"] != first["outer_df"]:
        return False
    if packet["opaque_len"] == 0:
        return True
    outer_is_udp = first["outer_is_udp"] != 0
    return same_opaque(
        mem, first["opaque"], packet["opaque"], first["opaque_len"], first["length_field"], outer_is_udp
    )


@compiled
def _start_group(t, index):
    number = t["group_count"]
    t["group_count"] = number + 1
    packet = t["packets"][index]
    group = t["groups"][number]
    group["first"] = index
    group["last"] = index
    group["count"] = 1
    group["gso_size"] = packet["gso_size"]
    group["payload_len"] = packet["payload_len"]
    group["flags"] = packet["tcp_flags"]
    group["closed"] = 1
    group["lro"] = GroupLro.UNDECIDED.value
    group["denial"] = Merge.YES.value
    group["plain"] = 0
    group["next"] = NO_PACKET
    return number


@compiled
def _start_flow_group(t, index, bucket, replaces, fit):
    """Start a group that later frames of the flow may join; it takes the place of the flow's older group.

    fit: whether the frame can be part of an aggregate. Returns the group's number.
    """
    number = _start_group(t, index)
    packet = t["packets"][index]
    group = t["groups"][number]
    if fit:
        group["closed"] = 1 if packet["tcp_flags"] & ENDS_AGGREGATE else 0
        group["gso_size"] = packet["payload_len"]
        group["next_seq"] = seq_add(packet["seq"], packet["payload_len"])
        group["ip_id"] = packet["ip_id"]
    if replaces >= 0:
        _replace(t, bucket, replaces, number)
        return number
    stamp = t["buckets"][bucket, 0] == t["gro_stamp"]
    group["next"] = t["buckets"][bucket, 1] if stamp else NO_PACKET
    t["buckets"][bucket, 0] = t["gro_stamp"]
    t["buckets"][bucket, 1] = number
    return number


@compiled
def _replace(t, bucket, older, newer):
    """In the bucket's list, `newer` stands where `older` stood."""
    t["groups"][newer]["next"] = t["groups"][older]["next"]
    number = t["buckets"][bucket, 1]
    if number == older:
        t["buckets"][bucket, 1] = newer
        return
    while t["groups"][number]["next"] != older:
        number = t["groups"][number]["next"]
    t["groups"][number]["next"] = newer


@compiled
def _join(t, group, index):
    packet = t["packets"][index]
    t["packets"][group["last"]]["next"] = index
    group["last"] = index
    group["count"] += 1
    group["payload_len"] += packet["payload_len"]
    group["next_seq"] = seq_add(packet["seq"], packet["payload_len"])
    group["ip_id"] = packet["ip_id"]
    group["flags"] |= packet["tcp_flags"]
    if packet["payload_len"] < group["gso_size"] or packet["tcp_flags"] & ENDS_AGGREGATE:
        group["closed"] = 1
