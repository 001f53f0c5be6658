# SPDX-License-Identifier: Apache-2.0
"""The links of a lab: `TapLink` between a VM and its switch, `WireLink` between two switches."""

from __future__ import annotations

from typing import Any

from mininet.link import Intf, Link, TCIntf

from topologies.errors import LabError, in_terms_of
from topologies.lab import check_interface_name
from topologies.options import READ_BY_KEY, is_mininets, options_of_mininets, require_known
from topologies.processes import run
from vswitch.config import MAX_MTU, MIN_MTU, WireSettings
from vswitch.errors import ConfigError
from vswitch.wire_memory import ENDS

DEFAULT_WIRE_MTU = 1500
DEFAULT_VM_MTU = 1450  # what VXLAN leaves of the wire's
MTU_RANGE = range(MIN_MTU, MAX_MTU + 1)

# What a WireLink takes, as `python -m vswitch` knows it; the first five are Mininet's own words.
WIRE_SETTINGS = (
    "bw",
    "delay",
    "jitter",
    "loss",
    "max_queue_size",
    "duplicate",
    "reorder",
    "ecn_threshold",
    "framing",
    "seed",
)

STATES = ("up", "down")
"""Of a link."""

VNIC_WORDS = ("mac", "ip", "up", "ifconfig")
NOT_WHILE_IT_IS_THERE = {"mtu": "a wire's MTU is given when it is made, for both of its ends"}
NOT_OF_A_TAP = {
    word: f"a TapLink has no {word}: a vNIC is not shaped, the wire between the servers is, "
    f"as in WireLink({word}=…)"
    for word in WIRE_SETTINGS
}
"""What to do instead of shaping a vNIC."""


class TapIntf(Intf):
    """A VM's end of a TapLink, its vNIC: an ordinary interface.

    network, vni: the virtual network that it is in, and that network's number if it was given.
    port: the switch's end.
    mtu: in bytes. mtu_given: whether somebody asked for it.
    """

    mtu = DEFAULT_VM_MTU
    mtu_given = False
    network: str
    vni: int | None
    port: SwitchPort

    def config(self, **params: Any) -> dict[str, Any]:
        """Mininet's words: mac, ip, up, ifconfig."""
        require_known(self.name, "a vNIC has no setting", params, VNIC_WORDS, NOT_OF_A_TAP)
        return super().config(**params)

    def fit(self, mtu: int) -> None:
        """Take this MTU, unless another was asked for."""
        if not self.mtu_given and mtu != self.mtu:
            check_mtu(self.name, mtu)
            self.mtu = mtu
            self.cmd(f"ip link set dev {self.name} mtu {mtu}")

    @property
    def what(self) -> str:
        """What it is, in a few words."""
        return f"TAP, port {self.port} of {self.server}"

    @property
    def server(self) -> Any:
        """The switch that it hangs on."""
        return self.port.node

    @property
    def server_port(self) -> int:
        return self.port.node.ports[self.port]


class SwitchPort(Intf):
    """A switch's end of a link: a port of its process, not a device of the kernel."""

    def __init__(self, name: str, node: Any, port: int | None, link: Link, **settings: Any) -> None:
        self.settings: dict[str, Any] = {}
        super().__init__(name, node=node, port=port, link=link, moveIntfFn=Link._ignore, **settings)

    def argument(self) -> str:
        """How it is described on the switch's command line."""
        raise NotImplementedError

    @property
    def openflow_name(self) -> str:
        """What the switch's process calls it."""
        return self.name

    @property
    def what(self) -> str:
        """What it is, in a few words."""
        raise NotImplementedError

    @property
    def see(self) -> str:
        """Commands of the prompt that show it."""
        raise NotImplementedError

    def ifconfig(self, *args: str) -> str:
        """There is no device to configure; `up` and `down` are Mininet's way to set the link's state."""
        return ""

    def config(self, **settings: Any) -> dict[str, Any]:
        self.settings.update(settings)
        return {}

    def delete(self) -> None:
        self.node.delIntf(self)
        self.link = None

    def status(self) -> str:
        return "OK"


class TapPort(SwitchPort):
    """The switch's end of a TapLink: it opens the VM's TAP device in the VM's namespace."""

    def argument(self) -> str:
        return f"tap:{self.settings['tap']}@{self.settings['vm'].pid}"

    @property
    def openflow_name(self) -> str:
        return self.settings["tap"]

    @property
    def what(self) -> str:
        return f"port for the TAP {self.settings['tap']} of {self.settings['vm']}"

    @property
    def see(self) -> str:
        tap, vm, number = self.settings["tap"], self.settings["vm"], self.node.ports[self]
        return f"{vm} ip link show {tap}; {self.node} vswitchctl capture {number} -w FILE"


class WirePort(SwitchPort):
    """A switch's end of a WireLink. Its settings are those of the direction that it sends in."""

    link: Any

    def argument(self) -> str:
        words = [f"{key}={value}" for key, value in self.settings.items() if value is not None]
        place = [f"wire:{self.link.path}", f"end={self.link.end_of(self)}", f"name={self.name}"]
        return ",".join([*place, f"mtu={self.link.mtu}", *words])

    def config(self, **settings: Any) -> dict[str, Any]:
        """Change settings, also of a running switch: `link.intf1.config(bw=100, delay="5ms")`."""
        check_settings(self.name, settings)
        changes = {key: value for key, value in settings.items() if value is not None}
        if changes and self.link is not None:
            self.node.set_wire(self, **changes)
        return super().config(**settings)  # only now: a switch does not start with what it refuses

    def ifconfig(self, *args: str) -> str:
        """`down` cuts the cable at this end, so that the ports at both are down; `up` mends it (CLI: `link s1
        s2 down`).
        """
        if args[:1] in (("down",), ("up",)):
            self.settings["link"] = args[0]
            for port in (self, self.link.other_end(self)):  # who is at the other end looks at once, too
                port.node.set_wire(port, link=port.link_state)
        return ""

    @property
    def what(self) -> str:
        return f"wire to {self.link.other_end(self)}"

    @property
    def see(self) -> str:
        number = self.node.ports[self]
        return f"{self.node} vswitchctl wire {number}; {self.node} vswitchctl capture {number} -w FILE"

    def status(self) -> str:
        return "OK" if self.link_state == "up" else "DOWN"

    @property
    def link_state(self) -> str:
        """Whether the cable is whole at this end: `up`, or `down`."""
        return self.settings.get("link") or "up"


class LabLink(Link):
    """What both kinds of link share: the two ends, and that their ports are fixed while a switch runs."""

    intf1: Intf
    intf2: Intf

    def stop(self) -> None:
        """Mininet stops links before switches. Nothing is done here: a VM's TAP ends with its namespace and
        the wires' files with the lab, so that no running switch loses a port."""

    def delete(self) -> None:
        """Remove the link; raises LabError while a switch at an end of it runs."""
        for intf in (self.intf1, self.intf2):
            if isinstance(intf, SwitchPort) and intf.node.running:
                raise LabError(
                    f"{self} cannot be removed while {intf.node} runs: its ports are given at its start"
                )
        super().delete()


class TapLink(LabLink):
    """A VM's vNIC: a multi-queue TAP device in the VM's namespace, which the switch opens.

    mtu: of the VM's interface, in bytes. Checksum and segmentation offloads are left to the VM's kernel.
    ip: the interface's address, as `10.2.0.254/24`; by default the VM's on its first vNIC, none on others.
    network, vni: its virtual network, and that network's number; by default the VM's.
    params1, params2: the same, for the VM's end only, as Mininet's links take them.
    """

    OPTIONS = ("mtu", "ip", "network", "vni")

    def __init__(
        self,
        node1: Any,
        node2: Any,
        port1: int | None = None,
        port2: int | None = None,
        intfName1: str | None = None,
        intfName2: str | None = None,
        addr1: str | None = None,
        addr2: str | None = None,
        mtu: int | None = None,
        ip: str | None = None,
        network: str | None = None,
        vni: int | None = None,
        intf: Any = Intf,
        params1: dict[str, Any] | None = None,
        params2: dict[str, Any] | None = None,
        **others: Any,
    ) -> None:
        require_two_nodes(node1, node2)
        where = f"{node1}-{node2}"
        require_own_interfaces(f"{where}: a TapLink", intf)
        require_known(where, "a TapLink has no option", others, self.OPTIONS, NOT_OF_A_TAP)
        ends = [(node1, port1, intfName1, addr1), (node2, port2, intfName2, addr2)]
        ends.sort(key=lambda end: hasattr(end[0], "switch_ports"))  # the VM first
        (vm, vm_port, vm_name, address), (switch, switch_port, switch_name, _) = ends
        if not hasattr(vm, "server") or not hasattr(switch, "switch_ports"):
            raise LabError(
                f"{node1}-{node2}: a TapLink joins a VM and a VSwitch: "
                + in_terms_of("make them with cls=VM and cls=VSwitch", mn="start mn with --switch vswitch")
            )
        if vm.server not in (None, switch):
            raise LabError(f"{vm} has a TapLink to {vm.server} already: all of a VM's are to one server")
        for_vm, for_switch = (params1, params2) if vm is node1 else (params2, params1)
        require_known(where, "a TapLink's end at its VM has no option", for_vm or {}, self.OPTIONS)
        require_known(where, "a TapLink's end at its switch has no option", for_switch or {}, ())
        own = {"mtu": mtu, "ip": ip, "network": network, "vni": vni} | (for_vm or {})
        mtu, ip, network, vni = (own[option] for option in self.OPTIONS)
        vm_port = vm.newPort() if vm_port is None else vm_port
        switch_port = switch.newPort() if switch_port is None else switch_port
        vm_name = check_interface_name(vm_name or f"{vm}-eth{vm_port}")
        switch_name = check_interface_name(switch_name or f"{switch}-eth{switch_port}")
        given, mtu = mtu is not None, DEFAULT_VM_MTU if mtu is None else mtu
        check_mtu(vm_name, mtu)
        if not vm.vnics:
            address = vm.params.get("mac") or address
            vm.params["ip"] = ip = ip or vm.params.get("ip")  # Mininet gives it to the first interface
        make_tap(vm.pid, vm_name, address, int(mtu))
        vnic = TapIntf(vm_name, vm, vm_port, self, address, moveIntfFn=Link._ignore, ip=ip)
        vnic.mtu, vnic.mtu_given = int(mtu), given
        vnic.network = network or vm.network
        vnic.vni = vni if vni is not None or vnic.network != vm.network else vm.vni
        vnic.port = TapPort(switch_name, switch, switch_port, self, tap=vm_name, vm=vm)
        vm.vnics.append(vnic)
        self.intf1, self.intf2 = (vnic, vnic.port) if vm is node1 else (vnic.port, vnic)


class WireLink(LabLink):
    """A cable between two switches: a shared-memory ring each way that carries frames of at most `mtu` bytes.

    bw (Mbit/s), delay and jitter (`5ms`, `10us`, or a number of ms), loss, duplicate and reorder (percent),
    max_queue_size and ecn_threshold (packets), framing (what bw counts: `tc` or `ethernet`), seed. They hold
    for both directions; `params1` and `params2` give those of one, from node1 and from node2. `set` changes
    them while the switches run.
    """

    def __init__(
        self,
        node1: Any,
        node2: Any,
        port1: int | None = None,
        port2: int | None = None,
        intfName1: str | None = None,
        intfName2: str | None = None,
        addr1: str | None = None,
        addr2: str | None = None,
        intf: Any = Intf,
        mtu: int = DEFAULT_WIRE_MTU,
        params1: dict[str, Any] | None = None,
        params2: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        require_two_nodes(node1, node2)
        require_own_interfaces(f"{node1}-{node2}: a WireLink", intf)
        for node in (node1, node2):
            if not hasattr(node, "switch_ports"):
                raise LabError(
                    f"{node1}-{node2}: a WireLink joins two VSwitches: "
                    + in_terms_of("make both with cls=VSwitch", mn="start mn with --switch vswitch")
                )
        port1 = node1.newPort() if port1 is None else port1
        port2 = node2.newPort() if port2 is None else port2
        name1 = check_interface_name(intfName1 or f"{node1}-eth{port1}")
        name2 = check_interface_name(intfName2 or f"{node2}-eth{port2}")
        check_mtu(f"{name1}-{name2}", mtu)
        self.intf1: WirePort
        self.intf2: WirePort
        self.mtu = int(mtu)
        self.path = node1.lab.wire_dir / f"{name1}.{name2}"
        first, second = {**settings, **(params1 or {})}, {**settings, **(params2 or {})}
        for given in (first, second):
            check_settings(f"{name1}-{name2}", given)
        node1.lab.add_wire(self)
        self.intf1 = WirePort(name1, node1, port1, self, **first)
        self.intf2 = WirePort(name2, node2, port2, self, **second)

    def delete(self) -> None:
        lab = self.intf1.node.lab
        super().delete()
        lab.remove_wire(self)

    def end_of(self, port: WirePort) -> str:
        return ENDS[port is self.intf2]

    def other_end(self, port: WirePort) -> WirePort:
        return self.intf2 if port is self.intf1 else self.intf1

    def up(self) -> bool:
        """Whether the running switches at both ends see each other if they may, and their tunnels can use it.

        A switch's tunnels are not looked at while one of its wires is down: they may need that one.
        """
        for port in (self.intf1, self.intf2):
            if port.link_state == "down":
                return True  # as somebody wants it
            ports = port.node.control("ports")
            wires = {state["name"]: state["up"] for state in ports if state["kind"] == "wire"}
            tunnels = [state["up"] for state in ports if state["kind"] == "tunnel"]
            if not wires[port.name] or (all(wires.values()) and not all(tunnels)):
                return False
        return True

    def set(self, **settings: Any) -> None:
        """Change settings of both directions, also of running switches: `link.set(loss=1, delay="2ms")`."""
        check_settings(str(self), settings)
        for port in (self.intf1, self.intf2):
            port.config(**settings)


def check_settings(where: str, settings: dict[str, Any]) -> None:
    """Raise for a setting that a wire does not have, or a value that it cannot have."""
    require_known(where, "a wire has no setting", settings, WIRE_SETTINGS, NOT_WHILE_IT_IS_THERE)
    given = {name: value for name, value in settings.items() if value is not None}
    try:
        WireSettings().changed(where, given)
    except ConfigError as error:
        raise LabError(str(error)) from None


def require_two_nodes(node1: Any, node2: Any) -> None:
    """Raise for a link from a node to itself."""
    if node1 is node2:
        raise LabError(
            f"{node1}-{node2}: both ends of this link are at {node1}: a link joins two different nodes"
        )


def require_options_of_a_plain_link(intf: Intf) -> None:
    """Raise for an option of a link of Mininet's own that does not know it: it would say nothing."""
    kind = type(intf)
    if not is_mininets(kind):
        return
    shaped = in_terms_of("make it with cls=TCLink", mn="start mn with --link tc")
    hints = {word: f"a plain link has no {word}: {shaped}" for word in options_of_mininets(TCIntf)}
    known = options_of_mininets(kind)
    require_known(intf.name, "its link has no option", intf.params, known, hints, READ_BY_KEY)


def require_own_interfaces(link: str, intf: Any) -> None:
    """Raise when a link of ours is to have ends of another class (Mininet hands over its own by default)."""
    if intf not in (None, Intf):
        raise LabError(f"{link} has ends of its own: leave out intf={intf.__name__}")


def check_mtu(where: str, mtu: Any) -> None:
    if not str(mtu).isdigit() or int(mtu) not in MTU_RANGE:
        raise LabError(
            f"{where}: an MTU of {mtu} is out of range: it is from {MTU_RANGE[0]} to {MTU_RANGE[-1]}"
        )


def make_tap(pid: int, name: str, address: str | None, mtu: int) -> None:
    """Make a persistent multi-queue TAP device in the namespace of process `pid`."""
    commands = [
        f"ip tuntap add dev {name} mode tap multi_queue vnet_hdr",
        f"ip link set dev {name} mtu {mtu}",
    ]
    if address:
        commands.append(f"ip link set dev {name} address {address}")
    result = run(["sh", "-ec", "\n".join(commands)], pid=pid)
    if result.returncode:
        raise LabError(f"{name}: cannot make the TAP device: {result.stderr.strip()}")
