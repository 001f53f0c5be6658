# SPDX-License-Identifier: Apache-2.0
"""`vswitchctl`: look into a running switch, and change its wires, through its control socket."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from vswitch import ctl_nic
from vswitch.ctl_nic_text import render_formats, render_nic
from vswitch.errors import VSwitchError

DEFAULT_RUN_DIRS = "/run/mininet-offload"
TIMEOUT_S = 10.0
AS_OWNER = "run this as the user whose switch it is, for a lab's with sudo"


class CtlError(VSwitchError):
    """What vswitchctl prints in one sentence before it ends with status 1."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(argv)
    try:
        result = COMMANDS[options.command](options)
        if options.json:
            print(json.dumps(result, indent=2))
        else:
            print(_RENDER[options.command](result))
    except VSwitchError as error:
        print(f"vswitchctl: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    return 0


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


# --- which switch ----------------------------------------------------------------------------------------


def find_socket(switch: str | None, run_dir: str | None, environ: dict[str, str] | os._Environ) -> Path:
    """The control socket of `switch`, or of the only switch there is; raises CtlError."""
    own = environ.get("VSWITCH_CTL")
    if run_dir is None and own:
        if switch in (None, Path(own).stem):
            return Path(own)
        run_dir = str(Path(own).parent)
    folders = _folders(run_dir or environ.get("VSWITCH_RUN_DIR"))
    sockets, closed = _sockets(folders)
    if switch is not None:
        sockets = [path for path in sockets if path.stem == switch]
    if len(sockets) == 1:
        return sockets[0]
    if not sockets:
        if closed:
            raise CtlError(f"{closed[0]} is for its owner only: {AS_OWNER}")
        where = run_dir or environ.get("VSWITCH_RUN_DIR") or DEFAULT_RUN_DIRS
        raise CtlError(f"no switch{f' named {switch}' if switch else ''} is running (looked in {where})")
    raise CtlError(
        f"there is more than one: {', '.join(map(str, sockets))}; name the switch or use -r RUN_DIR"
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


# --- commands --------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vswitchctl",
        description="Look into a running switch.",
        epilog="SWITCH may be left out where $VSWITCH_CTL names a control socket, or when only one runs.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("-r", "--run-dir", metavar="RUN_DIR", help="the run folder of the switch")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("show", "state, ports, controllers"),
        ("counters", "packets by reason and by port"),
        ("rules", "the OpenFlow tables"),
        ("port", "the ports"),
        ("stop", "end the switch"),
    ):
        _switch_argument(commands.add_parser(name, help=text))
    flow = commands.add_parser("flow", help="the cached flows")
    flow.add_argument("-l", "--list", action="store_true", required=True, help="list them")
    _switch_argument(flow)
    wire = commands.add_parser(
        "wire",
        help="show or change a wire: bw, delay, jitter, loss, …",
        usage="%(prog)s [SWITCH] PORT [KEY=VALUE…]",
    )
    wire.add_argument("words", nargs="+", metavar="WORD", help="e.g. s1 2 loss=1 delay=5ms")
    gro = commands.add_parser(
        "gro", help="turn receive coalescing on or off", usage="%(prog)s [-q QUEUE] [SWITCH] PORT on|off"
    )
    gro.add_argument("words", nargs="+", metavar="WORD", help="e.g. s1 2 off")
    gro.add_argument("-q", "--queue", type=int, default=0, help="receive queue (default 0)")
    nic = commands.add_parser(
        "nic",
        help="queues, filters, coalescing of a port, in ethtool's words",
        usage="%(prog)s [SWITCH] PORT WHAT",
    )
    nic.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar="WHAT",
        help="-l, -L combined N, -x, -X equal N, -n, -N flow-type …, -k, -K …, -S, lro add|list|del …, "
        "workers N…",
    )
    tunnel_format = commands.add_parser(
        "format",
        help="list, add or delete tunnel formats",
        usage="%(prog)s list|add|del [SWITCH] [NAME KEY=VALUE…]",
    )
    tunnel_format.add_argument("action", choices=("list", "add", "del"))
    tunnel_format.add_argument(
        "words", nargs="*", default=[], metavar="WORD", help="e.g. s1 mine outer_proto=47 …"
    )
    trace = commands.add_parser(
        "trace",
        help="explain a packet's way through the tables",
        usage="%(prog)s [SWITCH] FIELDS [--frame HEX]",
    )
    trace.add_argument("words", nargs="+", metavar="WORD", help="e.g. s1 in_port=1,tcp,nw_dst=10.0.0.2")
    trace.add_argument("--frame", metavar="HEX", default="", help="the frame; FIELDS then give its in_port")
    capture = commands.add_parser(
        "capture",
        help="write a wire's frames to a pcapng file, until Ctrl-C",
        usage="%(prog)s [SWITCH] PORT (-w FILE [-t SECONDS] | --stop)",
    )
    capture.add_argument("words", nargs="+", metavar="WORD", help="e.g. s1 1")
    what = capture.add_mutually_exclusive_group(required=True)
    what.add_argument("-w", "--write", metavar="FILE", help="the file")
    what.add_argument("--stop", action="store_true", help="end a capture that nobody waits for any more")
    capture.add_argument("-t", "--seconds", type=float, default=60, help="the longest time (default 60)")
    return parser


def _switch_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("switch", nargs="?", metavar="SWITCH")


def _simple(method: str) -> Callable[[argparse.Namespace], Any]:
    def command(options: argparse.Namespace) -> Any:
        return call(find_socket(options.switch, options.run_dir, os.environ), method)

    return command


def _wire(options: argparse.Namespace) -> Any:
    names = [word for word in options.words if "=" not in word]
    settings = dict(word.split("=", 1) for word in options.words if "=" in word)
    if len(names) not in (1, 2) or options.words[: len(names)] != names:
        raise CtlError("wire takes [SWITCH] PORT [KEY=VALUE…], as in: wire s1 2 loss=1 delay=5ms")
    path = find_socket(names[0] if len(names) == 2 else None, options.run_dir, os.environ)
    values = {key: _number(text) for key, text in settings.items()}
    if "port" in values:
        raise CtlError("port is not a setting of a wire")
    if not values:
        return call(path, "wire.show", port=names[-1])
    return call(path, "wire.set", port=names[-1], **values)


def _gro(options: argparse.Namespace) -> Any:
    if len(options.words) not in (2, 3) or options.words[-1] not in ("on", "off"):
        raise CtlError("gro takes [SWITCH] PORT on|off, as in: gro s1 2 off")
    switch = options.words[0] if len(options.words) == 3 else None
    path = find_socket(switch, options.run_dir, os.environ)
    port, lro = options.words[-2:]
    return call(path, "offload.set", message="LroSet", port=port, queue=options.queue, lro=lro)


def _nic(options: argparse.Namespace) -> Any:
    switch, port, words = ctl_nic.split(options.words)
    return ctl_nic.run(_caller(switch, options), port, words)


def _format(options: argparse.Namespace) -> Any:
    names = [word for word in options.words if "=" not in word]
    numbers = [word for word in options.words if "=" in word]
    own = [] if options.action == "list" else names[-1:]
    unread = numbers and options.action != "add"
    if unread or len(names) - len(own) > 1 or options.words[: len(names)] != names:
        raise CtlError("format takes list [SWITCH], add [SWITCH] NAME KEY=VALUE…, or del [SWITCH] NAME")
    switch = names[0] if len(names) > len(own) else None
    call_switch = _caller(switch, options)
    return ctl_nic.run_format(call_switch, options.action, own[0] if own else None, numbers)


def _caller(switch: str | None, options: argparse.Namespace) -> Callable[..., Any]:
    """Requests to one switch."""
    # Looked for with the request: words that mean nothing are told first.
    return lambda method, **params: call(find_socket(switch, options.run_dir, os.environ), method, **params)


def _trace(options: argparse.Namespace) -> Any:
    if len(options.words) > 2:
        raise CtlError("trace takes [SWITCH] FIELDS, as in: trace s1 in_port=1,eth_type=0x800")
    switch = options.words[0] if len(options.words) == 2 else None
    path = find_socket(switch, options.run_dir, os.environ)
    return call(path, "trace", flow=options.words[-1], frame=options.frame)


def _capture(options: argparse.Namespace) -> Any:
    if len(options.words) > 2:
        raise CtlError(
            "capture takes [SWITCH] PORT and -w FILE or --stop, as in: capture s1 1 -w wire.pcapng"
        )
    switch = options.words[0] if len(options.words) == 2 else None
    path = find_socket(switch, options.run_dir, os.environ)
    port = options.words[-1]
    if not options.stop:
        file = str(Path(options.write).absolute())
        call(path, "capture.start", port=port, file=file, seconds=options.seconds)
        try:
            time.sleep(options.seconds)
        except KeyboardInterrupt:
            pass
    return call(path, "capture.stop", port=port)


def _number(text: str) -> float | str:
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value.is_integer() else value


COMMANDS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "show": _simple("show"),
    "counters": _simple("counters"),
    "rules": _simple("rules"),
    "port": _simple("ports"),
    "stop": _simple("stop"),
    "flow": _simple("flows"),
    "wire": _wire,
    "gro": _gro,
    "nic": _nic,
    "format": _format,
    "trace": _trace,
    "capture": _capture,
}


# --- text ------------------------------------------------------------------------------------------------


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows as aligned columns; numbers to the right."""
    cells = [[("" if cell is None else str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    numeric = [
        all(c.replace(".", "", 1).isdigit() or not c for c in column) for column in zip(*cells, strict=True)
    ]
    lines = []
    for row in [list(headings), *cells]:
        aligned = [
            cell.rjust(width) if cells and numeric[n] else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)


def _render_show(result: dict[str, Any]) -> str:
    lines = [
        f"{result['name']}: {result['state']}, dpid {result['dpid']}, pid {result['pid']}, "
        f"up {result['uptime']:.0f} s, version {result['version']}",
        f"  {result['rules']} rules, {result['flows']} cached flows, {result['workers']} worker(s), "
        f"intent revision {'none' if result['intent_revision'] is None else result['intent_revision']}",
    ]
    for controller in result["controllers"]:
        state = f"connected, {controller['role']}" if controller["connected"] else "not connected"
        lines.append(f"  controller {controller['target']}: {state}")
    if result["standalone"]:
        lines.append("  standalone: it forwards as a learning switch")
    if result["spanning_tree"]:
        lines.append(_render_tree(result["spanning_tree"]))
    lines += ["", _render_ports(result["ports"])]
    return "\n".join(lines)


def _render_tree(tree: dict[str, Any]) -> str:
    ports = ", ".join(f"{name} {port['role']} {port['state']}" for name, port in tree["ports"].items())
    return f"  spanning tree: bridge {tree['bridge']}, root {tree['root']}; {ports or 'no ports'}"


def _render_ports(ports: list[dict[str, Any]]) -> str:
    columns = (
        "port",
        "name",
        "kind",
        "mac",
        "mtu",
        "link",
        "peer",
        "rx_packets",
        "tx_packets",
        "rx_dropped",
        "tx_dropped",
    )
    return table(
        columns,
        ([_cell(port, column) for column in columns] for port in ports),
    )


def _cell(port: dict[str, Any], column: str) -> Any:
    if column == "link":
        return "up" if port["up"] else "down"
    if column == "port" and port["kind"] == "local":
        return "LOCAL"
    return port[column]


def _render_counters(result: dict[str, Any]) -> str:
    reasons = table(("reason", "packets"), sorted(result["reasons"].items()))
    ports = result["ports"]
    columns = sorted({name for counters in ports.values() for name in counters})
    by_port = table(
        ("port", *columns), ([name, *(c[column] for column in columns)] for name, c in ports.items())
    )
    return f"{reasons}\n\n{by_port}"


def _render_flows(flows: list[dict[str, Any]]) -> str:
    return table(
        ("packets", "bytes", "idle", "flow", "actions"),
        (
            [
                flow["packets"],
                flow["bytes"],
                flow["idle"],
                ",".join(f"{name}={value}" for name, value in flow["key"].items()),
                ",".join(flow["actions"]) + (" (proactive)" if flow["proactive"] else ""),
            ]
            for flow in flows
        ),
    )


def _render_rules(rules: list[dict[str, Any]]) -> str:
    columns = ("table", "priority", "cookie", "packets", "bytes", "match", "instructions")
    return table(
        columns, (["*" if rule[column] == "" else rule[column] for column in columns] for rule in rules)
    )


def _render_trace(result: dict[str, Any]) -> str:
    lines = ["packet: " + ", ".join(f"{name} {value}" for name, value in result["packet"].items())]
    for step in result["steps"]:
        indent = "" if step["kind"] == "table" else "    " * (step["depth"] + 1)
        lines.append(f"{indent}{step['text']}")
    lines.append("result: " + (", ".join(result["program"]) or f"dropped ({result['drop']})"))
    if result["cacheable"]:
        lines.append(f"cached for this flow; depends on {', '.join(result['depends_on'])}")
    else:
        lines.append(f"not cached, each packet takes the slow path: {result['uncacheable']}")
    return "\n".join(lines)


def _render_settings(result: dict[str, Any] | None) -> str:
    return "done" if result is None else " ".join(f"{key}={value}" for key, value in result.items())


_RENDER: dict[str, Callable[[Any], str]] = {
    "show": _render_show,
    "counters": _render_counters,
    "rules": _render_rules,
    "port": _render_ports,
    "stop": _render_settings,
    "flow": _render_flows,
    "wire": _render_settings,
    "gro": _render_settings,
    "nic": lambda result: render_nic(result, table) if "show" in result else _render_settings(result),
    "format": lambda result: render_formats(result, table) if "message" not in result else "done",
    "trace": _render_trace,
    "capture": _render_settings,
}


if __name__ == "__main__":
    sys.exit(main())
