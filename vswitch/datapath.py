# SPDX-License-Identifier: Apache-2.0
"""The agent's view of the compiled dataplane: opens ports, gives commands, reads counters.

All methods are called from one thread. What the worker reads is written before the command that announces it.
"""

from __future__ import annotations

import fcntl
import ipaddress
import logging
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numba
import numpy as np

from vswitch import layout
from vswitch.config import MAX_MTU, PortConfig, WireSettings
from vswitch.dataplane import flow_table, worker
from vswitch.dataplane.memory import Memory
from vswitch.dataplane.ports.packet_device import PacketDevice
from vswitch.dataplane.ports.tap_device import TapDevice
from vswitch.dataplane.ports.wire_file import WireEnd
from vswitch.errors import ConfigError, VSwitchError
from vswitch.flow import (
    CapturedFrame,
    DropReason,
    Ended,
    FlowKey,
    FlowStats,
    MeterConfig,
    MeterStats,
    PortCounters,
    PortInfo,
    Program,
    Punt,
)
from vswitch.format_table import FormatTable, outer_headers, overhead
from vswitch.keys import key_from, key_words
from vswitch.layout import Command, Counter, PortKind
from vswitch.nic import Nic
from vswitch.openflow.spec import port_mac
from vswitch.programs import ProgramStore
from vswitch.rings import CaptureRing, CommandRing, PuntRing
from vswitch.tunnel_formats import Format

log = logging.getLogger(__name__)

VERSION = "0.1.0"
DROP_COUNTERS = {
    DropReason.DELIVERED: -1,
    DropReason.TABLE_MISS: int(Counter.TABLE_MISS),
    DropReason.RULE: int(Counter.NO_RULE),
    DropReason.PORT_CONFIG: int(Counter.PORT_CONFIG),
}


class Port:
    """What the agent knows of a port beside the dataplane's row."""

    def __init__(self, number: int, index: int, name: str, kind: str, mac: str, mtu: int, peer: str) -> None:
        self.number, self.index, self.name, self.kind = number, index, name, kind
        self.mac, self.mtu, self.peer = mac, mtu, peer
        self.up = False
        self.tap: TapDevice | None = None
        self.wire: WireEnd | None = None
        self.device: PacketDevice | None = None
        self.wire_index = -1
        self.uplink = 0  # number of the port that a tunnel goes out of
        self.format = ""  # of a tunnel
        self.settings = WireSettings()
        self.peer_epoch = 0
        self.peer_pool: tuple[int, int] | None = None  # offset in mem, size


class Datapath:
    """One switch's dataplane.

    dpid: datapath id, which the ports' default MAC addresses derive from. cpu: processor for the worker, or
    None. Raises ConfigError when a port cannot be had; nothing stays open then.
    """

    def __init__(self, dpid: int, ports: Sequence[PortConfig] = (), cpu: int | None = None) -> None:
        self.dpid = dpid
        self.cpu = cpu
        self.punt_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.memory = Memory()
        self.tables = layout.make_tables()
        self.t = self.tables[0]
        self._scratch_tables = layout.make_tables()
        self._programs = ProgramStore(
            self.t["programs"], self._number_to_index, self._meter_to_index, self._live_places
        )
        self._meters: dict[int, int] = {}  # meter id to index
        self._ports: dict[int, Port] = {}
        self._nics: dict[int, Nic] = {}
        self._thread: threading.Thread | None = None
        self._closing = False
        self._injections: deque[tuple[int, int]] = deque((0, slot) for slot in range(layout.INJECTIONS))
        self._retired: deque[tuple[int, int, int]] = deque()  # commands given, offset and size of a mapping
        self._map_memory()
        self._commands = CommandRing(self.t, self._words, self._wake_fd, self._runs)
        self._punts = PuntRing(self.t, self.memory, self._words, self.punt_fd, self._programs.controller)
        self._captures = CaptureRing(self.t, self.memory, self._words)
        try:
            for config in ports:
                self._open(config)
        except BaseException:
            self.close()
            raise
        self.refresh_ports()

    def _map_memory(self) -> None:
        size = layout.CONTROL_SIZE
        control = self.memory.map_private(size)
        assert control == 0
        self._words = self.memory.words(0, size // 8)
        pool_size = layout.BUFFERS * layout.BUFFER_SIZE
        self._pool_fd = os.memfd_create("vswitch-pool", os.MFD_CLOEXEC)
        os.ftruncate(self._pool_fd, pool_size)
        self._pool_size = pool_size
        self.t["pool"] = self.memory.map_file(self._pool_fd, pool_size)
        self.t["punt_memory"] = self.memory.map_private(layout.PUNTS * layout.PUNT_SLOT_SIZE)
        self.t["injection_memory"] = self.memory.map_private(layout.INJECTIONS * layout.PUNT_SLOT_SIZE)
        self.t["capture_memory"] = self.memory.map_private(layout.CAPTURES * layout.CAPTURE_SLOT_SIZE)
        self._scratch = self.memory.map_private(layout.PUNT_SLOT_SIZE)
        self.t["agent_fd"], self.t["wake_fd"] = self.punt_fd, self._wake_fd
        self._formats = FormatTable(self.t["formats"])

    # Life

    def start(self) -> None:
        """Start the worker; returns when it runs, which takes a while when it must be compiled first."""
        started = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(started,), name="worker", daemon=True)
        self._thread.start()
        started.wait()

    def _work(self, started: threading.Event) -> None:
        if self.cpu is not None:
            os.sched_setaffinity(threading.get_native_id(), {self.cpu})
        with _compiling():
            self._words[layout.STOP_OFFSET // 8] = 1
            worker.run(self.memory.array, self.tables)  # compiles or loads, and returns at once
            self.flow_stats([self.key_of(bytes(14))])  # likewise what the agent calls
            self._words[layout.STOP_OFFSET // 8] = 0
        started.set()
        if not self._closing:
            worker.run(self.memory.array, self.tables)

    def _runs(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        """Stop the worker and release everything."""
        self._closing = True
        if self._thread is not None:
            self._words[layout.STOP_OFFSET // 8] = 1
            os.eventfd_write(self._wake_fd, 1)
            self._thread.join()
        for nic in self._nics.values():
            nic.close()
        for port in self._ports.values():
            if port.tap:
                port.tap.close()
            if port.wire:
                port.wire.close()
            if port.device:
                port.device.close()
        for fd in (self.punt_fd, self._wake_fd, self._pool_fd):
            os.close(fd)
        self.memory.close()

    # Ports

    def _open(self, config: PortConfig) -> None:
        if config.number in self._ports:
            raise ConfigError(
                config.where, f"the port number {config.number} is given twice", "one port a number"
            )
        if any(port.name == config.name for port in self._ports.values()):
            raise ConfigError(config.where, f"the name {config.name} is given twice", "one port a name")
        if len(self._ports) >= layout.MAX_PORTS - 1:
            raise ConfigError(config.where, "there are too many ports", f"at most {layout.MAX_PORTS - 1}")
        if config.kind == "wire" and self.t["wire_count"] >= layout.MAX_WIRES:
            raise ConfigError(config.where, "there are too many wires", f"at most {layout.MAX_WIRES}")
        mac = config.mac or port_mac(self.dpid, config.number)
        index = len(self._ports) + 1
        port = Port(config.number, index, config.name, config.kind, mac, config.mtu, "")
        row = self.t["ports"][index]
        if config.kind == "tap":
            port.tap = TapDevice(config.interface, config.namespace, config.where)
            self._ports[config.number] = port
            port.peer = config.namespace
            row["fd"] = port.tap.fd
            row["kind"] = PortKind.TAP
            self.t["taps"][self.t["tap_count"]] = index
            self.t["tap_count"] += 1
        elif config.kind == "packet":
            port.device = PacketDevice(config.interface, config.mtu, config.where)
            self._ports[config.number] = port
            port.mac, port.mtu = port.device.mac, 0
            row["kind"], row["socket"] = PortKind.PACKET, self.t["socket_count"]
            self.t["sockets"][row["socket"]]["port"] = index
            port.device.map(self.memory, self.t["sockets"][row["socket"]])
            self.t["socket_count"] += 1
        else:
            port.wire = WireEnd(config.path, config.mtu, config.end, config.where)
            self._ports[config.number] = port
            port.peer = config.path
            port.wire_index = int(self.t["wire_count"])
            wire = self.t["wires"][port.wire_index]
            wire["port"] = index
            wire["random"] = 1
            port.wire.map(self.memory, wire, int(self.t["pool"]), self._pool_fd, self._pool_size)
            row["kind"], row["wire"], row["mtu"] = PortKind.WIRE, port.wire_index, config.mtu
            self.t["wire_buffers"][port.wire_index] = -1
            self.t["wire_count"] += 1
            port.settings = config.wire
            self._apply_wire(port)
        row["number"] = config.number
        self._nics[config.number] = Nic(port, self.t, self.memory, self._commands, self._nics)

    def refresh_ports(self) -> bool:
        """Look at the links: True when something changed since the last call."""
        changed = False
        for port in self._ports.values():
            if port.tap:
                up, mtu = port.tap.up(), port.tap.mtu() or port.mtu
            elif port.wire:
                up, mtu = self._meet_peer(port), port.mtu
            elif port.device:
                up, mtu = port.device.look()
                mtu = mtu or port.mtu
                self.t["ports"][port.index]["rx_missed"] += port.device.missed()
            else:
                uplink = self._ports[port.uplink]
                up, mtu = uplink.up, uplink.mtu - overhead(self._formats[port.format])
            if (up, mtu) != (port.up, port.mtu):
                self.t["ports"][port.index]["mtu"] = mtu
                port.up, port.mtu = up, mtu
                self._commands.give(Command.PORT_STATE, port.index, int(up))
                changed = True
        self._unmap_retired()
        return changed

    def _meet_peer(self, port: Port) -> bool:
        """Map the pool of whoever holds the wire's other end; whether both ends see each other."""
        wire = port.wire
        assert wire is not None
        if not wire.peer_alive():
            return False
        epoch = wire.peer_epoch()
        if epoch != port.peer_epoch:
            opened = wire.open_peer_pool()
            if opened is None:
                return False
            fd, size = opened
            offset = self.memory.map_file(fd, size)
            os.close(fd)
            self._commands.give(Command.NEW_POOL, port.wire_index, offset, size, epoch)
            if port.peer_pool:
                self._retired.append((self._commands.given, *port.peer_pool))
            port.peer_epoch, port.peer_pool = epoch, (offset, size)
            wire.confirm_peer_pool(epoch)
        return wire.our_pool_is_mapped()

    def _unmap_retired(self) -> None:
        while self._retired and self._retired[0][0] <= self._commands.applied:
            _, offset, size = self._retired.popleft()
            self.memory.unmap(offset, size)

    def ports(self) -> list[PortInfo]:
        """The ports as they are now."""
        return [
            PortInfo(
                port.number,
                port.name,
                port.kind,
                bytes.fromhex(port.mac.replace(":", "")),
                port.mtu,
                port.up,
                port.peer,
                self._port_counters(port),
            )
            for port in self._ports.values()
        ]

    def _port_counters(self, port: Port) -> PortCounters:
        row = self.t["ports"][port.index]
        counters = PortCounters(*(int(row[name]) for name in PortCounters._fields))
        return counters._replace(rx_dropped=counters.rx_dropped + int(row["rx_missed"]))

    def nic(self, port_no: int) -> Nic:
        """The receive side of a wire or packet port, or of the switch's port in front of a VM."""
        port = self._port(port_no)
        if port_no not in self._nics:
            raise ConfigError("port_no", f"{port.name} is a {port.kind}", "a wire, packet or TAP port")
        return self._nics[port_no]

    def set_forwarding(self, port_no: int, forwarding: bool) -> None:
        """Whether the VM at a TAP port forwards connections (S0.9); raises ConfigError.

        Large frames that it sends without a segment size get one, from the MSS of their connection.
        """
        port = self._port(port_no)
        if port.tap is None:
            raise ConfigError("port_no", f"{port.name} is a {port.kind}", "a TAP port")
        self._commands.give(Command.FORWARDING, port.index, int(forwarding))

    def set_wire(self, port_no: int, **settings: Any) -> None:
        """Change how a wire treats the frames that we send: the words of `--port` (bw, delay, loss …)."""
        port = self._port(port_no)
        if port.wire is None:
            raise ConfigError("port", f"{port.name} is no wire", "a wire port")
        port.settings = port.settings.changed(port.name, settings)
        self._apply_wire(port)

    def _apply_wire(self, port: Port) -> None:
        wanted, row = port.settings, self.t["wire_settings"][port.wire_index]
        row["rate"] = wanted.bw * 1e6 / 8
        row["delay_ns"], row["jitter_ns"] = wanted.delay_ns, wanted.jitter_ns
        for name in ("loss", "duplicate", "reorder"):
            row[name] = int(getattr(wanted, name) / 100 * (1 << 32))
        row["queue_limit"] = min(wanted.max_queue_size, layout.WIRE_SLOTS)
        row["ecn_threshold"] = wanted.ecn_threshold
        row["random"] = wanted.seed or (self.dpid * 1009 + port.number) % 2147483646 + 1
        row["impaired"] = int(wanted != WireSettings(seed=wanted.seed))
        self._commands.give(Command.WIRE, port.wire_index)

    def add_tunnel(
        self,
        port_no: int,
        name: str,
        format: str,
        local_ip: str,
        remote_ip: str,
        local_mac: str,
        remote_mac: str,
        uplink_port: int,
    ) -> None:
        """Make a tunnel port; raises ConfigError."""
        numbers = self._formats[format]
        if port_no in self._ports:
            raise ConfigError("port_no", f"the port {port_no} exists already", "an unused number")
        uplink = self._port(uplink_port)
        if uplink.wire is None and uplink.device is None:
            raise ConfigError("uplink_port", f"{uplink.name} is a {uplink.kind}", "a wire or packet port")
        used = {port.index for port in self._ports.values()}
        index = next((i for i in range(1, layout.MAX_PORTS) if i not in used), None)
        if index is None:
            raise ConfigError("port_no", "there are too many ports", f"at most {layout.MAX_PORTS - 1}")
        local, remote = _ipv4("local_ip", local_ip), _ipv4("remote_ip", remote_ip)
        macs = _mac("local_mac", local_mac), _mac("remote_mac", remote_mac)
        template = outer_headers(numbers, local, remote, *macs)
        at = layout.TEMPLATES_OFFSET + index * layout.TEMPLATE_SIZE
        self.memory.write(at, template)
        row = self.t["ports"][index]
        for field in row.dtype.names:
            row[field] = 0
        row["number"], row["format"], row["uplink"] = port_no, self._formats.place(format), uplink.index
        row["local_ip"], row["remote_ip"], row["template"], row["template_len"] = (
            local,
            remote,
            at,
            len(template),
        )
        row["wire"] = -1
        port = Port(port_no, index, name, "tunnel", local_mac, uplink.mtu - overhead(numbers), remote_ip)
        port.uplink, port.format = uplink_port, format
        self._ports[port_no] = port
        self._commands.give(Command.ADD_TUNNEL, index)
        self.refresh_ports()

    def remove_tunnel(self, port_no: int) -> None:
        """Remove a tunnel port."""
        port = self._port(port_no)
        if port.kind != "tunnel":
            raise ConfigError("port_no", f"{port.name} is no tunnel", "a tunnel port")
        del self._ports[port_no]
        self._programs.forget_port(port.index)
        self._commands.give(Command.REMOVE_TUNNEL, port.index)
        self._commands.wait(self._commands.given)

    def set_format(self, name: str, format: Format) -> None:
        """Add a tunnel format, or change one that no tunnel uses; raises ConfigError."""
        self._formats.set(name, format, self._tunnels_of(name))

    def delete_format(self, name: str) -> None:
        """Forget a tunnel format that was added; raises ConfigError, also while a tunnel uses it."""
        self._formats.delete(name, self._tunnels_of(name))

    def formats(self) -> dict[str, Format]:
        """The tunnel formats by name: the shipped ones and those that were added."""
        return self._formats.all()

    def _tunnels_of(self, format: str) -> list[str]:
        return [port.name for port in self._ports.values() if port.format == format]

    def _port(self, number: int) -> Port:
        if number not in self._ports:
            known = ", ".join(f"{n} ({port.name})" for n, port in sorted(self._ports.items()))
            raise ConfigError("port", f"there is no port {number}", known)
        return self._ports[number]

    def _number_to_index(self, number: int) -> int:
        port = self._ports.get(number)
        return port.index if port else 0

    def _meter_to_index(self, meter_id: int) -> int:
        return self._meters.get(meter_id, -1)

    def _live_places(self) -> set[int]:
        """Offsets of the programs that entries or waiting commands name."""
        self._commands.wait(self._commands.given)
        flows = self.t["flows"]
        while True:
            moves = int(self.t["flow_moves"])
            places = flows["program"][flows["state"] == layout.FLOW_USED]
            if moves == int(self.t["flow_moves"]):  # the worker moved none meanwhile
                return set(places.tolist())

    # Meters

    def set_meter(self, meter_id: int, config: MeterConfig) -> None:
        """Add a meter, or give it other bands; its counters then start anew. Raises VSwitchError: no room."""
        index = self._meters.get(meter_id)
        if index is None:
            used = set(self._meters.values())
            index = next((i for i in range(layout.METERS) if i not in used), None)
            if index is None:
                raise VSwitchError(f"there are {layout.METERS} meters already: no room for another")
            self._meters[meter_id] = index
        self._commands.wait(self._commands.given)
        row = self.t["meter_settings"][index]
        for name in row.dtype.names:
            row[name] = 0
        row["used"], row["in_packets"], row["bands"] = 1, int(config.in_packets), len(config.bands)
        for number, band in enumerate(config.bands):
            # kbit/s are bytes/ns by 1000 / 8 / 1e9; without a burst, what comes in a tenth of a second passes
            # at once, and a large frame in any case
            unit, scale, least = (1.0, 1e-9, 1) if config.in_packets else (125.0, 125e-9, MAX_MTU * 8e-3)
            row["rate"][number] = band.rate * scale
            row["burst"][number] = (band.burst or max(band.rate / 10, least)) * unit
            row["prec_level"][number] = band.prec_level
        self._commands.give(Command.METER, index)

    def remove_meter(self, meter_id: int) -> None:
        """Programs that name it pass their packets; without effect when there is no such meter."""
        index = self._meters.pop(meter_id, None)
        if index is not None:
            self._programs.forget_meter(index)

    def meter_stats(self, meter_id: int) -> MeterStats:
        """Counters of a meter."""
        row = self.t["meters"][self._meters[meter_id]]
        counts = zip(row["band_packets"].tolist(), row["band_bytes"].tolist(), strict=True)
        return MeterStats(int(row["packets"]), int(row["bytes"]), tuple(counts)[: int(row["bands"])])

    def together(self) -> AbstractContextManager[None]:
        """Commands given within are announced to the worker once, at the end."""
        return self._commands.together()

    async def drained(self) -> None:
        """Returns when every command given so far has been applied."""
        await self._commands.drained()

    # Flows

    def install(self, key: FlowKey, program: Program, idle_timeout_s: float = 0) -> None:
        """Add the entry, or replace its program; replacing keeps its counters, and ended() tells them."""
        offset, length = self._programs.place(program)
        self._commands.give(Command.INSTALL, offset, length, int(idle_timeout_s * 1e9), key=key)

    def remove(self, key: FlowKey) -> None:
        """ended() tells its final counters; without effect when there is no such entry."""
        self._commands.give(Command.REMOVE, key=key)

    def ended(self) -> list[Ended]:
        """What became of replaced and removed programs since the last call, in the order of the commands."""
        return self._commands.ended()

    def execute(self, packet: int, program: Program) -> None:
        """Run a program on a held packet, and release it."""
        offset, length = self._programs.place(program)
        self._commands.give(Command.EXECUTE, packet, offset, length)

    def discard(self, packet: int, reason: DropReason) -> None:
        """Release a held packet, counting the reason."""
        self._commands.give(Command.DISCARD, packet, DROP_COUNTERS[reason])

    def send(self, frame: bytes, program: Program, in_port: int = 0, tunnel_id: int = 0) -> None:
        """Run a program on a frame of the agent's own (packet-out)."""
        given, slot = self._injections.popleft()
        self._commands.wait(given)
        frame = frame[: layout.PUNT_SLOT_SIZE]
        self.memory.write(int(self.t["injection_memory"]) + slot * layout.PUNT_SLOT_SIZE, frame)
        row = self.t["injections"][slot]
        row["length"], row["in_port"] = len(frame), self._number_to_index(in_port)
        row["tunnel_id"], row["csum"], row["gso_size"] = tunnel_id, 0, 0
        offset, length = self._programs.place(program)
        self._commands.give(Command.SEND, slot, offset, length)
        self._injections.append((self._commands.given, slot))

    def poll_punts(self, limit: int = 64) -> list[Punt]:
        """Packets that wait for a decision; also takes in reports of evicted entries."""
        return self._punts.poll(limit)

    def key_of(self, frame: bytes, in_port: int = 0, tunnel_id: int = 0) -> FlowKey:
        """The key that the dataplane's parser finds for a frame."""
        frame = frame[: layout.PUNT_SLOT_SIZE]
        self.memory.write(self._scratch, frame)
        t = self._scratch_tables[0]
        if flow_table.make_key_of_frame(self.memory.array, t, self._scratch, len(frame)):
            words = t["key"]
        else:
            words = np.zeros(layout.KEY_WORDS, np.int64)
        return key_from(words.view(np.uint64).tolist())._replace(in_port=in_port, tunnel_id=tunnel_id)

    def flow_stats(self, keys: Iterable[FlowKey] | None = None) -> dict[FlowKey, FlowStats]:
        """Counters of these entries (all of them by default); entries that do not exist are left out."""
        flows = self.t["flows"]
        if keys is None:
            used = flows[flows["state"] == layout.FLOW_USED]
            counts = zip(*(used[name].tolist() for name in FlowStats._fields), strict=True)
            keys = map(key_from, used["key"].view(np.uint64).tolist())
            return {key: FlowStats(*stats) for key, stats in zip(keys, counts, strict=True)}
        found = {}
        for key in keys:
            words = np.array(key_words(key), np.uint64).view(np.int64)
            place = flow_table.find(self.t, words)
            while place != flow_table.NOT_FOUND:
                stats = _stats(flows[place])
                if np.array_equal(flows[place]["key"], words):
                    found[key] = stats
                    break
                place = flow_table.find(self.t, words)  # the worker moved it meanwhile
        return found

    def evicted(self) -> list[tuple[FlowKey, FlowStats]]:
        """Entries that ended by themselves since the last call, with final counters."""
        return self._punts.evicted()

    # Captures

    def set_capture(self, port_no: int, enabled: bool) -> None:
        """Whether a wire's frames, both ways, are copied for poll_captures(); raises ConfigError."""
        port = self._port(port_no)
        if port.wire is None:
            raise ConfigError(
                "port", f"{port.name} is no wire", "a wire port; a VM's own tcpdump sees its TAP"
            )
        self._commands.give(Command.CAPTURE, port.index, int(enabled))
        self._commands.wait(self._commands.given)

    def poll_captures(self) -> list[CapturedFrame]:
        """The frames that were captured since the last call."""
        return list(self._captures.poll({port.index: port.number for port in self._ports.values()}))

    # What it says of itself

    def counters(self) -> dict[str, int]:
        """Everything counted by reason."""
        counters = {reason.name.lower(): int(self.t["counters"][reason]) for reason in Counter}
        del counters["gro_first"]
        counters["rx_ring_full"] += int(self.t["ports"]["rx_missed"].sum())
        for verdict in layout.Merge:
            name = f"gro_not_merged_{verdict.name.lower()}"
            counters[name] = int(self.t["counters"][Counter.GRO_FIRST + verdict])
        del counters["gro_not_merged_yes"], counters["gro_not_merged_disabled"]
        return counters

    def capabilities(self) -> dict[str, Any]:
        """What this switch can do, for the controller."""
        formats = list(self._formats.all())
        return {"version": VERSION, "formats": formats, "queues": layout.MAX_QUEUES, "workers": 1}


def is_compiled() -> bool:
    """Whether the cache directory holds all compiled code."""
    return (Path(numba.config.CACHE_DIR) / "complete").exists()


@contextmanager
def _compiling() -> Iterator[None]:
    """One process at a time compiles for a cache directory; the others wait for what it leaves there."""
    directory = Path(numba.config.CACHE_DIR)
    if is_compiled():
        yield
        return
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        (directory / "complete").touch()


def _stats(flow) -> FlowStats:
    return FlowStats(int(flow["packets"]), int(flow["bytes"]), int(flow["last_used_ns"]))


def _ipv4(where: str, text: str) -> int:
    try:
        return int(ipaddress.IPv4Address(text))
    except ValueError:
        raise ConfigError(where, f"{text!r} is no IPv4 address", "four numbers, as 192.0.2.1") from None


def _mac(where: str, text: str) -> bytes:
    try:
        mac = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        mac = b""
    if len(mac) != 6:
        raise ConfigError(where, f"{text!r} is no MAC address", "as 02:00:00:00:00:01")
    return mac
