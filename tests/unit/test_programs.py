# SPDX-License-Identifier: Apache-2.0
"""Where action programs are kept."""

from __future__ import annotations

import numpy as np
import pytest

from vswitch.dataplane.rewrite import SETTABLE
from vswitch.errors import VSwitchError
from vswitch.flow import (
    Controller,
    CopyTtl,
    DecTtl,
    LookUpAgain,
    Meter,
    Output,
    PopMpls,
    PopPbb,
    PopVlan,
    Push,
    Restore,
    Save,
    SetField,
    SetTtl,
    SetTunnel,
)
from vswitch.layout import Op
from vswitch.programs import ProgramStore

INDEX = {1: 11, 2: 12, 1000: 13}
METERS = {7: 3}
IPV6_SRC = SETTABLE.index("ipv6_src")
INVALID = Controller(65535, 2, 5, 1)


@pytest.fixture
def words():
    return np.zeros(40, np.int64)


@pytest.fixture
def live():
    """Offsets of the programs that something names."""
    return set()


@pytest.fixture
def store(words, live):
    return ProgramStore(
        [words], lambda number: INDEX.get(number, 0), lambda meter: METERS.get(meter, -1), lambda: live
    )


OPERATIONS = [
    (Output(1000), [Op.OUTPUT, 13, 0, 0]),
    (SetTunnel(42), [Op.SET_TUNNEL, 42, 0, 0]),
    (Controller(128, 0, 5, 1), [Op.CONTROLLER, 1, 0, 0]),
    (SetField("eth_dst", 0x0200_0000_0001), [Op.SET_FIELD, 0, 0, 0x0200_0000_0001]),
    (SetField("ipv6_src", 2**127 + 2**63 + 5), [Op.SET_FIELD, IPV6_SRC, -(2**63), 5 - 2**63]),
    (Push(0x8847), [Op.PUSH, 0x8847, 0, 0]),
    (PopVlan(), [Op.POP_VLAN, 0, 0, 0]),
    (PopMpls(0x800), [Op.POP_MPLS, 0x800, 0, 0]),
    (PopPbb(), [Op.POP_PBB, 0, 0, 0]),
    (SetTtl(9), [Op.SET_TTL, 9, 0, 0]),
    (SetTtl(9, mpls=True), [Op.SET_TTL, 9, 1, 0]),
    (DecTtl(INVALID, mpls=True), [Op.DEC_TTL, 1, 1, 0]),
    (CopyTtl(inwards=True), [Op.COPY_TTL, 1, 0, 0]),
    (Meter(7), [Op.METER, 3, 0, 0]),
    (Meter(8), [Op.METER, -1, 0, 0]),
    (LookUpAgain(2), [Op.LOOK_UP_AGAIN, 2, 0, 0]),
    (Save(), [Op.SAVE, 0, 0, 0]),
    (Restore(), [Op.RESTORE, 0, 0, 0]),
]


@pytest.mark.parametrize(("action", "operation"), OPERATIONS, ids=lambda value: str(value))
def test_an_action_is_an_operation_and_its_arguments(store, words, action, operation):
    at, length = store.place((Output(1), action))
    assert (at, length) == (0, 2)
    assert words[:8].tolist() == [Op.OUTPUT, 11, 0, 0, *operation]


def test_the_number_of_a_controller_action_leads_back_to_it(store, words):
    store.place((DecTtl(INVALID), Controller(128, 0, 5, 1)))
    assert store.controller(int(words[1])) == INVALID
    assert store.controller(int(words[5])) == Controller(128, 0, 5, 1)
    assert store.controller(99) is None


def test_equal_programs_share_a_place(store):
    assert store.place((Output(1),)) == store.place((Output(1),)) == (0, 1)
    assert store.place((Output(2),)) == (4, 1)


def test_the_empty_program_takes_no_room(store):
    assert store.place(())[1] == 0
    assert store.place((Output(1),)) == (0, 1)


def test_a_port_that_does_not_exist_has_index_zero(store, words):
    store.place((Output(77),))
    assert words[:2].tolist() == [Op.OUTPUT, 0]


def test_a_full_store_says_so(store, live):
    live |= {store.place(tuple(SetTunnel(number) for number in range(9)))[0], store.place((Output(1),))[0]}
    with pytest.raises(VSwitchError, match=r"^there is no room for another action program \(2 are kept\)$"):
        store.place((Output(2),))
    assert store.place((Output(1),)) == (36, 1)


def test_the_room_of_programs_that_nothing_names_is_used_again(store, live, words):
    kept = (SetTunnel(1), Output(1))
    store.place((SetTunnel(3), Output(1)))
    live.add(store.place(kept)[0])
    for number in range(100):
        at, _ = store.place((SetTunnel(1000 + number), Output(2)))
        assert words[at : at + 6].tolist() == [Op.SET_TUNNEL, 1000 + number, 0, 0, Op.OUTPUT, 12]
    assert store.place(kept) == (8, 2)
    assert words[8:14].tolist() == [Op.SET_TUNNEL, 1, 0, 0, Op.OUTPUT, 11]


def test_programs_that_name_a_port_that_is_gone_send_nowhere(store, words):
    """Whoever gets the index next must not get the old port's packets."""
    old, _ = store.place((SetTunnel(42), Output(1000)))
    other = store.place((Output(2),))
    store.forget_port(13)
    assert words[old + 4 : old + 6].tolist() == [Op.OUTPUT, 0]
    new, _ = store.place((SetTunnel(42), Output(1000)))
    assert new != old
    assert words[new + 4 : new + 6].tolist() == [Op.OUTPUT, 13]
    assert store.place((Output(2),)) == other


def test_a_program_keeps_its_place_while_something_names_it_though_its_port_is_gone(store, live, words):
    """A flow runs it until its entry is replaced."""
    old, _ = store.place((Controller(128, 0, 5, 1), Output(1000)))
    live.add(old)
    store.forget_port(13)
    for number in range(100):
        assert store.place((SetTunnel(number), Output(2)))[0] >= old + 8
    assert words[old : old + 8].tolist() == [Op.CONTROLLER, 1, 0, 0, Op.OUTPUT, 0, 0, 0]
    assert store.controller(1) == Controller(128, 0, 5, 1)


def test_programs_that_name_a_meter_that_is_gone_pass_their_packets(store, words):
    at, _ = store.place((Meter(7), Output(1)))
    store.forget_meter(3)
    assert words[at : at + 6].tolist() == [Op.METER, -1, 0, 0, Op.OUTPUT, 11]


def test_programs_that_name_a_port_which_was_not_there_before_send_to_it(store, words, monkeypatch):
    store.place((Output(77),))
    monkeypatch.setitem(INDEX, 77, 14)
    store.renumbered()
    at, _ = store.place((Output(77),))
    assert words[at : at + 2].tolist() == [Op.OUTPUT, 14]


def test_an_argument_is_no_port_index(store, words):
    at, _ = store.place((SetTunnel(13), Output(1)))
    store.forget_port(13)
    assert words[at : at + 6].tolist() == [Op.SET_TUNNEL, 13, 0, 0, Op.OUTPUT, 11]
