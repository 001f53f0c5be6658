# SPDX-License-Identifier: Apache-2.0
"""32-bit sequence-number arithmetic (RFC 9293 section 3.4). Values are int64 in 0 … 2^32-1."""

from vswitch.dataplane.compiled import compiled

MASK = 0xFFFFFFFF


@compiled
def seq_add(seq, count):
    """The sequence number `count` bytes after `seq`."""
    return (seq + count) & MASK
