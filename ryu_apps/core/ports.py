# SPDX-License-Identifier: Apache-2.0
"""The ports that an intent names, and whether switches have them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ryu_apps.core import checks
from ryu_apps.core.intent import Intent
from vswitch.openflow import spec

Claims = Mapping[int, str]
"""Of a switch's ports that the intent names, by number: the sentence to say when there is none."""


def claims(intent: Intent, server: str) -> dict[int, str]:
    """The ports of a server's switch that the intent takes for granted."""
    entry = intent.servers[server]
    paths = {port: f"servers.{server}.wires.{other}" for other, port in entry.wires.items()}
    if entry.uplink_port is not None:
        paths.setdefault(entry.uplink_port, f"servers.{server}.uplink_port")
    for name, vm in intent.vms.items():
        if vm.server == server:
            paths[vm.port] = f"vms.{name}.port"
    return {port: f"{path}: {server} has no port {port}" for port, path in sorted(paths.items())}


def missing(claimed: Claims, there: Collection[int]) -> list[str]:
    """A sentence for each port that a switch with the ports `there` has not. Tunnels are not claimed."""
    has = checks.listing(str(port) for port in sorted(there) if port < spec.TUNNEL_PORT_BASE)
    return [f"{sentence} (it has: {has})" for port, sentence in claimed.items() if port not in there]


def unfit(intent: Intent, switches: Mapping[int, Collection[int]], where: str) -> list[str]:
    """What an intent says of its switches that is not so. switches: all there are `where`, by datapath id
    their ports."""
    sentences = []
    known = checks.listing(f"{dpid:x}" for dpid in sorted(switches))
    for name, server in intent.servers.items():
        if server.dpid in switches:
            sentences += missing(claims(intent, name), switches[server.dpid])
        else:
            sentences.append(
                f"servers.{name}.dpid: there is no switch with the datapath id {server.dpid:x} {where} "
                f"(there are: {known})"
            )
    return sentences
