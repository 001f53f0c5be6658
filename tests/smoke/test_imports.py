# SPDX-License-Identifier: Apache-2.0
"""Every module can be imported, each in the environment that it is for: what one Python's standard library or
syntax has and another's has not shows here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.controller.ryu_process import PYTHON as RYU_PYTHON
from tests.controller.ryu_process import needs_ryu

pytestmark = pytest.mark.smoke
ROOT = Path(__file__).parents[2]
IN_RYU = {"conformance.tester", "conformance.tester_app"}
"""What of the other packages runs in the controller's environment."""

IMPORT = """
import importlib, sys, traceback
from ryu_apps import framework
if framework.installed():
    framework.prepare(framework.installed())
failed = False
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException:
        traceback.print_exc(limit=-3)
        failed = True
sys.exit(failed)
"""


def modules(*packages: str) -> list[str]:
    files = [file for package in packages for file in (ROOT / package).rglob("*.py")]
    assert files
    return sorted(
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files
    )


def check(python: str | Path, names: list[str]) -> None:
    result = subprocess.run(
        [python, "-W", "error::SyntaxWarning", "-c", IMPORT, *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_the_project():
    names = modules("vswitch", "topologies", "experiments", "conformance")
    check(sys.executable, [name for name in names if name not in IN_RYU])


@needs_ryu
def test_the_controller():
    check(RYU_PYTHON, [*modules("ryu_apps"), *IN_RYU])
