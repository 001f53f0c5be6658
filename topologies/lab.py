# SPDX-License-Identifier: Apache-2.0
"""A lab: the nodes and links of one network, its run folder, and the intent that follows from them.

Nodes join the current lab as they are made, so that a topology needs no word about it. Labs are separate in
everything that can clash: run folder, wires, ports; two of them, in two processes or in one, run side by
side.
"""

from __future__ import annotations

import atexit
import errno
import functools
import itertools
import os
import re
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mininet.log import info, warn

from ryu_apps.core.ports import claims, missing
from ryu_apps.core.underlay import path
from topologies.errors import LabError, in_terms_of
from topologies.placement import deal, physical_cores
from topologies.registry import LABS_DIR, Registry, cores_taken, remove_leftovers
from topologies.users import free_group, make_folder
from topologies.watch import Watch
from vswitch import wire_memory
from vswitch.tunnel_formats import overhead
from vswitch.wire_memory import megabytes

if TYPE_CHECKING:
    from topologies.controllers import LabController, Orchestrator
    from topologies.links import TapIntf, WireLink
    from topologies.nodes import VM, VSwitch
    from vswitch.tunnel_formats import Format

PROGRAMS = {
    "mnexec": "mininet",
    "ip": "iproute2",
    "ifconfig": "net-tools",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
}
SHM_DIR = Path("/dev/shm")
MAX_INTERFACE_NAME = 15  # IFNAMSIZ - 1
MAX_SOCKET_PATH = 107  # sun_path of unix(7), less the final zero byte
FIRST_VNI = 42
PROCESS_NEED = 1_000_000
"""Bytes of the run folder's disk for the logs of each process."""
OVS_RUNDIR, OVS_RUNDIR_VARIABLE = "/var/run/openvswitch", "OVS_RUNDIR"


class Lab:
    """One network.

    run_dir: a folder of the user's for logs, which is kept; by default one that is removed.
    group: of the lab's own; its controllers are in it, and may enter the run folder that the lab makes.
    """

    _current: ClassVar[Lab | None] = None

    def __init__(self, run_dir: Path | str | None = None) -> None:
        require_root()
        for program, package in PROGRAMS.items():
            require_program(program, package)
        remove_leftovers()
        self.name = free_name()
        self.keep = run_dir is not None
        self.run_dir = Path(run_dir or LABS_DIR / self.name).absolute()
        self.wire_dir = SHM_DIR / f"mn-offload-{self.name}"
        self.vms: dict[str, VM] = {}
        self.switches: dict[str, VSwitch] = {}
        self.wires: list[WireLink] = []
        self.controllers: list[LabController] = []
        self.orchestrator: Orchestrator | None = None
        self.closed = False
        self._reservations: list[socket.socket] = []
        self._validated = False
        self._told: set[str] = set()
        self._make_folders()
        self.watch = Watch()
        atexit.register(self.close)

    def _make_folders(self) -> None:
        if len(str(self.run_dir)) > MAX_SOCKET_PATH - len("/0123456789.files"):
            raise LabError(
                f"the run folder {self.run_dir} has too long a name for the switches' sockets in it"
            )
        try:
            self.group = free_group(LABS_DIR)
            record_dir = LABS_DIR / self.name
            for folder in (record_dir, self.run_dir):
                make_folder(folder, self.group)
            self.registry = Registry(record_dir)
            self.registry.add_directory(self.wire_dir)
            self.wire_dir.mkdir(mode=0o700)
        except OSError as error:
            shutil.rmtree(LABS_DIR / self.name, ignore_errors=True)
            raise LabError(f"cannot make the run folder {self.run_dir}: {error.strerror}") from None

    @classmethod
    def current(cls) -> Lab:
        """The lab that a new node joins when it is given none: the last one made, while it is open."""
        if cls._current is None or cls._current.closed:
            cls._current = Lab()
        return cls._current

    @classmethod
    def close_current(cls) -> None:
        """Close the current lab, if there is one."""
        if cls._current is not None:
            cls._current.close()

    # What the lab consists of

    def add_switch(self, switch: VSwitch) -> None:
        for other in self.switches.values():
            if int(other.dpid, 16) == int(switch.dpid, 16):
                raise LabError(
                    f"{other.name} and {switch.name} have the same datapath id {int(switch.dpid, 16):x}"
                )
        self.switches[switch.name] = switch
        if switch.cores:
            self.registry.add_cores(switch.cores)

    def add_vm(self, vm: VM) -> None:
        self.vms[vm.name] = vm

    def add_wire(self, wire: WireLink) -> None:
        """Raises LabError when there is no memory for a wire that comes after the others."""
        if self._validated:
            self._make_wires([wire])
        self.wires.append(wire)

    def remove_wire(self, wire: WireLink) -> None:
        """Forget a wire that no switch uses any more, and give its memory back."""
        self.wires.remove(wire)
        for suffix in ("", *(f".{end}{kind}" for end in wire_memory.ENDS for kind in ("", ".pool"))):
            Path(f"{wire.path}{suffix}").unlink(missing_ok=True)

    def require_new(self, name: str) -> None:
        """Raise when the lab has a node of this name."""
        if name in self.vms or name in self.switches:
            raise LabError(
                f"there is a node {name} in this lab already: give a second network of the same process "
                "a lab of its own, lab=Lab(), for all its nodes"
            )

    def node_stopped(self) -> None:
        """A node ended: with the last one the lab is over."""
        if not any(node.shell for node in self._nodes()):
            self.close()

    def _nodes(self) -> list[Any]:
        """All nodes, in the order in which they are to be ended."""
        return [*self.controllers, *self.switches.values(), *self.vms.values()]

    def close(self) -> None:
        """End all nodes of the lab and remove its files. May be called more than once, at any time."""
        if self.closed:
            return
        self.closed = True
        self.watch.close()
        for node in self._nodes():
            node.terminate()
        self.registry.remove_interfaces()
        self.registry.remove_sockets()
        for lock in self._reservations:
            lock.close()
        shutil.rmtree(self.wire_dir, ignore_errors=True)
        shutil.rmtree(LABS_DIR / self.name, ignore_errors=True)
        if not self.keep:
            shutil.rmtree(self.run_dir, ignore_errors=True)
        atexit.unregister(self.close)

    def warn_once(self, sentence: str) -> None:
        """Tell the user something that concerns all nodes of a kind."""
        if sentence not in self._told:
            self._told.add(sentence)
            warn(sentence)

    @functools.cached_property
    def ovs_rundir(self) -> Path | None:
        """Where ovs-ofctl looks for a switch that is given by name; None when it cannot be made."""
        folder = Path(os.environ.get(OVS_RUNDIR_VARIABLE) or OVS_RUNDIR).absolute()
        try:
            folder.mkdir()
            self.registry.add_folder(folder)
        except FileExistsError:
            pass
        except OSError as error:
            warn(f"(ovs-ofctl will find no switch by its name: cannot make {folder}: {error.strerror}) ")
            return None
        return folder

    def reserve_port(self, wanted: int | None = None, address: str = "127.0.0.1") -> int:
        """A TCP port for a process of this lab: `wanted` (raises LabError when taken), or any free one."""
        if wanted and not (isinstance(wanted, int) and 0 < wanted < 1 << 16):
            raise LabError(f"{wanted} is no TCP port: it is from 1 to 65535")
        while True:
            try:
                port = wanted or ephemeral_port(address)
            except OSError as error:
                raise LabError(f"nothing can listen at {address}: {error.strerror}") from None
            lock = None if listens(port, address) else reservation(port)
            if lock:
                self._reservations.append(lock)
                return port
            if wanted:
                raise LabError(f"TCP port {wanted} of {address} is in use: give another or none at all")

    def reserve_usual_port(self, usual: int, address: str = "127.0.0.1") -> int:
        """The port that a service usually has, or any free one when that is taken."""
        try:
            return self.reserve_port(usual, address)
        except LabError:
            return self.reserve_port(None, address)

    # What follows from the nodes

    def validate(self) -> None:
        """Check the network as a whole; raises LabError. Called once, when its first process is started."""
        if self._validated:
            return
        for switch in self.switches.values():
            switch.require_known_ports()
        self._require_unique_addresses()
        if self.orchestrator:
            if self.orchestrator.given_intent is None:
                self._require_vms(self.orchestrator.name)
                self._require_ways()
            else:
                self._require_fit(f"{self.orchestrator.name}: {self.orchestrator.intent_file}")
            self._fit_mtus(self.orchestrator.tunnel)
        self._require_disk()
        self._make_wires(self.wires)
        self._validated = True

    def _require_disk(self) -> None:
        """Raise when the run folder's disk has no room for logs."""
        need = PROCESS_NEED * (len(self.switches) + len(self.controllers))
        if wire_memory.free_bytes(self.run_dir) < need:
            raise LabError(
                f"the run folder {self.run_dir} needs {megabytes(need)} for logs, and "
                f"{wire_memory.has(self.run_dir)} on its disk: free some, or take another: Lab(run_dir=PATH)"
            )

    def _make_wires(self, wires: Sequence[WireLink]) -> None:
        """Make the wires' files, all of whose memory is taken then, and say how much that is."""
        if not wires:
            return
        mtus = [wire.mtu for wire in wires]
        wires_take = "1 wire takes" if len(wires) == 1 else f"{len(wires)} wires take"
        before = wire_memory.has(self.wire_dir)
        try:
            slots = wire_memory.make_wires({wire.path: wire.mtu for wire in wires})
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise LabError(f"cannot make the wires in {self.wire_dir}: {error.strerror}") from None
            raise LabError(
                f"{SHM_DIR} is too small: {wires_take} {wire_memory.least(mtus)}, and {before}: give it more "
                f"(mount -o remount,size=1G {SHM_DIR}; docker run --shm-size=1g), or take fewer wires or a "
                "smaller mtu"
            ) from None
        each = "" if len(wires) == 1 else " each"
        need = megabytes(sum(wire_memory.wire_size(mtu, slots) for mtu in mtus))
        say = info if slots == wire_memory.SLOTS[0] else warn
        say(f"({wires_take} {need} of {SHM_DIR}, where {before}, with {slots} slots{each}) ")

    def deal_cores(self) -> None:
        """Give their cores to the servers that have none yet, and were given none."""
        new = [switch for switch in self.switches.values() if switch.cores is None]
        if new:
            workers = [switch.workers for switch in new]
            dealt = deal(workers, physical_cores(), len(self.switches), cores_taken())
            for switch, cores in zip(new, dealt, strict=True):
                switch.cores = cores
                self.registry.add_cores(cores)

    def vnics(self) -> dict[str, TapIntf]:
        """All vNICs by name in the intent: a VM's first has the VM's, further ones their interface's."""
        return {
            vm.name if vnic is vm.tap else vnic.name: vnic for vm in self.vms.values() for vnic in vm.vnics
        }

    def _require_unique_addresses(self) -> None:
        seen: dict[tuple[str, str, str], str] = {}
        for name, vnic in self.vnics().items():
            for kind, address in (("MAC address", vnic.MAC()), ("IP address", vnic.IP())):
                other = seen.setdefault((vnic.network, kind, address), name)
                if address and other != name:
                    raise LabError(
                        f"{other} and {name} in network {vnic.network} have the same {kind} {address}"
                    )
        underlays: dict[str, str] = {}
        for switch in self.switches.values():
            other = underlays.setdefault(switch.underlay_ip, switch.name)
            if other != switch.name:
                raise LabError(
                    f"{other} and {switch.name} have the same underlay address {switch.underlay_ip}"
                )

    def _way(self, source: str, destination: str) -> list[str]:
        """The servers on the way between two; empty when there is none."""
        return path({name: switch.uplinks() for name, switch in self.switches.items()}, source, destination)

    def _servers_of_networks(self) -> dict[str, dict[str, str]]:
        """By virtual network: its servers, each with the name of a vNIC there."""
        found: dict[str, dict[str, str]] = {}
        for name, vnic in self.vnics().items():
            found.setdefault(vnic.network, {}).setdefault(vnic.server.name, name)
        return found

    def _require_vms(self, orchestrator: str) -> None:
        """Raise when the orchestrator's rules would serve nobody, and say whom they do not serve."""
        others = {str(node) for switch in self.switches.values() for node in switch.plain_neighbours()}
        others |= {vm.name for vm in self.vms.values() if not vm.vnics}
        left_out = ", ".join(sorted(others))
        if not self.vnics():
            instead = in_terms_of(
                "make hosts with cls=VM, join them by cls=TapLink, or take the controller Ryu",
                mn="take a topology that has VMs (--topo two_servers), or --controller ryu",
            )
            raise LabError(
                f"{orchestrator}: an Orchestrator's rules serve VMs at TapLinks, and there is none"
                + (f": {left_out} would reach nobody" if left_out else "")
                + f"; {instead}"
            )
        if left_out:
            warn(f"({orchestrator}: its rules serve VMs at TapLinks: {left_out} will reach nobody) ")

    def _require_fit(self, where: str) -> None:
        """Raise when the orchestrator's intent names ports that are not there, and say of which switches it
        is silent."""
        assert self.orchestrator and self.orchestrator.given_intent
        intent = self.orchestrator.given_intent
        for switch in self.switches.values():
            server = intent.server_of(int(switch.dpid, 16))
            if server is None:
                warn(f"({where} names no server of {switch.name}'s datapath id: it will forward nothing) ")
                continue
            for sentence in missing(claims(intent, server), switch.ports_by_number()):
                raise LabError(f"{where}: {sentence}")
        here = {int(switch.dpid, 16) for switch in self.switches.values()}
        for name, entry in intent.servers.items():
            if entry.dpid not in here:
                warn(f"({where}: servers.{name}: this network has no switch of its datapath id) ")

    def _require_ways(self) -> None:
        """Raise when servers share a virtual network and links between them are missing."""
        for network, ((first, vnic), *others) in (
            (network, servers.items()) for network, servers in self._servers_of_networks().items()
        ):
            for server, other in others:
                if not self._way(first, server):
                    raise LabError(
                        f"{vnic} and {other} are in network {network}, and no links lead from {first} to "
                        f"{server}: join them by WireLinks, directly or through other servers"
                    )

    def _wires_used(self, server: str, network: str) -> list[WireLink]:
        """The wires of a server, and those on the way to the other servers of a virtual network."""
        used = {frozenset((server, neighbour)) for neighbour in self.switches[server].uplinks()}
        for other in self._servers_of_networks()[network]:
            used |= {frozenset(pair) for pair in itertools.pairwise(self._way(server, other))}
        return [w for w in self.wires if frozenset((w.intf1.node.name, w.intf2.node.name)) in used]

    def _fit_mtus(self, format: Format) -> None:
        """A VM's frame, encapsulated, must fit the wires that it may cross: nothing fragments on the way. A
        vNIC that was given no MTU gets the largest.

        What a forwarding VM sends is cut to the MSS that was snooped: it may get and send larger packets.
        """
        wires_used = functools.cache(self._wires_used)
        for name, vnic in self.vnics().items():
            wires = wires_used(vnic.server.name, vnic.network)
            if wires:
                vnic.fit(min(wire.mtu for wire in wires) - overhead(format))
            for wire in wires:
                most = wire.mtu - overhead(format)
                if vnic.mtu > most and vnic.node.role != "forwarding":
                    raise LabError(
                        f"{name}: an MTU of {vnic.mtu} does not fit the wire {wire} of MTU {wire.mtu}: "
                        f"at most {most} does, as {format.name} adds {overhead(format)} bytes; "
                        "only a VM whose role is forwarding may have more"
                    )

    def intent(self) -> dict[str, Any]:
        """The intent for the controller: who is where, from the network itself."""
        orchestrator = self.orchestrator
        if not orchestrator:
            raise LabError("this lab has no orchestrator: there is nobody to give an intent to")
        return {
            "virtual_networks": {name: {"vni": vni} for name, vni in self._vnis().items()},
            "servers": {name: self._server(switch) for name, switch in self.switches.items()},
            "vms": {name: self._vm(vnic) for name, vnic in self.vnics().items()},
            "tunnel": {
                "format": orchestrator.tunnel.name,
                "packet_too_big": orchestrator.packet_too_big,
            },
            "formats": {name: dict(numbers) for name, numbers in orchestrator.formats.items()},
            "offload": {"gro": orchestrator.gro},
            "proactive_reverse": orchestrator.proactive_reverse,
        }

    def _server(self, switch: VSwitch) -> dict[str, Any]:
        server: dict[str, Any] = {"dpid": int(switch.dpid, 16), "underlay_ip": switch.underlay_ip}
        uplink = switch.uplink_port()
        if any(len(other.uplinks()) > 1 for other in self.switches.values()):
            return server | {"wires": switch.uplinks()}
        return server | ({"uplink_port": uplink} if uplink is not None else {})

    @staticmethod
    def _vm(vnic: TapIntf) -> dict[str, Any]:
        place = {"server": vnic.server.name, "port": vnic.server_port, "network": vnic.network}
        return {**place, "mac": vnic.MAC(), "ip": vnic.IP(), "role": vnic.node.role}

    def _vnis(self) -> dict[str, int]:
        """VNI of each virtual network: as a VM of it says, else the next that is free from 42 on."""
        given: dict[str, int] = {}
        vnics = self.vnics()
        for name, vnic in vnics.items():
            network, vni = vnic.network, vnic.vni
            if vni is not None and given.setdefault(network, vni) != vni:
                raise LabError(f"{name}: network {network} has VNI {given[network]}, not {vni}")
        free = (vni for vni in itertools.count(FIRST_VNI) if vni not in given.values())
        names = dict.fromkeys(vnic.network for vnic in vnics.values())
        return {name: given[name] if name in given else next(free) for name in names}


def free_name() -> str:
    """A name that no lab has: our process id, or that with a number.

    Others of our process may have it, and labs of other PID namespaces, of whom nobody can tell whether they
    still run.
    """
    names = itertools.chain([f"{os.getpid()}"], (f"{os.getpid()}-{number}" for number in itertools.count(2)))
    return next(
        name
        for name in names
        if not (LABS_DIR / name).exists() and not (SHM_DIR / f"mn-offload-{name}").exists()
    )


def require_root() -> None:
    if os.geteuid() != 0:
        raise LabError("a lab makes network namespaces and devices: run this as root, e.g. with sudo")


def require_program(name: str, package: str) -> None:
    """Raise when a program is not installed, and say which package has it."""
    if not shutil.which(name):
        raise LabError(f"{name} not found: install it, on Debian with: apt-get install {package}")


def check_interface_name(name: str) -> str:
    """An interface's name that the kernel takes; raises LabError otherwise."""
    if len(name) > MAX_INTERFACE_NAME:
        raise LabError(
            f"{name} has {len(name)} characters, and an interface's name at most {MAX_INTERFACE_NAME}: "
            "give the node a shorter name"
        )
    if not re.fullmatch(r"[^\s/:]+", name):
        raise LabError(f"{name!r} cannot be an interface's name: no spaces, slashes or colons")
    return name


def reservation(port: int) -> socket.socket | None:
    """Keep a TCP port from other labs until the socket that is returned is closed; None when it is taken.

    Between choosing a port and the start of the process that listens on it, another lab may choose too. What
    is bound is an abstract UNIX name: it is of this network namespace, as the port is, and ends with us.
    """
    lock = socket.socket(socket.AF_UNIX)
    try:
        lock.bind(f"\0mininet-offload/tcp/{port}")
    except OSError:
        lock.close()
        return None
    return lock


def listens(port: int, address: str) -> bool:
    """Whether something listens on a TCP port of a local address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError:
            return True
        return False


def ephemeral_port(address: str) -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]
