# SPDX-License-Identifier: Apache-2.0
"""Runs a program of Mininet's with our switch in place of Open vSwitch: `-m MODULE`, FILE or `mn`, and words.

Mininet's tests start other programs of Mininet's, as `python` and `mn`: those are this one, too
(`test_mininets_own.py`).
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import mininet.node
import mininet.util

from topologies.controllers import Ryu
from topologies.nodes import VSwitch

ROOT = Path(__file__).resolve().parents[2]
MN = Path(sys.executable).with_name("mn")
OURS = ("--custom", str(ROOT / "topologies" / "mn.py"), "--switch", "vswitch")
SINCE_2_3_0 = "-w"  # the option of `mn` to wait for controllers, which the Mininet of PyPI lacks


def substitute() -> None:
    """Before `mininet.net` is imported: its defaults are those of that moment."""
    for name in ("OVSSwitch", "OVSKernelSwitch"):
        setattr(mininet.node, name, VSwitch)
    for name in ("Controller", "DefaultController", "OVSController"):
        setattr(mininet.node, name, Ryu)
    VSwitch.isOldOVS = staticmethod(lambda: False)  # asked by tests
    mininet.util.StrictVersion = getattr(mininet.util, "StrictVersion", None)  # imported by tests

    from mininet import net

    from topologies.net import LabNet

    net.Mininet = LabNet


def main(kind: str, *words: str) -> None:
    if kind == "mn":
        sys.argv = [str(MN), *OURS, *(word for word in words if word != SINCE_2_3_0)]
        runpy.run_path(str(MN), run_name="__main__")
        return
    substitute()
    if kind == "-m":
        sys.argv = list(words)
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [kind, *words]
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
