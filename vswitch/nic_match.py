# SPDX-License-Identifier: Apache-2.0
"""What a NIC's filter or LRO rule matches, in words that people use (S0.2, S0.3)."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, fields
from typing import Any

from vswitch.errors import ConfigError
from vswitch.flow import FlowKey
from vswitch.keys import key_words

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
PROTOCOLS_WITH_PORTS = (6, 17, 132)
KINDS = ("five-tuple", "ip", "mac", "vni")
"""From the most specific on: of two matches of one priority, that of the first kind is asked first."""
MAX_VNI = (1 << 63) - 1
MAX_PRIORITY = 0xFFFF
_ALL_MAC, _ALL_PORTS, _ALL_PROTOCOLS, _ALL_VNIS = (1 << 48) - 1, 0xFFFF, 0xFF, (1 << 64) - 1
_NO_FIELD = FlowKey(*(0,) * len(FlowKey._fields))

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Match:
    """The headers of a frame, the inner one where a tunnel of ours brought it. What is None is a wildcard.

    dst_mac: destination MAC address. protocol: `tcp`, `udp`, `sctp`, `icmp`, `icmpv6` or an IP protocol
    number. src_ip, dst_ip: an address, or a prefix as 10.0.0.0/8, IPv4 or IPv6. src_port, dst_port: of TCP,
    UDP or SCTP, whose protocol must be named; no fragment has ports. vni: the virtual network that the tunnel
    named, 0 for none.

    Raises ConfigError.
    """

    dst_mac: str | None = None
    protocol: str | int | None = None
    src_ip: str | None = None
    dst_ip: str | None = None
    src_port: int | None = None
    dst_port: int | None = None
    vni: int | None = None

    def __post_init__(self) -> None:
        if all(getattr(self, field.name) is None for field in fields(self)):
            raise ConfigError("match", "it names no field", ", ".join(field.name for field in fields(self)))
        self._check()

    @property
    def kind(self) -> str:
        """One of KINDS."""
        return kind_of(self)

    def to_object(self) -> dict[str, Any]:
        """The fields that are no wildcards."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_object(cls, value: object) -> Match:
        """What to_object() gives; raises ConfigError."""
        names = [field.name for field in fields(cls)]
        if not isinstance(value, dict):
            raise ConfigError("match", f"{value!r} is no object", ", ".join(names))
        for name in value:
            if name not in names:
                raise ConfigError(f"match.{name}", "there is no such field", ", ".join(names))
        return cls(**value)

    def fill_row(self, row: Any) -> None:
        """Write it into a row of layout.nic_match_dtype."""
        from vswitch.layout import ANY_IP  # here, so that whoever only checks matches needs no NumPy

        numbers, mask = self._key_and_mask()
        row["value"], row["mask"] = _words(numbers), _words(mask)
        network = _network("src_ip", self.src_ip) or _network("dst_ip", self.dst_ip)
        any_ip = ANY_IP if self.protocol is not None else 0
        row["ip_version"] = network.version if network else any_ip
        row["whole"] = int(self.src_port is not None or self.dst_port is not None)

    def _check(self) -> None:
        self._key_and_mask()
        source, target = _network("src_ip", self.src_ip), _network("dst_ip", self.dst_ip)
        if source and target and source.version != target.version:
            raise ConfigError(
                "match", f"{self.src_ip} and {self.dst_ip} are of two IP versions", "one version"
            )
        for name in ("src_port", "dst_port"):
            if getattr(self, name) is not None and not has_ports(self.protocol):
                raise ConfigError(
                    f"match.{name}", "only some protocols have ports", "protocol tcp, udp or sctp"
                )

    def _key_and_mask(self) -> tuple[FlowKey, FlowKey]:
        numbers: dict[str, int] = {}
        masks: dict[str, int] = {}
        if self.dst_mac is not None:
            numbers["eth_dst"], masks["eth_dst"] = _mac(self.dst_mac), _ALL_MAC
        protocol = self._protocol()
        if protocol is not None:
            numbers["ip_proto"], masks["ip_proto"] = protocol, _ALL_PROTOCOLS
        for name, field in (("src_ip", "ip_src"), ("dst_ip", "ip_dst")):
            network = _network(name, getattr(self, name))
            if network is not None:
                numbers[field], masks[field] = int(network.network_address), int(network.netmask)
        for name, field in (("src_port", "l4_src"), ("dst_port", "l4_dst")):
            number = getattr(self, name)
            if number is not None:
                numbers[field], masks[field] = check_number(f"match.{name}", number, 1, 0xFFFF), _ALL_PORTS
        if self.vni is not None:
            numbers["tunnel_id"], masks["tunnel_id"] = (
                check_number("match.vni", self.vni, 0, MAX_VNI),
                _ALL_VNIS,
            )
        return _NO_FIELD._replace(**numbers), _NO_FIELD._replace(**masks)

    def _protocol(self) -> int | None:
        if self.protocol is None:
            return None
        if isinstance(self.protocol, str) and self.protocol in PROTOCOLS:
            return PROTOCOLS[self.protocol]
        if isinstance(self.protocol, bool) or not isinstance(self.protocol, int):
            allowed = ", ".join(PROTOCOLS) + " or a number"
            raise ConfigError("match.protocol", f"{self.protocol!r} is not known", allowed)
        return check_number("match.protocol", self.protocol, 0, 255)


def kind_of(match: Any) -> str:
    """One of KINDS: that of the most specific field that anything with the fields of a Match names."""
    if any(value is not None for value in (match.protocol, match.src_ip, match.src_port, match.dst_port)):
        return "five-tuple"
    if match.dst_ip is not None:
        return "ip"
    return "mac" if match.dst_mac is not None else "vni"


def has_ports(protocol: str | int | None) -> bool:
    """Whether a protocol, by name or number, has ports."""
    number = PROTOCOLS.get(protocol) if isinstance(protocol, str) else protocol
    return number in PROTOCOLS_WITH_PORTS


def check_number(where: str, value: object, least: int, most: int) -> int:
    """The value if it is a number in this range; raises ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(where, f"{value!r} is no number", f"{least} to {most}")
    if not least <= value <= most:
        raise ConfigError(where, f"{value} is out of range", f"{least} to {most}")
    return value


def _words(key: FlowKey) -> list[int]:
    """The key's words as signed numbers."""
    return [word - (1 << 64) if word >> 63 else word for word in key_words(key)]


def _mac(text: object) -> int:
    digits = text.replace(":", "").replace("-", "") if isinstance(text, str) else ""
    try:
        address = bytes.fromhex(digits)
    except ValueError:
        address = b""
    if len(address) != 6:
        raise ConfigError("match.dst_mac", f"{text!r} is no MAC address", "as 02:00:00:00:00:01")
    return int.from_bytes(address, "big")


def _network(name: str, text: object) -> _Network | None:
    if text is None:
        return None
    where = f"match.{name}"
    try:
        if not isinstance(text, str):
            raise ValueError
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        allowed = "as 10.0.0.1, 10.0.0.0/8 or fd00::/8"
        raise ConfigError(where, f"{text!r} is no IP address or prefix", allowed) from None
    if "/" in text and ipaddress.ip_address(text.partition("/")[0]) != network.network_address:
        raise ConfigError(where, f"{text} has bits behind its mask", str(network))
    return network
