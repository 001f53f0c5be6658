# SPDX-License-Identifier: Apache-2.0
"""Captures that are written to files which others have opened."""

from __future__ import annotations

import os

import pytest

from vswitch.agent.capture import Captures
from vswitch.errors import ConfigError

SECTION = bytes.fromhex("0a0d0d0a")


class Silence:
    """What captures need of a datapath; nothing passes its ports."""

    def set_capture(self, port_no, wanted):
        pass

    def poll_captures(self):
        return []

    def counters(self):
        return {}


@pytest.fixture
def captures():
    return Captures(Silence())


def is_open(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_what_a_file_held_is_gone(captures, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(bytes(10_000))
    handed = os.open(file, os.O_WRONLY)
    captures.start(1, str(file), 60, handed)
    captures.stop(1)
    assert file.read_bytes()[:4] == SECTION
    assert file.stat().st_size < 1000
    assert not is_open(handed)


def test_a_pipe_does(captures):
    reading, writing = os.pipe()
    captures.start(1, "/dev/stdout", 60, writing)
    captures.stop(1)
    assert os.read(reading, 1000)[:4] == SECTION
    assert not is_open(writing)
    os.close(reading)


@pytest.mark.parametrize(("file", "seconds"), [("relative", 60), ("/file", 0), ("/file", 1e9)])
def test_a_file_that_is_not_wanted_is_closed_as_it_was(captures, tmp_path, file, seconds):
    path = tmp_path / "file"
    path.write_text("precious")
    handed = os.open(path, os.O_WRONLY)
    with pytest.raises(ConfigError):
        captures.start(1, file, seconds, handed)
    assert not is_open(handed)
    assert path.read_text() == "precious"
