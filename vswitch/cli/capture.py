# SPDX-License-Identifier: Apache-2.0
"""`vswitchctl capture`: the frames of a port in a pcapng file."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from vswitch.cli.arguments import Arguments, Command, Option

SECONDS = 60.0


def _run(arguments: Arguments) -> dict[str, Any]:
    switch, port = CAPTURE.switch_and(arguments.words)
    if ("--write" in arguments) == ("--stop" in arguments):
        raise CAPTURE.wrong("one of -w FILE and --stop is needed")
    if "--stop" in arguments and "--seconds" in arguments:
        raise CAPTURE.wrong("--stop takes no -t SECONDS")
    seconds = arguments.number("--seconds", SECONDS)
    call = arguments.switch(switch)
    if "--write" in arguments:
        file = Path(arguments.options["--write"] or "").absolute()
        started = call("capture.start", port=port, file=str(file), seconds=seconds)
        try:
            until = f"for {seconds:g} s or until Ctrl-C"
            print(f"capturing {started['name']} to {file}, {until}", file=sys.stderr, flush=True)
            time.sleep(seconds)
        except KeyboardInterrupt:
            pass
    return call("capture.stop", port=port)


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
