# SPDX-License-Identifier: Apache-2.0
"""The flow table against a dictionary, in clusters that wrap around its end, full, and after long churn."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from tests.unit.rig import INTERPRETED, examples
from vswitch import layout
from vswitch.dataplane import flow_table
from vswitch.dataplane.flow_table import NOT_FOUND, find, hash_key, install, remove
from vswitch.layout import FLOWS, FLOWS_LIMIT, KEY_WORDS


def key(number):
    words = np.zeros(KEY_WORDS, np.int64)
    words[:] = number, number >> 3, -number, 5, 0, 0, number * 7, 0, 1
    return words


@pytest.fixture
def t():
    return layout.make_tables()[0]


@settings(max_examples=examples(30))
@given(seed=st.integers(0, 2**32), spread=st.sampled_from([4, 40, 400]))
def test_it_behaves_like_a_dictionary(seed, spread):
    rng = random.Random(seed)
    t = layout.make_tables()[0]
    twin = {}
    for step in range(60 if INTERPRETED else 300):
        number = rng.randrange(spread)
        place = find(t, key(number))
        assert (place != NOT_FOUND) == (number in twin)
        if number in twin and rng.random() < 0.6:
            assert t["flows"][place]["program"] == twin[number]
            remove(t, place)
            del twin[number]
        else:
            assert install(t, key(number), step, 1, 0)
            twin[number] = step
        assert t["flow_count"] == len(twin)
    assert all(t["flows"][find(t, key(number))]["program"] == twin[number] for number in twin)


def test_a_cluster_may_wrap_around_the_end(t):
    words = next(k for k in (key(n) for n in range(10**6)) if hash_key(k) & (FLOWS - 1) >= FLOWS - 64)
    home = int(hash_key(words)) & (FLOWS - 1)
    for place in range(home, FLOWS + 5):
        row = t["flows"][place % FLOWS]
        row["state"], row["hash"] = layout.FLOW_USED, place % FLOWS
        t["flow_count"] += 1
    assert install(t, words, 9, 1, 0)
    assert find(t, words) == 5
    remove(t, 3)
    assert t["flows"][find(t, words)]["program"] == 9
    remove(t, FLOWS - 1)
    assert t["flows"][find(t, words)]["program"] == 9
    remove(t, find(t, words))
    assert find(t, words) == NOT_FOUND
    assert install(t, words, 8, 1, 0)
    assert t["flows"][find(t, words)]["program"] == 8


def test_replacing_a_program_keeps_the_counters(t):
    install(t, key(1), 10, 2, 0)
    row = t["flows"][find(t, key(1))]
    row["packets"] = 7
    install(t, key(1), 20, 3, 50)
    row = t["flows"][find(t, key(1))]
    assert (row["packets"], row["program"], row["program_len"], row["idle_timeout_ns"]) == (7, 20, 3, 50)
    assert t["flow_count"] == 1


def test_a_new_entry_in_a_removed_ones_place_begins_at_zero(t):
    t["now_ns"] = 77
    install(t, key(1), 10, 2, 0)
    place = find(t, key(1))
    t["flows"][place]["packets"] = 7
    remove(t, place)
    install(t, key(1), 10, 2, 0)
    row = t["flows"][find(t, key(1))]
    assert (row["packets"], row["bytes"], row["last_used_ns"], row["installed_ns"]) == (0, 0, 0, 77)


def test_a_full_table_takes_no_more(t):
    install(t, key(1), 1, 1, 0)
    t["flow_count"] = FLOWS_LIMIT
    assert not install(t, key(2), 1, 1, 0)
    assert install(t, key(1), 2, 1, 0)  # replacing needs no room
    assert find(t, key(2)) == NOT_FOUND


@pytest.mark.parametrize(
    ("used_ns", "timeout_ns", "idle"), [(0, 0, False), (0, 100, True), (950, 100, False), (900, 100, True)]
)
def test_an_entry_is_idle_after_its_time_out(t, used_ns, timeout_ns, idle):
    install(t, key(1), 1, 1, timeout_ns)
    row = t["flows"][find(t, key(1))]
    row["last_used_ns"] = used_ns
    t["now_ns"] = 1000
    assert flow_table.is_idle(t, row) == idle


@njit
def _churn(t, words, live, steps, seed):
    """Keep `live` random entries, replace them `steps` times; the most probes that a search took."""
    state = seed
    ring = np.zeros(live, np.int64)
    worst = 0
    for step in range(live + steps):
        if step >= live:
            words[0] = ring[step % live]
            place = find(t, words)
            remove(t, place)
        state = (state * 1103515245 + 12345) & 0x7FFFFFFFFFFF
        ring[step % live] = state
        words[0] = state
        install(t, words, 1, 1, 0)
        if step % 64 == 0:
            place = hash_key(words) & (FLOWS - 1)
            probes = 0
            while t["flows"][place]["state"] != layout.FLOW_EMPTY and probes <= FLOWS:
                place = (place + 1) & (FLOWS - 1)
                probes += 1
            worst = max(worst, probes)
    return worst


@pytest.mark.skipif(INTERPRETED, reason="half a million operations")
def test_long_churn_leaves_no_graveyard(t):
    """Removed entries must not fill the table up: a search that finds nothing would never end."""
    worst = _churn(t, np.zeros(KEY_WORDS, np.int64), 40_000, 200_000, 12345)
    assert int((t["flows"]["state"] == layout.FLOW_USED).sum()) == t["flow_count"] == 40_000
    assert int((t["flows"]["state"] == layout.FLOW_EMPTY).sum()) > FLOWS // 16
    assert worst < 4096


def test_structured_keys_are_spread():
    """Addresses and ports that count up, as an emulation's do: no long clusters at a quarter of the table."""
    used = np.zeros(FLOWS, np.int64)
    for number in range(1000 if INTERPRETED else 16_000):
        words = np.zeros(KEY_WORDS, np.int64)
        words[0] = 1 | (5000 + number % 100) << 16 | 80 << 32
        words[6], words[8] = 0x0A000001 + number // 100, 0x0A000002
        used[hash_key(words) & (FLOWS - 1)] += 1
    assert used.max() <= 12
