# SPDX-License-Identifier: Apache-2.0
"""A datapath in plain Python, for tests of the agent: what the compiled one must do, slowly."""

from __future__ import annotations

import copy
import os
import struct
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field

from tests.protocol.fake_nic import FakeNic
from tests.protocol.frame_model import Frame
from vswitch.config import WireSettings
from vswitch.errors import ConfigError
from vswitch.flow import (
    FRAG_FIRST,
    FRAG_LATER,
    MAX_SAVED,
    VLAN_PRESENT,
    Controller,
    CopyTtl,
    DecTtl,
    Ended,
    FlowKey,
    FlowStats,
    LookUpAgain,
    Meter,
    MeterStats,
    Output,
    PopMpls,
    PopPbb,
    PopVlan,
    PortAccount,
    PortCounters,
    PortInfo,
    Punt,
    PuntReason,
    Push,
    Restore,
    Save,
    SetField,
    SetTtl,
    SetTunnel,
)
from vswitch.openflow.spec import port_mac
from vswitch.tunnel_formats import SHIPPED, check_format


@dataclass
class Entry:
    program: tuple
    idle_timeout_s: float
    packets: int = 0
    bytes: int = 0
    last_used_ns: int = 0

    @property
    def stats(self):
        return FlowStats(self.packets, self.bytes, self.last_used_ns)


@dataclass
class Sent:
    """A frame that left through a port."""

    port: int
    frame: bytes
    tunnel_id: int = 0


@dataclass
class FakeClock:
    now_ns: int = 1_000_000_000

    def __call__(self):
        return self.now_ns

    def advance(self, seconds):
        self.now_ns += int(seconds * 1e9)


LOCAL = PortInfo(0xFFFF_FFFE, "s1", "local", bytes.fromhex("024c00000001"), 1500, False, "", PortCounters())


def tap(port_no, name=None, up=True, kind="tap"):
    mac = bytes.fromhex(port_mac(1, port_no).replace(":", ""))
    return PortInfo(port_no, name or f"{kind}{port_no}", kind, mac, 1500, up, "", PortCounters())


@dataclass
class FakeDatapath:
    clock: FakeClock
    infos: dict = field(default_factory=lambda: {n: tap(n) for n in (1, 2, 3)})
    local: PortInfo = LOCAL
    entries: dict = field(default_factory=dict)
    sent: list = field(default_factory=list)
    discarded: list = field(default_factory=list)
    nics: dict = field(default_factory=dict)
    forwarding: dict = field(default_factory=dict)
    wires: dict = field(default_factory=dict)
    meters: dict = field(default_factory=dict)
    drop_masks: dict = field(default_factory=dict)
    held_back: dict = field(default_factory=dict)
    added_formats: dict = field(default_factory=dict)
    installs: int = 0
    drains: int = 0
    link_fds: tuple = ()
    packet_too_big: bool = True
    exceeded: bool = False  # whether the packets that come exceed the meters, whose numbers are their levels
    lag: int = 0  # commands that flows() are behind; drained() catches up

    def __post_init__(self):
        self.punt_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self._punts = []
        self._held = {}
        self._waiting = {}  # the misses of _held that nobody has forwarded, the oldest first
        self._seen = 0
        self._counted = []
        self._counted_by_entries = set()
        self.tos_mask = 0
        self._next_packet = 1
        self._ended = []
        self._commands = []
        self._ports_touched = False
        self.metered = Counter()

    # --- the wire side, for tests ---

    def receive(self, port, frame, tunnel_id=0):
        """A frame arrives."""
        whole_key = self.key_of(frame, port, tunnel_id)
        key = self._flow_key(whole_key)
        counters = self.infos[port].counters if port in self.infos else PortCounters()
        if port in self.infos:
            rx = counters._replace(
                rx_packets=counters.rx_packets + 1, rx_bytes=counters.rx_bytes + len(frame)
            )
            self.infos[port] = self.infos[port]._replace(counters=rx)
        entry = self.entries.get(key) or self._drop(key)
        if entry is None:
            self._punt(PuntReason.MISS, whole_key, frame)
            return
        entry.packets += 1
        entry.bytes += len(frame)
        entry.last_used_ns = self.clock()
        self._run(entry.program, key, frame)

    def _drop(self, key):
        """The entry for all packets of a kind that no rule wants."""
        for number, mask in self.drop_masks.items():
            masked = FlowKey(*(value & bits for value, bits in zip(key, mask, strict=True)))
            entry = self.entries.get(masked._replace(drop_mask=number + 1))
            if entry is not None:
                assert entry.program == ()
                return entry
        return None

    def idle_out(self):
        """Entries that were idle too long end."""
        for key, entry in list(self.entries.items()):
            last_ns = entry.last_used_ns or self.clock()
            if entry.idle_timeout_s and self.clock() - last_ns >= entry.idle_timeout_s * 1e9:
                del self.entries[key]
                self._ended.append(Ended(key, entry.stats, False, True))

    def evict(self, key):
        self._ended.append(Ended(key, self.entries.pop(key).stats, False, True))

    def set_up(self, port, up):
        self.infos[port] = self.infos[port]._replace(up=up)
        self._ports_touched = True

    def take_sent(self):
        sent, self.sent = self.sent, []
        return sent

    @property
    def held(self):
        """Packets that nobody has disposed of yet."""
        return len(self._held)

    def _punt(self, reason, key, frame, action=None, mtu=0):
        self._held[self._next_packet] = (key, frame)
        if reason == PuntReason.MISS:
            self._waiting[self._next_packet] = None
        self._punts.append(Punt(reason, key, frame, self._next_packet, action, mtu=mtu))
        self._next_packet += 1
        os.eventfd_write(self.punt_fd, 1)

    def _flow_key(self, key):
        return key._replace(ip_tos=key.ip_tos & self.tos_mask)

    def _run(self, program, key, data):
        frame, tunnel_id, saved = Frame(data), key.tunnel_id, []
        over = 0  # groups inside the bucket whose packet is over
        for action in program:
            if over:
                over += {Save: 1, Restore: -1}.get(type(action), 0)
                if over:
                    continue
            match action:
                case SetTunnel(number):
                    tunnel_id = number
                case Output(port):
                    self._output(port, bytes(frame), tunnel_id)
                case Controller():
                    self._punt(PuntReason.ACTION, key, bytes(frame), action)
                case SetField(name, value):
                    frame.set_field(name, value)
                case Push(ethertype):
                    frame.push(ethertype)
                case PopVlan():
                    frame.pop_vlan()
                case PopMpls(ethertype):
                    frame.pop_mpls(ethertype)
                case PopPbb():
                    frame.pop_pbb()
                case SetTtl(ttl, mpls):
                    frame.set_ttl(ttl, mpls)
                case CopyTtl(inwards):
                    frame.copy_ttl(inwards)
                case DecTtl(invalid, mpls):
                    if not frame.dec_ttl(mpls):
                        self._punt(PuntReason.ACTION, key, bytes(frame), invalid)
                        if not saved:
                            return
                        over = 1
                case Meter(meter_id):
                    self.metered[meter_id] += 1
                    if self.exceeded:
                        remark(frame, meter_id)
                case LookUpAgain(number):
                    self._look_up_again(key, frame, number)
                    return
                case Save():
                    saved.append((copy.deepcopy(frame), tunnel_id))
                    assert len(saved) <= MAX_SAVED
                case Restore():
                    frame, tunnel_id = saved.pop()
                case _:
                    raise AssertionError(f"{action} is no action")

    def _look_up_again(self, key, frame, number):
        precedence = frame.fields()["ip_dscp"] >> 1 & 3
        key = key._replace(remarks=key.remarks | precedence << 2 * number)
        entry = self.entries.get(self._flow_key(key))
        if entry is None:
            self._punt(PuntReason.MISS, key, bytes(frame))
            return
        entry.packets += 1
        entry.bytes += len(bytes(frame))
        entry.last_used_ns = self.clock()
        self._run(entry.program, key, bytes(frame))

    def _output(self, port, frame, tunnel_id):
        if port == LOCAL.port_no:
            counters = self.local.counters
            counters = counters._replace(tx_dropped=counters.tx_dropped + 1)
            self.local = self.local._replace(counters=counters)
        info = self.infos.get(port)
        if info is None or not info.up:
            return
        counters = info.counters
        tx = counters._replace(tx_packets=counters.tx_packets + 1, tx_bytes=counters.tx_bytes + len(frame))
        self.infos[port] = info._replace(counters=tx)
        self.sent.append(Sent(port, frame, tunnel_id if info.kind == "tunnel" else 0))

    # --- the facade ---

    def poll_punts(self, limit=64):
        punts, self._punts = self._punts[:limit], self._punts[limit:]
        if punts:
            self._seen = punts[-1].packet
        if not self._punts:
            try:
                os.eventfd_read(self.punt_fd)
            except BlockingIOError:
                pass
        return punts

    def key_of(self, frame, in_port=0, tunnel_id=0):
        return parse(frame, in_port, tunnel_id)

    def set_drop_mask(self, number, mask):
        self._command(self.drop_masks.__setitem__, number, mask)

    def hold_back_punts(self, port_no, until_ns):
        self.held_back[port_no] = until_ns

    def install(self, key, program, idle_timeout_s=0):
        self.installs += 1
        self._command(self._install, key, tuple(program), idle_timeout_s, self._seen)

    def remove(self, key):
        self._command(self._remove, key)

    def _command(self, *command):
        self._commands.append(command)
        while len(self._commands) > self.lag:
            act, *args = self._commands.pop(0)
            act(*args)

    def _install(self, key, program, idle_timeout_s, seen):
        entry = self.entries.get(key)
        if entry is None:
            self.entries[key] = Entry(program, idle_timeout_s)
        else:
            self._ended.append(Ended(key, entry.stats, True))
            entry.program, entry.idle_timeout_s = program, idle_timeout_s
        self._forward_waiting(seen)

    def _forward_waiting(self, seen):
        """Packets that wait go before any that come later and find the entry."""
        for packet in list(self._waiting):
            key, frame = self._held[packet]
            entry = self.entries.get(self._flow_key(key))
            if entry is None or all(isinstance(action, Controller) for action in entry.program):
                continue
            del self._waiting[packet]
            if packet > seen:
                self._counted_by_entries.add(packet)
                entry.packets += 1
                entry.bytes += len(frame)
                entry.last_used_ns = self.clock()
            self._run(entry.program, key, frame)

    def set_tos_mask(self, mask):
        self._command(self._set_tos_mask, mask, self._seen)

    def _set_tos_mask(self, mask, seen):
        self.tos_mask = mask
        self._forward_waiting(seen)

    def counted(self):
        counted, self._counted = self._counted, []
        return counted

    def _remove(self, key):
        entry = self.entries.pop(key, None)
        if entry is not None:
            self._ended.append(Ended(key, entry.stats, False))

    def ended(self):
        ended, self._ended = self._ended, []
        return ended

    def execute(self, packet, program):
        self._command(self._dispose_of, packet, tuple(program), None)

    def discard(self, packet, reason):
        self._command(self._dispose_of, packet, (), reason)

    def _dispose_of(self, packet, program, reason):
        key, frame = self._held.pop(packet)
        if packet in self._counted_by_entries:
            self._counted_by_entries.remove(packet)
            self._counted.append(packet)
        waited = packet in self._waiting
        self._waiting.pop(packet, None)
        if reason is not None:
            self.discarded.append(reason)
        elif waited:
            self._run(program, key, frame)

    def send(self, frame, program, in_port=0, tunnel_id=0):
        self._run(program, parse(frame, in_port, tunnel_id), frame)

    def together(self):
        return nullcontext()

    async def drained(self):
        self.drains += 1
        self.catch_up()

    def catch_up(self):
        """Every command given so far is applied."""
        lag, self.lag = self.lag, 0
        if self._commands:
            self._command(lambda: None)
        self.lag = lag

    def flow_stats(self, keys=None):
        wanted = self.entries if keys is None else [key for key in keys if key in self.entries]
        return {key: self.entries[key].stats for key in wanted}

    def flow_stats_in_parts(self):
        keys = list(self.entries)
        for start in range(0, len(keys), 2):
            yield self.flow_stats(keys[start : start + 2])

    def set_meter(self, meter_id, config):
        self.meters[meter_id] = config

    def remove_meter(self, meter_id):
        self.meters.pop(meter_id, None)
        del self.metered[meter_id]

    def meter_stats(self, meter_id):
        return MeterStats(self.metered[meter_id], 0, tuple((0, 0) for _ in self.meters[meter_id].bands))

    def ports(self):
        return [*self.infos.values(), self.local]

    def refresh_ports(self):
        touched, self._ports_touched = self._ports_touched, False
        return touched

    def counters(self):
        return dict(Counter(reason.name.lower() for reason in self.discarded))

    def accounts(self):
        return {info.name: PortAccount(info.counters, {}, {}) for info in sorted(self.ports())}

    def capabilities(self):
        return {"version": "0.1.0", "formats": sorted(self.formats()), "queues": 8, "workers": 1}

    def worker_cores(self):
        return [[0]]

    def nic(self, port_no):
        info = self.infos.get(port_no)
        if info is None or info.kind == "tunnel":
            raise ConfigError("port_no", f"there is no NIC at port {port_no}")
        return self.nics.setdefault(port_no, FakeNic(port_no, "vif" if info.kind == "tap" else "nic"))

    def lro(self, port_no, queue=0):
        """The setting of a queue, for tests."""
        return self.nic(port_no).settings()[queue].lro

    def set_forwarding(self, port_no, forwarding):
        self.forwarding[port_no] = forwarding

    def set_packet_too_big(self, enabled):
        self.packet_too_big = enabled

    def formats(self):
        return {**SHIPPED, **self.added_formats}

    def set_format(self, name, format):
        check_format(format, [other for other in self.formats().values() if other.name != name])
        self.added_formats[name] = format

    def delete_format(self, name):
        if name not in self.added_formats:
            raise ConfigError("name", f"there is no added format {name!r}")
        del self.added_formats[name]

    def set_wire(self, port_no, **settings):
        self.wire_settings(port_no).changed(self.infos[port_no].name, settings)
        self.wires.setdefault(port_no, {}).update(settings)

    def _check_wire(self, port_no):
        if self.infos[port_no].kind != "wire":
            raise ConfigError("port", f"port {port_no} is no wire")

    def wire_settings(self, port_no):
        self._check_wire(port_no)
        return WireSettings().changed(f"port {port_no}", self.wires.get(port_no, {}))

    def add_tunnel(self, port_no, name, format, local_ip, remote_ip, local_mac, remote_mac, uplink_port):
        if format not in self.formats():
            raise ConfigError("format", f"{format!r} is not known", ", ".join(self.formats()))
        self.infos[port_no] = PortInfo(
            port_no, name, "tunnel", bytes(6), 1450, True, remote_ip, PortCounters(), uplink=uplink_port
        )

    def remove_tunnel(self, port_no):
        del self.infos[port_no]


def remark(frame, levels):
    """What a meter does to a packet of an AF class (RFC 2597) that exceeds it."""
    dscp = frame.fields().get("ip_dscp", 0)
    of_class, precedence, rest = dscp >> 3, dscp >> 1 & 3, dscp & 1
    if of_class in (1, 2, 3, 4) and precedence and not rest:
        frame.set_field("ip_dscp", of_class << 3 | min(3, precedence + levels) << 1)


def parse(frame, in_port=0, tunnel_id=0):
    """The flow key of a frame, the slow and obvious way."""
    eth_dst, eth_src = int.from_bytes(frame[0:6], "big"), int.from_bytes(frame[6:12], "big")
    (eth_type,) = struct.unpack_from("!H", frame, 12)
    tags, offset = [], 14
    while eth_type in (0x8100, 0x88A8) and len(tags) < 2 and len(frame) >= offset + 4:
        tci, eth_type = struct.unpack_from("!HH", frame, offset)
        tags.append(tci & 0xEFFF | VLAN_PRESENT)
        offset += 4
    outer, inner = (*tags, 0, 0)[:2]
    key = FlowKey(in_port, tunnel_id, eth_dst, eth_src, outer, inner, eth_type, 0, 0, 0, 0, 0, 0, 0)
    payload = frame[offset:]
    if eth_type == 0x0806 and len(payload) >= 28:
        (operation,) = struct.unpack_from("!H", payload, 6)
        return key._replace(
            ip_proto=operation if operation < 256 else 0,
            ip_src=int.from_bytes(payload[14:18], "big"),
            ip_dst=int.from_bytes(payload[24:28], "big"),
        )
    if eth_type in (0x8847, 0x8848) and len(payload) >= 4:
        return key._replace(ip_src=int.from_bytes(payload[:3], "big"))
    if eth_type == 0x88E7 and len(payload) >= 4:
        return key._replace(ip_dst=int.from_bytes(payload[1:4], "big"))
    if eth_type == 0x0800 and len(payload) >= 20:
        fragment = struct.unpack_from("!H", payload, 6)[0]
        frag = FRAG_LATER if fragment & 0x1FFF else FRAG_FIRST if fragment & 0x2000 else 0
        key = key._replace(
            ip_proto=payload[9],
            ip_tos=payload[1],
            ip_frag=frag,
            ip_src=int.from_bytes(payload[12:16], "big"),
            ip_dst=int.from_bytes(payload[16:20], "big"),
        )
        return _with_l4(key, payload[(payload[0] & 15) * 4 :])
    if eth_type == 0x86DD and len(payload) >= 40:
        proto, l4, frag = Frame(frame).l4()
        key = key._replace(
            ip_proto=proto,
            ip_tos=struct.unpack_from("!H", payload)[0] >> 4 & 0xFF,
            ip_frag=frag,
            ip_src=int.from_bytes(payload[8:24], "big"),
            ip_dst=int.from_bytes(payload[24:40], "big"),
        )
        return _with_l4(key, payload[l4:])
    return key


def _with_l4(key, segment):
    if key.ip_frag == FRAG_LATER or len(segment) < 4:
        return key
    if key.ip_proto in (6, 17, 132):
        return key._replace(l4_src=segment[0] << 8 | segment[1], l4_dst=segment[2] << 8 | segment[3])
    if key.ip_proto in (1, 58):
        return key._replace(l4_src=segment[0], l4_dst=segment[1])
    return key
