# SPDX-License-Identifier: Apache-2.0
"""The way of a parsed burst through its port's receive queues: assigned, coalesced, finished (S0.7)."""

from vswitch.dataplane.compiled import compiled
from vswitch.dataplane.gro import coalesce
from vswitch.dataplane.nic.driver import hand_over
from vswitch.dataplane.nic.steer import steer
from vswitch.dataplane.workers import distribute


@compiled
def receive(mem, tables, t):
    """Sort the burst `t['packets'][:packet_count]`, all of one port, into the groups to be forwarded here.

    tables: of all workers; `t`, those of worker 0, are among them.
    """
    port = t["packets"][0]["port"]
    nic = t["nics"][port, t["nic_rows"][port]]
    if nic["queue_count"] > 1:
        steer(mem, t, nic)
    if nic["spread"]:
        distribute(mem, tables, t, nic)
    coalesce(mem, t)
    if nic["driver_count"] > 0:
        hand_over(mem, t, nic)
