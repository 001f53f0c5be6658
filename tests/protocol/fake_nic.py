# SPDX-License-Identifier: Apache-2.0
"""A NIC's settings in plain Python: what `vswitch.nic.Nic` must keep, without a dataplane."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import replace

from vswitch.errors import ConfigError
from vswitch.nic import Filter, QueueSettings, QueueStats, Rule

MAX_QUEUES = 8


class FakeNic:
    def __init__(self, port_no, position="nic"):
        self.port_no, self.name, self.position = port_no, f"port{port_no}", position
        self.queue_count = 1
        self.indirection = (0,) * 128
        self.key = b""
        self._filters, self._rules = {}, {}
        self._next_id = 1
        self._settings = [
            QueueSettings(queue, "on" if position == "nic" else "off", "gro", 65535, 0)
            for queue in range(MAX_QUEUES)
        ]

    def set_queue_count(self, count):
        used = [kept for kept in self._filters.values() if kept.queue >= count]
        if used:
            raise ConfigError("queues", f"filter {used[0].id} names queue {used[0].queue}")
        self.queue_count = count
        self.indirection = tuple(n % count for n in range(128))

    def set_equal(self, count=None):
        count = count or self.queue_count
        self.set_indirection([n % count for n in range(128)])

    def set_weights(self, weights):
        shares = [queue for queue, weight in enumerate(weights) for _ in range(weight)]
        self.set_indirection([shares[n % len(shares)] for n in range(128)])

    def set_indirection(self, table):
        for queue in table:
            self._known(queue)
        self.indirection = tuple(table)

    def set_key(self, key):
        self.key = bytes.fromhex(key.replace(":", "")) if isinstance(key, str) else key

    def add_filter(self, match, queue, priority=0):
        self._known(queue)
        added = Filter(self._number(), match, queue, priority)
        self._filters[added.id] = added
        return added

    def delete_filter(self, filter_id):
        if filter_id not in self._filters:
            raise ConfigError("filter", f"there is no filter {filter_id}")
        del self._filters[filter_id]

    def filters(self):
        return tuple(self._filters.values())

    def settings(self):
        return tuple(self._settings[: self.queue_count])

    def set_lro(self, queue, setting):
        self._set(queue, lro=setting)

    def set_lro_kind(self, queue, kind):
        self._set(queue, lro_kind=kind)

    def set_completion_size(self, queue, size):
        self._set(queue, completion_size=size)

    def set_workers(self, workers=()):
        if len(workers) > self.queue_count:
            raise ConfigError("workers", f"{len(workers)} are given", f"{self.queue_count} queues")
        for queue in range(self.queue_count):
            self._set(queue, worker=workers[queue] if queue < len(workers) else 0)

    def _set(self, queue, **changed):
        for number in range(self.queue_count) if queue is None else [queue]:
            self._known(number)
            self._settings[number] = replace(self._settings[number], **changed)

    def add_rule(self, match, queues=None, lro=True, priority=0):
        for queue in queues or ():
            self._known(queue)
        wanted = tuple(sorted(set(queues))) if queues else None
        added = Rule(self._number(), match, wanted, lro, priority)
        self._rules[added.id] = added
        return added

    def delete_rule(self, rule_id):
        if rule_id not in self._rules:
            raise ConfigError("rule", f"there is no rule {rule_id}")
        del self._rules[rule_id]

    def rules(self):
        return tuple(self._rules.values())

    @contextlib.contextmanager
    def batch(self):
        before = {name: copy.copy(value) for name, value in vars(self).items()}
        try:
            yield
        except BaseException:
            vars(self).update(before)
            raise

    def stats(self):
        return tuple(
            QueueStats(queue, 100 + queue, 1000, 90, 10, 0, {"flags": queue})
            for queue in range(self.queue_count)
        )

    def describe(self):
        return {
            "port_no": self.port_no,
            "name": self.name,
            "position": self.position,
            "queue_count": self.queue_count,
            "queues": [vars(settings) for settings in self.settings()],
            "key": self.key.hex(),
            "indirection": list(self.indirection),
            "filters": [{**vars(kept), "match": kept.match.to_object()} for kept in self.filters()],
            "rules": [{**vars(kept), "match": kept.match.to_object()} for kept in self.rules()],
        }

    def _known(self, queue):
        if not 0 <= queue < self.queue_count:
            raise ConfigError("queue", f"{self.name} has no queue {queue}", f"0 to {self.queue_count - 1}")

    def _number(self):
        self._next_id += 1
        return self._next_id - 1
