# SPDX-License-Identifier: Apache-2.0
"""Whatever is set and taken away while flows are cached: packets go the way of the settings of now."""

from __future__ import annotations

import random
import tempfile
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.packets import UDP, Raw, ip_header, payload, vm_ether
from tests.protocol.harness import Peer, add, delete, goto, group, meter, out, set_tunnel
from tests.unit.rig import examples
from tests.unit.servers import TUNNEL_PORT, VM_PORT, VNET, VNI, WIRE_PORT, Pair, SocketTap
from vswitch.agent.switch import OpenFlowSwitch
from vswitch.config import parse_port
from vswitch.datapath import Datapath
from vswitch.dataplane import worker
from vswitch.dataplane.intrinsics import pointed
from vswitch.errors import ConfigError
from vswitch.openflow import actions as of
from vswitch.openflow import experimenter as ex
from vswitch.openflow import messages as m
from vswitch.openflow.constants import (
    GroupModCommand,
    GroupType,
    MeterBandType,
    MeterModCommand,
    Port,
    PortConfig,
)
from vswitch.openflow.groups import Bucket
from vswitch.openflow.instructions import ApplyActions, Meter
from vswitch.openflow.meters import Band, MeterMod
from vswitch.tunnel_formats import SHIPPED, format_numbers

FORMATS = ["vxlan", "gre", "gre16", "slots"]
THROUGH = ApplyActions((set_tunnel(VNI), of.Output(TUNNEL_PORT)))


def udp(sport: int) -> bytes:
    return bytes(vm_ether() / ip_header(4) / UDP(sport=sport, dport=9) / Raw(payload(40)))


def tunnel(number: int, format: str, port_no: int = TUNNEL_PORT, far: int = 0) -> ex.TunnelAdd:
    """Of server `number`, to the other one; `far`: at another of its addresses."""
    ends = f"192.168.{far}.{number}", f"192.168.{far}.{3 - number}"
    macs = f"02:4f:00:00:0{number}:02", f"02:4f:00:00:0{3 - number}:02"
    return ex.TunnelAdd(port_no, f"t{port_no}", format, *ends, *macs, WIRE_PORT)


@pytest.fixture
def pair(monkeypatch, tmp_path):
    """Two servers with agents, whose VMs' packets go through one tunnel."""
    monkeypatch.setattr("vswitch.ports.TapDevice", SocketTap)
    pair = Pair(str(tmp_path / "wire"), tunnel=False)
    for number, server in enumerate(pair.servers, 1):
        server.of = OpenFlowSwitch(server.dp, f"s{number}", number, lambda: pair.now_ns)
        server.answer_misses = server.of.slowpath.handle_punts
        server.of.extensions.carry_out(tunnel(number, "vxlan"))
        Peer(server.of).says(add({"in_port": VM_PORT}, THROUGH), add({"in_port": TUNNEL_PORT}, out(VM_PORT)))
    yield pair
    pair.close()


@pytest.mark.parametrize("kind", ["format", "address", "removed", "all"])
def test_every_packet_arrives_after_each_change_of_the_tunnel(pair, kind):
    """Of three connections, whose flows are cached all the time."""
    draw = random.Random(kind)
    frames = [udp(sport) for sport in (1000, 1001, 1002)]
    for _ in range(60):
        change = kind if kind != "all" else draw.choice(["format", "address", "removed"])
        wanted = draw.choice(FORMATS), draw.randrange(9) if change == "address" else 0
        for number, server in enumerate(pair.servers, 1):
            if change == "removed":
                server.of.extensions.carry_out(ex.TunnelDelete(TUNNEL_PORT))
            server.of.extensions.carry_out(tunnel(number, wanted[0], far=wanted[1]))
        for sender, receiver in (pair.servers, reversed(pair.servers)):
            for frame in frames:
                sender.send(frame)
            pair.run()
            assert [packet.frame for packet in receiver.received()] == frames
    assert [server.dropped() for server in pair.servers] == [0, 0]
    assert max(server.of.slowpath.misses for server in pair.servers) <= 6


def test_what_comes_while_the_tunnel_is_away_is_counted_and_keeps_no_flow_from_the_new_one(pair):
    sender, receiver = pair.servers
    sender.send(udp(1000))
    pair.run()
    for server in pair.servers:
        server.of.extensions.carry_out(ex.TunnelDelete(TUNNEL_PORT))
    for _ in range(3):
        sender.send(udp(1000))
        pair.run()
    assert sender.dropped() == 3
    for number, server in enumerate(pair.servers, 1):
        server.of.extensions.carry_out(tunnel(number, "gre"))
    sender.send(udp(1000))
    pair.run()
    assert [packet.frame for packet in receiver.received()] == [udp(1000)] * 2


BAD = [{"format": "geneve"}, {"remote_ip": "10.0.0"}, {"uplink_port": VM_PORT}, {"uplink_port": 77}]


@pytest.mark.parametrize("wrong", BAD, ids=str)
def test_a_change_that_is_refused_leaves_the_tunnel_as_it_was(pair, wrong):
    sender, receiver = pair.servers
    before = sender.dp.ports()
    values = msgspec.structs.asdict(tunnel(1, "gre")) | wrong
    with pytest.raises(ConfigError):
        sender.dp.add_tunnel(**values)
    assert sender.dp.ports() == before
    sender.send(udp(1000))
    pair.run()
    assert [packet.frame for packet in receiver.received()] == [udp(1000)]


# Whatever happens


class Tap(SocketTap):
    """A VM's link that can go down."""

    is_up = True

    def look(self) -> tuple[bool, int]:
        return self.is_up, 1450


class Switch:
    """VMs at ports 1 and 3, a wire at port 2 whose other end takes everything."""

    def __init__(self, path: str) -> None:
        ports = ["1=tap:vm1", f"2=wire:{path}", "3=tap:vm3"]
        self.dp = Datapath(1, [parse_port(port) for port in ports])
        self.far_end = Datapath(2, [parse_port(f"2=wire:{path}")])
        self.now_ns = 10**9
        for _ in range(3):
            for dp in (self.dp, self.far_end):
                dp.refresh_ports()
                worker.step(pointed(dp.memory.array), dp.tables, 0, self.now_ns)
        self.of = OpenFlowSwitch(self.dp, "s1", 1, lambda: self.now_ns)
        self.controller = Peer(self.of)

    def close(self) -> None:
        self.dp.close()
        self.far_end.close()

    def apply(self, change: object) -> None:
        """A setting, which may be refused."""
        if isinstance(change, bool):
            self.dp._ports[3].tap.is_up = change
            self.of.look_at_links()
        elif isinstance(change, ex.TunnelAdd | ex.TunnelDelete | ex.FormatAdd | ex.FormatDelete):
            try:
                self.of.extensions.carry_out(change)
            except ConfigError:
                pass
        else:
            self.controller.says(change)

    def treats(self, frame: bytes) -> tuple[list[bytes], dict[str, int]]:
        """What VM 3 gets when VM 1 sends this, and what was counted for it."""
        before = self._counts()
        self.dp._ports[1].tap.vm.send(bytes(VNET.size) + frame)
        self.dp.t["ports"][self.dp._ports[1].index]["ready"] = 1
        while worker.step(pointed(self.dp.memory.array), self.dp.tables, 0, self.now_ns) or (
            self.of.slowpath.handle_punts()
        ):
            self.now_ns += 1000
        got = []
        while True:
            try:
                got.append(self.dp._ports[3].tap.vm.recv(1 << 17)[VNET.size :])
            except BlockingIOError:
                return got, dict(self._counts() - before)

    def _counts(self) -> Counter[str]:
        counts = Counter({f"{n} {name}": count for n, name, count in self._of_ports()})
        drops = ("unknown_port", "no_uplink", "port_down", "mtu_exceeded", "meter_drop", "port_config")
        counters = self.dp.counters()
        counts.update({name: counters[name] for name in drops})
        # the first packet of a flow that is dropped is counted by the agent, the others by its entry
        counts["dropped"] = counters["no_rule"] + counters["table_miss"]
        return counts

    def _of_ports(self):
        for info in self.dp.ports():
            for name in ("tx_packets", "tx_bytes"):
                yield info.port_no, name, getattr(info.counters, name)


def change(draw: random.Random) -> object:
    """Something that somebody sets."""
    port_no = draw.choice([TUNNEL_PORT, TUNNEL_PORT + 1])
    actions = draw.choice(
        [
            [of.Output(3)],
            [set_tunnel(5), of.Output(TUNNEL_PORT), of.Output(3)],
            [set_tunnel(6), of.Output(TUNNEL_PORT + 1)],
            [of.Output(Port.FLOOD)],
            [of.Group(1)],
            [],
        ]
    )
    match = draw.choice(
        [{}, {"in_port": 1}, {"eth_type": 0x800, "ip_proto": 17, "udp_src": 1000 + draw.randrange(3)}]
    )
    bucket = [set_tunnel(5), of.Output(port_no)] if draw.randrange(2) else [of.Output(3)]
    buckets = [
        Bucket(tuple(bucket), watch_port=draw.choice([3, port_no])),
        Bucket((of.Output(WIRE_PORT),), watch_port=2),
    ]
    kind = draw.randrange(10)
    if kind < 2:
        return tunnel(1, draw.choice([*FORMATS, "own", "geneve"]), port_no, draw.randrange(2))
    if kind == 2:
        return ex.TunnelDelete(port_no)
    if kind == 3:
        numbers = format_numbers(SHIPPED["vxlan"]) | {"id_value": 50000}
        return draw.choice([ex.FormatDelete("own"), ex.FormatAdd("own", numbers)])
    if kind == 4:
        return draw.choice(
            [
                meter(1, Band(MeterBandType.DROP, 1 << 20)),
                meter(1, Band(MeterBandType.DROP, 1 << 21), command=MeterModCommand.MODIFY),
                MeterMod(MeterModCommand.DELETE, 1),
            ]
        )
    if kind == 5:
        command = draw.choice([GroupModCommand.ADD, GroupModCommand.MODIFY, GroupModCommand.DELETE])
        buckets = [] if command == GroupModCommand.DELETE else buckets
        return group(1, *buckets, kind=GroupType.FF, command=command)
    if kind == 6:
        return bool(draw.randrange(2))
    if kind == 7:
        mac = bytes.fromhex("024f00000103")
        config = draw.choice([PortConfig.NONE, PortConfig.NO_FWD, PortConfig.PORT_DOWN])
        return m.PortMod(3, mac, config, PortConfig.NO_FWD | PortConfig.PORT_DOWN, 0)
    if kind == 8 and draw.randrange(2):
        return delete(match, strict=True, priority=draw.randrange(3))
    extra = draw.choice([[], [], [Meter(1)], [goto(1)]])
    return add(
        match,
        ApplyActions(tuple(actions)),
        *extra,
        priority=draw.randrange(3),
        table_id=draw.choice([0, 0, 1]),
    )


START = (
    group(1, Bucket((of.Output(3),), watch_port=3), kind=GroupType.FF),
    meter(1, Band(MeterBandType.DROP, 1 << 20)),
    tunnel(1, "vxlan"),
    add({"in_port": 1}, THROUGH, priority=0),
)


@settings(max_examples=examples(30))
@given(seed=st.integers(0, 2**32 - 1))
def test_cached_flows_do_what_a_fresh_switch_with_the_same_settings_does(seed):
    draw = random.Random(seed)
    frames = [udp(1000 + number) for number in range(3)]
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        patch.setattr("vswitch.ports.TapDevice", Tap)
        history: list[object] = []
        living = Switch(f"{folder}/living")
        for number in range(6):
            changes = START if number == 0 else [change(draw) for _ in range(draw.randrange(1, 5))]
            for setting in changes:
                history.append(setting)
                living.apply(setting)
            fresh = Switch(f"{folder}/fresh{number}")
            for setting in history:
                fresh.apply(setting)
            for frame in frames:
                assert living.treats(frame) == fresh.treats(frame)
            fresh.close()
        living.close()
