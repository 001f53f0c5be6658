# SPDX-License-Identifier: Apache-2.0
"""Child processes that end with us: started, awaited and ended by their own id, never by name."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import IO, Any

from topologies.users import User
from vswitch.privileges import Capability, become

PR_SET_PDEATHSIG = 1
WAITING = {"tcp": "0A", "udp": "07"}  # `st` column of /proc/net/tcp and udp
LIBC = ctypes.CDLL(None, use_errno=True)


def spawn(
    argv: Sequence[str],
    *,
    pid: int | None = None,
    cpus: frozenset[int] | None = None,
    stdin: int | IO = subprocess.DEVNULL,
    stdout: int | IO = subprocess.DEVNULL,
    stderr: int | IO = subprocess.DEVNULL,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    parting_signal: signal.Signals = signal.SIGKILL,
    user: User | None = None,
    capabilities: Collection[Capability] = (),
) -> subprocess.Popen:
    """Start a child, in the network and mount namespace of process `pid` and on the cores `cpus` when given.

    user: whom it runs as, with these capabilities and no way to others; by default it is as we are.

    It gets `parting_signal` when we die, even of SIGKILL (prctl(2), PR_SET_PDEATHSIG; bound to the thread
    that starts it, hence for the main thread's children only; `run` does it for any thread). It has a session
    of its own, so that Ctrl-C on the terminal reaches us only.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    return _start(
        argv,
        pid,
        cpus,
        parting_signal if in_main_thread else None,
        user,
        capabilities,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=env,
        cwd=cwd,
    )


def run(
    argv: Sequence[str],
    *,
    pid: int | None = None,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, in the network and mount namespace of process `pid` when given.

    For programs that do one thing; unlike `subprocess.run`, they end with us, whatever ends us: this thread
    waits for them, so that it outlives them unless we die.
    """
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    with _start(
        argv, pid, None, signal.SIGKILL, None, (), stdin=null, stdout=pipe, stderr=pipe, env=env, cwd=cwd
    ) as process:
        try:
            printed, complaint = process.communicate()
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(
        argv, process.returncode, printed.decode(errors="replace"), complaint.decode(errors="replace")
    )


def _start(
    argv: Sequence[str],
    pid: int | None,
    cpus: frozenset[int] | None,
    parting_signal: signal.Signals | None,
    user: User | None,
    capabilities: Collection[Capability],
    **options: Any,
) -> subprocess.Popen:
    prefix = ["nsenter", f"--target={pid}", "--net", "--mount", "--"] if pid else []
    parent = os.getpid()

    def in_child() -> None:
        if user:
            become(*user, capabilities)
        if parting_signal is not None:
            LIBC.prctl(PR_SET_PDEATHSIG, parting_signal)
            if os.getppid() != parent:  # it died before: no signal will come
                os._exit(128 + parting_signal)
        if cpus:
            os.sched_setaffinity(0, cpus)

    return subprocess.Popen(
        [*prefix, *argv],
        start_new_session=True,
        preexec_fn=in_child,
        **options,
    )


def run_on(pid: int, cores: Collection[int]) -> None:
    """Have a process, with its threads and all that it has started, run on these cores; none stand for any.

    What it starts from now on does so by itself.
    """
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), cores or os.sched_getaffinity(0))
            for child in (task / "children").read_text().split():
                run_on(int(child), cores)
    except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        pass


def end(process: subprocess.Popen, grace_s: float = 3.0) -> None:
    """Ask a child to end (SIGTERM), then make it (SIGKILL); returns when it is gone."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def how_it_ended(status: int) -> str:
    """What a child's return code tells, as the predicate of a sentence."""
    if status >= 0:
        return f"ended with exit status {status}"
    known = -status in {number.value for number in signal.Signals}
    return f"was killed by {signal.Signals(-status).name if known else f'signal {-status}'}"


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: with its id it names a process for good. None: no
    such.

    A zombie counts as gone, since it only waits for its parent, unless threads of it still run.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, threads, started = fields[0], int(fields[17]), int(fields[19])
    return None if state == "Z" and threads <= 1 else started


def end_orphan(pid: int, started: int, grace_s: float = 3.0) -> None:
    """End a process that is not our child, if `pid` still is the one that started at `started`."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        if start_time(pid) != started:
            return
        try:
            os.kill(pid, sent)
        except ProcessLookupError:
            return
        poll_until(lambda: start_time(pid) != started, grace_s)


def listening(pid: int, port: int, protocol: str = "tcp") -> bool:
    """Whether something waits at a port in the network namespace of process `pid`, if that still is."""
    needle = f":{port:04X}"
    try:
        tables = [Path(f"/proc/{pid}/net/{table}").read_text() for table in (protocol, protocol + "6")]
    except OSError:
        return False
    sockets = [line.split() for table in tables for line in table.splitlines()[1:]]
    return any(fields[1].endswith(needle) and fields[3] == WAITING[protocol] for fields in sockets)


def poll_until(condition: Callable[[], object], timeout_s: float, interval_s: float = 0.01) -> bool:
    """Wait until `condition()` is true and return whether it became so within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval_s)
    return True
