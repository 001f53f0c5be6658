# SPDX-License-Identifier: Apache-2.0
"""An algorithm is allowed to other namespaces for a moment, where we may say so."""

from __future__ import annotations

import pytest

from topologies import congestion


@pytest.fixture
def allowed(tmp_path, monkeypatch):
    """The kernel's list, as in the machine's own network namespace."""
    path = tmp_path / "allowed"
    path.write_text("reno bbr\n")
    monkeypatch.setattr(congestion, "ALLOWED", path)
    return path


def test_it_is_allowed_within_and_not_afterwards(allowed):
    with congestion._allowed_to_everybody("cubic"):
        assert allowed.read_text().split() == ["reno", "bbr", "cubic"]
    assert allowed.read_text() == "reno bbr\n"
    with pytest.raises(KeyError), congestion._allowed_to_everybody("cubic"):
        raise KeyError
    assert allowed.read_text() == "reno bbr\n"


def test_where_we_may_not_say_so_nothing_changes(allowed, monkeypatch):
    monkeypatch.setattr(congestion, "ALLOWED", allowed.parent)  # which cannot be written
    with congestion._allowed_to_everybody("cubic"):
        assert allowed.read_text() == "reno bbr\n"
