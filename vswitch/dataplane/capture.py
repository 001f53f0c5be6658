# SPDX-License-Identifier: Apache-2.0
"""Copies of a wire's frames for the agent to write to a file; what it cannot take in time is counted."""

from vswitch.dataplane.compiled import compiled
from vswitch.dataplane.intrinsics import acquire64, copy, release64
from vswitch.layout import (
    CAPTURE_HEAD_OFFSET,
    CAPTURE_SLOT_SIZE,
    CAPTURE_TAIL_OFFSET,
    CAPTURES,
    Counter,
)


@compiled
def capture(mem, t, port_index, outbound, offset, head_len, ext, length):
    """Copy a frame: its first `head_len` bytes stand at `offset`, the rest at `ext`."""
    head = acquire64(mem, CAPTURE_HEAD_OFFSET)
    if head - acquire64(mem, CAPTURE_TAIL_OFFSET) >= CAPTURES:
        t["counters"][Counter.CAPTURE_MISSED.value] += 1
        return
    place = head & (CAPTURES - 1)
    row = t["captures"][place]
    row["time_ns"] = t["now_ns"]
    row["port"] = port_index
    row["outbound"] = outbound
    row["length"] = length
    row["captured"] = min(length, CAPTURE_SLOT_SIZE)
    target = t["capture_memory"] + place * CAPTURE_SLOT_SIZE
    head_len = min(head_len, CAPTURE_SLOT_SIZE)
    copy(mem, target, offset, head_len)
    copy(mem, target + head_len, ext, row["captured"] - head_len)
    release64(mem, CAPTURE_HEAD_OFFSET, head + 1)
