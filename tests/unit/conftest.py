# SPDX-License-Identifier: Apache-2.0
"""For the dataplane's tests: whichever comes first may have to compile the dataplane."""

from __future__ import annotations

from pathlib import Path

import pytest

COMPILING_S = 400


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(COMPILING_S))
