# SPDX-License-Identifier: Apache-2.0
"""A fast hash of 64-bit words. Results are non-negative int64, the same compiled and interpreted."""

from vswitch.dataplane.compiled import compiled


@compiled
def mix(state, word):
    """The state after taking in one word."""
    both = state ^ word
    low = (both & 0xFFFFFFFF) * 0x4F6CDD1D
    high = ((both >> 32) & 0xFFFFFFFF) * 0x2545F491
    return low ^ (high >> 7) ^ (low >> 29) ^ ((high & 0xFFFF) << 40)


@compiled
def next_random(state):
    """The state after `state` of a 31-bit multiplicative generator's two steps, and 32 random bits of it.

    Lehmer's generator with the modulus 2^31 - 1; `state` is in 1 … 2^31 - 2.
    """
    first = state * 48271 % 2147483647
    second = first * 48271 % 2147483647
    return second, ((first & 0xFFFF) << 16) | (second >> 7 & 0xFFFF)
