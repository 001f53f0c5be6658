# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.blaster INTERFACE SOURCE-MAC TARGET-MAC …`: sends small UDP frames, at a rate or as
fast as it can.

A packet socket and sendmmsg(2) on frames that were made before: a core sends some hundred thousand a second,
several times what iperf3 does. Flow `n` comes from UDP port 1024 + n % 50000, address 10.1.0.1 + n / 50000.
"""

from __future__ import annotations

import argparse
import ctypes
import ipaddress
import json
import os
import socket
import struct
import sys
import time

import numpy as np

FRAME_LEN = 60  # without the frame check sequence: 64 on the wire
PORTS_PER_ADDRESS = 50_000
FIRST_PORT, TARGET_PORT = 1024, 9
FIRST_ADDRESS = ipaddress.IPv4Address("10.1.0.1")
BATCH = 256
UDP_SEGMENT = 103  # linux/udp.h
DATAGRAM, DATAGRAMS = FRAME_LEN - 42, 64  # bytes of payload, and how many the kernel cuts from one send
SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20
MSGHDR = np.dtype(
    {
        "names": ["iov", "iovlen", "length"],
        "formats": ["<u8", "<u8", "<u4"],
        "offsets": [16, 24, 56],
        "itemsize": 64,
    }
)  # struct mmsghdr of x86-64 and arm64: a msghdr without name and control data, and the length sent
LIBC = ctypes.CDLL(None, use_errno=True)


def frames(count: int, first: int, source_mac: str, target_mac: str, target_ip: str) -> np.ndarray:
    """`count` frames of `FRAME_LEN` bytes, each of another flow, from flow number `first` on."""
    addresses = bytes.fromhex((target_mac + source_mac).replace(":", ""))
    ip = struct.pack("!BBHHHBBH", 0x45, 0, FRAME_LEN - 14, 0, 0x4000, 64, 17, 0)
    udp = struct.pack("!HHHH", 0, TARGET_PORT, FRAME_LEN - 34, 0)
    head = addresses + b"\x08\x00" + ip + bytes(4) + ipaddress.IPv4Address(target_ip).packed + udp
    made = np.zeros((count, FRAME_LEN), np.uint8)
    made[:, : len(head)] = np.frombuffer(head, np.uint8)
    number = np.arange(first, first + count)
    source = (int(FIRST_ADDRESS) + number // PORTS_PER_ADDRESS).astype(">u4")
    port = (FIRST_PORT + number % PORTS_PER_ADDRESS).astype(">u2")
    made[:, 26:30] = source.view(np.uint8).reshape(count, 4)
    made[:, 34:36] = port.view(np.uint8).reshape(count, 2)
    words = made[:, 14:34].reshape(count, 10, 2).astype(np.uint32)
    total = (words[:, :, 0] << 8 | words[:, :, 1]).sum(axis=1)
    total = (total & 0xFFFF) + (total >> 16)
    checksum = (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).astype(">u2")
    made[:, 24:26] = checksum.view(np.uint8).reshape(count, 2)
    return made


class Blaster:
    """Sends prepared frames, round and round, from a packet socket."""

    def __init__(self, interface: str, made: np.ndarray) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.bind((interface, 0))
        self.socket.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        self.made = made  # kept: the messages point into it
        count = len(made)
        self.vectors = np.zeros((count, 2), np.uint64)
        self.vectors[:, 0] = made.ctypes.data + np.arange(count, dtype=np.uint64) * FRAME_LEN
        self.vectors[:, 1] = FRAME_LEN
        self.messages = np.zeros(count, MSGHDR)
        self.messages["iov"] = self.vectors.ctypes.data + np.arange(count, dtype=np.uint64) * 16
        self.messages["iovlen"] = 1
        self.sent = 0

    def send(self, limit: int) -> None:
        """Send the next frames, at most `limit`, up to the end of the prepared ones."""
        at = self.sent % len(self.messages)
        count = min(limit, BATCH, len(self.messages) - at)
        address = self.messages.ctypes.data + at * MSGHDR.itemsize
        done = LIBC.sendmmsg(self.socket.fileno(), ctypes.c_void_p(address), count, 0)
        if done < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self.sent += done

    def run(self, seconds: float, rate: float, total: int) -> None:
        """Send for `seconds`, or `total` frames if that is not 0; and `rate` a second if that is not."""
        began = time.monotonic()
        while True:
            now = time.monotonic() - began
            if now >= seconds or (total and self.sent >= total):
                return
            due = int(now * rate) - self.sent if rate else BATCH
            if due <= 0:
                time.sleep(max(0.0, (self.sent + 1) / rate - now))
                continue
            self.send(min(due, total - self.sent) if total else due)


class Flood:
    """Sends one flow's datagrams as fast as it can: its kernel cuts them from large ones (UDP_SEGMENT).

    The interface's own segmentation of UDP has to be off (`ethtool -K … tx-udp-segmentation off`), so that
    each frame leaves by itself. It offers several times what a system call for each frame does, so that the
    switch is measured, not the sender.
    """

    def __init__(self, target_ip: str) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, DATAGRAM)
        self.socket.connect((target_ip, TARGET_PORT))
        self.sent = 0

    def run(self, seconds: float) -> None:
        data = bytes(DATAGRAM * DATAGRAMS)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                self.socket.send(data)
            except ConnectionRefusedError:  # an ICMP answer to an earlier one: the receiver was not there yet
                continue
            self.sent += DATAGRAMS


def main(arguments: list[str] | None = None) -> int:
    """Prepare, print `ready`, send, and print what was sent as JSON."""
    parser = argparse.ArgumentParser(prog="experiments.blaster", description=__doc__)
    parser.add_argument("interface")
    parser.add_argument("source_mac")
    parser.add_argument("target_mac")
    parser.add_argument("target_ip")
    parser.add_argument("--flows", type=int, default=1, help="different flows, sent in turn")
    parser.add_argument("--first", type=int, default=0, help="number of the first flow")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=0.0, help="frames a second; 0: as fast as it can")
    parser.add_argument("--total", type=int, default=0, help="frames in all; 0: as the time allows")
    parser.add_argument("--flood", action="store_true", help="one flow, as fast as the kernel cuts it")
    options = parser.parse_args(arguments)
    if options.flood:
        flood = Flood(options.target_ip)
        print("ready", flush=True)
        began = time.monotonic()
        flood.run(options.seconds)
        print(json.dumps({"sent": flood.sent, "seconds": time.monotonic() - began}), flush=True)
        return 0
    made = frames(options.flows, options.first, options.source_mac, options.target_mac, options.target_ip)
    blaster = Blaster(options.interface, made)
    print("ready", flush=True)
    began = time.monotonic()
    blaster.run(options.seconds, options.rate, options.total)
    print(json.dumps({"sent": blaster.sent, "seconds": time.monotonic() - began}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
