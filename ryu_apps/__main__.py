# SPDX-License-Identifier: Apache-2.0
"""`python -m ryu_apps`: run the overlay's controller or stock Ryu applications, or check an intent file."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ryu_apps import access, framework
from vswitch.errors import VSwitchError

if TYPE_CHECKING:
    from ryu_apps.core.intent import Intent

OVERLAY = "ryu_apps.shim"


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    name = options.framework or framework.installed()
    if name and not options.check:
        framework.prepare(name)
    try:
        if options.intent:
            _check(options.intent, options.run_dir, report=options.check)
        if options.check:
            return 0
        _check_free(options.listen, options.ofp_port, "--ofp-port")
        _check_free(options.listen, options.rest_port, "--rest-port")
        if name is None:
            raise VSwitchError("neither Ryu nor os-ken is installed in this Python: use .venv-ryu/bin/python")
        framework.require_applications(name, options.app)
        token = None if options.no_token else access.token(_token_file(options))
    except VSwitchError as error:
        print(f"ryu_apps: {error}", file=sys.stderr)
        return 1
    if options.intent:
        os.environ["RYU_APPS_INTENT"] = options.intent
    os.environ["RYU_APPS_REST"] = f"{options.listen}:{options.rest_port}"
    if token:
        os.environ["RYU_APPS_TOKEN_FILE"] = str(token.file)
        print(f"ryu_apps: REST requests need the token in {token.file}", file=sys.stderr)
    if name == framework.RYU:
        framework.require_token(token)
    for number in (signal.SIGTERM, signal.SIGINT):
        # Nothing to save: switches keep their rules, and the next start compares.
        signal.signal(number, lambda *_: os._exit(0))
    if options.intent:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the application can reload the intent
    framework.run(name, _apps(options), options.listen, options.ofp_port, options.rest_port)
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ryu_apps", description=__doc__, allow_abbrev=False)
    parser.add_argument("--intent", metavar="FILE", help="the intent (YAML); runs the overlay's controller")
    parser.add_argument(
        "--check", action="store_true", help="only check the intent file; the exit status tells"
    )
    parser.add_argument(
        "--run-dir", metavar="DIR", help="with --check: hold the intent against the switches that run there"
    )
    parser.add_argument(
        "--app", metavar="MODULE", action="append", default=[], help="also run this application"
    )
    parser.add_argument(
        "--listen", metavar="IP", default="127.0.0.1", help="address to listen on (%(default)s)"
    )
    parser.add_argument("--ofp-port", metavar="PORT", type=_port, default=6653, help="OpenFlow (%(default)s)")
    parser.add_argument("--rest-port", metavar="PORT", type=_port, default=8080, help="REST (%(default)s)")
    rest = parser.add_mutually_exclusive_group()
    rest.add_argument(
        "--token-file", metavar="FILE", type=Path,
        help="the token that REST requests must show, made if it is missing "
        "(~/.mininet-offload/rest-PORT.token)",
    )  # fmt: skip
    rest.add_argument("--no-token", action="store_true", help="let everybody who reaches the port use REST")
    parser.add_argument(
        "--framework", choices=(framework.RYU, framework.OS_KEN), help="which, if both are there"
    )
    options = parser.parse_args(arguments)
    if options.check and not options.intent:
        parser.error("--check needs --intent FILE")
    if options.run_dir and not options.check:
        parser.error("--run-dir is for --check")
    if not options.intent and not options.app:
        parser.error("give --intent FILE, or --app MODULE for stock applications")
    return options


def _token_file(options: argparse.Namespace) -> Path:
    return options.token_file or access.default_file(options.rest_port)


def _port(text: str) -> int:
    port = int(text) if text.isdigit() else 0
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port (allowed: 1 to 65535)")
    return port


def _apps(options: argparse.Namespace) -> list[str]:
    return [*([OVERLAY] if options.intent else []), *options.app]


def _check(path: str, run_dir: str | None, report: bool) -> None:
    """Raise VSwitchError unless the file is an intent from which rules follow, and the switches of `run_dir`
    are what it says."""
    from ryu_apps import intent_file  # only now: framework.prepare() must come first
    from ryu_apps.core.rules import desired_states

    intent = intent_file.read(path)
    rules = sum(len(state.rules) for state in desired_states(intent).values())
    if run_dir:
        _check_switches(path, intent, Path(run_dir))
    if report:
        print(
            f"{path}: valid: {len(intent.virtual_networks)} virtual networks, {len(intent.servers)} servers, "
            f"{len(intent.vms)} VMs, {rules} rules"
        )


def _check_switches(path: str, intent: Intent, run_dir: Path) -> None:
    from ryu_apps import running
    from ryu_apps.core.ports import unfit

    sentences = unfit(intent, running.ports(run_dir), f"in {run_dir}")
    if sentences:
        raise VSwitchError("\n".join(f"{path}: {sentence}" for sentence in sentences))


def _check_free(host: str, port: int, option: str) -> None:
    """Raise VSwitchError when something listens there. (Ryu would start all the same, and hear nothing.)"""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen()
    except OSError as error:
        raise VSwitchError(f"cannot listen on {host} port {port} ({option}): {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
