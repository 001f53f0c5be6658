# SPDX-License-Identifier: Apache-2.0
"""The spanning tree protocol (IEEE 802.1D-1998, clause 8) of one bridge, without I/O.

    tree = SpanningTree(bridge_id, settings, now_ns)
    tree.enable(port_no, now_ns)                       # for each port whose link is up
    tree.receive(port_no, bpdu, now_ns)
    tree.handle_timer(now_ns)                          # at next_timer()
    for port_no, bpdu in tree.to_send(): ...
    tree.state(port_no)                                # what the port may do

The procedures are those of the standard's section 8.6, in its words.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from functools import partial

from vswitch.agent.bpdu import SECOND_NS, Bpdu, ConfigBpdu, TcnBpdu
from vswitch.config import StpSettings

PATH_COST = 2
"""Of every port: that of 10 Gbit/s (802.1t, table 8-5), the speed that ports report."""

HOLD_TIME_NS = SECOND_NS
"""Between two configuration BPDUs of a port (table 8-3)."""

MESSAGE_AGE_INCREMENT_NS = SECOND_NS
PORT_PRIORITY = 0x8000
MAX_PORT_INDEX = 0xFFF


class State(enum.Enum):
    """What a port does (section 8.4)."""

    DISABLED = "disabled"
    BLOCKING = "blocking"
    LISTENING = "listening"
    LEARNING = "learning"
    FORWARDING = "forwarding"

    @property
    def learns(self) -> bool:
        return self in (State.LEARNING, State.FORWARDING)


class _Port:
    """A port's variables (section 8.5.5). Timers are the time at which they were started; None: off."""

    def __init__(self, number: int, port_id: int) -> None:
        self.number = number
        self.port_id = port_id
        self.state = State.DISABLED
        self.designated_root = self.designated_cost = self.designated_bridge = self.designated_port = 0
        self.topology_change_ack = False
        self.config_pending = False
        self.message_age_since: int | None = None
        self.forward_delay_since: int | None = None
        self.hold_since: int | None = None


class SpanningTree:
    """See the module's docstring. bridge_id: 16 bits of priority, then the bridge's address."""

    def __init__(self, bridge_id: int, settings: StpSettings, now_ns: int) -> None:
        self.bridge_id = bridge_id
        self.designated_root = bridge_id
        self.root_path_cost = 0
        self.topology_change = False
        self.addresses_moved = False
        """Stations may be behind other ports now; for the user to clear."""

        self._own = settings
        self._now = now_ns
        self._root_port: _Port | None = None
        self._ports: dict[int, _Port] = {}
        self._use_own_timeouts()
        self._topology_change_detected = False
        self._hello_since: int | None = now_ns
        self._tcn_since: int | None = None
        self._topology_change_since: int | None = None
        self._output: list[tuple[int, Bpdu]] = []

    # --- the user's side ---------------------------------------------------------------------------------

    def state(self, port_no: int) -> State:
        port = self._ports.get(port_no)
        return State.DISABLED if port is None else port.state

    def role(self, port_no: int) -> str:
        """`root`, `designated`, `blocked` or `disabled`."""
        port = self._ports.get(port_no)
        if port is None or port.state == State.DISABLED:
            return "disabled"
        if port is self._root_port:
            return "root"
        return "designated" if self._is_designated(port) else "blocked"

    @property
    def root_port(self) -> int | None:
        """The number of the port towards the root; None: this bridge is the root."""
        return None if self._root_port is None else self._root_port.number

    @property
    def forward_delay_ns(self) -> int:
        """The root's, which all bridges go by."""
        return self._forward_delay

    def enable(self, port_no: int, now_ns: int) -> None:
        """A port's link is up (section 8.8.2); without effect when it was."""
        self._now = now_ns
        port = self._ports.setdefault(port_no, _Port(port_no, self._new_port_id(port_no)))
        if port.state == State.DISABLED:
            self._become_designated(port)
            port.state = State.BLOCKING
            port.topology_change_ack = port.config_pending = False
            port.message_age_since = port.forward_delay_since = port.hold_since = None
            self._select_states()
            self._transmit_config(port)  # who is there need not wait for the next hello

    def disable(self, port_no: int, now_ns: int) -> None:
        """A port's link is down, or it is gone (section 8.8.3)."""
        self._now = now_ns
        port = self._ports.get(port_no)
        if port is None or port.state == State.DISABLED:
            return
        was_root = self._is_root
        self._become_designated(port)
        if port.state.learns:
            self.addresses_moved = True
        port.state = State.DISABLED
        port.topology_change_ack = port.config_pending = False
        port.message_age_since = port.forward_delay_since = None
        self._update()
        self._select_states()
        if self._is_root and not was_root:
            self._become_root()

    def receive(self, port_no: int, bpdu: Bpdu, now_ns: int) -> None:
        """A port got this; ports that are disabled get nothing."""
        self._now = now_ns
        port = self._ports.get(port_no)
        if port is None or port.state == State.DISABLED:
            return
        if isinstance(bpdu, ConfigBpdu):
            self._received_config(port, bpdu)
        elif self._is_designated(port):
            self._detect_topology_change()
            port.topology_change_ack = True
            self._transmit_config(port)

    def next_timer(self) -> int | None:
        """When handle_timer() is due."""
        return min((due for due, _expire in self._timers()), default=None)

    def handle_timer(self, now_ns: int) -> None:
        """Carry out what is due, the earliest first."""
        self._now = now_ns
        while True:
            due = min(self._timers(), key=lambda timer: timer[0], default=None)
            if due is None or due[0] > now_ns:
                return
            due[1]()

    def to_send(self) -> list[tuple[int, Bpdu]]:
        """(port number, BPDU) of what is to be sent, in order; each is told once."""
        output, self._output = self._output, []
        return output

    # --- BPDUs -------------------------------------------------------------------------------------------

    def _received_config(self, port: _Port, bpdu: ConfigBpdu) -> None:
        """Section 8.7.1."""
        was_root = self._is_root
        if self._supersedes(port, bpdu):
            self._record(port, bpdu)
            self._update()
            self._select_states()
            if was_root and not self._is_root:
                self._hello_since = None
                if self._topology_change_detected:
                    self._topology_change_since = None
                    self._transmit_tcn()
            if port is self._root_port:
                self._take_timeouts(bpdu)
                self._generate()
                if bpdu.topology_change_ack:
                    self._topology_change_detected = False
                    self._tcn_since = None
        elif self._is_designated(port):
            self._transmit_config(port)

    def _supersedes(self, port: _Port, bpdu: ConfigBpdu) -> bool:
        """Section 8.6.2.2: is this better than what is known of the port's LAN, or news of its bridge?"""
        told = bpdu.root_id, bpdu.root_path_cost, bpdu.bridge_id
        known = port.designated_root, port.designated_cost, port.designated_bridge
        if told != known:
            return told < known
        return bpdu.bridge_id != self.bridge_id or bpdu.port_id <= port.designated_port

    def _record(self, port: _Port, bpdu: ConfigBpdu) -> None:
        port.designated_root, port.designated_cost = bpdu.root_id, bpdu.root_path_cost
        port.designated_bridge, port.designated_port = bpdu.bridge_id, bpdu.port_id
        port.message_age_since = self._now - bpdu.message_age_ns

    def _take_timeouts(self, bpdu: ConfigBpdu) -> None:
        self._max_age, self._hello_time = bpdu.max_age_ns, bpdu.hello_time_ns
        self._forward_delay = bpdu.forward_delay_ns
        self._set_topology_change(bpdu.topology_change)

    def _use_own_timeouts(self) -> None:
        own = self._own
        self._max_age, self._hello_time, self._forward_delay = (
            seconds * SECOND_NS for seconds in (own.max_age, own.hello_time, own.forward_delay)
        )

    def _generate(self) -> None:
        """Section 8.6.4."""
        for port in self._ports.values():
            if port.state != State.DISABLED and self._is_designated(port):
                self._transmit_config(port)

    def _transmit_config(self, port: _Port) -> None:
        """Section 8.6.1."""
        if port.hold_since is not None:
            port.config_pending = True
            return
        age = 0
        if self._root_port is not None:
            since = self._root_port.message_age_since
            assert since is not None  # a root port was told so
            age = self._now - since + MESSAGE_AGE_INCREMENT_NS
        if age >= self._max_age:
            return
        bpdu = ConfigBpdu(
            self.designated_root,
            self.root_path_cost,
            self.bridge_id,
            port.port_id,
            age,
            self._max_age,
            self._hello_time,
            self._forward_delay,
            self.topology_change,
            port.topology_change_ack,
        )
        port.topology_change_ack = port.config_pending = False
        port.hold_since = self._now
        self._output.append((port.number, bpdu))

    def _transmit_tcn(self) -> None:
        assert self._root_port is not None
        self._tcn_since = self._now
        self._output.append((self._root_port.number, TcnBpdu()))

    # --- roles and states --------------------------------------------------------------------------------

    @property
    def _is_root(self) -> bool:
        return self._root_port is None

    def _is_designated(self, port: _Port) -> bool:
        return (port.designated_bridge, port.designated_port) == (self.bridge_id, port.port_id)

    def _update(self) -> None:
        """Sections 8.6.7 to 8.6.9: which port leads to the root, and which are their LANs' ways to it."""
        paths = [
            (
                (
                    port.designated_root,
                    port.designated_cost + PATH_COST,
                    port.designated_bridge,
                    port.designated_port,
                    port.port_id,
                ),
                port,
            )
            for port in self._ports.values()
            if port.state != State.DISABLED
            and not self._is_designated(port)
            and port.designated_root < self.bridge_id
        ]
        if paths:
            (self.designated_root, self.root_path_cost, *_), self._root_port = min(paths, key=lambda p: p[0])
        else:
            self.designated_root, self.root_path_cost, self._root_port = self.bridge_id, 0, None
        for port in self._ports.values():
            ours = self.root_path_cost, self.bridge_id, port.port_id
            theirs = port.designated_cost, port.designated_bridge, port.designated_port
            if self._is_designated(port) or port.designated_root != self.designated_root or ours < theirs:
                self._become_designated(port)

    def _become_designated(self, port: _Port) -> None:
        port.designated_root, port.designated_cost = self.designated_root, self.root_path_cost
        port.designated_bridge, port.designated_port = self.bridge_id, port.port_id

    def _select_states(self) -> None:
        """Section 8.6.11."""
        for port in self._ports.values():
            if port.state == State.DISABLED:
                continue
            designated = self._is_designated(port)
            if designated:
                port.message_age_since = None
            else:
                port.config_pending = port.topology_change_ack = False
            if designated or port is self._root_port:
                if port.state == State.BLOCKING:
                    port.state = State.LISTENING
                    port.forward_delay_since = self._now
            elif port.state != State.BLOCKING:
                learned = port.state.learns
                port.state = State.BLOCKING
                port.forward_delay_since = None
                if learned:
                    self.addresses_moved = True
                    self._detect_topology_change()

    def _become_root(self) -> None:
        """Of sections 8.7.4 and 8.8.3."""
        self._use_own_timeouts()
        self._detect_topology_change()
        self._tcn_since = None
        self._generate()
        self._hello_since = self._now

    # --- topology changes --------------------------------------------------------------------------------

    def _detect_topology_change(self) -> None:
        """Section 8.6.14."""
        if self._is_root:
            self._set_topology_change(True)
            self._topology_change_since = self._now
        elif not self._topology_change_detected:
            self._transmit_tcn()
        self._topology_change_detected = True

    def _set_topology_change(self, changed: bool) -> None:
        self.addresses_moved |= changed and not self.topology_change
        self.topology_change = changed

    # --- timers ------------------------------------------------------------------------------------------

    def _timers(self) -> Iterator[tuple[int, Callable[[], None]]]:
        """(when it is due, what is to be done then) of every timer that runs."""
        own = self._own
        change_time = (own.max_age + own.forward_delay) * SECOND_NS
        if self._hello_since is not None:
            yield self._hello_since + self._hello_time, self._hello_expired
        if self._tcn_since is not None:
            yield self._tcn_since + own.hello_time * SECOND_NS, self._transmit_tcn
        if self._topology_change_since is not None:
            yield self._topology_change_since + change_time, self._topology_change_expired
        for port in self._ports.values():
            if port.message_age_since is not None:
                yield port.message_age_since + self._max_age, partial(self._message_expired, port)
            if port.forward_delay_since is not None:
                due = port.forward_delay_since + self._forward_delay
                yield due, partial(self._forward_delay_expired, port)
            if port.hold_since is not None:
                yield port.hold_since + HOLD_TIME_NS, partial(self._hold_expired, port)

    def _hello_expired(self) -> None:
        self._generate()
        self._hello_since = self._now

    def _message_expired(self, port: _Port) -> None:
        """Section 8.7.4: nobody told of the root for too long."""
        was_root = self._is_root
        port.message_age_since = None
        self._become_designated(port)
        self._update()
        self._select_states()
        if self._is_root and not was_root:
            self._become_root()

    def _forward_delay_expired(self, port: _Port) -> None:
        """Section 8.7.5."""
        if port.state == State.LISTENING:
            port.state = State.LEARNING
            port.forward_delay_since = self._now
            return
        port.state = State.FORWARDING
        port.forward_delay_since = None
        if any(self._is_designated(other) for other in self._ports.values()):
            self._detect_topology_change()

    def _topology_change_expired(self) -> None:
        self._topology_change_detected = False
        self._topology_change_since = None
        self.topology_change = False

    def _hold_expired(self, port: _Port) -> None:
        port.hold_since = None
        if port.config_pending:
            self._transmit_config(port)

    def _new_port_id(self, port_no: int) -> int:
        """Priority and a number of 12 bits that no other port has: the port's own, if it is so small."""
        used = {port.port_id for port in self._ports.values()}
        indexes = (port_no, *range(1, MAX_PORT_INDEX + 1))
        return next(
            PORT_PRIORITY | index
            for index in indexes
            if index <= MAX_PORT_INDEX and PORT_PRIORITY | index not in used
        )
