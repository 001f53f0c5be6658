# SPDX-License-Identifier: Apache-2.0
"""The switches that run, as their control sockets tell, so that an intent can be held against them."""

from __future__ import annotations

from pathlib import Path

from vswitch import ctl
from vswitch.errors import VSwitchError


def ports(run_dir: Path) -> dict[int, set[int]]:
    """The ports of the switches of a run folder, by datapath id. Raises VSwitchError when there is none, or
    one does not answer."""
    sockets = sorted(run_dir.glob("*.ctl"))
    if not sockets:
        raise VSwitchError(f"no switch is running (looked in {run_dir})")
    shown = [ctl.call(path, "show") for path in sockets]
    return {
        int(switch["dpid"], 16): {port["port"] for port in switch["ports"] if port["kind"] != "local"}
        for switch in shown
    }
