# SPDX-License-Identifier: Apache-2.0
"""Two switches in one process, joined by a wire, each with a VM that is a socket; driven in virtual time."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from tests.accounts import imbalance
from tests.packets import IP, TCP, UDP, Ether
from tests.reference import internet_sum, l4_checksum_right
from vswitch import datapath
from vswitch.config import parse_port
from vswitch.dataplane import worker
from vswitch.dataplane.intrinsics import pointed
from vswitch.dataplane.ports.vnet import DATA_VALID, GSO_ECN, GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM
from vswitch.flow import Output, SetTunnel
from vswitch.layout import Counter

VM_PORT, WIRE_PORT, TUNNEL_PORT = 1, 2, 1000
VNI = 42
DROPS = [reason.name.lower() for reason in Counter if reason <= Counter.TAP_ERROR]
VNET = struct.Struct("<BBHHHHH")


class SocketTap:
    """Stands for TapDevice: `vm` is the end that the VM's stack would hold."""

    def __init__(self, interface: str, namespace: str, where: str) -> None:
        self._socket, self.vm = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._socket, self.vm):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
        self.fd = self._socket.fileno()

    def look(self) -> tuple[bool, int]:
        return True, 1450

    def close(self) -> None:
        self._socket.close()
        self.vm.close()


@dataclass
class Delivered:
    """What a VM got: the frame and the fields of its virtio-net header."""

    frame: bytes
    flags: int
    gso_type: int
    header_length: int
    gso_size: int
    csum_start: int
    csum_offset: int

    @property
    def segments(self) -> int:
        """Frames of the wire that this packet stands for."""
        if not self.gso_type:
            return 1
        return -(-(len(self.frame) - self.header_length) // self.gso_size)

    def assert_consistent(self) -> None:
        """The virtio-net header says what the frame is (virtio 1.2, section 5.1.6)."""
        packet = Ether(self.frame)
        if not self.flags & NEEDS_CSUM:
            assert self.gso_type == self.gso_size == self.csum_start == 0
            if self.flags & DATA_VALID:
                assert l4_checksum_right(self.frame)
            return
        l4 = packet[TCP] if TCP in packet else packet[UDP]
        proto, field = (6, 16) if TCP in packet else (17, 6)
        assert self.csum_start == len(self.frame) - len(bytes(l4))
        assert self.csum_offset == field
        ip = bytes(packet.payload)
        addresses = ip[12:20] if IP in packet else ip[8:40]
        pseudo = internet_sum(addresses + struct.pack("!II", len(bytes(l4)), proto))
        at = self.csum_start + field
        assert int.from_bytes(self.frame[at : at + 2], "big") == pseudo
        if self.gso_type:
            assert self.gso_type & ~GSO_ECN == (GSO_TCPV4 if IP in packet else GSO_TCPV6)
            assert bool(self.gso_type & GSO_ECN) == ("C" in str(packet[TCP].flags))
            assert self.header_length == self.csum_start + packet[TCP].dataofs * 4
            assert 0 < self.gso_size < len(self.frame) - self.header_length


class Server:
    """A switch with one VM and one uplink, and an agent that answers every miss."""

    def __init__(
        self, number: int, wire: str, options: str = "", tunnel: bool = True, workers: int = 1
    ) -> None:
        ports = [parse_port(f"1=tap:vm{number}"), parse_port(f"2=wire:{wire}{options}")]
        self.dp = datapath.Datapath(number, ports, workers)
        self.vm = self.dp._ports[VM_PORT].tap.vm
        self.tunnel = tunnel
        if tunnel:
            local, remote = f"192.168.0.{number}", f"192.168.0.{3 - number}"
            macs = f"02:4f:00:00:0{number}:02", f"02:4f:00:00:0{3 - number}:02"
            self.dp.add_tunnel(TUNNEL_PORT, "vxlan0", "vxlan", local, remote, *macs, WIRE_PORT)

    def step(self, now_ns: int) -> int:
        """A pass of each worker, beginning with the one that serves the ports."""
        worked = sum(self.step_worker(number, now_ns) for number in range(len(self.dp.tables)))
        if len(self.dp.tables) == 1:
            assert not imbalance(self.dp.tables).any()
        return worked

    def step_worker(self, number: int, now_ns: int) -> int:
        """A pass of one worker."""
        return int(worker.step(pointed(self.dp.memory.views[number]), self.dp.tables, number, now_ns))

    def answer_misses(self) -> int:
        """Install a flow for each miss and forward the held packet."""
        punts = self.dp.poll_punts()
        with self.dp.together():
            for punt in punts:
                program = (Output(VM_PORT),)
                if punt.key.in_port == VM_PORT:
                    program = (SetTunnel(VNI), Output(TUNNEL_PORT)) if self.tunnel else (Output(WIRE_PORT),)
                self.dp.install(punt.key._replace(ip_tos=0), program)
                self.dp.execute(punt.packet, program)
        return len(punts)

    def send(self, frame: bytes, gso_size: int = 0) -> None:
        """The VM's stack hands over a frame: large and with a partial checksum if `gso_size`."""
        self.hand_over(frame, gso_size)
        self.dp.t["ports"][self.dp._ports[VM_PORT].index]["ready"] = 1  # as the worker's poll would tell it

    def hand_over(self, frame: bytes, gso_size: int = 0) -> None:
        """As send(), to a worker that looks for itself."""
        header = bytes(VNET.size)
        if gso_size:
            packet = Ether(frame)
            l4 = len(frame) - len(bytes(packet[TCP]))
            kind = GSO_TCPV4 if IP in packet else GSO_TCPV6
            ip = bytes(packet.payload)
            addresses = ip[12:20] if IP in packet else ip[8:40]
            pseudo = internet_sum(addresses + struct.pack("!II", len(frame) - l4, 6))
            header_length = l4 + packet[TCP].dataofs * 4
            frame = frame[: l4 + 16] + pseudo.to_bytes(2, "big") + frame[l4 + 18 :]
            if len(frame) - header_length > gso_size:
                header = VNET.pack(NEEDS_CSUM, kind, header_length, gso_size, l4, 16, 0)
            else:
                header = VNET.pack(NEEDS_CSUM, 0, 0, 0, l4, 16, 0)
        self.vm.send(header + frame)

    def received(self) -> list[Delivered]:
        """What the VM has got since the last call."""
        delivered = []
        while True:
            try:
                data = self.vm.recv(1 << 17)
            except BlockingIOError:
                return delivered
            flags, kind, header_length, size, start, offset, _ = VNET.unpack_from(data)
            delivered.append(Delivered(data[VNET.size :], flags, kind, header_length, size, start, offset))

    def dropped(self) -> int:
        """Everything that was counted as a drop so far."""
        counters = self.dp.counters()
        return sum(counters[reason] for reason in DROPS)


class Pair:
    """Servers 1 and 2 and the wire between them."""

    def __init__(self, wire: str, options: str = "", tunnel: bool = True, workers: int = 1) -> None:
        self.servers = [Server(number, wire, options, tunnel, workers) for number in (1, 2)]
        self.now_ns = 10**9
        self.meet()

    def meet(self) -> None:
        """Let both switches see each other: mapping a pool takes a look from each side."""
        for _ in range(3):
            for server in self.servers:
                server.dp.refresh_ports()
                server.step(self.now_ns)

    def run(self, until_ns: int = 0, step_ns: int = 100_000) -> None:
        """Step both switches until nothing is left to do, and at least until `until_ns` from now."""
        end_ns = self.now_ns + until_ns
        quiet = 0
        while quiet < 3 or self.now_ns < end_ns:
            worked = sum(server.step(self.now_ns) + server.answer_misses() for server in self.servers)
            quiet = 0 if worked else quiet + 1
            self.now_ns += step_ns

    def close(self) -> None:
        while self.servers:
            self.servers.pop().dp.close()
