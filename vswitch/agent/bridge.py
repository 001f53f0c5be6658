# SPDX-License-Identifier: Apache-2.0
"""The switch as a bridge of a spanning tree: its ports' links and BPDUs in, BPDUs and ports' states out."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from vswitch.agent.bpdu import Bpdu, decode_frame, encode_frame
from vswitch.agent.normal import AGING_NS
from vswitch.agent.spanning_tree import SpanningTree
from vswitch.config import StpSettings
from vswitch.errors import VSwitchError
from vswitch.flow import Output

if TYPE_CHECKING:
    from vswitch.agent.switch import OpenFlowSwitch

log = logging.getLogger(__name__)

KINDS = frozenset({"tap", "packet", "wire"})
"""The ports of the tree. A tunnel's end is none: it leads to one server, through ports that are."""

PRIORITY_SHIFT = 48
ADDRESS_MASK = (1 << PRIORITY_SHIFT) - 1


class Bridge:
    """Runs a SpanningTree for `switch`.

    The bridge's identifier is the priority, and the low 48 bits of the datapath id.
    """

    def __init__(self, switch: OpenFlowSwitch, settings: StpSettings) -> None:
        self.switch = switch
        bridge_id = settings.priority << PRIORITY_SHIFT | switch.dpid & ADDRESS_MASK
        self.tree = SpanningTree(bridge_id, settings, switch.clock())
        switch.slowpath.bpdus = self._received
        self.look_at_ports()

    def look_at_ports(self) -> None:
        """Ports came or went, or their links did."""
        now_ns = self.switch.clock()
        infos = self.switch.ports.infos
        for port_no in self.switch.ports.stp_states.keys() - infos.keys():
            self.tree.disable(port_no, now_ns)
        for port_no, info in infos.items():
            if info.kind in KINDS:
                live = self.switch.ports.is_live(port_no)
                (self.tree.enable if live else self.tree.disable)(port_no, now_ns)
        self._act()

    def handle_timer(self) -> None:
        """To be called every now and then, a few times a second."""
        self.tree.handle_timer(self.switch.clock())
        self._act()

    def describe(self) -> dict[str, Any]:
        """For `show`: the root, and role and state of each port by name."""
        infos = sorted(self.switch.ports.infos.values())
        return {
            "bridge": _identifier(self.tree.bridge_id),
            "root": _identifier(self.tree.designated_root),
            "root_port": self.tree.root_port,
            "ports": {
                info.name: {
                    "role": self.tree.role(info.port_no),
                    "state": self.tree.state(info.port_no).value,
                }
                for info in infos
                if info.kind in KINDS
            },
        }

    def _received(self, port_no: int, frame: bytes) -> None:
        bpdu = decode_frame(frame)
        if bpdu is not None:
            self.tree.receive(port_no, bpdu, self.switch.clock())
            self._act()

    def _act(self) -> None:
        """Have the ports do what the tree says, then say it to the neighbours."""
        switch, tree = self.switch, self.tree
        ports = [port_no for port_no, info in switch.ports.infos.items() if info.kind in KINDS]
        states = {port_no: tree.state(port_no) for port_no in ports}
        if states != switch.ports.stp_states:
            switch.ports.stp_states = states
            switch.slowpath.ports_changed()
        switch.slowpath.address_aging_ns = tree.forward_delay_ns if tree.topology_change else AGING_NS
        if tree.addresses_moved:
            tree.addresses_moved = False
            switch.slowpath.forget_addresses()
        switch.slowpath.revalidate()
        for port_no, bpdu in tree.to_send():
            self._send(port_no, bpdu)

    def _send(self, port_no: int, bpdu: Bpdu) -> None:
        info = self.switch.ports.infos.get(port_no)
        if info is None:
            return
        try:
            self.switch.datapath.send(encode_frame(bpdu, info.mac), (Output(port_no),))
        except VSwitchError as error:  # no room for the program; the next one is soon
            log.warning("a BPDU was dropped: %s", error)


def _identifier(bridge_id: int) -> str:
    """As bridges show it: priority and address, `8000.000000000001`."""
    return f"{bridge_id >> PRIORITY_SHIFT:04x}.{bridge_id & ADDRESS_MASK:012x}"
