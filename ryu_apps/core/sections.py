# SPDX-License-Identifier: Apache-2.0
"""The sections of the intent file, as structures. What must hold of their values: `ryu_apps.core.intent`."""

from __future__ import annotations

from typing import Literal

import msgspec

from vswitch.openflow.experimenter import MAX_COMPLETION

HAND_SET = 100
"""Priority of LRO rules that are set by hand; derived ones have 0."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping of the intent file with these keys and no other."""


class VirtualNetwork(Section, frozen=True):
    """An isolated layer-2 network. vni: its identifier in the tunnel header, 24 bits."""

    vni: int


class Server(Section, frozen=True):
    """An emulated server: one switch. A server whose networks are all its own needs no underlay.

    uplink_port: the port that leads to all other servers. wires: instead, where several do: the port of the
    wire to each neighbour, by its name.
    """

    dpid: int
    underlay_ip: str | None = None
    uplink_port: int | None = None
    wires: dict[str, int] = {}


class VM(Section, frozen=True):
    """A virtual machine. port: the switch port its vNIC is on. ip: IPv4 or IPv6, if it is known.

    role: whether its connections end at it, or it forwards others' (S0.8). lro: whether the NIC coalesces
    what goes to it; None: as its role says. vif_lro: whether the switch's port in front of it does (S0.5).
    """

    server: str
    port: int
    network: str
    mac: str
    ip: str | None = None
    role: Literal["terminating", "forwarding"] = "terminating"
    lro: bool | None = None
    vif_lro: bool = False


class TunnelPolicy(Section, frozen=True):
    """How packets travel between servers.

    format: a row of the switches' table of tunnel formats. packet_too_big: whether senders are told of
    packets that do not fit (RFC 1191, RFC 8201).
    """

    format: str = "vxlan"
    packet_too_big: bool = True


class OffloadOverride(Section, frozen=True):
    """GRO of one receive queue, against the general setting."""

    server: str
    port: int
    gro: bool
    queue: int = 0


class OffloadPolicy(Section, frozen=True):
    """gro: coalesce what arrives from the other servers."""

    gro: bool = True
    overrides: tuple[OffloadOverride, ...] = ()


class Selector(Section, frozen=True, kw_only=True):
    """Which packets: by VM (its MAC address and network), virtual network, or inner headers (S0.2, S0.3).

    What is not given may be anything. IP addresses may be prefixes.
    """

    vm: str | None = None
    network: str | None = None
    dst_mac: str | None = None
    protocol: str | int | None = None
    src_ip: str | None = None
    dst_ip: str | None = None
    src_port: int | None = None
    dst_port: int | None = None


class FilterPolicy(Selector, frozen=True, kw_only=True):
    """These packets go to this queue. Of several filters the one of the highest priority decides."""

    queue: int
    priority: int = 0


class RulePolicy(Selector, frozen=True, kw_only=True):
    """Whether these packets are coalesced, in these queues (all, if none are given) where they ask rules."""

    queues: tuple[int, ...] = ()
    lro: bool = True
    priority: int = HAND_SET


class QueuePolicy(Section, frozen=True, kw_only=True):
    """Coalescing in these queues (all, if none are given): on, off, or as the rules say.

    kind: `gro`, or `lro` for aggregates without segmentation metadata, as classic NICs deliver them (S0.10).
    completion_size: bytes of an IP packet at which an aggregate is complete (S0.7).
    """

    queues: tuple[int, ...] = ()
    lro: bool | str = True
    kind: Literal["gro", "lro"] = "gro"
    completion_size: int = MAX_COMPLETION


class RssPolicy(Section, frozen=True):
    """How what no filter matches is spread: over `equal` queues, by weights, or by the whole table (S0.2)."""

    hash_key: str | None = None
    equal: int | None = None
    weights: tuple[int, ...] | None = None
    indirection: tuple[int, ...] | None = None


class NicPolicy(Section, frozen=True):
    """The receive side of a server's uplink. workers: the queues', in order; the rest have them in turn."""

    queues: int = 1
    workers: tuple[int, ...] = ()
    rss: RssPolicy = RssPolicy()
    filters: tuple[FilterPolicy, ...] = ()
    lro: tuple[QueuePolicy, ...] = ()
    rules: tuple[RulePolicy, ...] = ()
