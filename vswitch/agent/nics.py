# SPDX-License-Identifier: Apache-2.0
"""NICs by message: what controllers (Experimenter) and `vswitchctl nic` ask for, done by `vswitch.nic`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import msgspec

from vswitch.agent.datapath import Datapath
from vswitch.nic import DEFAULT_KEY, Filter, Match, Nic, Rule
from vswitch.openflow import experimenter as ex

DEFAULT_LRO = {"nic": "on", "vif": "off"}
"""By the NIC's position: on the wire's side, or in front of a VM (S0.5)."""


class Nics:
    """The receive side of a switch's ports. Every method raises ConfigError for what cannot be."""

    def __init__(self, datapath: Datapath) -> None:
        self.datapath = datapath
        self._handlers: dict[type, Callable[[Nic, Any], None]] = {
            ex.LroSet: _set_lro,
            ex.NicQueuesSet: _set_queues,
            ex.NicRssSet: _set_rss,
            ex.NicWorkersSet: _set_workers,
            ex.NicFilterAdd: _add_filter,
            ex.NicFilterDelete: _delete_filter,
            ex.LroRuleAdd: _add_rule,
            ex.LroRuleDelete: _delete_rule,
        }

    def carry_out(self, message: Any) -> bool:
        """Whether `message` is one of a NIC; it has been carried out then."""
        handler = self._handlers.get(type(message))
        if handler is None:
            return False
        handler(self.datapath.nic(message.port_no), message)
        return True

    def number_of(self, message: Any) -> int | None:
        """The number of the filter or rule that a message adds; None while there is none, or it adds none."""
        there: Sequence[Filter | Rule] = ()
        if isinstance(message, ex.NicFilterAdd):
            nic = self.datapath.nic(message.port_no)
            there = _filters(nic, _match(message.match), message.priority)
        elif isinstance(message, ex.LroRuleAdd):
            nic = self.datapath.nic(message.port_no)
            there = _rules(nic, _match(message.match), message.queues, message.priority)
        return there[0].id if there else None

    def show(self, port_no: int) -> dict[str, Any]:
        """The settings of a NIC as a JSON object."""
        return self.datapath.nic(port_no).describe()

    def statistics(self, port_no: int) -> list[dict[str, Any]]:
        """The counters of each queue."""
        return [asdict(counters) for counters in self.datapath.nic(port_no).stats()]

    def spread(
        self,
        port_no: int,
        equal: int | None,
        weights: list[int] | None,
        hash_key: str | None,
        default: bool,
    ) -> None:
        """Fill the indirection table in turn over `equal` queues, by weight, or as by default; or set the
        hash key. Each leaves the other as it is."""
        nic = self.datapath.nic(port_no)
        if equal is not None or default:
            nic.set_equal(equal)
        if weights is not None:
            nic.set_weights(weights)
        if hash_key is not None:
            nic.set_key(hash_key)

    def delete(self, port_no: int, filter: int | None, rule: int | None) -> None:
        """Delete a filter or a rule by the number that show() gives it."""
        nic = self.datapath.nic(port_no)
        if filter is not None:
            nic.delete_filter(filter)
        if rule is not None:
            nic.delete_rule(rule)


def _set_lro(nic: Nic, message: ex.LroSet) -> None:
    lro = DEFAULT_LRO[nic.position] if message.lro == "default" else message.lro
    with nic.batch():
        nic.set_lro(message.queue, lro)
        nic.set_lro_kind(message.queue, message.kind)
        nic.set_completion_size(message.queue, message.completion_size)


def _set_queues(nic: Nic, message: ex.NicQueuesSet) -> None:
    nic.set_queue_count(message.count)


def _set_rss(nic: Nic, message: ex.NicRssSet) -> None:
    with nic.batch():
        nic.set_key(message.hash_key or DEFAULT_KEY)
        if message.indirection:
            nic.set_indirection(message.indirection)
        else:
            nic.set_equal()


def _set_workers(nic: Nic, message: ex.NicWorkersSet) -> None:
    nic.set_workers(message.workers)


def _add_filter(nic: Nic, message: ex.NicFilterAdd) -> None:
    """In the place of one of the same match and priority, if there is one."""
    match = _match(message.match)
    with nic.batch():
        for kept in _filters(nic, match, message.priority):
            if kept.queue == message.queue:
                return
            nic.delete_filter(kept.id)
        nic.add_filter(match, message.queue, message.priority)


def _delete_filter(nic: Nic, message: ex.NicFilterDelete) -> None:
    for kept in _filters(nic, _match(message.match), message.priority):
        nic.delete_filter(kept.id)


def _filters(nic: Nic, match: Match, priority: int) -> list[Filter]:
    return [kept for kept in nic.filters() if (kept.match, kept.priority) == (match, priority)]


def _add_rule(nic: Nic, message: ex.LroRuleAdd) -> None:
    """In the place of one of the same match, queues and priority, if there is one."""
    match = _match(message.match)
    with nic.batch():
        for kept in _rules(nic, match, message.queues, message.priority):
            if kept.lro == message.lro:
                return
            nic.delete_rule(kept.id)
        nic.add_rule(match, message.queues or None, message.lro, message.priority)


def _delete_rule(nic: Nic, message: ex.LroRuleDelete) -> None:
    for kept in _rules(nic, _match(message.match), message.queues, message.priority):
        nic.delete_rule(kept.id)


def _rules(nic: Nic, match: Match, queues: tuple[int, ...], priority: int) -> list[Rule]:
    wanted = match, tuple(sorted(set(queues))) or None, priority
    return [kept for kept in nic.rules() if (kept.match, kept.queues, kept.priority) == wanted]


def _match(match: ex.PacketMatch) -> Match:
    return Match.from_object(msgspec.to_builtins(match))
