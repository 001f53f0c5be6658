# SPDX-License-Identifier: Apache-2.0
"""CRC32c, the checksum of SCTP (RFC 9260, appendix A), of a packet and of what changes in one."""

import numpy as np

from vswitch.dataplane.compiled import compiled
from vswitch.dataplane.intrinsics import load8

POLYNOMIAL = 0x82F63B78
"""Castagnoli's, bits reversed."""


def _table() -> np.ndarray:
    values = np.arange(256, dtype=np.int64)
    for _ in range(8):
        values = np.where(values & 1, (values >> 1) ^ POLYNOMIAL, values >> 1)
    return values


TABLE = _table()


@compiled
def of_bytes(mem, offset, length):
    """CRC32c of mem[offset:offset+length]."""
    state = 0xFFFFFFFF
    for index in range(offset, offset + length):
        state = TABLE[(state ^ load8(mem, index)) & 0xFF] ^ (state >> 8)
    return state ^ 0xFFFFFFFF


@compiled
def of_difference(difference, behind):
    """What CRC32c changes by when a 16-bit word with `behind` bytes behind it changes in these bits.

    A CRC is linear: this is the remainder of the difference followed by zeros.
    """
    state = TABLE[difference >> 8]
    state = TABLE[(state ^ difference) & 0xFF] ^ (state >> 8)
    for _ in range(behind):
        state = TABLE[state & 0xFF] ^ (state >> 8)
    return state
