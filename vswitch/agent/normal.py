# SPDX-License-Identifier: Apache-2.0
"""The MAC table of OFPP_NORMAL: which address was last seen at which port, by VLAN (IEEE 802.1Q, 8.7)."""

from __future__ import annotations

from collections.abc import Iterator, Set

from vswitch.openflow.spec import RESERVED_ADDRESSES

AGING_NS = 300 * 1_000_000_000
"""How long an address is remembered that no packet came from (IEEE 802.1Q, table 8-6: what it recommends)."""

MAX_ADDRESSES = 8192
"""Of the port that has the most, the address that was not heard of for the longest time makes room for
another: a flood of addresses at one port leaves those of others."""

_MULTICAST_BIT = 1 << 40


def is_reserved(mac: int) -> bool:
    """Of those that bridges keep to themselves."""
    value, mask = RESERVED_ADDRESSES
    return mac & mask == value


def is_multicast(mac: int) -> bool:
    """Of a group of stations, or of all."""
    return bool(mac & _MULTICAST_BIT)


class MacTable:
    """Addresses are (vlan, mac); the VLAN of untagged frames is 0. The longest unseen comes first."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, int], tuple[int, int]] = {}  # to (port, last seen at)
        self._at_port: dict[int, dict[tuple[int, int], None]] = {}

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The addresses."""
        return iter(self._places)

    def port_of(self, vlan: int, mac: int) -> int | None:
        place = self._places.get((vlan, mac))
        return None if place is None else place[0]

    def learn(self, vlan: int, mac: int, port: int, now_ns: int) -> list[tuple[int, int]]:
        """Note that a packet came from `mac`; the addresses whose port is another one since."""
        before = self.port_of(vlan, mac)
        changed = [] if before == port else [(vlan, mac)]
        if before is None and len(self._places) >= MAX_ADDRESSES:
            fullest = max(self._at_port, key=lambda port_no: len(self._at_port[port_no]))
            oldest = next(iter(self._at_port[fullest]))
            self.forget(*oldest)
            changed.append(oldest)
        self.forget(vlan, mac)
        self._places[vlan, mac] = port, now_ns
        self._at_port.setdefault(port, {})[vlan, mac] = None
        return changed

    def aged(self, now_ns: int, aging_ns: int = AGING_NS) -> list[tuple[int, int]]:
        """The addresses that were not seen for that long."""
        aged = []
        for address, (_port, seen_ns) in self._places.items():
            if seen_ns + aging_ns > now_ns:
                break
            aged.append(address)
        return aged

    def of_other_ports_than(self, ports: Set[int]) -> list[tuple[int, int]]:
        """The addresses that were learned at ports that are not among these."""
        return [address for address, (port, _seen) in self._places.items() if port not in ports]

    def forget(self, vlan: int, mac: int) -> None:
        place = self._places.pop((vlan, mac), None)
        if place is not None:
            at_port = self._at_port[place[0]]
            del at_port[vlan, mac]
            if not at_port:
                del self._at_port[place[0]]
