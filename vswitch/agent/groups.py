# SPDX-License-Identifier: Apache-2.0
"""The group table: group-mod semantics, chains and liveness (1.3.5, sections 5.6, 6.5 and 7.3.4.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vswitch.agent.admission import check_bucket_actions
from vswitch.flow import MAX_SAVED
from vswitch.openflow import groups as wire
from vswitch.openflow.actions import Action
from vswitch.openflow.actions import Group as GroupAction
from vswitch.openflow.constants import (
    GROUP_ALL,
    GROUP_ANY,
    GROUP_MAX,
    BadAction,
    GroupModCommand,
    GroupModFailed,
    GroupType,
    Port,
)
from vswitch.openflow.errors import OpenFlowError
from vswitch.openflow.multipart import MAX_BUCKETS_LENGTH

if TYPE_CHECKING:
    from vswitch.agent.pipeline import Translation
    from vswitch.agent.ports import PortTable

MAX_GROUPS = 65_536
MAX_BUCKETS = 1_024
"""Of one group; more are refused with OFPGMFC_OUT_OF_BUCKETS."""

MAX_CHAIN = MAX_SAVED - 1
"""Groups that follow each other: each needs to remember the packet, and before the first of them a packet-out
that outputs to the tables does. More: OFPGMFC_CHAINING_UNSUPPORTED."""


@dataclass(eq=False)
class Bucket:
    """One bucket, with what went through it."""

    weight: int
    watch_port: int
    watch_group: int
    actions: Sequence[Action]
    packets: int = 0
    bytes: int = 0

    def count(self, packets: int, octets: int) -> None:
        self.packets += packets
        self.bytes += octets

    @property
    def watches(self) -> bool:
        return self.watch_port != Port.ANY or self.watch_group != GROUP_ANY

    @property
    def successors(self) -> set[int]:
        """The groups that it sends packets to or watches."""
        named = {action.group_id for action in self.actions if isinstance(action, GroupAction)}
        return named if self.watch_group == GROUP_ANY else named | {self.watch_group}


@dataclass(eq=False)
class Group:
    """One group entry, with what went through it. `flows` are the translations of cached flows that do."""

    group_id: int
    type: int  # GroupType
    buckets: tuple[Bucket, ...]
    created_ns: int
    packets: int = 0
    bytes: int = 0
    flows: set[Translation] = field(default_factory=set, repr=False)

    def count(self, packets: int, octets: int) -> None:
        self.packets += packets
        self.bytes += octets

    @property
    def successors(self) -> set[int]:
        return set().union(*(bucket.successors for bucket in self.buckets))

    def wire_buckets(self) -> tuple[wire.Bucket, ...]:
        """The buckets as they were given."""
        return tuple(
            wire.Bucket(tuple(b.actions), b.weight, b.watch_port, b.watch_group) for b in self.buckets
        )


class GroupTable:
    """The groups of one switch."""

    def __init__(self) -> None:
        self._groups: dict[int, Group] = {}
        self._predecessors: dict[int, set[int]] = {}  # by group: the groups that name it

    def get(self, group_id: int) -> Group | None:
        return self._groups.get(group_id)

    def __contains__(self, group_id: object) -> bool:
        return group_id in self._groups

    def __iter__(self) -> Iterator[Group]:
        """All groups, by number."""
        return iter([self._groups[group_id] for group_id in sorted(self._groups)])

    def predecessors(self, group_id: int) -> set[int]:
        """The groups that send packets to it or watch it."""
        return self._predecessors.get(group_id, set())

    def live_buckets(self, group: Group, ports: PortTable) -> list[int]:
        """The buckets, by number, that watch something live, or nothing (section 6.5)."""
        known: dict[int, bool] = {}  # of the groups that are watched; one may be by many buckets
        return [n for n, bucket in enumerate(group.buckets) if self._is_live(bucket, ports, known)]

    def _is_live(self, bucket: Bucket, ports: PortTable, known: dict[int, bool]) -> bool:
        if not bucket.watches:
            return True
        if bucket.watch_port != Port.ANY and ports.is_live(bucket.watch_port):
            return True
        watched = self._groups.get(bucket.watch_group)
        if watched is None:
            return False
        if watched.group_id not in known:
            known[watched.group_id] = any(self._is_live(other, ports, known) for other in watched.buckets)
        return known[watched.group_id]

    def apply(self, mod: wire.GroupMod, now_ns: int) -> list[Group]:
        """Carry out a group-mod, or raise OpenFlowError; returns the groups that changed or went.

        The rules that name a deleted group are the caller's to delete.
        """
        if mod.command == GroupModCommand.DELETE:
            return self._delete(mod.group_id)
        if mod.group_id > GROUP_MAX:
            raise OpenFlowError(GroupModFailed.INVALID_GROUP, f"group {mod.group_id:#x}")
        group = self._groups.get(mod.group_id)
        if mod.command == GroupModCommand.MODIFY:
            if group is None:
                raise OpenFlowError(GroupModFailed.UNKNOWN_GROUP, f"there is no group {mod.group_id}")
            self._check(mod)
            return self._modify(group, mod)
        if group is not None:
            raise OpenFlowError(GroupModFailed.GROUP_EXISTS, f"group {mod.group_id}")
        if len(self._groups) >= MAX_GROUPS:
            raise OpenFlowError(GroupModFailed.OUT_OF_GROUPS, f"{MAX_GROUPS} groups")
        self._check(mod)
        group = Group(mod.group_id, GroupType(mod.type), _buckets(mod), now_ns)
        self._groups[group.group_id] = group
        self._name_successors(group)
        return []

    # --- changes -----------------------------------------------------------------------------------------

    def _modify(self, group: Group, mod: wire.GroupMod) -> list[Group]:
        self._forget_successors(group)
        group.type, group.buckets = GroupType(mod.type), _buckets(mod)
        self._name_successors(group)
        return [group, *self._upstream(group)]

    def _delete(self, group_id: int) -> list[Group]:
        if group_id == GROUP_ALL:
            deleted = list(self._groups.values())
            self._groups.clear()
            self._predecessors.clear()
            return deleted
        if group_id > GROUP_MAX:
            raise OpenFlowError(GroupModFailed.INVALID_GROUP, f"group {group_id:#x}")
        group = self._groups.get(group_id)
        if group is None:
            return []
        if self.predecessors(group_id):
            raise OpenFlowError(GroupModFailed.CHAINED_GROUP, f"groups name group {group_id}")
        self._forget_successors(group)
        del self._groups[group_id]
        return [group]

    def _name_successors(self, group: Group) -> None:
        for successor in group.successors:
            self._predecessors.setdefault(successor, set()).add(group.group_id)

    def _forget_successors(self, group: Group) -> None:
        for successor in group.successors:
            named_by = self._predecessors[successor]
            named_by.discard(group.group_id)
            if not named_by:
                del self._predecessors[successor]

    def _upstream(self, group: Group) -> list[Group]:
        """The groups from which packets or liveness come to `group`."""
        found: dict[int, Group] = {}
        waiting = list(self.predecessors(group.group_id))
        while waiting:
            group_id = waiting.pop()
            if group_id not in found:
                found[group_id] = self._groups[group_id]
                waiting += self.predecessors(group_id)
        return list(found.values())

    # --- checks ------------------------------------------------------------------------------------------

    def _check(self, mod: wire.GroupMod) -> None:
        """May the group be as `mod` says?"""
        if mod.type not in GroupType._value2member_map_:
            raise OpenFlowError(GroupModFailed.BAD_TYPE, f"type {mod.type}")
        if len(mod.buckets) > MAX_BUCKETS:
            raise OpenFlowError(GroupModFailed.OUT_OF_BUCKETS, f"{len(mod.buckets)} buckets")
        length = len(wire.encode_buckets(mod.buckets))
        if length > MAX_BUCKETS_LENGTH:
            raise OpenFlowError(BadAction.TOO_MANY, f"{length} bytes of buckets")
        if mod.type == GroupType.INDIRECT and len(mod.buckets) != 1:
            raise OpenFlowError(
                GroupModFailed.INVALID_GROUP, f"an indirect group with {len(mod.buckets)} buckets"
            )
        buckets = _buckets(mod)
        for bucket in buckets:
            self._check_bucket(bucket, mod)
        successors = set().union(*(bucket.successors for bucket in buckets))
        if mod.group_id in successors:
            raise OpenFlowError(GroupModFailed.LOOP, f"group {mod.group_id} leads to itself")
        for bucket in buckets:
            check_bucket_actions(bucket.actions, self)
        self._check_chain(mod.group_id, successors)

    def _check_bucket(self, bucket: Bucket, mod: wire.GroupMod) -> None:
        if bucket.weight and mod.type != GroupType.SELECT:
            raise OpenFlowError(GroupModFailed.INVALID_GROUP, f"weight {bucket.weight}")
        if mod.type == GroupType.FF and not bucket.watches:
            raise OpenFlowError(GroupModFailed.INVALID_GROUP, "a fast failover bucket watches nothing")
        if mod.type in (GroupType.ALL, GroupType.INDIRECT) and bucket.watches:
            raise OpenFlowError(GroupModFailed.WATCH_UNSUPPORTED, "only select and failover groups watch")
        if bucket.watch_port not in (Port.ANY, Port.LOCAL) and not 0 < bucket.watch_port <= Port.MAX:
            raise OpenFlowError(GroupModFailed.BAD_WATCH, f"port {bucket.watch_port:#x}")
        if bucket.watch_group not in (GROUP_ANY, mod.group_id) and bucket.watch_group not in self:
            raise OpenFlowError(GroupModFailed.BAD_WATCH, f"there is no group {bucket.watch_group}")

    def _check_chain(self, group_id: int, successors: set[int]) -> None:
        """Would the group lead back to itself, or be part of too long a chain?"""
        below = self._depth(successors, lambda group: self._groups[group].successors, group_id)
        above = self._depth(self.predecessors(group_id), self.predecessors, group_id)
        if above + 1 + below > MAX_CHAIN:
            raise OpenFlowError(GroupModFailed.CHAINING_UNSUPPORTED, f"more than {MAX_CHAIN} groups in a row")

    @staticmethod
    def _depth(start: Iterable[int], step: Callable[[int], set[int]], forbidden: int) -> int:
        """How many groups in a row follow; raises OpenFlowError(LOOP) when `forbidden` is among them."""
        depth = 0
        level = set(start)
        while level:
            if forbidden in level:
                raise OpenFlowError(GroupModFailed.LOOP, f"group {forbidden} leads to itself")
            depth += 1
            if depth > MAX_CHAIN:
                raise OpenFlowError(
                    GroupModFailed.CHAINING_UNSUPPORTED, f"more than {MAX_CHAIN} groups in a row"
                )
            level = set().union(*(step(group_id) for group_id in level))
        return depth


def _buckets(mod: wire.GroupMod) -> tuple[Bucket, ...]:
    return tuple(Bucket(b.weight, b.watch_port, b.watch_group, b.actions) for b in mod.buckets)
