# SPDX-License-Identifier: Apache-2.0
"""What the user wants: virtual networks, servers, VMs, tunnels, offloads. Read from YAML and checked as a
whole.

Every mistake is a `ConfigError` of one sentence that names the path to the wrong value and says what is
allowed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from typing import Any, TypeVar

import msgspec
import yaml

from ryu_apps.core import checks
from ryu_apps.core.convert import convert
from ryu_apps.core.nics import canonical, check_nic_names, check_nics, check_offload
from ryu_apps.core.sections import (
    VM,
    NicPolicy,
    OffloadPolicy,
    Server,
    TunnelPolicy,
    VirtualNetwork,
)
from ryu_apps.core.underlay import next_hops
from vswitch.errors import ConfigError
from vswitch.openflow import spec
from vswitch.tunnel_formats import IP, SHIPPED, Format, check_format, format_numbers, parse_format

MAX_VNI = (1 << 24) - 1
MAX_DPID = (1 << 64) - 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Intent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. Made by `parse`, `from_yaml` or `from_object`; an `Intent` that exists is valid."""

    virtual_networks: dict[str, VirtualNetwork] = {}
    servers: dict[str, Server] = {}
    vms: dict[str, VM] = {}
    tunnel: TunnelPolicy = TunnelPolicy()
    formats: dict[str, dict[str, Any]] = {}
    offload: OffloadPolicy = OffloadPolicy()
    nic: dict[str, NicPolicy] = {}
    proactive_reverse: bool = True

    def server_of(self, dpid: int) -> str | None:
        """The name of the server whose switch has this datapath id."""
        return next((name for name, server in self.servers.items() if server.dpid == dpid), None)

    def networks_of(self, server: str) -> set[str]:
        """The virtual networks that have a VM on this server."""
        return {vm.network for vm in self.vms.values() if vm.server == server}

    def format_rows(self) -> dict[str, Format]:
        """All tunnel formats that a tunnel may have: the shipped ones and those of this intent."""
        own = {name: parse_format(name, numbers) for name, numbers in self.formats.items()}
        return SHIPPED | own

    def tunnel_row(self) -> Format:
        """The format of the tunnels."""
        return self.format_rows()[self.tunnel.format]

    def uplinks(self, server: str) -> list[int]:
        """The ports of a server that lead to others."""
        entry = self.servers[server]
        if entry.wires:
            return sorted(entry.wires.values())
        return [] if entry.uplink_port is None else [entry.uplink_port]

    def uplink_to(self, server: str, other: str) -> int | None:
        """The port of `server` on the way to `other`; None when there is none."""
        entry = self.servers[server]
        if not entry.wires:
            return entry.uplink_port
        next_hop = next_hops(self.neighbours(), other).get(server)
        return None if next_hop is None else entry.wires[next_hop]

    def neighbours(self) -> dict[str, Iterable[str]]:
        """By server: those that a wire leads to."""
        return {name: server.wires for name, server in self.servers.items()}

    def queue_count(self, server: str) -> int:
        """Receive queues of each of a server's uplinks."""
        return self.nic[server].queues if server in self.nic else 1

    def revision(self) -> int:
        """A number of 48 bits that tells one intent from another, the same after a restart of the
        controller."""
        text = msgspec.json.encode(self, order="deterministic")
        return int.from_bytes(hashlib.sha256(text).digest()[:6], "big")

    def to_object(self) -> dict[str, Any]:
        """The intent as plain mappings, as YAML or JSON has them."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


def from_yaml(text: str | bytes) -> Intent:
    """The intent of a YAML (or JSON) document. Raises ConfigError."""
    return from_object(plain(text))


def plain(text: str | bytes) -> object:
    """The plain values of a YAML (or JSON) document; an empty one is an empty mapping. Raises ConfigError."""
    document = parsed(text)
    return {} if document is None else document


def parsed(text: str | bytes) -> object:
    """The plain values of a YAML (or JSON) document; None for an empty one, or null. Raises ConfigError."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "the document"
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError("intent", f"{place}: {problem}", "YAML or JSON") from error
    except UnicodeDecodeError as error:
        raise ConfigError("intent", "is not text in UTF-8", "YAML or JSON") from error
    except RecursionError:
        raise ConfigError("intent", "is nested too deeply", "YAML or JSON") from None
    except ValueError as error:  # Python's limit of digits
        raise ConfigError("intent", "a number has too many digits", "at most 4300") from error


def from_object(document: object) -> Intent:
    """The intent of plain mappings. Raises ConfigError."""
    sections = checks.mapping("intent", document)
    checks.known_keys("", sections, Intent.__struct_fields__)
    intent = Intent(
        virtual_networks=_entries("virtual_networks", sections, VirtualNetwork),
        servers=_entries("servers", sections, Server),
        vms=_entries("vms", sections, VM),
        tunnel=convert("tunnel", sections.get("tunnel", {}), TunnelPolicy),
        formats=_formats(sections),
        offload=convert("offload", sections.get("offload", {}), OffloadPolicy),
        nic=_entries("nic", sections, NicPolicy),
        proactive_reverse=convert("proactive_reverse", sections.get("proactive_reverse", True), bool),
    )
    intent = _canonical(intent)
    for check in _CHECKS:
        check(intent)
    return intent


# ---- from plain objects to structures ----

_T = TypeVar("_T")


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error and 00:00:00:00:00:01 is a text, not a number to
    base 60."""


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys: set[Any] = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key is not a name", key_node.start_mark)
        key = loader.construct_object(key_node)
        if key in keys:
            raise yaml.constructor.ConstructorError(None, None, f"{key} is given twice", key_node.start_mark)
        keys.add(key)
    mapping: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return mapping


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, regexp)
        for tag, regexp in resolvers
        if tag.rpartition(":")[2] not in ("int", "float", "timestamp")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?$"), list("-+0123456789")
)


def _entries(section: str, sections: dict[Any, Any], kind: type[_T]) -> dict[str, _T]:
    """A section that maps names to entries of one kind."""
    entries = {}
    for name, value in checks.mapping(section, sections.get(section, {})).items():
        checks.name_in_text(section, name)
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{section}.{name}", "is not a name", "letters, digits, and _ . - after the first"
            )
        entries[name] = convert(f"{section}.{name}", value, kind)
    return entries


def _formats(sections: dict[Any, Any]) -> dict[str, dict[str, Any]]:
    """The section `formats`, each with all its numbers. Raises ConfigError for what is no format."""
    formats = {}
    for name, numbers in checks.mapping("formats", sections.get("formats", {})).items():
        if name in SHIPPED:
            raise ConfigError(f"formats.{name}", "is a shipped format", "another name")
        row = parse_format(str(name), checks.mapping(f"formats.{name}", numbers))
        formats[str(name)] = format_numbers(row)
    return formats


# ---- values in their usual form ----


def _canonical(intent: Intent) -> Intent:
    """The same intent with addresses in their usual form. Raises ConfigError on what is no address."""
    servers = {
        name: msgspec.structs.replace(
            server,
            underlay_ip=server.underlay_ip
            and checks.underlay_ip(f"servers.{name}.underlay_ip", server.underlay_ip),
            uplink_port=min(server.wires.values(), default=None)
            if server.uplink_port is None
            else server.uplink_port,
        )
        for name, server in intent.servers.items()
    }
    vms = {
        name: msgspec.structs.replace(
            vm, mac=checks.mac(f"vms.{name}.mac", vm.mac), ip=vm.ip and checks.ip(f"vms.{name}.ip", vm.ip)
        )
        for name, vm in intent.vms.items()
    }
    nic = {name: canonical(f"nic.{name}", policy) for name, policy in intent.nic.items()}
    return msgspec.structs.replace(intent, servers=servers, vms=vms, nic=nic)


# ---- what must hold between values ----


def _check_networks(intent: Intent) -> None:
    for name, network in intent.virtual_networks.items():
        checks.in_range(f"virtual_networks.{name}.vni", network.vni, 1, MAX_VNI)
    vnis = ((f"virtual_networks.{n}.vni", v.vni, f"{v.vni}") for n, v in intent.virtual_networks.items())
    checks.unique(vnis)


def _check_servers(intent: Intent) -> None:
    for name, server in intent.servers.items():
        others = intent.servers.keys() - {name} if server.wires else set()
        for other in server.wires:
            checks.known(f"servers.{name}.wires.{other}", other, others, "other server")
    for name, server in intent.servers.items():
        checks.in_range(f"servers.{name}.dpid", server.dpid, 1, MAX_DPID)
        for other, port in server.wires.items():
            _check_wire(intent, name, other, port)
        if server.uplink_port is not None:
            checks.in_range(f"servers.{name}.uplink_port", server.uplink_port, 1, spec.TUNNEL_PORT_BASE - 1)
        if server.wires and server.uplink_port not in server.wires.values():
            raise ConfigError(
                f"servers.{name}.uplink_port",
                f"{server.uplink_port} is the port of no wire",
                checks.listing(str(port) for port in intent.uplinks(name)),
            )
    checks.unique((f"servers.{n}.dpid", s.dpid, f"{s.dpid:#x}") for n, s in intent.servers.items())
    checks.unique((f"servers.{n}.underlay_ip", s.underlay_ip, f"{s.underlay_ip}")
            for n, s in intent.servers.items() if s.underlay_ip)  # fmt: skip


def _check_wire(intent: Intent, server: str, other: str, port: int) -> None:
    """A wire has two ends, at two servers."""
    path = f"servers.{server}.wires.{other}"
    checks.in_range(path, port, 1, spec.TUNNEL_PORT_BASE - 1)
    if server not in intent.servers[other].wires:
        raise ConfigError(path, f"{other} has no wire to {server}", f"servers.{other}.wires.{server} as well")


def _check_vms(intent: Intent) -> None:
    for name, vm in intent.vms.items():
        checks.known(f"vms.{name}.server", vm.server, intent.servers, "server")
        checks.known(f"vms.{name}.network", vm.network, intent.virtual_networks, "virtual network")
        checks.in_range(f"vms.{name}.port", vm.port, 1, spec.TUNNEL_PORT_BASE - 1)
    checks.unique(_port_uses(intent))
    checks.unique(
        (f"vms.{n}.mac", (v.network, v.mac), f"{v.mac} (in {v.network})") for n, v in intent.vms.items()
    )
    checks.unique(
        (f"vms.{n}.ip", (v.network, v.ip), f"{v.ip} (in {v.network})") for n, v in intent.vms.items() if v.ip
    )


def _port_uses(intent: Intent) -> Iterator[tuple[str, object, str]]:
    for name, server in intent.servers.items():
        if server.uplink_port is not None and not server.wires:
            yield f"servers.{name}.uplink_port", (name, server.uplink_port), f"{server.uplink_port}"
        for other, port in server.wires.items():
            yield f"servers.{name}.wires.{other}", (name, port), f"{port} (on {name})"
    for name, vm in intent.vms.items():
        yield f"vms.{name}.port", (vm.server, vm.port), f"{vm.port} (on {vm.server})"


def _check_formats(intent: Intent) -> None:
    rows = intent.format_rows()
    for name in intent.formats:
        check_format(rows[name], [row for other, row in rows.items() if other != name])


def _check_tunnels(intent: Intent) -> None:
    rows = intent.format_rows()
    checks.known("tunnel.format", intent.tunnel.format, rows, "tunnel format")
    row = rows[intent.tunnel.format]
    for name, network in intent.virtual_networks.items():
        if row.flow_id_bits and network.vni >= 1 << row.flow_id_bits:
            raise ConfigError(
                f"virtual_networks.{name}.vni",
                f"{network.vni} does not fit into the {row.flow_id_bits} bits of {row.name}",
                f"1 to {(1 << row.flow_id_bits) - 1}",
            )
    for one, other in combinations(intent.servers, 2):
        shared = sorted(intent.networks_of(one) & intent.networks_of(other))
        for name, peer in ((one, other), (other, one)):
            for key in ("underlay_ip", "uplink_port"):
                if shared and getattr(intent.servers[name], key) is None:
                    raise ConfigError(
                        f"servers.{name}.{key}",
                        f"is missing, and virtual network {shared[0]} has VMs on {name} and on {peer}",
                        "a value must be given",
                    )
        if shared and intent.uplink_to(one, other) is None:
            raise ConfigError(
                f"servers.{one}.wires",
                f"do not lead to {other}, and virtual network {shared[0]} has VMs on both",
                "wires by which all servers of a network reach each other",
            )
        if len(shared) > 1 and not row.flow_id_bits:
            raise ConfigError(
                "tunnel.format",
                f"{row.name} has no flow identifier, and so carries one virtual network between two servers, "
                f"but {' and '.join(shared)} have VMs on {one} and on {other}",
                checks.listing(name for name, row in sorted(rows.items()) if row.flow_id_bits),
            )
        if row.inner == IP:
            for carried in shared:
                _check_bare_ip(intent, carried)


def _check_bare_ip(intent: Intent, network: str) -> None:
    """What the VMs of a network must be that crosses a tunnel without Ethernet headers."""
    format = intent.tunnel.format
    for name, vm in intent.vms.items():
        if vm.network != network:
            continue
        if vm.ip is None or ":" in vm.ip:
            what = "is missing" if vm.ip is None else f"{vm.ip} is IPv6"
            why = f"{format} carries no Ethernet frames, so {name} is found by its address"
            raise ConfigError(f"vms.{name}.ip", f"{what}; {why}", "an IPv4 address")
        if vm.role == "forwarding":
            raise ConfigError(
                f"vms.{name}.role",
                f"{format} carries no Ethernet frames, so nobody on another server can send through {name}",
                "terminating, or a format that carries Ethernet frames",
            )


_CHECKS: tuple[Callable[[Intent], None], ...] = (
    _check_networks,
    _check_servers,
    _check_vms,
    _check_formats,
    _check_tunnels,
    check_nic_names,
    check_offload,
    check_nics,
)
