# SPDX-License-Identifier: Apache-2.0
"""What became of each frame, by port and direction (docs/reference/counters.md).

A frame that a port received is forwarded, left to a tunnel, held for the agent, or dropped for one reason. A
frame that a port was to send is sent, or dropped for one reason. `t['counters']` counts by reason alone:
frames, but also copies and segments of frames of which other parts were forwarded.

While an action program runs, `t['open_frames']` tells how many frames of the packet in hand have met with no
fate yet. The first copy that is handed on settles it for all of them; what is open at the end was dropped.
"""

from vswitch.dataplane.compiled import compiled
from vswitch.layout import PUNTS, Counter

NOBODY = 0
"""The account of frames that no port received, and of those that were for no port."""
NO_REASON = -1


@compiled
def drop_received(t, port, reason, frames):
    """Frames that this port received are dropped."""
    t["counters"][reason] += frames
    t["rx_drops"][port, reason] += frames


@compiled
def drop_sent(t, port, reason, frames):
    """Frames that this port was to send are dropped."""
    t["counters"][reason] += frames
    t["tx_drops"][port, reason] += frames


@compiled
def open_frames(t, port, frames):
    """The packet in hand came of so many frames of this port whose fate is not known yet."""
    t["account"] = port
    t["open_frames"] = frames
    t["drop_reason"] = NO_REASON


@compiled
def drop_copy(t, reason, count):
    """The packet in hand, or so many segments of it, go no further; other copies may have, or still will."""
    t["counters"][reason] += count
    t["drop_reason"] = reason


@compiled
def drop_segments(t, reason, count, are_frames):
    """As drop_copy, of the last segments of a super-frame. are_frames: each is a frame that was received."""
    drop_copy(t, reason, count)
    if are_frames:
        dropped = min(count, t["open_frames"])
        t["rx_drops"][t["account"], reason] += dropped
        t["open_frames"] -= dropped


@compiled
def hand_on(t):
    """The packet in hand, or a copy, is given to a port or to the agent."""
    if t["open_frames"]:
        t["ports"][t["account"]]["rx_forwarded"] += t["open_frames"]
        t["open_frames"] = 0


@compiled
def close_frames(t):
    """Nothing more comes of the packet in hand: the frames that are open were dropped."""
    frames = t["open_frames"]
    if frames == 0:
        return
    if t["drop_reason"] == NO_REASON:
        drop_received(t, t["account"], Counter.NO_RULE.value, frames)
    else:
        t["rx_drops"][t["account"], t["drop_reason"]] += frames
    t["open_frames"] = 0


@compiled
def hold(t, info):
    """The frames that are open wait with the miss `info`, a row of `t['held']`."""
    info["account"] = t["account"]
    info["frames"] = t["open_frames"]
    t["ports"][t["account"]]["rx_held"] += t["open_frames"]
    t["open_frames"] = 0


@compiled
def stop_holding(t, info):
    """The frames of the miss `info` wait no longer: they are open again."""
    t["ports"][info["account"]]["rx_held"] -= info["frames"]
    open_frames(t, info["account"], info["frames"])
    info["frames"] = 0


@compiled
def leave_to_nobody(t, port):
    """A port is about to go: what is held of its frames is nobody's from now on."""
    nobody, leaving = t["ports"][NOBODY], t["ports"][port]
    for slot in range(PUNTS):
        info = t["held"][slot]
        if info["frames"] and info["account"] == port:
            info["account"] = NOBODY
            leaving["rx_packets"] -= info["frames"]
            leaving["rx_held"] -= info["frames"]
            nobody["rx_packets"] += info["frames"]
            nobody["rx_held"] += info["frames"]
