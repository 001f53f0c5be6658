# SPDX-License-Identifier: Apache-2.0
"""Where action programs are kept."""

from __future__ import annotations

import numpy as np
import pytest

from vswitch.errors import VSwitchError
from vswitch.flow import Controller, Output, SetTunnel
from vswitch.layout import Op
from vswitch.programs import ProgramStore

INDEX = {1: 11, 2: 12, 1000: 13}


@pytest.fixture
def words():
    return np.zeros(20, np.int64)


@pytest.fixture
def store(words):
    return ProgramStore(words, lambda number: INDEX.get(number, 0))


def test_a_program_is_pairs_of_operation_and_argument(store, words):
    place = store.place((SetTunnel(42), Output(1000), Controller(128, 0, 5, 1), Output(2)))
    assert place == (0, 4)
    assert words[:8].tolist() == [Op.SET_TUNNEL, 42, Op.OUTPUT, 13, Op.CONTROLLER, 0, Op.OUTPUT, 12]


def test_equal_programs_share_a_place(store):
    assert store.place((Output(1),)) == store.place((Output(1),)) == (0, 1)
    assert store.place((Output(2),)) == (2, 1)


def test_the_empty_program_takes_no_room(store):
    assert store.place(())[1] == 0
    assert store.place((Output(1),)) == (0, 1)


def test_a_port_that_does_not_exist_has_index_zero(store, words):
    store.place((Output(77),))
    assert words[:2].tolist() == [Op.OUTPUT, 0]


def test_a_full_store_says_so(store):
    store.place(tuple(SetTunnel(number) for number in range(9)))
    store.place((Output(1),))
    with pytest.raises(VSwitchError, match=r"^there is no room for another action program \(2 are kept\)$"):
        store.place((Output(2),))
    assert store.place((Output(1),)) == (18, 1)


def test_programs_that_name_a_port_that_is_gone_send_nowhere(store, words):
    """Whoever gets the index next must not get the old port's packets."""
    old, _ = store.place((SetTunnel(42), Output(1000)))
    other = store.place((Output(2),))
    store.forget_port(13)
    assert words[old : old + 4].tolist() == [Op.SET_TUNNEL, 42, Op.OUTPUT, 0]
    new, _ = store.place((SetTunnel(42), Output(1000)))
    assert new != old
    assert words[new : new + 4].tolist() == [Op.SET_TUNNEL, 42, Op.OUTPUT, 13]
    assert store.place((Output(2),)) == other


def test_an_argument_is_no_port_index(store, words):
    at, _ = store.place((SetTunnel(13), Output(1)))
    store.forget_port(13)
    assert words[at : at + 4].tolist() == [Op.SET_TUNNEL, 13, Op.OUTPUT, 11]
