# SPDX-License-Identifier: Apache-2.0
"""Strategies for action programs: everything that the agent may ask of the dataplane."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from vswitch.flow import (
    MAX_SAVED,
    Action,
    Controller,
    CopyTtl,
    DecTtl,
    Meter,
    Output,
    PopMpls,
    PopPbb,
    PopVlan,
    Program,
    Push,
    Restore,
    Save,
    SetField,
    SetTtl,
    SetTunnel,
)

WIRE = 1
METER = 0
FIELD_BITS = {
    "eth_dst": 48, "eth_src": 48, "eth_type": 16, "vlan_vid": 12, "vlan_pcp": 3, "ip_dscp": 6, "ip_ecn": 2,
    "ip_proto": 8, "ipv4_src": 32, "ipv4_dst": 32, "tcp_src": 16, "tcp_dst": 16, "udp_src": 16, "udp_dst": 16,
    "sctp_src": 16, "sctp_dst": 16, "icmpv4_type": 8, "icmpv4_code": 8, "arp_op": 16, "arp_spa": 32,
    "arp_tpa": 32, "arp_sha": 48, "arp_tha": 48, "ipv6_src": 128, "ipv6_dst": 128, "ipv6_flabel": 20,
    "icmpv6_type": 8, "icmpv6_code": 8, "ipv6_nd_target": 128, "ipv6_nd_sll": 48, "ipv6_nd_tll": 48,
    "mpls_label": 20, "mpls_tc": 3, "mpls_bos": 1, "pbb_isid": 24,
}  # fmt: skip
ETH_TYPES = [0x0800, 0x86DD, 0x0806, 0x8100, 0x88A8, 0x8847, 0x8848, 0x88E7, 0x1234]
PROTOCOLS = [1, 4, 6, 17, 41, 44, 58, 132, 253]
VALUES = {"eth_type": ETH_TYPES, "ip_proto": PROTOCOLS, "icmpv6_type": [128, 135, 136]}


def set_fields(without: Sequence[str] = ()) -> st.SearchStrategy[SetField]:
    """Any value of any field but these; of those that tell what follows, telling ones."""

    def values(name: str) -> st.SearchStrategy[SetField]:
        value = st.integers(0, 2 ** FIELD_BITS[name] - 1)
        if name in VALUES:
            value = st.sampled_from(VALUES[name])
        return st.builds(SetField, st.just(name), value)

    return st.sampled_from([name for name in FIELD_BITS if name not in without]).flatmap(values)


controllers = st.builds(Controller, st.just(128), st.just(1), st.integers(0, 3), st.just(0))
others: st.SearchStrategy[Action] = st.one_of(
    st.builds(Push, st.sampled_from([0x8100, 0x88A8, 0x8847, 0x8848, 0x88E7])),
    st.just(PopVlan()),
    st.builds(PopMpls, st.sampled_from(ETH_TYPES)),
    st.just(PopPbb()),
    st.builds(SetTtl, st.sampled_from([0, 1, 2, 255]), st.booleans()),
    st.builds(DecTtl, controllers, st.booleans()),
    st.builds(CopyTtl, st.booleans()),
)
actions = st.one_of(set_fields(), others)


@st.composite
def programs(draw: st.DrawFn, without: Sequence[str] = ()) -> Program:
    """Programs that output at least once, with Save and Restore in any order within the limit.

    without: names of fields that are not set, and of kinds of actions that do not occur.
    """
    allowed = others.filter(lambda action: type(action).__name__ not in without)
    program: list[Action] = []
    saved = 0
    metered = False
    for _ in range(draw(st.integers(0, 12))):
        kind = draw(
            st.sampled_from(["set", "set", "set", "other", "other", "output", "save", "restore", "meter"])
        )
        if kind == "set":
            program.append(draw(set_fields(without)))
        elif kind == "other":
            program.append(draw(allowed))
        elif kind == "output":
            program.append(draw(st.one_of(st.just(Output(WIRE)), st.just(SetTunnel(7)), controllers)))
        elif kind == "save" and saved < MAX_SAVED:
            program.append(Save())
            saved += 1
        elif kind == "restore":
            program.append(Restore())
            saved = max(saved - 1, 0)
        elif kind == "meter" and not metered:
            program.append(Meter(METER))
            metered = True
    return (*program, Output(WIRE))
