# SPDX-License-Identifier: Apache-2.0
"""What the agent needs of a datapath: of `vswitch.datapath.Datapath`, or of a fake one in tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from vswitch.config import WireSettings
from vswitch.flow import (
    CapturedFrame,
    DropReason,
    Ended,
    FlowKey,
    FlowStats,
    MeterConfig,
    MeterStats,
    PortAccount,
    PortInfo,
    Program,
    Punt,
)
from vswitch.nic import Nic, SavedNic
from vswitch.tunnel_formats import Format


class Datapath(Protocol):
    """Called from one thread only; nothing blocks for more than microseconds.

    Commands are applied in the order in which they were given.
    """

    punt_fd: int  # readable while punts wait

    def poll_punts(self, limit: int = 64) -> list[Punt]:
        """Up to `limit` packets that wait for a decision, of all ports in turn. `punt_fd` stays readable
        while there are more."""
        ...

    def hold_back_punts(self, port_no: int, until_ns: int) -> None:
        """Drop what comes through a port and is for the agent until then (`punt_limited`)."""
        ...

    def key_of(self, frame: bytes, in_port: int = 0, tunnel_id: int = 0) -> FlowKey:
        """The key that the dataplane's parser finds for a frame."""
        ...

    def install(self, key: FlowKey, program: Program, idle_timeout_s: float = 0) -> None:
        """Add the entry, or replace its program; replacing keeps its counters, and ended() tells them.

        Packets of the key that wait for the agent are forwarded first, if the program sends packets on.
        """
        ...

    def remove(self, key: FlowKey) -> None:
        """ended() tells its final counters; without effect when there is no such entry."""
        ...

    def ended(self) -> list[Ended]:
        """What became of programs that were replaced or removed, and of entries that ended by themselves
        (idle, or no room for them), since the last call, in the order in which it did.

        A command that was applied is reported at once, one that drained() waited for in any case.
        """
        ...

    def set_tos_mask(self, mask: int) -> None:
        """Which bits of `ip_tos` tell flows apart: keys of entries have no others. None do at first."""
        ...

    def set_drop_mask(self, number: int, mask: FlowKey) -> None:
        """Have entries whose `drop_mask` is `number` + 1 stand for all packets that agree with them in these
        bits of the key. There must be none of that number."""
        ...

    def counted(self) -> list[int]:
        """Of the held packets that were released since the last call, those that flows' entries had forwarded
        and counted."""
        ...

    def execute(self, packet: int, program: Program) -> None:
        """Run a program on a held packet, unless its flow's entry has forwarded it, and release it."""
        ...

    def discard(self, packet: int, reason: DropReason) -> None:
        """Release a held packet, counting the reason unless its flow's entry has forwarded it."""
        ...

    def send(self, frame: bytes, program: Program, in_port: int = 0, tunnel_id: int = 0) -> None: ...

    def together(self) -> AbstractContextManager[None]:
        """Commands given within may be announced to the worker once, at the end."""
        ...

    async def drained(self) -> None:
        """Returns when every command given so far has been applied."""
        ...

    def flow_stats(self, keys: Iterable[FlowKey] | None = None) -> dict[FlowKey, FlowStats]:
        """Counters of these entries (all of them by default); entries that do not exist are left out."""
        ...

    def flow_stats_in_parts(self) -> Iterator[dict[FlowKey, FlowStats]]:
        """Counters of all entries, some thousands at a time, each as it is by then; of some twice."""
        ...

    def set_meter(self, meter_id: int, config: MeterConfig) -> None:
        """Add a meter, or give it other bands, whose counters start anew. Raises VSwitchError: no room."""
        ...

    def remove_meter(self, meter_id: int) -> None:
        """Programs that name it pass their packets; without effect when there is no such meter."""
        ...

    def meter_stats(self, meter_id: int) -> MeterStats: ...

    def ports(self) -> list[PortInfo]: ...

    def refresh_ports(self) -> bool:
        """Look at the links: True when something changed since the last call."""
        ...

    @property
    def link_fds(self) -> list[int]:
        """Readable when refresh_ports() may find something new; wires tell nothing."""
        ...

    def counters(self) -> dict[str, int]: ...

    def accounts(self) -> dict[str, PortAccount]:
        """Counters and drops of each port, by its name, and of what no port received or was to send."""
        ...

    def capabilities(self) -> dict[str, Any]:
        """{"version": str, "formats": [str], "queues": int, "workers": int}."""
        ...

    def worker_cores(self) -> list[list[int]]:
        """The processors that each worker may run on."""
        ...

    def nic(self, port_no: int) -> Nic:
        """The receive side of a wire, a packet port, or of the port in front of a VM; raises ConfigError."""
        ...

    def set_forwarding(self, port_no: int, forwarding: bool) -> None:
        """Whether the VM at a port forwards others' connections (S0.9); raises ConfigError."""
        ...

    def set_packet_too_big(self, enabled: bool) -> None:
        """Whether packets that are too big for a tunnel are punted, for their senders to be told."""
        ...

    def set_format(self, name: str, format: Format) -> None:
        """Add a tunnel format, without effect when it is there so; raises ConfigError."""
        ...

    def delete_format(self, name: str) -> None:
        """Raises ConfigError for a format that is unknown, shipped, or used by a tunnel."""
        ...

    def formats(self) -> dict[str, Format]:
        """All tunnel formats, shipped and added."""
        ...

    def set_wire(self, port_no: int, **settings: Any) -> None: ...

    def wire_settings(self, port_no: int) -> WireSettings: ...

    def wires_set(self) -> list[int]:
        """The wires of which a setting was changed since the start."""
        ...

    def nics_set(self) -> dict[int, SavedNic]:
        """The NICs that are not as at the start, by port."""
        ...

    def add_tunnel(
        self,
        port_no: int,
        name: str,
        format: str,
        local_ip: str,
        remote_ip: str,
        local_mac: str,
        remote_mac: str,
        uplink_port: int,
    ) -> None:
        """Make a tunnel port, or another one of the tunnel port that has the number, to which programs output
        as before. Raises ConfigError, and then nothing has changed."""
        ...

    def remove_tunnel(self, port_no: int) -> None:
        """Programs that output to it drop what they would send there; raises ConfigError."""
        ...

    def set_capture(self, port_no: int, enabled: bool) -> None: ...

    def poll_captures(self) -> list[CapturedFrame]: ...
