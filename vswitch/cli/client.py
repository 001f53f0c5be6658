# SPDX-License-Identifier: Apache-2.0
"""A client of the control socket, and which socket it is that is meant."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vswitch.errors import VSwitchError
from vswitch.mailbox import label_of, mailbox_of, post
from vswitch.words import nearest

DEFAULT_RUN_DIRS = "/run/mininet-offload"
TIMEOUT_S = 10.0
AS_OWNER = "run this as the user whose switch it is, for a lab's with sudo"

Call = Callable[..., Any]
"""A request to one switch: method, then parameters by name."""


class CtlError(VSwitchError):
    """What the switch refuses, or that there is none: vswitchctl prints it and ends with status 1."""


def call(path: Path, method: str, /, **params: Any) -> Any:
    """The result of one request to the control socket `path`; raises CtlError."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.connect(str(path))
            connection.sendall(json.dumps({"method": method, "params": params}).encode() + b"\n")
            with connection.makefile("rb") as answers:
                line = answers.readline()
    except PermissionError:
        raise CtlError(f"{path} is for its owner only: {AS_OWNER}") from None
    except OSError as error:
        raise CtlError(f"no switch answers at {path} ({error.strerror or error})") from error
    if not line:
        raise CtlError(f"the switch at {path} closed the connection without an answer")
    answer = json.loads(line)
    if "error" in answer:
        raise CtlError(answer["error"])
    return answer["result"]


def caller(switch: str | None, run_dir: str | None) -> Call:
    """Requests to one switch."""

    def to_switch(method: str, /, **params: Any) -> Any:
        # Looked for with the request: words that mean nothing are told before a switch that is not there.
        return call(find_socket(switch, run_dir, os.environ), method, **params)

    return to_switch


def hand_over(switch: str | None, run_dir: str | None, file: Path, descriptor: int) -> None:
    """Give a switch a file that we have opened; a request that names the file is to follow."""
    post(mailbox_of(find_socket(switch, run_dir, os.environ)), label_of(str(file)), descriptor)


def find_socket(switch: str | None, run_dir: str | None, environ: Mapping[str, str]) -> Path:
    """The control socket of `switch`, or of the only switch there is; raises CtlError."""
    own = environ.get("VSWITCH_CTL")
    if run_dir is None and own:
        if switch in (None, Path(own).stem):
            return Path(own)
        run_dir = str(Path(own).parent)
    where = run_dir or environ.get("VSWITCH_RUN_DIR")
    there, closed = _sockets(_folders(where))
    sockets = [path for path in there if switch in (None, path.stem)]
    if len(sockets) == 1:
        return sockets[0]
    if not sockets and closed:
        raise CtlError(f"{closed[0]} is for its owner only: {AS_OWNER}")
    if not sockets:
        raise CtlError(_not_there(switch, there, where or DEFAULT_RUN_DIRS))
    raise CtlError(
        f"there is more than one: {', '.join(map(str, sockets))}; name the switch or use -r RUN_DIR"
    )


def _not_there(switch: str | None, there: list[Path], where: str) -> str:
    names = sorted({path.stem for path in there})
    if switch is None or not names:
        return f"no switch{f' named {switch}' if switch else ''} is running (looked in {where})"
    return (
        f"no switch named {switch} is running{nearest(switch, names)} (looked in {where}; "
        f"there: {', '.join(names)})"
    )


def _sockets(folders: list[Path]) -> tuple[list[Path], list[Path]]:
    """The control sockets in folders, and the folders that are not for us."""
    found: list[Path] = []
    closed: list[Path] = []
    for folder in folders:
        try:
            found += sorted(folder / name for name in os.listdir(folder) if name.endswith(".ctl"))
        except PermissionError:
            closed.append(folder)
        except OSError:  # there is no such folder (any more)
            continue
    return found, closed


def _folders(run_dir: str | None) -> list[Path]:
    if run_dir is not None:
        return [Path(run_dir)]
    root = Path(DEFAULT_RUN_DIRS)
    return sorted(root.iterdir()) if root.is_dir() else []
