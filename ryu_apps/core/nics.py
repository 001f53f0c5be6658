# SPDX-License-Identifier: Apache-2.0
"""The NICs of an intent: what must hold of them, and the messages that set them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from ryu_apps.core import checks
from ryu_apps.core.sections import VM, NicPolicy, QueuePolicy, RssPolicy, Selector
from vswitch.config import MAX_WORKERS
from vswitch.errors import ConfigError
from vswitch.indirection import equal_table, weighted_table
from vswitch.nic_match import MAX_PRIORITY, PROTOCOLS, has_ports, kind_of
from vswitch.openflow import experimenter as ex
from vswitch.openflow import spec
from vswitch.openflow.experimenter import INDIRECTION_LENGTH, MAX_COMPLETION, MAX_QUEUES, PacketMatch
from vswitch.tunnel_formats import IP

if TYPE_CHECKING:
    from ryu_apps.core.intent import Intent

MODES = {True: "on", False: "off", "on": "on", "off": "off", "rules": "rules"}
"""What `lro` of a queue may be; YAML reads on and off as true and false."""
WITH_PORTS = tuple(filter(has_ports, PROTOCOLS))
MIN_COMPLETION = 1501
_IP_FIELDS = ("src_ip", "dst_ip")
_MATCH_FIELDS = tuple(PacketMatch.__struct_fields__)


# ---- what must hold ----


def check_nic_names(intent: Intent) -> None:
    """The servers of the section `nic`, which the section `offload` depends on. Raises ConfigError."""
    for server in intent.nic:
        checks.known(f"nic.{server}", server, intent.servers, "server")


def check_offload(intent: Intent) -> None:
    """The section `offload`. Raises ConfigError."""
    paths = []
    for index, override in enumerate(intent.offload.overrides):
        path = f"offload.overrides[{index}]"
        checks.known(f"{path}.server", override.server, intent.servers, "server")
        checks.in_range(f"{path}.port", override.port, 1, spec.TUNNEL_PORT_BASE - 1)
        uplinks = intent.uplinks(override.server)
        if override.port not in uplinks:
            raise ConfigError(
                f"{path}.port",
                f"{override.server} has no wire at port {override.port}",
                ", ".join(map(str, uplinks)) or "no port",
            )
        _check_queues(intent, override.server, f"{path}.queue", (override.queue,))
        identity = (override.server, override.port, override.queue)
        paths.append((f"{path}.queue", identity, f"queue {override.queue} of port {override.port}"))
    checks.unique(paths)


def check_nics(intent: Intent) -> None:
    """The section `nic`. Raises ConfigError."""
    for server, nic in intent.nic.items():
        if not intent.uplinks(server):
            raise ConfigError(f"nic.{server}", f"{server} has no uplink", "a server with an uplink_port")
        checks.in_range(f"nic.{server}.queues", nic.queues, 1, MAX_QUEUES)
        _check_workers(f"nic.{server}.workers", nic)
        _check_rss(f"nic.{server}.rss", nic)
        _check_filters(intent, server, nic)
        _check_lro(intent, server, nic)
        _check_rules(intent, server, nic)


def _check_workers(path: str, nic: NicPolicy) -> None:
    if len(nic.workers) > nic.queues:
        raise ConfigError(path, f"has {len(nic.workers)} workers", f"one for each of {nic.queues} queues")
    for index, worker in enumerate(nic.workers):
        checks.in_range(f"{path}[{index}]", worker, 0, MAX_WORKERS - 1)


def _check_rss(path: str, nic: NicPolicy) -> None:
    rss = nic.rss
    given = [name for name in ("equal", "weights", "indirection") if getattr(rss, name) is not None]
    if len(given) > 1:
        raise ConfigError(f"{path}.{given[1]}", f"{given[0]} says it already", "one of them")
    if rss.hash_key is not None:
        try:
            length = len(bytes.fromhex(rss.hash_key.replace(":", "")))
        except ValueError:
            length = -1
        if length != ex.RSS_KEY_LENGTH:
            raise ConfigError(
                f"{path}.hash_key", "is no key", f"{ex.RSS_KEY_LENGTH} bytes in hexadecimal digits"
            )
    if rss.equal is not None:
        checks.in_range(f"{path}.equal", rss.equal, 1, nic.queues)
    if rss.weights is not None:
        if not 1 <= len(rss.weights) <= nic.queues:
            raise ConfigError(
                f"{path}.weights", f"has {len(rss.weights)} weights", f"one for each of {nic.queues} queues"
            )
        for index, weight in enumerate(rss.weights):
            checks.in_range(f"{path}.weights[{index}]", weight, 0, INDIRECTION_LENGTH)
        checks.in_range(f"{path}.weights", sum(rss.weights), 1, INDIRECTION_LENGTH)
    if rss.indirection is not None:
        if len(rss.indirection) != INDIRECTION_LENGTH:
            raise ConfigError(
                f"{path}.indirection", f"has {len(rss.indirection)} entries", str(INDIRECTION_LENGTH)
            )
        for index, queue in enumerate(rss.indirection):
            checks.in_range(f"{path}.indirection[{index}]", queue, 0, nic.queues - 1)


def _check_filters(intent: Intent, server: str, nic: NicPolicy) -> None:
    for index, entry in enumerate(nic.filters):
        path = f"nic.{server}.filters[{index}]"
        _check_selector(intent, server, path, entry)
        _check_queues(intent, server, f"{path}.queue", (entry.queue,))
        checks.in_range(f"{path}.priority", entry.priority, 0, MAX_PRIORITY)
        match = packet_match(intent, entry)
        for earlier, other in enumerate(nic.filters[:index]):
            other_match = packet_match(intent, other)
            if (
                other.priority == entry.priority
                and kind_of(other_match) == kind_of(match)
                and _overlap(match, other_match)
            ):
                raise ConfigError(
                    path,
                    f"overlaps filters[{earlier}], which has the same kind and priority",
                    f"another priority than {entry.priority}",
                )


def _check_lro(intent: Intent, server: str, nic: NicPolicy) -> None:
    seen: dict[int, int] = {}
    for index, entry in enumerate(nic.lro):
        path = f"nic.{server}.lro[{index}]"
        _check_queues(intent, server, f"{path}.queues", entry.queues)
        checks.one_of(f"{path}.lro", entry.lro, ("on", "off", "rules"))
        checks.in_range(f"{path}.completion_size", entry.completion_size, MIN_COMPLETION, MAX_COMPLETION)
        for queue in entry.queues or range(nic.queues):
            if queue in seen:
                raise ConfigError(f"{path}.queues", f"queue {queue} is in lro[{seen[queue]}] too", "once")
            seen[queue] = index


def _check_rules(intent: Intent, server: str, nic: NicPolicy) -> None:
    seen: dict[object, int] = {}
    for index, entry in enumerate(nic.rules):
        path = f"nic.{server}.rules[{index}]"
        _check_selector(intent, server, path, entry)
        _check_queues(intent, server, f"{path}.queues", entry.queues)
        checks.in_range(f"{path}.priority", entry.priority, 0, MAX_PRIORITY)
        identity = packet_match(intent, entry), entry.queues, entry.priority
        if identity in seen:
            raise ConfigError(path, f"matches the same as rules[{seen[identity]}]", "each match once")
        seen[identity] = index


def _check_queues(intent: Intent, server: str, path: str, queues: Iterable[int]) -> None:
    count = intent.queue_count(server)
    for queue in queues:
        if not 0 <= queue < count:
            allowed = "0" if count == 1 else f"0 to {count - 1}"
            raise ConfigError(path, f"{server} has no queue {queue}", allowed)


def _check_selector(intent: Intent, server: str, path: str, selector: Selector) -> None:
    if selector.vm is not None:
        checks.known(f"{path}.vm", selector.vm, intent.vms, "VM")
        _check_here(intent, server, f"{path}.vm", [selector.vm])
        for name in ("network", "dst_mac"):
            if getattr(selector, name) is not None:
                raise ConfigError(f"{path}.{name}", f"vm tells the {name} already", "one of them")
    if selector.network is not None:
        checks.known(f"{path}.network", selector.network, intent.virtual_networks, "virtual network")
        if _vni(intent, selector.network) is None:
            what = f"{intent.tunnel.format} has no flow identifier, so packets tell no network"
            raise ConfigError(f"{path}.network", what, "vm, dst_ip, …")
    if selector.dst_mac is not None:
        mac = checks.mac(f"{path}.dst_mac", selector.dst_mac)
        _check_here(intent, server, f"{path}.dst_mac", _owners(intent, selector.network, mac=mac))
    for name in _IP_FIELDS:
        text = getattr(selector, name)
        if text is not None:
            address = network_address(f"{path}.{name}", text)
            if name == "dst_ip":
                owners = _owners(intent, selector.network, ip=address)
                _check_here(intent, server, f"{path}.{name}", owners)
    if len({ipaddress.ip_network(text).version for text in _addresses(selector)}) > 1:
        raise ConfigError(f"{path}.dst_ip", "is of another IP version than src_ip", "one version")
    _check_transport(path, selector)
    if packet_match(intent, selector) == PacketMatch():
        raise ConfigError(path, "says of no packet anything", "at least one of vm, network, dst_mac, …")


def _addresses(selector: Selector) -> list[str]:
    return [getattr(selector, name) for name in _IP_FIELDS if getattr(selector, name) is not None]


def _check_transport(path: str, selector: Selector) -> None:
    if isinstance(selector.protocol, int):
        checks.in_range(f"{path}.protocol", selector.protocol, 1, 255)
    elif selector.protocol is not None:
        checks.one_of(f"{path}.protocol", selector.protocol, PROTOCOLS, more=", or a number")
    for name in ("src_port", "dst_port"):
        port = getattr(selector, name)
        if port is not None:
            checks.in_range(f"{path}.{name}", port, 1, 0xFFFF)
            if not has_ports(selector.protocol):
                raise ConfigError(f"{path}.{name}", "a port needs a protocol", checks.listing(WITH_PORTS))


def network_address(path: str, text: str) -> str:
    """An IP address, or a prefix without bits behind its mask, in the usual form. Raises ConfigError."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ConfigError(path, f"{text!r} is no address", "as 10.0.0.2, 10.0.0.0/8, 2001:db8::/32") from None
    usual = str(network.network_address if network.prefixlen == network.max_prefixlen else network)
    if ipaddress.ip_address(text.partition("/")[0]) != network.network_address:
        raise ConfigError(path, f"{text} has bits behind its mask", usual)
    return usual


def _owners(intent: Intent, network: str | None, mac: str = "", ip: str = "") -> list[str]:
    """The VMs that have this address (in this network)."""
    return [
        name
        for name, vm in intent.vms.items()
        if (vm.mac == mac or vm.ip == ip) and network in (None, vm.network)
    ]


def _check_here(intent: Intent, server: str, path: str, vms: list[str]) -> None:
    """Of VMs with an address that somebody wants to receive, one at least must be on the server."""
    if vms and all(intent.vms[vm].server != server for vm in vms):
        here = sorted(name for name, vm in intent.vms.items() if vm.server == server)
        where = intent.vms[vms[0]].server
        raise ConfigError(path, f"{vms[0]} is on {where}, not on {server}", checks.listing(here))


def _overlap(one: PacketMatch, other: PacketMatch) -> bool:
    """Whether a packet may match both."""
    for name in _MATCH_FIELDS:
        values = getattr(one, name), getattr(other, name)
        if None in values:
            continue
        if name in _IP_FIELDS:
            first, second = (ipaddress.ip_network(value) for value in values)
            if first.version != second.version or not first.overlaps(second):
                return False
        elif values[0] != values[1]:
            return False
    return True


# ---- values in their usual form ----


def canonical(path: str, nic: NicPolicy) -> NicPolicy:
    """The same NIC with addresses and words in their usual form. Raises ConfigError on what is no address."""
    return msgspec.structs.replace(
        nic,
        filters=tuple(_canonical(f"{path}.filters[{n}]", entry) for n, entry in enumerate(nic.filters)),
        rules=tuple(_canonical(f"{path}.rules[{n}]", entry) for n, entry in enumerate(nic.rules)),
        lro=tuple(msgspec.structs.replace(e, lro=MODES.get(e.lro, e.lro)) for e in nic.lro),
    )


def _canonical(path: str, selector: Selector) -> Selector:
    usual: dict[str, str] = {}
    if selector.dst_mac is not None:
        usual["dst_mac"] = checks.mac(f"{path}.dst_mac", selector.dst_mac)
    for name in _IP_FIELDS:
        if getattr(selector, name) is not None:
            usual[name] = network_address(f"{path}.{name}", getattr(selector, name))
    return msgspec.structs.replace(selector, **usual)


# ---- messages ----


def packet_match(intent: Intent, selector: Selector) -> PacketMatch:
    """What a selector says, in the switch's words."""
    by_vm = PacketMatch() if selector.vm is None else vm_match(intent, intent.vms[selector.vm])
    network = selector.network
    return PacketMatch(
        dst_mac=by_vm.dst_mac or selector.dst_mac,
        protocol=selector.protocol,
        src_ip=selector.src_ip,
        dst_ip=selector.dst_ip or by_vm.dst_ip,
        src_port=selector.src_port,
        dst_port=selector.dst_port,
        vni=by_vm.vni if network is None else _vni(intent, network),
    )


def vm_match(intent: Intent, vm: VM) -> PacketMatch:
    """What goes to a VM, as it comes from the wire: without what the tunnels' format does not carry."""
    by_ip = intent.tunnel_row().inner == IP and vm.ip is not None
    vni = _vni(intent, vm.network)
    return PacketMatch(dst_ip=vm.ip, vni=vni) if by_ip else PacketMatch(dst_mac=vm.mac, vni=vni)


def _vni(intent: Intent, network: str) -> int | None:
    """The number of a virtual network, where packets from the wire tell it."""
    return intent.virtual_networks[network].vni if intent.tunnel_row().flow_id_bits else None


def nic_settings(intent: Intent, server: str) -> Iterator[ex.Setting]:
    """Queues, RSS and filters of a server's uplinks, as far as they are not the default."""
    nic = intent.nic.get(server, NicPolicy())
    for port in intent.uplinks(server):
        yield from _port_settings(intent, port, nic)


def _port_settings(intent: Intent, port: int, nic: NicPolicy) -> Iterator[ex.Setting]:
    if nic.queues > 1:
        yield ex.NicQueuesSet(port, nic.queues)
    if nic.workers:
        yield ex.NicWorkersSet(port, nic.workers)
    if nic.rss != RssPolicy():
        key = (nic.rss.hash_key or "").replace(":", "").lower()
        yield ex.NicRssSet(port, key, _indirection(nic.rss))
    for entry in nic.filters:
        yield ex.NicFilterAdd(port, packet_match(intent, entry), entry.queue, entry.priority)


def _indirection(rss: RssPolicy) -> tuple[int, ...]:
    """The queue of each hash bucket; empty: all queues in turn."""
    if rss.indirection is not None:
        return rss.indirection
    if rss.equal is not None:
        return equal_table(rss.equal, INDIRECTION_LENGTH)
    return () if rss.weights is None else weighted_table(rss.weights, INDIRECTION_LENGTH)


def queue_policies(nic: NicPolicy) -> dict[int, tuple[int, QueuePolicy]]:
    """By queue: the place in `lro` of what was set by hand for it, and that."""
    return {
        queue: (index, entry)
        for index, entry in enumerate(nic.lro)
        for queue in entry.queues or range(nic.queues)
    }
