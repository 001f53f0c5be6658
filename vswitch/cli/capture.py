# SPDX-License-Identifier: Apache-2.0
"""`vswitchctl capture`: the frames of a port in a pcapng file."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from vswitch.cli.arguments import Arguments, Command, Option
from vswitch.cli.client import CtlError, hand_over

SECONDS = 60.0


def _run(arguments: Arguments) -> dict[str, Any]:
    switch, port = CAPTURE.switch_and(arguments.words)
    if ("--write" in arguments) == ("--stop" in arguments):
        raise CAPTURE.wrong("one of -w FILE and --stop is needed")
    if "--stop" in arguments and "--seconds" in arguments:
        raise CAPTURE.wrong("--stop takes no -t SECONDS")
    seconds = arguments.number("--seconds", SECONDS)
    if "--write" in arguments:
        file = Path(arguments.options["--write"] or "").absolute()
        started = _start(arguments, switch, port, file, seconds)
        try:
            until = f"for {seconds:g} s or until Ctrl-C"
            print(f"capturing {started['name']} to {file}, {until}", file=sys.stderr, flush=True)
            time.sleep(seconds)
        except KeyboardInterrupt:
            pass
    return arguments.switch(switch)("capture.stop", port=port)


def _start(arguments: Arguments, switch: str | None, port: str, file: Path, seconds: float) -> dict[str, Any]:
    """We open the file, and hand it over: the switch has given up the right to write wherever root can."""
    is_new = not file.exists()
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise CtlError(f"cannot write {file}: {error.strerror}") from None
    try:
        hand_over(switch, arguments.run_dir, file, descriptor)
        return arguments.switch(switch)("capture.start", port=port, file=str(file), seconds=seconds)
    except CtlError:
        if is_new:
            file.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _render(result: dict[str, Any], _arguments: Arguments) -> str:
    if result["file"] is None:
        return f"{result['name']}: nothing was being captured"
    missed = f", {result['missed']} missed" if result["missed"] else ""
    return f"{result['name']}: {result['frames']} frames written to {result['file']}{missed}"


CAPTURE = Command(
    "capture",
    "[SWITCH] PORT (-w FILE [-t SECONDS] | --stop)",
    "write a port's frames to a pcapng file, until Ctrl-C",
    _run,
    _render,
    example="capture s1 1 -w wire.pcapng",
    options=(
        Option("--write", "the file", "-w", "FILE"),
        Option("--seconds", "the longest time (default 60, up to 3600)", "-t", "SECONDS"),
        Option("--stop", "end a capture that nobody waits for any more"),
    ),
)
