# SPDX-License-Identifier: Apache-2.0
"""The agent's view of the compiled dataplane: gives commands, reads what comes back.

All methods are called from one thread. What workers read is written before the command that announces it.

Worker 0 has the ports, the agent's rings and an entry for each cached flow. Others serve receive queues
(vswitch/dataplane/workers.py), and have entries for the flows that may come through these. Counters are
summed over all workers where they are read.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from operator import itemgetter
from typing import Any

import numpy as np

from vswitch import code_cache, layout, privileges
from vswitch.config import PortConfig, WireSettings
from vswitch.dataplane import flow_table, worker
from vswitch.dataplane.memory import Memory
from vswitch.errors import ConfigError, VSwitchError
from vswitch.flow import (
    NEVER_USED,
    Action,
    CapturedFrame,
    Controller,
    DecTtl,
    DropReason,
    Ended,
    FlowKey,
    FlowStats,
    LookUpAgain,
    Meter,
    MeterConfig,
    MeterStats,
    Output,
    PopMpls,
    PopPbb,
    PortAccount,
    PortInfo,
    Program,
    Punt,
    SetField,
)
from vswitch.format_table import FormatTable
from vswitch.keys import key_from, key_words
from vswitch.layout import Command, Counter
from vswitch.meters import Meters
from vswitch.nic import Nic, SavedNic
from vswitch.ports import Ports
from vswitch.programs import ProgramStore
from vswitch.rings import CaptureRing, CommandRing, PuntRing
from vswitch.tunnel_formats import Format

log = logging.getLogger(__name__)

VERSION = "0.1.0"
PR_SET_TIMERSLACK, NO_SLACK_NS = 29, 1
STATS_PARTS = 64
"""Of the flow table, in which its counters are read."""

DROP_COUNTERS = {
    DropReason.DELIVERED: -1,
    DropReason.TABLE_MISS: int(Counter.TABLE_MISS),
    DropReason.RULE: int(Counter.NO_RULE),
    DropReason.PORT_CONFIG: int(Counter.PORT_CONFIG),
    DropReason.TOO_MANY_OPERATIONS: int(Counter.TOO_MANY_OPERATIONS),
    DropReason.LIMITED: int(Counter.PUNT_LIMITED),
}


class Datapath:
    """One switch's dataplane.

    dpid: datapath id, which the ports' default MAC addresses derive from. workers: threads that forward
    packets. cpus: a processor for each of them, in turn, or none. name: of OFPP_LOCAL. Raises ConfigError
    when a port cannot be had; nothing stays open then.
    """

    def __init__(
        self,
        dpid: int,
        ports: Sequence[PortConfig] = (),
        workers: int = 1,
        cpus: Sequence[int] = (),
        name: str = "local",
    ) -> None:
        self.cpus = cpus
        self.memory = Memory(workers)
        self.punt_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wake_fds = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(workers)]
        self.tables = layout.make_tables(workers)
        self.t = self.tables[0]
        self._scratch_tables = layout.make_tables()
        self._scratch_tables["tos_mask"] = 0xFF
        self._threads: list[threading.Thread] = []
        self._failure: OSError | None = None
        self._closing = False
        self._injections: deque[tuple[int, int]] = deque((0, slot) for slot in range(layout.INJECTIONS))
        self._map_memory()
        self._commands = CommandRing(self.tables, self._controls, self._runs)
        self._formats = FormatTable(self.t["formats"])
        self._ports = Ports(
            dpid,
            name,
            self.tables,
            self.memory,
            self._pool_fd,
            self._commands,
            self._formats,
        )
        self._meters = Meters(self.t["meter_settings"], self.t["meters"], self._commands)
        self._programs = ProgramStore(
            self.tables["programs"], self._ports.index_of, self._meters.index_of, self._live_places
        )
        self._punts = PuntRing(self.t, self.memory, self._words, self.punt_fd, self._programs.controller)
        self._captures = CaptureRing(self.t, self.memory, self._words)
        try:
            for config in ports:
                self._ports.open(config)
        except BaseException:
            self.close()
            raise
        self.refresh_ports()

    def _map_memory(self) -> None:
        size = layout.CONTROL_SIZE
        own, controls = self.memory.map_each(size)
        assert own == 0
        self._controls = [
            self.memory.words(controls + number * size, size // 8) for number in range(len(self.tables))
        ]
        self._words = self._controls[0]
        pool_size = layout.BUFFERS * layout.BUFFER_SIZE
        self._pool_fd = os.memfd_create("vswitch-pool", os.MFD_CLOEXEC)
        self.t["pool"] = self.memory.map_file(self._pool_fd, pool_size)
        self.t["punt_memory"] = self.memory.map_private(layout.PUNTS * layout.PUNT_SLOT_SIZE)
        self.t["injection_memory"] = self.memory.map_private(layout.INJECTIONS * layout.PUNT_SLOT_SIZE)
        self.t["capture_memory"] = self.memory.map_private(layout.CAPTURES * layout.CAPTURE_SLOT_SIZE)
        self._scratch = self.memory.map_private(layout.PUNT_SLOT_SIZE)
        self.t["agent_fd"] = self.punt_fd
        self.tables["controls"], self.tables["wake_fd"] = controls, self._wake_fds

    # Life

    def start(self) -> None:
        """Start the workers; returns when they run, which takes a while when they must be compiled first.

        Raises VSwitchError when what is compiled cannot be kept.
        """
        started = threading.Event()
        for number in range(len(self.tables)):
            args = number, started
            thread = threading.Thread(target=self._work, args=args, name=f"worker{number}", daemon=True)
            self._threads.append(thread)
            thread.start()
        started.wait()
        if self._failure is not None:
            raise VSwitchError(
                f"cannot keep the compiled dataplane in {code_cache.current_directory()}: "
                f"{self._failure.strerror}; free some of its disk, or set NUMBA_CACHE_DIR to another folder"
            )

    def _work(self, number: int, started: threading.Event) -> None:
        # a sleep ends when it is to, not up to 50 us later, together with others' (prctl(2), of this thread)
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, NO_SLACK_NS)
        if self.cpus:
            os.sched_setaffinity(threading.get_native_id(), {self.cpus[number % len(self.cpus)]})
        if number == 0:
            try:
                with _compiling():
                    self._words[layout.STOP_OFFSET // 8] = 1
                    worker.run(self.memory.array, self.tables, 0)  # compiles or loads, and returns at once
                    self.flow_stats([self.key_of(bytes(14))])  # likewise what the agent calls
                    self._words[layout.STOP_OFFSET // 8] = 0
            except OSError as error:
                self._failure = error
                self._closing = True
            started.set()
        started.wait()
        privileges.keep_only()  # it works on hostile bytes
        if not self._closing:
            worker.run(self.memory.views[number], self.tables, number)

    def worker_cores(self) -> list[list[int]]:
        """The processors that each worker may run on."""
        running = [thread.native_id for thread in self._threads if thread.is_alive()]
        return [sorted(os.sched_getaffinity(thread_id)) for thread_id in running if thread_id]

    def _runs(self) -> bool:
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """Stop the workers and release everything."""
        self._closing = True
        for number, thread in enumerate(self._threads):
            self._controls[number][layout.STOP_OFFSET // 8] = 1
            os.eventfd_write(self._wake_fds[number], 1)
            thread.join()
        self._ports.close()
        for fd in (self.punt_fd, *self._wake_fds, self._pool_fd):
            os.close(fd)
        self.memory.close()

    # Ports

    def keep_devices(self) -> None:
        """TAPs that were made here outlive the switch from now on; a start that fails leaves none."""
        self._ports.keep_devices()

    def refresh_ports(self) -> bool:
        """Look at the links: True when something changed since the last call."""
        return self._ports.refresh()

    @property
    def link_fds(self) -> list[int]:
        """Readable when refresh_ports() may find something new; of wires, only that the other end is new."""
        return self._ports.fds

    def ports(self) -> list[PortInfo]:
        """The ports as they are now."""
        return self._ports.infos()

    def nic(self, port_no: int) -> Nic:
        """The receive side of a wire or packet port, or of the switch's port in front of a VM."""
        return self._ports.nic(port_no)

    def set_forwarding(self, port_no: int, forwarding: bool) -> None:
        """Whether the VM at a TAP port forwards connections (S0.9); raises ConfigError."""
        self._ports.set_forwarding(port_no, forwarding)

    def set_wire(self, port_no: int, **settings: Any) -> None:
        """Change how a wire treats the frames that we send: the words of `--port` (bw, delay, loss …)."""
        self._ports.set_wire(port_no, **settings)

    def wire_settings(self, port_no: int) -> WireSettings:
        """How a wire treats the frames that we send; raises ConfigError."""
        return self._ports.wire_settings(port_no)

    def wires_set(self) -> list[int]:
        """The wires of which a setting was changed since the start."""
        return self._ports.wires_set()

    def nics_set(self) -> dict[int, SavedNic]:
        """The NICs that are not as at the start, by port."""
        return self._ports.nics_set()

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
        """Make a tunnel port, or another one of the tunnel port that has the number, to which programs output
        as before. Raises ConfigError, and then nothing has changed."""
        self._ports.add_tunnel(port_no, name, format, local_ip, remote_ip, local_mac, remote_mac, uplink_port)
        self._programs.renumbered()

    def remove_tunnel(self, port_no: int) -> None:
        """Remove a tunnel port; raises ConfigError."""
        self._programs.forget_port(self._ports.remove_tunnel(port_no))

    # Formats

    def set_format(self, name: str, format: Format) -> None:
        """Add a tunnel format, or change one that no tunnel uses; raises ConfigError."""
        self._formats.set(name, format, self._ports.tunnels_of(name))

    def delete_format(self, name: str) -> None:
        """Forget a tunnel format that was added; raises ConfigError, also while a tunnel uses it."""
        self._formats.delete(name, self._ports.tunnels_of(name))

    def formats(self) -> dict[str, Format]:
        """The tunnel formats by name: the shipped ones and those that were added."""
        return self._formats.all()

    # Meters

    def set_meter(self, meter_id: int, config: MeterConfig) -> None:
        """Add a meter, or give it other bands, whose counters start anew. Raises VSwitchError: no room."""
        self._meters.set(meter_id, config)
        self._programs.renumbered()

    def remove_meter(self, meter_id: int) -> None:
        """Programs that name it pass their packets; without effect when there is no such meter."""
        index = self._meters.remove(meter_id)
        if index is not None:
            self._programs.forget_meter(index)

    def meter_stats(self, meter_id: int) -> MeterStats:
        """Counters of a meter."""
        return self._meters.stats(meter_id)

    def set_packet_too_big(self, enabled: bool) -> None:
        """Whether packets that are too big for a tunnel are punted, for their senders to be told."""
        self._commands.give(Command.TOO_BIG_REPORTS, int(enabled))

    # Commands

    def together(self) -> AbstractContextManager[None]:
        """Commands given within are announced to the worker once, at the end."""
        return self._commands.together()

    async def drained(self) -> None:
        """Returns when every command given so far has been applied."""
        await self._commands.drained()

    # Flows

    def install(self, key: FlowKey, program: Program, idle_timeout_s: float = 0) -> None:
        """Add the entry, or replace its program; replacing keeps its counters, and ended() tells them.

        Packets of the key that wait for the agent are forwarded first, if the program sends packets on.
        """
        offset, length = self._programs.place(program)
        timeout_ns = int(idle_timeout_s * 1e9)
        others = None
        if len(self.tables) > 1:
            others = self._elsewhere(key, program, offset, length, timeout_ns)
        self._commands.give(
            Command.INSTALL, offset, length, timeout_ns, self._punts.unseen, key=key, others=others
        )

    def _elsewhere(
        self, key: FlowKey, program: Program, offset: int, length: int, timeout_ns: int
    ) -> tuple[int, ...]:
        """The command by which workers without ports learn of a flow; they can only deliver to VMs."""
        if key.in_port in self._ports and self._ports[key.in_port].tap:
            return (Command.NOTHING,)  # what VMs send, worker 0 reads and forwards
        if not all(self._delivers(action) for action in program):
            length = ~length
        return Command.INSTALL, offset, length, timeout_ns

    def _delivers(self, action: Action) -> bool:
        """Whether every worker can carry out an action: not those that send to ports which only worker 0 has,
        that meter, that tell the agent, or behind which a packet may prove to be a SYN."""
        if isinstance(action, Output):
            return action.port in self._ports and self._ports[action.port].tap is not None
        if isinstance(action, SetField):
            return action.name not in ("eth_type", "ip_proto")
        return not isinstance(action, (Controller, DecTtl, LookUpAgain, Meter, PopMpls, PopPbb))

    def remove(self, key: FlowKey) -> None:
        """ended() tells its final counters; without effect when there is no such entry."""
        self._commands.give(Command.REMOVE, key=key)

    def ended(self) -> list[Ended]:
        """What became of programs that were replaced or removed, and of entries that ended by themselves,
        since the last call, in the order in which it did."""
        if len(self.tables) > 1:
            evicted = self._evicted_everywhere()
            return [answer for _number, answer in self._commands.ended()[1]] + evicted
        answered, answers = self._commands.ended()
        # a report tells how many commands were applied before: those come first
        ends = sorted([*self._punts.evicted(answered), *answers], key=itemgetter(0))
        return [end for _number, end in ends]

    def set_tos_mask(self, mask: int) -> None:
        """Which bits of `ip_tos` tell flows apart: keys of entries have no others. None do at first."""
        self._commands.give(Command.TOS_MASK, mask, self._punts.unseen)

    def set_drop_mask(self, number: int, mask: FlowKey) -> None:
        """Have entries whose `drop_mask` is `number` + 1 stand for all packets that agree with them in these
        bits of the key. There must be none of that number."""
        self._commands.give(Command.DROP_MASK, number, key=mask)

    def hold_back_punts(self, port_no: int, until_ns: int) -> None:
        """Drop what comes through a port and is for the agent until then (`punt_limited`)."""
        self.t["ports"][self._ports.index_of(port_no)]["punts_from_ns"] = until_ns

    def counted(self) -> list[int]:
        """Of the held packets that were released since the last call, those that flows' entries had forwarded
        and counted."""
        return self._commands.counted()

    def execute(self, packet: int, program: Program) -> None:
        """Run a program on a held packet, unless its flow's entry has forwarded it, and release it."""
        offset, length = self._programs.place(program)
        self._commands.give(Command.EXECUTE, packet, offset, length)

    def discard(self, packet: int, reason: DropReason) -> None:
        """Release a held packet, counting the reason unless its flow's entry has forwarded it."""
        self._commands.give(Command.DISCARD, packet, DROP_COUNTERS[reason])

    def send(self, frame: bytes, program: Program, in_port: int = 0, tunnel_id: int = 0) -> None:
        """Run a program on a frame of the agent's own (packet-out)."""
        given, slot = self._injections.popleft()
        self._commands.wait(given)
        frame = frame[: layout.PUNT_SLOT_SIZE]
        self.memory.write(int(self.t["injection_memory"]) + slot * layout.PUNT_SLOT_SIZE, frame)
        row = self.t["injections"][slot]
        row["length"], row["in_port"] = len(frame), self._ports.index_of(in_port)
        row["tunnel_id"], row["csum"], row["gso_size"] = tunnel_id, 0, 0
        offset, length = self._programs.place(program)
        self._commands.give(Command.SEND, slot, offset, length)
        self._injections.append((self._commands.given, slot))

    def poll_punts(self, limit: int = 64) -> list[Punt]:
        """Packets that wait for a decision."""
        return self._punts.poll(limit)

    def key_of(self, frame: bytes, in_port: int = 0, tunnel_id: int = 0) -> FlowKey:
        """The key that the dataplane's parser finds for a frame."""
        frame = frame[: layout.PUNT_SLOT_SIZE]
        self.memory.write(self._scratch, frame)
        t = self._scratch_tables[0]
        if flow_table.make_key_of_frame(self.memory.array, t, self._scratch, len(frame)):
            words = t["key"]
        else:
            words = np.zeros(layout.KEY_WORDS, np.int64)
        return key_from(words.view(np.uint64).tolist())._replace(in_port=in_port, tunnel_id=tunnel_id)

    def flow_stats(self, keys: Iterable[FlowKey] | None = None) -> dict[FlowKey, FlowStats]:
        """Counters of these entries (all of them by default); entries that do not exist are left out."""
        if keys is not None:
            keys = list(keys)
        stats = _flow_stats(self.t, keys)
        for t in self.tables[1:]:
            for key, more in _flow_stats(t, keys).items():
                if key in stats:
                    stats[key] = stats[key].plus(more)
        return stats

    def flow_stats_in_parts(self) -> Iterator[dict[FlowKey, FlowStats]]:
        """Counters of all entries, some thousands at a time, each as it is by then; of some twice.

        Entries move towards the table's beginning, or from there to its end, when others go: this goes the
        other way, so that it misses none.
        """
        used = self.t["flow_bits"].reshape(STATS_PARTS, -1)
        size = layout.FLOWS // STATS_PARTS
        for part in (*reversed(range(STATS_PARTS)), STATS_PARTS - 1):
            if used[part].any():
                stats = _flow_stats_of(self.t["flows"][part * size : (part + 1) * size])
                for t in self.tables[1:]:
                    for key, more in _flow_stats(t, list(stats)).items():
                        stats[key] = stats[key].plus(more)
                yield stats

    def _live_places(self) -> set[int]:
        """Offsets of the programs that entries or waiting commands name."""
        self._commands.wait(self._commands.given)
        return set().union(*map(_programs_of, self.tables))

    def _evicted_everywhere(self) -> list[Ended]:
        """The entries that ended by themselves, of several workers.

        Worker 0 has only told which are idle, or found no room: now they are removed. Of an idle one that is
        not there any more, the answers of commands tell.
        """
        evicted = [end for _number, end in self._punts.evicted(self._commands.given)]
        if not evicted:
            return []
        ends = self._commands.end([end.key for end in evicted])
        return [
            end._replace(stats=ends.get(end.key, end.stats))
            for end in evicted
            if end.key in ends or end.stats == NEVER_USED
        ]

    # Captures

    def set_capture(self, port_no: int, enabled: bool) -> None:
        """Whether a port's frames, both ways, are copied for poll_captures(); raises ConfigError."""
        port = self._ports[port_no]
        if port.wire is not None:
            self._commands.give(Command.CAPTURE, port.index, int(enabled))
            self._commands.wait(self._commands.given)
        elif port.sniffer is None:
            what = "LOCAL" if port.kind == "local" else f"a {port.kind}"
            raise ConfigError("port", f"{port.name} is {what}", "a wire, packet or TAP port")
        elif enabled:
            port.sniffer.start()
        else:
            port.sniffer.stop()

    def poll_captures(self) -> list[CapturedFrame]:
        """The frames that were captured since the last call."""
        frames = list(self._captures.poll({port.index: port.number for port in self._ports}))
        for sniffer in self._ports.sniffers():
            if sniffer.pending:
                frames += sniffer.frames()
        return frames

    # What it says of itself

    def counters(self) -> dict[str, int]:
        """Everything counted by reason."""
        counts = self.tables["counters"].sum(axis=0)
        counters = {reason.name.lower(): int(counts[reason]) for reason in Counter}
        del counters["gro_first"]
        counters["capture_missed"] += sum(sniffer.missed for sniffer in self._ports.sniffers())
        counters["rx_ring_full"] += int(self.t["ports"]["rx_missed"].sum())
        for verdict in layout.Merge:
            name = f"gro_not_merged_{verdict.name.lower()}"
            counters[name] = int(counts[Counter.GRO_FIRST + verdict])
        del counters["gro_not_merged_yes"], counters["gro_not_merged_disabled"]
        return counters

    def accounts(self) -> dict[str, PortAccount]:
        """What became of each port's frames, by its name, and of those of no port. Sums are exact when no
        packet is in the workers' hands."""
        return self._ports.accounts()

    def capabilities(self) -> dict[str, Any]:
        """What this switch can do, for the controller."""
        formats = list(self._formats.all())
        workers = len(self.tables)
        return {"version": VERSION, "formats": formats, "queues": layout.MAX_QUEUES, "workers": workers}


@contextmanager
def _compiling() -> Iterator[None]:
    """One process at a time compiles for a cache directory; the others wait for what it leaves there."""
    if code_cache.is_complete():
        yield
        return
    directory = code_cache.current_directory()
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        (directory / code_cache.MARKER).touch()


def _flow_stats(t: Any, keys: Sequence[FlowKey] | None) -> dict[FlowKey, FlowStats]:
    """What one worker has counted of these flows; None: of all that it has entries for."""
    flows = t["flows"]
    if keys is None:
        return _flow_stats_of(flows)
    found = {}
    for key in keys:
        words = np.array(key_words(key), np.uint64).view(np.int64)
        while True:
            moves = int(t["flow_moves"])
            place = flow_table.find(t, words)
            if place != flow_table.NOT_FOUND:
                flow = flows[place]
                stats = FlowStats(int(flow["packets"]), int(flow["bytes"]), int(flow["last_used_ns"]))
                if np.array_equal(flow["key"], words):
                    found[key] = stats
                    break
            elif moves == int(t["flow_moves"]):
                break  # the worker moved none meanwhile
    return found


def _flow_stats_of(flows: Any) -> dict[FlowKey, FlowStats]:
    """What the entries among these places of a table have counted."""
    used = flows[flows["state"] == layout.FLOW_USED]
    counts = zip(*(used[name].tolist() for name in FlowStats._fields), strict=True)
    found_keys = map(key_from, used["key"].view(np.uint64).tolist())
    return {key: FlowStats(*stats) for key, stats in zip(found_keys, counts, strict=True)}


def _programs_of(t: Any) -> set[int]:
    """Offsets of the programs that one worker's entries name."""
    flows = t["flows"]
    while True:
        moves = int(t["flow_moves"])
        places = flows["program"][flows["state"] == layout.FLOW_USED]
        if moves == int(t["flow_moves"]):  # the worker moved none meanwhile
            return set(places.tolist())
