# SPDX-License-Identifier: Apache-2.0
"""How `mn` behaves with a lab: errors are one sentence, and what is removed afterwards is only this lab."""

from __future__ import annotations

import functools
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import mininet.clean
import mininet.util
from mininet.log import error, output
from mininet.net import Mininet, MininetWithControlNet
from mininet.node import Controller, Node

from topologies.controllers import Ryu
from topologies.errors import LabError, speak_mn
from topologies.interrupts import raise_again_what_is_ignored
from topologies.lab import Lab
from topologies.links import require_two_nodes
from topologies.nodes import VSwitch
from topologies.options import (
    READ_BY_KEY,
    TOPO_WORDS,
    is_mininets,
    named,
    options_of_mininets,
    parameters_of_topology,
    require_known,
    require_once,
)
from topologies.processes import listening, poll_until
from topologies.registry import remove_leftovers
from vswitch.errors import VSwitchError

IPERF_PATIENCE_S = 5.0
CONNECT_PATIENCE_S = 20.0


_given: dict[type, str] = {}
"""The classes that `mn` made of words with options, and these words."""


class LabNet(Mininet):
    """Mininet's network, whose errors of the user's end `mn` with one sentence and exit status 1."""

    def build(self) -> None:
        with user_errors():
            try:
                super().build()
                self._require_used()
            except Exception as problem:  # Mininet raises no other type
                if not str(problem).strip().endswith("File exists"):
                    raise
                raise LabError(
                    f"{str(problem).strip()}: another network has an interface of this name: end that one, "
                    "remove what was left behind (mn -c), or give the nodes other names"
                ) from None

    def _require_used(self) -> None:
        """Raise for options of `--host`, `--switch` or `--link` that are for none of the topology's."""
        made = {
            "host": (self.host, self.hosts),
            "switch": (self.switch, self.switches),
            "link": (self.link, self.links),
        }
        for option, (kind, things) in made.items():
            if kind in _given and things and not any(isinstance(thing, kind) for thing in things):
                raise LabError(
                    f"--{option} {_given[kind]}: the topology itself says what each {option} is, so these "
                    "options are for none: leave them out, or give the topology's own (--topo NAME,key=value)"
                )

    def addLink(self, node1: Any, node2: Any, *args: Any, **params: Any) -> Any:
        """As Mininet's, which fails without a sentence on a link from a node to itself."""
        first, second = (self[node] if isinstance(node, str) else node for node in (node1, node2))
        require_two_nodes(first, second)
        return super().addLink(first, second, *args, **params)

    def waitConnected(self, timeout: float | None = None, delay: float = 0.5) -> bool:
        """As Mininet's, which without `timeout` waits forever for a controller that is not there."""
        connected = super().waitConnected(CONNECT_PATIENCE_S if timeout is None else timeout, delay)
        if timeout is None and not connected:
            with user_errors():
                names = ", ".join(switch.name for switch in self.switches if not switch.connected())
                raise LabError(
                    f"{names}: no controller answers within {CONNECT_PATIENCE_S:g} s: start one where "
                    "--controller says, or give the switch failMode=standalone"
                )
        return connected

    def start(self) -> None:
        """Start all; switches start at the same time (`VSwitch.batchStartup` waits for them)."""
        for switch in self.switches:
            if isinstance(switch, VSwitch):
                switch.batch = True
        with user_errors():
            super().start()

    def iperf(
        self,
        hosts: Sequence[Node] | None = None,
        l4Type: str = "TCP",
        udpBw: str = "10M",
        fmt: str | None = None,
        seconds: int = 5,
        port: int = 5001,
    ) -> list[str]:
        """As Mininet's (the CLI's `iperf`, `--test iperf`), which waits forever for iperf 2.1: that does not
        report the connection of Mininet's probe as a transfer of its own."""
        client, server = hosts or (self.hosts[0], self.hosts[-1])
        output(f"*** Iperf: testing {l4Type} bandwidth between {client} and {server}\n")
        udp = l4Type == "UDP"
        iperf = f"iperf -p {port}" + " -u" * udp + (f" -f {fmt}" if fmt else "")
        server.sendCmd(f"{iperf} -s")
        poll_until(lambda: listening(server.pid, port, l4Type.lower()), IPERF_PATIENCE_S)
        sent = client.cmd(f"{iperf} -t {seconds} -c {server.IP()}" + f" -b {udpBw}" * udp)
        received, deadline = "", time.monotonic() + IPERF_PATIENCE_S
        while "/sec" not in received and time.monotonic() < deadline:
            received += server.monitor(timeoutms=100)
        server.sendInt()
        received += server.waitOutput()
        result = [udpBw] * udp + [self._parseIperf(received), self._parseIperf(sent)]
        output(f"*** Results: {result}\n")
        return result

    def iperfUdp(
        self,
        udpBw: str = "10M",
        hosts: Sequence[Node] | None = None,
        fmt: str | None = None,
        seconds: int = 5,
        port: int = 5001,
    ) -> list[str]:
        """`--test iperfudp`: `mn` asks for this method, which its Mininet does not have."""
        return self.iperf(hosts, "UDP", udpBw, fmt, seconds, port)


class LabControlNet(LabNet, MininetWithControlNet):
    """The network of `mn --innamespace`: whether its switches can be so is told in one sentence, too."""


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn an error that is meant for the user into a sentence and the end of the program."""
    try:
        yield
    except VSwitchError as problem:
        error(f"\n*** Error: {problem}\n")
        Lab.close_current()
        sys.exit(1)


def reported(test: Callable[..., Any]) -> Callable[..., Any]:
    """A test for `mn`'s table whose errors are reported likewise."""

    @functools.wraps(test)
    def run(*args: Any, **params: Any) -> Any:
        with user_errors():
            try:
                return test(*args, **params)
            except TypeError as problem:  # too many parameters
                raise LabError(f"--test: {problem}") from None

    return run


def custom_class(classes: dict[str, Any], words: str) -> Any:
    """As Mininet's `customClass`, for `--switch`, `--host`, `--controller` and `--link`: a name that is in no
    table ends `mn` with one sentence."""
    with user_errors():
        name, _, options = mininet.util.splitArgs(words)
        require_known(words, "there is no", [name], classes)
        require_once(words, words)
        kind = classes[name]
        if isinstance(kind, type) and is_mininets(kind):  # it would not say what it does not know
            known = options_of_mininets(kind)
            require_known(words, f"{name} has no option", options, known, mininets=READ_BY_KEY)
    kind = mininet.util.customClass(classes, words)
    if "," in words:
        _given[kind] = words
    return kind


def build_topo(topos: dict[str, Any], words: str) -> Any:
    """As Mininet's `buildTopo`, likewise; also for parameters that the topology cannot take."""
    with user_errors():
        name, _, given = mininet.util.splitArgs(words)
        require_known("--topo", "there is no", [name], topos)
        require_once(f"--topo {words}", words)
        known = parameters_of_topology(topos[name])
        if known is not None:
            require_known(name, "there is no parameter", given, known, mininets=TOPO_WORDS)
        try:
            return mininet.util.buildTopo(topos, words)
        except (TypeError, ValueError) as problem:
            raise LabError(f"--topo {words}: {problem}") from None


def check_tests(options: Any) -> None:
    """What `mn` calls before it builds the network: a test that is not known, or a parameter that it does not
    have, need not wait for it."""
    mn = sys.modules["__main__"]
    for words in "+".join(options.test).split("+") if options.test else ():
        name, _, given = mininet.util.splitArgs(words)
        method = mn.ALTSPELLING.get(name.lower(), name)
        with user_errors():
            require_once(f"--test {words}", words)
            if not hasattr(LabNet, method):
                require_known("--test", "there is no", [name], {*mn.TESTS, *mn.ALTSPELLING})
            test = mn.TESTS.get(method)
            _net, *parameters = named(test if callable(test) else getattr(LabNet, method))
            require_known("--test", f"{name} has no parameter", given, parameters)


def default_controller() -> type[Controller]:
    """What `mn` takes without `--controller`: Ryu's learning switch. Its own choice is seldom installed."""
    return Ryu


def clean_up() -> None:
    """What `mn` calls for `-c`, and after an exception or Ctrl-C.

    `-c` removes whatever any Mininet left behind, as always, and what labs left behind. After an error only
    this lab is removed: Mininet's own clean-up would end every other lab on the machine; and the exit status
    tells of the error, which Mininet's does not.
    """
    if {"-c", "--clean"} & set(sys.argv):
        mininet.clean.cleanup()
        return
    failure = sys.exc_info()[0]
    Lab.close_current()
    if failure is not None:
        sys.exit(128 + signal.SIGINT if issubclass(failure, KeyboardInterrupt) else 1)


def install() -> None:
    """Let `mn -c` remove leftovers of labs, SIGTERM and SIGHUP end one properly, and hints speak of `mn`."""
    speak_mn()
    mininet.clean.addCleanupCallback(remove_leftovers)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    raise_again_what_is_ignored()


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
