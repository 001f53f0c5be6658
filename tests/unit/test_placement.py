# SPDX-License-Identifier: Apache-2.0
"""Which cores servers are dealt, and what may be asked for instead."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.options import default_cores
from topologies.errors import LabError
from topologies.placement import deal, physical_cores
from topologies.processes import start_time
from topologies.registry import Registry, cores_taken
from topologies.switch_options import given_cores, worker_count
from vswitch.config import cores_in_words

PLAIN = [(0,), (1,), (2,), (3,)]
THREADED = [(0, 4), (1, 5), (2, 6), (3, 7)]  # as Linux numbers them: siblings are far apart


@pytest.mark.parametrize(
    ("machine", "workers", "dealt"),
    [
        ([(0,)], [1, 1], [(0,), (0,)]),
        ([(0,), (1,)], [1], [(0, 1)]),
        ([(0,), (1,)], [1, 1], [(0,), (1,)]),
        ([(0,), (1,)], [1] * 5, [(0,), (1,), (0,), (1,), (0,)]),
        (PLAIN, [1, 1], [(0, 1), (2, 3)]),
        (PLAIN, [1, 1, 1], [(0,), (1,), (2,)]),  # what is over serves everything else
        (THREADED, [1, 1], [(0, 1, 4, 5), (2, 3, 6, 7)]),
        (THREADED, [1] * 4, [(0, 4), (1, 5), (2, 6), (3, 7)]),
        (THREADED, [1] * 5, [(0,), (1,), (2,), (3,), (4,)]),
        ([(0,), (1,)], [2, 2], [(0, 1), (1, 0)]),
        ([(0,), (1,)], [8, 1], [(0, 1), (1,)]),
        (PLAIN, [3, 1], [(0, 1, 2), (2, 3)]),
    ],
)
def test_cores_are_dealt(machine, workers, dealt):
    assert deal(workers, machine) == dealt


def test_servers_that_come_later_get_the_share_of_all_where_the_fewest_are():
    assert deal([1], PLAIN, 4, {0: 1, 1: 1, 3: 1}) == [(2,)]
    assert deal([1], [(0,), (1,)], 3, {0: 1, 1: 1}) == [(0,)]
    assert deal([1], [(0,), (1,)], 4, {0: 2, 1: 1}) == [(1,)]


def test_labs_side_by_side_begin_where_the_fewest_servers_are():
    assert deal([1, 1], PLAIN, taken={0: 1, 1: 1}) == [(2, 3), (0, 1)]
    assert deal([1], THREADED, 4, {0: 1, 5: 1}) == [(2, 6)]


MACHINES = st.lists(st.integers(1, 4), min_size=1, max_size=12).map(
    lambda sizes: [tuple(10 * core + thread for thread in range(size)) for core, size in enumerate(sizes)]
)


@given(MACHINES, st.lists(st.integers(1, 8), min_size=1, max_size=40), st.integers(0, 20))
def test_every_server_has_cores_enough_and_none_has_more_of_the_machine(machine, workers, later):
    servers = len(workers) + later
    threads = {thread for core in machine for thread in core}
    dealt = deal(workers, machine, servers)
    for cores, wanted in zip(dealt, workers, strict=True):
        assert set(cores) <= threads and len(set(cores)) == len(cores)
        assert len(cores) >= min(wanted, len(threads))
    if servers <= len(machine):
        whole = [{core for core in machine if set(core) & set(cores)} for cores in dealt]
        share = len(machine) // servers
        assert all(len(cores) >= share for cores in whole)
        if max(workers) == 1:
            assert all(len(cores) == share for cores in whole)
            assert len(set().union(*map(set, dealt))) == sum(map(len, dealt)), "some are shared"
    elif max(workers) == 1:
        counts = [sum(thread in cores for cores in dealt) for thread in threads]
        assert max(counts) - min(counts) <= 1


def test_hardware_threads_of_a_core_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 4, 5, 9, 11})
    for numbers in ((0, 4), (1, 5), (2, 6)):
        for number in numbers:
            folder = tmp_path / f"cpu{number}" / "topology"
            folder.mkdir(parents=True)
            (folder / "thread_siblings_list").write_text(",".join(map(str, numbers)) + "\n")
    assert physical_cores(tmp_path) == [(0, 4), (1, 5), (2,), (9,), (11,)]  # of the last two nothing is told


def test_the_experiments_servers_have_what_a_lab_deals_to_two():
    first, second = deal([1, 1], physical_cores())
    assert default_cores() == (frozenset(first), frozenset(second))
    assert set(first) | set(second) <= os.sched_getaffinity(0)


HERE = sorted(os.sched_getaffinity(0))
FIRST, LAST = HERE[0], HERE[-1]


@pytest.mark.parametrize(
    ("cpu", "cores"),
    [
        (None, None),
        ("any", ()),
        (FIRST, (FIRST,)),
        (str(LAST), (LAST,)),
        (f"{LAST}+{FIRST}", (LAST, FIRST)),
        ([FIRST, LAST], (FIRST, LAST)),
        ((FIRST, FIRST), (FIRST, FIRST)),
    ],
)
def test_cores_that_are_asked_for(cpu, cores):
    assert given_cores("s1", cpu) == cores


@pytest.mark.parametrize(
    "cpu", [-1, 4096, "", "x", "0,1", "0+", "0+x", [], [None], 0.5, True, [FIRST, 4096], {}]
)
def test_cores_that_cannot_be(cpu):
    with pytest.raises(LabError) as error:
        given_cores("s1", cpu)
    assert str(error.value) == (
        f"s1: cpu={cpu!r}: give a core, several as in '0+1', or 'any'; the cores here are "
        + ", ".join(map(str, HERE))
    )


@pytest.mark.parametrize("workers", [0, 9, -1, "2", 1.0, True, None])
def test_workers_that_cannot_be(workers):
    with pytest.raises(LabError, match=r"^s1: workers=.*: a switch has from 1 to 8$"):
        worker_count("s1", workers)


@pytest.mark.parametrize(
    ("cores", "words"), [((), "any core"), ((3,), "core 3"), ([0, 1], "cores 0, 1"), ((1, 0), "cores 1, 0")]
)
def test_cores_in_words(cores, words):
    assert cores_in_words(cores) == words


def test_the_cores_of_labs_that_run_are_known(tmp_path):
    for name in ("one", "two", "over"):
        (tmp_path / name).mkdir()
    one, two, over = (Registry(tmp_path / name) for name in ("one", "two", "over"))
    one.add_cores((0, 1))
    one.add_process(os.getpid())
    two.add_cores([1])
    over.add_cores([1])
    owner = {**json.loads((over.run_dir / "lab.json").read_text()), "start_time": start_time(os.getpid()) - 1}
    (over.run_dir / "lab.json").write_text(json.dumps(owner))
    assert cores_taken(tmp_path) == {0: 1, 1: 2}
