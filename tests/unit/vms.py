# SPDX-License-Identifier: Apache-2.0
"""A switch with three VMs that are sockets, whose worker and agent run when the test lets them."""

from __future__ import annotations

from collections import Counter, defaultdict

from tests.accounts import imbalance
from tests.packets import UDP, Ether, Raw, ip_header, payload, vm_ether
from tests.protocol.harness import Peer
from tests.unit.servers import VNET
from vswitch.agent.switch import OpenFlowSwitch
from vswitch.config import parse_port
from vswitch.datapath import Datapath
from vswitch.dataplane import commands, worker
from vswitch.dataplane.intrinsics import pointed
from vswitch.openflow import messages as m

SENDER, RECEIVER, OTHER = 1, 2, 3
SECOND = 10**9


def packet(connection: int, number: int, tos: int = 0, version: int = 4) -> bytes:
    """Packet `number` of a connection."""
    field = {"tos": tos} if version == 4 else {"tc": tos}
    body = number.to_bytes(8, "big") + payload(20)
    return bytes(vm_ether() / ip_header(version, **field) / UDP(sport=1000 + connection, dport=9) / Raw(body))


def number_of(frame: bytes) -> int:
    return int.from_bytes(frame[-28:-20], "big")


class Switch:
    """A switch with three VMs, whose worker and agent run when the test lets them."""

    def __init__(self) -> None:
        self.dp = Datapath(1, [parse_port(f"{number}=tap:vm{number}") for number in (1, 2, 3)])
        self.now_ns = SECOND
        self.dp.refresh_ports()
        self.of = OpenFlowSwitch(self.dp, "s1", 1, lambda: self.now_ns)
        self.controller = Peer(self.of)
        self.sent: Counter[tuple[int, int]] = Counter()
        self.arrived: defaultdict[tuple[int, int, int], list[int]] = defaultdict(list)
        self.step()

    def close(self) -> None:
        self.dp.close()

    def says(self, *messages: object) -> None:
        assert [a for a in self.controller.says(*messages) if isinstance(a, m.Error)] == []

    def send(self, connection: int, tos: int = 0, version: int = 4) -> None:
        frame = packet(connection, self.sent[connection, version], tos, version)
        self.sent[connection, version] += 1
        self.dp._ports[SENDER].tap.vm.send(bytes(VNET.size) + frame)
        self.dp.t["ports"][self.dp._ports[SENDER].index]["ready"] = 1

    def step(self) -> int:
        self.now_ns += 1000
        worked = int(worker.step(pointed(self.dp.memory.array), self.dp.tables, 0, self.now_ns))
        assert not imbalance(self.dp.tables).any()
        return worked

    def answer(self, limit: int = 64) -> int:
        return self.of.slowpath.handle_punts(limit)

    def sweep(self) -> None:
        """Time passes in which no packet comes."""
        self.now_ns += 11 * SECOND
        self.dp.t["now_ns"] = self.now_ns
        for _ in range(commands.SWEEP_PARTS):
            commands.sweep(pointed(self.dp.memory.array), self.dp.tables)

    def settle(self) -> None:
        while self.step() + self.answer():
            pass
        self.step()
        self.of.slowpath.revalidate()

    def receive(self) -> None:
        """Note what the VMs got, in their order."""
        for port in (RECEIVER, OTHER):
            tap = self.dp._ports[port].tap
            while True:
                try:
                    frame = tap.vm.recv(1 << 17)[VNET.size :]
                except BlockingIOError:
                    break
                udp = Ether(frame)[UDP]
                version = 4 if "IP" in Ether(frame) else 6
                self.arrived[port, udp.sport - 1000, version].append(number_of(frame))

    def got(self, connection: int = 0, port: int = RECEIVER, version: int = 4) -> list[int]:
        self.receive()
        return self.arrived[port, connection, version]

    def counted(self) -> int:
        """Look-ups of packets in table 0."""
        for _part in self.of.slowpath.credit_all():
            pass
        return self.of.tables.tables[0].lookups

    def dropped(self) -> int:
        counters = self.dp.counters()
        reasons = ("no_rule", "table_miss", "port_config", "punt_overflow", "port_down", "meter_drop",
                   "unknown_port")  # fmt: skip
        return sum(counters[reason] for reason in reasons)
