# SPDX-License-Identifier: Apache-2.0
"""Every frame is accounted for, by port and direction: the equations of docs/reference/counters.md."""

from __future__ import annotations

import random
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.accounts import unaccounted
from tests.packets import ICMP, TCP, UDP, Ether, Raw, ip_header, payload, tcp_segment, tcp_stream, vm_ether
from tests.protocol.harness import Peer, add, delete, group, meter, out, set_tunnel
from tests.unit.rig import VNI, Rig, examples
from tests.unit.servers import TUNNEL_PORT, VM_PORT, VNET, WIRE_PORT, Pair, Server, SocketTap
from vswitch import layout
from vswitch.agent.switch import OpenFlowSwitch
from vswitch.agent.view import SwitchView
from vswitch.dataplane.ports.vnet import GSO_TCPV4, NEEDS_CSUM
from vswitch.dataplane.rewrite import IP_PROTO
from vswitch.flow import PortAccount, PortCounters
from vswitch.layout import Command, Counter, Op
from vswitch.openflow import actions as of
from vswitch.openflow import experimenter as ex
from vswitch.openflow import messages as m
from vswitch.openflow.constants import GroupModCommand, GroupType, MeterBandType, MeterFlag, Port
from vswitch.openflow.groups import Bucket
from vswitch.openflow.instructions import ApplyActions, Meter
from vswitch.openflow.meters import Band

VM, OTHER_VM, WIRE, OTHER_WIRE, TUNNEL = 1, 2, 3, 4, 5
NOBODY = 0
FRAME = tcp_segment(100)
STREAM = tcp_stream(10, 100)
MSS = 100
COUNTED = (
    "rx_packets", "rx_forwarded", "rx_decapsulated", "rx_held", "tx_requested", "tx_packets",
)  # fmt: skip


@pytest.fixture
def rig():
    with Rig(taps=2, wires=2) as rig:
        assert rig.wire_ports == [WIRE, OTHER_WIRE] and rig.add_tunnel() == TUNNEL
        yield rig


def account(rig: Rig, port: int) -> dict[str, int]:
    """What is not zero of a port's counters; `rx`, `tx` and a reason: its drops."""
    row = rig.t["ports"][port]
    counted = {name: int(row[name]) for name in COUNTED}
    for direction in ("rx", "tx"):
        drops = rig.t[f"{direction}_drops"][port]
        reasons = {
            f"{direction} {reason.name.lower()}": reason
            for reason in Counter
            if reason < layout.DROP_REASONS and drops[reason]
        }
        counted |= {name: int(drops[reason]) for name, reason in reasons.items()}
    return {name: count for name, count in counted.items() if count}


def received(frames: int, forwarded: int = 0, **fates: int) -> dict[str, int]:
    counted = {"rx_packets": frames, "rx_forwarded": forwarded}
    counted |= {name if name in COUNTED else f"rx {name}": count for name, count in fates.items()}
    return {name: count for name, count in counted.items() if count}


def to_send(frames: int, sent: int = 0, **drops: int) -> dict[str, int]:
    counted = {"tx_requested": frames, "tx_packets": sent, **{f"tx {name}": n for name, n in drops.items()}}
    return {name: count for name, count in counted.items() if count}


def output(*ports: int) -> list[tuple[int, ...]]:
    return [(Op.OUTPUT, port) for port in ports]


def limit_packets(rig: Rig, burst: int) -> None:
    row = rig.t["meters"][0]
    row["used"], row["in_packets"], row["bands"], row["burst"][0], row["tokens"][0] = 1, 1, 1, burst, burst


def vm_sends(rig: Rig, frame: bytes, gso_size: int = 0) -> None:
    header = bytes(VNET.size)
    if gso_size:
        header = VNET.pack(NEEDS_CSUM, GSO_TCPV4, 54, gso_size, 34, 16, 0)
    rig.vms[0].send(header + frame)
    rig.t["ports"][VM]["ready"] = 1


SUPER_FRAME = tcp_segment(10 * MSS)
WITH_TTL_1 = bytes(vm_ether() / ip_header(4, ttl=1) / UDP(sport=5, dport=6) / Raw(payload(30)))
DECREASE_TTL = (Op.DEC_TTL, 0, 0)
ONE_OF_TWO_COPIES_ENDS = [(Op.SAVE,), DECREASE_TTL, *output(VM), (Op.RESTORE,), *output(OTHER_VM)]

# name: (frames that come in by the wire, program, what is counted by port)
FROM_A_WIRE = {
    "flood": (
        [FRAME],
        output(VM, OTHER_VM, OTHER_WIRE),
        {WIRE: received(1, 1), **dict.fromkeys((VM, OTHER_VM, OTHER_WIRE), to_send(1, 1))},
    ),
    "an aggregate is delivered": (STREAM, output(VM), {WIRE: received(10, 10), VM: to_send(1, 1)}),
    "an aggregate is segmented": (
        STREAM,
        output(OTHER_WIRE),
        {WIRE: received(10, 10), OTHER_WIRE: to_send(10, 10)},
    ),
    "an aggregate that no rule wants": (STREAM, [], {WIRE: received(10, no_rule=10)}),
    "a rewriting program that hands nothing on": (
        STREAM,
        [(Op.SET_TTL, 5)],
        {WIRE: received(10, no_rule=10)},
    ),
    "an unknown port": (
        [FRAME],
        output(0),
        {WIRE: received(1, 1), NOBODY: to_send(1, unknown_port=1)},
    ),
    "a meter takes the end of an aggregate": (
        STREAM,
        [(Op.METER, 0), *output(VM)],
        {WIRE: received(10, 4, meter_drop=6), VM: to_send(1, 1)},
    ),
    "a meter takes the end of an aggregate that is treated one by one": (
        STREAM,
        [(Op.SET_FIELD, IP_PROTO, 0, 6), (Op.METER, 0), *output(VM)],
        {WIRE: received(10, 4, meter_drop=6), VM: to_send(4, 4)},
    ),
    "a meter takes the end of a mirrored aggregate": (
        STREAM,
        [*output(OTHER_VM), (Op.METER, 0), *output(VM)],
        {WIRE: received(10, 10), **dict.fromkeys((VM, OTHER_VM), to_send(1, 1))},
    ),
    "a TTL that ends": ([WITH_TTL_1], [DECREASE_TTL, *output(VM)], {WIRE: received(1, invalid_ttl=1)}),
    "one of two copies ends": (
        [WITH_TTL_1],
        ONE_OF_TWO_COPIES_ENDS,
        {WIRE: received(1, 1), OTHER_VM: to_send(1, 1)},
    ),
    "headers that grow too long": (
        [FRAME],
        [*[(Op.PUSH, 0x88E7)] * 50, *output(VM)],
        {WIRE: received(1, headers_too_long=1)},
    ),
    "the agent": ([FRAME], [(Op.CONTROLLER, 0)], {WIRE: received(1, 1)}),
    "a tunnel id that does not fit": (
        STREAM,
        [(Op.SET_TUNNEL, 1 << 24), *output(TUNNEL)],
        {WIRE: received(10, 10), TUNNEL: to_send(10, tunnel_id_too_large=10)},
    ),
    "through a tunnel": (
        STREAM,
        [(Op.SET_TUNNEL, VNI), *output(TUNNEL)],
        {WIRE: received(10, 10) | to_send(10, 10), TUNNEL: to_send(10, 10)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FROM_A_WIRE)
def test_what_comes_by_a_wire(rig, name):
    frames, program, expected = FROM_A_WIRE[name]
    limit_packets(rig, 4)
    for frame in frames:
        rig.put(frame)
    rig.route(frames[0], WIRE, *program)
    rig.step()
    assert {port: account(rig, port) for port in range(6) if account(rig, port)} == expected


FROM_A_VM = {
    "segments": (output(WIRE), {VM: received(1, 1), WIRE: to_send(10, 10)}, {}),
    "whole": (output(OTHER_VM), {VM: received(1, 1), OTHER_VM: to_send(1, 1)}, {}),
    "a meter takes its end": (
        [(Op.METER, 0), *output(WIRE)],
        {VM: received(1, 1), WIRE: to_send(4, 4)},
        {"meter_drop": 6},
    ),
    "treated one by one, and a meter takes the end": (
        [(Op.SET_FIELD, IP_PROTO, 0, 6), (Op.METER, 0), *output(WIRE)],
        {VM: received(1, 1), WIRE: to_send(4, 4)},
        {"meter_drop": 6},
    ),
    "a meter takes it whole": (
        [(Op.METER, 0), (Op.METER, 0), (Op.METER, 0), *output(WIRE)],
        {VM: received(1, meter_drop=1)},
        {"meter_drop": 10},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FROM_A_VM)
def test_a_super_frame_of_a_vm_is_one_frame_there_and_its_segments_elsewhere(rig, name):
    program, expected, counted = FROM_A_VM[name]
    limit_packets(rig, 4 if name != "a meter takes it whole" else 0)
    rig.route(SUPER_FRAME, VM, *program)
    rig.counted()
    vm_sends(rig, SUPER_FRAME, MSS)
    rig.step()
    assert {port: account(rig, port) for port in range(6) if account(rig, port)} == expected
    assert rig.counted() == counted


def test_a_super_frame_whose_last_segment_alone_passes_a_meter_is_forwarded(rig):
    """The segments before it are too long for what the meter has left."""
    limit_packets(rig, 80)
    rig.t["meters"][0]["in_packets"] = 0
    frame = tcp_segment(10 * MSS + 10)
    rig.route(frame, VM, (Op.SET_FIELD, IP_PROTO, 0, 6), (Op.METER, 0), *output(WIRE))
    vm_sends(rig, frame, MSS)
    rig.step()
    assert account(rig, VM) == received(1, 1)
    assert account(rig, WIRE) == to_send(1, 1)


def test_what_is_no_packet_is_dropped_where_it_came_in(rig):
    rig.put(bytes(5))
    rig.put(FRAME, kind=3)
    rig.put(bytes(vm_ether())[:12] + b"\x81\x00")
    vm_sends(rig, bytes(5))
    rig.step()
    rig.step()
    assert account(rig, WIRE) == received(3, rx_too_short=1, rx_bad_descriptor=1, rx_held=1)
    assert account(rig, VM) == received(1, rx_too_short=1)


def test_a_tunnels_frames_are_its_own_from_its_header_on(rig):
    rig.route(FRAME, VM, (Op.SET_TUNNEL, VNI), *output(TUNNEL))
    vm_sends(rig, FRAME)
    rig.step()
    (sent,) = rig.sent()
    outer = Ether(sent)
    outer.src, outer.dst = outer.dst, outer.src
    outer["IP"].src, outer["IP"].dst = outer["IP"].dst, outer["IP"].src
    del outer["IP"].chksum
    for _ in range(2):
        rig.put(bytes(outer))
    rig.step()
    assert account(rig, WIRE) == received(2, rx_decapsulated=2) | to_send(1, 1)
    assert account(rig, TUNNEL) == received(2, rx_held=2) | to_send(1, 1)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"loss": (1 << 32) - 1}, "wire_loss"),
        ({"rate": 1.0, "queue_limit": 1}, "wire_queue"),
    ],
)
def test_what_a_wire_drops_it_was_to_send(rig, settings, reason):
    rig.set_wire(0, **settings)
    rig.route(SUPER_FRAME, VM, *output(WIRE))
    vm_sends(rig, SUPER_FRAME, MSS)
    rig.step()
    sent = 0 if reason == "wire_loss" else 1
    assert account(rig, WIRE) == to_send(10, sent, **{reason: 10 - sent})


def test_a_frame_that_a_wire_sends_twice_was_to_be_sent_once(rig):
    """Also where there is no slot left for its twin."""
    rig.send(FRAME)
    rig.set_wire(0, duplicate=(1 << 32) - 1)
    rig.send(FRAME, count=layout.WIRE_SLOTS // 2 - 1)
    rig.route(FRAME, VM, *output(WIRE))
    for _ in range(2):
        vm_sends(rig, FRAME)
        rig.step()
    assert rig.counted()["wire_duplicated"] == 2047
    assert account(rig, WIRE) == to_send(2050, 2049, wire_full=1)


def test_what_is_too_big_for_a_tunnel_is_dropped_there(rig):
    frame = tcp_segment(3000)
    rig.route(frame, VM, (Op.SET_TUNNEL, VNI), *output(TUNNEL))
    vm_sends(rig, frame, 1460)
    rig.step()
    assert account(rig, TUNNEL) == to_send(3, mtu_exceeded=3)
    assert account(rig, WIRE) == {}


def test_ports_that_are_down(rig):
    rig.t["ports"][WIRE]["up"] = 0
    rig.route(SUPER_FRAME, VM, (Op.SET_TUNNEL, VNI), *output(TUNNEL, WIRE))
    vm_sends(rig, SUPER_FRAME, MSS)
    rig.step()
    assert account(rig, WIRE) == to_send(10, port_down=10)
    assert account(rig, TUNNEL) == to_send(10, no_uplink=10)
    assert account(rig, VM) == received(1, 1)


def test_a_miss_is_held_until_the_agent_says_what_to_do(rig):
    for frame in STREAM:
        rig.put(frame)
    rig.put(FRAME)
    rig.step()
    assert account(rig, WIRE) == received(11, rx_held=11)
    for slot in (layout.PUNTS - 1, layout.PUNTS - 2):
        assert rig.t["held"][slot]["account"] == WIRE
    rig.counted()
    rig.command(Command.DISCARD, layout.PUNTS - 1, Counter.TABLE_MISS)
    assert account(rig, WIRE) == received(11, rx_held=1, table_miss=10)
    assert rig.counted() == {"table_miss": 10}
    rig.command(Command.EXECUTE, layout.PUNTS - 2, *rig.program(*output(VM)))
    assert account(rig, WIRE) == received(11, 1, table_miss=10)


def test_a_tunnel_that_is_made_anew_begins_with_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr("vswitch.ports.TapDevice", SocketTap)
    pair = TwoServers(str(tmp_path / "wire"), random.Random(1))
    server = pair.servers[0]
    server.controller.says(
        add({"in_port": VM_PORT}, ApplyActions((set_tunnel(1 << 24), of.Output(TUNNEL_PORT))), priority=9)
    )
    server.send(FRAME)
    pair.run()
    assert server.dp.accounts()["vxlan0"].sending == {"tunnel_id_too_large": 1}
    server.of.extensions.carry_out(ex.TunnelDelete(TUNNEL_PORT))
    server.step(pair.now_ns)
    server.of.extensions.carry_out(tunnel(0))
    assert server.dp.accounts()["vxlan0"] == PortAccount(PortCounters(), {}, {})
    pair.close()


@pytest.mark.parametrize("program", [None, [(Op.CONTROLLER, 0)]], ids=["miss", "for the controller"])
def test_what_the_agent_has_no_room_for_is_dropped(rig, program):
    rig.t["free_punt_count"] = 0
    if program:
        rig.route(FRAME, WIRE, *program)
    rig.counted()
    rig.put(FRAME)
    rig.step()
    assert account(rig, WIRE) == received(1, punt_overflow=1)
    assert rig.counted() == {"punt_overflow": 1}


def test_of_an_aggregate_that_the_agent_has_no_room_for_each_frame_is_dropped(rig):
    rig.t["free_punt_count"] = 0
    for frame in STREAM:
        rig.put(frame)
    rig.step()
    assert account(rig, WIRE) == received(10, punt_overflow=10)
    assert rig.counted()["punt_overflow"] == 10


def test_what_a_port_may_not_give_the_agent_is_dropped(rig):
    rig.t["ports"][WIRE]["punts_from_ns"] = rig.now_ns + 1
    rig.put(FRAME)
    rig.step()
    assert account(rig, WIRE) == received(1, punt_limited=1)


def test_a_copy_for_a_controller_that_finds_no_room_leaves_the_frame_forwarded(rig):
    rig.t["free_punt_count"] = 0
    rig.route(FRAME, WIRE, (Op.CONTROLLER, 0), *output(VM))
    rig.put(FRAME)
    rig.step()
    assert account(rig, WIRE) == received(1, 1)


def test_packet_outs_come_by_no_port(rig):
    info = rig.t["injections"][0]
    info["length"], info["in_port"] = len(FRAME), VM
    rig.write(int(rig.t["injection_memory"]), FRAME)
    for program in (output(VM, OTHER_VM), []):
        rig.command(Command.SEND, 0, *rig.program(*program))
    assert account(rig, NOBODY) == received(2, 1, no_rule=1)
    assert account(rig, VM) == to_send(1, 1)


def test_what_is_held_of_a_tunnel_that_goes_is_nobodys(rig):
    rig.t["held"][7]["account"], rig.t["held"][7]["frames"] = TUNNEL, 3
    rig.t["ports"][TUNNEL]["rx_packets"] = rig.t["ports"][TUNNEL]["rx_held"] = 3
    rig.command(Command.REMOVE_TUNNEL, TUNNEL)
    assert account(rig, TUNNEL) == {}
    assert account(rig, NOBODY) == received(3, rx_held=3)


# Whatever comes, whatever is set

FRAMES = [
    FRAME, WITH_TTL_1, *STREAM, *tcp_stream(4, 300, sport=6000),
    bytes(vm_ether() / ip_header(4) / ICMP()),
    bytes(vm_ether() / ip_header(6) / TCP(flags="S")),
    bytes(vm_ether() / ip_header(4) / UDP(sport=1, dport=2) / Raw(payload(1472))),
]  # fmt: skip
ACTIONS = [
    [], [of.Output(VM_PORT)], [of.Output(WIRE_PORT)], [of.Output(Port.FLOOD)], [of.Output(Port.CONTROLLER)],
    [set_tunnel(VNI), of.Output(TUNNEL_PORT)], [of.DecNwTtl(), of.Output(Port.FLOOD)], [of.Group(1)],
    [of.Output(VM_PORT), of.PushVlan(0x8100), of.Output(WIRE_PORT), of.Output(Port.IN_PORT)],
    [of.Output(Port.LOCAL), of.Output(77)],
]  # fmt: skip
MATCHES = [
    {}, {"in_port": VM_PORT}, {"in_port": WIRE_PORT}, {"in_port": TUNNEL_PORT}, {"eth_type": 0x86DD},
    {"eth_type": 0x800, "ip_proto": 17},
]  # fmt: skip
START = (
    group(1, Bucket((of.Output(VM_PORT),)), Bucket((of.Output(WIRE_PORT),))),
    meter(1, Band(MeterBandType.DROP, 100, 5), flags=MeterFlag.PKTPS | MeterFlag.BURST),
    add({}, out(VM_PORT), priority=0),
    add({"in_port": VM_PORT}, ApplyActions((set_tunnel(VNI), of.Output(TUNNEL_PORT))), priority=1),
)
IMPAIRMENTS = [{"loss": 20}, {"loss": 0, "duplicate": 30}, {"bw": 10, "max_queue_size": 3}, {"bw": 0}]


class TwoServers(Pair):
    """Servers with agents and rules, of whose VMs every frame is counted: `vm_sent`."""

    def __init__(self, wire: str, draw: random.Random) -> None:
        super().__init__(wire, tunnel=False)
        self.draw = draw
        self.vm_sent = [0, 0]
        for number, server in enumerate(self.servers):
            server.of = OpenFlowSwitch(server.dp, f"s{number}", number + 1, lambda: self.now_ns)
            server.answer_misses = server.of.slowpath.handle_punts
            server.controller = Peer(server.of)
            server.of.extensions.carry_out(tunnel(number))
            server.controller.says(*START)

    def anything_happens(self) -> None:
        """To one of the servers: packets from its VM, a setting, or a look at what waits for its agent."""
        draw, number = self.draw, self.draw.randrange(2)
        server = self.servers[number]
        for _ in range(draw.randrange(6)):
            server.send(*a_frame(draw))
            self.vm_sent[number] += 1
        match draw.randrange(8):
            case 0 | 1:
                server.controller.says(some_change(draw))
            case 2:
                server.dp.set_wire(WIRE_PORT, **draw.choice(IMPAIRMENTS))
            case 3:
                server.of.extensions.carry_out(ex.TunnelDelete(TUNNEL_PORT))
                server.step(self.now_ns)
                server.of.extensions.carry_out(tunnel(number))
            case 4 | 5 | 6:
                server.answer_misses()
        for server in self.servers:
            server.step(self.now_ns)
        self.now_ns += draw.choice([1000, 1_000_000, 10_000_000])

    def come_to_rest(self) -> None:
        """Nothing is on its way any more. Rules go first: what they send to and fro would never end."""
        for server in self.servers:
            server.controller.says(delete({}))
        self.run(until_ns=10**9, step_ns=10**7)


def tunnel(number: int) -> ex.TunnelAdd:
    """Of one of the servers, to the other one."""
    ends = f"192.168.0.{number + 1}", f"192.168.0.{2 - number}"
    macs = f"02:4f:00:00:0{number + 1}:02", f"02:4f:00:00:0{2 - number}:02"
    return ex.TunnelAdd(TUNNEL_PORT, "vxlan0", "vxlan", *ends, *macs, WIRE_PORT)


def a_frame(draw: random.Random) -> tuple[bytes, int]:
    """A frame as it is, damaged or cut, or a super-frame; and its gso_size."""
    frame = draw.choice(FRAMES)
    match draw.randrange(5):
        case 0:
            place = draw.randrange(len(frame))
            return frame[:place] + bytes([draw.randrange(256)]) + frame[place + 1 :], 0
        case 1:
            return frame[: draw.randrange(1, len(frame))], 0
        case 2:
            return tcp_segment(draw.randrange(500, 9000), sport=draw.randrange(7000, 7003)), 400
    return frame, 0


def some_change(draw: random.Random) -> object:
    """A message of a controller."""
    match draw.randrange(6):
        case 0:
            buckets = [Bucket((of.DecNwTtl(), of.Output(WIRE_PORT))), Bucket((of.Output(VM_PORT),))]
            kind = draw.choice([GroupType.ALL, GroupType.SELECT])
            return group(1, *buckets, kind=kind, command=GroupModCommand.MODIFY)
        case 1:
            return delete(draw.choice(MATCHES))
        case 2:
            actions = (of.Output(draw.choice([VM_PORT, WIRE_PORT, Port.TABLE])),)
            return m.PacketOut(draw.choice([Port.CONTROLLER, VM_PORT]), actions, draw.choice(FRAMES))
    metered = [Meter(1)] if draw.randrange(3) == 0 else []
    actions = ApplyActions(tuple(draw.choice(ACTIONS)))
    return add(draw.choice(MATCHES), actions, *metered, priority=draw.randrange(3))


def frames_that_wait(server: Server) -> int:
    """As the lists of the misses that wait tell it."""
    t = server.dp.t
    frames = 0
    for first in t["held_first"]:
        slot = int(first)
        while slot != layout.NO_SLOT:
            frames += int(t["held"][slot]["frames"])
            slot = int(t["held"][slot]["next"])
    return frames


@settings(max_examples=examples(12))
@given(seed=st.integers(0, 2**32 - 1))
def test_whatever_comes_and_whatever_is_set(seed):
    """Each pass of a worker keeps the balance (servers.py); at rest nothing is held, and what the VMs and the
    wire's ends have seen is what their neighbours have counted."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        patch.setattr("vswitch.ports.TapDevice", SocketTap)
        pair = TwoServers(f"{folder}/wire", random.Random(seed))
        for _ in range(60):
            pair.anything_happens()
            for server in pair.servers:
                assert server.dp.t["ports"]["rx_held"].sum() == frames_that_wait(server)
        pair.come_to_rest()
        told = [SwitchView(server.of, list).counters() for server in pair.servers]
        for number, counters in enumerate(told):
            assert unaccounted(counters) == {}
            assert sum(port["rx_held"] for port in counters["ports"].values()) == 0
            vm = counters["ports"][f"vm{number + 1}"]
            vm_got = len(pair.servers[number].received())
            assert (vm["rx_packets"], vm["tx_packets"]) == (pair.vm_sent[number], vm_got)
        for sender, receiver in (told, reversed(told)):
            on_the_wire = sender["ports"]["wire2"]["tx_packets"] + sender["reasons"]["wire_duplicated"]
            assert receiver["ports"]["wire2"]["rx_packets"] == on_the_wire
        pair.close()
