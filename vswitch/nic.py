# SPDX-License-Identifier: Apache-2.0
"""A port's receive side as a NIC that a driver sets up: queues, RSS, filters, LRO rules (S0.1 to S0.7).

    nic = datapath.nic(port_no)
    nic.set_queue_count(4)
    nic.add_filter(Match(protocol="tcp", dst_ip="10.0.0.2", dst_port=80), queue=2)
    nic.set_lro(1, "rules")
    nic.add_rule(Match(protocol="tcp", dst_port=110), queues=[1])

A wire or packet port is a NIC with 1 to 8 queues (position `nic`). A TAP is the virtual switch's port in
front of a VM (position `vif`, S0.5): one queue, through which the packets go that are delivered to the VM.

Every change is made as a whole, on live traffic, between two bursts, and loses no packet: the port's other
row of the NIC table is written, and one command puts it in force. Wrong values raise ConfigError; nothing has
changed then. All methods are called from the agent's thread. Why it is so: docs/explanation/nic.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import numpy as np

from vswitch import layout
from vswitch.dataplane.memory import Memory
from vswitch.errors import ConfigError
from vswitch.indirection import equal_table, weighted_table
from vswitch.layout import MAX_QUEUES, Command, Lro, Merge
from vswitch.nic_driver import FinishedPacket, QueueHandle
from vswitch.nic_match import KINDS, MAX_PRIORITY, Match, check_number
from vswitch.rings import CommandRing

__all__ = [
    "DEFAULT_KEY", "LRO_KINDS", "LRO_SETTINGS", "Filter", "FinishedPacket", "Match", "Nic", "QueueHandle",
    "QueueSettings", "QueueStats", "Rule", "SavedNic", "toeplitz_table",
]  # fmt: skip

LRO_SETTINGS = tuple(setting.name.lower() for setting in Lro)
LRO_KINDS = ("gro", "lro")
DEFAULT_KEY = bytes.fromhex(
    "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
)

_T = TypeVar("_T")


@dataclass(frozen=True)
class Filter:
    """Frames that match go to `queue`, unless a filter that is asked before takes them."""

    id: int
    match: Match
    queue: int
    priority: int


@dataclass(frozen=True)
class Rule:
    """Flows that match are coalesced (`lro`) or not, unless a rule that is asked before decides.

    queues: whose setting `rules` it serves; None: of all queues.
    """

    id: int
    match: Match
    queues: tuple[int, ...] | None
    lro: bool
    priority: int


@dataclass(frozen=True)
class QueueSettings:
    """What a queue does.

    lro: `off`, `on` or `rules`. lro_kind: `gro`, whose aggregates tell how long their segments were, or
    `lro`, whose do not (S0.10). completion_size: bytes of IP packet that no aggregate exceeds. worker: the
    thread that serves it.
    """

    queue: int
    lro: str
    lro_kind: str
    completion_size: int
    worker: int


@dataclass(frozen=True)
class QueueStats:
    """What a queue has counted since the switch started.

    frames, bytes: received (of a vif: those of the flows that it coalesced). merged: frames that joined
    an aggregate behind its first. aggregates: packets made of more than one frame. dropped: frames that its
    driver left no room for. reasons: frames that joined no aggregate, by the reason (layout.Merge).
    """

    queue: int
    frames: int
    bytes: int
    merged: int
    aggregates: int
    dropped: int
    reasons: dict[str, int]


@dataclass(frozen=True)
class SavedNic:
    """All settings of a NIC, as another one of the same kind takes them.

    indirection: None: all queues alike. workers: of the queues in order; none: in turn. last_id: the number
    that was given to a filter or rule last.
    """

    queues: tuple[QueueSettings, ...]
    key: bytes
    indirection: tuple[int, ...] | None
    workers: tuple[int, ...]
    filters: tuple[Filter, ...]
    rules: tuple[Rule, ...]
    last_id: int


class NicPort(Protocol):
    """What a Nic needs to know of its port. kind: `wire`, `packet` or `tap`; mtu: bytes of IP packet."""

    number: int
    index: int
    name: str
    kind: str
    mtu: int


@dataclass(frozen=True)
class _State:
    """All settings. table: an indirection table that was asked for; None: all queues alike."""

    queue_count: int
    lro: tuple[str, ...]
    lro_kind: tuple[str, ...] = ("gro",) * MAX_QUEUES
    completion_size: tuple[int, ...] = (layout.MAX_IP_LEN,) * MAX_QUEUES
    worker: tuple[int, ...] = (0,) * MAX_QUEUES
    key: bytes = DEFAULT_KEY
    table: tuple[int, ...] | None = None
    filters: tuple[Filter, ...] = ()
    rules: tuple[Rule, ...] = ()
    drivers: tuple[int, ...] = (0,) * MAX_QUEUES

    @property
    def indirection(self) -> tuple[int, ...]:
        return self.table if self.table is not None else equal_table(self.queue_count, layout.RSS_ENTRIES)


class Nic:
    """One port's receive side; `Datapath.nic()` gives it.

    port_no, name: of the port. position: `nic`, or `vif` for the switch's port in front of a VM.
    """

    def __init__(
        self, port: NicPort, tables: Any, memory: Memory, commands: CommandRing, all_nics: Mapping[int, Nic]
    ) -> None:
        self.port_no, self.name = port.number, port.name
        self.position = "vif" if port.kind == "tap" else "nic"
        self._port, self._tables, self._memory, self._commands = port, tables, memory, commands
        self._all_nics = all_nics
        setting = "off" if self.position == "vif" else "on"
        self._state = _State(1, (setting,) * MAX_QUEUES, worker=tuple(map(self._turn, range(MAX_QUEUES))))
        self._first_state = self._state
        self._given = 0  # commands given, the last of which was ours
        self._row = 0  # which of the port's two rows is in force, or will be
        self._last_id = 0
        self._handles: dict[int, QueueHandle] = {}
        self._batch: _State | None = None
        self._fill_row()

    # Queues and their assignment

    @property
    def queue_count(self) -> int:
        """How many receive queues there are."""
        return self._wanted.queue_count

    def set_queue_count(self, count: int) -> None:
        """Have 1 to 8 queues; new ones have LRO on. Refused while something names one that would go."""
        self._refuse_at_vif("queues")
        check_number("queues", count, 1, MAX_QUEUES)
        state = self._wanted
        if state.table is not None and max(state.table) >= count:
            raise ConfigError("queues", f"{self.name}'s indirection table names queue {max(state.table)}")
        for what in state.filters:
            if what.queue >= count:
                raise ConfigError("queues", f"{self.name}'s filter {what.id} names queue {what.queue}")
        for rule in state.rules:
            if rule.queues is not None and max(rule.queues) >= count:
                raise ConfigError("queues", f"{self.name}'s rule {rule.id} names queue {max(rule.queues)}")
        for queue in self._handles:
            if queue >= count:
                raise ConfigError("queues", f"{self.name}'s queue {queue} is held by a driver")
        fresh = range(state.queue_count, MAX_QUEUES)
        self._change(
            queue_count=count,
            lro=_with(state.lro, fresh, "on"),
            lro_kind=_with(state.lro_kind, fresh, "gro"),
            completion_size=_with(state.completion_size, fresh, layout.MAX_IP_LEN),
            worker=tuple(
                self._turn(queue) if queue in fresh else kept for queue, kept in enumerate(state.worker)
            ),
        )

    @property
    def indirection(self) -> tuple[int, ...]:
        """The queue of each of the 128 values that a flow's hash may end with."""
        return self._wanted.indirection

    def set_equal(self, count: int | None = None) -> None:
        """Spread what no filter takes over the first `count` queues; None: over all there are."""
        self._refuse_at_vif("queues")
        if count is not None:
            check_number("equal", count, 1, self.queue_count)
        self._change(table=None if count is None else equal_table(count, layout.RSS_ENTRIES))

    def set_weights(self, weights: Sequence[int]) -> None:
        """Give each queue a share of the indirection table; queues left out get none."""
        self._refuse_at_vif("queues")
        if not 0 < len(weights) <= self.queue_count:
            allowed = f"1 to {self.queue_count} numbers"
            raise ConfigError("weight", f"{len(weights)} weights are given", allowed)
        for place, weight in enumerate(weights):
            check_number(f"weight[{place}]", weight, 0, 0xFFFF)
        if sum(weights) == 0:
            raise ConfigError("weight", "no queue would get anything", "at least one weight above 0")
        self._change(table=weighted_table(weights, layout.RSS_ENTRIES))

    def set_indirection(self, table: Sequence[int]) -> None:
        """Set all 128 entries."""
        self._refuse_at_vif("queues")
        if len(table) != layout.RSS_ENTRIES:
            raise ConfigError(
                "indirection", f"{len(table)} entries are given", f"{layout.RSS_ENTRIES} entries"
            )
        for queue in table:
            self._check_queue(queue)
        self._change(table=tuple(table))

    @property
    def key(self) -> bytes:
        """The key of the RSS hash."""
        return self._wanted.key

    def set_key(self, key: bytes | str) -> None:
        """Set the key of the RSS hash: 40 bytes, or these in hexadecimal, with colons or without."""
        self._refuse_at_vif("queues")
        try:
            value = bytes.fromhex(key.replace(":", "")) if isinstance(key, str) else bytes(key)
        except ValueError:
            value = b""
        if len(value) != layout.RSS_KEY:
            raise ConfigError("hkey", "it is no key", f"{layout.RSS_KEY} bytes in hexadecimal")
        self._change(key=value)

    def add_filter(self, match: Match, queue: int, priority: int = 0) -> Filter:
        """Send what matches to a queue.

        Filters may overlap. The one of the highest priority is asked first; among equals, by kind, five-tuple
        before IP before MAC before virtual network; then the older one. What none takes goes by RSS.
        """
        self._refuse_at_vif("filters")
        self._check_queue(queue)
        check_number("priority", priority, 0, MAX_PRIORITY)
        filters = self._wanted.filters
        if len(filters) >= layout.NIC_FILTERS:
            raise ConfigError(
                "filter", f"{self.name} has no room for another", f"{layout.NIC_FILTERS} filters"
            )
        for other in filters:
            if (other.match, other.priority) == (match, priority):
                raise ConfigError(
                    "filter", f"{self.name}'s filter {other.id} matches the same", "another priority"
                )
        added = Filter(self._new_id(), match, queue, priority)
        self._change(filters=tuple(sorted((*filters, added), key=_order)))
        return added

    def delete_filter(self, filter_id: int) -> None:
        """Remove a filter."""
        left = tuple(kept for kept in self._wanted.filters if kept.id != filter_id)
        if len(left) == len(self._wanted.filters):
            raise ConfigError("filter", f"{self.name} has no filter {filter_id}", _ids(self._wanted.filters))
        self._change(filters=left)

    def filters(self) -> tuple[Filter, ...]:
        """The filters, in the order in which they are asked."""
        return self._wanted.filters

    # LRO

    def settings(self) -> tuple[QueueSettings, ...]:
        """What each queue does."""
        state = self._wanted
        return tuple(
            QueueSettings(
                queue,
                state.lro[queue],
                state.lro_kind[queue],
                state.completion_size[queue],
                state.worker[queue],
            )
            for queue in range(state.queue_count)
        )

    def set_lro(self, queue: int | None, setting: str) -> None:
        """Coalesce in a queue (None: in each): `off`, `on`, or what the `rules` say."""
        if setting not in LRO_SETTINGS:
            raise ConfigError("lro", f"{setting!r} is not known", ", ".join(LRO_SETTINGS))
        self._change(lro=_with(self._wanted.lro, self._queues(queue), setting))

    def set_lro_kind(self, queue: int | None, kind: str) -> None:
        """`gro`: aggregates tell how long their segments were; `lro`: one large packet, and no word of them.

        The second is what a classic LRO NIC delivers, and what a VM cannot forward (S0.10).
        """
        if kind not in LRO_KINDS:
            raise ConfigError("lro_kind", f"{kind!r} is not known", ", ".join(LRO_KINDS))
        self._change(lro_kind=_with(self._wanted.lro_kind, self._queues(queue), kind))

    def set_completion_size(self, queue: int | None, size: int) -> None:
        """Complete aggregates that would exceed `size` bytes of IP packet (S0.7): more than the MTU."""
        check_number("completion_size", size, max(self._port.mtu, 0) + 1, layout.MAX_IP_LEN)
        self._change(completion_size=_with(self._wanted.completion_size, self._queues(queue), size))

    def set_worker(self, queue: int | None, worker: int) -> None:
        """Have a thread serve a queue (None: each), from the frames that come next on (S0.4).

        By default the queues go to the switch's workers in turn. Number 0 also serves the ports, and the
        queues that drivers hold.
        """
        self._refuse_at_vif("queues that a worker could serve")
        check_number("worker", worker, 0, len(self._tables) - 1)
        self._change(worker=_with(self._wanted.worker, self._queues(queue), worker))

    def set_workers(self, workers: Sequence[int] = ()) -> None:
        """As set_worker, for all queues in order; those that `workers` is too short for get the default."""
        if len(workers) > self.queue_count:
            raise ConfigError(
                "workers", f"{len(workers)} are given", f"one for each of {self.queue_count} queues"
            )
        with self.batch():
            for queue in range(self.queue_count):
                self.set_worker(queue, workers[queue] if queue < len(workers) else self._turn(queue))

    def add_rule(
        self, match: Match, queues: Sequence[int] | None = None, lro: bool = True, priority: int = 0
    ) -> Rule:
        """Coalesce flows that match, or not (`lro`), in these queues (None: all) if they are set to `rules`.

        The first rule that matches decides, in the order that filters have; without one, a flow is not
        coalesced. It is asked when a flow's first frame of a burst comes.
        """
        check_number("priority", priority, 0, MAX_PRIORITY)
        wanted = None
        if queues is not None:
            if len(queues) == 0:
                raise ConfigError("queues", "no queue is given", "queue numbers, or none for all")
            for queue in queues:
                self._check_queue(queue)
            wanted = tuple(sorted(set(queues)))
        rules = self._wanted.rules
        if len(rules) >= layout.NIC_RULES:
            raise ConfigError("rule", f"{self.name} has no room for another", f"{layout.NIC_RULES} rules")
        for other in rules:
            same = (other.match, other.priority) == (match, priority)
            if same and _bits(other.queues) & _bits(wanted):
                raise ConfigError(
                    "rule", f"{self.name}'s rule {other.id} matches the same", "another priority"
                )
        added = Rule(self._new_id(), match, wanted, bool(lro), priority)
        self._change(rules=tuple(sorted((*rules, added), key=_order)))
        return added

    def delete_rule(self, rule_id: int) -> None:
        """Remove a rule."""
        left = tuple(kept for kept in self._wanted.rules if kept.id != rule_id)
        if len(left) == len(self._wanted.rules):
            raise ConfigError("rule", f"{self.name} has no rule {rule_id}", _ids(self._wanted.rules))
        self._change(rules=left)

    def rules(self) -> tuple[Rule, ...]:
        """The rules, in the order in which they are asked."""
        return self._wanted.rules

    # Several changes at once

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Changes within the `with` block become effective together at its end; none, if it raises."""
        if self._batch is not None:
            yield
            return
        self._batch = self._state
        try:
            yield
            wanted = self._batch
        finally:
            self._batch = None
        self._put_in_force(wanted)

    # What a restart is to find again

    def saved(self) -> SavedNic | None:
        """All settings, but for queues that drivers hold; None: they are as at the start."""
        state = replace(self._state, drivers=self._first_state.drivers)
        if state == self._first_state:
            return None
        return SavedNic(
            self.settings(),
            state.key,
            state.table,
            () if state.worker == self._first_state.worker else state.worker[: state.queue_count],
            state.filters,
            state.rules,
            self._last_id,
        )

    def restore(self, saved: SavedNic) -> None:
        """Take over all settings; raises ConfigError, and then nothing has changed. Filters and rules keep
        their numbers."""
        with self.batch():
            if self.position == "nic":
                self.set_queue_count(len(saved.queues))
                self.set_key(saved.key)
                self.set_workers(saved.workers)
            if saved.indirection is not None:
                self.set_indirection(saved.indirection)
            for queue in saved.queues:
                self.set_lro(queue.queue, queue.lro)
                self.set_lro_kind(queue.queue, queue.lro_kind)
                self.set_completion_size(queue.queue, queue.completion_size)
            for what in (*saved.filters, *saved.rules):
                self._last_id = what.id - 1
                if isinstance(what, Filter):
                    self.add_filter(what.match, what.queue, what.priority)
                else:
                    self.add_rule(what.match, what.queues, what.lro, what.priority)
        self._last_id = saved.last_id

    # What it says of itself

    def stats(self) -> tuple[QueueStats, ...]:
        """What each queue has counted."""
        rows = self._tables["nic_queues"][:, self._port.index]
        counts = ("frames", "bytes", "merged", "aggregates", "dropped")
        reasons = rows["reasons"].sum(axis=0)
        return tuple(
            QueueStats(
                queue,
                *(int(rows[name][:, queue].sum()) for name in counts),
                {reason.name.lower(): int(reasons[queue, reason]) for reason in Merge if reason != Merge.YES},
            )
            for queue in range(self.queue_count)
        )

    def describe(self) -> dict[str, Any]:
        """Settings and counters, as an object for JSON."""
        return {
            "port_no": self.port_no,
            "name": self.name,
            "position": self.position,
            "queue_count": self.queue_count,
            "indirection": list(self.indirection),
            "key": self.key.hex(),
            "queues": [vars(settings) for settings in self.settings()],
            "filters": [_object(what) for what in self.filters()],
            "rules": [_object(what) for what in self.rules()],
            "stats": [vars(stats) for stats in self.stats()],
        }

    # Drivers

    def open_queue(self, queue: int) -> QueueHandle:
        """Take a queue's finished packets out of the switch's hands until the handle is closed (S0.6)."""
        self._refuse_at_vif("queues that a driver could open")
        self._check_queue(queue)
        if queue in self._handles:
            raise ConfigError(
                "queue", f"{self.name}'s queue {queue} is held by a driver already", "another queue"
            )
        handle = QueueHandle(self._memory, self._number_of, lambda: self._release(queue))
        self._handles[queue] = handle
        self._change(drivers=_with(self._wanted.drivers, [queue], handle.offset))
        return handle

    def close(self) -> None:
        """Close what is open; the worker does not run any more."""
        for handle in list(self._handles.values()):
            handle.close()

    def _release(self, queue: int) -> None:
        del self._handles[queue]
        self._change(drivers=_with(self._wanted.drivers, [queue], 0))
        self._commands.wait(self._commands.given)  # the worker does not touch the ring any more

    def _number_of(self, index: int) -> int:
        return int(self._tables["ports"][0, index]["number"])

    # How changes are made

    @property
    def _wanted(self) -> _State:
        return self._state if self._batch is None else self._batch

    def _change(self, **changes: Any) -> None:
        wanted = replace(self._wanted, **changes)
        if self._batch is not None:
            self._batch = wanted
        else:
            self._put_in_force(wanted)

    def _put_in_force(self, state: _State) -> None:
        if state == self._state:
            return
        self._commands.wait(self._given)  # until then the worker reads the row that is to be written
        self._state = state
        self._row = 1 - self._row
        self._fill_row()
        vifs = sum(nic.position == "vif" and nic._state.lro[0] != "off" for nic in self._all_nics.values())
        self._commands.give(Command.NIC, self._port.index, self._row, vifs)
        self._given = self._commands.given

    def _fill_row(self) -> None:
        row = self._tables["nics"][:, self._port.index, self._row]
        fill_row(row[0], self._state)
        row[1:] = row[0]

    def _turn(self, queue: int) -> int:
        """The worker that serves a queue by default."""
        return queue % len(self._tables)

    # Checks

    def _queues(self, queue: int | None) -> Sequence[int]:
        if queue is None:
            return range(self.queue_count)
        self._check_queue(queue)
        return [queue]

    def _check_queue(self, queue: object) -> None:
        count = self.queue_count
        if isinstance(queue, bool) or not isinstance(queue, int) or not 0 <= queue < count:
            allowed = "0" if count == 1 else f"0 to {count - 1}"
            raise ConfigError("queue", f"{self.name} has no queue {queue}", allowed)

    def _refuse_at_vif(self, what: str) -> None:
        if self.position == "vif":
            raise ConfigError(
                "port_no", f"{self.name} has no {what}: it is a VM's port", "a wire or packet port"
            )

    def _new_id(self) -> int:
        self._last_id += 1
        return self._last_id


def fill_row(row: Any, state: _State) -> None:
    """Write settings into a row of layout.nic_dtype."""
    row["queue_count"] = state.queue_count
    row["lro"] = [LRO_SETTINGS.index(setting) for setting in state.lro]
    row["plain"] = [int(kind == "lro") for kind in state.lro_kind]
    row["completion_size"] = state.completion_size
    workers = [0 if ring else worker for ring, worker in zip(state.drivers, state.worker, strict=True)]
    row["workers"] = workers
    row["spread"] = int(any(workers[: state.queue_count]))
    row["drivers"] = state.drivers
    row["driver_count"] = sum(ring != 0 for ring in state.drivers)
    row["indirection"] = state.indirection
    row["toeplitz"] = toeplitz_table(state.key)
    for place, what in enumerate(state.filters):
        what.match.fill_row(row["filters"][place])
        row["filters"][place]["queue"] = what.queue
    row["filter_count"] = len(state.filters)
    for place, rule in enumerate(state.rules):
        rule.match.fill_row(row["rules"][place])
        row["rules"][place]["queues"] = _bits(rule.queues)
        row["rules"][place]["enabled"] = int(rule.lro)
    row["rule_count"] = len(state.rules)


@lru_cache(maxsize=64)
def toeplitz_table(key: bytes) -> np.ndarray:
    """What each half byte of the input adds to the RSS hash, by its place and value."""
    bits = int.from_bytes(key, "big")
    length = 8 * len(key)
    table = np.zeros((layout.RSS_NIBBLES, 16), np.int64)
    for place in range(layout.RSS_NIBBLES):
        for bit in range(4):
            window = bits >> (length - 32 - 4 * place - bit) & 0xFFFFFFFF
            for value in range(16):
                if value & (8 >> bit):
                    table[place, value] ^= window
    return table


def _bits(queues: tuple[int, ...] | None) -> int:
    return (1 << MAX_QUEUES) - 1 if queues is None else sum(1 << queue for queue in queues)


def _order(what: Filter | Rule) -> tuple[int, int, int]:
    """Filters and rules are asked in this order."""
    return -what.priority, KINDS.index(what.match.kind), what.id


def _with(values: tuple[_T, ...], places: Sequence[int], value: _T) -> tuple[_T, ...]:
    return tuple(value if place in places else kept for place, kept in enumerate(values))


def _ids(those: Sequence[Filter] | Sequence[Rule]) -> str:
    return ", ".join(str(what.id) for what in those) or "it has none"


def _object(what: Filter | Rule) -> dict[str, Any]:
    return vars(what) | {"match": what.match.to_object()}
