# SPDX-License-Identifier: Apache-2.0
"""The commands of `mn`'s prompt about links: what wires are set to, and which ports are no devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mininet.link import Intf, Link
from mininet.log import output
from mininet.net import Mininet
from mininet.node import Node

from topologies.errors import LabError
from topologies.links import STATES, WIRE_SETTINGS, SwitchPort, TapLink, WireLink, WirePort, check_settings
from topologies.options import require_known
from vswitch.cli.wire import in_words, sentence
from vswitch.config import UNITS, WireSettings

TAKE_NAMES = ("vswitchctl", "ovs-ofctl")
"""Programs that take switches and their ports by name."""


class LinkCommands:
    """A part of the prompt."""

    mn: Mininet

    def do_link(self, line: str) -> None:
        """Bring the links between two nodes up or down, or show or set what their wires do with frames.
        Usage: link node1 node2 [up | down | SETTING VALUE ... [from NODE]]
        Settings: bw 100 (Mbit/s, or 1Gbit), delay 10ms, jitter 1ms, loss 5, duplicate 1, reorder 1 (percent),
        max_queue_size 1000, ecn_threshold 100 (frames) ...; of both directions, or of what NODE sends."""
        nodes, words = self._two_nodes(line.split())
        links = self.mn.linksBetween(*nodes)
        where = "-".join(node.name for node in nodes)
        if not links:
            raise LabError(f"{where}: there is no link between the two: `links` lists them")
        if words in (["up"], ["down"]):
            self.mn.configLinkStatus(*(node.name for node in nodes), *words)
            return
        wires = [link for link in links if isinstance(link, WireLink)]
        if not wires:
            raise LabError(f"{where}: {_why_it_cannot_be_set(links[0])}")
        if not words:
            for wire in wires:
                output(
                    "".join(f"{_direction(port)}: {_impairment(port)}\n" for port in (wire.intf1, wire.intf2))
                )
            return
        settings, sender = read_settings(where, words)
        self._set(where, wires, settings, sender)

    def _two_nodes(self, words: Sequence[str]) -> tuple[list[Node], list[str]]:
        if len(words) < 2:
            raise LabError(
                "link takes two nodes, and what to do: link s1 s2 down, link s1 s2 loss 5 delay 10ms"
            )
        require_known("link", "there is no node", words[:2], self.mn)
        return [self.mn[name] for name in words[:2]], list(words[2:])

    @staticmethod
    def _set(where: str, wires: Sequence[WireLink], settings: dict[str, str], sender: str | None) -> None:
        """Set wires in both directions, or in that of a sender: a node's name or a port's."""
        ports = [port for wire in wires for port in (wire.intf1, wire.intf2)]
        if sender is not None:
            names = dict.fromkeys(name for port in ports for name in (port.node.name, port.name))
            require_known(where, "nothing is sent from", [sender], names)
            ports = [port for port in ports if sender in (port.node.name, port.name)]
        check_settings(where, settings)
        for port in ports:
            port.config(**settings)
            output(f"{_direction(port)}: {sentence(settings_of(port, settings))}\n")

    def do_intfs(self, _line: str) -> None:
        "List interfaces."
        for node in self.mn.values():
            output(f"{node.name}: {','.join(_named(intf) for intf in node.intfList())}\n")

    def do_ports(self, _line: str) -> None:
        "display ports and interfaces for each switch"
        for switch in self.mn.switches:
            ports = " ".join(f"{intf}:{switch.ports[intf]}{_what(intf)}" for intf in switch.intfList())
            output(f"{switch.name} {ports} \n")

    def do_net(self, _line: str) -> None:
        "List network connections."
        for node in self.mn.values():
            output(f"{node.name}{''.join(f' {_connection(intf)}' for intf in node.intfList())}\n")

    def do_links(self, _line: str) -> None:
        "Report on links"
        for link in self.mn.links:
            about = f" {_about(link)}" if isinstance(link, WireLink | TapLink) else ""
            output(f"{link} {link.status()}{about}\n")

    def say_what_is_no_device(self, line: str) -> None:
        """A program looked for a port of a switch among the kernel's devices, and found none."""
        words = line.split()
        if set(words) & set(TAKE_NAMES):
            return
        for port in self._ports():
            if port.name in words:
                output(f"*** {port} is no device of the kernel: {port.what}. See: {port.see}\n")

    def _ports(self) -> list[SwitchPort]:
        return [port for node in self.mn.values() for port in node.intfList() if isinstance(port, SwitchPort)]


def read_settings(where: str, words: Sequence[str]) -> tuple[dict[str, str], str | None]:
    """(settings, who sends) of `loss 5 delay 10 ms from s1`, also as `loss=5`; raises LabError."""
    left = [part for word in words for part in word.replace("=", " ").split()]
    settings: dict[str, str] = {}
    sender: str | None = None
    while left:
        name = left.pop(0)
        if name in STATES:
            raise LabError(f"{where}: {name} stands alone: link NODE1 NODE2 {name}")
        require_known(where, "a wire has no setting", [name], (*WIRE_SETTINGS, *STATES, "from"))
        if not left:
            raise LabError(f"{where}: {name} needs a {'node' if name == 'from' else 'value'}")
        if name in settings or (name == "from" and sender is not None):
            raise LabError(f"{where}: {name} is given twice")
        value = left.pop(0)
        if name == "from":
            sender = value
            continue
        if left and left[0].lower() in UNITS:
            value += left.pop(0)
        settings[name] = value
    if not settings:
        raise LabError(f"{where}: what {sender} sends is to be set to what? As in: loss 5 from {sender}")
    return settings, sender


def settings_of(port: WirePort, names: Sequence[str] | dict[str, Any]) -> dict[str, Any]:
    """These settings of what a port sends, in the words of the command line."""
    if port.node.running:
        shown = port.node.control("wire.show", port=port.node.ports[port])
    else:
        given = {name: value for name, value in port.settings.items() if value is not None}
        shown = WireSettings().changed(port.name, given).in_words()
    return {name: shown[name] for name in names}


def _direction(port: WirePort) -> str:
    return f"{port} -> {port.link.other_end(port)}"


def _impairment(port: WirePort) -> str:
    """What a wire does with the frames that a port sends."""
    ideal = WireSettings().in_words()
    settings = settings_of(port, WIRE_SETTINGS)
    changed = {name: value for name, value in settings.items() if value != ideal[name]}
    return ", ".join(f"{name} {in_words(name, value)}" for name, value in changed.items()) or "ideal"


def _about(link: WireLink | TapLink) -> str:
    """What a link is, and a wire's settings in either direction."""
    if isinstance(link, TapLink):
        return "TAP"
    there, back = _impairment(link.intf1), _impairment(link.intf2)
    if there == back:
        return f"wire, {there}"
    return f"wire, from {link.intf1.node} {there}; from {link.intf2.node} {back}"


def _why_it_cannot_be_set(link: Link) -> str:
    if isinstance(link, TapLink):
        return "a vNIC is not shaped, the wires between the servers are, as in: link s1 s2 loss 5"
    return "a plain link is shaped where it is made: mn --link tc,bw=10,delay=5ms,loss=1"


def _what(intf: Intf) -> str:
    """What an interface of a lab is, to follow its name; of Mininet's own, nothing."""
    what = getattr(intf, "what", "")
    return f" ({what})" if what else ""


def _named(intf: Intf) -> str:
    return f"{intf}{_what(intf)}"


def _connection(intf: Intf) -> str:
    """An interface, and that at the other end, as Mininet's `net` shows them."""
    link = intf.link
    if not link:
        return f"{intf}: "
    other = link.intf2 if link.intf1 is intf else link.intf1
    kind = " (wire)" if isinstance(link, WireLink) else " (TAP)" if isinstance(link, TapLink) else ""
    return f"{intf}:{other}{kind}"
