# SPDX-License-Identifier: Apache-2.0
"""Header rewriting: scapy builds what a frame is to become, checksums included."""

from __future__ import annotations

import pytest

from tests.packets import (
    ARP,
    ICMP,
    IP,
    MPLS,
    SCTP,
    TCP,
    UDP,
    Dot1AD,
    Dot1AH,
    Dot1Q,
    Ether,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Raw,
    SCTPChunkData,
    internet_address,
    mac_address,
    payload,
    tcp_segment,
)
from tests.reference import internet_sum
from tests.unit.rig import NIGHTLY, Rig
from vswitch.dataplane.outgoing import HEADROOM, LONGEST_HEADERS
from vswitch.flow import (
    MAX_SAVED,
    Controller,
    CopyTtl,
    DecTtl,
    Output,
    PopMpls,
    PopPbb,
    PopVlan,
    Push,
    Restore,
    Save,
    SetField,
    SetTtl,
    SetTunnel,
)
from vswitch.layout import Csum

SOURCE, TARGET, NEW = "00:00:00:00:00:01", "00:00:00:00:00:02", "02:aa:bb:cc:dd:ee"
INVALID = Controller(65535, 2, 5, 0)
BODY = Raw(payload(45))
TAG = Dot1Q(vlan=100, prio=3)


@pytest.fixture(scope="module")
def rig():
    with Rig(taps=1, wires=1) as rig:
        yield rig


@pytest.fixture(autouse=True)
def nothing_counted(rig):
    rig.counted()


def ether(**fields):
    return Ether(**({"src": SOURCE, "dst": TARGET} | fields))


def ip4(**fields):
    return IP(**({"src": "10.0.0.1", "dst": "10.0.0.2", "tos": 0x48, "ttl": 64, "id": 7} | fields))


def ip6(**fields):
    return IPv6(**({"src": "fd00::1", "dst": "fd00::2", "tc": 0x48, "fl": 5, "hlim": 64} | fields))


def tcp(**fields):
    return TCP(**({"sport": 1, "dport": 2, "seq": 9, "ack": 8, "flags": "A"} | fields))


def udp(**fields):
    return UDP(**({"sport": 1, "dport": 2} | fields))


def sctp(**fields):
    return SCTP(**({"sport": 1, "dport": 2} | fields)) / SCTPChunkData(data=payload(30))


def arp(**fields):
    values = {"hwsrc": SOURCE, "psrc": "10.0.0.1", "hwdst": TARGET, "pdst": "10.0.0.2", "op": 1}
    return ARP(**(values | fields)) / Raw(bytes(18))


def solicitation(target="fd00::9", address=SOURCE):
    options = ICMPv6NDOptMTU() / ICMPv6NDOptSrcLLAddr(lladdr=address)
    return ip6(hlim=255) / ICMPv6ND_NS(tgt=target) / options


def advertisement(target="fd00::9", address=TARGET):
    return ip6(hlim=255) / ICMPv6ND_NA(tgt=target) / ICMPv6NDOptDstLLAddr(lladdr=address)


def mpls(**fields):
    return MPLS(**({"label": 100, "cos": 3, "s": 1, "ttl": 64} | fields))


def itag(**fields):
    return Dot1AH(**({"isid": 100, "prio": 0} | fields))


def set_mac(name):
    return SetField(name, mac_address(NEW))


def set_ip(name, address):
    return SetField(name, internet_address(address))


MPLS_TYPE, PBB_TYPE = {"type": 0x8847}, {"type": 0x88E7}

CASES = [
    # Set-field
    (ether() / ip4() / tcp() / BODY, set_mac("eth_dst"), ether(dst=NEW) / ip4() / tcp() / BODY),
    (ether() / ip4() / tcp() / BODY, set_mac("eth_src"), ether(src=NEW) / ip4() / tcp() / BODY),
    (ether(type=0x1234) / BODY, SetField("eth_type", 0x5678), ether(type=0x5678) / BODY),
    (
        ether() / TAG / ip4() / udp(), SetField("vlan_vid", 203),
        ether() / Dot1Q(vlan=203, prio=3) / ip4() / udp(),
    ),
    (
        ether() / TAG / ip4() / udp(), SetField("vlan_pcp", 5),
        ether() / Dot1Q(vlan=100, prio=5) / ip4() / udp(),
    ),
    (ether() / Dot1AD(vlan=2) / TAG / ip4(), SetField("vlan_vid", 9), ether() / Dot1AD(vlan=9) / TAG / ip4()),
    (ether() / ip4() / tcp() / BODY, SetField("ip_dscp", 16), ether() / ip4(tos=0x40) / tcp() / BODY),
    (ether() / ip6(tc=0x49) / tcp() / BODY, SetField("ip_dscp", 63), ether() / ip6(tc=0xFD) / tcp() / BODY),
    (ether() / ip4() / udp() / BODY, SetField("ip_ecn", 3), ether() / ip4(tos=0x4B) / udp() / BODY),
    (ether() / ip6() / udp() / BODY, SetField("ip_ecn", 1), ether() / ip6(tc=0x49) / udp() / BODY),
    (ether() / ip4(proto=253) / BODY, SetField("ip_proto", 254), ether() / ip4(proto=254) / BODY),
    (ether() / ip6(nh=253) / BODY, SetField("ip_proto", 254), ether() / ip6(nh=254) / BODY),
    (
        ether() / ip6() / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt(nh=253) / BODY, SetField("ip_proto", 254),
        ether() / ip6() / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt(nh=254) / BODY,
    ),
    *(
        (
            ether() / ip4() / l4 / BODY, set_ip("ipv4_src", "192.0.2.5"),
            ether() / ip4(src="192.0.2.5") / l4 / BODY,
        )
        for l4 in (tcp(), udp(), udp(chksum=0), ICMP(), sctp(), Raw(b""))
    ),
    (
        ether() / TAG / ip4() / tcp(), set_ip("ipv4_dst", "1.2.3.4"),
        ether() / TAG / ip4(dst="1.2.3.4") / tcp(),
    ),
    *(
        (ether() / ip6() / l4, set_ip("ipv6_src", "2001:db8::ffff"), ether() / ip6(src="2001:db8::ffff") / l4)
        for l4 in (tcp() / BODY, udp() / BODY, ICMPv6EchoRequest(data=b"odd"), sctp())
    ),
    (
        ether() / ip6() / IPv6ExtHdrHopByHop() / tcp() / BODY, set_ip("ipv6_dst", "fe80::1"),
        ether() / ip6(dst="fe80::1") / IPv6ExtHdrHopByHop() / tcp() / BODY,
    ),
    (  # the checksum covers the routing header's last address, not this one
        ether() / ip6() / IPv6ExtHdrRouting(addresses=["fd00::7"]) / udp() / BODY,
        set_ip("ipv6_dst", "fd00::5"),
        ether() / ip6(dst="fd00::5") / IPv6ExtHdrRouting(addresses=["fd00::7"]) / udp() / BODY,
    ),
    (ether() / ip6() / tcp(), SetField("ipv6_flabel", 0xABCDE), ether() / ip6(fl=0xABCDE) / tcp()),
    *(
        (
            ether() / ip / l4(sport=5) / BODY, SetField(f"{name}_{end}", 54321),
            ether() / ip / l4(**{"sport": 5} | {field: 54321}) / BODY,
        )
        for ip in (ip4(), ip6(), ip4(flags="DF"))
        for name, l4 in (("tcp", tcp), ("udp", udp), ("sctp", sctp))
        for end, field in (("src", "sport"), ("dst", "dport"))
    ),
    (ether() / ip4() / udp(chksum=0), SetField("udp_src", 77), ether() / ip4() / udp(sport=77, chksum=0)),
    (
        ether() / ip4() / ICMP(id=3) / BODY, SetField("icmpv4_type", 0),
        ether() / ip4() / ICMP(type=0, id=3) / BODY,
    ),
    (
        ether() / ip4() / ICMP(id=3) / BODY, SetField("icmpv4_code", 9),
        ether() / ip4() / ICMP(code=9, id=3) / BODY,
    ),
    (
        ether() / ip6() / ICMPv6EchoRequest(data=b"x"), SetField("icmpv6_type", 129),
        ether() / ip6() / ICMPv6EchoRequest(type=129, data=b"x"),
    ),
    (
        ether() / ip6() / ICMPv6EchoRequest(data=b"x"), SetField("icmpv6_code", 1),
        ether() / ip6() / ICMPv6EchoRequest(code=1, data=b"x"),
    ),
    (ether() / arp(), SetField("arp_op", 2), ether() / arp(op=2)),
    (ether() / arp(), set_ip("arp_spa", "9.8.7.6"), ether() / arp(psrc="9.8.7.6")),
    (ether() / TAG / arp(), set_ip("arp_tpa", "9.8.7.6"), ether() / TAG / arp(pdst="9.8.7.6")),
    (ether() / arp(), set_mac("arp_sha"), ether() / arp(hwsrc=NEW)),
    (ether() / arp(), set_mac("arp_tha"), ether() / arp(hwdst=NEW)),
    (ether() / solicitation(), set_ip("ipv6_nd_target", "a0::a0"), ether() / solicitation(target="a0::a0")),
    (ether() / advertisement(), set_ip("ipv6_nd_target", "a0::a0"), ether() / advertisement(target="a0::a0")),
    (ether() / solicitation(), set_mac("ipv6_nd_sll"), ether() / solicitation(address=NEW)),
    (ether() / advertisement(), set_mac("ipv6_nd_tll"), ether() / advertisement(address=NEW)),
    (
        ether(**MPLS_TYPE) / mpls() / ip4(), SetField("mpls_label", 0xFFFFF),
        ether(**MPLS_TYPE) / mpls(label=0xFFFFF) / ip4(),
    ),
    (ether(**MPLS_TYPE) / mpls() / ip4(), SetField("mpls_tc", 5), ether(**MPLS_TYPE) / mpls(cos=5) / ip4()),
    (ether(**MPLS_TYPE) / mpls() / BODY, SetField("mpls_bos", 0), ether(**MPLS_TYPE) / mpls(s=0) / BODY),
    (
        ether() / Dot1AD(vlan=10, type=0x88E7) / itag() / ether() / ip4(), SetField("pbb_isid", 203),
        ether() / Dot1AD(vlan=10, type=0x88E7) / itag(isid=203) / ether() / ip4(),
    ),
    # Push
    (ether() / ip4() / tcp(), Push(0x8100), ether(type=0x8100) / Dot1Q(vlan=0) / ip4() / tcp()),
    (ether() / arp(), Push(0x88A8), ether(type=0x88A8) / Dot1AD(vlan=0) / arp()),
    (ether() / TAG / ip6() / tcp(), Push(0x88A8), ether() / Dot1AD(vlan=100, prio=3) / TAG / ip6() / tcp()),
    (
        ether() / ip4(ttl=9) / tcp(), Push(0x8847),
        ether(**MPLS_TYPE) / mpls(label=0, cos=0, ttl=9) / ip4(ttl=9) / tcp(),
    ),
    (ether() / ip6(hlim=8), Push(0x8848), ether(type=0x8848) / mpls(label=0, cos=0, ttl=8) / ip6(hlim=8)),
    (ether() / arp(), Push(0x8847), ether(**MPLS_TYPE) / mpls(label=0, cos=0, ttl=0) / Raw(bytes(arp()))),
    (ether(**MPLS_TYPE) / mpls() / ip4(), Push(0x8847), ether(**MPLS_TYPE) / mpls(s=0) / mpls() / ip4()),
    (  # in front of VLAN tags: "immediately after the Ethernet header" (5.12)
        ether() / TAG / ip4(ttl=9), Push(0x8847),
        ether(**MPLS_TYPE) / mpls(label=0, cos=0, ttl=9) / Raw(bytes(Dot1Q(vlan=100, prio=3) / ip4(ttl=9))),
    ),
    (
        ether() / Dot1Q(vlan=7, type=0x8847) / mpls() / ip4(), Push(0x8847),
        ether(**MPLS_TYPE) / mpls() / Raw(bytes(Dot1Q(vlan=7, type=0x8847) / mpls() / ip4())),
    ),
    (ether() / ip4() / tcp(), Push(0x88E7), ether(**PBB_TYPE) / itag(isid=0) / ether() / ip4() / tcp()),
    (ether() / TAG / arp(), Push(0x88E7), ether(**PBB_TYPE) / itag(isid=0, prio=3) / ether() / TAG / arp()),
    (
        ether(**PBB_TYPE) / itag() / ether() / ip4(), Push(0x88E7),
        ether(**PBB_TYPE) / itag() / ether(**PBB_TYPE) / itag() / ether() / ip4(),
    ),
    # Pop
    (ether() / TAG / ip4() / tcp() / BODY, PopVlan(), ether() / ip4() / tcp() / BODY),
    (ether() / Dot1AD(vlan=1) / TAG / arp(), PopVlan(), ether() / TAG / arp()),
    (ether() / TAG / TAG / TAG / ip4(), PopVlan(), ether() / TAG / TAG / ip4()),
    (ether(**MPLS_TYPE) / mpls() / ip4() / tcp() / BODY, PopMpls(0x800), ether() / ip4() / tcp() / BODY),
    (ether(**MPLS_TYPE) / mpls() / ip6() / udp() / BODY, PopMpls(0x86DD), ether() / ip6() / udp() / BODY),
    (ether(**MPLS_TYPE) / mpls() / Raw(bytes(arp())), PopMpls(0x806), ether() / arp()),
    (ether(**MPLS_TYPE) / mpls(s=0) / mpls() / ip4(), PopMpls(0x8847), ether(**MPLS_TYPE) / mpls() / ip4()),
    (ether() / Dot1Q(vlan=7, type=0x8847) / mpls() / ip4(), PopMpls(0x800), ether() / Dot1Q(vlan=7) / ip4()),
    (
        ether(**PBB_TYPE) / itag() / ether(src=NEW) / TAG / ip4() / tcp(), PopPbb(),
        ether(src=NEW) / TAG / ip4() / tcp(),
    ),
    (ether() / Dot1AD(vlan=10, type=0x88E7) / itag() / ether() / arp(), PopPbb(), ether() / arp()),
    # TTL
    (ether() / ip4(), SetTtl(32), ether() / ip4(ttl=32)),
    (ether() / TAG / ip6(), SetTtl(255), ether() / TAG / ip6(hlim=255)),
    (ether(**MPLS_TYPE) / mpls() / ip4(), SetTtl(127, mpls=True), ether(**MPLS_TYPE) / mpls(ttl=127) / ip4()),
    (ether() / ip4(ttl=2), DecTtl(INVALID), ether() / ip4(ttl=1)),
    (ether() / ip6(hlim=255), DecTtl(INVALID), ether() / ip6(hlim=254)),
    (
        ether(**MPLS_TYPE) / mpls() / BODY, DecTtl(INVALID, mpls=True),
        ether(**MPLS_TYPE) / mpls(ttl=63) / BODY,
    ),
    (
        ether(**MPLS_TYPE) / mpls() / ip4(ttl=3), CopyTtl(inwards=False),
        ether(**MPLS_TYPE) / mpls(ttl=3) / ip4(ttl=3),
    ),
    (
        ether(**MPLS_TYPE) / mpls() / ip6(hlim=3), CopyTtl(inwards=False),
        ether(**MPLS_TYPE) / mpls(ttl=3) / ip6(hlim=3),
    ),
    (
        ether(**MPLS_TYPE) / mpls(ttl=9) / ip4(), CopyTtl(inwards=True),
        ether(**MPLS_TYPE) / mpls(ttl=9) / ip4(ttl=9),
    ),
    (
        ether(**MPLS_TYPE) / mpls(ttl=9) / ip6(), CopyTtl(inwards=True),
        ether(**MPLS_TYPE) / mpls(ttl=9) / ip6(hlim=9),
    ),
    *(
        (
            ether(**MPLS_TYPE) / mpls(ttl=9, s=0) / mpls(ttl=5) / ip4(), CopyTtl(inwards),
            ether(**MPLS_TYPE) / mpls(ttl=outer, s=0) / mpls(ttl=inner) / ip4(),
        )
        for inwards, outer, inner in ((True, 9, 9), (False, 5, 5))
    ),
    *(
        (ether() / outer(9) / inner(5), CopyTtl(inwards), ether() / outer(ttl) / inner(ttl))
        for inwards, ttl in ((True, 9), (False, 5))
        for outer in (lambda ttl: ip4(ttl=ttl), lambda ttl: ip6(hlim=ttl))
        for inner in (lambda ttl: ip4(ttl=ttl), lambda ttl: ip6(hlim=ttl))
    ),
]  # fmt: skip


def describe(value):
    return value.summary() if hasattr(value, "summary") else str(value)


@pytest.mark.parametrize(("before", "action", "after"), CASES, ids=describe)
def test_an_operation_does_what_scapy_would(rig, before, action, after):
    assert rig.run(bytes(before), (action, Output(2))) == bytes(after)
    assert rig.sent() == [bytes(after)]
    assert rig.counted() == {}


ACTIONS = list(dict.fromkeys(action for _, action, _ in CASES))
FRAMES_OF = {
    action: [
        bytes(frame)
        for frame, taken, _ in CASES
        if taken == action and sum(layer in (Dot1Q, Dot1AD) for layer in frame.layers()) < 2
    ]
    for action in ACTIONS
}
"""Frames that an action is for, to which a VLAN tag can be pushed so that a receiver still looks behind all
tags."""
FRAMES = sorted({frame for frames in FRAMES_OF.values() for frame in frames})


@pytest.mark.parametrize("first", ACTIONS, ids=str)
def test_a_pair_of_operations_is_one_after_the_other(rig, first):
    """What one operation leaves is seen by the next as a newly received frame would be.

    Each pair meets a frame that the first is for and one that the second is for; at night, all frames.
    """
    for number, second in enumerate(ACTIONS):
        of_pair = [frames[number % len(frames)] for frames in (FRAMES_OF[first], FRAMES_OF[second]) if frames]
        for frame in FRAMES if NIGHTLY else of_pair:
            expected = rig.run(rig.run(frame, (first,)), (second,))
            assert rig.run(frame, (first, second)) == expected, (Ether(frame).summary(), first, second)
    rig.punted()


ABSENT = [
    (ether() / ip4() / tcp(), SetField("vlan_vid", 5)),
    (ether() / ip4() / tcp(), PopVlan()),
    (ether() / ip4() / tcp(), PopMpls(0x800)),
    (ether() / ip4() / tcp(), PopPbb()),
    (ether() / ip4() / tcp(), SetField("udp_src", 5)),
    (ether() / ip4() / tcp(), SetField("ipv6_flabel", 5)),
    (ether() / ip4() / tcp(), SetField("mpls_tc", 5)),
    (ether() / ip4() / tcp(), SetField("pbb_isid", 5)),
    (ether() / ip4() / tcp(), SetField("arp_op", 5)),
    (ether() / ip4() / tcp(), SetTtl(5, mpls=True)),
    (ether() / ip4() / tcp(), CopyTtl(inwards=True)),
    (ether() / ip4() / BODY, SetField("icmpv4_type", 5)),
    (ether() / arp(), SetField("ip_dscp", 5)),
    (ether() / arp(), SetTtl(5)),
    (ether() / arp(), DecTtl(INVALID)),
    (ether() / arp(), CopyTtl(inwards=False)),
    (ether() / ip4(frag=5) / tcp(), SetField("tcp_src", 5)),
    (ether() / ip4() / Raw(b"\0\1"), SetField("tcp_src", 5)),
    (ether() / ip4(flags="MF") / sctp(), SetField("sctp_src", 5)),
    (ether() / ip6() / tcp(), SetField("ipv4_src", 5)),
    (ether() / ip6() / ICMPv6EchoRequest(), SetField("ipv6_nd_target", 5)),
    (ether() / solicitation(), SetField("ipv6_nd_tll", 5)),
    (ether() / ip6() / ICMPv6ND_NA(), SetField("ipv6_nd_tll", 5)),
    (ether() / ip6() / ICMPv6ND_NA() / ICMPv6NDOptDstLLAddr(len=0), SetField("ipv6_nd_sll", 5)),
    (ether(**MPLS_TYPE) / mpls() / ip4() / tcp(), SetField("ip_dscp", 5)),
    (ether(**MPLS_TYPE) / mpls() / ip4() / tcp(), SetTtl(5)),
    (ether(**MPLS_TYPE) / mpls() / Raw(bytes(arp())), CopyTtl(inwards=True)),
    (ether(**MPLS_TYPE) / mpls() / Raw(b"\x60\0\0\0\0\xff" + bytes(60)), CopyTtl(inwards=False)),
    (ether(**MPLS_TYPE) / mpls() / Raw(b"\x45\0\0\xff" + bytes(60)), CopyTtl(inwards=True)),
    (ether(**MPLS_TYPE) / Raw(b"\0\0\0"), SetField("mpls_bos", 1)),
    (ether(**MPLS_TYPE) / Raw(b"\0\0\0"), PopMpls(0x800)),
    (ether(**PBB_TYPE) / Raw(bytes(17)), PopPbb()),
    (ether(type=0x8100) / Raw(b"\0\0\0"), PopVlan()),
]  # fmt: skip


@pytest.mark.parametrize(("frame", "action"), ABSENT, ids=describe)
def test_an_operation_on_a_header_that_is_not_there_does_nothing(rig, frame, action):
    assert rig.run(bytes(frame), (action, Output(2))) == bytes(frame)
    assert rig.sent() == [bytes(frame)]
    assert rig.counted() == {"no_such_header": 1}


@pytest.mark.parametrize("ttl", [0, 1])
@pytest.mark.parametrize("of_mpls", [True, False], ids=["MPLS", "IP"])
def test_a_ttl_that_would_become_0_ends_the_program(rig, of_mpls, ttl):
    frame = bytes(ether(**MPLS_TYPE) / mpls(ttl=ttl) / ip4() if of_mpls else ether() / ip4(ttl=ttl) / tcp())
    rig.run(frame, (SetField("eth_dst", 5), DecTtl(INVALID, of_mpls), Output(2)))
    ((number, punted),) = rig.punted()
    assert rig.store.controller(number) == INVALID
    assert punted == bytes(5) + b"\5" + frame[6:]
    assert rig.sent() == []
    assert rig.counted() == {"invalid_ttl": 1}


COVERED = [
    (ip, l4)
    for ip, others in ((ip4(), ICMP()), (ip6(), ICMPv6EchoRequest(data=b"abc")))
    for l4 in (tcp(), udp(), others)
]
CHANGES = [
    set_ip("ipv4_src", "1.1.1.1"), set_ip("ipv6_src", "::1"), SetField("tcp_src", 9), SetField("udp_dst", 9),
    SetField("icmpv4_code", 3), SetField("icmpv6_code", 3), SetField("ip_proto", 99), SetTtl(3),
]  # fmt: skip


@pytest.mark.parametrize(("ip", "l4"), COVERED, ids=describe)
@pytest.mark.parametrize("action", CHANGES, ids=str)
def test_a_wrong_checksum_stays_as_wrong_as_it_was(rig, ip, l4, action):
    """The sum over what it covers is off by as much as before."""
    if (isinstance(l4, ICMP) and ip.version == 6) or (isinstance(l4, ICMPv6EchoRequest) and ip.version == 4):
        pytest.skip("the protocols do not go together")
    right = ether() / ip / l4 / BODY
    changed = Ether(rig.run(bytes(right), (action,)))
    field = "cksum" if hasattr(l4, "cksum") else "chksum"
    wrong = Ether(bytes(right))
    value = getattr(wrong[type(l4)], field) ^ 0x1234
    setattr(wrong[type(l4)], field, value)
    result = rig.run(bytes(wrong), (action,))
    at = next(i for i in range(len(bytes(right))) if bytes(right)[i] != bytes(wrong)[i])
    before, after = (int.from_bytes(frame[at : at + 2], "big") for frame in (bytes(right), bytes(wrong)))
    kept, off = (int.from_bytes(frame[at : at + 2], "big") for frame in (bytes(changed), result))
    assert (off - kept - after + before) % 0xFFFF == 0
    assert result[:at] + result[at + 2 :] == bytes(changed)[:at] + bytes(changed)[at + 2 :]


@pytest.mark.parametrize("ip", [ip4(), ip6()], ids=describe)
@pytest.mark.parametrize("l4", [tcp(), udp()], ids=describe)
@pytest.mark.parametrize("action", [*CHANGES, Push(0x8847), Push(0x8100), Push(0x88E7)], ids=str)
def test_a_partial_checksum_stays_a_partial_one(rig, ip, l4, action):
    """It is the pseudo-header's sum, and becomes right when the frame goes to a wire."""
    whole = bytes(ether() / ip / l4 / BODY)
    l4_at = 14 + (20 if ip.version == 4 else 40)
    at = l4_at + (16 if isinstance(l4, TCP) else 6)
    addresses = whole[26:34] if ip.version == 4 else whole[22:54]
    proto = 6 if isinstance(l4, TCP) else 17
    pseudo_sum = internet_sum(addresses + (len(whole) - l4_at).to_bytes(4, "big") + bytes([0, 0, 0, proto]))
    partial = whole[:at] + pseudo_sum.to_bytes(2, "big") + whole[at + 2 :]
    rig.run(partial, (action, Output(2), Controller(128, 1, 0, 0)), csum=Csum.PARTIAL)
    expected = rig.run(whole, (action,))
    assert rig.sent() == [expected]
    assert [frame for _, frame in rig.punted()] == [expected]


def test_save_and_restore_remember_the_whole_packet(rig):
    frame = bytes(ether(**MPLS_TYPE) / mpls() / ip4(ttl=9) / tcp() / BODY)
    change = (PopMpls(0x800), set_ip("ipv4_src", "9.9.9.9"), Push(0x88E7), SetTunnel(5))
    rig.run(
        frame,
        (
            SetTunnel(3),
            Save(),
            *change,
            Output(2),
            Restore(),
            Output(2),
            DecTtl(INVALID, mpls=True),
            Output(2),
        ),
    )
    first, second, third = rig.sent()
    assert second == frame
    assert first == rig.run(frame, change)
    assert third == bytes(ether(**MPLS_TYPE) / mpls(ttl=63) / ip4(ttl=9) / tcp() / BODY)


def test_saves_nest(rig):
    frame = bytes(ether() / ip4() / tcp() / BODY)
    deeper = [action for number in range(MAX_SAVED) for action in (Save(), SetTtl(number))]
    back = [action for _ in range(MAX_SAVED) for action in (Output(2), Restore())]
    rig.run(frame, (SetTtl(99), *deeper, *back, Output(2)))
    assert [Ether(sent)[IP].ttl for sent in rig.sent()] == [*reversed(range(MAX_SAVED)), 99]


def test_the_tunnel_id_is_restored(rig):
    rig.run(bytes(ether() / arp()), (SetTunnel(3), Save(), SetTunnel(4), Restore()))
    assert rig.t["outgoing"]["tunnel_id"] == 3
    assert rig.counted() == {"no_rule": 1}


def test_more_pushes_than_there_is_room_for_drop_the_packet(rig):
    frame = tcp_segment(10)
    rig.run(frame, (*[Push(0x88E7)] * (LONGEST_HEADERS // 18), Output(2)))
    assert rig.sent() == []
    assert rig.counted() == {"headers_too_long": 1}
    room = min(LONGEST_HEADERS - 54, HEADROOM) // 18
    assert len(rig.run(frame, (*[Push(0x88E7)] * room, Output(2)))) == len(frame) + 18 * room
    assert len(rig.sent()) == 1


def test_a_frame_that_pushed_headers_make_too_long_is_counted(rig):
    frame = tcp_segment(1460)
    for pushed in ([0x8100] * 16, [0x8847] * 16, [0x88E7] * 3, [0x8847, 0x88E7, 0x88A8, 0x8100]):
        rig.run(frame, (*map(Push, pushed), Output(2)))
        assert len(rig.sent()) == 1
    for pushed in ([0x8100] * 17, [0x8847] * 17, [0x88E7] * 4):
        rig.run(frame, (*map(Push, pushed), Output(2)))
        assert rig.sent() == []
        assert rig.counted() == {"mtu_exceeded": 1}
    rig.run(tcp_segment(1461), (Push(0x8847), Output(2)))
    assert rig.sent() == []
    assert rig.counted() == {"mtu_exceeded": 1}


def test_a_program_that_hands_nothing_on_drops_by_rule(rig):
    rig.run(tcp_segment(10), (SetTtl(5), Push(0x8100)))
    assert rig.counted() == {"no_rule": 1}
