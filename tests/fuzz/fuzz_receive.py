# SPDX-License-Identifier: Apache-2.0
"""A fuzzer of the whole receive path: random, cut and mutated frames in slots of every kind.

    python -m tests.fuzz.fuzz_receive --frames 10000000
    python -m tests.fuzz.fuzz_receive --seconds 20 [--seed 1]

Each round writes a burst of slots into a wire as a peer does, and lets the worker take one pass: parse,
coalesce, forward to a TAP and to a second wire, plain and through a tunnel, punt, or run a random action
program; then a few come from the VM, large ones too. Nothing may crash or leave its memory
(NUMBA_BOUNDSCHECK=1 tells), every frame must be accounted for, and what is sent on must fit. A failure names
the seed of its round, which `--seed` repeats.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field

import numpy as np

from tests.packets import (
    ARP,
    ICMP,
    IP,
    TCP,
    UDP,
    Dot1AD,
    Dot1Q,
    Ether,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    Raw,
    ip_header,
    payload,
    tcp_segment,
    tcp_stream,
    vm_ether,
    vxlan,
)
from tests.unit.rig import Rig
from vswitch import layout
from vswitch.dataplane.ports import wire
from vswitch.dataplane.rewrite import SETTABLE
from vswitch.layout import BURST, CURSOR_HEAD, CURSOR_TAIL, TAP_BURST, Counter, Op, SlotKind

INTERESTING = np.array(
    [0, 1, 4, 5, 6, 17, 0x3F, 0x40, 0x45, 0x46, 0x4F, 0x60, 0x7F, 0x80, 0x81, 0xFF], np.uint8
)
PROGRAMS, PROGRAM_LENGTH = 64, 12
ROUNDS_OF_PROGRAMS = 5
"""Random action programs, their operations, and after how many rounds they are replaced by others."""
POOL_PLACES = 64
"""Payloads of SPLIT slots stand in so many places of the peer's pool."""


def corpus() -> list[bytes]:
    """Well-formed frames of every kind, among them runs that GRO merges, plain and tunnelled."""
    frames = []
    for version in (4, 6):
        for fields in ({}, {"timestamp": (5, 6)}):
            frames += tcp_stream(6, 100, version=version, **fields)
            frames += tcp_stream(4, 1380, version=version, sport=6000, **fields)
        frames += [tcp_segment(0, version=version), tcp_segment(40, flags="FPA", version=version)]
        frames += [tcp_segment(40, flags="S", version=version, options=[("MSS", 1460)])]
        frames += [bytes(vm_ether() / ip_header(version) / UDP(sport=5, dport=6) / Raw(payload(60)))]
    frames += [bytes(vm_ether() / ARP()), bytes(vm_ether() / ip_header(4) / ICMP())]
    tags = vm_ether() / Dot1AD(vlan=5) / Dot1Q(vlan=6)
    frames += [bytes(tags / ip_header(4) / TCP(flags="A") / Raw(payload(30)))]
    frames += [bytes(vm_ether() / IP(flags="MF", dst="10.0.0.2") / UDP() / Raw(payload(64)))]
    options = IP(dst="10.0.0.2", options=[])
    options.options = [b"\x94\x04\x00\x00"]
    frames += [bytes(vm_ether() / options / TCP(flags="A") / Raw(payload(30)))]
    chain = vm_ether() / IPv6(dst="fd00::2") / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt()
    frames += [bytes(chain / TCP(flags="A") / Raw(payload(30)))]
    frames += [bytes(chain / IPv6ExtHdrFragment(m=1, offset=3) / Raw(payload(64)))]
    frames += [bytes(Ether(src="00:00:00:00:00:01", dst="00:00:00:00:00:02", type=0x88CC) / Raw(payload(50)))]
    tunnelled = [vxlan(frame, udp_checksum=None if number % 2 else 0) for number, frame in enumerate(frames)]
    return frames + [frame for frame in tunnelled if len(frame) <= 1514]


@dataclass
class Fuzzer:
    """Rounds of one seed each. `accounted`: frames by what became of them."""

    seed: int = 1
    frames: int = 0
    generation: int = -1
    accounted: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rig = rig = Rig(taps=1, wires=2)
        self.wire_out = rig.wire_ports[1]
        self.tunnel = rig.add_tunnel(uplink=0)
        self.onward = onward = rig.add_tunnel(uplink=1, local="192.168.1.1", remote="192.168.1.2")
        rig.t["wire_count"] = 1  # the second wire only sends; the fuzzer is its receiver
        outputs = [
            [(Op.OUTPUT, 1)],
            [(Op.OUTPUT, self.wire_out), (Op.OUTPUT, 1)],
            [(Op.SET_TUNNEL, 7), (Op.OUTPUT, onward)],
            [(Op.CONTROLLER, 0)],
            [],
        ]
        valid = corpus()
        for number, frame in enumerate(valid):
            rig.route(frame, rig.wire_ports[0], *outputs[number % len(outputs)])
            rig.route(frame, 1, *outputs[(number + 1) % len(outputs)])
        self.outputs = [rig.program(*output) for output in outputs]
        self.room = rig.program(*[(Op.OUTPUT, 0)] * PROGRAMS * PROGRAM_LENGTH)[0]
        row = rig.t["meters"][0]
        row["used"], row["in_packets"], row["bands"] = 1, 1, 2
        row["rate"][:2], row["burst"][:2], row["prec_level"][:2] = 1e-3, 20, (0, 1)
        self.valid = np.zeros((len(valid), 1600), np.uint8)
        self.lengths = np.array([len(frame) for frame in valid])
        for row, frame in zip(self.valid, valid, strict=True):
            row[: len(frame)] = np.frombuffer(frame, np.uint8)
        self.header_lengths = np.minimum(self.lengths, 140)

    def run_round(self) -> None:
        """One burst: make, publish, step, check."""
        rng = np.random.default_rng(self.seed)
        if self.generation != self.seed // ROUNDS_OF_PROGRAMS:
            self.generation = self.seed // ROUNDS_OF_PROGRAMS
            self.write_programs(np.random.default_rng(self.generation))
        frames, lengths = self.make(rng)
        self.publish(rng, frames, lengths)
        rig = self.rig
        before = int(rig.t["ports"][rig.wire_ports[0]]["rx_packets"])
        try:
            rig.step()
            self.check(int(rig.t["ports"][rig.wire_ports[0]]["rx_packets"]) - before)
            self.drain()
            self.frames += BURST + self.send_from_vm(rng, frames, lengths)
            self.drain()
        except BaseException:
            print(f"fuzz_receive: the round with --seed {self.seed} failed", file=sys.stderr)
            raise
        self.seed += 1

    def write_programs(self, rng: np.random.Generator) -> None:
        """Give the flows other programs: some of the plain ones, some random ones."""
        rig = self.rig
        shape = (PROGRAMS, PROGRAM_LENGTH)
        words = np.zeros((*shape, layout.OP_WORDS), np.int64)
        words[..., 0] = rng.integers(Op.OUTPUT, Op.RESTORE + 1, shape)
        words[..., 1] = rng.integers(0, 70, shape)
        words[..., 2] = rng.integers(0, 2, shape)
        words[..., 3] = rng.integers(-(2**63), 2**63 - 1, shape)
        op = words[..., 0]
        for kind, arguments in (
            (Op.OUTPUT, [0, 1, self.wire_out, self.onward]),
            (Op.SET_FIELD, range(len(SETTABLE))),
            (Op.PUSH, [0x8100, 0x88A8, 0x8847, 0x8848, 0x88E7]),
            (Op.POP_MPLS, [0x0800, 0x86DD, 0x8847, 0x8100]),
            (Op.METER, [-1, 0]),
        ):
            words[..., 1] = np.where(op == kind, rng.choice(list(arguments), shape), words[..., 1])
        telling = (op == Op.SET_FIELD) & (rng.random(shape) < 0.5)
        values = rng.choice([0x0800, 0x86DD, 0x0806, 0x8847, 0x88E7, 4, 6, 17, 58, 132], shape)
        words[..., 3] = np.where(telling, values, words[..., 3])
        rig.t["programs"][self.room : self.room + words.size] = words.reshape(-1)
        for number in np.nonzero(rig.t["flows"]["state"] == layout.FLOW_USED)[0]:
            flow = rig.t["flows"][number]
            place = self.outputs[rng.integers(len(self.outputs))]
            if rng.random() < 0.5:
                number = rng.integers(PROGRAMS)
                length = rng.integers(1, PROGRAM_LENGTH + 1)
                place = self.room + number * PROGRAM_LENGTH * layout.OP_WORDS, length
            flow["program"], flow["program_len"] = place

    def make(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A burst of valid frames, of which some are mutated, cut, stretched, or noise throughout."""
        start = rng.integers(len(self.valid))
        order = (start + np.arange(BURST)) % len(self.valid)
        loose = rng.random(BURST) < 0.5
        order[loose] = rng.integers(len(self.valid), size=loose.sum())
        frames, lengths = self.valid[order], self.lengths[order].copy()
        for _ in range(rng.integers(0, 5)):
            rows = np.nonzero(rng.random(BURST) < 0.3)[0]
            places = rng.integers(0, self.header_lengths[order][rows])
            values = rng.integers(0, 256, len(rows)).astype(np.uint8)
            chosen = rng.random(len(rows))
            values = np.where(
                chosen < 0.4, INTERESTING[rng.integers(len(INTERESTING), size=len(rows))], values
            )
            flipped = frames[rows, places] ^ (1 << rng.integers(0, 8, len(rows))).astype(np.uint8)
            frames[rows, places] = np.where(chosen > 0.7, flipped, values)
        cut = rng.random(BURST) < 0.15
        lengths[cut] = rng.integers(0, lengths[cut] + 1)
        stretched = rng.random(BURST) < 0.05
        lengths[stretched] = np.minimum(lengths[stretched] + rng.integers(1, 64, stretched.sum()), 1600)
        noise = rng.random(BURST) < 0.05
        frames[noise] = rng.integers(0, 256, (noise.sum(), 1600), np.uint8)
        return frames, lengths

    def publish(self, rng: np.random.Generator, frames: np.ndarray, lengths: np.ndarray) -> None:
        """Write the burst into slots: INLINE, DATA or SPLIT anywhere, some descriptors nonsense."""
        rig, row = self.rig, self.rig.t["wires"][0]
        cursor = int(row["rx_cursors"]) + CURSOR_HEAD
        head = rig.word(cursor)
        places = (head + np.arange(BURST)) % layout.WIRE_SLOTS
        slots_at, data_at, size = int(row["rx_slots"]), int(row["rx_data"]), int(row["data_size"])
        mem = rig.mem
        slots = mem[slots_at : slots_at + layout.WIRE_SLOTS * layout.SLOT_SIZE].reshape(layout.WIRE_SLOTS, -1)
        data = mem[data_at : data_at + layout.WIRE_SLOTS * size].reshape(layout.WIRE_SLOTS, -1)
        pool_at = int(row["peer_pool"])
        pool = mem[pool_at : pool_at + POOL_PLACES * 2048].reshape(POOL_PLACES, 2048)
        kinds = rng.integers(0, 3, BURST)
        kinds = np.where((kinds == SlotKind.INLINE) & (lengths > layout.SLOT_HEAD_MAX), SlotKind.DATA, kinds)
        # split where a sender would (behind the TCP header) or anywhere
        cuts = np.minimum(rng.choice([54, 66, 74, 86, 104, 116, 124, 136], BURST), lengths)
        anywhere = rng.random(BURST) < 0.3
        cuts[anywhere] = rng.integers(0, np.minimum(lengths[anywhere], layout.SLOT_HEAD_MAX) + 1)
        ext = rng.integers(0, POOL_PLACES, BURST) * 2048
        for number in np.nonzero(kinds == SlotKind.SPLIT)[0]:
            body = frames[number, cuts[number] : lengths[number]]
            pool[ext[number] // 2048, : len(body)] = body
        data[places, :1600] = frames
        slots[places, layout.SLOT_HEAD :] = frames[:, : layout.SLOT_HEAD_MAX]
        descriptors = np.zeros((BURST, 4), np.int64)
        head_lengths = np.where(kinds == SlotKind.SPLIT, cuts, lengths)
        bad = rng.random(BURST) < 0.02
        lengths[bad] = rng.integers(0, 2**32, bad.sum())
        head_lengths[bad] = rng.integers(0, 2**16, bad.sum())
        ext[bad] = rng.integers(-(2**63), 2**63 - 1, bad.sum())
        descriptors[:, 1] = lengths | (head_lengths & 0xFFFF) << 32 | kinds << 48
        descriptors[:, 2] = ext
        descriptors[:, 3] = np.where(rng.random(BURST) < 0.01, 5, 1)
        slots[places, :32] = descriptors.view(np.uint8).reshape(BURST, 32)
        rig.set_word(cursor, head + BURST)

    def send_from_vm(self, rng: np.random.Generator, frames: np.ndarray, lengths: np.ndarray) -> int:
        """Some of the frames once more from the VM, in front of them a virtio-net header of any content."""
        rig = self.rig
        fields = INTERESTING[rng.integers(len(INTERESTING), size=(TAP_BURST, layout.VNET_HEADER))]
        fields[:, :2] = rng.integers(0, 6, (TAP_BURST, 2))
        for row in range(TAP_BURST):
            number = rng.integers(BURST)
            length = int(np.clip(lengths[number], 1, 1600))
            repeats = int(rng.choice([1, 1, 1, 40]))
            frame = frames[number, :length].tobytes() + frames[number].tobytes() * (repeats - 1)
            rig.vms[0].send(fields[row].tobytes() + frame)
        rig.t["ports"][1]["ready"] = 1
        rig.step()
        rig.counted()
        return TAP_BURST

    def check(self, received: int) -> None:
        """Every slot became a row or was counted; every row a packet, or it was dropped for a reason."""
        rig = self.rig
        counted = rig.counted()
        for reason, count in counted.items():
            self.accounted[reason] = self.accounted.get(reason, 0) + count
        assert received == BURST
        parsed = int(rig.t["packet_count"])
        reasons = [reason.name.lower() for reason in Counter if reason <= Counter.RX_ECN_INCOMPATIBLE]
        assert parsed + sum(counted.get(reason, 0) for reason in reasons) == BURST
        assert int(rig.t["groups"]["count"][: rig.t["group_count"]].sum()) == parsed
        assert int(rig.t["wires"][0]["rx_tail"]) % layout.WIRE_SLOTS == self._head() % layout.WIRE_SLOTS

    def _head(self) -> int:
        return self.rig.word(int(self.rig.t["wires"][0]["rx_cursors"]) + CURSOR_HEAD)

    def drain(self) -> None:
        """Be the VM, the receiver of the second wire, and the agent."""
        rig = self.rig
        while True:
            try:
                rig.vms[0].recv(1 << 17)
            except BlockingIOError:
                break
        row = rig.t["wires"][1]
        start, head = int(row["tx_clean"]), int(row["tx_head"])
        slots_at = int(row["tx_slots"])
        for number in range(start, head):
            at = slots_at + number % layout.WIRE_SLOTS * layout.SLOT_SIZE + layout.SLOT_LENGTH
            assert int(rig.mem[at : at + 4].view(np.uint32)[0]) <= rig.mtu + 14 + layout.SHIM_ROOM
        row["tx_published"] = head
        rig.set_word(int(row["tx_cursors"]) + CURSOR_TAIL, head)
        wire.reclaim(rig.mem, rig.t, 1)
        assert rig.buffers_in_use() == 0
        punts = layout.PUNT_HEAD_OFFSET, layout.PUNT_TAIL_OFFSET
        rig.set_word(punts[1], rig.word(punts[0]))
        rig.t["free_punts"] = np.arange(layout.PUNTS)
        rig.t["free_punt_count"] = layout.PUNTS
        rig.t["ports"]["punts"] = 0

    def run(self, frames: int = 0, seconds: float = 0) -> None:
        """Rounds until so many frames or seconds have passed."""
        start = time.monotonic()
        while (frames and self.frames < frames) or (seconds and time.monotonic() - start < seconds):
            self.run_round()


def main() -> int:
    parser = argparse.ArgumentParser(description="Feed nonsense to the receive path.")
    parser.add_argument("--frames", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if not options.frames and not options.seconds:
        parser.error("give --frames or --seconds")
    fuzzer = Fuzzer(options.seed)
    fuzzer.run_round()  # compiles
    start = time.monotonic()
    before = fuzzer.frames
    fuzzer.run(options.frames, options.seconds)
    took = time.monotonic() - start
    print(f"{fuzzer.frames} frames, {(fuzzer.frames - before) / max(took, 1e-9):.0f} a second")
    for reason, count in sorted(fuzzer.accounted.items()):
        print(f"  {reason:24} {count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
