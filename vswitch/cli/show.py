# SPDX-License-Identifier: Apache-2.0
"""`vswitchctl show`, `port`, `rules`, `flow` and `stop`: the switch as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vswitch.cli.arguments import Arguments, Command, Option
from vswitch.cli.text import table
from vswitch.config import cores_in_words

PORT_COLUMNS = (
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
RULE_COLUMNS = ("table", "priority", "cookie", "packets", "bytes", "match", "instructions")


def _render_show(result: dict[str, Any], arguments: Arguments) -> str:
    lines = [
        f"{result['name']}: {result['state']}, dpid {result['dpid']}, pid {result['pid']}, "
        f"up {result['uptime']:.0f} s, version {result['version']}",
        f"  {result['rules']} rules, {result['flows']} cached flows, "
        f"{result['workers']} worker(s) on {'; '.join(map(cores_in_words, result['worker_cores']))}, "
        f"intent revision {'none' if result['intent_revision'] is None else result['intent_revision']}",
    ]
    for controller in result["controllers"]:
        state = f"connected, {controller['role']}" if controller["connected"] else "not connected"
        lines.append(f"  controller {controller['target']}: {state}")
    if result["standalone"]:
        lines.append("  standalone: it forwards as a learning switch")
    lines += [f"  not as it was before the restart: {sentence}" for sentence in result["not_restored"]]
    if result["spanning_tree"]:
        lines.append(_render_tree(result["spanning_tree"]))
    lines += ["", _render_ports(result["ports"], arguments)]
    return "\n".join(lines)


def _render_tree(tree: dict[str, Any]) -> str:
    ports = ", ".join(f"{name} {port['role']} {port['state']}" for name, port in tree["ports"].items())
    return f"  spanning tree: bridge {tree['bridge']}, root {tree['root']}; {ports or 'no ports'}"


def _render_ports(ports: list[dict[str, Any]], _arguments: Arguments) -> str:
    return table(PORT_COLUMNS, ([_cell(port, column) for column in PORT_COLUMNS] for port in ports))


def _cell(port: dict[str, Any], column: str) -> Any:
    if column == "link":
        return "up" if port["up"] else "down"
    if column == "port" and port["kind"] == "local":
        return "LOCAL"
    return port[column]


def _render_flows(flows: list[dict[str, Any]], _arguments: Arguments) -> str:
    rows = (
        [
            flow["packets"],
            flow["bytes"],
            flow["idle"],
            ",".join(f"{name}={value}" for name, value in flow["key"].items()),
            ",".join(flow["actions"]) + (" (proactive)" if flow["proactive"] else ""),
        ]
        for flow in flows
    )
    return table(("packets", "bytes", "idle", "flow", "actions"), rows, empty="no cached flows")


def _render_rules(rules: list[dict[str, Any]], _arguments: Arguments) -> str:
    rows = (["*" if rule[column] == "" else rule[column] for column in RULE_COLUMNS] for rule in rules)
    return table(RULE_COLUMNS, rows, empty="no rules")


def _of_a_switch(
    name: str,
    help: str,
    method: str,
    render: Callable[[Any, Arguments], str],
    options: tuple[Option, ...] = (),
) -> Command:
    """A command that takes a switch and shows what a method says."""

    def run(arguments: Arguments) -> Any:
        switch = command.names(arguments.words, 0, 1)
        return arguments.switch(switch[0] if switch else None)(method)

    command = Command(name, "[SWITCH]", help, run, render, options=options)
    return command


SHOW = _of_a_switch("show", "state, controllers, ports", "show", _render_show)
RULES = _of_a_switch("rules", "the OpenFlow tables", "rules", _render_rules)
PORT = _of_a_switch("port", "the ports", "ports", _render_ports)
STOP = _of_a_switch("stop", "end the switch", "stop", lambda _nothing, _arguments: "the switch ends")
FLOW = _of_a_switch(
    "flow",
    "list the cached flows",
    "flows",
    _render_flows,
    (Option("--list", "list them, as it does without", "-l"),),
)
