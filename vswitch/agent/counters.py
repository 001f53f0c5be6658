# SPDX-License-Identifier: Apache-2.0
"""What a switch has counted since its start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from vswitch.openflow import experimenter as ex

if TYPE_CHECKING:
    from vswitch.agent.switch import OpenFlowSwitch

WITHOUT_QUEUES = ("tunnel", "local")
"""Kinds of ports that have no receive side of their own."""


def reasons(switch: OpenFlowSwitch) -> dict[str, int]:
    """The counters of the whole switch by name: the dataplane's and the agent's."""
    return {
        **switch.datapath.counters(),
        "slow_path_misses": switch.slowpath.misses,
        "slow_path_uncacheable": switch.slowpath.uncacheable,
        "packet_too_big_sent": switch.slowpath.too_big_sent,
        **switch.dropped(),
    }


def reply(switch: OpenFlowSwitch, first: int) -> ex.CountersReply:
    """What a controller is told of the ports from number `first` on: as many as one message holds."""
    ports: dict[str, dict[str, int]] = {}
    queues: dict[str, tuple[dict[str, Any], ...]] = {}
    size = 0
    next_port = None
    for info in sorted(info for info in switch.datapath.ports() if info.port_no >= first):
        counted = info.counters._asdict()
        by_queue: tuple[dict[str, Any], ...] = ()
        if info.kind not in WITHOUT_QUEUES:
            by_queue = tuple(switch.extensions.nics.statistics(info.port_no))
        size += len(msgspec.json.encode((info.name, counted, by_queue)))
        if ports and size > ex.MAX_PART_BYTES:
            next_port = info.port_no
            break
        ports[info.name] = counted
        if by_queue:
            queues[info.name] = by_queue
    return ex.CountersReply({} if first else reasons(switch), ports, queues, next_port)
