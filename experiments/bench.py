# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments bench`: nanoseconds per frame of each stage of the dataplane, everything in cache.

Two switches in this process, joined by a wire, without threads, TAPs or root: what is timed is the compiled
code alone, on super-frames of 64 KB in VXLAN over a 1500-byte wire. The least of several repetitions.
"""

from __future__ import annotations

import os
import struct
import sys
import tempfile
import time
from pathlib import Path

from numba import njit

from vswitch import layout
from vswitch.config import parse_port
from vswitch.datapath import Datapath
from vswitch.dataplane import checksum, flow_table, worker
from vswitch.dataplane.actions import forward
from vswitch.dataplane.gro import single
from vswitch.dataplane.intrinsics import pointed, pointer_to
from vswitch.dataplane.nic import queues
from vswitch.dataplane.outgoing import take_group
from vswitch.dataplane.parse import parse
from vswitch.dataplane.ports import wire
from vswitch.dataplane.tso import segment
from vswitch.flow import Output
from vswitch.nic import Match

MSS = 1398
SEGMENTS = 46
REPETITIONS = 25
ROUNDS = 500
MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")


def super_frame() -> bytes:
    """Headers of a VM's TCP super-frame and its payload; the TCP checksum is partial."""
    length = MSS * SEGMENTS
    source, target = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
    ethernet = bytes.fromhex("000000000002 000000000001 0800")
    ip = bytearray(struct.pack("!BBHHHBBH", 0x45, 0, 52 + length, 1, 0x4000, 64, 6, 0) + source + target)
    total = sum(struct.unpack("!10H", ip))
    ip[10:12] = struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)
    tcp = struct.pack("!HHIIBBHHHBBBBII", 5001, 5201, 1, 1, 0x80, 0x10, 500, 0, 0, 1, 1, 8, 10, 7, 9)
    return ethernet + bytes(ip) + tcp + bytes(length)


class Bench:
    """A sender with a super-frame in its pool, and a receiver with a TAP that swallows everything."""

    def __init__(self, directory: Path) -> None:
        path = directory / "wire"
        self.sender = Datapath(1, [parse_port(f"1=wire:{path},end=a")])
        self.receiver = Datapath(2, [parse_port(f"1=wire:{path},end=b")])
        self.sender.add_tunnel(1002, "tunnel", "vxlan", "192.0.2.1", "192.0.2.2", *MACS, 1)
        self.receiver.add_tunnel(1001, "tunnel", "vxlan", "192.0.2.2", "192.0.2.1", *MACS, 1)
        for _ in range(2):
            self.sender.refresh_ports()
            self.receiver.refresh_ports()
        frame = super_frame()
        self.frame_at = int(self.sender.t["pool"]) + 256
        self.sender.memory.write(self.frame_at, frame)
        self.frame_len = len(frame)
        self.sink = os.open(os.devnull, os.O_WRONLY)
        tap = self.receiver.t["ports"][9]
        tap["kind"], tap["up"], tap["fd"], tap["number"] = layout.PortKind.TAP, 1, self.sink, 9
        for datapath in (self.sender, self.receiver):
            # applies the commands
            worker.step(pointed(datapath.memory.array), datapath.tables, 0, time.monotonic_ns())

    def close(self) -> None:
        os.close(self.sink)
        self.sender.close()
        self.receiver.close()


@njit(cache=True)
def _set_super_frame(t, frame_at, frame_len):
    packet = t["packets"][0]
    packet["offset"] = frame_at
    packet["length"] = frame_len
    packet["head_length"] = frame_len
    packet["ext"] = 0
    packet["port"] = 5
    packet["queue"] = 0
    packet["buffer"] = 0
    packet["csum"] = layout.Csum.PARTIAL.value
    packet["gso_size"] = MSS
    t["packet_count"] = 1


@njit(cache=True)
def _send(mem_array, t, frame_at, frame_len, tunnel, rounds):
    """Parse, take and segment the super-frame, `rounds` times; the slots are taken back at once."""
    mem = pointer_to(mem_array)
    for _ in range(rounds):
        _set_super_frame(t, frame_at, frame_len)
        t["buffers"][0] += 1
        parse(mem, t, t["packets"][0], False)
        single(t)
        take_group(mem, t, t["groups"][0])
        t["outgoing"]["tunnel_id"] = 42
        segment(mem, t, t["wires"][0]["port"], tunnel)
        t["wires"][0]["tx_clean"] = t["wires"][0]["tx_head"]


@njit(cache=True)
def _receive(mem_array, tables, rounds, stages):
    """Take the published slots again and again, through the first `stages` stages."""
    mem = pointer_to(mem_array)
    t = tables[0]
    for _ in range(rounds):
        t["wires"][0]["rx_tail"] = 0
        t["packet_count"] = wire.receive(mem, t, 0)
        if stages > 1:
            for index in range(t["packet_count"]):
                parse(mem, t, t["packets"][index], stages > 2)
        if stages > 3:
            queues.receive(mem, tables, t)
        if stages > 4:
            for number in range(t["group_count"]):
                forward(mem, t, t["groups"][number])


@njit(cache=True)
def _sum(mem_array, offset, rounds):
    mem = pointer_to(mem_array)
    total = 0
    for _ in range(rounds):
        for index in range(SEGMENTS):
            total += checksum.sum_bytes(mem, offset + MSS * index, MSS)
    return total


def _time(function, *args) -> float:
    """Least nanoseconds per frame of several repetitions: others use this machine too."""
    function(*args)
    figures = []
    for _ in range(REPETITIONS):
        start = time.perf_counter_ns()
        function(*args)
        figures.append((time.perf_counter_ns() - start) / (ROUNDS * SEGMENTS))
    return min(figures)


def measure(bench: Bench) -> list[tuple[str, float]]:
    """(stage, ns per frame) in a packet's order."""
    sender, receiver = bench.sender, bench.receiver
    tunnel = sender._ports[1002].index
    mem, t = sender.memory.array, sender.t
    rows = [("checksum of 1398 bytes", _time(_sum, mem, bench.frame_at + 66, ROUNDS))]
    rows.append(
        (
            "segment + send (TSO, VXLAN, checksums)",
            _time(_send, mem, t, bench.frame_at, bench.frame_len, tunnel, ROUNDS),
        )
    )

    # one super-frame in slots 0 … 45, for the receiver to take again and again
    t["wires"][0]["tx_head"] = t["wires"][0]["tx_clean"] = 0
    _send(mem, t, bench.frame_at, bench.frame_len, tunnel, 1)
    words = receiver.memory.words(int(receiver.t["wires"][0]["rx_cursors"]))
    words[0] = SEGMENTS
    mem, t, tables = receiver.memory.array, receiver.t, receiver.tables
    names = ["receive", "+ parse, decapsulate", "+ verify checksums", "+ coalesce", "+ forward to the TAP"]
    _receive(mem, tables, 1, 4)
    first = t["packets"][int(t["groups"][0]["first"])]
    assert t["group_count"] == 1, "the segments did not become one packet"

    flow_table.make_key(pointed(mem), t, first)
    program, length = receiver._programs.place((Output(9),))
    t["programs"][program + 1] = 9
    flow_table.install(t, t["key"], program, length, 0)
    before = 0.0
    for stages, name in enumerate(names, 1):
        total = _time(_receive, mem, tables, ROUNDS, stages)
        rows.append((name, total - before))
        before = total
    rows.append(("receive + coalesce + deliver, together", before))

    nic = receiver.nic(1)
    for port in range(1, 64):
        nic.add_rule(Match(protocol="tcp", dst_port=port))
    nic.add_rule(Match(vni=42))
    for name, change in (
        ("the same, 64 LRO rules", lambda: nic.set_lro(0, "rules")),
        ("the same, and 4 queues by RSS", lambda: nic.set_queue_count(4)),
    ):
        change()
        nic.set_lro(None, "rules")
        worker.step(pointed(mem), tables, 0, time.monotonic_ns())
        rows.append((name, _time(_receive, mem, tables, ROUNDS, len(names))))
    return rows


def main() -> int:
    """Print the table."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        bench = Bench(Path(directory))
        try:
            rows = measure(bench)
        finally:
            bench.close()
    print(f"{'stage':45} ns per frame")
    for name, nanoseconds in rows:
        print(f"{name:45} {nanoseconds:12.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
