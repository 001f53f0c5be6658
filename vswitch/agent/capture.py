# SPDX-License-Identifier: Apache-2.0
"""Captures of a port's frames in pcapng files (draft-ietf-opsawg-pcapng), for tshark and Wireshark."""

from __future__ import annotations

import asyncio
import logging
import os
import struct
import time
from contextlib import suppress
from typing import Any, BinaryIO

from vswitch.agent.datapath import Datapath
from vswitch.errors import ConfigError
from vswitch.flow import CapturedFrame

log = logging.getLogger(__name__)

POLL_S = 0.01
MAX_SECONDS = 3600
SECTION, INTERFACE, PACKET = 0x0A0D0D0A, 1, 6
BYTE_ORDER = 0x1A2B3C4D
LINKTYPE_ETHERNET = 1
OPTION_TSRESOL, OPTION_FLAGS, OPTION_END = 9, 2, 0
INBOUND, OUTBOUND = 1, 2


class PcapngWriter:
    """Writes one interface's frames with nanosecond time stamps."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._block(SECTION, struct.pack("<IHHq", BYTE_ORDER, 1, 0, -1))
        resolution = struct.pack("<HHB3xHH", OPTION_TSRESOL, 1, 9, OPTION_END, 0)
        self._block(INTERFACE, struct.pack("<HHI", LINKTYPE_ETHERNET, 0, 0) + resolution)

    def write(self, frame: CapturedFrame, time_ns: int) -> None:
        """time_ns: since 1970."""
        data = frame.data + bytes(-len(frame.data) % 4)
        direction = OUTBOUND if frame.outbound else INBOUND
        options = struct.pack("<HHIHH", OPTION_FLAGS, 4, direction, OPTION_END, 0)
        fields = struct.pack("<IIIII", 0, time_ns >> 32, time_ns & 0xFFFFFFFF, len(frame.data), frame.length)
        self._block(PACKET, fields + data + options)

    def _block(self, kind: int, body: bytes) -> None:
        size = struct.pack("<I", len(body) + 12)
        self._file.write(struct.pack("<I", kind) + size + body + size)


class Capture:
    """One that runs, or that ran. ends_s: when it ends by itself, of the monotonic clock."""

    def __init__(self, path: str, opened: BinaryIO, ends_s: float, missed_before: int) -> None:
        self.path = path
        self.opened = opened
        self.ends_s = ends_s
        self.missed_before = missed_before
        self.frames = 0
        self.missed = 0
        self._writer = PcapngWriter(opened)

    def write(self, frame: CapturedFrame, time_ns: int) -> None:
        """time_ns: since 1970."""
        self._writer.write(frame, time_ns)
        self.frames += 1


class Captures:
    """The captures that run, by port, and the last of each port."""

    def __init__(self, datapath: Datapath) -> None:
        self._datapath = datapath
        self._running: dict[int, Capture] = {}
        self._last: dict[int, Capture] = {}

    def start(self, port_no: int, file: str, seconds: float, handed: int | None = None) -> None:
        """Begin to write the frames of a port; ends by itself after `seconds`. Raises ConfigError.

        handed: the file's descriptor, where the caller has opened it; ours from then on.
        """
        try:
            self._start(port_no, file, seconds, handed)
        except ConfigError:
            if handed is not None:
                os.close(handed)
            raise

    def _start(self, port_no: int, file: str, seconds: float, handed: int | None) -> None:
        if port_no in self._running:
            raise ConfigError(
                "port",
                f"port {port_no} is being captured already",
                f"another port, or this one after: vswitchctl capture {port_no} --stop",
            )
        if not 0 < seconds <= MAX_SECONDS:
            raise ConfigError("seconds", f"{seconds!r} is out of range", f"up to {MAX_SECONDS}")
        if not file.startswith("/"):
            raise ConfigError("file", f"{file!r} is not an absolute path", "one that begins with /")
        self._datapath.set_capture(port_no, True)
        try:
            opened = open(file if handed is None else handed, "wb")  # noqa: SIM115 (closed by stop)
            if handed is not None and opened.seekable():  # no pipe
                opened.truncate()
        except (OSError, ValueError) as error:
            self._datapath.set_capture(port_no, False)
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError("file", f"cannot write {file!a}: {reason}") from None
        capture = Capture(file, opened, time.monotonic() + seconds, self._missed())
        self._running[port_no] = self._last[port_no] = capture

    def stop(self, port_no: int) -> dict[str, Any]:
        """End a capture, if one runs. Tells of the last one: its file (None: there was none), how many frames
        were written, and how many left out."""
        if port_no in self._running:
            self._datapath.set_capture(port_no, False)
            self.poll()
        if port_no in self._running:
            try:
                self._close(port_no)
            except OSError as error:
                log.warning("port %d: the capture lost its last frames: %s", port_no, error.strerror)
        if port_no not in self._last:
            return {"file": None, "frames": 0, "missed": 0}
        last = self._last[port_no]
        return {"file": last.path, "frames": last.frames, "missed": last.missed}

    def _abandon(self, port_no: int, error: OSError) -> None:
        """A file that takes no more ends its capture, not the switch."""
        log.warning("port %d: the capture ends: %s", port_no, error.strerror)
        self._datapath.set_capture(port_no, False)
        with suppress(OSError):
            self._close(port_no)

    def _close(self, port_no: int) -> None:
        capture = self._running.pop(port_no)
        capture.missed = self._missed() - capture.missed_before
        capture.opened.close()

    def _missed(self) -> int:
        """Frames that captures have left out so far."""
        return self._datapath.counters().get("capture_missed", 0)

    def poll(self) -> None:
        """Write what the dataplane has captured."""
        offset_ns = time.time_ns() - time.monotonic_ns()
        for frame in self._datapath.poll_captures():
            if frame.port_no not in self._running:
                continue
            try:
                self._running[frame.port_no].write(frame, frame.time_ns + offset_ns)
            except OSError as error:
                self._abandon(frame.port_no, error)

    async def run(self) -> None:
        """Poll for ever while something is captured."""
        while True:
            await asyncio.sleep(POLL_S if self._running else 0.1)
            if self._running:
                self.poll()
                now = time.monotonic()
                for port_no in [number for number, each in self._running.items() if each.ends_s <= now]:
                    self.stop(port_no)

    def close(self) -> None:
        """End all captures."""
        for port_no in list(self._running):
            self.stop(port_no)
