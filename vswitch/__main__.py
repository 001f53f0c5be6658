# SPDX-License-Identifier: Apache-2.0
"""`python -m vswitch`: one switch, in the foreground, until SIGTERM. Options: docs/reference/vswitch.md."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import faulthandler
import gc
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vswitch import privileges
from vswitch.config import (
    LOG_FORMAT,
    MAX_WORKERS,
    STP_RANGES,
    PortConfig,
    cores_in_words,
    parse_port,
    parse_stp,
)
from vswitch.errors import ConfigError, VSwitchError

if TYPE_CHECKING:
    from vswitch.agent.agent import Agent
    from vswitch.datapath import Datapath

log = logging.getLogger("vswitch")

TLS_OPTIONS = {
    "private-key": "the switch's key",
    "certificate": "the switch's certificate",
    "ca-cert": "the certificate of whoever signs the controllers' certificates",
}

MIN_MAX_BACKOFF_S, MAX_MAX_BACKOFF_S = 0.01, 3600.0

UMASK = 0o027
"""The switch's files and sockets are not for all users."""

PR_SET_THP_DISABLE = 41  # prctl(2)

GC_THRESHOLD = 100_000
"""New objects before Python looks for cycles of garbage among them: the agent makes none to speak of, and
some hundred thousand objects for cached flows. A look through these takes longer than new flows can wait.
"""


def main(argv: list[str] | None = None) -> int:
    """Run a switch; 0 after a clean stop, 1 after a sentence on stderr, 2 for wrong usage."""
    options = _parser().parse_args(argv)
    try:
        return _run(options)
    except VSwitchError as error:
        print(f"vswitch: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vswitch", description="A software switch for an emulated server.")
    parser.add_argument(
        "--name", required=True, help="name of the switch, also of its files in the run directory"
    )
    parser.add_argument("--dpid", required=True, help="datapath id in hexadecimal")
    parser.add_argument(
        "--controller", action="append", default=[], metavar="tcp:IP:PORT", help="or ssl:IP:PORT"
    )
    parser.add_argument("--listen", action="append", default=[], metavar="ptcp:PORT", help="or pssl:PORT")
    parser.add_argument(
        "--port",
        action="append",
        default=[],
        metavar="N=KIND:…",
        help="tap:IFNAME@NETNS, packet:IFNAME[,mtu=N] or wire:PATH[,key=value…]",
    )
    parser.add_argument("--run-dir", default=".", help="directory of log, pid file and control socket")
    parser.add_argument(
        "--settings",
        metavar="FILE",
        help="write down there what is set at run time, and start with what it says",
    )
    for option, what in TLS_OPTIONS.items():
        parser.add_argument(f"--{option}", default="", metavar="FILE", help=f"{what} in PEM form, for ssl")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="threads that forward packets (default: 1)"
    )
    parser.add_argument(
        "--cpu", default="", metavar="N[,N…]", help="processors for the workers, in turn (default: any)"
    )
    parser.add_argument(
        "--max-backoff",
        type=float,
        default=1.0,
        metavar="S",
        help="seconds between two attempts to connect to a controller, at most (default: 1)",
    )
    parser.add_argument(
        "--ovs-rundir", metavar="DIR", help="listen at NAME.mgmt and NAME.snoop there, for `ovs-ofctl … NAME`"
    )
    parser.add_argument(
        "--fail-mode",
        choices=("secure", "standalone"),
        default="secure",
        help="without a controller go on by the rules (default), or be a learning switch",
    )
    parser.add_argument(
        "--stp",
        nargs="?",
        const="",
        metavar="KEY=VALUE,…",
        help=f"run the spanning tree protocol; settings: {', '.join(STP_RANGES)}",
    )
    parser.add_argument(
        "--no-proactive-reverse",
        action="store_true",
        help="do not install the reverse flow together with a new flow",
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    if not re.fullmatch("(0[xX])?[0-9a-fA-F]{1,16}", options.dpid):
        raise ConfigError("dpid", f"{options.dpid!r} is no datapath id", "up to 16 hexadecimal digits")
    dpid = int(options.dpid, 16)
    if not re.fullmatch(r"[^/\0]+", options.name):
        raise ConfigError("name", f"{options.name!r} cannot name files", "a text without slash")
    if not 1 <= options.workers <= MAX_WORKERS:
        raise ConfigError("workers", f"{options.workers} is out of range", f"1 to {MAX_WORKERS}")
    if not MIN_MAX_BACKOFF_S <= options.max_backoff <= MAX_MAX_BACKOFF_S:
        allowed = f"{MIN_MAX_BACKOFF_S:g} to {MAX_MAX_BACKOFF_S:g} s"
        raise ConfigError("max-backoff", f"{options.max_backoff:g} is out of range", allowed)
    stp = None if options.stp is None else parse_stp(options.stp)
    cpus = _processors(options.cpu)
    tls = (options.private_key, options.certificate, options.ca_cert)
    if any(tls) and not all(tls):
        raise ConfigError(
            "tls", "a file is missing", "all of " + ", ".join(f"--{option}" for option in TLS_OPTIONS)
        )
    ports = [parse_port(text) for text in options.port]
    run_dir = Path(options.run_dir)
    _start_log(run_dir, options.name)
    from vswitch.agent.agent import Agent
    from vswitch.agent.transport import TlsFiles
    from vswitch.datapath import Datapath
    from vswitch.rehearsal import rehearse

    # until the agent handles signals there is nothing to clean up, and compiling cannot be interrupted
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))
    datapath = Datapath(dpid, ports, options.workers, cpus, options.name)
    pid_file = run_dir / f"{options.name}.pid"
    try:
        agent = Agent(
            datapath,
            options.name,
            dpid,
            options.controller,
            options.listen,
            run_dir / f"{options.name}.ctl",
            not options.no_proactive_reverse,
            tls=TlsFiles(*tls) if all(tls) else None,
            max_backoff_s=options.max_backoff,
            ovs_rundir=options.ovs_rundir,
            standalone=options.fail_mode == "standalone",
            stp=stp,
            settings_path=options.settings,
        )
        started = time.monotonic()
        log.info("starting the dataplane (compiling it takes a while the first time)")
        datapath.start()
        log.info("the dataplane runs after %.1f s", time.monotonic() - started)
        for number, cores in enumerate(datapath.worker_cores()):
            log.info("worker %d is on %s", number, cores_in_words(cores))
        gc.freeze()
        rehearse()
        log.info("first packets are rehearsed after %.1f s", time.monotonic() - started)
        gc.set_threshold(GC_THRESHOLD)
        asyncio.run(_serve(agent, datapath, pid_file, _needed(ports)))
    finally:
        datapath.close()
    return 0


class _LogFile(logging.FileHandler):
    """A full disk costs lines of the log, and neither the switch nor a traceback for each line."""

    told = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.told:
            self.told = True
            print(f"vswitch: cannot write {self.baseFilename}: {sys.exc_info()[1]}", file=sys.stderr)


def _refuse_huge_pages() -> None:
    """Have the kernel give us memory in pages of 4 KB.

    Tables are large and touched on demand: a new flow's packet would wait for 2 MB to be cleared, and on a
    virtual machine for its host to find them, which takes 5 ms. Look-ups gain 4 % by huge pages at best.
    """
    ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)


def _start_log(run_dir: Path, name: str) -> None:
    """Make the run directory, and the log in it; raises ConfigError."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        log_file = _LogFile(run_dir / f"{name}.log")
    except OSError as error:
        raise ConfigError(
            "run-dir", f"cannot make {error.filename}: {error.strerror}", "a directory to write to"
        ) from None
    logging.basicConfig(handlers=[log_file], level=logging.INFO, format=LOG_FORMAT)
    faulthandler.enable(log_file.stream)  # which tells where SIGSEGV, SIGBUS and the like have struck


async def _serve(
    agent: Agent, datapath: Datapath, pid_file: Path, needed: set[privileges.Capability]
) -> None:
    """Run the agent; the pid file is there while it is ready, and is another's until then."""
    ready = False

    def settle() -> None:
        nonlocal ready
        datapath.keep_devices()
        try:
            pid_file.write_text(f"{os.getpid()}\n")
        except OSError as error:
            pid_file.unlink(missing_ok=True)
            raise ConfigError("run-dir", f"cannot write {pid_file}: {error.strerror}") from None
        ready = True
        privileges.keep_only(needed)

    try:
        await agent.run((signal.SIGTERM, signal.SIGINT), settle)
    finally:
        if ready:
            with contextlib.suppress(PermissionError):  # in another user's folder, when we are but root
                pid_file.unlink(missing_ok=True)


def _needed(ports: Sequence[PortConfig]) -> set[privileges.Capability]:
    """The capabilities that the agent needs once everything is open (docs/explanation/privileges.md)."""
    needed = set()
    if any(port.kind == "packet" for port in ports):
        needed.add(privileges.Capability.NET_ADMIN)
    groups = {os.getegid(), *os.getgroups()}
    code = (Path(__file__).parent, Path(os.environ["NUMBA_CACHE_DIR"]))  # set by vswitch.dataplane at least
    if not all(privileges.readable(folder, os.geteuid(), groups) for folder in code if folder.exists()):
        needed.add(privileges.Capability.DAC_READ_SEARCH)
    return needed


def _processors(text: str) -> list[int]:
    """The processors of `--cpu`; raises ConfigError."""
    ours = os.sched_getaffinity(0)
    processors = []
    for word in text.split(",") if text else []:
        if not word.isdecimal() or int(word) not in ours:
            allowed = ", ".join(str(number) for number in sorted(ours))
            raise ConfigError("cpu", f"there is no processor {word or '(empty)'}", allowed)
        processors.append(int(word))
    return processors


def _prepare_process() -> None:
    """What holds for the whole process, before anything is made or started."""
    _refuse_huge_pages()
    privileges.forbid_gaining()
    os.umask(UMASK)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # others would start with privileges, and keep them


if __name__ == "__main__":
    _prepare_process()
    sys.exit(main())
