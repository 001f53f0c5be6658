# SPDX-License-Identifier: Apache-2.0
"""What the control socket shows of a switch, as plain JSON values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import msgspec

from vswitch import flow as fl
from vswitch.agent.control import place_and_problem
from vswitch.agent.counters import reasons
from vswitch.agent.slowpath import CachedFlow
from vswitch.agent.switch import OpenFlowSwitch, port_config_names
from vswitch.agent.tables import SECOND_NS, Rule
from vswitch.agent.trace import build_frame, explain, parse_flow
from vswitch.errors import ConfigError
from vswitch.flow import NEVER_USED, VLAN_PRESENT, FlowKey, FlowStats, PortInfo
from vswitch.keys import EVERY_BIT
from vswitch.openflow import experimenter as ex
from vswitch.openflow.constants import Port
from vswitch.openflow.oxm import ARP, BY_NAME, IPV4, IPV6, MPLS, MPLS_MULTICAST, format_value
from vswitch.tunnel_formats import format_numbers
from vswitch.words import nearest, unknown

SETTABLE_BY_HAND: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        ex.LroSet,
        ex.FormatAdd,
        ex.FormatDelete,
        ex.NicQueuesSet,
        ex.NicRssSet,
        ex.NicWorkersSet,
        ex.NicFilterAdd,
        ex.NicFilterDelete,
        ex.LroRuleAdd,
        ex.LroRuleDelete,
        ex.RoleSet,
    )
}

FLOWS_AT_ONCE = 64
"""Cached flows whose counters are read before others may run."""
ADDED_BY_NUMBER = (ex.NicFilterAdd, ex.LroRuleAdd)

ETHERNET_HEADER = 14
_VID = 0xFFF


class SwitchView:
    """The methods of the control socket that concern the switch. `controllers` lists what `show` reports."""

    def __init__(self, switch: OpenFlowSwitch, controllers: Callable[[], list[dict[str, Any]]]) -> None:
        self.switch = switch
        self.controllers = controllers
        self._last_look: tuple[int, dict[str, Any]] | None = None

    def show(self) -> dict[str, Any]:
        switch = self.switch
        return {
            "name": switch.name,
            "dpid": f"{switch.dpid:016x}",
            "ports": self.ports(),
            "controllers": self.controllers(),
            "standalone": switch.standalone is not None and switch.standalone.acting,
            "spanning_tree": None if switch.bridge is None else switch.bridge.describe(),
            "intent_revision": switch.extensions.intent_revision,
            "rules": sum(len(table.rules) for table in switch.tables.tables),
            "flows": len(switch.slowpath.flows),
            "workers": switch.datapath.capabilities()["workers"],
            "worker_cores": switch.datapath.worker_cores(),
            "version": switch.datapath.capabilities()["version"],
        }

    def ports(self) -> list[dict[str, Any]]:
        return [self._port(info) for info in sorted(self.switch.datapath.ports())]

    def _port(self, info: PortInfo) -> dict[str, Any]:
        return {
            "port": info.port_no,
            "name": info.name,
            "kind": info.kind,
            "mac": info.mac.hex(":"),
            "mtu": info.mtu,
            "speed_kbps": info.speed_kbps,
            "up": info.up,
            "peer": info.peer,
            "config": port_config_names(self.switch.ports.config(info.port_no)),
            **info.counters._asdict(),
        }

    def counters(self, look: bool = False) -> dict[str, Any]:
        """Everything counted. look: remember it, and tell what was counted at the last look, too."""
        counted = self._counted()
        if not look:
            return counted
        now_ns = self.switch.clock()
        last, self._last_look = self._last_look, (now_ns, counted)
        if last is None:
            return {**counted, "last": None}
        then_ns, before = last
        return {**counted, "last": {"seconds": round((now_ns - then_ns) / SECOND_NS, 3), **before}}

    def _counted(self) -> dict[str, Any]:
        accounts = self.switch.datapath.accounts()
        return {
            "reasons": reasons(self.switch),
            "ports": {name: account.counters._asdict() for name, account in accounts.items()},
            "drops": {
                name: {"receiving": account.receiving, "sending": account.sending}
                for name, account in accounts.items()
            },
        }

    def flows(self) -> Iterator[dict[str, Any]]:
        flows = list(self.switch.slowpath.flows.values())
        for start in range(0, len(flows), FLOWS_AT_ONCE):
            part = flows[start : start + FLOWS_AT_ONCE]
            stats = self.switch.datapath.flow_stats([flow.key for flow in part])
            for flow in part:
                yield self._flow(flow, stats.get(flow.key, NEVER_USED))

    def _flow(self, flow: CachedFlow, stats: FlowStats) -> dict[str, Any]:
        idle_ns = self.switch.clock() - stats.last_used_ns if stats.last_used_ns else None
        mask = self.switch.slowpath.drop_mask(flow.key)
        return {
            "key": describe_key(flow.key) if mask is None else describe_masked(flow.key, mask),
            "actions": [describe_action(action) for action in flow.translation.program] or ["drop"],
            "proactive": flow.proactive,
            "packets": stats.packets,
            "bytes": stats.bytes,
            "idle": None if idle_ns is None else round(idle_ns / SECOND_NS, 3),
        }

    def rules(self) -> Iterator[dict[str, Any] | None]:
        """None: others may run."""
        for _part in self.switch.slowpath.credit_all():
            yield None
        for rule in self.switch.tables:
            yield self._rule(rule)

    def _rule(self, rule: Rule) -> dict[str, Any]:
        return {
            "table": rule.table_id,
            "priority": rule.priority,
            "match": str(rule.match),
            "instructions": str(rule.instructions),
            "cookie": f"{rule.cookie:#x}",
            "packets": rule.packets,
            "bytes": rule.bytes,
            "age": round((self.switch.clock() - rule.created_ns) / SECOND_NS, 3),
            "idle_timeout": rule.idle_timeout,
            "hard_timeout": rule.hard_timeout,
            "flows": len(rule.flows),
        }

    def trace(self, flow: str = "", frame: str = "") -> dict[str, Any]:
        """What the switch would do with a packet: one of these fields, or this frame (in hexadecimal digits)
        with the in_port and tunnel_id that `flow` gives. Raises ConfigError."""
        fields = parse_flow(flow, self.port_number)
        try:
            data = bytes.fromhex(frame) if frame else build_frame(fields)
        except ValueError:
            raise ConfigError("frame", "this is no frame", "an even number of hexadecimal digits") from None
        if len(data) < ETHERNET_HEADER:
            raise ConfigError("frame", f"{len(data)} bytes are no frame", f"{ETHERNET_HEADER} or more")
        key = self.switch.datapath.key_of(data, fields.get("in_port", 0), fields.get("tunnel_id", 0))
        self.switch.slowpath.revalidate()
        return explain(key, data, self.switch.slowpath.world, describe_key, describe_action)

    def set_wire(self, port: int | str, **settings: Any) -> dict[str, Any]:
        port_no = self.port_number(port)
        self.switch.datapath.set_wire(port_no, **settings)
        self.switch.look_at_links()
        in_force = self.switch.datapath.wire_settings(port_no).in_words()
        return {**self.named(port_no), **{name: in_force[name] for name in settings}}

    def wire(self, port: int | str) -> dict[str, Any]:
        """A wire's settings, of the direction that this switch sends in."""
        port_no = self.port_number(port)
        return {**self.named(port_no), **self.switch.datapath.wire_settings(port_no).in_words()}

    def nic(self, port: int | str) -> dict[str, Any]:
        """A NIC's settings."""
        return self.switch.extensions.nics.show(self.port_number(port))

    def nic_statistics(self, port: int | str) -> list[dict[str, Any]]:
        """A NIC's counters, by queue."""
        return self.switch.extensions.nics.statistics(self.port_number(port))

    def formats(self) -> dict[str, dict[str, object]]:
        """The numbers of all tunnel formats, by name."""
        return {name: format_numbers(row) for name, row in sorted(self.switch.datapath.formats().items())}

    def set_offload(self, message: str, port: int | str | None = None, **body: Any) -> dict[str, Any]:
        """Carry out an Experimenter message that sets something, given by name and keys, for `port`.

        Of a filter or rule that is added, the result has the number, and that which it had before if it was
        there. Controllers do not hear of it. Raises ConfigError.
        """
        kind = SETTABLE_BY_HAND.get(message)
        if kind is None:
            raise unknown("message", "nothing is set by", message, SETTABLE_BY_HAND)
        named: dict[str, Any] = {}
        if port is not None:
            body["port_no"] = self.port_number(port)
            named = {"name": self.named(body["port_no"])["name"]}
        try:
            request: object = msgspec.convert(body, kind)
        except msgspec.ValidationError as error:
            raise ConfigError(*place_and_problem(error, message)) from error
        number_of = self.switch.extensions.nics.number_of
        before = number_of(request)
        self.switch.extensions.carry_out(request)
        added = {"number": number_of(request), "before": before} if kind in ADDED_BY_NUMBER else {}
        return {"message": message, **body, **named, **added}

    def spread(
        self,
        port: int | str,
        equal: int | None = None,
        weights: list[int] | None = None,
        hash_key: str | None = None,
        default: bool = False,
    ) -> dict[str, Any]:
        """Fill a NIC's indirection table, in turn over `equal` queues, by weights, or as by default over all
        queues; or set its hash key."""
        if sum(value is not None for value in (equal, weights, hash_key)) + default != 1:
            raise ConfigError("nic.spread", "takes one of equal, weights, hash_key, default")
        self.switch.extensions.nics.spread(self.port_number(port), equal, weights, hash_key, default)
        return self.nic(port)

    def delete_from_nic(
        self, port: int | str, filter: int | None = None, rule: int | None = None
    ) -> dict[str, Any]:
        """Delete a filter or an LRO rule by its number."""
        if (filter is None) == (rule is None):
            raise ConfigError("nic.delete", "takes one of filter, rule")
        port_no = self.port_number(port)
        self.switch.extensions.nics.delete(port_no, filter, rule)
        kind, number = ("rule", rule) if filter is None else ("filter", filter)
        return {**self.named(port_no), "kind": kind, "deleted": number}

    def port_number(self, port: int | str) -> int:
        """The number of a port that is given by number or name; raises ConfigError.

        `uplink0`, `uplink1` … are the wires in the order of their numbers, whatever their names; `s1-eth2` is
        port 2 of s1, as Mininet calls it; `LOCAL` is OFPP_LOCAL. A port that has such a name comes first.
        """
        infos = sorted(self.switch.datapath.ports())
        for info in infos:
            if info.name == port or str(info.port_no) == str(port):
                return info.port_no
        others = [info for info in infos if info.kind != "local"]
        wires = (info for info in others if info.kind == "wire")
        aliases = {f"uplink{place}": info.port_no for place, info in enumerate(wires)}
        aliases |= {f"{self.switch.name}-eth{info.port_no}": info.port_no for info in others}
        aliases["LOCAL"] = Port.LOCAL
        if port in aliases:
            return aliases[str(port)]
        near = nearest(str(port), [*(info.name for info in others), *aliases])
        names = ", ".join(f"{info.port_no} ({info.name})" for info in others)
        raise ConfigError("port", f"there is no port {port}{near}", names)

    def named(self, port_no: int) -> dict[str, Any]:
        """A port's number and name."""
        (name,) = (info.name for info in self.switch.datapath.ports() if info.port_no == port_no)
        return {"port": port_no, "name": name}


def describe_key(key: FlowKey) -> dict[str, Any]:
    """A flow key as people read it; fields that are 0 are left out."""
    shown: dict[str, Any] = {name: value for name, value in key._asdict().items() if value}
    for name in ("eth_dst", "eth_src"):
        shown[name] = key._asdict()[name].to_bytes(6, "big").hex(":")
    shown["eth_type"] = f"{key.eth_type:#06x}"
    for name in ("vlan_tci", "vlan_inner"):
        tci = key._asdict()[name]
        if tci & VLAN_PRESENT:
            shown[name] = f"vid {tci & _VID} pcp {tci >> 13}"
    if key.eth_type in (MPLS, MPLS_MULTICAST):
        shown["ip_src"] = f"label {key.ip_src >> 4} tc {key.ip_src >> 1 & 7} bos {key.ip_src & 1}"
    for name in ("ip_src", "ip_dst"):
        if key.eth_type in (IPV4, ARP):
            shown[name] = str(IPv4Address(key._asdict()[name]))
        elif key.eth_type == IPV6:
            shown[name] = str(IPv6Address(key._asdict()[name]))
    return shown


def describe_masked(key: FlowKey, mask: FlowKey) -> dict[str, Any]:
    """The key of an entry for all packets that agree with it under a mask: the fields of the mask alone, with
    the mask where it has not all bits."""
    values, masks, whole = describe_key(key), describe_key(mask), EVERY_BIT._asdict()
    shown = {}
    for name, bits in mask._asdict().items():
        if name.startswith("eth_") and bits:
            whole[name] &= (1 << 48) - 1 if name != "eth_type" else 0xFFFF
        if bits:
            shown[name] = (
                values.get(name, 0) if bits == whole[name] else f"{values.get(name, 0)}/{masks[name]}"
            )
    return shown


def describe_action(action: fl.Action) -> str:
    """An operation of a program as people read it."""
    match action:
        case fl.Output(port):
            return "output:LOCAL" if port == Port.LOCAL else f"output:{port}"
        case fl.SetTunnel(tunnel_id):
            return f"set_tunnel:{tunnel_id}"
        case fl.Controller(max_len):
            return f"controller:{max_len}"
        case fl.SetField(name, value):
            return f"set_field:{name}={format_value(BY_NAME[name].style, value)}"
        case fl.Push(ethertype):
            return f"push:{ethertype:#06x}"
        case fl.PopMpls(ethertype):
            return f"pop_mpls:{ethertype:#06x}"
        case fl.SetTtl(ttl, mpls):
            return f"set_{_TTL[mpls]}_ttl:{ttl}"
        case fl.DecTtl(_invalid, mpls):
            return f"dec_{_TTL[mpls]}_ttl"
        case fl.CopyTtl(inwards):
            return f"copy_ttl_{'in' if inwards else 'out'}"
        case fl.Meter(meter_id):
            return f"meter:{meter_id}"
        case fl.LookUpAgain(number):
            return f"look_up_again:{number}"
    return _PLAIN[type(action)]


_TTL = {False: "nw", True: "mpls"}
_PLAIN = {fl.PopVlan: "pop_vlan", fl.PopPbb: "pop_pbb", fl.Save: "save", fl.Restore: "restore"}
