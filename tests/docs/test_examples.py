# SPDX-License-Identifier: Apache-2.0
"""The Python programs of the pages run, and what they print is what a reader would hope for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, fences

EXAMPLES = [
    ("README.md", "receiver"),
    ("docs/how-to/write-a-topology.md", " 0% packet loss"),
]


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize(("file", "printed"), EXAMPLES)
def test_example_runs(file: str, printed: str, tmp_path: Path):
    (program,) = fences((ROOT / file).read_text(), "python")
    script = tmp_path / "example.py"
    script.write_text(program)
    result = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=100, check=False
    )
    assert result.returncode == 0, result.stderr
    assert printed in result.stdout, result.stdout + result.stderr
