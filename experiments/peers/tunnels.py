# SPDX-License-Identifier: Apache-2.0
"""The overlay by the switch in any tunnel format, changed between runs as a user does it: by a new intent."""

from __future__ import annotations

from typing import Any

from mininet.net import Mininet

from experiments.peers.base import WIRE_MTU
from experiments.peers.vswitch import VSwitchCompared
from topologies.controllers import Orchestrator
from topologies.lab import Lab
from topologies.links import TapLink
from topologies.nodes import VM, VSwitch
from vswitch.tunnel_formats import SHIPPED, Format, format_numbers, overhead

OWN = Format(
    name="own", outer_proto=17, opaque_len=16, id_offset=2, id_length=2, id_value=50000, flow_id_offset=10,
    flow_id_length=4, length_field=4, entropy_offset=0,
)  # fmt: skip
"""What a user adds by numbers: a header of eight bytes behind UDP."""
FORMATS = {**SHIPPED, OWN.name: OWN}
VM_MTU = WIRE_MTU - max(map(overhead, FORMATS.values()))
"""The same for all, so that all carry the same segments."""


class VSwitchTunnels(VSwitchCompared):
    """Two servers, each row of the table of formats in turn, with GRO and the VMs' TSO on or off."""

    name = "vswitch"
    programs = (*VSwitchCompared.programs, "ethtool")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.state: dict[str, Any] = {}

    def start(self) -> None:
        self.lab = lab = Lab(run_dir=self.servers.run_dir / self.name)
        self.net = net = Mininet(controller=None, build=False)
        net.addController("c0", Orchestrator, lab=lab)
        cores = (self.servers.first, self.servers.second)
        for n, cpus in enumerate(cores, start=1):
            net.addSwitch(f"s{n}", cls=VSwitch, cpu=sorted(cpus), lab=lab, batch=True)
        self.join(net, *net.switches)
        for n, switch in enumerate(net.switches, start=1):
            vm = net.addHost(f"vm{n}", cls=VM, lab=lab, iperf3=False, ip=f"10.0.0.{n}/24")
            net.addLink(vm, switch, cls=TapLink, mtu=VM_MTU)
        net.start()

    def prepare(self, config: dict[str, Any]) -> None:
        """config: encap, gro, tso."""
        assert self.lab and self.lab.orchestrator
        for vm in self._vms():
            vm.cmd("ethtool -K", vm.tap.name if vm.tap else "eth0", "tso", "on" if config["tso"] else "off")
        wanted = {"tunnel": {"format": config["encap"]}, "offload": {"gro": config["gro"]}}
        if wanted != self.state:
            intent = self.lab.orchestrator.intent()
            self.lab.orchestrator.set_intent(intent | {"formats": {OWN.name: format_numbers(OWN)}} | wanted)
            self.state = wanted
