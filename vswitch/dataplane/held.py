# SPDX-License-Identifier: Apache-2.0
"""Misses that wait in punt slots: by key, in the order in which they came.

When a flow gets its entry, what waits of it goes first (`commands.py`): else the packets that find the entry
would overtake those for which the agent was asked.
"""

from vswitch.dataplane.compiled import compiled
from vswitch.dataplane.hashing import mix
from vswitch.layout import HELD_BUCKETS, KEY_TOS, KEY_WORDS, NO_SLOT, Held

ALL_TOS = 0xFF


@compiled
def bucket_of(key):
    """Where the misses of a key wait. The TOS is no part of it: which of its bits keys have may change."""
    return mix(mix(key[0], key[6]), key[8]) & (HELD_BUCKETS - 1)


@compiled
def wait(t, slot):
    """The miss in this slot is the last of its bucket that came."""
    info = t["held"][slot]
    info["state"] = Held.WAITING.value
    info["next"] = NO_SLOT
    bucket = bucket_of(info["key"])
    if t["held_first"][bucket] == NO_SLOT:
        t["held_first"][bucket] = slot
    else:
        t["held"][t["held_last"][bucket]]["next"] = slot
    t["held_last"][bucket] = slot


@compiled
def leave(t, slot):
    """The miss in this slot waits no more."""
    bucket = bucket_of(t["held"][slot]["key"])
    following = t["held"][slot]["next"]
    before = NO_SLOT
    other = t["held_first"][bucket]
    while other != slot:
        before = other
        other = t["held"][other]["next"]
    if before == NO_SLOT:
        t["held_first"][bucket] = following
    else:
        t["held"][before]["next"] = following
    if following == NO_SLOT:
        t["held_last"][bucket] = before


@compiled
def take_key(t, slot):
    """Make `t['key']` the key by which the packet in this slot is looked up now."""
    for word in range(KEY_WORDS):
        t["key"][word] = t["held"][slot]["key"][word]
    t["key"][KEY_TOS] &= ~ALL_TOS | t["tos_mask"]
