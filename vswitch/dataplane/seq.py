# SPDX-License-Identifier: Apache-2.0
"""32-bit sequence-number arithmetic (RFC 9293 section 3.4). Values are int64 in 0 … 2^32-1."""

from numba import njit

MASK = 0xFFFFFFFF


@njit(cache=True)
def seq_add(seq, count):
    """The sequence number `count` bytes after `seq`."""
    return (seq + count) & MASK
