# SPDX-License-Identifier: Apache-2.0
"""The first start ever of a switch compiles its dataplane: a lab does so before, and shows how far it is."""

from __future__ import annotations

import codecs
import os
import subprocess
import sys
from typing import IO

from mininet.log import output

from topologies.errors import LabError
from topologies.processes import end, spawn
from vswitch import code_cache

READ_BYTES = 4096


def compile_dataplane(environment: dict[str, str]) -> None:
    """Return when the dataplane is compiled; raises LabError."""
    if code_cache.is_complete():
        return
    process = spawn(
        [sys.executable, "-m", "vswitch.compile"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    )
    assert process.stdout
    try:
        printed = _shown(process.stdout)
        if process.wait():
            last_line = printed.strip().rpartition("\n")[2]
            raise LabError(f"the dataplane cannot be compiled: {last_line}")
    finally:
        end(process)
        process.stdout.close()


def _shown(pipe: IO[bytes]) -> str:
    """Show what a program prints, as it comes; returns all of it."""
    output("\n")
    decoder, printed = codecs.getincrementaldecoder("utf-8")("replace"), ""
    while data := os.read(pipe.fileno(), READ_BYTES):
        text = decoder.decode(data)
        output(text)
        printed += text
    return printed
