# SPDX-License-Identifier: Apache-2.0
"""What a VSwitch is told of itself, checked and put in the words of `python -m vswitch`."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from typing import Any

from topologies.errors import LabError
from topologies.options import boolean
from vswitch.config import MAX_WORKERS, parse_stp
from vswitch.errors import ConfigError

ANY_CORE = "any"
FAIL_MODES = ("secure", "standalone")


def datapath_id(name: str, dpid: Any) -> str | None:
    """The datapath id for Mininet, which fails without a sentence on what is none; None: from the name."""
    if dpid is None and not re.search(r"\d", name):
        raise LabError(f"{name}: a switch has a number in its name, or is given a datapath id: dpid='1'")
    if dpid is not None and not re.fullmatch(r"[0-9a-fA-F]{1,16}", str(dpid).replace(":", "")):
        raise LabError(f"{name}: {dpid!r} is no datapath id: it is of up to 16 hexadecimal digits")
    return None if dpid is None else str(dpid)


def worker_count(name: str, workers: Any) -> int:
    """How many threads forward packets."""
    if isinstance(workers, bool) or not isinstance(workers, int) or not 1 <= workers <= MAX_WORKERS:
        raise LabError(f"{name}: workers={workers!r}: a switch has from 1 to {MAX_WORKERS}")
    return workers


def given_cores(name: str, cpu: Any) -> tuple[int, ...] | None:
    """The cores that `cpu` names; () for any, None if the lab is to deal them."""
    if cpu is None or cpu == ANY_CORE:
        return None if cpu is None else ()
    words = cpu.split("+") if isinstance(cpu, str) else [cpu] if isinstance(cpu, int) else cpu
    usable = os.sched_getaffinity(0)
    try:
        cores = tuple(int(str(word)) for word in words)
    except (TypeError, ValueError):
        cores = ()
    if not cores or not usable.issuperset(cores):
        raise LabError(
            f"{name}: cpu={cpu!r}: give a core, several as in '0+1', or 'any'; the cores here are "
            + ", ".join(map(str, sorted(usable)))
        )
    return cores


def require_ovs_words(name: str, protocols: str | Sequence[str] | None, datapath: str, inband: Any) -> None:
    """Raise when options of Mininet's OVSSwitch ask for what this switch is not."""
    spoken = protocols.split(",") if isinstance(protocols, str) else protocols
    if spoken and "OpenFlow13" not in spoken:
        raise LabError(f"{name}: it speaks OpenFlow13, and protocols={protocols!r} leaves that out")
    if datapath != "user":
        raise LabError(f"{name}: its datapath is a process, datapath='user', and cannot be {datapath!r}")
    if boolean(f"{name}: inband", inband):
        raise LabError(f"{name}: controllers are out of band: leave out inband")


def without_controller(name: str, fail_mode: str, stp: bool | int | str) -> list[str]:
    """The options of the process for `failMode` and `stp`."""
    if fail_mode not in FAIL_MODES:
        raise LabError(f"{name}: failMode is {' or '.join(FAIL_MODES)}, not {fail_mode!r}")
    arguments = ["--fail-mode", fail_mode]
    settings = stp if isinstance(stp, str) and "=" in stp else ""
    if not settings and not boolean(f"{name}: stp", stp):
        return arguments
    if fail_mode != "standalone":
        raise LabError(f"{name}: stp is for a switch without a controller: it needs failMode='standalone'")
    try:
        parse_stp(settings)
    except ConfigError as error:
        raise LabError(f"{name}: {error}") from None
    return [*arguments, f"--stp={settings}"]


def backoff(name: str, max_backoff: float | None, reconnectms: int | None) -> list[str]:
    """The option of the process for `max_backoff`, or `reconnectms`."""
    if max_backoff is not None and reconnectms:
        raise LabError(f"{name}: max_backoff and reconnectms say the same: give one of them")
    if max_backoff is None and not reconnectms:
        return []
    try:
        seconds = float(reconnectms or 0) / 1000 if max_backoff is None else float(max_backoff)
    except (TypeError, ValueError):
        raise LabError(f"{name}: {max_backoff or reconnectms!r} is no time to reconnect in") from None
    return ["--max-backoff", f"{seconds:g}"]


def more_options(name: str, opts: str) -> list[str]:
    """The words of `opts`, as a shell would split them."""
    try:
        return shlex.split(str(opts))
    except ValueError as problem:
        raise LabError(f"{name}: opts={opts!r} cannot be split into words: {problem}") from None
