# SPDX-License-Identifier: Apache-2.0
"""Every record type, limit, enumeration and offset that the dataplane's stages share.

Offsets named *_OFFSET stand for places in `mem`; offsets in packet and port rows are absolute in `mem` too.
"""

import enum

import numpy as np

from vswitch.config import MAX_WORKERS
from vswitch.flow import MAX_BANDS, MAX_SAVED

# Limits

MAX_PORTS = 256
LOCAL_INDEX = MAX_PORTS - 1
"""Of OFPP_LOCAL's row. Row 0 is nobody's; the rows between are for ports that are opened."""

MAX_WIRES = 64
MAX_FORMATS = 16
MAX_QUEUES = 8
INBOX = 1024
RETURNED = 1024
"""Frames that wait for a worker that serves queues, and that it hands back to the one that serves ports."""
NIC_FILTERS = 128
NIC_RULES = 128
RSS_ENTRIES = 128
"""Entries of a NIC's indirection table, from a flow's hash to a receive queue."""
RSS_KEY = 40
RSS_NIBBLES = 72
"""Half bytes of the longest input of RSS: two IPv6 addresses and two ports."""
DRIVER_SLOTS = 64
"""Finished packets that wait for the driver of a receive queue."""
GRO_BUCKETS = 1024
BURST = 256
"""Frames that one pass through the stages takes from a port."""
TAP_BURST = 4
"""Super-frames read from one TAP before the other ports have their turn."""
FLOWS = 1 << 18
FLOWS_LIMIT = FLOWS * 3 // 4
PROGRAM_WORDS = 1 << 20
COMMANDS = 4096
METERS = 1024
PUNTS = 512
"""Packets that wait for the agent. A port may have as many of them as are free: a flood through one leaves
half of them to the others, floods through several leave a share (Choudhury, Hahne: Dynamic Queue Length
Thresholds for Shared-Memory Packet Switches, 1998)."""
REPORTS = PUNTS // 2
"""Of the punt ring's rows, those that reports of ended entries may take."""
DROP_MASKS = 32
"""Under each, entries stand for all packets that agree in it and that no rule wants."""
TOO_BIG_INTERVAL_NS = 10_000_000
TOO_BIG_BURST = 20
"""How often the senders at a port are told that packets are too big: once in an interval; a burst at once."""
INJECTIONS = 64
RING_SLOTS = 2048
RING_SLOT_SIZE = 2048
"""Slots of a packet port's receive ring; a frame that is longer is read whole from the socket's queue."""
LARGE_BURST = 10
"""Pool buffers that are filled with frames longer than a slot before the other ports have their turn."""
STAGED = 64
STAGED_IOVS = 1024
"""Frames that wait at a packet port to be sent by one system call, and pieces that they may consist of."""
CAPTURES = 4096
CAPTURE_SLOT_SIZE = 2048
"""Frames that a capture keeps for the agent, and the bytes of each that it keeps."""
MSS_ENTRIES = 1 << 15
"""Connections through forwarding VMs whose MSS is known; each may stand in one of …"""
MSS_WAYS = 8
"""… places."""
MAX_IP_LEN = 65535
MAX_FRAME_LEN = 65535
"""Bytes of an aggregate from its Ethernet header on: longer ones the kernel cuts into single frames again."""
SHIM_ROOM = 64
"""Bytes of tags and shims (VLAN, MPLS, PBB) that ports carry beside their MTU."""
MIN_ETHERNET_FRAME = 60
ETHERNET_FRAMING = 24
"""What a frame takes of an Ethernet line (IEEE 802.3): it is padded to so many bytes at least, has a check
sequence (4 bytes) behind, preamble and start delimiter (8) before, and a gap (12) to the next."""
MAX_EXTENSION_HEADERS = 8
MAX_VLAN_TAGS = 2
HEADER_MAX = 512
"""Bytes of headers (Ethernet to TCP options) that the engine rewrites; longer ones pass as payload."""

BUFFERS = 96
BUFFER_SIZE = 18 * 4096
"""A super-frame of 64 KB, or the segments of a tunnel's, each with its outer headers."""
PUNT_SLOT_SIZE = 17 * 4096
VNET_HEADER = 12
"""struct virtio_net_hdr_mrg_rxbuf in front of each frame at a TAP."""
TUNNEL_VNET_HEADER = 24
"""struct virtio_net_hdr_v1_hash_tunnel, which tells of a tunnel over UDP, too."""

# The control region: the first bytes of `mem`, each worker's own. All of them stand at `controls`, too.

TIMESPEC_OFFSET = 0
WAKE_OFFSET = 64
COMMAND_HEAD_OFFSET = 128
COMMAND_TAIL_OFFSET = 192
PUNT_HEAD_OFFSET = 256
PUNT_TAIL_OFFSET = 320
ASLEEP_OFFSET = 384
STOP_OFFSET = 448
CAPTURE_HEAD_OFFSET = 576
CAPTURE_TAIL_OFFSET = 640
INBOX_HEAD_OFFSET = 704
INBOX_TAIL_OFFSET = 768
RETURNED_HEAD_OFFSET = 832
RETURNED_TAIL_OFFSET = 896
VNET_OFFSET = 512
POLLFDS_OFFSET = 1024
IOV_OFFSET = 4096
IOVS = 1000
HEADER_OFFSET = 24576 + 64
PROTOTYPE_OFFSET = 28672
TEMPLATES_OFFSET = 32768
TEMPLATE_SIZE = 128
"""A tunnel port's outer headers: Ethernet, IPv4, opaque field."""
STAGED_HEAD = 960
"""Room for a frame's headers at a packet port: virtio-net header, outer and own headers."""
SERIES_OFFSET = TEMPLATES_OFFSET + MAX_PORTS * TEMPLATE_SIZE
SERIES = 64
"""Segments of a tunnel that a packet port gives to the kernel as one datagram (UDP_MAX_SEGMENTS)."""
SAVED_OFFSET = SERIES_OFFSET + SERIES * STAGED_HEAD
SAVED = MAX_SAVED + 2
"""Packets that an action program remembers, the super-frame whose segments it treats one by one, and a packet
that an operation cuts."""
CONTROL_SIZE = (SAVED_OFFSET + SAVED * STAGED_HEAD + 4095) & ~4095

# The ring of a receive queue's driver (S0.6): a page of cursors, then the slots.

DRIVER_HEAD = 0  # packets ever put into it; written by the worker
DRIVER_TAIL = 64  # packets ever taken; written by the driver
DRIVER_ARMED = 128  # 1: the driver wants to be woken by the next packet; written by both
DRIVER_FD = 192  # the eventfd that wakes it
DRIVER_PAGE = 4096
DRIVER_SLOT_HEAD = 64
"""In front of a slot's packet: length, gso_size, Csum, frames, in_port (its index), tunnel_id, as int64."""
DRIVER_SLOT_SIZE = 17 * 4096
DRIVER_SIZE = DRIVER_PAGE + DRIVER_SLOTS * DRIVER_SLOT_SIZE

# A wire's file: one page of facts, one page of cursors for each direction, then the slots and the data
# areas of both directions. DESIGN of the exchange: docs/explanation/wire.md.

CURSOR_PAGE = 4096
WIRE_MAGIC = 0x4D4E_5749_5245_0001
WIRE_SLOTS = 4096
"""Slots of a wire in each direction, a power of two: so many where there is memory for them, else fewer, …"""
MIN_WIRE_SLOTS = 1024
"""… but not fewer than take what a port brings at once."""
SLOT_SIZE = 256
SLOT_RELEASE = 0  # int64: CLOCK_MONOTONIC at which the frame leaves the wire; 0 = at once
SLOT_LENGTH = 8  # uint32: bytes of the frame
SLOT_HEAD_LENGTH = 12  # uint16: bytes that stand in the slot (or data area)
SLOT_KIND = 14  # uint16: SlotKind
SLOT_EXT = 16  # int64: where the rest stands in the producer's pool
SLOT_EPOCH = 24  # uint32: the producer's life in which the slot was written
SLOT_HEAD = 32
SLOT_HEAD_MAX = SLOT_SIZE - SLOT_HEAD
CURSOR_HEAD = 0  # slots ever published; written by the producer
CURSOR_ASLEEP = 64  # 1: the consumer wants to be woken; written by both
CURSOR_TAIL = 128  # slots ever released; written by the consumer
CURSOR_WAITING = 192  # 1: the producer wants to be woken when there is room again; written by both
CURSOR_EPOCH = 256  # the producer's life number
CURSOR_UNORDERED = 288  # 1: frames may overtake each other, by their release times
CURSOR_CUT = 296  # 1: the cable is cut at the producer's end
CURSOR_MAPPED = 320  # the producer's life whose pool the consumer has mapped; written by the consumer


class SlotKind(enum.IntEnum):
    INLINE = 0  # the whole frame stands in the slot
    DATA = 1  # the whole frame stands in the data area
    SPLIT = 2  # headers in the slot, payload in the producer's pool


class PortKind(enum.IntEnum):
    NONE = 0
    TAP = 1
    WIRE = 2
    TUNNEL = 3
    PACKET = 4
    LOCAL = 5  # never up: there is nobody behind it


class Csum(enum.IntEnum):
    """What is known of a packet's L4 checksum."""

    UNKNOWN = 0
    GOOD = 1  # verified
    BAD = 2  # verified and wrong
    PARTIAL = 3  # the field holds the pseudo-header's sum only (CHECKSUM_PARTIAL)


class TcpOptions(enum.IntEnum):
    NONE = 0
    TIMESTAMP = 1
    OTHER = 2


class Lro(enum.IntEnum):
    """Whether a receive queue coalesces (S0.1)."""

    OFF = 0
    ON = 1
    RULES = 2  # what the first rule that matches says; no rule: off


ANY_IP = 1
"""`ip_version` of a match that takes IPv4 and IPv6; 0: whatever frame."""


class Op(enum.IntEnum):
    """Operations of an action program: OP_WORDS words each, the operation and its arguments a, b, c."""

    OUTPUT = 1  # a: port index
    SET_TUNNEL = 2  # a: tunnel id
    CONTROLLER = 3  # a: number of the Controller action in the program store
    SET_FIELD = 4  # a: SetField's number in dataplane.rewrite; b, c: the value's high and low 64 bits
    PUSH = 5  # a: Ethernet type of the tag or shim
    POP_VLAN = 6
    POP_MPLS = 7  # a: Ethernet type of what is behind it
    POP_PBB = 8
    SET_TTL = 9  # a: TTL, b: 1 for MPLS
    DEC_TTL = 10  # a: number of the Controller action for an invalid TTL, b: 1 for MPLS
    COPY_TTL = 11  # a: 1 for inwards
    METER = 12  # a: index into `meters`
    SAVE = 13
    RESTORE = 14
    LOOK_UP_AGAIN = 15  # a: which of the packet's remarks it is: 0 for the first


OP_WORDS = 4


class Command(enum.IntEnum):
    """What the agent asks of a worker."""

    NOTHING = 0  # stands for what concerns another worker
    INSTALL = 1  # key, program_offset, program_length (~program_length: see there), idle_timeout_ns, number
    # of the first punt that the agent has not seen
    REMOVE = 2  # key
    EXECUTE = 3  # punt slot, program_offset, program_length
    DISCARD = 4  # punt slot, counter or -1
    SEND = 5  # injection slot, program_offset, program_length
    NEW_POOL = 6  # wire, offset in mem, size, epoch
    PORT_STATE = 7  # port index, up
    NIC = 8  # port index, which of its rows in `nics` is in force from now on, the new `vif_count`
    WIRE = 9  # wire: take over the settings that the agent wrote beside the row
    ADD_TUNNEL = 10  # port index, whose row and template the agent has written
    REMOVE_TUNNEL = 11  # port index
    CAPTURE = 12  # port index, enabled
    METER = 13  # meter index, 1: it was there before: take over `meter_settings`
    FORWARDING = 14  # port index, whether a forwarding VM is there
    INJECTOR = 15  # packet port's number among the sockets, the descriptor of its injector, 0 for none
    TOO_BIG_REPORTS = 16  # whether the agent is told of packets that are too big for tunnels
    TOS_MASK = 17  # bits of the TOS that keys have, number of the first punt that the agent has not seen
    DROP_MASK = 18  # number of the drop mask, which stands in place of the key


class Held(enum.IntEnum):
    """What became of the packet in a punt slot that the agent has not given back."""

    COPY = 0  # nothing will: the packet itself was disposed of
    WAITING = 1  # a miss, which the agent or its flow's entry disposes of
    FORWARDED = 2  # its flow's entry has, and the agent counts it
    COUNTED = 3  # its flow's entry has, and counted it


class PuntKind(enum.IntEnum):
    MISS = 0
    ACTION = 1
    EVICTED = 2
    TOO_BIG = 3


class Counter(enum.IntEnum):
    """Everything that is counted by reason. The names are printed in lower case."""

    # Dropped on receiving
    RX_TOO_SHORT = 0
    RX_BAD_DESCRIPTOR = 1
    RX_STALE_SLOT = 2
    RX_BAD_OUTER_CHECKSUM = 3
    RX_OUTER_FRAGMENT = 4
    RX_UNKNOWN_TUNNEL = 5
    RX_ECN_INCOMPATIBLE = 6
    RX_RING_FULL = 39
    DRIVER_QUEUE_FULL = 42
    # Dropped on forwarding
    NO_RULE = 7
    TABLE_MISS = 8
    PORT_CONFIG = 9
    PUNT_LIMITED = 10
    PUNT_OVERFLOW = 11
    TOO_MANY_OPERATIONS = 46
    METER_DROP = 22
    INVALID_TTL = 34
    HEADERS_TOO_LONG = 50
    # Dropped on sending
    UNKNOWN_PORT = 12
    PORT_DOWN = 14
    NO_UPLINK = 15
    MTU_EXCEEDED = 16
    WIRE_FULL = 17
    WIRE_QUEUE = 18
    WIRE_LOSS = 19
    TAP_BUSY = 20
    TAP_ERROR = 21
    PACKET_BUSY = 36
    PACKET_ERROR = 37
    WIRE_STALLED = 38
    NOT_IP = 40
    TUNNEL_ID_TOO_LARGE = 41
    # Not a drop
    NO_SUCH_HEADER = 35
    RX_BAD_CHECKSUM = 23
    WIRE_DUPLICATED = 24
    WIRE_REORDERED = 25
    WIRE_MARKED = 26
    WIRE_LATE = 27
    EVICTED_IDLE = 28
    FLOW_TABLE_FULL = 29
    TX_BACKPRESSURE = 30
    CAPTURE_MISSED = 33
    WIRE_TIMED = 56
    WIRE_INEXACT = 57
    WIRE_LATENESS_NS = 58
    MSS_TABLE_FULL = 43
    MSS_SEGMENTED = 44
    WORKER_BUSY = 45
    PACKET_TOO_BIG_SUPPRESSED = 60
    # Coalescing
    GRO_MERGED = 31
    GRO_AGGREGATES = 32
    GRO_FIRST = 64
    """Counter GRO_FIRST + Merge.X counts frames that joined no aggregate because of X."""


class Merge(enum.IntEnum):
    """Why a frame can or cannot join an aggregate of its flow (S4.3, S1.4)."""

    YES = 0
    DISABLED = 1
    NOT_TCP = 2
    NO_PAYLOAD = 3
    FLAGS = 4
    BAD_CHECKSUM = 5
    IP_OPTIONS = 6
    FRAGMENT = 7
    TCP_OPTIONS = 8
    OUT_OF_ORDER = 9
    TIMESTAMP = 10
    ACK_OR_WINDOW = 11
    TOS = 12
    TTL = 13
    DF = 14
    IP_ID = 15
    EXTENSION_HEADERS = 16
    LARGER_SEGMENT = 17
    TOO_LONG = 18
    OUTER_HEADER = 19
    CLOSED = 20
    NEW_FLOW = 21
    NO_RULE = 22


MERGES = 32
COUNTERS = 96
DROP_REASONS = Counter.GRO_FIRST
"""Counters below this may be reasons for a drop."""
DROPS_ON_RECEIVING = (
    Counter.RX_TOO_SHORT, Counter.RX_STALE_SLOT, Counter.RX_BAD_OUTER_CHECKSUM, Counter.RX_OUTER_FRAGMENT,
    Counter.RX_UNKNOWN_TUNNEL, Counter.RX_ECN_INCOMPATIBLE, Counter.RX_RING_FULL, Counter.NOT_IP,
    Counter.DRIVER_QUEUE_FULL,
)  # fmt: skip
ERRORS_ON_RECEIVING = (Counter.RX_BAD_DESCRIPTOR,)
ERRORS_ON_SENDING = (Counter.TAP_ERROR, Counter.PACKET_ERROR)


def _record(**fields):
    """An aligned record type; a field is a type, or a type and a shape.

    Integers have 64 bits: a narrower one in a call makes Numba compile the function once more.
    """
    columns = []
    for name, kind in fields.items():
        kind, *shape = kind if isinstance(kind, tuple) else (kind,)
        columns.append((name, kind, *shape))
    return np.dtype(columns, align=True)


packet_dtype = _record(
    # where it is: `length` bytes, the first `head_length` (the head) at `offset`, the rest (if any) at `ext`
    offset="i8", ext="i8", length="i8", head_length="i8", buffer="i8", port="i8", queue="i8",
    # the tunnel it came through
    in_port="i8", tunnel_id="i8", opaque="i8", opaque_len="i8", length_field="i8",
    outer_ecn="i8", outer_df="i8", outer_is_udp="i8",
    # headers as the receiver of the inner frame sees them; the payload begins in the head, or at its end, and
    # goes on in the rest, and what is behind it is a trailer (padding, or what the sender put there)
    l2="i8", l3="i8", l4="i8", payload="i8", payload_len="i8", eth_type="i8", vlan_tci="i8",
    vlan_inner="i8",
    ip_version="i8", ip_proto="i8", tos="i8", ttl="i8", ip_id="i8", df="i8", frag="i8", ip_options="i8",
    tcp_flags="i8", tcp_window="i8", tcp_options="i8", seq="i8", ack="i8", timestamp="i8",
    csum="i8", csum_start="i8", csum_offset="i8", gso_size="i8", hash="i8", ecn_changed="i8", next="i8",
    # where a packet has its headers that the sender has put into a tunnel of its own, if its checksum and
    # segmentation are left to others; then `payload` is its payload. `gso_l4` 0: there is no such packet
    gso_l3="i8", gso_l4="i8",
)  # fmt: skip

group_dtype = _record(
    first="i8", last="i8", count="i8", gso_size="i8", next_seq="i8", payload_len="i8", ip_id="i8",
    closed="i8", flags="i8", next="i8",
    # whether its flow is coalesced (GroupLro), why not (Merge), to which IP length, and where it is counted
    lro="i8", denial="i8", completion_size="i8", plain="i8", port="i8", queue="i8",
)  # fmt: skip


class GroupLro(enum.IntEnum):
    """Whether a group's flow may be coalesced."""

    UNDECIDED = 0  # its first frame could be part of no aggregate: nobody asked
    ALLOWED = 1
    DENIED = 2


outgoing_dtype = _record(
    # the packet that the action program works on: headers in the scratch, payload in `ranges`, behind it the
    # trailer, which no packet with a partial checksum has
    header="i8", header_len="i8", l3="i8", l4="i8", ip_version="i8", ip_proto="i8", frag="i8", tos="i8",
    payload_len="i8", trailer_len="i8", range_count="i8", gso_size="i8", csum="i8", in_port="i8",
    buffer="i8", tunnel_id="i8", hash="i8", frames="i8", bytes="i8",
    gso_l3="i8", gso_l4="i8", gso_version="i8", gso_proto="i8",
)  # fmt: skip

range_dtype = _record(offset="i8", length="i8")
RANGES = 2 * BURST + 4
"""A frame's payload may stand in two places."""

port_dtype = _record(
    kind="i8", number="i8", up="i8", fd="i8", mtu="i8", wire="i8", socket="i8", ready="i8", capture="i8",
    forwarding="i8",  # 1: of a VM that forwards connections (S0.9)
    # what it received, and what became of that but for drops; what it was to send, and what it sent
    rx_packets="i8", rx_bytes="i8", rx_forwarded="i8", rx_decapsulated="i8", rx_held="i8",
    tx_requested="i8", tx_packets="i8", tx_bytes="i8",
    rx_missed="i8",  # frames that the kernel had no room for; written by the agent
    punts="i8",  # punt slots that hold its packets
    punts_from_ns="i8",  # none before that time: it has cost the agent too much; written by the agent
    too_big_at_ns="i8",  # until when reports of packets that are too big use up what was allowed (GCRA)
    # tunnel: its row of numbers, end points and outer headers
    format="i8", uplink="i8", local_ip="i8", remote_ip="i8", template="i8", template_len="i8", ip_id="i8",
)  # fmt: skip

# Of a port's ring: slots before `done` are not in other workers' hands, and those before `marked` will not be
# when these have passed the marks: of their inboxes and, once `turned`, of what they have handed back.
_MARKS = {
    "done": "i8",
    "marked": "i8",
    "marks": ("i8", (MAX_WORKERS,)),
    "turned": "i8",
    "back_marks": ("i8", (MAX_WORKERS,)),
}

wire_dtype = _record(
    port="i8", kick_fd="i8", wake_fd="i8", slots="i8", data_size="i8",
    tx_cursors="i8", tx_slots="i8", tx_data="i8", rx_cursors="i8", rx_slots="i8", rx_data="i8",
    tx_head="i8", tx_clean="i8", tx_published="i8", rx_tail="i8", epoch="i8",
    pool="i8", peer_pool="i8", peer_pool_size="i8", peer_epoch="i8",
    # settings of the sending direction; rates in bytes per second, times in ns, chances of 2^32. The rate
    # counts a frame as `least_length` bytes at least, and `added_length` more
    impaired="i8", rate="f8", least_length="i8", added_length="i8",
    delay_ns="i8", jitter_ns="i8", loss="i8", duplicate="i8", reorder="i8",
    queue_limit="i8", ecn_threshold="i8", random="i8",
    free_at_ns="i8", queue_head="i8",
    # since when the ring is full, and which slot the receiver had released last by then
    full_since_ns="i8", full_clean="i8",
    # receiving out of order: slots that wait in a heap by release time
    unordered="i8", heap_size="i8", taken="i8",
    **_MARKS,
)  # fmt: skip

socket_dtype = _record(
    # a packet port: where its ring and its staging area stand, and how far each is used
    port="i8", fd="i8", ring="i8", tail="i8", taken="i8", large_count="i8",
    large_free="i8", large_end="i8",  # where the last of its pool buffers is free
    # whether it takes super-frames of datagrams; the descriptor for those in a tunnel over UDP (0: none), and
    # whether there have been such
    udp_gso="i8", injector_fd="i8", injector_wanted="i8",
    staging="i8", staged="i8", iovs="i8", first_iov="i8",
    **_MARKS,
)  # fmt: skip

format_dtype = _record(
    outer_proto="i8", outer_proto6="i8", opaque_len="i8", self_describing="i8", least_len="i8",
    id_offset="i8", id_length="i8", id_value="i8", flow_id_offset="i8", flow_id_length="i8",
    flow_id_shift="i8", length_field="i8", check_offset="i8", check_mask="i8", check_value="i8",
    entropy_offset="i8", inner_ip="i8", inner_auto="i8", has_twin="i8",
    told_by_content="i8",  # 1: one of the two, so that it takes bytes of what is inside to tell
)  # fmt: skip

KEY_WORDS = 9
KEY_TOS = 3
"""The word whose lowest eight bits are the TOS."""
KEY_KIND = 4
MASK_SHIFT = 56
"""Where word KEY_KIND tells, of an entry for all packets that agree under a drop mask, its number + 1."""
REMARKS_SHIFT = 48
"""Where word 0 tells what meters made of the packet: a drop precedence of two bits for each look."""

nic_match_dtype = _record(
    # a flow key's words under a mask; `whole`: 1 if it names ports, which no fragment has
    mask=("i8", (KEY_WORDS,)), value=("i8", (KEY_WORDS,)), ip_version="i8", whole="i8",
    # a filter's queue; a rule's queues as bits, and whether it turns LRO on
    queue="i8", queues="i8", enabled="i8",
)  # fmt: skip

nic_dtype = _record(
    # a port's receive queues: what each does, rules and filters in the order in which they are asked, RSS
    queue_count="i8", filter_count="i8", rule_count="i8", driver_count="i8",
    lro=("i8", (MAX_QUEUES,)), completion_size=("i8", (MAX_QUEUES,)),
    plain=("i8", (MAX_QUEUES,)),  # 1: aggregates carry no word of their segments
    workers=("i8", (MAX_QUEUES,)), spread="i8",  # who serves each queue; 1: not all by worker 0
    drivers=("i8", (MAX_QUEUES,)),  # where the ring of the queue's driver stands in `mem`; 0: it has none
    indirection=("i8", (RSS_ENTRIES,)), toeplitz=("i8", (RSS_NIBBLES, 16)),
    rules=(nic_match_dtype, (NIC_RULES,)), filters=(nic_match_dtype, (NIC_FILTERS,)),
)  # fmt: skip

nic_queue_dtype = _record(
    # what a receive queue has counted; `reasons`: frames by Merge
    frames="i8", bytes="i8", merged="i8", aggregates="i8", dropped="i8", reasons=("i8", (MERGES,)),
)  # fmt: skip

flow_dtype = _record(
    state="i8", hash="i8", key=("i8", (KEY_WORDS,)), program="i8",
    program_len="i8",  # ~length: worker 0 alone can run it, the others hand it their frames
    packets="i8", bytes="i8",
    last_used_ns="i8", installed_ns="i8", idle_timeout_ns="i8",
)  # fmt: skip
FLOW_EMPTY, FLOW_USED = 0, 1

command_dtype = _record(
    op="i8", key=("i8", (KEY_WORDS,)), args=("i8", (6,)),
    # what the worker answers: whether an entry had a program before, and what it had counted
    ended="i8", packets="i8", bytes="i8", last_used_ns="i8",
)  # fmt: skip

MSS_WORDS = 5

mss_dtype = _record(
    # a connection at a forwarding VM's port; of each direction, what its receiver takes (0: not seen yet)
    # and the sequence number of the SYN that said so; `fins`: a bit for each direction that is closed
    used="i8", port="i8", key=("i8", (MSS_WORDS,)), last_used_ns="i8", fins="i8",
    mss=("i8", (2,)), isn=("i8", (2,)),
)  # fmt: skip

meter_dtype = _record(
    used="i8", in_packets="i8", bands="i8", packets="i8", bytes="i8",
    # of each band
    rate=("f8", (MAX_BANDS,)), burst=("f8", (MAX_BANDS,)), tokens=("f8", (MAX_BANDS,)),
    filled_ns=("i8", (MAX_BANDS,)), prec_level=("i8", (MAX_BANDS,)),
    band_packets=("i8", (MAX_BANDS,)), band_bytes=("i8", (MAX_BANDS,)),
)  # fmt: skip
"""A meter. rate: bytes or packets per ns; burst, tokens: bytes or packets; prec_level 0: the band drops."""

punt_dtype = _record(
    # of an entry that ended, `slot` tells how many commands had been applied
    kind="i8", key=("i8", (KEY_WORDS,)), slot="i8", length="i8", action="i8", partial="i8",
    packets="i8", bytes="i8", last_used_ns="i8",
    mtu="i8",  # of a packet that is too big: how long it might be
)  # fmt: skip

held_dtype = _record(
    length="i8", in_port="i8", tunnel_id="i8", csum="i8", csum_start="i8", csum_offset="i8", gso_size="i8",
    forwarded_mss="i8",
    # of a punt slot: what became of it (Held), its key with the whole TOS, the number of its punt, its hash,
    # what it counts for; of one that waits, the next one in its bucket
    state="i8", key=("i8", (KEY_WORDS,)), number="i8", hash="i8", packets="i8", bytes="i8", next="i8",
    # the port that received it, as how many frames that are accounted for as held
    account="i8", frames="i8",
)  # fmt: skip
"""What is known of a packet that lies whole in a punt or injection slot."""
HELD_BUCKETS = 256
NO_SLOT = -1

capture_dtype = _record(time_ns="i8", port="i8", outbound="i8", length="i8", captured="i8")

tables_dtype = _record(
    # the worker: its number among `workers`. What number 0 knows of the others: where their control regions
    # stand, how many frames it has handed to each, and how many of these it knows them to be done with.
    # `settling`: it takes no frames until what is under way is done. `awaited`: commands that the others have
    # to apply before it goes on. `agreed`: those that one of the others has seen, and applies after worker 0.
    # `clocked`: `now_ns` is when the clock was last looked at, not a time that a caller gives.
    worker="i8", workers="i8", controls="i8", handed=("i8", (MAX_WORKERS,)), finished=("i8", (MAX_WORKERS,)),
    settling="i8", awaited="i8", agreed="i8",
    now_ns="i8", clocked="i8", loops="i8", sleeps="i8", agent_fd="i8", wake_fd="i8", random="i8", sweep="i8",
    # drops by reason; of received frames and of those to be sent, by port too. The fate of the packet in hand
    # (account.py): the port that received it, as how many frames that are not accounted for yet, and why the
    # last copy of it that was dropped was dropped
    counters=("i8", (COUNTERS,)),
    rx_drops=("i8", (MAX_PORTS, DROP_REASONS)), tx_drops=("i8", (MAX_PORTS, DROP_REASONS)),
    account="i8", open_frames="i8", drop_reason="i8",
    # ports
    ports=(port_dtype, (MAX_PORTS,)),
    taps=("i8", (MAX_PORTS,)), tap_count="i8", tap_turn="i8", tunnels=("i8", (MAX_PORTS,)), tunnel_count="i8",
    last_tunnel="i8",
    formats=(format_dtype, (MAX_FORMATS,)),
    # receive queues. Of a port's two rows, `nic_rows` names the one in force; the agent writes the other one
    # and then has them change places. `vif_count`: TAPs in front of which flows are coalesced.
    nics=(nic_dtype, (MAX_PORTS, 2)), nic_rows=("i8", (MAX_PORTS,)), vif_count="i8",
    nic_queues=(nic_queue_dtype, (MAX_PORTS, MAX_QUEUES)),
    # wires; `wire_settings` is what the agent wants, taken over by Command.WIRE. A slot number of
    # `wire_buffers` tells the pool buffer that the slot's payload stands in, or -1.
    wires=(wire_dtype, (MAX_WIRES,)), wire_count="i8", wire_settings=(wire_dtype, (MAX_WIRES,)),
    wire_buffers=("i8", (MAX_WIRES, WIRE_SLOTS)), wire_heap=("i8", (MAX_WIRES, WIRE_SLOTS, 2)),
    wire_taken=("i1", (MAX_WIRES, WIRE_SLOTS)), wire_turns=("i8", (MAX_WIRES, WIRE_SLOTS)),
    # packet ports; the pool buffers that large frames were read into, and the last such frame's slot number
    sockets=(socket_dtype, (MAX_PORTS,)), socket_count="i8", staged_frames="i8",
    large_buffers=("i8", (MAX_PORTS, LARGE_BURST)), large_numbers=("i8", (MAX_PORTS, LARGE_BURST)),
    # the pool's buffers: references to each, and the stack of free ones
    pool="i8", buffers=("i8", (BUFFERS,)), free_buffers=("i8", (BUFFERS,)), free_buffer_count="i8",
    # the burst in hand, its aggregates, and the one packet that an action program works on
    packets=(packet_dtype, (BURST,)), packet_count="i8",
    groups=(group_dtype, (BURST,)), group_count="i8",
    buckets=("i8", (GRO_BUCKETS, 2)), gro_stamp="i8",
    outgoing=outgoing_dtype, ranges=(range_dtype, (RANGES,)), key=("i8", (KEY_WORDS,)),
    # packets that it remembers, whose headers stand at SAVED_OFFSET; the row for what is parsed anew
    saved=(outgoing_dtype, (SAVED,)), saved_ranges=(range_dtype, (SAVED, RANGES)), parsed=packet_dtype,
    # connections through forwarding VMs; the segment size of the packet in hand if one of these sent it, or 0
    mss=(mss_dtype, (MSS_ENTRIES,)), mss_key=("i8", (MSS_WORDS,)), forwarded_mss="i8",
    forwarding_vms="i8",
    # flows and the agent
    # `tos_mask`: the bits of the TOS that some rule looks at, which are those that keys have
    tos_mask="i8",
    drop_masks=("i8", (DROP_MASKS, KEY_WORDS)), drop_mask_count="i8", masked_key=("i8", (KEY_WORDS,)),
    flows=(flow_dtype, (FLOWS,)), flow_count="i8", flow_moves="i8", flow_bits=("i8", (FLOWS // 32,)),
    programs=("i8", (PROGRAM_WORDS,)),
    commands=(command_dtype, (COMMANDS,)),
    meters=(meter_dtype, (METERS,)), meter_settings=(meter_dtype, (METERS,)),
    punts=(punt_dtype, (PUNTS,)), punt_memory="i8", held=(held_dtype, (PUNTS,)),
    held_first=("i8", (HELD_BUCKETS,)), held_last=("i8", (HELD_BUCKETS,)),
    injection_memory="i8", injections=(held_dtype, (INJECTIONS,)),
    free_punts=("i8", (PUNTS,)), free_punt_count="i8", too_big_reports="i8",
    captures=(capture_dtype, (CAPTURES,)), capture_memory="i8",
    # frames that worker 0 hands to this one, and groups of them that it hands back; a group stands where its
    # first frame does
    inbox=(packet_dtype, (INBOX,)),
    returned=(packet_dtype, (RETURNED,)), returned_groups=(group_dtype, (RETURNED,)),
)  # fmt: skip
"""All state of one worker but its packet bytes: the argument `t` of every stage, beside `mem`.

One record, so that a call passes one pointer and each field stands at a constant offset. Only its worker
writes, but for areas that a command has not yet announced: `programs`, `wire_settings`, new rows of `ports`,
`wires`, `formats`, the rows of `nics` that are not in force. Untouched pages cost no memory.
"""


def make_tables(workers=1):
    """Empty tables, as an array of one record for each worker."""
    tables = np.zeros(workers, tables_dtype)
    for number, t in enumerate(tables):
        t["worker"] = number
        t["workers"] = workers
        t["free_buffers"] = np.arange(BUFFERS)[::-1]
        t["free_buffer_count"] = BUFFERS
        t["free_punts"] = np.arange(PUNTS)
        t["free_punt_count"] = PUNTS
        t["held_first"] = NO_SLOT
        t["random"] = 1
        t["last_tunnel"] = -1
        t["too_big_reports"] = 1
    return tables
