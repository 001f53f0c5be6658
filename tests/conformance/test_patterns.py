# SPDX-License-Identifier: Apache-2.0
"""The suite: what it consists of, which of it is required, and how a part of it is chosen."""

from __future__ import annotations

from collections import Counter

import pytest

from conformance import patterns
from conformance.errors import ConformanceError
from conformance.patterns import REQUIRED_TOTAL, Pattern


@pytest.fixture(scope="module")
def suite():
    return patterns.load(patterns.suite())


def test_the_suite_is_the_known_one(suite):
    counts = Counter(pattern.category for pattern in suite)
    assert counts == {"action": 56, "set_field": 170, "match": 714, "group": 15, "meter": 36}
    assert sum(pattern.required for pattern in suite) == REQUIRED_TOTAL
    assert sum(pattern.throughput for pattern in suite) == 51


def test_a_tagged_variant_of_a_required_file_is_optional():
    plain = Pattern("match/04_ETH_SRC", 0, "ethernet/ipv4/tcp-->'eth_src=…,actions=output:2'", False)
    tagged = Pattern("match/04_ETH_SRC", 1, "ethernet/vlan/ipv4/tcp-->'eth_src=…,actions=output:2'", False)
    assert plain.required
    assert not tagged.required


def test_selections(suite):
    assert len(patterns.select(suite)) == len(suite)
    assert {pattern.category for pattern in patterns.select(suite, ["meter", "group"])} == {"meter", "group"}
    files = {pattern.file for pattern in patterns.select(suite, files=["action/1*VLAN*"])}
    assert files == {"action/17_PUSH_VLAN", "action/17_PUSH_VLAN_multiple", "action/18_POP_VLAN"}
    with pytest.raises(ConformanceError, match=r"^no test is in match/99_NOTHING: "):
        patterns.select(suite, files=["match/99_NOTHING"])


@pytest.mark.parametrize("count", [1, 10, 100, 900])
def test_a_sample_has_tests_of_all_categories_in_order(suite, count):
    sample = patterns.select(suite, sample=count)
    places = [suite.index(pattern) for pattern in sample]
    assert places == sorted(set(places))
    assert len(sample) == max(count, 2)
    assert Counter(pattern.category for pattern in sample if pattern.throughput) == {"group": 1, "meter": 1}
    if count == 100:
        assert {pattern.category for pattern in sample} == set(patterns.CATEGORIES)


def test_another_suite_is_refused(tmp_path):
    (tmp_path / "match").mkdir()
    (tmp_path / "match" / "00.json").write_text('["match: 00", {"description": "d", "tests": [{}]}]')
    with pytest.raises(ConformanceError, match=r"holds 1 tests, but 991 are expected"):
        patterns.load(tmp_path)


def test_no_index_no_patterns(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ConformanceError, match=r"^the test patterns in os-ken==4.2.2 cannot be downloaded: "):
        patterns.suite(tmp_path / "cache")
