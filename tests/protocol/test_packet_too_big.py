# SPDX-License-Identifier: Apache-2.0
"""The ICMP errors of path MTU discovery: scapy reads them, and builds them."""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6ND_Redirect, ICMPv6PacketTooBig

from tests.packets import (
    ARP,
    ICMP,
    IP,
    SCTP,
    TCP,
    UDP,
    Dot1AD,
    Dot1Q,
    Ether,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    Raw,
    payload,
)
from tests.protocol.fake_datapath import FakeDatapath, parse, tap
from tests.protocol.harness import FakeSwitch
from vswitch.agent.packet_too_big import packet_too_big
from vswitch.flow import PuntReason
from vswitch.openflow import experimenter as ex

VM, PEER = "00:00:00:00:00:01", "00:00:00:00:00:02"


def ethernet(**fields):
    return Ether(**{"src": VM, "dst": PEER} | fields)


def v4(**fields):
    return IP(**{"src": "10.0.0.1", "dst": "10.0.0.2", "flags": "DF", "id": 7} | fields)


def v6(**fields):
    return IPv6(**{"src": "fd00::1", "dst": "fd00::2"} | fields)


def told(frame, mtu=1450, sent=None):
    """What the sender of a frame is told; `sent`: the frame as rules made it."""
    frame = bytes(frame)
    return packet_too_big(parse(frame, 2, 42), frame if sent is None else bytes(sent), mtu)


LONG = Raw(payload(1461))
PACKETS = {
    "udp": v4() / UDP(sport=1, dport=2) / LONG,
    "tcp": v4() / TCP(sport=1, dport=2, flags="A") / LONG,
    "ping": v4() / ICMP() / LONG,
    "other": v4(proto=99) / LONG,
    "options": v4(options=b"\x94\x04\x00\x00") / UDP() / LONG,
    "may be fragmented": v4(flags=0) / UDP() / LONG,
    "first fragment": v4(flags="MF", proto=17) / LONG,
    "CE": v4(tos=3) / UDP() / LONG,
    "sctp": v4() / SCTP(sport=1, dport=2) / LONG,
    "short": v4(proto=99) / Raw(b"odd"),
}
PACKETS_V6 = {
    "udp, IPv6": v6() / UDP(sport=1, dport=2) / LONG,
    "tcp, IPv6": v6() / TCP(sport=1, dport=2, flags="A") / LONG,
    "ping, IPv6": v6() / ICMPv6EchoRequest() / LONG,
    "other, IPv6": v6(nh=99) / LONG,
    "link-local": v6(src="fe80::1", dst="fe80::2") / UDP() / LONG,
    "extension header": v6() / IPv6ExtHdrHopByHop() / UDP() / LONG,
    "first fragment, IPv6": v6() / IPv6ExtHdrFragment(offset=0, m=1, nh=17) / LONG,
    "short, IPv6": v6(nh=99) / Raw(b"odd"),
}
TAGS = {"": [], "vlan": [Dot1Q(vlan=7, prio=3)], "two": [Dot1AD(vlan=8), Dot1Q(vlan=9)]}


def tagged(ether, tags):
    for tag in tags:
        ether = ether / tag.copy()
    return ether


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
@pytest.mark.parametrize("packet", PACKETS.values(), ids=PACKETS)
@pytest.mark.parametrize("mtu", [68, 1450])
def test_rfc_1191_fragmentation_needed(packet, tags, mtu):
    """Type 3, code 4, the next hop's MTU, and as much of the packet as 576 bytes hold (RFC 1812)."""
    answer = told(tagged(ethernet(), tags) / packet, mtu)
    expected = (
        tagged(Ether(src=PEER, dst=VM), tags)
        / IP(src="10.0.0.2", dst="10.0.0.1", flags="DF", id=0, tos=0xC0, ttl=64)
        / ICMP(type=3, code=4, nexthopmtu=mtu)
        / Raw(bytes(packet)[: 576 - 28])
    )
    assert answer == bytes(expected)


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
@pytest.mark.parametrize("packet", PACKETS_V6.values(), ids=PACKETS_V6)
@pytest.mark.parametrize("mtu", [1280, 1450])
def test_rfc_4443_packet_too_big(packet, tags, mtu):
    """Type 2, the MTU, and as much of the packet as the least MTU holds."""
    answer = told(tagged(ethernet(), tags) / packet, mtu)
    expected = (
        tagged(Ether(src=PEER, dst=VM), tags)
        / IPv6(src=packet.dst, dst=packet.src, hlim=64)
        / ICMPv6PacketTooBig(mtu=mtu)
        / Raw(bytes(packet)[: 1280 - 48])
    )
    assert answer == bytes(expected)


SILENT = {
    "error": v4() / ICMP(type=3, code=1) / LONG,
    "source quench": v4() / ICMP(type=4) / LONG,
    "redirect": v4() / ICMP(type=5) / LONG,
    "time exceeded": v4() / ICMP(type=11) / LONG,
    "parameter problem": v4() / ICMP(type=12) / LONG,
    "later fragment": v4(flags="MF", frag=10, proto=17) / LONG,
    "last fragment": v4(flags=0, frag=10, proto=17) / LONG,
    "to a group": v4(dst="224.0.0.5") / UDP() / LONG,
    "to all": v4(dst="255.255.255.255") / UDP() / LONG,
    "from nobody": v4(src="0.0.0.0") / UDP() / LONG,
    "from this network": v4(src="0.1.2.3") / UDP() / LONG,
    "from itself": v4(src="127.0.0.1") / UDP() / LONG,
    "from a group": v4(src="224.0.0.5") / UDP() / LONG,
    "from all": v4(src="255.255.255.255") / UDP() / LONG,
    "arp": ARP() / LONG,
    "error, IPv6": v6() / ICMPv6DestUnreach() / LONG,
    "too big, IPv6": v6() / ICMPv6PacketTooBig() / LONG,
    "redirect, IPv6": v6() / ICMPv6ND_Redirect() / LONG,
    "later fragment, IPv6": v6() / IPv6ExtHdrFragment(offset=10, m=1, nh=17) / LONG,
    "to a group, IPv6": v6(dst="ff02::1") / UDP() / LONG,
    "from nobody, IPv6": v6(src="::") / UDP() / LONG,
    "from itself, IPv6": v6(src="::1") / UDP() / LONG,
    "from a group, IPv6": v6(src="ff02::1") / UDP() / LONG,
}


@pytest.mark.parametrize("packet", SILENT.values(), ids=SILENT)
def test_rfc_1122_and_rfc_4443_no_error_is_sent_for(packet):
    assert told(ethernet() / packet) is None


@pytest.mark.parametrize("mac", ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "33:33:00:00:00:01"])
@pytest.mark.parametrize("way", ["src", "dst"])
def test_frames_of_groups_are_not_answered(mac, way):
    assert told(ethernet(**{way: mac}) / PACKETS["udp"]) is None


def test_mtus_that_senders_ignore_are_not_told():
    assert told(ethernet() / PACKETS["udp"], 67) is None
    assert told(ethernet() / PACKETS_V6["udp, IPv6"], 1279) is None


@pytest.mark.parametrize("packet", [PACKETS["udp"], PACKETS["tcp"], PACKETS["sctp"], PACKETS["other"]])
def test_what_rules_changed_is_quoted_as_it_was_received(packet):
    """The sender knows its packet by addresses and ports."""
    changed = packet.copy()
    changed.src, changed.dst = "192.0.2.1", "192.0.2.2"
    if not isinstance(packet.payload, Raw):
        changed.payload.sport, changed.payload.dport = 77, 88
    del changed.chksum
    received = ethernet() / Dot1Q(vlan=7) / packet
    sent = Ether(src=PEER, dst="00:00:00:00:00:09") / changed
    answer = Ether(told(received, sent=sent))
    assert (answer.src, answer.dst, answer[Dot1Q].vlan) == (PEER, VM, 7)
    quoted = bytes(answer[ICMP])[8:]
    assert quoted[:24] == bytes(IP(bytes(packet)))[:24]


def test_what_rules_changed_is_quoted_as_it_was_received_ipv6():
    packet = PACKETS_V6["udp, IPv6"]
    changed = packet.copy()
    changed.src, changed.dst, changed[UDP].sport, changed[UDP].dport = "fd01::1", "fd01::2", 77, 88
    received = ethernet() / Dot1AD(vlan=8) / Dot1Q(vlan=9) / packet
    answer = Ether(told(received, sent=ethernet() / Dot1Q(vlan=3) / changed))
    assert bytes(answer[ICMPv6PacketTooBig])[8:52] == bytes(packet)[:44]
    assert (answer[Dot1AD].vlan, answer[Dot1Q].vlan) == (8, 9)


def test_rules_may_have_made_another_kind_of_packet_of_it():
    one, other = ethernet() / PACKETS["udp"], ethernet() / PACKETS_V6["udp, IPv6"]
    assert told(one, sent=other) is None and told(other, sent=one) is None


# In the switch


@pytest.fixture
def switch(clock):
    datapath = FakeDatapath(clock, {n: tap(n) for n in (1, 2)} | {1001: tap(1001, kind="tunnel")})
    return FakeSwitch(datapath, clock)


def too_big(switch, frame, port, tunnel_id=0):
    datapath = switch.datapath
    datapath._punt(PuntReason.TOO_BIG, parse(frame, port, tunnel_id), frame, mtu=1450)
    switch.of.slowpath.handle_punts()
    assert datapath.held == 0


@pytest.mark.parametrize(("port", "tunnel_id"), [(2, 0), (1001, 42)])
def test_the_sender_is_told_where_its_packet_came_from(switch, port, tunnel_id):
    frame = bytes(ethernet() / PACKETS["udp"])
    too_big(switch, frame, port, tunnel_id)
    (sent,) = switch.datapath.take_sent()
    assert (sent.port, sent.tunnel_id, sent.frame) == (port, tunnel_id, told(frame))
    assert switch.of.slowpath.too_big_sent == 1


def test_a_packet_that_is_not_answered_is_only_let_go(switch):
    too_big(switch, bytes(ethernet() / SILENT["error"]), 2)
    too_big(switch, bytes(ethernet() / PACKETS["udp"]), 9)  # a port that is gone
    assert switch.datapath.take_sent() == [] and switch.of.slowpath.too_big_sent == 0


def test_a_controller_turns_it_off_and_on(switch):
    extensions = switch.of.extensions
    for enabled in (False, True):
        body = ex.PacketTooBigSet(enabled)
        assert ex.from_wire(*ex.to_wire(body)) == body
        assert extensions.carry_out(body) is None
        extensions._keep(body)
        assert switch.datapath.packet_too_big is enabled
        assert (list(extensions.settings.values()) == [body]) == (not enabled)
