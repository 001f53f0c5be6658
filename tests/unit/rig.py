# SPDX-License-Identifier: Apache-2.0
"""One switch's dataplane in an ordinary array, whose stages a test drives one by one in virtual time.

The frames of a burst stand at the very end of the array, so that a read behind the last one is an IndexError
where accesses are checked (NUMBA_DISABLE_JIT=1, NUMBA_BOUNDSCHECK=1). The array is all that the stages see:
control region, packet pool, wires (each with both directions' cursors, slots and data areas), burst.
"""

from __future__ import annotations

import os
import socket
import struct

import numpy as np
from numba import config

from tests.accounts import imbalance
from vswitch import flow, layout
from vswitch.dataplane import actions, commands, flow_table, gro, outgoing, parse, tso, worker
from vswitch.dataplane.intrinsics import pointed
from vswitch.dataplane.ports import wire
from vswitch.format_table import FormatTable, outer_headers
from vswitch.layout import Command, Counter, Csum, PortKind, SlotKind
from vswitch.programs import ProgramStore
from vswitch.wire_memory import data_size

INTERPRETED = bool(config.DISABLE_JIT)
CHECKED = bool(config.BOUNDSCHECK)
NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
BURST_AREA = 1 << 19
STORE = layout.PROGRAM_WORDS // 2
"""Where the programs that are given as actions begin; those given as operations stand in front."""
NO_TUNNEL = tso.NO_TUNNEL
VNI = 42
LOCAL_IP, REMOTE_IP = "192.168.0.1", "192.168.0.2"
LOCAL_MAC, REMOTE_MAC = "02:4f:00:00:01:01", "02:4f:00:00:02:01"


def examples(compiled: int) -> int:
    """How many examples a property gets: `compiled`, or fewer where each takes longer."""
    scale = 20 if NIGHTLY else 1
    if INTERPRETED:
        return max(4, compiled // 12) * scale
    return max(4, compiled // 6) * scale if CHECKED else compiled * scale


def address(text: str) -> int:
    """An IPv4 address as a number."""
    return int.from_bytes(socket.inet_aton(text), "big")


def mac_bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


class Rig:
    """Ports by index: 1 … `taps` are VMs (socket pairs), then come `wires` wires, then tunnels.

    joined: wires 0 and 1 are the two ends of one wire; otherwise the test is the peer of each. slots: of each
    wire's two rings.
    """

    def __init__(
        self,
        taps: int = 0,
        wires: int = 1,
        mtu: int = 1500,
        joined: bool = False,
        slots: int = layout.WIRE_SLOTS,
    ) -> None:
        self.tables = layout.make_tables()
        self.t = self.tables[0]
        self.t["tos_mask"] = 0xFF
        self.mtu = mtu
        self.slots = slots
        self._next = layout.CONTROL_SIZE
        t = self.t
        t["pool"] = self._take(layout.BUFFERS * layout.BUFFER_SIZE)
        t["punt_memory"] = self._take(layout.PUNTS * layout.PUNT_SLOT_SIZE)
        t["injection_memory"] = self._take(layout.INJECTIONS * layout.PUNT_SLOT_SIZE)
        t["agent_fd"] = t["wake_fd"] = -1
        self.vms: list[socket.socket] = []
        self._sockets: list[socket.socket] = []
        for index in range(1, taps + 1):
            self._add_tap(index)
        self.wire_ports = [taps + 1 + number for number in range(wires)]
        for number in range(wires):
            self._add_wire(number, joined)
        self.next_port = taps + wires + 1
        self.formats = FormatTable(t["formats"])
        self.burst_end = self._next + BURST_AREA
        self.mem = pointed(np.zeros(self.burst_end, np.uint8))
        self._seen = np.zeros(layout.COUNTERS, np.int64)
        self._read = [0] * wires
        self._programs = 0
        self.store = ProgramStore([t["programs"][STORE:]], int, int, set)
        self.now_ns = 1_000_000_000

    def close(self) -> None:
        for end in self._sockets:
            end.close()

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self, size: int) -> int:
        at = self._next
        self._next += -(-size // 4096) * 4096
        return at

    def _add_tap(self, index: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self._sockets += [ours, theirs]
        self.vms.append(theirs)
        port = self.t["ports"][index]
        port["kind"], port["number"], port["up"], port["fd"] = PortKind.TAP, index, 1, ours.fileno()
        port["ready"] = 1
        self.t["taps"][index - 1] = index
        self.t["tap_count"] = index
        self.set_lro(index, layout.Lro.ON)

    def _add_wire(self, number: int, joined: bool) -> None:
        t = self.t
        index = self.wire_ports[number]
        port, row = t["ports"][index], t["wires"][number]
        port["kind"], port["number"], port["up"] = PortKind.WIRE, index, 1
        port["wire"], port["mtu"] = number, self.mtu
        size = data_size(self.mtu)
        row["port"], row["kick_fd"], row["wake_fd"], row["data_size"] = index, -1, -1, size
        row["slots"] = self.slots
        row["random"], row["epoch"], row["peer_epoch"] = 1, 1, 1
        if joined and number == 1:
            twin = t["wires"][0]
            for kind in ("cursors", "slots", "data"):
                row[f"tx_{kind}"], row[f"rx_{kind}"] = twin[f"rx_{kind}"], twin[f"tx_{kind}"]
        else:
            for way in ("tx", "rx"):
                row[f"{way}_cursors"] = self._take(layout.CURSOR_PAGE)
                row[f"{way}_slots"] = self._take(self.slots * layout.SLOT_SIZE)
                row[f"{way}_data"] = self._take(self.slots * size)
        row["peer_pool"], row["peer_pool_size"] = t["pool"], layout.BUFFERS * layout.BUFFER_SIZE
        t["wire_buffers"][number] = -1
        t["wire_count"] = number + 1
        self.set_lro(index, layout.Lro.ON)

    def add_tunnel(
        self, uplink: int = 0, local: str = LOCAL_IP, remote: str = REMOTE_IP, format: str = "vxlan"
    ) -> int:
        """A tunnel through wire `uplink`; its port index."""
        index = self.next_port
        self.next_port += 1
        macs = mac_bytes(LOCAL_MAC), mac_bytes(REMOTE_MAC)
        header = outer_headers(self.formats[format], address(local), address(remote), *macs)
        at = layout.TEMPLATES_OFFSET + index * layout.TEMPLATE_SIZE
        self.mem[at : at + len(header)] = np.frombuffer(header, np.uint8)
        port = self.t["ports"][index]
        port["kind"], port["number"], port["up"] = PortKind.TUNNEL, 1000 + index, 1
        port["uplink"], port["wire"] = self.wire_ports[uplink], -1
        port["local_ip"], port["remote_ip"] = address(local), address(remote)
        port["template"], port["template_len"] = at, len(header)
        port["format"] = self.formats.place(format)
        self.t["tunnels"][self.t["tunnel_count"]] = index
        self.t["tunnel_count"] += 1
        return index

    def set_lro(self, port: int, setting: layout.Lro) -> None:
        """Set a port that has one receive queue."""
        nic = self.t["nics"][port, 0]
        nic["queue_count"], nic["lro"][0], nic["completion_size"][0] = 1, setting, layout.MAX_IP_LEN

    # Stages

    def burst(self, frames: list[bytes], port: int, gso_size: int = 0, verify: bool = True) -> list[int]:
        """Lay out frames as packet rows and parse them; the verdicts. What is dropped leaves no row."""
        mem, t = self.mem, self.t
        at = self.burst_end - sum(map(len, frames))
        verdicts = []
        kept = 0
        for frame in frames:
            mem[at : at + len(frame)] = np.frombuffer(frame, np.uint8)
            packet = t["packets"][kept]
            packet["offset"], packet["length"], packet["head_length"] = at, len(frame), len(frame)
            packet["ext"] = packet["queue"] = packet["csum"] = 0
            packet["port"], packet["buffer"], packet["gso_size"] = port, -1, gso_size
            at += len(frame)
            verdicts.append(int(parse.parse(mem, t, packet, verify)))
            kept += verdicts[-1] == parse.FORWARD
        t["packet_count"] = kept
        return verdicts

    def coalesce(self) -> list[list[int]]:
        """Group the burst; the packet rows of each group."""
        gro.coalesce(self.mem, self.t)
        groups = []
        for number in range(int(self.t["group_count"])):
            index = int(self.t["groups"][number]["first"])
            members = []
            while index >= 0:
                members.append(index)
                index = int(self.t["packets"][index]["next"])
            groups.append(members)
        return groups

    def take(self, number: int) -> bytes:
        """Make group `number` the outgoing packet; its bytes."""
        outgoing.take_group(self.mem, self.t, self.t["groups"][number])
        return self.outgoing()

    def outgoing(self) -> bytes:
        """The bytes of the outgoing packet."""
        out = self.t["outgoing"]
        pieces = [(int(out["header"]), int(out["header_len"]))]
        pieces += [
            (int(piece["offset"]), int(piece["length"])) for piece in self.t["ranges"][: out["range_count"]]
        ]
        return b"".join(self.read(at, length) for at, length in pieces)

    def deliver(self, frames: list[bytes], port: int) -> list[bytes]:
        """Parse and coalesce a burst; the packets that come of it."""
        self.burst(frames, port)
        self.coalesce()
        return [self.take(number) for number in range(int(self.t["group_count"]))]

    def run(
        self, frame: bytes, program: flow.Program, port: int = 1, csum: Csum = Csum.UNKNOWN, gso_size: int = 0
    ) -> bytes:
        """Run an action program on a frame that the port's peer sent; what became of it.

        Numbers of ports and meters in the program are indexes; csum, gso_size: what is known of the frame.
        """
        (verdict,) = self.burst([frame], port, gso_size, verify=False)
        assert verdict == parse.FORWARD
        self.t["packets"][0]["csum"] = csum
        gro.coalesce(self.mem, self.t)
        self.take(0)
        self.t["now_ns"] = self.now_ns
        flow_table.make_key(self.mem, self.t, self.t["packets"][0])
        at, length = self.store.place(program)
        actions.run_program(self.mem, self.t, STORE + at, length, port, 1)
        for index in range(len(self.wire_ports)):
            wire.flush(self.mem, self.t, index)
        return self.outgoing()

    def punted(self) -> list[tuple[int, bytes]]:
        """(number of the Controller action, frame) of the punts since the last call; their slots are free."""
        punts = []
        head, tail = self.word(layout.PUNT_HEAD_OFFSET), self.word(layout.PUNT_TAIL_OFFSET)
        for number in range(tail, head):
            row = self.t["punts"][number % layout.PUNTS]
            at = int(self.t["punt_memory"]) + int(row["slot"]) * layout.PUNT_SLOT_SIZE
            punts.append((int(row["action"]), self.read(at, int(row["length"]))))
        self.set_word(layout.PUNT_TAIL_OFFSET, head)
        self.t["free_punts"] = np.arange(layout.PUNTS)
        self.t["free_punt_count"] = layout.PUNTS
        self.t["ports"]["punts"] = 0
        return punts

    def segment(self, wire_index: int = 0, tunnel: int = NO_TUNNEL) -> list[bytes]:
        """Send the outgoing packet; the frames that stand on the wire then."""
        self.t["now_ns"] = self.now_ns
        tso.segment(self.mem, self.t, self.wire_ports[wire_index], tunnel)
        wire.flush(self.mem, self.t, wire_index)
        return self.sent(wire_index)

    def send(self, frame: bytes, wire_index: int = 0, count: int = 1) -> None:
        """Put a frame on a wire `count` times, as the engine does, now."""
        assert self.burst([frame], self.wire_ports[wire_index], verify=False) == [parse.FORWARD]
        self.coalesce()
        self.take(0)
        self.t["now_ns"] = self.now_ns
        for _ in range(count):
            tso.segment(self.mem, self.t, self.wire_ports[wire_index], NO_TUNNEL)
        wire.flush(self.mem, self.t, wire_index)

    def forward_all(self) -> None:
        for number in range(int(self.t["group_count"])):
            actions.forward(self.mem, self.t, self.t["groups"][number])

    def step(self) -> int:
        """One pass of the worker at `now_ns`, in which every frame meets with one fate."""
        before = imbalance(self.tables)
        worked = int(worker.step(self.mem, self.tables, 0, self.now_ns))
        assert (imbalance(self.tables) == before).all()
        return worked

    # The peer of a wire

    def sent(self, wire_index: int = 0) -> list[bytes]:
        """Take the frames that were published on a wire since the last call, and give their slots back."""
        return [frame for _, frame in self.sent_with_times(wire_index)]

    def sent_with_times(self, wire_index: int = 0) -> list[tuple[int, bytes]]:
        row = self.t["wires"][wire_index]
        head = self.word(int(row["tx_cursors"]) + layout.CURSOR_HEAD)
        frames = []
        for number in range(self._read[wire_index], head):
            slot = int(row["tx_slots"]) + number % self.slots * layout.SLOT_SIZE
            release, length, head_length, kind, ext, _ = struct.unpack("<qIHHqI", self.read(slot, 28))
            at = slot + layout.SLOT_HEAD
            if kind == SlotKind.DATA:
                at = int(row["tx_data"]) + number % self.slots * int(row["data_size"])
            frame = self.read(at, head_length)
            if kind == SlotKind.SPLIT:
                frame += self.read(int(self.t["pool"]) + ext, length - head_length)
            assert len(frame) == length
            frames.append((release, frame))
        self._read[wire_index] = head
        self.set_word(int(row["tx_cursors"]) + layout.CURSOR_TAIL, head)
        return frames

    def put(
        self,
        frame: bytes,
        wire_index: int = 0,
        kind: SlotKind | None = None,
        split_at: int = 0,
        release_ns: int = 0,
        epoch: int = 1,
        buffer: int = 0,
    ) -> None:
        """Publish a frame for us to receive; SPLIT: what is behind `split_at` stands in the peer's pool."""
        if kind is None:
            kind = SlotKind.INLINE if len(frame) <= layout.SLOT_HEAD_MAX else SlotKind.DATA
        row = self.t["wires"][wire_index]
        cursor = int(row["rx_cursors"]) + layout.CURSOR_HEAD
        number = self.word(cursor)
        slot = int(row["rx_slots"]) + number % self.slots * layout.SLOT_SIZE
        at, head, ext = slot + layout.SLOT_HEAD, frame, 0
        if kind == SlotKind.DATA:
            at = int(row["rx_data"]) + number % self.slots * int(row["data_size"])
        elif kind == SlotKind.SPLIT:
            head, ext = frame[:split_at], buffer * layout.BUFFER_SIZE
            self.write(int(row["peer_pool"]) + ext, frame[split_at:])
        self.write(at, head)
        self.write(slot, struct.pack("<qIHHqI", release_ns, len(frame), len(head), kind, ext, epoch))
        self.set_word(cursor, number + 1)

    def received(self, wire_index: int = 0) -> list[bytes]:
        """What `wire.receive` takes now; the slots are released."""
        self.t["now_ns"] = self.now_ns
        count = int(wire.receive(self.mem, self.t, wire_index))
        frames = []
        for packet in self.t["packets"][:count]:
            head, length = int(packet["head_length"]), int(packet["length"])
            frame = self.read(int(packet["offset"]), head)
            frames.append(frame + self.read(int(packet["ext"]), length - head))
        wire.release(self.mem, self.t, wire_index)
        return frames

    # Flows

    def program(self, *operations: tuple[int, ...]) -> tuple[int, int]:
        """Place an action program of operations with up to three arguments; its offset and length."""
        at = self._programs
        for operation in operations:
            words = (*operation, 0, 0, 0)[: layout.OP_WORDS]
            self.t["programs"][self._programs : self._programs + layout.OP_WORDS] = words
            self._programs += layout.OP_WORDS
        return at, len(operations)

    def route(self, frame: bytes, port: int, *operations: tuple[int, ...]) -> None:
        """Install a program for the flow of a frame that is received by `port`."""
        assert self.burst([frame], port) == [parse.FORWARD]
        flow_table.make_key(self.mem, self.t, self.t["packets"][0])
        flow_table.install(self.t, self.t["key"], *self.program(*operations), 0)

    # Memory and counters

    def read(self, at: int, length: int) -> bytes:
        return self.mem[at : at + length].tobytes()

    def write(self, at: int, data: bytes) -> None:
        self.mem[at : at + len(data)] = np.frombuffer(data, np.uint8)

    def word(self, at: int) -> int:
        return int(self.mem[at : at + 8].view(np.int64)[0])

    def set_word(self, at: int, value: int) -> None:
        self.mem[at : at + 8].view(np.int64)[0] = value

    def counted(self) -> dict[str, int]:
        """What was counted since the last call, without what tells only why frames were not merged."""
        now = self.t["counters"].copy()
        change = now - self._seen
        self._seen = now
        return {
            reason.name.lower(): int(change[reason])
            for reason in Counter
            if reason < Counter.GRO_FIRST and change[reason]
        }

    def set_wire(self, wire_index: int = 0, **settings: float) -> None:
        """Give a wire's sending direction these settings, in the units of its row, and no others."""
        wanted = self.t["wire_settings"][wire_index]
        for name in wanted.dtype.names:
            wanted[name] = settings.get(name, 0)
        wanted["impaired"] = int(any(settings.values()))
        self.command(Command.WIRE, wire_index)

    def command(self, op: Command, *args: int) -> None:
        """Give the worker one command, and have it applied."""
        head = self.word(layout.COMMAND_HEAD_OFFSET)
        row = self.t["commands"][head % layout.COMMANDS]
        row["op"] = op
        row["args"][: len(args)] = args
        self.set_word(layout.COMMAND_HEAD_OFFSET, head + 1)
        self.t["now_ns"] = self.now_ns
        commands.apply_commands(self.mem, self.t)

    def buffers_in_use(self) -> int:
        return layout.BUFFERS - int(self.t["free_buffer_count"])

    def assert_pool_whole(self) -> None:
        """No reference is left, and every buffer stands on the free list once."""
        t = self.t
        assert int(t["free_buffer_count"]) == layout.BUFFERS
        assert not t["buffers"].any()
        assert sorted(t["free_buffers"].tolist()) == list(range(layout.BUFFERS))
