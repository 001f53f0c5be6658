# SPDX-License-Identifier: Apache-2.0
"""The ports of one datapath: their devices, their rows, the tunnels, and what became of links."""

from __future__ import annotations

import ipaddress
import math
import os
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from vswitch import layout
from vswitch.config import DEFAULT_MTU, MAX_PORT_NUMBER, PortConfig, WireSettings
from vswitch.dataplane.account import NOBODY
from vswitch.dataplane.memory import Memory
from vswitch.dataplane.ports.packet_device import PacketDevice
from vswitch.dataplane.ports.tap_device import TapDevice, inside_namespace, namespace_path
from vswitch.dataplane.ports.wire_file import WireEnd
from vswitch.errors import ConfigError
from vswitch.flow import PortAccount, PortCounters, PortInfo
from vswitch.format_table import FormatTable, outer_headers
from vswitch.layout import Command, Counter, PortKind
from vswitch.link_watch import LinkWatch
from vswitch.nic import Nic, SavedNic
from vswitch.openflow.constants import Port as PortNumber
from vswitch.openflow.spec import local_mac, port_mac
from vswitch.rings import CommandRing
from vswitch.rows import first_free
from vswitch.sniffer import Sniffer
from vswitch.tunnel_formats import overhead

NO_PORT = "no port"
_RX_DROPPED = list(layout.DROPS_ON_RECEIVING)
_RX_ERRORS = list(layout.ERRORS_ON_RECEIVING)
_TX_ERRORS = list(layout.ERRORS_ON_SENDING)
_COUNTED = [name for name in PortCounters._fields if name in layout.port_dtype.names]


class Port:
    """What the agent knows of a port beside the dataplane's row."""

    def __init__(self, number: int, index: int, name: str, kind: str, mac: str, mtu: int, peer: str) -> None:
        self.number, self.index, self.name, self.kind = number, index, name, kind
        self.mac, self.mtu, self.peer = mac, mtu, peer
        self.up = False
        self.speed_kbps = 0  # 0: nothing limits it that is known
        self.tap: TapDevice | None = None
        self.wire: WireEnd | None = None
        self.device: PacketDevice | None = None
        self.sniffer: Sniffer | None = None
        self.wire_index = -1
        self.uplink = 0  # number of the port that a tunnel goes out of
        self.format = ""  # of a tunnel
        self.settings = WireSettings()
        self.wire_is_set = False  # whether they were changed since the start
        self.peer_epoch = 0
        self.peer_pool: tuple[int, int] | None = None  # offset in mem, size


class Ports:
    """The ports by number; a port's index is that of its row. Among them is OFPP_LOCAL, by the name `local`.

    tables: of all workers, the first of which has the devices; the others know the rows of ports. pool_fd:
    the switch's packet memory, which the other ends of wires map.
    """

    def __init__(
        self,
        dpid: int,
        local: str,
        tables: Any,
        memory: Memory,
        pool_fd: int,
        commands: CommandRing,
        formats: FormatTable,
    ) -> None:
        self.dpid = dpid
        self.t = tables[0]
        self._tables = tables
        self.memory = memory
        self._pool_fd = pool_fd
        self._commands = commands
        self._formats = formats
        self._ports: dict[int, Port] = {}
        self.links = LinkWatch()
        self._nics: dict[int, Nic] = {}
        self._retired: deque[tuple[int, int, int]] = deque()  # commands given, offset and size of a mapping
        self._add_local(local)

    def __contains__(self, number: int) -> bool:
        return number in self._ports

    def __iter__(self) -> Iterator[Port]:
        return iter(self._ports.values())

    def __getitem__(self, number: int) -> Port:
        """Raises ConfigError when there is none of this number."""
        if number not in self._ports:
            opened = sorted((n, port.name) for n, port in self._ports.items() if n <= MAX_PORT_NUMBER)
            known = ", ".join(f"{n} ({name})" for n, name in opened)
            raise ConfigError("port", f"there is no port {number}", known)
        return self._ports[number]

    def index_of(self, number: int) -> int:
        """0 when there is no such port."""
        port = self._ports.get(number)
        return port.index if port else 0

    def close(self) -> None:
        """Release all devices."""
        self.links.close()
        for nic in self._nics.values():
            nic.close()
        for port in self:
            for device in (port.tap, port.wire, port.device, port.sniffer):
                if device:
                    device.close()

    @property
    def fds(self) -> list[int]:
        """Readable when refresh() may find something new."""
        return [*self.links.fds, *(port.wire.mail_fd for port in self if port.wire)]

    def _add_local(self, name: str) -> None:
        """OFPP_LOCAL has a row: what is sent there is dropped and counted, as of any port that is down."""
        number, index = PortNumber.LOCAL, layout.LOCAL_INDEX
        self._ports[number] = Port(number, index, name, "local", local_mac(self.dpid), DEFAULT_MTU, "")
        self.t["ports"][index]["kind"], self.t["ports"][index]["number"] = PortKind.LOCAL, number
        self._copy_row(index)

    def keep_devices(self) -> None:
        """The TAPs that were made are there for VMs from now on, whatever becomes of the switch."""
        for port in self:
            if port.tap:
                port.tap.keep()

    def open(self, config: PortConfig) -> None:
        """Open a port's device and make its row; raises ConfigError."""
        if config.number in self._ports:
            raise ConfigError(
                config.where, f"the port number {config.number} is given twice", "one port a number"
            )
        if any(port.name == config.name for port in self):
            raise ConfigError(config.where, f"the name {config.name} is given twice", "one port a name")
        index = self._free_index()
        if index is None:
            raise ConfigError(config.where, "there are too many ports", f"at most {layout.LOCAL_INDEX - 1}")
        if config.kind == "wire" and self.t["wire_count"] >= layout.MAX_WIRES:
            raise ConfigError(config.where, "there are too many wires", f"at most {layout.MAX_WIRES}")
        mac = config.mac or port_mac(self.dpid, config.number)
        port = Port(config.number, index, config.name, config.kind, mac, config.mtu, "")
        row = self.t["ports"][index]
        if config.kind == "tap":
            port.tap = TapDevice(config.interface, config.namespace, config.where)
            self._ports[config.number] = port
            port.peer = config.namespace
            with inside_namespace(namespace_path(config.namespace)):
                self.links.watch_here()
                port.sniffer = Sniffer(config.interface, config.number, outgoing_is_outbound=False)
            row["fd"] = port.tap.fd
            row["kind"] = PortKind.TAP
            self.t["taps"][self.t["tap_count"]] = index
            self.t["tap_count"] += 1
        elif config.kind == "packet":
            port.device = PacketDevice(config.interface, config.mtu, config.where)
            self._ports[config.number] = port
            port.sniffer = Sniffer(config.interface, config.number, outgoing_is_outbound=True)
            self.links.watch_here()
            port.mac, port.mtu, port.speed_kbps = port.device.mac, 0, port.device.speed_kbps()
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
            port.wire.map(self.memory, wire, self._pool_fd)
            row["kind"], row["wire"], row["mtu"] = PortKind.WIRE, port.wire_index, config.mtu
            self.t["wire_buffers"][port.wire_index] = -1
            self.t["wire_count"] += 1
            port.settings = config.wire
            self._apply_wire(port)
        row["number"] = config.number
        self._copy_row(index)
        self._nics[config.number] = Nic(port, self._tables, self.memory, self._commands, self._nics)

    def _copy_row(self, index: int) -> None:
        """Tell the workers without ports of a port."""
        self._tables["ports"][1:, index] = self.t["ports"][index]

    def refresh(self) -> bool:
        """Look at the links: True when something changed since the last call."""
        heard = self.links.drain()
        changed = False
        for port in self:
            up, mtu, speed_kbps = self._look(port, heard)
            mac = port.device.mac if port.device else port.mac
            if (up, mtu, speed_kbps, mac) != (port.up, port.mtu, port.speed_kbps, port.mac):
                self.t["ports"][port.index]["mtu"] = mtu
                port.up, port.mtu, port.speed_kbps, port.mac = up, mtu, speed_kbps, mac
                self._commands.give(Command.PORT_STATE, port.index, int(up))
                changed = True
        self._unmap_retired()
        return changed

    def _see_to_injector(self, device: PacketDevice, place: int) -> None:
        """Have what a packet port needs to send super-frames in tunnels over UDP, once there are such."""
        if device.injector_is_outdated:
            self._commands.give(Command.INJECTOR, place, 0)
            self._commands.wait(self._commands.given)  # no descriptor is closed under the worker's hands
            device.close_injector()
        elif self.t["sockets"][place]["injector_wanted"] and device.may_have_injector:
            self._commands.give(Command.INJECTOR, place, device.open_injector())

    def _look(self, port: Port, heard: bool) -> tuple[bool, int, int]:
        """Whether a port is up, its MTU and its speed in kbit/s. heard: something happened to interfaces."""
        if port.tap:
            up, mtu = port.tap.look()
            return up, mtu or port.mtu, 0
        if port.wire:
            return self._meet_peer(port), port.mtu, math.ceil(port.settings.bw * 1000)
        if port.device:
            up, mtu = port.device.look()
            self.t["ports"][port.index]["rx_missed"] += port.device.missed()
            self._see_to_injector(port.device, int(self.t["ports"][port.index]["socket"]))
            return up, mtu or port.mtu, port.device.speed_kbps() if heard else port.speed_kbps
        if port.uplink:
            uplink = self._ports[port.uplink]
            return uplink.up, uplink.mtu - overhead(self._formats[port.format]), uplink.speed_kbps
        return False, port.mtu, 0  # OFPP_LOCAL

    def _meet_peer(self, port: Port) -> bool:
        """Map the pool of whoever holds the wire's other end; whether both ends see each other."""
        wire = port.wire
        assert wire is not None
        wire.exchange_pools()
        if wire.is_cut() or not wire.peer_alive():
            return False
        epoch = wire.peer_epoch()
        if epoch != port.peer_epoch:
            taken = wire.take_peer_pool(epoch)
            if taken is None:
                return False
            fd, size = taken
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

    def infos(self) -> list[PortInfo]:
        """The ports as they are now, by number."""
        return [
            PortInfo(
                port.number,
                port.name,
                port.kind,
                bytes.fromhex(port.mac.replace(":", "")),
                port.mtu,
                port.up,
                port.peer,
                self._counters(port.index),
                port.speed_kbps,
                port.uplink,
            )
            for _number, port in sorted(self._ports.items())
        ]

    def accounts(self) -> dict[str, PortAccount]:
        """What became of each port's frames, by its name; NO_PORT: of those that no port received, or no port
        was to send."""
        indexes = {port.name: port.index for _number, port in sorted(self._ports.items())}
        return {
            name: PortAccount(self._counters(index), *map(_by_reason, self._drops(index)))
            for name, index in {**indexes, NO_PORT: NOBODY}.items()
        }

    def _counters(self, index: int) -> PortCounters:
        rows = self._tables["ports"][:, index]
        received, unsent = self._drops(index)
        counted = {name: int(rows[name].sum()) for name in _COUNTED}
        counted["rx_packets"] += int(rows[0]["rx_missed"])
        rx_dropped, rx_errors = int(received[_RX_DROPPED].sum()), int(received[_RX_ERRORS].sum())
        tx_errors = int(unsent[_TX_ERRORS].sum())
        return PortCounters(
            **counted,
            rx_not_forwarded=int(received.sum()) - rx_dropped - rx_errors,
            rx_dropped=rx_dropped,
            rx_errors=rx_errors,
            tx_dropped=int(unsent.sum()) - tx_errors,
            tx_errors=tx_errors,
        )

    def _drops(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames that a port received and that it was to send, dropped by Counter."""
        received = self._tables["rx_drops"][:, index].sum(axis=0)
        received[Counter.RX_RING_FULL] += self.t["ports"][index]["rx_missed"]
        return received, self._tables["tx_drops"][:, index].sum(axis=0)

    def nic(self, port_no: int) -> Nic:
        """The receive side of a wire or packet port, or of the switch's port in front of a VM."""
        port = self[port_no]
        if port_no not in self._nics:
            raise ConfigError("port_no", f"{port.name} is a {port.kind}", "a wire, packet or TAP port")
        return self._nics[port_no]

    def sniffers(self) -> Iterator[Sniffer]:
        """What hears the frames of the ports that are interfaces of the kernel."""
        return (port.sniffer for port in self if port.sniffer)

    def set_forwarding(self, port_no: int, forwarding: bool) -> None:
        """Whether the VM at a TAP port forwards connections (S0.9); raises ConfigError.

        Large frames that it sends without a segment size get one, from the MSS of their connection.
        """
        port = self[port_no]
        if port.tap is None:
            raise ConfigError("port_no", f"{port.name} is a {port.kind}", "a TAP port")
        self._commands.give(Command.FORWARDING, port.index, int(forwarding))

    def set_wire(self, port_no: int, **settings: Any) -> None:
        """Change how a wire treats the frames that we send: the words of `--port` (bw, delay, loss …)."""
        port = self._wire(port_no)
        port.settings = port.settings.changed(port.name, settings)
        port.wire_is_set = True
        self._apply_wire(port)

    def wire_settings(self, port_no: int) -> WireSettings:
        """How a wire treats the frames that we send."""
        return self._wire(port_no).settings

    def wires_set(self) -> list[int]:
        """The wires of which a setting was changed since the start."""
        return [port.number for port in self if port.wire_is_set]

    def nics_set(self) -> dict[int, SavedNic]:
        """The NICs that are not as at the start, by port."""
        saved = {number: nic.saved() for number, nic in self._nics.items()}
        return {number: settings for number, settings in saved.items() if settings is not None}

    def _wire(self, port_no: int) -> Port:
        port = self[port_no]
        if port.wire is None:
            raise ConfigError("port", f"{port.name} is no wire", "a wire port")
        return port

    def _apply_wire(self, port: Port) -> None:
        assert port.wire is not None
        wanted, row = port.settings, self.t["wire_settings"][port.wire_index]
        row["rate"] = wanted.bw * 1e6 / 8
        on_a_line = wanted.framing == "ethernet"
        row["least_length"] = layout.MIN_ETHERNET_FRAME if on_a_line else 0
        row["added_length"] = layout.ETHERNET_FRAMING if on_a_line else 0
        row["delay_ns"], row["jitter_ns"] = wanted.delay_ns, wanted.jitter_ns
        for name in ("loss", "duplicate", "reorder"):
            row[name] = int(getattr(wanted, name) / 100 * (1 << 32))
        row["queue_limit"] = min(wanted.max_queue_size, port.wire.slots)
        row["ecn_threshold"] = wanted.ecn_threshold
        row["random"] = wanted.seed or (self.dpid * 1009 + port.number) % 2147483646 + 1
        ideal = WireSettings(framing=wanted.framing, seed=wanted.seed, link_up=wanted.link_up)
        row["impaired"] = int(wanted != ideal)
        port.wire.cut(not wanted.link_up)
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
        """Make a tunnel port, or another one of the tunnel port that has the number. Raises ConfigError, and
        then nothing has changed.

        A port that is made another keeps its index: programs that output to it do so from then on, too.
        """
        numbers = self._formats[format]
        if not 1 <= port_no <= MAX_PORT_NUMBER:
            raise ConfigError("port_no", f"{port_no} is no port number", f"1 to {MAX_PORT_NUMBER}")
        before = self._ports.get(port_no)
        if before is not None and before.kind != "tunnel":
            raise ConfigError("port_no", f"the port {port_no} exists already", "an unused number")
        uplink = self[uplink_port]
        if uplink.wire is None and uplink.device is None:
            raise ConfigError("uplink_port", f"{uplink.name} is a {uplink.kind}", "a wire or packet port")
        index = before.index if before else self._free_index()
        if index is None:
            raise ConfigError("port_no", "there are too many ports", f"at most {layout.LOCAL_INDEX - 1}")
        local, remote = _ipv4("local_ip", local_ip), _ipv4("remote_ip", remote_ip)
        macs = _mac("local_mac", local_mac), _mac("remote_mac", remote_mac)
        template = outer_headers(numbers, local, remote, *macs)
        if before:
            self._take_out(before)
        at = layout.TEMPLATES_OFFSET + index * layout.TEMPLATE_SIZE
        self.memory.write(at, template)
        self.t["ports"][index] = 0
        for drops in ("rx_drops", "tx_drops"):
            self._tables[drops][:, index] = 0
        row = self.t["ports"][index]
        row["number"], row["format"], row["uplink"] = port_no, self._formats.place(format), uplink.index
        row["local_ip"], row["remote_ip"], row["template"], row["template_len"] = (
            local,
            remote,
            at,
            len(template),
        )
        row["wire"] = -1
        self._copy_row(index)
        port = Port(port_no, index, name, "tunnel", local_mac, uplink.mtu - overhead(numbers), remote_ip)
        port.uplink, port.format = uplink_port, format
        self._ports[port_no] = port
        self._commands.give(Command.ADD_TUNNEL, index)
        self.refresh()

    def remove_tunnel(self, port_no: int) -> int:
        """Forget a tunnel port; returns the index that it had. Raises ConfigError."""
        port = self[port_no]
        if port.kind != "tunnel":
            raise ConfigError("port_no", f"{port.name} is no tunnel", "a tunnel port")
        self._take_out(port)
        del self._ports[port_no]
        return port.index

    def _take_out(self, tunnel: Port) -> None:
        """Returns when nothing comes or goes through a tunnel any more."""
        self._commands.give(Command.REMOVE_TUNNEL, tunnel.index)
        self._commands.wait(self._commands.given)

    def _free_index(self) -> int | None:
        """The index of a row that is nobody's."""
        return first_free(range(1, layout.LOCAL_INDEX), {port.index for port in self})

    def tunnels_of(self, format: str) -> list[str]:
        """The names of the tunnels of a format."""
        return [port.name for port in self if port.format == format]


def _by_reason(drops: np.ndarray) -> dict[str, int]:
    """The reasons for which there were drops."""
    return {Counter(int(reason)).name.lower(): int(drops[reason]) for reason in np.nonzero(drops)[0]}


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
