# SPDX-License-Identifier: Apache-2.0
"""What a lab has made outside of its own process, written down so that it can be removed whatever happens.

A lab's run folder holds `lab.json`, its owner, and `made.jsonl`, a line per process, directory, socket,
network interface and server's cores. A later lab, or `mn -c`, removes what labs left behind whose owner is
gone: processes by id and start time, interfaces by index and namespace, never by name, sockets if nobody
answers.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from topologies.errors import LabError
from topologies.processes import end_orphan, run, start_time
from topologies.users import create
from vswitch.agent.control import answers

LABS_DIR = Path("/run/mininet-offload")
OWNER = "lab.json"
MADE = "made.jsonl"


class Registry:
    """The record of one lab, in its run folder."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        owner = {"pid": os.getpid(), "start_time": start_time(os.getpid()), "pid_namespace": pid_namespace()}
        with create(run_dir / OWNER) as file:
            file.write(json.dumps(owner))

    def add_process(self, pid: int) -> None:
        """Record a process that we started."""
        self._append({"pid": pid, "start_time": start_time(pid)})

    def add_directory(self, path: Path) -> None:
        """Record a directory outside of the run folder that is the lab's alone."""
        self._append({"directory": str(path)})

    def add_interface(self, name: str) -> None:
        """Record a network interface, of the namespace that we are in, that is the lab's alone."""
        self._append({"interface": socket.if_nametoindex(name), "network": network_namespace()})

    def add_socket(self, path: Path) -> None:
        """Record a UNIX socket that a process of the lab listens at."""
        self._append({"socket": str(path)})

    def add_folder(self, path: Path) -> None:
        """Record a folder that the lab made, and others may use since."""
        self._append({"folder": str(path)})

    def add_cores(self, cores: Sequence[int]) -> None:
        """Record the cores that a server of the lab has."""
        self._append({"cores": list(cores)})

    def remove_sockets(self) -> None:
        """Remove the sockets at which nobody answers any more, and folders that are empty since."""
        _remove_sockets(self.run_dir)

    def remove_interfaces(self) -> None:
        """Remove the interfaces that are left."""
        _remove_interfaces(self.run_dir)

    def _append(self, record: dict[str, object]) -> None:
        made = self.run_dir / MADE
        try:
            with create(made, "a") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise LabError(f"cannot write {made}: {error.strerror}") from None


def remove_leftovers(labs_dir: Path = LABS_DIR) -> list[str]:
    """Remove everything of labs whose owner is gone, and return their names.

    Labs that run are left alone, and so are folders that no lab made.
    """
    removed = []
    for run_dir in sorted(labs_dir.glob("*/")):
        if _owner_is_gone(run_dir):
            _end_processes(run_dir)
            _remove_interfaces(run_dir)
            _remove_sockets(run_dir)
            for record in _records(run_dir):
                if "directory" in record:
                    shutil.rmtree(str(record["directory"]), ignore_errors=True)
            shutil.rmtree(run_dir, ignore_errors=True)
            removed.append(run_dir.name)
    return removed


def cores_taken(labs_dir: Path = LABS_DIR) -> Counter[int]:
    """How many servers of the labs that run have each core."""
    taken: Counter[int] = Counter()
    for run_dir in labs_dir.glob("*/"):
        if not _owner_is_gone(run_dir):
            for record in _records(run_dir):
                cores = record.get("cores")
                taken.update(cores if isinstance(cores, list) else ())
    return taken


def _end_processes(run_dir: Path) -> None:
    for record in _records(run_dir):
        pid, started = record.get("pid"), record.get("start_time")
        if isinstance(pid, int) and isinstance(started, int):
            end_orphan(pid, started)


def _remove_interfaces(run_dir: Path) -> None:
    """Remove the recorded interfaces that are still there: an index is not given out twice."""
    names = dict(socket.if_nameindex())
    for record in _records(run_dir):
        index = record.get("interface")
        name = names.get(index) if isinstance(index, int) else None
        if name and record.get("network") == network_namespace():
            run(["ip", "link", "delete", name])


def _remove_sockets(run_dir: Path) -> None:
    """What another switch has put in the place of a recorded socket answers, and is left."""
    records = list(_records(run_dir))
    for record in records:
        path = Path(str(record.get("socket", "")))
        if path.is_socket() and not answers(path):
            path.unlink(missing_ok=True)
    for record in records:
        if "folder" in record:
            with contextlib.suppress(OSError):  # in use
                Path(str(record["folder"])).rmdir()


def _owner_is_gone(run_dir: Path) -> bool:
    try:
        owner = json.loads((run_dir / OWNER).read_text())
        here = owner["pid_namespace"] == pid_namespace()  # elsewhere the id means another process
        return here and start_time(owner["pid"]) != owner["start_time"]
    except (OSError, ValueError, KeyError):  # not a lab's folder, or one that is being made or removed
        return False


def pid_namespace() -> int:
    """The PID namespace that we are in."""
    return os.stat("/proc/self/ns/pid").st_ino


def network_namespace() -> int:
    """The network namespace that we are in."""
    return os.stat("/proc/self/ns/net").st_ino


def _records(run_dir: Path) -> Iterator[dict[str, object]]:
    try:
        lines = (run_dir / MADE).read_text().splitlines()
    except OSError:
        return
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:  # its owner died while writing this line
            continue
