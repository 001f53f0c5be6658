# SPDX-License-Identifier: Apache-2.0
"""The nodes of a lab: `VSwitch`, the software switch, and `VM`, a host behind it on an emulated server."""

from __future__ import annotations

import ipaddress
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mininet.link import Intf, Link
from mininet.log import info, warn
from mininet.node import Controller, Host, Node, Switch

from topologies.compiling import compile_dataplane
from topologies.congestion import require_name, start_connections_with
from topologies.controllers import ROOT, Orchestrator
from topologies.errors import LabError, in_terms_of
from topologies.lab import Lab
from topologies.links import (
    SwitchPort,
    TapIntf,
    WirePort,
    require_options_of_a_plain_link,
    require_two_nodes,
)
from topologies.options import NODE_WORDS, options_of, require_known
from topologies.processes import end, how_it_ended, poll_until, run, run_on, spawn
from topologies.switch_options import (
    backoff,
    datapath_id,
    given_cores,
    more_options,
    require_ovs_words,
    without_controller,
    worker_count,
)
from topologies.users import create
from topologies.watch import Watched
from vswitch import ctl, saved
from vswitch.config import cores_in_words

READY_TIMEOUT_S = 90.0  # many may start at the same time
WIRE_TIMEOUT_S = 5.0
PATIENCE_S = 3.0  # after which the user is told what is being waited for
UNDERLAY = ipaddress.IPv4Network("192.168.0.0/16")
ROLES = ("terminating", "forwarding")
NOT_OF_A_VM = {
    word: f"a VM has no {word}: it runs on its server's cores, which are the switch's cpu=…"
    for word in ("cores", "cpu", "sched")
}
"""Words of Mininet's CPULimitedHost, which `mn --pin` gives."""

IPERF3_ALONE = ("setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all,+net_admin")
"""What takes root's privileges from an iperf3 server, but the one to set a congestion control that not all
may (`-C`)."""

NAMED_VMS = 3
"""So many VMs of a server are named when it starts, of more their number."""

FORWARDING = ("/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding")


class VSwitch(Switch):
    """A software switch: one process, `python -m vswitch`.

    It takes plain links as Mininet's own switches do, and as an emulated server's switch TapLinks to VMs and
    WireLinks to other servers.

    name, dpid, listenPort: as for Mininet's switches; when `listenPort` is taken, a free port is used.
    opts: more options of `python -m vswitch`, as one text.
    failMode: without a controller go on by the rules (`secure`), or be a learning switch (`standalone`).
    stp: with failMode standalone: run the spanning tree protocol; a text gives settings, as in
    `hello_time=1,max_age=6,forward_delay=4`.
    protocols, datapath, inband: as for Mininet's OVSSwitch; only what this switch is, is taken: OpenFlow13,
    user, False.
    max_backoff: seconds between two attempts to connect to a controller, at most; reconnectms: the same in
    milliseconds, OVSSwitch's word.
    underlay_ip: the server's tunnel end point; by default 192.168.x.y from the datapath id.
    workers: threads that forward packets; the receive queues of its ports go to them in turn.
    cpu: the server's cores, one or several (in `mn`: `0+1`): its workers are pinned to them in turn, and the
    processes of its VMs run there. None: the lab deals it its share; "any": the scheduler decides.
    lab: the lab that it belongs to; by default the current one.
    batch: set by Mininet when it starts several switches: they then start at the same time.

    Its shell has `vswitchctl` on the path and speaks to this switch: `s1 vswitchctl show`.
    """

    def __init__(
        self,
        name: str,
        dpid: str | None = None,
        listenPort: int | None = None,
        opts: str = "",
        failMode: str = "secure",
        stp: bool | int | str = False,
        protocols: str | Sequence[str] | None = None,
        datapath: str = "user",
        inband: bool = False,
        max_backoff: float | None = None,
        reconnectms: int | None = None,
        underlay_ip: str | None = None,
        workers: int = 1,
        cpu: int | str | Sequence[int] | None = None,
        lab: Lab | None = None,
        batch: bool = False,
        **params: Any,
    ) -> None:
        require_known(name, "VSwitch has no option", params, options_of(type(self)), mininets=NODE_WORDS)
        dpid = datapath_id(name, dpid)
        require_ovs_words(name, protocols, datapath, inband)
        self.workers = worker_count(name, workers)
        self.cores = given_cores(name, cpu)  # None: not dealt yet
        self.lab = lab or Lab.current()
        self.process: subprocess.Popen | None = None
        self.shell = None
        self.listenPort: int | None = None
        self._listen_port_reserved = False
        self._promised_port = 0
        self._gone: set[str] = set()  # names of ports that were removed since the last start
        self.failMode = failMode
        self._own_arguments = [
            *without_controller(name, failMode, stp),
            *backoff(name, max_backoff, reconnectms),
            *more_options(name, opts),
        ]
        self.lab.require_new(name)
        super().__init__(name, dpid=dpid, opts=opts, listenPort=listenPort, **params)
        number = int(self.dpid, 16)
        self.underlay_ip = underlay_ip or str(UNDERLAY[number % UNDERLAY.num_addresses])
        self.batch = batch
        self.controllers: list[Controller] = []
        try:
            self.lab.add_switch(self)
        except LabError:
            super().terminate()
            raise
        self._prepare_shell()

    def _prepare_shell(self) -> None:
        programs = Path(sys.executable).parent
        self.cmd(f'export PATH="{programs}:$PATH"')
        self.cmd(f'export VSWITCH_CTL="{self.control_path}" VSWITCH_RUN_DIR="{self.lab.run_dir}"')

    # Life

    def start(self, controllers: Sequence[Controller]) -> None:
        """Start the switch process; returns when it forwards as its controller wants."""
        self.lab.validate()
        self.controllers = list(controllers)
        self._spawn()
        info(f"({self._placement()}) ")
        if not self.batch:
            self.await_ready()

    @classmethod
    def batchStartup(cls, switches: Sequence[VSwitch]) -> Sequence[VSwitch]:
        """Wait for switches that were started together (Mininet calls it after `start` of each)."""
        for switch in switches:
            switch.batch = False  # started alone from now on, by `switch s1 start` or `restart`
            switch.await_ready()
        return switches

    def stop(self, deleteIntfs: bool = True) -> None:
        """End the switch process, cleanly if it lets us."""
        self.end_process()
        super().stop(deleteIntfs)

    def terminate(self) -> None:
        self.end_process()
        super().terminate()
        self.lab.node_stopped()

    def restart(self) -> None:
        """Start the process anew, whatever became of it; the network stays as it is, and so does what was set
        at run time: wires, NICs, formats, roles (docs/reference/vswitch.md)."""
        self.end_process()
        self._spawn()
        self.await_ready()

    def end_process(self) -> None:
        if self.process:
            self.lab.watch.forget(self.process)
            end(self.process)
            self.process = None
            for suffix in ("ctl", "files", "pid"):  # it may not have been able to
                (self.lab.run_dir / f"{self.name}.{suffix}").unlink(missing_ok=True)

    def _spawn(self) -> None:
        self.end_process()
        saved.forget_ports(self._settings_path, self._gone)
        self._settle_on_cores()
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))),
        }
        compile_dataplane(environment)
        with create(self._output_path) as output:
            self.process = spawn(
                self._argv(),
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                parting_signal=signal.SIGTERM,
            )
        self._gone.clear()
        self.lab.registry.add_process(self.process.pid)
        if self.lab.ovs_rundir:
            for suffix in ("mgmt", "snoop"):
                self.lab.registry.add_socket(self.lab.ovs_rundir / f"{self.name}.{suffix}")

    def _settle_on_cores(self) -> None:
        """Have the lab deal cores, and the server's VMs run on its own."""
        self.lab.deal_cores()
        for vm in self.vms():
            vm.run_on(self.cores or ())

    def _placement(self) -> str:
        """Where the server is, in words."""
        names = [vm.name for vm in self.vms()]
        if len(names) > NAMED_VMS:
            names = [f"{len(names)} VMs"]
        return cores_in_words(self.cores or ()) + (f", with {', '.join(names)}" if names else "")

    def vms(self) -> list[VM]:
        """The VMs of this server."""
        return [vm for vm in self.lab.vms.values() if vm.server is self]

    def _argv(self) -> list[str]:
        argv = [sys.executable, "-m", "vswitch", "--name", self.name, "--dpid", f"{int(self.dpid, 16):x}"]
        for controller in self.controllers:
            argv += ["--controller", f"{controller.protocol}:{controller.IP()}:{controller.port}"]
        self._reserve_listen_port()
        if self.listenPort:
            argv += ["--listen", f"ptcp:{self.listenPort}"]
        for number, port in sorted(self.ports_by_number().items()):
            kind = port.argument() if isinstance(port, SwitchPort) else f"packet:{port.name}"
            argv += ["--port", f"{number}={kind}"]
        argv += ["--run-dir", str(self.lab.run_dir), "--workers", str(self.workers)]
        argv += ["--settings", str(self._settings_path)]
        if self.lab.ovs_rundir:
            argv += ["--ovs-rundir", str(self.lab.ovs_rundir)]
        argv += ["--cpu", ",".join(map(str, self.cores))] if self.cores else []
        return argv + self._own_arguments

    def _reserve_listen_port(self) -> None:
        """Reserve the passive port, once; another one when it is taken, for instance by another lab."""
        if self._listen_port_reserved or not self.listenPort:
            return
        wanted = self.listenPort
        self.listenPort = self.lab.reserve_usual_port(wanted)
        if self.listenPort != wanted:
            info(f"({self.name} listens on port {self.listenPort}: {wanted} is in use) ")
        self._listen_port_reserved = True

    # Readiness

    def await_ready(self) -> None:
        """Return when the process answers `ready`, with an Orchestrator has the rules of its intent, and its
        wires, as far as their other ends run, carry."""
        if not poll_until(lambda: self._state() == "ready", PATIENCE_S):
            info(f"(waiting for {self.name}, which is {self._state() or 'starting'}) ")
            if not poll_until(lambda: self._state() == "ready", READY_TIMEOUT_S, 0.1):
                raise LabError(
                    f"{self.name} was not ready within {READY_TIMEOUT_S:g} s; {self._last_words()}"
                )
        for controller in self.controllers:
            if isinstance(controller, Orchestrator):
                controller.await_rules(self)
        self._await_wires()
        self._tell_of_the_name()
        assert self.process
        self.lab.watch.add(Watched(self.name, self.process, self._log_path, self._advice))
        for problem in self.show()["not_restored"]:
            warn(f"({self.name}: {problem}) ")

    def _tell_of_the_name(self) -> None:
        """Say so when `ovs-ofctl … NAME` means another switch, or none."""
        folder = self.lab.ovs_rundir
        if folder and str(folder / f"{self.name}.mgmt") not in self.show()["listens_by_name_at"]:
            port = self.listenPort
            advice = f"use tcp:127.0.0.1:{port}" if port else "give this one another, or a listenPort"
            warn(f"({self.name}: ovs-ofctl finds another switch by this name in {folder}: {advice}) ")

    def _await_wires(self) -> None:
        """Return when every wire of which both switches are ready carries, in the eyes of both."""
        for port in self.switch_ports().values():
            if isinstance(port, WirePort):
                switches = (port.link.intf1.node, port.link.intf2.node)
                if all(switch.ready for switch in switches) and not poll_until(port.link.up, WIRE_TIMEOUT_S):
                    raise LabError(f"the wire {port.link} did not come up within {WIRE_TIMEOUT_S:g} s")

    def _state(self) -> str:
        """What the process says of itself, empty while it does not answer; raises LabError when it ended."""
        if self.process is None or self.process.poll() is not None:
            raise LabError(f"{self._end()} while it was starting; {self._last_words()}")
        try:
            return self.show()["state"]
        except ctl.CtlError:
            return ""

    def _end(self) -> str:
        """How the process came to its end, as the beginning of a sentence."""
        status = self.process.poll() if self.process else None
        return f"{self.name} {'ended' if status is None else how_it_ended(status)}"

    @property
    def _advice(self) -> str:
        return f"start it anew with {in_terms_of('', mn='py ')}{self.name}.restart()"

    def _last_words(self) -> str:
        lines = (
            self._output_path.read_text(errors="replace").strip().splitlines()
            if self._output_path.exists()
            else []
        )
        return f"its last words: {lines[-1].strip()}" if lines else f"its log is {self._log_path}"

    # Control

    @property
    def control_path(self) -> Path:
        return self.lab.run_dir / f"{self.name}.ctl"

    @property
    def _output_path(self) -> Path:
        return self.lab.run_dir / f"{self.name}.out"

    @property
    def _settings_path(self) -> Path:
        """In a folder of root's, in which the switch may write without privileges."""
        return self.lab.registry.run_dir / f"{self.name}.settings"

    @property
    def _log_path(self) -> Path:
        return self.lab.run_dir / f"{self.name}.log"

    @property
    def ready(self) -> bool:
        """Whether the process runs and answers `ready`."""
        return self.running and self._state() == "ready"

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def control(self, method: str, **params: Any) -> Any:
        """Call a method of the control socket, as in `control("show")`; raises CtlError."""
        if self.process is not None and not self.running:
            raise ctl.CtlError(f"{self._end()}: {self._advice}")
        return ctl.call(self.control_path, method, **params)

    def set_wire(self, port: WirePort, **settings: Any) -> None:
        """Change how a wire treats what the switch sends, now or from its next start on."""
        if self.running:
            self.control("wire.set", port=self.ports[port], **settings)
        else:
            saved.change_wire(self._settings_path, port.name, settings)

    def show(self) -> dict[str, Any]:
        """State of the switch: `vswitchctl show`."""
        return self.control("show")

    def connected(self) -> bool:
        """Whether a controller is connected, or there is none to wait for (Mininet asks)."""
        if self.failMode == "standalone" or not self.controllers:
            return True
        try:
            return any(controller["connected"] for controller in self.show()["controllers"])
        except ctl.CtlError:
            return False

    def dpctl(self, *args: str) -> str:
        """`ovs-ofctl` on this switch (the CLI's `dpctl`)."""
        if self.listenPort:
            target = f"tcp:127.0.0.1:{self.listenPort}"
        elif self.lab.ovs_rundir:
            target = f"unix:{self.lab.ovs_rundir / self.name}.mgmt"
        else:
            return f"{self.name} has no passive port: start mn without --nolistenport\n"
        return self.cmd("ovs-ofctl", "-O", "OpenFlow13", args[0], target, *args[1:])

    # Ports

    def ports_by_number(self) -> dict[int, Intf]:
        """What each OpenFlow port is: the end of a TapLink or WireLink, or a plain link's interface."""
        return {number: intf for number, intf in self.intfs.items() if intf.name != "lo"}

    def switch_ports(self) -> dict[int, SwitchPort]:
        """The ports that are no interfaces of the kernel, by number."""
        return {number: intf for number, intf in self.intfs.items() if isinstance(intf, SwitchPort)}

    def __repr__(self) -> str:
        """As Mininet's (the CLI's `dump`), which says of every port that it has no address."""
        ports = ",".join(
            f"{intf} ({intf.what})" if isinstance(intf, SwitchPort) else f"{intf}:{intf.IP()}"
            for intf in self.intfList()
        )
        return f"<{type(self).__name__} {self.name}: {ports} pid={self.pid}> "

    def plain_ports(self) -> list[Intf]:
        """The ends of plain links (`Link`, `TCLink` …): interfaces in the root namespace."""
        return [intf for intf in self.ports_by_number().values() if not isinstance(intf, SwitchPort)]

    def plain_neighbours(self) -> list[Node]:
        """Whatever is no VSwitch at the other ends of plain links: hosts, switches of other kinds."""
        others = [_other_end(intf) for intf in self.plain_ports()]
        return [node for node in others if node is not None and not isinstance(node, VSwitch)]

    def uplink_port(self) -> int | None:
        """Number of the port that carries the tunnels: the first wire's, or else link's to a switch."""
        ports = self.ports_by_number()
        wires = [number for number, port in ports.items() if isinstance(port, WirePort)]
        plain = [number for number, port in ports.items() if isinstance(_other_end(port), VSwitch)]
        return min(wires or plain, default=None)

    def newPort(self) -> int:
        """The next free number. A plain link from the switch to itself asks twice before it makes its ends:
        they get different ones, so that addIntf can say what is wrong."""
        self._promised_port = max(super().newPort(), self._promised_port + 1)
        return self._promised_port

    def uplinks(self) -> dict[str, int]:
        """By the name of each switch that a link leads to: the number of the port, a wire's if there is one,
        and the first of several."""
        ports = self.ports_by_number()
        found: dict[str, int] = {}
        for number in sorted(ports, key=lambda number: (not isinstance(ports[number], WirePort), number)):
            other = _other_end(ports[number])
            if isinstance(other, VSwitch):
                found.setdefault(other.name, number)
        return found

    def addIntf(self, intf: Intf, *args: Any, **params: Any) -> None:
        """Mininet adds the end of a link, before it sets it up. A running switch gets the port at its next
        start."""
        plain = not isinstance(intf, SwitchPort) and intf.name != "lo" and not self.inNamespace
        if plain:
            self.lab.registry.add_interface(intf.name)
            self._require_other_node(intf)
            self._leave_to_the_switch(intf)
        super().addIntf(intf, *args, **params)
        self._promised_port = 0
        if plain and self.running:
            warn(f"({self._fixed_ports(intf)}) ")

    def delIntf(self, intf: Intf) -> None:
        """Mininet removes the end of a link. What was set of the port goes with it at the next start."""
        super().delIntf(intf)
        self._gone.add(intf.openflow_name if isinstance(intf, SwitchPort) else intf.name)

    def _require_other_node(self, intf: Intf) -> None:
        """Raise, and remove both ends, when the other end of an interface's link is here, too."""
        for other in self.plain_ports():
            if intf.link and other.link is intf.link:
                run(["ip", "link", "delete", intf.name])
                self.delIntf(other)
                require_two_nodes(self, self)

    def attach(self, intf: Intf | str) -> None:
        """Refused: raises LabError."""
        raise LabError(self._fixed_ports(intf))

    def detach(self, intf: Intf | str) -> None:
        """Refused: raises LabError. A port whose interface is removed goes down."""
        raise LabError(self._fixed_ports(intf))

    def _fixed_ports(self, intf: Intf | str) -> str:
        return (
            f"{intf}: the ports of {self.name} are fixed while it runs: make all links before it starts, "
            f"or {self._advice}"
        )

    def require_known_ports(self) -> None:
        """Raise when a link ends here that the switch cannot take."""
        if self.inNamespace and self.plain_ports():
            raise LabError(
                f"{self.plain_ports()[0]}: {self.name} is in a namespace of its own, where no plain link can "
                f"end: leave out {in_terms_of('inNamespace=True', mn='--innamespace')}"
            )
        for port in self.plain_ports():
            require_options_of_a_plain_link(port)

    def _leave_to_the_switch(self, intf: Intf) -> None:
        """Let the kernel's own stack keep off a port's interface: it would answer ARP and route what is only
        to be switched, and send neighbour discovery of its own."""
        for setting, value in (
            ("ipv6/conf/{}/disable_ipv6", "1"),
            ("ipv4/conf/{}/arp_ignore", "8"),
            ("ipv4/conf/{}/forwarding", "0"),
        ):
            path = Path("/proc/sys/net", setting.format(intf.name))
            if path.exists():  # a kernel may lack IPv6
                path.write_text(value)


def _other_end(intf: Intf) -> Any:
    """The node at the other end of an interface's link."""
    if not isinstance(intf.link, Link):
        return None
    first, second = intf.link.intf1, intf.link.intf2
    return second.node if first is intf else first.node


class VM(Host):
    """A virtual machine: a Mininet host whose vNICs are TAP devices that its server's switch owns.

    network: the virtual network that it is in.
    vni: that network's number; None takes the next free one from 42.
    role: `terminating`, or `forwarding` for a router: it forwards IP packets between its vNICs, one for each
    TapLink, which may be in different networks.
    congestion: TCP congestion control that its connections start with; None: the machine's default.
    iperf3: whether an iperf3 server runs in it, on its standard port, so that `vm1 iperf3 -c vm2` works.
    lab: the lab that it belongs to; by default the current one.
    Others (`ip`, `mac` …): as for Mininet's hosts, of its first vNIC.
    """

    def __init__(
        self,
        name: str,
        network: str = "blue",
        vni: int | None = None,
        role: str = "terminating",
        congestion: str | None = "cubic",
        iperf3: bool = True,
        lab: Lab | None = None,
        **params: Any,
    ) -> None:
        require_known(name, "VM has no option", params, options_of(type(self)), NOT_OF_A_VM, NODE_WORDS)
        if role not in ROLES:
            raise LabError(f"{name}: a VM's role is {' or '.join(ROLES)}, not {role!r}")
        self.lab = lab or Lab.current()
        self.network = network
        self.vni = vni
        self.role = role
        self.congestion = None if congestion is None else require_name(name, congestion)
        self.cores: tuple[int, ...] = ()  # any
        self.iperf3 = iperf3
        self.vnics: list[TapIntf] = []
        self.process: subprocess.Popen | None = None
        self.shell = None
        self.lab.require_new(name)
        super().__init__(name, **params)
        self.lab.add_vm(self)

    @property
    def tap(self) -> TapIntf | None:
        """Its first vNIC."""
        return self.vnics[0] if self.vnics else None

    @property
    def server(self) -> VSwitch | None:
        """The switch that it hangs on."""
        return self.tap.server if self.tap else None

    @property
    def server_port(self) -> int | None:
        """The switch's port of its first vNIC."""
        return self.tap.server_port if self.tap else None

    @property
    def mac(self) -> str:
        return self.MAC()

    def config(self, **params: Any) -> dict[str, Any]:
        """Configure addresses and forwarding (Mininet calls it when the network is built), and start the
        iperf3 server."""
        result = super().config(**params)
        if self.role == "forwarding":
            for setting in FORWARDING:
                self.cmd(f"test ! -e {setting} || echo 1 > {setting}")  # a kernel may lack IPv6
        if self.congestion and self.inNamespace:
            began = start_connections_with(self, self.congestion)
            if began != self.congestion:
                self.lab.warn_once(
                    f"(VMs start with {began}: the kernel leaves {self.congestion} to the machine's own "
                    "network namespace) "
                )
        if self.iperf3 and self.process is None:
            if shutil.which("iperf3"):
                self.process = spawn(
                    [*IPERF3_ALONE, "iperf3", "-s"], pid=self.pid, cpus=frozenset(self.cores)
                )
                self.lab.registry.add_process(self.process.pid)
                start = in_terms_of(f"{self.name}.cmd('iperf3 -s &')", mn=f"{self.name} iperf3 -s &")
                who, advice = f"the iperf3 server of {self.name}", f"start another with {start}"
                self.lab.watch.add(Watched(who, self.process, None, advice))
            else:
                warn(f"({self.name} has no iperf3 server: iperf3 is not installed) ")
        return result

    def run_on(self, cores: tuple[int, ...]) -> None:
        """Have its processes, and those that they start, run on these cores; () stands for any."""
        if cores != self.cores:
            self.cores = cores
            for process in (self.shell, self.process):
                if process:
                    run_on(process.pid, cores)

    def _popen(self, cmd: list[str], **params: Any) -> subprocess.Popen:
        """Mininet starts the shell so, and what `popen` and `pexec` are given."""
        if self.cores:
            params.setdefault("preexec_fn", lambda: os.sched_setaffinity(0, self.cores))
        return super()._popen(cmd, **params)

    def terminate(self) -> None:
        self.end_process()
        super().terminate()
        self.lab.node_stopped()

    def end_process(self) -> None:
        if self.process:
            self.lab.watch.forget(self.process)
            end(self.process)
            self.process = None
