# SPDX-License-Identifier: Apache-2.0
"""Checksums, hashes, random and sequence numbers, against naive twins."""

from __future__ import annotations

import struct
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.packets import Ether, IPv6, tcp_segment
from tests.reference import internet_sum
from tests.unit.rig import INTERPRETED, examples
from vswitch.dataplane import checksum, hashing
from vswitch.dataplane.seq import seq_add

int64 = st.integers(-(2**63), 2**63 - 1)


def memory(data):
    return np.frombuffer(bytearray(data), np.uint8)


@settings(max_examples=examples(200))
@given(data=st.binary(max_size=300), skip=st.integers(0, 9))
def test_the_sum_of_bytes_is_that_of_rfc_1071(data, skip):
    """At every alignment; the bytes end the array."""
    assert checksum.sum_bytes(memory(bytes(skip) + data), skip, len(data)) == internet_sum(data)


@pytest.mark.parametrize("byte", [0, 0xFF])
@pytest.mark.parametrize("length", [0, 1, 2, 3, 7, 8, 9, 1448, 65535])
def test_the_sum_of_equal_bytes(byte, length):
    data = bytes([byte]) * length
    assert checksum.sum_bytes(memory(data), 0, length) == internet_sum(data)


@settings(max_examples=examples(50))
@given(data=st.binary(max_size=120).map(lambda data: data[: len(data) & ~1]))
def test_the_sum_of_a_header_is_the_same_before_folding(data):
    total = checksum.sum_header(memory(data), 0, len(data))
    assert total == sum(struct.unpack(f"!{len(data) // 2}H", data))


@given(total=st.integers(0, 2**56))
def test_folding_keeps_the_sum(total):
    folded = checksum.fold(total)
    assert 0 <= folded <= 0xFFFF
    assert folded % 0xFFFF == total % 0xFFFF
    assert (folded == 0) == (total == 0)
    assert checksum.finish(total) == 0xFFFF - folded


@given(total=st.integers(0, 0xFFFF))
def test_swapping_twice_changes_nothing(total):
    assert checksum.swap(checksum.swap(total)) == total


@pytest.mark.parametrize("version", [4, 6])
def test_the_pseudo_header(version):
    frame = tcp_segment(33, version=version)
    ip = Ether(frame).payload
    addresses = bytes(ip)[8:40] if isinstance(ip, IPv6) else bytes(ip)[12:20]
    expected = internet_sum(addresses + struct.pack("!II", 53, 6))
    assert checksum.fold(checksum.pseudo_header(memory(frame), 14, version, 6, 53)) == expected


def naive_mix(state, word):
    both = (state ^ word) & (2**64 - 1)
    low = (both & 0xFFFFFFFF) * 0x4F6CDD1D
    high = (both >> 32) * 0x2545F491
    return low ^ high >> 7 ^ low >> 29 ^ (high & 0xFFFF) << 40


@given(state=int64, word=int64)
def test_mixing_is_the_same_compiled_and_interpreted(state, word):
    mixed = hashing.mix(state, word)
    assert mixed == naive_mix(state, word)
    assert 0 <= mixed < 2**63


def test_every_input_bit_changes_low_hash_bits():
    """Buckets are chosen by low bits: each bit of each word must reach them."""
    base = hashing.mix(hashing.mix(0x1D8E4E27C47D124F, 12345), 678)
    for bit in range(63):
        other = hashing.mix(hashing.mix(0x1D8E4E27C47D124F, 12345 ^ 1 << bit), 678)
        assert (base ^ other) & 0xFFFF


def test_random_bits_are_uniform_and_repeatable():
    def run(state, count):
        values = []
        for _ in range(count):
            state, bits = hashing.next_random(state)
            assert 1 <= state <= 2**31 - 2
            values.append(bits)
        return values

    count = 2000 if INTERPRETED else 20_000
    values = run(42, count)
    assert values == run(42, count)
    assert values != run(43, count)
    assert all(0 <= value < 2**32 for value in values)
    buckets = Counter(value >> 28 for value in values)
    assert all(abs(buckets[bucket] - count / 16) < 0.2 * count / 16 for bucket in range(16))
    assert len(set(values)) > 0.999 * count


@pytest.mark.parametrize("state", [1, 2**31 - 2])
def test_the_extreme_seeds_go_on(state):
    seen = set()
    for _ in range(100):
        state, _ = hashing.next_random(state)
        seen.add(state)
    assert len(seen) == 100


@given(seq=st.integers(0, 2**32 - 1), count=st.integers(0, 2**31))
def test_sequence_numbers_wrap(seq, count):
    assert seq_add(seq, count) == (seq + count) % 2**32
